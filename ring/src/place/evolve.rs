//! The next lists of owners from the ones before: as balanced as can be, and as little moved as that allows.
//!
//! Each node has a quota of what it may hold: its fair share (`share.rs`) rounded so that all quotas together are just what
//! there is to hold. Of the rounding those profit who held more before: who has an odd partition keeps it. First it is
//! said who owns each partition at the usual n (`sets.rs`), and that is what moves data. Then the lists are filled **rank by
//! rank**, the usual owners first: every partition's first owner, then every second, each rank with quotas of its own. So
//! the first owners (who coordinate) are spread evenly even where all nodes own everything, a bucket with n = 1 or n = 5 is as
//! balanced as one with n = 3, and any bucket's n is a prefix of one and the same list.
//!
//! | whom a partition takes at a rank, in this order | what it moves |
//! | --- | --- |
//! | a node that was among its first owners, as many as it has by now | nothing |
//! | another one that was in its list | nothing for who has a greater n |
//! | the next node clockwise | one copy |
//!
//! each only while its quota lasts. In the first two rows a partition that finds nobody looks for an exchange along others
//! (an augmenting path, as in matching), so as many keep theirs as can. Where quotas and zones can't be had together the quota
//! yields, at the node that is least full: distinct nodes and distinct zones are never given up.

use super::sets::Sets;
use super::share;
use std::collections::VecDeque;

/// The usual n: at this n as little as can be is moved.
const N_USUAL: usize = 3;

/// What the lists are made of. Nodes are places among the members.
pub(super) struct Draft {
    /// Each node's weight and zone.
    nodes: Vec<(u64, usize)>,
    zones: usize,
    /// For each partition all nodes as a walk clockwise meets them.
    orders: Vec<Vec<usize>>,
    /// For each partition its owners before, as far as they are still there.
    before: Vec<Vec<Option<usize>>>,
    /// For each partition its owners at the usual n.
    usual: Vec<Vec<usize>>,
    lists: Vec<Vec<usize>>,
    held: Vec<u64>,
}

/// How dear it is to take a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Cost {
    Kept,
    Near,
}

impl Draft {
    pub(super) fn new(
        nodes: Vec<(u64, usize)>,
        zones: usize,
        orders: Vec<Vec<usize>>,
        before: Vec<Vec<Option<usize>>>,
    ) -> Draft {
        let (lists, held) = (vec![Vec::new(); orders.len()], vec![0; nodes.len()]);
        Draft { nodes, zones, orders, before, usual: Vec::new(), lists, held }
    }

    /// The lists, `ranks` owners each.
    pub(super) fn fill(mut self, ranks: usize) -> Vec<Vec<usize>> {
        let shares = share::shares(&self.nodes, self.zones, self.lists.len() as u64, ranks);
        self.choose_usual(N_USUAL.min(ranks), &shares);
        for (rank, shares) in shares.iter().enumerate() {
            let quotas = self.quotas(rank, shares);
            self.fill_rank(rank, &quotas);
        }
        self.lists
    }

    fn choose_usual(&mut self, size: usize, shares: &[Vec<u64>]) {
        let Some(last) = size.checked_sub(1) else { return };
        let quotas = self.quotas(last, &shares[last]);
        let sets =
            Sets { nodes: &self.nodes, zones: self.zones, size, quotas: &quotas, orders: &self.orders };
        let had = self.before.iter().map(|list| list.iter().take(size).flatten().copied().collect());
        self.usual = sets.make(&had.collect::<Vec<Vec<usize>>>());
    }

    /// The shares of the first `rank + 1` owners, rounded to whole partitions that together are all there are.
    ///
    /// The zones' first, and then the nodes' within each: among the first owners no two stand in one zone, so quotas that are
    /// right in sum and more than there are partitions in one zone can't be had by any layout. To find that out took 9 s at
    /// 1,000 nodes in three zones.
    fn quotas(&self, rank: usize, shares: &[u64]) -> Vec<u64> {
        let slices = self.lists.len() as u64;
        let mut had = vec![0_u64; self.nodes.len()];
        for node in self.before.iter().flat_map(|list| list.iter().take(rank + 1)).flatten() {
            had[*node] += 1;
        }
        let claims: Vec<Claim> = (0..shares.len())
            .map(|node| Claim { share: shares[node], least: self.held[node], most: slices, had: had[node] })
            .collect();
        let most = if rank < self.zones { slices } else { u64::MAX };
        let of_zones: Vec<Claim> = (0..self.zones)
            .map(|zone| {
                let nodes = || (0..shares.len()).filter(|node| self.nodes[*node].1 == zone);
                let sum = |of: fn(&Claim) -> u64| nodes().map(|node| of(&claims[node])).sum();
                Claim {
                    share: sum(|node| node.share),
                    least: sum(Claim::floor),
                    most,
                    had: sum(|node| node.had),
                }
            })
            .collect();
        let all_zones: Vec<usize> = (0..self.zones).collect();
        let mut of_zone = vec![0; self.zones];
        round(&of_zones, &all_zones, slices * (rank as u64 + 1), &mut of_zone);
        let mut quotas = vec![0; shares.len()];
        for (zone, total) in of_zone.into_iter().enumerate() {
            let nodes: Vec<usize> = (0..shares.len()).filter(|node| self.nodes[*node].1 == zone).collect();
            round(&claims, &nodes, total, &mut quotas);
        }
        quotas
    }

    /// Appends one owner to every list.
    fn fill_rank(&mut self, rank: usize, quotas: &[u64]) {
        let mut taken: Vec<Option<usize>> = vec![None; self.lists.len()];
        for cost in [Cost::Kept, Cost::Near] {
            self.take_cheap(rank, cost, quotas, &mut taken);
        }
        for partition in 0..taken.len() {
            if taken[partition].is_none() {
                self.take_any(partition, quotas, &mut taken);
            }
        }
        for (list, node) in self.lists.iter_mut().zip(taken) {
            list.push(node.expect("each partition took, exchanged or exceeded"));
        }
    }

    /// Lets every partition that has nobody yet take somebody who costs no more than this, as many as can.
    fn take_cheap(&mut self, rank: usize, cost: Cost, quotas: &[u64], taken: &mut [Option<usize>]) {
        let cheap: Vec<Vec<usize>> =
            (0..taken.len()).map(|partition| self.cheap(rank, partition, cost)).collect();
        let order: Vec<usize> = (0..taken.len()).filter(|partition| taken[*partition].is_none()).collect();
        // Those whom a newcomer has reached already can't take it a second time.
        for partition in &order {
            let free = cheap[*partition].iter().copied().find(|node| self.held[*node] < quotas[*node]);
            if let Some(node) = free {
                taken[*partition] = Some(node);
                self.held[node] += 1;
            }
        }
        for partition in order {
            if taken[partition].is_none()
                && let Some(exchange) =
                    self.exchange(partition, quotas, taken, |partition| cheap[partition].clone())
            {
                self.carry_out(exchange, taken);
            }
        }
    }

    fn take_any(&mut self, partition: usize, quotas: &[u64], taken: &mut [Option<usize>]) {
        let free = self.eligible(partition).find(|node| self.held[*node] < quotas[*node]);
        if let Some(node) = free {
            taken[partition] = Some(node);
            self.held[node] += 1;
            return;
        }
        let eligible = |partition: usize| self.eligible(partition).collect();
        match self.exchange(partition, quotas, taken, eligible) {
            Some(exchange) => self.carry_out(exchange, taken),
            None => {
                let node = self.least_full(partition, quotas);
                taken[partition] = Some(node);
                self.held[node] += 1;
            }
        }
    }

    /// The nodes that a partition may take at no higher cost, the cheapest first and in their old order.
    fn cheap(&self, rank: usize, partition: usize, cost: Cost) -> Vec<usize> {
        let before = &self.before[partition];
        let many = if cost == Cost::Kept { rank + 1 } else { before.len() };
        let nodes = before.iter().take(many).flatten().copied();
        nodes.filter(|node| self.is_eligible(partition, *node)).collect()
    }

    /// Whether a node may come next in a list: a new one, and of a new zone while there are any.
    fn is_eligible(&self, partition: usize, node: usize) -> bool {
        let list = &self.lists[partition];
        if list.len() < N_USUAL && !self.usual[partition].contains(&node) {
            return false;
        }
        let zones_left = list.len() < self.zones;
        !list.iter().any(|other| match zones_left {
            true => self.nodes[*other].1 == self.nodes[node].1,
            false => *other == node,
        })
    }

    /// The nodes that may come next in a list, in ring order.
    fn eligible(&self, partition: usize) -> impl Iterator<Item = usize> {
        self.orders[partition].iter().copied().filter(move |node| self.is_eligible(partition, *node))
    }

    /// Finds `wanting` a node by having others of this rank give theirs up for another of equal right.
    ///
    /// The search is breadth first and sees each partition once, so it ends after at most as many steps as there are
    /// partitions, and the shortest exchange is taken.
    fn exchange(
        &self,
        wanting: usize,
        quotas: &[u64],
        taken: &[Option<usize>],
        candidates: impl Fn(usize) -> Vec<usize>,
    ) -> Option<Exchange> {
        let mut asked_by: Vec<Option<usize>> = vec![None; taken.len()];
        let mut asked = vec![false; quotas.len()];
        let mut holders: Option<Vec<Vec<usize>>> = None;
        let mut queue = VecDeque::from([wanting]);
        while let Some(partition) = queue.pop_front() {
            let open: Vec<usize> = candidates(partition).into_iter().filter(|node| !asked[*node]).collect();
            if let Some(&free) = open.iter().find(|node| self.held[**node] < quotas[**node]) {
                return Some(Exchange { free, partition, asked_by });
            }
            if open.is_empty() {
                continue;
            }
            let holders = holders.get_or_insert_with(|| holders_of(taken, quotas.len()));
            for node in open {
                asked[node] = true;
                for holder in &holders[node] {
                    asked_by[*holder] = Some(partition);
                    queue.push_back(*holder);
                }
            }
        }
        None
    }

    /// Gives the free node to the last partition, what that held to the one that asked for it, and so on to the first.
    fn carry_out(&mut self, exchange: Exchange, taken: &mut [Option<usize>]) {
        self.held[exchange.free] += 1;
        let (mut given, mut to) = (Some(exchange.free), exchange.partition);
        loop {
            given = std::mem::replace(&mut taken[to], given);
            match exchange.asked_by[to] {
                Some(asking) => to = asking,
                None => break,
            }
        }
        assert_eq!(given, None, "the partition at the end of an exchange had nothing");
    }

    fn least_full(&self, partition: usize, quotas: &[u64]) -> usize {
        // By the part of its quota that a node would hold, compared crosswise to stay in integers.
        self.eligible(partition)
            .min_by(|&a, &b| {
                let full = |one: usize, other: usize| (self.held[one] + 1) * quotas[other].max(1);
                full(a, b).cmp(&full(b, a))
            })
            .expect("there are more nodes than ranks filled, and a node of each zone not yet met")
    }
}

fn holders_of(taken: &[Option<usize>], nodes: usize) -> Vec<Vec<usize>> {
    let mut holders = vec![Vec::new(); nodes];
    for (partition, node) in taken.iter().enumerate() {
        if let Some(node) = node {
            holders[*node].push(partition);
        }
    }
    holders
}

/// What somebody should hold before it is rounded to whole partitions.
struct Claim {
    /// In [`share::SLICE`]s.
    share: u64,
    /// Of whole partitions: what it holds already, what it can hold at most, and what it held before the change.
    least: u64,
    most: u64,
    had: u64,
}

impl Claim {
    fn floor(&self) -> u64 {
        (self.share / share::SLICE).max(self.least)
    }
}

/// Rounds the claims of some so that they are `total` together, as far as that can be: those are rounded up first who had
/// more before, and then who are closest to one more.
fn round(claims: &[Claim], of: &[usize], total: u64, quotas: &mut [u64]) {
    for &one in of {
        quotas[one] = claims[one].floor();
    }
    let left = total.saturating_sub(of.iter().map(|one| quotas[*one]).sum());
    let has_more = |one: &usize| claims[*one].least > claims[*one].share / share::SLICE;
    let mut up: Vec<usize> =
        of.iter().copied().filter(|one| !has_more(one) && quotas[*one] < claims[*one].most).collect();
    up.sort_by_key(|one| {
        let claim = &claims[*one];
        let whole = claim.share.is_multiple_of(share::SLICE);
        (whole, claim.had <= quotas[*one], std::cmp::Reverse(claim.share % share::SLICE), *one)
    });
    for one in up.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
        quotas[one] += 1;
    }
}

/// A way to a free node: who asks whom to give up what.
struct Exchange {
    free: usize,
    /// Who takes it.
    partition: usize,
    asked_by: Vec<Option<usize>>,
}

#[cfg(test)]
#[path = "evolve_tests.rs"]
mod tests;
