//! The clock by which values expire: one for the whole cluster, made of all its members' clocks and of no single one.
//!
//! ```text
//!   start      own calendar, or as far from it as it was found to be before,      not sure
//!              or on from what was last shown, where both are behind that
//!   sure       as somebody who is sure, or the middle of a majority's opinions
//!   then       runs by the monotonic clock · follows the middle of those who are sure
//!              · leans towards the middle of all calendars, at 1 % of the time that passes
//! ```
//!
//! A calendar may be an hour off, be set while the node runs, or differ after every start; the monotonic clock is none of
//! that but knows no date. So the date is agreed upon once, and after that time merely passes: a value that is to live for
//! five seconds lives for five seconds of everybody's monotonic clock, whatever becomes of the calendars meanwhile. A
//! median of calendars, followed closely, would be simpler, and would end or spare values by the hour whenever a member
//! comes, goes or is set. The lean is slow enough to be of no account for a lifetime and brings the dates right in the end.
//!
//! The majority is one of the settled owners, whether they can be reached or not: of them most are needed for everything else
//! as well. Newcomers are taken for nobody yet, or three of them and one owner of three would set a clock that the other two
//! don't know of; and who came in once and died before it owned anything would be waited for like an owner. Whoever is sure
//! is believed, whatever it owns: it has it from a majority.
//!
//! Once it is sure the clock never goes back within a process. What it last showed is kept on disk now and then, as the
//! least that the next start shows.

use crate::ids::NodeId;
use crate::time::{Time, Wall};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What one node tells another of its clocks, at one moment. Microseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Said {
    /// The cluster's clock as it takes it to be.
    pub cluster: u64,
    /// Its own calendar.
    pub calendar: u64,
    /// Whether it has agreed with a majority since it started.
    pub sure: bool,
}

/// What a start takes over from the one before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Kept {
    /// The clock shows no less from now on.
    pub shown: Wall,
    /// How far the cluster's clock was ahead of this node's calendar, in microseconds.
    pub ahead: i64,
}

/// Who has a say in what the clock shows.
#[derive(Clone, Copy, Debug)]
pub struct Say<'a> {
    /// This node.
    pub me: NodeId,
    /// Everybody who is listened to.
    pub members: &'a BTreeSet<NodeId>,
    /// The settled owners, of whom most must agree before anybody is sure.
    pub owners: &'a BTreeSet<NodeId>,
}

/// Differences that are not followed: about what a busy network makes up.
const SLACK: i64 = 5_000;

/// Opinions older than this are not followed any more: the oscillators of two machines have parted by 6 ms by then.
const HEARD_MAX: Duration = Duration::from_secs(60);

/// How long a good sample is preferred to a much worse one.
const SAMPLE_MAX: Duration = Duration::from_secs(10);

/// Of the time that passes, the part by which the clock leans towards the calendars: one in so many.
const LEAN: i64 = 100;

/// Another member's clocks, as distances from this node's monotonic clock in microseconds.
#[derive(Clone, Copy, Debug)]
struct Heard {
    cluster: i64,
    calendar: i64,
    sure: bool,
    trip: Duration,
    at: Time,
}

/// The cluster's clock as one node has it.
#[derive(Clone, Debug)]
pub struct Clock {
    /// How far it is ahead of this node's monotonic clock, in microseconds.
    ahead: i64,
    /// It shows no less than this.
    least: Wall,
    sure: bool,
    kept: Kept,
    started: Time,
    turned: Time,
    heard: BTreeMap<NodeId, Heard>,
}

impl Clock {
    /// A clock at the start of a node.
    pub fn start(kept: Option<Kept>, calendar: Wall, now: Time) -> Clock {
        let kept = kept.unwrap_or_default();
        let (least, heard) = (kept.shown, BTreeMap::new());
        let mut clock = Clock { ahead: 0, least, sure: false, kept, started: now, turned: now, heard };
        clock.ahead = clock.guess(calendar, now);
        clock
    }

    /// What this node thinks alone. Time has passed since it last showed some, so whatever is behind that is wrong: the
    /// calendar was set meanwhile, for the worse or, where it was wrong before, for the better.
    fn guess(&self, calendar: Wall, now: Time) -> i64 {
        let (own, least) = (distance(calendar, now), distance(self.kept.shown, self.started));
        let corrected = own.saturating_add(self.kept.ahead);
        [corrected, own].into_iter().find(|guess| *guess >= least).unwrap_or(least)
    }

    /// What it shows.
    pub fn read(&mut self, now: Time) -> Wall {
        let shows = self.opinion(now).max(self.least);
        if self.sure {
            self.least = shows;
        }
        shows
    }

    fn opinion(&self, now: Time) -> Wall {
        Wall(micros(now).saturating_add(self.ahead).max(0) as u64 / 1000)
    }

    /// Whether it was agreed upon with a majority. Until then nothing may be dropped by it.
    pub fn is_sure(&self) -> bool {
        self.sure
    }

    /// What to tell another member.
    pub fn say(&self, calendar: Wall, now: Time) -> Said {
        let cluster = micros(now).saturating_add(self.ahead).max(0) as u64;
        Said { cluster, calendar: calendar.0.saturating_mul(1000), sure: self.sure }
    }

    /// What another member has said, between these two moments.
    pub fn hear(&mut self, from: NodeId, said: Said, asked: Time, now: Time) {
        let trip = now - asked;
        if let Some(before) = self.heard.get(&from)
            && before.sure == said.sure
            && now - before.at < SAMPLE_MAX
            && trip > before.trip * 4
        {
            return;
        }
        let then = micros(asked + trip / 2);
        let since = |date: u64| i64::try_from(date).unwrap_or(i64::MAX).saturating_sub(then);
        let (cluster, calendar) = (since(said.cluster), since(said.calendar));
        self.heard.insert(from, Heard { cluster, calendar, sure: said.sure, trip, at: now });
    }

    /// Corrects it by what was heard of the members.
    pub fn turn(&mut self, say: &Say<'_>, calendar: Wall, now: Time) {
        self.heard.retain(|node, _| say.members.contains(node));
        let own = distance(calendar, now);
        if !self.sure {
            self.ahead = self.guess(calendar, now);
            self.become_sure(say);
            self.turned = now;
            return;
        }
        let fresh = || self.heard.values().filter(|heard| now - heard.at < HEARD_MAX);
        let middle =
            middle(fresh().filter(|heard| heard.sure).map(|heard| heard.cluster).chain([self.ahead]));
        let calendars = self::middle(fresh().map(|heard| heard.calendar).chain([own]));
        if middle.abs_diff(self.ahead) > SLACK as u64 {
            self.ahead = middle;
        }
        let most = i64::try_from((now - self.turned).as_micros()).unwrap_or(i64::MAX) / LEAN;
        self.ahead += calendars.saturating_sub(self.ahead).clamp(-most, most);
        self.turned = now;
    }

    fn become_sure(&mut self, say: &Say<'_>) {
        let sure: Vec<i64> = self.heard.values().filter(|heard| heard.sure).map(|h| h.cluster).collect();
        let heard =
            self.heard.iter().map(|(node, heard)| (*node, heard.cluster)).chain([(say.me, self.ahead)]);
        let opinions: Vec<i64> =
            heard.filter(|(node, _)| say.owners.contains(node)).map(|(_, opinion)| opinion).collect();
        if !sure.is_empty() {
            self.ahead = middle(sure);
        } else if opinions.len() * 2 > say.owners.len() {
            let agreed = middle(opinions);
            // It goes on from what was last shown: standing still there would keep every value until the rest has caught up.
            self.ahead = agreed.max(distance(self.kept.shown, self.started));
        } else {
            return;
        }
        self.sure = true;
    }

    /// What the next start is to know; nothing as long as it is not sure.
    pub fn keep(&mut self, calendar: Wall, now: Time) -> Option<Kept> {
        let shown = self.read(now);
        self.sure.then(|| Kept { shown, ahead: self.ahead.saturating_sub(distance(calendar, now)) })
    }

    /// How far it is ahead of this node's calendar, for people.
    pub fn ahead_of(&self, calendar: Wall, now: Time) -> i64 {
        self.ahead.saturating_sub(distance(calendar, now))
    }
}

impl Kept {
    /// Its sixteen bytes.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.shown.0.to_be_bytes());
        out[8..].copy_from_slice(&self.ahead.to_be_bytes());
        out
    }

    /// Reads them back; `None` if they can't be.
    pub fn from_bytes(bytes: &[u8]) -> Option<Kept> {
        let (shown, ahead) = bytes.split_first_chunk::<8>()?;
        let ahead = ahead.try_into().ok()?;
        Some(Kept { shown: Wall(u64::from_be_bytes(*shown)), ahead: i64::from_be_bytes(ahead) })
    }
}

fn micros(time: Time) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}

/// How far a date is ahead of the monotonic clock.
fn distance(date: Wall, now: Time) -> i64 {
    i64::try_from(date.0.saturating_mul(1000)).unwrap_or(i64::MAX).saturating_sub(micros(now))
}

/// The middle one; of two, the earlier. A clock that is behind spares a value for a while, one that is ahead ends it.
fn middle(of: impl IntoIterator<Item = i64>) -> i64 {
    let mut all: Vec<i64> = of.into_iter().collect();
    all.sort_unstable();
    all[(all.len() - 1) / 2]
}

#[cfg(test)]
mod tests;
