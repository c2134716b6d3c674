//! Merkle trees of partitions: what two replicas compare to find the few keys that differ among many.
//!
//! ```text
//!   root                      one hash        equal: nothing differs
//!   branches                  32 hashes       which of them differ …
//!   slots                     1,024 hashes    … which slots of those …
//!   keys of a slot            key, digest     … and which keys of those
//! ```
//!
//! A slot is the XOR of its leaves, a branch that of its slots, the root that of its branches. So a write changes three
//! numbers, in any order, and a tree needs no rebuilding as it grows; a hash of hashes would need its slot read again at
//! each write. The hashes (xxh3-128) keep accidents apart and no adversary, who would have to be a peer already.
//!
//! Buckets with another n have other owners, so each n has trees of its own ([`Forest`]). That a difference is believed
//! only at the second look is the business of [`Doubts`].

mod doubts;
mod forest;

pub use doubts::Doubts;
pub use forest::{Forest, Group, Ns};

use crate::ids::{ObjectId, Position};
use crate::wire::record::Digest;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use xxhash_rust::xxh3::xxh3_128;

/// Slots of a tree. A partition of 100,000 keys has a hundred in each: some 10 KiB to list for one difference.
pub const SLOTS: u16 = 1024;
/// Slots under one branch, and branches under the root.
pub const FANOUT: usize = 32;

/// A slot of a tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, serde::Serialize, serde::Deserialize)]
pub struct Slot(pub u16);

/// The slot of an object: the low bits of its position, for the high ones are the partition. A promise to the disk.
pub fn slot(position: Position) -> Slot {
    Slot((position.0 % u64::from(SLOTS)) as u16)
}

/// What a record adds to its slot.
pub fn leaf(id: &ObjectId, digest: Digest) -> u128 {
    let mut bytes = Vec::with_capacity(18 + id.bucket().len() + id.key().len());
    bytes.extend_from_slice(&digest.0.to_be_bytes());
    bytes.extend_from_slice(&(id.bucket().len() as u16).to_be_bytes());
    bytes.extend_from_slice(id.bucket());
    bytes.extend_from_slice(id.key());
    xxh3_128(&bytes)
}

/// The hashes of one partition in one n.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tree {
    root: u128,
    branches: [u128; FANOUT],
    slots: Box<[u128]>,
}

impl Default for Tree {
    fn default() -> Self {
        Tree { root: 0, branches: [0; FANOUT], slots: vec![0; usize::from(SLOTS)].into() }
    }
}

impl Tree {
    /// Adds a leaf, or takes it away again.
    pub fn toggle(&mut self, slot: Slot, leaf: u128) {
        let at = usize::from(slot.0);
        self.slots[at] ^= leaf;
        self.branches[at / FANOUT] ^= leaf;
        self.root ^= leaf;
    }

    /// All of it in one number.
    pub fn root(&self) -> u128 {
        self.root
    }

    /// The level below.
    pub fn branches(&self) -> &[u128] {
        &self.branches
    }

    /// One slot.
    pub fn slot(&self, slot: Slot) -> u128 {
        self.slots[usize::from(slot.0)]
    }

    /// The slots of one branch.
    pub fn slots(&self, branch: usize) -> &[u128] {
        &self.slots[branch * FANOUT..(branch + 1) * FANOUT]
    }
}

/// Where two levels differ. Of two of unlike length everything does.
pub fn differing(mine: &[u128], theirs: &[u128]) -> Vec<usize> {
    if mine.len() != theirs.len() {
        return (0..mine.len()).collect();
    }
    (0..mine.len()).filter(|at| mine[*at] != theirs[*at]).collect()
}

/// A key of a slot, with the digest of its record.
pub type Leaf = (ObjectId, Digest);

/// A key that two replicas have unlike records of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unlike {
    /// The key.
    pub id: ObjectId,
    /// The digest here.
    pub mine: Option<Digest>,
    /// The digest there.
    pub theirs: Option<Digest>,
}

/// The keys that two lists of leaves, each in the order of its keys, do not agree about.
pub fn unlike(mine: &[Leaf], theirs: &[Leaf]) -> Vec<Unlike> {
    let (mut left, mut right) = (mine.iter().peekable(), theirs.iter().peekable());
    let mut out = Vec::new();
    loop {
        let order = match (left.peek(), right.peek()) {
            (Some(l), Some(r)) => l.0.cmp(&r.0),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return out,
        };
        let l = if order == Ordering::Greater { None } else { left.next() };
        let r = if order == Ordering::Less { None } else { right.next() };
        let (mine, theirs) = (l.map(|l| l.1), r.map(|r| r.1));
        if mine != theirs {
            let (id, _) = l.or(r).expect("one of the two is there");
            out.push(Unlike { id: id.clone(), mine, theirs });
        }
    }
}

/// The slots that hold these numbers within a branch.
pub fn slots_of(branch: usize, within: impl IntoIterator<Item = usize>) -> BTreeSet<Slot> {
    within.into_iter().map(|at| Slot((branch * FANOUT + at) as u16)).collect()
}

#[cfg(test)]
mod tests;
