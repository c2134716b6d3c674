//! Settings as people write them: the contract's names, order and defaults, and what is refused.

use super::Setting::{Bool, Null, Number, Text};
use super::*;

fn text(text: &str) -> Setting {
    Text(text.to_owned())
}

/// The pointer of what is wrong after these changes to the defaults, in `set` or in `validate`.
fn refused(changes: &[(&str, Setting)]) -> Option<String> {
    let mut settings = BucketSettings::default();
    let set = changes.iter().try_for_each(|(name, value)| settings.set(name, value.clone()));
    set.and_then(|()| settings.validate()).err().map(|invalid| invalid.pointer)
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let expected = vec![
        ("n", Number(3)),
        ("r", text("quorum")),
        ("w", text("quorum")),
        ("pr", Number(0)),
        ("pw", Number(0)),
        ("dw", Number(0)),
        ("sloppy", Bool(true)),
        ("ttl_seconds", Null),
        ("max_siblings", Number(100)),
        ("blind_writes", text("siblings")),
        ("durability", text("fsync")),
        ("type", Null),
    ];
    assert_eq!(BucketSettings::default().get_all(), expected);
    assert_eq!(BucketSettings::default().validate(), Ok(()));
}

#[test]
fn what_is_set_is_shown() {
    let changes = [
        ("n", Number(5)),
        ("r", text("one")),
        ("w", text("all")),
        ("pr", Number(1)),
        ("pw", text("quorum")),
        ("dw", Number(5)),
        ("sloppy", Bool(false)),
        ("ttl_seconds", Number(3600)),
        ("max_siblings", Number(7)),
        ("blind_writes", text("reject")),
        ("durability", text("os")),
        ("type", text("cart")),
    ];
    let mut settings = BucketSettings::default();
    for (name, value) in &changes {
        settings.set(name, value.clone()).unwrap();
    }
    assert_eq!(settings.validate(), Ok(()));
    assert_eq!(settings.get_all(), changes);
}

#[test]
fn every_word_reads_back() {
    for (name, words) in [
        ("blind_writes", &["siblings", "supersede", "reject"][..]),
        ("durability", &["fsync", "os"]),
        ("type", &["object", "counter", "set", "map", "cart"]),
        ("w", &["one", "quorum", "all"]),
    ] {
        for word in words {
            let mut settings = BucketSettings::default();
            settings.set(name, text(word)).unwrap();
            assert!(settings.get_all().contains(&(name, text(word))), "{name} = {word}");
        }
    }
}

#[test]
fn null_is_the_default_again() {
    let mut settings = BucketSettings { n: 5, ttl_seconds: Some(1), sloppy: false, ..Default::default() };
    for (name, _) in BucketSettings::default().get_all() {
        settings.set(name, Null).unwrap();
    }
    assert_eq!(settings, BucketSettings::default());
}

#[test]
fn levels_resolve_against_n() {
    for (n, quorum) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (16, 9)] {
        assert_eq!(Level::Quorum.resolve(n), quorum, "the quorum of {n}");
        assert_eq!(Level::All.resolve(n), n);
        assert_eq!(Level::One.resolve(n), 1);
        assert_eq!(Level::Count(2).resolve(n), 2);
    }
}

#[test]
fn levels_are_read_from_a_query() {
    assert_eq!("quorum".parse(), Ok(Level::Quorum));
    assert_eq!("0".parse(), Ok(Level::Count(0)));
    assert_eq!("16".parse(), Ok(Level::Count(16)));
    for wrong in ["", "+2", "-1", "17", "256", "Quorum", "2.0", " 2", "most", "٣"] {
        assert_eq!(wrong.parse::<Level>(), Err(ParseLevelError), "{wrong:?}");
    }
    for level in [Level::Count(2), Level::One, Level::Quorum, Level::All] {
        assert_eq!(level.to_string().parse(), Ok(level));
    }
}

#[test]
fn more_answers_than_replicas_are_refused() {
    for name in ["r", "w", "pr", "pw", "dw"] {
        assert_eq!(refused(&[(name, Number(4))]), Some(format!("/{name}")));
        assert_eq!(refused(&[(name, Number(9))]), Some(format!("/{name}")));
        assert_eq!(
            refused(&[(name, Number(4)), ("n", Number(5))]),
            None,
            "n is looked at together with {name}"
        );
        assert_eq!(refused(&[(name, Number(2)), ("n", Number(1))]), Some(format!("/{name}")));
    }
}

#[test]
fn reads_and_writes_need_an_answer_and_the_rest_do_not() {
    assert_eq!(refused(&[("r", Number(0))]), Some("/r".to_owned()));
    assert_eq!(refused(&[("w", Number(0))]), Some("/w".to_owned()));
    assert_eq!(refused(&[("pr", Number(0)), ("pw", Number(0)), ("dw", Number(0))]), None);
}

#[test]
fn wrong_kinds_and_ranges_are_refused_where_they_stand() {
    let wrong = [
        ("n", Number(0)),
        ("n", Number(17)),
        ("n", Number(259)),
        ("n", text("3")),
        ("n", Bool(true)),
        ("r", text("most")),
        ("w", text("2")),
        ("w", Number(258)),
        ("pw", Bool(false)),
        ("sloppy", Number(1)),
        ("sloppy", text("true")),
        ("ttl_seconds", Number(0)),
        ("ttl_seconds", Number(u64::MAX)),
        ("max_siblings", Number(0)),
        ("max_siblings", Number(u64::MAX)),
        ("blind_writes", text("last_write_wins")),
        ("durability", Bool(true)),
        ("type", text("list")),
    ];
    for (name, value) in wrong {
        let mut settings = BucketSettings::default();
        let invalid = settings.set(name, value.clone()).unwrap_err();
        assert_eq!(invalid.pointer, format!("/{name}"));
        assert!(invalid.detail.starts_with(&format!("{value} was found")), "{invalid}");
        assert_eq!(settings, BucketSettings::default(), "{name} = {value} changed something");
    }
}

#[test]
fn an_unknown_name_is_pointed_at() {
    let mut settings = BucketSettings::default();
    let invalid = settings.set("allow_mult", Bool(true)).unwrap_err();
    assert_eq!(invalid.pointer, "/allow_mult");
    assert!(invalid.detail.contains("n, r, w, pr, pw, dw, sloppy"), "{invalid}");
    assert_eq!(refused(&[("a/b~c", Null)]), Some("/a~1b~0c".to_owned()));
    assert_eq!(refused(&[("kind", text("cart"))]), Some("/kind".to_owned()), "the contract calls it type");
}

#[test]
fn a_type_is_kept_once_it_is_set() {
    let mut settings = BucketSettings::default();
    settings.set("type", text("cart")).unwrap();
    settings.set("type", text("cart")).unwrap();
    for other in [text("set"), Null] {
        assert_eq!(settings.set("type", other).unwrap_err().pointer, "/type");
    }
    assert_eq!(settings.kind, Some(DataType::Cart));
    assert_eq!(settings.check_successor(&settings), Ok(()));
    assert!(settings.check_successor(&BucketSettings::default()).is_err());
    assert_eq!(BucketSettings::default().check_successor(&settings), Ok(()));
}

#[test]
fn settings_from_another_node_are_checked_too() {
    let invalid = |settings: BucketSettings| settings.validate().unwrap_err().pointer;
    assert_eq!(invalid(BucketSettings { n: 0, ..Default::default() }), "/n");
    assert_eq!(invalid(BucketSettings { n: 200, ..Default::default() }), "/n");
    assert_eq!(invalid(BucketSettings { w: Level::Count(0), ..Default::default() }), "/w");
    assert_eq!(invalid(BucketSettings { ttl_seconds: Some(0), ..Default::default() }), "/ttl_seconds");
    assert_eq!(invalid(BucketSettings { max_siblings: 0, ..Default::default() }), "/max_siblings");
}

#[test]
fn settings_survive_the_wire() {
    let settings = BucketSettings { kind: Some(DataType::Map), ttl_seconds: Some(9), ..Default::default() };
    let bytes = postcard::to_stdvec(&settings).unwrap();
    assert_eq!(postcard::from_bytes(&bytes), Ok(settings));
}
