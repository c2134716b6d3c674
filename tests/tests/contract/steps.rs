//! Steps of the tests in which members come and go: values whose keys say what they must be, written, read back and looked
//! for on every owner; nodes that are let in; and what must not be left over in the end.

use crate::support::{each, eventually, expect_values};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::Duration;
use tests::cluster::Cluster;
use tests::http::{self, key_url};

pub(crate) const BUCKET: &str = "members";
/// Gossip goes round twice a second; the rest is for a machine that builds something else meanwhile.
pub(crate) const SPREAD_TIME_MAX: Duration = Duration::from_secs(15);
pub(crate) const NOTICE_TIME_MAX: Duration = Duration::from_secs(15);
pub(crate) const HEAL_TIME_MAX: Duration = Duration::from_secs(60);

/// The URL of a numbered key through a node.
pub(crate) fn url(c: &Cluster, node: usize, number: usize) -> String {
    key_url(&c.url(node), BUCKET, format!("k{number}"))
}

/// Writes so many keys through these nodes, each to all of its owners.
pub(crate) async fn fill(c: &Cluster, nodes: &[usize], keys: usize) -> Result<()> {
    each(0..keys, |number| async move {
        let url = format!("{}?w=all", url(c, nodes[number % nodes.len()], number));
        http::put(url).text(&format!("v{number}")).send().await?.expect(204).map(drop)
    })
    .await
}

pub(crate) async fn read_all(c: &Cluster, nodes: &[usize], keys: usize) -> Result<()> {
    each(0..keys, |number| async move {
        let url = url(c, nodes[number % nodes.len()], number);
        expect_values(&url, &[&format!("v{number}")]).await?.expect(200).map(drop)
    })
    .await
}

pub(crate) async fn explain(c: &Cluster, node: usize, number: usize) -> Result<Value> {
    let told = format!("{}/v1/explain?bucket={BUCKET}&key=k{number}", c.url(node));
    http::get(told).send().await?.expect(200)?.json()
}

/// Waits until every owner of every key holds the same.
pub(crate) async fn converge(c: &Cluster, node: usize, keys: usize) -> Result<()> {
    each(0..keys, |number| async move {
        eventually(HEAL_TIME_MAX, || async {
            let told = explain(c, node, number).await?;
            ensure!(told["verdict"] == "converged", "{told}");
            Ok(())
        })
        .await
    })
    .await
}

/// Every key is read through these nodes, and every owner of it holds the same.
pub(crate) async fn expect_all(c: &Cluster, nodes: &[usize], keys: usize) -> Result<()> {
    read_all(c, nodes, keys).await?;
    converge(c, nodes[0], keys).await
}

/// A cluster whose nodes all have their share, and their ids.
pub(crate) async fn settled(count: usize) -> Result<(Cluster, Vec<String>)> {
    let cluster = Cluster::start(count).await?;
    let mut ids = Vec::new();
    for index in 0..count {
        ids.push(cluster.id(index).await?);
    }
    cluster.await_settled(&(0..count).collect::<Vec<_>>(), &up(&ids)).await?;
    Ok((cluster, ids))
}

pub(crate) fn up(ids: &[String]) -> Vec<(&str, &str)> {
    ids.iter().map(|id| (id.as_str(), "up")).collect()
}

/// A node that is let in and waits for an operator, once everybody knows it; and its id.
pub(crate) async fn newcomer(c: &mut Cluster) -> Result<(usize, String)> {
    newcomer_of_weight(c, 1).await
}

/// One that is to have so many times what a node of weight 1 has.
pub(crate) async fn newcomer_of_weight(c: &mut Cluster, weight: u32) -> Result<(usize, String)> {
    let running: Vec<usize> = c.running().collect();
    let index = c.add(&["--join", "manual", "--weight", &weight.to_string()])?;
    let id = eventually(SPREAD_TIME_MAX, || c.id(index)).await?;
    for viewer in running {
        eventually(SPREAD_TIME_MAX, || async {
            let member = c.member_of(viewer, &id).await?;
            ensure!(member["status"] == "joining" && member["reachable"] == true, "{member}");
            Ok(())
        })
        .await?;
    }
    Ok((index, id))
}

pub(crate) async fn is_down(c: &Cluster, viewers: &[usize], id: &str) -> Result<()> {
    for &viewer in viewers {
        eventually(NOTICE_TIME_MAX, || async {
            let member = c.member_of(viewer, id).await?;
            ensure!(member["status"] == "down", "node {viewer} says {member}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Nobody keeps a hint, or a copy that is no longer his.
pub(crate) async fn nothing_is_left_over(c: &Cluster, nodes: &[usize]) -> Result<()> {
    for &node in nodes {
        eventually(HEAL_TIME_MAX, || async {
            let hints: Value =
                http::get(format!("{}/v1/hints", c.url(node))).send().await?.expect(200)?.json()?;
            ensure!(hints["waiting"] == 0, "node {node} keeps {hints}");
            // Surplus is counted by the trees.
            let aae: Value =
                http::get(format!("{}/v1/aae", c.url(node))).send().await?.expect(200)?.json()?;
            ensure!(aae["building"] == 0, "node {node} builds trees: {aae}");
            let surplus = &c.transfers(node).await?["surplus"];
            let kept = surplus.as_array().context("no surplus")?.iter().find(|one| one["partitions"] != 0);
            ensure!(kept.is_none(), "{surplus}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// A number of an answer.
pub(crate) fn number(of: &Value, field: &str) -> Result<u64> {
    of[field].as_u64().with_context(|| format!("{field} is no number in {of}"))
}
