//! What still works while nodes are dead, paused or cut down all at once, and what is there afterwards.
//!
//! Every test has a cluster of its own: they break it.

use crate::support::{eventually, expect_values, key_urls, put_blind, put_with};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tests::checks::Checks;
use tests::cluster::Cluster;
use tests::http::{self, encode, key_url};
use tokio::task::JoinSet;

const BUCKET: &str = "faults";
/// Three seconds are promised; the fourth is for a machine that builds something else meanwhile.
const NOTICE_TIME_MAX: Duration = Duration::from_secs(4);
const DELIVERY_TIME_MAX: Duration = Duration::from_secs(40);
const KEY_COUNT: usize = 30;
/// Those who ask a node that is stopped.
const BUSY_CLIENTS: usize = 16;

/// `/v1/explain` of one key, as a node sees it.
async fn explain(c: &Cluster, index: usize, key: &str) -> Result<Value> {
    let url = format!("{}/v1/explain?bucket={BUCKET}&key={}", c.url(index), encode(key));
    http::get(url).send().await?.expect(200)?.json()
}

/// All replicas hold one and the same, as far as this node can find out.
async fn expect_converged(c: &Cluster, index: usize, key: &str) -> Result<()> {
    let explained = explain(c, index, key).await?;
    ensure!(explained["verdict"] == "converged", "{key}: {explained}");
    let replicas = explained["replicas"].as_array().with_context(|| format!("no replicas in {explained}"))?;
    ensure!(replicas.len() == c.count(), "a copy on each of {} nodes: {explained}", c.count());
    // A tombstone is a copy too, whether or not it counts as present.
    let has_copy = |replica: &Value| replica["present"] == true || is_some(&replica["versions"]);
    ensure!(replicas.iter().all(has_copy), "a copy is missing: {explained}");
    Ok(())
}

async fn await_noticed(
    c: &Cluster,
    viewers: &[usize],
    seen: usize,
    reachable: bool,
    time: Duration,
) -> Result<()> {
    for &viewer in viewers {
        eventually(time, || async {
            let member = c.member(viewer, seen).await?;
            ensure!(member["reachable"] == reachable, "node {viewer} says of node {seen}: {member}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn one_dead_node_stops_nobody_and_gets_what_it_missed() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let mut checks = Checks::new();
    for victim in [2, 0] {
        let key = |number: usize| format!("victim {victim} key {number}");
        let others: Vec<usize> = (0..3).filter(|&index| index != victim).collect();
        let old = put_blind(&key_urls(&cluster, BUCKET, &key(0))[0], "before").await?.context()?;
        let deleted = put_blind(&key_urls(&cluster, BUCKET, &key(1))[0], "before").await?.context()?;
        cluster.kill(victim).await?;
        let killed = Instant::now();
        let c = &cluster;
        checks
            .run(&format!("with node {victim} dead every write and read succeeds at once"), async {
                let url = |number, index: usize| key_url(&c.url(others[index % 2]), BUCKET, key(number));
                put_with(&url(0, 0), "value 0", &old).await?;
                http::delete(url(1, 1)).context(&deleted).send().await?.expect(204)?;
                for number in 2..KEY_COUNT {
                    let reply = put_blind(&url(number, number), &format!("value {number}")).await?;
                    ensure!(reply.receipt()?["acked"] >= 2, "{reply}");
                    let value = format!("value {number}");
                    expect_values(&url(number, number + 1), &[&value]).await?.expect(200)?;
                }
                expect_values(&url(0, 1), &["value 0"]).await?.expect(200)?;
                expect_values(&url(1, 0), &[]).await?.expect(404).map(drop)
            })
            .await;
        checks
            .run(&format!("both others notice soon that node {victim} is dead"), async {
                let left = NOTICE_TIME_MAX.saturating_sub(killed.elapsed());
                await_noticed(c, &others, victim, false, left).await
            })
            .await;
        checks
            .run("what the dead node missed is kept as a hint, durably", async {
                // Hints of writes from before and after the death was noticed.
                put_blind(&key_url(&c.url(others[0]), BUCKET, key(KEY_COUNT)), "late").await?;
                eventually(Duration::from_secs(10), || async {
                    for number in 0..=KEY_COUNT {
                        let explained = explain(c, others[0], &key(number)).await?;
                        let replicas = explained["replicas"].as_array().cloned().unwrap_or_default();
                        ensure!(
                            replicas.iter().any(|replica| is_some(&replica["hints"])),
                            "no hint: {explained}"
                        );
                        ensure!(explained["verdict"] != "converged", "a replica is away: {explained}");
                    }
                    Ok(())
                })
                .await
            })
            .await;
        cluster.restart(victim).await?;
        let c = &cluster;
        checks
            .run(&format!("node {victim} is given what it missed, without a read"), async {
                for number in 0..=KEY_COUNT {
                    let key = key(number);
                    eventually(DELIVERY_TIME_MAX, || expect_converged(c, others[0], &key)).await?;
                }
                Ok(())
            })
            .await;
        checks
            .run(&format!("node {victim} itself answers with it"), async {
                for number in 2..KEY_COUNT {
                    let url = format!("{}?r=1", key_url(&c.url(victim), BUCKET, key(number)));
                    expect_values(&url, &[&format!("value {number}")]).await?;
                }
                Ok(())
            })
            .await;
    }
    checks.finish(&[&cluster])
}

/// A number that is not 0, or a list or an object that is not empty.
fn is_some(hints: &Value) -> bool {
    match hints {
        Value::Number(count) => count.as_u64() != Some(0),
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => fields.values().any(is_some),
        _ => false,
    }
}

#[tokio::test]
async fn hints_survive_the_death_of_their_keeper() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let key = |number: usize| format!("kept {number}");
    cluster.kill(2).await?;
    for number in 0..KEY_COUNT {
        put_blind(&key_url(&cluster.url(number % 2), BUCKET, key(number)), "v").await?;
    }
    cluster.kill_all().await?;
    for index in 0..3 {
        cluster.spawn(index)?;
    }
    cluster.await_ready().await?;
    let (c, mut checks) = (&cluster, Checks::new());
    checks
        .run("hints are delivered after all nodes were killed", async {
            for number in 0..KEY_COUNT {
                let key = key(number);
                eventually(DELIVERY_TIME_MAX, || expect_converged(c, 2, &key)).await?;
            }
            Ok(())
        })
        .await;
    checks.finish(&[&cluster])
}

#[tokio::test]
async fn what_needs_more_nodes_than_are_there_is_refused_with_its_outcome() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let mut checks = Checks::new();
    put_blind(&key_urls(&cluster, BUCKET, "quorum")[0], "before").await?;
    cluster.kill(2).await?;
    let c = &cluster;
    checks
        .run("three primaries of two are a quorum not met", async {
            let url = format!("{}?sloppy=false&pw=3&timeout_ms=3000", key_url(&c.url(0), BUCKET, "strict"));
            let reply = http::put(url).text("perhaps").send().await?;
            expect_quorum_not_met(&reply.problem_code(503, "write_quorum_not_met")?)?;
            let url = format!("{}?sloppy=false&r=3&timeout_ms=3000", key_url(&c.url(0), BUCKET, "quorum"));
            http::get(url).send().await?.problem_code(503, "read_quorum_not_met").map(drop)
        })
        .await;
    cluster.kill(1).await?;
    await_noticed(&cluster, &[0], 1, false, NOTICE_TIME_MAX).await?;
    let c = &cluster;
    checks
        .run("a hint does not count towards the quorum of a write", async {
            let reply = http::put(key_url(&c.url(0), BUCKET, "alone")).text("perhaps").send().await?;
            let problem = reply.problem_code(503, "write_quorum_not_met")?;
            expect_quorum_not_met(&problem)?;
            ensure!(problem["required"] == 2, "{problem}");
            // What this answer left behind, it says: a value that is there was not `not_applied`.
            let found = http::get(format!("{}?r=1", key_url(&c.url(0), BUCKET, "alone"))).send().await?;
            ensure!(found.status == 404 || problem["outcome"] != "not_applied", "{problem}, then {found}");
            Ok(())
        })
        .await;
    checks
        .run("a read quorum is not met either, one copy is still read and written", async {
            let url = key_url(&c.url(0), BUCKET, "quorum");
            let read = http::get(&url).send().await?;
            read.problem_code(503, "read_quorum_not_met")?;
            let read = http::get(format!("{url}?r=1")).send().await?.expect(200)?;
            let call = http::put(format!("{url}?w=1")).context(&read.context()?).text("alone");
            call.send().await?.expect(204)?;
            expect_values(&format!("{url}?r=1"), &["alone"]).await.map(drop)
        })
        .await;
    checks
        .run("a node without a quorum lives and is not ready", async {
            http::get(format!("{}/health/live", c.url(0))).send().await?.expect(200)?;
            let url = format!("{}/health/ready", c.url(0));
            eventually(NOTICE_TIME_MAX, || async { http::get(&url).send().await?.expect(503) })
                .await
                .map(drop)
        })
        .await;
    cluster.spawn(1)?;
    cluster.spawn(2)?;
    cluster.await_ready().await?;
    let c = &cluster;
    checks
        .run("what one node took alone is on all when they are back", async {
            eventually(DELIVERY_TIME_MAX, || expect_converged(c, 0, "quorum")).await?;
            expect_values(&key_url(&c.url(2), BUCKET, "quorum"), &["alone"]).await.map(drop)
        })
        .await;
    checks.finish(&[&cluster])
}

fn expect_quorum_not_met(problem: &Value) -> Result<()> {
    let outcome = problem["outcome"].as_str().unwrap_or("missing");
    ensure!(["not_applied", "indeterminate"].contains(&outcome), "{problem}");
    ensure!(
        ["safe", "after_read", "no"].contains(&problem["retry"].as_str().unwrap_or("missing")),
        "{problem}"
    );
    let (required, acked) = (problem["required"].as_u64(), problem["acked"].as_u64());
    ensure!(required.is_some() && acked.is_some() && acked < required, "{problem}");
    Ok(())
}

#[tokio::test]
async fn no_acknowledged_write_is_missing_after_all_were_killed() -> Result<()> {
    const WRITERS: usize = 8;
    let mut cluster = Cluster::start(3).await?;
    let mut checks = Checks::new();
    for round in 0..3 {
        let urls = &(0..3).map(|index| cluster.url(index)).collect::<Vec<_>>();
        // Each writer puts new keys and moves one key of its own on, until a write fails.
        let writer = |writer: usize| async move {
            let (mut acked, mut context) = (0, None::<String>);
            loop {
                let base = &urls[acked % 3];
                let fresh =
                    http::put(key_url(base, BUCKET, format!("r{round} w{writer} n{acked}"))).text("v").send();
                if !fresh.await.is_ok_and(|reply| reply.status == 204) {
                    break;
                }
                let mut call =
                    http::put(key_url(base, BUCKET, format!("r{round} w{writer}"))).text(&acked.to_string());
                if let Some(context) = &context {
                    call = call.context(context);
                }
                match call.send().await {
                    Ok(reply) if reply.status == 204 => context = reply.context().ok(),
                    _ => break,
                }
                acked += 1;
            }
            acked
        };
        let mut writers = futures_util::future::join_all((0..WRITERS).map(writer));
        let killing = async {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            cluster.kill_all().await
        };
        let (acked, killed) = tokio::join!(&mut writers, killing);
        killed?;
        drop(writers);
        for index in 0..3 {
            cluster.spawn(index)?;
        }
        cluster.await_ready().await?;
        let c = &cluster;
        checks
            .run(&format!("round {round}: all that was acknowledged is there"), async {
                ensure!(acked.iter().sum::<usize>() > 0, "nothing was written in time, so nothing was tried");
                for (writer, &count) in acked.iter().enumerate() {
                    for number in 0..count {
                        let url = key_url(&c.url(number), BUCKET, format!("r{round} w{writer} n{number}"));
                        expect_values(&url, &["v"]).await?.expect(200)?;
                    }
                    if count > 0 {
                        let found = http::get(key_url(&c.url(writer), BUCKET, format!("r{round} w{writer}")))
                            .send()
                            .await?;
                        // The write that failed may have been applied: it follows the last acknowledged one.
                        let (last, next) = ((count - 1).to_string(), count.to_string());
                        let values = found.values()?;
                        let is_right = |value: &String| *value == last || *value == next;
                        ensure!(
                            !values.is_empty() && values.iter().all(is_right),
                            "acked {last}, found {found}"
                        );
                    }
                }
                Ok(())
            })
            .await;
    }
    checks.finish(&[&cluster])
}

#[tokio::test]
async fn three_nodes_find_each_other_in_any_order() -> Result<()> {
    for order in [[2, 1, 0], [1, 0, 2], [2, 0, 1]] {
        let mut cluster = Cluster::prepare(3)?;
        for index in order {
            cluster.spawn(index)?;
            // Long enough for a node to have tried its seed in vain.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        cluster.await_ready().await.with_context(|| format!("started in the order {order:?}"))?;
        let mut checks = Checks::new();
        let c = &cluster;
        checks
            .run("the cluster stores a value on all three", async {
                let reply = http::put(format!("{}?w=3", key_urls(c, BUCKET, "k")[1]))
                    .text("v")
                    .send()
                    .await?
                    .expect(204)?;
                ensure!(reply.receipt()?["acked"] == 3, "{reply}");
                expect_values(&key_urls(c, BUCKET, "k")[2], &["v"]).await.map(drop)
            })
            .await;
        checks
            .run("all nodes name one cluster and one ring", async {
                let mut views = Vec::new();
                for index in 0..3 {
                    let view = http::get(format!("{}/v1/cluster", c.url(index)))
                        .send()
                        .await?
                        .expect(200)?
                        .json()?;
                    views.push((view["cluster"].clone(), view["ring"]["version"].clone()));
                }
                ensure!(views.iter().all(|view| *view == views[0]), "{views:?}");
                ensure!(!views[0].0.is_null(), "no name: {views:?}");
                Ok(())
            })
            .await;
        checks.finish(&[&cluster])?;
    }
    Ok(())
}

#[tokio::test]
async fn a_paused_node_delays_nobody_for_long_and_catches_up() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let c = &cluster;
    let mut checks = Checks::new();
    let key = |number: usize| format!("paused {number}");
    let doubts = |c: &Cluster| c.log(1).matches("a member is not heard any more").count();
    let doubted_before = doubts(c);
    // It waits for answers when it is stopped, and goes on with them unread.
    let (mut busy, served) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
    for number in 0..BUSY_CLIENTS {
        let (url, served) = (key_url(&c.url(1), BUCKET, format!("busy {number}")), Arc::clone(&served));
        busy.spawn(async move {
            loop {
                let done = put_blind(&url, "v").await.is_ok();
                served.fetch_add(usize::from(done), Ordering::Relaxed);
            }
        });
    }
    let are_served = || async {
        ensure!(served.load(Ordering::Relaxed) > 10 * BUSY_CLIENTS, "nobody");
        Ok(())
    };
    eventually(Duration::from_secs(10), are_served).await?;
    c.pause(1)?;
    checks
        .run("writes and reads succeed while a node is paused", async {
            for number in 0..KEY_COUNT {
                let node = if number % 2 == 0 { 0 } else { 2 };
                let started = Instant::now();
                put_blind(&key_url(&c.url(node), BUCKET, key(number)), "v").await?;
                expect_values(&key_url(&c.url(2 - node), BUCKET, key(number)), &["v"]).await?.expect(200)?;
                let took = started.elapsed();
                ensure!(took < Duration::from_secs(5), "a write and a read took {took:?}");
            }
            Ok(())
        })
        .await;
    checks.run("a paused node is noticed", await_noticed(c, &[0, 2], 1, false, Duration::from_secs(8))).await;
    c.resume(1)?;
    checks
        .run("a resumed node is reachable again", await_noticed(c, &[0, 2], 1, true, Duration::from_secs(15)))
        .await;
    checks
        .run("and gets what it missed", async {
            for number in 0..KEY_COUNT {
                let key = key(number);
                eventually(DELIVERY_TIME_MAX, || expect_converged(c, 0, &key)).await?;
            }
            Ok(())
        })
        .await;
    busy.shutdown().await;
    checks
        .run("it has taken nobody for dead when it went on", async {
            ensure!(doubts(c) == doubted_before, "{}", c.log(1));
            Ok(())
        })
        .await;
    checks.finish(&[&cluster])
}

#[tokio::test]
async fn a_rolling_restart_interrupts_nobody() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let mut checks = Checks::new();
    let url = |c: &Cluster, index: usize| key_url(&c.url(index), BUCKET, "rolling");
    let mut context = put_blind(&url(&cluster, 0), "start").await?.context()?;
    for victim in 0..3 {
        let status = cluster.stop(victim).await?;
        let c = &cluster;
        checks
            .run(&format!("while node {victim} restarts, one writer makes no sibling"), async {
                ensure!(status.success(), "SIGTERM ended node {victim} with {status}");
                for round in 1..20 {
                    let reply =
                        put_with(&url(c, victim + 1 + round % 2), &round.to_string(), &context).await?;
                    ensure!(reply.siblings()? == 1, "{reply}");
                    context = reply.context()?;
                }
                Ok(())
            })
            .await;
        cluster.restart(victim).await?;
        let c = &cluster;
        checks
            .run(&format!("node {victim} tells what it missed"), async {
                expect_values(&url(c, victim), &["19"]).await?.expect(200).map(drop)
            })
            .await;
    }
    checks.finish(&[&cluster])
}
