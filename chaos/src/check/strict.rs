//! Where reads and writes insist on a majority of the owners, a read shows everything that was acknowledged before it began.
//!
//! ```text
//!   put a, pw=quorum ─ acknowledged │ get, pr=quorum:  a, or what superseded a
//! ```
//!
//! Two majorities of one set of owners meet, and while a set gives way to another both need a majority in each. It holds whatever
//! is broken, members that come and go included, as long as no more disks are lost than the promises allow; a read that finds no
//! majority is refused. (Without `pr` and `pw` stand-ins take writes and answer reads, and a read may show less for a while.) Values
//! with a time to live are judged by their own checker, since they also go by themselves.

use super::ledger::ttl_us;
use super::{Breach, Measure, Story, Violation, overlap};
use crate::history::{Op, Setting};

pub(super) fn check(story: &Story, settings: &[Setting], measure: &Measure, found: &mut Vec<Violation>) {
    if !settings.iter().any(|setting| setting.strict && setting.bucket == story.bucket) {
        return;
    }
    for (read, sight) in story.reads() {
        let until_us = read.ended.map_or(u64::MAX, |ended| ended.at_us);
        if overlap(&measure.forgetful, read.begun.at_us, until_us).is_some() {
            continue;
        }
        let (begun, end) = (read.begun.place, read.ended.map_or(usize::MAX, |ended| ended.place));
        // Majorities meet in what they hold, and a crash may have taken from one what was written before it.
        let before = |op: &Op| op.answer().is_some() && op.over_before(begun) && story.is_whole_since(op);
        for (value, write) in story.values().filter(|(_, write)| before(write) && ttl_us(write).is_none()) {
            // Where whoever took it away is to be shown as well, he is looked for in its place, and the two are there or gone together.
            if !sight.values.contains(&value)
                && !story.is_taken_by(value, before)
                && !story.may_be_gone(value, end, &sight.values)
            {
                let text = format!(
                    "{read} did not show what {write} had written, though both insist on a majority of the owners and nobody who \
                     had seen it had written or deleted before the answer, or what he wrote is not shown either"
                );
                found.push(story.breach(Breach::Stale, vec![value, read.invoke.op], text));
            }
        }
        for value in &sight.values {
            if let Some(killer) = story.is_superseded(*value, begun).filter(|op| story.is_whole_since(op)) {
                let text = format!(
                    "{read} showed what {} had written, which {killer} had superseded, though both insist on a majority of the \
                     owners",
                    story.ops[value]
                );
                found.push(story.breach(Breach::Stale, vec![*value, killer.invoke.op, read.invoke.op], text));
            }
        }
    }
}
