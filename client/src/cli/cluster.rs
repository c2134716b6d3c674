//! `cluster …`: who is in the cluster, and what moves between them. Changing it is in `plan`.

use super::output::{Terminal, document, or_none, table, text, yes_or_no};
use super::plan::{self, SetArgs};
use super::{DONE, Endpoint};
use crate::call::Client;
use crate::cluster::{Cluster, Member, Waiting};
use crate::error::Result;
use crate::plan::{Transfer, Transfers};
use clap::{Args, Subcommand};
use indicatif::{BinaryBytes, HumanDuration, ProgressBar, ProgressStyle};
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  cartwheel cluster status
  cartwheel cluster status --wait                     until every partition is where it belongs
  cartwheel cluster status --url http://127.0.0.1:8108    the cluster as another node sees it
  cartwheel cluster leave 127.0.0.1:8118              stage: nothing moves yet
  cartwheel cluster plan                              what would move
  cartwheel cluster commit                            carry it out

A node is named by its id, by the beginning of its id, or by one of its addresses.";

/// How often it is asked how far it is.
const POLL_EVERY: Duration = Duration::from_millis(500);

/// `cartwheel cluster`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
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
    /// Show the members, the ring and what is staged
    Status {
        /// Wait until every partition is where it belongs
        #[arg(long)]
        wait: bool,
    },
    /// Stage: a node that was started with `--join manual` takes its share, or one that leaves stays
    Join {
        /// The node
        node: String,
    },
    /// Stage: a node hands on what it has and goes for ever
    ///
    /// One that can't be reached is not waited for, as long as half of the owners of each of its partitions can be: what a
    /// majority has acknowledged, these have. If it comes back before the end, it hands on what it has.
    Leave {
        /// The node
        node: String,
        /// It is gone for ever, and so are most others: it does not count among those of whom a change needs most. What only it
        /// had is lost, and if it is alive after all, both sides of a broken network may go their own way
        #[arg(long)]
        force: bool,
    },
    /// Stage: a new node takes exactly the place of an old one, which goes for ever
    Replace {
        /// The node that goes, running or dead
        old: String,
        /// The node that takes its place
        new: String,
        /// As of `leave`
        #[arg(long)]
        force: bool,
    },
    /// Stage: another share or failure domain for a node
    Set(SetArgs),
    /// Show what is staged and what it would move
    Plan,
    /// Carry out what is staged
    Commit {
        /// The hash of the plan that was looked at; else that of the plan as it is now
        hash: Option<String>,
    },
    /// Forget what is staged
    Clear,
    /// Show what moves between the nodes
    Transfers,
}

pub(crate) async fn run(args: ClusterArgs, client: &Client, terminal: &mut Terminal<'_>) -> Result<i32> {
    match args.command {
        ClusterCommand::Status { wait } => status(wait, client, terminal).await,
        ClusterCommand::Join { node } => plan::join(&node, client, terminal).await,
        ClusterCommand::Leave { node, force } => plan::leave(&node, force, client, terminal).await,
        ClusterCommand::Replace { old, new, force } => {
            plan::replace(&old, &new, force, client, terminal).await
        }
        ClusterCommand::Set(args) => plan::set(args, client, terminal).await,
        ClusterCommand::Plan => plan::show(client, terminal).await,
        ClusterCommand::Commit { hash } => plan::commit(hash, client, terminal).await,
        ClusterCommand::Clear => plan::clear(client, terminal).await,
        ClusterCommand::Transfers => transfers(client, terminal).await,
    }
}

async fn status(wait: bool, client: &Client, terminal: &mut Terminal<'_>) -> Result<i32> {
    let cluster = if wait { settled(client, terminal).await? } else { client.cluster().await? };
    if terminal.json {
        terminal.document(&document(&cluster));
        return Ok(DONE);
    }
    print_members(&cluster, terminal);
    // A server that knows no plans has none staged, and the members are worth showing all the same.
    if let Ok(staged) = client.plan().await
        && !staged.is_empty()
    {
        terminal.line("");
        plan::print(&staged, terminal);
    }
    Ok(DONE)
}

/// Asks until every partition is where it belongs. The bar shows on a terminal; a pipe is told what holds it up, once.
async fn settled(client: &Client, terminal: &mut Terminal<'_>) -> Result<Cluster> {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} partitions {msg}").expect("it is ours");
    let bar = ProgressBar::new(0).with_style(style);
    let mut told = Vec::new();
    loop {
        let cluster = client.cluster().await?;
        if cluster.is_settled() {
            bar.finish_and_clear();
            return Ok(cluster);
        }
        let waiting = &cluster.transfers.waiting_for;
        // The page of the cluster counts whole nodes; how far each has come, all of them are asked.
        if !bar.is_hidden()
            && let Ok(transfers) = client.transfers().await
        {
            bar.set_length(transfers.items.iter().map(|item| item.partitions).sum());
            bar.set_position(transfers.items.iter().map(|item| item.done).sum());
        }
        bar.set_message(waiting.iter().map(holds_up).collect::<Vec<_>>().join("; "));
        if bar.is_hidden() && *waiting != told {
            for one in waiting.iter().filter(|one| !told.contains(one)) {
                terminal.say(&holds_up(one));
            }
            told.clone_from(waiting);
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

fn holds_up(waiting: &Waiting) -> String {
    format!("waits for {}: {}", waiting.node, waiting.reason)
}

fn print_members(cluster: &Cluster, terminal: &mut Terminal<'_>) {
    let mut rows = table(&["NODE", "STATUS", "REACHABLE", "ZONE", "WEIGHT", "PARTITIONS", "HTTP", "PEER"]);
    let (removed, shown): (Vec<&Member>, Vec<&Member>) =
        cluster.members.iter().partition(|member| member.status == "removed");
    for member in shown {
        rows.add_row(member_row(member, &cluster.node));
    }
    terminal.line(&rows.trim_fmt());
    let ring = &cluster.ring;
    let partitions = ring.partitions.map_or("?".into(), |count| count.to_string());
    terminal.line(&format!(
        "ring version {}, {partitions} partitions{}",
        text(&ring.version),
        state(cluster)
    ));
    for waiting in &cluster.transfers.waiting_for {
        terminal.line(&holds_up(waiting));
    }
    if !removed.is_empty() {
        terminal.say(&format!("{} removed for ever, shown with --json", removed.len()));
    }
    terminal.say(&format!("cluster {} as seen by the node with the star", cluster.cluster));
}

fn state(cluster: &Cluster) -> String {
    let moves = &cluster.transfers;
    match (cluster.ring.settled, moves.done, moves.of) {
        (None, ..) => String::new(),
        (Some(true), ..) => ", settled".into(),
        (Some(false), Some(done), Some(of)) => format!(", {done} of {of} have moved"),
        (Some(false), ..) => ", moving".into(),
    }
}

fn member_row(member: &Member, seen_by: &str) -> [String; 8] {
    [
        format!("{}{}", member.id, if member.id == seen_by { " *" } else { "" }),
        member.status.clone(),
        yes_or_no(member.reachable),
        or_none(member.zone.as_ref()),
        or_none(member.weight.as_ref()),
        or_none(member.partitions),
        or_none(member.http.as_ref()),
        or_none(member.peer.as_ref()),
    ]
}

async fn transfers(client: &Client, terminal: &mut Terminal<'_>) -> Result<i32> {
    let transfers = client.transfers().await?;
    if terminal.json {
        terminal.document(&document(&transfers));
    } else {
        print_transfers(&transfers, terminal);
    }
    Ok(DONE)
}

fn print_transfers(transfers: &Transfers, terminal: &mut Terminal<'_>) {
    if transfers.items.is_empty() {
        terminal.line("nothing moves");
    } else {
        let mut rows = table(&["NODE", "STATE", "PARTITIONS", "MOVED", "TO MOVE", "RATE", "LEFT", "REASON"]);
        for item in &transfers.items {
            rows.add_row(transfer_row(item));
        }
        terminal.line(&rows.trim_fmt());
    }
    for surplus in transfers.surplus.iter().filter(|surplus| surplus.partitions > 0) {
        terminal.line(&format!("{} still keeps {} partitions for others", surplus.node, surplus.partitions));
    }
    for waiting in &transfers.waiting_for {
        terminal.line(&holds_up(waiting));
    }
}

fn transfer_row(item: &Transfer) -> [String; 8] {
    [
        item.node.clone(),
        item.state.clone(),
        format!("{}/{}", item.done, item.partitions),
        BinaryBytes(item.bytes_moved).to_string(),
        BinaryBytes(item.bytes_to_move).to_string(),
        or_none(item.bytes_per_second.map(|rate| format!("{}/s", BinaryBytes(rate)))),
        or_none(item.estimate_ms.map(|left| HumanDuration(Duration::from_millis(left)))),
        or_none(item.reason.as_ref()),
    ]
}
