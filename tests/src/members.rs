//! Changing a running cluster, and waiting for what becomes of it.
//!
//! Members are known here by their ids: an address may have belonged to somebody else yesterday, and some tests are about
//! just that. What is waited for is what the nodes themselves say, all of those that are asked: `settled`, one digest, and
//! the statuses that the test names.

use crate::cluster::Cluster;
use crate::http::{self, Reply};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Some megabytes over loopback on a busy machine with two cores: the bound is there to end, not to measure.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(90);
const POLL_EVERY: Duration = Duration::from_millis(50);

impl Cluster {
    /// The id of a running node.
    pub async fn id(&self, index: usize) -> Result<String> {
        let view = self.view(index).await?;
        view["node"].as_str().map(str::to_owned).with_context(|| format!("no node in {view}"))
    }

    /// `GET /v1/cluster` of a node.
    pub async fn view(&self, index: usize) -> Result<Value> {
        http::get(format!("{}/v1/cluster", self.url(index))).send().await?.expect(200)?.json()
    }

    /// `GET /v1/transfers` of a node.
    pub async fn transfers(&self, index: usize) -> Result<Value> {
        http::get(format!("{}/v1/transfers", self.url(index))).send().await?.expect(200)?.json()
    }

    /// What one node says about the member of that id.
    pub async fn member_of(&self, viewer: usize, id: &str) -> Result<Value> {
        let view = self.view(viewer).await?;
        let found = members(&view)?.iter().find(|member| member["id"] == id).cloned();
        found.with_context(|| format!("node {viewer} does not list {id} in {view}"))
    }

    /// `GET /v1/cluster/plan` of a node.
    pub async fn plan(&self, index: usize) -> Result<Value> {
        http::get(self.plan_url(index)).send().await?.expect(200)?.json()
    }

    /// Posts a plan, whatever comes of it.
    pub async fn post_plan(&self, index: usize, body: &Value) -> Result<Reply> {
        http::post(self.plan_url(index)).json(body).send().await
    }

    /// Stages changes through a node, and answers the plan.
    pub async fn stage(&self, index: usize, changes: &Value) -> Result<Value> {
        self.post_plan(index, &json!({ "changes": changes })).await?.expect(200)?.json()
    }

    /// Commits a plan by its hash, whatever comes of it.
    pub async fn commit(&self, index: usize, hash: &Value) -> Result<Reply> {
        let url = format!("{}/v1/cluster/commit", self.url(index));
        http::post(url).json(&json!({ "hash": hash })).send().await
    }

    /// Stages and commits through one node, and answers the plan that was committed. Who goes may fall silent between the two, or
    /// be heard again; then the plan is another, and is looked at once more.
    pub async fn change(&self, index: usize, changes: &Value) -> Result<Value> {
        let started = Instant::now();
        let mut plan = self.stage(index, changes).await?;
        loop {
            let answer = self.commit(index, &plan["hash"]).await?.expect_one_of(&[200, 409])?;
            if answer.status == 200 {
                let committed: Value = answer.json()?;
                ensure!(committed["committed"] == true && committed["hash"] == plan["hash"], "{committed}");
                return Ok(plan);
            }
            ensure!(started.elapsed() < SETTLE_TIME_MAX, "the plan never stays the same: {plan}");
            plan = self.plan(index).await?;
        }
    }

    /// The same where others change the cluster at the same time: whoever is told that the plan has changed, or does not
    /// find his change in it, looks again; and what somebody else's commit has taken along is done.
    pub async fn change_among_others(&self, index: usize, change: &Value) -> Result<()> {
        let started = Instant::now();
        for attempt in 0.. {
            ensure!(started.elapsed() < SETTLE_TIME_MAX, "{change} was refused {attempt} times");
            let plan = self.post_plan(index, &json!({ "changes": [change] })).await?;
            if attempt > 0 && plan.status == 422 {
                break;
            }
            let plan = plan.expect(200)?.json()?;
            let is_in = plan["changes"].as_array().is_some_and(|changes| changes.contains(change));
            if is_in && self.commit(index, &plan["hash"]).await?.expect_one_of(&[200, 409])?.status == 200 {
                break;
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
        Ok(())
    }

    /// Where plans are staged.
    pub fn plan_url(&self, index: usize) -> String {
        format!("{}/v1/cluster/plan", self.url(index))
    }

    /// Waits until all of these nodes say that nothing moves, name one ring, and see the members as the test does.
    pub async fn await_settled(&self, viewers: &[usize], expected: &[(&str, &str)]) -> Result<()> {
        let started = Instant::now();
        loop {
            let Err(reason) = self.is_settled(viewers, expected).await else { return Ok(()) };
            if started.elapsed() > SETTLE_TIME_MAX {
                bail!("not settled after {SETTLE_TIME_MAX:?}: {reason:#}\n{}", self.log_tails());
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    async fn is_settled(&self, viewers: &[usize], expected: &[(&str, &str)]) -> Result<()> {
        let mut digests = BTreeSet::new();
        for &viewer in viewers {
            let view = self.view(viewer).await?;
            ensure!(view["ring"]["settled"] == true, "node {viewer} says {view}");
            digests.insert(view["ring"]["digest"].to_string());
            for (id, status) in expected {
                let member = members(&view)?.iter().find(|member| member["id"] == *id);
                let found = member.map(|member| &member["status"]);
                ensure!(
                    found.is_some_and(|found| found == status),
                    "node {viewer} says {found:?} of {id}: {view}"
                );
            }
        }
        ensure!(digests.len() == 1, "the nodes name different rings: {digests:?}");
        Ok(())
    }
}

/// `members` of a view.
pub fn members(view: &Value) -> Result<&Vec<Value>> {
    view["members"].as_array().with_context(|| format!("`members` is no array in {view}"))
}
