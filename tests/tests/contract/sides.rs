//! Members changed on two sides that don't hear each other, and by those who are left after most are gone for ever: whatever
//! is committed, no side goes its own way, nobody ends without owners, nothing acknowledged goes with them, and an operator can
//! call off what went too far. Entry 43 of the catalogue of known failures, with `membership`.
//!
//! A node that is stopped (`SIGSTOP`) is cut off from all others, so while one side is stopped the other is alone.

use crate::cli::shell;
use crate::steps::{
    NOTICE_TIME_MAX, SPREAD_TIME_MAX, expect_all, explain, fill, is_down, newcomer, nothing_is_left_over,
    settled, up, url,
};
use crate::support::{eventually, expect_values, put_blind};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use tests::checks::Checks;
use tests::cluster::Cluster;

const KEYS: usize = 200;
/// Longer than a change among three nodes takes that hold next to nothing, several times over.
const TIME_TO_SETTLE: Duration = Duration::from_secs(6);

fn leaves(ids: &[String]) -> Value {
    ids.iter().map(|id| json!({ "leave": id })).collect()
}

/// Whom a change waits for with a reason that has this in it, as one node sees it.
async fn waits_for(c: &Cluster, node: usize, reason: &str) -> Result<BTreeSet<String>> {
    let told = c.transfers(node).await?;
    let waits = told["waiting_for"].as_array().with_context(|| format!("no waiting_for in {told}"))?;
    let with_reason = waits.iter().filter(|wait| wait["reason"].as_str().is_some_and(|r| r.contains(reason)));
    Ok(with_reason.filter_map(|wait| wait["node"].as_str().map(str::to_owned)).collect())
}

/// Waits until these nodes say that the change waits for just these, for this reason.
async fn is_held_up(c: &Cluster, nodes: &[usize], by: &[String], reason: &str) -> Result<()> {
    let by: BTreeSet<String> = by.iter().cloned().collect();
    for &node in nodes {
        eventually(NOTICE_TIME_MAX, || async {
            let waits = waits_for(c, node, reason).await?;
            ensure!(waits == by, "node {node} waits for {waits:?}: {}", c.transfers(node).await?);
            let view = c.view(node).await?;
            ensure!(view["ring"]["settled"] == false, "{view}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// For as long as a change would take nobody owns anything else than before.
async fn nothing_settles(c: &Cluster, node: usize, version: &Value) -> Result<()> {
    let started = std::time::Instant::now();
    while started.elapsed() < TIME_TO_SETTLE {
        let view = c.view(node).await?;
        ensure!(view["ring"]["settled"] == false && view["ring"]["version"] == *version, "{view}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// Connections have come back, and nobody is taken for dead any more.
async fn are_heard(c: &Cluster, viewers: &[usize], ids: &[String]) -> Result<()> {
    for &viewer in viewers {
        for id in ids {
            eventually(NOTICE_TIME_MAX, || async {
                let member = c.member_of(viewer, id).await?;
                ensure!(member["reachable"] == true, "node {viewer} says {member}");
                Ok(())
            })
            .await?;
        }
    }
    Ok(())
}

async fn ring_version(c: &Cluster, node: usize) -> Result<Value> {
    Ok(c.view(node).await?["ring"]["version"].clone())
}

/// Lets one side, alone, let the other one go.
async fn gives_up(c: &Cluster, side: [usize; 3], others: &[String]) -> Result<()> {
    for id in others {
        is_down(c, &side, id).await?;
    }
    c.change(side[0], &leaves(others)).await?;
    is_held_up(c, &side, others, "majority").await?;
    nothing_settles(c, side[0], &ring_version(c, side[0]).await?).await
}

#[tokio::test]
async fn two_halves_that_give_up_each_other_wait_and_come_to_one_table() -> Result<()> {
    let (cluster, ids) = settled(6).await?;
    fill(&cluster, &[0, 1, 2, 3, 4, 5], KEYS).await?;
    let (c, all) = (&cluster, [0, 1, 2, 3, 4, 5]);
    let (one, two) = ([0, 1, 2], [3, 4, 5]);
    let mut checks = Checks::new();
    let stop = |side: [usize; 3]| side.iter().try_for_each(|node| c.pause(*node));
    let go_on = |side: [usize; 3]| side.iter().try_for_each(|node| c.resume(*node));
    stop(two)?;
    checks.run("half of them wait, and say for whom and why", gives_up(c, one, &ids[3..])).await;
    stop(one)?;
    go_on(two)?;
    checks.run("so do the others", gives_up(c, two, &ids[..3])).await;
    go_on(one)?;
    checks
        .run("together they say that too few would be left, and everybody serves", async {
            is_held_up(c, &all, &ids, "join").await?;
            for viewer in all {
                for id in &ids {
                    let member = c.member_of(viewer, id).await?;
                    ensure!(member["status"] == "leaving", "{member}");
                    ensure!(member["partitions"] != 0, "all own what they owned: {member}");
                }
            }
            are_heard(c, &all, &ids).await?;
            expect_all(c, &all, KEYS).await
        })
        .await;
    checks
        .run("those that are called back stay, and the rest hands on and goes", async {
            let back: Value = ids[..4].iter().map(|id| json!({ "join": id })).collect();
            c.change(5, &back).await?;
            let mut expected = up(&ids[..4]);
            expected.extend([(ids[4].as_str(), "removed"), (ids[5].as_str(), "removed")]);
            c.await_settled(&[0, 1, 2, 3], &expected).await?;
            expect_all(c, &[0, 1, 2, 3], KEYS).await
        })
        .await;
    checks.finish(&[&cluster])
}

/// The numbers of the nodes that own a key, in their order.
async fn owners_of(c: &Cluster, ids: &[String], number: usize) -> Result<Vec<usize>> {
    let told = explain(c, 0, number).await?;
    let list = told["preference_list"].as_array().with_context(|| format!("no owners in {told}"))?;
    list.iter().map(|owner| ids.iter().position(|id| owner == id.as_str()).context("who is that?")).collect()
}

/// Three of five are the majority of the members, and yet what the two others have acknowledged is theirs alone.
#[tokio::test]
async fn who_is_let_go_unheard_takes_no_acknowledged_write_along() -> Result<()> {
    let (cluster, ids) = settled(5).await?;
    let c = &cluster;
    let owners = owners_of(c, &ids, 0).await?;
    let (two, three): (Vec<usize>, Vec<usize>) = (0..5).partition(|node| owners[..2].contains(node));
    let gone: Vec<String> = two.iter().map(|node| ids[*node].clone()).collect();
    let mut checks = Checks::new();
    three.iter().try_for_each(|node| c.pause(*node))?;
    let receipt = put_blind(&format!("{}?w=2", url(c, two[0], 0)), "theirs").await?.expect(204)?.receipt()?;
    ensure!(receipt["durable"] == 2 && receipt["fallbacks"] == 0, "{receipt:?}");
    two.iter().try_for_each(|node| c.pause(*node))?;
    three.iter().try_for_each(|node| c.resume(*node))?;
    checks
        .run("the plan says who would go unheard, and the change waits for one of them", async {
            for id in &gone {
                is_down(c, &three, id).await?;
            }
            c.change(three[0], &leaves(&gone)).await?;
            eventually(NOTICE_TIME_MAX, || async {
                let told = c.transfers(three[0]).await?.to_string();
                ensure!(told.contains("most owners of partition"), "{told}");
                Ok(())
            })
            .await?;
            nothing_settles(c, three[0], &ring_version(c, three[0]).await?).await
        })
        .await;
    two.iter().try_for_each(|node| c.resume(*node))?;
    checks
        .run("they come back, hand on what they have, and go", async {
            let expected: Vec<(&str, &str)> = (0..5)
                .map(|node| (ids[node].as_str(), if two.contains(&node) { "removed" } else { "up" }))
                .collect();
            c.await_settled(&three, &expected).await?;
            for node in &three {
                expect_values(&url(c, *node, 0), &["theirs"]).await?.expect(200)?;
            }
            Ok(())
        })
        .await;
    checks.finish(&[&cluster])
}

#[tokio::test]
async fn two_leaves_that_together_leave_too_few_wait_until_one_is_called_off() -> Result<()> {
    let (cluster, ids) = settled(4).await?;
    fill(&cluster, &[0, 1, 2, 3], KEYS).await?;
    let (c, all) = (&cluster, [0, 1, 2, 3]);
    let mut checks = Checks::new();
    // Each of the two commits while all others are stopped: neither knows of the other.
    [1, 2, 3].iter().try_for_each(|node| c.pause(*node))?;
    let first = c.change(0, &json!([{ "leave": ids[2] }])).await;
    c.pause(0)?;
    c.resume(1)?;
    let second = c.change(1, &json!([{ "leave": ids[3] }])).await;
    [0, 2, 3].iter().try_for_each(|node| c.resume(*node))?;
    first.and(second)?;
    checks
        .run("both are held up, and it is said how to go on", async {
            is_held_up(c, &all, &ids[2..], "fewer members would be left").await?;
            nothing_settles(c, 0, &ring_version(c, 0).await?).await?;
            are_heard(c, &all, &ids).await?;
            expect_all(c, &all, KEYS).await
        })
        .await;
    checks
        .run("from a shell one of the two is called off, and the other one goes", async {
            shell(&c.url(0), &["cluster", "join", &ids[3]], "", 0).await?;
            shell(&c.url(0), &["cluster", "commit"], "", 0).await?;
            let expected = [(ids[0].as_str(), "up"), (&ids[1], "up"), (&ids[2], "removed"), (&ids[3], "up")];
            c.await_settled(&[0, 1, 3], &expected).await?;
            expect_all(c, &[0, 1, 3], KEYS).await
        })
        .await;
    checks.finish(&[&cluster])
}

#[tokio::test]
async fn entry_43_two_joins_and_a_leave_committed_by_nodes_that_do_not_hear_each_other_settle_on_one_ring()
-> Result<()> {
    let (mut cluster, ids) = settled(5).await?;
    fill(&cluster, &[0, 1, 2, 3, 4], KEYS).await?;
    let (fifth, one) = newcomer(&mut cluster).await?;
    let (sixth, two) = newcomer(&mut cluster).await?;
    let (c, everybody) = (&cluster, [0, 1, 2, 3, 4, fifth, sixth]);
    // Each of three commits what it wants while all others are stopped, those about whom it is included.
    let changes = [json!([{ "join": one }]), json!([{ "join": two }]), json!([{ "leave": ids[4] }])];
    everybody.iter().try_for_each(|node| c.pause(*node))?;
    let mut plans = Vec::new();
    for (node, change) in changes.iter().enumerate() {
        c.resume(node)?;
        plans.push(c.change(node, change).await);
        c.pause(node)?;
    }
    everybody.iter().try_for_each(|node| c.resume(*node))?;
    for (plan, change) in plans.into_iter().zip(&changes) {
        let plan = plan?;
        ensure!(plan["changes"] == *change, "it has heard of another's: {plan}");
    }
    let stay = [0, 1, 2, 3, fifth, sixth];
    let mut expected = up(&ids[..4]);
    expected.extend([(ids[4].as_str(), "removed"), (one.as_str(), "up"), (two.as_str(), "up")]);
    c.await_settled(&stay, &expected).await?;
    let mut checks = Checks::new();
    checks.run("nothing is lost", expect_all(c, &stay, KEYS)).await;
    checks.run("nothing is left over", nothing_is_left_over(c, &stay)).await;
    checks.finish(&[&cluster])
}

#[tokio::test]
async fn after_most_are_gone_for_ever_force_goes_on_with_the_rest() -> Result<()> {
    let (mut cluster, ids) = settled(3).await?;
    fill(&cluster, &[0, 1, 2], KEYS).await?;
    cluster.kill(1).await?;
    cluster.kill(2).await?;
    let (third, one) = newcomer(&mut cluster).await?;
    let (fourth, two) = newcomer(&mut cluster).await?;
    let (c, living) = (&cluster, [0, third, fourth]);
    let mut checks = Checks::new();
    checks
        .run("without force one of three is no majority, and it is said what would help", async {
            is_down(c, &[0], &ids[1]).await?;
            is_down(c, &[0], &ids[2]).await?;
            let changes = json!([{ "join": one }, { "join": two }, { "leave": ids[1] }, { "leave": ids[2] }]);
            c.change(0, &changes).await?;
            is_held_up(c, &[0], &ids[1..], "by force").await?;
            nothing_settles(c, 0, &ring_version(c, 0).await?).await
        })
        .await;
    checks
        .run("who can be reached is not let go by force", async {
            let refused = c.post_plan(0, &json!({ "changes": [{ "leave": one, "force": true }] })).await?;
            let problem = refused.problem_code(422, "invalid_config")?;
            let detail = problem["detail"].as_str().unwrap_or_default();
            ensure!(detail.contains("/changes/0/force"), "{detail}");
            Ok(())
        })
        .await;
    checks
        .run("by force the living go on with what they have", async {
            for id in &ids[1..] {
                shell(&c.url(0), &["cluster", "leave", id, "--force"], "", 0).await?;
            }
            ensure!(c.plan(0).await?["changes"][0]["force"] == true, "{}", c.plan(0).await?);
            shell(&c.url(0), &["cluster", "commit"], "", 0).await?;
            let expected = [(ids[0].as_str(), "up"), (&one, "up"), (&two, "up")];
            c.await_settled(&living, &expected).await?;
            expect_all(c, &living, KEYS).await
        })
        .await;
    checks
        .run("the lost are removed once they are let go again", async {
            let expected = [(ids[1].as_str(), "leaving"), (&ids[2], "leaving")];
            c.await_settled(&living, &expected).await?;
            c.change(fourth, &leaves(&ids[1..])).await?;
            c.await_settled(&living, &[(&ids[1], "removed"), (&ids[2], "removed")]).await?;
            expect_all(c, &living, KEYS).await
        })
        .await;
    checks.finish(&[&cluster])
}

#[tokio::test]
async fn who_only_waited_and_is_let_go_is_removed() -> Result<()> {
    let (mut cluster, ids) = settled(3).await?;
    let (_, waiting) = newcomer(&mut cluster).await?;
    cluster.change(1, &json!([{ "leave": waiting }])).await?;
    let mut expected = up(&ids);
    expected.push((waiting.as_str(), "removed"));
    cluster.await_settled(&[0, 1, 2], &expected).await?;
    let c = &cluster;
    eventually(SPREAD_TIME_MAX, || async {
        ensure!(c.transfers(0).await?["waiting_for"] == json!([]), "{}", c.transfers(0).await?);
        Ok(())
    })
    .await?;
    ensure!(c.panics().is_empty(), "{:?}", c.panics());
    Ok(())
}
