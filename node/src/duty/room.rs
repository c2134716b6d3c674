//! Looks whether the disk is nearly full. Then no more is taken (507), reads and deletions go on, and as soon as there is room again
//! everything does, without a restart.
//!
//! The disk's own "no space left" comes too late: the engine needs room for its log and to merge tables, and a start on a full disk
//! may fail. So the last 5 % are left to it, or the last 512 MiB of a disk on which 5 % would be more.

use crate::limits::{ROOM_EVERY, ROOM_KEPT_MAX, ROOM_KEPT_PERCENT};
use crate::node::Node;
use crate::store::{Room, Store};
use crate::world::World;
use std::sync::atomic::Ordering;
use tokio::sync::watch;

/// Runs until the shutdown.
pub async fn run<W: World>(node: Node<W>, mut shutdown: watch::Receiver<bool>) {
    let mut tick = tokio::time::interval(ROOM_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = shutdown.changed() => return,
            _ = tick.tick() => {}
        }
        let Some(room) = node.store.room() else { continue };
        let was = node.crowded.load(Ordering::Relaxed);
        let is = is_crowded(room, was);
        if is != was {
            node.crowded.store(is, Ordering::Relaxed);
            match is {
                true => tracing::error!(
                    free = room.free,
                    of = room.total,
                    "the disk is nearly full: writes are refused"
                ),
                false => tracing::info!(
                    free = room.free,
                    of = room.total,
                    "the disk has room again: writes are taken"
                ),
            }
        }
    }
}

/// By a little more than was too little: else it would change its mind with every table that is merged.
fn is_crowded(Room { free, total }: Room, was: bool) -> bool {
    let kept = (total / 100 * ROOM_KEPT_PERCENT).min(ROOM_KEPT_MAX);
    free < if was { kept + kept / 4 } else { kept }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_crowded_from_its_last_twentieth_on_and_until_there_is_a_quarter_more() {
        let room = |free_mib: u64, total_mib: u64| Room { free: free_mib << 20, total: total_mib << 20 };
        assert!(!is_crowded(room(6, 100), false) && is_crowded(room(4, 100), false));
        assert!(is_crowded(room(6, 100), true) && !is_crowded(room(7, 100), true));
        assert!(!is_crowded(room(513, 1 << 20), false) && is_crowded(room(511, 1 << 20), false));
    }
}
