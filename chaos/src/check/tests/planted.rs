//! The real workloads against the model: a correct one is never accused, and each planted fault is found, from every seed.

use super::super::*;
use super::model::{Fault, Model};
use crate::history::{Entry, History, read_from};
use crate::workload::{self, Ground, Kind, Plan, ReadBack};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::sync::Arc;
use tokio::time::Instant;

const RUN: Duration = Duration::from_secs(20);
const SEEDS: u64 = 5;

async fn run(kind: Kind, seed: u64, fault: Option<Fault>) -> Vec<Entry> {
    let started = Instant::now();
    let history = History::new(Arc::new(move || started.elapsed()));
    let model = Model::new(seed, fault);
    let mut ground = Ground::new(Model::urls(), model.clone(), history.clone());
    ground.attempt_timeout = Duration::from_millis(500);
    // Every third of the correct ones insists on majorities, and who is to break that; majorities would hide other faults.
    let strict = fault.map_or(seed % 3 == 1, |fault| fault == Fault::ReadOne);
    let plan = Plan { strict, ..Plan::new(kind) };
    let mut rng = StdRng::seed_from_u64(seed);
    // The settings may be refused like anything else.
    while workload::prepare(&plan, &ground).await.is_err() {}
    workload::run(&plan, &ground, &mut rng, RUN).await.unwrap();
    model.calm();
    let how = ReadBack { settled: true, ..ReadBack::default() };
    workload::read_back(&how, &ground, &mut rng).await.unwrap();
    history.entries()
}

fn judge(entries: &[Entry]) -> Vec<Violation> {
    all_by(entries, &Measure { cuts: Some(0), ..Measure::default() })
}

async fn is_never_accused(kind: Kind, seeds: u64) {
    for seed in 0..seeds {
        let entries = run(kind, seed, None).await;
        let found: Vec<String> = judge(&entries).iter().map(ToString::to_string).collect();
        assert!(found.is_empty(), "{kind}, seed {seed}:\n{}", found.join("\n"));
        let counts = count(&entries, None);
        assert!(counts.writes > 50 && counts.unknown > 0 && counts.failed > 0, "{kind}: {counts}");
    }
}

macro_rules! a_correct_cluster_is_never_accused {
    ($($name:ident: $kind:ident,)*) => {$(
        #[tokio::test(start_paused = true)]
        async fn $name() {
            is_never_accused(Kind::$kind, 30).await;
        }
    )*};
}

a_correct_cluster_is_never_accused! {
    a_correct_cluster_is_not_accused_over_sets: SetAdd,
    a_correct_cluster_is_not_accused_over_carts: Carts,
    a_correct_cluster_is_not_accused_over_keys: Keys,
    a_correct_cluster_is_not_accused_over_registers: Register,
    a_correct_cluster_is_not_accused_over_counters: Slots,
    a_correct_cluster_is_not_accused_over_lives: Recreate,
    a_correct_cluster_is_not_accused_over_lifetimes: Ttl,
    a_correct_cluster_is_not_accused_over_blind_writers: Blind,
}

/// Every fault with a workload that meets it and the breach by which it must be called.
const PLANTED: &[(Fault, Kind, Breach)] = &[
    (Fault::LoseWrite, Kind::Keys, Breach::Lost),
    (Fault::LoseWrite, Kind::SetAdd, Breach::Lost),
    (Fault::LoseWrite, Kind::Register, Breach::Stale),
    (Fault::LoseWrite, Kind::Slots, Breach::Counter),
    (Fault::LastWriterWins, Kind::SetAdd, Breach::Lost),
    (Fault::LastWriterWins, Kind::Blind, Breach::Lost),
    (Fault::Revive, Kind::SetAdd, Breach::Revived),
    (Fault::Revive, Kind::Recreate, Breach::Revived),
    (Fault::ForgetDelete, Kind::Recreate, Breach::Stale),
    (Fault::FlipBit, Kind::Keys, Breach::Wrong),
    (Fault::OtherValue, Kind::Register, Breach::Wrong),
    (Fault::ApplyRefused, Kind::SetAdd, Breach::Dishonest),
    (Fault::ApplyRefused, Kind::Carts, Breach::Dishonest),
    (Fault::IgnoreMin, Kind::Register, Breach::Stale),
    (Fault::IgnoreMin, Kind::Carts, Breach::Stale),
    (Fault::IgnoreMin, Kind::Slots, Breach::Counter),
    (Fault::ReadOne, Kind::SetAdd, Breach::Stale),
    (Fault::ReadOne, Kind::Recreate, Breach::Stale),
    (Fault::ReadOne, Kind::Carts, Breach::Stale),
    (Fault::KeepCovered, Kind::SetAdd, Breach::Siblings),
    (Fault::NoLimit, Kind::Blind, Breach::Siblings),
    (Fault::EndEarly, Kind::Ttl, Breach::Expiry),
    (Fault::EndLate, Kind::Ttl, Breach::Expiry),
    (Fault::LoseAdd, Kind::Carts, Breach::Lost),
    (Fault::LoseAdd, Kind::Carts, Breach::Cart),
    (Fault::DoubleAdd, Kind::Carts, Breach::Wrong),
    (Fault::DoubleAdd, Kind::Carts, Breach::Cart),
    (Fault::RemoveUnseen, Kind::Carts, Breach::Lost),
    (Fault::ForgetRemove, Kind::Carts, Breach::Stale),
    (Fault::ShowNegative, Kind::Carts, Breach::Cart),
    (Fault::ShortReceipt, Kind::Keys, Breach::Dishonest),
    (Fault::Diverge, Kind::SetAdd, Breach::Diverged),
];

#[tokio::test(start_paused = true)]
async fn every_planted_fault_is_found_from_every_seed() {
    let mut missed = Vec::new();
    for (fault, kind, breach) in PLANTED {
        for seed in 0..SEEDS {
            let found = judge(&run(*kind, seed, Some(*fault)).await);
            if !found.iter().any(|found| found.breach == *breach) {
                let others: std::collections::BTreeSet<Breach> =
                    found.iter().map(|found| found.breach).collect();
                missed.push(format!("{fault:?} in {kind}, seed {seed}: not {breach:?}, but {others:?}"));
            }
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

/// What may be gone is the same for all values at once as for each of them, where nothing is wrong and where something is.
#[tokio::test(start_paused = true)]
async fn all_values_at_once_are_judged_like_each_of_them() {
    let (mut gone, mut there) = (0, 0);
    for (kind, fault) in [
        (Kind::SetAdd, None),
        (Kind::Carts, None),
        (Kind::Register, Some(Fault::ReadOne)),
        (Kind::Recreate, Some(Fault::ReadOne)),
        (Kind::Keys, None),
    ] {
        let ledger = Ledger::new(&run(kind, 1, fault).await, &Measure::default()).unwrap();
        for story in &ledger.stories {
            for (_, sight) in story.last_looks() {
                let all = story.gone(&sight.values);
                for (id, _) in story.values() {
                    let one = story.may_be_gone(id, usize::MAX, &sight.values);
                    assert_eq!(all.contains(&id), one, "{kind}: {} of {}", id, story.key);
                    *(if one { &mut gone } else { &mut there }) += 1;
                }
            }
        }
    }
    assert!(gone > 100 && there > 100, "{gone} gone, {there} there");
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_does_the_same_in_the_same_order() {
    for kind in Kind::ALL {
        let (first, again, other) =
            (run(kind, 7, None).await, run(kind, 7, None).await, run(kind, 8, None).await);
        let difference = first.iter().zip(&again).position(|(one, two)| one != two);
        assert_eq!(difference.map(|at| (&first[at], &again[at])), None, "{kind}");
        assert_eq!(first.len(), again.len(), "{kind}");
        assert_ne!(first, other, "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_history_from_a_file_is_judged_like_the_one_in_memory() {
    let entries = run(Kind::SetAdd, 1, Some(Fault::LoseWrite)).await;
    let history = History::from_entries(Arc::new(|| Duration::ZERO), entries.clone());
    let mut file = Vec::new();
    history.write_to(&mut file).unwrap();
    assert_eq!(judge(&read_from(file.as_slice()).unwrap()), judge(&entries));
}
