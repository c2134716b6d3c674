//! Where each round begins, when there is more to ask about than one round may.
//!
//! A key goes only after some rounds about it, a grace apart. If every round began at the first key, steady deletions among the
//! first would keep all others for ever; if each went on where the last one stopped, a long tour would come back to a key hours
//! later for its second look. So rounds begin at the same place for a **stay**, in which whatever was dead when it began has
//! time to go, and the next stay begins where its first round had stopped: nothing is passed over, and nothing waits for more
//! than one tour.

use crate::time::Time;
use std::time::Duration;

/// A tour of all dead keys, in any order that stays the same.
#[derive(Clone, Debug)]
pub struct Tour<K> {
    keys_max: usize,
    stay: Duration,
    /// Where rounds begin; at the beginning if nowhere.
    from: Option<K>,
    /// How many keys were asked about in this round, and the first for which there was no room.
    asked: usize,
    left: Option<K>,
    /// Since when rounds begin here, and where the next stay is to begin.
    stayed: Option<(Time, K)>,
}

impl<K: Clone> Tour<K> {
    /// So many keys in a round, and so long at one place.
    pub fn new(keys_max: usize, stay: Duration) -> Self {
        Tour { keys_max, stay, from: None, asked: 0, left: None, stayed: None }
    }

    /// A round begins here, and goes round to here.
    pub fn begin(&mut self) -> Option<K> {
        (self.asked, self.left) = (0, None);
        self.from.clone()
    }

    /// Whether this round still asks about these, the next of all.
    pub fn takes(&mut self, first: &K, keys: usize) -> bool {
        let room = self.left.is_none() && self.asked + keys <= self.keys_max;
        if room {
            self.asked += keys;
        } else {
            self.left.get_or_insert_with(|| first.clone());
        }
        room
    }

    /// The round is over.
    pub fn end(&mut self, now: Time) {
        let Some(left) = self.left.take() else {
            // There was room for all.
            self.stayed = None;
            return;
        };
        let (since, next) = self.stayed.get_or_insert((now, left)).clone();
        if now >= since + self.stay {
            (self.from, self.stayed) = (Some(next), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const STAY: u64 = 5;

    /// Pages of ten: which are asked about from one round to the next while those that went come back at once.
    fn rounds(pages: usize, keys_max: usize, rounds: u64) -> Vec<Vec<usize>> {
        let mut tour = Tour::new(keys_max, Duration::from_secs(STAY));
        let round = |now| {
            let from = tour.begin().unwrap_or(0);
            let all = (0..pages).map(|at| (from + at) % pages);
            let asked = all.filter(|page| tour.takes(page, 10)).collect();
            tour.end(Time(now * 1_000_000));
            asked
        };
        (1..=rounds).map(round).collect()
    }

    #[test]
    fn where_there_is_room_each_round_asks_about_all() {
        assert!(rounds(20, 200, 50).iter().all(|asked| asked.len() == 20));
    }

    #[test]
    fn steady_deletions_starve_nobody_and_each_has_a_whole_stay() {
        let mut longest: BTreeMap<usize, u64> = BTreeMap::new();
        let mut now: BTreeMap<usize, u64> = BTreeMap::new();
        for asked in rounds(20, 60, 60) {
            assert_eq!(asked.len(), 6, "a round is bounded");
            for page in 0..20 {
                let run = now.entry(page).or_default();
                *run = if asked.contains(&page) { *run + 1 } else { 0 };
                let longest = longest.entry(page).or_default();
                *longest = (*longest).max(*run);
            }
        }
        assert!(longest.values().all(|rounds| *rounds > STAY), "{longest:?}");
        assert_eq!(longest.len(), 20);
    }

    #[test]
    fn a_page_that_does_not_fit_ends_the_round() {
        let mut tour = Tour::new(15, Duration::ZERO);
        assert_eq!(tour.begin(), None);
        assert!(tour.takes(&'a', 10) && !tour.takes(&'b', 10) && !tour.takes(&'c', 1));
        tour.end(Time(1));
        assert_eq!(tour.begin(), Some('b'));
    }
}
