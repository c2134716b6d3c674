//! One partition's preference list: a walk of distinct nodes of which the first n are owners.
//!
//! A bucket's n is not the table's: one walk serves them all, and a list is the walk cut at a bucket's n. That an
//! object's owners under n = 2 are the first two of its owners under n = 3 is what makes raising a bucket's n a
//! matter of copying, and nothing else.

use super::claim::N_FALLBACKS_MAX;
use crate::ids::NodeId;
use std::collections::BTreeSet;

/// The owners: the first `n`, or all where there are fewer nodes.
pub(super) fn owners(walk: &[NodeId], n: usize) -> &[NodeId] {
    &walk[..n.min(walk.len())]
}

/// Those who stand in for owners, in the order in which they are asked.
pub(super) fn fallbacks(walk: &[NodeId], n: usize) -> &[NodeId] {
    let others = &walk[n.min(walk.len())..];
    &others[..others.len().min(N_FALLBACKS_MAX)]
}

/// Panics unless every node of the walk is there once: a replica counted twice would make quorums of one.
pub(super) fn assert_distinct(walk: &[NodeId]) {
    let distinct: BTreeSet<&NodeId> = walk.iter().collect();
    assert_eq!(distinct.len(), walk.len(), "a preference list names a node once: {walk:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(nodes: u128) -> Vec<NodeId> {
        (0..nodes).map(NodeId).collect()
    }

    #[test]
    fn owners_come_first_and_fallbacks_follow() {
        let walk = walk(5);
        assert_eq!(owners(&walk, 3), &walk[..3]);
        assert_eq!(fallbacks(&walk, 3), &walk[3..]);
    }

    #[test]
    fn a_small_cluster_has_owners_only() {
        let walk = walk(2);
        assert_eq!(owners(&walk, 3), &walk[..]);
        assert!(fallbacks(&walk, 3).is_empty());
    }

    #[test]
    fn fallbacks_are_bounded() {
        assert_eq!(fallbacks(&walk(32), 3).len(), N_FALLBACKS_MAX);
    }

    #[test]
    #[should_panic(expected = "names a node once")]
    fn a_node_twice_is_a_bug() {
        assert_distinct(&[NodeId(1), NodeId(2), NodeId(1)]);
    }
}
