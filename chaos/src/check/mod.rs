//! Whether a finished history keeps the promises. Nothing here knows the cluster; a history from a file will do.
//!
//! | file | it finds | promise |
//! | --- | --- | --- |
//! | `lost.rs` | what was acknowledged, was not overwritten by anybody who had seen it, and is not there in the end | P2 |
//! | `agree.rs` | nodes that show different things after all replicas are said to be equal | P3 |
//! | `session.rs` | a read that shows less than it was asked to | P5 |
//! | `strict.rs` | a read by a majority of the owners that shows less than a majority had taken before | |
//! | `honest.rs` | what was refused and is there; receipts that don't add up | P1, P6 |
//! | `revived.rs` | what was superseded by an acknowledged write and is there in the end | P7 |
//! | `wrong.rs` | bytes that nobody wrote, or wrote elsewhere, or only later | P8 |
//! | `siblings.rs` | values side by side of which one had superseded the other; too many of them | |
//! | `ttl.rs` | values that end before or after their time | |
//! | `carts.rs` | sums of carts that can't be | |
//! | `counters.rs` | increments that were lost, or counted twice | |
//! | `stable.rs` | (how soon what was acknowledged is there for everybody; told, not judged) | |
//! | `ledger.rs` | (the history sorted by key, on which they all stand) | |
//!
//! No checker may ever cry wolf: an unknown outcome counts as both, concurrent operations in either order, and a read that
//! did not ask for anything in particular may be out of date while the load runs. What is found is wrong without a doubt.
//!
//! A bucket may acknowledge before it syncs. Of a key of it that a crash has taken writes of, by word of the caller, a write is owed
//! only if its receipt says that it was durable on as many replicas as were required. All else holds there as everywhere: what was
//! shown was written, nobody goes back behind his token, nodes agree in the end.

mod agree;
mod carts;
mod counters;
mod honest;
mod ledger;
mod lost;
mod revived;
mod session;
mod siblings;
pub mod stable;
mod strict;
#[cfg(test)]
mod tests;
mod ttl;
mod wrong;

use crate::history::{Entry, Fate, OpId};
use ledger::{Ledger, Story};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// The promise that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Breach {
    /// What is given is no history, or a key was never read in the end, or not through some node: nothing can be said.
    Unjudged,
    /// P2: an acknowledged value is gone, and nobody who had seen it has written since.
    Lost,
    /// P7: a value was shown in the end that an acknowledged write or deletion had superseded.
    Revived,
    /// P8: something was shown that is no value of this key.
    Wrong,
    /// P5: a read showed less than it was asked to, or less than a majority of the owners had taken before.
    Stale,
    /// Values stood side by side of which one had superseded the other, or more than may.
    Siblings,
    /// P6: a refused write was applied. P1: an acknowledged one had not the replicas that it needed.
    Dishonest,
    /// P3: nodes showed different things although all replicas were said to be equal.
    Diverged,
    /// A value ended before its time, or was shown after it.
    Expiry,
    /// A cart showed what can't be.
    Cart,
    /// A counter lost an increment or counted one twice.
    Counter,
}

/// One broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub breach: Breach,
    /// The bucket.
    pub bucket: String,
    /// The key or cart.
    pub key: String,
    /// What happened, when, and what should have been.
    pub story: String,
    /// The operations that show it.
    pub ops: Vec<OpId>,
}

/// How many operations there were, and what became of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Operations that began.
    pub tried: u64,
    /// Those that were acknowledged.
    pub acknowledged: u64,
    /// Those that were refused and changed nothing.
    pub failed: u64,
    /// Those of which nobody knows.
    pub unknown: u64,
    /// Acknowledged writes.
    pub writes: u64,
    /// Acknowledged reads.
    pub reads: u64,
    /// The most values that one read showed.
    pub siblings_max: usize,
    /// Why operations were not acknowledged.
    pub reasons: BTreeMap<String, u64>,
}

/// What a checker can't know from the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measure {
    /// How far the end of a lifetime may be off in any case.
    pub ttl_slack: Duration,
    /// How much further, in percent of the lifetime.
    pub ttl_slack_percent: u64,
    /// How often nodes were cut off from each other, if the caller knows: the bound of siblings depends on it.
    pub cuts: Option<u32>,
    /// When some node's clock was not to be relied on, from and to, by the clock of the history: what lived then may end early, and
    /// as late as that ends.
    pub blurred: Vec<(Duration, Duration)>,
    /// When an old disk that was put back may have been taken for a whole one, from and to: who remembers what it has forgotten was
    /// away. A majority of the owners with this one among them may then show less than another one has acknowledged.
    pub forgetful: Vec<(Duration, Duration)>,
    /// Buckets and keys of which crashes have taken writes from some disk: since when that had not been synced, and when it crashed, by the
    /// clock of the history. Where a bucket is acknowledged before it is synced, that explains what is lost of what was begun before the
    /// crash and had not ended before the other moment; everywhere else it
    /// explains nothing.
    pub undone: BTreeMap<(String, String), Vec<(Duration, Duration)>>,
}

impl Default for Measure {
    /// Half a second, and the one percent by which the cluster's clock may lean; cuts are unknown.
    fn default() -> Self {
        Self {
            ttl_slack: Duration::from_millis(500),
            ttl_slack_percent: 1,
            cuts: None,
            blurred: Vec::new(),
            forgetful: Vec::new(),
            undone: BTreeMap::new(),
        }
    }
}

impl Measure {
    /// How far the end of a lifetime may be off, both in microseconds.
    fn slack_us(&self, ttl_us: u64) -> u64 {
        let fixed = u64::try_from(self.ttl_slack.as_micros()).unwrap_or(u64::MAX);
        fixed.saturating_add(ttl_us / 100 * self.ttl_slack_percent)
    }

    /// The end of the last time between these two when some clock was not to be relied on, all in microseconds.
    fn blurred_us(&self, from_us: u64, to_us: u64) -> Option<u64> {
        overlap(&self.blurred, from_us, to_us)
    }
}

/// The end of the last of some times that meets the one between these two, all in microseconds.
fn overlap(times: &[(Duration, Duration)], from_us: u64, to_us: u64) -> Option<u64> {
    let us = |at: Duration| u64::try_from(at.as_micros()).unwrap_or(u64::MAX);
    times.iter().filter(|(from, to)| us(*from) <= to_us && us(*to) >= from_us).map(|(_, to)| us(*to)).max()
}

/// All checkers over one history.
pub fn all(entries: &[Entry]) -> Vec<Violation> {
    all_by(entries, &Measure::default())
}

/// The same, by a caller who knows more about the run.
pub fn all_by(entries: &[Entry], measure: &Measure) -> Vec<Violation> {
    let ledger = match Ledger::new(entries, measure) {
        Ok(ledger) => ledger,
        Err(story) => {
            let (bucket, key) = (String::new(), String::new());
            return vec![Violation { breach: Breach::Unjudged, bucket, key, story, ops: Vec::new() }];
        }
    };
    let mut found = Vec::new();
    for story in &ledger.stories {
        wrong::check(story, &mut found);
        lost::check(story, measure, &mut found);
        revived::check(story, &mut found);
        session::check(story, &mut found);
        strict::check(story, &ledger.settings, measure, &mut found);
        siblings::check(story, &ledger.settings, measure, &mut found);
        honest::check(story, &ledger.settings, &mut found);
        agree::check(story, &mut found);
        ttl::check(story, measure, &mut found);
        carts::check(story, &mut found);
        counters::check(story, &ledger.settings, &mut found);
    }
    found.sort_by(|a, b| (a.breach, &a.ops).cmp(&(b.breach, &b.ops)));
    found
}

/// Counts what happened in a bucket, or in all of them.
pub fn count(entries: &[Entry], bucket: Option<&str>) -> Counts {
    let mut counts = Counts::default();
    let ops = crate::history::ops(entries).unwrap_or_default();
    for op in ops.values().filter(|op| bucket.is_none_or(|bucket| op.invoke.bucket == bucket)) {
        counts.tried += 1;
        let why = match &op.fate {
            Fate::Ok(answer) => {
                counts.acknowledged += 1;
                *(if op.reads() { &mut counts.reads } else { &mut counts.writes }) += 1;
                counts.siblings_max = counts.siblings_max.max(answer.versions.len());
                continue;
            }
            Fate::Failed(why) => {
                counts.failed += 1;
                Some(why)
            }
            Fate::Unknown(why) => {
                counts.unknown += 1;
                why.as_ref()
            }
        };
        let reason = why.map_or("never answered", |why| why.code.as_str());
        *counts.reasons.entry(reason.to_owned()).or_default() += 1;
    }
    counts
}

impl Story {
    /// A violation at this key.
    fn breach(&self, breach: Breach, ops: Vec<OpId>, story: String) -> Violation {
        Violation { breach, bucket: self.bucket.clone(), key: self.key.clone(), story, ops }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {}/{}: {}", self.breach, self.bucket, self.key, self.story)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { tried, acknowledged, failed, unknown, .. } = self;
        write!(f, "{tried} tried, {acknowledged} acknowledged, {failed} refused, {unknown} unknown")
    }
}
