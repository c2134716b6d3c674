//! What may be staged, what may be committed, and why not.

use super::super::Description;
use super::*;
use crate::ids::ClusterId;

const N: usize = 3;

fn described(id: u128) -> Description {
    let (http, peer) = (format!("h{id}"), format!("p{id}"));
    Description { http, peer, zone: Zone::default(), weight: 1, starts: 1, boot_id: 1 }
}

/// So many members that are up, and node 9 that waits.
fn cluster(nodes: u128) -> View {
    let mut view = View::new(ClusterId(1), 16);
    for id in 1..=nodes {
        view.admit(NodeId(id), described(id)).unwrap();
        view.set_status(NodeId(id), Status::Up).unwrap();
    }
    view.found();
    view.admit(NodeId(9), described(9)).unwrap();
    view
}

fn stage(view: &mut View, changes: &[Change]) -> Result<(), ChangeError> {
    view.stage(NodeId(1), changes.to_vec(), N, &BTreeSet::new())
}

fn set(id: u128, weight: u32) -> Change {
    Change::Set { id: NodeId(id), weight: Some(weight), zone: None }
}

fn statuses(view: &View) -> Vec<(u128, Status)> {
    view.members.iter().map(|(id, member)| (id.0, member.status)).collect()
}

#[test]
fn what_is_staged_moves_nothing() {
    let mut view = cluster(4);
    let before = (view.claimants(), view.table_counter());
    stage(&mut view, &[Change::Join(NodeId(9)), Change::leave(NodeId(1)), set(2, 5)]).unwrap();
    assert_eq!((view.claimants(), view.table_counter()), before);
    let hash = view.plan_hash(&BTreeSet::new());
    view.commit(NodeId(2), hash, N, &BTreeSet::new()).unwrap();
    assert_eq!(view.members[&NodeId(2)].seat.weight, 5);
    let expected = [1, 2, 3, 4, 9].map(|id| (id, if id == 1 { Status::Leaving } else { Status::Up }));
    assert_eq!(statuses(&view), expected);
    assert!(view.staged.changes.is_empty());
}

#[test]
fn a_hash_names_what_its_author_has_seen() {
    let mut view = cluster(4);
    stage(&mut view, &[Change::Join(NodeId(9))]).unwrap();
    let seen = view.plan_hash(&BTreeSet::new());
    stage(&mut view, &[set(2, 5)]).unwrap();
    let refused = view.commit(NodeId(1), seen, N, &BTreeSet::new());
    assert_eq!(refused, Err(ChangeError::OtherPlan { now: view.plan_hash(&BTreeSet::new()) }));
    let now = view.plan_hash(&BTreeSet::new());
    view.set_seat(NodeId(3), 7, Zone::default()).unwrap();
    assert_ne!(view.plan_hash(&BTreeSet::new()), now, "what it would be applied to has changed");
    view.clear_staged(NodeId(1));
    let nothing = view.plan_hash(&BTreeSet::new());
    assert_eq!(view.commit(NodeId(1), nothing, N, &BTreeSet::new()), Err(ChangeError::Nothing));
}

#[test]
fn whoever_looked_at_the_leave_of_a_living_node_has_not_looked_at_that_of_a_silent_one() {
    let mut view = cluster(4);
    stage(&mut view, &[Change::leave(NodeId(1)), Change::Join(NodeId(9))]).unwrap();
    let (nobody, gone) = (BTreeSet::new(), BTreeSet::from([NodeId(1)]));
    let seen = view.plan_hash(&nobody);
    assert_eq!(view.plan_hash(&BTreeSet::from([NodeId(2)])), seen, "who stays makes no difference");
    let now = view.plan_hash(&gone);
    assert_eq!(view.clone().commit(NodeId(2), seen, N, &gone), Err(ChangeError::OtherPlan { now }));
    assert_eq!(view.commit(NodeId(2), now, N, &gone), Ok(()));
    assert_eq!(view.members[&NodeId(1)].status, Status::Lost);
}

#[test]
fn too_few_are_never_left() {
    let mut view = cluster(3);
    assert_eq!(
        stage(&mut view, &[Change::leave(NodeId(1))]),
        Err(ChangeError::TooFew { at: 0, left: 2, n: 3 })
    );
    stage(&mut view, &[Change::leave(NodeId(1)), Change::Join(NodeId(9))]).unwrap();
    let mut view = cluster(3);
    stage(&mut view, &[Change::Replace { old: NodeId(1), new: NodeId(9), force: false }]).unwrap();
    let mut young = cluster(1);
    stage(&mut young, &[Change::Join(NodeId(9))]).unwrap();
}

#[test]
fn what_does_not_fit_is_refused_with_its_place() {
    let mut view = cluster(4);
    let at = |error: Result<(), ChangeError>| match error {
        Err(ChangeError::Unfit { at, field, .. }) => (at, field),
        other => panic!("{other:?}"),
    };
    assert_eq!(at(stage(&mut view, &[Change::Join(NodeId(1))])), (0, "/join"));
    assert_eq!(at(stage(&mut view, &[Change::leave(NodeId(1)), Change::leave(NodeId(1))])), (1, ""));
    assert_eq!(at(stage(&mut view, &[set(1, 0)])), (0, "/set/weight"));
    assert_eq!(at(stage(&mut view, &[set(1, WEIGHT_MAX + 1)])), (0, "/set/weight"));
    let replace = Change::Replace { old: NodeId(1), new: NodeId(1), force: false };
    assert_eq!(at(stage(&mut view, &[replace])), (0, ""));
    let nobody = NodeId(77);
    assert_eq!(
        stage(&mut view, &[set(2, 2), Change::leave(nobody)]),
        Err(ChangeError::NoMember { at: 1, id: nobody })
    );
    view.set_status(NodeId(4), Status::Lost).unwrap();
    assert_eq!(at(stage(&mut view, &[Change::leave(NodeId(4))])), (0, "/leave"));
    let by_force = Change::Leave { id: NodeId(3), force: true };
    assert_eq!(
        at(stage(&mut view, &[by_force])),
        (0, "/force"),
        "whoever can be reached is not gone for ever"
    );
    assert!(view.staged.changes.is_empty(), "a refused change leaves nothing behind");
}

#[test]
fn a_later_change_of_a_member_takes_the_place_of_an_earlier_one() {
    let mut view = cluster(4);
    stage(&mut view, &[set(1, 2)]).unwrap();
    stage(&mut view, &[set(2, 2)]).unwrap();
    stage(&mut view, &[set(1, 3)]).unwrap();
    assert_eq!(view.staged.changes, [set(2, 2), set(1, 3)]);
    stage(&mut view, &[Change::Replace { old: NodeId(1), new: NodeId(9), force: false }]).unwrap();
    assert_eq!(view.staged.changes.len(), 2);
}

#[test]
fn who_can_t_be_reached_is_not_waited_for() {
    let mut view = cluster(4);
    let lost = BTreeSet::from([NodeId(1)]);
    view.stage(NodeId(2), vec![Change::leave(NodeId(1))], N, &lost).unwrap();
    let hash = view.plan_hash(&lost);
    view.commit(NodeId(2), hash, N, &lost).unwrap();
    assert_eq!(view.members[&NodeId(1)].status, Status::Lost);
    let mut view = cluster(4);
    view.set_status(NodeId(1), Status::Leaving).unwrap();
    view.stage(NodeId(2), vec![Change::leave(NodeId(1))], N, &lost).unwrap();
    let mut view = cluster(4);
    stage(&mut view, &[Change::leave(NodeId(9))]).unwrap();
    let hash = view.plan_hash(&BTreeSet::new());
    view.commit(NodeId(1), hash, N, &BTreeSet::new()).unwrap();
    assert_eq!(view.members[&NodeId(9)].status, Status::Leaving, "not removed before most have heard of it");
}

#[test]
fn by_force_somebody_does_not_count_any_more_until_it_is_let_go_again_or_called_back() {
    let lost = BTreeSet::from([NodeId(1)]);
    let commit = |view: &mut View, change: Change| {
        view.stage(NodeId(2), vec![change], N, &lost).unwrap();
        let hash = view.plan_hash(&lost);
        view.commit(NodeId(2), hash, N, &lost).unwrap();
        view.members[&NodeId(1)].status
    };
    let by_force = Change::Leave { id: NodeId(1), force: true };
    let mut view = cluster(4);
    for change in [Change::leave(NodeId(1)), by_force.clone()] {
        assert!(commit(&mut view, change).leaves());
    }
    assert_eq!(view.members[&NodeId(1)].status, Status::WrittenOff);
    assert_eq!(commit(&mut view, Change::leave(NodeId(1))), Status::Lost);
    assert_eq!(commit(&mut view, by_force), Status::WrittenOff);
    assert_eq!(commit(&mut view, Change::Join(NodeId(1))), Status::Up);
    let replace = Change::Replace { old: NodeId(1), new: NodeId(9), force: true };
    assert_eq!(commit(&mut view, replace), Status::WrittenOff);
}

#[test]
fn a_leave_is_called_off_by_a_join() {
    let mut view = cluster(4);
    for status in [Status::Leaving, Status::Lost, Status::WrittenOff] {
        view.set_status(NodeId(1), status).unwrap();
        stage(&mut view, &[Change::Join(NodeId(1))]).unwrap();
        let hash = view.plan_hash(&BTreeSet::new());
        view.commit(NodeId(2), hash, N, &BTreeSet::new()).unwrap();
        assert_eq!(view.members[&NodeId(1)].status, Status::Up);
    }
}

/// Two stage at the same moment, the one commits, and the other's copy of the plan wins over the empty one.
#[test]
fn what_was_carried_out_meanwhile_stands_in_nobodys_way() {
    let mut view = cluster(5);
    stage(&mut view, &[Change::leave(NodeId(5)), set(4, 2)]).unwrap();
    let stale = view.staged.clone();
    let hash = view.plan_hash(&BTreeSet::new());
    view.commit(NodeId(1), hash, 3, &BTreeSet::new()).unwrap();
    view.staged = stale;
    stage(&mut view, &[set(3, 2)]).unwrap();
    assert_eq!(view.staged.changes, [set(4, 2), set(3, 2)], "what still can be made stays");
    assert_eq!(view.commit(NodeId(1), view.plan_hash(&BTreeSet::new()), 3, &BTreeSet::new()), Ok(()));
}
