//! Takes part in every change of who owns what: fetches what this node takes over, says so, and takes the next step.
//!
//! ```text
//!   Up, and no part in the settled table ──► everybody acts by both tables ──► fetch ──► done ──► agreed ──► settled
//!   Leaving ──► no hint is left here ──► done ──► others are filled ──► agreed ──► settled ──► agreed ──► Removed
//! ```
//!
//! The steps are decided in `ring::members`; here they are tried whenever the view has changed, and every second. A fetch
//! that fails is begun again, and finds most of the partition here already; so is one that a crash or a further change
//! interrupts.

use super::gain;
use crate::cluster::Snapshot;
use crate::limits::SHAPE_EVERY;
use crate::node::Node;
use crate::store::{Family, Store};
use crate::world::World;
use ring::members::{Regime, Status, Step, View, Wait, Why, next};
use tokio::sync::watch;

/// Runs until the shutdown.
pub async fn run<W: World>(node: Node<W>, mut shutdown: watch::Receiver<bool>) {
    let mut changes = node.cluster.changes();
    let mut tick = tokio::time::interval(SHAPE_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = shutdown.changed() => return,
            Ok(()) = changes.changed() => {}
            _ = tick.tick() => {}
        }
        tokio::select! {
            biased;
            _ = shutdown.changed() => return,
            () = take_part(&node) => {}
        }
    }
}

pub(super) async fn take_part<W: World>(node: &Node<W>) {
    let snapshot = node.cluster.snapshot();
    let name = snapshot.regime.name().digest;
    node.lock_gain().turn_to(name);
    let Some(me) = snapshot.view.members.get(&node.id()) else { return };
    if snapshot.regime.is_settled() || me.acting.regime != name || me.status == Status::Removed {
        return;
    }
    // Before anything else: a disk that may be behind is just the one whose word of before holds no more.
    if me.acting.done && !node.lock_gain().said {
        return say(node, name, false);
    }
    if let Some(why) = node.past.silence() {
        // What is fetched now would be merged with copies that may be old, and handed out as if it were whole. And a disk that may
        // have forgotten to what it agreed, or that another process has as well, must not agree to something else.
        node.lock_gain().reason = Some(format!("{}: {why}", node.id()));
        return;
    }
    let (ns, doubted) = (snapshot.ns.all(), node.cluster.doubted());
    let step = next(&snapshot.view, &snapshot.regime, &ns, &doubted);
    match &step {
        Step::Rest => {}
        Step::Wait(waits) => node.lock_gain().reason = waits.first().map(told),
        Step::Fill(_) if !me.acting.done => {
            if do_part(node).await {
                node.lock_gain().said = true;
                say(node, name, true);
            }
        }
        Step::Fill(waits) => {
            let others = waits.iter().find(|wait| wait.node != node.id());
            node.lock_gain().reason = others.map(told);
        }
        // Nobody may hear that this node agrees before the disk knows: it must not agree to another step after a crash.
        Step::Agree => {
            let agree = |view: &mut View| view.advance(node.id(), &snapshot.regime, &step) == Ok(true);
            if let Err(refusal) = node.keep_ahead(agree, || take(node, &snapshot, &step)).await {
                tracing::warn!(%refusal, "that this node agrees to a change could not be kept");
            }
        }
        Step::Settle | Step::Retire => take(node, &snapshot, &step),
    }
}

fn take<W: World>(node: &Node<W>, snapshot: &Snapshot, step: &Step) {
    let taken = node.cluster.update(|view| {
        // Somebody else may have taken it in the meantime.
        let same = Regime::same(view, &snapshot.view);
        if same { view.advance(node.id(), &snapshot.regime, step).map(drop) } else { Ok(()) }
    });
    match taken {
        Ok(true) => tracing::info!(?step, "the change of the tables goes on"),
        Ok(false) => {}
        Err(error) => tracing::error!(%error, "a step of a change could not be taken"),
    }
}

/// Fetches what this node takes over; and if it leaves, waits until it keeps nothing for others. Whether that is done.
async fn do_part<W: World>(node: &Node<W>) -> bool {
    if !gain::fetch_all(node).await {
        return false;
    }
    let leaves = node.cluster.snapshot().leaves(node.id());
    let clear = !leaves || keeps_no_hint(node);
    if !clear {
        node.lock_gain().reason = Some(format!("{}: {}", node.id(), Why::HandsOn.text()));
    }
    clear
}

fn keeps_no_hint<W: World>(node: &Node<W>) -> bool {
    node.store.scan(Family::Hints, &[], None, 1, usize::MAX).is_ok_and(|rows| rows.is_empty())
}

/// Says whether its part is done. What a start of before has said is taken back until this one has looked for itself: the end of its
/// log may be gone, and with it what came in.
fn say<W: World>(node: &Node<W>, regime: u64, done: bool) {
    let same =
        |view: &View| view.members.get(&node.id()).is_some_and(|member| member.acting.regime == regime);
    let _: Result<bool, ()> = node.cluster.update(|view| {
        if same(view) {
            view.act(node.id(), regime, done);
        }
        Ok(())
    });
}

/// Says by which tables this node acts from now on. The view that they follow from is on the disk by now: a restart does
/// not fall back behind it.
pub(super) fn acknowledge<W: World>(node: &Node<W>, kept: &crate::cluster::Snapshot) {
    let (me, name) = (node.id(), kept.regime.name().digest);
    let acts = |view: &View| view.members.get(&me).is_none_or(|m| m.acting.regime == name);
    if acts(&kept.view) || !kept.regime.nodes().contains(&me) {
        return;
    }
    let _: Result<bool, ()> = node.cluster.update(|view| {
        if Regime::same(view, &kept.view) && !acts(view) {
            view.act(me, name, false);
        }
        Ok(())
    });
}

fn told(wait: &Wait) -> String {
    format!("{}: {}", wait.node, wait.why.text())
}
