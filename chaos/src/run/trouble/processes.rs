//! Processes that are killed, stand still, or are restarted.

use super::{Stage, names};
use anyhow::Result;
use std::time::Duration;

/// A restart as an operator does it waits so long before it goes on to the next node.
const BETWEEN_RESTARTS: Duration = Duration::from_millis(500);

pub(super) async fn crash(stage: &mut Stage<'_>) -> Result<()> {
    let victims = stage.minority();
    let open = stage.begin(format!("{} killed", names(&victims)), &victims);
    stage.site.kill(&victims).await?;
    stage.last(1_000..8_000).await?;
    stage.start_again(&victims).await?;
    stage.end(open);
    Ok(())
}

pub(super) async fn crash_all(stage: &mut Stage<'_>) -> Result<()> {
    let all = stage.nodes();
    let open = stage.begin("all killed at once", &all);
    stage.site.kill(&all).await?;
    stage.start_again(&all).await?;
    stage.end(open);
    Ok(())
}

pub(super) async fn pause(stage: &mut Stage<'_>) -> Result<()> {
    let victims = stage.minority();
    let open = stage.begin(format!("{} paused", names(&victims)), &victims);
    stage.site.pause(&victims).await?;
    stage.last(1_000..stage.most(10_000, 40_000)).await?;
    stage.site.resume(&victims).await?;
    stage.end(open);
    Ok(())
}

pub(super) async fn restart(stage: &mut Stage<'_>) -> Result<()> {
    let mut all = stage.nodes();
    all.sort_unstable();
    for node in all {
        let open = stage.timeline.announce(format!("{} restarted", names(&[node])), [node]);
        stage.site.stop(node).await?;
        stage.start_again(&[node]).await?;
        stage.end(open);
        tokio::time::sleep(BETWEEN_RESTARTS).await;
    }
    Ok(())
}

/// From the binary of before to this one, node by node. After that every restart is one of this binary.
pub(super) async fn upgrade(stage: &mut Stage<'_>) -> Result<()> {
    stage.site.local()?.run_from(std::env::current_exe()?);
    restart(stage).await
}
