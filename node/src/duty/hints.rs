//! Delivers hints: what was kept for a node that could not be reached goes where it belongs once it can.
//!
//! | the target | then |
//! | --- | --- |
//! | owns the key, or is about to | the record goes there |
//! | owns it no more (it left, was replaced, or the key moved) | the record goes to **every** owner of the key |
//! | can't be reached, and this node leaves | the hint goes to the next node that stands in |
//! | can't be reached | it waits, unless it is too old and nobody relies on it |
//!
//! A hint is a row that names a key; the record is this node's own copy at the time of delivery. The row goes away only after
//! whoever got the record has said that it is durable there, and only if the copy has not changed since; a crash on either side
//! leaves it where it is. How much goes at once, the receiver says: a node that comes back serves its clients first. A failed
//! delivery is tried again, ever more seldom, and at once when something has changed about the target.

use crate::lane::{HintRow, Job};
use crate::limits::{
    HINT_BACKOFF_MAX, HINT_BACKOFF_MIN, HINT_CREDIT_BUSY, HINT_SCAN_BYTES, HINT_SCAN_ROWS, HINT_TIMEOUT,
    HINTS_EVERY, HINTS_IN_FLIGHT,
};
use crate::node::Node;
use crate::node::hints::{Delivery, State};
use crate::node::serve::Rows;
use crate::store::{Family, Store, keys};
use crate::world::World;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use rand::RngExt;
use ring::ids::{NodeId, ObjectId};
use ring::members::Status;
use ring::wire::peer::{Answer, Ask, Message};
use ring::wire::record::digest;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;

/// A hint that is on its way, with the version of the record that is sent.
type Sent = (ObjectId, Option<Bytes>);

/// Runs until the shutdown: at every change of the cluster, and every second.
pub async fn run<W: World>(node: Node<W>, mut shutdown: watch::Receiver<bool>) {
    let mut changes = node.cluster.changes();
    let mut tick = tokio::time::interval(HINTS_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut doubted = node.cluster.doubted();
    loop {
        tokio::select! {
            biased;
            _ = shutdown.changed() => return,
            Ok(()) = changes.changed() => {}
            _ = tick.tick() => {}
        }
        let now = node.cluster.doubted();
        // Who was doubted and is no longer is tried at once.
        let back: Vec<NodeId> = doubted.difference(&now).copied().collect();
        doubted = now;
        node.lock_deliveries().retain(|target, _| !back.contains(target));
        let targets = node.lock_hints().targets();
        node.lock_deliveries().retain(|target, _| targets.contains(target));
        let targets = if may_deliver(&node) { targets } else { Default::default() };
        let all = stream::iter(targets.into_iter().filter(|target| is_due(&node, *target)))
            .for_each_concurrent(None, |target| deliver_to(&node, target));
        tokio::select! {
            biased;
            _ = shutdown.changed() => return,
            () = all => {}
        }
    }
}

/// A copy that may be old is delivered to nobody; a removed node lets its hints go with their copies (`surplus.rs`).
fn may_deliver<W: World>(node: &Node<W>) -> bool {
    node.may_spread() && !node.cluster.snapshot().is_removed(node.id())
}

fn is_due<W: World>(node: &Node<W>, target: NodeId) -> bool {
    let now = node.now();
    node.lock_deliveries().get(&target).is_none_or(|delivery| delivery.not_before <= now)
}

/// Goes once through everything that is kept for one node.
async fn deliver_to<W: World>(node: &Node<W>, target: NodeId) {
    let outcome = pages(node, target).await;
    let mut deliveries = node.lock_deliveries();
    let before = deliveries.get(&target).map_or(0, |delivery| delivery.failures);
    let delivery = match outcome {
        Ok(true) => Delivery { state: State::Waiting, ..Delivery::default() },
        Ok(false) => Delivery { state: State::Idle, ..Delivery::default() },
        Err(error) => {
            let pause = HINT_BACKOFF_MIN.saturating_mul(1 << before.min(16)).min(HINT_BACKOFF_MAX);
            let chance =
                node.rng.lock().unwrap_or_else(std::sync::PoisonError::into_inner).random_range(0.5..1.0);
            let not_before = node.now() + pause.mul_f64(chance);
            Delivery { state: State::BackingOff, failures: before + 1, not_before, error: Some(error) }
        }
    };
    deliveries.insert(target, delivery);
}

/// How to deliver what is kept for a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    There,
    ToOwners,
    ToAnother,
    Wait,
}

fn way<W: World>(node: &Node<W>, target: NodeId) -> Way {
    let (snapshot, doubted) = (node.cluster.snapshot(), node.cluster.doubted());
    let gone = snapshot.view.members.get(&target).is_none_or(|member| member.status == Status::Removed);
    match (gone, doubted.contains(&target), snapshot.leaves(node.id())) {
        (true, ..) => Way::ToOwners,
        (false, false, _) => Way::There,
        (false, true, true) => Way::ToAnother,
        (false, true, false) => Way::Wait,
    }
}

/// Page by page; ends at the first page that fails. Whether some of it waits for the target.
async fn pages<W: World>(node: &Node<W>, target: NodeId) -> Result<bool, String> {
    let (mut start, end) = keys::hints_for(target);
    let (mut waits, mut credit) = (false, HINT_CREDIT_BUSY as usize);
    loop {
        let rows = node
            .store
            .scan(Family::Hints, &start, end.as_deref(), HINT_SCAN_ROWS, HINT_SCAN_BYTES)
            .map_err(|error| error.to_string())?;
        let Some((last, _)) = rows.last() else { return Ok(waits) };
        if !may_deliver(node) {
            return Err("this node's disk may be behind what the others know".to_owned());
        }
        start = keys::after(last);
        let (way, _work) = (way(node, target), node.begin_work());
        if way == Way::Wait {
            give_up_old(node, target, &rows).await;
            waits = true;
            continue;
        }
        node.lock_deliveries().entry(target).or_default().state = State::Delivering;
        let ids = rows.iter().filter_map(|(key, _)| keys::decode_hint_key(key).ok()).map(|(_, _, id)| id);
        let (mut there, mut elsewhere) = (Vec::new(), Vec::new());
        for id in ids {
            let snapshot = node.cluster.snapshot();
            let plan = node.cluster.plan(&snapshot, &id);
            let concerned = plan.owners.contains(&target) || plan.pending.contains(&target);
            let record = node.local(&id).map_err(|refusal| refusal.to_string())?;
            if way == Way::There && concerned {
                there.push((id, record))
            } else {
                elsewhere.push((id, record))
            }
        }
        send_there(node, target, there, &mut credit).await?;
        send_elsewhere(node, target, way, elsewhere).await?;
    }
}

/// Sends records to the target, as much at a time as it asks for.
async fn send_there<W: World>(
    node: &Node<W>,
    target: NodeId,
    mut left: Vec<Sent>,
    credit: &mut usize,
) -> Result<(), String> {
    while !left.is_empty() {
        let mut bytes = 0;
        let many = left.iter().position(|(_, record)| {
            bytes += record.as_ref().map_or(0, Bytes::len);
            bytes > *credit
        });
        let rest = left.split_off(many.unwrap_or(left.len()).max(1).min(left.len()));
        let some = std::mem::replace(&mut left, rest);
        let rows: Rows =
            some.iter().filter_map(|(id, record)| Some((id.clone(), record.as_ref()?.to_vec()))).collect();
        let body = Bytes::from(postcard::to_stdvec(&rows).expect("rows are bytes"));
        let answer = node.ask(target, Message { head: Ask::StoreMany, body }, HINT_TIMEOUT).await;
        let (failed, pause) = match answer {
            Ok(Message { head: Answer::StoredMany { failed, credit: next, pause_ms }, .. }) => {
                *credit = next as usize;
                (failed, Duration::from_millis(u64::from(pause_ms)))
            }
            Ok(Message { head: Answer::Refused(refusal), .. }) => return Err(refusal.to_string()),
            Ok(_) => return Err("an answer that does not fit".to_owned()),
            Err(error) => return Err(error.to_string()),
        };
        let failed: Vec<&ObjectId> =
            failed.iter().filter_map(|at| rows.get(usize::from(*at))).map(|(id, _)| id).collect();
        let whole = failed.is_empty();
        let stored = some.iter().filter(|(id, _)| !failed.contains(&id)).cloned().collect();
        drop_hints(node, target, stored).await?;
        if !whole {
            return Err("the node could not store some of it".to_owned());
        }
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
    Ok(())
}

/// Sends records to every owner of their keys, or hints of them to another node that stands in.
async fn send_elsewhere<W: World>(
    node: &Node<W>,
    target: NodeId,
    way: Way,
    sent: Vec<Sent>,
) -> Result<(), String> {
    let mut done = stream::iter(sent)
        .map(|(id, record)| async move {
            let stored = match &record {
                None => true,
                Some(record) if way == Way::ToAnother => hand_on(node, target, &id, record).await,
                Some(record) => to_owners(node, &id, record).await,
            };
            (stored, (id, record))
        })
        .buffer_unordered(HINTS_IN_FLIGHT);
    let (mut stored, mut whole) = (Vec::new(), true);
    while let Some((durable, sent)) = done.next().await {
        if durable {
            stored.push(sent);
        } else {
            whole = false;
        }
    }
    drop_hints(node, target, stored).await?;
    if whole { Ok(()) } else { Err("not every owner could take a record".to_owned()) }
}

async fn to_owners<W: World>(node: &Node<W>, id: &ObjectId, record: &Bytes) -> bool {
    let snapshot = node.cluster.snapshot();
    let plan = node.cluster.plan(&snapshot, id);
    for owner in plan.owners.iter().chain(&plan.pending).filter(|owner| **owner != node.id()) {
        if node.store_at(*owner, id.clone(), record.clone(), HINT_TIMEOUT).await != Ok(true) {
            return false;
        }
    }
    true
}

/// Finds another node to keep a hint. The first that takes it is enough: it says so once the hint is durable.
async fn hand_on<W: World>(node: &Node<W>, target: NodeId, id: &ObjectId, record: &Bytes) -> bool {
    let (snapshot, doubted) = (node.cluster.snapshot(), node.cluster.doubted());
    let plan = node.cluster.plan(&snapshot, id);
    let others = plan.fallbacks.iter().chain(&plan.owners).chain(&plan.pending);
    for other in others.filter(|other| **other != node.id() && **other != target && !doubted.contains(other))
    {
        let head = Ask::Store { id: id.clone(), hint_for: Some(target), sync: true };
        let kept = node.ask(*other, Message { head, body: record.clone() }, HINT_TIMEOUT).await;
        if matches!(kept, Ok(Message { head: Answer::Stored { durable: true }, .. })) {
            return true;
        }
    }
    false
}

async fn drop_hints<W: World>(node: &Node<W>, target: NodeId, delivered: Vec<Sent>) -> Result<(), String> {
    let snapshot = node.cluster.snapshot();
    let jobs = delivered.into_iter().map(|(id, record)| {
        let plan = node.cluster.plan(&snapshot, &id);
        let owns = plan.owners.contains(&node.id()) || plan.pending.contains(&node.id());
        let drop_copy_unless =
            if owns { None } else { Some(snapshot.view.members.keys().copied().collect()) };
        let delivered = record.as_deref().map(digest);
        node.lane.run(move |reply| Job::DropHint { id, owner: target, delivered, drop_copy_unless, reply })
    });
    let mut dropped = stream::iter(jobs).buffer_unordered(HINT_SCAN_ROWS);
    while let Some(gone) = dropped.next().await {
        // A copy that has changed since keeps its hint, for the next round.
        if gone.map_err(|refusal| refusal.to_string())? {
            node.hints_delivered.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Hints that have grown too old are given up, if no acknowledgement relies on them.
async fn give_up_old<W: World>(node: &Node<W>, target: NodeId, rows: &[crate::store::Row]) {
    let oldest = node.wall().0.saturating_sub(node.hint_age.as_millis() as u64);
    for (key, value) in rows {
        let row = HintRow::decode(value);
        let Ok((_, _, id)) = keys::decode_hint_key(key) else { continue };
        if !row.counted && row.since.0 < oldest {
            let given_up = node.lane.run(|reply| Job::GiveUpHint { id, owner: target, reply }).await;
            if let Err(refusal) = given_up {
                return tracing::warn!(%refusal, "an old hint could not be given up");
            }
        }
    }
}
