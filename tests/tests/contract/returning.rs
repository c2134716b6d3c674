//! Members that are gone, and what comes back in their place: wiped, removed while they were away, or never again; and the
//! hints that others keep for them.
//!
//! Entries 24, 47 and 48 of the catalogue of known failures.

use crate::steps::{
    BUCKET, HEAL_TIME_MAX, NOTICE_TIME_MAX, SPREAD_TIME_MAX, converge, expect_all, fill, is_down, newcomer,
    nothing_is_left_over, number, read_all, settled, url,
};
use crate::support::{each, eventually, expect_values, keep_one_copy, put_blind};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::checks::Checks;
use tests::cluster::Cluster;
use tests::http::{self, key_url};

const KEYS: usize = 300;
/// Enough that every node keeps a hint of some.
const HINTED_KEYS: usize = 10_000;

#[tokio::test]
async fn entry_47_a_wiped_node_is_somebody_new_and_takes_the_old_ones_place() -> Result<()> {
    let (mut cluster, ids) = settled(3).await?;
    fill(&cluster, &[0, 1, 2], KEYS).await?;
    cluster.kill(2).await?;
    cluster.wipe(2)?;
    cluster.spawn(2)?;
    let mut checks = Checks::new();
    let c = &cluster;
    let new = eventually(SPREAD_TIME_MAX, || c.id(2)).await?;
    ensure!(new != ids[2], "an empty directory has an identity of its own");
    checks
        .run(
            "the old one is shown as down, and the new one beside it",
            eventually(NOTICE_TIME_MAX, || async {
                for viewer in [0, 1] {
                    let (old, new) = (c.member_of(viewer, &ids[2]).await?, c.member_of(viewer, &new).await?);
                    ensure!(old["status"] == "down" && old["reachable"] == false, "{old}");
                    ensure!(new["status"] == "joining" || new["status"] == "up", "{new}");
                }
                Ok(())
            }),
        )
        .await;
    checks
        .run("nobody is told that something is not there", async {
            each(0..KEYS, |number| async move {
                for node in 0..3 {
                    let reply = http::get(format!("{}?r=1", url(c, node, number))).send().await?;
                    ensure!(reply.status != 404, "through node {node}: {reply}");
                    ensure!(reply.status != 200 || reply.text() == format!("v{number}"), "{reply}");
                }
                Ok(())
            })
            .await
        })
        .await;
    checks
        .run("the new one takes the old one's place", async {
            let replace = json!([{ "replace": { "old": ids[2], "new": new } }]);
            eventually(SPREAD_TIME_MAX, || c.change(1, &replace)).await?;
            let expected = [(ids[0].as_str(), "up"), (&ids[1], "up"), (&ids[2], "removed"), (&new, "up")];
            c.await_settled(&[0, 1, 2], &expected).await?;
            let member = c.member_of(0, &new).await?;
            ensure!(number(&member, "partitions")? == 256, "all three own everything: {member}");
            Ok(())
        })
        .await;
    checks.run("and everything is back at all owners", expect_all(c, &[2, 0, 1], KEYS)).await;
    checks
        .run("also for whoever asks the new one alone", async {
            each(0..KEYS, |number| async move {
                let url = format!("{}?r=1", url(c, 2, number));
                expect_values(&url, &[&format!("v{number}")]).await?.expect(200).map(drop)
            })
            .await
        })
        .await;
    checks.finish(&[&cluster])
}

#[tokio::test]
async fn entry_48_who_was_removed_while_it_was_stopped_refuses_to_serve_and_says_why() -> Result<()> {
    let (mut cluster, ids) = settled(4).await?;
    fill(&cluster, &[0, 1, 2, 3], KEYS).await?;
    cluster.stop(3).await?;
    let mut checks = Checks::new();
    let c = &cluster;
    let leave = json!([{ "leave": ids[3] }]);
    eventually(NOTICE_TIME_MAX, || async {
        let member = c.member_of(0, &ids[3]).await?;
        ensure!(member["status"] == "down", "{member}");
        Ok(())
    })
    .await?;
    c.change(0, &leave).await?;
    let expected = [(ids[0].as_str(), "up"), (&ids[1], "up"), (&ids[2], "up"), (&ids[3], "removed")];
    c.await_settled(&[0, 1, 2], &expected).await?;
    checks.run("the dead one was not waited for, and nothing is lost", expect_all(c, &[0, 1, 2], KEYS)).await;
    cluster.spawn(3)?;
    let c = &cluster;
    let is_refused = || async {
        let ready = http::get(format!("{}/health/ready", c.url(3))).send().await?.expect(503)?;
        ensure!(ready.text().contains("was removed"), "{ready}");
        for reply in [http::get(url(c, 3, 0)).send().await?, http::put(url(c, 3, 0)).text("x").send().await?]
        {
            let problem = reply.problem_code(503, "draining")?;
            let detail = problem["detail"].as_str().unwrap_or_default();
            ensure!(detail.contains("removed") && detail.contains("empty data directory"), "{detail:?}");
        }
        Ok(())
    };
    checks.run("started again it refuses and says why", eventually(SPREAD_TIME_MAX, is_refused)).await;
    checks
        .run("it changes nothing of the cluster, and does not complain all day", async {
            let leave = json!({ "changes": [{ "leave": ids[2], "force": true }] });
            c.post_plan(3, &leave).await?.problem_code(503, "draining")?;
            c.await_settled(&[0, 1, 2], &expected).await?;
            ensure!(!c.log(3).contains("description was refused"), "{}", c.log(3));
            Ok(())
        })
        .await;
    checks
        .run("it does not come back", async {
            c.await_settled(&[0, 1, 2], &expected).await?;
            let refused = c.post_plan(0, &json!({ "changes": [{ "join": ids[3] }] })).await?;
            refused.problem_code(422, "invalid_config")?;
            for viewer in 0..3 {
                http::get(format!("{}/health/ready", c.url(viewer))).send().await?.expect(200)?;
            }
            expect_all(c, &[0, 1, 2], KEYS).await
        })
        .await;
    cluster.kill(3).await?;
    cluster.wipe(3)?;
    cluster.spawn(3)?;
    let c = &cluster;
    checks
        .run("with an empty directory it joins anew", async {
            let new = eventually(SPREAD_TIME_MAX, || c.id(3)).await?;
            c.await_settled(&[0, 1, 2, 3], &[(new.as_str(), "up"), (ids[3].as_str(), "removed")]).await?;
            expect_all(c, &[3], KEYS).await
        })
        .await;
    checks.finish(&[&cluster])
}

#[tokio::test]
async fn entry_48_what_only_a_removed_node_has_is_handed_on_when_it_returns() -> Result<()> {
    let (mut cluster, ids) = settled(4).await?;
    // W=1 on a bucket with one replica: whoever owns the key is the only one who has it.
    keep_one_copy(&cluster, "single").await?;
    let c = &cluster;
    let single = |node: usize, number: usize| key_url(&c.url(node), "single", format!("k{number}"));
    each(
        0..KEYS,
        |number| async move { put_blind(&single(0, number), &format!("v{number}")).await.map(drop) },
    )
    .await?;
    cluster.stop(3).await?;
    let c = &cluster;
    let single = |node: usize, number: usize| key_url(&c.url(node), "single", format!("k{number}"));
    eventually(NOTICE_TIME_MAX, || async {
        ensure!(c.member_of(0, &ids[3]).await?["status"] == "down", "{}", c.view(0).await?);
        Ok(())
    })
    .await?;
    // Of each of its keys it is the only owner, so nobody lets it go but by force; and then once more, to have it removed.
    c.change(0, &json!([{ "leave": ids[3] }])).await?;
    eventually(NOTICE_TIME_MAX, || async {
        let told = c.transfers(0).await?.to_string();
        ensure!(told.contains("most owners of partition"), "{told}");
        Ok(())
    })
    .await?;
    c.change(0, &json!([{ "leave": ids[3], "force": true }])).await?;
    c.await_settled(&[0, 1, 2], &[(ids[3].as_str(), "leaving")]).await?;
    c.change(0, &json!([{ "leave": ids[3] }])).await?;
    c.await_settled(&[0, 1, 2], &[(ids[3].as_str(), "removed")]).await?;
    let mut missing = 0;
    for number in 0..KEYS {
        missing += usize::from(http::get(single(0, number)).send().await?.status == 404);
    }
    ensure!(missing > 0, "the node that went had nothing of its own, so this proves nothing");
    cluster.spawn(3)?;
    let c = &cluster;
    eventually(HEAL_TIME_MAX, || async {
        each(0..KEYS, |number| async move {
            let url = key_url(&c.url(1), "single", format!("k{number}"));
            expect_values(&url, &[&format!("v{number}")]).await?.expect(200).map(drop)
        })
        .await
    })
    .await?;
    ensure!(c.panics().is_empty(), "{:?}", c.panics());
    Ok(())
}

/// Who keeps most hints, of these nodes.
async fn keeper_of_hints(c: &Cluster, nodes: &[usize]) -> Result<usize> {
    let mut most = (0, 0);
    for &node in nodes {
        let hints: Value =
            http::get(format!("{}/v1/hints", c.url(node))).send().await?.expect(200)?.json()?;
        most = most.max((hints["waiting"].as_u64().context("no count of hints")?, node));
    }
    ensure!(most.0 > 0, "nobody keeps a hint");
    Ok(most.1)
}

// What is written for the dead here has one owner, so that the hint's copy is the only one: no comparison could bring it back.
#[tokio::test]
async fn entry_24_hints_outlive_the_node_that_keeps_them() -> Result<()> {
    let (mut cluster, ids) = settled(5).await?;
    keep_one_copy(&cluster, BUCKET).await?;
    cluster.stop(4).await?;
    is_down(&cluster, &[0, 1, 2, 3], &ids[4]).await?;
    let c = &cluster;
    each(0..HINTED_KEYS, |number| async move {
        put_blind(&url(c, number % 4, number), &format!("v{number}")).await.map(drop)
    })
    .await?;
    let keeper = keeper_of_hints(c, &[1, 2, 3]).await?;
    let stay: Vec<usize> = (0..4).filter(|&node| node != keeper).collect();
    c.change(0, &json!([{ "leave": ids[keeper] }])).await?;
    // It may go at once, or keep what it has until the other one is back: then it says so.
    eventually(NOTICE_TIME_MAX, || async {
        let view = c.view(0).await?;
        let waits = view["transfers"]["waiting_for"].as_array().is_some_and(|waits| !waits.is_empty());
        ensure!(view["ring"]["settled"] == true || waits, "{view}");
        Ok(())
    })
    .await?;
    cluster.spawn(4)?;
    let c = &cluster;
    let all = [&stay[..], &[4]].concat();
    c.await_settled(&all, &[(ids[4].as_str(), "up"), (ids[keeper].as_str(), "removed")]).await?;
    cluster.kill(keeper).await?;
    let c = &cluster;
    let mut checks = Checks::new();
    // What was delivered to an owner while somebody took the key over from it goes on from there. And the keeper is not the only one
    // who has hints: the others still deliver theirs, and until then a key with one owner is not there for him.
    checks.run("nothing is left over", nothing_is_left_over(c, &all)).await;
    checks.run("nothing is lost with the keeper", read_all(c, &all, HINTED_KEYS)).await;
    checks.run("and its owner has it", converge(c, 0, HINTED_KEYS)).await;
    checks.finish(&[&cluster])
}

#[tokio::test]
async fn entry_24_hints_for_a_node_that_never_returns_reach_who_takes_its_place() -> Result<()> {
    let (mut cluster, ids) = settled(4).await?;
    keep_one_copy(&cluster, BUCKET).await?;
    cluster.kill(3).await?;
    is_down(&cluster, &[0, 1, 2], &ids[3]).await?;
    let c = &cluster;
    each(0..HINTED_KEYS, |number| async move {
        put_blind(&url(c, number % 3, number), &format!("v{number}")).await.map(drop)
    })
    .await?;
    keeper_of_hints(c, &[0, 1, 2]).await?;
    let (fourth, new) = newcomer(&mut cluster).await?;
    let c = &cluster;
    // By force, since what it alone may have had is given up with it; and once more, because nobody is removed by that alone.
    c.change(1, &json!([{ "replace": { "old": ids[3], "new": new }, "force": true }])).await?;
    let all = [0, 1, 2, fourth];
    c.await_settled(&all, &[(ids[3].as_str(), "leaving"), (new.as_str(), "up")]).await?;
    c.change(2, &json!([{ "leave": ids[3] }])).await?;
    c.await_settled(&all, &[(ids[3].as_str(), "removed")]).await?;
    let mut checks = Checks::new();
    checks.run("nobody keeps a hint for who is gone for ever", nothing_is_left_over(c, &all)).await;
    checks.run("nothing is lost", read_all(c, &all, HINTED_KEYS)).await;
    checks.run("and its owner has it", converge(c, 0, HINTED_KEYS)).await;
    let (fifth, last) = newcomer(&mut cluster).await?;
    let c = &cluster;
    checks
        .run("and who kept such hints can leave", async {
            c.change(0, &json!([{ "join": last }, { "leave": ids[2] }])).await?;
            c.await_settled(&[0, 1, fourth, fifth], &[(ids[2].as_str(), "removed"), (last.as_str(), "up")])
                .await?;
            read_all(c, &[0, 1, fourth, fifth], HINTED_KEYS).await
        })
        .await;
    checks.finish(&[&cluster])
}
