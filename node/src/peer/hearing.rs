//! Whom this node has asked something and not heard from since, by its own connection.
//!
//! The failure detector believes somebody to be up whom others can reach (SWIM's indirect probes). That is right for the
//! cluster and of no use to a node whose own way there is cut: what it asks waits until the client gives up. So each link
//! remembers since when it has asked in vain, and after [`MUTE_AFTER`] its peer counts as doubted here, until anything comes from it.
//! Long before that, after [`LATE_AFTER`], it is late: where others can be asked as well, they are asked first. That decides nothing,
//! so it may be wrong now and then, and of forty seconds for which a process stands still half a one is felt instead of two.
//!
//! A peer that is slow is not mute: while an answer is awaited and nothing comes, the connection asks for a sign of life every
//! [`LOOK_EVERY`], and that is given while requests are worked at. Not while what was sent before it fills the link, or the peer's
//! hands (it reads no further with a thousand requests under way): then whatever is asked would wait as well, and others do it.

use crate::limits::{LATE_AFTER, LOOK_EVERY, MUTE_AFTER, STALL_MIN};
use crate::world::World;
use ring::ids::NodeId;
use ring::time::Time;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

type Set = Arc<watch::Sender<BTreeSet<NodeId>>>;

/// Who is silent, as far as links know it. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Silent {
    pub(super) late: Set,
    /// They are late as well.
    pub(super) mute: Set,
}

/// What one link hears. Only its own task changes it, until it is retired.
pub(super) struct Hearing {
    /// Nobody for a connection to somebody whose name is not known yet.
    peer: Option<NodeId>,
    /// When the first question was asked since something was heard, in the microseconds of [`Time`]; 0: none was.
    asked_at: AtomicU64,
    is_late: AtomicBool,
    is_mute: AtomicBool,
    /// Whether another link has taken this one's place.
    retired: AtomicBool,
    silent: Silent,
}

impl Hearing {
    pub(super) fn of(peer: NodeId, silent: Silent) -> Hearing {
        Hearing { peer: Some(peer), silent, ..Hearing::of_a_stranger() }
    }

    pub(super) fn of_a_stranger() -> Hearing {
        Hearing {
            peer: None,
            asked_at: 0.into(),
            is_late: false.into(),
            is_mute: false.into(),
            retired: false.into(),
            silent: Silent::default(),
        }
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
        if self.is_late.load(Ordering::Relaxed) {
            self.is_late.store(false, Ordering::Relaxed);
            self.tell(&self.silent.late, |set, peer| set.remove(&peer));
        }
        if self.is_mute.load(Ordering::Relaxed) {
            self.is_mute.store(false, Ordering::Relaxed);
            self.tell(&self.silent.mute, |set, peer| set.remove(&peer));
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
        let in_vain = self.in_vain(now);
        if in_vain >= LATE_AFTER {
            self.is_late.store(true, Ordering::Relaxed);
            self.tell(&self.silent.late, BTreeSet::insert);
        }
        if in_vain >= MUTE_AFTER {
            self.is_mute.store(true, Ordering::Relaxed);
            self.tell(&self.silent.mute, BTreeSet::insert);
        }
    }

    /// Looks again and again while a connection stands, also while it is stuck in a write, and just when a peer becomes late.
    pub(super) async fn keep_looking<W: World>(&self, world: &W) {
        loop {
            let now = world.now();
            let left = LATE_AFTER.saturating_sub(self.in_vain(now));
            let span = if left.is_zero() { LOOK_EVERY } else { left };
            tokio::time::sleep(span).await;
            match world.now() {
                woke if woke - now >= span + STALL_MIN => self.forgive(woke),
                woke => self.look(woke),
            }
        }
    }

    /// This node has stood still itself, and what was said to it meanwhile may not be read yet: the peer has all its time again.
    fn forgive(&self, now: Time) {
        if self.asked_at.load(Ordering::Relaxed) != 0 {
            self.asked_at.store(now.0.max(1), Ordering::Relaxed);
        }
    }

    /// From now on it says nothing of anybody, and what it has said is taken back: its peer is called at another address, or no more.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        if let Some(peer) = self.peer {
            for set in [&self.silent.late, &self.silent.mute] {
                set.send_if_modified(|set| set.remove(&peer));
            }
        }
    }

    fn tell(&self, set: &Set, change: impl FnOnce(&mut BTreeSet<NodeId>, NodeId) -> bool) {
        if let Some(peer) = self.peer {
            // Looked at under the lock: what is said just before it retires is taken back after that.
            set.send_if_modified(|set| !self.retired.load(Ordering::SeqCst) && change(set, peer));
        }
    }
}

#[cfg(test)]
#[path = "hearing_tests.rs"]
mod tests;
