//! A cluster of real `cartwheel node` processes on loopback, and the ways to hurt them.
//!
//! ```text
//!   DIR/n1/node.toml   http, peer, data_dir           no seeds: it founds the cluster
//!   DIR/n2/node.toml   … seeds = ["127.0.0.1:PEER1"]  it joins
//!   DIR/nI/data        what survives a kill
//!   DIR/nI/log         both streams of the process, appended over restarts
//! ```
//!
//! Nodes are counted from 0 here and named from n1 outside. A node is always started from its file alone, so a person
//! can start a killed one by hand with the same command.
//!
//! The processes stay in our process group. A terminal's Ctrl-C and a harness that ends the whole group therefore reach
//! them too, which matters because nothing else ties a child's life to ours: `PR_SET_PDEATHSIG` needs code between fork
//! and exec, which safe Rust does not offer. So whoever owns a `LocalCluster` catches the signals that would end it
//! (see `signals.rs`) and lets `Drop` do the rest; only SIGKILL to the owner alone leaves nodes behind.

mod config;
mod ending;
mod ready;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use super::home::{Home, shell_word, tail};
use super::ports::Ports;
use super::shim::{Library, Shim};
use crate::http::Http;
use crate::limits;
use crate::proxy::Proxy;

/// What to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `cartwheel` binary.
    pub binary: PathBuf,
    /// How many nodes.
    pub nodes: usize,
    /// Where configuration, data and logs go; kept afterwards. Without it a temporary directory, removed on drop.
    pub dir: Option<PathBuf>,
    /// HTTP port of the first node; the others follow in tens. Without it free ports are found.
    pub base_port: Option<u16>,
    /// Further arguments for every node.
    pub extra_args: Vec<String>,
    /// Whether a proxy stands between the nodes, and the seed of its chance.
    pub proxy: Option<u64>,
    /// Whether a shim stands between each node and its disk and calendar.
    pub shim: bool,
    /// What else stands in each node's file, as tables of TOML.
    pub config: String,
    /// How large the last node's disk is, if it has one of its own; that needs root.
    pub small_disk: Option<u64>,
}

/// Local nodes, each a process of its own. Dropping it kills those that it started, by pid, and nobody else.
#[derive(Debug)]
pub struct LocalCluster {
    nodes: Vec<Node>,
    dir: Home,
    binary: PathBuf,
    extra_args: Vec<String>,
    http: Http,
    proxy: Option<Proxy>,
    library: Option<Library>,
    /// Tables at the end of each node's file.
    config: String,
    /// A disk of a node's own, to be taken away again.
    mounted: Option<PathBuf>,
}

#[derive(Debug)]
struct Node {
    ports: Ports,
    home: PathBuf,
    /// The process, while it is ours and not known to have ended.
    child: Option<Child>,
    shim: Option<Shim>,
}

impl LocalCluster {
    /// Starts all nodes at once and waits until each is ready and sees all the others.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let mut cluster = Self::spawn(options).await?;
        cluster.wait_all_ready().await?;
        Ok(cluster)
    }

    /// Starts node `i` from its file, the first time or after it ended. Returns at once; see [`Self::wait_ready`].
    pub fn start_again(&mut self, i: usize) -> anyhow::Result<()> {
        ensure!(!self.is_running(i), "{} is still running", name(i));
        let path = self.log(i);
        let log = File::options().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("cannot write {}", path.display()))?;
        let node = &self.nodes[i];
        let shimmed = node.shim.as_ref().zip(self.library.as_ref());
        let child = Command::new(&self.binary)
            .envs(shimmed.into_iter().flat_map(|(shim, library)| shim.environment(library)))
            .args(["node", "--config"])
            .arg(self.config(i))
            .args(&self.extra_args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.binary.display()))?;
        self.nodes[i].child = Some(child);
        Ok(())
    }

    /// How many nodes there are, running or not.
    #[expect(clippy::len_without_is_empty, reason = "a cluster without nodes can't be made")]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The HTTP addresses, in the order of the nodes.
    pub fn urls(&self) -> Vec<String> {
        (0..self.len()).map(|i| self.url(i)).collect()
    }

    /// The HTTP address of node `i`.
    pub fn url(&self, i: usize) -> String {
        format!("http://127.0.0.1:{}", self.nodes[i].ports.http)
    }

    /// The peer address of node `i`.
    pub fn peer(&self, i: usize) -> String {
        format!("127.0.0.1:{}", self.nodes[i].ports.peer)
    }

    /// The process of node `i`, unless it is known to have ended.
    pub fn pid(&self, i: usize) -> Option<u32> {
        self.nodes[i].child.as_ref().and_then(Child::id)
    }

    /// Where configuration, data and logs are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What stands between the nodes, if anything does.
    pub fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    /// What stands between node `i` and its disk and calendar, if anything does.
    pub fn shim(&self, i: usize) -> Option<&Shim> {
        self.nodes[i].shim.as_ref()
    }

    /// The data directory of node `i`.
    pub fn data_dir(&self, i: usize) -> PathBuf {
        self.nodes[i].home.join("data")
    }

    /// The configuration file of node `i`.
    pub fn config(&self, i: usize) -> PathBuf {
        self.nodes[i].home.join("node.toml")
    }

    /// The log file of node `i`.
    pub fn log(&self, i: usize) -> PathBuf {
        self.nodes[i].home.join("log")
    }

    /// What a person types to start node `i` again.
    pub fn command_line(&self, i: usize) -> String {
        let config = self.config(i);
        let mut words =
            vec![self.binary.to_string_lossy(), "node".into(), "--config".into(), config.to_string_lossy()];
        words.extend(self.extra_args.iter().map(Into::into));
        words.iter().map(|word| shell_word(word)).collect::<Vec<_>>().join(" ")
    }

    /// Kills node `i` with SIGKILL and waits until it is gone. A node that is not running is left alone.
    pub async fn kill(&mut self, i: usize) -> anyhow::Result<()> {
        self.signal(i, Signal::SIGKILL)?;
        self.wait_exit(i, limits::REAP_MAX).await?;
        Ok(())
    }

    /// Kills all nodes at once, as a power cut would, and waits until all are gone.
    pub async fn kill_all(&mut self) -> anyhow::Result<()> {
        self.kill_these(&(0..self.len()).collect::<Vec<_>>()).await
    }

    /// Kills some nodes at once, and waits until they are gone.
    pub async fn kill_these(&mut self, nodes: &[usize]) -> anyhow::Result<()> {
        for i in nodes {
            self.signal(*i, Signal::SIGKILL)?;
        }
        for i in nodes {
            self.wait_exit(*i, limits::REAP_MAX).await?;
        }
        Ok(())
    }

    /// Asks node `i` to finish (SIGTERM) and waits for it. Returns its exit code, or `None` if a signal ended it or it
    /// was not running.
    pub async fn stop(&mut self, i: usize) -> anyhow::Result<Option<i32>> {
        self.signal(i, Signal::SIGTERM)?;
        Ok(self.wait_exit(i, limits::STOP_MAX).await?.and_then(|status| status.code()))
    }

    /// Asks all nodes to finish, all at once. Those that do not within the contract's 10 s are killed; their names are
    /// returned.
    pub async fn stop_all(&mut self) -> anyhow::Result<Vec<String>> {
        for i in 0..self.len() {
            self.signal(i, Signal::SIGTERM)?;
            // A paused process only hears SIGTERM once it runs again.
            self.signal(i, Signal::SIGCONT)?;
        }
        let deadline = Instant::now() + limits::STOP_MAX;
        let mut killed = Vec::new();
        for i in 0..self.len() {
            let left = deadline.saturating_duration_since(Instant::now());
            if self.wait_exit(i, left).await.is_err() {
                self.kill(i).await?;
                killed.push(name(i));
            }
        }
        Ok(killed)
    }

    /// Waits until all nodes have ended by themselves, or for `at_most`.
    pub async fn wait_all_ended(&mut self, at_most: Duration) {
        let deadline = Instant::now() + at_most;
        for i in 0..self.len() {
            // Whoever still runs is the business of the caller, which is about to stop them all.
            let _ = self.wait_exit(i, deadline.saturating_duration_since(Instant::now())).await;
        }
    }

    /// Stops node `i` in its tracks (SIGSTOP), until its last thread stands still: its sockets stay open and nothing
    /// answers.
    pub fn pause(&self, i: usize) -> anyhow::Result<()> {
        self.signal(i, Signal::SIGSTOP)?;
        let Some(pid) = self.running_pid(i)? else { return Ok(()) };
        let stopped_or_ended = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        waitid(Id::Pid(pid), stopped_or_ended)
            .with_context(|| format!("cannot wait for {} to stop", name(i)))?;
        Ok(())
    }

    /// Whether node `i` is stopped in its tracks, by word of the kernel: in its line of `/proc`, `T` behind the name in brackets.
    pub fn stands_still(&self, i: usize) -> bool {
        let line = self.pid(i).and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok());
        line.is_some_and(|line| {
            line.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
        })
    }

    /// Lets a paused node run on (SIGCONT).
    pub fn resume(&self, i: usize) -> anyhow::Result<()> {
        self.signal(i, Signal::SIGCONT)
    }

    /// Nodes that ended on their own since the last question, each with how. Each is told once.
    pub fn ended_now(&mut self) -> Option<(usize, String)> {
        for (i, node) in self.nodes.iter_mut().enumerate() {
            if let Some(child) = &mut node.child
                && let Ok(Some(status)) = child.try_wait()
            {
                node.child = None;
                return Some((i, status.to_string()));
            }
        }
        None
    }

    fn is_running(&mut self, i: usize) -> bool {
        match &mut self.nodes[i].child {
            Some(child) => !matches!(child.try_wait(), Ok(Some(_))),
            None => false,
        }
    }

    /// Signals node `i` if it runs. A child that ended but was not waited for keeps its pid, so this never hits a
    /// stranger.
    fn signal(&self, i: usize, signal: Signal) -> anyhow::Result<()> {
        let Some(pid) = self.running_pid(i)? else { return Ok(()) };
        nix::sys::signal::kill(pid, signal).with_context(|| format!("cannot send {signal} to {}", name(i)))
    }

    fn running_pid(&self, i: usize) -> anyhow::Result<Option<Pid>> {
        let Some(pid) = self.pid(i) else { return Ok(None) };
        Ok(Some(Pid::from_raw(i32::try_from(pid).context("a pid that does not fit")?)))
    }

    async fn wait_exit(&mut self, i: usize, at_most: Duration) -> anyhow::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.nodes[i].child else { return Ok(None) };
        let status = tokio::time::timeout(at_most, child.wait())
            .await
            .with_context(|| format!("{} was still running after {} s", name(i), at_most.as_secs()))??;
        self.nodes[i].child = None;
        Ok(Some(status))
    }

    /// The end of node `i`'s log, for an error message.
    pub fn log_tail(&self, i: usize) -> String {
        let path = self.log(i);
        match tail(&path) {
            Ok(text) if text.is_empty() => format!("({} is empty)", path.display()),
            Ok(text) => format!("the end of {}:\n{text}", path.display()),
            Err(error) => format!("({} can't be read: {error})", path.display()),
        }
    }
}

/// The name of node `i` in files and lines.
pub(crate) fn name(i: usize) -> String {
    format!("n{}", i + 1)
}

#[cfg(test)]
mod tests;
