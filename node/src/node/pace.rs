//! How much room repairs, hints and transfers may take while clients are served: as much as their requests do not feel.
//!
//! ```text
//!   nobody is served                                            all of it
//!   requests take at most 1.5 times as long as in calm times    one more at a time
//!   they take longer                                            half of it
//! ```
//!
//! Calm times are those without such work; what requests take then is averaged over some 256 of them, what they take now over
//! some 16. Slow increase and fast decrease is what TCP does with a path whose width nobody knows (Chiu and Jain, 1989).
//! Rather than a fixed share for background work: that is too much for a slow disk and too little for a fast one.

use ring::time::Time;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// How long after background work has asked for room the times are not calm.
const CALM_AFTER: Duration = Duration::from_secs(1);
/// How quickly the averages follow, as shifts: a 16th and a 256th of the difference per request.
const NOW: u32 = 4;
const CALM: u32 = 8;

/// All of it, in parts.
const WHOLE: usize = 32;

/// What requests take. A lost update among several threads is one sample fewer.
#[derive(Debug, Default)]
pub struct Pace {
    /// Averages, in nanoseconds; 0 before the first request.
    now: AtomicU64,
    calm: AtomicU64,
    /// When background work last asked for room.
    worked: AtomicU64,
    /// Which part of everything it last got while clients were served.
    part: AtomicUsize,
}

impl Pace {
    /// A client's request took so long.
    pub fn served(&self, took: Duration, at: Time) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX >> 1).max(1);
        follow(&self.now, took, NOW);
        let worked = self.worked.load(Ordering::Relaxed);
        if worked == 0 || at - Time(worked) > CALM_AFTER {
            follow(&self.calm, took, CALM);
        }
    }

    /// Background work goes on: these are no calm times.
    pub fn works(&self, at: Time) {
        self.worked.store(at.0.max(1), Ordering::Relaxed);
    }

    /// How much of `most` may run at once now, at least 1; `busy` says whether clients are served at all.
    pub fn room(&self, most: usize, busy: bool, at: Time) -> usize {
        self.works(at);
        if !busy {
            return most;
        }
        let part = self.part.load(Ordering::Relaxed);
        let part = if self.is_felt() { part / 2 } else { part + 1 }.clamp(1, WHOLE);
        self.part.store(part, Ordering::Relaxed);
        (most * part / WHOLE).max(1)
    }

    /// Whether requests take longer than in calm times, by more than half.
    pub fn is_felt(&self) -> bool {
        let (now, calm) = (self.now.load(Ordering::Relaxed), self.calm.load(Ordering::Relaxed));
        calm > 0 && now > calm + calm / 2
    }
}

fn follow(average: &AtomicU64, sample: u64, shift: u32) {
    let before = average.load(Ordering::Relaxed);
    let after = match before {
        0 => sample,
        _ => before - (before >> shift) + (sample >> shift),
    };
    average.store(after, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = WHOLE;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn served(pace: &Pace, count: usize, took: Duration, at: Time) {
        (0..count).for_each(|_| pace.served(took, at));
    }

    #[test]
    fn all_of_it_while_nobody_is_served() {
        let pace = Pace::default();
        assert_eq!(pace.room(MOST, false, Time(1)), MOST);
        served(&pace, 100, ms(50), Time(2));
        assert_eq!(pace.room(MOST, false, Time(3)), MOST);
    }

    #[test]
    fn it_grows_until_it_is_felt_and_then_halves() {
        let (pace, mut at) = (Pace::default(), Time(0) + ms(1));
        served(&pace, 1000, ms(2), at);
        let mut last = 0;
        for _ in 0..10 {
            at = at + ms(10);
            served(&pace, 10, ms(2), at);
            let room = pace.room(MOST, true, at);
            assert_eq!(room, last + 1);
            last = room;
        }
        served(&pace, 100, ms(4), at);
        assert!(pace.is_felt());
        let rooms: Vec<usize> = (0..5).map(|_| pace.room(MOST, true, at)).collect();
        assert_eq!(rooms, [last / 2, last / 4, 1, 1, 1], "some of it always goes on");
        assert_eq!(pace.room(4, true, at), 1);
        served(&pace, 100, ms(2), at);
        assert_eq!(pace.room(MOST, true, at), 2, "calm times are not learned from times of work");
    }

    #[test]
    fn what_is_slow_by_itself_is_not_blamed_on_the_work() {
        let pace = Pace::default();
        let later = Time(0) + ms(60_000);
        pace.room(MOST, true, Time(1));
        served(&pace, 3000, ms(80), later);
        assert!(!pace.is_felt());
        assert_eq!((0..MOST).map(|_| pace.room(MOST, true, later)).max(), Some(MOST));
        assert_eq!((pace.room(4, true, later), pace.room(MOST, true, later)), (4, MOST));
    }
}
