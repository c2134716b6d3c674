//! A search without the reductions: every state goes by what it is, down to the last number.
//!
//! It gets less far, and as far as it gets it must meet just the states that the reduced search meets.

use super::names::Names;
use super::search::{Broken, Model};
use std::cell::RefCell;
use std::fmt;
use xxhash_rust::xxh3::xxh3_128;

/// A model as it is, and by what names it would have gone.
pub(crate) struct Plain<M> {
    of: M,
    pub(crate) met: RefCell<Names>,
}

impl<M> Plain<M> {
    pub(crate) fn new(of: M) -> Plain<M> {
        Plain { of, met: RefCell::default() }
    }
}

impl<M: Model<State: fmt::Debug>> Model for Plain<M> {
    type State = M::State;
    type Event = M::Event;

    fn start(&self) -> M::State {
        self.of.start()
    }

    fn events(&self, state: &M::State, last: bool) -> Vec<M::Event> {
        self.of.events(state, last)
    }

    fn is_worth(&self, state: &M::State, left: usize) -> bool {
        self.of.is_worth(state, left)
    }

    fn step(&self, state: &M::State, event: M::Event) -> Result<Option<M::State>, Broken> {
        self.of.step(state, event)
    }

    fn check(&self, before: &M::State, after: &M::State) -> Result<(), Broken> {
        self.of.check(before, after)
    }

    fn name(&self, state: &M::State) -> u128 {
        self.met.borrow_mut().insert(self.of.name(state));
        xxh3_128(format!("{state:?}").as_bytes())
    }

    fn face(&self, state: &M::State) -> u128 {
        self.name(state)
    }

    fn show(&self, state: &M::State) -> String {
        self.of.show(state)
    }
}
