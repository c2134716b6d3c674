//! Deletes that stay deleted, and tombstones that go away. Entries 6, 30 and 37 to 40 of the catalogue of known failures.
//!
//! The grace is two seconds here, far below what the configuration recommends: no message is under way for long on one
//! machine, and what must not be forgotten is held up by somebody who is away, not by a timer.

use crate::support::{each, eventually, expect_values, put_blind, put_with};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tests::cluster::Cluster;
use tests::http::{self, key_url};

const BUCKET: &str = "reaping";
const SHORT_GRACE: (&str, &str) = ("CARTWHEEL_REAP_GRACE_MS", "2000");
const REAP_TIME_MAX: Duration = Duration::from_secs(60);
/// Rounds of asking that a deletion must outlast while somebody is away: eight graces at half a second each.
const ROUNDS_IN_VAIN: u64 = 32;

async fn start(count: usize) -> Result<Cluster> {
    let mut cluster = Cluster::prepare(count)?;
    cluster.set(SHORT_GRACE.0, SHORT_GRACE.1);
    for index in 0..count {
        cluster.spawn(index)?;
    }
    cluster.await_ready().await?;
    Ok(cluster)
}

fn url(c: &Cluster, node: usize, key: &str) -> String {
    key_url(&c.url(node), BUCKET, key)
}

async fn reap(c: &Cluster, node: usize) -> Result<Value> {
    let told: Value = http::get(format!("{}/v1/aae", c.url(node))).send().await?.expect(200)?.json()?;
    Ok(told["reap"].clone())
}

/// The named numbers of these nodes together.
async fn sum(c: &Cluster, nodes: &[usize], pointer: &str) -> Result<u64> {
    let mut sum = 0;
    for &node in nodes {
        let told = reap(c, node).await?;
        sum += told.pointer(pointer).and_then(Value::as_u64).with_context(|| format!("{pointer}: {told}"))?;
    }
    Ok(sum)
}

async fn replicas(c: &Cluster, node: usize, key: &str) -> Result<Vec<Value>> {
    let ask = format!("{}/v1/explain?bucket={BUCKET}&key={key}", c.url(node));
    let told: Value = http::get(ask).send().await?.expect(200)?.json()?;
    Ok(told["replicas"].as_array().context("no replicas")?.clone())
}

/// Every owner answers and holds nothing, not even a tombstone; and nobody else does.
async fn is_gone(c: &Cluster, node: usize, key: &str) -> Result<()> {
    let replicas = replicas(c, node, key).await?;
    ensure!(replicas.len() >= 3, "{key}: {replicas:?}");
    for replica in replicas {
        ensure!(replica["reachable"] == true && replica["present"] == false, "{key}: {replica}");
    }
    Ok(())
}

async fn is_held_by(c: &Cluster, node: usize, key: &str, count: usize) -> Result<()> {
    let replicas = replicas(c, node, key).await?;
    let held = replicas.iter().filter(|replica| replica["present"] == true).count();
    ensure!(held == count, "{key} is held by {held}: {replicas:?}");
    Ok(())
}

async fn delete(c: &Cluster, node: usize, key: &str) -> Result<()> {
    let context = http::get(url(c, node, key)).send().await?.expect_one_of(&[200, 300])?.context()?;
    http::delete(url(c, node, key)).context(&context).send().await?.expect(204).map(drop)
}

/// These nodes have asked so often more, and everybody who asks has been refused.
async fn asks_in_vain(c: &Cluster, nodes: &[usize], rounds: u64) -> Result<()> {
    let mut before = Vec::new();
    for &node in nodes {
        before.push(sum(c, &[node], "/rounds").await?);
    }
    for (&node, before) in nodes.iter().zip(before) {
        eventually(REAP_TIME_MAX * 2, || async {
            let now = sum(c, &[node], "/rounds").await?;
            ensure!(now >= before + rounds, "node {node} has asked {} times", now - before);
            Ok(())
        })
        .await?;
    }
    ensure!(sum(c, nodes, "/reaped").await? == 0, "something was forgotten while somebody was away");
    Ok(())
}

async fn all_gone(c: &Cluster, keys: &[String]) -> Result<()> {
    eventually(REAP_TIME_MAX, || async {
        for key in keys {
            is_gone(c, 0, key).await?;
        }
        Ok(())
    })
    .await
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("k{number}")).collect()
}

/// Deletes new keys, some hundred a second, until it is dropped.
async fn deletes_go_on(c: &Cluster) -> Result<()> {
    for round in 0.. {
        each(0..40, |number| async move {
            let key = format!("new {round} {number}");
            put_blind(&url(c, 0, &key), "value").await?;
            delete(c, 0, &key).await
        })
        .await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// More partitions than a round has pages, and in each of them something that is dead for a short while only.
#[tokio::test]
async fn steady_deletes_keep_nothing_from_being_forgotten() -> Result<()> {
    const OLD: usize = 1000;
    const ROUNDS_MAX: u64 = 30;
    let mut cluster = Cluster::prepare(1)?;
    cluster.set(SHORT_GRACE.0, SHORT_GRACE.1);
    cluster.set("CARTWHEEL_PARTITIONS", "4096");
    cluster.spawn(0)?;
    cluster.await_ready().await?;
    let c = &cluster;
    let old = async {
        each(0..OLD, |number| async move {
            let key = format!("old {number}");
            put_blind(&url(c, 0, &key), "value").await?;
            delete(c, 0, &key).await
        })
        .await?;
        let (began, mut left) = (sum(c, &[0], "/rounds").await?, OLD);
        loop {
            let rounds = sum(c, &[0], "/rounds").await? - began;
            // They go in any order, and each of them for good.
            while left > 0 && is_held_by(c, 0, &format!("old%20{}", left - 1), 0).await.is_ok() {
                left -= 1;
            }
            if left == 0 {
                return anyhow::Ok(());
            }
            ensure!(
                rounds < ROUNDS_MAX,
                "after {rounds} rounds at least one of {left} old keys is still held"
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        biased;
        done = old => done?,
        failed = deletes_go_on(c) => failed?,
    }
    ensure!(c.panics().is_empty(), "{:?}", c.panics());
    Ok(())
}

#[tokio::test]
async fn entry_37_what_an_owner_missed_is_not_forgotten_and_then_it_is() -> Result<()> {
    let mut cluster = start(3).await?;
    let keys = names(20);
    for key in &keys {
        put_blind(&url(&cluster, 0, key), "value").await?;
        eventually(REAP_TIME_MAX, || is_held_by(&cluster, 0, key, 3)).await?;
    }
    cluster.kill(2).await?;
    for key in &keys {
        delete(&cluster, 0, key).await?;
    }
    asks_in_vain(&cluster, &[0, 1], ROUNDS_IN_VAIN).await?;
    ensure!(sum(&cluster, &[0, 1], "/tombstones").await? == 40, "two nodes hold a tombstone for each key");
    ensure!(sum(&cluster, &[0, 1], "/waiting/down").await? > 0, "nobody says what is waited for");
    cluster.restart(2).await?;
    for key in &keys {
        for node in 0..3 {
            expect_values(&url(&cluster, node, key), &[]).await?;
        }
    }
    all_gone(&cluster, &keys).await?;
    ensure!(sum(&cluster, &[0, 1], "/reaped").await? == 40, "each of the two let each of its copies go");
    let metrics = http::get(format!("{}/metrics", cluster.url(0))).send().await?.expect(200)?.text();
    ensure!(metrics.lines().any(|line| line == "cartwheel_reaped_total 20"), "{metrics}");
    for key in &keys {
        put_blind(&url(&cluster, 1, key), "again").await?;
        for node in 0..3 {
            expect_values(&url(&cluster, node, key), &["again"]).await?;
        }
    }
    ensure!(cluster.panics().is_empty(), "{:?}", cluster.panics());
    Ok(())
}

#[tokio::test]
async fn entry_38_40_deletes_during_a_join_leave_nothing_anywhere() -> Result<()> {
    let mut cluster = start(3).await?;
    let keys = names(1_000);
    for (number, key) in keys.iter().enumerate() {
        put_blind(&url(&cluster, number % 3, key), "value").await?;
    }
    let newcomer = cluster.adopt(cluster.dir().join("newcomer"))?;
    for (number, key) in keys[..100].iter().enumerate() {
        delete(&cluster, number % 3, key).await?;
    }
    cluster.spawn(newcomer)?;
    let (deleted, is_in) = (&AtomicUsize::new(100), &AtomicBool::new(false));
    let deleting = async {
        for (number, key) in keys.iter().enumerate().skip(100) {
            // The last ones come after it, however quick the disk is.
            while number + 100 >= keys.len() && !is_in.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            delete(&cluster, number % 3, key).await?;
            deleted.fetch_add(1, Ordering::Relaxed);
        }
        anyhow::Ok(())
    };
    let joining = async {
        let ready = eventually(REAP_TIME_MAX, || cluster.is_ready()).await;
        is_in.store(true, Ordering::Relaxed);
        ready?;
        anyhow::Ok(deleted.load(Ordering::Relaxed))
    };
    let (done, joined) = tokio::join!(deleting, joining);
    done?;
    let joined = joined?;
    ensure!((101..keys.len()).contains(&joined), "of all deletes {joined} came before it had joined");
    all_gone(&cluster, &keys).await?;
    let everybody = [0, 1, 2, newcomer];
    eventually(REAP_TIME_MAX, || async {
        let held = sum(&cluster, &everybody, "/tombstones").await?;
        ensure!(held == 0, "{held} tombstones are left somewhere");
        Ok(())
    })
    .await?;
    for key in &keys {
        let listed = format!("{}/v1/explain?bucket={BUCKET}&key={key}", cluster.url(newcomer));
        let told: Value = http::get(listed).send().await?.expect(200)?.json()?;
        ensure!(told["verdict"] == "converged", "{key}: {told}");
        let replicas = told["replicas"].as_array().context("no replicas")?;
        ensure!(replicas.iter().all(|replica| replica["present"] != true), "somebody holds {key}: {told}");
    }
    ensure!(cluster.panics().is_empty(), "{:?}", cluster.panics());
    Ok(())
}

/// The doomstone: a tombstone waits with a fallback that is dead, while the owners might forget theirs.
#[tokio::test]
async fn entry_06_a_tombstone_with_a_dead_fallback_does_not_kill_a_later_value() -> Result<()> {
    let mut cluster = start(4).await?;
    let keys = names(24);
    for key in &keys {
        for round in 0..3 {
            let read = http::get(url(&cluster, 0, key)).send().await?;
            let context = if round == 0 { None } else { Some(read.context()?) };
            match context {
                Some(context) => put_with(&url(&cluster, 0, key), "early", &context).await?,
                None => put_blind(&url(&cluster, 0, key), "early").await?,
            };
        }
    }
    // Of four nodes each key has three owners and one fallback. With two of them away in turn, some keys have every part.
    cluster.kill(3).await?;
    for key in &keys {
        delete(&cluster, 0, key).await?;
    }
    cluster.kill(2).await?;
    cluster.spawn(3)?;
    cluster.await_ready().await?;
    asks_in_vain(&cluster, &[0, 1, 3], ROUNDS_IN_VAIN).await?;
    let context = http::get(url(&cluster, 0, &keys[0])).send().await?;
    ensure!(context.status == 404, "{context}");
    for key in &keys {
        put_blind(&url(&cluster, 1, key), "late").await?;
    }
    cluster.restart(2).await?;
    eventually(REAP_TIME_MAX, || async {
        for node in 0..4 {
            ensure!(reap(&cluster, node).await?["tombstones"] == 0, "node {node} holds a tombstone still");
            let hints: Value =
                http::get(format!("{}/v1/hints", cluster.url(node))).send().await?.expect(200)?.json()?;
            ensure!(hints["waiting"] == 0, "node {node}: {hints}");
        }
        Ok(())
    })
    .await?;
    for key in &keys {
        for node in 0..4 {
            expect_values(&url(&cluster, node, key), &["late"]).await?;
        }
    }
    ensure!(cluster.panics().is_empty(), "{:?}", cluster.panics());
    Ok(())
}

/// Of four nodes each key has three owners and one that stands in. One of those who keep the only hints of some keys is dead
/// while these keys are deleted everywhere else, and delivers long after that.
#[tokio::test]
async fn entry_30_a_hint_from_before_the_delete_brings_nothing_back() -> Result<()> {
    let mut cluster = start(4).await?;
    let keys = names(60);
    cluster.kill(3).await?;
    eventually(REAP_TIME_MAX, || async {
        for viewer in [0, 1, 2] {
            let member = cluster.member(viewer, 3).await?;
            ensure!(member["reachable"] == false, "{member}");
        }
        Ok(())
    })
    .await?;
    for key in &keys {
        http::put(format!("{}?w=3", url(&cluster, 0, key))).text("value").send().await?.expect(204)?;
    }
    let kept: Value = http::get(format!("{}/v1/hints", cluster.url(2))).send().await?.expect(200)?.json()?;
    ensure!(kept["waiting"].as_u64() > Some(0), "node 2 keeps no hint: {kept}");
    cluster.kill(2).await?;
    cluster.spawn(3)?;
    cluster.await_ready().await?;
    for key in &keys {
        delete(&cluster, 1, key).await?;
    }
    asks_in_vain(&cluster, &[0, 1, 3], ROUNDS_IN_VAIN / 2).await?;
    cluster.spawn(2)?;
    // From its first moment on, and until everything is forgotten.
    eventually(REAP_TIME_MAX, || async {
        for key in &keys {
            for node in [0, 1, 3] {
                if let Err(error) = expect_values(&url(&cluster, node, key), &[]).await {
                    // Not wrong for a while, but for ever: no further attempt makes it good.
                    return Ok(Err(error));
                }
            }
            is_gone(&cluster, 0, key).await?;
        }
        Ok(Ok(()))
    })
    .await??;
    let hints: Value = http::get(format!("{}/v1/hints", cluster.url(2))).send().await?.expect(200)?.json()?;
    ensure!(hints["waiting"] == 0 && hints["delivered"].as_u64() > Some(0), "{hints}");
    for key in &keys {
        for node in 0..4 {
            expect_values(&url(&cluster, node, key), &[]).await?;
        }
    }
    ensure!(cluster.panics().is_empty(), "{:?}", cluster.panics());
    Ok(())
}

/// What a stopped process has in its sockets is as old as its stop when it goes on.
#[tokio::test]
async fn entry_39_a_node_that_stood_still_brings_nothing_back() -> Result<()> {
    let cluster = start(4).await?;
    let c = &cluster;
    let keys = names(40);
    for key in &keys {
        put_blind(&url(c, 0, key), "value").await?;
    }
    // Writes and repairs are on their way to the node when it stops, and go on coming into its sockets.
    c.pause(3)?;
    for key in &keys {
        let newer = http::put(url(c, 2, key)).text("newer").send().await?;
        // Until the others doubt the node they ask it to coordinate, and say that they don't know how that ended.
        newer.expect_one_of(&[204, 503])?;
        eventually(REAP_TIME_MAX, || delete(c, 1, key)).await?;
    }
    asks_in_vain(c, &[0, 1, 2], ROUNDS_IN_VAIN).await?;
    c.resume(3)?;
    // A write that the stopped node was asked for counts from when it goes on, if it is not too late for it by then.
    all_gone(c, &keys).await?;
    let before = sum(c, &[0, 1, 2, 3], "/rounds").await?;
    eventually(REAP_TIME_MAX, || async {
        ensure!(sum(c, &[0, 1, 2, 3], "/rounds").await? >= before + 40, "not enough rounds yet");
        Ok(())
    })
    .await?;
    for key in &keys {
        is_gone(c, 0, key).await?;
        for node in 0..4 {
            expect_values(&url(c, node, key), &[]).await?;
        }
    }
    ensure!(cluster.panics().is_empty(), "{:?}", cluster.panics());
    Ok(())
}

/// Its context is never reached again, and that is what is said: enough replicas answer all the while.
#[tokio::test]
async fn who_asks_for_a_forgotten_deletion_is_told_that_it_is_not_reached() -> Result<()> {
    let c = start(3).await?;
    put_blind(&url(&c, 0, "gone"), "v").await?;
    let context = http::get(url(&c, 0, "gone")).send().await?.context()?;
    let deleted =
        http::delete(url(&c, 0, "gone")).header("cartwheel-context", &context).send().await?.expect(204)?;
    eventually(REAP_TIME_MAX, || is_gone(&c, 0, "gone")).await?;
    for timeout_ms in (200..500).step_by(10) {
        let asked = format!("{}?timeout_ms={timeout_ms}", url(&c, timeout_ms / 10 % 3, "gone"));
        let reply = http::get(asked).header("cartwheel-min-context", &deleted.context()?).send().await?;
        reply
            .problem_code(504, "context_not_reached")
            .with_context(|| format!("{timeout_ms} ms: {}", reply.text()))?;
    }
    ensure!(c.panics().is_empty(), "{:?}", c.panics());
    Ok(())
}
