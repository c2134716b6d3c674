//! What is urgent: who compares it, in which order, and until when.

use super::*;
use crate::bench::{Bench, ME, ids};
use crate::duty::exchange;
use ring::ids::ObjectId;

/// Real nodes beside this one, which all know one another.
async fn all_beside(bench: &Bench, ids: &[NodeId]) -> Vec<Bench> {
    let mut others = Vec::new();
    for id in ids {
        others.push(bench.beside(*id).await);
    }
    for other in &others {
        for id in ids.iter().filter(|id| **id != other.node.id()) {
            other.node.pool.set_peer(*id, crate::bench::said(*id).peer);
        }
    }
    others
}

/// A hint was given up of what this node does not own: it can't compare it, and the owners do.
#[tokio::test(start_paused = true)]
async fn owners_compare_what_is_urgent_and_not_owned_here() {
    let owners = [11, 12, 13].map(NodeId);
    let bench = Bench::start(1, &owners, &[]).await;
    let others = all_beside(&bench, &owners).await;
    others[0].put(&ids(1)[0], 10, None).await;
    for other in &others {
        exchange::build(&other.node).await;
    }
    bench.node.lock_hints().drop_one(Partition(0));
    let away = BTreeSet::from([owners[1]]);
    assert_eq!(have_compared(&bench.node, &away, None).await, None);
    assert!(bench.node.lock_hints().urgent.contains_key(&Partition(0)), "one of them is away");
    assert_eq!(have_compared(&bench.node, &BTreeSet::new(), None).await, Some(Partition(0)));
    assert!(bench.node.lock_hints().urgent.is_empty());
    assert!(others.iter().all(|other| other.kept() == ids(1)));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_urgent_with_who_is_gone() {
    let (stays, gone) = (NodeId(11), NodeId(12));
    let bench = Bench::start(4, &[ME, stays], &[]).await;
    let all = [Some(BTreeSet::from([gone])), Some(BTreeSet::from([gone, stays])), None];
    bench.node.lock_hints().urgent.extend((0..3).map(Partition).zip(all));
    // Others are asked to compare this one.
    bench.node.lock_hints().urgent.insert(Partition(3), Some(BTreeSet::from([ME])));
    forget_the_gone(&bench.node, &BTreeSet::from([stays]));
    let left = [
        (Partition(1), Some(BTreeSet::from([stays]))),
        (Partition(2), None),
        (Partition(3), Some(BTreeSet::from([ME]))),
    ];
    assert_eq!(bench.node.lock_hints().urgent, left.into());
}

/// One that can't be compared, whoever's fault that is, keeps none from its turn.
#[tokio::test(start_paused = true)]
async fn each_has_its_turn_whatever_came_of_the_one_before() {
    let bench = Bench::start(8, &[11, 12, 13].map(NodeId), &[]).await;
    let urgent = [1, 4, 6].map(Partition);
    urgent.into_iter().for_each(|partition| bench.node.lock_hints().drop_one(partition));
    let (mut last, mut tried) = (None, Vec::new());
    for _ in 0..4 {
        last = have_compared(&bench.node, &BTreeSet::new(), last).await;
        tried.extend(last);
    }
    assert_eq!(tried, [1, 4, 6, 1].map(Partition), "nobody answers");
    let left: Vec<Partition> = bench.node.lock_hints().urgent.keys().copied().collect();
    assert_eq!(left, urgent);
}

/// What this node owns has its peers named, and none of it is asked of others.
#[tokio::test(start_paused = true)]
async fn what_is_owned_here_is_compared_from_here() {
    let peers = [11, 12].map(NodeId);
    let bench = Bench::start(4, &[ME, peers[0], peers[1]], &[]).await;
    bench.node.lock_hints().drop_one(Partition(2));
    assert_eq!(have_compared(&bench.node, &BTreeSet::new(), None).await, None);
    assert_eq!(with(&bench.node, &peers), BTreeSet::from(peers));
    met(&bench.node, peers[0]);
    assert_eq!(with(&bench.node, &peers), BTreeSet::from([peers[1]]));
    met(&bench.node, peers[1]);
    assert!(bench.node.lock_hints().urgent.is_empty());
}

/// The first owner may lack what others know, so another one compares, with whoever else can.
#[tokio::test(start_paused = true)]
async fn who_may_be_behind_leaves_it_to_another_owner() {
    let peers = [11, 12].map(NodeId);
    let bench = Bench::start(8, &[ME, peers[0], peers[1]], &[]).await;
    let others = all_beside(&bench, &peers).await;
    let table = bench.node.cluster.snapshot().table.clone();
    let is_first = |id: &ObjectId| table.owners(table.partition_of(id), 3)[0] == ME;
    let id = ids(100).into_iter().find(is_first).unwrap();
    others[0].put(&id, 10, None).await;
    for other in &others {
        exchange::build(&other.node).await;
    }
    bench.node.past.hear_of(u64::from(u32::MAX));
    assert!(!bench.node.may_spread());
    let came = bench.node.repair_somewhere(table.partition_of(&id), &Only::default()).await;
    assert!(came.is_some_and(|(came, _)| came.repairs > 0));
    assert!(others.iter().all(|other| other.kept() == [id.clone()]));
}
