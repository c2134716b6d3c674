//! Switches off one safety rule after the other, and runs seeds of the simulation until somebody notices.
//!
//! ```text
//!   planted --seeds 2000                                  each rule: what `make planted` runs
//!   planted --bug no-mark --bug one-epoch --seeds 50      some of them
//!   planted --bug no-mark --seed 205 --trace              one seed, line by line
//! ```
//!
//! A rule that matters at one moment only, which random troubles do not come to, is tried in a scene of its own.
//!
//! A binary of its own, and not a switch of `sim`, so that nobody takes what a build with bugs says for what the real one
//! says. It ends with 1 if a rule was switched off and nobody noticed.

#![allow(clippy::print_stdout, reason = "a command line speaks on its streams")]

use clap::Parser;
use ring::planted::{self, Bug};
use std::process::ExitCode;
use std::time::Instant;
use tests::sim::seeds::SeedArgs;

/// As the node's; a run spends an eighth of its time on memory.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Switch off each rule that keeps data safe, and see how many seeds it takes until that is noticed.
#[derive(Parser)]
struct Args {
    /// A rule to switch off; all of them, one after the other, if none is named.
    #[arg(long, value_parser = bug)]
    bug: Vec<Bug>,
    /// How many seeds at most for each.
    #[arg(long, default_value_t = 2000)]
    seeds: u64,
    #[command(flatten)]
    of: SeedArgs,
}

/// Rules with a scene of their own.
const SCENES: [(Bug, &str); 3] =
    [(Bug::ReadsTarget, "fill"), (Bug::RecordUnsynced, "cuts"), (Bug::SendBeforeSync, "cuts")];

fn bug(name: &str) -> Result<Bug, String> {
    let names: Vec<&str> = Bug::ALL.iter().map(|bug| bug.name()).collect();
    let named = Bug::ALL.iter().copied().find(|bug| bug.name() == name);
    named.ok_or_else(|| format!("one of {}", names.join(", ")))
}

fn main() -> ExitCode {
    let args = Args::parse();
    let seeds = args.of.seeds(args.seeds, true);
    planted::choose(args.bug.first().copied());
    if let Some(answer) = seeds.answer() {
        println!("{answer}");
        return ExitCode::SUCCESS;
    }
    let bugs = if args.bug.is_empty() { Bug::ALL } else { &args.bug };
    println!("| switched off | seeds until it was noticed | seconds | as |\n| --- | --- | --- | --- |");
    let mut missed = 0;
    for bug in bugs {
        planted::choose(Some(*bug));
        let began = Instant::now();
        let own = SCENES.iter().find(|(of, _)| of == bug).map(|(_, scene)| *scene);
        let mut seeds = seeds;
        seeds.scene = seeds.scene.or(own);
        let total = seeds.run(&["--bug", bug.name()], |outcome| {
            outcome.trace.iter().for_each(|line| println!("{line}"));
            if args.of.seed.is_some() {
                println!("{}", outcome.report);
            }
        });
        let noticed = total.bad.first().map(|seed| (seed + 1 - seeds.first).to_string());
        let expected = !Bug::MISSED.contains(bug);
        missed += u32::from(noticed.is_none() && expected);
        println!(
            "| `{}`{} | {} | {} | {} |",
            bug.name(),
            own.map(|scene| format!(" in the scene `{scene}`")).unwrap_or_default(),
            noticed.unwrap_or_else(|| format!("not in {}", seeds.count)),
            began.elapsed().as_secs(),
            total.first.as_deref().unwrap_or("nothing")
        );
    }
    println!("planted: {} rules switched off, {missed} not noticed that should have been", bugs.len());
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
