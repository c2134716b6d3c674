//! A change from its commit to its end, step by step, and every order in which its steps can be taken.

use super::super::{Change, Description, Regime, Staged, Status};
use super::*;
use crate::ids::{ClusterId, Partition, Zone};
use xxhash_rust::xxh3::xxh3_64;

const N: usize = 3;

fn described(id: u128) -> Description {
    let (http, peer) = (format!("h{id}"), format!("p{id}"));
    Description { http, peer, zone: Zone::default(), weight: 1, starts: 1, boot_id: 1 }
}

/// A settled cluster of so many, all of whom act by its tables.
fn cluster(nodes: u128) -> View {
    let mut view = View::new(ClusterId(1), 16);
    for id in 1..=nodes {
        view.admit(NodeId(id), described(id)).unwrap();
        view.set_status(NodeId(id), Status::Up).unwrap();
    }
    view.found();
    everybody_acts(&mut view);
    view
}

fn everybody_acts(view: &mut View) {
    let regime = Regime::of(view);
    for id in regime.nodes() {
        view.act(id, regime.name().digest, false);
    }
}

fn everybody_acts_but(view: &mut View, silent: &[u128]) {
    let regime = Regime::of(view);
    for id in regime.nodes().into_iter().filter(|id| !silent.contains(&id.0)) {
        view.act(id, regime.name().digest, false);
    }
}

/// Whoever acts by this regime agrees, until most have, and then takes the step.
fn takes(view: &mut View, doubted: &[u128], expected: &Step) {
    let regime = Regime::of(view);
    let owners = regime.settled.nodes().iter().copied().filter(|id| acts(view, &regime, *id));
    let owners: Vec<NodeId> = owners.collect();
    for id in &owners {
        match step(view, doubted) {
            Step::Agree => assert_eq!(view.advance(*id, &regime, &Step::Agree), Ok(true)),
            _ => break,
        }
    }
    assert_eq!(step(view, doubted), *expected);
    assert_eq!(view.advance(owners[0], &regime, expected), Ok(true));
}

fn says(view: &mut View, id: u128, done: bool) {
    let regime = Regime::of(view).name().digest;
    view.act(NodeId(id), regime, done);
}

fn step(view: &View, doubted: &[u128]) -> Step {
    let doubted = doubted.iter().copied().map(NodeId).collect();
    next(view, &Regime::of(view), &BTreeSet::from([N as u8]), &doubted)
}

fn waits(step: Step) -> Vec<(u128, Why)> {
    match step {
        Step::Wait(waits) | Step::Fill(waits) => waits.iter().map(|wait| (wait.node.0, wait.why)).collect(),
        other => panic!("nobody is waited for: {other:?}"),
    }
}

fn joining(nodes: u128) -> View {
    let mut view = cluster(nodes);
    view.admit(NodeId(nodes + 1), described(nodes + 1)).unwrap();
    view.set_status(NodeId(nodes + 1), Status::Up).unwrap();
    view
}

#[test]
fn a_join_goes_step_by_step() {
    let mut view = joining(3);
    assert_eq!(waits(step(&view, &[])).len(), 4, "nobody has heard of it");
    for id in 1..=3 {
        says(&mut view, id, false);
    }
    assert_eq!(waits(step(&view, &[])), [(4, Why::HasNotHeard)]);
    says(&mut view, 4, false);
    assert_eq!(step(&view, &[]), Step::Fill(vec![Wait { node: NodeId(4), why: Why::IsFilled }]));
    assert!(!Regime::of(&view).settled.nodes().contains(&NodeId(4)), "it owns nothing before it is filled");
    says(&mut view, 4, true);
    let before = Regime::of(&view);
    assert_eq!(view.advance(NodeId(4), &before, &Step::Agree), Ok(false), "who owns nothing has no say");
    takes(&mut view, &[], &Step::Settle);
    assert_eq!(view.advance(NodeId(1), &before, &Step::Settle), Ok(false), "it is taken once");
    let regime = Regime::of(&view);
    assert!(regime.settled.nodes().contains(&NodeId(4)) && regime.previous.is_some());
    assert_eq!(waits(step(&view, &[])).len(), 4, "somebody may still act by the previous table");
    everybody_acts(&mut view);
    takes(&mut view, &[], &Step::Retire);
    assert_eq!(step(&view, &[]), Step::Rest);
}

#[test]
fn a_leave_waits_for_the_last_word_and_ends_with_removal() {
    let mut view = cluster(4);
    view.set_status(NodeId(2), Status::Leaving).unwrap();
    everybody_acts(&mut view);
    let gainers: Vec<u128> = waits(step(&view, &[])).into_iter().map(|wait| wait.0).collect();
    assert!(gainers.contains(&2) && gainers.len() > 1, "{gainers:?}");
    for id in gainers.iter().filter(|id| **id != 2) {
        says(&mut view, *id, true);
    }
    assert_eq!(waits(step(&view, &[])), [(2, Why::HandsOn)]);
    assert_eq!(waits(step(&view, &[2])), [(2, Why::DoesNotAnswer)]);
    says(&mut view, 2, true);
    takes(&mut view, &[], &Step::Settle);
    assert_eq!(view.members[&NodeId(2)].status, Status::Leaving, "its copies count until all have heard");
    everybody_acts(&mut view);
    takes(&mut view, &[], &Step::Retire);
    assert_eq!(view.members[&NodeId(2)].status, Status::Removed);
    assert_eq!(step(&view, &[]), Step::Rest);
}

#[test]
fn nobody_waits_for_a_member_that_is_given_up() {
    let mut view = cluster(4);
    view.set_status(NodeId(2), Status::Lost).unwrap();
    for id in [1, 3, 4] {
        says(&mut view, id, true);
    }
    takes(&mut view, &[2], &Step::Settle);
}

#[test]
fn who_was_given_up_and_is_heard_hands_on_like_any_leaver() {
    for status in [Status::Lost, Status::WrittenOff] {
        let mut view = cluster(4);
        view.set_status(NodeId(2), status).unwrap();
        for id in [1, 3, 4] {
            says(&mut view, id, true);
        }
        assert_eq!(step(&view, &[2]), Step::Agree);
        assert_eq!(waits(step(&view, &[])), [(2, Why::HasNotHeard)]);
        says(&mut view, 2, false);
        assert_eq!(waits(step(&view, &[])), [(2, Why::HandsOn)]);
        says(&mut view, 2, true);
        assert_eq!(step(&view, &[]), Step::Agree);
        view.set_status(NodeId(2), Status::Up).unwrap();
        assert_eq!(step(&view, &[]), Step::Rest, "and a join calls its leave off");
    }
}

#[test]
fn a_minority_changes_nothing() {
    let mut view = joining(5);
    for id in [1, 2, 6] {
        says(&mut view, id, true);
    }
    assert_eq!(waits(step(&view, &[3, 4, 5])), [(3, Why::Majority), (4, Why::Majority), (5, Why::Majority)]);
    says(&mut view, 3, false);
    takes(&mut view, &[4, 5], &Step::Settle);
}

#[test]
fn giving_up_the_others_does_not_make_a_majority() {
    let mut view = cluster(6);
    for id in [4, 5, 6] {
        view.set_status(NodeId(id), Status::Lost).unwrap();
    }
    everybody_acts_but(&mut view, &[4, 5, 6]);
    let silent = [(4, Why::Majority), (5, Why::Majority), (6, Why::Majority)];
    assert_eq!(waits(step(&view, &[4, 5, 6])), silent, "half of them are not most");
    view.set_status(NodeId(6), Status::WrittenOff).unwrap();
    everybody_acts_but(&mut view, &[4, 5, 6]);
    for id in [1, 2, 3] {
        says(&mut view, id, true);
    }
    takes(&mut view, &[4, 5, 6], &Step::Settle);
    everybody_acts(&mut view);
    takes(&mut view, &[4, 5, 6], &Step::Retire);
    let statuses = [4, 5, 6].map(|id| view.members[&NodeId(id)].status);
    assert_eq!(
        statuses,
        [Status::Removed, Status::Removed, Status::WrittenOff],
        "by force nobody is removed"
    );
    assert_eq!(step(&view, &[6]), Step::Rest);
    view.set_status(NodeId(6), Status::Lost).unwrap();
    everybody_acts(&mut view);
    takes(&mut view, &[6], &Step::Retire);
    assert_eq!(view.members[&NodeId(6)].status, Status::Removed);
}

#[test]
fn two_halves_that_gave_up_each_other_wait_for_an_operator_and_lose_nobody() {
    let base = cluster(6);
    let side = |others: [u128; 3]| {
        let mut view = base.clone();
        for id in others {
            view.set_status(NodeId(id), Status::Lost).unwrap();
        }
        view
    };
    let mut view = side([1, 2, 3]);
    view.merge(&side([4, 5, 6])).unwrap();
    assert_eq!(view.claimants(), [], "nobody wants to be an owner");
    let regime = Regime::of(&view);
    assert!(regime.target.is_none() && *regime.settled.nodes() == (1..=6).map(NodeId).collect());
    everybody_acts(&mut view);
    assert_eq!(waits(step(&view, &[])), (1..=6).map(|id| (id, Why::TooFew)).collect::<Vec<_>>());
    for id in 1..=3 {
        assert_eq!(waits(step(&view, &[])).len(), 7 - id);
        let join = Change::Join(NodeId(id as u128));
        view.stage(NodeId(6), vec![join], N, &BTreeSet::new()).unwrap();
        let hash = view.plan_hash(&BTreeSet::new());
        view.commit(NodeId(6), hash, N, &BTreeSet::new()).unwrap();
        everybody_acts(&mut view);
    }
    let leavers: Vec<u128> = waits(step(&view, &[])).into_iter().map(|wait| wait.0).collect();
    assert!([4, 5, 6].iter().all(|id| leavers.contains(id)), "three stay, three hand on: {leavers:?}");
}

#[test]
fn two_commits_that_together_leave_too_few_wait() {
    let mut view = cluster(4);
    for id in [2, 3] {
        view.set_status(NodeId(id), Status::Leaving).unwrap();
    }
    everybody_acts(&mut view);
    let done = |view: &mut View| (1..=4).for_each(|id| says(view, id, true));
    done(&mut view);
    assert_eq!(waits(step(&view, &[])), [(2, Why::TooFew), (3, Why::TooFew)]);
    let mut joined = view.clone();
    joined.admit(NodeId(5), described(5)).unwrap();
    joined.set_status(NodeId(5), Status::Up).unwrap();
    everybody_acts(&mut joined);
    assert!(matches!(step(&joined, &[]), Step::Fill(_)), "another one makes up for it");
    view.set_status(NodeId(3), Status::Up).unwrap();
    everybody_acts(&mut view);
    done(&mut view);
    takes(&mut view, &[], &Step::Settle);
}

/// Otherwise a word that was given of the one would be taken for a word of the other (`unsure`).
#[test]
fn a_change_that_is_called_off_leads_to_the_tables_of_before_under_a_new_name() {
    let mut view = cluster(4);
    let before = Regime::of(&view);
    view.set_status(NodeId(4), Status::Leaving).unwrap();
    view.set_status(NodeId(4), Status::Up).unwrap();
    let after = Regime::of(&view);
    assert_eq!((after.settled.nodes(), after.is_settled()), (before.settled.nodes(), true));
    assert!(after.name().digest != before.name().digest && after.name() > before.name());
    let mut waiting = view.clone();
    waiting.admit(NodeId(5), described(5)).unwrap();
    assert_eq!(Regime::of(&waiting).name().digest, after.name().digest, "who waits changes nothing");
}

/// Node 3 is with 1 and 2 first, and then with 4 and 5: whatever it has agreed to there may have been carried out.
#[test]
fn what_was_agreed_to_elsewhere_and_may_have_been_carried_out_is_not_overtaken() {
    let mut first = cluster(5);
    first.admit(NodeId(6), described(6)).unwrap();
    first.admit(NodeId(7), described(7)).unwrap();
    let (mut second, doubted) = (first.clone(), [4, 5]);
    first.set_status(NodeId(6), Status::Up).unwrap();
    for id in [1, 2, 3, 6] {
        says(&mut first, id, true);
    }
    let agree = |view: &mut View, id: u128| {
        let regime = Regime::of(view);
        view.advance(NodeId(id), &regime, &Step::Agree).unwrap()
    };
    assert!(agree(&mut first, 3));
    second.set_status(NodeId(7), Status::Up).unwrap();
    second.merge(&first).unwrap();
    for id in [3, 4, 5, 6, 7] {
        says(&mut second, id, true);
    }
    let silent = [(1, Why::MayHaveGoneOn), (2, Why::MayHaveGoneOn)];
    assert_eq!(waits(step(&second, &[1, 2])), silent);
    let mut agreed = first.clone();
    assert!(agree(&mut agreed, 1) && agree(&mut agreed, 2));
    assert_eq!(step(&agreed, &doubted), Step::Settle, "as it may have been");
    // Once one of the two has gone past it as well, three have not agreed to it and never will.
    let mut one_more = second.clone();
    says(&mut one_more, 2, true);
    assert_eq!(step(&one_more, &[1]), Step::Agree);
    // And if both have agreed to it and gone past it, nobody is left who could carry it out.
    agreed.merge(&second).unwrap();
    says(&mut agreed, 1, true);
    assert_eq!(waits(step(&agreed, &[2])), [(2, Why::MayHaveGoneOn)]);
    says(&mut agreed, 2, true);
    assert_eq!(step(&agreed, &[]), Step::Agree);
    let mut given_up = |status| {
        for id in [1, 2] {
            second.set_status(NodeId(id), status).unwrap();
        }
        for id in [3, 4, 5, 6, 7] {
            says(&mut second, id, true);
        }
        step(&second, &[1, 2])
    };
    assert_eq!(waits(given_up(Status::Lost)), silent, "to be told to go undoes nothing");
    assert_eq!(given_up(Status::WrittenOff), Step::Agree, "by force an operator takes it upon himself");
}

#[test]
fn what_is_done_for_another_target_does_not_count() {
    let mut view = joining(3);
    everybody_acts(&mut view);
    says(&mut view, 4, true);
    view.admit(NodeId(5), described(5)).unwrap();
    view.set_status(NodeId(5), Status::Up).unwrap();
    everybody_acts(&mut view);
    let filling: Vec<u128> = waits(step(&view, &[])).into_iter().map(|wait| wait.0).collect();
    assert_eq!(filling, [4, 5]);
}

#[test]
fn two_who_take_the_same_step_write_the_same() {
    let mut view = joining(3);
    everybody_acts(&mut view);
    says(&mut view, 4, true);
    let regime = Regime::of(&view);
    for id in [1, 2] {
        assert_eq!(view.advance(NodeId(id), &regime, &Step::Agree), Ok(true));
    }
    let (mut a, mut b) = (view.clone(), view);
    a.advance(NodeId(1), &regime, &Step::Settle).unwrap();
    b.advance(NodeId(2), &regime, &Step::Settle).unwrap();
    assert_eq!(a, b);
    assert_eq!(a.merge(&b), Ok(false));
}

#[test]
fn commits_on_two_sides_make_one_target() {
    let base = {
        let mut view = cluster(4);
        view.admit(NodeId(5), described(5)).unwrap();
        view.admit(NodeId(6), described(6)).unwrap();
        view
    };
    let commit = |change: Change| {
        let mut view = base.clone();
        view.stage(NodeId(1), vec![change], N, &BTreeSet::new()).unwrap();
        let hash = view.plan_hash(&BTreeSet::new());
        view.commit(NodeId(1), hash, N, &BTreeSet::new()).unwrap();
        view
    };
    let sides = [Change::Join(NodeId(5)), Change::Join(NodeId(6)), Change::leave(NodeId(2))].map(commit);
    let (mut left, mut right) = (sides[0].clone(), sides[2].clone());
    for view in [&sides[1], &sides[2]] {
        left.merge(view).unwrap();
    }
    for view in [&sides[0], &sides[1]] {
        right.merge(view).unwrap();
    }
    assert_eq!(left, right);
    let target: Vec<u128> = left.target().members().iter().map(|member| member.id.0).collect();
    assert_eq!(target, [1, 3, 4, 5, 6]);
    assert_eq!(left.staged, Staged { version: 2, by: Some(NodeId(1)), changes: vec![] });
}

/// Whoever can take a step takes it, in random orders, with gossip between any two: a change of members ends in one layout,
/// and at no moment does a read by one node's regime miss a write by another's.
#[test]
fn at_every_moment_a_write_by_one_regime_is_found_by_a_read_of_another() {
    let mut start = joining(3);
    start.set_status(NodeId(1), Status::Leaving).unwrap();
    let nodes = [1, 2, 3, 4];
    for seed in 0..40 {
        let mut chance = seed * 2 + 1;
        let mut draw = |below: usize| {
            chance = xxh3_64(&u64::to_be_bytes(chance));
            usize::try_from(chance % below as u64).unwrap()
        };
        let mut views = [cluster_before(&start), start.clone(), start.clone(), start.clone()];
        loop {
            let regimes: Vec<Regime> = views.iter().map(Regime::of).collect();
            for (reader, writer) in regimes.iter().flat_map(|reader| regimes.iter().map(move |w| (reader, w)))
            {
                assert_found(reader, writer);
            }
            let all = nodes.iter().enumerate().flat_map(|(at, id)| moves(&views, at, NodeId(*id)));
            let mut all: Vec<[View; 4]> = all.collect();
            if all.is_empty() {
                break;
            }
            views = all.swap_remove(draw(all.len()));
        }
        let members: Vec<u128> = views[0].settled.layout.members().iter().map(|member| member.id.0).collect();
        assert_eq!(members, [2, 3, 4]);
        assert!(views.iter().all(|view| *view == views[0] && Regime::of(view).is_settled()));
        assert_eq!(views[0].members[&NodeId(1)].status, Status::Removed);
    }
}

/// The view of somebody who has not heard of the change.
fn cluster_before(start: &View) -> View {
    let mut before = cluster(3);
    before.cluster = start.cluster;
    before
}

/// What one node may do: hear from another, say by which tables it acts, say that it is done, take a step.
fn moves(views: &[View; 4], at: usize, id: NodeId) -> Vec<[View; 4]> {
    let mut out = Vec::new();
    let mut push = |change: &dyn Fn(&mut View)| {
        let mut after = views.clone();
        change(&mut after[at]);
        if after[at] != views[at] {
            out.push(after);
        }
    };
    for other in views {
        push(&|view| assert!(view.merge(other).is_ok()));
    }
    let regime = Regime::of(&views[at]);
    let name = regime.name().digest;
    let acting = views[at].members.get(&id).map(|member| member.acting).unwrap_or_default();
    if regime.nodes().contains(&id) && acting.regime != name {
        push(&|view| assert!(view.act(id, name, false)));
        return out;
    }
    match step(&views[at], &[]) {
        Step::Fill(_) if !acting.done => push(&|view| assert!(view.act(id, name, true))),
        step @ (Step::Agree | Step::Settle | Step::Retire) => {
            push(&|view| assert!(view.advance(id, &regime, &step).is_ok()));
        }
        _ => {}
    }
    out
}

/// Any two of three of the writer's sets hold what a reader of two of three finds: either the reader's settled owners are
/// among the sets, or who is asked refuses it, because he acts by a newer regime than the reader and owns nothing by it.
fn assert_found(reader: &Regime, writer: &Regime) {
    for partition in (0..16).map(Partition) {
        let read = reader.settled.owners(partition, N);
        let mut sets = vec![writer.settled.owners(partition, N).to_vec()];
        sets.extend(writer.also(partition, N));
        let same = |set: &Vec<NodeId>| set.iter().collect::<BTreeSet<_>>() == read.iter().collect();
        if sets.iter().any(same) {
            continue;
        }
        let newer = writer.name().counter > reader.name().counter;
        let answering = read.iter().filter(|id| writer.settled.owners(partition, N).contains(id)).count();
        let older = reader.name().counter > writer.name().counter;
        assert!(
            (newer && answering < 2) || older,
            "{partition:?}: a read of {read:?} at {:?} misses a write to {sets:?} at {:?}",
            reader.name(),
            writer.name()
        );
    }
}
