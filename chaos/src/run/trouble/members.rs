//! Nodes that are lost for good, come new, or go.

use super::{Stage, names};
use crate::limits::NODES_MAX;
use crate::run::equal;
use crate::target::process::name;
use anyhow::{Result, bail};
use client::{Change, Client, Member, ReqwestTransport};
use rand::RngExt;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// How long a change of the members may take. 100,000 keys of 1 KiB take some ten seconds; here there are fewer, and load.
const CHANGE_MAX: Duration = Duration::from_secs(90);
const ASK_EVERY: Duration = Duration::from_millis(200);

/// It waits for its operator: it is to take a certain place.
const MANUAL: &str = "join = \"manual\"\n";

/// A client that asks the nodes that are members, whichever answers.
fn operator(stage: &Stage<'_>) -> Result<Client<ReqwestTransport>> {
    Ok(Client::with_transport(living(stage), stage.ground.transport.clone())?)
}

fn living(stage: &Stage<'_>) -> Vec<String> {
    (0..stage.site.len()).filter(|i| !stage.removed.contains(i)).map(|i| stage.site.url(i)).collect()
}

/// Asks until there is an answer to give, or for too long.
async fn until<V>(what: &str, mut ask: impl AsyncFnMut() -> Result<Option<V>>) -> Result<V> {
    let deadline = Instant::now() + CHANGE_MAX;
    loop {
        let last = match ask().await {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if Instant::now() > deadline {
            let why = last.map_or_else(String::new, |error| format!(": {error:#}"));
            bail!("{what}: not after {} s{why}", CHANGE_MAX.as_secs());
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// The member that is met there now. A node that lost its disk comes back as another at the same address.
async fn member(operator: &Client<ReqwestTransport>, url: &str, status: &str) -> Result<Option<Member>> {
    let cluster = operator.cluster().await?;
    let address = url.trim_start_matches("http://");
    let is_it = |member: &Member| member.http.as_deref() == Some(address) && member.status == status;
    Ok(cluster.members.into_iter().find(is_it))
}

/// Stages changes and commits them; a plan that somebody else changed meanwhile is begun anew.
async fn change(operator: &Client<ReqwestTransport>, changes: &[Change]) -> Result<()> {
    until(&format!("{changes:?} is committed"), async || {
        let plan = match operator.stage(changes).await {
            Ok(plan) => plan,
            Err(error) => {
                // Half a plan, perhaps our own of the last attempt.
                let _ = operator.clear_plan().await;
                return Err(error.into());
            }
        };
        operator.commit(&plan.hash).await?;
        Ok(Some(()))
    })
    .await
}

async fn settled(operator: &Client<ReqwestTransport>, what: &str) -> Result<()> {
    until(what, async || {
        let cluster = operator.cluster().await?;
        let is_moving = |member: &&Member| matches!(member.status.as_str(), "joining" | "leaving");
        let moving = cluster.members.iter().find(is_moving);
        match (cluster.is_settled(), moving) {
            (true, None) => Ok(Some(())),
            (settled, moving) => {
                let moving = moving.map_or_else(String::new, |member| {
                    format!("{} is {}", member.http.as_deref().unwrap_or("somebody"), member.status)
                });
                bail!("settled: {settled} {moving}; it waits for {:?}", cluster.transfers.waiting_for)
            }
        }
    })
    .await
}

/// A node and its disk are lost, and an empty one at the same address takes its place. The next loss comes after all copies are
/// whole again: two disks of three at once are beyond what W = 2 promises.
pub(super) async fn wipe(stage: &mut Stage<'_>) -> Result<()> {
    let victim = stage.nodes()[0];
    let (operator, url) = (operator(stage)?, stage.site.url(victim));
    let old = until("the victim has a name", async || {
        let up = member(&operator, &url, "up").await?;
        Ok(match up {
            Some(up) => Some(up),
            None => member(&operator, &url, "down").await?,
        })
    })
    .await?;
    let open = stage.begin(format!("{} and its disk lost", names(&[victim])), &[victim]);
    stage.site.kill(&[victim]).await?;
    let local = stage.site.local()?;
    local.wipe(victim)?;
    local.configure(victim, MANUAL)?;
    stage.last(1_000..4_000).await;
    stage.site.local()?.start_again(victim)?;
    // Who is still taken for alive would be asked to hand on what it had.
    until("the loss is noticed", async || {
        let cluster = operator.cluster().await?;
        Ok(cluster.members.iter().find(|member| member.id == old.id && !member.reachable).map(drop))
    })
    .await?;
    let new =
        until("an empty node asks to be let in", async || member(&operator, &url, "joining").await).await?;
    change(&operator, &[Change::Replace { old: old.id, new: new.id }]).await?;
    settled(&operator, &format!("{} has taken its old place", name(victim))).await?;
    stage.site.local()?.wait_ready(victim).await?;
    stage.end(open);
    equal::wait_for_hints(&living(stage), CHANGE_MAX).await
}

/// How many come at once at most.
const COME_MAX: usize = 2;

/// Whether there is room for those who come.
pub(super) fn has_room(stage: &Stage<'_>) -> bool {
    stage.site.len() + COME_MAX <= usize::from(NODES_MAX)
}

/// A node or two come at once, and as many others go, by one plan.
pub(super) async fn come_and_go(stage: &mut Stage<'_>) -> Result<()> {
    let count = stage.chance.random_range(1..=COME_MAX);
    if !has_room(stage) {
        stage.hold(stage.left()).await;
        return Ok(());
    }
    let operator = operator(stage)?;
    let mut new = Vec::new();
    for _ in 0..count {
        new.push(stage.site.local()?.add("").await?);
    }
    let open = stage.begin(format!("{} join", names(&new)), &new);
    for i in &new {
        let url = stage.site.url(*i);
        until("a newcomer is a member", async || member(&operator, &url, "up").await).await?;
    }
    settled(&operator, &format!("{} have their shares", names(&new))).await?;
    for i in &new {
        stage.site.local()?.wait_ready(*i).await?;
    }
    stage.end(open);
    let urls = new.iter().map(|i| stage.site.url(*i));
    stage.ground.joined.lock().unwrap_or_else(PoisonError::into_inner).extend(urls);
    stage.rest().await;

    // The first of all is everybody's seed.
    let may_go = |node: &usize| *node != 0 && !new.contains(node);
    let go: Vec<usize> = stage.nodes().into_iter().filter(may_go).take(count).collect();
    let mut ids = Vec::new();
    for i in &go {
        let url = stage.site.url(*i);
        ids.push(until("who goes has a name", async || member(&operator, &url, "up").await).await?.id);
    }
    let open = stage.begin(format!("{} leave", names(&go)), &go);
    let leave: Vec<Change> = ids.iter().cloned().map(Change::Leave).collect();
    change(&operator, &leave).await?;
    until("who goes is gone", async || {
        let cluster = operator.cluster().await?;
        let is_gone = |member: &Member| !ids.contains(&member.id) || member.status == "removed";
        Ok((cluster.is_settled() && cluster.members.iter().all(is_gone)).then_some(()))
    })
    .await?;
    stage.end(open);
    for i in go {
        stage.timeline.gone(i);
        stage.removed.insert(i);
    }
    Ok(())
}
