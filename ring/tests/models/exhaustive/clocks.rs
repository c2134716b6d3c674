//! One key on three nodes as a state with successors: writes, messages and the faults that forget.
//!
//! What is checked of each state, and of each step that leads to it: a dot is issued once, clocks only grow, a write adds to
//! its copy what it says and nothing else, what arrives twice changes nothing twice, and when everybody has heard everything
//! all copies are equal and say what the ledger says. The laws of the merge are not looked at here: a merge decides about each
//! dot alone, and `src/record/laws_tests.rs` tries all that may be known of a few dots.

use super::alphabet::{Alphabet, By, Event};
use super::node::{Ledger, NODES, Node, Seen, Values, merged, say_the_same, show};
use super::search::{Broken, Model};
use crate::key::Scheme;
use ring::causal::epochs::JUMP;
use ring::causal::{Context, Epochs};
use ring::record::{Coordinated, Record, merge};
use std::rc::Rc;

#[derive(Clone, Debug)]
pub(crate) struct Saved {
    pub(crate) at: usize,
    pub(crate) copy: Option<Rc<Record>>,
    pub(crate) epochs: Epochs,
}

#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) nodes: [Node; NODES],
    pub(crate) under_way: Vec<Rc<Record>>,
    pub(crate) read: Option<Rc<Seen>>,
    pub(crate) told: Option<Rc<Seen>>,
    pub(crate) saved: Option<Saved>,
    pub(crate) ledger: Ledger,
}

impl State {
    fn copies(&self) -> impl Iterator<Item = &Rc<Record>> {
        self.nodes.iter().filter_map(|node| node.copy.as_ref())
    }

    /// What may still come to a node and is in nobody's copy.
    fn elsewhere(&self) -> impl Iterator<Item = &Rc<Record>> {
        self.under_way.iter().chain(self.saved.iter().filter_map(|saved| saved.copy.as_ref()))
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = &Rc<Record>> {
        self.copies().chain(self.elsewhere())
    }

    pub(crate) fn contexts(&self) -> impl Iterator<Item = &Context> {
        let seen = self.read.iter().chain(&self.told).map(|seen| &seen.context);
        self.records().map(|record| &record.clock).chain(seen)
    }

    fn read_of(&self, nodes: impl IntoIterator<Item = usize>) -> Record {
        merged(nodes.into_iter().filter_map(|at| self.nodes[at].copy.as_deref()))
    }

    /// The state with one copy in place of another, unless that takes the last copy of anything.
    fn with_instead(&self, at: usize, copy: Option<Rc<Record>>) -> Option<State> {
        let mut after = self.clone();
        after.nodes[at].copy = copy;
        let may_come: Vec<&Record> = self.elsewhere().map(Rc::as_ref).collect();
        let (had, left) = (self.copies().map(Rc::as_ref), after.copies().map(Rc::as_ref));
        say_the_same(had, left, &may_come).then_some(after)
    }
}

/// The search for what breaks a scheme.
pub(crate) struct Clocks {
    pub(crate) scheme: Scheme,
    pub(crate) alphabet: Alphabet,
}

fn law(holds: bool, what: &'static str, how: impl FnOnce() -> String) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(Broken(what, how())) }
}

fn check_write(before: &State, at: usize, done: &Coordinated) -> Result<(), Broken> {
    for dot in &done.dots {
        let known = before.contexts().any(|context| context.has(dot));
        law(!known, "a dot is issued twice", || format!("{dot:?}"))?;
    }
    let held = before.nodes[at].copy.as_deref().cloned().unwrap_or_default();
    let adds = merge(&held, &done.record) == done.record && merge(&held, &done.delta) == done.record;
    law(adds, "a write does not add to its copy what it says", || format!("{done:?}"))
}

impl Clocks {
    fn write(&self, state: &State, at: usize, by: By, delete: bool) -> Result<Option<State>, Broken> {
        let seen = match by {
            By::Nothing => None,
            By::Read => state.read.as_deref(),
            By::Told => state.told.as_deref(),
        };
        if by != By::Nothing && seen.is_none() {
            return Ok(None);
        }
        let mut after = state.clone();
        let (done, told) = after.nodes[at].write(self.scheme, seen, delete, &mut after.ledger);
        check_write(state, at, &done)?;
        if self.alphabet.told {
            after.told = Some(Rc::new(told));
        }
        if self.alphabet.under_way > 0 {
            let record = after.nodes[at].copy.as_ref().filter(|_| !self.alphabet.deltas);
            after.under_way.push(record.map_or_else(|| Rc::new(done.delta), Rc::clone));
            if after.under_way.len() > self.alphabet.under_way {
                after.under_way.remove(0);
            }
        }
        Ok(Some(after))
    }

    fn arrives(&self, state: &State, to: usize, record: &Record) -> Result<Option<State>, Broken> {
        let mut here = state.nodes[to].clone();
        if !here.hear(self.scheme, record)? {
            return Ok(None);
        }
        let again = here.clone().hear(self.scheme, record)?;
        law(!again, "what is heard twice changes a copy twice", || format!("that of node {to}"))?;
        let mut after = state.clone();
        after.nodes[to] = here;
        Ok(Some(after))
    }

    fn repair(&self, state: &State, one: usize, other: usize) -> Result<Option<State>, Broken> {
        let both = state.read_of([one, other]);
        let mut after = state.clone();
        let changed = after.nodes[one].hear(self.scheme, &both)?;
        let changed = after.nodes[other].hear(self.scheme, &both)? || changed;
        Ok(changed.then_some(after))
    }

    fn wipe(&self, state: &State, at: usize) -> Option<State> {
        let mut after = state.with_instead(at, None)?;
        let node = &mut after.nodes[at];
        node.epochs = Epochs::at_start(1, 0, false);
        if self.scheme != Scheme::NameOutlivesDisk {
            node.disks += 1;
            after.saved = after.saved.filter(|saved| saved.at != at);
        }
        Some(after)
    }

    /// The disk goes back. When a directory is put back the lease goes with it, and the others remember the last start; a disk
    /// that was torn still has its lease, and the start knows that something may be lost.
    fn go_back(&self, state: &State, torn: bool) -> Option<State> {
        let Saved { at, copy, epochs } = state.saved.clone()?;
        let mut after = state.with_instead(at, copy)?;
        after.saved = None;
        let now = &mut after.nodes[at].epochs;
        let (lease, boot) = (now.lease(), now.boot());
        *now = match (self.scheme, torn) {
            (Scheme::NoBootRule, _) => Epochs::at_start(lease + 1, boot, false),
            (_, true) => Epochs::at_start(lease + 1, boot, true),
            (Scheme::NobodyRemembers, false) => Epochs::at_start(epochs.lease() + 1, epochs.boot(), true),
            (_, false) => {
                let mut back = Epochs::at_start(epochs.lease() + 1, epochs.boot(), false);
                back.jump(lease + JUMP);
                back
            }
        };
        Some(after)
    }

    fn restart(&self, state: &State, at: usize) -> State {
        let mut after = state.clone();
        let now = &mut after.nodes[at].epochs;
        let boot = if self.scheme == Scheme::BootForgotten { 0 } else { now.boot() };
        *now = Epochs::at_start(now.lease() + 1, boot, false);
        after
    }

    /// Everybody hears from everybody until nothing changes; then all are equal.
    fn converge(&self, state: &State) -> Result<Record, Broken> {
        let mut nodes = state.nodes.clone();
        let mut all = Record::default();
        // Once spreads everything, once more the marks that were drawn then; the last finds nothing to do.
        for _ in 0..3 {
            all = merged(nodes.iter().filter_map(|node| node.copy.as_deref()));
            let mut changed = false;
            for node in &mut nodes {
                changed |= node.hear(self.scheme, &all)?;
            }
            if !changed {
                let equal = nodes.iter().all(|node| node.copy.as_deref().is_none_or(|copy| *copy == all));
                law(equal, "who has heard everything differs", || format!("{all:?}"))?;
                return Ok(all);
            }
        }
        law(false, "the copies do not come to rest", || format!("{all:?}"))?;
        Ok(all)
    }
}

impl Model for Clocks {
    type State = State;
    type Event = Event;

    fn start(&self) -> State {
        State {
            nodes: [Node::new(0), Node::new(1), Node::new(2)],
            under_way: Vec::new(),
            read: None,
            told: None,
            saved: None,
            ledger: Ledger::default(),
        }
    }

    fn events(&self, state: &State, last: bool) -> Vec<Event> {
        self.alphabet.events(state.under_way.len(), last)
    }

    fn step(&self, state: &State, event: Event) -> Result<Option<State>, Broken> {
        match event {
            Event::Write { at, by, delete } => self.write(state, at, by, delete),
            Event::Read { of } => {
                let held = state.read_of((0..NODES).filter(|at| of & 1 << at != 0));
                Ok(Some(State { read: Some(Seen::by_reading(held)), ..state.clone() }))
            }
            Event::Repair { one, other } => self.repair(state, one, other),
            Event::Push { from, to } => match &state.nodes[from].copy {
                Some(record) => self.arrives(state, to, record),
                None => Ok(None),
            },
            Event::Arrive { which, to } => self.arrives(state, to, &state.under_way[which]),
            Event::Lose { at } => {
                Ok(state.nodes[at].copy.as_ref().and_then(|_| state.with_instead(at, None)))
            }
            Event::Wipe { at } => Ok(state.nodes[at].copy.as_ref().and_then(|_| self.wipe(state, at))),
            Event::Save { at } => {
                let Node { copy, epochs, .. } = state.nodes[at].clone();
                Ok(Some(State { saved: Some(Saved { at, copy, epochs }), ..state.clone() }))
            }
            Event::PutBack => Ok(self.go_back(state, false)),
            Event::TornStart => Ok(self.go_back(state, true)),
            Event::Restart { at } => Ok(Some(self.restart(state, at))),
        }
    }

    fn check(&self, state: &State) -> Result<(), Broken> {
        state.ledger.compare(Values::of(&self.converge(state)?))
    }

    fn at_rest(&self, state: State) -> State {
        State { under_way: Vec::new(), read: None, told: None, saved: None, ..state }
    }

    fn name(&self, state: &State) -> u128 {
        self.named(state)
    }

    fn show(&self, state: &State) -> String {
        show(&state.nodes)
    }
}
