//! The twin of `rocks.rs` in memory, on an honest disk: what was not synced is gone after a crash.
//!
//! ```text
//!   MemDisk ── outlives the node, belongs to the test
//!     visible rows, as every reader sees them
//!     undo:  [oldest unsynced batch][…][newest]     emptied by a sync, rolled back by a crash
//!     faults: what the next write or read runs into
//!   MemStore ── what the node holds; worthless after a crash, like any file handle
//! ```
//!
//! One map with an undo log, rather than a synced map and a visible one: reads need not look twice, and a crash that
//! keeps a part of the unsynced batches is a rollback that stops early. It keeps a *prefix*: a log-structured engine
//! replays its log up to the first hole, so a later batch never survives an earlier one. No time, no chance, no
//! threads of its own: the same calls leave the same bytes.

use super::{Batch, Change, FAMILIES, Family, OpenError, Row, Store, StoreError};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

/// How many unsynced batches a crash can take back. Older ones count as written back by the kernel, as they are on a
/// real machine after half a minute. // 65,536 batches × some 200 bytes of undo = 13 MiB a disk at worst.
const UNSYNCED_BATCHES_MAX: usize = 65_536;

/// What writes and syncs run into, until it is cleared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The device fails, and nothing of the batch reached it. Fences the store.
    Io,
    /// The device fails after the batch reached it: the writer sees an error, and the next open finds the batch.
    /// Fences the store.
    IoAfterWrite,
    /// No space left. Ends with the fault.
    Full,
}

/// A disk that survives its node. Clones are the same disk.
#[derive(Clone, Default)]
pub struct MemDisk {
    state: Arc<RwLock<State>>,
}

/// A [`MemDisk`] that was opened. Clones share it; when the last is dropped the disk may be opened again.
#[derive(Clone)]
pub struct MemStore {
    disk: MemDisk,
    session: Arc<()>,
}

#[derive(Default)]
struct State {
    rows: [BTreeMap<Vec<u8>, Bytes>; FAMILIES.len()],
    bytes: u64,
    undo: VecDeque<Vec<Undo>>,
    corrupt: BTreeSet<(Family, Vec<u8>)>,
    lacks: BTreeSet<Family>,
    fault: Option<Fault>,
    fenced: bool,
    late: Option<Batch>,
    session: Weak<()>,
}

struct Undo {
    family: Family,
    key: Vec<u8>,
    before: Option<Bytes>,
}

impl MemDisk {
    /// An empty disk.
    pub fn new() -> Self {
        MemDisk::default()
    }

    /// Opens it, or refuses if it is open. Unsynced batches of a node that only stopped are still there.
    pub fn open(&self) -> Result<MemStore, OpenError> {
        let mut state = self.state_mut();
        if state.session.strong_count() > 0 {
            return Err(OpenError::InUse("(memory)".into()));
        }
        let session = Arc::new(());
        state.session = Arc::downgrade(&session);
        state.fenced = false;
        if let Some(batch) = state.late.take() {
            state.apply(batch);
        }
        drop(state);
        Ok(MemStore { disk: self.clone(), session })
    }

    /// The power fails: everything that was not synced is gone, and every open store is worthless.
    pub fn crash(&self) {
        self.crash_keeping(0);
    }

    /// As [`MemDisk::crash`], but the oldest `kept` of the unsynced batches had reached the disk all the same.
    /// With `usize::MAX` only the process died and the page cache survived it. Answers the rows of each batch that is gone.
    pub fn crash_keeping(&self, kept: usize) -> Vec<Vec<(Family, Vec<u8>)>> {
        let mut state = self.state_mut();
        let lost = state.undo.len().saturating_sub(kept);
        let gone = (0..lost).map(|_| state.undo_newest()).collect();
        // A batch behind a lost one lies behind the hole in the log.
        if lost > 0 {
            state.late = None;
        }
        state.undo.clear();
        state.session = Weak::new();
        gone
    }

    /// A disk with the same rows, as an image of it would hold them.
    pub fn image(&self) -> MemDisk {
        let state = self.state();
        let (rows, lacks) = (state.rows.clone(), state.lacks.clone());
        let image = State { rows, lacks, bytes: state.bytes, ..State::default() };
        MemDisk { state: Arc::new(RwLock::new(image)) }
    }

    /// How many batches a crash would take back now; a choice for [`MemDisk::crash_keeping`] lies below it.
    pub fn unsynced(&self) -> usize {
        self.state().undo.len()
    }

    /// Lets every write and sync from now on run into a fault, or (`None`) no more. A fence that an I/O fault has put
    /// up stays until the disk is opened again.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.state_mut().fault = fault;
    }

    /// The rows of a family as a reader would see them, for whoever looks at the disk from outside.
    pub fn rows(&self, family: Family) -> Vec<Row> {
        let state = self.state();
        let rows = state.rows[family as usize].iter();
        rows.map(|(key, value)| (Bytes::copy_from_slice(key), value.clone())).collect()
    }

    /// One of them.
    pub fn row(&self, family: Family, key: &[u8]) -> Option<Bytes> {
        self.state().rows[family as usize].get(key).cloned()
    }

    /// The same, as a power cut at this moment might leave it.
    pub fn synced_row(&self, family: Family, key: &[u8]) -> Option<Bytes> {
        let state = self.state();
        let first = state.undo.iter().flatten().find(|undo| undo.family == family && undo.key == key);
        first.map_or_else(|| state.rows[family as usize].get(key).cloned(), |undo| undo.before.clone())
    }

    /// Spoils a row: reading it is [`StoreError::Corrupt`] until it is written again or deleted.
    pub fn corrupt(&self, family: Family, key: &[u8]) {
        self.state_mut().corrupt.insert((family, key.to_vec()));
    }

    /// Spoils a family of a disk that nobody has open: whoever opens it finds nothing there, and is told so ([`Store::lacks`]).
    pub fn spoil(&self, family: Family) {
        let mut state = self.state_mut();
        assert_eq!(state.session.strong_count(), 0, "somebody reads it");
        for key in state.rows[family as usize].keys().cloned().collect::<Vec<_>>() {
            state.set(family, key, None);
        }
        state.undo.iter_mut().for_each(|batch| batch.retain(|undo| undo.family != family));
        state.lacks.insert(family);
    }

    /// Whether a family was spoiled, and whoever has opened the disk since has not yet said that it is whole again.
    pub fn lacks_any(&self) -> bool {
        !self.state().lacks.is_empty()
    }

    /// How many rows are spoilt and not yet written again.
    pub fn corrupted(&self) -> usize {
        self.state().corrupt.len()
    }

    // A panic elsewhere leaves the state whole, since no call panics half-way; so poison says nothing here.
    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemStore {
    fn check_alive(&self, state: &State) -> Result<(), StoreError> {
        if std::ptr::eq(state.session.as_ptr(), Arc::as_ptr(&self.session)) {
            Ok(())
        } else {
            Err(StoreError::Io("the machine crashed under this handle".into()))
        }
    }

    fn check_writable(&self, state: &mut State) -> Result<(), StoreError> {
        self.check_alive(state)?;
        if state.fenced {
            return Err(StoreError::Io("an earlier write failed".into()));
        }
        match state.fault {
            None => Ok(()),
            Some(Fault::Full) => Err(StoreError::Full("injected".into())),
            Some(Fault::Io | Fault::IoAfterWrite) => {
                state.fenced = true;
                Err(StoreError::Io("injected".into()))
            }
        }
    }
}

impl Store for MemStore {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let state = self.disk.state();
        self.check_alive(&state)?;
        state.check_sound(family, key)?;
        Ok(state.rows[family as usize].get(key).cloned())
    }

    fn write(&self, batch: Batch, sync: bool) -> Result<(), StoreError> {
        let mut state = self.disk.state_mut();
        let fenced_before = state.fenced;
        if let Err(error) = self.check_writable(&mut state) {
            if state.fault == Some(Fault::IoAfterWrite) && !fenced_before && state.fenced {
                state.late = Some(batch);
            }
            return Err(error);
        }
        state.apply(batch);
        if sync {
            state.undo.clear();
        }
        Ok(())
    }

    fn scan(
        &self,
        family: Family,
        start: &[u8],
        end: Option<&[u8]>,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let state = self.disk.state();
        self.check_alive(&state)?;
        let from = (Bound::Included(start), Bound::Unbounded);
        let ours = state.rows[family as usize]
            .range::<[u8], _>(from)
            .take_while(|(key, _)| end.is_none_or(|end| key.as_slice() < end));
        let (mut rows, mut bytes) = (Vec::new(), 0);
        for (key, value) in ours.take(rows_max.max(1)) {
            bytes += key.len() + value.len();
            if bytes > bytes_max && !rows.is_empty() {
                break;
            }
            state.check_sound(family, key)?;
            rows.push((Bytes::copy_from_slice(key), value.clone()));
        }
        Ok(rows)
    }

    fn estimate_keys(&self, family: Family) -> u64 {
        self.disk.state().rows[family as usize].len() as u64
    }

    fn disk_bytes(&self) -> u64 {
        self.disk.state().bytes
    }

    fn lacks(&self) -> Vec<Family> {
        self.disk.state().lacks.iter().copied().collect()
    }

    fn lacks_nothing(&self) -> Result<(), StoreError> {
        let mut state = self.disk.state_mut();
        self.check_writable(&mut state)?;
        state.lacks.clear();
        Ok(())
    }

    fn has_lost_writes(&self) -> bool {
        // A crash takes what was not synced, and nothing else goes.
        false
    }

    fn flush(&self) -> Result<(), StoreError> {
        let mut state = self.disk.state_mut();
        self.check_writable(&mut state)?;
        state.undo.clear();
        Ok(())
    }
}

impl State {
    fn apply(&mut self, batch: Batch) {
        if batch.is_empty() {
            return;
        }
        let mut undo = Vec::with_capacity(batch.changes.len());
        for change in batch.changes {
            let (family, key, after) = match change {
                Change::Put(family, key, value) => (family, key, Some(value)),
                Change::Delete(family, key) => (family, key, None),
            };
            if !self.corrupt.is_empty() {
                self.corrupt.remove(&(family, key.clone()));
            }
            let before = self.set(family, key.clone(), after);
            undo.push(Undo { family, key, before });
        }
        if self.undo.len() == UNSYNCED_BATCHES_MAX {
            self.undo.pop_front();
        }
        self.undo.push_back(undo);
    }

    fn undo_newest(&mut self) -> Vec<(Family, Vec<u8>)> {
        let mut rows = Vec::new();
        // Within a batch the last change goes first: two changes of one key unwind to what was before both.
        for undo in self.undo.pop_back().into_iter().flatten().rev() {
            rows.push((undo.family, undo.key.clone()));
            self.set(undo.family, undo.key, undo.before);
        }
        rows
    }

    fn set(&mut self, family: Family, key: Vec<u8>, value: Option<Bytes>) -> Option<Bytes> {
        let (key_len, rows) = (key.len(), &mut self.rows[family as usize]);
        let size = |value: &Option<Bytes>| value.as_ref().map_or(0, |value| (key_len + value.len()) as u64);
        self.bytes += size(&value);
        let before = match value {
            Some(value) => rows.insert(key, value),
            None => rows.remove(&key),
        };
        self.bytes -= size(&before);
        before
    }

    fn check_sound(&self, family: Family, key: &[u8]) -> Result<(), StoreError> {
        if !self.corrupt.is_empty() && self.corrupt.contains(&(family, key.to_vec())) {
            return Err(StoreError::Corrupt(format!("injected at {}", key.escape_ascii())));
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests;
