//! The owners of every partition as they were committed: what travels in the cluster's view.
//!
//! A layout is data and not only a function of the members, because the next one is to move as little as possible, and
//! what moves depends on what was there. It is a pure function of the one before and of the members, so that every node
//! that knows both computes the same.
//!
//! It names owners for every n up to [`N_MAX`] by their place among the members: two bytes each, 128 KiB for 4,096
//! partitions. Who stands in for them follows from the ring and need not travel.

use super::claim::{Claimant, WEIGHT_MAX, orders, weight};
use super::evolve::Draft;
use super::hash::partitions_valid;
use super::share;
use super::table::N_MAX;
use crate::ids::{NodeId, Partition, Zone};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use xxhash_rust::xxh3::xxh3_64;

/// The most members that a layout can have.
const LAYOUT_MEMBERS_MAX: usize = 1024;

/// A share of one whole partition.
pub const SHARE_UNIT: u64 = share::SLICE;

/// Who owns what, as it was committed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Layout {
    /// In the order of their ids.
    members: Vec<Claimant>,
    partitions: u16,
    /// The lists one after the other, each of [`Layout::ranks`] places among the members.
    owners: Vec<u16>,
}

/// Why bytes from outside are no layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Not a ring's count of slices.
    #[error("a ring can't have {0} slices")]
    Partitions(u16),
    /// Too many members, one of them twice, out of order, or with a weight that is none.
    #[error("its members can't be those of a ring")]
    Members,
    /// A list is too short, names somebody twice, or nobody.
    #[error("its lists don't fit its members")]
    Lists,
}

impl Layout {
    /// Nobody owns anything yet.
    pub fn empty(partitions: u16) -> Layout {
        assert!(partitions_valid(partitions), "not a ring's count of slices: {partitions}");
        Layout { members: Vec::new(), partitions, owners: Vec::new() }
    }

    /// What this one becomes with these members. The same members leave it as it is, and no order of them makes a
    /// difference; a member named twice is a mistake of the caller.
    pub fn evolve(&self, members: &[Claimant]) -> Layout {
        let mut members = members.to_vec();
        members.sort_by_key(|member| member.id);
        if members == self.members {
            return self.clone();
        }
        assert!(members.windows(2).all(|pair| pair[0].id < pair[1].id), "a member claims once: {members:?}");
        let (nodes, zones) = weighed(&members);
        let orders = orders(&members, self.partitions);
        let lists = Draft::new(nodes, zones, orders, self.before(&members)).fill(N_MAX.min(members.len()));
        let place = |at: usize| u16::try_from(at).expect("there are at most 1,024 members");
        let owners = lists.into_iter().flatten().map(place).collect();
        Layout { members, partitions: self.partitions, owners }
    }

    /// The owners of every partition as places among other members, where they are among them.
    fn before(&self, members: &[Claimant]) -> Vec<Vec<Option<usize>>> {
        let place = |old: &Claimant| members.binary_search_by_key(&old.id, |member| member.id).ok();
        let places: Vec<Option<usize>> = self.members.iter().map(place).collect();
        let all = (0..self.partitions).map(Partition);
        all.map(|partition| self.list(partition).iter().map(|at| places[usize::from(*at)]).collect())
            .collect()
    }

    /// For whom it was made, in the order of their ids.
    pub fn members(&self) -> &[Claimant] {
        &self.members
    }

    /// How many slices the ring has.
    pub fn partitions(&self) -> u16 {
        self.partitions
    }

    /// What each node should hold among the first `n` owners, in units of [`SHARE_UNIT`] to a partition.
    pub fn fair_shares(&self, n: usize) -> BTreeMap<NodeId, u64> {
        let (nodes, zones) = weighed(&self.members);
        let shares =
            share::shares(&nodes, zones, u64::from(self.partitions), n.min(self.members.len())).pop();
        self.members.iter().map(|member| member.id).zip(shares.unwrap_or_default()).collect()
    }

    /// How many owners each list names.
    pub(super) fn ranks(&self) -> usize {
        N_MAX.min(self.members.len())
    }

    /// The owners of a partition, as places among the members.
    pub(super) fn list(&self, partition: Partition) -> &[u16] {
        let start = usize::from(partition.0) * self.ranks();
        &self.owners[start..start + self.ranks()]
    }

    /// Checks what came from outside.
    pub fn validate(&self) -> Result<(), LayoutError> {
        if !partitions_valid(self.partitions) {
            return Err(LayoutError::Partitions(self.partitions));
        }
        let sorted = self.members.windows(2).all(|pair| pair[0].id < pair[1].id);
        let weights = self.members.iter().all(|member| (1..=WEIGHT_MAX).contains(&member.weight));
        if !sorted || !weights || self.members.len() > LAYOUT_MEMBERS_MAX {
            return Err(LayoutError::Members);
        }
        if self.owners.len() != usize::from(self.partitions) * self.ranks() {
            return Err(LayoutError::Lists);
        }
        let fits = |list: &[u16]| {
            list.iter()
                .enumerate()
                .all(|(at, place)| usize::from(*place) < self.members.len() && !list[..at].contains(place))
        };
        let lists = (0..self.partitions).map(Partition).all(|partition| fits(self.list(partition)));
        if lists { Ok(()) } else { Err(LayoutError::Lists) }
    }

    /// A hash of everything.
    pub fn digest(&self) -> u64 {
        xxh3_64(&postcard::to_stdvec(self).expect("a layout is plain data"))
    }
}

/// Each member's weight and the number of its zone, and how many zones there are.
fn weighed(members: &[Claimant]) -> (Vec<(u64, usize)>, usize) {
    let zones: BTreeSet<&Zone> = members.iter().map(|member| &member.zone).collect();
    let zones: Vec<&Zone> = zones.into_iter().collect();
    let node = |member: &Claimant| {
        let zone = zones.binary_search(&&member.zone).expect("the zones were taken from the members");
        (u64::from(weight(member)), zone)
    };
    (members.iter().map(node).collect(), zones.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(count: u128) -> Vec<Claimant> {
        let member = |id| Claimant { id: NodeId(id), zone: Zone(format!("z{}", id % 2)), weight: 1 };
        (1..=count).map(member).collect()
    }

    #[test]
    fn the_same_members_move_nothing() {
        let layout = Layout::empty(32).evolve(&members(5));
        let mut shuffled = members(5);
        shuffled.reverse();
        assert_eq!(layout.evolve(&shuffled), layout);
        assert_eq!(layout.validate(), Ok(()));
        assert_eq!(Layout::empty(32).validate(), Ok(()));
    }

    #[test]
    fn bytes_that_are_no_layout_are_refused() {
        let whole = Layout::empty(8).evolve(&members(3));
        let broken = |change: &dyn Fn(&mut Layout)| {
            let mut layout = whole.clone();
            change(&mut layout);
            layout.validate()
        };
        assert_eq!(broken(&|l| l.partitions = 7), Err(LayoutError::Partitions(7)));
        assert_eq!(broken(&|l| l.members.swap(0, 1)), Err(LayoutError::Members));
        assert_eq!(broken(&|l| l.members[0].weight = 0), Err(LayoutError::Members));
        assert_eq!(broken(&|l| l.owners.truncate(5)), Err(LayoutError::Lists));
        assert_eq!(broken(&|l| l.owners[0] = l.owners[1]), Err(LayoutError::Lists));
        assert_eq!(broken(&|l| l.owners[0] = 9), Err(LayoutError::Lists));
    }
}
