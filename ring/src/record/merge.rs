//! The one merge: replication, read repair, hints, exchange and transfer all end here.
//!
//! A sibling of one side survives if the other side has it too, or has not seen its dot. It is commutative, associative
//! and idempotent, and never refuses: a replica that turned a merge away would diverge for ever, so size and sibling
//! limits belong to the coordinator alone.
//!
//! One dot is one content (should it ever have two, all replicas keep the same), with one exception: a value that has expired and was dropped on one side is dropped in what comes
//! of the two, so that no late message brings it back.

use super::coordinate::Me;
use super::{Content, Record, Sibling};
use crate::causal::{Actor, Context, Dot};
use crate::planted::{self, Bug};
use std::cmp::Ordering;

/// What both copies know together.
pub fn merge(a: &Record, b: &Record) -> Record {
    let mut clock = a.clock.clone();
    clock.join(&b.clock);
    let mut siblings = Vec::with_capacity(a.siblings.len().max(b.siblings.len()));
    let (mut left, mut right) = (a.siblings.iter().peekable(), b.siblings.iter().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (Some(l), Some(r)) => l.dot.cmp(&r.dot),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => break,
        };
        match order {
            Ordering::Less => keep_unless_seen(left.next(), &b.clock, &mut siblings),
            Ordering::Greater => keep_unless_seen(right.next(), &a.clock, &mut siblings),
            Ordering::Equal => {
                let (left, right) = (left.next(), right.next());
                siblings.extend(left.zip(right).map(|(left, right)| one_of(left, right)).cloned());
            }
        }
    }
    spoil(&mut siblings);
    let merged = Record { clock, siblings };
    merged.assert_whole();
    merged
}

/// Of one dot's two contents, that of a value which was dropped; else they are the same. If they are not, a dot was issued
/// twice after all: any rule that is the same everywhere lets the replicas agree, and nothing can save both.
fn one_of<'a>(left: &'a Sibling, right: &'a Sibling) -> &'a Sibling {
    let is_dropped = |s: &Sibling| matches!(s.content, Content::Expired { .. });
    match (is_dropped(left), is_dropped(right)) {
        (false, true) => right,
        (true, false) => left,
        _ if left.content < right.content => right,
        _ => left,
    }
}

/// What a merge that is not one would do.
fn spoil(siblings: &mut Vec<Sibling>) {
    if planted::is(Bug::MergeEqualCounts) {
        siblings.dedup_by_key(|s| s.dot.count);
    }
    if planted::is(Bug::LastWriteWins) {
        let written = |s: &Sibling| match &s.content {
            Content::Object(object) => object.modified,
            Content::Tombstone { deleted } => *deleted,
            _ => Default::default(),
        };
        let last = siblings.iter().max_by_key(|s| written(s)).cloned();
        siblings.retain(|s| s.content.is_cart() || Some(s) == last.as_ref());
    }
}

fn keep_unless_seen(sibling: Option<&Sibling>, other: &Context, out: &mut Vec<Sibling>) {
    out.extend(sibling.filter(|s| !other.has(&s.dot)).cloned());
}

/// Takes in a copy that came from elsewhere. If it knows more of this node than the node itself does, the node has
/// forgotten something: it marks the copy with a fresh epoch, which carries no value, so that it never issues one of
/// the forgotten dots again. `None` if there is nothing to write.
pub fn receive(local: Option<&Record>, incoming: &Record, me: &mut Me<'_>) -> Option<Record> {
    let empty = Record::default();
    let held = local.unwrap_or(&empty);
    let forgot =
        !planted::is(Bug::NoMark) && incoming.clock.newest_of(me.node) > held.clock.newest_of(me.node);
    let mut merged = merge(held, incoming);
    if forgot {
        merged.clock.insert(Dot { actor: Actor { node: me.node, epoch: me.epochs.fresh() }, count: 1 });
    }
    if merged == *held { None } else { Some(merged) }
}

#[cfg(test)]
#[path = "laws_tests.rs"]
mod laws;
