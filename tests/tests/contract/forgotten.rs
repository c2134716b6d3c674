//! A directory that was put back or has lost its copies, and a start that only somebody remembers who is away. Entries 2 and 3b
//! of the catalogue of known failures, in the shapes in which nobody can tell that node what it has forgotten.
//!
//! Whatever it then writes must be new: a version that is named like a forgotten one would take its place somewhere and leave
//! it in another, for ever.

use crate::rollback::lose;
use crate::steps::settled;
use crate::support::{copy, eventually, expect_values, put_back, put_blind, put_with, versions};
use anyhow::{Context, Result, ensure};
use node::store::Family;
use serde_json::Value;
use std::time::Duration;
use tests::checks::Checks;
use tests::cluster::Cluster;
use tests::http::{self, Reply, key_url};

const BUCKET: &str = "forgotten";
const KEYS: [&str; 4] = ["a", "b", "c", "d"];
const HEAL_TIME_MAX: Duration = Duration::from_secs(40);

fn url(c: &Cluster, node: usize, key: &str) -> String {
    key_url(&c.url(node), BUCKET, key)
}

async fn explained(c: &Cluster, key: &str) -> Result<Value> {
    let ask = format!("{}/v1/explain?bucket={BUCKET}&key={key}", c.url(0));
    http::get(ask).send().await?.expect(200)?.json()
}

/// Every replica has all of these, and all say so through every node.
async fn are_everywhere(c: &Cluster, key: &str, values: &[&str]) -> Result<()> {
    eventually(HEAL_TIME_MAX, || async {
        let told = explained(c, key).await?;
        ensure!(told["verdict"] == "converged", "{told}");
        for node in 0..3 {
            expect_values(&url(c, node, key), values).await?;
        }
        Ok(())
    })
    .await
}

async fn replace(url: &str, value: &str) -> Result<Reply> {
    let context = versions(url).await?.context()?;
    put_with(url, value, &context).await?.expect(204)
}

/// The start that was forgotten wrote with one node, the one after it with the other: both were acknowledged by two.
#[tokio::test]
async fn entry_03b_a_start_that_only_an_absent_node_remembers_is_not_lived_twice() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let before = put_blind(&url(&cluster, 2, "old"), "before the image").await?.context()?;
    cluster.stop(0).await?;
    cluster.stop(2).await?;
    let image = cluster.dir().join("image");
    copy(cluster.data_dir(2), &image)?;
    cluster.restart(2).await?;
    for key in KEYS {
        put_blind(&url(&cluster, 2, key), "forgotten").await?.expect(204)?;
    }
    replace(&url(&cluster, 2, "old"), "second").await?;
    replace(&url(&cluster, 2, "old"), "third").await?;
    cluster.kill(2).await?;
    put_back(&image, cluster.data_dir(2))?;
    cluster.stop(1).await?;
    cluster.spawn(0)?;
    cluster.restart(2).await?;
    for key in KEYS {
        put_blind(&url(&cluster, 2, key), "after").await?.expect(204)?;
    }
    put_with(&url(&cluster, 2, "old"), "beside the third", &before).await?.expect(204)?;
    cluster.restart(1).await?;
    let (c, mut checks) = (&cluster, Checks::new());
    for key in KEYS {
        let both = are_everywhere(c, key, &["after", "forgotten"]);
        checks.run(&format!("{key}: both acknowledged values are there"), both).await;
    }
    let both = are_everywhere(c, "old", &["beside the third", "third"]);
    checks.run("what continued a version of before the image is one of two", both).await;
    checks.finish(&[&cluster])
}

/// With nobody to ask, it takes a write that one disk acknowledges. That one may be set aside, and is not lost.
#[tokio::test]
async fn entry_03b_a_directory_that_is_put_back_and_starts_alone_loses_nothing() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    cluster.stop(2).await?;
    let image = cluster.dir().join("image");
    copy(cluster.data_dir(2), &image)?;
    cluster.restart(2).await?;
    for key in KEYS {
        put_blind(&url(&cluster, 2, key), "forgotten").await?.expect(204)?;
    }
    cluster.kill(2).await?;
    put_back(&image, cluster.data_dir(2))?;
    cluster.kill(0).await?;
    cluster.kill(1).await?;
    cluster.spawn(2)?;
    for key in KEYS {
        let alone = format!("{}?w=1", url(&cluster, 2, key));
        eventually(HEAL_TIME_MAX, || async { put_blind(&alone, "alone").await?.expect(204) }).await?;
    }
    cluster.spawn(0)?;
    cluster.spawn(1)?;
    cluster.await_ready().await?;
    let (c, mut checks) = (&cluster, Checks::new());
    for key in KEYS {
        checks.run(&format!("{key}: two have acknowledged it"), are_everywhere(c, key, &["forgotten"])).await;
        checks
            .run(&format!("{key}: one has, and keeps it aside"), async {
                let aside = format!("{}/v1/set-aside?bucket={BUCKET}&key={key}", c.url(2));
                let told: Value = http::get(aside).send().await?.expect(200)?.json()?;
                let values = told["versions"].as_array().context("no versions")?;
                ensure!(values.iter().any(|version| version["value"] == "alone"), "{told}");
                Ok(())
            })
            .await;
    }
    checks.finish(&[&cluster])
}

/// Who has lost its copy and is given the older one of a fallback does not count on from there: riak_kv's test
/// `kv679_dataloss_fb`.
#[tokio::test]
async fn entry_02_the_old_copy_of_a_fallback_takes_no_clock_back() -> Result<()> {
    let (mut cluster, ids) = settled(5).await?;
    let list = explained(&cluster, "clock").await?["preference_list"].clone();
    let list = list.as_array().context("no owners")?;
    let (owners, fallbacks): (Vec<usize>, Vec<usize>) =
        (0..5).partition(|node| list.iter().any(|owner| owner == ids[*node].as_str()));
    ensure!(owners.len() == 3, "{owners:?}");
    let (writer, silent) = (owners[0], &owners[1..]);
    for &node in silent {
        cluster.kill(node).await?;
    }
    let through_writer = url(&cluster, writer, "clock");
    let first = put_blind(&through_writer, "one").await?.expect(204)?;
    ensure!(first.receipt()?["fallbacks"] > 0, "{:?}", first.receipt()?);
    for &node in &fallbacks {
        cluster.kill(node).await?;
    }
    for &node in silent {
        cluster.spawn(node)?;
    }
    let (by_all, seen) = (format!("{through_writer}?pw=3"), first.context()?);
    eventually(HEAL_TIME_MAX, || async { put_with(&by_all, "two", &seen).await?.expect(204) }).await?;
    for &node in &owners {
        cluster.kill(node).await?;
    }
    let lost = lose(cluster.data_dir(writer), &[Family::Records, Family::Leaves, Family::Dead, Family::Due])?;
    ensure!(lost > 0, "nothing was lost");
    for &node in fallbacks.iter().chain([&writer]) {
        cluster.spawn(node)?;
    }
    // Read repair gives it the copy that the fallbacks have kept since the first write.
    eventually(HEAL_TIME_MAX, || expect_values(&through_writer, &["one"])).await?;
    put_blind(&through_writer, "three").await?.expect(204)?;
    for &node in silent {
        cluster.spawn(node)?;
    }
    cluster.await_ready().await?;
    let (c, mut checks) = (&cluster, Checks::new());
    checks
        .run("what was acknowledged last is there, twice", are_everywhere(c, "clock", &["three", "two"]))
        .await;
    checks.finish(&[&cluster])
}
