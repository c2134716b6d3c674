//! One step of the lane: read, decide, one batch, answers.

use super::Gaps;
use super::earliest::{Due, Earliest};
use super::hints::{Wanted, bytes_after, bytes_merged};
use super::job::{Job, Reply, Taken};
use super::ledger::{HintChange, Hints, Ledger};
use super::room::Crowded;
use crate::cluster::Cluster;
use crate::limits::LEAF_PAGE_ROWS;
use crate::store::{Batch, Change, Family, Row, Store, StoreError, keys};
use bytes::Bytes;
use ring::causal::Epochs;
use ring::causal::epochs::lease_of;
use ring::ids::{NodeId, ObjectId, Partition};
use ring::place::{partition, position};
use ring::planted::{self, Bug};
use ring::record::write::{Write, take};
use ring::record::{Me, Record, receive};
use ring::time::Wall;
use ring::tree::{self, Forest};
use ring::wire::peer::Refusal;
use ring::wire::record::{Digest, decode, digest, encode};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// What the lane works on.
#[derive(Debug)]
pub struct Core<S> {
    pub(super) store: S,
    pub(super) node: NodeId,
    pub(super) cluster: Arc<Cluster>,
    pub(super) epochs: Epochs,
    pub(super) partitions: u16,
    trees: Trees,
    hints: Hints,
    let_go: LetGo,
    earliest: Due,
    stray: Arc<AtomicU64>,
    pub(super) gaps: Gaps,
    pub(super) crowded: Crowded,
    /// Whether the disk knows that some writes were left to the system to sync.
    marked: bool,
    /// Set once the disk has failed: the node must leave, for nobody knows what a failed sync left behind.
    failed: watch::Sender<Option<String>>,
}

/// The Merkle trees, shared with those who compare them. Only the lane writes: what a tree says and what the disk says
/// change in one order.
pub type Trees = Arc<Mutex<Forest>>;

/// By partition, how often a copy was let go that was not owned here; the first number differs from start to start.
pub type LetGo = Arc<[AtomicU64]>;

/// What the lane keeps up for others to look at.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The Merkle trees.
    pub trees: Trees,
    /// The hints.
    pub hints: Hints,
    /// What went that was not owned here.
    pub let_go: LetGo,
    /// Who owns what, which the lane only looks at: what was decided by other tables than those of the moment it does not do.
    pub cluster: Arc<Cluster>,
    /// When the first value may expire.
    pub due: Due,
    /// The highest lease under which another life of this directory is known to have written; 0 if none is.
    pub stray: Arc<AtomicU64>,
    /// The keys whose copies here lack something.
    pub gaps: Gaps,
    /// Whether the disk is nearly full.
    pub crowded: Crowded,
}

/// A key in the batch: what it holds now, decoded once.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) partition: Partition,
    pub(super) tree: tree::Slot,
    pub(super) id: ObjectId,
    pub(super) record: Option<Arc<Record>>,
    /// The digest of what the disk holds.
    pub(super) stored: Option<Digest>,
    /// Whether the disk counts it among the dead.
    pub(super) dead: bool,
    /// When the values expire that the disk holds.
    pub(super) due: BTreeSet<Wall>,
    pub(super) changed: bool,
}

/// What a batch changes in the trees: partition, slot, where the leaf stands, whose it is, and its digests.
type TreeChange = (Partition, tree::Slot, Vec<u8>, ObjectId, [Option<Digest>; 2]);

/// What one step collects.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) slots: BTreeMap<Vec<u8>, Slot>,
    pub(super) batch: Batch,
    sync: bool,
    answers: Vec<Answer>,
    /// Partitions with a leaf that was wrong.
    mended: BTreeSet<Partition>,
    /// Hints that come and go, by their keys on disk.
    pub(super) hints: BTreeMap<Vec<u8>, HintChange>,
    /// Partitions of which a hint was given up.
    pub(super) given_up: Vec<Partition>,
    /// Partitions of which a copy goes that is not owned here.
    pub(super) let_go: BTreeSet<Partition>,
    /// The earliest of the notes about values that expire.
    pub(super) due: Option<Wall>,
}

type Answer = Box<dyn FnOnce(Result<bool, Refusal>) + Send>;

impl<S: Store> Core<S> {
    /// The lane of a node. `failed` is told when the disk has failed.
    pub fn new(
        store: S,
        node: NodeId,
        epochs: Epochs,
        partitions: u16,
        shared: Shared,
        failed: watch::Sender<Option<String>>,
    ) -> Self {
        let Shared { trees, hints, let_go, cluster, due: earliest, stray, gaps, crowded } = shared;
        Core {
            store,
            node,
            cluster,
            epochs,
            partitions,
            trees,
            hints,
            let_go,
            earliest,
            stray,
            gaps,
            crowded,
            marked: false,
            failed,
        }
    }

    /// Runs everything that waits as one batch.
    pub fn step(&mut self, jobs: impl ExactSizeIterator<Item = Job>) {
        if let Err(error) = self.lease_for(jobs.len()) {
            let refusal = self.refusal(error);
            return jobs.for_each(|job| job.refuse(refusal.clone()));
        }
        let mut draft = Draft::default();
        for job in jobs {
            self.run(job, &mut draft);
        }
        self.commit(draft);
    }

    /// A job draws at most one epoch; the lease is durable before any of them is used.
    fn lease_for(&mut self, jobs: usize) -> Result<(), StoreError> {
        if self.epochs.left() > jobs as u64 {
            return Ok(());
        }
        let lease = self.epochs.taken() + 1;
        let mut batch = Batch::default();
        batch.put(Family::Meta, keys::EPOCH_LEASE, Bytes::copy_from_slice(&lease.to_be_bytes()));
        self.store.write(batch, true)?;
        self.epochs.renewed(lease);
        Ok(())
    }

    fn run(&mut self, job: Job, draft: &mut Draft) {
        match job {
            Job::Coordinate { id, write, now, hint_for, sync, reply } => {
                let taken = self.coordinate(&id, *write, now, hint_for, draft);
                let early = planted::is(Bug::SendBeforeSync);
                draft.sync |= sync && !early;
                draft.answer(reply, taken, move |taken, synced| Taken { durable: synced || early, ..taken });
            }
            Job::Merge { id, record, hint_for, sync, now, reply } => {
                let is_hint = hint_for.is_some();
                let merged = self.merge(&id, &record, hint_for, now, draft);
                let unsynced = planted::is(Bug::HintUnsynced) && is_hint;
                draft.sync |= sync && !unsynced;
                draft.answer(reply, merged, move |(), synced| synced || unsynced);
            }
            Job::KeepHint { id, owner, now, reply } => {
                let wanted = Wanted { owner, counted: false, now };
                let kept = self.slot(&id, draft).and_then(|(_, local)| {
                    self.keep_hint(&id, wanted, local.as_deref().map_or(0, Record::bytes), draft)
                });
                draft.sync = true;
                draft.answer(reply, kept, |kept, synced| kept && synced);
            }
            Job::GiveUpHint { id, owner, reply } => {
                let gone = self.give_up(&id, owner, draft);
                // A deletion that nobody syncs would have the next start doubt everything.
                draft.sync = true;
                draft.answer(reply, gone, |gone, _| gone);
            }
            Job::DropHint { id, owner, delivered, drop_copy_unless, regime, reply } => {
                let dropped = if self.acts_by(regime) {
                    self.drop_hint(&id, owner, delivered, drop_copy_unless, draft)
                } else {
                    Ok(false)
                };
                // A deletion that nobody syncs would have the next start doubt everything.
                draft.sync = true;
                draft.answer(reply, dropped, |dropped, _| dropped);
            }
            Job::GiveUpDamaged { id, reply } => {
                let given_up = self.give_up_damaged(&id, draft);
                draft.sync = true;
                draft.answer(reply, given_up, |given_up, _| given_up);
            }
            Job::CloseGap { id, reply } => {
                let closed = self.close_gap(&id, draft);
                // A deletion that nobody syncs would have the next start doubt everything.
                draft.sync = true;
                draft.answer(reply, Ok(closed), |closed, _| closed);
            }
            Job::CheckLeaf { id, reply } => {
                let before = draft.mended.len();
                let checked = self.slot(&id, draft).and_then(|(key, _)| self.hash_again(&key, draft));
                let mended = draft.mended.len() > before;
                draft.answer(reply, checked, move |(), _| mended);
            }
            Job::Expire { id, due, now, reply } => {
                let expired = self.expire(&id, due, now, draft);
                draft.sync = true;
                draft.answer(reply, expired, |expired, _| expired);
            }
            Job::DropCopy { id, held, regime, reply } => {
                let dropped = if self.acts_by(regime) { self.drop_copy(&id, held, draft) } else { Ok(false) };
                draft.let_go.insert(partition(position(&id), self.partitions));
                // A deletion that is not synced would count as lost data at the next kill, and cost a fresh epoch.
                draft.sync = true;
                draft.answer(reply, dropped, |dropped, _| dropped);
            }
            Job::Reap { id, held, reply } => {
                let dropped = self.reap(&id, held, draft);
                draft.sync = true;
                draft.answer(reply, dropped, |dropped, _| dropped);
            }
            Job::Jump { lease, reply } => {
                let jumped = self.jump(lease);
                draft.answer(reply, jumped, |(), _| true);
            }
            Job::Forsake { reply } => {
                let forsaken = self.forsake();
                draft.answer(reply, forsaken, |(), _| true);
            }
            Job::Asked { reply } => {
                let kept = self.keep_asked();
                draft.answer(reply, kept, |(), _| true);
            }
            Job::Raise { reply } => {
                let raised = self.raise();
                draft.answer(reply, raised, |lease, _| lease);
            }
            Job::Sift(sift, reply) => {
                let done = self.sift(sift, draft);
                draft.sync = true;
                draft.answer(reply, done, |done, _| done);
            }
            Job::Sifted { mark, reply } => {
                let gone = self.take_mark_off(mark);
                draft.answer(reply, gone, |gone, _| gone);
            }
            Job::GrowTree { partition, reply } => {
                let stands = self.grow_tree(partition);
                let _ = reply.send(stands);
            }
            Job::Raw { batch, sync, reply } => {
                draft.batch.changes.extend(batch.changes);
                draft.sync |= sync;
                draft.answer(reply, Ok(()), |(), synced| synced);
            }
        }
    }

    /// Whether these are the tables of this moment. Newer ones are kept through the lane before this node says that it acts by
    /// them, and what it takes over by them is fetched after that: whatever goes in this batch is gone by then, and is fetched.
    fn acts_by(&self, regime: u64) -> bool {
        self.cluster.snapshot().regime.name().digest == regime
    }

    /// The key's slot in this batch, read from the store the first time.
    pub(super) fn slot(
        &self,
        id: &ObjectId,
        draft: &mut Draft,
    ) -> Result<(Vec<u8>, Option<Arc<Record>>), Refusal> {
        let position = position(id);
        let partition = partition(position, self.partitions);
        let key = keys::record_key(partition, id);
        if let Some(slot) = draft.slots.get(&key) {
            return Ok((key, slot.record.clone()));
        }
        let bytes = self.store.get(Family::Records, &key).map_err(|e| self.refusal(e))?;
        // Damaged bytes are not "nothing": taking them for that would hand out dots that others have seen.
        let stored = bytes.as_deref().map(digest);
        let record =
            bytes.map(|b| decode(&b)).transpose().map_err(|e| Refusal::Unavailable(e.to_string()))?;
        let record = record.map(Arc::new);
        let tree = tree::slot(position);
        let dead = record.as_deref().is_some_and(Record::is_dead);
        let due = record.iter().flat_map(|record| record.expiries()).collect();
        let (record_now, id) = (record.clone(), id.clone());
        let slot = Slot { partition, tree, id, record: record_now, stored, dead, due, changed: false };
        draft.slots.insert(key.clone(), slot);
        Ok((key, record))
    }

    fn coordinate(
        &mut self,
        id: &ObjectId,
        write: Write,
        now: Wall,
        hint_for: Option<NodeId>,
        draft: &mut Draft,
    ) -> Result<Taken, Refusal> {
        self.has_room(matches!(write.action, ring::wire::peer::Action::Delete))?;
        self.replace_damaged(id, draft)?;
        let (key, local) = self.slot(id, draft)?;
        let is_cart =
            !matches!(write.action, ring::wire::peer::Action::Put { .. } | ring::wire::peer::Action::Delete);
        if let Some(owner) = hint_for {
            // Before the write gets its dot: where there is no room nothing is done.
            let wanted = Wanted { owner, counted: true, now };
            self.keep_hint(id, wanted, bytes_after(local.as_deref(), &write), draft)?;
        }
        let mut me = Me { node: self.node, epochs: &mut self.epochs };
        let done = take(local.as_deref(), write, now, &mut me)?;
        let record = Arc::new(done.record);
        // Removing from a cart that is not there leaves nothing to store: an empty record here and none elsewhere would differ
        // for ever.
        if local.as_deref().unwrap_or(&Record::default()) != &*record {
            draft.set(&key, Some(Arc::clone(&record)));
        }
        // A cart can be long and its change short; an object travels whole, which heals whoever missed something.
        let replicate = if is_cart { Arc::new(done.delta) } else { Arc::clone(&record) };
        Ok(Taken { replicate, record, context: done.context, dots: done.dots, durable: false })
    }

    fn merge(
        &mut self,
        id: &ObjectId,
        record: &Bytes,
        hint_for: Option<NodeId>,
        now: Wall,
        draft: &mut Draft,
    ) -> Result<(), Refusal> {
        let incoming = decode(record).map_err(|e| Refusal::Malformed(e.to_string()))?;
        self.has_room(incoming.is_dead())?;
        self.replace_damaged(id, draft)?;
        let (key, local) = self.slot(id, draft)?;
        if let Some(owner) = hint_for {
            let wanted = Wanted { owner, counted: true, now };
            self.keep_hint(id, wanted, bytes_merged(local.as_deref(), &incoming), draft)?;
        }
        if let Some((epoch, _)) = incoming.clock.newest_of(self.node)
            && self.epochs.is_foreign(epoch)
        {
            self.stray.fetch_max(lease_of(epoch), Ordering::Relaxed);
        }
        let mut me = Me { node: self.node, epochs: &mut self.epochs };
        match receive(local.as_deref(), &incoming, &mut me) {
            Some(merged) => draft.set(&key, Some(Arc::new(merged))),
            None => self.hash_again(&key, draft)?,
        }
        Ok(())
    }

    /// Somebody sent what is here already, perhaps because the leaf here says something else. Then the leaf is mended, and
    /// the partition's trees are built again: they were made of it.
    fn hash_again(&self, key: &[u8], draft: &mut Draft) -> Result<(), Refusal> {
        let slot = &draft.slots[key];
        if slot.changed {
            return Ok(());
        }
        let at = keys::leaf_key(slot.partition, slot.tree, &slot.id);
        let leaf = self.store.get(Family::Leaves, &at).map_err(|e| self.refusal(e))?;
        let right = slot.stored.map(|digest| Bytes::copy_from_slice(&digest.0.to_be_bytes()));
        if leaf == right {
            return Ok(());
        }
        tracing::warn!(key = ?slot.id, "a leaf was not that of its record");
        match right {
            Some(right) => draft.batch.put(Family::Leaves, at, right),
            None => draft.batch.delete(Family::Leaves, at),
        }
        draft.mended.insert(slot.partition);
        Ok(())
    }

    /// Reads the next page of leaves into the trees. Between two batches nothing is under way: the page is all that the
    /// disk holds there.
    fn grow_tree(&self, partition: Partition) -> Result<bool, Refusal> {
        let Some(from) = self.lock_trees().builds_from(partition) else { return Ok(true) };
        let (first, end) = keys::leaves_of_partition(partition);
        let from = if from.is_empty() { first } else { from };
        let rows = self
            .store
            .scan(Family::Leaves, &from, end.as_deref(), LEAF_PAGE_ROWS, usize::MAX)
            .map_err(|e| self.refusal(e))?;
        let next = rows.last().filter(|_| rows.len() == LEAF_PAGE_ROWS).map(|(last, _)| keys::after(last));
        let page: Vec<_> = rows.iter().filter_map(leaf_row).map(|(_, slot, id, d)| (slot, id, d)).collect();
        self.lock_trees().grow(partition, &page, next);
        Ok(self.lock_trees().stands(partition))
    }

    fn lock_trees(&self) -> MutexGuard<'_, Forest> {
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A dead record goes if it still is just this one.
    fn reap(&self, id: &ObjectId, held: Digest, draft: &mut Draft) -> Result<bool, Refusal> {
        let (_, local) = self.slot(id, draft)?;
        if local.as_deref().is_some_and(Record::is_dead) {
            self.drop_copy(id, held, draft)
        } else {
            Ok(false)
        }
    }

    fn drop_copy(&self, id: &ObjectId, held: Digest, draft: &mut Draft) -> Result<bool, Refusal> {
        let (key, local) = self.slot(id, draft)?;
        let same = self.held(&key, local.as_deref(), draft) == Some(held);
        if same {
            draft.set(&key, None);
        }
        Ok(same)
    }

    fn commit(&mut self, mut draft: Draft) {
        let changes = draft.write_slots();
        let hints = std::mem::take(&mut draft.hints);
        for (key, change) in &hints {
            match change.after {
                Some(row) => draft.batch.put(Family::Hints, key.clone(), row.encode()),
                None => draft.batch.delete(Family::Hints, key.clone()),
            }
        }
        let marks = !draft.sync && !draft.batch.is_empty() && !self.marked;
        if marks {
            // The first write that nobody syncs says so durably: a start after a power cut then draws fresh epochs.
            draft.batch.put(Family::Meta, keys::UNSYNCED, Bytes::from_static(b"1"));
            draft.sync = true;
        }
        // A batch without changes still syncs when it must: what it repeats may have been written without.
        let written = if draft.batch.is_empty() && !draft.sync {
            Ok(false)
        } else {
            self.write(draft.batch, draft.sync).map(|()| draft.sync)
        };
        self.marked |= marks && written.is_ok();
        if written.is_ok() && !(changes.is_empty() && draft.mended.is_empty()) {
            let mut trees = self.lock_trees();
            for (partition, slot, at, id, digests) in &changes {
                trees.change(*partition, *slot, at, id, *digests);
            }
            draft.mended.iter().for_each(|partition| trees.clear(*partition));
        }
        if written.is_ok() && !(hints.is_empty() && draft.given_up.is_empty()) {
            let mut ledger = self.lock_hints();
            hints.values().for_each(|change| ledger.apply(change));
            draft.given_up.iter().for_each(|partition| ledger.drop_one(*partition));
        }
        if let (Ok(_), Some(at)) = (&written, draft.due) {
            self.lock_due().note(at);
        }
        if written.is_ok() {
            for partition in &draft.let_go {
                self.let_go[usize::from(partition.0)].fetch_add(1, Ordering::SeqCst);
            }
        }
        let result = written.map_err(|e| self.refusal(e));
        for answer in draft.answers {
            answer(result.clone());
        }
    }

    fn write(&self, mut batch: Batch, sync: bool) -> Result<(), StoreError> {
        if planted::is(Bug::LeafApart) {
            let is_leaf = |change: &Change| matches!(change, Change::Put(Family::Leaves, ..));
            let leaves = batch.changes.extract_if(.., |change| is_leaf(change)).collect();
            self.store.write(batch, sync)?;
            return self.store.write(Batch { changes: leaves }, false);
        }
        self.store.write(batch, sync && !planted::is(Bug::AckBeforeSync))
    }

    pub(super) fn lock_hints(&self) -> MutexGuard<'_, Ledger> {
        self.hints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_due(&self) -> MutexGuard<'_, Earliest> {
        self.earliest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the disk has failed. Nothing is written after that.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.borrow().is_some()
    }

    pub(super) fn refusal(&self, error: StoreError) -> Refusal {
        match error {
            StoreError::Corrupt(why) => Refusal::Unavailable(why),
            StoreError::Full(_) => Refusal::DiskFull,
            StoreError::Io(why) => {
                self.failed.send_replace(Some(why.clone()));
                Refusal::Disk(why)
            }
        }
    }
}

/// A leaf as it stands on disk; `None` if these bytes can't be one.
pub fn leaf_row((key, value): &Row) -> Option<(Partition, tree::Slot, ObjectId, Digest)> {
    let (partition, slot, id) = keys::decode_leaf_key(key).ok()?;
    let digest = Digest(u128::from_be_bytes(value.as_ref().try_into().ok()?));
    Some((partition, slot, id, digest))
}

impl Draft {
    /// Puts every changed record and its leaf into the batch.
    fn write_slots(&mut self) -> Vec<TreeChange> {
        let mut changes = Vec::new();
        for (key, slot) in std::mem::take(&mut self.slots) {
            if !slot.changed {
                continue;
            }
            let leaf = keys::leaf_key(slot.partition, slot.tree, &slot.id);
            self.write_due(&slot);
            let after = match slot.record {
                Some(record) => {
                    let bytes = encode(&record);
                    let hash = digest(&bytes);
                    match (slot.dead, record.is_dead()) {
                        (_, true) => self.batch.put(Family::Dead, key.clone(), Bytes::new()),
                        (true, false) => self.batch.delete(Family::Dead, key.clone()),
                        (false, false) => {}
                    }
                    self.batch.put(Family::Records, key, bytes);
                    let value = Bytes::copy_from_slice(&hash.0.to_be_bytes());
                    self.batch.put(Family::Leaves, leaf.clone(), value);
                    Some(hash)
                }
                None => {
                    if slot.dead {
                        self.batch.delete(Family::Dead, key.clone());
                    }
                    self.batch.delete(Family::Records, key);
                    self.batch.delete(Family::Leaves, leaf.clone());
                    None
                }
            };
            changes.push((slot.partition, slot.tree, leaf, slot.id, [slot.stored, after]));
        }
        changes
    }

    /// What the disk holds of a key, unless this batch changes it.
    pub(super) fn unchanged(&self, key: &[u8]) -> Option<Option<Digest>> {
        self.slots.get(key).filter(|slot| !slot.changed).map(|slot| slot.stored)
    }

    pub(super) fn set(&mut self, key: &[u8], record: Option<Arc<Record>>) {
        let slot = self.slots.get_mut(key).expect("slot() has read it in");
        slot.record = record;
        slot.changed = true;
    }

    /// Answers after the batch is written, or at once if there is nothing to write for it.
    fn answer<T: Send + 'static, U: Send + 'static>(
        &mut self,
        reply: Reply<U>,
        outcome: Result<T, Refusal>,
        finish: impl FnOnce(T, bool) -> U + Send + 'static,
    ) {
        match outcome {
            Err(refusal) => {
                let _ = reply.send(Err(refusal));
            }
            Ok(value) => self.answers.push(Box::new(move |written| {
                let _ = reply.send(written.map(|synced| finish(value, synced)));
            })),
        }
    }
}
