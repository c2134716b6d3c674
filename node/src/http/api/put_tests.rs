//! What a writer is told: conditions, receipts, contexts.

use super::*;
use http::header::HeaderName;
use ring::coord::{Outcome as Left, WriteQuorum};

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
    };
    pairs.iter().map(pair).collect()
}

#[test]
fn a_receipt_says_what_was_required_and_what_there_was() {
    let answer = WriteAnswer {
        outcome: Left::Applied,
        timed_out: false,
        quorum: WriteQuorum { w: 2, pw: 0, dw: 0, sloppy: true },
        acked: 3,
        owners: 2,
        durable: 3,
        fallbacks: 1,
        hints: 1,
        context: Bytes::new(),
        dots: vec![],
        siblings: 1,
    };
    assert_eq!(receipt(&answer), "w=2;acked=3;durable=3;fallbacks=1;hints=1");
}

#[test]
fn a_location_is_a_path_that_names_the_same_octets() {
    let id = ObjectId::new(&b"a/b \xff"[..], &b"k.1_~-"[..]).unwrap();
    assert_eq!(location(&id), "/v1/buckets/a%2Fb%20%FF/keys/k.1_~-");
}

#[test]
fn a_value_without_a_type_is_octets_and_keeps_its_metadata() {
    let found = put_action(&headers(&[("cartwheel-meta-a", "1"), ("cartwheel-ttl", "3")])).unwrap();
    let meta = vec![("a".to_owned(), Bytes::from_static(b"1"))];
    assert_eq!(found, Action::Put { content_type: OCTETS.into(), meta, ttl_ms: Some(3000) });
    let typed = put_action(&headers(&[("content-type", "text/x")])).unwrap();
    assert!(matches!(typed, Action::Put { content_type, .. } if content_type == "text/x"));
    let refused = put_action(&headers(&[("content-encoding", "gzip")])).unwrap_err();
    assert_eq!(refused.code(), Code::UnsupportedMediaType);
}

fn hold(pairs: &[(&'static str, &str)], etag: Option<&str>) -> bool {
    let headers = headers(pairs);
    Conditions::read(&headers).unwrap().expect("there are conditions").hold(etag)
}

#[test]
fn conditions_hold_for_what_is_there() {
    assert!(hold(&[("if-none-match", "*")], None));
    assert!(!hold(&[("if-none-match", "*")], Some("a")));
    assert!(hold(&[("if-match", "\"a\"")], Some("a")));
    assert!(!hold(&[("if-match", "\"a\"")], Some("b")));
    assert!(!hold(&[("if-match", "\"a\"")], None));
    assert!(!hold(&[("if-match", "W/\"a\"")], Some("a")), "a weak tag does not match strongly");
    assert!(!hold(&[("if-match", "\"a\""), ("if-none-match", "\"a\"")], Some("a")), "both must hold");
    assert!(Conditions::read(&HeaderMap::new()).unwrap().is_none());
}

#[test]
fn a_condition_that_holds_says_what_its_writer_has_seen() {
    let found = Record { clock: ring::causal::Context::new(), siblings: vec![] };
    for (name, value, seen) in
        [("if-match", "\"a\"", true), ("if-none-match", "*", true), ("if-match", "*", false)]
    {
        let headers = headers(&[(name, value)]);
        let conditions = Conditions::read(&headers).unwrap().unwrap();
        assert_eq!(conditions.seen(Some(&found)).is_some(), seen, "{name}: {value}");
    }
}

#[test]
fn a_bucket_of_another_type_takes_no_objects() {
    let of = |kind| check_kind(&BucketSettings { kind, ..BucketSettings::default() });
    assert!(of(None).is_ok() && of(Some(DataType::Object)).is_ok());
    for kind in [DataType::Cart, DataType::Counter, DataType::Set, DataType::Map] {
        assert_eq!(of(Some(kind)).unwrap_err().code(), Code::WrongType, "{kind:?}");
    }
}
