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
use tests::sim::seeds::SeedArgs;

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
}

fn main() -> ExitCode {
    let args = Args::parse();
    let seeds = args.of.seeds(args.seeds, args.fail_fast);
    if let Some(answer) = seeds.answer() {
        println!("{answer}");
        return ExitCode::SUCCESS;
    }
    let total = seeds.run(&[], |outcome| {
        outcome.trace.iter().for_each(|line| println!("{line}"));
        if args.each || args.of.seed.is_some() || !outcome.violations.is_empty() {
            println!("{}", outcome.report);
        }
    });
    println!("{}\n{}", total.speed(), total.closing_line());
    if total.bad.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
