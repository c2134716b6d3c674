//! `cartwheel replay FILE`: the main job on real input. Streams the events of an online shop into carts over HTTP,
//! through all nodes at once, and then holds every cart against a model that only adds up.
//!
//! ```text
//!   FILE ──events──▶ 64 workers ──▶ n1 n2 n3     each event to the next node in turn, again until acknowledged
//!                       │            │
//!                     model       (--kill-one: SIGKILL at one third, start at two thirds)
//!                       │            │
//!                       └──compare◀──┘           each cart through another node than its last writer
//! ```
//!
//! Every event carries its row as `op_id`, so a retry counts once, and so does a second replay of the same file into the
//! same bucket. Another file needs a bucket of its own, or its rows would be taken for repetitions.
//!
//! The data that this was made for is *Online Retail* of the UCI Machine Learning Repository (Daqing Chen, 2015, CC BY
//! 4.0, <https://doi.org/10.24432/C5BW33>); see `chaos/data/README.md`.

mod ask;
mod drive;
mod events;
mod model;
mod progress;
mod readback;
mod report;
mod sabotage;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use crate::http::Http;
use crate::limits;
use crate::signals::Stop;
use crate::target::process::{LocalCluster, Options, name};
use ask::Nodes;
use drive::{Plan, Tally};
use events::{Events, Part};
use progress::Progress;
use sabotage::Sabotage;

pub use model::Difference;
pub use report::{Figures, Largest, Mismatch, Report};

/// What `cartwheel replay` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct ReplayArgs {
    /// Shop events: CSV with the columns time,customer,invoice,item,description,quantity,unit_price; gzipped if it ends in .gz.
    pub file: PathBuf,
    /// A node to write through; several for a whole cluster. Without it: a cluster of its own, in a temporary directory.
    #[arg(long = "url", value_name = "URL")]
    pub urls: Vec<String>,
    /// Kill one node with SIGKILL after a third of the events and start it again after two thirds.
    #[arg(long)]
    pub kill_one: bool,
    /// Replay only the events of the first N carts.
    #[arg(long, value_name = "N")]
    pub carts: Option<usize>,
    /// Replay only the first EVENTS events.
    #[arg(long, value_name = "EVENTS")]
    pub limit: Option<u64>,
    /// How many events are in flight at once.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub concurrency: u16,
    /// Nodes of its own cluster.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=i64::from(limits::NODES_MAX)))]
    pub nodes: u16,
    /// The bucket for the carts.
    #[arg(long, default_value = "carts")]
    pub bucket: String,
    /// Chooses the node to kill and the jitter of retries.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Why there is no report.
#[derive(Debug)]
enum Failure {
    /// Asked for something that can't be; nothing was written.
    Usage(String),
    /// Could not be done.
    Other(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

/// Replays, compares, prints the report. Exit code: 0 all is right, 1 it is not or could not be done, 2 wrong usage.
pub async fn replay(args: ReplayArgs) -> i32 {
    let mut stop = match Stop::listen() {
        Ok(stop) => stop,
        Err(error) => return fail(&error.to_string(), 1),
    };
    let ran = tokio::select! {
        biased;
        // The cluster is dropped with the run, and its processes with it.
        asked = stop.asked() => return fail("interrupted; the carts were not compared", asked.exit_code()),
        ran = run(&args) => ran,
    };
    match ran {
        Ok(report) => {
            print(&report, args.json);
            report.exit_code()
        }
        Err(Failure::Usage(why)) => fail(&why, 2),
        Err(Failure::Other(error)) => fail(&format!("{error:#}"), 1),
    }
}

/// Replays a file against nodes that somebody else breaks meanwhile.
pub(crate) async fn against(
    file: PathBuf,
    urls: Vec<String>,
    bucket: String,
    seed: u64,
) -> Result<Report, String> {
    let concurrency = 32;
    let (carts, limit, nodes) = (None, None, 3);
    let args = ReplayArgs {
        file,
        urls,
        kill_one: false,
        carts,
        limit,
        concurrency,
        nodes,
        bucket,
        seed,
        json: false,
    };
    run(&args).await.map_err(|failure| match failure {
        Failure::Usage(why) => why,
        Failure::Other(error) => format!("{error:#}"),
    })
}

async fn run(args: &ReplayArgs) -> Result<Report, Failure> {
    let urls = check(args).map_err(Failure::Usage)?;
    let part = Part { events: args.limit, carts: args.carts };
    // The whole file once before anything is written: for its errors, and to know what a third of it is.
    let bad = |error: events::BadFile| Failure::Usage(error.to_string());
    let count = Events::count(&args.file, part).map_err(bad)?;
    if count == 0 {
        return Err(Failure::Usage(format!("{} has no events to replay", args.file.display())));
    }
    let events = Events::open(&args.file, part).map_err(bad)?;
    let mut cluster = if urls.is_empty() { Some(own_cluster(args).await?) } else { None };
    let urls = cluster.as_ref().map_or(urls, LocalCluster::urls);
    let http = Http::new(usize::from(args.concurrency))?;
    let nodes = Arc::new(Nodes { http, urls, bucket: args.bucket.clone() });

    let (tally, killed) = write(args, &nodes, events, count, cluster.as_mut()).await?;
    let mut report = report_of(args, &nodes, count, &tally);
    report.killed = killed;
    if let Some((ended, how)) = cluster.as_mut().and_then(LocalCluster::ended_now) {
        report.failures.push(format!("{} ended on its own ({how})", name(ended)));
    }
    if tally.failed >= limits::FAILURES_MAX {
        report.failures.push(format!("stopped after {} failed events; no cart was read back", tally.failed));
        return Ok(report);
    }
    compare(args, nodes, tally, &mut report).await;
    Ok(report)
}

/// What clap can't see. Returns the URLs as they are used.
fn check(args: &ReplayArgs) -> Result<Vec<String>, String> {
    if args.kill_one && !args.urls.is_empty() {
        return Err("--kill-one needs a cluster of its own: the processes behind --url are not ours to kill"
            .to_owned());
    }
    if args.kill_one && args.nodes < 3 {
        return Err(format!(
            "--kill-one needs at least 3 nodes to keep a quorum, found --nodes {}",
            args.nodes
        ));
    }
    if !(1..=255).contains(&args.bucket.len()) || args.bucket == "." || args.bucket == ".." {
        return Err(format!("--bucket has to be a name of 1 to 255 bytes, found {:?}", args.bucket));
    }
    let urls: Vec<String> = args.urls.iter().map(|url| url.trim_end_matches('/').to_owned()).collect();
    for url in &urls {
        let is_http = reqwest::Url::parse(url).is_ok_and(|url| url.scheme() == "http" && url.has_host());
        if !is_http {
            return Err(format!("--url has to be like http://127.0.0.1:8098, found {url:?}"));
        }
    }
    if urls.iter().collect::<BTreeSet<_>>().len() < urls.len() {
        return Err("--url names the same node twice, so it could not be told from another one".to_owned());
    }
    Ok(urls)
}

async fn own_cluster(args: &ReplayArgs) -> anyhow::Result<LocalCluster> {
    let binary = std::env::current_exe()?;
    let nodes = usize::from(args.nodes);
    let (dir, base_port, extra_args, proxy, small_disk) = (None, None, Vec::new(), None, None);
    let (shim, config) = (false, String::new());
    LocalCluster::start(Options {
        binary,
        nodes,
        dir,
        base_port,
        extra_args,
        proxy,
        shim,
        config,
        small_disk,
    })
    .await
}

/// Writes everything, with the kill in the middle if it was asked for. Returns the name of the node that was killed.
async fn write(
    args: &ReplayArgs,
    nodes: &Arc<Nodes>,
    events: Events,
    count: u64,
    cluster: Option<&mut LocalCluster>,
) -> Result<(Tally, Option<String>), Failure> {
    let concurrency = usize::from(args.concurrency);
    let victim =
        usize::try_from(args.seed % nodes.urls.len() as u64).expect("a remainder of a usize fits into one");
    let sabotage = Sabotage { victim, events: count };
    let (gate, gate_seen) = watch::channel(if args.kill_one { sabotage.gate(concurrency) } else { u64::MAX });
    let (through, through_seen) = watch::channel(0);
    let plan = Plan { concurrency, seed: args.seed, gate: gate_seen, through };
    let writing = drive::write_all(Arc::clone(nodes), events, plan, Progress::new("writing", count));
    let (tally, killed) = match cluster {
        Some(cluster) if args.kill_one => {
            let (tally, struck) = tokio::join!(writing, sabotage.strike(cluster, through_seen, gate));
            struck?;
            (tally, Some(name(victim)))
        }
        _ => (writing.await, None),
    };
    Ok((tally, killed))
}

async fn compare(args: &ReplayArgs, nodes: Arc<Nodes>, tally: Tally, report: &mut Report) {
    let progress = Progress::new("reading", tally.model.len() as u64);
    let concurrency = usize::from(args.concurrency);
    let findings = readback::compare_all(nodes, tally.model, concurrency, args.seed, progress).await;
    report.carts_compared = findings.compared;
    report.mismatches = findings.mismatches;
    report.first_mismatches = findings.listed;
    report.retries += findings.retries;
    report.reads = findings.reads.figures();
    if findings.unreadable >= limits::FAILURES_MAX {
        report.failures.push(format!("stopped after {} carts that could not be read", findings.unreadable));
    }
}

fn report_of(args: &ReplayArgs, nodes: &Nodes, count: u64, tally: &Tally) -> Report {
    let mut failures = tally.failures.clone();
    failures.extend(
        tally.broken.as_ref().map(|error| format!("the file changed while it was replayed: {error}")),
    );
    Report {
        file: args.file.display().to_string(),
        bucket: args.bucket.clone(),
        nodes: nodes.urls.clone(),
        carts: tally.model.len(),
        events: count,
        acknowledged: tally.acknowledged,
        retries: tally.retries,
        failures,
        write_ms: u64::try_from(tally.took.as_millis()).unwrap_or(u64::MAX),
        ops_per_second: (tally.acknowledged as f64 / tally.took.as_secs_f64().max(0.001)) as u64,
        writes: tally.writes.figures(),
        largest_cart: tally.model.largest().map(|(cart, items)| Largest { cart: cart.to_owned(), items }),
        writes_to_large_carts: tally.large.figures(),
        ..Report::default()
    }
}

fn print(report: &Report, json: bool) {
    let text = match json {
        true => serde_json::to_string_pretty(report).expect("a report is strings and numbers"),
        false => report.to_string(),
    };
    // A reader that has gone changes nothing about the verdict.
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn fail(why: &str, code: i32) -> i32 {
    let _ = writeln!(std::io::stderr(), "error: {why}");
    code
}

#[cfg(test)]
mod tests;
