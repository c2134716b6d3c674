//! Spreads the view: at every change to everybody, and every half second to one node drawn at random.
//!
//! Push-pull: the digest goes out, a view comes back only where it differs, and goes out again if that taught the other
//! side nothing new of ours. Nodes that are believed to be dead are asked as well, or a long partition would never heal, and each
//! time one of those that this node alone does not hear (`peer/hearing.rs`); a node that hears nobody goes back to its seeds.

use crate::limits::{GOSSIP_EVERY, GOSSIP_FANOUT, GOSSIP_ROUNDS_MAX, GOSSIP_TIMEOUT};
use crate::node::Node;
use crate::world::World;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rand::seq::IndexedRandom;
use ring::ids::NodeId;
use ring::members::{Status, View};
use ring::wire::peer::{Answer, Ask, Message};
use std::collections::BTreeSet;
use tokio::sync::watch;

/// Runs until the shutdown.
pub async fn run<W: World>(node: Node<W>, seeds: Vec<String>, mut shutdown: watch::Receiver<bool>) {
    let mut rng = node.world.rng("gossip");
    let mut changes = node.cluster.changes();
    let mut tick = tokio::time::interval(GOSSIP_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut persisted, mut refused_before) = (0, None);
    // One that is slow to answer delays nobody else's news.
    let (mut running, mut asked) = (FuturesUnordered::new(), BTreeSet::<NodeId>::new());
    loop {
        let told = tokio::select! {
            biased;
            _ = shutdown.changed() => return,
            Some(to) = running.next(), if !asked.is_empty() => {
                asked.remove(&to);
                continue;
            }
            Ok(()) = changes.changed() => others(&node),
            _ = tick.tick() => {
                let (others, mute) = (others(&node), node.pool.mute().borrow().clone());
                // Nobody asks whom he doubts, so somebody has to try.
                let mute: Vec<NodeId> = others.iter().filter(|id| mute.contains(id)).copied().collect();
                others.choose(&mut rng).into_iter().chain(mute.choose(&mut rng)).copied().collect()
            }
        };
        super::past::keep_asked(&node).await;
        super::past::act(&node).await;
        let refused = super::past::come_in(&node).err().map(|error| error.to_string());
        // The same word again and again is said once.
        if let Some(why) = refused.as_ref().filter(|_| refused != refused_before) {
            tracing::error!(why, "this node's description was refused");
        }
        refused_before = refused;
        introduce(&node);
        persisted = persist(&node, persisted).await;
        // However many hang, one more is asked: each for so long as one question may take.
        let room = GOSSIP_FANOUT.saturating_sub(asked.len()).max(1);
        let told: Vec<NodeId> = told.into_iter().filter(|to| !asked.contains(to)).take(room).collect();
        asked.extend(&told);
        running.extend(told.into_iter().map(|to| meet(&node, to)));
        if node.heard.load().is_empty() {
            ask_seeds(&node, &seeds).await;
        }
    }
}

pub(super) fn others<W: World>(node: &Node<W>) -> Vec<NodeId> {
    let snapshot = node.cluster.snapshot();
    let alive = snapshot.view.members.iter().filter(|(_, m)| m.status != Status::Removed);
    alive.map(|(id, _)| *id).filter(|id| *id != node.id()).collect()
}

/// Tells the connection pool where everybody can be reached.
pub fn introduce<W: World>(node: &Node<W>) {
    let snapshot = node.cluster.snapshot();
    for (id, member) in snapshot.view.members.iter().filter(|(id, _)| **id != node.id()) {
        if member.status == Status::Removed {
            node.pool.remove_peer(*id);
        } else {
            node.pool.set_peer(*id, &member.description.peer);
        }
    }
}

/// A view survives a restart before this node says that it acts by it.
async fn persist<W: World>(node: &Node<W>, persisted: u64) -> u64 {
    let snapshot = node.cluster.snapshot();
    let digest = snapshot.view.digest();
    if digest == persisted {
        super::shape::acknowledge(node, &snapshot);
        return persisted;
    }
    match node.keep_view().await {
        Ok(kept) => {
            super::shape::acknowledge(node, &kept);
            kept.view.digest()
        }
        Err(refusal) => {
            tracing::warn!(%refusal, "the view could not be kept");
            persisted
        }
    }
}

/// A node that hears nobody asks its seeds by address: everybody may have moved while it was away, or it may.
async fn ask_seeds<W: World>(node: &Node<W>, seeds: &[String]) {
    for seed in seeds {
        let view = node.cluster.snapshot().view.clone();
        let ask = Message { head: Ask::Gossip { digest: view.digest() }, body: view.encode() };
        let Ok((peer, answer)) = node.pool.call_address(seed, ask.encode(), GOSSIP_TIMEOUT).await else {
            continue;
        };
        if node.cluster.snapshot().is_removed(peer.node) {
            continue;
        }
        if let Ok(Message { head: Answer::View, body }) = Message::<Answer>::decode(&answer)
            && let Ok(theirs) = View::decode(&body)
        {
            node.take_view(&theirs);
        }
    }
}

async fn meet<W: World>(node: &Node<W>, to: NodeId) -> NodeId {
    // What changes meanwhile is told in the same breath.
    for _ in 0..GOSSIP_ROUNDS_MAX {
        let known = node.cluster.snapshot().view.digest();
        match exchange(node, to).await {
            Some(true) if known == node.cluster.snapshot().view.digest() => break,
            Some(_) => {}
            None => break,
        }
    }
    to
}

/// One round with one node. Whether both know the same now; nothing if it does not answer.
pub async fn exchange<W: World>(node: &Node<W>, to: NodeId) -> Option<bool> {
    let mine = node.cluster.snapshot().view.digest();
    let answer = node.ask(to, Message::of(Ask::Gossip { digest: mine }), GOSSIP_TIMEOUT).await;
    let theirs = match answer {
        Ok(Message { head: Answer::Same, .. }) => {
            node.past.meet();
            return Some(true);
        }
        Ok(Message { head: Answer::View, body }) => match View::decode(&body) {
            Ok(view) => view,
            Err(_) => return None,
        },
        _ => return None,
    };
    node.take_view(&theirs);
    let view = node.cluster.snapshot();
    if view.view == theirs {
        return Some(true);
    }
    let push = Message { head: Ask::Gossip { digest: view.view.digest() }, body: view.view.encode() };
    let answer = node.ask(to, push, GOSSIP_TIMEOUT).await.ok()?;
    Some(matches!(answer, Message { head: Answer::Same, .. }))
}

#[cfg(test)]
#[path = "gossip_tests.rs"]
mod tests;
