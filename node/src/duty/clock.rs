//! Keeps the cluster's clock: asks others what theirs says, and leaves it to the next start.
//!
//! What is made of the answers is decided in `ring/src/clock.rs`. A start asks everybody once before it serves anybody.

use super::gossip;
use crate::lane::Job;
use crate::limits::{CLOCK_EVERY, CLOCK_FANOUT, CLOCK_KEEP_EVERY, CLOCK_SURE_EVERY, CLOCK_TIMEOUT};
use crate::node::Node;
use crate::store::{Batch, Family, keys};
use crate::world::World;
use bytes::Bytes;
use futures_util::future::join_all;
use rand::seq::IndexedRandom;
use ring::clock::Say;
use ring::ids::NodeId;
use ring::wire::peer::{Answer, Ask, Message};
use tokio::sync::watch;

/// Runs until the shutdown.
pub async fn run<W: World>(node: Node<W>, mut shutdown: watch::Receiver<bool>) {
    let mut rng = node.world.rng("clock");
    let mut tick = tokio::time::interval(CLOCK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut keeping = tokio::time::interval(CLOCK_KEEP_EVERY);
    keeping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = shutdown.changed() => return,
            _ = keeping.tick() => keep(&node).await,
            _ = tick.tick() => {
                let others = gossip::others(&node);
                let fanout = if node.lock_clock().is_sure() { CLOCK_FANOUT } else { others.len() };
                let asked: Vec<NodeId> = others.sample(&mut rng, fanout).copied().collect();
                ask(&node, &asked).await;
                if node.lock_clock().is_sure() {
                    tick.reset_after(CLOCK_SURE_EVERY);
                }
            }
        }
    }
}

/// Asks everybody, so that a start shows the right date from the beginning.
pub async fn set<W: World>(node: &Node<W>) {
    ask(node, &gossip::others(node)).await;
}

async fn ask<W: World>(node: &Node<W>, whom: &[NodeId]) {
    join_all(whom.iter().map(|from| hear(node, *from))).await;
    let snapshot = node.cluster.snapshot();
    let members = snapshot.view.living().map(|(id, _)| id).collect();
    let owners = snapshot.table.nodes().iter().copied().collect();
    let say = Say { me: node.id(), members: &members, owners: &owners };
    node.lock_clock().turn(&say, node.world.wall(), node.now());
}

async fn hear<W: World>(node: &Node<W>, from: NodeId) {
    let asked = node.now();
    let answer = node.ask(from, Message::of(Ask::Clock), CLOCK_TIMEOUT).await;
    if let Ok(Message { head: Answer::Clock(said), .. }) = answer {
        node.lock_clock().hear(from, said, asked, node.now());
    }
}

/// The next start shows no less than this one has. Where nothing expires nobody would notice.
async fn keep<W: World>(node: &Node<W>) {
    if node.lock_due().at().is_none() {
        return;
    }
    let Some(kept) = node.lock_clock().keep(node.world.wall(), node.now()) else { return };
    let mut batch = Batch::default();
    batch.put(Family::Meta, keys::CLOCK, Bytes::copy_from_slice(&kept.to_bytes()));
    if let Err(refusal) = node.lane.run(|reply| Job::Raw { batch, sync: true, reply }).await {
        tracing::warn!(%refusal, "the clock could not be kept for the next start");
    }
}
