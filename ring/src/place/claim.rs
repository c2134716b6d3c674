//! Who owns what: a pure function from the members to every partition's preference list.
//!
//! ```text
//!   tokens   ··A··C·B··A···D··C··B···D··        each node's virtual nodes, in proportion to its weight
//!   slice 7     └─▶ C B A D                     the walk clockwise from its start, each node once
//!   rank 1      C      if C is below its bound among first owners, else B, else …
//!   rank 2      A      B would do, but stands in C's zone
//! ```
//!
//! The lists are filled **rank by rank** and not list by list: first every partition's first owner, then every
//! second. Each rank has a bound of its own on what a node may hold so far (`share.rs`), and so a bucket with n = 1
//! or n = 5 is as balanced as one with n = 3, the first owners (who coordinate) are spread evenly even where all
//! nodes own everything, and any bucket's n is a prefix of one and the same list.
//!
//! A partition that finds everybody full looks for an exchange along other partitions of the same rank (an
//! augmenting path, as in matching). Only where there is none does it exceed a bound, at the node that is least
//! full: distinct nodes and distinct zones are never given up, balance is the one that yields. In 21,000 random
//! clusters that never happened for an n of up to 3, for one in a thousand at n = 5, for one in a hundred at n = 10.

use super::hash;
use super::share;
use crate::ids::{NodeId, Partition, Zone};
use std::collections::{BTreeSet, VecDeque};

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

/// Every partition's preference list: `min(n, members)` owners, then up to [`N_FALLBACKS_MAX`] others in ring order.
///
/// The first `k` of a list stand in as many zones as `k` nodes can, for every `k` up to `n`. No order of `members`
/// makes a difference; a member named twice is a mistake of the caller.
pub fn claim(members: &[Claimant], partitions: u16, n: usize) -> Vec<Vec<NodeId>> {
    assert!(hash::partitions_valid(partitions), "not a ring's count of slices: {partitions}");
    let mut members: Vec<&Claimant> = members.iter().collect();
    members.sort_by_key(|member| member.id);
    assert!(members.windows(2).all(|pair| pair[0].id < pair[1].id), "a member claims once: {members:?}");
    let zones: BTreeSet<&Zone> = members.iter().map(|member| &member.zone).collect();
    let zones: Vec<&Zone> = zones.into_iter().collect();
    let nodes: Vec<(u64, usize)> = members
        .iter()
        .map(|member| {
            let zone = zones.binary_search(&&member.zone).expect("the zones were taken from the members");
            (u64::from(weight(member)), zone)
        })
        .collect();
    let ranks = n.min(members.len());
    let mut draft = Draft {
        zone_of: nodes.iter().map(|node| node.1).collect(),
        zones: zones.len(),
        orders: orders(&members, partitions),
        walks: vec![Vec::with_capacity(ranks + N_FALLBACKS_MAX); usize::from(partitions)],
        held: vec![0; members.len()],
    };
    for bounds in share::bounds(&nodes, zones.len(), u64::from(partitions), ranks) {
        draft.fill_rank(&bounds);
    }
    draft.add_fallbacks();
    draft.walks.iter().map(|walk| walk.iter().map(|&node| members[node].id).collect()).collect()
}

fn weight(member: &Claimant) -> u32 {
    member.weight.clamp(1, WEIGHT_MAX)
}

/// For each partition all nodes, in the order in which a walk clockwise from its start meets them.
pub(super) fn orders<M: std::borrow::Borrow<Claimant>>(members: &[M], partitions: u16) -> Vec<Vec<usize>> {
    let tokens = |member: &M| {
        let member: &Claimant = member.borrow();
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

/// The lists as far as they are filled. Nodes are indices into the sorted members.
struct Draft {
    zone_of: Vec<usize>,
    zones: usize,
    orders: Vec<Vec<usize>>,
    walks: Vec<Vec<usize>>,
    held: Vec<u64>,
}

impl Draft {
    /// Appends one owner to every list.
    fn fill_rank(&mut self, bounds: &[u64]) {
        let mut taken: Vec<Option<usize>> = vec![None; self.walks.len()];
        for (partition, taken) in taken.iter_mut().enumerate() {
            *taken = self.eligible(partition).find(|&node| self.held[node] < bounds[node]);
            if let Some(node) = *taken {
                self.held[node] += 1;
            }
        }
        for partition in 0..taken.len() {
            if taken[partition].is_none() && !self.exchange(partition, bounds, &mut taken) {
                let node = self.least_full(partition, bounds);
                taken[partition] = Some(node);
                self.held[node] += 1;
            }
        }
        for (walk, node) in self.walks.iter_mut().zip(taken) {
            walk.push(node.expect("each partition took, exchanged or exceeded"));
        }
    }

    /// The nodes that may come next in a list, in ring order: new ones, and of new zones while there are any.
    fn eligible(&self, partition: usize) -> impl Iterator<Item = usize> {
        let walk = &self.walks[partition];
        let zones_left = walk.len() < self.zones;
        self.orders[partition].iter().copied().filter(move |&node| {
            let taken = |&other: &usize| match zones_left {
                true => self.zone_of[other] == self.zone_of[node],
                false => other == node,
            };
            !walk.iter().any(taken)
        })
    }

    /// Finds `wanting` a node by having others of this rank give theirs up for another of equal right.
    ///
    /// The search is breadth first and sees each partition once, so it ends after at most as many steps as there are
    /// partitions, and the shortest exchange is taken.
    fn exchange(&mut self, wanting: usize, bounds: &[u64], taken: &mut [Option<usize>]) -> bool {
        let mut asked_by: Vec<Option<usize>> = vec![None; taken.len()];
        let mut asked = vec![false; bounds.len()];
        let mut queue = VecDeque::from([wanting]);
        while let Some(partition) = queue.pop_front() {
            let candidates: Vec<usize> = self.eligible(partition).filter(|&node| !asked[node]).collect();
            if let Some(&free) = candidates.iter().find(|&&node| self.held[node] < bounds[node]) {
                self.held[free] += 1;
                pass_on(free, partition, &asked_by, taken);
                return true;
            }
            for node in candidates {
                asked[node] = true;
                for holder in (0..taken.len()).filter(|&holder| taken[holder] == Some(node)) {
                    asked_by[holder] = Some(partition);
                    queue.push_back(holder);
                }
            }
        }
        false
    }

    fn least_full(&self, partition: usize, bounds: &[u64]) -> usize {
        // By the part of its bound that a node would hold, compared crosswise to stay in integers.
        self.eligible(partition)
            .min_by(|&a, &b| {
                let full = |one: usize, other: usize| (self.held[one] + 1) * bounds[other].max(1);
                full(a, b).cmp(&full(b, a))
            })
            .expect("there are more nodes than ranks filled, and a node of each zone not yet met")
    }

    fn add_fallbacks(&mut self) {
        for (walk, order) in self.walks.iter_mut().zip(&self.orders) {
            let others = order.iter().filter(|node| !walk.contains(node)).take(N_FALLBACKS_MAX);
            let others: Vec<usize> = others.copied().collect();
            walk.extend(others);
        }
    }
}

/// Gives `free` to `partition`, what that held to the partition that asked for it, and so on to the first.
fn pass_on(free: usize, partition: usize, asked_by: &[Option<usize>], taken: &mut [Option<usize>]) {
    let (mut given, mut to) = (Some(free), partition);
    loop {
        given = std::mem::replace(&mut taken[to], given);
        match asked_by[to] {
            Some(asking) => to = asking,
            None => break,
        }
    }
    assert_eq!(given, None, "the partition at the end of an exchange had nothing");
}

#[cfg(test)]
#[path = "claim_tests.rs"]
mod tests;
