//! `cartwheel chaos`: breaks a real cluster while clients use it, and says whether a promise was broken.
//!
//! ```text
//!   scenario ─► site (processes behind a proxy, or containers) ─► load ‖ troubles, drawn from the seed
//!                                                                        │
//!   heal ─► all replicas equal, nobody reads ─► every key is read back ─► checkers ─► verdict, report
//! ```
//!
//! | file | what it is |
//! | --- | --- |
//! | `scenarios.rs` | the list: what goes wrong, and where that is possible |
//! | `course.rs` | one run, from the first process to what is known of it |
//! | `judge.rs` | what is known of it, judged |
//! | `site/` | the cluster that is broken, and the hands that break it |
//! | `trouble/` | what goes wrong, over and over |
//! | `timeline.rs` | what was broken when, and whom nobody can expect to answer meanwhile |
//! | `retail.rs` | shop events into carts beside all that |
//! | `after.rs` | what is looked at once the last trouble is over, and by when |
//! | `equal.rs` | whether all replicas are equal, without a read |
//! | `answers.rs` | what clients were told that is no success |
//! | `tries.rs` | every request that clients send, and how it was answered |
//! | `pulse.rs` | how the cluster did, second by second |
//! | `goodput.rs` | how much was done while no node was owed an answer of |
//! | `verdict.rs` | the promises against what happened |
//! | `sums.rs` | what was done and what came to harm, counted and by name |
//! | `memory.rs` | how much memory the nodes take |
//! | `counters.rs` | what they count themselves: deletions that they have forgotten, copies that they have healed |
//! | `live.rs` | what a person sees meanwhile |
//! | `report/` | the same for later, as a page with plots |

mod after;
mod answers;
mod counters;
mod course;
mod equal;
mod forgotten;
mod goodput;
mod judge;
mod live;
mod memory;
mod pulse;
mod report;
mod retail;
mod scenarios;
mod sessions;
mod site;
mod sums;
mod timeline;
mod tries;
mod trouble;
mod verdict;

use crate::signals::Stop;
use course::Course;
use futures_util::FutureExt;
use report::Folder;
use scenarios::{SCENARIOS, Scenario};
use std::any::Any;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::Duration;
use sums::Sums;
use trouble::Trouble;

const NODES: u16 = 5;
const COMPOSE_FILE: &str = "docker-compose.yml";
/// A signal is told of within this time, even if nobody could be told when it came.
const ASKED_WITHIN: Duration = Duration::from_millis(100);

/// What `cartwheel chaos` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct ChaosArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum What {
    /// Run these scenarios, one after the other.
    Run {
        /// Their names; `cartwheel chaos list` says which there are.
        #[arg(required = true, value_name = "SCENARIO")]
        scenarios: Vec<String>,
        #[command(flatten)]
        options: RunArgs,
    },
    /// Run all scenarios that the target can bear.
    All {
        #[command(flatten)]
        options: RunArgs,
    },
    /// Say which scenarios there are.
    List,
}

/// What is broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Target {
    /// Processes on this machine, with a proxy between every two of them.
    #[default]
    Local,
    /// The containers of a docker-compose.yml, in a project of their own.
    Compose,
}

/// How to run scenarios.
#[derive(Clone, Debug, clap::Args)]
struct RunArgs {
    /// What is broken: `local`, processes on this machine, or `compose`, the containers of a docker-compose.yml.
    #[arg(long = "target", value_name = "TARGET", default_value = "local")]
    target_name: String,
    /// The same once it is known to be one.
    #[arg(skip)]
    target: Target,
    /// Chooses what clients ask and what goes wrong when. With --seeds, the first of them.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run each scenario with so many seeds.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// How long clients ask and things go wrong, in seconds. All that they ask is kept in memory: run more seeds rather than
    /// longer.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(5..=1800))]
    seconds: u64,
    /// Nodes of the local cluster.
    #[arg(long, default_value_t = NODES, value_parser = clap::value_parser!(u16).range(5..=10))]
    nodes: u16,
    /// Where the report goes, and the history of a run that broke a promise.
    #[arg(long, value_name = "DIR", default_value = "cartwheel-chaos")]
    out: PathBuf,
    /// The containers of --target compose.
    #[arg(long, value_name = "FILE", default_value = COMPOSE_FILE)]
    compose_file: PathBuf,
    /// The binary that `upgrade` comes from: of an earlier build.
    #[arg(long, value_name = "BINARY")]
    previous: Option<PathBuf>,
    /// Shop events for `retail`, as `cartwheel replay` takes them; without them it replays an extract.
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
}

/// Why there is no verdict.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What was asked for is not there: a scenario, a target, Docker. Nothing was run, or this run at least was not.
    Usage(String),
    /// A run could not be brought to its end.
    Other(anyhow::Error),
}

impl Failure {
    fn into_error(self) -> anyhow::Error {
        match self {
            Self::Usage(why) => anyhow::Error::msg(why),
            Self::Other(error) => error,
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

/// Runs scenarios and says what came of them. Exit code: 0 no promise was broken, 1 one was or a run had no end, 2 wrong usage.
pub async fn chaos(args: ChaosArgs) -> i32 {
    let (names, mut options) = match args.what {
        What::List => return list(),
        What::Run { scenarios, options } => (Some(scenarios), options),
        What::All { options } => (None, options),
    };
    // Caught from before the first process is started, and the first file system mounted to see whether one can be: none may be left behind.
    let mut stop = match Stop::listen() {
        Ok(stop) => stop,
        Err(error) => return fail(&error.to_string(), 1),
    };
    let known = target(&options.target_name).map(|target| options.target = target);
    let (chosen, left_out) = match known.and_then(|()| choose(names.as_deref(), &options)) {
        Ok(chosen) => chosen,
        Err(why) => return fail(&why, 2),
    };
    match run_all(&chosen, &left_out, &options, &mut stop).await {
        Ok(code) => code,
        Err(Failure::Usage(why)) => fail(&why, 2),
        Err(Failure::Other(error)) => fail(&format!("{error:#}"), 1),
    }
}

fn target(name: &str) -> Result<Target, String> {
    match name {
        "local" => Ok(Target::Local),
        "compose" => Ok(Target::Compose),
        other => Err(format!("there is no target {other:?}; there are `local` and `compose`")),
    }
}

/// The scenarios to be run, and those that can't be, each with what they lack.
type Choice = (Vec<&'static Scenario>, Vec<String>);

fn choose(names: Option<&[String]>, options: &RunArgs) -> Result<Choice, String> {
    if options.seed.checked_add(options.seeds).is_none() {
        return Err(format!("--seed {} leaves no room for --seeds {}", options.seed, options.seeds));
    }
    for (what, file) in [("--previous", &options.previous), ("--events", &options.events)] {
        if let Some(file) = file.as_ref().filter(|file| !file.is_file()) {
            return Err(format!("{what} {}: there is no such file", file.display()));
        }
    }
    if let Some(why) = useless(names, options).or_else(|| no_previous(options)) {
        return Err(why);
    }
    let Some(names) = names else {
        let mut chosen: Vec<&Scenario> = SCENARIOS.iter().filter(|one| one.bears(options.target)).collect();
        let lacks = |one: &&Scenario| one.trouble.lacks(options).map(|lacks| format!("{} {lacks}", one.name));
        let left_out: Vec<String> = chosen.iter().filter_map(lacks).collect();
        for one in &left_out {
            fail(&format!("left out: {one}"), 0);
        }
        chosen.retain(|one| lacks(one).is_none());
        return Ok((chosen, left_out));
    };
    let find = |name: &String| {
        let found = SCENARIOS.iter().find(|scenario| scenario.name == name);
        let found = found.ok_or_else(|| {
            format!("no scenario is called {name:?}; `cartwheel chaos list` says which there are")
        })?;
        match (found.bears(options.target), found.trouble.lacks(options)) {
            (true, None) => Ok(found),
            (true, Some(lacks)) => Err(format!("{name} {lacks}")),
            (false, _) => Err(format!("{name} can't be done to containers; leave out --target compose")),
        }
    };
    let chosen: Result<Vec<_>, _> = names.iter().map(find).collect();
    Ok((chosen?, Vec::new()))
}

/// An option that does nothing here: whoever gave it expects something else.
fn useless(names: Option<&[String]>, options: &RunArgs) -> Option<String> {
    let lacks = |scenario: &str| names.is_some_and(|names| names.iter().all(|name| name != scenario));
    let (is_local, is_given) = (options.target == Target::Local, |file: &Option<PathBuf>| file.is_some());
    let said = [
        (
            is_given(&options.previous) && (lacks("upgrade") || !is_local),
            "--previous is for `upgrade`, with processes",
        ),
        (
            is_given(&options.events) && (lacks("retail") || !is_local),
            "--events is for `retail`, with processes",
        ),
        (
            !is_local && options.nodes != NODES,
            "--nodes is for processes; the file says how many containers there are",
        ),
        (
            is_local && options.compose_file != Path::new(COMPOSE_FILE),
            "--compose-file is for --target compose",
        ),
    ];
    said.into_iter().find(|(does_nothing, _)| *does_nothing).map(|(_, why)| why.to_owned())
}

/// What is no earlier build: it can't be run, or is this very one, and then nothing would be upgraded.
fn no_previous(options: &RunArgs) -> Option<String> {
    let previous = options.previous.as_ref()?;
    let is_same =
        || Ok::<_, std::io::Error>(std::fs::read(previous)? == std::fs::read(std::env::current_exe()?)?);
    let is_executable = |about: std::fs::Metadata| about.permissions().mode() & 0o111 != 0;
    let why = match std::fs::metadata(previous).map(is_executable) {
        Ok(true) => match is_same() {
            Ok(false) => return None,
            Ok(true) => "it is the same binary as this one, to the byte".to_owned(),
            Err(error) => error.to_string(),
        },
        Ok(false) => "the file is not executable".to_owned(),
        Err(error) => error.to_string(),
    };
    Some(format!("--previous {}: {why}", previous.display()))
}

async fn run_all(
    chosen: &[&'static Scenario],
    left_out: &[String],
    options: &RunArgs,
    stop: &mut Stop,
) -> Result<i32, Failure> {
    let mut folder = Folder::open(&options.out, left_out)?;
    let (mut broken, mut endless, mut sums) = (0, 0, Sums::default());
    for scenario in chosen {
        for seed in options.seed..options.seed.saturating_add(options.seeds) {
            let load = Duration::from_secs(options.seconds);
            let mut course = Course::new(scenario, seed, load, options);
            let ran = tokio::select! {
                biased;
                asked = stop.asked() => Err(asked),
                ran = AssertUnwindSafe(course.run()).catch_unwind() => Ok(ran),
            };
            // A step that waits for nothing, like a compiler's, ends by the same Ctrl-C before anybody is asked whether there was one.
            let ran = match ran {
                Ok(Ok(Err(_))) => tokio::time::timeout(ASKED_WITHIN, stop.asked()).await.map_or(ran, Err),
                other => other,
            };
            // Whatever came of it, nothing of it stays.
            let cleaned = course.clean_up().await;
            if let (Err(error), false) = (&cleaned, matches!(ran, Ok(Ok(Ok(_))))) {
                fail(&format!("not everything could be taken down: {error:#}"), 1);
            }
            // A checker that has a mistake of its own is no reason to throw away what it looked at, nor the runs to come.
            let ran = ran.map(|ran| ran.unwrap_or_else(|panic| Err(Failure::Other(panicked(&*panic)))));
            match ran {
                Ok(Ok(outcome)) => {
                    broken += usize::from(!outcome.verdict.holds());
                    sums += outcome.verdict.sums;
                    say(&outcome.to_string());
                    folder.add(&outcome)?;
                    cleaned?;
                }
                // The others are run all the same; what is known of this one is kept. Where something has run already, what is not there
                // any more is no mistake of whoever asked for it.
                Ok(Err(wrong)) if matches!(wrong, Failure::Other(_)) || folder.runs() + endless > 0 => {
                    let error = wrong.into_error();
                    endless += 1;
                    let name = format!("{}-{seed}", scenario.name);
                    let kept = folder.keep_endless(&name, course.history(), &error)?;
                    fail(
                        &format!("{}, seed {seed}, has no end: {error:#}; history: {kept}", scenario.name),
                        1,
                    );
                }
                Ok(Err(wrong)) => {
                    folder.give_up();
                    return Err(wrong);
                }
                Err(asked) => {
                    folder.give_up();
                    let how = if cleaned.is_ok() { "everything was taken down again" } else { "see above" };
                    return Ok(fail(&format!("interrupted; {how}"), asked.exit_code()));
                }
            }
        }
    }
    let runs = summary(folder.runs(), broken, endless);
    let is_extract = options.events.is_none() && chosen.iter().any(|one| one.trouble == Trouble::Retail);
    let mut less: Vec<String> = left_out.iter().map(|one| format!(" Left out: {one}.")).collect();
    less.extend(is_extract.then(|| format!(" {}.", retail::left_out())));
    say(&format!("chaos: {runs}. {sums}.{} Report: {}", less.concat(), folder.page().display()));
    Ok(i32::from(broken + endless > 0))
}

/// What a panic of the harness said.
fn panicked(panic: &(dyn Any + Send)) -> anyhow::Error {
    let said =
        panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    anyhow::anyhow!("the harness has panicked: {}", said.unwrap_or("nobody knows why"))
}

fn summary(runs: usize, broken: usize, endless: usize) -> String {
    let broke = match broken {
        0 => "no promise broken".to_owned(),
        _ => format!("{broken} of them broke a promise or proved nothing"),
    };
    let endless = match endless {
        0 => String::new(),
        _ => format!("; {endless} more had no end"),
    };
    format!("{runs} runs, {broke}{endless}")
}

fn list() -> i32 {
    let width = SCENARIOS.iter().map(|scenario| scenario.name.len()).max().unwrap_or(0);
    for scenario in SCENARIOS {
        let only = if scenario.bears(Target::Compose) { "" } else { "  (local only)" };
        say(&format!("{:width$}  {}{only}", scenario.name, scenario.about));
    }
    0
}

/// One line for the user. A reader that has gone changes nothing about the verdict.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

fn fail(why: &str, code: i32) -> i32 {
    let _ = writeln!(std::io::stderr(), "error: {why}");
    code
}
