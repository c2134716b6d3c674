//! Changing the cluster in two steps: what is staged, looked at and committed, and what is refused.

use crate::steps::{SPREAD_TIME_MAX, expect_all, fill, newcomer, number, settled, up, url};
use crate::support::eventually;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::checks::Checks;
use tests::cluster::Cluster;
use tests::http::{self, bucket_url};

const KEYS: usize = 300;

fn sum(plan: &Value, field: &str) -> Result<u64> {
    let nodes = plan["nodes"].as_array().with_context(|| format!("no nodes in {plan}"))?;
    nodes.iter().map(|node| number(node, field)).sum()
}

#[tokio::test]
async fn a_plan_is_staged_looked_at_and_committed() -> Result<()> {
    let (mut cluster, ids) = settled(3).await?;
    fill(&cluster, &[0, 1, 2], KEYS).await?;
    let (joiner, new) = newcomer(&mut cluster).await?;
    let c = &cluster;
    let mut checks = Checks::new();
    checks.run("who waits for an operator owns nothing and moves nothing", waits(c, joiner, &new)).await;
    checks.run("nothing staged is an empty plan that can't be committed", nothing_staged(c)).await;
    checks.run("what is staged is the same through every node", staged_everywhere(c, &new)).await;
    checks.run("the same change twice is one", the_same_twice(c, &new)).await;
    checks.run("what is forgotten is forgotten everywhere", forgotten(c, &new)).await;
    checks.run("a commit names what was looked at", stale_hash(c, &ids, &new)).await;
    checks.run("a plan says what it moves", plan_adds_up(c, &new)).await;
    checks
        .run("the commit makes it a member that has everything", async {
            let plan = c.plan(2).await?;
            is_shown(c, &plan, &[1]).await?;
            let committed = c.commit(1, &plan["hash"]).await?.expect(200)?.json()?;
            ensure!(committed["committed"] == true && committed["hash"] == plan["hash"], "{committed}");
            for field in ["version", "digest", "partitions", "settled"] {
                ensure!(!committed["ring"][field].is_null(), "no ring.{field} in {committed}");
            }
            c.await_settled(&[0, 1, 2, 3], &up(&[&ids[..], std::slice::from_ref(&new)].concat())).await?;
            ensure!(c.plan(0).await?["changes"] == json!([]), "a committed plan is still staged");
            let planned = plan["nodes"].as_array().context("no nodes")?.clone();
            for node in planned {
                let id = node["id"].as_str().context("no id")?;
                let member = c.member_of(0, id).await?;
                ensure!(member["partitions"] == node["after"], "planned {node}, became {member}");
            }
            expect_all(c, &[joiner, 0], KEYS).await
        })
        .await;
    checks.finish(&[&cluster])
}

async fn waits(c: &Cluster, joiner: usize, new: &str) -> Result<()> {
    for viewer in 0..=joiner {
        let member = c.member_of(viewer, new).await?;
        ensure!(member["status"] == "joining" && member["partitions"] == 0, "{member}");
        let view = c.view(viewer).await?;
        ensure!(view["ring"]["settled"] == true, "{view}");
    }
    let ready = http::get(format!("{}/health/ready", c.url(joiner))).send().await?.expect(503)?;
    ensure!(ready.text().contains("joining"), "{ready}");
    // It serves clients by asking others, if at all; it never says that something is not there.
    let reply = http::get(url(c, joiner, 7)).send().await?.expect_one_of(&[200, 503])?;
    ensure!(reply.status == 503 || reply.text() == "v7", "{reply}");
    Ok(())
}

async fn nothing_staged(c: &Cluster) -> Result<()> {
    let plan = c.plan(1).await?;
    ensure!(plan["changes"] == json!([]), "{plan}");
    for field in ["partitions_to_move", "bytes_to_move"] {
        ensure!(number(&plan, field)? == 0, "{plan}");
    }
    ensure!(sum(&plan, "gains")? == 0 && sum(&plan, "losses")? == 0, "{plan}");
    c.commit(1, &plan["hash"]).await?.problem_code(409, "conflict").map(drop)
}

/// Waits until these nodes show just this plan.
async fn is_shown(c: &Cluster, plan: &Value, viewers: &[usize]) -> Result<()> {
    for &viewer in viewers {
        eventually(SPREAD_TIME_MAX, || async {
            let theirs = c.plan(viewer).await?;
            let of = |plan: &Value| (plan["hash"].clone(), plan["changes"].clone());
            ensure!(of(&theirs) == of(plan), "node {viewer} shows {theirs}, not {plan}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn staged_everywhere(c: &Cluster, new: &str) -> Result<()> {
    let plan = c.stage(0, &json!([{ "join": new }])).await?;
    ensure!(plan["changes"] == json!([{ "join": new }]), "{plan}");
    is_shown(c, &plan, &[0, 1, 2, 3]).await?;
    ensure!(c.view(0).await?["ring"]["settled"] == true, "a staged plan moves something");
    Ok(())
}

async fn the_same_twice(c: &Cluster, new: &str) -> Result<()> {
    let plan = c.stage(2, &json!([{ "join": new }])).await?;
    ensure!(plan["changes"] == json!([{ "join": new }]), "{plan}");
    let set = json!([{ "join": new }, { "set": { "id": c.id(0).await?, "weight": 2 } }]);
    let plan = c.stage(2, &json!([set[1]])).await?;
    ensure!(plan["changes"] == set, "{plan}");
    let later = json!({ "set": { "id": c.id(0).await?, "weight": 3 } });
    let plan = c.stage(2, &json!([later])).await?;
    ensure!(
        plan["changes"] == json!([set[0], later]),
        "a later change takes the place of the earlier: {plan}"
    );
    is_shown(c, &plan, &[1]).await
}

async fn forgotten(c: &Cluster, new: &str) -> Result<()> {
    http::delete(c.plan_url(1)).send().await?.expect(204)?;
    for viewer in 0..4 {
        eventually(SPREAD_TIME_MAX, || async {
            let plan = c.plan(viewer).await?;
            ensure!(plan["changes"] == json!([]), "node {viewer} still shows {plan}");
            Ok(())
        })
        .await?;
    }
    http::delete(c.plan_url(2)).send().await?.expect(204)?;
    let member = c.member_of(0, new).await?;
    ensure!(member["status"] == "joining", "{member}");
    Ok(())
}

async fn stale_hash(c: &Cluster, ids: &[String], new: &str) -> Result<()> {
    let looked_at = c.stage(0, &json!([{ "join": new }])).await?;
    let more = c.stage(0, &json!([{ "set": { "id": ids[2], "zone": "z" } }])).await?;
    ensure!(more["hash"] != looked_at["hash"], "two plans with one hash: {more}");
    for wrong in [&looked_at["hash"], &json!("0123456789abcdef"), &json!("nonsense")] {
        c.commit(0, wrong).await?.problem_code(409, "plan_changed")?;
    }
    let member = c.member_of(0, new).await?;
    ensure!(member["status"] == "joining", "a refused commit did something: {member}");
    http::delete(c.plan_url(0)).send().await?.expect(204).map(drop)
}

async fn plan_adds_up(c: &Cluster, new: &str) -> Result<()> {
    eventually(SPREAD_TIME_MAX, || async {
        let plan = c.plan(2).await?;
        ensure!(plan["changes"] == json!([]), "{plan}");
        Ok(())
    })
    .await?;
    let plan = c.stage(2, &json!([{ "join": new }])).await?;
    let moving = number(&plan, "partitions_to_move")?;
    ensure!(moving > 0 && number(&plan, "bytes_to_move")? > 0, "{plan}");
    ensure!(sum(&plan, "gains")? == sum(&plan, "losses")?, "{plan}");
    // 256 partitions with three owners each, before and after.
    ensure!(sum(&plan, "before")? == 768 && sum(&plan, "after")? == 768, "{plan}");
    for node in plan["nodes"].as_array().context("no nodes")? {
        let balance = number(node, "before")? + number(node, "gains")?;
        ensure!(balance == number(node, "after")? + number(node, "losses")?, "{node}");
        let is_new = node["id"] == new;
        ensure!((number(node, "gains")? > 0) == is_new, "a join moves nothing between the others: {plan}");
        ensure!((number(node, "bytes_in")? > 0) == is_new, "{plan}");
    }
    for when in ["before", "after"] {
        let balance = plan["balance"][when].as_f64().with_context(|| format!("no balance in {plan}"))?;
        ensure!((1.0..1.3).contains(&balance), "{plan}");
    }
    Ok(())
}

#[tokio::test]
async fn a_plan_that_can_not_be_is_refused_and_changes_nothing() -> Result<()> {
    let (mut cluster, ids) = settled(4).await?;
    let (_, waiting) = newcomer(&mut cluster).await?;
    let settings = bucket_url(&cluster.url(0), "four");
    http::put(&settings).json(&json!({ "n": 4 })).send().await?.expect_one_of(&[200, 201, 204])?;
    let c = &cluster;
    let nobody = "00000000000000000000000000000abc";
    let mut checks = Checks::new();
    let unknown = [
        json!([{ "join": nobody }]),
        json!([{ "leave": nobody }]),
        json!([{ "replace": { "old": nobody, "new": waiting } }]),
        json!([{ "replace": { "old": ids[0], "new": nobody } }]),
        json!([{ "set": { "id": nobody, "weight": 2 } }]),
        json!([{ "leave": "nonsense" }]),
    ];
    for changes in unknown {
        let refused = async {
            c.post_plan(0, &json!({ "changes": changes })).await?.problem_code(404, "not_found").map(drop)
        };
        checks.run(&format!("{changes} is 404"), refused).await;
    }
    for (changes, pointer) in [
        (json!([{ "leave": ids[1] }]), "/changes/0"),
        (json!([{ "set": { "id": ids[0], "weight": 2 } }, { "leave": ids[1] }]), "/changes"),
        (json!([{ "join": ids[1] }]), "/changes/0/join"),
        (json!([{ "set": { "id": ids[1], "weight": 2 } }, { "leave": ids[1] }]), "/changes/1"),
        (json!([{ "replace": { "old": ids[1], "new": ids[1] } }]), "/changes/0"),
        (json!([{ "set": { "id": ids[1], "weight": 0 } }]), "/changes/0/set/weight"),
        (json!([{ "set": { "id": ids[1], "weight": 65 } }]), "/changes/0/set/weight"),
        (json!([{ "set": { "id": ids[1], "zone": "z".repeat(300) } }]), "/changes/0/set/zone"),
    ] {
        let refused = async {
            let reply = c.post_plan(0, &json!({ "changes": changes })).await?;
            let problem = reply.problem_code(422, "invalid_config")?;
            let detail = problem["detail"].as_str().unwrap_or_default();
            ensure!(detail.contains(pointer), "no {pointer} in {detail:?}");
            Ok(())
        };
        checks.run(&format!("{changes} is 422"), refused).await;
    }
    for body in [
        json!({}),
        json!([]),
        json!({ "changes": [] }),
        json!({ "changes": { "leave": ids[1] } }),
        json!({ "changes": [{ "promote": ids[1] }] }),
        json!({ "changes": [{ "leave": ids[1], "join": ids[2] }] }),
        json!({ "changes": [{ "leave": 7 }] }),
        json!({ "changes": [{ "set": { "id": ids[1] } }] }),
        json!({ "changes": [{ "set": { "id": ids[1], "weight": -1 } }] }),
        json!({ "changes": [{ "set": { "id": ids[1], "weight": 2, "colour": "red" } }] }),
        json!({ "changes": [{ "replace": { "old": ids[1] } }] }),
        json!({ "changes": [{ "join": waiting }], "force": true }),
    ] {
        let refused = async { c.post_plan(0, &body).await?.problem_code(400, "invalid_body").map(drop) };
        checks.run(&format!("{body} is 400"), refused).await;
    }
    checks
        .run("what is not JSON is 400", async {
            let reply = http::post(c.plan_url(0)).header("content-type", "application/json").body("{").send();
            reply.await?.problem_code(400, "invalid_body")?;
            let commit = format!("{}/v1/cluster/commit", c.url(0));
            for body in [json!({}), json!({ "hash": 7 }), json!({ "hash": "ab", "force": true })] {
                http::post(&commit).json(&body).send().await?.problem_code(400, "invalid_body")?;
            }
            Ok(())
        })
        .await;
    checks
        .run("why a leave can't be is said in words", async {
            let leave = json!({ "changes": [{ "leave": ids[1] }] });
            let problem = c.post_plan(0, &leave).await?.problem_code(422, "invalid_config")?;
            let detail = problem["detail"].as_str().unwrap_or_default();
            ensure!(detail.contains('3') && detail.contains('4'), "who stays and who is needed: {detail:?}");
            Ok(())
        })
        .await;
    checks
        .run("nothing of all this was staged, and a plan that can be still can", async {
            ensure!(c.plan(0).await?["changes"] == json!([]), "{}", c.plan(0).await?);
            c.stage(0, &json!([{ "replace": { "old": ids[1], "new": waiting } }])).await.map(drop)
        })
        .await;
    checks.finish(&[&cluster])
}

#[tokio::test]
async fn commits_at_the_same_moment_settle_on_one_ring() -> Result<()> {
    let (mut cluster, ids) = settled(4).await?;
    fill(&cluster, &[0, 1, 2, 3], KEYS).await?;
    let (fourth, new) = newcomer(&mut cluster).await?;
    let c = &cluster;
    let mut checks = Checks::new();
    checks
        .run("one plan through two nodes", async {
            let plan = c.stage(0, &json!([{ "join": new }])).await?;
            is_shown(c, &plan, &[1, 2]).await?;
            let (one, two) = tokio::join!(c.commit(1, &plan["hash"]), c.commit(2, &plan["hash"]));
            let taken = [one?.expect_one_of(&[200, 409])?.status, two?.expect_one_of(&[200, 409])?.status];
            ensure!(taken.contains(&200), "{taken:?}");
            c.await_settled(&[0, 1, 2, 3, fourth], &[(new.as_str(), "up")]).await
        })
        .await;
    checks
        .run("two plans through two nodes", async {
            let zone = |id: &String, zone: &str| json!({ "set": { "id": id, "zone": zone } });
            let (a, b) = (zone(&ids[1], "a"), zone(&ids[2], "b"));
            let (one, two) = tokio::join!(c.change_among_others(0, &a), c.change_among_others(3, &b));
            one.and(two)?;
            c.await_settled(&[0, 1, 2, 3, fourth], &up(&ids)).await?;
            for viewer in 0..5 {
                ensure!(c.member_of(viewer, &ids[1]).await?["zone"] == "a", "{}", c.view(viewer).await?);
                ensure!(c.member_of(viewer, &ids[2]).await?["zone"] == "b", "{}", c.view(viewer).await?);
            }
            expect_all(c, &[0, 1, 2, 3, fourth], KEYS).await
        })
        .await;
    checks.finish(&[&cluster])
}
