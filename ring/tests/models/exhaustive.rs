//! Every history of one key on three nodes, to the eighth event for the events of each search, and to the sixth for those of several.
//!
//! A random history has to be lucky, and one that goes wrong is long. Here everything goes on from every state that may
//! happen in it, over the crate's own `take`, `receive`, `merge`, `Epochs` and `Reaper`; what is found first is a shortest
//! counterexample, told step by step. States that no rule can tell apart have one name and are gone on from once (`naming`);
//! that this hides nothing is tried against searches that go by the bare states.
//!
//! All events at once are too many to get to the eighth in a test's time. So they are divided, and what is divided meets again
//! in a search that ends two events earlier. What each search is made of, and how many states it meets, is in
//! docs/simulation.md.

mod alphabet;
mod asking;
mod clocks;
mod naming;
mod node;
#[cfg(feature = "planted")]
mod planted;
mod reap_events;
mod reaping;
mod search;

use crate::key::Scheme;
use crate::reap::Lie;
use alphabet::Alphabet;
use clocks::Clocks;
use reaping::Reaping;
use search::{Found, Model, Plain, search};
use std::cell::RefCell;
use std::fmt;

const EVENTS: usize = 8;

const NOTHING: Alphabet = Alphabet {
    reads: false,
    told: false,
    deletes: false,
    repairs: false,
    pushes: false,
    under_way: 0,
    deltas: false,
    losses: false,
    wipes: false,
    past: false,
    restarts: false,
};
/// Copies and disks are lost, while readers write and delete, and the last write's message comes late, twice or never.
const FORGETFUL: Alphabet = Alphabet {
    reads: true,
    deletes: true,
    repairs: true,
    pushes: true,
    under_way: 1,
    losses: true,
    wipes: true,
    ..NOTHING
};
/// Directories are put back, disks are torn, nodes start anew, and copies and disks are lost as well.
const BACKWARDS: Alphabet =
    Alphabet { reads: true, pushes: true, losses: true, wipes: true, past: true, restarts: true, ..NOTHING };
/// Writers go on from what their writes told them, while the last write's message comes late, twice or never.
const TALKATIVE: Alphabet = Alphabet { told: true, pushes: true, under_way: 1, ..NOTHING };
const EVERYTHING: Alphabet = Alphabet {
    reads: true,
    told: true,
    deletes: true,
    repairs: true,
    pushes: true,
    under_way: 2,
    deltas: false,
    losses: true,
    wipes: true,
    past: true,
    restarts: true,
};

fn clocks(scheme: Scheme, alphabet: Alphabet) -> Clocks {
    Clocks { scheme, alphabet }
}

/// No history of so many events breaks anything, and of one more in a release build (`make model`). So many states are new after
/// the first events: a search that goes on from fewer has become blind, and from more it no longer knows equals.
#[track_caller]
fn assert_sound(model: &impl Model, events: usize, states: &[usize]) {
    let found = search(model, events + usize::from(!cfg!(debug_assertions)));
    if let Some(counterexample) = found.broken {
        panic!("{counterexample}");
    }
    assert_eq!(found.states[..states.len()], *states);
}

/// The shortest history that breaks anything breaks this, after so many events.
#[track_caller]
fn assert_broken(model: &impl Model, what: &str, events: usize) {
    let broken = search(model, events).broken.expect("it breaks something that soon");
    assert_eq!((broken.what, broken.events), (what, events), "{broken}");
}

#[test]
fn copies_and_disks_that_are_lost_take_no_write_with_them() {
    assert_sound(&clocks(Scheme::Built, FORGETFUL), EVENTS, &[1, 2, 6, 39, 270, 1973, 14651, 106546]);
}

#[test]
fn disks_that_go_back_in_time_take_no_write_with_them() {
    assert_sound(&clocks(Scheme::Built, BACKWARDS), EVENTS, &[1, 3, 9, 40, 204, 1085, 6019, 34062]);
}

#[test]
fn writers_supersede_what_they_were_told_and_nothing_else() {
    assert_sound(&clocks(Scheme::Built, TALKATIVE), EVENTS, &[1, 1, 5, 32, 203, 1280, 7903, 47901]);
}

#[test]
fn nor_where_only_what_is_new_in_a_write_travels() {
    let deltas = Alphabet { deltas: true, ..TALKATIVE };
    assert_sound(&clocks(Scheme::Built, deltas), EVENTS - 1, &[1, 1, 5, 32, 209, 1379, 9013]);
}

#[test]
fn everything_together_breaks_nothing_that_soon() {
    assert_sound(&clocks(Scheme::Built, EVERYTHING), EVENTS - 2, &[1, 3, 14, 146, 1790, 22476]);
}

#[test]
fn closing_the_gaps_of_every_context_breaks_nothing() {
    let forgetful = Alphabet { losses: true, ..TALKATIVE };
    assert_sound(&clocks(Scheme::GapsClosed, forgetful), EVENTS - 1, &[1, 1, 5, 34, 226, 1488, 9477]);
}

/// What each scheme breaks first, and after how many events.
#[test]
fn each_rule_is_needed() {
    let (twice, lost) = ("a dot is issued twice", "a value is lost");
    let needed = [
        (Scheme::OneEpoch, FORGETFUL, twice, 4),
        (Scheme::NoMark, FORGETFUL, twice, 7),
        (Scheme::NameOutlivesDisk, FORGETFUL, twice, 4),
        (Scheme::NoBootRule, BACKWARDS, twice, 6),
        (Scheme::BootForgotten, BACKWARDS, twice, 7),
        (Scheme::NobodyRemembers, BACKWARDS, twice, 6),
        (Scheme::WholeClock, TALKATIVE, lost, 3),
        (Scheme::VectorOnly, TALKATIVE, lost, 3),
    ];
    for (scheme, alphabet, what, events) in needed {
        assert_broken(&clocks(scheme, alphabet), what, events);
    }
}

#[test]
fn what_is_forgotten_everywhere_never_comes_back() {
    assert_sound(&Reaping::new(Lie::Nothing, true), EVENTS, &[1, 18, 261, 3498, 43057]);
}

#[test]
fn each_proof_is_needed() {
    let (back, lost) = ("a value is back", "a value is lost");
    let needed = [
        (Lie::NoGrace, back, 3),
        (Lie::NoLife, back, 5),
        (Lie::SilenceIsConsent, back, 6),
        (Lie::OwnersOnly, back, 6),
        (Lie::NoWork, back, 6),
        (Lie::Unlooked, lost, 7),
        (Lie::LetGoInSilence, back, 8),
    ];
    for (lie, what, events) in needed {
        assert_broken(&Reaping::new(lie, false), what, events);
    }
}

/// A search without the reductions meets the same states, and breaks nothing sooner.
fn assert_reduced_rightly<M: Model<State: fmt::Debug>>(model: impl Fn() -> M, events: usize) {
    let [(whole, all), (reduced, met)] = [true, false].map(|bare| {
        let plain = Plain { of: model(), bare, met: RefCell::default() };
        (search(&plain, events), plain.met.into_inner())
    });
    let after = |found: &Found| found.broken.as_ref().map(|broken| broken.events);
    assert_eq!(after(&whole), after(&reduced));
    assert!(all == met || reduced.broken.is_some(), "{:?} and {:?}", whole.states, reduced.states);
    assert!(whole.total() > reduced.total(), "{:?} is no reduction of {:?}", reduced.states, whole.states);
}

#[test]
fn the_reductions_hide_nothing() {
    assert_reduced_rightly(|| clocks(Scheme::Built, EVERYTHING), 4);
    assert_reduced_rightly(|| clocks(Scheme::Built, FORGETFUL), 5);
    assert_reduced_rightly(|| clocks(Scheme::Built, BACKWARDS), 5);
    assert_reduced_rightly(|| clocks(Scheme::WholeClock, TALKATIVE), 5);
    assert_reduced_rightly(|| Reaping::new(Lie::Nothing, true), 6);
}

#[test]
fn a_counterexample_is_told_from_its_beginning() {
    let broken = search(&clocks(Scheme::OneEpoch, FORGETFUL), EVENTS).broken.expect("it breaks a rule");
    let told = "\
a dot is issued twice: 00000000.4294967296:1, after 4 events:
1. node 0 takes a value by somebody who has seen nothing
      node 0: {v1} of 0.0.1.0:1-1
2. message 0 arrives at node 1, and may once more
      node 0: {v1} of 0.0.1.0:1-1
      node 1: {v1} of 0.0.1.0:1-1
3. node 0 loses its copy
      node 1: {v1} of 0.0.1.0:1-1
4. node 0 takes a value by somebody who has seen nothing
";
    assert_eq!(broken.to_string(), told);
}
