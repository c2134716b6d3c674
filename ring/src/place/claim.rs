//! Who claims a part of the ring, and in which order a walk clockwise meets the claimants.
//!
//! ```text
//!   tokens   ··A··C·B··A···D··C··B···D··        each node's virtual nodes, in proportion to its weight
//!   slice 7     └─▶ C B A D                     the walk clockwise from its start, each node once
//! ```
//!
//! The walk proposes, and quotas dispose (`evolve.rs`): with 256 slices and a handful of nodes the textbook's "next nodes
//! clockwise" leaves some with twice the load of others. Who stands in for owners is taken from the walk as it is.

use super::hash;
use crate::ids::{NodeId, Partition, Zone};

/// How many nodes behind its owners a partition names to stand in.
pub const N_FALLBACKS_MAX: usize = 16;
/// The greatest weight that counts. 64 × 32 tokens × 1,024 nodes × 8 bytes = 16 MiB while a table is computed.
pub const WEIGHT_MAX: u32 = 64;
/// The virtual nodes that a node brings for each unit of its weight.
const TOKENS_PER_WEIGHT: u32 = 32;

/// A node that wants its part of the ring.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Claimant {
    /// Who it is.
    pub id: NodeId,
    /// Its failure domain.
    pub zone: Zone,
    /// How much of the ring it takes next to the others; taken as 1 to [`WEIGHT_MAX`].
    pub weight: u32,
}

pub(super) fn weight(member: &Claimant) -> u32 {
    member.weight.clamp(1, WEIGHT_MAX)
}

/// For each partition all nodes, in the order in which a walk clockwise from its start meets them.
pub(super) fn orders(members: &[Claimant], partitions: u16) -> Vec<Vec<usize>> {
    let tokens = |member: &Claimant| {
        let count = weight(member) * TOKENS_PER_WEIGHT;
        let mut tokens: Vec<u64> = (0..count).map(|index| hash::token(member.id, index).0).collect();
        tokens.sort_unstable();
        tokens
    };
    let tokens: Vec<Vec<u64>> = members.iter().map(tokens).collect();
    // Each node's next token is looked up, instead of walking over all tokens: beside a few heavy nodes a light one
    // may be a million tokens away.
    let order = |partition| {
        let start = hash::start(Partition(partition), partitions).0;
        let distance = |tokens: &Vec<u64>| {
            let next = tokens.partition_point(|&token| token < start);
            tokens.get(next).unwrap_or(&tokens[0]).wrapping_sub(start)
        };
        let mut order: Vec<(u64, usize)> = tokens.iter().map(distance).zip(0..).collect();
        order.sort_unstable();
        order.into_iter().map(|(_, node)| node).collect()
    };
    (0..partitions).map(order).collect()
}
