//! `cartwheel chaos` as a person meets it: a run with its verdict and its report, clear words for what is not there, and a machine
//! that afterwards looks as it did before, however the run ended.

use anyhow::{Context, Result, ensure};
use client::{Client, ListOptions, ReadOptions, WriteOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tests::cluster::command;
use tokio::io::{AsyncBufReadExt, BufReader};

const RUN_MAX: Duration = Duration::from_secs(200);
const STOP_MAX: Duration = Duration::from_secs(20);
/// From the death of a node in a run of ten seconds.
const DEAD_TOLD_MAX: Duration = Duration::from_secs(90);

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

async fn chaos(args: &[&str], dir: &Path) -> Result<Ran> {
    let mut command = command()?;
    command.arg("chaos").args(args).current_dir(dir).stdin(Stdio::null()).env("TMPDIR", dir);
    let ran = tokio::time::timeout(RUN_MAX, command.output()).await.context("it did not end")??;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Ran { code: ran.status.code(), out: text(ran.stdout), err: text(ran.stderr) })
}

/// Processes whose command line names something in that directory.
fn processes_of(dir: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Ok(line) = std::fs::read(entry?.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&*dir.to_string_lossy()) {
            found.push(line);
        }
    }
    Ok(found)
}

/// What is mounted below that directory.
fn mounts_below(dir: &Path) -> Result<Vec<String>> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let is_there =
        |line: &&str| line.split(' ').nth(1).is_some_and(|place| Path::new(place).starts_with(dir));
    Ok(mounts.lines().filter(is_there).map(str::to_owned).collect())
}

/// Nothing runs, nothing is mounted, and nothing lies about but what was asked for.
fn left(dir: &Path) -> Result<Vec<String>> {
    let mut left = processes_of(dir)?;
    left.extend(mounts_below(dir)?);
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "cartwheel-chaos" {
            left.push(name);
        }
    }
    Ok(left)
}

#[tokio::test]
async fn a_run_ends_with_a_verdict_and_a_report_and_leaves_nothing() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let ran = chaos(&["run", "crash", "power-cut", "--seconds", "8", "--seed", "7"], dir.path()).await?;
    ensure!(ran.code == Some(0), "{:?}\n{}\n{}", ran.code, ran.out, ran.err);
    for promise in ["P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8"] {
        ensure!(ran.out.matches(&format!("│ {promise} ")).count() == 2, "{promise} is not in {}", ran.out);
    }
    ensure!(ran.out.contains("chaos: 2 runs, no promise broken"), "{}", ran.out);
    let last = ran.out.lines().last().unwrap_or_default();
    ensure!(last.contains(" acknowledged, 0 lost, 0 resurrected, 0 wrong. Report: "), "{last}");
    ensure!(ran.err.contains("killed") && ran.err.contains("power cut for"), "{}", ran.err);
    let page = std::fs::read_to_string(dir.path().join("cartwheel-chaos/report.html"))?;
    ensure!(page.matches("<svg").count() == 6, "not three plots for each run");
    // Readable without a network: nothing is fetched from anywhere.
    ensure!(
        !page.contains("src=") && !page.contains("<link") && !page.contains("<script"),
        "it fetches something"
    );
    let left = left(dir.path())?;
    ensure!(left.is_empty(), "left: {left:?}");
    Ok(())
}

/// Real processes whose calendars are set ahead and back by up to ten minutes while they run, once or again and again.
#[tokio::test]
async fn entry_12_calendars_that_jump_under_load_break_no_promise() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let ran = chaos(&["run", "clocks", "--seconds", "20", "--seed", "12"], dir.path()).await?;
    ensure!(ran.code == Some(0), "{:?}\n{}\n{}", ran.code, ran.out, ran.err);
    ensure!(ran.out.contains("chaos: 1 runs, no promise broken"), "{}", ran.out);
    let jumps: Vec<&str> = ran.err.lines().filter(|line| line.contains("is off by")).collect();
    ensure!(jumps.iter().any(|line| line.contains(", then ")), "none went to and fro: {jumps:?}");
    Ok(())
}

#[tokio::test]
async fn what_is_not_there_is_said_in_one_line() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let cases: [(&[&str], &str); 10] = [
        (&["run", "crash", "--target", "nosuch"], "there is no target \"nosuch\""),
        (&["run", "nosuch"], "no scenario is called \"nosuch\""),
        (&["run", "crash", "nosuch"], "no scenario is called \"nosuch\""),
        (&["run", "ring", "--target", "compose"], "ring can't be done to containers"),
        (
            &["run", "crash", "--target", "compose", "--compose-file", "nowhere.yml"],
            "nowhere.yml is not there",
        ),
        (&["run", "upgrade", "--previous", "nowhere"], "--previous nowhere: there is no such file"),
        (&["run", "retail", "--events", "nowhere.csv"], "--events nowhere.csv: there is no such file"),
        (&["run", "crash", "torn-log", "--seconds", "19"], "torn-log waits until all copies are equal"),
        (&["run", "bit-flips", "--seconds", "19"], "--seconds 20 at least"),
        (&["run", "calm", "--seed", "18446744073709551615"], "leaves no room for --seeds 1"),
    ];
    for (args, expected) in cases {
        let ran = chaos(args, dir.path()).await?;
        ensure!(ran.code == Some(2), "{args:?}: {:?} {}", ran.code, ran.err);
        // Where there is no Docker at all, that is what is said.
        let no_docker = ran.err.contains("no Docker engine answers");
        ensure!(ran.err.contains(expected) || no_docker, "{args:?}: {}", ran.err);
        ensure!(ran.err.lines().count() == 1 && ran.out.is_empty(), "{args:?}: {}{}", ran.out, ran.err);
    }
    let ran = chaos(&["list"], dir.path()).await?;
    ensure!(
        ran.code == Some(0) && ran.out.lines().count() > 10 && ran.out.contains("\ncrash "),
        "{}",
        ran.out
    );
    let left = left(dir.path())?;
    ensure!(left.is_empty(), "left: {left:?}");
    Ok(())
}

/// What there is to come from must be able to run, and be another build: else `upgrade` would hold by doing nothing.
#[tokio::test]
async fn no_earlier_build_is_said_in_one_line() -> Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("text"), "no binary")?;
    let this = command()?.as_std().get_program().to_string_lossy().into_owned();
    for (previous, expected) in
        [("text", "the file is not executable"), (&*this, "the same binary as this one")]
    {
        let ran = chaos(&["run", "upgrade", "--previous", previous], dir.path()).await?;
        ensure!(ran.code == Some(2), "{previous}: {:?} {}", ran.code, ran.err);
        ensure!(ran.err.contains(expected) && ran.err.lines().count() == 1, "{previous}: {}", ran.err);
        ensure!(ran.out.is_empty(), "{previous}: {}", ran.out);
    }
    Ok(())
}

/// An engine that does not answer, also on a machine that has one.
#[tokio::test]
async fn no_docker_is_said_in_one_line() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut command = command()?;
    command.args(["chaos", "run", "crash", "--target", "compose"]).current_dir(dir.path());
    command.env("TMPDIR", dir.path()).env("DOCKER_HOST", "unix:///nowhere").stdin(Stdio::null());
    let ran = tokio::time::timeout(STOP_MAX, command.output()).await.context("it did not end")??;
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    ensure!(ran.status.code() == Some(2), "{:?} {err}", ran.status);
    ensure!(err.contains("no Docker engine answers") && err.lines().count() == 1, "{err}");
    ensure!(out.is_empty(), "{out}");
    let left = std::fs::read_dir(dir.path())?.collect::<Result<Vec<_>, _>>()?;
    ensure!(left.is_empty(), "left: {left:?}");
    Ok(())
}

/// A node that ends though nobody ended it: the run says so soon after its load, and does not wait for what a dead node never does.
#[tokio::test]
async fn a_dead_node_is_told_of_soon_after_the_load() -> Result<()> {
    const LOAD_S: &str = "10";
    let dir = tempfile::tempdir()?;
    let mut command = command()?;
    command.args(["chaos", "run", "hot-key", "--seconds", LOAD_S]).current_dir(dir.path());
    command.env("TMPDIR", dir.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut lines = BufReader::new(child.stderr.take().context("no stderr")?).lines();
    loop {
        let line = tokio::time::timeout(RUN_MAX, lines.next_line()).await??.context("it has ended")?;
        if line.contains("clients at one key") {
            break;
        }
    }
    kill(Pid::from_raw(process_of(dir.path(), "/n3/node.toml")?), Signal::SIGKILL)?;
    let drain = async {
        let mut told = String::new();
        while let Some(line) = lines.next_line().await? {
            told.push_str(&line);
        }
        Result::<String>::Ok(told)
    };
    let ended = async { tokio::join!(child.wait_with_output(), drain) };
    // The load, the reads through four nodes, and the verdict. Through a dead one each key took half a minute.
    let (ran, told) = tokio::time::timeout(DEAD_TOLD_MAX, ended).await.context("it still waits")?;
    let (ran, told) = (ran?, told?);
    let out = String::from_utf8_lossy(&ran.stdout);
    ensure!(ran.status.code() == Some(1), "{:?}\n{out}\n{told}", ran.status);
    ensure!(out.contains("broken: n3 ended (signal: 9"), "{out}");
    ensure!(out.contains("not waited for: n3 ended by itself"), "{out}");
    ensure!(out.contains("hot-key, seed 1: BROKEN"), "{out}");
    Ok(())
}

/// Values that somebody deletes who is none of the run's clients are lost, as far as these can know: the run says so, names one, and
/// keeps its history.
#[tokio::test]
async fn what_is_lost_is_told_by_name() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut command = command()?;
    command.args(["chaos", "run", "calm", "--seconds", "10"]).current_dir(dir.path());
    command.env("TMPDIR", dir.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let child = command.spawn()?;
    let deleted =
        tokio::time::timeout(RUN_MAX, delete_some(dir.path())).await.context("nothing was written")??;
    let ran = tokio::time::timeout(RUN_MAX, child.wait_with_output()).await.context("it did not end")??;
    let out = String::from_utf8_lossy(&ran.stdout);
    ensure!(ran.status.code() == Some(1), "{:?}\n{out}", ran.status);
    ensure!(out.contains("calm, seed 1: BROKEN"), "{out}");
    ensure!(deleted.iter().any(|key| out.contains(&format!("{KEYS}/{key}"))), "none of {deleted:?} in {out}");
    ensure!(dir.path().join("cartwheel-chaos/calm-1.jsonl").is_file(), "no history is kept");
    Ok(())
}

/// The bucket of W3, in which each element has a key of its own.
const KEYS: &str = "w-keys";

/// Waits until a run below that directory has written some keys, and deletes a few of them.
async fn delete_some(dir: &Path) -> Result<Vec<String>> {
    let (url, keys) = loop {
        if let Ok(url) = url_of(dir, "/n1/node.toml")
            && let Ok(page) = Client::new(vec![url.clone()])?.keys(KEYS, &ListOptions::default()).await
            && page.keys.len() > 50
        {
            break (url, page.keys);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let (node, mut deleted) = (Client::new(vec![url])?, Vec::new());
    for key in keys.iter().take(5) {
        let context = node.get(KEYS, key, &ReadOptions::default()).await?.context;
        node.delete(KEYS, key, &WriteOptions { context, ..WriteOptions::default() }).await?;
        deleted.push(String::from_utf8(key.clone())?);
    }
    Ok(deleted)
}

/// Where the node listens for clients that was started from this file.
fn url_of(dir: &Path, file: &str) -> Result<String> {
    let line = std::fs::read_to_string(format!("/proc/{}/cmdline", process_of(dir, file)?))?;
    let path = line.split('\0').find(|word| word.contains(file)).context("it names its file")?;
    let told: toml::Table = std::fs::read_to_string(path)?.parse()?;
    Ok(format!("http://{}", told["http"].as_str().context("an address")?))
}

/// The process below that directory that was started from this file.
fn process_of(dir: &Path, file: &str) -> Result<i32> {
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let Ok(line) = std::fs::read_to_string(path.join("cmdline")) else { continue };
        if line.contains(&*dir.to_string_lossy()) && line.contains(file) {
            let pid = path.file_name().and_then(|name| name.to_str()).context("a process has a number")?;
            return Ok(pid.parse()?);
        }
    }
    anyhow::bail!("nobody runs from {file}")
}

/// A run of a minute that is told to end once it says that word; what was there by then is looked at first.
async fn interrupted(
    (scenario, word): (&str, &str),
    signal: Signal,
    dir: &Path,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<Option<i32>> {
    let mut command = command()?;
    command.args(["chaos", "run", scenario, "--seconds", "60"]).current_dir(dir).env("TMPDIR", dir);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut lines = BufReader::new(child.stderr.take().context("no stderr")?).lines();
    loop {
        let line = tokio::time::timeout(RUN_MAX, lines.next_line()).await??.context("it has ended")?;
        if line.contains(word) {
            break;
        }
    }
    ensure!(processes_of(dir)?.len() >= 5, "five nodes run");
    meanwhile()?;
    kill(Pid::from_raw(child.id().context("it has ended")?.try_into()?), signal)?;
    let ended = tokio::time::timeout(STOP_MAX, child.wait()).await;
    Ok(ended.with_context(|| format!("it still runs {} s after {signal}", STOP_MAX.as_secs()))??.code())
}

const SIGNALS: [(Signal, i32); 2] = [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)];

#[tokio::test]
async fn an_interrupt_takes_everything_down_again() -> Result<()> {
    for (signal, code) in SIGNALS {
        let dir = tempfile::tempdir()?;
        let ended = interrupted(("pause", "paused"), signal, dir.path(), || Ok(())).await?;
        ensure!(ended == Some(code), "{signal}: {ended:?}");
        let left = left(dir.path())?;
        ensure!(left.is_empty(), "{signal} left {left:?}");
    }
    Ok(())
}

/// A disk that was mounted for a node goes too. To mount one takes root: where that is not so, `scripts/test.sh` says that this was not
/// checked.
#[tokio::test]
async fn an_interrupt_takes_a_full_disk_away() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    for (signal, code) in SIGNALS {
        let dir = tempfile::tempdir()?;
        let is_mounted = || {
            ensure!(mounts_below(dir.path())?.len() == 1, "a disk is mounted");
            Ok(())
        };
        let ended = interrupted(("disk-full", "is full"), signal, dir.path(), is_mounted).await?;
        ensure!(ended == Some(code), "{signal}: {ended:?}");
        let left = left(dir.path())?;
        ensure!(left.is_empty(), "{signal} left {left:?}");
    }
    Ok(())
}
