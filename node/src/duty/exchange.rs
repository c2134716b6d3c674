//! Active anti-entropy: compares Merkle trees with one other node after the other, and repairs what differs.
//!
//! ```text
//!   every second, the next peer    all roots in one question: a converged cluster stops here
//!   a root differs                 branches, then slots of those that differ
//!   a slot differs twice, 2 s apart, and never was equal in between
//!                                  keys and digests of both sides, and the records of those that differ:
//!                                  theirs is merged here, and what came of it is merged there
//! ```
//!
//! No read of a client is needed for replicas to become equal, and no fallback takes part: only owners of a partition
//! compare it, under one table. It moves a bounded number of bytes in a second and does less while clients are served.

use crate::lane::Job;
use crate::limits::{AAE_APART, AAE_EVERY, AAE_ROOTS_MAX, AAE_SLOTS_MAX};
use crate::node::Node;
use crate::node::exchange::{Exchange, Only, Silent};
use crate::world::World;
use ring::ids::{NodeId, Partition};
use ring::tree::{Doubts, Group, Slot};
use std::collections::BTreeSet;
use tokio::sync::watch;

/// Runs until the shutdown.
pub async fn run<W: World>(node: Node<W>, mut shutdown: watch::Receiver<bool>) {
    let mut tick = tokio::time::interval(AAE_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut doubts = Doubts::default();
    let mut turn = 0;
    loop {
        tokio::select! {
            biased;
            _ = shutdown.changed() => return,
            _ = tick.tick() => {}
        }
        tokio::select! {
            biased;
            _ = shutdown.changed() => return,
            () = round(&node, &mut doubts, turn) => {}
        }
        turn += 1;
    }
}

async fn round<W: World>(node: &Node<W>, doubts: &mut Doubts, turn: usize) {
    build(node).await;
    let (snapshot, doubted) = (node.cluster.snapshot(), node.cluster.doubted());
    let members: BTreeSet<NodeId> =
        snapshot.table.nodes().iter().copied().filter(|peer| *peer != node.id()).collect();
    doubts.keep(&members);
    {
        let mut aae = node.lock_aae();
        aae.peers.retain(|peer, _| members.contains(peer));
        let ns = snapshot.ns.all();
        aae.same.retain(|(peer, group), _| members.contains(peer) && ns.contains(&group.n));
    }
    let peers: Vec<NodeId> = members.iter().copied().filter(|peer| !doubted.contains(peer)).collect();
    if node.is_joining() || peers.is_empty() || !node.may_spread() {
        return;
    }
    let mut turns = urgent(node, &peers);
    turns.insert(peers[turn % peers.len()]);
    for peer in turns {
        match meet(&mut Exchange::new(node, peer), doubts).await {
            Ok(()) => met(node, peer),
            Err(Silent) => tracing::debug!(%peer, "an exchange was given up"),
        }
    }
}

/// Whom a partition is to be compared with before its turn: a hint of it was given up.
fn urgent<W: World>(node: &Node<W>, peers: &[NodeId]) -> BTreeSet<NodeId> {
    let snapshot = node.cluster.snapshot();
    let mut hints = node.lock_hints();
    for (partition, left) in &mut hints.urgent {
        let owners = || snapshot.table.owners(*partition, snapshot.n_most()).iter().copied();
        left.get_or_insert_with(|| owners().filter(|owner| *owner != node.id()).collect());
    }
    let left: BTreeSet<NodeId> = hints.urgent.values().flatten().flatten().copied().collect();
    left.into_iter().filter(|peer| peers.contains(peer)).collect()
}

/// Everything that both own was compared: what is urgent with this peer is so no longer. A slot that differs is due at
/// the next round, which the trees themselves see to.
fn met<W: World>(node: &Node<W>, peer: NodeId) {
    let mut hints = node.lock_hints();
    hints.urgent.retain(|_, left| {
        left.as_mut().is_none_or(|left| {
            left.remove(&peer);
            !left.is_empty()
        })
    });
}

/// Builds whatever tree does not stand: all of them after a start, or after a bucket got another n.
pub(super) async fn build<W: World>(node: &Node<W>) {
    let snapshot = node.cluster.snapshot();
    node.lock_trees().set_ns(&snapshot.ns);
    for partition in (0..snapshot.view.partitions).map(Partition) {
        let mut stands = node.lock_trees().stands(partition);
        while !stands {
            match node.lane.run(|reply| Job::GrowTree { partition, reply }).await {
                Ok(whole) => stands = whole,
                Err(refusal) => {
                    tracing::warn!(%refusal, partition = partition.0, "a tree can't be built");
                    break;
                }
            }
        }
    }
}

/// Compares everything that this node and a peer both own. A tree that is being built on one side holds up no other one, but then
/// the two have not met.
async fn meet<W: World>(exchange: &mut Exchange<'_, W>, doubts: &mut Doubts) -> Result<(), Silent> {
    let (node, peer) = (exchange.node, exchange.peer);
    let groups = node.shared_with(peer);
    let (mut differ, mut is_whole) = (0, true);
    for some in groups.chunks(AAE_ROOTS_MAX) {
        let same = exchange.same_roots(some).await?;
        for (group, same) in some.iter().zip(same) {
            let Some(same) = same else {
                is_whole = false;
                continue;
            };
            if same {
                doubts.look(peer, *group, &BTreeSet::new(), node.now(), AAE_APART);
                let now = node.now();
                node.lock_aae().same.insert((peer, *group), now);
            } else {
                differ += 1;
                look_closer(exchange, *group, doubts).await?;
            }
        }
    }
    if !is_whole {
        return Err(Silent);
    }
    let wall = node.wall();
    let mut aae = node.lock_aae();
    aae.exchanges += 1;
    aae.last = Some(wall);
    aae.peers.insert(peer, (wall, groups.len(), differ));
    Ok(())
}

/// Which slots of a tree differ, and what is to be done about it.
async fn look_closer<W: World>(
    exchange: &mut Exchange<'_, W>,
    group: Group,
    doubts: &mut Doubts,
) -> Result<(), Silent> {
    let slots = exchange.differing_slots(group).await?;
    let due = doubts.look(exchange.peer, group, &slots, exchange.node.now(), AAE_APART);
    let due: Vec<Slot> = due.into_iter().collect();
    for some in due.chunks(AAE_SLOTS_MAX) {
        let came = exchange.reconcile(group, some, &Only::default()).await?;
        if came.differences == 0 {
            // The leaves agree and the hashes over them did not: then one of the trees is not that of its leaves.
            exchange.node.lock_trees().clear(group.partition);
        }
        doubts.settle(exchange.peer, group, &some.iter().copied().collect());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Bench, ME, ids};
    use crate::limits::AAE_REPAIRS_MAX;
    use ring::bucket::BucketSettings;
    use ring::ids::ObjectId;
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
}
