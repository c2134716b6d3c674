//! Records that nobody can read any more: the only copy of a key is spoiled.
//!
//! What it was is lost, and a node does not decide by itself that nobody misses it: the key is refused, and a change of the members
//! that would move it waits and says which key it waits for. Whoever writes the key has
//! decided; a delete is of what was read, and there is nothing to read.

use crate::steps::{HEAL_TIME_MAX, newcomer, settled};
use crate::support::{configure, each, eventually, expect_values, put_blind};
use anyhow::{Context, Result, ensure};
use node::store::keys::decode_record_key;
use node::store::rocks::RocksStore;
use node::store::{Batch, Family, Store};
use serde_json::json;
use std::path::Path;
use std::time::Duration;
use tests::cluster::Cluster;
use tests::http::{self, key_url};

const BUCKET: &str = "alone";
const KEYS: usize = 200;
const NAMED_TIME_MAX: Duration = Duration::from_secs(30);

/// Flips a byte of each of these keys' records; how many are here.
fn spoil(dir: &Path, named: impl Fn(&[u8]) -> bool) -> Result<Vec<String>> {
    let (store, mut batch, mut spoiled) = (RocksStore::open(dir)?, Batch::default(), Vec::new());
    for (key, record) in store.scan(Family::Records, &[], None, usize::MAX, usize::MAX)? {
        let (_, id) = decode_record_key(&key)?;
        if named(id.key()) {
            let mut record = record.to_vec();
            *record.last_mut().context("a record has bytes")? ^= 1;
            batch.put(Family::Records, key, record);
            spoiled.push(String::from_utf8(id.key().to_vec())?);
        }
    }
    store.write(batch, true)?;
    Ok(spoiled)
}

fn url(c: &Cluster, node: usize, key: &str) -> String {
    key_url(&c.url(node), BUCKET, key)
}

/// A node alone, whose disk has spoiled a key: nobody else can be asked, and nobody else takes the write.
#[tokio::test]
async fn whoever_writes_a_key_that_can_t_be_read_has_decided() -> Result<()> {
    let mut c = Cluster::start(1).await?;
    for key in ["old", "fine"] {
        put_blind(&url(&c, 0, key), key).await?.expect(204)?;
    }
    c.stop(0).await?;
    ensure!(spoil(c.data_dir(0), |key| key == b"old")?.len() == 1, "it is not there");
    c.restart(0).await?;
    http::get(url(&c, 0, "old")).send().await?.expect(503)?;
    put_blind(&url(&c, 0, "old"), "new").await?.expect(204)?;
    eventually(NAMED_TIME_MAX, || async { expect_values(&url(&c, 0, "old"), &["new"]).await.map(drop) })
        .await?;
    expect_values(&url(&c, 0, "fine"), &["fine"]).await?.expect(200)?;
    ensure!(c.panics().is_empty(), "{:?}", c.panics());
    Ok(())
}

#[tokio::test]
async fn a_change_names_the_key_that_it_waits_for_and_goes_on_when_somebody_has_decided() -> Result<()> {
    let (mut cluster, _) = settled(2).await?;
    let c = &cluster;
    configure(c, BUCKET, &json!({ "n": 1 })).await?;
    each(0..KEYS, |number| async move {
        let key = format!("k{number}");
        put_blind(&url(c, number % 2, &key), &key).await?.expect(204).map(drop)
    })
    .await?;
    cluster.stop(1).await?;
    // Every third, so that some of them move.
    let spoiled =
        spoil(cluster.data_dir(1), |key| key.ends_with(b"3") || key.ends_with(b"6") || key.ends_with(b"9"))?;
    ensure!(spoiled.len() > 10, "{} keys were spoiled", spoiled.len());
    cluster.restart(1).await?;
    // It is not that the node does not answer.
    let (c, lost) = (&cluster, &spoiled);
    each(0..KEYS, |number| async move {
        let key = format!("k{number}");
        if !lost.contains(&key) {
            expect_values(&url(c, 0, &key), &[&key]).await?.expect(200)?;
        }
        Ok(())
    })
    .await?;
    for key in &spoiled {
        let read = http::get(url(&cluster, 0, key)).send().await?;
        ensure!(read.status == 503, "{key}: {} {}", read.status, read.text());
    }
    let (third, new) = newcomer(&mut cluster).await?;
    cluster.change(0, &json!([{ "join": new }])).await?;
    let c = &cluster;
    eventually(NAMED_TIME_MAX, || async {
        let told = c.transfers(0).await?.to_string();
        ensure!(spoiled.iter().any(|key| told.contains(&format!("{BUCKET}/{key} there"))), "{told}");
        Ok(())
    })
    .await?;
    for key in &spoiled {
        // Through its own node and through the other.
        put_blind(&url(c, key.len() % 2, key), "decided").await?.expect(204)?;
    }
    c.await_settled(&[0, 1, third], &[(new.as_str(), "up")]).await?;
    each(0..KEYS, |number| {
        let key = format!("k{number}");
        let decided = spoiled.contains(&key);
        async move {
            let url = url(c, [0, 1, third][number % 3], &key);
            if !decided {
                return expect_values(&url, &[&key]).await?.expect(200).map(drop);
            }
            // What took a spoiled copy's place counts once its owner has seen that no other one has more.
            eventually(HEAL_TIME_MAX, || async {
                expect_values(&url, &["decided"]).await?.expect(200).map(drop)
            })
            .await
        }
    })
    .await?;
    ensure!(c.panics().is_empty(), "{:?}", c.panics());
    Ok(())
}
