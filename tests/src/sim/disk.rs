//! The disk of a simulated machine: honest, and now and then bad.
//!
//! The rows are `node::store::mem`'s, which forget at a crash what was not synced. Here comes what a bad disk does by
//! chance, and the eye that looks at every batch ([`super::watch`]): it sees what no reader may ever see.

use super::watch::Watch;
use super::wires::Host;
use bytes::Bytes;
use node::store::mem::{Fault, MemDisk, MemStore};
use node::store::{Batch, Family, OpenError, Room, Row, Store, StoreError, keys};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use ring::ids::ObjectId;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What goes wrong with a disk, by chance.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Wear {
    /// How many of 10,000 writes fail. The node leaves at the first.
    pub failing: u16,
    /// How many of 10,000 reads fail, and succeed the next time.
    pub unread: u16,
    /// Whether there is no room.
    pub full: bool,
    /// How much of it others have taken: near the end a node takes no more.
    pub taken_percent: u8,
    /// How long a write may take.
    pub slow_max: Duration,
}

impl Wear {
    /// Whether reads or writes may fail, and a node with them. (One without room fails nobody who runs.)
    pub fn fails(&self) -> bool {
        self.failing > 0 || self.unread > 0
    }
}

/// For so long after it was slow or full a disk may lack what it was told: its node sleeps off the last write, and tries the last refused one
/// again twice a second.
const LATE_AFTER: Duration = Duration::from_secs(1);

/// How large a disk is, as far as anybody asks.
const ROOM_BYTES: u64 = 1 << 30;

/// What a crash has taken from a disk: batches that were not synced, and the records in them.
#[derive(Debug, Default)]
pub struct Undone {
    /// How many batches.
    pub batches: usize,
    /// Whose records.
    pub records: BTreeSet<ObjectId>,
    /// When the first batch was written that might have been taken.
    pub since: Duration,
}

/// A disk. Clones are the same one.
#[derive(Clone)]
pub struct Disk {
    /// The rows, for whoever looks at them from outside.
    pub rows: MemDisk,
    host: Host,
    bad: Arc<Mutex<Bad>>,
    watch: Watch,
}

struct Bad {
    wear: Wear,
    chance: StdRng,
    /// How long the last write took.
    lag: Duration,
    /// When the first batch was written that is not synced.
    unsynced_since: Option<Duration>,
}

impl Bad {
    fn new(seed: u64) -> Bad {
        let chance = StdRng::seed_from_u64(seed);
        Bad { wear: Wear::default(), chance, lag: Duration::ZERO, unsynced_since: None }
    }
}

impl Disk {
    /// An empty one, of a machine.
    pub fn new(host: Host, seed: u64, watch: Watch) -> Disk {
        let bad = Bad::new(seed);
        Disk { rows: MemDisk::new(), host, bad: Arc::new(Mutex::new(bad)), watch }
    }

    /// Opens it for a node.
    pub fn open(&self) -> Result<SimStore, OpenError> {
        self.watch.ends(self.host);
        Ok(SimStore { inner: self.rows.open()?, disk: self.clone() })
    }

    /// Another disk with what is on this one at this moment.
    pub fn image(&self, seed: u64) -> Disk {
        let bad = Bad::new(seed);
        Disk { rows: self.rows.image(), bad: Arc::new(Mutex::new(bad)), ..self.clone() }
    }

    /// From now on it is as bad as that.
    pub fn set_wear(&self, wear: Wear, now: Duration) {
        self.lock().wear = wear;
        self.rows.set_fault(wear.full.then_some(Fault::Full));
        let is_late = wear.full || !wear.slow_max.is_zero();
        self.watch.is_late_until(self.host, if is_late { Duration::MAX } else { now + LATE_AFTER });
    }

    /// The machine loses its power: of what was not synced, a part of the oldest may have reached the disk. The rest is gone.
    pub fn crash(&self) -> Undone {
        let unsynced = self.rows.unsynced();
        let kept = self.lock().chance.random_range(0..=unsynced);
        let gone = self.rows.crash_keeping(kept);
        let rows = gone.iter().flatten().filter(|(family, _)| *family == Family::Records);
        let records = rows.filter_map(|(_, key)| keys::decode_record_key(&Bytes::copy_from_slice(key)).ok());
        let since = self.lock().unsynced_since.take().unwrap_or_default();
        Undone { batches: gone.len(), records: records.map(|(_, id)| id).collect(), since }
    }

    /// One of two, by chance.
    pub fn tosses(&self) -> bool {
        self.lock().chance.random()
    }

    /// The process dies, and the system writes back what it had. That is on the disk from the next start on: RocksDB moves what it
    /// finds in its log to table files, and syncs them.
    pub fn kill(&self) {
        self.rows.crash_keeping(usize::MAX);
        self.lock().unsynced_since = None;
    }

    /// Spoils a few records, at random; or of those only of which hints are kept here. How many.
    pub fn rot(&self, hinted: bool) -> usize {
        const RECORDS_MAX: usize = 8;
        let mut records = self.rows.rows(Family::Records);
        if hinted {
            let hints = self.rows.rows(Family::Hints);
            let hints = hints.iter().filter_map(|(key, _)| keys::decode_hint_key(key).ok());
            let hinted: BTreeSet<Vec<u8>> =
                hints.map(|(_, partition, id)| keys::record_key(partition, &id)).collect();
            records.retain(|(key, _)| hinted.contains(key.as_ref()));
        }
        let mut bad = self.lock();
        let some: Vec<_> = records.sample(&mut bad.chance, RECORDS_MAX).collect();
        some.iter().for_each(|(key, _)| self.rows.corrupt(Family::Records, key));
        some.len()
    }

    fn read(&self) -> Result<(), StoreError> {
        let mut bad = self.lock();
        let unread = bad.wear.unread;
        if unread > 0 && bad.chance.random_range(0..10_000) < unread {
            return Err(StoreError::Io("injected at a read".into()));
        }
        Ok(())
    }

    fn was_written(&self, synced: bool) {
        let mut bad = self.lock();
        let now = || turmoil::sim_elapsed().unwrap_or_default();
        bad.unsynced_since = if synced { None } else { bad.unsynced_since.or_else(|| Some(now())) };
    }

    fn lock(&self) -> MutexGuard<'_, Bad> {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A disk that a node has opened.
#[derive(Clone)]
pub struct SimStore {
    inner: MemStore,
    disk: Disk,
}

impl Store for SimStore {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.disk.read()?;
        self.inner.get(family, key)
    }

    fn write(&self, batch: Batch, sync: bool) -> Result<(), StoreError> {
        let may_arrive = {
            let mut bad = self.disk.lock();
            let (wear, slow_ms) = (bad.wear, bad.wear.slow_max.as_millis() as u64);
            bad.lag = Duration::from_millis(bad.chance.random_range(0..=slow_ms));
            if wear.failing > 0 && bad.chance.random_range(0..10_000) < wear.failing {
                // Whether it got there is the worse half of a failed write: nobody knows.
                let fault = if bad.chance.random() { Fault::Io } else { Fault::IoAfterWrite };
                self.disk.rows.set_fault(Some(fault));
                matches!(fault, Fault::IoAfterWrite)
            } else {
                false
            }
        };
        let seen = self.disk.watch.before(self.disk.host, &self.inner, &batch, sync);
        let done = self.inner.write(batch, sync);
        match &done {
            Ok(()) => {
                self.disk.was_written(sync);
                self.disk.watch.after(self.disk.host, &self.inner, seen, sync);
            }
            // The fence stays up until the disk is opened again; the fault itself was one.
            Err(StoreError::Io(_)) => {
                self.disk.rows.set_fault(None);
                if may_arrive {
                    self.disk.watch.may_be_there(seen);
                }
            }
            Err(_) => {}
        }
        done
    }

    fn scan(
        &self,
        family: Family,
        start: &[u8],
        end: Option<&[u8]>,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Row>, StoreError> {
        self.disk.read()?;
        self.inner.scan(family, start, end, rows_max, bytes_max)
    }

    fn estimate_keys(&self, family: Family) -> u64 {
        self.inner.estimate_keys(family)
    }

    fn disk_bytes(&self) -> u64 {
        self.inner.disk_bytes()
    }

    fn room(&self) -> Option<Room> {
        let taken = u64::from(self.disk.lock().wear.taken_percent);
        Some(Room { free: ROOM_BYTES / 100 * (100 - taken), total: ROOM_BYTES })
    }

    fn has_lost_writes(&self) -> bool {
        self.inner.has_lost_writes()
    }

    fn lacks(&self) -> Vec<Family> {
        self.inner.lacks()
    }

    fn is_fenced(&self) -> bool {
        self.inner.is_fenced()
    }

    fn lacks_nothing(&self) -> Result<(), StoreError> {
        self.inner.lacks_nothing()
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.inner.flush().inspect(|()| {
            self.disk.was_written(true);
            self.disk.watch.synced(self.disk.host);
        })
    }

    fn lag(&self) -> Duration {
        std::mem::take(&mut self.disk.lock().lag)
    }
}
