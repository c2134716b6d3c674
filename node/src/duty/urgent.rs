//! What is to be compared before its turn: a hint of it was given up or not taken, so an owner lacks what only the comparison of trees
//! brings there now.
//!
//! ```text
//!   this node owns it in every bucket    its own exchange sees the peers concerned first (duty/exchange.rs)
//!   it does not                          its trees say nothing of it: owners are asked to compare it, one partition after the other
//! ```
//!
//! The second has a loop of its own. It waits for others, a minute for each owner that is asked and says nothing, and the exchange
//! of what this node owns must not wait with it; and whichever partition can't be compared, the others have their turn.

use crate::cluster::Snapshot;
use crate::limits::AAE_EVERY;
use crate::node::Node;
use crate::node::exchange::Only;
use crate::world::World;
use ring::ids::{NodeId, Partition};
use std::collections::BTreeSet;
use tokio::sync::watch;

/// Has owners compare what is not owned here. Runs until the shutdown.
pub async fn run<W: World>(node: Node<W>, mut shutdown: watch::Receiver<bool>) {
    let mut tick = tokio::time::interval(AAE_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = None;
    loop {
        tokio::select! {
            biased;
            _ = shutdown.changed() => return,
            _ = tick.tick() => {}
        }
        if node.is_joining() || !node.may_spread() {
            continue;
        }
        let doubted = node.cluster.doubted();
        tokio::select! {
            biased;
            _ = shutdown.changed() => return,
            tried = have_compared(&node, &doubted, last) => last = tried,
        }
    }
}

/// The next one behind the last of which all owners are there. Which one it was.
async fn have_compared<W: World>(
    node: &Node<W>,
    doubted: &BTreeSet<NodeId>,
    last: Option<Partition>,
) -> Option<Partition> {
    let partition = next(node, doubted, last)?;
    // Whoever gives up another hint of it meanwhile says that nobody has compared it.
    node.lock_hints().urgent.insert(partition, Some(BTreeSet::from([node.id()])));
    let came = node.repair_somewhere(partition, &Only::default()).await;
    let mut hints = node.lock_hints();
    if matches!(came, Some((_, true))) && hints.urgent.get(&partition).is_some_and(Option::is_some) {
        hints.urgent.remove(&partition);
    } else {
        hints.urgent.insert(partition, None);
    }
    Some(partition)
}

fn next<W: World>(node: &Node<W>, doubted: &BTreeSet<NodeId>, last: Option<Partition>) -> Option<Partition> {
    let snapshot = node.cluster.snapshot();
    let (n_least, n_most) = (n_least(&snapshot), snapshot.n_most());
    let others: Vec<Partition> = {
        let mut hints = node.lock_hints();
        let others: Vec<Partition> =
            hints.urgent.keys().copied().filter(|p| !owns(node, &snapshot, *p, n_least)).collect();
        // With whom it was still to be compared was said while it was owned here.
        hints.urgent.extend(others.iter().map(|partition| (*partition, None)));
        others
    };
    let are_all_there = |partition: &Partition| {
        let owners = snapshot.table.owners(*partition, n_most);
        !owners.iter().any(|owner| doubted.contains(owner))
    };
    let (before, behind): (Vec<_>, Vec<_>) = others
        .into_iter()
        .filter(are_all_there)
        .partition(|partition| last.is_some_and(|last| *partition <= last));
    behind.into_iter().chain(before).next()
}

/// Whom something is to be compared with before its turn.
pub(super) fn with<W: World>(node: &Node<W>, peers: &[NodeId]) -> BTreeSet<NodeId> {
    let snapshot = node.cluster.snapshot();
    let (n_least, n_most) = (n_least(&snapshot), snapshot.n_most());
    let mut hints = node.lock_hints();
    let owned = hints.urgent.iter_mut().filter(|(place, _)| owns(node, &snapshot, **place, n_least));
    for (partition, left) in owned {
        let owners = || snapshot.table.owners(*partition, n_most).iter().copied();
        left.get_or_insert_with(|| owners().filter(|owner| *owner != node.id()).collect());
    }
    let left: BTreeSet<NodeId> = hints.urgent.values().flatten().flatten().copied().collect();
    left.into_iter().filter(|peer| peers.contains(peer)).collect()
}

/// Everything that both own was compared: what is urgent with this peer is so no longer. A slot that differs is due at
/// the next round, which the trees themselves see to.
pub(super) fn met<W: World>(node: &Node<W>, peer: NodeId) {
    retain(node, |other| *other != peer);
}

/// Nothing is urgent with somebody who is a member no more.
pub(super) fn forget_the_gone<W: World>(node: &Node<W>, members: &BTreeSet<NodeId>) {
    // What is being compared by others stands as this node's own.
    retain(node, |peer| *peer == node.id() || members.contains(peer));
}

fn retain<W: World>(node: &Node<W>, is_left: impl Fn(&NodeId) -> bool) {
    node.lock_hints().urgent.retain(|_, left| {
        left.as_mut().is_none_or(|left| {
            left.retain(&is_left);
            !left.is_empty()
        })
    });
}

/// The fewest replicas that any bucket has.
fn n_least(snapshot: &Snapshot) -> usize {
    snapshot.ns.all().into_iter().min().map_or(0, usize::from)
}

/// Whether this node owns the partition in every bucket.
fn owns<W: World>(node: &Node<W>, snapshot: &Snapshot, partition: Partition, n_least: usize) -> bool {
    snapshot.table.owners(partition, n_least).contains(&node.id())
}

#[cfg(test)]
#[path = "urgent_tests.rs"]
mod tests;
