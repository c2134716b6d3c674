//! Handing on over links that carry small records and not large ones, and to owners that don't answer.

use super::*;
use crate::bench::{Bench, Peer, ids};
use tokio::time::advance;

/// 1 Mbit/s.
const NARROW: u64 = 125_000;
/// What takes 33 s over such a link, more than three times what anything waits for.
const LARGE: usize = 4 << 20;
/// Enough for every place to be found and for the link to carry what it can.
const ROUNDS_MAX: usize = 40;

/// A node that owns nothing holds copies of so many keys, one of them large. Two of the owners have them all, the third has none.
async fn holding(count: usize, large: usize) -> (Bench, [Peer; 3], Vec<ObjectId>) {
    let peers = [11, 12, 13].map(Peer::new);
    let owners = [0, 1, 2].map(|at: usize| peers[at].id);
    let bench = Bench::start(1, &owners, &[&peers[0], &peers[1], &peers[2]]).await;
    let ids = ids(count);
    for (at, id) in ids.iter().enumerate() {
        let record = bench.put(id, if at == large { LARGE } else { 10 }, None).await;
        for peer in &peers[..2] {
            peer.hold(id, &record);
        }
    }
    super::super::exchange::build(&bench.node).await;
    (bench, peers, ids)
}

/// Rounds until only these are left here.
async fn until_only(bench: &Bench, left: &[ObjectId], begin: &mut Begin) {
    for _ in 0..ROUNDS_MAX {
        round(&bench.node, begin).await;
        if bench.kept() == left {
            return;
        }
        advance(SURPLUS_EVERY).await;
    }
    panic!("{} records are left, and the next round begins at {begin:?}", bench.kept().len());
}

async fn all_but_the_large_one_go(count: usize, large: usize) {
    let (bench, peers, ids) = holding(count, large).await;
    peers[2].narrow(NARROW);
    let mut begin = Begin::new();
    until_only(&bench, &ids[large..=large], &mut begin).await;
    assert!(ids.iter().enumerate().all(|(at, id)| peers[2].holds(id) == (at != large)));
    peers[2].narrow(0);
    until_only(&bench, &[], &mut begin).await;
    assert!(peers[2].holds(&ids[large]) && begin.is_empty());
}

/// Behind the large one the link is busy for three rounds, so the place behind it outlives rounds in which nothing went.
#[tokio::test(start_paused = true)]
async fn a_record_too_large_for_its_link_keeps_no_other_one_here() {
    all_but_the_large_one_go(40, 20).await;
}

/// The large one is the last of its page, so it is the question of the next page that goes unanswered.
#[tokio::test(start_paused = true)]
async fn the_one_that_was_missed_is_known_on_the_next_page() {
    all_but_the_large_one_go(LACKS_ROWS_MAX + 40, LACKS_ROWS_MAX - 1).await;
}

/// One that is missed and followed by one that arrives was no reason to stop: two in a row are.
#[tokio::test(start_paused = true)]
async fn giving_halts_at_the_second_miss_in_a_row_also_from_call_to_call() {
    let peer = Peer::new(11);
    let bench = Bench::start(1, &[peer.id], &[&peer]).await;
    let ids = ids(4);
    let mut rows = Vec::new();
    for (at, id) in ids.iter().enumerate() {
        rows.push((id.clone(), bench.put(id, if at == 1 { LARGE } else { 10 }, None).await));
    }
    let mut giving = Giving::default();
    peer.narrow(NARROW);
    let given = give(&bench.node, peer.id, &rows[..2], &mut giving).await;
    assert!(given.halt.is_none() && given.refused == BTreeSet::from([ids[1].clone()]), "one was missed");
    // The link is still busy with it.
    let given = give(&bench.node, peer.id, &rows[2..], &mut giving).await;
    assert_eq!(given.halt.and_then(|halt| halt.last), Some(ids[1].clone()), "it goes on behind the first");
    assert_eq!(given.refused, ids[2..].iter().cloned().collect());
    peer.narrow(0);
    let given = give(&bench.node, peer.id, &rows, &mut giving).await;
    assert!(given.halt.is_none() && given.refused.is_empty());
    assert!(ids.iter().all(|id| peer.holds(id)));
}

/// Somebody who answers nothing is asked from the same place only so often; after that from the first key again.
#[tokio::test(start_paused = true)]
async fn a_place_is_given_up_where_nobody_answers() {
    let (bench, peers, _) = holding(40, 0).await;
    peers[2].narrow(1);
    let somewhere = keys::after(&keys::record_key(Partition(0), &ids(20)[19]));
    let mut begin = Begin::from([(Partition(0), (somewhere.clone(), 0))]);
    for tries in 1..=AGAIN_MAX {
        round(&bench.node, &mut begin).await;
        assert_eq!(begin.get(&Partition(0)), Some(&(somewhere.clone(), tries)));
    }
    round(&bench.node, &mut begin).await;
    assert!(begin.is_empty(), "{begin:?}");
    assert_eq!(bench.kept().len(), 40, "and nothing went that not every owner has");
}
