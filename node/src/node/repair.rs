//! Repair for the impatient: all owners of a partition are compared now, and made equal.
//!
//! The same questions and the same merge as the exchange that runs all the time, but at the first look: a write on its way
//! costs a fetch then, and nothing else. Whoever is asked finds for each partition an owner to do it. A difference may
//! have to go through two of them (from the second to the first to the third), so an owner goes round until a round
//! finds nothing.

use super::Node;
use super::exchange::{Came, Exchange, Only, Silent};
use crate::limits::{
    AAE_SLOTS_MAX, FORWARD_GRACE, REPAIR_PASSES_MAX, REPAIR_TIMEOUT, REPAIRS_KEPT_MAX, REPAIRS_RUNNING_MAX,
};
use crate::world::World;
use bytes::Bytes;
use rand::RngExt;
use ring::ids::{NodeId, ObjectId, Partition};
use ring::place::position;
use ring::tree::{Slot, slot};
use ring::wire::peer::{Answer, Ask, Message, Refusal};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{MutexGuard, PoisonError};
use tokio::time::timeout;

/// What to repair.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Only this bucket.
    pub bucket: Option<Bytes>,
    /// Only this key of it.
    pub key: Option<Bytes>,
    /// Only this partition.
    pub partition: Option<Partition>,
}

/// How far a repair is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Partitions that it concerns.
    pub partitions: usize,
    /// Of them looked at.
    pub done: usize,
    /// Of them such that not all owners took part.
    pub incomplete: Vec<Partition>,
    /// Keys that differed, counted for each pair of owners.
    pub differences: u64,
    /// Keys that were brought together.
    pub repairs: u64,
    /// Whether it has ended.
    pub ended: bool,
}

/// The repairs that were asked of this node, the youngest last.
#[derive(Debug, Default)]
pub struct Jobs {
    by_id: BTreeMap<u64, Progress>,
    order: VecDeque<u64>,
}

impl Jobs {
    /// How far this one is.
    pub fn get(&self, id: u64) -> Option<&Progress> {
        self.by_id.get(&id)
    }

    fn running(&self) -> usize {
        self.by_id.values().filter(|progress| !progress.ended).count()
    }

    /// Ended ones make room for a new one.
    fn add(&mut self, id: u64, progress: Progress) {
        while self.order.len() >= REPAIRS_KEPT_MAX {
            let ended = |id: &u64| self.by_id.get(id).is_none_or(|progress| progress.ended);
            let Some(at) = self.order.iter().position(ended) else { break };
            let gone = self.order.remove(at).expect("it was found there");
            self.by_id.remove(&gone);
        }
        self.order.push_back(id);
        self.by_id.insert(id, progress);
    }
}

impl<W: World> Node<W> {
    pub(crate) fn lock_repairs(&self) -> MutexGuard<'_, Jobs> {
        self.repairs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a repair, which outlives the request, and answers its number; `None` if too many run already.
    pub(crate) fn begin_repair(&self, scope: Scope) -> Option<u64> {
        let snapshot = self.cluster.snapshot();
        let all = (0..snapshot.view.partitions).map(Partition);
        let partitions: Vec<Partition> = match (&scope.bucket, &scope.key, scope.partition) {
            (Some(bucket), Some(key), _) => {
                let id = ObjectId::new(bucket.clone(), key.clone()).ok()?;
                vec![snapshot.table.partition_of(&id)]
            }
            (_, _, Some(partition)) => vec![partition],
            _ => all.collect(),
        };
        let id: u64 = self.rng.lock().unwrap_or_else(PoisonError::into_inner).random();
        let mut jobs = self.lock_repairs();
        if jobs.running() >= REPAIRS_RUNNING_MAX {
            return None;
        }
        jobs.add(id, Progress { partitions: partitions.len(), ..Progress::default() });
        drop(jobs);
        tokio::spawn(self.clone().run_repair(id, partitions, Only { bucket: scope.bucket, key: scope.key }));
        Some(id)
    }

    async fn run_repair(self, id: u64, partitions: Vec<Partition>, only: Only) {
        for partition in partitions {
            if self.is_draining() {
                break;
            }
            let came = self.repair_somewhere(partition, &only).await;
            let mut jobs = self.lock_repairs();
            let Some(progress) = jobs.by_id.get_mut(&id) else { return };
            progress.done += 1;
            match came {
                Some((came, whole)) => {
                    progress.differences += came.differences;
                    progress.repairs += came.repairs;
                    if !whole {
                        progress.incomplete.push(partition);
                    }
                }
                None => progress.incomplete.push(partition),
            }
        }
        if let Some(progress) = self.lock_repairs().by_id.get_mut(&id) {
            progress.ended = true;
        }
    }

    /// At the first owner that can do it. Owners of a lesser n are the first ones of the list, so whoever stands first among
    /// those that answer shares every tree that two of them share.
    pub(crate) async fn repair_somewhere(&self, partition: Partition, only: &Only) -> Option<(Came, bool)> {
        for owner in self.owners_of_all(partition) {
            if owner == self.id() {
                // Another owner may be able to.
                if !self.may_spread() {
                    continue;
                }
                return Some(self.repair_partition(partition, only).await);
            }
            let ask = Ask::Repair { partition, bucket: only.bucket.clone(), key: only.key.clone() };
            if let Ok(Message { head: Answer::Repaired { differences, repairs, whole }, .. }) =
                self.ask(owner, Message::of(ask), REPAIR_TIMEOUT + FORWARD_GRACE).await
            {
                return Some((Came { differences, repairs }, whole));
            }
        }
        None
    }

    /// Everybody who owns the partition for some bucket, in order of preference; those that are doubted come last.
    fn owners_of_all(&self, partition: Partition) -> Vec<NodeId> {
        let (snapshot, doubted) = (self.cluster.snapshot(), self.cluster.doubted());
        let n = snapshot.ns.all().into_iter().max().unwrap_or_default();
        let mut owners = snapshot.table.owners(partition, usize::from(n)).to_vec();
        owners.sort_by_key(|owner| doubted.contains(owner));
        owners
    }

    /// Another node asks this one to do it.
    pub(crate) async fn answer_repair(
        &self,
        partition: Partition,
        bucket: Option<Bytes>,
        key: Option<Bytes>,
    ) -> Result<Message<Answer>, Refusal> {
        if !self.cluster.snapshot().table.contains(partition) {
            return Err(Refusal::Malformed("there is no such partition".into()));
        }
        let (came, whole) = self.repair_partition(partition, &Only { bucket, key }).await;
        let Came { differences, repairs } = came;
        Ok(Message::of(Answer::Repaired { differences, repairs, whole }))
    }

    /// Compares this node with every other owner of the partition until a round finds nothing. Whether one did.
    async fn repair_partition(&self, partition: Partition, only: &Only) -> (Came, bool) {
        if !self.may_spread() {
            return (Came::default(), false);
        }
        let mut sum = Came::default();
        let rounds = async {
            for _ in 0..REPAIR_PASSES_MAX {
                let mut found = 0;
                let mut whole = true;
                for peer in self.owners_of_all(partition).into_iter().filter(|peer| *peer != self.id()) {
                    match self.repair_with(peer, partition, only).await {
                        Ok(came) => {
                            found += came.differences;
                            sum.differences += came.differences;
                            sum.repairs += came.repairs;
                        }
                        Err(Silent) => whole = false,
                    }
                }
                if found == 0 || !whole {
                    return whole;
                }
            }
            false
        };
        let whole = timeout(REPAIR_TIMEOUT, rounds).await.unwrap_or(false);
        (sum, whole)
    }

    async fn repair_with(&self, peer: NodeId, partition: Partition, only: &Only) -> Result<Came, Silent> {
        let mut exchange = Exchange::new(self, peer);
        let mut sum = Came::default();
        for group in self.shared_with(peer).into_iter().filter(|group| group.partition == partition) {
            let mut slots: Vec<Slot> = exchange.differing_slots(group).await?.into_iter().collect();
            if let (Some(bucket), Some(key)) = (&only.bucket, &only.key) {
                let id = ObjectId::new(bucket.clone(), key.clone()).map_err(|_| Silent)?;
                let its = slot(position(&id));
                slots.retain(|slot| *slot == its);
            }
            for some in slots.chunks(AAE_SLOTS_MAX) {
                let came = exchange.reconcile(group, some, only).await?;
                sum.differences += came.differences;
                sum.repairs += came.repairs;
            }
        }
        Ok(sum)
    }
}
