//! `cartwheel repair`: replicas become equal by themselves; this is for who does not want to wait.

use super::output::Terminal;
use super::{DONE, Endpoint, FAILED};
use crate::call::Client;
use crate::error::{Error, Result};
use crate::repair::{Repair, RepairScope};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  cartwheel repair                      everything
  cartwheel repair shop                 one bucket
  cartwheel repair shop greeting        one key
  cartwheel repair --partition 17

Exit code 1: it has ended, and some owners could not be compared.";

/// How often it is asked how far it is.
const POLL_EVERY: Duration = Duration::from_millis(200);

/// `cartwheel repair`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct RepairArgs {
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
    /// Only this bucket
    bucket: Option<String>,
    /// Only this key of it
    key: Option<String>,
    /// Only this partition
    #[arg(long, conflicts_with = "key")]
    partition: Option<u16>,
    /// Print the repair's id and leave
    #[arg(long)]
    no_wait: bool,
}

pub(crate) async fn run(args: RepairArgs, client: &Client, terminal: &mut Terminal<'_>) -> Result<i32> {
    let scope = RepairScope { bucket: args.bucket, key: args.key, partition: args.partition };
    let id = client.begin_repair(&scope).await?;
    if args.no_wait {
        if terminal.json {
            terminal.document(&serde_json::json!({ "id": id }));
        } else {
            terminal.line(&id);
        }
        return Ok(DONE);
    }
    let ended = follow(client, &id).await?;
    if terminal.json {
        terminal.document(&serde_json::to_value(&ended).map_err(|e| Error::Invalid(e.to_string()))?);
    } else {
        let Repair { partitions, partitions_done, differences, repairs, .. } = &ended;
        terminal.line(&format!(
            "{partitions_done} of {partitions} partitions compared, {differences} differences found, {repairs} repaired"
        ));
    }
    if ended.state == "done" {
        return Ok(DONE);
    }
    terminal
        .say("some owners could not be compared; what they lack comes to them by itself once they are back");
    Ok(FAILED)
}

/// The bar shows on a terminal and nowhere else.
async fn follow(client: &Client, id: &str) -> Result<Repair> {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} partitions, {msg}, {eta} left")
        .expect("the template is ours");
    let bar = ProgressBar::new(0).with_style(style);
    loop {
        let now = client.repair(id).await?;
        bar.set_length(now.partitions);
        bar.set_position(now.partitions_done);
        bar.set_message(format!("{} repaired", now.repairs));
        if now.state != "running" {
            bar.finish_and_clear();
            return Ok(now);
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}
