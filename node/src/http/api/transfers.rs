//! `GET /v1/transfers`: how far a change of who owns what has come, asked of everybody whom it concerns.

use crate::cluster::Snapshot;
use crate::node::Node;
use crate::world::World;
use futures_util::future::join_all;
use ring::ids::{NodeId, Partition};
use ring::members::{Step, Wait, next};
use ring::wire::peer::Transfers;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Everything.
pub(super) async fn all<W: World>(node: &Node<W>) -> Value {
    let snapshot = node.cluster.snapshot();
    let bytes =
        if snapshot.regime.target.is_some() { node.bytes_of_partitions().await } else { BTreeMap::new() };
    let members: Vec<NodeId> = snapshot.view.living().map(|(id, _)| id).collect();
    let told = join_all(members.into_iter().map(|id| async move { (id, node.transfers_at(id).await) })).await;
    let items: Vec<Value> =
        told.iter().filter_map(|(id, told)| item(&snapshot, *id, told.as_ref(), &bytes)).collect();
    let surplus: Vec<Value> = told
        .iter()
        .filter_map(|(id, told)| told.as_ref().map(|told| (id, told.surplus)))
        .filter(|(_, surplus)| *surplus > 0)
        .map(|(id, surplus)| {
            // Others are asked for numbers alone.
            let why = if *id == node.id() { node.lock_gain().not_handed_on.clone() } else { None };
            json!({ "node": id.to_string(), "partitions": surplus, "reason": why })
        })
        .collect();
    json!({
        "node": node.id().to_string(),
        "settled": snapshot.regime.is_settled(),
        "items": items,
        "surplus": surplus,
        "waiting_for": waits_json(&waits(node, &snapshot)),
    })
}

/// In short, for the page of the cluster: what this node knows without asking.
pub(super) fn summary<W: World>(node: &Node<W>, snapshot: &Snapshot) -> Value {
    let waits = waits(node, snapshot);
    if snapshot.regime.is_settled() && waits.is_empty() {
        return json!({});
    }
    let mut to_move = BTreeMap::new();
    for (id, member) in &snapshot.view.members {
        let wanted = wanted(snapshot, *id).len();
        if wanted > 0 {
            let done = member.acting.regime == snapshot.regime.name().digest && member.acting.done;
            to_move.insert(*id, (wanted, done));
        }
    }
    let of: usize = to_move.values().map(|(wanted, _)| wanted).sum();
    let done: usize = to_move.values().filter(|(_, done)| *done).map(|(wanted, _)| wanted).sum();
    json!({
        "partitions": of - done,
        "done": done,
        "of": of,
        "waiting_for": waits_json(&waits),
    })
}

fn waits<W: World>(node: &Node<W>, snapshot: &Snapshot) -> Vec<Wait> {
    let (ns, doubted) = (snapshot.ns.all(), node.cluster.doubted());
    match next(&snapshot.view, &snapshot.regime, &ns, &doubted) {
        Step::Wait(waits) | Step::Fill(waits) => waits,
        Step::Rest | Step::Agree | Step::Settle | Step::Retire => Vec::new(),
    }
}

fn waits_json(waits: &[Wait]) -> Value {
    waits.iter().map(|wait| json!({ "node": wait.node.to_string(), "reason": wait.why.text() })).collect()
}

fn wanted(snapshot: &Snapshot, id: NodeId) -> BTreeSet<Partition> {
    let ns = snapshot.ns.all().into_iter();
    ns.flat_map(|n| snapshot.regime.gained_by(id, usize::from(n))).collect()
}

fn item(
    snapshot: &Snapshot,
    id: NodeId,
    told: Option<&Transfers>,
    bytes: &BTreeMap<Partition, u64>,
) -> Option<Value> {
    let wanted = wanted(snapshot, id);
    if wanted.is_empty() {
        return None;
    }
    let sum = |of: &mut dyn Iterator<Item = &Partition>| {
        of.map(|partition| bytes.get(partition).copied().unwrap_or(0)).sum::<u64>()
    };
    let to_move = sum(&mut wanted.iter());
    let told = told.filter(|told| told.regime == snapshot.regime.name().digest);
    let Some(told) = told else {
        return Some(json!({
            "node": id.to_string(), "state": "waiting", "partitions": wanted.len(), "done": 0, "bytes_moved": 0,
            "bytes_to_move": to_move, "bytes_per_second": 0, "estimate_ms": null, "reason": "it does not answer",
        }));
    };
    let complete: BTreeSet<Partition> = told.complete.iter().copied().collect();
    let (state, done) = match (told.done, told.moving) {
        (true, _) => ("done", wanted.len()),
        (false, true) => ("moving", complete.len()),
        (false, false) => ("waiting", 0),
    };
    let moved = if told.done { to_move } else { sum(&mut complete.iter()).max(told.bytes.min(to_move)) };
    let per_second = moved.saturating_mul(1000).checked_div(told.elapsed_ms).unwrap_or(0);
    let estimate = match state {
        "done" => Some(0),
        _ => (to_move - moved.min(to_move)).saturating_mul(1000).checked_div(per_second),
    };
    Some(json!({
        "node": id.to_string(),
        "state": state,
        "partitions": wanted.len(),
        "done": done,
        "bytes_moved": moved,
        "bytes_to_move": to_move,
        "bytes_per_second": per_second,
        "estimate_ms": estimate,
        "reason": told.reason.as_deref().filter(|_| !told.done),
    }))
}
