//! Scenes: the simulated cluster under a few troubles at chosen times, where a process can't be caught at the moment in question.
//!
//! Everything else is as in any other run of the simulation: the load, the checkers, and that all replicas become identical by
//! themselves. What is said here beyond that is how soon.

use anyhow::{Result, ensure};
use std::time::Duration;
use tests::sim::fleet::{Down, Shape};
use tests::sim::plagues::Deed;
use tests::sim::wires::Host;
use tests::sim::{Options, log, run_script, scenes};

const LOAD: Duration = Duration::from_secs(60);
/// Several, for what the load writes and which records rot is drawn.
const SEEDS: u64 = 6;
/// Half of what the scrub rests between two rounds.
const SOON: Duration = Duration::from_millis(7_500);

fn seconds(at: u64) -> Duration {
    Duration::from_secs(at)
}

/// Plays it; all replicas must be identical soon after its end. A panic is a finding of the run, so nothing here asserts.
fn play(seed: u64, shape: Shape, deeds: &[(u64, Deed)], soon: Duration) -> Result<()> {
    log::install();
    let options = Options { seed, load: LOAD, keep_lines: false, only: None };
    let deeds = deeds.iter().map(|(at, deed)| (seconds(*at), deed.clone())).collect();
    let report = run_script(options, shape, deeds);
    let healed = report.healed_after.unwrap_or(Duration::MAX);
    ensure!(report.violations.is_empty() && healed < soon, "{report}");
    ensure!(report.rotted > 0, "nothing was spoiled: {report}");
    Ok(())
}

const THREE: Shape = Shape { nodes: 3, partitions: 8, reap_grace_ms: 11_000 };

/// The scenes in which single rules are switched off (`make planted`) break nothing while all rules hold.
#[test]
fn scenes_for_rules_break_nothing_by_themselves() -> Result<()> {
    log::install();
    for name in scenes::ALL {
        for seed in 1..=SEEDS {
            let options = Options { seed, load: LOAD, keep_lines: false, only: scenes::only(name) };
            let (shape, deeds) = scenes::of(name).expect("it is one of them");
            let report = run_script(options, shape, deeds);
            ensure!(report.violations.is_empty(), "{name}: {report}");
        }
    }
    Ok(())
}

/// Records rot on the node that keeps hints for one that is down, after the scrub has looked at them and while it rests. The
/// delivery meets them, and they are healed at once: not when the scrub comes to them again, and the hints not when they are tried
/// again after a pause that has grown meanwhile.
#[test]
fn a_hint_whose_record_has_rotted_does_not_wait_for_the_scrub() -> Result<()> {
    for seed in 1..=SEEDS {
        let deeds = [
            (5, Deed::Down(Host(3), Down::Killed)),
            (58, Deed::RotHinted(Host(1))),
            (59, Deed::RotHinted(Host(1))),
        ];
        play(seed, THREE, &deeds, SOON)?;
    }
    Ok(())
}

/// What takes a spoiled copy's place is less than that copy until all other owners have answered. One of them is down for long,
/// and as soon as it is back it is asked: not when the scrub begins its next round.
#[test]
fn a_copy_that_lacks_something_is_mended_while_the_scrub_rests() -> Result<()> {
    for seed in 1..=SEEDS {
        let deeds = [
            (5, Deed::Down(Host(3), Down::Killed)),
            (30, Deed::Rot(Host(1))),
            (32, Deed::Rot(Host(1))),
            (34, Deed::Rot(Host(1))),
        ];
        play(seed, THREE, &deeds, SOON)?;
    }
    Ok(())
}

/// The power fails everywhere, again and again: what buckets had acknowledged before it was synced goes with it, and nothing else
/// does. Without such buckets no power cut would ever take anything, and nobody would see whether a node knows what it has lost.
#[test]
fn a_power_cut_takes_what_was_not_synced() -> Result<()> {
    let mut undone = 0;
    for seed in 1..=SEEDS {
        let cuts = (1..=5).flat_map(|round| (1..=3).map(move |host| (round * 10, Host(host))));
        let deeds = cuts.flat_map(|(at, host)| {
            let down = (seconds(at), Deed::Down(host, Down::PowerCut));
            [down, (seconds(at + 1 + u64::from(host.0)), Deed::Up(host))]
        });
        log::install();
        let options = Options { seed, load: LOAD, keep_lines: false, only: None };
        let report = run_script(options, THREE, deeds.collect());
        ensure!(report.violations.is_empty(), "{report}");
        undone += report.undone;
    }
    ensure!(undone > 0, "no power cut has taken anything in {SEEDS} seeds");
    Ok(())
}
