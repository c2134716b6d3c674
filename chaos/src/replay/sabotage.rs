//! The SIGKILL in the middle: a node dies when a third of the events are through and starts again when two thirds are.
//!
//! Real runs take minutes and need no help to be in the middle of something. A short one could be over before the kill,
//! so events past the third wait at a gate until the node is dead; as many as there are workers pass it before, so that
//! writes are in flight at the very moment.

use tokio::sync::watch;

use crate::target::LocalCluster;

/// When to strike, and whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sabotage {
    pub(super) victim: usize,
    /// Events in all.
    pub(super) events: u64,
}

impl Sabotage {
    /// Up to which event the gate is open before the kill.
    pub(super) fn gate(self, concurrency: usize) -> u64 {
        self.events / 3 + concurrency as u64
    }

    /// Kills and starts again, and returns once the node is ready.
    pub(super) async fn strike(
        self,
        cluster: &mut LocalCluster,
        mut through: watch::Receiver<u64>,
        gate: watch::Sender<u64>,
    ) -> anyhow::Result<()> {
        // An error means that the writers are through altogether, however far they came. The node is killed and started
        // all the same: a cluster that can't take it is a finding.
        let _ = through.wait_for(|count| *count >= self.events / 3).await;
        cluster.kill(self.victim).await?;
        gate.send_replace(u64::MAX);
        let _ = through.wait_for(|count| *count >= self.events * 2 / 3).await;
        cluster.start_again(self.victim)?;
        cluster.wait_ready(self.victim).await
    }
}
