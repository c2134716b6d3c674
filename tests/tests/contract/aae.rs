//! Replicas become equal without a client's read, and nothing is repaired that is equal.
//!
//! Divergence that no hint knows of is made as it happens in life: a node is away for longer than the others have room for
//! hints. (A directory that is put back from a copy would compare itself before it is ready.) Entries 32 and 33 of the
//! catalogue of known failures; trees that are gone, entry 31, are in `damage`.

use crate::rollback::log_of;
use crate::support::{eventually, put_blind, put_with};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tests::checks::Checks;
use tests::cluster::Cluster;
use tests::http::{self, bucket_url, key_url};

pub(crate) const BUCKET: &str = "aae";
const KEYS: usize = 120;
pub(crate) const HEAL_TIME_MAX: Duration = Duration::from_secs(60);
const SETTINGS_SPREAD_TIME_MAX: Duration = Duration::from_secs(5);
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
async fn forgetful(count: usize) -> Result<Cluster> {
    let mut cluster = Cluster::prepare(count)?;
    cluster.set("CARTWHEEL_LIMITS_HINT_BYTES", "0");
    for index in 0..count {
        cluster.spawn(index)?;
    }
    cluster.await_ready().await?;
    Ok(cluster)
}

/// Every replica that owns the key holds the same record. `/v1/explain` looks and repairs nothing.
async fn is_converged(c: &Cluster, bucket: &str, key: &str) -> Result<()> {
    let url = format!("{}/v1/explain?bucket={bucket}&key={key}", c.url(0));
    let told: Value = http::get(url).send().await?.expect(200)?.json()?;
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
    for node in 0..c.count() {
        let before = counted(c, node, "exchanges").await?;
        eventually(HEAL_TIME_MAX, || async {
            let now = counted(c, node, "exchanges").await?;
            ensure!(now >= before + more, "node {node} has had {} rounds", now - before);
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// A third is written before the node goes, the rest while it is away; what was there is overwritten, or deleted.
async fn write(c: &Cluster, bucket: &str, from: usize, to: usize) -> Result<()> {
    for number in from..to {
        put_blind(&key_url(&c.url(number % 2), bucket, format!("k{number}")), "first").await?;
    }
    Ok(())
}

async fn change(c: &Cluster, bucket: &str, to: usize) -> Result<()> {
    for number in 0..to {
        let url = key_url(&c.url(number % 2), bucket, format!("k{number}"));
        let context = http::get(&url).send().await?.expect(200)?.context()?;
        if number % 3 == 0 {
            http::delete(&url).context(&context).send().await?.expect(204)?;
        } else {
            put_with(&url, "second", &context).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn entry_33_what_no_hint_knows_of_is_repaired_without_a_read() -> Result<()> {
    let mut cluster = forgetful(3).await?;
    let settings = bucket_url(&cluster.url(0), "pair");
    // One of two is enough: a fallback has no room to stand in for the other.
    http::put(&settings)
        .json(&json!({ "n": 2, "w": 1, "r": 1 }))
        .send()
        .await?
        .expect_one_of(&[200, 201, 204])?;
    eventually(SETTINGS_SPREAD_TIME_MAX, || async {
        for node in 0..3 {
            let told: Value =
                http::get(bucket_url(&cluster.url(node), "pair")).send().await?.expect(200)?.json()?;
            ensure!(told["n"] == 2, "{told}");
        }
        Ok(())
    })
    .await?;
    for bucket in [BUCKET, "pair"] {
        write(&cluster, bucket, 0, KEYS / 3).await?;
    }
    cluster.stop(2).await?;
    for bucket in [BUCKET, "pair"] {
        change(&cluster, bucket, KEYS / 3).await?;
        write(&cluster, bucket, KEYS / 3, KEYS).await?;
    }
    cluster.restart(2).await?;
    let c = &cluster;
    let mut checks = Checks::new();
    ensure!(is_converged(c, BUCKET, "k100").await.is_err(), "what it missed is not here yet");
    for bucket in [BUCKET, "pair"] {
        checks
            .run(
                &format!("all replicas of {bucket} become equal"),
                eventually(HEAL_TIME_MAX, || all_converged(c, bucket, KEYS)),
            )
            .await;
    }
    let repaired = all_counted(c, "repairs").await?;
    ensure!(repaired >= KEYS as u64, "only {repaired} repairs were counted");
    checks.run("every node says how far it has come", says_what_it_knows(c)).await;
    rounds(c, 1).await?;
    checks.run("equal replicas repair nothing", repairs_nothing(c, rounds(c, IDLE_ROUNDS))).await;
    checks.finish(&[&cluster])
}

async fn says_what_it_knows(c: &Cluster) -> Result<()> {
    for node in 0..3 {
        eventually(HEAL_TIME_MAX, || async {
            let told = aae(c, node).await?;
            ensure!(told["building"] == 0 && told["last_exchange"].is_string(), "{told}");
            let age = told["oldest_unverified_ms"].as_u64().context("no age")?;
            ensure!(age < 30_000, "{told}");
            ensure!(told["peers"].as_array().map(Vec::len) == Some(2), "{told}");
            Ok(())
        })
        .await?;
    }
    let metrics = http::get(format!("{}/metrics", c.url(1))).send().await?.expect(200)?.text();
    ensure!(metrics.contains("cartwheel_aae_oldest_unverified_seconds"), "{metrics}");
    Ok(())
}

pub(crate) async fn repairs_nothing(c: &Cluster, meanwhile: impl Future<Output = Result<()>>) -> Result<()> {
    let before = all_counted(c, "repairs").await?;
    meanwhile.await?;
    let after = all_counted(c, "repairs").await?;
    ensure!(after == before, "{} repairs of what is equal", after - before);
    Ok(())
}

/// A write that has reached one replica and not yet the other is no difference.
#[tokio::test]
async fn entry_32_replication_under_load_is_not_repaired() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let c = &cluster;
    rounds(c, 1).await?;
    let load = async {
        for round in 0..12 {
            let writes = (0..100).map(|number| async move {
                let url = key_url(&c.url((number + round) % 3), BUCKET, format!("r{round}k{number}"));
                put_blind(&url, "v").await
            });
            for written in futures_util::future::join_all(writes).await {
                written?;
            }
            rounds(c, 0).await?;
        }
        rounds(c, 2).await
    };
    let before = all_counted(c, "repairs").await?;
    load.await?;
    let repaired = all_counted(c, "repairs").await? - before;
    ensure!(repaired <= 1, "{repaired} of 1,200 writes were taken for differences");
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
