//! One key on several nodes, with the faults that forget and a ledger of what may be gone.
//!
//! The ledger knows which values each writer was shown and nothing of dots: a value may be gone if somebody who had seen it
//! (or had written it) wrote with that context, and must be gone then. A fault never takes the last copy of anything:
//! whatever is lost in the end was lost by the protocol.

use bytes::Bytes;
use ring::bucket::BlindWrites;
use ring::causal::epochs::JUMP;
use ring::causal::{Context, Epochs, Run};
use ring::ids::NodeId;
use ring::record::write::{CONTEXT_RUNS_MAX, Write, take};
use ring::record::{Coordinated, Me, Record, merge, receive};
use ring::time::Wall;
use ring::wire::peer::Action;
use std::collections::BTreeSet;

/// The rules as they are built, or with one of them taken away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scheme {
    Built,
    /// As built, but every context is taken for one that has grown too long.
    GapsClosed,
    /// A doubt draws the same epoch as ever: counters per key, under the node's name alone.
    OneEpoch,
    /// What arrives is merged and never marked, whatever it reveals.
    NoMark,
    /// A new disk goes on under the old one's name, and its epochs begin again.
    NameOutlivesDisk,
    /// A start that may have lost data is taken for any other.
    NoBootRule,
    /// The lease goes back with the disk, and nobody says so.
    NobodyRemembers,
    /// The boot rule holds only until the next start.
    BootForgotten,
    /// A writer gets the whole clock of the copy back, siblings that it never saw included.
    WholeClock,
    /// A writer gets what it had seen and its own dot, pressed into a vector.
    VectorOnly,
}

/// What happens. Nodes and contexts are numbers; context 0 is that of a writer who has seen nothing, and keeps nothing.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A write with context `seen`, of which the writer keeps what it gets back as `keep`. Other nodes in `to` have it at
    /// once; for the rest it stays on the way, as the whole record or as the delta.
    Write { at: usize, seen: usize, keep: usize, to: Vec<usize>, delta: bool, delete: bool },
    /// A read of some copies, and the repair of those that lag.
    Read { of: Vec<usize>, keep: usize, repair: bool },
    /// A copy is sent: handoff, exchange, hint. A fallback may drop it afterwards.
    Push { from: usize, to: usize, drop: bool },
    /// Something that was on the way arrives, or never will.
    Arrive { which: usize, lost: bool },
    /// One copy is lost, after another node has taken it.
    Forget { at: usize, held_by: usize },
    /// The whole disk is lost: a new one has a new name.
    Wipe { at: usize, held_by: usize },
    /// The copy is again what it was `back` changes ago, and the start knows that this may be so.
    RollBack { at: usize, back: usize, held_by: usize },
    /// A start that lost nothing.
    Restart { at: usize },
}

/// What somebody has read: the context, and the values for the ledger.
#[derive(Clone, Default, Debug)]
pub(crate) struct Seen {
    pub(crate) context: Context,
    pub(crate) values: BTreeSet<u32>,
}

#[derive(Debug)]
struct Node {
    name: NodeId,
    epochs: Epochs,
    copy: Option<Record>,
    /// Earlier states of the disk: the copy, and the lease that was in use.
    past: Vec<(Option<Record>, u64)>,
}

/// The key, everywhere.
#[derive(Debug)]
pub(crate) struct Key {
    scheme: Scheme,
    nodes: Vec<Node>,
    contexts: Vec<Seen>,
    on_the_way: Vec<(usize, Record)>,
    written: u32,
    superseded: BTreeSet<u32>,
    longest: usize,
}

/// What is left when everybody has heard of everything.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Acknowledged, gone, and superseded by nobody who had seen them.
    pub(crate) lost: BTreeSet<u32>,
    /// There, although somebody who had seen them superseded them.
    pub(crate) revived: BTreeSet<u32>,
    /// The copies differ, or still change.
    pub(crate) apart: bool,
    /// The most actors that any clock ever named.
    pub(crate) longest: usize,
}

impl Outcome {
    pub(crate) fn is_sound(&self) -> bool {
        self.lost.is_empty() && self.revived.is_empty() && !self.apart
    }
}

const CONTEXTS: usize = 6;

impl Key {
    pub(crate) fn new(scheme: Scheme, nodes: usize) -> Key {
        let node = |name| Node {
            name: NodeId(name),
            epochs: Epochs::at_start(1, 0, false),
            copy: None,
            past: Vec::new(),
        };
        Key {
            scheme,
            nodes: (1..=nodes as u128).map(node).collect(),
            contexts: vec![Seen::default(); CONTEXTS],
            on_the_way: Vec::new(),
            written: 0,
            superseded: BTreeSet::new(),
            longest: 0,
        }
    }

    pub(crate) fn play(scheme: Scheme, nodes: usize, steps: &[Step]) -> Key {
        let mut key = Key::new(scheme, nodes);
        steps.iter().for_each(|step| key.step(step));
        key
    }

    pub(crate) fn copy(&self, at: usize) -> Option<&Record> {
        self.nodes[at].copy.as_ref()
    }

    /// Every state in which any copy ever was, the present ones excepted.
    pub(crate) fn past(&self) -> Vec<Record> {
        self.nodes.iter().flat_map(|n| n.past.iter().filter_map(|(copy, _)| copy.as_ref())).cloned().collect()
    }

    /// How many epochs the nodes have not used yet.
    pub(crate) fn epochs_left(&self) -> u64 {
        self.nodes.iter().map(|n| n.epochs.left()).sum()
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Write { at, seen, keep, to, delta, delete } => {
                self.write_to_some(*at, *seen, *keep, to, *delta, *delete);
            }
            Step::Read { of, keep, repair } => {
                let held = self.read(of);
                self.keep(*keep, seen_in(&held));
                if *repair {
                    for at in of {
                        self.hear(*at, &held);
                    }
                }
            }
            Step::Push { from, to, drop } => {
                self.push(*from, *to);
                if *drop {
                    self.set_copy(*from, None);
                }
            }
            Step::Arrive { which, lost } => {
                if !self.on_the_way.is_empty() {
                    let (to, record) = self.on_the_way.remove(which % self.on_the_way.len());
                    if !lost {
                        self.hear(to, &record);
                    }
                }
            }
            Step::Forget { at, held_by } => {
                self.push(*at, *held_by);
                self.set_copy(*at, None);
            }
            Step::Wipe { at, held_by } => self.wipe(*at, *held_by),
            Step::RollBack { at, back, held_by } => self.roll_back(*at, *back, *held_by),
            Step::Restart { at } => self.restart(*at),
        }
    }

    fn keep(&mut self, at: usize, seen: Seen) {
        if at > 0 {
            self.contexts[at] = seen;
        }
    }

    fn write_to_some(
        &mut self,
        at: usize,
        seen: usize,
        keep: usize,
        to: &[usize],
        delta: bool,
        delete: bool,
    ) {
        let (sent, back) = self.write(at, self.contexts[seen].clone(), delete);
        self.keep(keep, back);
        let travels = if delta { sent.delta } else { sent.record };
        for other in (0..self.nodes.len()).filter(|n| *n != at) {
            if to.contains(&other) {
                self.hear(other, &travels);
            } else {
                self.on_the_way.push((other, travels.clone()));
            }
        }
    }

    /// One write through the crate's own door, entered in the ledger.
    pub(crate) fn write(&mut self, at: usize, seen: Seen, delete: bool) -> (Coordinated, Seen) {
        self.superseded.extend(&seen.values);
        let mut values = seen.values;
        let (action, body) = if delete {
            (Action::Delete, Bytes::new())
        } else {
            self.written += 1;
            values.insert(self.written);
            let put = Action::Put { content_type: String::new(), meta: Vec::new(), ttl_ms: None };
            (put, Bytes::copy_from_slice(&self.written.to_be_bytes()))
        };
        let seen = Some(seen.context).filter(|c| !c.is_empty());
        let (blind, siblings_max) = (BlindWrites::Siblings, usize::MAX);
        let context_runs_max = if self.scheme == Scheme::GapsClosed { 0 } else { CONTEXT_RUNS_MAX };
        let write = Write { action, body, seen, ttl_default: None, blind, siblings_max, context_runs_max };
        self.forget_epochs(at);
        let node = &mut self.nodes[at];
        let mut me = Me { node: node.name, epochs: &mut node.epochs };
        let done = take(node.copy.as_ref(), write, Wall(1), &mut me).expect("no limit is set");
        self.set_copy(at, Some(done.record.clone()));
        let context = match self.scheme {
            Scheme::WholeClock => done.record.clock.clone(),
            Scheme::VectorOnly => pressed(&done.context),
            _ => done.context.clone(),
        };
        (done, Seen { context, values })
    }

    /// What a reader of these copies gets.
    pub(crate) fn read(&self, of: &[usize]) -> Record {
        of.iter().filter_map(|at| self.copy(*at)).fold(Record::default(), |sum, copy| merge(&sum, copy))
    }

    pub(crate) fn push(&mut self, from: usize, to: usize) {
        if let Some(record) = self.nodes[from].copy.clone() {
            self.hear(to, &record);
        }
    }

    /// A copy arrives. Whether that changed anything.
    pub(crate) fn hear(&mut self, at: usize, incoming: &Record) -> bool {
        self.forget_epochs(at);
        let node = &mut self.nodes[at];
        let merged = if self.scheme == Scheme::NoMark {
            let held = node.copy.clone().unwrap_or_default();
            Some(merge(&held, incoming)).filter(|m| *m != held)
        } else {
            let mut me = Me { node: node.name, epochs: &mut node.epochs };
            receive(node.copy.as_ref(), incoming, &mut me)
        };
        let changed = merged.is_some();
        if changed {
            self.set_copy(at, merged);
        }
        changed
    }

    fn set_copy(&mut self, at: usize, copy: Option<Record>) {
        self.longest = self.longest.max(copy.as_ref().map_or(0, |c| actors(&c.clock)));
        let node = &mut self.nodes[at];
        let before = std::mem::replace(&mut node.copy, copy);
        node.past.push((before, node.epochs.lease()));
    }

    fn forget_epochs(&mut self, at: usize) {
        if self.scheme == Scheme::OneEpoch {
            self.nodes[at].epochs = Epochs::at_start(1, 0, false);
        }
    }

    fn wipe(&mut self, at: usize, held_by: usize) {
        self.push(at, held_by);
        self.set_copy(at, None);
        let node = &mut self.nodes[at];
        node.past.clear();
        node.epochs = Epochs::at_start(1, 0, false);
        if self.scheme != Scheme::NameOutlivesDisk {
            node.name = NodeId(node.name.0 + 100);
        }
    }

    /// The lease goes back with the copy, as it does when a directory is put back; the others remember the last start.
    fn roll_back(&mut self, at: usize, back: usize, held_by: usize) {
        let past = &self.nodes[at].past;
        let Some((earlier, lease)) = past.len().checked_sub(back).map(|n| past[n].clone()) else { return };
        self.push(at, held_by);
        self.set_copy(at, earlier);
        let remembered = self.nodes[at].epochs.lease();
        let boot = self.nodes[at].epochs.boot();
        let epochs = &mut self.nodes[at].epochs;
        match self.scheme {
            Scheme::NoBootRule => *epochs = Epochs::at_start(remembered + 1, boot, false),
            Scheme::NobodyRemembers => *epochs = Epochs::at_start(lease + 1, boot, true),
            _ => {
                *epochs = Epochs::at_start(lease + 1, boot, false);
                epochs.jump(remembered + JUMP);
            }
        }
    }

    fn restart(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let boot = if self.scheme == Scheme::BootForgotten { 0 } else { node.epochs.boot() };
        node.epochs = Epochs::at_start(node.epochs.lease() + 1, boot, false);
    }

    /// Everybody hears from everybody until nothing changes. False if that never comes.
    pub(crate) fn converge(&mut self) -> bool {
        // Once spreads everything, once more the marks that were drawn then; the last finds nothing to do.
        (0..3).any(|_| {
            let everything = self.read(&(0..self.nodes.len()).collect::<Vec<_>>());
            let changed = (0..self.nodes.len()).filter(|at| self.hear(*at, &everything)).count();
            changed == 0
        })
    }

    pub(crate) fn outcome(&mut self) -> Outcome {
        let still = !self.converge();
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        let there = seen_in(&self.read(&all)).values;
        let gone: BTreeSet<u32> = (1..=self.written).filter(|v| !there.contains(v)).collect();
        Outcome {
            lost: gone.difference(&self.superseded).copied().collect(),
            revived: there.intersection(&self.superseded).copied().collect(),
            apart: still || self.nodes.windows(2).any(|pair| pair[0].copy != pair[1].copy),
            longest: self.longest,
        }
    }
}

/// What a reader of this record has seen.
pub(crate) fn seen_in(record: &Record) -> Seen {
    let value = |body: &Bytes| u32::from_be_bytes(body.as_ref().try_into().expect("every value is a number"));
    let values = record.versions(Wall(1)).map(|v| value(&v.object.body)).collect();
    Seen { context: record.clock.clone(), values }
}

/// How many actors a clock names.
pub(crate) fn actors(clock: &Context) -> usize {
    clock.runs().iter().map(|run| run.actor).collect::<BTreeSet<_>>().len()
}

/// A context as a version vector can say it: of every actor, all up to the last.
pub(crate) fn pressed(context: &Context) -> Context {
    Context::of_runs(context.runs().iter().map(|run| Run { first: 1, ..*run }))
}
