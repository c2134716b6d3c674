//! What may happen while a deletion is to be forgotten, and how it is told.

use super::node::NODES;
use std::fmt;

/// Who answers at once, when a round begins.
#[derive(Clone, Copy)]
pub(crate) enum Ask {
    Nobody,
    /// Nodes as bits.
    These(u8),
}

impl Ask {
    pub(crate) fn asks(self, at: usize) -> bool {
        matches!(self, Ask::These(nodes) if nodes & 1 << at != 0)
    }
}

/// How far a ripe key gets at once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Nothing,
    /// It goes at the other owner.
    Other,
    /// And at the asker.
    Both,
}

#[derive(Clone, Copy)]
pub(crate) enum Event {
    Write {
        at: usize,
        seen: bool,
        delete: bool,
        reaches: bool,
    },
    Read {
        at: usize,
    },
    ReadEnds {
        sends: bool,
    },
    Arrive {
        which: usize,
        to: usize,
    },
    Exchange,
    HandOn {
        to: &'static [usize],
        goes: bool,
    },
    Lose {
        at: usize,
    },
    Wait,
    /// A round begins.
    Ask(Ask),
    /// And ends.
    Judge {
        silent: Option<usize>,
        then: Then,
    },
    /// A round of which all answers are of one moment.
    Round {
        silent: Option<usize>,
        then: Then,
    },
    /// What is ripe goes where it is next.
    Go,
}

const ENDS: [(Option<usize>, Then); 4] =
    [(None, Then::Nothing), (None, Then::Other), (None, Then::Both), (Some(1), Then::Nothing)];

const HANDS_ON: [(&[usize], bool); 5] =
    [(&[0, 1], true), (&[0], true), (&[1], true), (&[0], false), (&[1], false)];

impl Event {
    /// The events, of which those that need others may find nothing to do. The last of all is a write, or something that goes: the
    /// invariants let all that is under way arrive anyhow.
    pub(crate) fn all(under_way: usize, asking: bool, whole: bool, last: bool) -> Vec<Event> {
        let mut events = vec![Event::Go];
        for at in 0..NODES {
            events.push(Event::Write { at, seen: false, delete: false, reaches: false });
            events.push(Event::Write { at, seen: true, delete: false, reaches: false });
            let deletion = |reaches| Event::Write { at, seen: true, delete: true, reaches };
            events.extend([false, true].map(deletion));
        }
        for (silent, then) in ENDS {
            events.push(match asking {
                true => Event::Judge { silent, then },
                false => Event::Round { silent, then },
            });
        }
        if !last {
            events.extend([Event::Exchange, Event::Wait]);
            events.extend([true, false].map(|sends| Event::ReadEnds { sends }));
            events.extend(HANDS_ON.map(|(to, goes)| Event::HandOn { to, goes }));
            for at in 0..NODES {
                events.push(Event::Read { at });
                events.extend((0..under_way).map(|which| Event::Arrive { which, to: at }));
                events.extend(whole.then_some(Event::Lose { at }));
            }
            if whole && !asking {
                events.extend((1..(1 << NODES) - 1).map(|nodes| Event::Ask(Ask::These(nodes))));
            }
        }
        events
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = |of: u8| (0..NODES).filter(|at| of & 1 << at != 0).collect::<Vec<_>>();
        match *self {
            Event::Write { at, seen, delete, reaches } => {
                let what = if delete { "a deletion" } else { "a value" };
                let by = if seen {
                    "with the context of the last read"
                } else {
                    "by somebody who has seen nothing"
                };
                let to = if reaches { "all owners have it" } else { "it is under way" };
                write!(f, "node {at} takes {what} {by}; {to}")
            }
            Event::Read { at } => write!(f, "somebody reads node {at}'s copy, and holds what was read"),
            Event::ReadEnds { sends: true } => write!(f, "the reader sends what it read, and is done"),
            Event::ReadEnds { sends: false } => write!(f, "the reader is done"),
            Event::Arrive { which, to } => {
                write!(f, "message {which} arrives at node {to}, and may once more")
            }
            Event::Exchange => write!(f, "the owners exchange what they have"),
            Event::HandOn { to, goes } => {
                let then = if goes { "lets go" } else { "keeps" };
                write!(f, "node 2 hands on to {to:?}, and {then} what it has")
            }
            Event::Lose { at } => write!(f, "node {at} starts anew, and has lost its copy"),
            Event::Wait => write!(f, "a grace passes"),
            Event::Ask(Ask::Nobody) => write!(f, "a round begins"),
            Event::Ask(Ask::These(of)) => write!(f, "a round begins, and {:?} answer", nodes(of)),
            Event::Judge { silent, then } | Event::Round { silent, then } => {
                let answers =
                    silent.map_or("all have answered".into(), |at| format!("{at} has not answered"));
                let gone = match then {
                    Then::Nothing => "nothing goes yet",
                    Then::Other => "the key goes at the other owner",
                    Then::Both => "the key goes at both owners",
                };
                write!(f, "a round ends: {answers}; {gone}")
            }
            Event::Go => write!(f, "what is ripe goes at the next owner"),
        }
    }
}
