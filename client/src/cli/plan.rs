//! Changing the cluster in two steps: `join`, `leave`, `replace` and `set` stage, `plan` shows, `commit` carries out.
//!
//! A node may be named by its id, by the beginning of its id, or by an address: ids are long, and the only thing that a
//! person knows of a new node by heart is where it listens. The server is told whole ids only, because a name that fits
//! one node now may fit two when the change is committed.

use super::DONE;
use super::output::{Terminal, document, or_none, table};
use crate::call::Client;
use crate::cluster::Cluster;
use crate::error::{Error, Problem, Result};
use crate::plan::{Change, Plan, PlannedNode, Replaced};
use clap::Args;
use indicatif::BinaryBytes;
use serde::Deserialize;

/// Hexadecimal digits of an id.
const ID_DIGITS: usize = 32;

/// `cartwheel cluster set`
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").args(["weight", "zone"]).required(true).multiple(true))]
pub struct SetArgs {
    /// The node
    node: String,
    /// Its share of the data relative to other nodes, 1 to 64
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=64))]
    weight: Option<u32>,
    /// Its failure domain; an empty one is none
    #[arg(long, value_name = "NAME")]
    zone: Option<String>,
}

pub(crate) async fn join(node: &str, client: &Client, terminal: &mut Terminal<'_>) -> Result<i32> {
    let [id] = named([node], client).await?;
    stage(Change::Join(id), client, terminal).await
}

pub(crate) async fn leave(
    node: &str,
    force: bool,
    client: &Client,
    terminal: &mut Terminal<'_>,
) -> Result<i32> {
    let [id] = named([node], client).await?;
    let change = if force { Change::LeaveByForce { leave: id, force } } else { Change::Leave(id) };
    stage(change, client, terminal).await
}

pub(crate) async fn replace(
    old: &str,
    new: &str,
    force: bool,
    client: &Client,
    terminal: &mut Terminal<'_>,
) -> Result<i32> {
    let [old, new] = named([old, new], client).await?;
    let change = match force {
        true => Change::ReplaceByForce { replace: Replaced { old, new }, force },
        false => Change::Replace { old, new },
    };
    stage(change, client, terminal).await
}

pub(crate) async fn set(args: SetArgs, client: &Client, terminal: &mut Terminal<'_>) -> Result<i32> {
    let [id] = named([&args.node], client).await?;
    stage(Change::Set { id, weight: args.weight, zone: args.zone }, client, terminal).await
}

pub(crate) async fn show(client: &Client, terminal: &mut Terminal<'_>) -> Result<i32> {
    let plan = client.plan().await?;
    if terminal.json {
        terminal.document(&document(&plan));
    } else {
        print(&plan, terminal);
    }
    Ok(DONE)
}

/// Without a hash, what is staged at this moment is committed, and said: somebody may have staged more since it was
/// looked at.
pub(crate) async fn commit(
    hash: Option<String>,
    client: &Client,
    terminal: &mut Terminal<'_>,
) -> Result<i32> {
    let hash = match hash {
        Some(hash) => hash,
        None => {
            let plan = client.plan().await?;
            if plan.is_empty() {
                return Err(no(409, "conflict", "nothing is staged".into()));
            }
            if !terminal.json {
                print(&plan, terminal);
            }
            plan.hash
        }
    };
    let committed = client.commit(&hash).await?;
    if terminal.json {
        terminal.document(&document(&committed));
    } else {
        terminal.line(&format!("committed {hash}"));
        terminal.say("see how far it is: cartwheel cluster status --wait");
    }
    Ok(DONE)
}

pub(crate) async fn clear(client: &Client, terminal: &mut Terminal<'_>) -> Result<i32> {
    client.clear_plan().await?;
    terminal.say("nothing is staged");
    Ok(DONE)
}

async fn stage(change: Change, client: &Client, terminal: &mut Terminal<'_>) -> Result<i32> {
    let plan = client.stage(std::slice::from_ref(&change)).await?;
    // Somebody else may have staged through another node at the same moment, and then one of the two is not there.
    if !plan.changes.iter().any(|staged| Change::deserialize(staged).is_ok_and(|staged| staged == change)) {
        let detail =
            "somebody else has changed the plan at the same moment: look at it, and stage this again";
        return Err(no(409, "plan_changed", detail.into()));
    }
    if terminal.json {
        terminal.document(&document(&plan));
    } else {
        print(&plan, terminal);
        terminal.say(&format!("nothing moves until: cartwheel cluster commit {}", plan.hash));
    }
    Ok(DONE)
}

/// What is staged, what it costs, and what it means for each node that it concerns.
pub(crate) fn print(plan: &Plan, terminal: &mut Terminal<'_>) {
    if plan.is_empty() {
        return terminal.line("nothing is staged");
    }
    for change in &plan.changes {
        terminal.line(&format!("staged: {}", Change::in_words(change)));
    }
    for node in &plan.unreachable {
        terminal.line(&format!(
            "{node} can't be reached: where half of the owners are heard, nobody waits for it"
        ));
    }
    if plan.unreachable.len() > 1 {
        terminal.line(
            "what only these have acknowledged, one of them in the place of others, is set aside when they come \
             back: bring one of them back first, if there is a way",
        );
    }
    if plan.partitions_without_most_owners > 0 {
        terminal.line(&format!(
            "{} partitions have most of their owners among these: the change waits for one of them, or for --force",
            plan.partitions_without_most_owners
        ));
    }
    let mut rows = table(&["NODE", "ZONE", "WEIGHT", "BEFORE", "AFTER", "GAINS", "LOSSES", "IN", "OUT"]);
    for node in &plan.nodes {
        rows.add_row(node_row(node));
    }
    terminal.line(&rows.trim_fmt());
    let (count, bytes) = (plan.partitions_to_move, BinaryBytes(plan.bytes_to_move));
    terminal.line(&format!("{count} partitions to move, {bytes}"));
    if let (Some(before), Some(after)) = (plan.balance.before, plan.balance.after) {
        terminal.line(&format!("fullest node over its fair share: {before:.2} before, {after:.2} after"));
    }
    terminal.line(&format!("hash {}", plan.hash));
}

fn node_row(node: &PlannedNode) -> [String; 9] {
    [
        node.id.clone(),
        or_none(node.zone.as_ref()),
        or_none(node.weight),
        node.before.to_string(),
        node.after.to_string(),
        node.gains.to_string(),
        node.losses.to_string(),
        BinaryBytes(node.bytes_in).to_string(),
        BinaryBytes(node.bytes_out).to_string(),
    ]
}

/// The ids of the nodes that are meant.
async fn named<const N: usize>(names: [&str; N], client: &Client) -> Result<[String; N]> {
    let is_whole = |name: &str| name.len() == ID_DIGITS && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut ids = names.map(str::to_ascii_lowercase);
    // Whole ids need no looking up: the server knows best whether it knows them.
    if names.iter().all(|name| is_whole(name)) {
        return Ok(ids);
    }
    let cluster = client.cluster().await?;
    for (id, name) in ids.iter_mut().zip(names).filter(|(_, name)| !is_whole(name)) {
        *id = the_one(name, &cluster)?;
    }
    Ok(ids)
}

/// The member that has this address, or whose id alone begins like this. The dead keep their addresses, so of two that
/// have it the one that is not removed is meant.
fn the_one(name: &str, cluster: &Cluster) -> Result<String> {
    let members = || cluster.members.iter().filter(|member| member.status != "removed");
    let has_address = |address: &Option<String>| address.as_deref() == Some(name);
    let mut fitting: Vec<&str> = members()
        .filter(|member| has_address(&member.http) || has_address(&member.peer))
        .map(|member| member.id.as_str())
        .collect();
    if fitting.is_empty() && !name.is_empty() {
        let begins = name.to_ascii_lowercase();
        fitting = members().map(|member| member.id.as_str()).filter(|id| id.starts_with(&begins)).collect();
    }
    match fitting[..] {
        [] => Err(no(404, "not_found", format!("no member is called {name}"))),
        [one] => Ok(one.to_owned()),
        [..] => {
            Err(Error::Invalid(format!("{name} may mean {}: write more of the id", fitting.join(" or "))))
        }
    }
}

/// What the server would say, had it been asked.
fn no(status: u16, code: &str, detail: String) -> Error {
    Error::Problem(Box::new(Problem { status, code: code.into(), detail, ..Problem::default() }))
}
