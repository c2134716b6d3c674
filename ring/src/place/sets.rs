//! Which nodes own a partition together at the usual n, before it is said in which order.
//!
//! Whoever decides first who is first owner, and then who is second, has no say left in who drops out in the end, and in a
//! large cluster moves half as much again as he must. So the sets come first. Each keeps whom it had; a node above its quota
//! gives a partition to one below, and if there is none who may take one of its partitions directly, by way of others: the
//! cheapest way, where a step costs a copy if the giver had the partition before, and nothing if it was to get it just now.

use std::collections::{BTreeSet, VecDeque};

/// The partitions that each node has.
type Held = Vec<BTreeSet<usize>>;

/// The sets while they are made. Nodes are places among the members.
pub(super) struct Sets<'a> {
    /// Each node's weight and zone.
    pub(super) nodes: &'a [(u64, usize)],
    pub(super) zones: usize,
    /// How many owners a set has.
    pub(super) size: usize,
    /// What each node may hold.
    pub(super) quotas: &'a [u64],
    /// For each partition all nodes as a walk clockwise meets them.
    pub(super) orders: &'a [Vec<usize>],
}

/// A way on which a partition changes hands: who gives it, or nobody if it lacked an owner, and who takes it.
struct Way {
    steps: Vec<(Option<usize>, usize, usize)>,
}

impl Sets<'_> {
    /// Fills and balances the sets, beginning with whom each had.
    pub(super) fn make(&self, had: &[Vec<usize>]) -> Vec<Vec<usize>> {
        let mut sets = had.to_vec();
        for set in &mut sets {
            self.make_room(set);
        }
        let mut held: Held = vec![BTreeSet::new(); self.nodes.len()];
        for (partition, set) in sets.iter().enumerate() {
            for node in set {
                held[*node].insert(partition);
            }
        }
        for missing in (0..self.size).rev() {
            for partition in 0..sets.len() {
                if sets[partition].len() + missing < self.size {
                    self.fill(partition, had, &mut sets, &mut held);
                }
            }
        }
        for node in 0..held.len() {
            while count(&held, node) > self.quotas[node]
                && let Some(way) = self.way(Some(node), None, had, &sets, &held)
            {
                carry_out(&way, &mut sets, &mut held);
            }
        }
        sets
    }

    /// Lets those go who stand in one zone with others where there would be room for more zones.
    fn make_room(&self, set: &mut Vec<usize>) {
        while !self.may_be(set) {
            let doubled = |at: &usize| {
                let zone = self.nodes[set[*at]].1;
                set.iter().filter(|node| self.nodes[**node].1 == zone).count() > 1
            };
            let last = (0..set.len()).rev().find(doubled).expect("a set with too few zones has one twice");
            set.remove(last);
        }
    }

    /// Whether a set can still come to stand in as many zones as there are.
    fn may_be(&self, set: &[usize]) -> bool {
        let mut zones: Vec<usize> = set.iter().map(|node| self.nodes[*node].1).collect();
        zones.sort_unstable();
        zones.dedup();
        set.len() <= self.size && zones.len() + (self.size - set.len()) >= self.size.min(self.zones)
    }

    /// Whether a set may take a node, in another's place or beside all that it has.
    fn may_take(&self, set: &[usize], instead_of: Option<usize>, node: usize) -> bool {
        if set.contains(&node) {
            return false;
        }
        let mut after: Vec<usize> = set.iter().copied().filter(|other| Some(*other) != instead_of).collect();
        after.push(node);
        self.may_be(&after)
    }

    /// Gives a partition one owner more.
    fn fill(&self, partition: usize, had: &[Vec<usize>], sets: &mut [Vec<usize>], held: &mut Held) {
        let able = |node: &&usize| self.may_take(&sets[partition], None, **node);
        let free =
            self.orders[partition].iter().filter(able).find(|node| count(held, **node) < self.quotas[**node]);
        if let Some(node) = free.copied() {
            return carry_out(&Way { steps: vec![(None, partition, node)] }, sets, held);
        }
        if let Some(way) = self.way(None, Some(partition), had, sets, held) {
            return carry_out(&way, sets, held);
        }
        // By the part of its quota that a node would hold, compared crosswise to stay in integers.
        let full = |one: usize, other: usize| (count(held, one) + 1) * self.quotas[other].max(1);
        let least = self.orders[partition].iter().copied().filter(|node| able(&node));
        let least = least.min_by(|a, b| full(*a, *b).cmp(&full(*b, *a)));
        let node = least.expect("there are more nodes than a set has, and a node of each zone");
        carry_out(&Way { steps: vec![(None, partition, node)] }, sets, held);
    }

    /// The cheapest way from a node that has too much, or from a partition that lacks an owner, to a node below its quota.
    fn way(
        &self,
        from: Option<usize>,
        partition: Option<usize>,
        had: &[Vec<usize>],
        sets: &[Vec<usize>],
        held: &Held,
    ) -> Option<Way> {
        // By whom a node was reached: at which cost, who gives, and which partition.
        let mut reached: Vec<Option<(u32, Option<usize>, usize)>> = vec![None; held.len()];
        let mut done = vec![false; held.len()];
        let mut queue: VecDeque<(u32, Option<usize>)> = VecDeque::from([(0, from)]);
        while let Some((cost, giver)) = queue.pop_front() {
            if let Some(node) = giver {
                if std::mem::replace(&mut done[node], true) {
                    continue;
                }
                if Some(node) != from && count(held, node) < self.quotas[node] {
                    return Some(trace(&reached, node));
                }
            }
            let partitions = match giver {
                Some(node) => held[node].iter().copied().collect(),
                None => vec![partition.expect("somebody gives, or a partition lacks")],
            };
            for at in partitions {
                let step = u32::from(giver.is_some_and(|node| had[at].contains(&node)));
                for &node in &self.orders[at] {
                    let dearer = reached[node].is_some_and(|(before, ..)| before <= cost + step);
                    if done[node] || dearer || !self.may_take(&sets[at], giver, node) {
                        continue;
                    }
                    reached[node] = Some((cost + step, giver, at));
                    // Nothing is cheaper than one step, or than one that costs nothing.
                    if (step == 0 || giver == from) && count(held, node) < self.quotas[node] {
                        return Some(trace(&reached, node));
                    }
                    match step {
                        0 => queue.push_front((cost, Some(node))),
                        _ => queue.push_back((cost + step, Some(node))),
                    }
                }
            }
        }
        None
    }
}

fn count(held: &Held, node: usize) -> u64 {
    held[node].len() as u64
}

fn trace(reached: &[Option<(u32, Option<usize>, usize)>], to: usize) -> Way {
    let (mut steps, mut taker) = (Vec::new(), to);
    while let Some((_, giver, partition)) = reached[taker] {
        steps.push((giver, partition, taker));
        let Some(giver) = giver else { break };
        taker = giver;
    }
    Way { steps }
}

fn carry_out(way: &Way, sets: &mut [Vec<usize>], held: &mut Held) {
    for (giver, partition, taker) in &way.steps {
        if let Some(giver) = giver {
            sets[*partition].retain(|node| node != giver);
            held[*giver].remove(partition);
        }
        sets[*partition].push(*taker);
        held[*taker].insert(*partition);
    }
}
