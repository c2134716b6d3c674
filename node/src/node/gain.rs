//! How far this node has come with what it takes over and with what it hands on; and what others ask about that.

use super::Node;
use crate::cluster::Snapshot;
use crate::limits::{SIZE_SAMPLE_ROWS, SIZES_TIMEOUT};
use crate::store::{Family, Store, keys};
use crate::world::World;
use futures_util::future::join_all;
use ring::ids::{NodeId, Partition};
use ring::time::Time;
use ring::tree::Group;
use ring::wire::peer::{Answer, Ask, Message, Refusal, Transfers};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{MutexGuard, PoisonError};

/// How far this node has come with the change that is under way.
#[derive(Debug, Default)]
pub struct Gain {
    /// Under which regime.
    pub regime: u64,
    /// When the fetching began.
    pub began: Option<Time>,
    /// What is to be fetched.
    pub wanted: BTreeSet<Partition>,
    /// Of that, what is here.
    pub complete: BTreeSet<Partition>,
    /// Bytes of whole pages that came in.
    pub bytes: u64,
    /// What is in the way.
    pub reason: Option<String>,
    /// What is in the way of handing on what is not owned here.
    pub not_handed_on: Option<String>,
    /// Whether this start has said that it is done. What an earlier one has said holds no more: its disk may have lost what came in.
    pub said: bool,
}

impl Gain {
    /// Another change is another beginning.
    pub fn turn_to(&mut self, regime: u64) {
        if self.regime != regime {
            *self = Gain { regime, ..Gain::default() };
        }
    }

    /// These are to be fetched now.
    pub fn begin(&mut self, wanted: BTreeSet<Partition>, now: Time) {
        self.wanted = wanted;
        self.reason = None;
        self.began.get_or_insert(now);
    }
}

impl<W: World> Node<W> {
    pub(crate) fn lock_gain(&self) -> MutexGuard<'_, Gain> {
        self.gain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far this node has come.
    pub(crate) fn transfers_here(&self) -> Transfers {
        let snapshot = self.cluster.snapshot();
        let name = snapshot.regime.name().digest;
        let acting = snapshot.view.members.get(&self.id()).map(|member| member.acting).unwrap_or_default();
        let gain = self.lock_gain();
        let current = gain.regime == name;
        let wanted: BTreeSet<Partition> = snapshot
            .ns
            .all()
            .into_iter()
            .flat_map(|n| snapshot.regime.gained_by(self.id(), usize::from(n)))
            .collect();
        Transfers {
            regime: name,
            done: acting.regime == name && acting.done,
            moving: current && gain.began.is_some(),
            partitions: wanted.len() as u64,
            complete: if current { gain.complete.iter().copied().collect() } else { Vec::new() },
            bytes: if current { gain.bytes } else { 0 },
            elapsed_ms: gain.began.map_or(0, |began| (self.now() - began).as_millis() as u64),
            reason: gain.reason.clone(),
            surplus: self.surplus(&snapshot).len() as u64,
        }
    }

    /// Partitions of which records are here that this node does not own and is not about to, as its trees have it.
    pub(crate) fn surplus(&self, snapshot: &Snapshot) -> BTreeSet<Partition> {
        let mut surplus = BTreeSet::new();
        if snapshot.table.nodes().is_empty() {
            return surplus;
        }
        for n in snapshot.ns.all() {
            let gained = snapshot.regime.gained_by(self.id(), usize::from(n));
            for partition in (0..snapshot.view.partitions).map(Partition) {
                let owns = snapshot.table.owners(partition, usize::from(n)).contains(&self.id());
                let root = self.lock_trees().root(Group { partition, n });
                if !owns && !gained.contains(&partition) && root.is_some_and(|root| root != 0) {
                    surplus.insert(partition);
                }
            }
        }
        surplus
    }

    /// The same of another node; `None` if it does not say.
    pub(crate) async fn transfers_at(&self, node: NodeId) -> Option<Transfers> {
        if node == self.id() {
            return Some(self.transfers_here());
        }
        match self.ask(node, Message::of(Ask::Transfers), SIZES_TIMEOUT).await {
            Ok(Message { head: Answer::Transfers(told), .. }) => Some(told),
            _ => None,
        }
    }

    /// Keys of each partition here, and the bytes of an average record: the trees count, a few records are looked at.
    pub(crate) fn sizes(&self) -> Result<Vec<(u64, u64)>, Refusal> {
        let partitions = self.cluster.snapshot().view.partitions;
        let mut sizes = Vec::with_capacity(usize::from(partitions));
        for partition in (0..partitions).map(Partition) {
            let keys = self.lock_trees().keys(partition);
            let (first, end) = keys::records_of_partition(partition);
            let bytes_max = 1 << 20;
            let rows = if keys == 0 {
                Vec::new()
            } else {
                self.store
                    .scan(Family::Records, &first, end.as_deref(), SIZE_SAMPLE_ROWS, bytes_max)
                    .map_err(|error| Refusal::Unavailable(error.to_string()))?
            };
            let bytes: usize = rows.iter().map(|(_, record)| record.len()).sum();
            sizes.push((keys, bytes.checked_div(rows.len()).unwrap_or(0) as u64));
        }
        Ok(sizes)
    }

    /// About how many bytes each partition has, by the member that holds most of it.
    pub(crate) async fn bytes_of_partitions(&self) -> BTreeMap<Partition, u64> {
        let members: Vec<NodeId> = self.cluster.snapshot().table.nodes().iter().copied().collect();
        let asked = join_all(members.into_iter().map(|node| async move {
            if node == self.id() {
                return self.sizes().ok();
            }
            match self.ask(node, Message::of(Ask::Sizes), SIZES_TIMEOUT).await {
                Ok(Message { head: Answer::Sizes(sizes), .. }) => Some(sizes),
                _ => None,
            }
        }));
        let mut most: BTreeMap<Partition, u64> = BTreeMap::new();
        for sizes in asked.await.into_iter().flatten() {
            for (partition, (keys, bytes)) in (0..).map(Partition).zip(sizes) {
                let entry = most.entry(partition).or_default();
                *entry = (*entry).max(keys.saturating_mul(bytes));
            }
        }
        most
    }
}
