//! Hints that can't be delivered yet stand in no other's way.

use crate::hints::{drained, sum};
use crate::steps::{NOTICE_TIME_MAX, converge, explain, is_down, newcomer, settled, url};
use crate::support::{each, eventually, put_blind};
use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use node::limits::HINT_SCAN_ROWS;
use serde_json::{Value, json};
use std::time::Duration;
use tests::cluster::Cluster;

/// Some 4,000 hints on each of three, of which a part waits for the newcomer.
const KEYS: usize = 16_000;
const DELIVERY_TIME_MAX: Duration = Duration::from_secs(30);
const AT_ONCE: usize = 16;
/// A delivery that has failed for the first time is tried again within a second.
const STAYS_FOR: Duration = Duration::from_secs(2);

/// How many hints wait for a key that somebody is about to take over.
async fn waits(c: &Cluster, through: usize, number: usize) -> Result<u64> {
    let told = explain(c, through, number).await?;
    let replicas = told["replicas"].as_array().context("no replicas")?;
    let hints = |replica: &Value| match &replica["hints"] {
        Value::Array(hints) => hints.len() as u64,
        other => other.as_u64().unwrap_or_default(),
    };
    let moves = replicas.iter().any(|replica| replica["role"] == "gaining");
    Ok(if moves { replicas.iter().map(hints).sum() } else { 0 })
}

/// A newcomer that is to have some partitions is away, so hints of these keys wait: whoever they are for may be asked for them by it.
/// All others are delivered as soon as their target is back.
#[tokio::test]
async fn hints_that_wait_for_a_newcomer_that_is_away_keep_no_others_back() -> Result<()> {
    let (mut cluster, ids) = settled(4).await?;
    let (fifth, new) = newcomer(&mut cluster).await?;
    cluster.stop(3).await?;
    let c = &cluster;
    is_down(c, &[0, 1, 2], &ids[3]).await?;
    each(0..KEYS, |number| async move {
        put_blind(&url(c, number % 3, number), "v").await?.expect(204).map(drop)
    })
    .await?;
    cluster.kill(fifth).await?;
    let c = &cluster;
    eventually(NOTICE_TIME_MAX, || async {
        let member = c.member_of(0, &new).await?;
        ensure!(member["reachable"] == false, "{member}");
        Ok(())
    })
    .await?;
    c.change(0, &json!([{ "join": new }])).await?;
    let counts = stream::iter(0..KEYS).map(|number| waits(c, 0, number)).buffer_unordered(AT_ONCE);
    let moving: u64 = counts.try_fold(0, |sum, hints| async move { Ok(sum + hints) }).await?;
    ensure!(
        moving > 3 * HINT_SCAN_ROWS as u64,
        "{moving} fit into what is read at a time, and nothing is behind them"
    );
    cluster.spawn(3)?;
    let c = &cluster;
    eventually(DELIVERY_TIME_MAX, || async {
        let waiting = sum(c, "waiting").await?;
        ensure!(waiting == moving, "{waiting} hints wait, and {moving} have a reason to");
        Ok(())
    })
    .await?;
    // Not only on the way to less than that.
    tokio::time::sleep(STAYS_FOR).await;
    ensure!(sum(c, "waiting").await? == moving, "hints went that the newcomer lacks");
    cluster.spawn(fifth)?;
    let c = &cluster;
    c.await_settled(&[0, 1, 2, 3, fifth], &[(new.as_str(), "up")]).await?;
    drained(c).await?;
    converge(c, 0, KEYS).await?;
    ensure!(c.panics().is_empty(), "{:?}", c.panics());
    Ok(())
}
