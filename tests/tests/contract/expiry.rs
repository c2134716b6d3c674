//! Values that live for a time: to the end of it on every node, not longer on any, and never again.
//!
//! Entry 42 of the catalogue of known failures. A node's calendar is off by an hour or two, other than before after each
//! start; what counts is how much time has passed.

use crate::rollback::lose;
use crate::steps::{newcomer, settled};
use crate::support::{eventually, is_skewed, key_urls, metric, put_blind};
use anyhow::{Context, Result, bail, ensure};
use node::store::Family;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tests::cluster::Cluster;
use tests::http::{self, bucket_url, key_url};

const BUCKET: &str = "short";
const TTL: Duration = Duration::from_secs(6);
const HOUR_MS: i64 = 3_600_000;
/// What clocks may disagree by, and what a request may take between the node's look at its clock and ours.
const SLACK: Duration = Duration::from_millis(1500);
const SETTLE_TIME_MAX: Duration = Duration::from_secs(60);

/// One look at a key.
struct Look {
    node: usize,
    began: Instant,
    ended: Instant,
    status: u16,
}

async fn look(c: &Cluster, node: usize, key: &str) -> Result<Look> {
    let began = Instant::now();
    let url = key_url(&c.url(node), BUCKET, key);
    let status = http::get(url).send().await?.expect_one_of(&[200, 404])?.status;
    Ok(Look { node, began, ended: Instant::now(), status })
}

async fn put_for(c: &Cluster, node: usize, key: &str, ttl: Duration) -> Result<()> {
    let url = key_url(&c.url(node), BUCKET, key);
    http::put(url).header("cartwheel-ttl", ttl.as_secs().to_string()).text(key).send().await?.expect(204)?;
    Ok(())
}

/// Writes a key through one node and looks at it through all of them until its time is over and a little longer. What is seen
/// must be what the time says, wherever the moment of the look is beyond doubt.
async fn lives_for_its_time(c: &Cluster, coordinator: usize, key: &str) -> Result<()> {
    let before = Instant::now();
    put_for(c, coordinator, key, TTL).await?;
    let after = Instant::now();
    let mut looks = Vec::new();
    while after.elapsed() < TTL + SLACK * 2 {
        for node in 0..c.count() {
            looks.push(look(c, node, key).await?);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for node in 0..c.count() {
        let of_node = || looks.iter().filter(|look| look.node == node);
        let alive = of_node().filter(|look| look.ended < before + TTL - SLACK);
        let over = of_node().filter(|look| look.began > after + TTL + SLACK);
        for (looks, expected) in [(alive.collect::<Vec<_>>(), 200), (over.collect(), 404)] {
            ensure!(!looks.is_empty(), "no look at {key} through node {node} for {expected}");
            for look in looks {
                let at = look.began.saturating_duration_since(before);
                ensure!(look.status == expected, "{key} through node {node}: {} at {at:?}", look.status);
            }
        }
        let first_gone = of_node().position(|look| look.status == 404).context("it was gone")?;
        ensure!(of_node().skip(first_gone).all(|look| look.status == 404), "{key} was back on node {node}");
    }
    Ok(())
}

/// Through every node, again and again for a while.
async fn stays_gone(c: &Cluster, keys: &[String], during: Duration) -> Result<()> {
    let began = Instant::now();
    loop {
        for key in keys {
            for node in c.running() {
                let seen = look(c, node, key).await?.status;
                ensure!(seen == 404, "{key} is back on node {node}");
            }
        }
        if began.elapsed() > during {
            return Ok(());
        }
    }
}

/// No replica holds the value any more, and all of them say the same.
async fn is_dropped(c: &Cluster, viewer: usize, key: &str) -> Result<()> {
    let url = format!("{}/v1/explain?bucket={BUCKET}&key={key}", c.url(viewer));
    eventually(SETTLE_TIME_MAX, || async {
        let told: Value = http::get(&url).send().await?.expect(200)?.json()?;
        ensure!(told["verdict"] == "converged", "{told}");
        for replica in told["replicas"].as_array().context("replicas")? {
            for version in replica["versions"].as_array().into_iter().flatten() {
                ensure!(version["size"] == 0 && version["deleted"] == true, "{told}");
            }
        }
        Ok(())
    })
    .await
}

async fn differences(c: &Cluster) -> Result<f64> {
    let mut sum = 0.0;
    for node in c.running().collect::<Vec<_>>() {
        sum += metric(c, node, "cartwheel_aae_differences_total").await?;
        sum += metric(c, node, "cartwheel_read_repairs_total").await?;
    }
    Ok(sum)
}

#[tokio::test]
async fn entry_42_a_value_lives_for_its_time_though_a_calendar_is_an_hour_off() -> Result<()> {
    let mut cluster = Cluster::prepare(3)?;
    cluster.skew(1, HOUR_MS);
    for node in 0..3 {
        cluster.spawn(node)?;
    }
    cluster.await_ready().await?;
    is_skewed(&cluster, 1, HOUR_MS).await?;
    let keys: Vec<String> = (0..3).map(|node| format!("by-{node}")).collect();
    let lives = keys.iter().enumerate().map(|(node, key)| lives_for_its_time(&cluster, node, key));
    futures_util::future::try_join_all(lives).await?;
    for key in &keys {
        is_dropped(&cluster, 0, key).await?;
    }
    // All are killed; the wrong calendar is another's now, and wrong in the other direction.
    cluster.kill_all().await?;
    cluster.skew(1, 0);
    cluster.skew(2, -HOUR_MS);
    for node in 0..3 {
        cluster.spawn(node)?;
    }
    cluster.await_ready().await?;
    is_skewed(&cluster, 2, -HOUR_MS).await?;
    stays_gone(&cluster, &keys, Duration::from_secs(3)).await?;
    lives_for_its_time(&cluster, 2, "after").await?;
    ensure!(cluster.panics().is_empty(), "{:?}", cluster.panics());
    Ok(())
}

#[tokio::test]
async fn entry_42_what_a_dead_node_still_holds_does_not_come_back_with_it() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let keys: Vec<String> = (0..20).map(|number| format!("k{number}")).collect();
    for key in &keys {
        put_for(&cluster, 0, key, TTL).await?;
    }
    put_for(&cluster, 0, "long", Duration::from_secs(3600)).await?;
    let written = Instant::now();
    // It dies with the values and comes back long after their time; its own calendar still shows the time of its death.
    cluster.kill(2).await?;
    tokio::time::sleep((TTL + SLACK).saturating_sub(written.elapsed())).await;
    for key in &keys {
        is_gone(&cluster, 0, key).await?;
    }
    cluster.skew(2, -HOUR_MS);
    cluster.spawn(2)?;
    cluster.await_ready().await?;
    stays_gone(&cluster, &keys, Duration::from_secs(3)).await?;
    for key in &keys {
        is_dropped(&cluster, 2, key).await?;
    }
    ensure!(differences(&cluster).await? == 0.0, "what was dropped at different moments was repaired");
    // A new disk is filled by the others.
    cluster.kill(1).await?;
    std::fs::remove_dir_all(cluster.data_dir(1))?;
    cluster.spawn(1)?;
    cluster.await_ready().await?;
    stays_gone(&cluster, &keys, Duration::from_secs(3)).await?;
    for node in 0..3 {
        ensure!(look(&cluster, node, "long").await?.status == 200, "what was to live longer is gone");
    }
    Ok(())
}

/// What every running node must show of these keys now.
async fn all_show(c: &Cluster, keys: &[String], status: u16) -> Result<()> {
    for key in keys {
        for node in c.running() {
            let seen = look(c, node, key).await?.status;
            ensure!(seen == status, "{key} through node {node}: {seen}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn entry_42_a_lifetime_runs_on_over_a_kill_a_transfer_and_lost_trees() -> Result<()> {
    /// What lies within it takes a third of that on a busy machine.
    const LONGER: Duration = Duration::from_secs(60);
    let (mut cluster, _) = settled(3).await?;
    let keys: Vec<String> = (0..20).map(|number| format!("k{number}")).collect();
    let began = Instant::now();
    for (number, key) in keys.iter().enumerate() {
        put_for(&cluster, number % 3, key, LONGER).await?;
    }
    let written = Instant::now();
    // Each of the three old ones has something else behind it in the end.
    cluster.kill(1).await?;
    cluster.spawn(1)?;
    cluster.stop(2).await?;
    ensure!(lose(cluster.data_dir(2), &[Family::Leaves])? >= keys.len(), "there was no tree to lose");
    cluster.spawn(2)?;
    cluster.await_ready().await?;
    let (third, joined) = newcomer(&mut cluster).await?;
    cluster.change(0, &json!([{ "join": joined }])).await?;
    cluster.await_settled(&[0, 1, 2, third], &[(joined.as_str(), "up")]).await?;
    let c = &cluster;
    let share = c.member_of(0, &joined).await?["partitions"].as_u64();
    ensure!(share.is_some_and(|share| share > 0), "the newcomer has taken over nothing");
    all_show(c, &keys, 200).await?;
    ensure!(began.elapsed() + SLACK < LONGER, "their time was over before they were looked at");
    tokio::time::sleep((LONGER + SLACK).saturating_sub(written.elapsed())).await;
    all_show(c, &keys, 404).await?;
    for key in &keys {
        is_dropped(c, third, key).await?;
    }
    // Another kill, and the trees are built anew from what is there.
    cluster.kill_all().await?;
    (0..4).try_for_each(|node| cluster.spawn(node))?;
    cluster.await_ready().await?;
    stays_gone(&cluster, &keys, Duration::from_secs(3)).await?;
    ensure!(cluster.panics().is_empty(), "{:?}", cluster.panics());
    Ok(())
}

async fn is_gone(c: &Cluster, node: usize, key: &str) -> Result<()> {
    let seen = look(c, node, key).await?.status;
    ensure!(seen == 404, "{key} is there through node {node}");
    Ok(())
}

#[tokio::test]
async fn an_expired_value_leaves_its_neighbour_and_a_context() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let urls = key_urls(&cluster, BUCKET, "pair");
    put_for(&cluster, 0, "pair", TTL).await?;
    put_blind(&urls[1], "stays").await?;
    ensure!(http::get(&urls[2]).send().await?.expect(300)?.siblings()? == 2);
    put_for(&cluster, 1, "alone", TTL).await?;
    let alone = key_urls(&cluster, BUCKET, "alone");
    for (url, gone) in urls.iter().zip(&alone) {
        eventually(TTL + SLACK, || async {
            let reply = http::get(url).send().await?.expect_one_of(&[200, 300])?;
            ensure!(reply.siblings()? == 1 && reply.text() == "stays", "{reply}");
            Ok(())
        })
        .await?;
        eventually(TTL + SLACK, || async {
            http::get(gone).send().await?.expect(404)?;
            Ok(())
        })
        .await?;
    }
    // As after a delete: whoever has read that it is gone goes on from there, and so does who has not.
    let reply = http::get(&alone[0]).send().await?.expect(404)?;
    ensure!(reply.need("cartwheel-deleted")? == "true", "{reply}");
    let context = reply.context()?;
    http::put(&alone[0]).context(&context).text("again").send().await?.expect(204)?;
    is_dropped(&cluster, 0, "none").await?;
    for url in &alone {
        let reply = http::get(url).send().await?.expect(200)?;
        ensure!(reply.text() == "again" && reply.header("cartwheel-expires-at").is_none(), "{reply}");
    }
    Ok(())
}

/// A bucket may say how long its values live, and a listing does not name what is gone.
#[tokio::test]
async fn a_buckets_lifetime_holds_and_lists_forget() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let settings = bucket_url(&cluster.url(0), BUCKET);
    let ttl = TTL.as_secs();
    http::put(settings).json(&serde_json::json!({ "ttl_seconds": ttl })).send().await?.expect_success()?;
    put_blind(&format!("{}?w=all", key_url(&cluster.url(0), BUCKET, "k")), "v").await?.expect(204)?;
    let listed = |node: usize| {
        let url = format!("{}/keys", bucket_url(&cluster.url(node), BUCKET));
        async move {
            let page: Value = http::get(url).send().await?.expect(200)?.json()?;
            let Some(items) = page["items"].as_array() else { bail!("{page}") };
            Ok(items.len())
        }
    };
    ensure!(listed(1).await? == 1);
    for node in 0..3 {
        eventually(TTL + SLACK, || async {
            ensure!(listed(node).await? == 0, "node {node} lists it still");
            is_gone(&cluster, node, "k").await
        })
        .await?;
    }
    Ok(())
}
