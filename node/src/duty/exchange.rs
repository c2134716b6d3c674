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

use super::urgent;
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
    urgent::forget_the_gone(node, &members);
    let peers: Vec<NodeId> = members.iter().copied().filter(|peer| !doubted.contains(peer)).collect();
    if node.is_joining() || peers.is_empty() || !node.may_spread() {
        return;
    }
    let mut turns = urgent::with(node, &peers);
    turns.insert(peers[turn % peers.len()]);
    for peer in turns {
        match meet(&mut Exchange::new(node, peer), doubts).await {
            Ok(()) => urgent::met(node, peer),
            Err(Silent) => tracing::debug!(%peer, "an exchange was given up"),
        }
    }
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
        if came.differences == 0 {
            let slots = some.to_vec();
            let _ = exchange.node.lane.run(|reply| Job::CheckTree { group, slots, reply }).await;
        }
        doubts.settle(exchange.peer, group, &some.iter().copied().collect());
    }
    Ok(())
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
