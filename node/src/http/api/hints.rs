//! `GET /v1/hints`: what this node keeps for others, and how the deliveries go.

use super::envelope::rfc3339;
use crate::node::Node;
use crate::world::World;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

/// Everything.
pub(super) fn all<W: World>(node: &Node<W>) -> Value {
    let (now, wall) = (node.now(), node.wall());
    let deliveries = node.lock_deliveries().clone();
    let hints = node.lock_hints();
    let items: Vec<Value> = hints
        .targets()
        .into_iter()
        .map(|target| {
            let kept = hints.of_target(target);
            let delivery = deliveries.get(&target).cloned().unwrap_or_default();
            let wait = delivery.not_before - now;
            json!({
                "node": target.to_string(),
                "count": kept.rows,
                "counted": kept.counted,
                "bytes": kept.bytes,
                "since": rfc3339(kept.since),
                "age_ms": wall.0.saturating_sub(kept.since.0),
                "state": delivery.state.name(),
                "failures": delivery.failures,
                "retry_in_ms": if delivery.failures > 0 { Some(wait.as_millis() as u64) } else { None },
                "error": delivery.error,
            })
        })
        .collect();
    let waiting: u64 = hints.targets().into_iter().map(|target| hints.of_target(target).rows).sum();
    let (bytes, bytes_max) = hints.bytes();
    json!({
        "items": items,
        "waiting": waiting,
        "bytes": bytes,
        "bytes_max": bytes_max,
        "written": node.hints_written.load(Ordering::Relaxed),
        "delivered": node.hints_delivered.load(Ordering::Relaxed),
        "dropped": hints.dropped,
    })
}
