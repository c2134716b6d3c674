//! What grows with a client's bad will has its end: versions of one key, answers that nobody reads, what may be changed
//! while too few nodes are there to ask.

use crate::support::{eventually, put_blind};
use anyhow::{Context, Result, ensure};
use node::limits::REFUSED_PAUSE;
use serde_json::json;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tests::checks::Checks;
use tests::cluster::{Cluster, command, free_port};
use tests::http::{self, bucket_url, key_url};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const MIB: usize = 1 << 20;
/// More than fit into the room for unread answers, with 4 MiB each, whatever the kernel takes of them.
const SLOW_CLIENTS: usize = 120;

#[tokio::test]
async fn nothing_grows_without_end() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let c = &cluster;
    let mut checks = Checks::new();
    checks.run("versions of one key are refused before they outgrow a frame", heavy_siblings(c)).await;
    checks.run("answers that nobody reads are bounded, and small ones still go", slow_readers(c)).await;
    checks.finish(&[&cluster])
}

async fn heavy_siblings(c: &Cluster) -> Result<()> {
    let url = |index: usize| key_url(&c.url(index % 3), "bounds", "heavy");
    let mut taken = 0;
    let refused = loop {
        let value = vec![b'a' + u8::try_from(taken)?; 3 * MIB];
        let reply = http::put(url(taken)).body(value).send().await?.expect_one_of(&[204, 422])?;
        if reply.status == 422 {
            break reply.problem_code(422, "sibling_limit")?;
        }
        taken += 1;
        ensure!(taken <= 20, "20 values of 3 MiB stand side by side");
    };
    ensure!(taken >= 4 && refused["outcome"] == "not_applied", "after {taken}: {refused}");
    let read = http::get(url(2)).send().await?.expect(300)?;
    ensure!(read.siblings()? == taken, "{} of {taken} values are there", read.siblings()?);
    let deleted = http::delete(url(1)).send().await?.expect(204)?;
    ensure!(deleted.siblings()? == 0, "a delete goes always: {deleted}");
    put_blind(&url(0), "small again").await.map(drop)
}

async fn slow_readers(c: &Cluster) -> Result<()> {
    let (large, small) = (key_url(&c.url(0), "bounds", "large"), key_url(&c.url(0), "bounds", "small"));
    http::put(&large).body(vec![7; 4 * MIB]).send().await?.expect(204)?;
    put_blind(&small, "small").await?;
    let address: SocketAddr = c.http(0).parse()?;
    let mut idle: Vec<TcpStream> = Vec::new();
    for _ in 0..SLOW_CLIENTS {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(2048)?;
        let mut stream = socket.connect(address).await?;
        stream.write_all(b"GET /v1/buckets/bounds/keys/large HTTP/1.1\r\nhost: x\r\n\r\n").await?;
        idle.push(stream);
    }
    eventually(Duration::from_secs(20), || async {
        http::get(&large).send().await?.problem_code(429, "overloaded").map(drop)
    })
    .await?;
    http::get(&small).send().await?.expect(200)?;
    // What is done is no refusal, even if there is no room for the answer's body.
    let versions = format!("{}?return=versions", key_url(&c.url(0), "bounds", "answered"));
    let value = vec![8; 4 * MIB];
    let told = http::put(&versions).body(value.clone()).send().await?.expect(204)?;
    ensure!(told.body.is_empty() && !told.need("cartwheel-context")?.is_empty(), "{told}");
    drop(idle);
    let read = http::get(key_url(&c.url(1), "bounds", "answered")).send().await?.expect(200)?;
    ensure!(read.body == value, "{} bytes were read", read.body.len());
    eventually(Duration::from_secs(20), || async { http::get(&large).send().await?.expect(200).map(drop) })
        .await
}

/// Peak and present resident memory of a process, in bytes; the peak is counted from now on.
fn resident(pid: u32, from_now: bool) -> Result<(usize, usize)> {
    if from_now {
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
    }
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
        Ok::<usize, anyhow::Error>(line.trim().trim_end_matches(" kB").parse::<usize>()? << 10)
    };
    Ok((field("VmHWM:")?, field("VmRSS:")?))
}

/// All values in one partition, the worst case of a page.
#[tokio::test]
async fn a_listing_does_not_hold_the_values() -> Result<()> {
    const VALUES: usize = 64;
    let dir = tempfile::tempdir()?;
    let data = dir.path().to_str().context("a temporary path is text")?;
    let (web, peer) = (format!("127.0.0.1:{}", free_port()?), format!("127.0.0.1:{}", free_port()?));
    let mut command = command()?;
    command.args(["node", "--http", &web, "--peer", &peer, "--data-dir", data, "--partitions", "1"]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let base = format!("http://{web}");
    let ready = format!("{base}/health/ready");
    eventually(Duration::from_secs(20), || async { http::get(&ready).send().await?.expect(200).map(drop) })
        .await?;
    for number in 0..VALUES {
        let value = vec![u8::try_from(number)?; 4 * MIB];
        http::put(key_url(&base, "listed", format!("k{number}"))).body(value).send().await?.expect(204)?;
    }
    let pid = child.id().context("it runs")?;
    let (_, before) = resident(pid, true)?;
    let listed =
        http::get(format!("{}/keys", bucket_url(&base, "listed"))).send().await?.expect(200)?.json()?;
    ensure!(listed["items"].as_array().map(Vec::len) == Some(VALUES), "{listed}");
    let (peak, _) = resident(pid, false)?;
    let grown = peak.saturating_sub(before);
    ensure!(grown < 96 * MIB, "a page of {VALUES} keys took {} MiB", grown / MIB);
    Ok(())
}

/// Asks for a key over a connection of its own.
async fn ask_raw(address: &str, query: &str) -> Result<TcpStream> {
    let mut client = TcpStream::connect(address).await?;
    ask_again(&mut client, query).await?;
    Ok(client)
}

async fn ask_again(client: &mut TcpStream, query: &str) -> Result<()> {
    let request = format!("GET /v1/buckets/bounds/keys/k{query} HTTP/1.1\r\nhost: x\r\n\r\n");
    Ok(client.write_all(request.as_bytes()).await?)
}

/// The status line of the next answer; answers here are shorter than a segment.
async fn answered(client: &mut TcpStream) -> Result<String> {
    let mut part = [0; 4096];
    let length = tokio::time::timeout(Duration::from_secs(20), client.read(&mut part)).await??;
    let text = String::from_utf8_lossy(&part[..length]).into_owned();
    Ok(text.lines().next().context("the connection was closed")?.to_owned())
}

/// All that this node takes at once are two requests, and two long polls are there.
#[tokio::test]
async fn who_was_refused_is_read_again_when_something_is_done() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().to_str().context("a temporary path is text")?;
    let (web, peer) = (format!("127.0.0.1:{}", free_port()?), format!("127.0.0.1:{}", free_port()?));
    let mut command = command()?;
    command.args(["node", "--http", &web, "--peer", &peer, "--data-dir", data]);
    command.env("CARTWHEEL_LIMITS_IN_FLIGHT", "2");
    let _node = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let key = key_url(&format!("http://{web}"), "bounds", "k");
    let written = eventually(Duration::from_secs(20), || async {
        http::put(&key).header("content-type", "text/plain").body("v").send().await?.expect(204)
    })
    .await?;
    let poll = format!("?since={}&wait_ms=30000", written.context()?);
    let mut polls = [ask_raw(&web, &poll).await?, ask_raw(&web, &poll).await?];
    let (begun, mut refused) = (Instant::now(), ask_raw(&web, "").await?);
    while !answered(&mut refused).await?.contains("429") {
        ensure!(begun.elapsed() < Duration::from_secs(20), "there is room beside two polls");
        // A poll may have been refused itself: the write before it had its answer sooner than it gave back its place.
        for poller in &mut polls {
            if poller.try_read(&mut [0; 4096]).is_ok() {
                ask_again(poller, &poll).await?;
            }
        }
        ask_again(&mut refused, "").await?;
    }
    let asked = Instant::now();
    ask_again(&mut refused, "").await?;
    let other = answered(&mut ask_raw(&web, "").await?).await?;
    ensure!(other.contains("429"), "somebody else is told at once: {other}");
    let early = refused.try_read(&mut [0; 1]).map(|_| asked.elapsed());
    ensure!(early.as_ref().map_or(true, |took| *took >= REFUSED_PAUSE), "it was answered after {early:?}");
    let [first, _second] = polls;
    drop(first);
    // On a slow machine it may have been refused once more meanwhile.
    while !answered(&mut refused).await?.contains("200") {
        ask_again(&mut refused, "").await?;
        ensure!(asked.elapsed() < Duration::from_secs(20), "it is refused although one poll is gone");
    }
    Ok(())
}

/// One node of three, alone after a restart, that has missed the only write.
#[tokio::test]
async fn one_node_alone_promises_nothing() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    cluster.kill(2).await?;
    put_blind(&key_url(&cluster.url(0), "typed", "k"), "value").await?;
    cluster.kill(0).await?;
    cluster.kill(1).await?;
    cluster.spawn(2)?;
    let (live, ready) =
        (format!("{}/health/live", cluster.url(2)), format!("{}/health/ready", cluster.url(2)));
    eventually(Duration::from_secs(20), || async { http::get(&live).send().await?.expect(200).map(drop) })
        .await?;
    let mut checks = Checks::new();
    checks
        .run("it is not ready from its first answer on", async {
            http::get(&ready).send().await?.expect(503).map(drop)
        })
        .await;
    checks
        .run("it does not change a type of which it can't know that it may", async {
            // Before it has asked the others in vain it is no node at all, and says so.
            eventually(Duration::from_secs(20), || async {
                let url = bucket_url(&cluster.url(2), "typed");
                let reply = http::call("PATCH", url).json(&json!({"type": "cart"})).send().await?;
                reply.problem_code(503, "coverage_incomplete").map(drop)
            })
            .await
        })
        .await;
    cluster.spawn(0)?;
    cluster.spawn(1)?;
    cluster.await_ready().await?;
    checks
        .run("with the others it knows that it may not", async {
            let url = bucket_url(&cluster.url(2), "typed");
            let reply = http::call("PATCH", url).json(&json!({"type": "cart"})).send().await?;
            reply.problem_code(409, "conflict").map(drop)
        })
        .await;
    checks.finish(&[&cluster])
}
