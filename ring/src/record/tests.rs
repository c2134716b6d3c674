//! The laws of the one merge at random (`laws_tests.rs` has every value of a tiny universe); what a write does; the codec.

use super::*;
use crate::causal::epochs::first_of;
use crate::causal::{Actor, Epochs};
use crate::ids::NodeId;
use crate::time::Wall;
use crate::wire::bytes::DecodeError;
use crate::wire::record::{decode, digest, encode, verify};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn dot(node: u128, epoch: u64, count: u64) -> Dot {
    Dot { actor: Actor { node: NodeId(node), epoch }, count }
}

/// One dot has one content wherever it is.
fn sibling(dot: Dot) -> Sibling {
    Sibling { dot, content: object(&format!("{dot}")) }
}

fn object(body: &str) -> Content {
    Content::Object(Object { body: Bytes::copy_from_slice(body.as_bytes()), ..Object::default() })
}

/// A record that has seen these dots, of which some are still there.
fn record(seen: &[Dot], there: &[Dot]) -> Record {
    let mut there: Vec<Dot> = there.to_vec();
    there.sort_unstable();
    there.dedup();
    let clock = Context::of_dots(seen.iter().chain(&there).copied());
    Record { clock, siblings: there.into_iter().map(sibling).collect() }
}

fn any_dot() -> impl Strategy<Value = Dot> {
    (1..4_u128, 1..3_u64, 1..5_u64).prop_map(|(node, epoch, count)| dot(node, epoch, count))
}

fn any_record() -> impl Strategy<Value = Record> {
    let dots = || proptest::collection::vec(any_dot(), 0..7);
    (dots(), dots()).prop_map(|(seen, there)| record(&seen, &there))
}

/// The four laws and the two promises, for one triple.
fn assert_laws(a: &Record, b: &Record, c: &Record) {
    let ab = merge(a, b);
    assert_eq!(ab, merge(b, a), "commutative");
    assert_eq!(merge(&ab, c), merge(a, &merge(b, c)), "associative");
    assert_eq!(merge(a, a), *a, "idempotent");
    assert_eq!(merge(&ab, b), ab, "idempotent");
    assert!(ab.clock.covers(&a.clock) && ab.clock.covers(&b.clock), "it has seen what both have");
    for (one, other) in [(a, b), (b, a)] {
        for s in &one.siblings {
            let keeps = other.sibling(&s.dot).is_some() || !other.clock.has(&s.dot);
            assert_eq!(ab.sibling(&s.dot).is_some(), keeps, "{:?} of {one:?} and {other:?}", s.dot);
        }
    }
    assert!(
        ab.siblings.iter().all(|s| a.sibling(&s.dot).or(b.sibling(&s.dot)) == Some(s)),
        "nothing is made up"
    );
}

fn me(node: u128, epochs: &mut Epochs) -> Me<'_> {
    Me { node: NodeId(node), epochs }
}

proptest! {
    #[test]
    fn the_laws_hold(a in any_record(), b in any_record(), c in any_record()) {
        assert_laws(&a, &b, &c);
    }

    #[test]
    fn a_write_adds_its_values_and_removes_what_was_seen(held in proptest::option::of(any_record()),
                                                         seen in proptest::collection::vec(any_dot(), 0..6),
                                                         node in 1..4_u128, values in 0..3_usize) {
        let mut epochs = Epochs::at_start(50, 0, false);
        let seen = Context::of_dots(seen);
        let contents = (0..values).map(|n| object(&n.to_string())).collect();
        let done = coordinate(held.as_ref(), &seen, contents, &mut me(node, &mut epochs));
        let before = held.clone().unwrap_or_default();
        prop_assert_eq!(merge(&before, &done.record), done.record.clone(), "a write only grows");
        prop_assert_eq!(merge(&before, &done.delta), done.record.clone(), "the delta says as much");
        prop_assert!(done.record.clock.covers(&seen));
        prop_assert_eq!(done.dots.len(), values.max(1), "what leaves nothing has a dot as well");
        for s in &before.siblings {
            prop_assert_eq!(done.record.sibling(&s.dot).is_some(), !seen.has(&s.dot));
        }
        for d in &done.dots {
            prop_assert!(!before.clock.has(d) && !seen.has(d), "{:?} is new", d);
            prop_assert_eq!(done.record.sibling(d).is_some(), values > 0);
            prop_assert!(done.record.clock.has(d) && done.context.has(d));
        }
        let mut knows = seen.clone();
        done.dots.iter().for_each(|d| knows.insert(*d));
        prop_assert_eq!(done.context, knows, "the writer knows what it had seen and its own");
    }

    /// Three replicas take writes; deltas travel in any order, twice and late.
    #[test]
    fn deltas_say_as_much_as_records(writes in proptest::collection::vec((0..3_usize, 0..8_usize, any::<bool>()), 1..9),
                                     order in proptest::collection::vec(any::<prop::sample::Index>(), 40)) {
        let mut epochs: Vec<Epochs> = (0..3).map(|_| Epochs::at_start(1, 0, false)).collect();
        let mut copies: Vec<Option<Record>> = vec![None; 3];
        let (mut deltas, mut records, mut contexts) = (Vec::new(), Vec::new(), vec![Context::new()]);
        for (at, seen, several) in writes {
            let seen = contexts[seen % contexts.len()].clone();
            let contents = if several { vec![object("x"), object("y")] } else { vec![object("z")] };
            let done = coordinate(copies[at].as_ref(), &seen, contents, &mut me(at as u128, &mut epochs[at]));
            copies[at] = Some(done.record.clone());
            contexts.extend([done.context, done.record.clock.clone()]);
            deltas.push(done.delta);
            records.push(done.record);
        }
        let whole = records.iter().fold(Record::default(), |sum, r| merge(&sum, r));
        let mut arriving = deltas.clone();
        arriving.extend(order.iter().map(|i| i.get(&deltas).clone()));
        arriving.sort_by_cached_key(|d| order[digest(&encode(d)).0 as usize % 40].index(1000));
        prop_assert_eq!(arriving.iter().fold(Record::default(), |sum, d| merge(&sum, d)), whole);
    }

    #[test]
    fn receiving_is_merging_but_for_the_mark_of_what_was_forgotten(held in proptest::option::of(any_record()),
                                                                    incoming in any_record(), node in 1..4_u128) {
        let mut epochs = Epochs::at_start(50, 0, false);
        let before = held.clone().unwrap_or_default();
        let got = receive(held.as_ref(), &incoming, &mut me(node, &mut epochs));
        let mut expected = merge(&before, &incoming);
        if incoming.clock.newest_of(NodeId(node)) > before.clock.newest_of(NodeId(node)) {
            expected.clock.insert(dot(node, first_of(50), 1));
        }
        prop_assert_eq!(got.clone().unwrap_or(before.clone()), expected);
        let after = got.unwrap_or(before);
        prop_assert_eq!(receive(Some(&after), &incoming, &mut me(node, &mut epochs)), None, "twice changes nothing");
    }
}

#[test]
fn nothing_is_not_stored_as_an_empty_record() {
    let mut epochs = Epochs::at_start(1, 0, false);
    assert_eq!(receive(None, &Record::default(), &mut me(1, &mut epochs)), None);
}

#[test]
fn each_of_the_four_doubts_draws_a_fresh_epoch() {
    let mine = record(&[dot(1, 7, 1)], &[dot(1, 7, 2)]);
    let actor = |held: Option<&Record>, seen: &Context, boot: u64| {
        let mut epochs = Epochs::at_start(50, boot, false);
        let done = coordinate(held, seen, vec![object("x")], &mut me(1, &mut epochs));
        (done.dots[0].actor.epoch, done.dots[0].count)
    };
    let none = Context::new();
    assert_eq!(actor(Some(&mine), &none, 0), (7, 3), "no doubt");
    assert_eq!(actor(Some(&mine), &mine.clock, 7), (7, 3), "no doubt");
    assert_eq!(actor(None, &none, 0), (first_of(50), 1), "no copy");
    assert_eq!(actor(Some(&record(&[], &[dot(2, 1, 1)])), &none, 0), (first_of(50), 1), "no entry of mine");
    assert_eq!(
        actor(Some(&mine), &Context::of_dots([dot(1, 7, 9)]), 0),
        (first_of(50), 1),
        "the writer knows a later count"
    );
    assert_eq!(
        actor(Some(&mine), &Context::of_dots([dot(1, 8, 1)]), 0),
        (first_of(50), 1),
        "the writer knows a later epoch"
    );
    assert_eq!(actor(Some(&mine), &none, 8), (first_of(50), 1), "issued before data may have been lost");
}

#[test]
fn the_mark_of_a_fresh_epoch_travels_with_the_first_delta() {
    let (mut here, mut there) = (Epochs::at_start(5, 0, false), Epochs::at_start(1, 0, false));
    let old = record(&[], &[dot(1, 1, 1)]);
    let marked = receive(None, &old, &mut me(1, &mut here)).unwrap();
    let done = coordinate(Some(&marked), &Context::new(), vec![object("x")], &mut me(1, &mut here));
    let after = receive(Some(&old), &done.delta, &mut me(2, &mut there)).unwrap();
    assert_eq!(after, done.record);
    assert!(after.clock.runs().iter().all(|run| run.first == 1));
}

// ---- the codec ----

fn any_bytes() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..12).prop_map(Bytes::from)
}

fn any_context() -> impl Strategy<Value = Context> {
    proptest::collection::vec(any_dot(), 0..6).prop_map(Context::of_dots)
}

fn any_content() -> impl Strategy<Value = Content> {
    let object = (any_bytes(), ".{0,8}", any::<u64>(), proptest::option::of(any::<u64>())).prop_flat_map(
        |(body, content_type, modified, expires)| {
            proptest::collection::vec(("[a-z]{1,5}", any_bytes()), 0..3).prop_map(move |meta| {
                let (body, content_type) = (body.clone(), content_type.clone());
                let (modified, expires_at) = (Wall(modified), expires.map(Wall));
                Content::Object(Object { body, content_type, meta, modified, expires_at })
            })
        },
    );
    let op = || any::<u128>().prop_map(Op);
    prop_oneof![
        object,
        any::<u64>().prop_map(|at| Content::Tombstone { deleted: Wall(at) }),
        (any::<u64>(), any::<u128>()).prop_map(|(at, was)| Content::Expired { at: Wall(at), was }),
        (any_bytes(), any::<i64>(), proptest::option::of(op()))
            .prop_map(|(sku, quantity, op)| Content::CartAdd { sku, quantity, op }),
        (any_bytes(), any_bytes()).prop_map(|(sku, json)| Content::CartAttributes { sku, json }),
        (proptest::option::of(any_bytes()), any_context())
            .prop_map(|(sku, seen)| Content::CartRemoved { sku, seen }),
        proptest::collection::vec((op(), any::<u64>().prop_map(Wall)), 0..4)
            .prop_map(|ops| Content::CartSpent { ops }),
    ]
}

fn any_full_record() -> impl Strategy<Value = Record> {
    (any_record(), proptest::collection::vec(any_content(), 7)).prop_map(|(mut record, contents)| {
        record.siblings.iter_mut().zip(contents).for_each(|(s, content)| s.content = content);
        record
    })
}

proptest! {
    #[test]
    fn a_record_reads_back(record in any_full_record(), other in any_full_record()) {
        let bytes = encode(&record);
        prop_assert_eq!(decode(&bytes), Ok(record.clone()));
        prop_assert_eq!(encode(&decode(&bytes).unwrap()), bytes.clone());
        prop_assert_eq!(encode(&other) == bytes, other == record, "equal records have equal bytes");
    }

    #[test]
    fn damage_is_found_before_use(record in any_full_record(), at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let mut bytes = encode(&record).to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(verify(&Bytes::from(bytes.clone())).is_err());
        prop_assert!(decode(&Bytes::from(bytes.clone())).is_err());
        bytes[at] ^= 1 << bit;
        bytes.truncate(at);
        prop_assert!(decode(&Bytes::from(bytes)).is_err());
    }

    /// Bytes whose checksum is right and whose content is not: what is read of them must at least be a whole record.
    #[test]
    fn a_forged_checksum_gets_no_further_than_an_error(record in any_full_record(),
                                                       edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = encode(&record).to_vec();
        for (at, byte) in edits {
            let at = 10 + at.index(bytes.len() - 10);
            bytes[at] = byte;
        }
        let sum = xxhash_rust::xxh3::xxh3_64(&bytes[10..]);
        bytes[2..10].copy_from_slice(&sum.to_le_bytes());
        if let Ok(read) = decode(&Bytes::from(bytes)) {
            read.assert_whole();
            prop_assert_eq!(decode(&encode(&read)), Ok(read));
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode(&Bytes::from(bytes)).is_err());
    }
}

#[test]
fn a_length_that_is_only_claimed_allocates_nothing() {
    let mut bytes = vec![0xC7, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
    let sum = xxhash_rust::xxh3::xxh3_64(&bytes[10..]);
    bytes[2..10].copy_from_slice(&sum.to_le_bytes());
    assert_eq!(decode(&Bytes::from(bytes)), Err(DecodeError::Short));
}

#[test]
fn the_bytes_of_a_record_are_pinned() {
    let mut pinned = record(&[dot(1, 1, 1)], &[dot(1, 1, 2), dot(2, 3, 2)]);
    pinned.siblings[0].content = Content::Object(Object {
        body: Bytes::from_static(b"mug"),
        content_type: "text/plain".into(),
        meta: vec![("a".into(), Bytes::from_static(b"b"))],
        modified: Wall(1_700_000_000_000),
        expires_at: None,
    });
    pinned.siblings[1].content =
        Content::CartAdd { sku: Bytes::from_static(b"cup"), quantity: -2, op: Some(Op(5)) };
    let hex: String = encode(&pinned).iter().map(|b| format!("{b:02x}")).collect();
    let parts = [
        "c703bda2d0895822290d", // magic, version, checksum
        "00",                   // nothing expires
        "02",                   // two actors
        "00000000000000000000000000000001",
        "01", // node 1, epoch 1
        "00000000000000000000000000000002",
        "03", // node 2, epoch 3
        "02",
        "000001",
        "010100", // two runs: 1.1:1–2 and 2.3:2 alone
        "02",     // two siblings
        "0002",
        "00",
        "80d095ffbc31",           // 1.1:2, an object without expiry, modified
        "0a746578742f706c61696e", // text/plain
        "01",
        "0161",
        "0162",
        "036d7567", // one header a: b; the body
        "0102",
        "04",
        "03637570",
        "03",                               // 2.3:2, an add with a name, of cups, -2
        "00000000000000000000000000000005", // its name
    ];
    assert_eq!(hex, parts.concat());
}

#[test]
fn the_bytes_of_a_value_that_expires_are_pinned() {
    let mut pinned = record(&[], &[dot(1, 1, 1)]);
    pinned.siblings[0].content = Content::Object(Object {
        body: Bytes::from_static(b"mug"),
        content_type: "text/plain".into(),
        meta: vec![],
        modified: Wall(1_700_000_000_000),
        expires_at: Some(Wall(1_700_000_060_000)),
    });
    let hex = |record: &Record| encode(record).iter().map(|b| format!("{b:02x}")).collect::<String>();
    let lasting = [
        "01", // one actor
        "00000000000000000000000000000001",
        "01", // node 1, epoch 1
        "01",
        "000000", // one run: 1.1:1
        "01",     // one sibling
        "0001",
        "01",
        "e0a499ffbc31",                     // 1.1:1, a value that expires, when
        "7dd4566cce673c97bad841cf90cfedb7", // its hash
    ]
    .concat();
    let value = ["80d095ffbc31", "0a746578742f706c61696e", "00", "036d7567"].concat();
    assert_eq!(hex(&pinned), ["c703d8f8a26c4aced86f", "17", &lasting, "16", &value].concat());
    let dropped = pinned.without_expired(Wall(1_700_000_060_000)).unwrap();
    assert_eq!(hex(&dropped), ["c703ec4f17926bcca83c", "00", &lasting].concat());
}

#[test]
fn a_version_is_visible_until_it_expires() {
    let mut expiring = record(&[], &[dot(1, 1, 1)]);
    expiring.siblings[0].content =
        Content::Object(Object { expires_at: Some(Wall(100)), ..Object::default() });
    assert_eq!(expiring.versions(Wall(99)).count(), 1);
    assert_eq!(expiring.versions(Wall(100)).count(), 0);
}

#[test]
fn equal_dots_have_equal_tags_and_others_other_tags() {
    let tags: BTreeSet<String> = [dot(1, 1, 1), dot(1, 1, 2), dot(1, 2, 1), dot(2, 1, 1)]
        .map(|d| object::etag([d]))
        .into_iter()
        .collect();
    assert_eq!(tags.len(), 4);
    assert_eq!(object::etag_of(&[sibling(dot(1, 1, 1))]), object::etag([dot(1, 1, 1)]));
}
