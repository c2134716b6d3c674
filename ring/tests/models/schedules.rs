//! Counterexamples step by step, as they were found: riak_kv issue 679 with its relatives, and what our own model added.
//!
//! Each must keep what it names here, and must lose something under the scheme that it was found against: a schedule that
//! broke nothing would have drifted away from what it is about. What is still on the way at the end never arrives.

use crate::key::{Key, Outcome, Scheme, Step, seen_in};
use std::collections::BTreeSet;

/// Three primaries and three fallbacks.
const P1: usize = 0;
const P2: usize = 1;
const P3: usize = 2;
const F1: usize = 3;
const F2: usize = 4;
const F3: usize = 5;
const NODES: usize = 6;
/// The context of a writer who has read nothing.
const BLIND: usize = 0;

/// Writes are numbered from 1, in their order; what the writer knows then is kept as context `keep`.
fn write(at: usize, to: &[usize], seen: usize, keep: usize) -> Step {
    Step::Write { at, seen, keep, to: to.to_vec(), delta: false, delete: false }
}

fn blind(at: usize, to: &[usize]) -> Step {
    write(at, to, BLIND, BLIND)
}

fn delete(at: usize, to: &[usize], seen: usize, keep: usize) -> Step {
    Step::Write { at, seen, keep, to: to.to_vec(), delta: false, delete: true }
}

fn push(from: usize, to: usize) -> Step {
    Step::Push { from, to, drop: false }
}

fn hand_off(from: usize, to: usize) -> Step {
    Step::Push { from, to, drop: true }
}

fn forget(at: usize, held_by: usize) -> Step {
    Step::Forget { at, held_by }
}

fn read(of: &[usize], keep: usize) -> Step {
    Step::Read { of: of.to_vec(), keep, repair: false }
}

fn read_and_repair(of: &[usize]) -> Step {
    Step::Read { of: of.to_vec(), keep: BLIND, repair: true }
}

fn end(scheme: Scheme, steps: &[Step]) -> (Outcome, BTreeSet<u32>) {
    let mut key = Key::play(scheme, NODES, steps);
    let outcome = key.outcome();
    (outcome, seen_in(key.copy(P1).expect("everybody has a copy in the end")).values)
}

/// Just these values are left, and the scheme without the rule loses one of them.
#[track_caller]
fn check(steps: &[Step], expected: &[u32], without: Scheme) {
    let (outcome, left) = end(Scheme::Built, steps);
    assert!(outcome.is_sound(), "{outcome:?}");
    assert_eq!(left, expected.iter().copied().collect());
    let (outcome, left) = end(without, steps);
    assert!(!outcome.lost.is_empty(), "{without:?} loses nothing: {left:?}");
}

/// The model's shortest. A copy that its node never wrote is no proof that the node never wrote: F1 has forgotten its own
/// first dot, and would issue it again for the last write.
#[test]
fn a_copy_without_an_entry_of_mine_is_no_proof_that_i_never_wrote() {
    let steps = [
        blind(P1, &[F1, P2]), // F1 holds a copy that it never wrote
        blind(P2, &[P1]),
        blind(F1, &[P3]), // and coordinates write 3
        forget(F1, P3),   // loses the copy
        blind(P1, &[P2]),
        blind(P2, &[P1]),
        push(P1, F1),     // receives one that knows nothing of F1
        blind(F1, &[P2]), // and coordinates write 6
    ];
    check(&steps, &[1, 2, 3, 4, 5, 6], Scheme::OneEpoch);
    let mut key = Key::play(Scheme::Built, NODES, &steps);
    let (third, sixth) = (key.read(&[P3]), key.read(&[P2]));
    assert!(key.converge());
    for record in [third, sixth] {
        let newest = record.siblings.last().expect("F1's dots come last");
        assert_eq!(
            key.copy(P1).unwrap().sibling(&newest.dot),
            Some(newest),
            "both of F1's writes have their own dot"
        );
    }
}

/// The coordinator's copy is gone: a clock that begins again is dominated by the old one, and read repair would erase the
/// new write everywhere.
#[test]
fn a_coordinator_that_lost_its_copy_loses_no_write() {
    let all = &[P2, P3];
    let steps = [blind(P1, all), blind(P1, all), blind(P1, all), forget(P1, P2), blind(P1, all)];
    check(&steps, &[1, 2, 3, 4], Scheme::OneEpoch);
}

/// The copy is gone, and what the repair brings is an old one from the fallbacks: there is an entry of mine, and it is not
/// the last.
#[test]
fn an_old_copy_from_the_fallbacks_does_not_turn_the_clock_back() {
    let steps = [
        blind(P1, &[F1, F2]),
        blind(P1, &[P2, P3]),
        blind(P1, &[P2, P3]),
        forget(P1, P2),
        read_and_repair(&[P1, F1, F2]),
        blind(P1, &[P2, P3]),
    ];
    check(&steps, &[1, 2, 3, 4], Scheme::NoMark);
    let (outcome, _) = end(Scheme::OneEpoch, &steps);
    assert!(!outcome.lost.is_empty());
}

/// The copy is gone while somebody else's write arrives, and my past arrives afterwards, in part. This one outlived the
/// first repair of issue 679.
#[test]
fn amnesia_that_only_a_handoff_reveals_loses_no_write() {
    let steps = [
        write(P1, &[F1], BLIND, 1),
        write(P1, &[F2], 1, 1),
        write(P1, &[F2], 1, 1),
        blind(P2, &[F3]),
        forget(P1, F2),
        hand_off(F3, P1),
        hand_off(F1, P2),
        push(P2, P1),
        read(&[P1, P2], 2),
        write(P1, &[P2], 2, 2),
        hand_off(F2, P2),
    ];
    check(&steps, &[3, 5], Scheme::NoMark);
}

/// The same in the eight steps that a property test found; the read gives the last write its context.
#[test]
fn the_eight_steps_in_which_it_was_found() {
    let steps = [
        write(P1, &[P2], BLIND, 1),
        write(P3, &[P2], 1, 2),
        write(P1, &[F3], 2, 3),
        write(P1, &[F1], 2, 4),
        forget(P1, F1),
        push(P3, P1),
        push(F3, P1),
        read(&[P1], 5),
        write(P1, &[P2], 5, 5),
    ];
    check(&steps, &[4, 5], Scheme::NoMark);
}

/// Written thrice, deleted while P3 is down, and forgotten by all primaries once they agree: only F1 still has the
/// tombstone. The clock of the value that comes then must not be one that the tombstone has seen.
fn deleted_and_reaped() -> Vec<Step> {
    vec![
        write(P1, &[P2, P3], BLIND, 1),
        write(P1, &[P2, P3], 1, 1),
        write(P1, &[P2, P3], 1, 1),
        delete(P1, &[P2, F1], 1, 1),
        push(P1, P3),
        forget(P1, F1),
        forget(P2, F1),
        forget(P3, F1),
    ]
}

#[test]
fn a_tombstone_on_a_fallback_does_not_bury_the_next_value() {
    let mut steps = deleted_and_reaped();
    steps.extend([blind(P1, &[P2, P3]), hand_off(F1, P3), read_and_repair(&[P1, P2, P3])]);
    check(&steps, &[4], Scheme::OneEpoch);
}

#[test]
fn nor_does_it_bury_the_value_of_a_writer_who_saw_that_the_key_was_gone() {
    let mut steps = deleted_and_reaped();
    steps.extend([read(&[P1, P2], 2), write(P1, &[P2, P3], 2, 2), hand_off(F1, P3)]);
    check(&steps, &[4], Scheme::OneEpoch);
}

/// The other way round: the tombstone waits on a primary that was down while the others forgot it.
#[test]
fn a_tombstone_on_a_primary_that_returns_does_not_bury_the_next_value() {
    let steps = [
        write(P1, &[P2, P3], BLIND, 1),
        delete(P1, &[P2, P3], 1, 1),
        forget(P1, P3),
        forget(P2, P3),
        blind(P1, &[P2, F1]),
        read_and_repair(&[P1, P2, P3]),
    ];
    check(&steps, &[2], Scheme::OneEpoch);
}

/// A copy that is older than what others have of it: it has an entry of its own, so that no amnesia shows.
#[test]
fn a_disk_that_went_back_in_time_issues_no_dot_twice() {
    let back = Step::RollBack { at: P1, back: 1, held_by: P2 };
    let steps = [blind(P1, &[P2, P3]), blind(P1, &[P2, P3]), back.clone(), blind(P1, &[P3])];
    check(&steps, &[1, 2, 3], Scheme::NoBootRule);
    // And the next start, which lost nothing, does not make the copy any younger.
    let steps =
        [blind(P1, &[P2, P3]), blind(P1, &[P2, P3]), back, Step::Restart { at: P1 }, blind(P1, &[P3])];
    check(&steps, &[1, 2, 3], Scheme::BootForgotten);
}

/// The copy went back and no start noticed. A writer who has read further than the copy goes gives it away.
#[test]
fn a_writer_who_knows_more_of_me_than_i_do_shows_that_i_forgot() {
    let last_written_by = |seen| {
        vec![
            blind(P1, &[P2, P3]),
            blind(P1, &[P2]),
            read(&[P2], 1),
            blind(P1, &[P3]),
            Step::RollBack { at: P1, back: 2, held_by: P2 },
            write(P1, &[P3], seen, BLIND),
        ]
    };
    let (outcome, left) = end(Scheme::NoBootRule, &last_written_by(1));
    assert!(outcome.is_sound(), "{outcome:?}");
    assert_eq!(left, [3, 4].into());
    let (outcome, _) = end(Scheme::NoBootRule, &last_written_by(BLIND));
    assert!(!outcome.lost.is_empty(), "a blind writer can't know");
}

/// Two writers who have not read each other. The second goes on from what it was told and must leave the first alone.
#[test]
fn what_a_writer_never_saw_it_does_not_supersede() {
    let steps = [blind(P1, &[P2, P3]), write(P1, &[P2, P3], BLIND, 1), write(P1, &[P2, P3], 1, 1)];
    check(&steps, &[1, 3], Scheme::WholeClock);
    check(&steps, &[1, 3], Scheme::VectorOnly);
}
