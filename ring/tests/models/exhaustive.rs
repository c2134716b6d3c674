//! Every history of one key on three nodes, to the eighth event.
//!
//! A random history has to be lucky, and one that goes wrong is long. Here everything goes on from every state that may
//! happen in it, over the crate's own `take`, `receive`, `merge`, `Epochs` and `Reaper`; what is found first is a shortest
//! counterexample, told step by step. States that no rule can tell apart have one name and are gone on from once (`naming`,
//! `reap_naming`); that this hides nothing is tried against searches that go by the bare states (`plain`).
//!
//! All events at once are too many to get to the eighth in a test's time. So they are divided, and what is divided meets again
//! in a search that ends two events earlier:
//!
//! ```text
//!                                                                                  events    states
//!   copies and disks lost · reads, deletions, exchanges, one late message               8   795,158
//!   directories put back, disks torn, starts · copies and disks lost · reads            8   212,548
//!   writers who go on from what they were told · one late message                       8   341,948
//!     the same where deltas travel                                                      7    69,024
//!     the same with copies lost, where every context has its gaps closed                7    69,733
//!   all of it · two late messages                                                       6   274,440
//!   a deletion that is forgotten, after one write · copies lost · split rounds          8   REAPED
//! ```
//!
//! Writes and copies that are sent are in all of them. Nothing breaks. What breaks where a rule is taken away, and how soon:
//!
//! ```text
//!   a rule of the clocks             a dot twice   a value lost       a proof of the reaping       after the write
//!   counters under the name alone         4             4             a grace                        3   back
//!   a name that outlives its disk         4             4             a message's life               5   back
//!   no boot rule                          6             6             silence is no consent          6   back
//!   a lease that goes back unnoticed      6             6             others are asked, too          6   back
//!   no mark on receipt                    7             7             work in memory                 6   back
//!   a boot rule that is forgotten         7             7             a last look before it goes     7   lost
//!   the whole clock as a context                        3             what was let go is told of     8   back
//!   a context without its cloud                         3
//! ```
//!
//! What is not in it: more than one directory aside, one reader's and one writer's context at a time; messages but the last
//! ones; hints, which are somebody's copy, and clocks of nodes that differ; expiry, whose markers `record/laws_tests.rs` merges
//! in all ways. A history in which nothing can go any more within the eighth event is not gone on with in the search over
//! reaping: without that it is a history of clocks.

mod alphabet;
mod asking;
mod clock_naming;
mod clocks;
mod laws;
mod ledger;
mod names;
mod naming;
mod node;
mod plain;
mod reap_events;
mod reap_naming;
mod reaping;
mod search;

use crate::key::Scheme;
use crate::reap::Lie;
use alphabet::Alphabet;
use clocks::Clocks;
use plain::Plain;
use reaping::Reaping;
use search::{Model, search};
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
    Clocks { scheme, alphabet, only_harm: false }
}

/// No history of so many events breaks anything; and so many states are new after each of them.
#[track_caller]
fn assert_sound(model: &impl Model, states: &[usize]) {
    let found = search(model, states.len() - 1);
    if let Some(counterexample) = found.broken {
        panic!("{counterexample}");
    }
    assert_eq!(found.states, states);
}

#[test]
fn copies_and_disks_that_are_lost_take_no_write_with_them() {
    assert_sound(&clocks(Scheme::Built, FORGETFUL), &[1, 2, 6, 39, 270, 1973, 14651, 106546, 671670]);
}

#[test]
fn disks_that_go_back_in_time_take_no_write_with_them() {
    assert_sound(&clocks(Scheme::Built, BACKWARDS), &[1, 3, 9, 40, 204, 1085, 6019, 34062, 171125]);
}

#[test]
fn writers_supersede_what_they_were_told_and_nothing_else() {
    assert_sound(&clocks(Scheme::Built, TALKATIVE), &[1, 1, 5, 32, 203, 1280, 7903, 47901, 284622]);
}

#[test]
fn nor_where_only_what_is_new_in_a_write_travels() {
    let deltas = Alphabet { deltas: true, ..TALKATIVE };
    assert_sound(&clocks(Scheme::Built, deltas), &[1, 1, 5, 32, 209, 1379, 9013, 58384]);
}

#[test]
fn everything_together_breaks_nothing_that_soon() {
    assert_sound(&clocks(Scheme::Built, EVERYTHING), &[1, 3, 14, 146, 1790, 22476, 250010]);
}

#[test]
fn closing_the_gaps_of_every_context_breaks_nothing() {
    let forgetful = Alphabet { losses: true, ..TALKATIVE };
    assert_sound(&clocks(Scheme::GapsClosed, forgetful), &[1, 1, 5, 34, 226, 1488, 9477, 58501]);
}

/// What each scheme breaks first, after how many events; and after how many something is lost or back for good.
#[test]
fn each_rule_is_needed() {
    let twice = "a dot is issued twice";
    let lost = "a value is lost";
    let needed = [
        (Scheme::OneEpoch, FORGETFUL, twice, 4, lost, 4),
        (Scheme::NoMark, FORGETFUL, twice, 7, lost, 7),
        (Scheme::NameOutlivesDisk, FORGETFUL, twice, 4, lost, 4),
        (Scheme::NoBootRule, BACKWARDS, twice, 6, lost, 6),
        (Scheme::BootForgotten, BACKWARDS, twice, 7, lost, 7),
        (Scheme::NobodyRemembers, BACKWARDS, twice, 6, lost, 6),
        (Scheme::WholeClock, TALKATIVE, lost, 3, lost, 3),
        (Scheme::VectorOnly, TALKATIVE, lost, 3, lost, 3),
    ];
    let found = needed.map(|(scheme, alphabet, ..)| {
        let [(first, after), (harm, late)] = [false, true].map(|only_harm| {
            let broken = search(&Clocks { scheme, alphabet, only_harm }, EVENTS).broken;
            let broken = broken.unwrap_or_else(|| panic!("{scheme:?} breaks nothing"));
            (broken.what, broken.events)
        });
        (scheme, first, after, harm, late)
    });
    assert_eq!(found, needed.map(|(scheme, _, first, after, harm, late)| (scheme, first, after, harm, late)));
}

#[test]
fn what_is_forgotten_everywhere_never_comes_back() {
    assert_sound(&Reaping::new(Lie::Nothing, true), &[0; EVENTS + 1]);
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
    let found = needed.map(|(lie, ..)| {
        let broken = search(&Reaping::new(lie, false), EVENTS).broken;
        let broken = broken.unwrap_or_else(|| panic!("{lie:?} brings nothing back"));
        (lie, broken.what, broken.events)
    });
    assert_eq!(found, needed);
}

/// A search without the reductions meets the same states.
fn assert_reduced_rightly<M: Model<State: fmt::Debug>>(model: impl Fn() -> M, events: usize) {
    let plain = Plain::new(model());
    let (whole, reduced) = (search(&plain, events), search(&model(), events));
    assert!(whole.broken.is_none() && reduced.broken.is_none());
    assert_eq!(reduced.names.sorted().len(), reduced.total());
    let same = reduced.names.sorted() == plain.met.borrow().sorted();
    assert!(same, "{:?} and {:?}", whole.states, reduced.states);
    assert!(
        whole.total() > 2 * reduced.total(),
        "{:?} to {:?} is no reduction",
        whole.states,
        reduced.states
    );
}

#[test]
fn the_reductions_hide_nothing() {
    assert_reduced_rightly(|| clocks(Scheme::Built, EVERYTHING), 4);
    assert_reduced_rightly(|| clocks(Scheme::Built, FORGETFUL), 5);
    assert_reduced_rightly(|| clocks(Scheme::Built, BACKWARDS), 5);
    assert_reduced_rightly(|| Reaping::new(Lie::Nothing, true), 6);
}

#[test]
fn a_counterexample_is_told_from_its_beginning() {
    let broken = search(&clocks(Scheme::OneEpoch, FORGETFUL), EVENTS).broken.expect("it breaks a rule");
    let told = "\
a dot is issued twice: 00000000.4294967296:1, after 4 events:
1. node 0 takes a value by somebody who has seen nothing
      node 0: {v1} of 0.0.1.0:1-1
2. node 0 sends its copy to node 1
      node 0: {v1} of 0.0.1.0:1-1
      node 1: {v1} of 0.0.1.0:1-1
3. node 0 loses its copy
      node 1: {v1} of 0.0.1.0:1-1
4. node 0 takes a value by somebody who has seen nothing
";
    assert_eq!(broken.to_string(), told);
}
