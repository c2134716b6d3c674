//! Delivers hints: what was kept for a node that could not be reached goes where it belongs once it can.
//!
//! | the target | then |
//! | --- | --- |
//! | owns the key, and nobody is about to | the record goes there |
//! | owns it no more (it left, was replaced, or the key moved) | the record goes to **every** owner of the key |
//! | owns it, and others take it over | there, and to those to come: they may have fetched from the target already |
//! | can't be reached, and this node leaves | the hint goes to the next node that stands in |
//! | can't be reached, and the key has moved from it to others | to every owner |
//! | can't be reached | it waits, unless it is too old and nobody relies on it |
//!
//! A hint is a row that names a key; the record is this node's own copy at the time of delivery. The row goes away only after
//! whoever got the record has said that it is durable there, and only if the copy has not changed since; a crash on either side
//! leaves it where it is. How much goes at once, the receiver says: a node that comes back serves its clients first. A failed
//! delivery is tried again, ever more seldom, and at once when somebody comes back.
//!
//! What can't be delivered yet stands in nobody's way: a hint that waits for an owner that is away, or whose record the disk has
//! spoiled, is passed over, and the ones behind it go.

use super::readdress;
use crate::cluster::Snapshot;
use crate::lane::{HintRow, Job};
use crate::limits::{
    HINT_BACKOFF_MAX, HINT_BACKOFF_MIN, HINT_CREDIT_BUSY, HINT_CREDIT_IDLE, HINT_SCAN_BYTES, HINT_SCAN_ROWS,
    HINT_TARGETS_AT_ONCE, HINT_TIMEOUT, HINTS_EVERY,
};
use crate::node::Node;
use crate::node::hints::{Delivery, State, Stored, pack};
use crate::store::{Family, Row, Store, keys};
use crate::world::World;
use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, stream};
use rand::RngExt;
use ring::ids::{NodeId, ObjectId};
use ring::members::Status;
use ring::planted::{self, Bug};
use ring::time::Time;
use ring::wire::record::{Digest, digest};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use tokio::sync::watch;

/// A hint that was delivered, with the version of the record that was sent.
type Sent = (ObjectId, Option<Digest>);

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
            node.lock_deliveries().retain(|target, _| under_way.contains(target));
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

/// A copy that may be old is delivered to nobody; a removed node lets its hints go with their copies (`surplus.rs`).
fn may_deliver<W: World>(node: &Node<W>) -> bool {
    node.may_spread() && !node.cluster.snapshot().is_removed(node.id())
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
    let healed = node.suspects.healed();
    let outcome = pages(node, target).await;
    let mut deliveries = node.lock_deliveries();
    let before = deliveries.get(&target).map_or(0, |delivery| delivery.failures);
    let again = |state| Delivery { state, not_before: node.now() + HINTS_EVERY, ..Delivery::default() };
    let delivery = match outcome {
        Ok(true) => again(State::Waiting),
        Ok(false) => again(State::Idle),
        Err(error) => {
            // What it met may have been healed behind its back.
            let mended = error.damaged && healed != node.suspects.healed();
            let longest = if mended { HINT_BACKOFF_MIN } else { HINT_BACKOFF_MAX };
            let pause = HINT_BACKOFF_MIN.saturating_mul(1 << before.min(16)).min(longest);
            let chance =
                node.rng.lock().unwrap_or_else(std::sync::PoisonError::into_inner).random_range(0.5..1.0);
            let not_before = node.now() + pause.mul_f64(chance);
            Delivery { state: State::BackingOff, failures: before + 1, not_before, error: Some(error.why) }
        }
    };
    deliveries.insert(target, delivery);
    target
}

/// Why not everything that is kept for a node was delivered.
struct Undelivered {
    why: String,
    /// Whether some of it can't be read.
    damaged: bool,
}

impl From<String> for Undelivered {
    fn from(why: String) -> Self {
        Undelivered { why, damaged: false }
    }
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
async fn pages<W: World>(node: &Node<W>, target: NodeId) -> Result<bool, Undelivered> {
    let (mut start, end) = keys::hints_for(target);
    let (mut waits, mut left, mut credit) = (false, Left::default(), HINT_CREDIT_BUSY as usize);
    loop {
        let rows = node
            .store
            .scan(Family::Hints, &start, end.as_deref(), HINT_SCAN_ROWS, HINT_SCAN_BYTES)
            .map_err(|error| error.to_string())?;
        let Some((last, _)) = rows.last() else {
            let damaged = left.damaged > 0;
            return left.in_words().map_or(Ok(waits), |why| Err(Undelivered { why, damaged }));
        };
        if !may_deliver(node) {
            return Err("this node's disk may be behind what the others know".to_owned().into());
        }
        start = keys::after(last);
        let way = way(node, target);
        let snapshot = node.cluster.snapshot();
        let to = Route { target, way, regime: snapshot.regime.name().digest };
        let sorted = Sorted::of(node, &snapshot, to, &rows);
        drop(snapshot);
        if !sorted.wait.is_empty() {
            give_up_old(node, target, sorted.wait).await;
            waits = true;
        }
        if !(sorted.there.is_empty() && sorted.elsewhere.is_empty()) {
            node.lock_deliveries().entry(target).or_default().state = State::Delivering;
        }
        send_there(node, to, sorted.there, &mut credit, &mut left).await?;
        send_elsewhere(node, to, sorted.elsewhere, &mut left).await?;
    }
}

/// A page of hints, by where they go.
#[derive(Default)]
struct Sorted {
    there: Vec<ObjectId>,
    elsewhere: Vec<ObjectId>,
    wait: Vec<(ObjectId, HintRow)>,
}

impl Sorted {
    fn of<W: World>(node: &Node<W>, snapshot: &Snapshot, to: Route, rows: &[Row]) -> Sorted {
        let mut sorted = Sorted::default();
        for (key, row) in rows {
            let Ok((_, _, id)) = keys::decode_hint_key(key) else { continue };
            let plan = node.cluster.plan(snapshot, &id);
            let owns = plan.owners.contains(&to.target);
            match to.way {
                Way::There if owns && plan.pending.is_empty() => sorted.there.push(id),
                // The key has moved meanwhile: nobody waits for this node any more.
                Way::Wait if owns || plan.pending.contains(&to.target) => {
                    sorted.wait.push((id, HintRow::decode(row)));
                }
                _ => sorted.elsewhere.push(id),
            }
        }
        sorted
    }
}

/// Deliveries in a row of which nothing could be stored: one record may be at odds with what is there, so many are the node.
const REFUSED_MAX: usize = 3;

/// What was passed over.
#[derive(Default)]
struct Left {
    /// Their records can't be read, until the scrub has fetched other copies.
    damaged: usize,
    /// Somebody who is to have them is away or could not take them.
    refused: usize,
    /// Owners that could not take their part in this round.
    unable: BTreeSet<NodeId>,
}

impl Left {
    fn in_words(&self) -> Option<String> {
        let damaged = (self.damaged > 0).then(|| format!("{} records can't be read", self.damaged));
        let refused = (self.refused > 0)
            .then(|| format!("{} wait for an owner that is away or can't take them", self.refused));
        let both: Vec<String> = damaged.into_iter().chain(refused).collect();
        (!both.is_empty()).then(|| both.join("; "))
    }
}

/// Where a page of hints goes, and the tables by which that was decided.
#[derive(Clone, Copy)]
struct Route {
    target: NodeId,
    way: Way,
    regime: u64,
}

impl Route {
    /// What was decided by other tables is decided anew, in the next round.
    fn stands<W: World>(self, node: &Node<W>) -> bool {
        may_deliver(node) && node.cluster.snapshot().regime.name().digest == self.regime
    }
}

/// Reads the records of the next hints, until so many bytes are reached. Only these are in memory. Those that the disk has
/// spoiled are only counted.
fn next_records<W: World>(
    node: &Node<W>,
    ids: &mut impl Iterator<Item = ObjectId>,
    bytes_max: usize,
    damaged: &mut usize,
) -> Vec<(ObjectId, Option<Bytes>)> {
    let (mut records, mut bytes) = (Vec::new(), 0);
    while bytes < bytes_max
        && let Some(id) = ids.next()
    {
        match node.whole(&id) {
            Ok(record) => {
                bytes += record.as_ref().map_or(0, Bytes::len);
                records.push((id, record));
            }
            Err(refusal) => {
                *damaged += 1;
                tracing::debug!(key = ?id, %refusal, "a hint's record can't be read");
            }
        }
    }
    records
}

/// Sends records to the target, as much at a time as it asks for.
async fn send_there<W: World>(
    node: &Node<W>,
    to: Route,
    ids: Vec<ObjectId>,
    credit: &mut usize,
    left: &mut Left,
) -> Result<(), String> {
    let (mut ids, mut refused) = (ids.into_iter(), 0);
    while to.stands(node) {
        let _work = node.begin_work();
        let records = next_records(node, &mut ids, *credit, &mut left.damaged);
        if records.is_empty() {
            break;
        }
        let (mut sent, body) = packed(records);
        if planted::is(Bug::HintForgotten) {
            drop_hints(node, to, sent.clone()).await?;
        }
        let came = match node.store_many(to.target, body, HINT_TIMEOUT).await {
            Ok(came) => came,
            // A large one may take too long; the next ones go all the same.
            Err(_) if refused == 0 => {
                (refused, left.refused) = (1, left.refused + sent.len());
                continue;
            }
            Err(refusal) => return Err(refusal.to_string()),
        };
        let Stored { failed, pause, .. } = came;
        *credit = came.credit;
        let mut at = 0..;
        sent.retain(|_| at.next().is_none_or(|at| !failed.contains(&at)));
        left.refused += failed.len();
        refused = if sent.is_empty() { refused + 1 } else { 0 };
        if refused == REFUSED_MAX {
            return Err("the node can't store anything".to_owned());
        }
        drop_hints(node, to, sent).await?;
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
    Ok(())
}

/// One delivery: what it names, and its bytes. Those that the receiver counts come first, then hints without a record.
fn packed(records: Vec<(ObjectId, Option<Bytes>)>) -> (Vec<Sent>, Bytes) {
    let (rows, bare): (Vec<_>, Vec<_>) = records.into_iter().partition(|(_, record)| record.is_some());
    let rows: Vec<(ObjectId, Bytes)> =
        rows.into_iter().filter_map(|(id, record)| Some((id, record?))).collect();
    let body = pack(&rows);
    let sent = rows.into_iter().map(|(id, record)| (id, Some(digest(&record))));
    (sent.chain(bare.into_iter().map(|(id, _)| (id, None))).collect(), body)
}

/// Sends records to every owner of their keys, or hints of them to another node that stands in.
async fn send_elsewhere<W: World>(
    node: &Node<W>,
    to: Route,
    ids: Vec<ObjectId>,
    left: &mut Left,
) -> Result<(), String> {
    let mut ids = ids.into_iter();
    while to.stands(node) {
        let _work = node.begin_work();
        let records = next_records(node, &mut ids, HINT_CREDIT_IDLE as usize, &mut left.damaged);
        if records.is_empty() {
            break;
        }
        let (records, bare): (Vec<_>, Vec<_>) = records.into_iter().partition(|(_, record)| record.is_some());
        let records: Vec<_> = records.into_iter().filter_map(|(id, record)| Some((id, record?))).collect();
        let count = records.len();
        let done = match to.way {
            Way::ToAnother => readdress::to_another(node, to.target, records).await,
            way => {
                readdress::to_owners(
                    node,
                    (way == Way::There).then_some(to.target),
                    records,
                    &mut left.unable,
                )
                .await
            }
        };
        left.refused += count - done.len();
        let stored = done.into_iter().map(|(id, record)| (id, Some(digest(&record))));
        let stored = stored.chain(bare.into_iter().map(|(id, _)| (id, None))).collect();
        drop_hints(node, to, stored).await?;
    }
    Ok(())
}

async fn drop_hints<W: World>(node: &Node<W>, to: Route, delivered: Vec<Sent>) -> Result<(), String> {
    let Route { target: owner, regime, .. } = to;
    let snapshot = node.cluster.snapshot();
    let jobs = delivered.into_iter().map(|(id, delivered)| {
        let plan = node.cluster.plan(&snapshot, &id);
        let owns = plan.owners.contains(&node.id()) || plan.pending.contains(&node.id());
        let drop_copy_unless =
            if owns { None } else { Some(snapshot.view.members.keys().copied().collect()) };
        node.lane.run(move |reply| Job::DropHint { id, owner, delivered, drop_copy_unless, regime, reply })
    });
    let mut dropped = stream::iter(jobs).buffer_unordered(HINT_SCAN_ROWS);
    while let Some(gone) = dropped.next().await {
        // A copy that has changed since keeps its hint, for the next round; so do all if the tables have.
        if gone.map_err(|refusal| refusal.to_string())? {
            node.hints_delivered.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Hints that have grown too old are given up, if no acknowledgement relies on them.
async fn give_up_old<W: World>(node: &Node<W>, target: NodeId, waiting: Vec<(ObjectId, HintRow)>) {
    let oldest = node.wall().0.saturating_sub(node.hint_age.as_millis() as u64);
    for (id, row) in waiting {
        if !row.counted && row.since.0 < oldest {
            let given_up = node.lane.run(|reply| Job::GiveUpHint { id, owner: target, reply }).await;
            if let Err(refusal) = given_up {
                return tracing::warn!(%refusal, "an old hint could not be given up");
            }
        }
    }
}
