//! Drops values whose time is over. Nobody sees them any more; this is for their space, which the next compaction gives back.
//!
//! Each node does it by itself and when it likes: a record is the same to the others whether its expired values were
//! dropped or not. Nothing is dropped by a clock that was not agreed upon, for that can't be taken back.

use crate::lane::Job;
use crate::limits::{EXPIRY_AT_ONCE, EXPIRY_EVERY, EXPIRY_ROWS};
use crate::node::Node;
use crate::store::{Family, Row, Store, keys};
use crate::world::World;
use futures_util::{StreamExt, stream};
use ring::time::Wall;
use std::sync::atomic::Ordering;
use tokio::sync::watch;

/// Runs until the shutdown.
pub async fn run<W: World>(node: Node<W>, mut shutdown: watch::Receiver<bool>) {
    let mut tick = tokio::time::interval(EXPIRY_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = shutdown.changed() => return,
            _ = tick.tick() => {}
        }
        tokio::select! {
            biased;
            _ = shutdown.changed() => return,
            () = round(&node) => {}
        }
    }
}

/// Everything that is due at this moment. Where nothing is, the disk is left alone.
async fn round<W: World>(node: &Node<W>) {
    if !node.lock_clock().is_sure() {
        return;
    }
    let now = node.wall();
    let Some(from) = node.lock_due().look(now) else { return };
    pages(node, from, now).await;
    // Asked of the disk and not of the pages: what could not be dropped still stands there, and is due again.
    let first = match node.store.scan(Family::Due, &keys::due_from(from), None, 1, usize::MAX) {
        Ok(rows) => rows.first().map(|(key, _)| keys::decode_due_key(key).map_or(from, |(due, ..)| due)),
        Err(_) => Some(from),
    };
    node.lock_due().found(first);
}

async fn pages<W: World>(node: &Node<W>, from: Wall, now: Wall) {
    let (mut from, end) = keys::due_between(from, now);
    loop {
        let rows = match node.store.scan(Family::Due, &from, end.as_deref(), EXPIRY_ROWS, usize::MAX) {
            Ok(rows) => rows,
            Err(error) => return tracing::warn!(%error, "what is due can't be read"),
        };
        let Some((last, _)) = rows.last() else { return };
        from = keys::after(last);
        let mut dropped =
            stream::iter(rows).map(|row| drop_values(node, row, now)).buffer_unordered(EXPIRY_AT_ONCE);
        while let Some(dropped) = dropped.next().await {
            node.expired.fetch_add(u64::from(dropped), Ordering::Relaxed);
        }
    }
}

/// Whether the key held a value that had expired. A record that can't be read keeps its note until it is healed.
async fn drop_values<W: World>(node: &Node<W>, (key, _): Row, now: Wall) -> bool {
    let Ok((due, _, id)) = keys::decode_due_key(&key) else { return false };
    let dropped = node.lane.run(|reply| Job::Expire { id, due, now, reply }).await;
    dropped.unwrap_or_else(|refusal| {
        tracing::debug!(%refusal, "an expired value could not be dropped yet");
        false
    })
}
