//! How long frames take: a link of one length, or one on which most are quick and a few very late, as where a queue has built up.

use rand::RngExt;
use rand::rngs::StdRng;
use std::time::Duration;

/// No frame of a tail takes longer than so many times the mean: one in 22,000 would.
const TAIL_MAX: f64 = 10.0;

/// How long a frame takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Delay {
    /// Every time between the two is as likely.
    Between(Duration, Duration),
    /// So long at least, and on top of that exponentially distributed with this mean.
    Tail(Duration, Duration),
}

impl Default for Delay {
    fn default() -> Self {
        Delay::Between(Duration::ZERO, Duration::ZERO)
    }
}

impl Delay {
    pub(super) fn draw(self, chance: &mut StdRng) -> Duration {
        let share: f64 = chance.random();
        match self {
            Delay::Between(least, most) => least + most.saturating_sub(least).mul_f64(share),
            Delay::Tail(least, mean) => least + mean.mul_f64((-(1.0 - share).ln()).min(TAIL_MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn a_tail_has_its_mean_and_its_end_and_a_range_both_its_ends() {
        let (least, mean) = (Duration::from_millis(20), Duration::from_millis(40));
        let mut chance = StdRng::seed_from_u64(1);
        let mut sorted = |delay: Delay| -> Vec<Duration> {
            let mut all: Vec<Duration> = (0..10_000).map(|_| delay.draw(&mut chance)).collect();
            all.sort_unstable();
            all
        };
        let tail = sorted(Delay::Tail(least, mean));
        let sum: Duration = tail.iter().sum();
        assert!((58..62).contains(&(sum / 10_000).as_millis()), "{:?}", sum / 10_000);
        // ln 2 of the mean.
        assert!((46..50).contains(&tail[5_000].as_millis()), "{:?}", tail[5_000]);
        assert!(tail[0] >= least && tail[9_999] <= least + mean.mul_f64(TAIL_MAX) && tail[9_999] > 5 * mean);
        let range = sorted(Delay::Between(least, mean));
        assert!(range[0] >= least && range[0] < least + Duration::from_millis(1));
        assert!(range[9_999] <= mean && range[9_999] > mean - Duration::from_millis(1));
        assert_eq!(Delay::default().draw(&mut chance), Duration::ZERO);
    }
}
