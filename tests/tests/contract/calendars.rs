//! Writes by a node whose calendar is wrong, and wrong otherwise after each start. Entry 12 of the catalogue of known failures:
//! where the later date wins, such a node hides what others write for an hour, or loses what it takes itself.
//!
//! Here no date decides between versions. A running process's calendar can't be set from outside; that it jumps is tried by
//! starts, up to two hours apart, which for dates in records is the same.

use crate::support::{eventually, expect_values, is_skewed, put_blind, put_with};
use anyhow::{Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use tests::checks::Checks;
use tests::cluster::Cluster;
use tests::http::{self, encode, key_url};

const BUCKET: &str = "calendars";
const HOUR_MS: i64 = 3_600_000;
const SKEWS_MS: [i64; 4] = [HOUR_MS, -HOUR_MS, HOUR_MS / 6, -HOUR_MS / 6];
const KEYS: usize = 12;
const HEAL_TIME_MAX: Duration = Duration::from_secs(30);
/// The node with the wrong calendar.
const WRONG: usize = 1;

/// What every key must show in the end.
type Expected = BTreeMap<String, Vec<String>>;

fn url(c: &Cluster, node: usize, key: &str) -> String {
    key_url(&c.url(node), BUCKET, key)
}

#[tokio::test]
async fn entry_12_a_wrong_calendar_loses_no_write_and_hides_none() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let (mut checks, mut expected) = (Checks::new(), Expected::new());
    let mut context = put_blind(&url(&cluster, 0, "chain"), "start").await?.context()?;
    for (round, skew_ms) in SKEWS_MS.into_iter().enumerate() {
        cluster.stop(WRONG).await?;
        cluster.skew(WRONG, skew_ms);
        cluster.restart(WRONG).await?;
        let c = &cluster;
        is_skewed(c, WRONG, skew_ms).await?;
        checks
            .run(
                &format!("{skew_ms} ms: one writer through all nodes sees its last value, and no sibling"),
                async {
                    for step in 0..KEYS {
                        let value = format!("{round} {step}");
                        let reply = put_with(&url(c, step % 3, "chain"), &value, &context).await?;
                        ensure!(reply.siblings()? == 1, "{reply}");
                        context = reply.context()?;
                        expect_values(&url(c, (step + 1) % 3, "chain"), &[&value]).await?.expect(200)?;
                        expected.insert("chain".to_owned(), vec![value]);
                    }
                    Ok(())
                },
            )
            .await;
        checks
            .run(
                &format!("{skew_ms} ms: two who do not know of each other both stay"),
                pairs(c, round, &mut expected),
            )
            .await;
        checks
            .run(&format!("{skew_ms} ms: no delete hides a later value"), deletes(c, round, &mut expected))
            .await;
    }
    let c = &cluster;
    checks
        .run("everything that was acknowledged is there through every node, and nothing else", async {
            for (key, values) in &expected {
                let values: Vec<&str> = values.iter().map(String::as_str).collect();
                for node in 0..3 {
                    expect_values(&url(c, node, key), &values).await?;
                }
                eventually(HEAL_TIME_MAX, || converged(c, key)).await?;
            }
            Ok(())
        })
        .await;
    checks.finish(&[&cluster])
}

/// Blind writes through the node whose calendar is wrong and through one whose is right, in both orders.
async fn pairs(c: &Cluster, round: usize, expected: &mut Expected) -> Result<()> {
    for number in 0..KEYS {
        let (key, right) = (format!("pair {round} {number}"), if number % 4 < 2 { 0 } else { 2 });
        let order = if number % 2 == 0 { [WRONG, right] } else { [right, WRONG] };
        for node in order {
            put_blind(&url(c, node, &key), &format!("by {node}")).await?;
        }
        let values = order.map(|node| format!("by {node}"));
        for node in 0..3 {
            expect_values(&url(c, node, &key), &values.each_ref().map(String::as_str)).await?.expect(300)?;
        }
        expected.insert(key, values.to_vec());
    }
    Ok(())
}

/// Written and deleted through one of the two, and written anew through the other.
async fn deletes(c: &Cluster, round: usize, expected: &mut Expected) -> Result<()> {
    for number in 0..KEYS {
        let key = format!("deleted {round} {number}");
        let (first, second) = if number % 2 == 0 { (WRONG, 0) } else { (2, WRONG) };
        let context = put_blind(&url(c, first, &key), "old").await?.context()?;
        http::delete(url(c, first, &key)).context(&context).send().await?.expect(204)?;
        expect_values(&url(c, second, &key), &[]).await?.expect(404)?;
        put_blind(&url(c, second, &key), "new").await?;
        for node in 0..3 {
            expect_values(&url(c, node, &key), &["new"]).await?.expect(200)?;
        }
        expected.insert(key, vec!["new".to_owned()]);
    }
    Ok(())
}

async fn converged(c: &Cluster, key: &str) -> Result<()> {
    let ask = format!("{}/v1/explain?bucket={BUCKET}&key={}", c.url(0), encode(key));
    let told: Value = http::get(ask).send().await?.expect(200)?.json()?;
    ensure!(told["verdict"] == "converged", "{told}");
    Ok(())
}
