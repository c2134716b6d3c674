//! Many seeds, some at a time, and what they come to together.

use super::{Options, Report, run};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// What both command lines take.
#[derive(clap::Args, Debug)]
pub struct SeedArgs {
    /// One seed only.
    #[arg(long)]
    pub seed: Option<u64>,
    /// The first of several.
    #[arg(long, default_value_t = 1)]
    seed_start: u64,
    /// Simulated seconds of load and troubles in each.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Print who said what, and when.
    #[arg(long)]
    trace: bool,
    /// Runs at once; each takes one core.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

impl SeedArgs {
    /// The one seed, or so many.
    pub fn seeds(&self, count: u64, fail_fast: bool) -> Seeds {
        let (first, count) = self.seed.map_or((self.seed_start, count), |seed| (seed, 1));
        let load = Duration::from_secs(self.seconds);
        Seeds { first, count, load, keep_lines: self.trace, fail_fast, jobs: self.jobs }
    }
}

/// Which seeds are to be run, and how.
#[derive(Clone, Copy, Debug)]
pub struct Seeds {
    /// The first of them.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// Simulated time of load and troubles in each.
    pub load: Duration,
    /// Whether reports come with their traces.
    pub keep_lines: bool,
    /// Whether the first bad seed ends it. Those that run beside it are run to their ends.
    pub fail_fast: bool,
    /// Runs at once; each takes one core.
    pub jobs: usize,
}

/// What they came to.
#[derive(Debug, Default)]
pub struct Total {
    /// How many have run.
    pub seeds: u64,
    /// Simulated time in all.
    pub simulated: Duration,
    /// Operations that were acknowledged.
    pub acknowledged: u64,
    /// What was broken, counted.
    pub violations: usize,
    /// The seeds that broke something.
    pub bad: BTreeSet<u64>,
    /// What the first bad seed broke first.
    pub first: Option<String>,
}

impl Seeds {
    /// Runs them, and lets `hear` have each report as it comes, in no order.
    pub fn run(&self, mut hear: impl FnMut(&Report)) -> Total {
        let (next, stop) = (AtomicU64::new(self.first), AtomicBool::new(false));
        let (reports, inbox) = mpsc::channel::<Report>();
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.clamp(1, usize::try_from(self.count.max(1)).unwrap_or(usize::MAX)) {
                let (next, stop, reports) = (&next, &stop, reports.clone());
                scope.spawn(move || {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= self.first.saturating_add(self.count) || stop.load(Ordering::Relaxed) {
                            return;
                        }
                        let options = Options { seed, load: self.load, keep_lines: self.keep_lines };
                        if reports.send(run(options)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(reports);
            let mut total = Total::default();
            for report in &inbox {
                hear(&report);
                stop.fetch_or(self.fail_fast && !report.violations.is_empty(), Ordering::Relaxed);
                total.add(report);
            }
            total
        })
    }
}

impl Total {
    fn add(&mut self, report: Report) {
        self.seeds += 1;
        self.simulated += report.simulated;
        self.acknowledged += report.counts.acknowledged;
        self.violations += report.violations.len();
        if let Some(first) = report.violations.into_iter().next() {
            if self.bad.first().is_none_or(|seed| report.seed < *seed) {
                self.first = Some(first);
            }
            self.bad.insert(report.seed);
        }
    }

    /// One line for the end of a run.
    pub fn closing_line(&self) -> String {
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
