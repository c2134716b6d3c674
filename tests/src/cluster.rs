//! Clusters of real `cartwheel node` processes on this machine.
//!
//! A node is started by its flags alone and is known by its two addresses; everything else (who is up, who
//! owns what) is asked over HTTP. Its output goes to a file beside its data directory, and the end of that
//! file is part of every failure message. Set `CARTWHEEL_KEEP=1` to keep the directory of a cluster.
//!
//! Ports come from below the range that the kernel hands out for outgoing connections. With `bind(:0)` the
//! port of a node that is down for a moment could be taken by any client's connection on the machine, and the
//! node could not come back: a test would fail about once a week for no reason.

use crate::http;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// Three processes on a busy machine with two cores: the bound is there to end, not to measure.
const READY_TIME_MAX: Duration = Duration::from_secs(40);
/// The contract gives a stopping node ten seconds; the rest is for the machine.
const STOP_TIME_MAX: Duration = Duration::from_secs(15);
const POLL_EVERY: Duration = Duration::from_millis(50);
const LOG_TAIL_LINES: usize = 25;

/// Several nodes and the directory in which they live. Dropping it kills them.
pub struct Cluster {
    nodes: Vec<Node>,
    /// Settings of every node that is started from now on.
    settings: Vec<(String, String)>,
    dir: tempfile::TempDir,
}

struct Node {
    http_port: u16,
    peer_port: u16,
    seeds: Vec<u16>,
    /// Flags beyond its addresses, directory and seeds.
    flags: Vec<String>,
    data_dir: PathBuf,
    log: PathBuf,
    /// How far its calendar is off, in milliseconds.
    skew_ms: i64,
    child: Option<Child>,
}

impl Node {
    fn new(dir: &Path, index: usize, seed: Option<u16>) -> Result<Node> {
        Ok(Node {
            http_port: free_port()?,
            peer_port: free_port()?,
            seeds: seed.into_iter().collect(),
            flags: Vec::new(),
            data_dir: dir.join(format!("node-{index}")),
            log: dir.join(format!("node-{index}.log")),
            skew_ms: 0,
            child: None,
        })
    }
}

impl Cluster {
    /// Starts `count` nodes, the first without a seed and the others with the first as theirs, and waits until
    /// each of them serves and sees all of them.
    pub async fn start(count: usize) -> Result<Cluster> {
        let mut cluster = Cluster::prepare(count)?;
        for index in 0..count {
            cluster.spawn(index)?;
        }
        cluster.await_ready().await?;
        Ok(cluster)
    }

    /// Chooses ports and directories for `count` nodes and starts none of them.
    pub fn prepare(count: usize) -> Result<Cluster> {
        let dir = tempfile::Builder::new()
            .prefix("cartwheel-test-")
            .disable_cleanup(std::env::var_os("CARTWHEEL_KEEP").is_some())
            .tempdir()?;
        let mut nodes: Vec<Node> = Vec::new();
        for index in 0..count {
            let seed = nodes.first().map(|first| first.peer_port);
            nodes.push(Node::new(dir.path(), index, seed)?);
        }
        Ok(Cluster { nodes, settings: Vec::new(), dir })
    }

    /// One node more, on this data directory and with the first node as its seed. It is not started.
    pub fn adopt(&mut self, data_dir: PathBuf) -> Result<usize> {
        let index = self.prepare_one()?;
        self.nodes[index].data_dir = data_dir;
        Ok(index)
    }

    /// Gives every node that is started from now on this setting, by its environment variable.
    pub fn set(&mut self, variable: &str, value: &str) {
        self.settings.push((variable.to_owned(), value.to_owned()));
    }

    /// From its next start on the node's calendar is off by so much. A debug build does as it is told; a test that relies on it
    /// asks `cartwheel_clock_ahead_seconds` of the node.
    pub fn skew(&mut self, index: usize, ms: i64) {
        self.nodes[index].skew_ms = ms;
    }

    /// One node more, on an empty directory and with these further flags. It is started and not waited for.
    pub fn add(&mut self, flags: &[&str]) -> Result<usize> {
        let index = self.prepare_one()?;
        self.nodes[index].flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        self.spawn(index)?;
        Ok(index)
    }

    fn prepare_one(&mut self) -> Result<usize> {
        let index = self.nodes.len();
        let seed = self.nodes.first().map(|first| first.peer_port);
        self.nodes.push(Node::new(self.dir.path(), index, seed)?);
        Ok(index)
    }

    /// The peer ports that a node asks to be let in.
    pub fn seed_with(&mut self, index: usize, seeds: &[u16]) {
        self.nodes[index].seeds = seeds.to_vec();
    }

    /// Its peers are to reach it there, and not where it listens, from its next start on.
    pub fn advertise(&mut self, index: usize, address: &str) {
        self.nodes[index].flags.extend(["--advertise-peer".to_owned(), address.to_owned()]);
    }

    /// Gives a stopped node other ports, as a machine gets that moves to another address.
    pub fn move_away(&mut self, index: usize) -> Result<()> {
        assert!(self.nodes[index].child.is_none(), "node {index} runs");
        (self.nodes[index].http_port, self.nodes[index].peer_port) = (free_port()?, free_port()?);
        Ok(())
    }

    /// Removes everything that a stopped node has.
    pub fn wipe(&self, index: usize) -> Result<()> {
        assert!(self.nodes[index].child.is_none(), "node {index} runs");
        Ok(std::fs::remove_dir_all(&self.nodes[index].data_dir)?)
    }

    /// How many nodes there are, running or not.
    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// `http://127.0.0.1:PORT` of a node, without a slash at the end. Counts round: node 4 of three is node 1.
    pub fn url(&self, index: usize) -> String {
        format!("http://{}", self.http(index))
    }

    /// The address of a node's HTTP port.
    pub fn http(&self, index: usize) -> String {
        format!("127.0.0.1:{}", self.nodes[index % self.nodes.len()].http_port)
    }

    /// The address of a node's peer port.
    pub fn peer(&self, index: usize) -> String {
        format!("127.0.0.1:{}", self.nodes[index % self.nodes.len()].peer_port)
    }

    /// The data directory of a node.
    pub fn data_dir(&self, index: usize) -> &Path {
        &self.nodes[index].data_dir
    }

    /// The peer port of a node.
    pub fn peer_port(&self, index: usize) -> u16 {
        self.nodes[index].peer_port
    }

    /// All that a node has said so far, over all its starts.
    pub fn log(&self, index: usize) -> String {
        read(&self.nodes[index].log)
    }

    /// A directory of the cluster's own, removed with it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The process id of a running node.
    pub fn pid(&self, index: usize) -> Result<i32> {
        let child =
            self.nodes[index].child.as_ref().with_context(|| format!("node {index} is not running"))?;
        Ok(child.id().with_context(|| format!("node {index} has ended by itself"))?.try_into()?)
    }

    /// Starts a node, new or stopped, with its own ports and directory, and does not wait.
    pub fn spawn(&mut self, index: usize) -> Result<()> {
        let node = &mut self.nodes[index];
        assert!(node.child.is_none(), "node {index} runs already");
        let log = File::options().create(true).append(true).open(&node.log)?;
        let mut command = command()?;
        command.arg("node").args(["--http", &format!("127.0.0.1:{}", node.http_port)]);
        command
            .args(["--peer", &format!("127.0.0.1:{}", node.peer_port)])
            .arg("--data-dir")
            .arg(&node.data_dir);
        for seed in &node.seeds {
            command.args(["--seed", &format!("127.0.0.1:{seed}")]);
        }
        command.args(&node.flags).envs(self.settings.iter().map(|(name, value)| (name, value)));
        command.env("CARTWHEEL_TEST_SKEW_MS", node.skew_ms.to_string());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        node.child = Some(command.spawn().context("could not start a node")?);
        Ok(())
    }

    /// Starts a stopped node and waits until all running nodes see one another again.
    pub async fn restart(&mut self, index: usize) -> Result<()> {
        self.spawn(index)?;
        self.await_ready().await
    }

    /// `SIGKILL`, and waits for the process to be gone.
    pub async fn kill(&mut self, index: usize) -> Result<()> {
        self.signal(index, Signal::SIGKILL)?;
        self.ended(index).await.map(drop)
    }

    /// `SIGKILL` to every running node, all signals before the first wait.
    pub async fn kill_all(&mut self) -> Result<()> {
        let running: Vec<usize> = self.running().collect();
        for &index in &running {
            self.signal(index, Signal::SIGKILL)?;
        }
        for index in running {
            self.ended(index).await?;
        }
        Ok(())
    }

    /// `SIGTERM`, and how the process ended.
    pub async fn stop(&mut self, index: usize) -> Result<ExitStatus> {
        self.signal(index, Signal::SIGTERM)?;
        self.ended(index).await
    }

    /// `SIGSTOP`, and waits until its last thread stands still: the sockets stay open and nobody answers. Without the wait a
    /// thread that was running could still write a few frames, to a node that was let go on a moment later.
    pub fn pause(&self, index: usize) -> Result<()> {
        self.signal(index, Signal::SIGSTOP)?;
        let stopped_or_ended = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        waitid(Id::Pid(Pid::from_raw(self.pid(index)?)), stopped_or_ended)?;
        Ok(())
    }

    /// `SIGCONT`.
    pub fn resume(&self, index: usize) -> Result<()> {
        self.signal(index, Signal::SIGCONT)
    }

    /// Sends a signal to a running node.
    pub fn signal(&self, index: usize, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.pid(index)?), signal)?)
    }

    /// Whether a node that was started has ended by itself.
    pub fn has_ended(&mut self, index: usize) -> Result<bool> {
        let child =
            self.nodes[index].child.as_mut().with_context(|| format!("node {index} was not started"))?;
        Ok(child.try_wait()?.is_some())
    }

    /// Waits for a node that was told to end.
    pub async fn ended(&mut self, index: usize) -> Result<ExitStatus> {
        let mut child =
            self.nodes[index].child.take().with_context(|| format!("node {index} is not running"))?;
        match tokio::time::timeout(STOP_TIME_MAX, child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!("node {index} still runs {STOP_TIME_MAX:?} after it was told to end"),
        }
    }

    /// Waits until every running node is ready and reports every running node `up` and reachable.
    pub async fn await_ready(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            let Err(reason) = self.is_ready().await else { return Ok(()) };
            if started.elapsed() > READY_TIME_MAX {
                bail!("not ready after {READY_TIME_MAX:?}: {reason:#}\n{}", self.log_tails());
            }
            for (index, node) in self.nodes.iter_mut().enumerate() {
                let Some(child) = node.child.as_mut() else { continue };
                if let Some(status) = child.try_wait()? {
                    bail!("node {index} ended during its start ({status}): {}", tail(&node.log));
                }
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    /// Every node that runs is ready, and up in the eyes of all others.
    pub async fn is_ready(&self) -> Result<()> {
        let running: Vec<usize> = self.running().collect();
        for &viewer in &running {
            let url = self.url(viewer);
            http::get(format!("{url}/health/ready")).send().await?.expect(200)?;
            for &seen in &running {
                let member = self.member(viewer, seen).await?;
                ensure!(member["status"] == "up", "node {viewer} says of node {seen}: {member}");
                ensure!(member["reachable"] == true, "node {viewer} says of node {seen}: {member}");
            }
        }
        Ok(())
    }

    /// What node `viewer` says in `/v1/cluster` about node `seen`.
    pub async fn member(&self, viewer: usize, seen: usize) -> Result<Value> {
        let view = http::get(format!("{}/v1/cluster", self.url(viewer))).send().await?.expect(200)?.json()?;
        let members =
            view["members"].as_array().with_context(|| format!("`members` is no array in {view}"))?;
        let address = self.http(seen);
        let is_seen = |member: &&Value| member["http"].as_str().is_some_and(|http| http.ends_with(&address));
        // A wiped node comes back as another at the same address; its old self stays listed until it is replaced.
        let found = members.iter().filter(is_seen).max_by_key(|member| member["status"] == "up");
        found.cloned().with_context(|| format!("node {viewer} does not list {address} in {view}"))
    }

    /// The indices of the nodes that were started and not ended.
    pub fn running(&self) -> impl Iterator<Item = usize> {
        self.nodes.iter().enumerate().filter(|(_, node)| node.child.is_some()).map(|(index, _)| index)
    }

    /// Every line of a panic in the logs.
    pub fn panics(&self) -> Vec<String> {
        let logs = self.nodes.iter().map(|node| read(&node.log));
        logs.flat_map(|log| {
            let lines = log.lines().filter(|line| line.contains("panicked at"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
    }

    /// The last lines that each node wrote.
    pub fn log_tails(&self) -> String {
        let tails = self.nodes.iter().enumerate();
        tails
            .map(|(index, node)| format!("--- end of the log of node {index}\n{}\n", tail(&node.log)))
            .collect()
    }
}

/// A command that runs the binary under test, with no `CARTWHEEL_*` of the caller's and killed when dropped.
pub fn command() -> Result<Command> {
    let mut command = Command::new(binary()?);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARTWHEEL_") {
            command.env_remove(name);
        }
    }
    command.kill_on_drop(true);
    Ok(command)
}

/// Where the binary under test lies.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CARTWHEEL_BIN") {
        return Ok(path.into());
    }
    // The test runs as target/<profile>/deps/contract-<hash>.
    let test = std::env::current_exe()?;
    let profile_dir =
        test.parent().and_then(Path::parent).context("the test executable lies in no directory")?;
    let path = profile_dir.join("cartwheel");
    ensure!(path.exists(), "{} is missing: run `cargo build -p cartwheel-node` first", path.display());
    Ok(path)
}

/// A port of 127.0.0.1 that nobody listens on and that the kernel gives to no outgoing connection.
pub fn free_port() -> Result<u16> {
    free_ports(1)
}

/// The first of `span` such ports in a row.
pub fn free_ports(span: u16) -> Result<u16> {
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Tests run as processes side by side: each starts at its own place.
    let offset = u16::try_from(std::process::id() % 500).expect("below 500") * 40;
    for _ in 0..COUNT / span {
        let next = NEXT.fetch_add(span, Ordering::Relaxed);
        let port = FIRST + offset.wrapping_add(next) % (COUNT - span);
        if (port..port + span).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return Ok(port);
        }
    }
    bail!("no {span} free ports in a row from {FIRST} on")
}

fn read(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn tail(path: &Path) -> String {
    let text = read(path);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}
