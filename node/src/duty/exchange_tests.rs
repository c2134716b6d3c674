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

/// A hint was given up of what this node does not own: it can't compare it, and the owners do.
#[tokio::test(start_paused = true)]
async fn owners_compare_what_is_urgent_and_not_owned_here() {
    let owners = [11, 12, 13].map(NodeId);
    let bench = Bench::start(1, &owners, &[]).await;
    let mut others = Vec::new();
    for owner in owners {
        others.push(bench.beside(owner).await);
    }
    for other in &others {
        for owner in owners.into_iter().filter(|owner| *owner != other.node.id()) {
            other.node.pool.set_peer(owner, crate::bench::said(owner).peer);
        }
    }
    others[0].put(&ids(1)[0], 10, None).await;
    for other in &others {
        build(&other.node).await;
    }
    bench.node.lock_hints().drop_one(Partition(0));
    have_compared(&bench.node, &BTreeSet::from([owners[1]])).await;
    assert!(bench.node.lock_hints().urgent.contains_key(&Partition(0)), "one of them is away");
    have_compared(&bench.node, &BTreeSet::new()).await;
    assert!(bench.node.lock_hints().urgent.is_empty());
    assert!(others.iter().all(|other| other.kept() == ids(1)));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_urgent_with_who_is_gone() {
    let (stays, gone) = (NodeId(11), NodeId(12));
    let bench = Bench::start(4, &[ME, stays], &[]).await;
    let all = [Some(BTreeSet::from([gone])), Some(BTreeSet::from([gone, stays])), None];
    bench.node.lock_hints().urgent.extend((0..3).map(Partition).zip(all));
    forget_the_gone(&bench.node, &BTreeSet::from([stays]));
    let left = [(Partition(1), Some(BTreeSet::from([stays]))), (Partition(2), None)];
    assert_eq!(bench.node.lock_hints().urgent, left.into());
}
