//! Hints that can't be delivered yet stand in no other's way.

use crate::hints::{drained, hints_of};
use crate::steps::{NOTICE_TIME_MAX, explain, is_down, newcomer, settled, url};
use crate::support::{each, eventually, put_blind};
use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use std::time::Duration;
use tests::cluster::Cluster;

const KEYS: usize = 300;
const DELIVERY_TIME_MAX: Duration = Duration::from_secs(30);
const AT_ONCE: usize = 16;

/// How many hints wait for a key, and whether somebody is about to take it over.
async fn waits(c: &Cluster, through: usize, number: usize) -> Result<(u64, bool)> {
    let told = explain(c, through, number).await?;
    let replicas = told["replicas"].as_array().context("no replicas")?;
    let hints = |replica: &Value| match &replica["hints"] {
        Value::Array(hints) => hints.len() as u64,
        other => other.as_u64().unwrap_or_default(),
    };
    Ok((replicas.iter().map(hints).sum(), replicas.iter().any(|replica| replica["role"] == "gaining")))
}

/// Hints of keys that somebody takes over, and of the others.
async fn waiting(c: &Cluster, through: usize) -> Result<(u64, u64)> {
    let each = stream::iter(0..KEYS).map(|number| waits(c, through, number)).buffer_unordered(AT_ONCE);
    each.try_fold((0, 0), |(moving, settled), (hints, moves)| async move {
        Ok(if moves { (moving + hints, settled) } else { (moving, settled + hints) })
    })
    .await
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
    cluster.spawn(3)?;
    let c = &cluster;
    eventually(DELIVERY_TIME_MAX, || async {
        let (moving, settled) = waiting(c, 0).await?;
        ensure!(moving > 0, "no hint waits for the newcomer, so this proves nothing");
        ensure!(settled == 0, "{settled} hints wait behind {moving} others");
        Ok(())
    })
    .await?;
    cluster.spawn(fifth)?;
    let c = &cluster;
    c.await_settled(&[0, 1, 2, 3, fifth], &[(new.as_str(), "up")]).await?;
    drained(c).await?;
    ensure!(hints_of(c, 0, "given_up").await.unwrap_or(0) == 0, "a hint was given up");
    ensure!(c.panics().is_empty(), "{:?}", c.panics());
    Ok(())
}
