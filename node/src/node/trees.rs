//! Merkle trees as others ask for them, and what is known of how far replicas agree.
//!
//! An answer holds only between nodes that have the same table and take each bucket to have the same n; otherwise they
//! would compare different sets of keys and "repair" what the other does not own (entry 35 of the catalogue of known
//! failures). So every question names both, and another name is refused.

use super::Node;
use crate::lane::leaf_row;
use crate::limits::{AAE_LEAVES_MAX, AAE_ROOTS_MAX, AAE_SLOTS_MAX};
use crate::store::{Family, Store, keys};
use crate::world::World;
use bytes::Bytes;
use ring::ids::{NodeId, ObjectId, Partition};
use ring::time::{Time, Wall};
use ring::tree::{FANOUT, Forest, Group, Leaf, SLOTS, Slot};
use ring::wire::peer::{Answer, Message, Refusal, TreeAsk};
use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

/// Leaves, and where the next ones are: which of the slots asked for, and after which of its keys.
pub(crate) type LeafPage = (Vec<Leaf>, Option<(u16, Option<ObjectId>)>);

/// Stands for the root of a tree that is being built.
pub(crate) const NOT_BUILT: u128 = u128::MAX;

/// What came of comparing trees since the start.
#[derive(Debug, Default)]
pub struct Aae {
    /// Rounds with another node that reached their end.
    pub exchanges: u64,
    /// Keys that were found to differ.
    pub differences: u64,
    /// Keys that were brought together.
    pub repairs: u64,
    /// Bytes of questions, answers and records.
    pub bytes: u64,
    /// When the last round ended.
    pub last: Option<Wall>,
    /// By peer: when the last round with it ended, how many trees it compared, how many of them differed.
    pub peers: BTreeMap<NodeId, (Wall, usize, usize)>,
    /// Records that were looked at whether they are whole.
    pub scrubbed: u64,
    /// Times that all of them have been.
    pub scrubs: u64,
    /// Of the records, damaged ones that another owner's copy has replaced.
    pub healed: u64,
    /// Leaves that were not those of their records.
    pub mended: u64,
    /// When a tree was last seen to be the same here and at a peer.
    pub same: BTreeMap<(NodeId, Group), Time>,
}

impl<W: World> Node<W> {
    pub(crate) fn lock_trees(&self) -> MutexGuard<'_, Forest> {
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lock_aae(&self) -> MutexGuard<'_, Aae> {
        self.aae.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The trees that this node and another both own.
    pub(crate) fn shared_with(&self, peer: NodeId) -> Vec<Group> {
        let (snapshot, me) = (self.cluster.snapshot(), self.id());
        let all = (0..snapshot.view.partitions).map(Partition);
        all.flat_map(|partition| snapshot.ns.all().into_iter().map(move |n| Group { partition, n }))
            .filter(|group| {
                let owners = snapshot.table.owners(group.partition, usize::from(group.n));
                owners.contains(&me) && owners.contains(&peer)
            })
            .collect()
    }

    /// How long ago the tree was compared whose turn has been longest ago; `None` if there is nobody to compare with.
    pub(crate) fn oldest_unverified(&self) -> Option<Duration> {
        let (snapshot, now) = (self.cluster.snapshot(), self.now());
        let peers = snapshot.table.nodes().iter().filter(|peer| **peer != self.id());
        let shared: Vec<(NodeId, Group)> =
            peers.flat_map(|peer| self.shared_with(*peer).into_iter().map(|group| (*peer, group))).collect();
        let aae = self.lock_aae();
        shared.iter().map(|of| now - aae.same.get(of).copied().unwrap_or_default()).max()
    }

    /// Answers another node's question about trees.
    pub(crate) fn answer_tree(&self, table: u64, ns: u64, what: TreeAsk) -> Result<Message<Answer>, Refusal> {
        let snapshot = self.cluster.snapshot();
        if snapshot.regime.name().digest != table || snapshot.ns.tag() != ns {
            return Err(Refusal::Unavailable("another table".into()));
        }
        let trees = self.lock_trees();
        if *trees.ns() != snapshot.ns {
            return Err(Refusal::Unavailable("the trees are being built".into()));
        }
        let building = || Refusal::Unavailable("the tree is being built".into());
        let hashes = match what {
            TreeAsk::Roots(groups) if groups.len() <= AAE_ROOTS_MAX => {
                let root = |group: &Group| trees.root(*group).unwrap_or(NOT_BUILT);
                groups.iter().map(root).collect()
            }
            TreeAsk::Branches(group) => trees.tree(group).ok_or_else(building)?.branches().to_vec(),
            TreeAsk::Slots(group, branches) if branches.iter().all(|b| usize::from(*b) < FANOUT) => {
                let tree = trees.tree(group).ok_or_else(building)?;
                branches.iter().flat_map(|b| tree.slots(usize::from(*b)).to_vec()).collect()
            }
            TreeAsk::Leaves { group, slots, after } => {
                drop(trees);
                let (leaves, next) = self.leaves_here(group, &slots, after)?;
                return Ok(Message::of(Answer::Leaves { leaves, next }));
            }
            _ => return Err(Refusal::Malformed("too much of a tree was asked for".into())),
        };
        Ok(Message { head: Answer::Hashes, body: hashes_bytes(&hashes) })
    }

    /// The leaves of some slots as they stand on disk.
    pub(crate) fn leaves_here(
        &self,
        group: Group,
        slots: &[Slot],
        after: Option<ObjectId>,
    ) -> Result<LeafPage, Refusal> {
        if slots.len() > AAE_SLOTS_MAX || slots.iter().any(|slot| slot.0 >= SLOTS) {
            return Err(Refusal::Malformed("these slots can't be asked for".into()));
        }
        let ns = self.cluster.snapshot().ns.clone();
        let mut leaves = Vec::new();
        let mut after = after;
        for (at, slot) in slots.iter().enumerate() {
            let (first, end) = keys::leaves_of_slot(group.partition, *slot);
            let start =
                after.take().map_or(first, |id| keys::after(&keys::leaf_key(group.partition, *slot, &id)));
            let rows = self
                .store
                .scan(Family::Leaves, &start, end.as_deref(), AAE_LEAVES_MAX, usize::MAX)
                .map_err(|e| Refusal::Unavailable(e.to_string()))?;
            let page: Vec<Leaf> =
                rows.iter().filter_map(leaf_row).map(|(_, _, id, hash)| (id, hash)).collect();
            let last = page.last().map(|(id, _)| id.clone());
            leaves.extend(page.into_iter().filter(|(id, _)| ns.of(id.bucket()) == group.n));
            if rows.len() == AAE_LEAVES_MAX {
                return Ok((leaves, Some((at as u16, last))));
            }
            if leaves.len() >= AAE_LEAVES_MAX && at + 1 < slots.len() {
                return Ok((leaves, Some((at as u16 + 1, None))));
            }
        }
        Ok((leaves, None))
    }
}

impl<W: World> Node<W> {
    /// All leaves of some slots.
    pub(crate) fn all_leaves_here(&self, group: Group, slots: &[Slot]) -> Result<Vec<Leaf>, Refusal> {
        let mut all: Vec<Leaf> = Vec::new();
        let mut from = Some((0, None));
        while let Some((at, after)) = from {
            let rest = slots.get(usize::from(at)..).unwrap_or_default();
            let (page, next) = self.leaves_here(group, rest, after)?;
            all.extend(page);
            from = next.map(|(further, after)| (at + further, after));
        }
        Ok(all)
    }
}

fn hashes_bytes(hashes: &[u128]) -> Bytes {
    hashes.iter().flat_map(|hash| hash.to_be_bytes()).collect()
}

/// Reads hashes that a peer sent; `None` if they are not as many as were asked for.
pub(crate) fn read_hashes(body: &Bytes, count: usize) -> Option<Vec<u128>> {
    let (hashes, rest) = body.as_chunks::<16>();
    (rest.is_empty() && hashes.len() == count)
        .then(|| hashes.iter().map(|hash| u128::from_be_bytes(*hash)).collect())
}
