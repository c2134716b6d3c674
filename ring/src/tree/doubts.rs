//! A difference is believed at the second look.
//!
//! A write that has reached one replica and is on its way to the other makes their trees differ for a moment. Whoever
//! repaired that would do the replication's work a second time, at every write. So a slot must differ at two looks that
//! are some time apart, and at every look between them: what was seen equal once is beyond doubt again.

use super::{Group, Slot};
use crate::ids::NodeId;
use crate::time::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Since when which slots have differed, by peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doubts {
    since: BTreeMap<(NodeId, Group), BTreeMap<Slot, Time>>,
}

impl Doubts {
    /// Notes which slots of a tree differ from a peer's now. Answers those that have for `apart` and more: they are due.
    pub fn look(
        &mut self,
        peer: NodeId,
        group: Group,
        differ: &BTreeSet<Slot>,
        now: Time,
        apart: Duration,
    ) -> BTreeSet<Slot> {
        if differ.is_empty() {
            self.since.remove(&(peer, group));
            return BTreeSet::new();
        }
        let since = self.since.entry((peer, group)).or_default();
        since.retain(|slot, _| differ.contains(slot));
        for slot in differ {
            since.entry(*slot).or_insert(now);
        }
        since.iter().filter(|(_, first)| now - **first >= apart).map(|(slot, _)| *slot).collect()
    }

    /// These slots were repaired: they are looked at twice again before anything more is done to them.
    pub fn settle(&mut self, peer: NodeId, group: Group, slots: &BTreeSet<Slot>) {
        let Some(since) = self.since.get_mut(&(peer, group)) else { return };
        since.retain(|slot, _| !slots.contains(slot));
        if since.is_empty() {
            self.since.remove(&(peer, group));
        }
    }

    /// Forgets every peer that is not one of these.
    pub fn keep(&mut self, peers: &BTreeSet<NodeId>) {
        self.since.retain(|(peer, _), _| peers.contains(peer));
    }

    /// How many trees are in doubt against this peer.
    pub fn trees(&self, peer: NodeId) -> usize {
        self.since.keys().filter(|(of, _)| *of == peer).count()
    }
}
