//! What arrives is not a request: halves, garbage, silence, and a stranger on the peer port.
//!
//! The answer is an error in HTTP or the end of the connection, in bounded time and memory, and whoever asks
//! properly meanwhile is served as ever. The slow ones run side by side: each takes as long as the server's
//! patience lasts.

use crate::support::{expect_values, key_urls, put_blind};
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use tests::checks::Checks;
use tests::cluster::Cluster;
use tests::http;
use tests::raw::{self, exchange, exchange_slowly};

/// The head of a request has to be there by then.
const HEAD_TIME_MAX: Duration = Duration::from_secs(15);
/// A body that stops arriving is given up by then.
const BODY_TIME_MAX: Duration = Duration::from_secs(40);
const PEER_TIME_MAX: Duration = Duration::from_secs(20);
/// No refused connection may cost a node more than this.
const MEMORY_GROWTH_MAX: u64 = 48 << 20;

#[tokio::test]
async fn strangers_get_nothing() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let c = &cluster;
    put_blind(&key_urls(c, "hostile", "held")[0], "untouched").await?;
    let memory = resident_bytes(c.pid(0)?)?;
    let mut checks = Checks::new();
    checks.run("what is not HTTP is refused", garbage_is_refused(c)).await;
    checks.run("a head over the limit is 431", a_large_head_is_431(c)).await;
    checks.run("a request with contradicting lengths is refused", odd_lengths_are_refused(c)).await;
    checks.run("who stops in the middle is cut off", who_stops_is_cut_off(c)).await;
    checks.run("a stranger on the peer port is cut off", a_stranger_on_the_peer_port(c)).await;
    checks.run("many idle connections do not keep others out", idle_connections_keep_nobody_out(c)).await;
    checks
        .run("all that cost no memory to speak of", async {
            let grown = resident_bytes(c.pid(0)?)?.saturating_sub(memory);
            ensure!(grown <= MEMORY_GROWTH_MAX, "{grown} bytes more than before");
            Ok(())
        })
        .await;
    checks.run("nothing of all that changed the store", still_serves(c)).await;
    checks.finish(&[&cluster])
}

async fn still_serves(c: &Cluster) -> Result<()> {
    for (index, url) in key_urls(c, "hostile", "held").iter().enumerate() {
        expect_values(url, &["untouched"]).await?.expect(200)?;
        http::get(format!("{}/health/ready", c.url(index))).send().await?.expect(200)?;
        for seen in 0..c.count() {
            let member = c.member(index, seen).await?;
            ensure!(member["reachable"] == true, "node {index} lost sight of node {seen}: {member}");
        }
        let view = http::get(format!("{}/v1/cluster", c.url(index))).send().await?.expect(200)?.json()?;
        let count = view["members"].as_array().map_or(0, Vec::len);
        ensure!(count == c.count(), "a stranger became a member: {view}");
    }
    for url in key_urls(c, "hostile", "never") {
        expect_values(&url, &[]).await?.expect(404)?;
    }
    Ok(())
}

/// Bytes without a pattern, the same in each run.
fn noise(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let step = |state: &mut u64| {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 32) as u8
    };
    (0..count).map(|_| step(&mut state)).collect()
}

async fn garbage_is_refused(c: &Cluster) -> Result<()> {
    let noises: Vec<Vec<u8>> = (1..20).map(|seed| noise(2000, seed * 7919)).collect();
    let crafted: [&[u8]; 9] = [
        b"GET /ping HTTP/1.1\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"PUT /v1/buckets/hostile/keys/never\r\n\r\nvalue",
        b"GET / HTTP/1.1\r\nno colon here\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"*1\r\n$4\r\nPING\r\n",
    ];
    let all: Vec<&[u8]> = noises.iter().map(Vec::as_slice).chain(crafted).collect();
    for bytes in all {
        let end = exchange(&c.http(0), bytes, HEAD_TIME_MAX).await?;
        end.expect_refused()
            .with_context(|| format!("{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(40)])))?;
    }
    still_serves(c).await
}

async fn a_large_head_is_431(c: &Cluster) -> Result<()> {
    let large = format!("GET /ping HTTP/1.1\r\nx-large: {}", "a".repeat(20 << 10));
    raw::request(&c.http(0), &large, b"").await?.expect_error(&[431])?;
    let many: String = (0..2000).map(|number| format!("\r\nx-{number}: aaaaaaaa")).collect();
    raw::request(&c.http(0), &format!("GET /ping HTTP/1.1{many}"), b"").await?.expect_error(&[431])?;
    let endless = format!("GET /ping HTTP/1.1\r\nx-endless: {}", "a".repeat(1 << 20));
    exchange(&c.http(0), endless.as_bytes(), HEAD_TIME_MAX).await?.expect_refused()?;
    let long = format!("GET /{} HTTP/1.1", "a".repeat(200 << 10));
    raw::request(&c.http(0), &long, b"").await?.expect_refused()
}

async fn odd_lengths_are_refused(c: &Cluster) -> Result<()> {
    for lengths in [
        "content-length: abc",
        "content-length: -1",
        "content-length: 5\r\ncontent-length: 6",
        "content-length: 5, 6",
        "transfer-encoding: nonsense",
    ] {
        let head = format!("PUT /v1/buckets/hostile/keys/never HTTP/1.1\r\n{lengths}");
        let end = raw::request(&c.http(0), &head, b"value!").await?;
        end.expect_refused().with_context(|| lengths.to_owned())?;
    }
    let head = "PUT /v1/buckets/hostile/keys/never HTTP/1.1\r\ntransfer-encoding: chunked";
    for body in ["zz\r\nvalue\r\n0\r\n\r\n", "fffffffffffffffff\r\nvalue", "5\r\nvalueX\r\n0\r\n\r\n"] {
        raw::request(&c.http(0), head, body.as_bytes())
            .await?
            .expect_refused()
            .with_context(|| body.to_owned())?;
    }
    Ok(())
}

async fn who_stops_is_cut_off(c: &Cluster) -> Result<()> {
    let address = &c.http(0);
    let half_body =
        b"PUT /v1/buckets/hostile/keys/never HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nhalf a value";
    let half_chunk = b"PUT /v1/buckets/hostile/keys/never HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3e8\r\nhalf";
    // A byte a second is never idle; the head as a whole has to come in time.
    let trickle: Vec<&[u8]> = b"GET /ping HTTP/1.1\r\nhost: somewhere".chunks(1).collect();
    let ends = tokio::join!(
        exchange(address, b"GET /v1/buc", HEAD_TIME_MAX),
        exchange(address, b"GET /ping HTTP/1.1\r\nhost: x\r\n", HEAD_TIME_MAX),
        exchange_slowly(address, &trickle, Duration::from_secs(1), HEAD_TIME_MAX),
        exchange(address, half_body, BODY_TIME_MAX),
        exchange(address, half_chunk, BODY_TIME_MAX),
        async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            still_serves(c).await
        },
    );
    ends.0?.expect_refused().context("half a request line")?;
    ends.1?.expect_refused().context("half a head")?;
    ends.2?.expect_refused().context("a byte a second")?;
    ends.3?.expect_refused().context("half a body")?;
    ends.4?.expect_refused().context("half a chunk")?;
    ends.5
}

async fn a_stranger_on_the_peer_port(c: &Cluster) -> Result<()> {
    let address = &c.peer(0);
    let frames: [&[u8]; 9] = [
        b"",
        b"\0",
        b"\xff\xff\xff\xff",
        b"\x7f\xff\xff\xff\x01\x02\x03",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\0\0\0\x08\xff\xff\xff\xff\xff\xff\xff\xff",
        b"GET /v1/cluster HTTP/1.1\r\nhost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ];
    let noises: Vec<Vec<u8>> = (1..30).map(|seed| noise(4096, seed * 104_729)).collect();
    let all = frames.into_iter().chain(noises.iter().map(Vec::as_slice));
    let mut pending = tokio::task::JoinSet::new();
    for bytes in all {
        let (address, bytes) = (address.clone(), bytes.to_vec());
        pending.spawn(async move {
            let end = exchange(&address, &bytes, PEER_TIME_MAX).await?;
            let begin: Vec<u8> = bytes.into_iter().take(16).collect();
            ensure!(end.closed, "still open after {PEER_TIME_MAX:?}, having sent {begin:x?}");
            // A greeting or a refusal is an answer; data of the cluster is not.
            ensure!(end.bytes.len() <= 1024, "{} bytes for {begin:x?}", end.bytes.len());
            Ok(())
        });
    }
    while let Some(done) = pending.join_next().await {
        done??;
    }
    still_serves(c).await
}

async fn idle_connections_keep_nobody_out(c: &Cluster) -> Result<()> {
    let mut idle = Vec::new();
    for index in 0..200 {
        let address = if index % 2 == 0 { c.http(0) } else { c.peer(0) };
        idle.push(tokio::net::TcpStream::connect(address).await?);
    }
    still_serves(c).await?;
    drop(idle);
    still_serves(c).await
}

/// `VmRSS` of a process.
fn resident_bytes(pid: i32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}
