//! Liveness: SWIM (Das, Gupta, Motivala 2002) by the sans-I/O crate foca, over the peer protocol.
//!
//! It answers one question, "whom is it pointless to ask first?", and decides nothing: ownership and membership never
//! follow from it. A node is doubted when foca has declared it down, or when it has not been heard of for a while after
//! this node's start; or when others hear it and this node, which has asked it, does not (`peer/hearing.rs`). Its tables are
//! told to nobody; each node holds its own opinion.

use crate::limits::{SWIM_ANNOUNCE_EVERY, SWIM_GRACE};
use crate::node::Node;
use crate::world::World;
use bytes::Bytes;
use foca::{
    AccumulatingRuntime, Config, Foca, Identity, NoCustomBroadcast, PeriodicParams, PostcardCodec, Timer,
};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use rand::rngs::StdRng;
use ring::ids::NodeId;
use ring::wire::peer::{Ask, Message};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// A node in the eyes of the detector: it renews itself by raising `life`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Who {
    node: NodeId,
    life: u64,
}

impl Identity for Who {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        Some(Who { node: self.node, life: self.life + 1 })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, other: &Self) -> bool {
        self.life > other.life
    }
}

type Detector = Foca<Who, PostcardCodec, StdRng, NoCustomBroadcast>;
type Timers = FuturesUnordered<BoxFuture<'static, Timer<Who>>>;

/// A dead node is noticed in about two seconds: half a second until it is probed, and one and a half of suspicion.
fn config() -> Config {
    let one = NonZeroUsize::MIN;
    Config {
        probe_period: Duration::from_millis(500),
        probe_rtt: Duration::from_millis(200),
        num_indirect_probes: NonZeroUsize::MIN.saturating_add(2),
        max_transmissions: NonZeroU8::MIN.saturating_add(9),
        suspect_to_down_after: Duration::from_millis(1500),
        remove_down_after: Some(Duration::from_secs(3600)),
        max_packet_size: NonZeroUsize::MIN.saturating_add(16 << 10),
        notify_down_members: true,
        periodic_announce: None,
        periodic_announce_to_down_members: Some(PeriodicParams {
            frequency: Duration::from_secs(2),
            num_members: one,
        }),
        periodic_gossip: Some(PeriodicParams { frequency: Duration::from_millis(500), num_members: one }),
    }
}

/// Runs until the shutdown. `inbox` carries what other detectors sent. `life` is higher at each start of the node.
pub async fn run<W: World>(
    node: Node<W>,
    life: u64,
    mut inbox: mpsc::Receiver<Bytes>,
    mut shutdown: watch::Receiver<bool>,
) {
    let me = Who { node: node.id(), life };
    let mut detector: Detector = Foca::new(me, config(), node.world.rng("swim"), PostcardCodec);
    let (mut runtime, mut timers) = (AccumulatingRuntime::new(), Timers::new());
    let started = node.now();
    let mut tick = tokio::time::interval(SWIM_ANNOUNCE_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut mute, mut late) = (node.pool.mute(), node.pool.late());
    node.cluster.set_late(late.borrow_and_update().clone());
    loop {
        let done = tokio::select! {
            biased;
            _ = shutdown.changed() => return,
            Some(bytes) = inbox.recv() => detector.handle_data(&bytes, &mut runtime),
            Some(timer) = timers.next(), if !timers.is_empty() => detector.handle_timer(timer, &mut runtime),
            Ok(()) = mute.changed() => Ok(()),
            Ok(()) = late.changed() => {
                node.cluster.set_late(late.borrow_and_update().clone());
                Ok(())
            }
            _ = tick.tick() => announce(&node, &mut detector, &mut runtime),
        };
        if let Err(error) = done {
            // Stale timers and messages of earlier lives end up here: nothing to mend.
            tracing::debug!(%error, "the failure detector refused an event");
        }
        carry_out(&node, &mut runtime, &mut timers);
        publish(&node, &detector, &mute.borrow_and_update(), node.now() - started >= SWIM_GRACE);
    }
}

/// Says hello to every member that is not heard of: newcomers, the restarted, and those cut off until now.
fn announce<W: World>(
    node: &Node<W>,
    detector: &mut Detector,
    runtime: &mut AccumulatingRuntime<Who>,
) -> Result<(), foca::Error> {
    let active: BTreeSet<NodeId> = detector.iter_members().map(|m| m.id().node).collect();
    let snapshot = node.cluster.snapshot();
    for (id, member) in snapshot.view.living() {
        if id != node.id() && !active.contains(&id) {
            detector.announce(Who { node: id, life: member.description.starts }, &mut *runtime)?;
        }
    }
    Ok(())
}

fn carry_out<W: World>(node: &Node<W>, runtime: &mut AccumulatingRuntime<Who>, timers: &mut Timers) {
    while let Some((to, body)) = runtime.to_send() {
        node.pool.tell(to.node, Message { head: Ask::Swim, body }.encode());
    }
    while let Some((after, timer)) = runtime.to_schedule() {
        timers.push(Box::pin(async move {
            tokio::time::sleep(after).await;
            timer
        }));
    }
    // What changed is read from the detector itself.
    while runtime.to_notify().is_some() {}
}

fn publish<W: World>(node: &Node<W>, detector: &Detector, mute: &BTreeSet<NodeId>, settled: bool) {
    let active: BTreeSet<NodeId> = detector.iter_members().map(|m| m.id().node).collect();
    let snapshot = node.cluster.snapshot();
    let is_heard = |id: &NodeId| active.contains(id) && !mute.contains(id);
    let silent = snapshot.view.living().map(|(id, _)| id).filter(|id| *id != node.id() && !is_heard(id));
    let doubted: BTreeSet<NodeId> = if settled { silent.collect() } else { BTreeSet::new() };
    let before = node.cluster.doubted();
    if *before != doubted {
        for peer in doubted.difference(&before) {
            tracing::warn!(%peer, "a member is not heard any more");
        }
        for peer in before.difference(&doubted).filter(|peer| is_heard(peer)) {
            tracing::info!(%peer, "a member is heard again");
        }
        node.cluster.set_doubted(doubted);
    }
    if settled {
        node.cluster.set_listened();
    }
    if *node.heard.load_full() != active {
        node.heard.store(std::sync::Arc::new(active));
    }
}

#[cfg(test)]
#[path = "swim_tests.rs"]
mod tests;
