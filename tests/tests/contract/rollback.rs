//! A data directory that has gone back in time: put back from a copy, its log cut or damaged, or copied and run twice.
//!
//! What it may never do is hand out a dot again that it handed out before: the new value would silently take the place of
//! the old one. Entries 1, 3b, 5 and 53 of the catalogue of known failures.

use crate::support::{copy, eventually, put_back, put_blind};
use anyhow::{Result, ensure};
use node::store::rocks::RocksStore;
use node::store::{Batch, Family, Store};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tests::checks::Checks;
use tests::cluster::Cluster;
use tests::http::{self, encode, key_url};

const BUCKET: &str = "back";
const KEYS: usize = 40;
const CATCH_UP_TIME_MAX: Duration = Duration::from_secs(20);

fn key(number: usize) -> String {
    format!("key {number}")
}

/// Every key through one node, blind: each value stands beside those before it.
async fn write_all(cluster: &Cluster, node: usize, bucket: &str, value: &str) -> Result<()> {
    for number in 0..KEYS {
        put_blind(&key_url(&cluster.url(node), bucket, key(number)), value).await?;
    }
    Ok(())
}

async fn expect_all(cluster: &Cluster, node: usize, bucket: &str, values: &[&str]) -> Result<()> {
    let expected: BTreeSet<String> = values.iter().map(|value| (*value).to_owned()).collect();
    for number in 0..KEYS {
        let reply = http::get(key_url(&cluster.url(node), bucket, key(number))).send().await?;
        let found = reply.values()?;
        ensure!(found == expected, "{}: expected {expected:?}, found {found:?}", key(number));
    }
    Ok(())
}

#[tokio::test]
async fn entry_03b_an_old_directory_that_is_put_back_overwrites_nothing() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let mut checks = Checks::new();
    // Each of them, because what the others remember is told apart by a number that is drawn.
    for victim in 0..3 {
        let bucket = format!("back {victim}");
        write_all(&cluster, victim, &bucket, "before").await?;
        cluster.stop(victim).await?;
        let saved = cluster.dir().join(format!("saved-{victim}"));
        copy(cluster.data_dir(victim), &saved)?;
        cluster.restart(victim).await?;
        write_all(&cluster, victim, &bucket, "between").await?;
        cluster.kill(victim).await?;
        let dir = cluster.data_dir(victim).to_owned();
        put_back(&saved, &dir)?;
        cluster.restart(victim).await?;
        let c = &cluster;
        checks.run(&format!("node {victim} takes writes"), write_all(c, victim, &bucket, "after")).await;
        for node in 0..3 {
            checks
                .run(
                    &format!(
                        "all three values that went through node {victim} are there through node {node}"
                    ),
                    eventually(CATCH_UP_TIME_MAX, || {
                        expect_all(c, node, &bucket, &["before", "between", "after"])
                    }),
                )
                .await;
        }
    }
    checks.finish(&[&cluster])
}

/// It knows who it is and which epochs it has drawn, and has lost every value. Its next writes count from one again, under an
/// epoch that nobody has seen: riak_kv's issue 679, as its test `kv679_dataloss` has it.
#[tokio::test]
async fn entry_01_who_has_lost_its_copies_takes_nothing_for_new_that_was_there() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    for value in ["one", "two", "three"] {
        write_all(&cluster, 1, BUCKET, value).await?;
    }
    cluster.stop(1).await?;
    let lost = lose(cluster.data_dir(1), &[Family::Records, Family::Leaves, Family::Dead, Family::Due])?;
    ensure!(lost >= 2 * KEYS, "only {lost} rows were lost");
    cluster.spawn(1)?;
    // At once, before the others have given it back what it lost.
    eventually(CATCH_UP_TIME_MAX, || async {
        put_blind(&key_url(&cluster.url(1), "first", "answer"), "v").await.map(drop)
    })
    .await?;
    let absent = held_by(&cluster, 1, false).await?;
    write_all(&cluster, 1, BUCKET, "four").await?;
    ensure!(absent > 0, "it had everything back before it was asked, so this proves nothing");
    cluster.await_ready().await?;
    let (c, mut checks) = (&cluster, Checks::new());
    let all = ["one", "two", "three", "four"];
    for node in 0..3 {
        checks
            .run(
                &format!("all four values are there through node {node}"),
                eventually(CATCH_UP_TIME_MAX, || expect_all(c, node, BUCKET, &all)),
            )
            .await;
    }
    checks
        .run("and on every replica", async {
            eventually(CATCH_UP_TIME_MAX, || async {
                let held = held_by(c, 1, true).await?;
                ensure!(held == KEYS, "node 1 holds {held} keys");
                Ok(())
            })
            .await
        })
        .await;
    checks.finish(&[&cluster])
}

/// Of how many keys a node holds a copy, or holds none.
async fn held_by(c: &Cluster, node: usize, present: bool) -> Result<usize> {
    let id = c.id(node).await?;
    let mut count = 0;
    for number in 0..KEYS {
        let url = format!("{}/v1/explain?bucket={BUCKET}&key={}", c.url(node), encode(key(number)));
        let told: Value = http::get(url).send().await?.expect(200)?.json()?;
        let replicas = told["replicas"].as_array().into_iter().flatten();
        count += replicas.filter(|one| one["node"] == id.as_str() && one["present"] == present).count();
    }
    Ok(count)
}

/// Removes everything that these families of a stopped node hold. How many rows that were.
pub(crate) fn lose(dir: &Path, families: &[Family]) -> Result<usize> {
    let (store, mut batch) = (RocksStore::open(dir)?, Batch::default());
    for family in families {
        for (key, _) in store.scan(*family, &[], None, usize::MAX, usize::MAX)? {
            batch.delete(*family, key);
        }
    }
    let count = batch.changes.len();
    store.write(batch, true)?;
    Ok(count)
}

/// The newest log of the database.
pub(crate) fn log_of(dir: &Path) -> Result<PathBuf> {
    let mut logs: Vec<PathBuf> = std::fs::read_dir(dir.join("db"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|kind| kind == "log"))
        .filter(|path| path.metadata().is_ok_and(|meta| meta.len() > 0))
        .collect();
    logs.sort();
    logs.pop().ok_or_else(|| anyhow::anyhow!("{} has no log", dir.display()))
}

#[tokio::test]
async fn entry_53_a_log_that_was_cut_overwrites_nothing() -> Result<()> {
    let mut checks = Checks::new();
    for cut in [1, 300, 4096] {
        let mut cluster = Cluster::start(3).await?;
        write_all(&cluster, 1, BUCKET, "first").await?;
        write_all(&cluster, 1, BUCKET, "second").await?;
        cluster.kill(1).await?;
        let file = std::fs::OpenOptions::new().write(true).open(log_of(cluster.data_dir(1))?)?;
        file.set_len(file.metadata()?.len().saturating_sub(cut))?;
        cluster.restart(1).await?;
        let c = &cluster;
        checks.run(&format!("{cut} bytes: it takes writes"), write_all(c, 1, BUCKET, "third")).await;
        for node in 0..3 {
            checks
                .run(
                    &format!("{cut} bytes: all is there through node {node}"),
                    eventually(CATCH_UP_TIME_MAX, || {
                        expect_all(c, node, BUCKET, &["first", "second", "third"])
                    }),
                )
                .await;
        }
    }
    checks.finish(&[])
}

#[tokio::test]
async fn entry_05_a_directory_that_runs_twice_takes_no_writes() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    write_all(&cluster, 1, BUCKET, "before").await?;
    cluster.stop(1).await?;
    let twin = cluster.dir().join("twin");
    copy(cluster.data_dir(1), &twin)?;
    cluster.restart(1).await?;
    let twin = cluster.adopt(twin)?;
    cluster.spawn(twin)?;
    let mut checks = Checks::new();
    let c = &cluster;
    for node in [1, twin] {
        checks
            .run(
                &format!("node {node} says that it has a twin"),
                eventually(CATCH_UP_TIME_MAX, || async {
                    let reply = http::get(format!("{}/health/ready", c.url(node))).send().await?;
                    ensure!(reply.status == 503, "{reply}");
                    ensure!(
                        reply.text().contains("another process runs under this node's identity"),
                        "{reply}"
                    );
                    Ok(())
                }),
            )
            .await;
    }
    checks.run("the cluster takes writes all the same", write_all(c, 0, BUCKET, "after")).await;
    checks.run("and has all of them", expect_all(c, 2, BUCKET, &["before", "after"])).await;
    checks.finish(&[&cluster])
}
