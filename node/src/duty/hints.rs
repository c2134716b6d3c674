//! Delivers hints: what was kept for a node that could not be reached goes there once it can.
//!
//! A hint is a row that names a key; the record is this node's own copy at the time of delivery. It goes away only after
//! the owner has said that the record is durable there, and only if the copy has not changed since; a crash on either side
//! leaves it where it is. Deliveries to one node are bounded in number, so that a node that comes back is not drowned.

use crate::lane::Job;
use crate::limits::{HINT_SCAN_BYTES, HINT_SCAN_ROWS, HINT_TIMEOUT, HINTS_EVERY, HINTS_IN_FLIGHT};
use crate::node::Node;
use crate::store::{Family, Store, keys};
use crate::world::World;
use futures_util::StreamExt;
use futures_util::stream;
use ring::ids::{NodeId, ObjectId};
use ring::members::Status;
use ring::wire::record::digest;
use std::sync::atomic::Ordering;
use tokio::sync::watch;

/// Runs until the shutdown: at every change of the cluster, and every second.
pub async fn run<W: World>(node: Node<W>, mut shutdown: watch::Receiver<bool>) {
    let mut changes = node.cluster.changes();
    let mut tick = tokio::time::interval(HINTS_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = shutdown.changed() => return,
            Ok(()) = changes.changed() => {}
            _ = tick.tick() => {}
        }
        for target in reachable(&node) {
            tokio::select! {
                biased;
                _ = shutdown.changed() => return,
                () = deliver_all(&node, target) => {}
            }
        }
    }
}

fn reachable<W: World>(node: &Node<W>) -> Vec<NodeId> {
    let (snapshot, doubted) = (node.cluster.snapshot(), node.cluster.doubted());
    let here = snapshot.view.members.iter().filter(|(_, m)| m.status != Status::Removed).map(|(id, _)| *id);
    here.filter(|id| *id != node.id() && !doubted.contains(id)).collect()
}

/// Goes through everything that is kept for one node; stops at the first page of which nothing could be delivered.
async fn deliver_all<W: World>(node: &Node<W>, target: NodeId) {
    let (mut start, end) = keys::hints_for(target);
    loop {
        let rows =
            match node.store.scan(Family::Hints, &start, end.as_deref(), HINT_SCAN_ROWS, HINT_SCAN_BYTES) {
                Ok(rows) => rows,
                Err(error) => return tracing::warn!(%error, "hints can't be read"),
            };
        let Some((last, _)) = rows.last() else { return };
        start = keys::after(last);
        let ids: Vec<ObjectId> =
            rows.iter().filter_map(|(key, _)| keys::decode_hint_key(key).ok()).map(|(_, _, id)| id).collect();
        let delivered = stream::iter(ids)
            .map(|id| deliver(node, target, id))
            .buffer_unordered(HINTS_IN_FLIGHT)
            .filter(|done| std::future::ready(*done))
            .count()
            .await;
        if delivered == 0 {
            return;
        }
    }
}

async fn deliver<W: World>(node: &Node<W>, target: NodeId, id: ObjectId) -> bool {
    let body = match node.local(&id) {
        Ok(body) => body,
        Err(error) => {
            tracing::warn!(%error, "a hint's record can't be read");
            return false;
        }
    };
    let delivered = body.as_deref().map(digest);
    if let Some(body) = body
        && !matches!(node.store_at(target, id.clone(), body, HINT_TIMEOUT).await, Ok(true))
    {
        return false;
    }
    let snapshot = node.cluster.snapshot();
    let plan = node.cluster.plan(&snapshot, &id);
    let owns = plan.owners.contains(&node.id()) || plan.pending.contains(&node.id());
    let drop_copy_unless = if owns { None } else { Some(snapshot.view.members.keys().copied().collect()) };
    let dropped =
        node.lane.run(|reply| Job::DropHint { id, owner: target, delivered, drop_copy_unless, reply }).await;
    if matches!(dropped, Ok(true)) {
        node.hints_delivered.fetch_add(1, Ordering::Relaxed);
    }
    dropped.is_ok()
}
