//! The process: how it starts, what it refuses, how it ends, what it weighs, and `cartwheel dev`.

use crate::support::{eventually, expect_values, key_urls, put_blind};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};
use tests::checks::Checks;
use tests::cluster::{Cluster, command, free_port, free_ports};
use tests::http::{self, key_url};
use tokio::io::{AsyncBufReadExt, BufReader};

/// A start that ends by itself does so at once.
const REFUSAL_TIME_MAX: Duration = Duration::from_secs(10);
const IDLE_BYTES_MAX: u64 = 60 << 20;

/// Runs `cartwheel` with these arguments and environment until it ends by itself.
async fn run(args: &[&str], env: &[(&str, &str)]) -> Result<Output> {
    let mut command = command()?;
    command
        .args(args)
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let ended = tokio::time::timeout(REFUSAL_TIME_MAX, command.output()).await;
    Ok(ended
        .with_context(|| format!("cartwheel {args:?} {env:?} still runs after {REFUSAL_TIME_MAX:?}"))??)
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout))
}

#[tokio::test]
async fn signals_end_a_node_cleanly() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    let url = format!("{}?w=1", key_url(&cluster.url(0), "process", "k"));
    http::put(url).text("kept").send().await?.expect(204)?;
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        cluster.signal(0, signal)?;
        let status = cluster.ended(0).await?;
        ensure!(status.code() == Some(0), "{signal} ended the node with {status}\n{}", cluster.log_tails());
        cluster.restart(0).await?;
        let url = format!("{}?r=1", key_url(&cluster.url(0), "process", "k"));
        expect_values(&url, &["kept"]).await?.expect(200)?;
    }
    Ok(())
}

/// Arguments and environment of a start, and what the message has to name.
type Refused<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str);

#[tokio::test]
async fn a_wrong_configuration_ends_the_start_and_names_the_key() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let data = data.to_str().context("a temporary path is text")?;
    let file = |name: &str, text: &str| -> Result<String> {
        let path = dir.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.to_str().context("a temporary path is text")?.to_owned())
    };
    let unknown = file("unknown.toml", "frobnicate = 1\n")?;
    let nested = file("nested.toml", "[limits]\nfrobnicate = 1\n")?;
    let wrong_type = file("type.toml", "http = 7\n")?;
    let wrong_address = file("address.toml", "peer = \"nowhere\"\n")?;
    let too_large = file("large.toml", "[limits]\nvalue_bytes = 67108865\n")?;
    let no_number = file("number.toml", "[limits]\nvalue_bytes = \"many\"\n")?;
    let no_toml = file("syntax.toml", "http = = 1\n")?;
    let missing = dir.path().join("missing.toml").to_str().context("a temporary path is text")?.to_owned();
    let cases: &[Refused<'_>] = &[
        (&["--http", "nonsense"], &[], "http"),
        (&["--peer", "127.0.0.1:99999"], &[], "peer"),
        (&["--frobnicate"], &[], "frobnicate"),
        (&["--seed", "no port"], &[], "seed"),
        (&[], &[("CARTWHEEL_HTTP", "nonsense")], "http"),
        (&[], &[("CARTWHEEL_PEER", "nonsense")], "peer"),
        (&["--config", &unknown], &[], "frobnicate"),
        (&[], &[("CARTWHEEL_CONFIG", &unknown)], "frobnicate"),
        (&["--config", &nested], &[], "frobnicate"),
        (&["--config", &wrong_type], &[], "http"),
        (&["--config", &wrong_address], &[], "peer"),
        (&["--config", &too_large], &[], "value_bytes"),
        (&["--config", &no_number], &[], "value_bytes"),
        (&["--config", &no_toml], &[], "syntax.toml"),
        (&["--config", &missing], &[], "missing.toml"),
    ];
    let mut checks = Checks::new();
    for (args, env, named) in cases {
        checks
            .run(&format!("{args:?} {env:?} is refused"), async {
                let args: Vec<&str> =
                    ["node", "--data-dir", data].into_iter().chain(args.iter().copied()).collect();
                let output = run(&args, env).await?;
                let text = said(&output);
                ensure!(output.status.code() == Some(2), "ended with {}: {text}", output.status);
                ensure!(text.to_lowercase().contains(named), "does not name {named:?}: {text}");
                ensure!(!text.contains("panicked"), "{text}");
                Ok(())
            })
            .await;
    }
    checks
        .run("a refused start leaves no data directory behind", async {
            ensure!(!std::path::Path::new(data).exists(), "{data} was made");
            Ok(())
        })
        .await;
    checks.finish(&[])
}

#[tokio::test]
async fn a_flag_wins_over_the_environment_and_that_over_the_file() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let [file, env, flag] = [free_port()?, free_port()?, free_port()?];
    let config = dir.path().join("cartwheel.toml");
    let peer = free_port()?;
    let data = dir.path().join("data");
    std::fs::write(
        &config,
        format!(
            "http = \"127.0.0.1:{file}\"\npeer = \"127.0.0.1:{peer}\"\ndata_dir = {:?}\n",
            data.display().to_string()
        ),
    )?;
    for (sources, port) in [("file", file), ("file and environment", env), ("all three", flag)] {
        let mut command = command()?;
        command
            .arg("node")
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if sources != "file" {
            command.env("CARTWHEEL_HTTP", format!("127.0.0.1:{env}"));
        }
        if sources == "all three" {
            command.args(["--http", &format!("127.0.0.1:{flag}")]);
        }
        let mut child = command.spawn()?;
        let url = format!("http://127.0.0.1:{port}/health/live");
        let found =
            eventually(Duration::from_secs(20), || async { http::get(&url).send().await?.expect(200) }).await;
        found.with_context(|| format!("{sources}: expected the port {port}"))?;
        ensure!(data.is_dir(), "the data directory of the file was not used");
        kill(Pid::from_raw(child.id().context("it runs")?.try_into()?), Signal::SIGTERM)?;
        let status = tokio::time::timeout(Duration::from_secs(15), child.wait()).await??;
        ensure!(status.success(), "{sources}: ended with {status}");
    }
    Ok(())
}

#[tokio::test]
async fn a_data_directory_in_use_is_refused() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let data = cluster.data_dir(0).to_str().context("a temporary path is text")?;
    let (http_address, peer) = (format!("127.0.0.1:{}", free_port()?), format!("127.0.0.1:{}", free_port()?));
    let output = run(&["node", "--http", &http_address, "--peer", &peer, "--data-dir", data], &[]).await?;
    let text = said(&output);
    ensure!(output.status.code().is_some_and(|code| code != 0), "ended with {}: {text}", output.status);
    ensure!(text.contains(data), "does not name the directory: {text}");
    ensure!(!text.contains("panicked"), "{text}");
    let url = format!("{}?w=1", key_url(&cluster.url(0), "process", "k"));
    http::put(url).text("still served").send().await?.expect(204)?;
    let ready = http::get(format!("{}/health/ready", cluster.url(0))).send().await?;
    ready.expect(200).map(drop)
}

#[tokio::test]
async fn a_data_directory_of_another_cluster_is_refused() -> Result<()> {
    let mut ours = Cluster::start(1).await?;
    let theirs = Cluster::start(1).await?;
    ours.stop(0).await?;
    // Ours already belongs to a cluster; a seed of another one can't make it theirs.
    let data = ours.data_dir(0).to_str().context("a temporary path is text")?;
    let (http_address, peer) = (format!("127.0.0.1:{}", free_port()?), format!("127.0.0.1:{}", free_port()?));
    let args =
        ["node", "--http", &http_address, "--peer", &peer, "--data-dir", data, "--seed", &theirs.peer(0)];
    let mut command = command()?;
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    // It may end at once or go on alone: either way it has not become a member.
    let ended = tokio::time::timeout(Duration::from_secs(4), child.wait()).await;
    ensure!(ended.is_err() || !ended??.success(), "a refused start does not end with 0");
    let view = http::get(format!("{}/v1/cluster", theirs.url(0))).send().await?.expect(200)?.json()?;
    ensure!(
        view["members"].as_array().map(Vec::len) == Some(1),
        "a member of another cluster got in: {view}"
    );
    ensure!(theirs.panics().is_empty(), "{:?}", theirs.panics());
    Ok(())
}

#[tokio::test]
async fn a_node_is_small_idle_and_quickly_ready() -> Result<()> {
    let mut alone = Cluster::prepare(1)?;
    let started = Instant::now();
    alone.spawn(0)?;
    alone.await_ready().await?;
    let took = started.elapsed();
    // Two seconds are promised; the rest is for a machine that builds something else meanwhile.
    ensure!(took < Duration::from_secs(4), "ready after {took:?}");
    drop(alone);

    let cluster = Cluster::start(3).await?;
    put_blind(&key_urls(&cluster, "process", "k")[0], "v").await?;
    let processor_before =
        (0..3).map(|index| processor_time(cluster.pid(index)?)).collect::<Result<Vec<_>>>()?;
    let watched = Instant::now();
    tokio::time::sleep(Duration::from_secs(6)).await;
    for (index, before) in processor_before.into_iter().enumerate() {
        let pid = cluster.pid(index)?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let bytes = resident.trim().trim_end_matches(" kB").parse::<u64>()? << 10;
        ensure!(bytes < IDLE_BYTES_MAX, "node {index} holds {bytes} bytes, {IDLE_BYTES_MAX} are allowed");
        let used = processor_time(pid)? - before;
        let share = used.as_secs_f64() / watched.elapsed().as_secs_f64();
        // One per cent is promised of an optimised build; this one may not be.
        ensure!(share < 0.04, "an idle node {index} takes {:.1} % of a core", share * 100.0);
    }
    Ok(())
}

/// Time on a processor so far, from `/proc/PID/stat` in ticks of 10 ms.
fn processor_time(pid: i32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("no name in stat")?.1.split_whitespace().collect();
    let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}

#[tokio::test]
async fn dev_brings_up_a_cluster_and_takes_it_down() -> Result<()> {
    let base = free_ports(30)?;
    let dir = tempfile::tempdir()?;
    let mut command = command()?;
    command
        .args(["dev", "--nodes", "3", "--base-port", &base.to_string()])
        .arg("--data-dir")
        .arg(dir.path().join("dev"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let started = Instant::now();
    let mut dev = command.spawn()?;
    let mut lines = BufReader::new(dev.stdout.take().context("stdout is a pipe")?).lines();
    let (told, mut said_curl) = tokio::sync::watch::channel(false);
    let reading = tokio::spawn(async move {
        let mut text = String::new();
        while let Ok(Some(line)) = lines.next_line().await {
            told.send_if_modified(|said| line.contains("curl") && !std::mem::replace(said, true));
            text += &format!("{line}\n");
        }
        text
    });
    let url = key_url(&format!("http://127.0.0.1:{base}"), "dev", "k");
    let put =
        eventually(Duration::from_secs(15), || async { http::put(&url).text("v").send().await?.expect(204) });
    put.await.context("the first put")?;
    let took = started.elapsed();
    let ready = eventually(Duration::from_secs(15), || async {
        for index in 0..3 {
            let url = format!("http://127.0.0.1:{}/health/ready", base + 10 * index);
            http::get(url).send().await?.expect(200)?;
        }
        Ok(())
    });
    ready.await?;
    // The nodes may be ready a moment before dev has seen it and printed its first curl.
    tokio::time::timeout(Duration::from_secs(15), said_curl.wait_for(|said| *said))
        .await
        .context("no curl is printed")??;
    kill(Pid::from_raw(dev.id().context("dev runs")?.try_into()?), Signal::SIGINT)?;
    let status = tokio::time::timeout(Duration::from_secs(25), dev.wait())
        .await
        .context("dev goes on after SIGINT")??;
    let text = tokio::time::timeout(Duration::from_secs(5), reading)
        .await
        .context("somebody still holds the output")??;
    let pids = printed_pids(&text);
    let left: Vec<i32> = pids.iter().copied().filter(|&pid| is_cartwheel(pid)).collect();
    for &pid in &left {
        // What dev left behind this test started too: it must not outlive it.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    ensure!(status.code() == Some(0), "dev ended with {status}: {text}");
    ensure!(pids.len() >= 3, "one pid for each node, found {pids:?} in {text}");
    ensure!(left.is_empty(), "{left:?} still run after dev has ended: {text}");
    for named in ["curl", "/ui", &base.to_string(), &(base + 10).to_string(), &(base + 20).to_string()] {
        ensure!(text.contains(named), "no {named:?} in what dev printed: {text}");
    }
    // Three seconds are promised; the rest is for a machine that builds something else meanwhile.
    ensure!(took < Duration::from_secs(5), "the first put was answered after {took:?}");
    Ok(())
}

/// The numbers that follow the word `pid`.
fn printed_pids(text: &str) -> Vec<i32> {
    let after = text.match_indices("pid").map(|(place, _)| &text[place + 3..]);
    let number = |rest: &str| {
        let start = rest.find(|c: char| c.is_ascii_digit()).filter(|&start| start <= 3)?;
        rest[start..].split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    after.filter_map(number).collect()
}

fn is_cartwheel(pid: i32) -> bool {
    let Ok(name) = std::fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let first = name.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(first).contains("cartwheel")
}

#[tokio::test]
async fn a_stopping_node_finishes_what_is_in_flight() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    // A long poll that would last for long, and a put half sent: neither may hold the stop beyond its bound.
    let context = put_blind(&key_urls(&cluster, "process", "flight")[0], "v").await?.context()?;
    let url = format!(
        "{}?since={}&wait_ms=60000",
        key_urls(&cluster, "process", "flight")[1],
        http::encode(&context)
    );
    let poll = tokio::spawn(http::get(url).send());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let started = Instant::now();
    let status = cluster.stop(1).await?;
    ensure!(status.success(), "SIGTERM ended the node with {status}");
    ensure!(started.elapsed() < Duration::from_secs(12), "the stop took {:?}", started.elapsed());
    match poll.await? {
        Ok(reply) if reply.status < 500 || reply.status == 503 => {}
        Ok(reply) => bail!("the poll was answered with {reply}"),
        Err(_) => {}
    }
    ensure!(cluster.panics().is_empty(), "{:?}", cluster.panics());
    Ok(())
}
