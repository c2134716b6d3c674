//! Queries of a listing and the ranges that they mean; pages themselves need a node.

use super::*;

fn want(query: &str) -> Want {
    Want::read(b"b", Some(query)).unwrap()
}

fn bounds(query: &str) -> (Vec<u8>, Option<Vec<u8>>) {
    let range = want(query).range;
    (range.from.to_vec(), range.to.map(|to| to.to_vec()))
}

#[test]
fn prefix_start_and_end_make_one_range() {
    for (query, from, to) in [
        ("", &b""[..], None),
        ("prefix=a", b"a", Some(&b"b"[..])),
        ("prefix=a%ff", b"a\xff", Some(b"b")),
        ("prefix=%ff%ff", b"\xff\xff", None),
        ("start=b&end=c", b"b", Some(b"c")),
        ("prefix=b&start=b5", b"b5", Some(b"c")),
        ("prefix=b&start=a&end=z", b"b", Some(b"c")),
        ("prefix=b&end=b5", b"b", Some(b"b5")),
        ("end=", b"", None),
    ] {
        assert_eq!(bounds(query), (from.to_vec(), to.map(<[u8]>::to_vec)), "{query}");
    }
    assert!(want("start=c&end=b").range.is_empty());
    assert!(want("prefix=b&end=a").range.is_empty());
    assert!(!want("start=b").range.is_empty());
}

#[test]
fn a_cursor_continues_after_its_key_and_never_leaves_the_range() {
    let next = |key: &[u8]| format!("prefix=b&cursor={}", cursor(key, false));
    assert_eq!(bounds(&next(b"b3")), (b"b3\0".to_vec(), Some(b"c".to_vec())));
    assert_eq!(bounds(&next(b"a")).0, b"b", "a cursor of another listing does not widen this one");
    assert!(want(&next(b"c")).range.is_empty());
    let back = |key: &[u8]| format!("prefix=b&reverse=true&cursor={}", cursor(key, true));
    assert_eq!(bounds(&back(b"b3")), (b"b".to_vec(), Some(b"b3".to_vec())));
    assert_eq!(bounds(&back(b"d")).1, Some(b"c".to_vec()));
}

#[test]
fn what_is_no_cursor_of_this_direction_is_refused() {
    let turned = cursor(b"b", true);
    let long = cursor(&[b'k'; KEY_BYTES_MAX + 1], false);
    for bad in ["nonsense", "", "AQ", "%ff", &turned, &long] {
        let problem = Want::read(b"b", Some(&format!("cursor={bad}"))).unwrap_err();
        assert_eq!(problem.code(), Code::InvalidParameter, "{bad}");
        assert!(problem.detail().starts_with("cursor: "), "{}", problem.detail());
    }
}

#[test]
fn a_listing_names_what_it_can_not_do() {
    for (query, code) in [
        ("limit=0", Code::InvalidParameter),
        ("limit=1001", Code::InvalidParameter),
        ("reverse=perhaps", Code::InvalidParameter),
        ("frobnicate=1", Code::InvalidParameter),
        ("include=versions", Code::NotImplemented),
    ] {
        assert_eq!(Want::read(b"b", Some(query)).unwrap_err().code(), code, "{query}");
    }
    assert_eq!(Want::read(b"", None).unwrap_err().code(), Code::InvalidParameter);
    assert!(want("include=keys&partial=true&limit=7").partial);
}

#[test]
fn lines_come_only_when_asked_for() {
    let accept = |value: &'static str| HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(value))]);
    assert!(wants_lines(&accept("application/json;q=0.5, application/x-ndjson")));
    assert!(!wants_lines(&accept("*/*")));
    assert!(!wants_lines(&HeaderMap::new()));
}
