//! Many seeds, some at a time, and what they come to together.
//!
//! Each of several runs in a process of its own. tokio numbers tasks through the whole process, and a runtime that ends drops
//! its tasks in the order of their numbers' last bits: within one process the connections of a machine that loses its power would
//! be reset in an order that hangs on how many tasks other seeds had before, or have beside it. It also keeps what one seed does to
//! its process, be it an abort, from the others.

use super::{Options, Report, log, run, run_script, scenes};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A seed takes a second or two. One whose process has not ended after so long, and the time that it simulates, hangs.
const HANGS_AFTER: Duration = Duration::from_secs(60);

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
    /// Troubles at chosen times, instead of those that the seed draws.
    #[arg(long, value_parser = scenes::ALL)]
    pub scene: Option<String>,
    /// Print who said what, and when.
    #[arg(long)]
    trace: bool,
    /// Say what came of one seed as a line of JSON.
    #[arg(long, requires = "seed")]
    json: bool,
    /// Runs at once; each takes one core.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

impl SeedArgs {
    /// The one seed, or so many.
    pub fn seeds(&self, count: u64, fail_fast: bool) -> Seeds {
        let (first, count) = self.seed.map_or((self.seed_start, count), |seed| (seed, 1));
        let load = Duration::from_secs(self.seconds);
        let alone = self.seed.is_some();
        Seeds {
            first,
            count,
            load,
            keep_lines: self.trace,
            fail_fast,
            jobs: self.jobs,
            alone,
            json: self.json,
            scene: self.scene.as_deref().and_then(name_of),
        }
    }
}

/// What came of one seed, as its process says it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The report in words.
    pub report: String,
    /// What was broken.
    pub violations: Vec<String>,
    simulated: Duration,
    acknowledged: u64,
    tallied: Tallied,
    /// The lines of the trace, if they were kept.
    pub trace: Vec<String>,
    /// Whether its process came to no end of its own, so that nothing is known of the seed.
    #[serde(skip)]
    pub is_lost: bool,
}

/// What was put to the test, or could not be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Tallied {
    receipts: u64,
    forgotten: u64,
    undone: usize,
    reads_unjudged: u64,
}

impl From<Report> for Outcome {
    fn from(report: Report) -> Self {
        Outcome {
            seed: report.seed,
            report: report.to_string(),
            violations: report.violations,
            simulated: report.simulated,
            acknowledged: report.counts.acknowledged,
            tallied: Tallied {
                receipts: report.receipts,
                forgotten: report.forgotten,
                undone: report.undone,
                reads_unjudged: u64::from(report.reads_unjudged),
            },
            trace: report.trace,
            is_lost: false,
        }
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
    /// Whether outcomes come with their traces.
    pub keep_lines: bool,
    /// Whether the first bad seed ends it. Those that run beside it are run to their ends.
    pub fail_fast: bool,
    /// Runs at once; each takes one core.
    pub jobs: usize,
    /// Whether it is one seed for this process.
    alone: bool,
    json: bool,
    /// Whose troubles they have, if not their own.
    pub scene: Option<&'static str>,
}

fn name_of(scene: &str) -> Option<&'static str> {
    scenes::ALL.into_iter().find(|name| *name == scene)
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
    tallied: Tallied,
    /// What was broken, counted.
    pub violations: usize,
    /// The seeds that broke something.
    pub bad: BTreeSet<u64>,
    /// What the first bad seed broke first.
    pub first: Option<String>,
    /// Seeds of which nothing is known, for their processes came to no end of their own. They are bad ones too.
    pub lost: BTreeSet<u64>,
    /// How long it took by the clock, and how long the processors worked for it.
    pub took: Duration,
    cpu: Duration,
}

impl Seeds {
    /// Each in a process of its own, be it one only: for who runs seeds with something else between them.
    pub fn apart_each(self) -> Seeds {
        Seeds { alone: false, ..self }
    }

    /// Runs them, and lets `hear` have each outcome as it comes, in no order. The processes of several are told these arguments
    /// as well.
    pub fn run(&self, with: &[&str], mut hear: impl FnMut(&Outcome)) -> Total {
        let (began, worked) = (Instant::now(), cpu());
        let (next, stop) = (AtomicU64::new(self.first), AtomicBool::new(false));
        let (outcomes, inbox) = mpsc::channel::<Outcome>();
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.clamp(1, usize::try_from(self.count.max(1)).unwrap_or(usize::MAX)) {
                let (next, stop, outcomes) = (&next, &stop, outcomes.clone());
                scope.spawn(move || {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= self.first.saturating_add(self.count) || stop.load(Ordering::Relaxed) {
                            return;
                        }
                        let outcome = if self.alone { self.here(seed) } else { self.apart(seed, with) };
                        if outcomes.send(outcome).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(outcomes);
            let mut total = Total::default();
            for outcome in &inbox {
                hear(&outcome);
                stop.fetch_or(self.fail_fast && !outcome.violations.is_empty(), Ordering::Relaxed);
                total.add(outcome);
            }
            (total.took, total.cpu) = (began.elapsed(), cpu().saturating_sub(worked));
            total
        })
    }

    /// Runs one seed for the process that has begun this one, if that is what it wants.
    pub fn answer(&self) -> Option<String> {
        self.json.then(|| serde_json::to_string(&self.here(self.first)).expect("an outcome is plain data"))
    }

    fn here(&self, seed: u64) -> Outcome {
        log::install();
        let only = self.scene.and_then(scenes::only);
        let options = Options { seed, load: self.load, keep_lines: self.keep_lines, only };
        match self.scene.and_then(scenes::of) {
            Some((shape, deeds)) => run_script(options, shape, deeds).into(),
            None => run(options).into(),
        }
    }

    fn apart(&self, seed: u64, with: &[&str]) -> Outcome {
        self.ask(seed, with).unwrap_or_else(|why| Outcome {
            seed,
            report: format!("seed {seed}: its process ended\n  broken: {why}"),
            violations: vec![why],
            simulated: Duration::ZERO,
            acknowledged: 0,
            tallied: Tallied::default(),
            trace: Vec::new(),
            is_lost: true,
        })
    }

    fn ask(&self, seed: u64, with: &[&str]) -> Result<Outcome, String> {
        let mut child = Command::new(std::env::current_exe().map_err(|error| error.to_string())?);
        child.args(with).args(["--json", "--seed", &seed.to_string()]);
        child.args(["--seconds", &self.load.as_secs().to_string()]);
        child.args(self.keep_lines.then_some("--trace"));
        child.args(self.scene.map(|scene| ["--scene", scene]).into_iter().flatten());
        let said = output_within(&mut child, HANGS_AFTER + self.load)?;
        serde_json::from_slice(&said).map_err(|error| format!("the process of this seed said {error}"))
    }
}

/// What a process says, if it ends well and in time. One that goes round in circles sees no simulated time go by, and no bound of the
/// simulation ends it.
fn output_within(command: &mut Command, at_most: Duration) -> Result<Vec<u8>, String> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
    let mut child = child.map_err(|error| error.to_string())?;
    let mut stdout = child.stdout.take().expect("it is piped");
    let (say, heard) = mpsc::channel();
    std::thread::spawn(move || {
        let mut said = Vec::new();
        let read = stdout.read_to_end(&mut said).map(|_| said);
        let _too_late = say.send(read);
    });
    let said = heard.recv_timeout(at_most);
    if said.is_err() {
        child.kill().map_err(|error| error.to_string())?;
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    match said {
        Err(_) => Err(format!("the process of this seed had not ended after {} s", at_most.as_secs())),
        Ok(_) if !status.success() => Err(format!("the process of this seed ended with {status}")),
        Ok(said) => said.map_err(|error| error.to_string()),
    }
}

/// How long processors have worked for this process and those that it has begun and that have ended.
fn cpu() -> Duration {
    [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN]
        .into_iter()
        .filter_map(|who| getrusage(who).ok())
        .flat_map(|used| [used.user_time(), used.system_time()])
        .map(|time| Duration::from_micros(u64::try_from(time.num_microseconds()).unwrap_or(0)))
        .sum()
}

impl Total {
    fn add(&mut self, outcome: Outcome) {
        self.seeds += 1;
        self.simulated += outcome.simulated;
        self.acknowledged += outcome.acknowledged;
        let (all, one) = (&mut self.tallied, outcome.tallied);
        all.receipts += one.receipts;
        all.forgotten += one.forgotten;
        all.undone += one.undone;
        all.reads_unjudged += one.reads_unjudged;
        self.violations += outcome.violations.len();
        self.lost.extend(outcome.is_lost.then_some(outcome.seed));
        if let Some(first) = outcome.violations.into_iter().next() {
            if self.bad.first().is_none_or(|seed| outcome.seed < *seed) {
                self.first = Some(first);
            }
            self.bad.insert(outcome.seed);
        }
    }

    /// How fast it was: simulated seconds in each second that a processor has worked.
    pub fn speed(&self) -> String {
        let times = self.simulated.as_secs_f64() / self.cpu.as_secs_f64().max(f64::EPSILON);
        format!(
            "sim: {:.0} s by the clock; {times:.0} simulated seconds in one of a processor{}",
            self.took.as_secs_f64(),
            if cfg!(feature = "planted") { "; a build in which rules can be switched off" } else { "" }
        )
    }

    /// What was put to the test, and in how many seeds something could not be.
    pub fn tested(&self) -> String {
        let Tallied { receipts, forgotten, undone, reads_unjudged } = self.tallied;
        format!(
            "sim: {receipts} receipts held against the disks, {forgotten} deletions forgotten, {undone} batches lost unsynced; in {reads_unjudged} seeds the last reads had to repair, and are not judged"
        )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_hangs_is_ended_and_told_of() {
        let began = Instant::now();
        let hangs = output_within(Command::new("sleep").arg("600"), Duration::from_millis(50));
        assert!(hangs.is_err_and(|why| why.contains("had not ended")) && began.elapsed().as_secs() < 60);
        let fails = output_within(&mut Command::new("false"), HANGS_AFTER);
        assert!(fails.is_err_and(|why| why.contains("exit status: 1")));
        assert_eq!(output_within(Command::new("echo").arg("well"), HANGS_AFTER), Ok(b"well\n".to_vec()));
    }
}
