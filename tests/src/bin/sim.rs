//! Runs seeds of the simulation, two at a time, and says what they broke.
//!
//! ```text
//!   sim --seeds 300 --seed-start 1 --seconds 60      what `make sim` runs
//!   sim --seed 4711 --trace                          one seed, line by line
//! ```
//!
//! The last line counts seeds, simulated hours and violations, and names the first bad seed if there is one.

#![allow(clippy::print_stdout, reason = "a command line speaks on its streams")]

use clap::Parser;
use std::process::ExitCode;
use std::time::Duration;
use tests::sim::{log, seeds::Seeds};

/// Run the cluster in simulated time under random troubles, each run repeatable by its seed.
#[derive(Parser)]
struct Args {
    /// One seed only.
    #[arg(long)]
    seed: Option<u64>,
    /// How many seeds.
    #[arg(long, default_value_t = 300)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    seed_start: u64,
    /// Simulated seconds of load and troubles in each.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Print who said what, and when.
    #[arg(long)]
    trace: bool,
    /// End at the first bad seed.
    #[arg(long)]
    fail_fast: bool,
    /// Runs at once; each takes one core.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

fn main() -> ExitCode {
    let args = Args::parse();
    log::install();
    let (first, count) = args.seed.map_or((args.seed_start, args.seeds), |seed| (seed, 1));
    let seeds = Seeds {
        first,
        count,
        load: Duration::from_secs(args.seconds),
        keep_lines: args.trace,
        fail_fast: args.fail_fast,
        jobs: args.jobs,
    };
    let total = seeds.run(|report| {
        report.trace.iter().for_each(|line| println!("{line}"));
        if args.seed.is_some() || !report.violations.is_empty() {
            println!("{report}");
        }
    });
    println!("{}", total.closing_line());
    if total.bad.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
