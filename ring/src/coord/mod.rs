//! Coordination: one request against N replicas, as machines that are told what happened and say what to do.
//!
//! ```text
//!   driver (node)              machine (here)
//!   start ───────────────────► Put::start      → Effect::StoreHere
//!   own record synced ───────► on(StoredHere)  → Effect::Store { to } …
//!   an answer, a failure ────► on(Stored | Failed) → Effect::Reply, once
//!   later answers ───────────► on(..)          → hints, repairs
//! ```
//!
//! A machine neither waits nor sends. "Enough" includes "no longer possible": a hopeless request answers at once and not
//! at its time-out. Liveness opinions steer whom to ask first and decide nothing.

pub mod get;
pub mod put;
pub mod quorum;

pub use quorum::{Outcome, ReadQuorum, WriteQuorum};

use crate::ids::NodeId;

/// Whom a request concerns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The node that runs the machine.
    pub me: NodeId,
    /// The owners of the key, in order of preference: distinct, at least one.
    pub owners: Vec<NodeId>,
    /// Who stands in for them, in order: distinct, none an owner.
    pub fallbacks: Vec<NodeId>,
    /// The owners in each further table while partitions move: a write must reach its quorum among each of these as well.
    pub also: Vec<Vec<NodeId>>,
    /// Those of them who are no owners: they are sent every write, and are never read.
    pub pending: Vec<NodeId>,
    /// Who is believed to be unreachable. A belief, not a verdict.
    pub doubted: Vec<NodeId>,
    /// Who has owed an answer for a while, and is better asked after others that know as much. Less than a belief.
    pub late: Vec<NodeId>,
}

impl Plan {
    fn assert_whole(&self) {
        assert!(!self.owners.is_empty(), "somebody owns every key");
        let mut all: Vec<NodeId> =
            self.owners.iter().chain(&self.fallbacks).chain(&self.pending).copied().collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count, "owners, fallbacks and pending nodes are distinct");
        let mut pending: Vec<NodeId> =
            self.also.iter().flatten().copied().filter(|node| !self.owns(*node)).collect();
        pending.sort_unstable();
        pending.dedup();
        let mut named = self.pending.clone();
        named.sort_unstable();
        assert_eq!(pending, named, "who is pending owns the key in a further table");
    }

    /// Every set of owners among which a write must reach its quorum.
    fn sets(&self) -> impl Iterator<Item = &[NodeId]> {
        std::iter::once(self.owners.as_slice()).chain(self.also.iter().map(Vec::as_slice))
    }

    /// Everybody who is sent every write.
    fn concerned(&self) -> Vec<NodeId> {
        self.owners.iter().chain(&self.pending).copied().collect()
    }

    /// Whether the node owns the key in any table.
    pub fn concerns(&self, node: NodeId) -> bool {
        self.owns(node) || self.pending.contains(&node)
    }

    fn doubts(&self, node: NodeId) -> bool {
        self.doubted.contains(&node)
    }

    fn is_late(&self, node: NodeId) -> bool {
        self.late.contains(&node)
    }

    fn owns(&self, node: NodeId) -> bool {
        self.owners.contains(&node)
    }
}
