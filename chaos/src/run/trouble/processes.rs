//! Processes that are killed, stand still, or are restarted.

use super::effects::{RESTARTED, STOOD_STILL, UPGRADED};
use super::{Stage, names};
use anyhow::Result;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// A restart as an operator does it waits so long before it goes on to the next node.
const BETWEEN_RESTARTS: Duration = Duration::from_millis(500);

pub(super) async fn crash(stage: &mut Stage<'_>) -> Result<()> {
    let victims = stage.minority();
    let open = stage.begin(format!("{} killed", names(&victims)), &victims);
    stage.kill(&victims).await?;
    stage.last(1_000..8_000).await?;
    stage.start_again(&victims).await?;
    stage.end(open);
    Ok(())
}

pub(super) async fn crash_all(stage: &mut Stage<'_>) -> Result<()> {
    let all = stage.nodes();
    let open = stage.begin("all killed at once", &all);
    stage.kill(&all).await?;
    stage.start_again(&all).await?;
    stage.end(open);
    Ok(())
}

pub(super) async fn pause(stage: &mut Stage<'_>) -> Result<()> {
    let victims = stage.minority();
    let open = stage.begin(format!("{} paused", names(&victims)), &victims);
    stage.site.pause(&victims).await?;
    stage.last(1_000..stage.most(10_000, 40_000)).await?;
    let still = stage.site.standing_still(&victims).await?;
    stage.did(STOOD_STILL, still);
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
        stage.did(RESTARTED, 1);
        stage.end(open);
        tokio::time::sleep(BETWEEN_RESTARTS).await;
    }
    Ok(())
}

/// From the binary of before to this one, node by node. After that every restart is one of this binary.
pub(super) async fn upgrade(stage: &mut Stage<'_>) -> Result<()> {
    stage.site.local()?.run_from(std::env::current_exe()?);
    restart(stage).await?;
    let local = stage.site.local()?;
    let upgraded = (0..local.len()).filter(|i| local.pid(*i).is_some_and(runs_this)).count();
    stage.did(UPGRADED, upgraded as u64);
    Ok(())
}

/// Whether that process runs the very file that this one does.
fn runs_this(pid: u32) -> bool {
    let file = |process: &str| {
        let file = std::fs::metadata(format!("/proc/{process}/exe")).ok()?;
        Some((file.dev(), file.ino()))
    };
    file("self").is_some_and(|this| file(&pid.to_string()) == Some(this))
}
