//! Copies that the disk has spoiled, and what takes their place.
//!
//! What arrives for such a key is stored, for it would be refused for ever otherwise. But it may be a part of what the spoiled
//! copy had: an acknowledgement that this copy was one of may stand on it still. So the key is marked as having a gap, in the same
//! batch: it takes writes and answers no reads until every other owner has said what he has (`duty/scrub.rs`), like a node that is
//! being filled.

use super::Core;
use super::draft::{Draft, Slot};
use crate::limits::GAPS_MAX;
use crate::store::{Family, Store, StoreError, keys};
use bytes::Bytes;
use ring::ids::ObjectId;
use ring::place::{partition, position};
use ring::tree;
use ring::wire::peer::Refusal;
use ring::wire::record::Digest;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The keys with a gap. Clones are the same list.
#[derive(Debug, Clone, Default)]
pub struct Gaps {
    /// How many there are: mostly none, and then a read looks no further.
    count: Arc<AtomicUsize>,
    ids: Arc<Mutex<BTreeSet<ObjectId>>>,
}

impl Gaps {
    /// Those that the disk knows of.
    pub fn load<S: Store>(store: &S) -> Result<Gaps, StoreError> {
        let gaps = Gaps::default();
        let (first, end) = keys::gaps();
        let rows = store.scan(Family::Meta, &first, end.as_deref(), GAPS_MAX, usize::MAX)?;
        for (_, id) in rows.iter().filter_map(|(key, _)| keys::decode_gap_key(key).ok()) {
            gaps.lock().insert(id);
        }
        gaps.count.store(gaps.lock().len(), Ordering::Relaxed);
        Ok(gaps)
    }

    /// Whether this key has one.
    pub fn has(&self, id: &ObjectId) -> bool {
        self.count.load(Ordering::Relaxed) > 0 && self.lock().contains(id)
    }

    /// Some of them, from the first after that one on.
    pub fn some(&self, after: Option<&ObjectId>, most: usize) -> Vec<ObjectId> {
        let ids = self.lock();
        ids.iter().filter(|id| after.is_none_or(|after| *id > after)).take(most).cloned().collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether there is room for no more.
    pub fn are_full(&self) -> bool {
        self.count() >= GAPS_MAX
    }

    /// Whether there was room for it.
    fn open(&self, id: &ObjectId) -> bool {
        let mut ids = self.lock();
        let room = ids.len() < GAPS_MAX || ids.contains(id);
        if room {
            ids.insert(id.clone());
        }
        self.count.store(ids.len(), Ordering::Relaxed);
        room
    }

    fn close(&self, id: &ObjectId) -> bool {
        let mut ids = self.lock();
        let was = ids.remove(id);
        self.count.store(ids.len(), Ordering::Relaxed);
        was
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<ObjectId>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Store> Core<S> {
    /// Makes room for what arrives in the place of a copy that can't be read, and marks the gap.
    pub(super) fn replace_damaged(&self, id: &ObjectId, draft: &mut Draft) -> Result<(), Refusal> {
        if !self.lose_damaged(id, draft)? {
            return Ok(());
        }
        if !self.gaps.open(id) {
            // The next job of this batch must not take it for empty.
            draft.slots.remove(&keys::record_key(partition(position(id), self.partitions), id));
            return Err(Refusal::Unavailable("too many records of this disk can't be read".into()));
        }
        draft.batch.put(
            Family::Meta,
            keys::gap_key(partition(position(id), self.partitions), id),
            Bytes::new(),
        );
        Ok(())
    }

    /// Every other owner has said what he has, and it is here.
    pub(super) fn close_gap(&self, id: &ObjectId, draft: &mut Draft) -> bool {
        draft.batch.delete(Family::Meta, keys::gap_key(partition(position(id), self.partitions), id));
        self.gaps.close(id)
    }

    /// A copy that can't be read is taken for lost, and not for nothing: what takes its place says so by a fresh epoch. Whether
    /// it was one.
    fn lose_damaged(&self, id: &ObjectId, draft: &mut Draft) -> Result<bool, Refusal> {
        match self.slot(id, draft) {
            Ok(_) => return Ok(false),
            Err(Refusal::Unavailable(why)) => tracing::warn!(key = ?id, why, "a damaged record is given up"),
            Err(other) => return Err(other),
        }
        let position = position(id);
        let partition = partition(position, self.partitions);
        let (key, tree) = (keys::record_key(partition, id), tree::slot(position));
        // The trees hold what the leaf says.
        let leaf = self.store.get(Family::Leaves, &keys::leaf_key(partition, tree, id));
        let leaf = leaf.map_err(|e| self.refusal(e))?;
        let stored = leaf.and_then(|leaf| leaf.as_ref().try_into().ok()).map(u128::from_be_bytes).map(Digest);
        // Nobody knows what it was: the index is told of what takes its place, whatever that is.
        let (dead, due) = (true, BTreeSet::new());
        let id = id.clone();
        let slot = Slot { partition, tree, id, record: None, stored, dead, due, changed: false };
        draft.slots.insert(key, slot);
        Ok(true)
    }

    /// Nobody else has the record, so there is nothing to put in its place.
    pub(super) fn give_up_damaged(&self, id: &ObjectId, draft: &mut Draft) -> Result<bool, Refusal> {
        let damaged = self.lose_damaged(id, draft)?;
        if damaged {
            let (key, _) = self.slot(id, draft)?;
            draft.set(&key, None);
        }
        Ok(damaged)
    }
}
