//! The table: who owns each partition, under a name that two nodes can compare.
//!
//! A [`TableName`] is a counter and a digest. The counter comes from the membership view and only grows, so of two
//! names the greater is the newer; the digest is taken over the content, so equal digests are equal tables, whatever
//! the counters say (a restart raises the counter and moves nothing), and two nodes that computed different tables
//! from what they took for one view find out at once instead of losing writes in silence.
//!
//! The lists of all partitions stand in one flat vector, all of one length: a lookup is a multiplication and a slice.

use super::claim::{N_FALLBACKS_MAX, orders};
use super::layout::Layout;
use super::{hash, preflist};
use crate::ids::{NodeId, ObjectId, Partition};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use xxhash_rust::xxh3::xxh3_64;

/// The greatest n that a bucket can have.
pub const N_MAX: usize = crate::bucket::N_MAX as usize;

/// Which table: the greater counter is the newer, the same digest is the same table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct TableName {
    /// Grows with every change of the view that the table was computed from.
    pub counter: u64,
    /// A hash of the table's content.
    pub digest: u64,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.counter, self.digest)
    }
}

/// Every partition's preference list, computed from the members by each node alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    name: TableName,
    partitions: u16,
    n_max: usize,
    nodes: BTreeSet<NodeId>,
    /// The lists one after the other, each `walk_len` long.
    walks: Vec<NodeId>,
    walk_len: usize,
}

impl Table {
    /// The table of a layout: its owners, and behind them others in the order of the ring.
    pub fn of(layout: &Layout, counter: u64) -> Table {
        let members = layout.members();
        let walk_len = members.len().min(N_MAX + N_FALLBACKS_MAX);
        let mut walks = Vec::with_capacity(usize::from(layout.partitions()) * walk_len);
        for (number, order) in (0..).zip(orders(members, layout.partitions())) {
            let owners: Vec<usize> =
                layout.list(Partition(number)).iter().map(|at| usize::from(*at)).collect();
            let others = order.iter().copied().filter(|node| !owners.contains(node)).take(N_FALLBACKS_MAX);
            let walk: Vec<NodeId> = owners.iter().copied().chain(others).map(|at| members[at].id).collect();
            assert_eq!(walk.len(), walk_len, "all lists of a table are of one length");
            preflist::assert_distinct(&walk);
            walks.extend(walk);
        }
        let name = TableName { counter, digest: digest(layout.partitions(), N_MAX, &walks) };
        let nodes = members.iter().map(|member| member.id).collect();
        Table { name, partitions: layout.partitions(), n_max: N_MAX, nodes, walks, walk_len }
    }

    /// What to call it in every request between nodes.
    pub fn name(&self) -> TableName {
        self.name
    }

    /// How many slices the ring has.
    pub fn partitions(&self) -> u16 {
        self.partitions
    }

    /// Whether there is such a partition; to be asked of every number that came from outside.
    pub fn contains(&self, partition: Partition) -> bool {
        partition.0 < self.partitions
    }

    /// The nodes that the table was computed from.
    pub fn nodes(&self) -> &BTreeSet<NodeId> {
        &self.nodes
    }

    /// The partition that an object belongs to.
    pub fn partition_of(&self, id: &ObjectId) -> Partition {
        hash::partition(hash::position(id), self.partitions)
    }

    /// The owners of a partition in a bucket of `n`, the preferred coordinator first; all nodes where there are
    /// fewer than `n`.
    pub fn owners(&self, partition: Partition, n: usize) -> &[NodeId] {
        assert!(n <= self.n_max, "the table was made for an n of up to {}, not {n}", self.n_max);
        preflist::owners(self.walk(partition), n)
    }

    /// Who stands in for an owner, in the order in which to ask.
    pub fn fallbacks(&self, partition: Partition, n: usize) -> &[NodeId] {
        preflist::fallbacks(self.walk(partition), n)
    }

    /// The partitions that a node owns in a bucket of `n`.
    pub fn owned_by(&self, node: NodeId, n: usize) -> impl Iterator<Item = Partition> {
        (0..self.partitions)
            .map(Partition)
            .filter(move |&partition| self.owners(partition, n).contains(&node))
    }

    fn walk(&self, partition: Partition) -> &[NodeId] {
        assert!(self.contains(partition), "{partition:?} is none of {} slices", self.partitions);
        let start = usize::from(partition.0) * self.walk_len;
        &self.walks[start..start + self.walk_len]
    }
}

fn digest(partitions: u16, n_max: usize, walks: &[NodeId]) -> u64 {
    let mut bytes = Vec::with_capacity(4 + walks.len() * 16);
    bytes.extend(partitions.to_be_bytes());
    bytes.extend(u16::try_from(n_max).expect("n_max is at most 16").to_be_bytes());
    for node in walks {
        bytes.extend(node.0.to_be_bytes());
    }
    xxh3_64(&bytes)
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
