//! Nodes that are lost for good, come new, or go.

use super::{Stage, Trouble, effects, names};
use crate::limits::NODES_MAX;
use crate::run::equal;
use crate::run::scenarios::SCENARIOS;
use crate::run::timeline::Open;
use crate::run::tries::Noted;
use crate::target::process::name;
use anyhow::{Result, bail};
use client::{Client, Member};
use rand::RngExt;
use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// How long a change of the members may take. 100,000 keys of 1 KiB take some ten seconds; here there are fewer, and load.
const CHANGE_MAX: Duration = Duration::from_secs(90);
const ASK_EVERY: Duration = Duration::from_millis(200);

/// It waits for its operator: it is to take a certain place.
const MANUAL: &str = "join = \"manual\"\n";

type ApiClient = Client<Noted>;

/// A client that asks the nodes that are members, whichever answers.
fn operator(stage: &Stage<'_>) -> Result<ApiClient> {
    Ok(Client::with_transport(living(stage), stage.ground.transport.clone())?)
}

fn living(stage: &Stage<'_>) -> Vec<String> {
    (0..stage.site.len()).filter(|i| !stage.removed.contains_key(i)).map(|i| stage.site.url(i)).collect()
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
async fn member(operator: &ApiClient, url: &str, status: &str) -> Result<Option<Member>> {
    let cluster = operator.cluster().await?;
    let address = url.trim_start_matches("http://");
    let is_it = |member: &Member| member.http.as_deref() == Some(address) && member.status == status;
    Ok(cluster.members.into_iter().find(is_it))
}

/// Stages changes and commits them; a plan that somebody else changed meanwhile is begun anew.
async fn change(operator: &ApiClient, changes: &[client::Change]) -> Result<()> {
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

async fn settled(operator: &ApiClient, what: &str) -> Result<()> {
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
    let nodes = stage.nodes();
    let (victim, another) = (nodes[0], nodes[1]);
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
    stage.kill(&[victim]).await?;
    let local = stage.site.local()?;
    local.wipe(victim, another)?;
    local.configure(victim, MANUAL)?;
    stage.last(1_000..4_000).await?;
    stage.site.local()?.start_again(victim)?;
    // Who is still taken for alive would be asked to hand on what it had.
    until("the loss is noticed", async || {
        let cluster = operator.cluster().await?;
        Ok(cluster.members.iter().find(|member| member.id == old.id && !member.reachable).map(drop))
    })
    .await?;
    let new =
        until("an empty node asks to be let in", async || member(&operator, &url, "joining").await).await?;
    change(&operator, &[client::Change::Replace { old: old.id, new: new.id }]).await?;
    settled(&operator, &format!("{} has taken its old place", name(victim))).await?;
    stage.site.local()?.wait_ready(victim).await?;
    stage.did(effects::REPLACED, 1);
    stage.end(open);
    equal::wait_for_hints(&living(stage), CHANGE_MAX).await
}

/// How many come at once at most.
const COME_MAX: usize = 2;
/// How long one attempt to commit may take while something else is broken.
const TRY_MAX: Duration = Duration::from_secs(5);

/// Members that are about to come or go.
#[derive(Debug, Default)]
pub(in crate::run) struct Change {
    /// How many come, until they are started.
    come: usize,
    /// Those that were started.
    pub(super) new: Vec<usize>,
    /// Who goes.
    pub(super) go: BTreeSet<usize>,
    begun: bool,
    open: Vec<Open>,
}

impl Change {
    /// Whether it is begun as soon as something else is broken.
    pub(super) fn is_to_begin(&self) -> bool {
        !self.begun
    }
}

/// Whether there is room for those who come.
pub(super) fn has_room(stage: &Stage<'_>) -> bool {
    stage.site.len() + COME_MAX <= usize::from(NODES_MAX) + stage.removed.len()
}

/// Begins what is to be begun now, whatever else is broken: whether it succeeds at once is not said.
pub(super) async fn begin(stage: &mut Stage<'_>) -> Result<()> {
    let Some(mut change) = stage.change.take_if(|change| !change.begun) else { return Ok(()) };
    change.begun = true;
    for _ in 0..change.come {
        let new = start(stage).await?;
        change.open.push(stage.begin(format!("{} joins", name(new)), &[new]));
        change.new.push(new);
    }
    if !change.go.is_empty() {
        let go: Vec<usize> = change.go.iter().copied().collect();
        change.open.push(stage.begin(format!("{} leave", names(&go)), &go));
        let operator = operator(stage)?;
        // Whoever is asked may be the one that is broken. It is asked again when nothing is.
        let _ = tokio::time::timeout(TRY_MAX, leave(&operator, stage, &go)).await;
    }
    stage.change = Some(change);
    Ok(())
}

/// An empty node, in the place of one that has left if there is one.
async fn start(stage: &mut Stage<'_>) -> Result<usize> {
    let Some((place, gone)) = stage.removed.pop_first() else {
        let new = stage.site.local()?.add().await?;
        // What is to be done to its disk or calendar at once goes through its shim, which is there as soon as the process is.
        until("the shim of a newcomer is loaded", async || {
            let shim = stage.site.local()?.shim(new);
            Ok(match shim {
                Some(shim) => (shim.loaded_by()? > 0).then_some(()),
                None => Some(()),
            })
        })
        .await?;
        return Ok(new);
    };
    stage.timeline.end(gone);
    stage.site.local()?.start_again(place)?;
    Ok(place)
}

/// Has those leave of whom nobody knows yet that they do.
async fn leave(operator: &ApiClient, stage: &Stage<'_>, go: &[usize]) -> Result<()> {
    let mut changes = Vec::new();
    for i in go {
        let url = stage.site.url(*i);
        changes.extend(member(operator, &url, "up").await?.map(|up| client::Change::Leave(up.id)));
    }
    if changes.is_empty() { Ok(()) } else { change(operator, &changes).await }
}

/// A node or two come at once, and as many others go, by one plan. Beside something else that is broken it is one: the disks of two
/// that go together and can't be reached are more than is promised.
pub(super) async fn come_and_go(stage: &mut Stage<'_>, beside: Option<Trouble>) -> Result<()> {
    let count = stage.chance.random_range(1..=COME_MAX);
    if !has_room(stage) {
        stage.hold(stage.left()).await;
        return Ok(());
    }
    let count = if beside.is_some() { 1 } else { count };
    stage.change = Some(Change { come: count, ..Change::default() });
    meanwhile(stage, beside).await?;
    let new = arrived(stage).await?;
    stage.rest().await;

    // The first of all is everybody's seed.
    let may_go = |node: &usize| *node != 0 && !new.contains(node);
    let go: BTreeSet<usize> = stage.nodes().into_iter().filter(may_go).take(count).collect();
    stage.change = Some(Change { go, ..Change::default() });
    meanwhile(stage, beside).await?;
    parted(stage).await
}

/// The change is begun, just before something else is broken or while it is.
async fn meanwhile(stage: &mut Stage<'_>, beside: Option<Trouble>) -> Result<()> {
    // Those that don't last have nothing that could begin while they do.
    let before = stage.chance.random()
        || matches!(
            beside,
            None | Some(Trouble::CrashAll | Trouble::Restart | Trouble::HotKey | Trouble::LargeValues)
        );
    if before {
        begin(stage).await?;
    }
    if let Some(beside) = beside {
        let is_late = stage.left().is_zero();
        Box::pin(super::once(beside, stage)).await?;
        let name = SCENARIOS.iter().find(|one| one.trouble == beside).map(|one| one.name);
        stage.came.extend(name.filter(|_| !is_late));
    }
    begin(stage).await
}

/// Waits until those who come have come.
async fn arrived(stage: &mut Stage<'_>) -> Result<Vec<usize>> {
    let Change { new, open, .. } = stage.change.take().unwrap_or_default();
    let operator = operator(stage)?;
    for i in &new {
        let url = stage.site.url(*i);
        until("a newcomer is a member", async || member(&operator, &url, "up").await).await?;
    }
    settled(&operator, &format!("{} have their shares", names(&new))).await?;
    for i in &new {
        stage.site.local()?.wait_ready(*i).await?;
    }
    open.into_iter().for_each(|open| stage.end(open));
    stage.did(effects::JOINED, new.len() as u64);
    let known = stage.ground.all_urls();
    let urls = new.iter().map(|i| stage.site.url(*i)).filter(|url| !known.contains(url));
    stage.ground.joined.lock().unwrap_or_else(PoisonError::into_inner).extend(urls);
    Ok(new)
}

/// Waits until those who go are gone, and takes away what is left of them.
async fn parted(stage: &mut Stage<'_>) -> Result<()> {
    let operator = operator(stage)?;
    let go: Vec<usize> =
        stage.change.as_ref().map(|change| change.go.iter().copied().collect()).unwrap_or_default();
    let urls: Vec<String> = go.iter().map(|i| stage.site.url(*i)).collect();
    until(&format!("{} are gone", names(&go)), async || {
        // Somebody may have called it off, or nobody has heard of it.
        leave(&operator, stage, &go).await?;
        let cluster = operator.cluster().await?;
        let are_there = cluster.members.iter().filter(|member| member.status != "removed");
        let mut there = are_there.filter_map(|member| member.http.as_deref());
        let is_one = |address: &str| urls.iter().any(|url| url.trim_start_matches("http://") == address);
        Ok((cluster.is_settled() && !there.any(is_one)).then_some(()))
    })
    .await?;
    let Change { open, .. } = stage.change.take().unwrap_or_default();
    open.into_iter().for_each(|open| stage.end(open));
    stage.did(effects::LEFT, go.len() as u64);
    for i in go {
        let gone = stage.timeline.gone(i);
        stage.removed.insert(i, gone);
        stage.site.stop(i).await?;
        stage.site.local()?.wipe(i, 0)?;
    }
    Ok(())
}
