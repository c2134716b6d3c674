//! Who is a member: nodes that come together, move to another address, or were never meant to be one.
//!
//! Entries 25, 43 and 49 to 51 of the catalogue of known failures; two processes with one directory (entry 5) are in
//! `rollback`, a directory of another cluster in `process`.

use crate::aae::all_counted;
use crate::hints::hints_of;
use crate::steps::{
    BUCKET, HEAL_TIME_MAX, NOTICE_TIME_MAX, SPREAD_TIME_MAX, expect_all, fill, is_down, newcomer, number,
    settled, up,
};
use crate::support::{each, eventually, metric, put_blind};
use anyhow::{Context, Result, ensure};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use tests::checks::Checks;
use tests::cluster::Cluster;
use tests::http::{self, bucket_url, key_url};
use tests::members::members;

const KEYS: usize = 300;
/// Written while somebody is away.
const AWAY_KEYS: usize = 50;

/// More than the member has had.
const IMPOSTER_STARTS: usize = 4;

#[tokio::test]
async fn weights_and_zones_are_the_operators_and_move_what_they_must() -> Result<()> {
    let (cluster, ids) = settled(4).await?;
    fill(&cluster, &[0, 1, 2, 3], KEYS).await?;
    let c = &cluster;
    let all = [0, 1, 2, 3];
    let mut checks = Checks::new();
    checks
        .run("twice the weight is a larger share", async {
            let before = number(&c.member_of(0, &ids[1]).await?, "partitions")?;
            let plan = c.change(2, &json!([{ "set": { "id": ids[1], "weight": 2 } }])).await?;
            ensure!(number(&plan, "partitions_to_move")? > 0, "{plan}");
            c.await_settled(&all, &up(&ids)).await?;
            let member = c.member_of(0, &ids[1]).await?;
            ensure!(member["weight"] == 2 && number(&member, "partitions")? > before, "{before}: {member}");
            expect_all(c, &all, KEYS).await
        })
        .await;
    checks
        .run("two zones have a replica of every partition each", async {
            let zone = |id: &String, zone: &str| json!({ "set": { "id": id, "zone": zone } });
            let zones =
                json!([zone(&ids[0], "a"), zone(&ids[1], "a"), zone(&ids[2], "a"), zone(&ids[3], "b")]);
            c.change(0, &zones).await?;
            c.await_settled(&all, &up(&ids)).await?;
            ensure!(c.member_of(1, &ids[3]).await?["zone"] == "b", "{}", c.view(1).await?);
            let ring: Value = http::get(format!("{}/v1/ring", c.url(2))).send().await?.expect(200)?.json()?;
            for partition in ring["partitions"].as_array().context("no partitions")? {
                let owners = partition["owners"].as_array().context("no owners")?;
                ensure!(owners.iter().any(|owner| *owner == json!(ids[3])), "{partition}");
            }
            expect_all(c, &all, KEYS).await
        })
        .await;
    checks.finish(&[&cluster])
}

#[tokio::test]
async fn entry_43_two_joins_and_a_leave_through_different_nodes_settle_on_one_ring() -> Result<()> {
    let (mut cluster, ids) = settled(5).await?;
    fill(&cluster, &[0, 1, 2, 3, 4], KEYS).await?;
    let (fifth, one) = newcomer(&mut cluster).await?;
    let (sixth, two) = newcomer(&mut cluster).await?;
    let c = &cluster;
    // Each alone in its own node's plan, and all three committed before gossip has told anybody of the others.
    let (join_one, join_two) = (json!({ "join": one }), json!({ "join": two }));
    let leave = json!({ "leave": ids[4] });
    let changed = tokio::join!(
        c.change_among_others(0, &join_one),
        c.change_among_others(1, &join_two),
        c.change_among_others(2, &leave),
    );
    changed.0.and(changed.1).and(changed.2)?;
    let mut expected = up(&ids[..4]);
    expected.extend([(ids[4].as_str(), "removed"), (one.as_str(), "up"), (two.as_str(), "up")]);
    c.await_settled(&[0, 1, 2, 3, fifth, sixth], &expected).await?;
    expect_all(c, &[0, 1, 2, 3, fifth, sixth], KEYS).await?;
    let member = c.member_of(0, &ids[4]).await?;
    ensure!(member["partitions"] == 0, "who left owns nothing: {member}");
    ensure!(c.panics().is_empty(), "{:?}", c.panics());
    Ok(())
}

/// A newcomer's file says another n than the founder's. If it went by that, it would compare other trees than everybody else, take over
/// nothing, and hold up every change after it.
#[tokio::test]
async fn the_defaults_are_those_of_the_cluster() -> Result<()> {
    let (mut cluster, mut ids) = settled(3).await?;
    fill(&cluster, &[0, 1, 2], KEYS).await?;
    cluster.set("CARTWHEEL_DEFAULTS_N", "2");
    let (new, id) = newcomer(&mut cluster).await?;
    ids.push(id.clone());
    let c = &cluster;
    c.change(0, &json!([{ "join": id }])).await?;
    c.await_settled(&[0, 1, 2, new], &up(&ids)).await?;
    let bucket = http::get(bucket_url(&c.url(new), "nobody-configured")).send().await?.expect(200)?.json()?;
    ensure!(bucket["n"] == 3, "the cluster has 3: {bucket}");
    ensure!(c.log(new).contains("not those of its cluster"), "it does not say so: {}", c.log(new));
    expect_all(c, &[0, 1, 2, new], KEYS).await?;
    cluster.stop(1).await?;
    cluster.spawn(1)?;
    cluster.await_ready().await?;
    let bucket =
        http::get(bucket_url(&cluster.url(1), "nobody-configured")).send().await?.expect(200)?.json()?;
    ensure!(bucket["n"] == 3, "nor does a start change them: {bucket}");
    ensure!(cluster.panics().is_empty(), "{:?}", cluster.panics());
    Ok(())
}

#[tokio::test]
async fn entry_49_two_clusters_never_become_one() -> Result<()> {
    let (mut ours, our_ids) = settled(2).await?;
    let (theirs, their_ids) = settled(1).await?;
    // One of ours is restarted with a seed of theirs, and one that is new asks both.
    ours.stop(1).await?;
    ours.seed_with(1, &[theirs.peer_port(0)]);
    ours.spawn(1)?;
    let refused = eventually(SPREAD_TIME_MAX, || async {
        ensure!(ours.log(1).contains("another cluster"), "it does not say why: {}", ours.log(1));
        Ok(())
    });
    refused.await?;
    let status = ours.ended(1).await?;
    ensure!(!status.success(), "a refused start does not end with 0");
    ours.seed_with(1, &[ours.peer_port(0)]);
    ours.restart(1).await?;
    let both = [theirs.peer_port(0), ours.peer_port(0)];
    let newcomer = ours.add(&[])?;
    ours.kill(newcomer).await?;
    ours.wipe(newcomer).ok();
    ours.seed_with(newcomer, &both);
    ours.spawn(newcomer)?;
    let new = eventually(SPREAD_TIME_MAX, || ours.id(newcomer)).await?;
    let seen = |view: &Value| -> Result<BTreeSet<String>> {
        let living = members(view)?.iter().filter(|member| member["status"] != "removed");
        Ok(living.filter_map(|member| member["id"].as_str().map(str::to_owned)).collect())
    };
    let (us, them) = (seen(&ours.view(0).await?)?, seen(&theirs.view(0).await?)?);
    ensure!(their_ids.iter().all(|id| !us.contains(id)), "ours know theirs: {us:?}");
    ensure!(our_ids.iter().all(|id| !them.contains(id)), "theirs know ours: {them:?}");
    ensure!(us.contains(&new) != them.contains(&new), "a node is of one cluster: {us:?} {them:?}");
    for c in [&ours, &theirs] {
        ensure!(c.panics().is_empty(), "{:?}", c.panics());
    }
    Ok(())
}

/// Starts an empty directory under a member's name, again and again. It counts its starts, and must not come in when it has more of
/// them than the member.
async fn imposter(cluster: &mut Cluster, id: &str, checks: &mut Checks) -> Result<usize> {
    let imposter = cluster.add(&["--node-id", id])?;
    for start in 0..IMPOSTER_STARTS {
        if start > 0 {
            cluster.kill(imposter).await?;
            cluster.spawn(imposter)?;
        }
        let c = &*cluster;
        checks
            .run(
                &format!("start {start}: it is alive, not ready, and says why"),
                eventually(NOTICE_TIME_MAX, || async {
                    http::get(format!("{}/health/live", c.url(imposter))).send().await?.expect(200)?;
                    let reply = http::get(format!("{}/health/ready", c.url(imposter))).send().await?;
                    let reasons = reply.expect(503)?.text();
                    ensure!(reasons.contains("is a member already"), "{reasons}");
                    Ok(())
                }),
            )
            .await;
    }
    Ok(imposter)
}

/// A member that waits for an operator has acted by no tables yet, so only its starts tell its directory from another one. It comes in
/// under its name afterwards.
#[tokio::test]
async fn entry_50_the_name_of_one_that_waits_is_given_to_nobody_else() -> Result<()> {
    let (mut cluster, mut ids) = settled(2).await?;
    let (waits, id) = newcomer(&mut cluster).await?;
    let address = cluster.http(waits);
    let mut checks = Checks::new();
    let imposter = imposter(&mut cluster, &id, &mut checks).await?;
    cluster.kill(imposter).await?;
    cluster.kill(waits).await?;
    cluster.spawn(waits)?;
    ids.push(id.clone());
    let c = &cluster;
    checks
        .run("it keeps its address and comes in", async {
            let member = c.member_of(0, &id).await?;
            ensure!(member["http"] == address.as_str(), "{member}");
            c.change(0, &json!([{ "join": id }])).await?;
            c.await_settled(&[0, 1, waits], &up(&ids)).await
        })
        .await;
    checks.finish(&[&cluster])
}

#[tokio::test]
async fn entry_50_an_identity_that_lives_is_given_to_nobody_else() -> Result<()> {
    let (mut cluster, ids) = settled(3).await?;
    fill(&cluster, &[0, 1, 2], KEYS).await?;
    let (before, address) = (cluster.member_of(0, &ids[1]).await?, cluster.http(1));
    let mut checks = Checks::new();
    let imposter = imposter(&mut cluster, &ids[1], &mut checks).await?;
    let c = &cluster;
    checks
        .run("somebody says so, loudly, and not all the time", async {
            let mut told = 0;
            for node in 0..3 {
                told += metric(c, node, "cartwheel_identity_conflicts_total").await? as usize;
                let log = c.log(node);
                let lines =
                    log.lines().filter(|line| line.contains("under the identity of a member")).count();
                ensure!(lines <= 4 * IMPOSTER_STARTS, "{lines} lines in the log of node {node}");
            }
            ensure!(told >= IMPOSTER_STARTS, "{told} refusals were counted in {IMPOSTER_STARTS} starts");
            Ok(())
        })
        .await;
    checks
        .run("the address of the living one stays, and it serves", async {
            for viewer in [0, 2] {
                let member = c.member_of(viewer, &ids[1]).await?;
                ensure!(member["http"] == address.as_str(), "{before} became {member}");
                ensure!(members(&c.view(viewer).await?)?.len() == 3, "{}", c.view(viewer).await?);
            }
            expect_all(c, &[0, 2], KEYS).await
        })
        .await;
    checks
        .run(
            "the other one serves nobody",
            eventually(NOTICE_TIME_MAX, || async {
                let served = http::get(format!("{}/health/ready", c.url(imposter))).send().await;
                served?.expect(503)?;
                http::get(key_url(&c.url(imposter), BUCKET, "k0")).send().await?.expect(503)?;
                Ok(())
            }),
        )
        .await;
    checks
        .run("the living one is not disturbed", async {
            for node in 0..3 {
                http::get(format!("{}/health/ready", c.url(node))).send().await?.expect(200)?;
            }
            expect_all(c, &[0, 1, 2], 20).await
        })
        .await;
    checks.finish(&[&cluster])
}

/// What the catalogue leaves between two starts.
const GAP: Duration = Duration::from_secs(10);

#[tokio::test]
async fn entry_51_five_nodes_in_any_order_find_each_other_seeds_last() -> Result<()> {
    let mut cluster = Cluster::prepare(5)?;
    let mut order = [1, 2, 3, 4];
    // Another one in each run, since the system chooses the port.
    order.shuffle(&mut StdRng::seed_from_u64(u64::from(cluster.peer_port(0))));
    for index in order {
        cluster.spawn(index)?;
        let c = &cluster;
        // It has tried its seed in vain.
        eventually(SPREAD_TIME_MAX, || async {
            ensure!(c.log(index).contains("waits to be let into a cluster"), "{}", c.log(index));
            Ok(())
        })
        .await?;
        tokio::time::sleep(GAP).await;
    }
    cluster.spawn(0)?;
    cluster.await_ready().await.with_context(|| format!("started in the order {order:?}, then the seed"))?;
    let mut ids = Vec::new();
    for index in 0..5 {
        ids.push(cluster.id(index).await?);
    }
    cluster.await_settled(&[0, 1, 2, 3, 4], &up(&ids)).await?;
    fill(&cluster, &[0, 1, 2, 3, 4], 50).await?;
    expect_all(&cluster, &[4, 3, 2, 1, 0], 50).await?;
    ensure!(cluster.panics().is_empty(), "{:?}", cluster.panics());
    Ok(())
}

#[tokio::test]
async fn entry_25_a_node_at_another_address_is_still_itself() -> Result<()> {
    let (mut cluster, ids) = settled(3).await?;
    fill(&cluster, &[0, 1, 2], KEYS).await?;
    cluster.stop(1).await?;
    // Hints wait for a node, not for an address.
    let c = &cluster;
    is_down(c, &[0, 2], &ids[1]).await?;
    each(0..AWAY_KEYS, |number| async move {
        let url = key_url(&c.url(2 * (number % 2)), BUCKET, format!("while away {number}"));
        put_blind(&url, "v").await.map(drop)
    })
    .await?;
    cluster.move_away(1)?;
    cluster.restart(1).await?;
    let c = &cluster;
    let mut checks = Checks::new();
    checks
        .run("it has its id and its share, and everybody knows the new address", async {
            ensure!(c.id(1).await? == ids[1], "{}", c.view(1).await?);
            c.await_settled(&[0, 1, 2], &up(&ids)).await?;
            for viewer in 0..3 {
                let member = c.member_of(viewer, &ids[1]).await?;
                ensure!(member["http"] == c.http(1) && member["peer"] == c.peer(1), "{member}");
                ensure!(members(&c.view(viewer).await?)?.len() == 3, "{}", c.view(viewer).await?);
            }
            Ok(())
        })
        .await;
    checks
        .run("its hints find it, and nobody has to compare anything", async {
            eventually(HEAL_TIME_MAX, || async {
                let delivered = hints_of(c, 0, "delivered").await? + hints_of(c, 2, "delivered").await?;
                ensure!(delivered >= AWAY_KEYS as u64, "{delivered} of {AWAY_KEYS} hints were delivered");
                Ok(())
            })
            .await?;
            let repairs = all_counted(c, "repairs").await?;
            ensure!(repairs == 0, "{repairs} repairs did it");
            Ok(())
        })
        .await;
    checks.run("it has its data", expect_all(c, &[1, 0, 2], KEYS)).await;
    checks
        .run("and has what it missed", async {
            each(0..AWAY_KEYS, |number| async move {
                let key = format!("while%20away%20{number}");
                let told = format!("{}/v1/explain?bucket={BUCKET}&key={key}", c.url(0));
                eventually(HEAL_TIME_MAX, || async {
                    let told: Value = http::get(&told).send().await?.expect(200)?.json()?;
                    ensure!(told["verdict"] == "converged", "{told}");
                    Ok(())
                })
                .await
            })
            .await
        })
        .await;
    checks.finish(&[&cluster])
}
