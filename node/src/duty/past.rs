//! Asks the others what they remember of this node, and acts on it before a dot is handed out that was handed out before.
//!
//! A start asks everybody, in parallel and for a short while: who does not answer in that time is not waited for, since a node
//! that comes up alone must take writes too, under versions that nobody can have seen. What comes in later by gossip has the same effect; and before
//! somebody has answered, nothing that this disk holds is told or sent to anybody ([`silence`]).

use super::gossip;
use crate::config::Join;
use crate::lane::{Job, Still};
use crate::limits::{GREET_AGAIN, GREET_TIMEOUT, RAISE_EVERY};
use crate::node::Node;
use crate::node::past::Standing;
use crate::world::World;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use ring::ids::NodeId;
use ring::members::{Description, Member, Status, View, ViewError};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use tokio::sync::watch;

/// Asks everybody, and acts on what they say.
pub async fn greet<W: World>(node: &Node<W>) {
    let silent = ask_all(node).await;
    if !silent.is_empty() && node.past.said().starts > 1 {
        tracing::info!(
            ?silent,
            "not everybody has said what he remembers: no version of before is continued"
        );
        // In its turn: peers may have filled the lane by now, and the door does not open without it.
        if let Err(refusal) = node.lane.run_in_turn(|reply| Job::Forsake { reply }).await {
            // The lane does not do it either; only the next start might, and a disk that fails ends this one.
            tracing::warn!(%refusal, "that could not be kept");
        }
    }
    // The door opens only now: whoever comes in continues nothing of before.
    node.past.asked(gossip::others(node).is_empty());
    act(node).await;
}

/// Asks until each of them has answered, for a while: when all start at once, none is there yet. Those count too of whom it learns only
/// now: an image of the disk may be older than they are. Gives back who has not answered; those that were given up
/// are asked beside the others and not waited for.
async fn ask_all<W: World>(node: &Node<W>) -> BTreeSet<NodeId> {
    let until = node.now() + GREET_TIMEOUT;
    let mut answered = BTreeSet::new();
    loop {
        gossip::introduce(node);
        let snapshot = node.cluster.snapshot();
        let is_silent = |id: &NodeId| *id != node.id() && !answered.contains(id);
        let silent =
            snapshot.view.members.iter().filter(|(id, m)| is_silent(id) && m.status != Status::Removed);
        let mut awaited: BTreeSet<NodeId> =
            silent.clone().filter(|(_, m)| m.status < Status::Lost).map(|(id, _)| *id).collect();
        let silent: BTreeSet<NodeId> = silent.map(|(id, _)| *id).collect();
        if awaited.is_empty() || node.now() >= until {
            return silent;
        }
        let asked = silent.iter().map(|to| async { (*to, gossip::exchange(node, *to).await) });
        let mut asked: FuturesUnordered<_> = asked.collect();
        let _: Result<(), _> = tokio::time::timeout(until - node.now(), async {
            while !awaited.is_empty()
                && let Some((to, same)) = asked.next().await
            {
                awaited.remove(&to);
                answered.extend((same == Some(true)).then_some(to));
            }
        })
        .await;
        drop(asked);
        if !silent.is_subset(&answered) {
            tokio::time::sleep(GREET_AGAIN.min(until - node.now())).await;
        }
    }
}

/// This start has asked, and somebody has answered: what the others remember from now on is of this directory. They are told of it
/// only when that is kept: the next start would otherwise take this one for one that it has forgotten, and set aside what only it has.
pub async fn keep_asked<W: World>(node: &Node<W>) {
    if !node.past.is_asked_to_be_kept() {
        return;
    }
    // In its turn: until then nobody is told of this start, however busy it is.
    let asks = node.clone();
    let still = Still::if_so(move || asks.past.is_asked_to_be_kept());
    match node.lane.run_in_turn(|reply| Job::Asked { still, reply }).await {
        Ok(true) => node.past.asked_is_kept(),
        Ok(false) => {}
        Err(refusal) => tracing::warn!(%refusal, "that the others were asked could not be kept"),
    }
}

/// Lets the others remember, now and then, how far this disk has come. Runs until the shutdown.
pub async fn run<W: World>(node: Node<W>, mut shutdown: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            biased;
            _ = shutdown.changed() => return,
            () = tokio::time::sleep(RAISE_EVERY) => {}
        }
        if node.past.silence().is_some() || node.cluster.snapshot().is_removed(node.id()) {
            continue;
        }
        raise(&node).await;
    }
}

/// Takes a lease and says so, unless something is heard before its turn that is to be answered for first.
async fn raise<W: World>(node: &Node<W>) {
    let raises = node.clone();
    let still = Still::if_so(move || raises.past.silence().is_none());
    match node.lane.run_in_turn(|reply| Job::Raise { still, reply }).await {
        Ok(Some(lease)) => {
            let said = node.past.raised(lease);
            // What has been heard since stands in the view, and would be overwritten there before the disk knows of it.
            say(node, said, || node.past.silence().is_none());
        }
        Ok(None) => {}
        Err(refusal) => tracing::warn!(%refusal, "a new lease could not be taken"),
    }
}

/// Takes a lease beyond what somebody remembers, if somebody does.
pub async fn act<W: World>(node: &Node<W>) {
    if node.cluster.snapshot().is_removed(node.id()) {
        // It says nothing of itself any more.
        return;
    }
    node.past.hear_of(node.stray.load(Ordering::Relaxed));
    let (remembered, twin) = match node.past.standing() {
        Standing::Unasked | Standing::Alone | Standing::Clear => return,
        Standing::Behind { remembered } => (remembered, false),
        // Said once, so that the other one finds out too.
        Standing::Twin if node.past.has_answered_twin() => return,
        Standing::Twin => (node.past.said().starts, true),
    };
    if twin {
        tracing::error!(node = %node.id(), "another process runs under this node's identity; neither takes writes until one is stopped");
    } else {
        tracing::error!(
            remembered,
            "the data directory has gone back in time and may be behind what the others know: own versions of before are not continued, and every copy is compared"
        );
    }
    match node.lane.run_in_turn(|reply| Job::Jump { remembered, reply }).await {
        Ok(lease) => {
            let said = node.past.jumped(lease, twin);
            say(node, said, || !matches!(node.past.standing(), Standing::Behind { .. }));
        }
        // Tried again at the next round of gossip.
        Err(refusal) => {
            tracing::error!(%refusal, "a new lease could not be taken; writes go elsewhere until it can")
        }
    }
}

/// Why nothing that this node holds may be told to a peer or sent there. One that has met nobody yet meets the peer first.
pub async fn silence<W: World>(node: &Node<W>, peer: NodeId) -> Option<&'static str> {
    if node.past.standing() == Standing::Alone {
        Box::pin(gossip::exchange(node, peer)).await;
    }
    node.past.silence()
}

/// Says what this node is, as soon as somebody has said what he remembers of it, and the disk knows that he was asked. A newcomer asks for
/// its share with that, unless it is to be an operator's word. One that was removed says nothing: it serves nobody, and hands on
/// what it holds.
pub fn come_in<W: World>(node: &Node<W>) -> Result<(), ViewError> {
    if node.past.standing() != Standing::Clear || node.past.is_asked_to_be_kept() {
        return Ok(());
    }
    let (me, said) = (node.id(), node.past.said());
    let waits = |member: &Member| member.status == Status::Joining && node.join == Join::Auto;
    let snapshot = node.cluster.snapshot();
    let known = snapshot.view.members.get(&me);
    if snapshot.is_removed(me) || known.is_some_and(|known| known.description == said && !waits(known)) {
        return Ok(());
    }
    let come = |view: &mut View| {
        // What has been heard since stands in the view, and would be overwritten there before the disk knows of it.
        if node.past.standing() != Standing::Clear {
            return Ok(());
        }
        view.admit(me, said)?;
        if view.members.get(&me).is_some_and(waits) {
            view.set_status(me, Status::Up).map(drop)
        } else {
            Ok(())
        }
    };
    node.cluster.update(come).map(drop)
}

/// Puts into the view what this node says of itself, where that `still` holds.
fn say<W: World>(node: &Node<W>, said: Description, still: impl Fn() -> bool) {
    let admit = |view: &mut View| if still() { view.admit(node.id(), said).map(drop) } else { Ok(()) };
    if let Err(error) = node.cluster.update(admit) {
        tracing::error!(%error, "this node's description was refused");
    }
}

#[cfg(test)]
#[path = "past_tests.rs"]
mod tests;
