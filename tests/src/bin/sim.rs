//! Runs seeds of the simulation, two at a time, and says what they broke.
//!
//! ```text
//!   sim --seeds 300 --seed-start 1 --seconds 60      what `make sim` runs
//!   sim --seed 4711 --trace                          one seed, line by line
//!
//!   sim --bugs --seeds 2000                          each safety rule switched off in turn: what `make planted` runs
//!   sim --bug no-mark --bug one-epoch --seeds 50     some of them
//!   sim --bug no-mark --seed 205 --trace             one seed, line by line
//! ```
//!
//! The last line counts seeds, simulated hours and violations, and names the first bad seed if there is one. Rules can be switched off
//! in a build with the feature `planted` only. It is no binary of its own: linking one takes minutes, and a seed runs the same in both
//! as long as no rule is named.

#![allow(clippy::print_stdout, reason = "a command line speaks on its streams")]

use clap::Parser;
use std::process::ExitCode;
#[cfg(feature = "planted")]
use tests::sim::planted;
use tests::sim::seeds::{Outcome, SeedArgs};

/// As the node's; a run spends an eighth of its time on memory.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Run the cluster in simulated time under random troubles, each run repeatable by its seed.
#[derive(Parser)]
struct Args {
    /// How many seeds.
    #[arg(long, default_value_t = 300)]
    seeds: u64,
    /// Print a line for every seed, and not only for the bad ones.
    #[arg(long)]
    each: bool,
    /// End at the first bad seed.
    #[arg(long)]
    fail_fast: bool,
    #[command(flatten)]
    of: SeedArgs,
    #[cfg(feature = "planted")]
    #[command(flatten)]
    without: tests::sim::planted::BugArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    #[cfg(feature = "planted")]
    let bugs = args.without.chosen();
    let seeds = args.of.seeds(args.seeds, args.fail_fast);
    if let Some(answer) = seeds.answer() {
        println!("{answer}");
        return ExitCode::SUCCESS;
    }
    let show = |outcome: &Outcome| println!("{}", outcome.report);
    let asked = args.each || args.of.seed.is_some();
    #[cfg(feature = "planted")]
    if !bugs.is_empty() {
        let noticed = planted::all_noticed(bugs, seeds, |outcome| {
            outcome.trace.iter().for_each(|line| println!("{line}"));
            asked.then(|| show(outcome));
        });
        return exit_code(noticed);
    }
    let total = seeds.run(&[], |outcome| {
        outcome.trace.iter().for_each(|line| println!("{line}"));
        (asked || !outcome.violations.is_empty()).then(|| show(outcome));
    });
    println!("{}\n{}\n{}", total.speed(), total.tested(), total.closing_line());
    exit_code(total.bad.is_empty())
}

fn exit_code(well: bool) -> ExitCode {
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
