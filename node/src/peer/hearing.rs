//! Whom this node has asked something and not heard from since, by its own connection.
//!
//! The failure detector believes somebody to be up whom others can reach (SWIM's indirect probes). That is right for the
//! cluster and of no use to a node whose own way there is cut: what it asks waits until the client gives up. So each link
//! remembers since when it has asked in vain, and after [`MUTE_AFTER`] its peer counts as doubted here, until anything comes from it.
//!
//! A peer that is slow is not mute: while an answer is awaited and nothing comes, the connection asks for a sign of life every
//! [`LOOK_EVERY`], and that is given while requests are worked at. Not while what was sent before it fills the link, or the peer's
//! hands (it reads no further with a thousand requests under way): then whatever is asked would wait as well, and others do it.

use crate::limits::{LOOK_EVERY, MUTE_AFTER};
use crate::world::World;
use ring::ids::NodeId;
use ring::time::Time;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// Who is mute.
pub(super) type Mute = Arc<watch::Sender<BTreeSet<NodeId>>>;

/// What one link hears. Only its own task changes it, until it is retired.
pub(super) struct Hearing {
    /// Nobody for a connection to somebody whose name is not known yet.
    peer: Option<NodeId>,
    /// When the first question was asked since something was heard, in the microseconds of [`Time`]; 0: none was.
    asked_at: AtomicU64,
    is_mute: AtomicBool,
    /// Whether another link has taken this one's place.
    retired: AtomicBool,
    mute: Mute,
}

impl Hearing {
    pub(super) fn of(peer: NodeId, mute: Mute) -> Hearing {
        Hearing { peer: Some(peer), asked_at: 0.into(), is_mute: false.into(), retired: false.into(), mute }
    }

    pub(super) fn of_a_stranger() -> Hearing {
        let mute = Mute::default();
        Hearing { peer: None, asked_at: 0.into(), is_mute: false.into(), retired: false.into(), mute }
    }

    /// A question goes out, or is tried to.
    pub(super) fn asks(&self, now: Time) {
        if self.asked_at.load(Ordering::Relaxed) == 0 {
            self.asked_at.store(now.0.max(1), Ordering::Relaxed);
        }
    }

    /// Something has come.
    pub(super) fn heard(&self) {
        if self.asked_at.load(Ordering::Relaxed) != 0 {
            self.asked_at.store(0, Ordering::Relaxed);
        }
        if self.is_mute.load(Ordering::Relaxed) {
            self.is_mute.store(false, Ordering::Relaxed);
            self.tell(|set, peer| set.remove(&peer));
        }
    }

    /// For how long it has asked in vain.
    pub(super) fn in_vain(&self, now: Time) -> Duration {
        match self.asked_at.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => now - Time(since),
        }
    }

    /// Says so if that has become too long.
    pub(super) fn look(&self, now: Time) {
        if self.in_vain(now) >= MUTE_AFTER {
            self.is_mute.store(true, Ordering::Relaxed);
            self.tell(BTreeSet::insert);
        }
    }

    /// Looks again and again while a connection stands, also while it is stuck in a write.
    pub(super) async fn keep_looking<W: World>(&self, world: &W) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.look(world.now());
        }
    }

    /// From now on it says nothing of anybody, and what it has said is taken back: its peer is called at another address, or no more.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        if let Some(peer) = self.peer {
            self.mute.send_if_modified(|set| set.remove(&peer));
        }
    }

    fn tell(&self, change: impl FnOnce(&mut BTreeSet<NodeId>, NodeId) -> bool) {
        if let Some(peer) = self.peer {
            // Looked at under the lock: what is said just before it retires is taken back after that.
            self.mute.send_if_modified(|set| !self.retired.load(Ordering::SeqCst) && change(set, peer));
        }
    }
}

#[cfg(test)]
#[path = "hearing_tests.rs"]
mod tests;
