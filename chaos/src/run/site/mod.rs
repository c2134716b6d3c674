//! The cluster that is broken: processes on this machine, or containers. What both can bear stands here; what only processes can
//! is asked of them.

mod compose;

pub(super) use compose::Compose;

use super::memory::Whose;
use super::trouble::Trouble;
use super::{Failure, RunArgs, Target};
use crate::target::process::{LocalCluster, Options, name};
use anyhow::{Result, bail};
use std::collections::BTreeSet;
use std::time::Duration;

/// A disk that can be filled in a moment, and that holds what a run writes.
const SMALL_DISK: u64 = 192 << 20;
/// What the clients of a run write to one node, with room for tables that are merged.
const WRITTEN_A_SECOND: u64 = 2 << 20;

/// What a node takes at once in `overload`: of five nodes a fifth of what its clients ask at once, and more than all others ask.
const FEW_AT_ONCE: u32 = 24;
/// As short as is safe: what a run has deleted in its first half minute is to be forgotten by its end.
pub(super) const GRACE: Duration = Duration::from_secs(20);

/// What nodes of a run are told beside what they are by themselves: keys of their configuration.
fn settings(trouble: Trouble) -> Vec<(&'static str, &'static str, u128)> {
    let mut settings = vec![("reap", "grace_ms", GRACE.as_millis())];
    if trouble == Trouble::Overload {
        settings.push(("limits", "in_flight", u128::from(FEW_AT_ONCE)));
    }
    settings
}

fn as_toml(settings: &[(&str, &str, u128)]) -> String {
    settings.iter().map(|(table, key, value)| format!("[{table}]\n{key} = {value}\n")).collect()
}

/// A cluster that is there to be broken.
#[derive(Debug)]
pub(super) enum Site {
    Local(Box<LocalCluster>),
    Compose(Compose),
}

impl Site {
    /// A whole cluster, all well, or the beginning of one: see [`Site::come_up`].
    pub(super) async fn start(
        options: &RunArgs,
        trouble: Trouble,
        load: Duration,
        seed: u64,
    ) -> Result<Site, Failure> {
        match options.target {
            Target::Compose => {
                Ok(Site::Compose(Compose::new(&options.compose_file, &settings(trouble)).await?))
            }
            Target::Local => {
                let previous = options.previous.clone().filter(|_| trouble == Trouble::Upgrade);
                let options = Options {
                    binary: previous.map_or_else(std::env::current_exe, Ok)?,
                    nodes: usize::from(options.nodes),
                    dir: None,
                    base_port: None,
                    extra_args: Vec::new(),
                    proxy: Some(seed),
                    shim: trouble.needs_shim(),
                    config: as_toml(&settings(trouble)),
                    small_disk: (trouble == Trouble::DiskFull)
                        .then(|| SMALL_DISK + load.as_secs() * WRITTEN_A_SECOND),
                };
                Ok(Site::Local(Box::new(LocalCluster::start(options).await?)))
            }
        }
    }

    /// Brings up what is not there yet. Containers outlive whoever began to make them, so there must be something by then that can
    /// be taken down.
    pub(super) async fn come_up(&mut self) -> Result<(), Failure> {
        match self {
            Site::Local(_) => Ok(()),
            Site::Compose(compose) => compose.up().await,
        }
    }

    /// By what its processes are known.
    pub(super) fn whose(&self) -> Whose {
        match self {
            Site::Local(cluster) => Whose::From(cluster.dir().to_owned()),
            Site::Compose(compose) => Whose::In(compose.containers()),
        }
    }

    /// How many nodes there are, running or not.
    pub(super) fn len(&self) -> usize {
        match self {
            Site::Local(cluster) => cluster.len(),
            Site::Compose(compose) => compose.len(),
        }
    }

    /// Where clients meet them.
    pub(super) fn urls(&self) -> Vec<String> {
        (0..self.len()).map(|i| self.url(i)).collect()
    }

    pub(super) fn url(&self, i: usize) -> String {
        match self {
            Site::Local(cluster) => cluster.url(i),
            Site::Compose(compose) => compose.url(i),
        }
    }

    /// Processes of our own, for what only they can bear.
    pub(super) fn local(&mut self) -> Result<&mut LocalCluster> {
        match self {
            Site::Local(cluster) => Ok(cluster),
            Site::Compose(_) => bail!("this can't be done to containers"),
        }
    }

    /// SIGKILL, to all of them before the first is waited for. How many ran until then, and don't any more.
    pub(super) async fn kill(&mut self, nodes: &[usize]) -> Result<u64> {
        match self {
            Site::Local(cluster) => {
                // Who has ended by itself is not to go as one that was killed.
                if let Some((i, how)) = cluster.ended_now() {
                    bail!("{} ended by itself ({how})\n{}", name(i), cluster.log_tail(i));
                }
                let ran =
                    |cluster: &LocalCluster| nodes.iter().filter(|i| cluster.pid(**i).is_some()).count();
                let before = ran(cluster);
                cluster.kill_these(nodes).await?;
                Ok((before - ran(cluster)) as u64)
            }
            // The engine refuses to kill one that does not run.
            Site::Compose(compose) => compose.end("kill", nodes).await.map(|()| nodes.len() as u64),
        }
    }

    /// SIGTERM, and waits for the end.
    pub(super) async fn stop(&mut self, i: usize) -> Result<()> {
        match self {
            Site::Local(cluster) => match cluster.stop(i).await? {
                Some(0) => Ok(()),
                how => bail!("{} was asked to end and did so with {how:?}\n{}", name(i), cluster.log_tail(i)),
            },
            Site::Compose(compose) => compose.end("stop", &[i]).await,
        }
    }

    /// Starts nodes that have ended, and waits until they are ready.
    pub(super) async fn start_again(&mut self, nodes: &[usize]) -> Result<()> {
        match self {
            Site::Local(cluster) => {
                for i in nodes {
                    cluster.start_again(*i)?;
                }
                for i in nodes {
                    cluster.wait_ready(*i).await?;
                }
                Ok(())
            }
            Site::Compose(compose) => {
                compose.each("start", nodes).await?;
                compose.await_ready(nodes).await
            }
        }
    }

    /// They stand still, with their sockets open.
    pub(super) async fn pause(&mut self, nodes: &[usize]) -> Result<()> {
        match self {
            Site::Local(cluster) => nodes.iter().try_for_each(|i| cluster.pause(*i)),
            Site::Compose(compose) => compose.each("pause", nodes).await,
        }
    }

    /// How many of these stand still: by word of the kernel, or of the engine.
    pub(super) async fn standing_still(&self, nodes: &[usize]) -> Result<u64> {
        match self {
            Site::Local(cluster) => Ok(nodes.iter().filter(|i| cluster.stands_still(**i)).count() as u64),
            Site::Compose(compose) => compose.paused(nodes).await,
        }
    }

    pub(super) async fn resume(&mut self, nodes: &[usize]) -> Result<()> {
        match self {
            Site::Local(cluster) => nodes.iter().try_for_each(|i| cluster.resume(*i)),
            Site::Compose(compose) => compose.each("unpause", nodes).await,
        }
    }

    /// The nodes that ended though nobody ended them, each with how. A process is told of once, a container each time.
    pub(super) async fn strays(&mut self, removed: &BTreeSet<usize>) -> Result<Vec<(usize, String)>> {
        match self {
            Site::Local(cluster) => {
                let mut ended = Vec::new();
                while let Some((i, how)) = cluster.ended_now() {
                    if !removed.contains(&i) {
                        ended.push((i, format!("{} ended ({how})\n{}", name(i), cluster.log_tail(i))));
                    }
                }
                Ok(ended)
            }
            Site::Compose(compose) => compose.strays().await,
        }
    }

    /// Lines of panics in the logs.
    pub(super) async fn panics(&self) -> Result<Vec<String>> {
        let logs = match self {
            Site::Local(cluster) => {
                let read = |i| Ok(String::from_utf8_lossy(&std::fs::read(cluster.log(i))?).into_owned());
                (0..cluster.len()).map(read).collect::<std::io::Result<Vec<_>>>()?
            }
            Site::Compose(compose) => vec![compose.logs().await?],
        };
        let panics = logs.iter().flat_map(|log| log.lines()).filter(|line| line.contains("panicked at"));
        Ok(panics.map(str::to_owned).collect())
    }

    /// Takes everything away: processes, mounts, containers, networks, volumes, files.
    pub(super) async fn take_down(self) -> Result<()> {
        match self {
            Site::Local(cluster) => cluster.take_down(),
            Site::Compose(compose) => compose.down().await,
        }
    }
}
