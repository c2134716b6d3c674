//! Seeded histories of one key. What fails is made shorter before it is shown.
//!
//! ```text
//!   of 20,000 histories, so many lose a write        copies lost   back in time   conversations
//!   as built                                              0             0               0
//!   counters under the node's name alone              5,486         5,715
//!   no mark on receipt                                  224            47
//!   a name that outlives its disk                     2,478
//!   no boot rule                                                    2,026
//!   a boot rule that the next start forgets                            49
//!   the copy's whole clock as a context                                            12,297
//!   a context without its cloud                                                    11,483
//!   the most actors in any clock                         13            12               9
//! ```

use crate::key::{Key, Outcome, Scheme, Step};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

const HISTORIES: u64 = 20_000;
const STEPS: usize = 25;
/// Three primaries and two fallbacks.
const PRIMARIES: usize = 3;
pub(crate) const NODES: usize = 5;

type Plan = fn(&mut StdRng) -> Vec<Step>;

fn play(scheme: Scheme, steps: &[Step]) -> Outcome {
    Key::play(scheme, NODES, steps).outcome()
}

/// Leaves out every step that the failure does not need.
fn shortest(scheme: Scheme, mut steps: Vec<Step>) -> Vec<Step> {
    let mut at = steps.len();
    while at > 0 {
        at -= 1;
        let left_out = steps.remove(at);
        if play(scheme, &steps).is_sound() {
            steps.insert(at, left_out);
        }
    }
    steps
}

/// No history loses, revives or parts anything. The longest clock that any of them made.
fn assert_sound(scheme: Scheme, plan: Plan) -> usize {
    let mut longest = 0;
    for seed in 0..HISTORIES {
        let steps = plan(&mut StdRng::seed_from_u64(seed));
        let outcome = play(scheme, &steps);
        longest = longest.max(outcome.longest);
        if !outcome.is_sound() {
            let short = shortest(scheme, steps);
            panic!("seed {seed}: {outcome:?}\n{short:#?}\n{:?}", play(scheme, &short));
        }
    }
    longest
}

/// Some history loses an acknowledged write under a scheme that lacks a rule.
#[track_caller]
fn assert_loses(scheme: Scheme, plan: Plan) {
    let loses = |seed| !play(scheme, &plan(&mut StdRng::seed_from_u64(seed))).lost.is_empty();
    assert!((0..HISTORIES).any(loses), "{scheme:?} loses nothing in {HISTORIES} histories");
}

fn some(rng: &mut StdRng, count: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..NODES).collect();
    all.partial_shuffle(rng, count).0.to_vec()
}

fn two(rng: &mut StdRng) -> (usize, usize) {
    let both = some(rng, 2);
    (both[0], both[1])
}

fn write(rng: &mut StdRng, keep: usize) -> Step {
    let count = rng.random_range(2..4);
    let mut to = some(rng, count);
    let at = to.pop().expect("at least two were drawn");
    // A third of the writers are blind, the others have read at some time.
    let seen = if rng.random_ratio(1, 3) { 0 } else { rng.random_range(1..6) };
    Step::Write { at, seen, keep, to, delta: false, delete: rng.random_ratio(1, 8) }
}

fn read(rng: &mut StdRng) -> Step {
    let count = rng.random_range(1..4);
    Step::Read { of: some(rng, count), keep: rng.random_range(1..6), repair: rng.random_bool(0.7) }
}

fn push(rng: &mut StdRng) -> Step {
    let (from, to) = two(rng);
    let hands_off = from >= PRIMARIES && to < PRIMARIES;
    Step::Push { from, to, drop: hands_off && rng.random_bool(0.6) }
}

/// Copies are lost, dropped after a handoff, and wiped with their disk.
pub(crate) fn forgetful(rng: &mut StdRng) -> Vec<Step> {
    let step = |_| match rng.random_range(0..100) {
        0..40 => write(rng, 0),
        40..60 => read(rng),
        60..82 => push(rng),
        82..85 => Step::Arrive { which: rng.random_range(0..8), lost: false },
        85..95 => {
            let (at, held_by) = two(rng);
            Step::Forget { at, held_by }
        }
        _ => {
            let (at, held_by) = two(rng);
            Step::Wipe { at, held_by }
        }
    };
    (0..STEPS).map(step).collect()
}

/// Copies go back to an earlier state of themselves.
pub(crate) fn backwards(rng: &mut StdRng) -> Vec<Step> {
    let step = |_| match rng.random_range(0..100) {
        0..45 => write(rng, 0),
        45..65 => read(rng),
        65..80 => push(rng),
        80..85 => Step::Restart { at: rng.random_range(0..NODES) },
        _ => {
            let (at, held_by) = two(rng);
            Step::RollBack { at, back: rng.random_range(1..4), held_by }
        }
    };
    (0..STEPS).map(step).collect()
}

/// Three clients that go on from what they were told, while records and deltas overtake each other or get lost.
fn conversations(rng: &mut StdRng) -> Vec<Step> {
    let step = |_| {
        let client = rng.random_range(1..4);
        match rng.random_range(0..100) {
            0..45 => {
                let seen = if rng.random_bool(0.8) { client } else { 0 };
                let at = rng.random_range(0..PRIMARIES);
                Step::Write { at, seen, keep: client, to: Vec::new(), delta: rng.random(), delete: false }
            }
            45..65 => {
                let left_out = rng.random_range(0..PRIMARIES);
                let of = (0..PRIMARIES).filter(|n| *n != left_out).collect();
                Step::Read { of, keep: client, repair: false }
            }
            65..95 => Step::Arrive { which: rng.random_range(0..32), lost: rng.random_bool(0.15) },
            _ => {
                let at = rng.random_range(0..PRIMARIES);
                Step::Forget { at, held_by: (at + rng.random_range(1..PRIMARIES)) % PRIMARIES }
            }
        }
    };
    (0..STEPS).map(step).collect()
}

#[test]
fn copies_that_are_lost_dropped_or_wiped_lose_no_write() {
    let longest = assert_sound(Scheme::Built, forgetful);
    assert!(longest <= 13, "{longest} actors in a clock after {STEPS} steps");
}

#[test]
fn counters_under_the_name_alone_would_lose_writes() {
    assert_loses(Scheme::OneEpoch, forgetful);
}

#[test]
fn without_the_mark_on_receipt_writes_would_be_lost() {
    assert_loses(Scheme::NoMark, forgetful);
}

#[test]
fn a_name_that_outlives_its_disk_would_lose_writes() {
    assert_loses(Scheme::NameOutlivesDisk, forgetful);
}

#[test]
fn copies_that_go_back_in_time_lose_no_write() {
    let longest = assert_sound(Scheme::Built, backwards);
    assert!(longest <= 13, "{longest} actors in a clock after {STEPS} steps");
}

#[test]
fn without_the_boot_rule_writes_would_be_lost() {
    assert_loses(Scheme::NoBootRule, backwards);
}

#[test]
fn a_lease_that_goes_back_unnoticed_would_lose_writes() {
    assert_loses(Scheme::NobodyRemembers, backwards);
}

#[test]
fn a_boot_rule_that_the_next_start_forgets_would_lose_writes() {
    assert_loses(Scheme::BootForgotten, backwards);
}

#[test]
fn a_writer_supersedes_what_it_was_told_and_nothing_else() {
    assert_sound(Scheme::Built, conversations);
}

#[test]
fn closing_the_gaps_of_a_context_loses_no_write() {
    for plan in [forgetful, backwards, conversations] as [Plan; 3] {
        assert_sound(Scheme::GapsClosed, plan);
    }
}

#[test]
fn the_whole_clock_as_a_context_would_lose_writes() {
    assert_loses(Scheme::WholeClock, conversations);
}

#[test]
fn a_context_pressed_into_a_vector_would_lose_writes() {
    assert_loses(Scheme::VectorOnly, conversations);
}
