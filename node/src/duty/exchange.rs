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

use crate::cluster::Snapshot;
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
    forget_the_gone(node, &members);
    let peers: Vec<NodeId> = members.iter().copied().filter(|peer| !doubted.contains(peer)).collect();
    if node.is_joining() || peers.is_empty() || !node.may_spread() {
        return;
    }
    have_compared(node, &doubted).await;
    let mut turns = urgent(node, &peers);
    turns.insert(peers[turn % peers.len()]);
    for peer in turns {
        match meet(&mut Exchange::new(node, peer), doubts).await {
            Ok(()) => met(node, peer),
            Err(Silent) => tracing::debug!(%peer, "an exchange was given up"),
        }
    }
}

/// Nothing is urgent with somebody who is a member no more.
fn forget_the_gone<W: World>(node: &Node<W>, members: &BTreeSet<NodeId>) {
    node.lock_hints().urgent.retain(|_, left| {
        left.as_mut().is_none_or(|left| {
            left.retain(|peer| members.contains(peer));
            !left.is_empty()
        })
    });
}

/// What is urgent and this node does not own, or not in every bucket, its trees say nothing of. Owners compare it, one partition in a
/// round, once all of them are there.
async fn have_compared<W: World>(node: &Node<W>, doubted: &BTreeSet<NodeId>) {
    let snapshot = node.cluster.snapshot();
    let all_are_there = |partition: &Partition| {
        let owners = snapshot.table.owners(*partition, snapshot.n_most());
        !owners.iter().any(|owner| doubted.contains(owner))
    };
    let next = {
        let mut hints = node.lock_hints();
        // With whom it was still to be compared was said while it was owned here.
        let others: Vec<Partition> =
            hints.urgent.keys().copied().filter(|p| !owns(node, &snapshot, *p)).collect();
        hints.urgent.extend(others.iter().map(|partition| (*partition, None)));
        others.into_iter().find(all_are_there)
    };
    let Some(partition) = next else { return };
    // Whoever gives up another hint of it meanwhile says that nobody has compared it.
    node.lock_hints().urgent.insert(partition, Some(BTreeSet::from([node.id()])));
    let came = node.repair_somewhere(partition, &Only::default()).await;
    let mut hints = node.lock_hints();
    if matches!(came, Some((_, true))) && hints.urgent.get(&partition).is_some_and(Option::is_some) {
        hints.urgent.remove(&partition);
    } else {
        hints.urgent.insert(partition, None);
    }
}

/// Whether this node owns the partition in every bucket.
fn owns<W: World>(node: &Node<W>, snapshot: &Snapshot, partition: Partition) -> bool {
    let least = snapshot.ns.all().into_iter().min().unwrap_or_default();
    snapshot.table.owners(partition, usize::from(least)).contains(&node.id())
}

/// Whom a partition is to be compared with before its turn: a hint of it was given up.
fn urgent<W: World>(node: &Node<W>, peers: &[NodeId]) -> BTreeSet<NodeId> {
    let snapshot = node.cluster.snapshot();
    let mut hints = node.lock_hints();
    for (partition, left) in hints.urgent.iter_mut().filter(|(place, _)| owns(node, &snapshot, **place)) {
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
        // The leaves agree and the hashes over them did not: then one of the trees is not that of its leaves. Or a key is written so
        // often that it was on its way at both looks.
        if came.differences == 0 && !exchange.node.is_of_its_leaves(group, some) {
            exchange.node.lock_trees().clear(group.partition);
        }
        doubts.settle(exchange.peer, group, &some.iter().copied().collect());
    }
    Ok(())
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
