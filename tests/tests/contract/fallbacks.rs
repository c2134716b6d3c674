//! Five nodes, so that there are some who own nothing of a key: what they take while owners are dead, what they say, and
//! that it all goes back.

use crate::support::{eventually, expect_values, put_blind};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::Duration;
use tests::checks::Checks;
use tests::cluster::Cluster;
use tests::http::{self, encode, key_url};

const BUCKET: &str = "fallbacks";
const KEY_COUNT: usize = 150;
const DELIVERY_TIME_MAX: Duration = Duration::from_secs(40);

fn url(c: &Cluster, number: usize, key: &str) -> String {
    // Nodes 3 and 4 are the ones who die.
    key_url(&c.url(number % 3), BUCKET, key)
}

async fn waiting_hints(c: &Cluster, index: usize) -> Result<u64> {
    let hints = http::get(format!("{}/v1/hints", c.url(index))).send().await?.expect(200)?.json()?;
    hints["waiting"].as_u64().with_context(|| format!("no count in {hints}"))
}

#[tokio::test]
async fn with_two_of_five_dead_others_stand_in() -> Result<()> {
    let mut cluster = Cluster::start(5).await?;
    let mut checks = Checks::new();
    let (old, new) = (|n: usize| format!("old {n}"), |n: usize| format!("new {n}"));
    for number in 0..KEY_COUNT {
        let url = format!("{}?w=3", url(&cluster, number, &old(number)));
        http::put(url).text(&old(number)).send().await?.expect(204)?;
    }
    cluster.kill(3).await?;
    cluster.kill(4).await?;
    let c = &cluster;
    let read_old = || async {
        for number in 0..KEY_COUNT {
            expect_values(&url(c, number + 1, &old(number)), &[&old(number)]).await?.expect(200)?;
        }
        Ok(())
    };
    checks.run("what was there before is found, not denied by who never had it", read_old()).await;
    checks
        .run("every write is taken, some by fallbacks, with hints", async {
            let (mut fallbacks, mut hints) = (0, 0);
            for number in 0..KEY_COUNT {
                let receipt = put_blind(&url(c, number, &new(number)), &new(number)).await?.receipt()?;
                ensure!(receipt["acked"] >= 2 && receipt["durable"] >= 2, "{receipt:?}");
                fallbacks += receipt["fallbacks"];
                hints += receipt["hints"];
            }
            ensure!(fallbacks > 0 && hints > 0, "{fallbacks} fallbacks, {hints} hints");
            Ok(())
        })
        .await;
    checks
        .run("it is read back through other nodes, from owners and fallbacks", async {
            for number in 0..KEY_COUNT {
                expect_values(&url(c, number + 1, &new(number)), &[&new(number)]).await?.expect(200)?;
            }
            Ok(())
        })
        .await;
    for dead in [3, 4] {
        eventually(Duration::from_secs(5), || async {
            ensure!(c.member(0, dead).await?["reachable"] == false, "node {dead} is believed alive");
            Ok(())
        })
        .await?;
    }
    checks.run("and still when the deaths are known", read_old()).await;
    cluster.restart(3).await?;
    cluster.restart(4).await?;
    let c = &cluster;
    checks
        .run("afterwards no hint is left, and every owner has all", async {
            for index in 0..3 {
                eventually(DELIVERY_TIME_MAX, || async {
                    let waiting = waiting_hints(c, index).await?;
                    ensure!(waiting == 0, "{waiting} hints wait on node {index}");
                    Ok(())
                })
                .await?;
            }
            for number in 0..KEY_COUNT {
                let key = new(number);
                eventually(DELIVERY_TIME_MAX, || converged(c, &key)).await?;
            }
            Ok(())
        })
        .await;
    checks.finish(&[&cluster])
}

async fn converged(c: &Cluster, key: &str) -> Result<()> {
    let ask = format!("{}/v1/explain?bucket={BUCKET}&key={}", c.url(0), encode(key));
    let explained: Value = http::get(ask).send().await?.expect(200)?.json()?;
    ensure!(explained["verdict"] == "converged", "{explained}");
    Ok(())
}
