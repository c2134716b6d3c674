//! Delivers hints: what was kept for a node that could not be reached goes where it belongs once it can.
//!
//! | the target | then |
//! | --- | --- |
//! | owns the key, and nobody is about to | the record goes there |
//! | owns it no more (it left, was replaced, or the key moved) | the record goes to **every** owner of the key |
//! | owns it, and others take it over | there, and to those to come: they may have fetched from the target already |
//! | can't be reached or takes nothing, and this node leaves | the hint goes to others, as many as have to have a write |
//! | leaves as well and can't be reached, so nobody waits for it | to every owner |
//! | can't be reached, and the key has moved from it to others | to every owner |
//! | can't be reached | it waits, unless it is too old and nobody relies on it |
//!
//! A hint is a row that names a key; the record is this node's own copy at the time of delivery. The row goes away only after
//! whoever got the record has said that it is durable there, and only if the copy has not changed since; a crash on either side
//! leaves it where it is. How much goes at once, the receiver says: a node that comes back serves its clients first. A failed
//! delivery is tried again, ever more seldom, and at once when somebody comes back.
//!
//! What can't be delivered yet stands in nobody's way: a hint that waits for an owner that is away, or whose record the disk has
//! spoiled, is passed over, and the ones behind it go. A record larger than a delivery goes alone; a pass that was broken off is
//! followed by one that begins behind the record that failed.

use super::delivery::{Pass, Route, Undelivered, Way, may_deliver, send_elsewhere, send_there};
use crate::cluster::Snapshot;
use crate::lane::{HintRow, Job};
use crate::limits::{
    HINT_BACKOFF_MAX, HINT_BACKOFF_MIN, HINT_SCAN_BYTES, HINT_SCAN_ROWS, HINT_TARGETS_AT_ONCE, HINTS_EVERY,
    PULL_MERGES,
};
use crate::node::Node;
use crate::node::hints::{Delivery, State};
use crate::store::{Family, Row, Store, keys};
use crate::world::World;
use futures_util::StreamExt;
use futures_util::stream::{self, FuturesUnordered};
use rand::RngExt;
use ring::ids::{NodeId, ObjectId};
use ring::members::Status;
use ring::time::Time;
use std::collections::BTreeSet;
use tokio::sync::watch;

/// Passes in a row that have failed, after which a node that leaves hands on to others what its target does not take.
const FAILURES_MAX: u32 = 3;

/// Runs until the shutdown: at every change of the cluster, and every second.
pub async fn run<W: World>(node: Node<W>, mut shutdown: watch::Receiver<bool>) {
    let mut changes = node.cluster.changes();
    let mut tick = tokio::time::interval(HINTS_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut doubted, mut regime) = (node.cluster.doubted(), node.table_tag().digest);
    let (mut running, mut under_way) = (FuturesUnordered::new(), BTreeSet::new());
    loop {
        tokio::select! {
            biased;
            _ = shutdown.changed() => return,
            Some(target) = running.next(), if !under_way.is_empty() => drop(under_way.remove(&target)),
            Ok(()) = changes.changed() => {}
            _ = tick.tick() => {}
        }
        let (now, by) = (node.cluster.doubted(), node.table_tag().digest);
        // Who was doubted and is no longer is tried at once, and so is whatever may have waited for it as an owner. Other tables
        // are other owners.
        if doubted.difference(&now).next().is_some() || regime != by {
            let mut deliveries = node.lock_deliveries();
            for (target, delivery) in deliveries.iter_mut().filter(|(target, _)| !under_way.contains(*target))
            {
                // Who has not been away has failed as often as before: a leaver goes by that.
                let failures = if doubted.contains(target) { 0 } else { delivery.failures };
                let from = delivery.from.take();
                *delivery = Delivery { from, failures, ..Delivery::default() };
            }
        }
        (doubted, regime) = (now, by);
        // One that takes long holds up nobody who comes back meanwhile, as long as there is room for both.
        let room = if may_deliver(&node) { HINT_TARGETS_AT_ONCE - under_way.len() } else { 0 };
        for target in due(&node, &under_way).into_iter().take(room) {
            under_way.insert(target);
            running.push(deliver_to(&node, target));
        }
    }
}

/// Whose turn it is, who has waited longest first.
fn due<W: World>(node: &Node<W>, under_way: &BTreeSet<NodeId>) -> Vec<NodeId> {
    let targets = node.lock_hints().targets();
    let (now, mut deliveries) = (node.now(), node.lock_deliveries());
    deliveries.retain(|target, _| targets.contains(target));
    let since = |target: &NodeId| deliveries.get(target).map_or(Time(0), |delivery| delivery.not_before);
    let mut due: Vec<NodeId> = targets
        .iter()
        .filter(|target| !under_way.contains(target) && since(target) <= now)
        .copied()
        .collect();
    due.sort_by_key(since);
    due
}

/// Goes once through everything that is kept for one node.
async fn deliver_to<W: World>(node: &Node<W>, target: NodeId) -> NodeId {
    let (healed, tables, doubted) = (node.suspects.healed(), node.table_tag().digest, node.cluster.doubted());
    let from = node.lock_deliveries().get(&target).and_then(|delivery| delivery.from.clone());
    let (outcome, met_damage) = pass(node, target, from.clone()).await;
    let mut deliveries = node.lock_deliveries();
    let before = deliveries.get(&target).map_or(0, |delivery| delivery.failures);
    let again = |state, after| Delivery { state, not_before: node.now() + after, ..Delivery::default() };
    let delivery = match outcome {
        // Whoever comes back is tried at once, and so is everybody by other tables; but not who does so during a pass. It may be away
        // only for the record that its link is busy with: what is behind that one goes first.
        Ok(true) if tables == node.table_tag().digest && node.cluster.doubted().contains(&target) => {
            let after = node.hint_age.clamp(HINTS_EVERY, HINT_BACKOFF_MAX);
            Delivery { from, ..again(State::Waiting, after) }
        }
        Ok(true) => Delivery { from, ..again(State::Waiting, HINTS_EVERY) },
        Ok(false) => again(State::Idle, HINTS_EVERY),
        Err(error) => {
            // What it met may have been healed behind its back.
            let mended = met_damage && healed != node.suspects.healed();
            let longest = if mended { HINT_BACKOFF_MIN } else { HINT_BACKOFF_MAX };
            let pause = HINT_BACKOFF_MIN.saturating_mul(1 << before.min(16)).min(longest);
            let chance =
                node.rng.lock().unwrap_or_else(std::sync::PoisonError::into_inner).random_range(0.5..1.0);
            let not_before = node.now() + pause.mul_f64(chance);
            let Undelivered { why, from } = error;
            // Somebody was away when he was to have his part, and is back.
            if doubted.difference(&node.cluster.doubted()).next().is_some() {
                let soon = again(State::BackingOff, HINTS_EVERY);
                let soon = Delivery { error: Some(why), from, failures: before + 1, ..soon };
                deliveries.insert(target, soon);
                return target;
            }
            Delivery { state: State::BackingOff, failures: before + 1, not_before, error: Some(why), from }
        }
    };
    deliveries.insert(target, delivery);
    target
}

fn way<W: World>(node: &Node<W>, target: NodeId) -> Way {
    let (snapshot, doubted) = (node.cluster.snapshot(), node.cluster.doubted());
    let removed = snapshot.view.members.get(&target).is_none_or(|member| member.status == Status::Removed);
    let gone = removed || (snapshot.leaves(node.id()) && snapshot.view.is_given_up(target, &doubted));
    // Every other pass asks it again: it may be well by now, and the others not.
    let failures = node.lock_deliveries().get(&target).map_or(0, |delivery| delivery.failures);
    let fails = failures >= FAILURES_MAX && failures % 2 == 1;
    match (gone, doubted.contains(&target), snapshot.leaves(node.id())) {
        (true, ..) => Way::ToOwners,
        (false, false, true) if fails => Way::ToAnother,
        (false, false, _) => Way::There,
        (false, true, true) => Way::ToAnother,
        (false, true, false) => Way::Wait,
    }
}

/// Once through all of it, from where the last pass was broken off. Whether some of it waits for the target; and whether some can't
/// be read.
async fn pass<W: World>(
    node: &Node<W>,
    target: NodeId,
    from: Option<Vec<u8>>,
) -> (Result<bool, Undelivered>, bool) {
    let (mut pass, began) = (Pass::default(), node.wall());
    for (start, end) in ranges(keys::hints_for(target), from.clone()) {
        if let Err(error) = pages(node, target, start, end, &mut pass).await {
            return (Err(error), pass.damaged > 0);
        }
    }
    node.lock_hints().saw(target, &pass.oldest, began);
    let met_damage = pass.damaged > 0;
    let outcome = match (pass.stopped.take(), pass.in_words()) {
        (Some(stopped), _) => Err(stopped),
        (None, Some(why)) => {
            // The link may still be busy with what was missed before.
            let missed = pass.taking.missed.as_ref().map(|id| keys::after(&node.hint_key(target, id)));
            Err(Undelivered { why, from: missed.or(from) })
        }
        (None, None) => Ok(pass.waits),
    };
    (outcome, met_damage)
}

/// What is from that key on, and then what is before it.
fn ranges((first, end): keys::Range, from: Option<Vec<u8>>) -> Vec<keys::Range> {
    match from {
        Some(from) => vec![(from.clone(), end), (first, Some(from))],
        None => vec![(first, end)],
    }
}

/// Page by page; ends at the first page that fails.
async fn pages<W: World>(
    node: &Node<W>,
    target: NodeId,
    mut start: Vec<u8>,
    end: Option<Vec<u8>>,
    pass: &mut Pass,
) -> Result<(), Undelivered> {
    loop {
        let rows = node
            .store
            .scan(Family::Hints, &start, end.as_deref(), HINT_SCAN_ROWS, HINT_SCAN_BYTES)
            .map_err(|error| error.to_string())?;
        let Some((last, _)) = rows.last() else { return Ok(()) };
        if !may_deliver(node) {
            return Err("this node's disk may be behind what the others know".to_owned().into());
        }
        start = keys::after(last);
        let way = way(node, target);
        let snapshot = node.cluster.snapshot();
        let to = Route { target, way, regime: snapshot.regime.name().digest };
        let sorted = Sorted::of(node, &snapshot, to, &rows, pass);
        drop(snapshot);
        if !sorted.wait.is_empty() {
            give_up_old(node, target, sorted.wait).await;
            pass.waits = true;
        }
        if !(sorted.there.is_empty() && sorted.elsewhere.is_empty()) {
            node.lock_deliveries().entry(target).or_default().state = State::Delivering;
        }
        let refused = pass.refused;
        send_there(node, to, sorted.there, pass).await;
        // A target that takes nothing keeps nothing from others.
        let elsewhere = send_elsewhere(node, to, sorted.elsewhere, pass).await;
        // What was tried and did not go is as old as what waits.
        if pass.refused > refused || pass.stopped.is_some() || elsewhere.is_err() {
            give_up_old(node, target, sorted.tried).await;
        }
        elsewhere?;
        // A page that only waits has awaited nothing, and there may be thousands.
        tokio::task::yield_now().await;
    }
}

/// A page of hints, by where they go.
#[derive(Default)]
struct Sorted {
    there: Vec<ObjectId>,
    elsewhere: Vec<ObjectId>,
    /// What goes to one of the two.
    tried: Vec<(ObjectId, HintRow)>,
    wait: Vec<(ObjectId, HintRow)>,
}

impl Sorted {
    fn of<W: World>(node: &Node<W>, snapshot: &Snapshot, to: Route, rows: &[Row], pass: &mut Pass) -> Sorted {
        let mut sorted = Sorted::default();
        for (key, row) in rows {
            let Ok((_, partition, id)) = keys::decode_hint_key(key) else { continue };
            let plan = node.cluster.plan(snapshot, &id);
            let owns = plan.owners.contains(&to.target);
            let row = HintRow::decode(row);
            pass.comes_to(partition, row.since);
            let goes = match to.way {
                Way::There if owns && plan.pending.is_empty() => &mut sorted.there,
                // The key has moved meanwhile: nobody waits for this node any more.
                Way::Wait if owns || plan.pending.contains(&to.target) => {
                    sorted.wait.push((id, row));
                    continue;
                }
                _ => &mut sorted.elsewhere,
            };
            goes.push(id.clone());
            sorted.tried.push((id, row));
        }
        sorted
    }
}

/// Hints that have grown too old are given up, if no acknowledgement relies on them.
async fn give_up_old<W: World>(node: &Node<W>, target: NodeId, waiting: Vec<(ObjectId, HintRow)>) {
    let oldest = node.wall().0.saturating_sub(node.hint_age.as_millis() as u64);
    let old = waiting.into_iter().filter(|(_, row)| !row.counted && row.since.0 < oldest);
    let jobs = old.map(|(id, row)| {
        node.lane.run(move |reply| Job::GiveUpHint { id, owner: target, since: row.since, reply })
    });
    // Many share a sync.
    let mut given_up = stream::iter(jobs.collect::<Vec<_>>()).buffer_unordered(PULL_MERGES);
    while let Some(given_up) = given_up.next().await {
        if let Err(refusal) = given_up {
            return tracing::warn!(%refusal, "an old hint could not be given up");
        }
    }
}

#[cfg(test)]
#[path = "hints_tests.rs"]
mod tests;
