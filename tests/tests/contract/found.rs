//! A difference that no hint knows of is found and repaired without a client's read, and soon: after a start, and by a node that was
//! wiped or has just joined. There is no time in which nobody compares.
//!
//! Entry 33 of the catalogue of known failures; what comparing costs where nothing differs is in `aae`.

use crate::aae::{
    BUCKET, HEAL_TIME_MAX, IDLE_ROUNDS, KEYS, aae, all_converged, all_counted, counted, explained, forgetful,
    is_converged, repairs_nothing, rounds, write,
};
use crate::steps::{is_down, newcomer};
use crate::support::{configure, eventually, put_blind, put_with};
use anyhow::{Context, Result, ensure};
use node::limits::AAE_EVERY;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tests::checks::Checks;
use tests::cluster::Cluster;
use tests::http::{self, key_url};

/// What was there before the node went is overwritten while it is away, or deleted.
async fn change(c: &Cluster, bucket: &str, to: usize) -> Result<()> {
    for number in 0..to {
        let url = key_url(&c.url(number % 2), bucket, format!("k{number}"));
        let context = http::get(&url).send().await?.expect(200)?.context()?;
        if number % 3 == 0 {
            http::delete(&url).context(&context).send().await?.expect(204)?;
        } else {
            put_with(&url, "second", &context).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn entry_33_what_no_hint_knows_of_is_repaired_without_a_read() -> Result<()> {
    let mut cluster = forgetful(3).await?;
    // One of two is enough: a fallback has no room to stand in for the other.
    configure(&cluster, "pair", &json!({ "n": 2, "w": 1, "r": 1 })).await?;
    for bucket in [BUCKET, "pair"] {
        write(&cluster, bucket, 0, KEYS / 3).await?;
    }
    cluster.stop(2).await?;
    for bucket in [BUCKET, "pair"] {
        change(&cluster, bucket, KEYS / 3).await?;
        write(&cluster, bucket, KEYS / 3, KEYS).await?;
    }
    cluster.restart(2).await?;
    let c = &cluster;
    let mut checks = Checks::new();
    ensure!(is_converged(c, BUCKET, "k100").await.is_err(), "what it missed is not here yet");
    checks.run("explain says whose tree differs before it is repaired", differs(c, 2, BUCKET, "k100")).await;
    for bucket in [BUCKET, "pair"] {
        checks
            .run(
                &format!("all replicas of {bucket} become equal"),
                eventually(HEAL_TIME_MAX, || all_converged(c, bucket, KEYS)),
            )
            .await;
    }
    let repaired = all_counted(c, "repairs").await?;
    ensure!(repaired >= KEYS as u64, "only {repaired} repairs were counted");
    checks.run("every node says how far it has come", says_what_it_knows(c)).await;
    rounds(c, 1).await?;
    checks.run("equal replicas repair nothing", repairs_nothing(c, rounds(c, IDLE_ROUNDS))).await;
    checks.finish(&[&cluster])
}

async fn differs(c: &Cluster, node: usize, bucket: &str, key: &str) -> Result<()> {
    let id = c.id(node).await?;
    eventually(HEAL_TIME_MAX, || async {
        let told = explained(c, bucket, key).await?;
        let replicas = told["replicas"].as_array().context("no replicas")?;
        let fits =
            |replica: &Value| replica["tree"] == if replica["node"] == id { "differs" } else { "agrees" };
        ensure!(replicas.iter().all(fits), "{told}");
        Ok(())
    })
    .await
}

async fn says_what_it_knows(c: &Cluster) -> Result<()> {
    for node in 0..3 {
        eventually(HEAL_TIME_MAX, || async {
            let told = aae(c, node).await?;
            ensure!(told["building"] == 0 && told["last_exchange"].is_string(), "{told}");
            let age = told["oldest_unverified_ms"].as_u64().context("no age")?;
            ensure!(age < 30_000, "{told}");
            ensure!(told["peers"].as_array().map(Vec::len) == Some(2), "{told}");
            Ok(())
        })
        .await?;
    }
    let metrics = http::get(format!("{}/metrics", c.url(1))).send().await?.expect(200)?.text();
    ensure!(metrics.contains("cartwheel_aae_oldest_unverified_seconds"), "{metrics}");
    Ok(())
}

/// A node that has just come in, and one that was there, compare what they own together, and nobody else owns: the keys that the
/// old one misses while it is away. It has them again after a few exchanges, counted from the moment when it is back.
async fn is_found(cluster: &mut Cluster, old: usize, new: usize) -> Result<()> {
    const MISSED: usize = 20;
    /// A first look, a second one at least two seconds later, and one more where the second came a moment too early. The peers
    /// take turns.
    const MEETINGS_MAX: u32 = 3;
    /// On a busy machine an exchange takes longer than it should; but it takes place.
    const SLOWER: u32 = 4;
    let both = BTreeSet::from([cluster.id(old).await?, cluster.id(new).await?]);
    let mut keys = Vec::new();
    for number in 0.. {
        let key = format!("between {old} and {new}, {number}");
        let told = explained(cluster, "pair", &key).await?;
        let replicas = told["replicas"].as_array().context("no replicas")?;
        let owners = replicas.iter().filter(|one| one["role"] == "owner");
        if owners.filter_map(|one| one["node"].as_str().map(str::to_owned)).collect::<BTreeSet<_>>() == both {
            keys.push(key);
        }
        if keys.len() == MISSED {
            break;
        }
    }
    let repaired = all_counted(cluster, "repairs").await? - counted(cluster, old, "repairs").await?;
    cluster.stop(old).await?;
    for key in &keys {
        put_blind(&key_url(&cluster.url(new), "pair", key), "missed").await?;
    }
    cluster.restart(old).await?;
    let c = &*cluster;
    let peers = u32::try_from(c.count() - 1)?;
    let exchanges_max = MEETINGS_MAX * peers;
    let before = [counted(c, old, "exchanges").await?, counted(c, new, "exchanges").await?];
    eventually(AAE_EVERY * exchanges_max * SLOWER, || async {
        for key in &keys {
            is_converged(c, "pair", key).await?;
        }
        Ok(())
    })
    .await?;
    for (node, before) in [old, new].into_iter().zip(before) {
        let exchanges = counted(c, node, "exchanges").await? - before;
        // Some may have ended while it was looked: a look asks for each key, and they are a second apart.
        ensure!(
            exchanges <= u64::from(exchanges_max + 2 * peers),
            "node {node} needed {exchanges} exchanges with {peers} peers"
        );
    }
    let repaired = all_counted(c, "repairs").await? - repaired;
    ensure!(repaired >= MISSED as u64, "{repaired} repairs, so something else has brought it");
    Ok(())
}

#[tokio::test]
async fn entry_33_a_node_that_was_wiped_and_one_that_joined_find_a_difference_within_a_few_exchanges()
-> Result<()> {
    let mut cluster = forgetful(3).await?;
    configure(&cluster, "pair", &json!({ "n": 2, "w": 1, "r": 1 })).await?;
    let mut ids = Vec::new();
    for node in 0..3 {
        ids.push(cluster.id(node).await?);
    }
    let mut checks = Checks::new();
    cluster.kill(2).await?;
    cluster.wipe(2)?;
    cluster.spawn(2)?;
    let c = &cluster;
    is_down(c, &[0, 1], &ids[2]).await?;
    let wiped = eventually(HEAL_TIME_MAX, || c.id(2)).await?;
    let replace = json!([{ "replace": { "old": ids[2], "new": wiped } }]);
    eventually(HEAL_TIME_MAX, || c.change(1, &replace)).await?;
    c.await_settled(&[0, 1, 2], &[(ids[2].as_str(), "removed"), (wiped.as_str(), "up")]).await?;
    checks.run("one that was wiped and has taken its own place", is_found(&mut cluster, 1, 2)).await;
    let (third, joined) = newcomer(&mut cluster).await?;
    cluster.change(0, &json!([{ "join": joined }])).await?;
    cluster.await_settled(&[0, 1, 2, third], &[(joined.as_str(), "up")]).await?;
    checks.run("one that has joined", is_found(&mut cluster, 0, third)).await;
    checks.finish(&[&cluster])
}
