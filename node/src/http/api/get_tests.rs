//! What a read shows without a node: which clients take siblings, what counts as news, and a value's headers.

use super::*;
use bytes::Bytes;
use ring::causal::{Actor, Dot};
use ring::ids::NodeId;
use ring::record::{Content, Sibling};

fn dot(count: u64) -> Dot {
    Dot { actor: Actor { node: NodeId(7), epoch: 1 }, count }
}

fn headers(accept: &[&str]) -> HeaderMap {
    accept.iter().map(|value| (ACCEPT, HeaderValue::from_str(value).unwrap())).collect()
}

#[test]
fn several_values_need_a_client_that_takes_json() {
    for accept in [
        &[][..],
        &["*/*"],
        &["application/*"],
        &["application/json"],
        &["image/png, */*;q=0.1"],
        &["a/b", "*/*"],
    ] {
        assert!(takes_json(&headers(accept)), "{accept:?}");
    }
    for accept in [&["image/png"][..], &["text/plain, text/*;q=0.5"]] {
        assert!(!takes_json(&headers(accept)), "{accept:?}");
    }
}

#[test]
fn news_is_what_the_context_does_not_cover() {
    let sibling = |n, content| Sibling { dot: dot(n), content };
    let value = || Content::Object(Object::default());
    let deleted = || Content::Tombstone { deleted: Wall(1) };
    let clock = Context::of_dots([dot(1), dot(2), dot(3)]);
    let record = |siblings| Record { clock: clock.clone(), siblings };
    let seen = Context::of_dots([dot(3)]);
    assert!(!is_news(&record(vec![sibling(3, value())]), &seen), "superseded unseen is no news");
    assert!(is_news(&record(vec![sibling(3, value())]), &Context::new()));
    assert!(is_news(&record(vec![sibling(2, value()), sibling(3, value())]), &seen));
    assert!(is_news(&record(vec![sibling(2, deleted())]), &seen), "a deletion is news");
    assert!(!is_news(&record(vec![]), &seen));
    let removed = Content::CartRemoved { sku: None, seen: Context::new() };
    assert!(
        is_news(&record(vec![sibling(3, removed.clone())]), &seen),
        "a cart's clock says what was removed"
    );
    assert!(!is_news(&record(vec![sibling(3, removed)]), &clock));
}

#[test]
fn a_value_comes_with_its_own_headers() {
    let object = Object {
        body: "two apples".into(),
        content_type: "text/x-cart; charset=utf-8".into(),
        meta: vec![("color".into(), "red".into()), ("bad".into(), Bytes::from_static(b"\n"))],
        modified: Wall(1_767_323_045_678),
        expires_at: Some(Wall(1_767_323_046_000)),
    };
    let siblings = vec![Sibling { dot: dot(1), content: Content::Object(object) }];
    let record = Record { clock: Context::of_dots([dot(1)]), siblings };
    let response = value(&record, Wall(0));
    let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap());
    assert_eq!(header("content-type"), Some("text/x-cart; charset=utf-8"));
    assert_eq!(header("last-modified"), Some("Fri, 02 Jan 2026 03:04:05 GMT"));
    assert_eq!(header("cartwheel-expires-at"), Some("2026-01-02T03:04:06.000Z"));
    assert_eq!(header("cartwheel-meta-color"), Some("red"));
    assert_eq!(header("cartwheel-meta-bad"), None, "what HTTP can't say is left out");
}
