//! Replicas become equal without a client's read, and nothing is repaired that is equal.
//!
//! Divergence that no hint knows of is made as it happens in life: a node is away for longer than the others have room for
//! hints. (A directory that is put back from a copy would compare itself before it is ready.) Entries 13 and 32 of the
//! catalogue of known failures; how soon such a difference is found, entry 33, is in `found`, and trees that are gone, entry 31,
//! are in `damage`.

use crate::rollback::log_of;
use crate::support::{eventually, put_blind};
use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tests::checks::Checks;
use tests::cluster::Cluster;
use tests::http::{self, encode, key_url};

pub(crate) const BUCKET: &str = "aae";
pub(crate) const KEYS: usize = 120;
pub(crate) const HEAL_TIME_MAX: Duration = Duration::from_secs(60);
/// Rounds of each node after which an idle cluster must have repaired nothing.
pub(crate) const IDLE_ROUNDS: u64 = 4;

pub(crate) async fn aae(c: &Cluster, node: usize) -> Result<Value> {
    http::get(format!("{}/v1/aae", c.url(node))).send().await?.expect(200)?.json()
}

pub(crate) async fn counted(c: &Cluster, node: usize, what: &str) -> Result<u64> {
    aae(c, node).await?[what].as_u64().with_context(|| format!("/v1/aae has no number {what}"))
}

pub(crate) async fn all_counted(c: &Cluster, what: &str) -> Result<u64> {
    let mut sum = 0;
    for node in 0..c.count() {
        sum += counted(c, node, what).await?;
    }
    Ok(sum)
}

/// A cluster that has no room for a single hint.
pub(crate) async fn forgetful(count: usize) -> Result<Cluster> {
    let mut cluster = Cluster::prepare(count)?;
    cluster.set("CARTWHEEL_LIMITS_HINT_BYTES", "0");
    for index in 0..count {
        cluster.spawn(index)?;
    }
    cluster.await_ready().await?;
    Ok(cluster)
}

pub(crate) async fn explained(c: &Cluster, bucket: &str, key: &str) -> Result<Value> {
    let through = c.running().next().context("no node runs")?;
    let url = format!("{}/v1/explain?bucket={bucket}&key={}", c.url(through), encode(key));
    http::get(url).send().await?.expect(200)?.json()
}

/// Every replica that owns the key holds the same record. `/v1/explain` looks and repairs nothing.
pub(crate) async fn is_converged(c: &Cluster, bucket: &str, key: &str) -> Result<()> {
    let told = explained(c, bucket, key).await?;
    ensure!(told["verdict"] == "converged", "{told}");
    Ok(())
}

pub(crate) async fn all_converged(c: &Cluster, bucket: &str, keys: usize) -> Result<()> {
    for number in 0..keys {
        is_converged(c, bucket, &format!("k{number}")).await?;
    }
    Ok(())
}

/// Each node has met the others so many times more.
pub(crate) async fn rounds(c: &Cluster, more: u64) -> Result<()> {
    let mut before = Vec::new();
    for node in 0..c.count() {
        before.push(counted(c, node, "exchanges").await?);
    }
    for (node, before) in before.into_iter().enumerate() {
        eventually(HEAL_TIME_MAX, || async {
            let now = counted(c, node, "exchanges").await?;
            ensure!(now >= before + more, "node {node} has had {} rounds", now - before);
            Ok(())
        })
        .await?;
    }
    Ok(())
}

pub(crate) async fn write(c: &Cluster, bucket: &str, from: usize, to: usize) -> Result<()> {
    for number in from..to {
        put_blind(&key_url(&c.url(number % 2), bucket, format!("k{number}")), "first").await?;
    }
    Ok(())
}

pub(crate) async fn repairs_nothing(c: &Cluster, meanwhile: impl Future<Output = Result<()>>) -> Result<()> {
    let before = all_counted(c, "repairs").await?;
    meanwhile.await?;
    let after = all_counted(c, "repairs").await?;
    ensure!(after == before, "{} repairs of what is equal", after - before);
    Ok(())
}

/// So many writes in a second, each to a new key, one after the other by the clock. How many there were.
async fn steady_load(c: &Cluster, per_second: u32, until: impl Future<Output = Result<()>>) -> Result<u64> {
    let (mut clock, mut running) =
        (tokio::time::interval(Duration::from_secs(1) / per_second), FuturesUnordered::new());
    let (mut until, mut written) = (std::pin::pin!(until), 0);
    loop {
        tokio::select! {
            biased;
            ended = &mut until => {
                ended?;
                break;
            }
            Some(done) = running.next(), if !running.is_empty() => drop::<http::Reply>(done?),
            _ = clock.tick() => {
                let url = key_url(&c.url(written % 3), BUCKET, format!("k{written}"));
                running.push(async move { put_blind(&url, "v").await });
                written += 1;
            }
        }
    }
    while let Some(done) = running.next().await {
        done?;
    }
    Ok(written as u64)
}

/// A write that has reached one replica and not yet the other is no difference. Of a node that repaired what it sees differ once, 8
/// of 4,800 writes were seen to be repaired; none are, unless a machine is so busy that writes time out.
#[tokio::test]
async fn entry_32_replication_under_load_is_not_repaired() -> Result<()> {
    const WRITES_PER_SECOND: u32 = 500;
    const ROUNDS_UNDER_LOAD: u64 = 12;
    let cluster = Cluster::start(3).await?;
    let c = &cluster;
    rounds(c, 1).await?;
    let before = all_counted(c, "repairs").await?;
    let began = Instant::now();
    let written = steady_load(c, WRITES_PER_SECOND, rounds(c, ROUNDS_UNDER_LOAD)).await?;
    let rate = written as f64 / began.elapsed().as_secs_f64();
    ensure!(rate > f64::from(WRITES_PER_SECOND) / 2.0, "only {rate:.0} writes a second were sent");
    let repaired = all_counted(c, "repairs").await? - before;
    ensure!(repaired * 1000 < written, "{repaired} of {written} writes were taken for differences");
    // Two cycles: each node meets each of the two others twice.
    repairs_nothing(c, rounds(c, 2 * 2)).await?;
    ensure!(c.panics().is_empty(), "{:?}", c.panics());
    Ok(())
}

async fn repaired(c: &Cluster, node: usize, scope: &Value) -> Result<Value> {
    let url = format!("{}/v1/repair", c.url(node));
    let begun: Value = http::post(&url).json(scope).send().await?.expect(202)?.json()?;
    let id = begun["id"].as_str().context("a repair has an id")?.to_owned();
    eventually(HEAL_TIME_MAX, || async {
        let told: Value = http::get(format!("{url}/{id}")).send().await?.expect(200)?.json()?;
        ensure!(told["state"] != "running", "{told}");
        Ok(told)
    })
    .await
}

/// How long each node's log of writes is: whatever is written is in it.
fn logs(c: &Cluster) -> Result<Vec<u64>> {
    (0..c.count()).map(|node| Ok(log_of(c.data_dir(node))?.metadata()?.len())).collect()
}

#[tokio::test]
async fn entry_13_a_thousand_reads_of_what_is_equal_write_nothing() -> Result<()> {
    let c = &Cluster::start(3).await?;
    write(c, BUCKET, 0, 10).await?;
    eventually(HEAL_TIME_MAX, || all_converged(c, BUCKET, 10)).await?;
    // What the nodes write about themselves after a start has come to rest when nothing was written for a second.
    let (mut before, mut since) = (logs(c)?, Instant::now());
    eventually(HEAL_TIME_MAX, || {
        let now = logs(c);
        if now.as_ref().is_ok_and(|now| *now != before) {
            (before, since) = (now.unwrap_or_default(), Instant::now());
        }
        let quiet = since.elapsed();
        async move {
            ensure!(quiet > Duration::from_secs(1), "nodes still write");
            Ok(())
        }
    })
    .await?;
    for number in 0..1000 {
        let key = format!("k{}", number % 10);
        http::get(key_url(&c.url(number % 3), BUCKET, key)).send().await?.expect(200)?;
    }
    ensure!(logs(c)? == before, "reads have written: {before:?}, now {:?}", logs(c)?);
    Ok(())
}

#[tokio::test]
async fn a_repair_makes_equal_what_was_asked_for() -> Result<()> {
    let mut cluster = forgetful(4).await?;
    write(&cluster, BUCKET, 0, 10).await?;
    cluster.stop(2).await?;
    write(&cluster, BUCKET, 10, KEYS).await?;
    cluster.restart(2).await?;
    // Who has not noticed yet that it is back can't compare anything with it.
    cluster.await_ready().await?;
    let c = &cluster;
    let mut checks = Checks::new();
    // A node may be asked that owns nothing of it: it finds one that does.
    for node in 0..4 {
        let key = format!("k{}", 50 + node);
        checks
            .run(&format!("one key through node {node}"), async {
                let told = repaired(c, node, &json!({ "bucket": BUCKET, "key": key })).await?;
                ensure!(told["state"] == "done" && told["partitions"] == 1, "{told}");
                is_converged(c, BUCKET, &key).await
            })
            .await;
    }
    checks
        .run("everything", async {
            let told = repaired(c, 3, &json!({})).await?;
            ensure!(told["state"] == "done" && told["partitions_done"] == told["partitions"], "{told}");
            all_converged(c, BUCKET, KEYS).await
        })
        .await;
    checks
        .run("nothing is left to do", async {
            let told = repaired(c, 1, &json!({ "bucket": BUCKET })).await?;
            ensure!(told["differences"] == 0 && told["state"] == "done", "{told}");
            Ok(())
        })
        .await;
    checks.run("wrong scopes are refused", wrong_scopes(c)).await;
    cluster.kill(2).await?;
    let c = &cluster;
    checks
        .run("a missing owner is said to be missing", async {
            let told = repaired(c, 0, &json!({})).await?;
            ensure!(told["state"] == "incomplete", "{told}");
            ensure!(told["partitions_incomplete"].as_array().is_some_and(|list| !list.is_empty()), "{told}");
            Ok(())
        })
        .await;
    checks.finish(&[&cluster])
}

async fn wrong_scopes(c: &Cluster) -> Result<()> {
    let url = format!("{}/v1/repair", c.url(0));
    for wrong in [json!({ "key": "k" }), json!({ "partition": 256 }), json!({ "buckets": "b" }), json!([])] {
        http::post(&url).json(&wrong).send().await?.problem_code(400, "invalid_body")?;
    }
    for id in ["0", "0000000000000000", "zz"] {
        http::get(format!("{url}/{id}")).send().await?.problem_code(404, "not_found")?;
    }
    Ok(())
}
