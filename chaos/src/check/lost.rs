//! P2: what was acknowledged is there in the end, unless somebody who had seen it has written since.
//!
//! ```text
//!   put A ok · get shows A · put B having seen the get (ok, or unknown) · in the end A may be gone
//!   put A ok ·               put B having seen nothing                  · in the end A must be there
//! ```
//!
//! A write of unknown outcome may have taken A away, and then it is there in A's place, or who took it; a write that was refused may not. A value with a time to live may be
//! gone after its time. For sets the elements are looked for as well: they must have come through all the unions, whatever
//! became of the values that carried them.

use super::ledger::{Values, reading, ttl_us};
use super::{Breach, Measure, Story, Violation};
use crate::history::{Call, Op, Reading};
use crate::workload::elements;
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn check(story: &Story, measure: &Measure, found: &mut Vec<Violation>) {
    if story.last_looks().next().is_none() {
        let text = "no read of the end was answered, so nothing can be said about what is there".to_owned();
        found.push(story.breach(Breach::Unjudged, Vec::new(), text));
        return;
    }
    unread(story, found);
    let looks: Vec<_> =
        story.last_looks().map(|(read, sight)| (read, &sight.values, story.gone(&sight.values))).collect();
    for (id, write) in story.values().filter(|(_, write)| story.is_kept(write)) {
        let is_missed = |(read, shown, gone): &&(&Op, &Values, Values)| {
            !shown.contains(&id) && !gone.contains(&id) && is_owed(read, write, measure)
        };
        let missed: Vec<&Op> = looks.iter().filter(is_missed).map(|(read, ..)| *read).collect();
        let Some(first) = missed.first() else { continue };
        let count = missed.len();
        let text = format!(
            "{write}; it is missing in {count} reads of the end, the first being {first}; nobody who had seen it has \
             written or deleted since, or what he wrote is missing as well"
        );
        let ops = std::iter::once(id).chain(missed.iter().map(|read| read.invoke.op)).collect();
        found.push(story.breach(Breach::Lost, ops, text));
    }
    elements_lost(story, found);
}

/// Nodes through which the key can't be read although all is well: one that answers nobody shows nothing wrong either.
fn unread(story: &Story, found: &mut Vec<Violation>) {
    let mut through: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
    for read in story.ops.values().filter(|op| reading(op) == Some(Reading::Settled)) {
        through.entry(&read.invoke.node).or_default().push(read);
    }
    for (node, reads) in through {
        let Some(last) = reads.last().filter(|_| reads.iter().all(|read| read.answer().is_none())) else {
            continue;
        };
        let text =
            format!("all is well, and {} reads through {node} failed, the last being {last}", reads.len());
        found.push(story.breach(Breach::Unjudged, vec![last.invoke.op], text));
    }
}

/// Whether a read must show the value at all.
fn is_owed(read: &Op, write: &Op, measure: &Measure) -> bool {
    let Some(ttl) = ttl_us(write) else { return write.over_before(read.begun.place) };
    let early = write.begun.at_us + ttl.saturating_sub(measure.slack_us(ttl));
    if measure.blurred_us(write.begun.at_us, early).is_some() {
        return false;
    }
    write.over_before(read.begun.place) && read.ended.is_some_and(|ended| ended.at_us < early)
}

fn elements_lost(story: &Story, found: &mut Vec<Violation>) {
    if story.ops.values().any(|op| matches!(op.invoke.call, Call::Delete { .. })) {
        return;
    }
    let put = |op: &Op| match &op.invoke.call {
        Call::Put { value, .. } => elements(&value.text).0,
        _ => None,
    };
    let acknowledged: Vec<_> = story.ops.values().filter(|op| story.is_kept(op)).collect();
    for (read, _) in story.last_looks() {
        let versions = &read.answer().expect("a look was answered").versions;
        let union: BTreeSet<_> = versions.iter().flat_map(|shown| elements(&shown.value.text).1).collect();
        for write in &acknowledged {
            let Some(element) = put(write).filter(|_| write.over_before(read.begun.place)) else { continue };
            if !union.contains(&element) {
                let (client, number) = element;
                let text = format!(
                    "{write} added element {number} of c{client}; it is in none of the sets of {read}"
                );
                found.push(story.breach(Breach::Lost, vec![write.invoke.op, read.invoke.op], text));
            }
        }
    }
}
