//! Runs seeds of the simulation, two at a time, and says what they broke.
//!
//! ```text
//!   sim --seeds 300 --seed-start 1 --seconds 60      what `make sim` runs
//!   sim --seed 4711 --trace                          one seed, line by line
//! ```
//!
//! The last line counts seeds, simulated hours and violations, and names the first bad seed if there is one.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line speaks on its streams")]

use clap::Parser;
use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;
use tests::sim::{self, Options, Report};

/// Run the cluster in simulated time under random troubles, each run repeatable by its seed.
#[derive(Parser, Clone)]
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
    /// A rule to switch off, to see that it is noticed.
    #[cfg(feature = "planted")]
    #[arg(long, value_parser = bug)]
    bug: Option<ring::planted::Bug>,
    /// Switch off each rule in turn, until that is noticed.
    #[cfg(feature = "planted")]
    #[arg(long)]
    each_bug: bool,
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
    sim::log::install();
    #[cfg(feature = "planted")]
    if args.each_bug {
        return each_bug(&args);
    }
    #[cfg(feature = "planted")]
    ring::planted::choose(args.bug);
    let total = run_all(&args, true);
    println!("{}", total.closing_line());
    if total.bad.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the seeds, some at a time, and hears of each as it ends.
fn run_all(args: &Args, aloud: bool) -> Total {
    let (first, count) = args.seed.map_or((args.seed_start, args.seeds), |seed| (seed, 1));
    let options = |seed| Options { seed, load: Duration::from_secs(args.seconds), keep_lines: args.trace };
    let (next, stop) = (AtomicU64::new(first), AtomicBool::new(false));
    let (reports, inbox) = mpsc::channel::<Report>();
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.clamp(1, count.max(1) as usize) {
            let (next, stop, reports, options) = (&next, &stop, reports.clone(), &options);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    if reports.send(sim::run(options(seed))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(reports);
        let mut total = Total::default();
        for report in &inbox {
            total.add(args, aloud, report, &stop);
        }
        total
    })
}

#[cfg(feature = "planted")]
fn bug(name: &str) -> Result<ring::planted::Bug, String> {
    let all = ring::planted::Bug::ALL;
    let names: Vec<&str> = all.iter().map(|bug| bug.name()).collect();
    all.iter().copied().find(|bug| bug.name() == name).ok_or_else(|| format!("one of {}", names.join(", ")))
}

/// Switches off one rule after the other, and says how many seeds it takes until that is noticed.
#[cfg(feature = "planted")]
fn each_bug(args: &Args) -> ExitCode {
    println!("| bug | seeds | what was noticed |\n| --- | --- | --- |");
    let mut missed = 0;
    for bug in ring::planted::Bug::ALL {
        ring::planted::choose(Some(*bug));
        let total = run_all(&Args { fail_fast: true, ..args.clone() }, false);
        let seeds = total.bad.first().map(|seed| seed + 1 - args.seed_start);
        missed += u32::from(seeds.is_none());
        let seeds = seeds.map_or_else(|| format!("not in {}", args.seeds), |seeds| seeds.to_string());
        println!("| `{}` | {seeds} | {} |", bug.name(), total.first.as_deref().unwrap_or("nothing"));
    }
    println!("sim: {} bugs planted, {missed} not noticed", ring::planted::Bug::ALL.len());
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Violations of one seed that are printed: the first explain the rest.
const SHOWN_MAX: usize = 5;

#[derive(Default)]
struct Total {
    seeds: u64,
    simulated: Duration,
    acknowledged: u64,
    violations: usize,
    bad: BTreeSet<u64>,
    /// What the first bad seed broke.
    first: Option<String>,
}

fn print(report: &Report) {
    let healed = report.healed_after.map_or("never".into(), |after| format!("{:.1} s", after.as_secs_f64()));
    println!(
        "seed {}: {:?}, {:?}; {} of {} operations acknowledged; healed after {healed}; trace {:016x} of {} lines",
        report.seed,
        report.plagues,
        report.shape,
        report.counts.acknowledged,
        report.counts.tried,
        report.digest,
        report.lines,
    );
    report.violations.iter().take(SHOWN_MAX).for_each(|violation| println!("  broken: {violation}"));
}

impl Total {
    fn add(&mut self, args: &Args, aloud: bool, report: Report, stop: &AtomicBool) {
        report.trace.iter().for_each(|line| println!("{line}"));
        if aloud && (args.seed.is_some() || !report.violations.is_empty()) {
            print(&report);
        }
        self.seeds += 1;
        self.simulated += report.simulated;
        self.acknowledged += report.counts.acknowledged;
        self.violations += report.violations.len();
        if let Some(first) = report.violations.into_iter().next() {
            if self.bad.first().is_none_or(|seed| report.seed < *seed) {
                self.first = Some(first);
            }
            self.bad.insert(report.seed);
            stop.fetch_or(args.fail_fast, Ordering::Relaxed);
        }
    }

    fn closing_line(&self) -> String {
        let hours = self.simulated.as_secs_f64() / 3600.0;
        let first = self.bad.first().map(|seed| format!(", first bad seed {seed}"));
        format!(
            "sim: {} seeds, {hours:.1} simulated hours, {} operations acknowledged, {} violations{}",
            self.seeds,
            self.acknowledged,
            self.violations,
            first.unwrap_or_default(),
        )
    }
}
