//! What every [`Store`] promises, tried on all of them. A difference between the real one and its twin is a bug in the
//! simulation, and everything that the simulation has proved would be worth less.
//!
//! Each promise is a function over a [`Rig`]; `suite!` turns them into tests of one engine. What only one of them can
//! show (a killed process, a power cut) stands with that engine.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A place for a store that outlives it.
pub(super) trait Rig {
    type Store: Store;
    fn new() -> Self;
    fn open(&self) -> Result<Self::Store, OpenError>;
}

macro_rules! suite {
    ($rig:ty; $($promise:ident)*) => {
        $(#[test] fn $promise() { super::$promise::<$rig>(); })*
    };
    ($rig:ty) => {
        suite! { $rig;
            what_was_put_is_got_until_it_is_deleted
            families_are_separate
            any_bytes_are_a_key_and_a_value
            a_value_may_be_empty_or_large
            the_last_change_of_a_batch_wins
            an_empty_batch_changes_nothing
            a_scan_is_in_the_order_of_the_bytes
            a_scan_starts_at_its_start_and_ends_before_its_end
            a_scan_stops_at_its_limits_and_goes_on_from_there
            a_reader_never_sees_half_a_batch
            a_store_is_opened_once_at_a_time
            what_was_written_is_there_after_a_clean_reopen
            estimates_are_near
            it_behaves_like_a_map_under_any_script
        }
    };
}

mod in_memory {
    suite!(super::super::mem::tests::MemRig);
}

#[cfg(feature = "rocks")]
mod on_rocksdb {
    suite!(super::super::rocks::tests::RocksRig);
}

const KEY: &[u8] = b"key";

pub(super) fn put(store: &impl Store, family: Family, key: &[u8], value: &[u8]) {
    let mut batch = Batch::default();
    batch.put(family, key, value.to_vec());
    store.write(batch, true).expect("the disk is well");
}

pub(super) fn get(store: &impl Store, family: Family, key: &[u8]) -> Option<Vec<u8>> {
    store.get(family, key).expect("the disk is well").map(|value| value.to_vec())
}

/// Keys of a scan without limits.
fn keys(store: &impl Store, family: Family, start: &[u8], end: Option<&[u8]>) -> Vec<Vec<u8>> {
    let rows = store.scan(family, start, end, usize::MAX, usize::MAX).expect("the disk is well");
    rows.into_iter().map(|(key, _)| key.to_vec()).collect()
}

fn started<R: Rig>() -> (R, R::Store) {
    let rig = R::new();
    let store = rig.open().expect("nothing is in the way");
    (rig, store)
}

fn what_was_put_is_got_until_it_is_deleted<R: Rig>() {
    let (_rig, store) = started::<R>();
    assert_eq!(get(&store, Family::Records, KEY), None);
    put(&store, Family::Records, KEY, b"one");
    assert_eq!(get(&store, Family::Records, KEY).as_deref(), Some(&b"one"[..]));
    put(&store, Family::Records, KEY, b"two");
    assert_eq!(get(&store, Family::Records, KEY).as_deref(), Some(&b"two"[..]));
    let mut batch = Batch::default();
    batch.delete(Family::Records, KEY);
    batch.delete(Family::Records, b"never there");
    store.write(batch, false).expect("deleting nothing is no error");
    assert_eq!(get(&store, Family::Records, KEY), None);
    assert_eq!(keys(&store, Family::Records, b"", None), Vec::<Vec<u8>>::new());
}

fn families_are_separate<R: Rig>() {
    let (_rig, store) = started::<R>();
    for family in FAMILIES {
        put(&store, family, KEY, format!("{family:?}").as_bytes());
    }
    let mut batch = Batch::default();
    batch.delete(Family::Leaves, KEY);
    store.write(batch, true).expect("the disk is well");
    for family in FAMILIES {
        let expected = (family != Family::Leaves).then(|| format!("{family:?}").into_bytes());
        assert_eq!(get(&store, family, KEY), expected);
        assert_eq!(keys(&store, family, b"", None).len(), usize::from(expected.is_some()));
    }
}

fn any_bytes_are_a_key_and_a_value<R: Rig>() {
    let (_rig, store) = started::<R>();
    let odd: [&[u8]; 7] = [b"\0", b"\0\0", b"\0\xff", b"\xff", b"\xff\0", b"\xff\xff", b"\r\n\0 \\"];
    for key in odd {
        put(&store, Family::Hints, key, key);
    }
    for key in odd {
        assert_eq!(get(&store, Family::Hints, key).as_deref(), Some(key));
    }
    assert_eq!(get(&store, Family::Hints, b"\0\0\0"), None);
}

fn a_value_may_be_empty_or_large<R: Rig>() {
    let (_rig, store) = started::<R>();
    put(&store, Family::Records, b"empty", b"");
    assert_eq!(get(&store, Family::Records, b"empty"), Some(Vec::new()));
    let large: Vec<u8> = (0..4 << 20).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let before = store.disk_bytes();
    put(&store, Family::Records, b"large", &large);
    assert_eq!(get(&store, Family::Records, b"large"), Some(large));
    assert!(
        store.disk_bytes() >= before + (4 << 20),
        "{} bytes on disk hold 4 MiB more than {before}",
        store.disk_bytes()
    );
}

fn the_last_change_of_a_batch_wins<R: Rig>() {
    let (_rig, store) = started::<R>();
    let mut batch = Batch::default();
    batch.put(Family::Meta, "put twice", "1");
    batch.put(Family::Meta, "put twice", "2");
    batch.put(Family::Meta, "put, deleted", "1");
    batch.delete(Family::Meta, "put, deleted");
    batch.delete(Family::Meta, "deleted, put");
    batch.put(Family::Meta, "deleted, put", "1");
    store.write(batch, true).expect("the disk is well");
    assert_eq!(get(&store, Family::Meta, b"put twice").as_deref(), Some(&b"2"[..]));
    assert_eq!(get(&store, Family::Meta, b"put, deleted"), None);
    assert_eq!(get(&store, Family::Meta, b"deleted, put").as_deref(), Some(&b"1"[..]));
}

fn an_empty_batch_changes_nothing<R: Rig>() {
    let (_rig, store) = started::<R>();
    put(&store, Family::Meta, KEY, b"1");
    store.write(Batch::default(), false).expect("there is nothing to fail");
    store.write(Batch::default(), true).expect("the disk is well");
    assert_eq!(keys(&store, Family::Meta, b"", None), [KEY]);
}

fn a_scan_is_in_the_order_of_the_bytes<R: Rig>() {
    let (_rig, store) = started::<R>();
    let mut names: Vec<&[u8]> = vec![b"b", b"\xff", b"a\0", b"", b"ab", b"a", b"\0", b"\x7f", b"\x80", b"B"];
    for name in &names {
        put(&store, Family::Records, name, b"");
    }
    names.sort_unstable();
    assert_eq!(keys(&store, Family::Records, b"", None), names);
}

fn a_scan_starts_at_its_start_and_ends_before_its_end<R: Rig>() {
    let (_rig, store) = started::<R>();
    for name in ["b", "c", "d"] {
        put(&store, Family::Records, name.as_bytes(), b"");
    }
    let scan = |start: &str, end: Option<&str>| {
        let keys = keys(&store, Family::Records, start.as_bytes(), end.map(str::as_bytes));
        String::from_utf8(keys.concat()).expect("the keys are letters")
    };
    assert_eq!(scan("b", Some("d")), "bc");
    assert_eq!(scan("a", Some("z")), "bcd");
    assert_eq!(scan("bb", Some("dd")), "cd");
    assert_eq!(scan("c", None), "cd");
    assert_eq!(scan("e", None), "");
    assert_eq!(scan("c", Some("c")), "");
    assert_eq!(scan("d", Some("b")), "", "a range the wrong way round is empty");
}

fn a_scan_stops_at_its_limits_and_goes_on_from_there<R: Rig>() {
    let (_rig, store) = started::<R>();
    for at in 0..10u8 {
        put(&store, Family::Records, &[at], &[0; 99]);
    }
    let count = |rows_max, bytes_max| {
        store.scan(Family::Records, b"", None, rows_max, bytes_max).expect("the disk is well").len()
    };
    assert_eq!(count(4, usize::MAX), 4);
    assert_eq!(count(usize::MAX, 300), 3, "each row has 100 bytes");
    assert_eq!(count(usize::MAX, 299), 2);
    assert_eq!(count(usize::MAX, 0), 1, "one row comes through any limit");
    assert_eq!(count(0, usize::MAX), 1);

    let (mut start, mut seen) = (Vec::new(), Vec::new());
    loop {
        let page = store.scan(Family::Records, &start, None, 3, 250).expect("the disk is well");
        let Some((last, _)) = page.last() else { break };
        start = keys::after(last);
        seen.extend(page.iter().map(|(key, _)| key[0]));
    }
    assert_eq!(seen, (0..10).collect::<Vec<u8>>());
}

fn a_reader_never_sees_half_a_batch<R: Rig>() {
    let (_rig, store) = started::<R>();
    let write = |round: u32| {
        let mut batch = Batch::default();
        for key in [b"a", b"b", b"c"] {
            batch.put(Family::Records, *key, round.to_be_bytes().to_vec());
        }
        store.write(batch, false).expect("the disk is well");
    };
    write(0);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (1..=2_000).for_each(write));
        while !writer.is_finished() {
            let rows = store.scan(Family::Records, b"", None, 10, 1_000).expect("the disk is well");
            assert!(rows.iter().all(|(_, value)| *value == rows[0].1), "{rows:?} is of one batch");
        }
    });
    assert_eq!(get(&store, Family::Records, b"c"), Some(2_000u32.to_be_bytes().to_vec()));
}

fn a_store_is_opened_once_at_a_time<R: Rig>() {
    let (rig, store) = started::<R>();
    let clone = store.clone();
    assert!(matches!(rig.open(), Err(OpenError::InUse(_))));
    drop(store);
    assert!(matches!(rig.open(), Err(OpenError::InUse(_))), "the clone is still there");
    put(&clone, Family::Meta, KEY, b"1");
    drop(clone);
    let store = rig.open().expect("the last clone is gone");
    assert_eq!(get(&store, Family::Meta, KEY).as_deref(), Some(&b"1"[..]));
}

fn what_was_written_is_there_after_a_clean_reopen<R: Rig>() {
    let (rig, store) = started::<R>();
    for family in FAMILIES {
        put(&store, family, b"synced", b"1");
        let mut batch = Batch::default();
        batch.put(family, "not synced", "2");
        store.write(batch, false).expect("the disk is well");
    }
    store.flush().expect("the disk is well");
    drop(store);
    let store = rig.open().expect("it was closed");
    for family in FAMILIES {
        assert_eq!(keys(&store, family, b"", None), [&b"not synced"[..], b"synced"]);
    }
}

fn estimates_are_near<R: Rig>() {
    let (_rig, store) = started::<R>();
    let mut batch = Batch::default();
    for at in 0..1_000u16 {
        batch.put(Family::Hints, at.to_be_bytes(), "hint");
    }
    store.write(batch, true).expect("the disk is well");
    assert!(
        (900..=1_100).contains(&store.estimate_keys(Family::Hints)),
        "{}",
        store.estimate_keys(Family::Hints)
    );
    assert_eq!(store.estimate_keys(Family::Records), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Write { changes: Vec<(Family, Vec<u8>, Option<Vec<u8>>)>, sync: bool },
    Scan { family: Family, start: Vec<u8>, end: Option<Vec<u8>>, rows_max: usize },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let family = || (0..FAMILIES.len()).prop_map(|at| FAMILIES[at]);
    let key = || vec(prop_oneof![Just(0), Just(b'k'), Just(0xff)], 0..4);
    let value = proptest::option::weighted(0.7, vec(any::<u8>(), 0..40));
    let change = (family(), key(), value);
    prop_oneof![
        6 => (vec(change, 0..8), any::<bool>()).prop_map(|(changes, sync)| Step::Write { changes, sync }),
        4 => (family(), key(), proptest::option::of(key()), 1..6usize)
            .prop_map(|(family, start, end, rows_max)| Step::Scan { family, start, end, rows_max }),
        1 => Just(Step::Reopen),
    ]
}

fn it_behaves_like_a_map_under_any_script<R: Rig>() {
    // A real database is opened several times a case; 16 cases take about two seconds.
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(16) };
    proptest!(config, |(script in vec(step(), 1..40))| {
        let (rig, mut store) = started::<R>();
        let mut model = BTreeMap::<(Family, Vec<u8>), Vec<u8>>::new();
        for step in script {
            match step {
                Step::Write { changes, sync } => {
                    store.write(model_write(&mut model, changes), sync).expect("the disk is well");
                }
                Step::Scan { family, start, end, rows_max } => {
                    let found = store.scan(family, &start, end.as_deref(), rows_max, usize::MAX);
                    let found = found.expect("the disk is well").into_iter();
                    let found: Vec<_> = found.map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
                    let inside = |key: &Vec<u8>| *key >= start && end.as_ref().is_none_or(|end| key < end);
                    let expected = model.iter().filter(|((of, key), _)| *of == family && inside(key));
                    let expected = expected.map(|((_, key), value)| (key.clone(), value.clone()));
                    prop_assert_eq!(found, expected.take(rows_max).collect::<Vec<_>>());
                }
                Step::Reopen => {
                    drop(store);
                    store = rig.open().expect("it was closed");
                }
            }
        }
        for ((family, key), value) in &model {
            prop_assert_eq!(get(&store, *family, key), Some(value.clone()));
        }
        let found: usize = FAMILIES.iter().map(|family| keys(&store, *family, b"", None).len()).sum();
        prop_assert_eq!(found, model.len());
    });
}

fn model_write(
    model: &mut BTreeMap<(Family, Vec<u8>), Vec<u8>>,
    changes: Vec<(Family, Vec<u8>, Option<Vec<u8>>)>,
) -> Batch {
    let mut batch = Batch::default();
    for (family, key, value) in changes {
        match value {
            Some(value) => {
                batch.put(family, key.clone(), value.clone());
                model.insert((family, key), value);
            }
            None => {
                batch.delete(family, key.clone());
                model.remove(&(family, key));
            }
        }
    }
    batch
}
