//! Exchanges with peers that are full, being built, or wrong, and what is urgent.

use super::*;
use crate::bench::{Bench, ME, ids};
use crate::limits::AAE_REPAIRS_MAX;
use ring::bucket::BucketSettings;
use ring::ids::ObjectId;
use ring::wire::record::Digest;
use std::sync::atomic::Ordering;

/// Some of what it lacks is tried, then no more; and deletions, which take no room, go all the same.
#[tokio::test(start_paused = true)]
async fn a_peer_whose_disk_is_full_is_sent_only_what_is_dead() {
    const BYTES: usize = 10_000;
    let peer = NodeId(11);
    let bench = Bench::start(1, &[ME, peer], &[]).await;
    let full = bench.beside(peer).await;
    let all = ids(20 * AAE_REPAIRS_MAX);
    for id in &all {
        bench.put(id, BYTES, None).await;
    }
    let dead = &all[all.len() - 1];
    bench.delete(dead).await;
    for one in [&bench, &full] {
        build(&one.node).await;
    }
    full.node.crowded.store(true, Ordering::Relaxed);
    let mut exchange = Exchange::new(&bench.node, peer);
    let group = Group { partition: Partition(0), n: 3 };
    let slots: Vec<Slot> = exchange.differing_slots(group).await.unwrap().into_iter().collect();
    for some in slots.chunks(AAE_SLOTS_MAX) {
        exchange.reconcile(group, some, &Only::default()).await.unwrap();
    }
    assert_eq!(full.kept(), std::slice::from_ref(dead));
    let sent = bench.node.lock_aae().bytes as usize / BYTES;
    assert!((1..=3 * AAE_REPAIRS_MAX).contains(&sent), "{sent} records were sent");
    full.node.crowded.store(false, Ordering::Relaxed);
    let mut exchange = Exchange::new(&bench.node, peer);
    for some in slots.chunks(AAE_SLOTS_MAX) {
        exchange.reconcile(group, some, &Only::default()).await.unwrap();
    }
    assert_eq!(full.kept().len(), all.len());
}

/// Whether all trees stand, before anything is built anew.
fn stand(bench: &Bench) -> bool {
    let ns = bench.node.cluster.snapshot().ns.clone();
    let mut trees = bench.node.lock_trees();
    trees.set_ns(&ns);
    trees.unbuilt() == 0
}

/// The first of two partitions has no tree at the peer; the other one has a key that the peer lacks.
#[tokio::test(start_paused = true)]
async fn a_tree_that_is_being_built_holds_up_no_other() {
    let peer = NodeId(11);
    let bench = Bench::start(2, &[ME, peer], &[]).await;
    let other = bench.beside(peer).await;
    let of = |id: &ObjectId| bench.node.cluster.snapshot().table.partition_of(id);
    let id = ids(50).into_iter().find(|id| of(id) == Partition(1)).unwrap();
    bench.put(&id, 10, None).await;
    for one in [&bench, &other] {
        build(&one.node).await;
    }
    other.node.lock_trees().clear(Partition(0));
    let mut doubts = Doubts::default();
    let mut meets = async || {
        let met = meet(&mut Exchange::new(&bench.node, peer), &mut doubts).await;
        tokio::time::sleep(AAE_APART).await;
        met.is_ok()
    };
    assert!(!meets().await && !meets().await, "not everything was compared");
    assert_eq!((other.kept().len(), bench.node.lock_aae().exchanges), (1, 0));
    build(&other.node).await;
    assert!(meets().await);
    assert_eq!(bench.node.lock_aae().exchanges, 1);
}

#[tokio::test(start_paused = true)]
async fn only_another_n_has_the_trees_built_anew() {
    let bench = Bench::start(4, &[ME], &[]).await;
    build(&bench.node).await;
    let configure = |n| {
        let settings = BucketSettings { n, ..BucketSettings::default() };
        bench.update(|view| assert!(view.set_bucket("b".into(), ME, Some(settings)).unwrap()));
    };
    configure(BucketSettings::default().n);
    assert!(stand(&bench), "a bucket that says what holds anyway");
    configure(1);
    assert!(!stand(&bench));
    build(&bench.node).await;
    assert!(stand(&bench));
}

/// Two nodes that hold the same, of whom one has a tree that is not that of its leaves. That one is built anew, and no other.
#[tokio::test(start_paused = true)]
async fn a_tree_goes_only_if_it_is_wrong_itself() {
    let peer = NodeId(11);
    for wrong_here in [false, true] {
        let bench = Bench::start(1, &[ME, peer], &[]).await;
        let other = bench.beside(peer).await;
        let id = &ids(1)[0];
        let record = bench.put(id, 10, None).await;
        other.node.merge_here(id.clone(), record, None, true).await.unwrap();
        for one in [&bench, &other] {
            build(&one.node).await;
        }
        let wrong = if wrong_here { &bench } else { &other };
        let stray = [None, Some(Digest(7))];
        wrong.node.lock_trees().change(Partition(0), Slot(5), b"", &ids(2)[1], stray);
        let mut doubts = Doubts::default();
        for _ in 0..2 {
            meet(&mut Exchange::new(&bench.node, peer), &mut doubts).await.unwrap();
            tokio::time::sleep(AAE_APART).await;
        }
        assert_eq!(bench.node.lock_trees().stands(Partition(0)), !wrong_here, "wrong here: {wrong_here}");
    }
}
