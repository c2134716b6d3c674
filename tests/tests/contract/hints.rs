//! Hinted handoff over real processes: entries 24 to 28 of the catalogue of known failures. How they are delivered, entry 29, is
//! in `delivery`.

use crate::steps::{is_down, newcomer, nothing_is_left_over, settled};
use crate::support::{eventually, keep_one_copy, put_blind};
use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use std::collections::BTreeSet;
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
pub(crate) async fn sum(c: &Cluster, what: &str) -> Result<u64> {
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

/// Every key that the node owns is on it: one replica is asked, and a node asks itself first. Of others an owner is asked.
async fn holds_all(c: &Cluster, node: usize, keys: usize) -> Result<()> {
    holds(c, node, 0..keys).await
}

async fn holds(c: &Cluster, node: usize, keys: impl Iterator<Item = usize>) -> Result<()> {
    let get = |key: usize| async move {
        let url = key_url(&c.url(node), BUCKET, format!("k{key}"));
        http::get(format!("{url}?r=1&sloppy=false")).send().await?.expect(200)?;
        Ok::<(), anyhow::Error>(())
    };
    stream::iter(keys).map(get).buffer_unordered(AT_ONCE).try_collect().await
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
async fn entry_26_a_hint_that_is_too_old_is_given_up_and_compared_instead() -> Result<()> {
    const KEYS: usize = 300;
    let mut c = Cluster::prepare(3)?;
    c.set("CARTWHEEL_LIMITS_HINT_AGE_MS", "1500");
    (0..3).try_for_each(|node| c.spawn(node))?;
    c.await_ready().await?;
    c.kill(2).await?;
    write(&c, &[0, 1], KEYS, "v", "").await?;
    ensure!(sum(&c, "waiting").await? > 0, "nothing was kept");
    // Nobody else can have them: they wait for one that is away all the time.
    drained(&c).await?;
    ensure!(
        sum(&c, "delivered").await? == 0 && sum(&c, "dropped").await? >= KEYS as u64,
        "{}",
        hints(&c, 0).await?
    );
    c.restart(2).await?;
    eventually(DRAIN_TIME_MAX, || holds_all(&c, 2, KEYS)).await?;
    ensure!(c.panics().is_empty(), "{:?}", c.panics());
    Ok(())
}

/// Writes that many keys, which either get a receipt or are told that they got too little. Of those that got one: which, and for how
/// many a fallback's hint counted.
async fn write_while_there_is_room(c: &Cluster, keys: usize) -> Result<(BTreeSet<usize>, usize)> {
    let put = |key: usize| async move {
        let url = key_url(&c.url(key % 3), BUCKET, format!("k{key}"));
        let reply = http::put(format!("{url}?w=3")).text(&"x".repeat(100)).send().await?;
        if reply.status == 204 {
            return Ok(Some((key, reply.receipt()?["fallbacks"] as usize)));
        }
        reply.problem_code(503, "write_quorum_not_met")?;
        Ok::<_, anyhow::Error>(None)
    };
    let taken: Vec<_> = stream::iter(0..keys).map(put).buffer_unordered(AT_ONCE).try_collect().await?;
    let taken = taken.into_iter().flatten();
    let (keys, counted): (BTreeSet<usize>, Vec<usize>) = taken.unzip();
    Ok((keys, counted.into_iter().sum()))
}

#[tokio::test]
async fn entry_26_a_hint_that_counts_is_refused_rather_than_forgotten() -> Result<()> {
    const KEYS: usize = 1000;
    let mut c = Cluster::prepare(4)?;
    c.set("CARTWHEEL_LIMITS_HINT_BYTES", "20000");
    (0..4).try_for_each(|node| c.spawn(node))?;
    c.await_ready().await?;
    c.kill(3).await?;
    for node in 0..3 {
        is_doubted(&c, node, 3).await?;
    }
    let (taken, counted) = write_while_there_is_room(&c, KEYS).await?;
    let waiting = sum(&c, "waiting").await?;
    ensure!(counted > 0, "no fallback stood in for the dead one");
    ensure!(counted as u64 <= waiting, "{counted} hints counted, and {waiting} are kept");
    // Keys that the dead one does not own need no hint: a quarter. Of the others there was room for some.
    let refused = KEYS - taken.len();
    ensure!(refused > KEYS / 4, "only {refused} of {KEYS} were refused");
    ensure!(taken.len() > counted, "what needs no hint is taken as ever");
    c.kill_all().await?;
    (0..4).try_for_each(|node| c.spawn(node))?;
    c.await_ready().await?;
    drained(&c).await?;
    holds(&c, 3, taken.into_iter()).await?;
    ensure!(c.panics().is_empty(), "{:?}", c.panics());
    Ok(())
}

/// A node that may keep nothing more for others asks one that may, where nobody who owns the key can take it.
#[tokio::test]
async fn entry_26_what_one_node_has_no_room_for_another_keeps() -> Result<()> {
    // A third of them is more than twice what the two have room for, whatever share chance gives the one that is away.
    const KEYS: usize = 600;
    let mut c = Cluster::prepare(3)?;
    c.set("CARTWHEEL_LIMITS_HINT_BYTES", "20000");
    (0..3).try_for_each(|node| c.spawn(node))?;
    c.await_ready().await?;
    keep_one_copy(&c, BUCKET).await?;
    c.kill(2).await?;
    is_doubted(&c, 0, 2).await?;
    is_doubted(&c, 1, 2).await?;
    let mut taken = BTreeSet::new();
    for key in 0..KEYS {
        let url = key_url(&c.url(0), BUCKET, format!("k{key}"));
        let reply = http::put(url).text(&"x".repeat(400)).send().await?;
        match reply.status {
            204 => drop(taken.insert(key)),
            _ => drop(reply.problem_code(503, "write_quorum_not_met")?),
        }
    }
    ensure!(taken.len() < KEYS, "both have room for all, so this proves nothing");
    for node in [0, 1] {
        let bytes = hints_of(&c, node, "bytes").await?;
        ensure!((15_000..=20_000).contains(&bytes), "node {node} keeps {bytes} bytes");
    }
    c.restart(2).await?;
    drained(&c).await?;
    holds(&c, 2, taken.into_iter()).await?;
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

/// Writes that many keys, of which each has one owner. How many of them somebody keeps for an owner that is away, and nobody else
/// has.
async fn write_for_the_dead(c: &Cluster, through: &[usize], keys: usize) -> Result<BTreeSet<usize>> {
    let put = |key: usize| async move {
        let url = key_url(&c.url(through[key % through.len()]), BUCKET, format!("k{key}"));
        let receipt = put_blind(&url, "v").await?.receipt()?;
        Ok::<_, anyhow::Error>((receipt["fallbacks"] > 0).then_some(key))
    };
    let kept: Vec<_> = stream::iter(0..keys).map(put).buffer_unordered(AT_ONCE).try_collect().await?;
    let kept: BTreeSet<usize> = kept.into_iter().flatten().collect();
    ensure!(!kept.is_empty() && kept.len() < keys / 2, "{} of {keys} are kept for the dead", kept.len());
    let waiting = sum(c, "waiting").await?;
    ensure!(waiting == kept.len() as u64, "{waiting} hints of {} keys", kept.len());
    Ok(kept)
}

#[tokio::test]
async fn entry_24_the_holder_of_hints_hands_them_on_before_it_leaves() -> Result<()> {
    const KEYS: usize = 10_000;
    let (mut c, ids) = settled(5).await?;
    keep_one_copy(&c, BUCKET).await?;
    c.kill(4).await?;
    is_down(&c, &[0, 1, 2, 3], &ids[4]).await?;
    let kept = write_for_the_dead(&c, &[0, 1, 2, 3], KEYS).await?;
    let mut most = (0, 0);
    for node in 1..4 {
        most = most.max((hints_of(&c, node, "waiting").await?, node));
    }
    let (held, holder) = most;
    ensure!(held > 0, "nobody but the first node keeps a hint");
    c.change(0, &json!([{ "leave": ids[holder] }])).await?;
    // Before the target is back: another one keeps them for it.
    eventually(CHANGE_TIME_MAX, || async {
        let left = hints_of(&c, holder, "waiting").await?;
        ensure!(left == 0, "it still keeps {left} of {held} hints");
        Ok(())
    })
    .await?;
    // Now it can't help any more, and the one that was away gets everything from those who took it over.
    c.kill(holder).await?;
    let waiting = sum(&c, "waiting").await?;
    ensure!(waiting == kept.len() as u64, "{waiting} hints are left of {}", kept.len());
    c.spawn(4)?;
    eventually(DRAIN_TIME_MAX, || async {
        ensure!(sum(&c, "waiting").await? == 0, "hints wait");
        holds(&c, 4, kept.iter().copied()).await
    })
    .await?;
    // What it owns itself is nowhere else, so nobody goes on without it.
    c.spawn(holder)?;
    let stay: Vec<usize> = (0..5).filter(|&node| node != holder).collect();
    c.await_settled(&stay, &[(ids[holder].as_str(), "removed"), (ids[4].as_str(), "up")]).await?;
    c.kill(holder).await?;
    nothing_is_left_over(&c, &stay).await?;
    holds_all(&c, 0, KEYS).await?;
    ensure!(c.panics().is_empty(), "{:?}", c.panics());
    Ok(())
}

#[tokio::test]
async fn entry_25_hints_for_a_replaced_node_go_to_who_owns_their_keys_now() -> Result<()> {
    const KEYS: usize = 1000;
    let (mut c, ids) = settled(4).await?;
    keep_one_copy(&c, BUCKET).await?;
    c.kill(3).await?;
    is_down(&c, &[0, 1, 2], &ids[3]).await?;
    write_for_the_dead(&c, &[0, 1, 2], KEYS).await?;
    let (fourth, new) = newcomer(&mut c).await?;
    // By force, since what it alone may have had is given up with it; and once more, because nobody is removed by that alone.
    c.change(1, &json!([{ "replace": { "old": ids[3], "new": new }, "force": true }])).await?;
    let all = [0, 1, 2, fourth];
    c.await_settled(&all, &[(ids[3].as_str(), "leaving"), (new.as_str(), "up")]).await?;
    c.change(0, &json!([{ "leave": ids[3] }])).await?;
    c.await_settled(&all, &[(ids[3].as_str(), "removed")]).await?;
    nothing_is_left_over(&c, &all).await?;
    holds_all(&c, 0, KEYS).await?;
    ensure!(c.panics().is_empty(), "{:?}", c.panics());
    Ok(())
}
