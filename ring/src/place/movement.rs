//! What a change of the layout moves, against the least that any could: the measure of `evolve.rs`, for its tests and figures.
//!
//! The least is a lower bound, and not what a search over all layouts has found: there are too many. So a ratio of 1.2 says that
//! no layout of this balance moves less than five sixths of it.

use super::{Layout, SHARE_UNIT};
use crate::ids::{NodeId, Partition, Zone};
use std::collections::{BTreeMap, BTreeSet};

/// The copies that a change moves at n = 3, and the least that it could: what those must gain who hold less than their
/// share rounded down, what those must lose who hold more than theirs rounded up, or what zones force, whichever is most.
pub fn movement(before: &Layout, after: &Layout) -> (u64, u64) {
    let (had, shares) = (loads(before), after.fair_shares(3));
    let load = |id: &NodeId| had.get(id).copied().unwrap_or(0);
    let gain: u64 = shares.iter().map(|(id, share)| (share / SHARE_UNIT).saturating_sub(load(id))).sum();
    let most = |id: &NodeId| shares.get(id).map_or(0, |share| share.div_ceil(SHARE_UNIT));
    let lose: u64 = had.iter().map(|(id, load)| load.saturating_sub(most(id))).sum();
    // Where fewer than three are left, what a leaving node had is had by nobody.
    let lose = if after.members().len() < 3 { 0 } else { lose };
    (moved(before, after), gain.max(lose).max(forced_by_zones(before, after)))
}

fn moved(before: &Layout, after: &Layout) -> u64 {
    let news = |partition| owners(after, partition).difference(&owners(before, partition)).count() as u64;
    partitions(before).map(news).sum()
}

/// Where there are three zones and more, each holds a partition once. What those have that go is open, and a zone that lacks
/// copies gains them at open places of partitions that it is not in, or drives out another copy, which moves as well.
fn forced_by_zones(before: &Layout, after: &Layout) -> u64 {
    if zones(before).len() < 3 || zones(after).len() < 3 {
        return 0;
    }
    let zone_of: BTreeMap<NodeId, &Zone> = after.members().iter().map(|one| (one.id, &one.zone)).collect();
    let (mut held, mut places, mut open) = (BTreeMap::new(), BTreeMap::new(), 0);
    for partition in partitions(before) {
        let had = owners(before, partition);
        let stay: BTreeSet<&Zone> = had.iter().filter_map(|id| zone_of.get(id).copied()).collect();
        stay.iter().for_each(|zone| *held.entry(*zone).or_insert(0) += 1);
        let gone = had.iter().filter(|id| !zone_of.contains_key(*id)).count() as u64;
        open += gone;
        for zone in zones(after).difference(&stay) {
            *places.entry(*zone).or_insert(0) += gone.min(1);
        }
    }
    let mut wanted: BTreeMap<&Zone, u64> = BTreeMap::new();
    for (id, share) in after.fair_shares(3) {
        *wanted.entry(zone_of[&id]).or_default() += share / SHARE_UNIT;
    }
    let count = |of: &BTreeMap<&Zone, u64>, zone: &Zone| of.get(zone).copied().unwrap_or(0);
    let driven_out = wanted
        .iter()
        .map(|(zone, wanted)| wanted.saturating_sub(count(&held, zone)).saturating_sub(count(&places, zone)));
    open + driven_out.sum::<u64>()
}

fn zones(layout: &Layout) -> BTreeSet<&Zone> {
    layout.members().iter().map(|member| &member.zone).collect()
}

fn partitions(layout: &Layout) -> impl Iterator<Item = Partition> {
    (0..layout.partitions()).map(Partition)
}

fn owners(layout: &Layout, partition: Partition) -> BTreeSet<NodeId> {
    layout.list(partition).iter().take(3).map(|at| layout.members()[usize::from(*at)].id).collect()
}

/// How many partitions have each node among their first three owners.
fn loads(layout: &Layout) -> BTreeMap<NodeId, u64> {
    let mut loads = BTreeMap::new();
    for id in partitions(layout).flat_map(|partition| owners(layout, partition)) {
        *loads.entry(id).or_default() += 1;
    }
    loads
}
