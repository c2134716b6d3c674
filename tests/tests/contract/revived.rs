//! What was deleted and forgotten stays so, whatever old disk comes along: a directory that was put back, a log that was cut,
//! a copy that runs beside the original, a member that was removed and returns. Entries 3b, 5, 30, 41, 48 and 53 of the
//! catalogue of known failures, each after a reap.
//!
//! Once nobody holds even the tombstone, an old copy looks like a value that only one node has. So each test ends by waiting
//! until every node has compared its trees a good many times more, and looks at every key all the while.

use crate::steps::{NOTICE_TIME_MAX, SPREAD_TIME_MAX};
use crate::support::{copy, eventually, expect_values, put_back, put_blind};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tests::checks::Checks;
use tests::cluster::Cluster;
use tests::http::{self, key_url};

const BUCKET: &str = "revived";
const KEYS: usize = 24;
const REAP_TIME_MAX: Duration = Duration::from_secs(60);
const HEAL_TIME_MAX: Duration = Duration::from_secs(40);
/// Comparisons of trees with others that each node goes through before a key counts as gone for good: what differs is looked
/// at twice, two seconds apart, and each of three others has its turn.
const EXCHANGES: u64 = 10;

async fn start(count: usize) -> Result<Cluster> {
    let mut cluster = Cluster::prepare(count)?;
    cluster.set("CARTWHEEL_REAP_GRACE_MS", "2000");
    for index in 0..count {
        cluster.spawn(index)?;
    }
    cluster.await_ready().await?;
    Ok(cluster)
}

fn url(c: &Cluster, node: usize, number: usize) -> String {
    key_url(&c.url(node), BUCKET, format!("k{number}"))
}

async fn fill(c: &Cluster, nodes: &[usize]) -> Result<()> {
    for number in 0..KEYS {
        put_blind(&url(c, nodes[number % nodes.len()], number), "deleted").await?;
    }
    Ok(())
}

async fn explained(c: &Cluster, node: usize, key: &str) -> Result<Value> {
    let ask = format!("{}/v1/explain?bucket={BUCKET}&key={key}", c.url(node));
    http::get(ask).send().await?.expect(200)?.json()
}

/// Deletes every key, and waits until no node holds anything of it.
async fn delete_and_reap(c: &Cluster, nodes: &[usize]) -> Result<()> {
    for number in 0..KEYS {
        let url = url(c, nodes[number % nodes.len()], number);
        let context = http::get(&url).send().await?.expect(200)?.context()?;
        http::delete(&url).context(&context).send().await?.expect(204)?;
    }
    eventually(REAP_TIME_MAX, || are_gone(c, nodes)).await
}

async fn are_gone(c: &Cluster, nodes: &[usize]) -> Result<()> {
    for number in 0..KEYS {
        let told = explained(c, nodes[0], &format!("k{number}")).await?;
        for replica in told["replicas"].as_array().context("no replicas")? {
            ensure!(replica["reachable"] == true && replica["present"] == false, "k{number}: {replica}");
        }
    }
    Ok(())
}

async fn exchanges(c: &Cluster, node: usize) -> Result<u64> {
    let told: Value = http::get(format!("{}/v1/aae", c.url(node))).send().await?.expect(200)?.json()?;
    told["exchanges"].as_u64().with_context(|| format!("{told}"))
}

/// Looks at every key through these nodes until each of them has compared its trees so often more: none may be there.
async fn stay_gone(c: &Cluster, nodes: &[usize]) -> Result<()> {
    let mut before = Vec::new();
    for &node in nodes {
        before.push(exchanges(c, node).await?);
    }
    loop {
        for &node in nodes {
            for number in 0..KEYS {
                expect_values(&url(c, node, number), &[]).await?;
            }
        }
        are_gone(c, nodes).await?;
        let mut is_over = true;
        for (&node, before) in nodes.iter().zip(&before) {
            is_over &= exchanges(c, node).await? >= before + EXCHANGES;
        }
        if is_over {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The newest log of the database.
fn log_of(dir: &Path) -> Result<PathBuf> {
    let logs = std::fs::read_dir(dir.join("db"))?.filter_map(|entry| Some(entry.ok()?.path()));
    let log = logs.filter(|path| path.extension().is_some_and(|kind| kind == "log")).max();
    log.with_context(|| format!("{} has no log", dir.display()))
}

/// The old directory holds copies of its own, copies for others with their hints, and one value that nobody else ever got.
#[tokio::test]
async fn entry_03b_a_directory_that_is_put_back_revives_nothing() -> Result<()> {
    let mut cluster = start(4).await?;
    let lonely = |c: &Cluster, node: usize| key_url(&c.url(node), BUCKET, "lonely");
    cluster.kill(2).await?;
    fill(&cluster, &[0, 1, 3]).await?;
    cluster.stop(3).await?;
    let before = cluster.dir().join("before");
    copy(cluster.data_dir(3), &before)?;
    // Alone, it takes a value that is acknowledged for one disk only.
    cluster.kill(0).await?;
    cluster.kill(1).await?;
    cluster.spawn(3)?;
    let url = format!("{}?w=1", lonely(&cluster, 3));
    eventually(SPREAD_TIME_MAX, || put_blind(&url, "lonely")).await?;
    cluster.stop(3).await?;
    let saved = cluster.dir().join("saved");
    copy(cluster.data_dir(3), &saved)?;
    put_back(&before, cluster.data_dir(3))?;
    for index in 0..4 {
        cluster.spawn(index)?;
    }
    cluster.await_ready().await?;
    expect_values(&lonely(&cluster, 0), &[]).await?;
    delete_and_reap(&cluster, &[0, 1, 2, 3]).await?;
    // What is written and acknowledged after the copy was made must outlive it.
    put_blind(&key_url(&cluster.url(3), BUCKET, "later"), "later").await?;
    cluster.kill(3).await?;
    put_back(&saved, cluster.data_dir(3))?;
    cluster.restart(3).await?;
    let mut checks = Checks::new();
    let c = &cluster;
    checks.run("nothing comes back", stay_gone(c, &[0, 1, 2, 3])).await;
    for node in 0..4 {
        let later = key_url(&c.url(node), BUCKET, "later");
        checks
            .run(
                &format!("what was acknowledged is there through node {node}"),
                eventually(HEAL_TIME_MAX, || async { expect_values(&later, &["later"]).await.map(drop) }),
            )
            .await;
        checks
            .run(&format!("and takes writes through node {node}"), async {
                put_blind(&url_of(c, node, "new"), &format!("by {node}")).await.map(drop)
            })
            .await;
    }
    checks
        .run("what only the old directory had is not spread, and is kept where it can be found", async {
            expect_values(&lonely(c, 0), &[]).await?;
            let told = explained(c, 3, "lonely").await?;
            let replicas = told["replicas"].as_array().context("no replicas")?;
            let kept = replicas.iter().find(|replica| replica["set_aside"] == true);
            ensure!(kept.is_some(), "nobody has set it aside: {told}");
            let listed = format!("{}/v1/set-aside", c.url(3));
            let told: Value = http::get(&listed).send().await?.expect(200)?.json()?;
            let names = told["items"].as_array().context("no items")?;
            let name = json!({ "bucket": BUCKET, "key": "lonely" });
            ensure!(names.contains(&name), "{told}");
            let told: Value = http::get(format!("{listed}?bucket={BUCKET}&key=lonely"))
                .send()
                .await?
                .expect(200)?
                .json()?;
            ensure!(told["versions"][0]["value"] == "lonely", "{told}");
            let metrics = http::get(format!("{}/metrics", c.url(3))).send().await?.expect(200)?.text();
            ensure!(metrics.contains("cartwheel_set_aside_total"), "{metrics}");
            Ok(())
        })
        .await;
    checks.finish(&[&cluster])
}

fn url_of(c: &Cluster, node: usize, key: &str) -> String {
    key_url(&c.url(node), BUCKET, key)
}

#[tokio::test]
async fn entry_53_a_log_that_was_cut_revives_nothing() -> Result<()> {
    let mut cluster = start(3).await?;
    fill(&cluster, &[0, 1, 2]).await?;
    for number in 0..KEYS {
        eventually(HEAL_TIME_MAX, || async {
            let told = explained(&cluster, 0, &format!("k{number}")).await?;
            ensure!(told["verdict"] == "converged", "{told}");
            Ok(())
        })
        .await?;
    }
    let length = log_of(cluster.data_dir(2))?.metadata()?.len();
    delete_and_reap(&cluster, &[0, 1, 2]).await?;
    cluster.kill(2).await?;
    let log = std::fs::OpenOptions::new().write(true).open(log_of(cluster.data_dir(2))?)?;
    ensure!(log.metadata()?.len() > length, "the log does not hold what came after");
    log.set_len(length)?;
    cluster.restart(2).await?;
    let mut checks = Checks::new();
    checks.run("nothing comes back", stay_gone(&cluster, &[0, 1, 2])).await;
    checks
        .run("the log says what is wrong", async {
            let log = cluster.log(2);
            ensure!(log.contains("may be behind"), "{log}");
            Ok(())
        })
        .await;
    checks.finish(&[&cluster])
}

/// While one of the others is away nobody can say what was forgotten: the old directory waits, and says so, also through a
/// kill in the middle.
#[tokio::test]
async fn entry_53_an_old_directory_waits_for_the_others_and_says_so() -> Result<()> {
    let mut cluster = start(3).await?;
    fill(&cluster, &[0, 1, 2]).await?;
    cluster.stop(2).await?;
    let saved = cluster.dir().join("saved");
    copy(cluster.data_dir(2), &saved)?;
    cluster.restart(2).await?;
    delete_and_reap(&cluster, &[0, 1, 2]).await?;
    cluster.kill(2).await?;
    cluster.kill(1).await?;
    put_back(&saved, cluster.data_dir(2))?;
    let mut checks = Checks::new();
    for round in 0..2 {
        cluster.spawn(2)?;
        let c = &cluster;
        checks
            .run(&format!("start {round}: it is not ready, and says why"), async {
                eventually(NOTICE_TIME_MAX, || async {
                    let ready = http::get(format!("{}/health/ready", c.url(2))).send().await?.expect(503)?;
                    ensure!(ready.text().contains("may be behind"), "{ready}");
                    Ok(())
                })
                .await?;
                let metrics = http::get(format!("{}/metrics", c.url(2))).send().await?.expect(200)?.text();
                ensure!(metrics.lines().any(|line| line == "cartwheel_behind 1"), "{metrics}");
                Ok(())
            })
            .await;
        checks
            .run(&format!("start {round}: its copies count for nobody"), async {
                for node in [0, 2] {
                    for number in 0..KEYS {
                        let reply = http::get(format!("{}?r=1", url(c, node, number))).send().await?;
                        ensure!(reply.status != 200, "{reply}");
                    }
                }
                let told = explained(c, 0, "k0").await?;
                let replicas = told["replicas"].as_array().context("no replicas")?;
                ensure!(replicas.iter().any(|replica| replica["behind"] == true), "{told}");
                Ok(())
            })
            .await;
        cluster.kill(2).await?;
    }
    cluster.spawn(1)?;
    cluster.spawn(2)?;
    cluster.await_ready().await?;
    checks.run("nothing comes back", stay_gone(&cluster, &[0, 1, 2])).await;
    checks.finish(&[&cluster])
}

#[tokio::test]
async fn entry_05_a_twin_revives_nothing() -> Result<()> {
    let mut cluster = start(3).await?;
    fill(&cluster, &[0, 1, 2]).await?;
    cluster.stop(1).await?;
    let twin = cluster.dir().join("twin");
    copy(cluster.data_dir(1), &twin)?;
    cluster.restart(1).await?;
    delete_and_reap(&cluster, &[0, 1, 2]).await?;
    let twin = cluster.adopt(twin)?;
    cluster.spawn(twin)?;
    let mut checks = Checks::new();
    let c = &cluster;
    checks
        .run(
            "the twin says what it is",
            eventually(NOTICE_TIME_MAX, || async {
                let ready = http::get(format!("{}/health/ready", c.url(twin))).send().await?.expect(503)?;
                ensure!(ready.text().contains("another process runs"), "{ready}");
                Ok(())
            }),
        )
        .await;
    let begun = std::time::Instant::now();
    checks
        .run("nothing comes back while both run", async {
            // The two that have no twin go on comparing their trees with each other and with whoever answers for the third.
            let mut rounds = 0;
            while begun.elapsed() < Duration::from_secs(12) || rounds < 3 {
                for node in [0, 2] {
                    for number in 0..KEYS {
                        expect_values(&url(c, node, number), &[]).await?;
                    }
                }
                rounds += 1;
            }
            Ok(())
        })
        .await;
    cluster.stop(1).await?;
    cluster.stop(twin).await?;
    let old = cluster.data_dir(twin).to_owned();
    put_back(&old, cluster.data_dir(1))?;
    cluster.restart(1).await?;
    checks.run("nothing comes back when the copy goes on alone", stay_gone(&cluster, &[0, 1, 2])).await;
    checks.finish(&[&cluster])
}

#[tokio::test]
async fn entry_48_a_removed_member_revives_nothing() -> Result<()> {
    let mut cluster = start(4).await?;
    let mut ids = Vec::new();
    for index in 0..4 {
        ids.push(cluster.id(index).await?);
    }
    // Some of what the fourth holds when it goes is not its own: the third is away, and the fourth keeps hints for it.
    cluster.kill(2).await?;
    fill(&cluster, &[0, 1, 3]).await?;
    cluster.stop(3).await?;
    cluster.restart(2).await?;
    let c = &cluster;
    eventually(NOTICE_TIME_MAX, || async {
        ensure!(c.member_of(0, &ids[3]).await?["status"] == "down", "{}", c.view(0).await?);
        Ok(())
    })
    .await?;
    c.change(0, &json!([{ "leave": ids[3] }])).await?;
    c.await_settled(&[0, 1, 2], &[(ids[3].as_str(), "removed")]).await?;
    delete_and_reap(c, &[0, 1, 2]).await?;
    cluster.spawn(3)?;
    let mut checks = Checks::new();
    let c = &cluster;
    checks
        .run(
            "it returns, and is told that it was removed",
            eventually(SPREAD_TIME_MAX, || async {
                let ready = http::get(format!("{}/health/ready", c.url(3))).send().await?.expect(503)?;
                ensure!(ready.text().contains("was removed"), "{ready}");
                Ok(())
            }),
        )
        .await;
    checks.run("nothing comes back", stay_gone(c, &[0, 1, 2])).await;
    checks
        .run(
            "nothing is left of what it held",
            eventually(HEAL_TIME_MAX, || async {
                let hints: Value =
                    http::get(format!("{}/v1/hints", c.url(3))).send().await?.expect(200)?.json()?;
                ensure!(hints["waiting"] == 0, "{hints}");
                let surplus = c.transfers(3).await?["surplus"].clone();
                let kept =
                    surplus.as_array().context("no surplus")?.iter().find(|one| one["partitions"] != 0);
                ensure!(kept.is_none(), "{surplus}");
                Ok(())
            }),
        )
        .await;
    checks.finish(&[&cluster])
}
