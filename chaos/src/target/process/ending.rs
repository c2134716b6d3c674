//! How a local cluster goes away, with all that is its own: its processes, its disk, its directory. Who takes it down is told what
//! stays; a drop, which has nobody to tell, does the same.

use anyhow::{Context, bail, ensure};
use nix::mount::{MntFlags, umount2};
use std::time::{Duration, Instant};

use super::{LocalCluster, name};
use crate::limits;
use crate::target::home::Home;

impl LocalCluster {
    /// Takes everything away, and fails with what could not be.
    pub fn take_down(mut self) -> anyhow::Result<()> {
        let dir = match &self.dir {
            Home::Temporary(dir) => Some(dir.path().to_owned()),
            Home::Given(_) => None,
        };
        let alive = self.kill_what_runs();
        self.unmount()?;
        drop(self);
        ensure!(alive.is_empty(), "{} could not be killed", alive.join(", "));
        match dir {
            Some(dir) if dir.exists() => bail!("{} is still there", dir.display()),
            _ => Ok(()),
        }
    }

    /// Kills what still runs and waits for it briefly, so that a temporary directory is not removed under a process that would write it
    /// anew. Who is still there.
    fn kill_what_runs(&mut self) -> Vec<String> {
        for node in &mut self.nodes {
            if let Some(child) = &mut node.child {
                // Fails only if it has ended already.
                let _ = child.start_kill();
            }
        }
        let deadline = Instant::now() + limits::REAP_MAX;
        let mut alive = Vec::new();
        for (i, node) in self.nodes.iter_mut().enumerate() {
            let Some(child) = &mut node.child else { continue };
            let mut ended = child.try_wait();
            while matches!(ended, Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
                ended = child.try_wait();
            }
            if matches!(ended, Ok(None)) {
                alive.push(name(i));
            }
        }
        alive
    }

    fn unmount(&mut self) -> anyhow::Result<()> {
        let Some(mounted) = self.mounted.take() else { return Ok(()) };
        // Whoever still has a file open there keeps it until he ends.
        umount2(&mounted, MntFlags::MNT_DETACH)
            .with_context(|| format!("{} can't be unmounted", mounted.display()))
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        self.kill_what_runs();
        // Nobody can be told here; whoever wants to know takes it down instead.
        let _ = self.unmount();
    }
}
