//! The containers of `docker-compose.yml`, in a project of their own: with Compose 2 or 1.29, whichever is there.
//!
//! Everything is asked of the two commands, as a person would: containers are killed, paused and stopped, and taken off their
//! network. Their ports are those of the file, so a cluster that is up already is in the way, and that is said.

use crate::http::Http;
use crate::limits::{COMPOSE_READY_MAX, COMPOSE_STEP_MAX, CONNECT_MAX, READY_POLL};
use crate::run::Failure;
use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;
use tokio::process::Command;

/// The services with ports of their own, in their order.
const SERVICES: [&str; 5] = ["n1", "n2", "n3", "n4", "n5"];
const FIRST_PORT: usize = 8098;
/// How often it is taken down until nothing is left, and after what pause again.
const DOWN_TRIES_MAX: u32 = 5;
const DOWN_AGAIN: Duration = Duration::from_secs(2);

/// Containers that are ours.
#[derive(Debug)]
pub(crate) struct Compose {
    /// `docker compose -p … -f …`, in words.
    command: Vec<String>,
    project: String,
    /// Their names, in the order of the nodes.
    containers: Vec<String>,
    http: Http,
    /// Holds the file of what the nodes are told beside what stands in theirs.
    _settings: NamedTempFile,
}

impl Compose {
    /// Looks for the tools and the file. Nothing is up yet.
    pub(super) async fn new(file: &Path, settings: &[(&str, &str, u128)]) -> Result<Compose, Failure> {
        let mut command = tool().await.map_err(|error| Failure::Usage(format!("{error:#}")))?;
        if !file.is_file() {
            return Err(Failure::Usage(format!(
                "{} is not there; --compose-file says where it is",
                file.display()
            )));
        }
        let project = format!("cartwheel-chaos-{}", std::process::id());
        let settings = told_beside(settings)?;
        let files = [file.display().to_string(), settings.path().display().to_string()];
        command.extend(["-p".to_owned(), project.clone()]);
        command.extend(files.into_iter().flat_map(|file| ["-f".to_owned(), file]));
        Ok(Compose { command, project, containers: Vec::new(), http: Http::new(1)?, _settings: settings })
    }

    /// Brings the cluster up, and waits until all its nodes are ready and have their share. That there are no containers is wrong usage;
    /// that they are there and don't come together is their fault.
    pub(super) async fn up(&mut self) -> Result<(), Failure> {
        self.compose(&["up", "-d", "--no-build"], COMPOSE_READY_MAX).await.map_err(failure_to_come_up)?;
        for service in SERVICES {
            let id = self.compose(&["ps", "-q", service], COMPOSE_STEP_MAX).await?;
            if id.trim().is_empty() {
                return Err(Failure::Other(anyhow!("the service {service} has no container")));
            }
            self.containers.push(id.trim().to_owned());
        }
        Ok(self.await_ready(&[0, 1, 2, 3, 4]).await?)
    }

    pub(super) fn len(&self) -> usize {
        SERVICES.len()
    }

    pub(super) fn url(&self, i: usize) -> String {
        format!("http://127.0.0.1:{}", FIRST_PORT + 10 * i)
    }

    /// The names of its containers' nodes, in order.
    pub(super) fn containers(&self) -> Vec<(String, String)> {
        SERVICES.iter().map(|service| (*service).to_owned()).zip(self.containers.iter().cloned()).collect()
    }

    /// Ends them by that word of `docker`. Who has ended by itself is not to go as one that was ended, and a start would have that
    /// forgotten.
    pub(super) async fn end(&self, what: &str, nodes: &[usize]) -> Result<()> {
        if let Some((_, stray)) = self.strays().await?.into_iter().next() {
            bail!("{stray}");
        }
        self.each(what, nodes).await
    }

    /// One word of `docker` for several containers at once: `kill`, `stop`, `start`, `pause`, `unpause`.
    pub(super) async fn each(&self, what: &str, nodes: &[usize]) -> Result<()> {
        let mut words = vec!["docker", what];
        words.extend(nodes.iter().map(|i| self.containers[*i].as_str()));
        run(&words, COMPOSE_STEP_MAX).await.map(drop)
    }

    /// How many of these the engine holds still.
    pub(super) async fn paused(&self, nodes: &[usize]) -> Result<u64> {
        let mut words = vec!["docker", "inspect", "-f", "{{.State.Paused}}"];
        words.extend(nodes.iter().map(|i| self.containers[*i].as_str()));
        let told = run(&words, COMPOSE_STEP_MAX).await?;
        Ok(told.lines().filter(|line| line.trim() == "true").count() as u64)
    }

    /// Takes nodes off their network.
    pub(in crate::run) async fn cut_off(&self, nodes: &[usize]) -> Result<()> {
        for i in nodes {
            run(
                &["docker", "network", "disconnect", &self.network(), &self.containers[*i]],
                COMPOSE_STEP_MAX,
            )
            .await?;
        }
        Ok(())
    }

    /// Gives them their network back, under their old names.
    pub(in crate::run) async fn rejoin(&self, nodes: &[usize]) -> Result<()> {
        for i in nodes {
            let (network, container) = (self.network(), &self.containers[*i]);
            let words = ["docker", "network", "connect", "--alias", SERVICES[*i], &network, container];
            run(&words, COMPOSE_STEP_MAX).await?;
        }
        self.await_ready(nodes).await
    }

    fn network(&self) -> String {
        format!("{}_cartwheel", self.project)
    }

    /// Waits until these nodes are ready and all see one another.
    pub(super) async fn await_ready(&self, nodes: &[usize]) -> Result<()> {
        let deadline = Instant::now() + COMPOSE_READY_MAX;
        for i in nodes {
            loop {
                let Some(missing) = self.missing(*i).await else { break };
                ensure!(Instant::now() < deadline, "{} is not ready: {missing}", SERVICES[*i]);
                tokio::time::sleep(READY_POLL).await;
            }
        }
        Ok(())
    }

    async fn missing(&self, i: usize) -> Option<String> {
        let url = self.url(i);
        for path in ["/health/ready", "/v1/cluster"] {
            let reply = match self.http.get(&format!("{url}{path}"), CONNECT_MAX).await {
                Ok(reply) => reply,
                Err(error) => return Some(error.to_string()),
            };
            if !reply.is_done() {
                return Some(format!("{path} says {}", reply.problem()));
            }
            let told: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
            let no_members = Vec::new();
            let members = told["members"].as_array().unwrap_or(&no_members);
            let up = members.iter().filter(|member| member["status"] == "up").count();
            let settled = told["ring"]["settled"] == true;
            if path == "/v1/cluster" && (up < SERVICES.len() || !settled) {
                return Some(format!("{up} nodes are up, settled: {settled}"));
            }
        }
        None
    }

    /// Containers that ended though nobody ended them, each with how.
    pub(super) async fn strays(&self) -> Result<Vec<(usize, String)>> {
        let mut ended = Vec::new();
        for (i, (service, container)) in SERVICES.iter().zip(&self.containers).enumerate() {
            let format = "{{.State.Running}} {{.RestartCount}} {{.State.OOMKilled}}";
            let state = run(&["docker", "inspect", "-f", format, container], COMPOSE_STEP_MAX).await?;
            if state.trim() != "true 0 false" {
                let how = format!(
                    "{service} has ended by itself (running, restarts, out of memory: {})",
                    state.trim()
                );
                ended.push((i, how));
            }
        }
        Ok(ended)
    }

    pub(super) async fn logs(&self) -> Result<String> {
        self.compose(&["logs", "--no-color"], COMPOSE_STEP_MAX).await
    }

    /// Takes containers, networks and volumes away, and looks that none is left: the engine may still be making what was asked for
    /// before.
    pub(super) async fn down(&self) -> Result<()> {
        let label = format!("label=com.docker.compose.project={}", self.project);
        let mut left = String::new();
        for _ in 0..DOWN_TRIES_MAX {
            let down = self.compose(&["down", "-v", "--remove-orphans", "-t", "2"], COMPOSE_READY_MAX).await;
            left = down.err().map(|error| error.to_string()).unwrap_or_default();
            for kind in [["ps", "-aq"], ["volume", "ls"], ["network", "ls"]] {
                let words = ["docker", kind[0], kind[1], "-q", "--filter", &label];
                // Who does not say what is left is asked again.
                let said = run(&words, COMPOSE_STEP_MAX).await.unwrap_or_else(|error| error.to_string());
                left.push_str(said.trim());
            }
            if left.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(DOWN_AGAIN).await;
        }
        bail!("not everything of {} was taken down: {left}", self.project)
    }

    async fn compose(&self, words: &[&str], at_most: Duration) -> Result<String> {
        let all: Vec<&str> = self.command.iter().map(String::as_str).chain(words.iter().copied()).collect();
        run(&all, at_most).await
    }
}

/// What the tools say, of any version, when nothing could be run, each with what that means. Compose 1.29 says it in any line, and
/// ends with another one.
const WRONG_USAGE: [(&str, &str); 7] = [
    ("needs to be built", NO_IMAGE),
    ("No such image", NO_IMAGE),
    ("pull access denied", NO_IMAGE),
    ("failed to resolve", NO_IMAGE),
    ("dial tcp", NO_IMAGE),
    ("port is already allocated", NO_PORT),
    ("address already in use", NO_PORT),
];
const NO_IMAGE: &str =
    "the image of the nodes is not there; `make image` makes it, CARTWHEEL_IMAGE names another";
const NO_PORT: &str = "the ports 8098 to 8138 have to be free, and one is taken";

/// Without an image, or where its ports are taken, nothing could be run; whatever else keeps a cluster down is its fault.
fn failure_to_come_up(error: anyhow::Error) -> Failure {
    let said = error.downcast_ref::<Refused>().map_or("", |refused| &refused.said);
    for (words, meaning) in WRONG_USAGE {
        if let Some(line) = said.lines().find(|line| line.contains(words)) {
            return Failure::Usage(format!("the cluster does not come up: {meaning} ({})", line.trim()));
        }
    }
    Failure::Other(error.context("the cluster does not come up"))
}

/// A second file for Compose, which adds to the environments of the first one's services. JSON is YAML.
fn told_beside(settings: &[(&str, &str, u128)]) -> Result<NamedTempFile> {
    let variable = |(table, key, value): &(&str, &str, u128)| {
        (format!("CARTWHEEL_{table}_{key}").to_uppercase(), Value::from(value.to_string()))
    };
    let environment: serde_json::Map<String, Value> = settings.iter().map(variable).collect();
    let service = json!({ "environment": environment });
    let services: serde_json::Map<String, Value> =
        SERVICES.iter().map(|name| ((*name).to_owned(), service.clone())).collect();
    let mut file = tempfile::Builder::new().suffix(".yml").tempfile()?;
    serde_json::to_writer(&mut file, &json!({ "services": services }))?;
    Ok(file)
}

/// `docker compose`, or `docker-compose` where that is not there.
async fn tool() -> Result<Vec<String>> {
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    run(&["docker", "info"], COMPOSE_STEP_MAX).await.context("no Docker engine answers")?;
    if run(&["docker", "compose", "version"], COMPOSE_STEP_MAX).await.is_ok() {
        return Ok(words(&["docker", "compose"]));
    }
    run(&["docker-compose", "version"], COMPOSE_STEP_MAX)
        .await
        .context("neither `docker compose` nor `docker-compose` is here")?;
    Ok(words(&["docker-compose"]))
}

/// A command that failed, with all that it said.
#[derive(Debug, thiserror::Error)]
#[error("{command}: {}", said.trim().lines().last().unwrap_or_default())]
struct Refused {
    command: String,
    said: String,
}

/// A command and all that it has begun, which end with this: Compose may be a plugin, a process of its own that would go on to make
/// containers after they have been taken down.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // Whoever has ended already needs no end.
            let _gone = killpg(leader, Signal::SIGKILL);
        }
    }
}

async fn run(words: &[&str], at_most: Duration) -> Result<String> {
    let (program, args) = words.split_first().context("no command")?;
    let mut command = Command::new(program);
    // In a group of its own: a Ctrl-C is for us, and we take down what stands.
    command.args(args).stdin(Stdio::null()).process_group(0).kill_on_drop(true);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().with_context(|| format!("{program} can't be run"))?;
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
    let ran = tokio::time::timeout(at_most, child.wait_with_output()).await;
    let ran = ran.with_context(|| format!("{} took more than {} s", words.join(" "), at_most.as_secs()))?;
    let ran = ran.with_context(|| format!("{program} can't be run"))?;
    group.0 = None;
    if !ran.status.success() {
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        return Err(Refused { command: words.join(" "), said }.into());
    }
    Ok(String::from_utf8_lossy(&ran.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(said: &str) -> Failure {
        failure_to_come_up(Refused { command: "up".to_owned(), said: said.to_owned() }.into())
    }

    /// What a command has begun ends with it, as the plugin that `docker compose` is does.
    #[tokio::test]
    async fn a_command_that_is_not_waited_for_leaves_nothing_running() {
        let dir = tempfile::tempdir().unwrap();
        let (begun, pid) = (dir.path().join("begun"), dir.path().join("pid"));
        let script = format!("sleep 600 & echo $! > {} && mv {0} {}; wait", pid.display(), begun.display());
        let words = ["sh", "-c", &script];
        let running = run(&words, Duration::from_secs(60));
        let there = async {
            while !begun.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            biased;
            ended = running => panic!("it waits for its child: {ended:?}"),
            () = there => {}
        }
        let child = std::fs::read_to_string(&begun).unwrap();
        let runs = || {
            let state = std::fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
            state.contains("(sleep)") && !state.contains(") Z ")
        };
        let until = Instant::now() + Duration::from_secs(10);
        while runs() {
            assert!(Instant::now() < until, "its child still runs");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// As both versions of Compose say it, the reason being in the last line or not.
    #[test]
    fn what_was_never_there_is_told_from_what_broke() {
        let port = "ERROR: for n1  Cannot start service n1: Bind for 127.0.0.1:8098 failed: port is already allocated\n\
                    ERROR: Encountered errors while bringing up the project.\n";
        let image = "Service 'n1' needs to be built, but --no-build was passed.\n";
        let other_image = "Error response from daemon: No such image: nosuch:latest\n";
        for (said, expected) in [(port, NO_PORT), (image, NO_IMAGE), (other_image, NO_IMAGE)] {
            let Failure::Usage(line) = told(said) else { panic!("{said} is no wrong usage") };
            assert!(line.contains(expected) && line.lines().count() == 1, "{line}");
        }
        let Failure::Other(broke) = told("n1 is unhealthy\nERROR: Encountered errors\n") else {
            panic!("a node that does not become healthy is no wrong usage")
        };
        assert!(format!("{broke:#}").ends_with("up: ERROR: Encountered errors"), "{broke:#}");
    }
}
