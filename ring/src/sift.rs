//! What an old disk may still say: of each copy that may be older than its node, what is kept and what is not spread.
//!
//! A directory that was put back, a log that was cut, a member that was removed and returns: their copies stand still while
//! the others go on, delete, and forget the deletions (`reap`). After that an old copy looks like a value that only one node
//! has, and nothing in it tells the two apart. But the others know, and both kinds of mistake are bounded:
//!
//! | a version here | another owner | then |
//! | --- | --- | --- |
//! | has it, or has seen it go | knows it | it is what the others make of it |
//! | nobody of most others knows | lacks it | it was forgotten, or only this disk ever had it: set aside, never spread |
//! | too few others answer | | nobody can say yet |
//!
//! Whatever was acknowledged for two disks or more lies on another one, and comes from there: also from one that does not
//! answer now. What is set aside was acknowledged for this disk alone, or was deleted.
//!
//! So the copy becomes exactly what the others have, **without** the clock of the old one: a clock that has seen a version
//! which is not here any more would delete it at whoever still has it. "Most of the others" is what a read needs besides
//! this node: of n owners, every majority that took a write without this one has a member among them.

use crate::causal::Dot;
use crate::ids::NodeId;
use crate::record::{Record, merge};
use std::collections::BTreeMap;

/// What the owners that answered hold of a key.
pub type Said = BTreeMap<NodeId, Option<Record>>;

/// What becomes of a copy that may be old.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Too few others have answered.
    Wait,
    /// It is as the others have it, or nobody else can have it.
    Keep,
    /// This takes its place; nothing, if nobody has anything.
    Take {
        /// What the others have.
        record: Option<Record>,
        /// Whether the old copy holds versions that none of them knows.
        aside: bool,
    },
}

/// Whether so many of the other owners can speak for all of them.
pub fn is_enough(others: usize, heard: usize) -> bool {
    2 * heard > others || others == 0
}

/// Judges the copy of a member whose disk may be behind. `others` are the other owners of the key that were not given up.
pub fn sift(mine: Option<&Record>, others: &[NodeId], said: &Said) -> Verdict {
    if others.is_empty() {
        return Verdict::Keep;
    }
    let heard: Vec<&Option<Record>> = others.iter().filter_map(|other| said.get(other)).collect();
    if !is_enough(others.len(), heard.len()) {
        return Verdict::Wait;
    }
    let theirs = heard.into_iter().flatten().cloned().reduce(|a, b| merge(&a, &b));
    if theirs.as_ref() == mine {
        return Verdict::Keep;
    }
    let knows = |dot: &Dot| theirs.as_ref().is_some_and(|record| record.clock.has(dot));
    let aside = mine.is_some_and(|record| live(record).any(|dot| !knows(dot)));
    Verdict::Take { record: theirs, aside }
}

/// What a removed member does with a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parting {
    /// Not all owners have it yet; those that do give it to the others.
    Wait,
    /// It goes to the owner.
    HandOn,
    /// Every owner knows everything in it.
    Drop,
    /// None of most owners knows some of it.
    SetAside,
}

/// Judges the copy of a removed member, which nobody asks any more before a deletion is forgotten: it may be old at any
/// time, and is never sent to several owners. What one of them knows they have among themselves. A key of a single owner is
/// another matter: nobody but this member can have had it.
pub fn part(mine: &Record, owners: &[NodeId], said: &Said) -> Parting {
    if owners.len() < 2 {
        return Parting::HandOn;
    }
    let heard: Vec<&Option<Record>> = owners.iter().filter_map(|owner| said.get(owner)).collect();
    if !is_enough(owners.len(), heard.len()) {
        return Parting::Wait;
    }
    let knows = |theirs: &Option<Record>, dot: &Dot| theirs.as_ref().is_some_and(|r| r.clock.has(dot));
    if live(mine).any(|dot| !heard.iter().any(|theirs| knows(theirs, dot))) {
        return Parting::SetAside;
    }
    let everybody = heard.len() == owners.len();
    let all_known = heard.iter().all(|theirs| live(mine).all(|dot| knows(theirs, dot)));
    if everybody && all_known { Parting::Drop } else { Parting::Wait }
}

/// The versions that are values: that something was deleted needs no place where it is kept.
fn live(record: &Record) -> impl Iterator<Item = &Dot> {
    record.siblings.iter().filter(|sibling| !sibling.content.is_dead()).map(|sibling| &sibling.dot)
}

#[cfg(test)]
mod tests;
