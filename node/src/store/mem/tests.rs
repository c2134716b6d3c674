//! What a crash and a bad disk do to the twin in memory. The rest is in `conformance.rs`.

use super::*;
use crate::store::conformance::{Rig, get, put};
use proptest::collection::vec;
use proptest::prelude::*;

pub(in crate::store) struct MemRig(MemDisk);

impl Rig for MemRig {
    type Store = MemStore;
    fn new() -> Self {
        MemRig(MemDisk::new())
    }
    fn open(&self) -> Result<MemStore, OpenError> {
        self.0.open()
    }
}

const KEY: &[u8] = b"key";

fn started() -> (MemDisk, MemStore) {
    let disk = MemDisk::new();
    let store = disk.open().expect("it is not open yet");
    (disk, store)
}

fn batch(key: &[u8], value: &str) -> Batch {
    let mut batch = Batch::default();
    batch.put(Family::Records, key, value.to_owned());
    batch
}

fn text(store: &MemStore) -> String {
    String::from_utf8(get(store, Family::Records, KEY).unwrap_or_default()).expect("the tests write text")
}

#[test]
fn a_crash_takes_back_what_was_not_synced_and_nothing_else() {
    let (disk, store) = started();
    store.write(batch(KEY, "one"), false).expect("the disk is well");
    store.write(batch(KEY, "two"), true).expect("the disk is well");
    let bytes = store.disk_bytes();
    store.write(batch(KEY, "three"), false).expect("the disk is well");
    store.write(batch(b"other", "1"), false).expect("the disk is well");
    assert_eq!((text(&store).as_str(), disk.unsynced()), ("three", 2));
    let gone = disk.crash_keeping(0);
    let row = |key: &[u8]| vec![(Family::Records, key.to_vec())];
    assert_eq!(gone, [row(b"other"), row(KEY)], "each batch is named, the newest first");
    let store = disk.open().expect("the crash closed it");
    assert_eq!(text(&store), "two");
    assert_eq!(get(&store, Family::Records, b"other"), None);
    assert_eq!((store.disk_bytes(), store.estimate_keys(Family::Records)), (bytes, 1));
}

#[test]
fn a_crash_keeps_the_oldest_batches_if_it_keeps_any() {
    for (kept, expected) in [(0, ""), (1, "one"), (2, "two"), (3, "three"), (usize::MAX, "three")] {
        let (disk, store) = started();
        for value in ["one", "two", "three"] {
            store.write(batch(KEY, value), false).expect("the disk is well");
        }
        disk.crash_keeping(kept);
        assert_eq!(text(&disk.open().expect("the crash closed it")), expected, "{kept} batches were kept");
    }
}

#[test]
fn a_sync_makes_everything_before_it_durable() {
    type Sync = fn(&MemStore) -> Result<(), StoreError>;
    let syncs: [Sync; 3] = [
        |store| store.flush(),
        |store| store.write(Batch::default(), true),
        |store| store.write(batch(b"o", "1"), true),
    ];
    for sync in syncs {
        let (disk, store) = started();
        store.write(batch(KEY, "one"), false).expect("the disk is well");
        sync(&store).expect("the disk is well");
        disk.crash();
        assert_eq!(text(&disk.open().expect("the crash closed it")), "one");
    }
}

#[test]
fn a_handle_from_before_the_crash_is_worthless() {
    let (disk, old) = started();
    put(&old, Family::Records, KEY, b"one");
    disk.crash();
    let new = disk.open().expect("the crash closed it");
    for store in [&old, &old.clone()] {
        assert!(matches!(store.get(Family::Records, KEY), Err(StoreError::Io(_))));
        assert!(matches!(store.write(batch(KEY, "ghost"), true), Err(StoreError::Io(_))));
        assert!(matches!(store.scan(Family::Records, b"", None, 1, 1), Err(StoreError::Io(_))));
        assert!(matches!(store.flush(), Err(StoreError::Io(_))));
    }
    drop(old);
    assert_eq!(text(&new), "one");
    assert!(matches!(disk.open(), Err(OpenError::InUse(_))), "dropping the old handle closes nothing");
}

#[test]
fn an_io_fault_fences_the_store_until_it_is_opened_again() {
    for (fault, found) in [(Fault::Io, "one"), (Fault::IoAfterWrite, "two")] {
        let (disk, store) = started();
        put(&store, Family::Records, KEY, b"one");
        disk.set_fault(Some(fault));
        assert!(matches!(store.write(batch(KEY, "two"), true), Err(StoreError::Io(_))));
        disk.set_fault(None);
        assert!(matches!(store.write(batch(KEY, "three"), true), Err(StoreError::Io(_))));
        assert!(matches!(store.flush(), Err(StoreError::Io(_))));
        assert_eq!(text(&store), "one", "reads go on");
        drop(store);
        let store = disk.open().expect("it was closed");
        assert_eq!(text(&store), found, "after {fault:?}");
        put(&store, Family::Records, KEY, b"four");
    }
}

#[test]
fn a_full_disk_takes_writes_again_once_there_is_room() {
    let (disk, store) = started();
    disk.set_fault(Some(Fault::Full));
    for _ in 0..2 {
        assert!(matches!(store.write(batch(KEY, "one"), true), Err(StoreError::Full(_))));
    }
    assert_eq!(text(&store), "");
    disk.set_fault(None);
    put(&store, Family::Records, KEY, b"two");
    assert_eq!(text(&store), "two");
}

#[test]
fn a_spoiled_row_is_corrupt_until_it_is_written_again() {
    let (disk, store) = started();
    put(&store, Family::Records, b"a", b"1");
    put(&store, Family::Records, KEY, b"1");
    disk.corrupt(Family::Records, KEY);
    assert!(matches!(store.get(Family::Records, KEY), Err(StoreError::Corrupt(_))));
    assert!(matches!(store.scan(Family::Records, b"", None, 9, 99), Err(StoreError::Corrupt(_))));
    assert_eq!(store.scan(Family::Records, b"", None, 1, 99).expect("it stops before").len(), 1);
    assert_eq!(get(&store, Family::Meta, KEY), None);
    put(&store, Family::Records, KEY, b"2");
    assert_eq!(text(&store), "2");
}

#[test]
fn the_log_of_unsynced_batches_is_bounded() {
    let (disk, store) = started();
    for at in 0..UNSYNCED_BATCHES_MAX + 10 {
        store.write(batch(KEY, &at.to_string()), false).expect("the disk is well");
    }
    assert_eq!(disk.unsynced(), UNSYNCED_BATCHES_MAX);
    disk.crash();
    assert_eq!(
        text(&disk.open().expect("the crash closed it")),
        "9",
        "what fell out of the log counts as durable"
    );
}

proptest! {
    /// Every crash leaves what some prefix of the batches would have left, and that prefix holds all the synced ones.
    #[test]
    fn a_crash_leaves_a_prefix(
        script in vec((vec((0..6u8, proptest::option::of(any::<u8>())), 0..5), proptest::bool::weighted(0.2)), 0..30),
        kept in 0..12usize,
    ) {
        let (disk, store) = started();
        // What each prefix of the unsynced batches leaves; the first has none of them. An empty batch leaves no trace.
        let mut prefixes = vec![BTreeMap::new()];
        for (changes, sync) in script {
            let (mut batch, mut after) = (Batch::default(), prefixes.last().expect("never empty").clone());
            for (key, value) in changes {
                match value {
                    Some(value) => {
                        batch.put(Family::Records, [key], vec![value]);
                        after.insert(key, value);
                    }
                    None => {
                        batch.delete(Family::Records, [key]);
                        after.remove(&key);
                    }
                }
            }
            if !batch.is_empty() {
                prefixes.push(after);
            }
            store.write(batch, sync).expect("the disk is well");
            if sync {
                prefixes.drain(..prefixes.len() - 1);
            }
        }
        prop_assert_eq!(disk.unsynced(), prefixes.len() - 1);
        disk.crash_keeping(kept);
        let rows = disk.open().expect("the crash closed it").scan(Family::Records, b"", None, 99, 999);
        let rows: BTreeMap<u8, u8> = rows.expect("the disk is well").iter().map(|(k, v)| (k[0], v[0])).collect();
        prop_assert_eq!(&rows, &prefixes[kept.min(prefixes.len() - 1)]);
    }
}
