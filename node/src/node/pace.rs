//! How much room repairs, hints and transfers may take while clients are served: as much as the disk's queue does not feel.
//!
//! ```text
//!   nobody is served                                     all of it
//!   a write takes at most twice as long as it could      a little more at a time
//!   it takes longer                                      half of it
//! ```
//!
//! Measured is how long a client's write waits here until it is durable, at its coordinator and at each replica: every node has
//! that, whoever its clients talk to, and no slow client or long poll is in it. How long it could take is the least of late,
//! which forgets: where everything has become slower by itself, a few hundred writes later that is the measure. This is the
//! delay-based control of LEDBAT (RFC 6817), with the increase and decrease of TCP (Chiu and Jain, 1989), rather than a fixed
//! share: that is too much for a slow disk and too little for a fast one.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// How quickly the average follows, as a shift: by a 16th of the difference per write.
const NOW: u32 = 4;
/// How quickly the least is forgotten: it grows by a 512th per write, and is doubled after 355.
const FORGET: u32 = 9;
/// All of it, in parts.
const WHOLE: usize = 32;

/// What writes take. A lost update among several threads is one sample fewer.
#[derive(Debug, Default)]
pub struct Pace {
    /// The average of late and the least that it was, in nanoseconds; 0 before the first write.
    now: AtomicU64,
    least: AtomicU64,
    /// Which part of everything background work last got while clients were served.
    part: AtomicUsize,
}

impl Pace {
    /// A client's write was durable here after so long.
    pub fn wrote(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX >> 1).max(1);
        let now = match self.now.load(Ordering::Relaxed) {
            0 => took,
            before => before - (before >> NOW) + (took >> NOW),
        };
        self.now.store(now, Ordering::Relaxed);
        let least = match self.least.load(Ordering::Relaxed) {
            0 => now,
            least => (least + (least >> FORGET).max(1)).min(now),
        };
        self.least.store(least, Ordering::Relaxed);
    }

    /// How much of `most` may run at once now, at least 1; `busy` says whether clients are served at all.
    pub fn room(&self, most: usize, busy: bool) -> usize {
        if !busy {
            return most;
        }
        let part = self.part.load(Ordering::Relaxed);
        let part = if self.is_felt() { part / 2 } else { part + 1 }.clamp(1, WHOLE);
        self.part.store(part, Ordering::Relaxed);
        (most * part).div_ceil(WHOLE)
    }

    /// Whether writes take more than twice as long as they could.
    pub fn is_felt(&self) -> bool {
        self.now.load(Ordering::Relaxed) > 2 * self.least.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrote(pace: &Pace, count: usize, ms: u64) {
        (0..count).for_each(|_| pace.wrote(Duration::from_millis(ms)));
    }

    #[test]
    fn all_of_it_while_nobody_is_served() {
        let pace = Pace::default();
        assert_eq!(pace.room(WHOLE, false), WHOLE);
        wrote(&pace, 100, 2);
        wrote(&pace, 20, 50);
        assert!(pace.is_felt());
        assert_eq!(pace.room(WHOLE, false), WHOLE);
    }

    #[test]
    fn it_grows_until_it_is_felt_and_then_halves() {
        let pace = Pace::default();
        wrote(&pace, 100, 2);
        for expected in 1..=10 {
            assert_eq!(pace.room(WHOLE, true), expected);
        }
        wrote(&pace, 40, 6);
        assert!(pace.is_felt());
        let rooms: Vec<usize> = (0..5).map(|_| pace.room(WHOLE, true)).collect();
        assert_eq!(rooms, [5, 2, 1, 1, 1], "some of it always goes on");
        wrote(&pace, 100, 2);
        assert_eq!(pace.room(WHOLE, true), 2);
        assert_eq!(pace.room(4, true), 1, "three parts of 32 of four, rounded up");
    }

    #[test]
    fn a_node_that_starts_into_the_work_finds_the_least_by_itself() {
        let pace = Pace::default();
        wrote(&pace, 50, 9);
        assert!(!pace.is_felt(), "it knows nothing better");
        wrote(&pace, 100, 2);
        wrote(&pace, 50, 9);
        assert!(pace.is_felt());
    }

    #[test]
    fn what_has_become_slow_by_itself_is_not_blamed_on_the_work_for_ever() {
        let pace = Pace::default();
        wrote(&pace, 100, 2);
        wrote(&pace, 100, 30);
        assert!(pace.is_felt());
        wrote(&pace, 1500, 30);
        assert!(!pace.is_felt());
    }
}
