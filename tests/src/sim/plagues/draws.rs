//! How each kind of trouble is drawn: what it does now, when that ends, and when the next of its kind comes.

use super::{Deed, NEWCOMERS_MAX, Plague, Schedule};
use crate::sim::CLIENT;
use crate::sim::disk::Wear;
use crate::sim::fleet::Down;
use crate::sim::wires::{Host, Weather};
use node::store::Family;
use rand::RngExt;
use rand::seq::IndexedRandom;
use std::time::Duration;

/// Newcomers whose calendars may be wrong: of the first machines at least three stay, and are right.
const WRONG_NEWCOMERS_MAX: u8 = 2;
/// One rot in so many takes a whole family of rows.
const SPOILT_OF: u32 = 4;

impl Schedule {
    pub(super) fn trouble(&mut self, plague: Plague, now: Duration) {
        match plague {
            Plague::Weather => self.weather(now),
            Plague::Cut => self.cut(now),
            Plague::Clog => self.clog(now),
            Plague::Reset => self.reset(now),
            Plague::Kill => self.down(plague, Down::Killed, now),
            Plague::Power => self.down(plague, Down::PowerCut, now),
            Plague::Stall | Plague::Sleep => self.stall(plague, now),
            Plague::Calendar => self.calendar(now),
            Plague::Wear => self.wear(now),
            Plague::Rot => self.rot(now),
            Plague::Wipe => self.wipe(now),
            Plague::Restore => self.restore(now),
            Plague::Members => self.members(now),
        }
    }

    fn weather(&mut self, now: Duration) {
        let weather = Weather {
            lost_percent: self.chance.random_range(0..=30),
            repeated_percent: self.chance.random_range(0..=50),
            late_max: self.millis(1, 400),
        };
        self.at(now, Deed::Weather(weather));
        let next = self.end_of(now, 2_000, 10_000);
        self.at(next, Deed::Weather(Weather::default()));
        self.again(Plague::Weather, next);
    }

    fn cut(&mut self, now: Duration) {
        let mut side = self.some(1);
        // Whoever cuts everybody off cuts nobody.
        side.truncate(usize::from(self.nodes + self.added) - 1);
        let (both, end) = (self.chance.random::<bool>(), self.end_of(now, 500, 20_000));
        for a in self.everyone().filter(|host| !side.contains(host)) {
            for b in &side {
                self.at(now, Deed::Cut(a, *b));
                self.at(end, Deed::Mend(a, *b));
                if both {
                    self.at(now, Deed::Cut(*b, a));
                    self.at(end, Deed::Mend(*b, a));
                }
            }
        }
        let next = end + self.millis(500, 8_000);
        self.again(Plague::Cut, next);
    }

    fn clog(&mut self, now: Duration) {
        let (a, others) = (self.anyone(), self.some(1));
        for b in others.into_iter().filter(|b| *b != a) {
            let (begin, end) = (self.end_of(now, 0, 4_000), self.end_of(now, 4_000, 15_000));
            self.at(begin, Deed::Cut(a, b));
            self.at(begin, Deed::Cut(b, a));
            self.at(end, Deed::Mend(a, b));
            self.at(end, Deed::Mend(b, a));
        }
        let next = now + self.millis(8_000, 20_000);
        self.again(Plague::Clog, next);
    }

    fn reset(&mut self, now: Duration) {
        let (a, b) = (self.anyone(), self.anyone());
        if a != b {
            self.at(now, Deed::Reset(a, b));
        }
        let next = now + self.millis(1_000, 5_000);
        self.again(Plague::Reset, next);
    }

    fn down(&mut self, plague: Plague, how: Down, now: Duration) {
        // Mostly one or two; sometimes all.
        let few = if self.chance.random_range(0..4) == 0 { 1 } else { 2 };
        let mut hosts = self.some(1);
        if few == 2 {
            hosts.truncate(2);
        }
        for host in hosts {
            let begin = self.end_of(now, 0, 300);
            let end = self.end_of(begin, 200, 15_000);
            self.at(begin, Deed::Down(host, how));
            self.at(end, Deed::Up(host));
        }
        let next = now + self.millis(3_000, 15_000);
        self.again(plague, next);
    }

    fn stall(&mut self, plague: Plague, now: Duration) {
        let most = if self.chance.random_range(0..4) == 0 { 40_000 } else { 10_000 };
        let (host, end) = (self.anyone(), self.end_of(now, 1_000, most));
        if plague == Plague::Sleep {
            self.at(now, Deed::Asleep(host, true));
            self.at(end, Deed::Asleep(host, false));
        }
        for other in self.everyone().chain([CLIENT]).filter(|other| *other != host) {
            for (a, b) in [(host, other), (other, host)] {
                self.at(now, Deed::Cut(a, b));
                self.at(end, Deed::Mend(a, b));
            }
        }
        let next = end + self.millis(1_000, 10_000);
        self.again(plague, next);
    }

    fn calendar(&mut self, now: Duration) {
        if let Some(host) = self.wrong_ones().choose(&mut self.chance).copied() {
            let off_ms = self.offset_ms();
            self.at(now, Deed::Calendar(host, off_ms));
        }
        let next = now + self.millis(5_000, 20_000);
        self.again(Plague::Calendar, next);
    }

    /// Whose calendars go wrong: a minority, always the same one. Of three or four clocks one may be wrong, of five two; or the first
    /// newcomers, as many as are there, while of the others at least three are right.
    pub(super) fn wrong_ones(&self) -> Vec<Host> {
        let hosts = match self.newcomers_are_wrong {
            true => self.nodes + 1..=self.nodes + self.added.min(WRONG_NEWCOMERS_MAX),
            false => 1..=(self.nodes - 1) / 2,
        };
        hosts.map(Host).collect()
    }

    pub(super) fn offset_ms(&mut self) -> i64 {
        let most = if self.chance.random_range(0..4) == 0 { 3_600_000 } else { 600_000 };
        self.chance.random_range(-most..=most)
    }

    fn wear(&mut self, now: Duration) {
        let (host, end) = (self.anyone(), self.end_of(now, 1_000, 20_000));
        let wear = match self.chance.random_range(0..5) {
            0 => Wear {
                failing: *[1, 10, 100].choose(&mut self.chance).expect("not empty"),
                ..Wear::default()
            },
            1 => Wear { full: true, ..Wear::default() },
            2 => Wear { taken_percent: self.chance.random_range(94..=99), ..Wear::default() },
            3 => {
                Wear { unread: *[1, 10, 100].choose(&mut self.chance).expect("not empty"), ..Wear::default() }
            }
            _ => Wear { slow_max: self.millis(1, 200), ..Wear::default() },
        };
        self.at(now, Deed::Wear(host, wear));
        self.at(end, Deed::Wear(host, Wear::default()));
        let next = now + self.millis(2_000, 10_000);
        self.again(Plague::Wear, next);
    }

    fn rot(&mut self, now: Duration) {
        let host = match self.rotten {
            Some(host) => host,
            None => self.host(),
        };
        self.rotten = Some(host);
        match self.chance.random_range(0..SPOILT_OF) {
            0 => self.spoil(host, now),
            _ => self.at(now, Deed::Rot(host)),
        }
        let next = now + self.millis(5_000, 20_000);
        self.again(Plague::Rot, next);
    }

    /// RocksDB can't open a family one of whose files is bad; the node then does without it, and what was in it follows from the
    /// records.
    fn spoil(&mut self, host: Host, now: Duration) {
        let family = *[Family::Leaves, Family::Due, Family::Dead, Family::Hints]
            .choose(&mut self.chance)
            .expect("the list is not empty");
        let end = self.end_of(now, 200, 5_000);
        self.at(now, Deed::Down(host, Down::Killed));
        self.at(now, Deed::Spoil(host, family));
        self.at(end, Deed::Up(host));
    }

    fn wipe(&mut self, now: Duration) {
        let host = self.host();
        let begin = now + self.millis(2_000, 15_000);
        let back = begin + self.millis(500, 5_000);
        self.at(begin, Deed::Down(host, Down::PowerCut));
        self.at(begin, Deed::Wipe(host));
        self.at(back, Deed::Up(host));
        let replaced = back + self.millis(500, 5_000);
        self.at(replaced, Deed::ReplaceWiped(host));
    }

    fn restore(&mut self, now: Duration) {
        let host = self.host();
        let image = now + self.millis(1_000, 10_000);
        // Whoever is told of a start that the image has forgotten finds it out (docs/membership.md).
        let again = image + self.millis(200, 5_000);
        self.at(image, Deed::Down(host, Down::Killed));
        self.at(image, Deed::Image(host));
        self.at(again, Deed::Up(host));
        let begin = again + self.millis(5_000, 30_000);
        let back = begin + self.millis(200, 10_000);
        self.at(begin, Deed::Down(host, Down::PowerCut));
        self.at(begin, Deed::PutBack(host));
        self.at(back, Deed::Up(host));
    }

    fn members(&mut self, now: Duration) {
        // Of those who were there at first one leaves at most, so that clients find somebody; then the newcomers do.
        let leaver = match self.newcomers {
            // One whose calendar is wrong, where any are: those that are right stay most.
            0 if self.nodes > 3 && self.chance.random::<bool>() => match self.wrong_from_the_start.first() {
                Some((wrong, _)) => Some(*wrong),
                None => Some(self.host()),
            },
            0 => None,
            earlier => Some(Host(self.nodes + earlier)),
        };
        self.newcomers += 1;
        let newcomer = Host(self.nodes + self.newcomers);
        let comes = now + Duration::from_millis(500);
        let replaces = leaver.is_some() && self.chance.random::<bool>();
        self.at(comes, Deed::Add { host: newcomer, waits: replaces });
        let calendar_is_wrong = self.plagues.contains(&Plague::Calendar)
            && self.newcomers_are_wrong
            && self.newcomers <= WRONG_NEWCOMERS_MAX;
        if calendar_is_wrong {
            let off_ms = self.offset_ms();
            self.at(comes, Deed::Calendar(newcomer, off_ms));
        }
        if let Some(leaver) = leaver {
            let at = self.end_of(comes, 0, 15_000);
            self.at(
                at,
                match replaces {
                    true => Deed::Replace { old: leaver, new: newcomer },
                    false => Deed::Leave(leaver),
                },
            );
        }
        if self.newcomers < NEWCOMERS_MAX {
            let next = now + self.millis(8_000, 25_000);
            self.again(Plague::Members, next);
        }
    }
}
