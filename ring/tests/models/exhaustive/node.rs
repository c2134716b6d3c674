//! One node of a state: its copy and its epochs, with the crate's own writing and receiving; and the ledger of what was written.
//!
//! What the crate is told depends on the scheme; the code that runs is the code that ships.

use super::naming;
use super::search::Broken;
use crate::key::{Scheme, pressed};
use bytes::Bytes;
use ring::bucket::BlindWrites;
use ring::causal::{Context, Epochs, Run};
use ring::ids::NodeId;
use ring::record::write::{CONTEXT_RUNS_MAX, Write, take};
use ring::record::{Content, Coordinated, Me, Object, Record, merge, receive};
use ring::time::Wall;
use ring::wire::peer::Action;
use std::fmt;
use std::rc::Rc;

pub(crate) const NODES: usize = 3;

#[derive(Clone, Debug)]
pub(crate) struct Node {
    place: usize,
    /// How many disks it had before this one.
    pub(crate) disks: u8,
    pub(crate) epochs: Epochs,
    pub(crate) copy: Option<Rc<Record>>,
}

/// What somebody has seen: the context, and the values for the ledger.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) context: Context,
    pub(crate) values: Values,
}

impl Seen {
    pub(crate) fn by_reading(record: Record) -> Rc<Seen> {
        Rc::new(Seen { values: Values::of(&record), context: record.clock })
    }
}

impl Node {
    pub(crate) fn new(place: usize) -> Node {
        Node { place, disks: 0, epochs: Epochs::at_start(1, 0, false), copy: None }
    }

    pub(crate) fn name(&self) -> NodeId {
        naming::node(self.place, self.disks)
    }

    fn forget_epochs(&mut self, scheme: Scheme) {
        if scheme == Scheme::OneEpoch {
            self.epochs = Epochs::at_start(1, 0, false);
        }
    }

    /// A write, entered in the ledger. What came of it, and what the writer knows then.
    pub(crate) fn write(
        &mut self,
        scheme: Scheme,
        seen: Option<&Seen>,
        delete: bool,
        ledger: &mut Ledger,
    ) -> (Coordinated, Seen) {
        let mut values = seen.map_or(Values::default(), |seen| seen.values);
        ledger.supersede(values);
        let (action, body) = if delete {
            (Action::Delete, Bytes::new())
        } else {
            let value = ledger.write();
            values = values.with(value);
            (Action::Put { content_type: String::new(), meta: Vec::new(), ttl_ms: None }, body(value))
        };
        let seen = seen.map(|seen| seen.context.clone()).filter(|context| !context.is_empty());
        let (blind, siblings_max) = (BlindWrites::Siblings, usize::MAX);
        let context_runs_max = if scheme == Scheme::GapsClosed { 0 } else { CONTEXT_RUNS_MAX };
        let write = Write { action, body, seen, ttl_default: None, blind, siblings_max, context_runs_max };
        self.forget_epochs(scheme);
        let mut me = Me { node: self.name(), epochs: &mut self.epochs };
        let done = take(self.copy.as_deref(), write, Wall(1), &mut me).expect("no limit is set");
        let context = match scheme {
            Scheme::WholeClock => done.record.clock.clone(),
            Scheme::VectorOnly => pressed(&done.context),
            _ => done.context.clone(),
        };
        self.copy = Some(Rc::new(done.record.clone()));
        (done, Seen { context, values })
    }

    /// A copy arrives. Whether that changed anything; an error if it took away what this node knew.
    pub(crate) fn hear(&mut self, scheme: Scheme, incoming: &Record) -> Result<bool, Broken> {
        self.forget_epochs(scheme);
        let merged = if scheme == Scheme::NoMark {
            let held = self.copy.as_deref().cloned().unwrap_or_default();
            Some(merge(&held, incoming)).filter(|merged| *merged != held)
        } else {
            let mut me = Me { node: self.name(), epochs: &mut self.epochs };
            receive(self.copy.as_deref(), incoming, &mut me)
        };
        let Some(merged) = merged else { return Ok(false) };
        let held = self.copy.replace(Rc::new(merged));
        let clock = &self.copy.as_ref().expect("it was just put there").clock;
        if held.is_some_and(|held| !clock.covers(&held.clock)) || !clock.covers(&incoming.clock) {
            return Err(Broken("a clock does not grow", format!("that of node {}", self.place)));
        }
        Ok(true)
    }
}

/// What all of these know together.
pub(crate) fn merged<'a>(records: impl IntoIterator<Item = &'a Record>) -> Record {
    let mut records = records.into_iter();
    let first = records.next().cloned().unwrap_or_default();
    records.fold(first, |sum, record| merge(&sum, record))
}

/// Any of these, and none.
pub(crate) fn any_of<'a>(records: &'a [&'a Record]) -> impl Iterator<Item = Vec<&'a Record>> {
    let some = |bits: u32| {
        let chosen = records.iter().enumerate().filter(move |(at, _)| bits & 1 << at != 0);
        chosen.map(|(_, record)| *record).collect()
    };
    (0..1_u32 << records.len()).map(some)
}

/// Whether nothing is lost if only `left` is there of what was: whatever they meet of what may still come, the same values are
/// to be read. That is the fault budget: no fault takes the last copy of anything.
pub(crate) fn say_the_same<'a>(
    had: impl IntoIterator<Item = &'a Record>,
    left: impl IntoIterator<Item = &'a Record>,
    may_come: &[&Record],
) -> bool {
    let (had, left) = (merged(had), merged(left));
    Values::of(&had) == Values::of(&left)
        && any_of(may_come).all(|some| {
            let with =
                |record: &Record| Values::of(&merged(std::iter::once(record).chain(some.iter().copied())));
            with(&had) == with(&left)
        })
}

/// For a reader of a counterexample: the values at each node, and what it has seen.
pub(crate) fn show(nodes: &[Node]) -> String {
    let holders = nodes.iter().filter_map(|node| node.copy.as_ref().map(|copy| (node.place, copy)));
    let line = |(place, copy): (usize, &Rc<Record>)| {
        let seen: Vec<String> = copy.clock.runs().iter().map(shown).collect();
        format!("      node {place}: {} of {}\n", Values::of(copy), seen.join(" "))
    };
    holders.map(line).collect()
}

/// A run by its node, the disk of that node, the start and the how-manieth epoch of it.
fn shown(run: &Run) -> String {
    let Run { actor, first, last } = run;
    let (place, disk) = (actor.node.0 >> 104, (actor.node.0 >> 96) as u8);
    let (start, epoch) = (actor.epoch >> 32, actor.epoch as u32);
    format!("{place}.{disk}.{start}.{epoch}:{first}-{last}")
}

/// Values by their numbers, which begin with 1.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Values(u16);

impl Values {
    pub(crate) fn of(record: &Record) -> Values {
        let values = record.siblings.iter().filter_map(|s| match &s.content {
            Content::Object(object) => Some(number(object)),
            _ => None,
        });
        values.fold(Values::default(), |all, value| all.with(value))
    }

    #[must_use]
    pub(crate) fn with(self, value: u8) -> Values {
        Values(self.0 | 1 << value)
    }

    #[must_use]
    pub(crate) fn and(self, others: Values) -> Values {
        Values(self.0 | others.0)
    }

    #[must_use]
    pub(crate) fn without(self, others: Values) -> Values {
        Values(self.0 & !others.0)
    }

    #[must_use]
    pub(crate) fn common(self, others: Values) -> Values {
        Values(self.0 & others.0)
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = u8> {
        (0..16).filter(move |value| self.0 & 1 << value != 0)
    }
}

impl fmt::Display for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.iter().map(|value| format!("v{value}")).collect();
        write!(f, "{{{}}}", names.join(", "))
    }
}

static NUMBERS: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// The body of a value.
pub(crate) fn body(value: u8) -> Bytes {
    Bytes::from_static(&NUMBERS[usize::from(value)..][..1])
}

/// The number of a value.
pub(crate) fn number(object: &Object) -> u8 {
    object.body[0]
}

/// A value may be gone if somebody who had seen it wrote, and must be gone then.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Ledger {
    written: Values,
    pub(crate) superseded: Values,
    last: u8,
}

impl Ledger {
    /// The number of a value that is written now.
    pub(crate) fn write(&mut self) -> u8 {
        self.last += 1;
        self.written = self.written.with(self.last);
        self.last
    }

    pub(crate) fn supersede(&mut self, seen: Values) {
        self.superseded = self.superseded.and(seen);
    }

    /// What must still be there.
    pub(crate) fn due(&self) -> Values {
        self.written.without(self.superseded)
    }

    /// Compares with what is left when everybody has heard of everything.
    pub(crate) fn compare(&self, there: Values) -> Result<(), Broken> {
        let lost = self.due().without(there);
        let revived = there.common(self.superseded);
        match (lost.iter().next(), revived.iter().next()) {
            (Some(value), _) => {
                Err(Broken("a value is lost", format!("v{value} was acknowledged, and superseded by nobody")))
            }
            (_, Some(value)) => Err(Broken("a value is back", format!("v{value} was superseded"))),
            _ => Ok(()),
        }
    }
}
