//! Breadth first, level by level: the first counterexample is a shortest one.
//!
//! States that differ only in what no rule can see have one name, and only the first of them is gone on from. A level keeps
//! its states until they have been gone on from; of the levels before, only who came from whom by which event, so that a
//! counterexample can be told from its beginning.

use super::names::Names;
use std::fmt;

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

    /// The invariants, of a state that was reached from one in which they hold.
    fn check(&self, before: &Self::State, after: &Self::State) -> Result<(), Broken>;

    /// The same for states in which the same can happen, and only for these.
    fn name(&self, state: &Self::State) -> u128;

    /// The same for states between which the invariants can't tell: they are looked at once.
    fn face(&self, state: &Self::State) -> u128;

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
    /// Their names.
    pub(crate) names: Names,
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
    let mut sound = Names::default();
    let mut found = Found { states: vec![1], names: Names::default(), broken: None };
    found.names.insert(model.name(&start));
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
                    Ok(Some(after)) if !found.names.insert(model.name(&after)) => continue,
                    Ok(Some(after)) if !sound.insert(model.face(&after)) => Ok(after),
                    Ok(Some(after)) => model.check(state, &after).map(|()| after),
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
