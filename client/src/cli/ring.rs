//! `ring`, `explain`: who owns what, and where one key stands.
//!
//! A key has an owner only together with its bucket, so `ring` takes `BUCKET/KEY`.

use super::output::{Terminal, document, or_none, table, text, yes_or_no};
use super::{DONE, Endpoint};
use crate::call::Client;
use crate::cluster::{Explanation, Replica};
use crate::error::{Error, Result};
use clap::Args;
use serde_json::Value;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

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

pub(crate) async fn run(args: RingArgs, client: &Client, terminal: &mut Terminal<'_>) -> Result<i32> {
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
    let mut rows =
        table(&["NODE", "ZONE", "ROLE", "REACHABLE", "PRESENT", "VERSIONS", "HINTS", "TREE", "CONTEXT"]);
    for replica in &explanation.replicas {
        rows.add_row(replica_row(replica));
    }
    terminal.line(&rows.trim_fmt());
    terminal.line(&format!("verdict: {}", explanation.verdict));
    Ok(DONE)
}

fn place(explanation: &Explanation, terminal: &mut Terminal<'_>) {
    let partition = explanation.partition.map_or("?".to_owned(), |partition| partition.to_string());
    let owners: Vec<String> = explanation.preference_list.iter().map(text).collect();
    terminal.line(&format!("hash:       {}", text(&explanation.hash)));
    terminal.line(&format!("partition:  {partition}"));
    terminal.line(&format!("preference: {}", owners.join(", ")));
}

fn replica_row(replica: &Replica) -> [String; 9] {
    let versions: Vec<String> = replica
        .versions
        .iter()
        .map(|version| {
            let what = if version.deleted { "removed".to_owned() } else { format!("{} B", version.size) };
            format!("{} ({what})", text(&version.dot))
        })
        .collect();
    let context: String = replica.context.as_ref().map(text).unwrap_or_default();
    let role = match (&replica.role, &replica.transfer) {
        (Some(role), Some(transfer)) => format!("{role} ({transfer})"),
        (role, _) => or_none(role.as_ref()),
    };
    let hints = match &replica.hints {
        Value::Array(hints) => hints.len().to_string(),
        other => text(other),
    };
    [
        replica.node.clone(),
        or_none(replica.zone.as_ref()),
        role,
        yes_or_no(replica.reachable),
        yes_or_no(replica.present),
        if versions.is_empty() { "-".into() } else { versions.join("\n") },
        hints,
        or_none(replica.tree.as_ref()),
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
