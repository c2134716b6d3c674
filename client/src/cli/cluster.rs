//! `cluster status`, `ring`, `explain`: looking at the cluster from a shell.
//!
//! A key has an owner only together with its bucket, so `ring` takes `BUCKET/KEY`.

use super::output::{Terminal, table};
use super::{DONE, Endpoint};
use crate::call::Client;
use crate::cluster::{Cluster, Explanation, Member, Replica};
use crate::error::{Error, Result};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

const CLUSTER_EXAMPLES: &str = "\
Examples:
  cartwheel cluster status
  cartwheel cluster status --url http://127.0.0.1:8108    the cluster as another node sees it";

const RING_EXAMPLES: &str = "\
Examples:
  cartwheel ring                    every partition and its owners
  cartwheel ring shop/greeting      the owners of one key";

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  cartwheel explain shop greeting
  cartwheel explain shop greeting --json

Verdicts: converged, all replicas hold the same; stale, some miss what others have; diverged, each has something
that others miss; unreachable, too few answered to tell.";

/// The longest piece of a context that is shown in a table.
const CONTEXT_CHARS: usize = 24;

/// `cartwheel cluster`
#[derive(Debug, Args)]
#[command(after_help = CLUSTER_EXAMPLES)]
pub struct ClusterArgs {
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
    /// What to do.
    #[command(subcommand)]
    pub command: ClusterCommand,
}

/// What to do with the cluster.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Show the members
    Status,
}

/// `cartwheel ring`
#[derive(Debug, Args)]
#[command(after_help = RING_EXAMPLES)]
pub struct RingArgs {
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
    /// A bucket and a key; all partitions are shown when it is not given
    #[arg(value_name = "BUCKET/KEY")]
    key: Option<OsString>,
}

/// `cartwheel explain`
#[derive(Debug, Args)]
#[command(after_help = EXPLAIN_EXAMPLES)]
pub struct ExplainArgs {
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
    /// The bucket
    bucket: OsString,
    /// The key
    key: OsString,
}

pub(crate) async fn run(args: ClusterArgs, client: &Client, terminal: &mut Terminal<'_>) -> Result<i32> {
    match args.command {
        ClusterCommand::Status => status(&client.cluster().await?, terminal),
    }
    Ok(DONE)
}

pub(crate) async fn ring(args: RingArgs, client: &Client, terminal: &mut Terminal<'_>) -> Result<i32> {
    let Some(name) = args.key.map(OsString::into_vec) else {
        let ring = client.ring().await?;
        print_ring(&ring, terminal);
        return Ok(DONE);
    };
    let slash = name.iter().position(|byte| *byte == b'/');
    let Some(slash) = slash else {
        return Err(Error::Invalid("the owners of a key depend on its bucket: write BUCKET/KEY".into()));
    };
    let explanation = client.explain(&name[..slash], &name[slash + 1..]).await?;
    if terminal.json {
        let Explanation { hash, partition, preference_list, .. } = explanation;
        let place =
            serde_json::json!({ "hash": hash, "partition": partition, "preference_list": preference_list });
        terminal.document(&place);
    } else {
        place(&explanation, terminal);
    }
    Ok(DONE)
}

pub(crate) async fn explain(args: ExplainArgs, client: &Client, terminal: &mut Terminal<'_>) -> Result<i32> {
    let explanation = client.explain(args.bucket.into_vec(), args.key.into_vec()).await?;
    if terminal.json {
        terminal.document(&document(&explanation));
        return Ok(DONE);
    }
    place(&explanation, terminal);
    let mut rows = table(&["NODE", "ZONE", "REACHABLE", "PRESENT", "VERSIONS", "HINTS", "CONTEXT"]);
    for replica in &explanation.replicas {
        rows.add_row(replica_row(replica));
    }
    terminal.line(&rows.trim_fmt());
    terminal.line(&format!("verdict: {}", explanation.verdict));
    Ok(DONE)
}

fn status(cluster: &Cluster, terminal: &mut Terminal<'_>) {
    if terminal.json {
        return terminal.document(&document(cluster));
    }
    let mut rows = table(&["NODE", "STATUS", "REACHABLE", "ZONE", "WEIGHT", "HTTP", "PEER"]);
    for member in &cluster.members {
        rows.add_row(member_row(member, &cluster.node));
    }
    terminal.line(&rows.trim_fmt());
    let ring = cluster.rest.get("ring").unwrap_or(&Value::Null);
    let field = |name| ring.get(name).map_or("?".to_owned(), text);
    terminal.line(&format!("ring version {}, {} partitions", field("version"), field("partitions")));
    terminal.say(&format!("cluster {} as seen by the node with the star", cluster.cluster));
}

fn member_row(member: &Member, seen_by: &str) -> [String; 7] {
    let or_none = |text: &Option<String>| text.clone().filter(|text| !text.is_empty()).unwrap_or("-".into());
    [
        format!("{}{}", member.id, if member.id == seen_by { " *" } else { "" }),
        member.status.clone(),
        yes_or_no(member.reachable),
        or_none(&member.zone),
        member.weight.as_ref().map_or("-".into(), |weight| weight.to_string()),
        or_none(&member.http),
        or_none(&member.peer),
    ]
}

fn place(explanation: &Explanation, terminal: &mut Terminal<'_>) {
    let partition = explanation.partition.map_or("?".to_owned(), |partition| partition.to_string());
    let owners: Vec<String> = explanation.preference_list.iter().map(text).collect();
    terminal.line(&format!("hash:       {}", text(&explanation.hash)));
    terminal.line(&format!("partition:  {partition}"));
    terminal.line(&format!("preference: {}", owners.join(", ")));
}

fn replica_row(replica: &Replica) -> [String; 7] {
    let versions: Vec<String> = replica
        .versions
        .iter()
        .map(|version| {
            let what = if version.deleted { "removed".to_owned() } else { format!("{} B", version.size) };
            format!("{} ({what})", text(&version.dot))
        })
        .collect();
    let context: String = replica.context.as_ref().map(text).unwrap_or_default();
    let hints = match &replica.hints {
        Value::Array(hints) => hints.len().to_string(),
        other => text(other),
    };
    [
        replica.node.clone(),
        replica.zone.clone().filter(|zone| !zone.is_empty()).unwrap_or("-".into()),
        yes_or_no(replica.reachable),
        yes_or_no(replica.present),
        if versions.is_empty() { "-".into() } else { versions.join("\n") },
        hints,
        context.chars().take(CONTEXT_CHARS).collect(),
    ]
}

/// Shows a list of partitions as a table, and anything else as it is.
fn print_ring(ring: &Value, terminal: &mut Terminal<'_>) {
    let partitions = ring.get("partitions").and_then(Value::as_array).filter(|_| !terminal.json);
    let Some(partitions) = partitions else { return terminal.document(ring) };
    let mut rows = table(&["PARTITION", "OWNERS"]);
    for (index, partition) in partitions.iter().enumerate() {
        let number = partition.get("partition").map_or(index.to_string(), text);
        let owners = partition.get("owners").unwrap_or(partition);
        let owners: Vec<String> = owners.as_array().into_iter().flatten().map(text).collect();
        rows.add_row([number, owners.join(", ")]);
    }
    terminal.line(&rows.trim_fmt());
}

fn document(of: &impl Serialize) -> Value {
    serde_json::to_value(of).expect("what was read as JSON can be written as JSON")
}

/// Text as it is; a thing that has a name or an id by that; anything else as JSON.
fn text(value: &Value) -> String {
    let named = ["id", "node"].iter().find_map(|name| value.get(name)?.as_str());
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        other => named.map_or_else(|| other.to_string(), str::to_owned),
    }
}

fn yes_or_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.into()
}
