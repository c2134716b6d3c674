//! One step of the lane: read, decide, one batch, answers.

use super::Gaps;
use super::draft::{Draft, Slot};
use super::earliest::{Due, Earliest};
use super::hints::Wanted;
use super::job::{Job, Taken};
use super::ledger::{Hints, Ledger};
use super::room::Crowded;
use crate::cluster::Cluster;
use crate::store::{Batch, Change, Family, Store, StoreError, keys};
use bytes::Bytes;
use ring::causal::Epochs;
use ring::causal::epochs::lease_of;
use ring::ids::{NodeId, ObjectId};
use ring::place::{partition, position};
use ring::planted::{self, Bug};
use ring::record::write::{Write, take};
use ring::record::{Me, Record, receive};
use ring::time::Wall;
use ring::tree::{self, Forest};
use ring::wire::peer::Refusal;
use ring::wire::record::{Digest, decode, digest};
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
                // A stand-in syncs its hint in any case: that one is another rule.
                let early = planted::is(Bug::SendBeforeSync) && hint_for.is_none();
                draft.sync |= sync && !early;
                draft.answer(reply, taken, move |taken, synced| Taken { durable: synced || early, ..taken });
            }
            Job::Merge { id, record, hint_for, sync, now, reply } => {
                let is_hint = hint_for.is_some();
                let merged = self.merge(&id, &record, hint_for, now, draft);
                let unsynced = match is_hint {
                    true => planted::is(Bug::HintUnsynced),
                    false => planted::is(Bug::RecordUnsynced) && sync,
                };
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
            Job::GiveUpHint { id, owner, since, reply } => {
                let gone = self.give_up(&id, owner, since, draft);
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
            Job::Jump { remembered, reply } => {
                let jumped = self.jump(remembered);
                draft.answer(reply, jumped, |lease, _| lease);
            }
            Job::Forsake { reply } => {
                let forsaken = self.forsake();
                draft.answer(reply, forsaken, |(), _| true);
            }
            Job::Asked { still, reply } => {
                let kept = if still.holds() { self.keep_asked().map(|()| true) } else { Ok(false) };
                draft.answer(reply, kept, |kept, _| kept);
            }
            Job::Raise { still, reply } => {
                let raised = if still.holds() { self.raise().map(Some) } else { Ok(None) };
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
            Job::CheckTree { group, slots, reply } => {
                let _ = reply.send(self.check_tree(group, &slots));
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
        let mut me = Me { node: self.node, epochs: &mut self.epochs };
        let done = take(local.as_deref(), write, now, &mut me)?;
        let record = Arc::new(done.record);
        if let Some(owner) = hint_for {
            // Where there is no room nothing is done, and nobody has seen the dot.
            self.keep_hint(id, Wanted { owner, counted: true, now }, record.bytes(), draft)?;
        }
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
        if let Some((epoch, _)) = incoming.clock.newest_of(self.node)
            && self.epochs.is_foreign(epoch)
        {
            self.stray.fetch_max(lease_of(epoch), Ordering::Relaxed);
        }
        let mut me = Me { node: self.node, epochs: &mut self.epochs };
        let merged = receive(local.as_deref(), &incoming, &mut me);
        if let Some(owner) = hint_for {
            let bytes = merged.as_ref().or(local.as_deref()).map_or(0, Record::bytes);
            self.keep_hint(id, Wanted { owner, counted: true, now }, bytes, draft)?;
        }
        match merged {
            Some(merged) => draft.set(&key, Some(Arc::new(merged))),
            None => self.hash_again(&key, draft)?,
        }
        Ok(())
    }

    pub(super) fn lock_trees(&self) -> MutexGuard<'_, Forest> {
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
