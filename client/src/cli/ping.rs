//! `ping`: whether a process answers at all. A node that waits to be let in answers, and a healthcheck must not take it away.

use super::output::Terminal;
use super::{DONE, Endpoint};
use crate::call::Client;
use crate::error::Result;
use clap::Args;
use serde_json::json;

/// `cartwheel ping`
#[derive(Debug, Args)]
pub struct PingArgs {
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

pub(super) async fn run(client: &Client, terminal: &mut Terminal<'_>) -> Result<i32> {
    client.ping().await?;
    if terminal.json {
        terminal.document(&json!({ "answers": true }));
    } else {
        terminal.line("OK");
    }
    Ok(DONE)
}
