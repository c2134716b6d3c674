//! More than the usual load: everybody at one key, large values, many more clients than can be served, and clients that keep a
//! connection and say next to nothing.

use super::Stage;
use crate::workload::{self, Kind, Plan};
use anyhow::Result;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// As many at one key.
const CROWD: u32 = 40;
const LARGE: usize = 1 << 20;
const WRITERS_OF_LARGE: u32 = 6;
/// The usual clients rest between steps, and some fifty of them keep two cores busy already: these don't rest.
const FLOOD: u32 = 250;
const SLOW_CLIENTS: usize = 400;
/// A byte each so often.
const DRIBBLE_EVERY: Duration = Duration::from_millis(500);

/// Everybody reads, writes and deletes one key.
pub(super) async fn hot_key(stage: &mut Stage<'_>) -> Result<()> {
    let think = Duration::from_millis(1)..Duration::from_millis(10);
    let plan = Plan { clients: CROWD, keys: 1, think, ..Plan::new(Kind::Recreate) };
    burst(stage, format!("{CROWD} clients at one key"), plan, 3_000..8_000, &[]).await
}

pub(super) async fn large_values(stage: &mut Stage<'_>) -> Result<()> {
    let think = Duration::from_millis(50)..Duration::from_millis(150);
    let plan =
        Plan { clients: WRITERS_OF_LARGE, value_bytes: LARGE, keys: 2, think, ..Plan::new(Kind::Register) };
    burst(stage, "values of 1 MiB".to_owned(), plan, 3_000..8_000, &[]).await
}

/// Five times what can be served. Who is turned away is told so at once, nobody's memory grows without end, and afterwards all is as
/// before.
pub(super) async fn overload(stage: &mut Stage<'_>) -> Result<()> {
    let think = Duration::ZERO..Duration::from_millis(1);
    let plan = Plan { clients: FLOOD, keys: 1, think, ..Plan::new(Kind::Slots) };
    // Nobody has to be served as usual meanwhile.
    let all = stage.nodes();
    burst(stage, format!("{FLOOD} clients without rest"), plan, 4_000..8_000, &all).await
}

/// Further clients for a while, in a bucket of their own.
async fn burst(
    stage: &mut Stage<'_>,
    what: String,
    plan: Plan,
    range: std::ops::Range<u64>,
    unable: &[usize],
) -> Result<()> {
    stage.bursts += 1;
    let plan = Plan { bucket: format!("{}-{}", plan.bucket, stage.bursts), ..plan };
    workload::prepare(&plan, &stage.ground).await?;
    let until = (stage.timeline.now() + stage.draw(range)).min(stage.until);
    let open = stage.begin(what, unable);
    let mut chance = StdRng::seed_from_u64(stage.chance.random());
    let ran = workload::run(&plan, &stage.ground, &mut chance, until).await;
    stage.end(open);
    Ok(ran?)
}

/// Connections that begin a request and never end it, a byte at a time; at one node.
pub(super) async fn slow_clients(stage: &mut Stage<'_>) -> Result<()> {
    let node = stage.nodes()[0];
    let url = stage.site.url(node);
    let address = url.trim_start_matches("http://").to_owned();
    // It serves everybody else.
    let open = stage.begin(format!("{SLOW_CLIENTS} connections that dribble at {}", super::name(node)), &[]);
    let until = tokio::time::Instant::now() + stage.draw(3_000..8_000).min(stage.left());
    let mut clients = Vec::new();
    for number in 0..SLOW_CLIENTS {
        let begin: &[u8] = match number % 3 {
            0 => b"GET /v1/buckets/slow/keys/k HTTP/1.1\r\nhost: ",
            1 => b"PUT /v1/buckets/slow/keys/k HTTP/1.1\r\nhost: slow\r\ncontent-length: 100000\r\n\r\n",
            _ => b"\x16\x03\x01",
        };
        // Who is not let in has lost nothing.
        let Ok(Ok(mut stream)) = tokio::time::timeout(DRIBBLE_EVERY, TcpStream::connect(&address)).await
        else {
            continue;
        };
        if stream.write_all(begin).await.is_ok() {
            clients.push(stream);
        }
    }
    while tokio::time::Instant::now() < until {
        tokio::time::sleep(DRIBBLE_EVERY).await;
        for stream in &mut clients {
            // Those that the node has hung up on stay closed.
            let _ = stream.write_all(b"x").await;
        }
    }
    drop(clients);
    stage.end(open);
    Ok(())
}
