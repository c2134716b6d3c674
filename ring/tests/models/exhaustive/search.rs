//! Breadth first, level by level: the first counterexample is a shortest one.
//!
//! States that differ only in what no rule can see have one name, and only the first of them is gone on from. A level keeps
//! its states until they have been gone on from; of the levels before, only who came from whom by which event, so that a
//! counterexample can be told from its beginning.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use xxhash_rust::xxh3::xxh3_128;

/// What is searched.
pub(crate) trait Model {
    type State;
    type Event: Copy + fmt::Display;

    /// Where every history begins.
    fn start(&self) -> Self::State;

    /// What may happen. An event that could not break anything without another one after it may be left out of the last.
    fn events(&self, state: &Self::State, last: bool) -> Vec<Self::Event>;

    /// Whether so many more events could still lead to what this search is about.
    fn is_worth(&self, _state: &Self::State, _left: usize) -> bool {
        true
    }

    /// What comes of it: nothing if it changes nothing or can't be; an error if a rule of the step itself is broken.
    fn step(&self, state: &Self::State, event: Self::Event) -> Result<Option<Self::State>, Broken>;

    /// The invariants.
    fn check(&self, state: &Self::State) -> Result<(), Broken>;

    /// What the invariants look at, and nothing that only a further event could bring to bear.
    fn at_rest(&self, state: Self::State) -> Self::State;

    /// The same for states that are as sound as each other and in which the same can happen, and only for these.
    fn name(&self, state: &Self::State) -> u128;

    /// For a reader of a counterexample.
    fn show(&self, state: &Self::State) -> String;
}

/// What is broken: in general, and here.
#[derive(Debug)]
pub(crate) struct Broken(pub(crate) &'static str, pub(crate) String);

/// A history that breaks something.
pub(crate) struct Counterexample {
    /// How many events it took.
    pub(crate) events: usize,
    /// What is broken.
    pub(crate) what: &'static str,
    /// Just what.
    broken: String,
    /// Step by step.
    told: String,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}, after {} events:", self.what, self.broken, self.events)?;
        write!(f, "{}", self.told)
    }
}

/// What came of a search.
pub(crate) struct Found {
    /// New states after so many events, from none at all.
    pub(crate) states: Vec<usize>,
    /// The first counterexample.
    pub(crate) broken: Option<Counterexample>,
}

impl Found {
    /// States visited.
    pub(crate) fn total(&self) -> usize {
        self.states.iter().sum()
    }
}

/// By which event, from which state of the level before.
type Came<E> = (u32, E);

/// All histories of at most so many events.
pub(crate) fn search<M: Model>(model: &M, events: usize) -> Found {
    let start = model.start();
    let mut found = Found { states: vec![1], broken: None };
    let mut names = BTreeSet::new();
    names.insert(model.name(&start));
    let mut came: Vec<Vec<Came<M::Event>>> = Vec::new();
    let mut level = vec![start];
    for depth in 1..=events {
        let last = depth == events;
        let (mut next, mut from) = (Vec::new(), Vec::new());
        let mut new = 0;
        for (at, state) in (0_u32..).zip(&level) {
            for event in model.events(state, last) {
                let stepped = match model.step(state, event) {
                    Ok(None) => continue,
                    Ok(Some(after)) => {
                        let after = if last { model.at_rest(after) } else { after };
                        if !names.insert(model.name(&after)) {
                            continue;
                        }
                        model.check(&after).map(|()| after)
                    }
                    Err(broken) => Err(broken),
                };
                match stepped {
                    Ok(after) => {
                        new += 1;
                        if !last && model.is_worth(&after, events - depth) {
                            next.push(after);
                            from.push((at, event));
                        }
                    }
                    Err(Broken(what, broken)) => {
                        let told = tell(model, &came, at, event);
                        found.broken = Some(Counterexample { events: depth, what, broken, told });
                        return found;
                    }
                }
            }
        }
        found.states.push(new);
        came.push(from);
        level = next;
    }
    found
}

/// The history that ends with this event at this state of the last level that is kept.
fn tell<M: Model>(model: &M, came: &[Vec<Came<M::Event>>], at: u32, event: M::Event) -> String {
    let mut events = vec![event];
    let mut at = at;
    for level in came.iter().rev() {
        let (before, event) = level[at as usize];
        events.push(event);
        at = before;
    }
    let mut state = model.start();
    let mut told = String::new();
    for (number, event) in (1..).zip(events.iter().rev()) {
        told.push_str(&format!("{number}. {event}\n"));
        if let Ok(Some(after)) = model.step(&state, *event) {
            told.push_str(&model.show(&after));
            state = after;
        }
    }
    told
}

/// A model whose states are named to the end, and by what they are down to the last number if it is `bare`: then it gets less
/// far, and as far as it gets it must meet just the states that it meets under their names.
pub(crate) struct Plain<M> {
    pub(crate) of: M,
    pub(crate) bare: bool,
    /// The names of all states.
    pub(crate) met: RefCell<BTreeSet<u128>>,
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

    fn check(&self, state: &M::State) -> Result<(), Broken> {
        self.of.check(state)
    }

    fn at_rest(&self, state: M::State) -> M::State {
        state
    }

    fn name(&self, state: &M::State) -> u128 {
        let name = self.of.name(state);
        self.met.borrow_mut().insert(name);
        if self.bare { xxh3_128(format!("{state:?}").as_bytes()) } else { name }
    }

    fn show(&self, state: &M::State) -> String {
        self.of.show(state)
    }
}
