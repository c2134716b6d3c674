//! What may happen in the search over clocks, and how it is told.

use super::node::NODES;
use std::fmt;

/// Which events a search is made of; writes are in all of them.
#[derive(Clone, Copy, Default)]
pub(crate) struct Alphabet {
    /// Somebody reads some copies, and may write with that context at any time.
    pub(crate) reads: bool,
    /// A writer goes on from what its write gave back.
    pub(crate) told: bool,
    /// Writers who have seen something delete.
    pub(crate) deletes: bool,
    /// Two copies become equal, by read repair or an exchange.
    pub(crate) repairs: bool,
    /// A copy goes to another node as it is: a write to a replica, a hint, a handoff.
    pub(crate) pushes: bool,
    /// So many of the last writes are still under way: they arrive late, twice, or never.
    pub(crate) under_way: usize,
    /// Writes travel as what is new in them.
    pub(crate) deltas: bool,
    /// A copy is lost; or dropped, after it was handed on.
    pub(crate) losses: bool,
    /// A disk is lost: a new one has a new name.
    pub(crate) wipes: bool,
    /// A directory is copied aside, and later put back; or a start finds the disk as it was then.
    pub(crate) past: bool,
    /// A start that has lost nothing.
    pub(crate) restarts: bool,
}

/// With what context somebody writes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Nothing,
    /// What was last read.
    Read,
    /// What the last write gave back.
    Told,
}

#[derive(Clone, Copy)]
pub(crate) enum Event {
    Write {
        at: usize,
        by: By,
        delete: bool,
    },
    /// Nodes as bits.
    Read {
        of: u8,
    },
    Repair {
        one: usize,
        other: usize,
    },
    Push {
        from: usize,
        to: usize,
    },
    Arrive {
        which: usize,
        to: usize,
    },
    Lose {
        at: usize,
    },
    Wipe {
        at: usize,
    },
    Save {
        at: usize,
    },
    PutBack,
    TornStart,
    Restart {
        at: usize,
    },
}

impl Alphabet {
    /// The events, of which those that need others may find nothing to do. The last of all is a write or a late message: the
    /// others take or bring nothing that the invariants, which let everybody hear of everything, could miss.
    pub(crate) fn events(&self, under_way: usize, last: bool) -> Vec<Event> {
        let mut events = Vec::with_capacity(64);
        for at in 0..NODES {
            events.push(Event::Write { at, by: By::Nothing, delete: false });
            for by in [By::Read, By::Told] {
                events.push(Event::Write { at, by, delete: false });
                events.extend(self.deletes.then_some(Event::Write { at, by, delete: true }));
            }
            events.extend((0..under_way).map(|which| Event::Arrive { which, to: at }));
        }
        if !last {
            (0..NODES).for_each(|at| self.add_what_comes_between(at, &mut events));
            events.extend(self.past.then_some([Event::PutBack, Event::TornStart]).into_iter().flatten());
            events.extend((1..1 << NODES).filter(|_| self.reads).map(|of| Event::Read { of }));
        }
        events
    }

    fn add_what_comes_between(&self, at: usize, events: &mut Vec<Event>) {
        for to in (0..NODES).filter(|to| *to != at) {
            events.extend(self.pushes.then_some(Event::Push { from: at, to }));
            events.extend((self.repairs && at < to).then_some(Event::Repair { one: at, other: to }));
        }
        events.extend(self.losses.then_some(Event::Lose { at }));
        events.extend(self.wipes.then_some(Event::Wipe { at }));
        events.extend(self.past.then_some(Event::Save { at }));
        events.extend(self.restarts.then_some(Event::Restart { at }));
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Event::Write { at, by, delete } => {
                let what = if delete { "a deletion" } else { "a value" };
                let by = match by {
                    By::Nothing => "by somebody who has seen nothing",
                    By::Read => "with the context of the last read",
                    By::Told => "with the context that the last write gave back",
                };
                write!(f, "node {at} takes {what} {by}")
            }
            Event::Read { of } => {
                let of: Vec<usize> = (0..NODES).filter(|at| of & 1 << at != 0).collect();
                write!(f, "somebody reads the copies of {of:?}")
            }
            Event::Repair { one, other } => write!(f, "nodes {one} and {other} exchange what they have"),
            Event::Push { from, to } => write!(f, "node {from} sends its copy to node {to}"),
            Event::Arrive { which, to } => {
                write!(f, "message {which} arrives at node {to}, and may once more")
            }
            Event::Lose { at } => write!(f, "node {at} loses its copy"),
            Event::Wipe { at } => write!(f, "node {at} gets a new disk, and a new name"),
            Event::Save { at } => write!(f, "node {at}'s directory is copied aside"),
            Event::PutBack => write!(f, "the directory is put back"),
            Event::TornStart => write!(f, "that node stops uncleanly, and its disk is as it was then"),
            Event::Restart { at } => write!(f, "node {at} starts anew, and has lost nothing"),
        }
    }
}
