//! A value with a time to live is there until its time, and never after it.
//!
//! ```text
//!   put for 2 s: begun at 10.0, acknowledged at 10.1
//!       12.0 − tolerance   a read that asked for it and ended before must show it
//!       12.1 + tolerance   no read that began after may show it, through any node, ever
//! ```
//!
//! A write of unknown outcome was taken no later than the first read that showed it, and ends no later than that follows.

use super::ledger::{seen, ttl_us};
use super::{Breach, Measure, Story, Violation};

pub(super) fn check(story: &Story, measure: &Measure, found: &mut Vec<Violation>) {
    for (id, write) in story.values() {
        let Some(ttl) = ttl_us(write) else { continue };
        let slack = measure.slack_us(ttl);
        let shows = || story.reads().filter(|(_, sight)| sight.values.contains(&id)).map(|(read, _)| read);
        let ends = |op: &crate::history::Op| op.ended.map(|ended| ended.at_us);
        let known = if write.answer().is_some() { ends(write) } else { shows().filter_map(ends).min() };
        let Some(taken) = known else { continue };
        let latest = taken.saturating_add(ttl).saturating_add(slack);
        let blurred = measure.blurred_us(write.begun.at_us, latest);
        let latest = latest.max(blurred.map_or(0, |until| until.saturating_add(slack)));
        for read in shows().filter(|read| read.begun.at_us > latest) {
            let late_ms = (read.begun.at_us - latest + slack) / 1000;
            let text = format!("{read} showed what {write} had written, {late_ms} ms after its time");
            found.push(story.breach(Breach::Expiry, vec![id, read.invoke.op], text));
        }
        if blurred.is_some() {
            continue;
        }
        let earliest = write.begun.at_us.saturating_add(ttl).saturating_sub(slack);
        for (read, sight) in story.reads() {
            let asked = seen(&read.invoke.call).filter(|from| story.ops.contains_key(from));
            let asked_for = asked.is_some_and(|from| story.alive(from).contains(&id));
            let Some(ended) = read.ended.filter(|ended| asked_for && ended.at_us < earliest) else {
                continue;
            };
            if !sight.values.contains(&id) && !story.may_be_gone(id, ended.place, &sight.values) {
                let early_ms = (earliest - ended.at_us + slack) / 1000;
                let text =
                    format!("{read} did not show what {write} had written, {early_ms} ms before its time");
                found.push(story.breach(Breach::Expiry, vec![id, read.invoke.op], text));
            }
        }
    }
}
