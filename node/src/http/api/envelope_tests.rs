//! The envelope as a reader gets it: parsed back, or compared to the byte where bytes are the promise.

use super::*;
use ring::causal::{Actor, Context};
use ring::ids::NodeId;
use ring::record::Sibling;
use serde_json::{Value, json};

const NOW: Wall = Wall(1_767_323_045_678);

fn dot(count: u64) -> Dot {
    Dot { actor: Actor { node: NodeId(7), epoch: 1 }, count }
}

fn object(content_type: &str, body: &[u8]) -> Content {
    Content::Object(Object {
        body: Bytes::copy_from_slice(body),
        content_type: content_type.into(),
        meta: vec![("color".into(), Bytes::from_static(b"red"))],
        modified: NOW,
        expires_at: None,
    })
}

fn expiring(at: Wall) -> Content {
    Content::Object(Object { expires_at: Some(at), ..Object::default() })
}

fn record(contents: Vec<Content>) -> Record {
    let siblings: Vec<Sibling> =
        contents.into_iter().zip(1..).map(|(content, n)| Sibling { dot: dot(n), content }).collect();
    Record { clock: Context::of_dots(siblings.iter().map(|s| s.dot)), siblings }
}

fn text(contents: Vec<Content>, show: Show) -> String {
    let id = ObjectId::new("b", "k").unwrap();
    String::from_utf8(envelope(&id, "tok", &record(contents), NOW, show)).unwrap()
}

fn parsed(contents: Vec<Content>, show: Show) -> Value {
    serde_json::from_str(&text(contents, show)).unwrap()
}

#[test]
fn an_envelope_has_every_field() {
    let tag = etag([dot(1)]);
    assert_eq!(
        parsed(vec![object("application/json", br#"{"a":1}"#)], Show::Values),
        json!({"bucket": "b", "key": "k", "context": "tok", "versions": [{
            "value": {"a": 1}, "content_type": "application/json", "deleted": false,
            "modified": "2026-01-02T03:04:05.678Z", "expires_at": null, "etag": tag, "meta": {"color": "red"},
        }]})
    );
}

#[test]
fn stored_json_goes_out_byte_for_byte() {
    let body = br#"{"z":1.10, "a":12345678901234567890123}"#;
    let text = text(vec![object("application/vnd.x+json; charset=utf-8", body)], Show::Values);
    assert!(text.contains(std::str::from_utf8(body).unwrap()), "{text}");
}

#[test]
fn what_a_reader_could_not_parse_comes_as_base64() {
    let deep = "[".repeat(101) + &"]".repeat(101);
    for body in [
        &b"{\"a\":"[..],
        b"",
        b"1 2",
        b"\"\xff\"",
        br#""\ud800""#,
        b"1e999",
        b"nul",
        b"[1,]",
        br#"{"a" 1}"#,
        deep.as_bytes(),
    ] {
        let envelope = parsed(vec![object("application/json", body)], Show::Values);
        let version = &envelope["versions"][0];
        assert_eq!(version["value_base64"], STANDARD.encode(body), "{envelope}");
        assert!(version.get("value").is_none(), "{envelope}");
    }
}

#[test]
fn only_a_json_type_makes_json() {
    for (content_type, is) in [
        ("application/json", true),
        ("Application/JSON; charset=utf-8", true),
        ("application/problem+json", true),
        ("text/plain", false),
        ("application/jsonp", false),
        ("ü+json", true),
        ("json", false),
        ("", false),
    ] {
        assert_eq!(is_json_type(content_type), is, "{content_type}");
    }
}

#[test]
fn deletions_are_shown_only_where_they_are_asked_for() {
    let all = vec![object("text/plain", b"x"), Content::Tombstone { deleted: NOW }];
    let values = parsed(all.clone(), Show::Values);
    assert_eq!(values["versions"].as_array().unwrap().len(), 1);
    let versions = parsed(all, Show::All)["versions"].clone();
    assert_eq!((&versions[0]["deleted"], &versions[1]["deleted"]), (&json!(false), &json!(true)));
    assert_eq!(versions[1]["modified"], "2026-01-02T03:04:05.678Z");
}

#[test]
fn an_expired_value_is_not_shown() {
    let contents = vec![expiring(NOW), expiring(Wall(NOW.0 + 1))];
    let envelope = parsed(contents, Show::All);
    assert_eq!(envelope["versions"].as_array().unwrap().len(), 1);
    assert_eq!(envelope["versions"][0]["expires_at"], "2026-01-02T03:04:05.679Z");
}

#[test]
fn names_that_are_no_text_come_as_base64() {
    let id = ObjectId::new(&b"\xffb"[..], &b"\xfek\0"[..]).unwrap();
    let bytes = envelope(&id, "tok", &record(vec![]), NOW, Show::All);
    let envelope: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(envelope["bucket_base64"], STANDARD.encode(b"\xffb"));
    assert_eq!(envelope["key_base64"], STANDARD.encode(b"\xfek\0"));
    assert!(envelope.get("key").is_none() && envelope.get("bucket").is_none(), "{envelope}");
}

#[test]
fn a_failed_precondition_shows_values_and_nothing_as_an_empty_list() {
    assert_eq!(versions(None, NOW), json!([]));
    let found = record(vec![object("application/json", b"[1]"), Content::Tombstone { deleted: NOW }]);
    let shown = versions(Some(&found), NOW);
    assert_eq!((shown.as_array().unwrap().len(), &shown[0]["value"]), (1, &json!([1])));
}

#[test]
fn a_date_beyond_the_calendar_is_the_last_one() {
    assert_eq!(rfc3339(Wall(u64::MAX)), "9999-12-31T23:59:59.000Z");
    assert!(httpdate::fmt_http_date(system_time(Wall(u64::MAX))).ends_with("9999 23:59:59 GMT"));
}

#[test]
fn a_part_holds_its_value_to_the_byte() {
    let contents = vec![object("text/plain", b"one\r\n"), object("text/html", b"")];
    let bytes = multipart("XX", &record(contents), NOW);
    let text = std::str::from_utf8(&bytes).unwrap();
    let parts: Vec<&str> = text.split("--XX").collect();
    assert_eq!((parts.len(), parts[0], parts[3]), (4, "", "--\r\n"));
    let (head, body) = parts[1].split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "one\r\n\r\n");
    for line in ["Content-Type: text/plain", "Cartwheel-Meta-color: red"] {
        assert!(head.contains(line), "{head}");
    }
    assert!(head.contains(&format!("ETag: {}", etag([dot(1)]))), "{head}");
}
