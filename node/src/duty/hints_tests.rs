//! Deliveries over links that carry small records and not large ones, and to nodes that don't answer or refuse.

use super::*;
use crate::bench::{Bench, ME, Peer, ids};
use ring::ids::Partition;
use ring::time::Wall;
use std::sync::atomic::Ordering;

/// 1 Mbit/s.
const NARROW: u64 = 125_000;
/// What takes 33 s over such a link, more than three times what anything waits for.
const LARGE: usize = 4 << 20;
const PASSES_MAX: usize = 40;

#[test]
fn a_pass_goes_through_everything_once_wherever_it_begins() {
    let key = |byte: u8| vec![byte];
    let all = (key(1), Some(key(9)));
    assert_eq!(ranges(all.clone(), None), std::slice::from_ref(&all));
    assert_eq!(ranges(all, Some(key(4))), [(key(4), Some(key(9))), (key(1), Some(key(4)))]);
}

/// Passes until so many hints are left.
async fn until_left(bench: &Bench, target: NodeId, left: usize) {
    for _ in 0..PASSES_MAX {
        deliver_to(&bench.node, target).await;
        if bench.hints_for(target) == left {
            return;
        }
        tokio::time::advance(HINT_BACKOFF_MAX).await;
    }
    panic!("{} hints are left: {:?}", bench.hints_for(target), bench.node.lock_deliveries().get(&target));
}

/// The target is gone, and three others own its keys. The link to one of them does not carry the large one: what is behind it, on
/// this delivery and on those that follow, goes all the same.
#[tokio::test(start_paused = true)]
async fn an_owner_is_given_what_is_behind_the_one_that_its_link_does_not_carry() {
    let (peers, gone) = ([11, 12, 13].map(Peer::new), Peer::new(14));
    let owners = [0, 1, 2].map(|at: usize| peers[at].id);
    let bench = Bench::start(1, &owners, &[&peers[0], &peers[1], &peers[2], &gone]).await;
    let removes = |view: &mut ring::members::View| view.set_status(gone.id, Status::Removed).map(drop);
    bench.node.cluster.update(removes).unwrap();
    let (ids, large) = (ids(40), 20);
    for (at, id) in ids.iter().enumerate() {
        bench.put(id, if at == large { LARGE } else { 10 }, Some(gone.id)).await;
    }
    peers[1].narrow(NARROW);
    until_left(&bench, gone.id, 1).await;
    assert!(ids.iter().enumerate().all(|(at, id)| peers[1].holds(id) == (at != large)));
    peers[1].narrow(0);
    until_left(&bench, gone.id, 0).await;
    assert!(peers.iter().all(|peer| ids.iter().all(|id| peer.holds(id))));
}

/// The same as the node really goes about it: who has said nothing for two seconds, because his link is busy with the large one, is doubted,
/// and then nothing more is asked of him. When he is heard again the large one must not come first again.
#[tokio::test(start_paused = true)]
async fn who_is_mute_over_a_large_one_is_given_what_is_behind_it() {
    for owns in [true, false] {
        let (peers, target) = ([11, 12, 13].map(Peer::new), Peer::new(14));
        let owners =
            if owns { [ME, peers[0].id, target.id] } else { [0, 1, 2].map(|at: usize| peers[at].id) };
        let all = [&peers[0], &peers[1], &peers[2], &target];
        let bench = Bench::start(1, &owners, &all).await;
        if !owns {
            bench.update(|view| view.set_status(target.id, Status::Removed).map(drop).unwrap());
        }
        let ids = ids(2 * HINT_SCAN_ROWS);
        for large in [0, HINT_SCAN_ROWS - 1] {
            for (at, id) in ids.iter().enumerate() {
                bench.put(id, if at == large { LARGE } else { 10 }, Some(target.id)).await;
            }
            let narrow = if owns { &target } else { &peers[1] };
            narrow.narrow(NARROW);
            let doubts = bench.doubts_who_is_mute(&[narrow]);
            let (_stop, stopping) = watch::channel(false);
            let duty = tokio::spawn(run(bench.node.clone(), stopping));
            let begun = bench.node.now();
            while bench.hints_for(target.id) > 1 {
                let (took, left) = (bench.node.now() - begun, bench.hints_for(target.id));
                assert!(took < 10 * HINT_BACKOFF_MAX, "{left} are left, the large one is number {large}");
                tokio::time::sleep(HINTS_EVERY).await;
            }
            narrow.narrow(0);
            while bench.hints_for(target.id) > 0 {
                assert!(bench.node.now() - begun < 20 * HINT_BACKOFF_MAX);
                tokio::time::sleep(HINTS_EVERY).await;
            }
            assert!(ids.iter().all(|id| narrow.holds(id)));
            doubts.abort();
            duty.abort();
        }
    }
}

/// An owner comes back while a long pass is under way that has passed it over. It does not wait for a pause that has grown before.
#[tokio::test(start_paused = true)]
async fn who_comes_back_during_a_pass_is_tried_at_once_as_well() {
    let (peers, gone) = ([11, 12].map(Peer::new), Peer::new(14));
    let bench = Bench::start(1, &[peers[0].id, peers[1].id], &[&peers[0], &peers[1], &gone]).await;
    let removes = |view: &mut ring::members::View| view.set_status(gone.id, Status::Removed).map(drop);
    bench.node.cluster.update(removes).unwrap();
    bench.put(&ids(1)[0], 1000, Some(gone.id)).await;
    let earlier = Delivery { failures: 16, ..Delivery::default() };
    bench.node.lock_deliveries().insert(gone.id, earlier);
    bench.node.cluster.set_doubted(BTreeSet::from([peers[1].id]));
    // Each message takes seconds, and the other owner is up before the first has arrived.
    peers[0].narrow(500);
    let cluster = std::sync::Arc::clone(&bench.node.cluster);
    tokio::spawn(async move {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        cluster.set_doubted(BTreeSet::new());
    });
    deliver_to(&bench.node, gone.id).await;
    assert_eq!((bench.hints_for(gone.id), peers[0].holds(&ids(1)[0])), (1, true));
    let (not_before, failures) = {
        let deliveries = bench.node.lock_deliveries();
        (deliveries[&gone.id].not_before, deliveries[&gone.id].failures)
    };
    assert_eq!(failures, 17);
    assert!(not_before - bench.node.now() <= HINTS_EVERY, "it waits for {:?}", not_before - bench.node.now());
    deliver_to(&bench.node, gone.id).await;
    assert_eq!(bench.hints_for(gone.id), 0);
}

/// A target that answers nothing keeps nothing from the owners of keys that it owns no more; and is asked twice, not once a page.
#[tokio::test(start_paused = true)]
async fn what_is_for_others_goes_though_the_target_answers_nothing() {
    let (peers, target) = ([11, 12, 13].map(Peer::new), Peer::new(14));
    let owners = [ME, peers[0].id, peers[1].id, peers[2].id, target.id];
    let bench = Bench::start(16, &owners, &[&peers[0], &peers[1], &peers[2], &target]).await;
    let ids = ids(3 * HINT_SCAN_ROWS);
    for id in &ids {
        bench.put(id, 10, Some(target.id)).await;
    }
    target.narrow(1);
    let theirs = ids.iter().filter(|id| bench.owners(id).contains(&target.id)).count();
    assert!(theirs > HINT_SCAN_ROWS && theirs + HINT_SCAN_ROWS < ids.len(), "{theirs} are the target's own");
    let begun = bench.node.now();
    deliver_to(&bench.node, target.id).await;
    assert_eq!(bench.hints_for(target.id), theirs, "and those wait");
    let took = bench.node.now() - begun;
    assert!(took < 3 * crate::limits::HINT_TIMEOUT, "the pass took {took:?}");
    let failed = bench.node.lock_deliveries().get(&target.id).map(|delivery| delivery.failures);
    assert_eq!(failed, Some(1));
    target.narrow(0);
    until_left(&bench, target.id, 0).await;
    assert!(ids.iter().filter(|id| bench.owners(id).contains(&target.id)).all(|id| target.holds(id)));
}

/// A node that leaves asks others to keep what its target does not take, and the target in between: whoever comes round first. One
/// other is not enough, for it may have the only other copy of what two have acknowledged.
#[tokio::test(start_paused = true)]
async fn who_leaves_tries_the_target_and_others_by_turns() {
    for others_take in [true, false] {
        let (others, target) = ([11, 12].map(Peer::new), Peer::new(14));
        let [one, two] = &others;
        let bench = Bench::start(16, &[ME, one.id, two.id, target.id], &[one, two, &target]).await;
        // This node stands in for the target, and nobody takes anything over as it leaves.
        let stands_in = |owners: &[NodeId]| owners.contains(&target.id) && !owners.contains(&ME);
        let ids: Vec<ObjectId> =
            ids(100).into_iter().filter(|id| stands_in(&bench.owners(id))).take(5).collect();
        for id in &ids {
            bench.put(id, 10, Some(target.id)).await;
        }
        let leaves = |view: &mut ring::members::View| view.set_status(ME, Status::Leaving).map(drop);
        bench.node.cluster.update(leaves).unwrap();
        one.refuse(!others_take);
        two.refuse(true);
        target.refuse(true);
        for _ in 0..=2 * FAILURES_MAX {
            deliver_to(&bench.node, target.id).await;
        }
        assert_eq!(bench.hints_for(target.id), ids.len());
        if others_take { two } else { &target }.refuse(false);
        for _ in 0..2 {
            deliver_to(&bench.node, target.id).await;
        }
        assert_eq!(bench.hints_for(target.id), 0, "the others take them: {others_take}");
        // What others keep now is not delivered.
        let delivered = bench.node.hints_delivered.load(Ordering::Relaxed);
        assert_eq!(delivered, if others_take { 0 } else { 5 });
        let kept = if others_take { (5, false) } else { (0, true) };
        assert_eq!((two.hints(), target.holds(&ids[0])), kept);
    }
}

/// Who leaves keeps something for one who is lost, and of its other owners one is lost as well, or merely away. The lost one goes by the same
/// change, which waits for this hint: it is not asked, and nobody keeps anything for him. For who is away two others keep it.
#[tokio::test(start_paused = true)]
async fn who_leaves_waits_for_no_owner_that_is_given_up_by_the_same_change() {
    for given_up in [true, false] {
        let (peers, gone) = ([11, 12, 13].map(Peer::new), Peer::new(14));
        let [one, two, three] = &peers;
        let owners = [ME, one.id, two.id, three.id, gone.id];
        let bench = Bench::start(16, &owners, &[one, two, three, &gone]).await;
        let theirs = |owners: &[NodeId]| [one, two, &gone].iter().all(|peer| owners.contains(&peer.id));
        let ids: Vec<ObjectId> =
            ids(100).into_iter().filter(|id| theirs(&bench.owners(id))).take(5).collect();
        for id in &ids {
            bench.put(id, 10, Some(gone.id)).await;
        }
        bench.update(|view| {
            view.set_status(ME, Status::Leaving).unwrap();
            view.set_status(gone.id, Status::Lost).unwrap();
            if given_up {
                view.set_status(two.id, Status::Lost).unwrap();
            }
        });
        bench.node.cluster.set_doubted(BTreeSet::from([two.id, gone.id]));
        drop((bench.cut(two), bench.cut(&gone)));
        deliver_to(&bench.node, gone.id).await;
        let why = bench.node.lock_deliveries().get(&gone.id).and_then(|delivery| delivery.error.clone());
        assert_eq!((ids.len(), bench.hints_for(gone.id)), (5, 0), "given up: {given_up}; {why:?}");
        assert!(ids.iter().all(|id| one.holds(id)));
        let hints = if given_up { 0 } else { ids.len() };
        assert_eq!([one.hints(), three.hints()], [hints; 2], "given up: {given_up}");
    }
}

/// Which copies were kept for whom is gone with the hints. At the next start all that is not owned here is owed to every owner, and what is
/// owned here is not.
#[tokio::test(start_paused = true)]
async fn what_is_owed_is_made_anew_from_what_is_not_owned() {
    let peers = [11, 12, 13].map(Peer::new);
    let owners = [ME, peers[0].id, peers[1].id, peers[2].id];
    let bench = Bench::start(16, &owners, &[&peers[0], &peers[1], &peers[2]]).await;
    let ids = ids(100);
    for id in &ids {
        bench.put(id, 10, None).await;
    }
    let (own, foreign): (Vec<_>, Vec<_>) = ids.iter().partition(|id| bench.owners(id).contains(&ME));
    assert!(!foreign.is_empty() && !own.is_empty());
    let bench = bench.again(|disk| disk.spoil(Family::Hints));
    let node = &bench.node;
    assert_eq!(node.store.lacks(), [], "that is done");
    let row = |target: NodeId, id: &ObjectId| {
        let row = node.store.get(Family::Hints, &node.hint_key(target, id)).unwrap();
        row.map(|row| HintRow::decode(&row))
    };
    assert!(own.iter().all(|id| node.hints_of(id).unwrap().is_empty()));
    for (id, peer) in foreign.iter().flat_map(|id| peers.iter().map(move |peer| (id, peer))) {
        let row = row(peer.id, id).expect("it is owed to each owner");
        assert!(row.counted && row.since == node.wall());
    }
    node.past.asked(true);
    for peer in &peers {
        until_left(&bench, peer.id, 0).await;
        assert!(foreign.iter().all(|id| peer.holds(id)));
    }
    assert_eq!(bench.kept().len(), own.len(), "a copy goes with its last hint");
}

/// A target that can be reached and takes nothing: what no acknowledgement relies on grows no older than what waits for somebody who is
/// away, and its partition is compared instead.
#[tokio::test(start_paused = true)]
async fn hints_that_are_refused_for_too_long_are_given_up() {
    let target = Peer::new(14);
    let bench = Bench::start(1, &[ME, target.id], &[&target]).await;
    let (counted, other) = (&ids(2)[0], &ids(2)[1]);
    bench.put(counted, 10, Some(target.id)).await;
    bench.put(other, 10, None).await;
    let now = bench.node.wall();
    let keep = |reply| Job::KeepHint { id: other.clone(), owner: target.id, now, reply };
    assert!(bench.node.lane.run(keep).await.unwrap());
    target.refuse(true);
    deliver_to(&bench.node, target.id).await;
    assert_eq!(bench.hints_for(target.id), 2, "they are young");
    tokio::time::advance(bench.node.hint_age + HINT_BACKOFF_MAX).await;
    deliver_to(&bench.node, target.id).await;
    assert_eq!(bench.node.hints_of(counted).unwrap(), [target.id]);
    assert_eq!(bench.hints_for(target.id), 1);
    assert!(bench.node.lock_hints().urgent.contains_key(&Partition(0)));
}

/// Somebody comes back. Who else could not be delivered to is tried at once as well, and has failed as often as before: a node that
/// leaves goes by that. Who was away himself begins anew.
#[tokio::test(start_paused = true)]
async fn who_has_not_been_away_has_failed_as_often_as_before() {
    let (other, target) = (Peer::new(11), Peer::new(14));
    for (back, failures) in [(other.id, FAILURES_MAX + 1), (target.id, 1)] {
        let bench = Bench::start(1, &[ME, other.id, target.id], &[&other, &target]).await;
        bench.put(&ids(1)[0], 10, Some(target.id)).await;
        target.refuse(true);
        for _ in 0..FAILURES_MAX {
            deliver_to(&bench.node, target.id).await;
        }
        let of = |bench: &Bench| bench.node.lock_deliveries()[&target.id].failures;
        assert_eq!(of(&bench), FAILURES_MAX);
        bench.node.cluster.set_doubted(BTreeSet::from([back]));
        let (_stop, stopping) = watch::channel(false);
        let duty = tokio::spawn(run(bench.node.clone(), stopping));
        tokio::task::yield_now().await;
        bench.node.cluster.set_doubted(BTreeSet::new());
        let begun = bench.node.now();
        while of(&bench) == FAILURES_MAX {
            assert!(bench.node.now() - begun <= 2 * HINTS_EVERY, "nobody has tried");
            tokio::time::sleep(HINTS_EVERY / 10).await;
        }
        // It may be between two passes.
        if of(&bench) == 0 {
            tokio::time::sleep(HINTS_EVERY / 10).await;
        }
        assert_eq!(of(&bench), failures, "{back:?} was away");
        duty.abort();
    }
}

/// The older of two is gone: what is left is as old as it is.
#[tokio::test(start_paused = true)]
async fn what_has_gone_makes_what_is_left_no_older() {
    let target = Peer::new(14);
    let bench = Bench::start(1, &[ME, target.id], &[&target]).await;
    let (all, first) = (ids(2), bench.node.wall());
    let later = Wall(first.0 + 7);
    for (id, now) in all.iter().zip([first, later]) {
        bench.put(id, 10, None).await;
        let keep = |reply| Job::KeepHint { id: id.clone(), owner: target.id, now, reply };
        assert!(bench.node.lane.run(keep).await.unwrap());
    }
    let give_up = |reply| Job::GiveUpHint { id: all[0].clone(), owner: target.id, since: first, reply };
    assert!(bench.node.lane.run(give_up).await.unwrap());
    let since = || bench.node.lock_hints().of_target(target.id).since;
    assert_eq!(since(), first, "nobody has looked");
    tokio::time::advance(HINT_BACKOFF_MAX).await;
    target.refuse(true);
    deliver_to(&bench.node, target.id).await;
    assert_eq!(since(), later);
}
