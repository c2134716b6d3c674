//! Hinted handoff over real processes: entries 24 to 28 of the catalogue of known failures. How they are delivered, entry 29, is
//! in `delivery`.

use crate::support::{eventually, put_blind};
use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use std::time::Duration;
use tests::cluster::Cluster;
use tests::http::{self, key_url};

pub(crate) const BUCKET: &str = "hints";
const AT_ONCE: usize = 16;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(60);
const CHANGE_TIME_MAX: Duration = Duration::from_secs(60);

pub(crate) async fn hints(c: &Cluster, node: usize) -> Result<Value> {
    http::get(format!("{}/v1/hints", c.url(node))).send().await?.expect(200)?.json()
}

pub(crate) async fn hints_of(c: &Cluster, node: usize, what: &str) -> Result<u64> {
    hints(c, node).await?[what].as_u64().with_context(|| format!("/v1/hints has no number {what}"))
}

/// What all running nodes say together.
async fn sum(c: &Cluster, what: &str) -> Result<u64> {
    let mut sum = 0;
    for node in c.running() {
        sum += hints_of(c, node, what).await?;
    }
    Ok(sum)
}

/// Writes that many keys through these nodes, each once and acknowledged.
pub(crate) async fn write(
    c: &Cluster,
    through: &[usize],
    keys: usize,
    value: &str,
    query: &str,
) -> Result<()> {
    let put = |key: usize| async move {
        let url = key_url(&c.url(through[key % through.len()]), BUCKET, format!("k{key}"));
        put_blind(&format!("{url}{query}"), value).await?.expect(204)?;
        Ok::<(), anyhow::Error>(())
    };
    stream::iter(0..keys).map(put).buffer_unordered(AT_ONCE).try_collect().await
}

/// Every key that the node owns is on it: one replica is asked, and a node asks itself first.
async fn holds_all(c: &Cluster, node: usize, keys: usize) -> Result<()> {
    let get = |key: usize| async move {
        let url = key_url(&c.url(node), BUCKET, format!("k{key}"));
        http::get(format!("{url}?r=1&sloppy=false")).send().await?.expect(200)?;
        Ok::<(), anyhow::Error>(())
    };
    stream::iter(0..keys).map(get).buffer_unordered(AT_ONCE).try_collect().await
}

pub(crate) async fn drained(c: &Cluster) -> Result<()> {
    eventually(DRAIN_TIME_MAX, || async {
        let waiting = sum(c, "waiting").await?;
        ensure!(waiting == 0, "{waiting} hints wait");
        Ok(())
    })
    .await
}

/// The others have found out that a node is gone.
pub(crate) async fn is_doubted(c: &Cluster, by: usize, gone: usize) -> Result<()> {
    eventually(CHANGE_TIME_MAX, || async {
        let member = c.member(by, gone).await?;
        ensure!(member["status"] == "down", "{member}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn entry_26_what_is_too_much_for_hints_is_counted_and_compared_instead() -> Result<()> {
    const KEYS: usize = 1000;
    let mut c = Cluster::prepare(3)?;
    c.set("CARTWHEEL_LIMITS_HINT_BYTES", "20000");
    (0..3).try_for_each(|node| c.spawn(node))?;
    c.await_ready().await?;
    c.kill(2).await?;
    write(&c, &[0, 1], KEYS, &"x".repeat(100), "").await?;
    ensure!(sum(&c, "dropped").await? > 0, "the bound was not reached");
    ensure!(sum(&c, "waiting").await? > 0, "what there is room for is kept");
    for node in [0, 1] {
        let bytes = hints_of(&c, node, "bytes").await?;
        ensure!(bytes <= 2 * 20_000, "node {node} keeps {bytes} bytes");
    }
    c.restart(2).await?;
    drained(&c).await?;
    eventually(DRAIN_TIME_MAX, || holds_all(&c, 2, KEYS)).await?;
    let metrics = http::get(format!("{}/metrics", c.url(0))).send().await?.expect(200)?.text();
    ensure!(metrics.contains("cartwheel_hints_dropped_total"), "the metric is missing");
    ensure!(c.panics().is_empty(), "{:?}", c.panics());
    Ok(())
}

#[tokio::test]
async fn entry_27_a_hint_that_counted_survives_the_death_of_all() -> Result<()> {
    const KEYS: usize = 200;
    let mut c = Cluster::start(4).await?;
    c.kill(3).await?;
    is_doubted(&c, 0, 3).await?;
    write(&c, &[0, 1, 2], KEYS, "v", "?w=3&dw=3").await?;
    c.kill_all().await?;
    for node in 0..4 {
        c.spawn(node)?;
    }
    c.await_ready().await?;
    drained(&c).await?;
    holds_all(&c, 3, KEYS).await?;
    ensure!(c.panics().is_empty(), "{:?}", c.panics());
    Ok(())
}

#[tokio::test]
async fn entry_28_delivery_goes_on_after_the_target_has_died_in_its_midst() -> Result<()> {
    const KEYS: usize = 2000;
    let mut c = Cluster::start(3).await?;
    c.kill(2).await?;
    write(&c, &[0, 1], KEYS, &"x".repeat(4096), "").await?;
    for _ in 0..2 {
        let before = sum(&c, "delivered").await?;
        c.spawn(2)?;
        while sum_of(&c, &[0, 1], "delivered").await? == before {
            tokio::task::yield_now().await;
        }
        c.kill(2).await?;
        let left = sum(&c, "waiting").await?;
        ensure!(left > 0, "everything had been delivered before the node died");
    }
    c.spawn(2)?;
    c.await_ready().await?;
    drained(&c).await?;
    holds_all(&c, 2, KEYS).await?;
    ensure!(c.panics().is_empty(), "{:?}", c.panics());
    Ok(())
}

async fn sum_of(c: &Cluster, nodes: &[usize], what: &str) -> Result<u64> {
    let mut sum = 0;
    for node in nodes {
        sum += hints_of(c, *node, what).await?;
    }
    Ok(sum)
}

/// Stages changes and commits them through a node.
async fn commit(c: &Cluster, through: usize, changes: &[Value]) -> Result<()> {
    let url = c.url(through);
    let body = json!({ "changes": changes });
    let plan: Value =
        http::post(format!("{url}/v1/cluster/plan")).json(&body).send().await?.expect(200)?.json()?;
    let hash = json!({ "hash": plan["hash"] });
    http::post(format!("{url}/v1/cluster/commit")).json(&hash).send().await?.expect(200)?;
    Ok(())
}

/// Every running node has the change behind it.
async fn settled(c: &Cluster) -> Result<()> {
    eventually(CHANGE_TIME_MAX, || async {
        for node in c.running() {
            let all: Value =
                http::get(format!("{}/v1/cluster", c.url(node))).send().await?.expect(200)?.json()?;
            ensure!(all["ring"]["settled"] == true, "{}", all["transfers"]);
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn entry_24_the_holder_of_hints_hands_them_on_before_it_leaves() -> Result<()> {
    const KEYS: usize = 10_000;
    let mut c = Cluster::start(5).await?;
    c.kill(4).await?;
    is_doubted(&c, 0, 4).await?;
    write(&c, &[0, 1, 2, 3], KEYS, "v", "?w=3&dw=3").await?;
    let mut holder = 1;
    for node in 1..4 {
        if hints_of(&c, node, "waiting").await? > hints_of(&c, holder, "waiting").await? {
            holder = node;
        }
    }
    let held = hints_of(&c, holder, "waiting").await?;
    ensure!(held > 0, "nobody but the first node keeps a hint");
    let leaver = c.member(0, holder).await?["id"].clone();
    commit(&c, 0, &[json!({ "leave": leaver })]).await?;
    // Before the target is back: another one keeps them for it.
    eventually(CHANGE_TIME_MAX, || async {
        let left = hints_of(&c, holder, "waiting").await?;
        ensure!(left == 0, "it still keeps {left} of {held} hints");
        Ok(())
    })
    .await?;
    ensure!(sum(&c, "waiting").await? > 0, "somebody else keeps them now");
    // The dead node is to take over partitions, so the change ends only with it.
    c.spawn(4)?;
    settled(&c).await?;
    ensure!(c.member(0, holder).await?["status"] == "removed");
    c.kill(holder).await?;
    eventually(DRAIN_TIME_MAX, || async {
        ensure!(sum(&c, "waiting").await? == 0, "hints wait");
        holds_all(&c, 4, KEYS).await
    })
    .await?;
    ensure!(c.panics().is_empty(), "{:?}", c.panics());
    Ok(())
}

#[tokio::test]
async fn entry_25_hints_for_a_replaced_node_go_to_who_owns_their_keys_now() -> Result<()> {
    const KEYS: usize = 300;
    let mut c = Cluster::start(4).await?;
    let gone = c.member(0, 3).await?["id"].clone();
    c.kill(3).await?;
    is_doubted(&c, 0, 3).await?;
    write(&c, &[0, 1, 2], KEYS, "v", "?w=2").await?;
    ensure!(sum(&c, "waiting").await? > 0, "nobody keeps a hint");
    commit(&c, 0, &[json!({ "leave": gone })]).await?;
    settled(&c).await?;
    drained(&c).await?;
    for node in 0..3 {
        holds_all(&c, node, KEYS).await?;
    }
    ensure!(c.panics().is_empty(), "{:?}", c.panics());
    Ok(())
}
