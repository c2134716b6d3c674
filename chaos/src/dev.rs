//! `cartwheel dev`: a whole cluster on this machine from one command, to try things on and to break.
//!
//! ```text
//! n1  http://127.0.0.1:8098  peer 127.0.0.1:8099  pid 4711
//! n2  http://127.0.0.1:8108  peer 127.0.0.1:8109  pid 4712
//! n3  http://127.0.0.1:8118  peer 127.0.0.1:8119  pid 4713
//! ```
//!
//! Each node is a process of its own rather than a task in ours, because the point of the tour is to kill one:
//! `kill -9 4712` has to mean what it means in earnest. A node that ends is therefore news, not an error; `dev` says how
//! to start it again and stays. It does not start it itself, which would hide the very thing one came to see. A node
//! that somebody started again by hand belongs to them, and is left alone at the end.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::limits;
use crate::signals::{Asked, Stop};
use crate::target::process::{LocalCluster, Options, name};

/// What `cartwheel dev` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct DevArgs {
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=i64::from(limits::NODES_MAX)))]
    pub nodes: u16,
    /// Where configuration, data and logs go. Without it: a temporary directory, removed at the end.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Node i listens on this + 10·i (HTTP) and this + 10·i + 1 (peers).
    #[arg(long, value_name = "PORT", default_value_t = 8098, value_parser = clap::value_parser!(u16).range(1..))]
    pub base_port: u16,
}

/// Brings a local cluster up, says where it is, and stops it on Ctrl-C or SIGTERM. Returns the exit code.
pub async fn dev(args: DevArgs) -> i32 {
    match run(args).await {
        Ok(()) => 0,
        Err(error) => {
            complain(&format!("error: {error:#}"));
            1
        }
    }
}

async fn run(args: DevArgs) -> anyhow::Result<()> {
    // Caught from before the first process is started: none may be left behind.
    let mut stop = Stop::listen()?;
    let began = Instant::now();
    let options = Options {
        binary: std::env::current_exe()?,
        nodes: usize::from(args.nodes),
        dir: args.data_dir.clone(),
        base_port: Some(args.base_port),
        extra_args: Vec::new(),
        proxy: None,
        shim: false,
        config: String::new(),
        small_disk: None,
    };
    let mut cluster = tokio::select! {
        biased;
        // The half-made cluster is dropped with its future, and its processes with it.
        _ = stop.asked() => return Ok(()),
        started = LocalCluster::start(options) => started?,
    };
    greet(&cluster, began.elapsed(), args.data_dir.is_none());
    let asked = watch(&mut cluster, &mut stop).await;
    finish(&mut cluster, asked).await
}

/// Tells of nodes that end, until we are told to stop.
async fn watch(cluster: &mut LocalCluster, stop: &mut Stop) -> Asked {
    let mut look = tokio::time::interval(limits::DEV_WATCH);
    loop {
        tokio::select! {
            biased;
            asked = stop.asked() => return asked,
            _ = look.tick() => {}
        }
        let Some((i, how)) = cluster.ended_now() else { continue };
        // A Ctrl-C reaches the nodes together with us; that they end then is not news.
        if let Ok(asked) = tokio::time::timeout(limits::DEV_WATCH, stop.asked()).await {
            return asked;
        }
        say(&format!("{} ended ({how}). Its log: {}", name(i), cluster.log(i).display()));
        say(&format!("Start it again:  {}", cluster.command_line(i)));
    }
}

async fn finish(cluster: &mut LocalCluster, asked: Asked) -> anyhow::Result<()> {
    say("Stopping.");
    if asked != Asked::Terminate {
        // The terminal has told the nodes already. A second signal would cut short the end that they are about.
        cluster.wait_all_ended(limits::DEV_GRACE).await;
    }
    for killed in cluster.stop_all().await? {
        complain(&format!("{killed} did not stop in {} s and was killed", limits::STOP_MAX.as_secs()));
    }
    Ok(())
}

fn greet(cluster: &LocalCluster, took: Duration, temporary: bool) {
    for i in 0..cluster.len() {
        let pid = cluster.pid(i).map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        say(&format!("{}  {}  peer {}  pid {pid}", name(i), cluster.url(i), cluster.peer(i)));
    }
    let first = cluster.url(0);
    let last = cluster.len() - 1;
    let kept = if temporary { "temporary, removed at the end" } else { "kept" };
    say(&format!("Dashboard  {first}/ui/"));
    say(&format!("Data       {}  ({kept})", cluster.dir().display()));
    say(&format!("Ready in {:.1} s. Ctrl-C stops all.", took.as_secs_f64()));
    say("");
    say("Write through one node, read through another:");
    say(&format!("  curl -i -X PUT {first}/v1/buckets/tour/keys/greeting -d hello"));
    say(&format!("  curl -i {}/v1/buckets/tour/keys/greeting", cluster.url(last)));
    if let (true, Some(pid)) = (last > 0, cluster.pid(last)) {
        say("Kill a node, see that both still work, and start it again:");
        say(&format!("  kill -9 {pid}"));
        say(&format!("  {}", cluster.command_line(last)));
    }
}

/// One line for the user. That nobody reads it any more (a closed pipe) is no reason to take the cluster down.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
