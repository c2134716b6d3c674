//! What becomes of a value whose time is over.
//!
//! It is invisible from its instant on, by whoever looks and without anybody doing anything; the instant is part of the
//! version and the same on every replica. Later and in its own time each replica drops the value and keeps a marker under
//! the same dot. That is no change of the record: the digest is that of before, so nobody tells anybody, no tree differs, and
//! no replica has to agree with another about when. A tombstone with a dot of its own, the obvious way, would be another
//! event on every replica, and each of them would repair the others.

use super::{Record, Sibling};
use crate::time::Wall;
use crate::wire::record::expired;

impl Record {
    /// When the values that are still held here and expire do so.
    pub fn expiries(&self) -> impl Iterator<Item = Wall> {
        self.siblings.iter().filter_map(|s| s.content.expires_at())
    }

    /// The record without the values whose time is over at this instant; `None` if it holds none.
    pub fn without_expired(&self, now: Wall) -> Option<Record> {
        if self.expiries().all(|at| now < at) {
            return None;
        }
        let drop_over = |s: &Sibling| {
            let over = s.content.expires_at().is_some_and(|at| at <= now);
            let marker = if over { expired(&s.content) } else { None };
            Sibling { dot: s.dot, content: marker.unwrap_or_else(|| s.content.clone()) }
        };
        Some(Record { clock: self.clock.clone(), siblings: self.siblings.iter().map(drop_over).collect() })
    }
}

#[cfg(test)]
#[path = "expiry_tests.rs"]
mod tests;
