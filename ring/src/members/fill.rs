//! From whom a partition must have been fetched before it counts as here.
//!
//! | an owner that was not heard | is not waited for where |
//! | --- | --- |
//! | can't be reached | most of the owners were heard: it may still come back, and comparisons go on |
//! | leaves and can't be reached (Lost) | half of them or more were heard: what a majority has acknowledged is with one of these |
//! | was written off by force | always: an operator has said that what it has is lost |
//!
//! Without the second row's condition three of five who can't hear the other two would let these go, and with them every write
//! that the two of them have acknowledged.

use super::View;
use crate::ids::NodeId;
use std::collections::BTreeSet;

/// Whether enough of a partition's owners were heard.
pub fn is_heard(
    view: &View,
    owners: &[NodeId],
    heard: &BTreeSet<NodeId>,
    doubted: &BTreeSet<NodeId>,
) -> bool {
    let count = owners.iter().filter(|owner| heard.contains(owner)).count();
    owners.iter().all(|owner| {
        heard.contains(owner)
            || (2 * count > owners.len() && doubted.contains(owner))
            || (2 * count >= owners.len() && view.is_given_up(*owner, doubted))
            || view.is_written_off(*owner, doubted)
    })
}

/// Whether more than half of a partition's owners go unheard, and not all of these by force: then it can't be filled.
pub fn lacks_most(view: &View, owners: &[NodeId], doubted: &BTreeSet<NodeId>) -> bool {
    let gone = || owners.iter().filter(|owner| view.is_given_up(**owner, doubted));
    2 * gone().count() > owners.len() && !gone().all(|owner| view.is_written_off(*owner, doubted))
}

#[cfg(test)]
mod tests {
    use super::super::{Description, Status};
    use super::*;
    use crate::ids::{ClusterId, Zone};

    fn cluster(statuses: &[(u128, Status)]) -> View {
        let mut view = View::new(ClusterId(1), 8);
        for (id, status) in statuses {
            let described = Description {
                http: format!("h:{id}"),
                peer: format!("p:{id}"),
                zone: Zone::default(),
                weight: 1,
                starts: 1,
                boot_id: 1,
            };
            view.admit(NodeId(*id), described).unwrap();
            view.set_status(NodeId(*id), Status::Up).unwrap();
            if *status != Status::Up {
                view.set_status(NodeId(*id), *status).unwrap();
            }
        }
        view
    }

    fn ids(ids: &[u128]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    /// Of owners 1 to 3: whether it is enough to have heard `heard`, while `doubted` can't be reached.
    fn enough(view: &View, heard: &[u128], doubted: &[u128]) -> bool {
        is_heard(view, &[1, 2, 3].map(NodeId), &ids(heard), &ids(doubted))
    }

    #[test]
    fn everybody_who_can_be_reached_is_heard() {
        let view = cluster(&[(1, Status::Up), (2, Status::Up), (3, Status::Leaving)]);
        assert!(enough(&view, &[1, 2, 3], &[]));
        assert!(!enough(&view, &[1, 2], &[]), "the third could be asked");
        assert!(enough(&view, &[1, 2], &[3]));
        assert!(!enough(&view, &[1], &[2, 3]), "what the two have acknowledged may be nowhere else");
    }

    #[test]
    fn one_of_three_that_is_given_up_is_not_waited_for_and_two_are() {
        let lost = cluster(&[(1, Status::Up), (2, Status::Lost), (3, Status::Up)]);
        assert!(enough(&lost, &[1, 3], &[2]));
        assert!(!enough(&lost, &[1, 3], &[]), "it has come back, and is heard");
        let both = cluster(&[(1, Status::Up), (2, Status::Lost), (3, Status::Lost)]);
        assert!(!enough(&both, &[1], &[2, 3]));
        assert!(lacks_most(&both, &[1, 2, 3].map(NodeId), &ids(&[2, 3])));
        assert!(!lacks_most(&both, &[1, 2, 3].map(NodeId), &ids(&[2])));
    }

    #[test]
    fn of_two_owners_either_has_what_both_have_acknowledged() {
        let view = cluster(&[(1, Status::Lost), (2, Status::Up)]);
        assert!(is_heard(&view, &[1, 2].map(NodeId), &ids(&[2]), &ids(&[1])));
        assert!(!is_heard(&view, &[NodeId(1)], &ids(&[]), &ids(&[1])), "an only owner is waited for");
        assert!(lacks_most(&view, &[NodeId(1)], &ids(&[1])));
    }

    #[test]
    fn by_force_what_they_have_is_given_up() {
        let view = cluster(&[(1, Status::Up), (2, Status::WrittenOff), (3, Status::WrittenOff)]);
        assert!(enough(&view, &[1], &[2, 3]));
        assert!(!lacks_most(&view, &[1, 2, 3].map(NodeId), &ids(&[2, 3])));
        let one = cluster(&[(1, Status::Up), (2, Status::WrittenOff), (3, Status::Lost)]);
        assert!(!enough(&one, &[1], &[2, 3]), "of the other nobody has said so");
        assert!(lacks_most(&one, &[1, 2, 3].map(NodeId), &ids(&[2, 3])));
    }
}
