//! How much memory the nodes take: theirs is to stay bounded whatever is asked of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// More than this is no bound any more. At most 180 MiB were measured, of which caches and memory tables take 64; what may be under way to
/// and from each peer would be more than this, if all of it ever came together.
const MOST: u64 = 512 << 20;
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The most that each node took, in bytes.
#[derive(Clone, Default)]
pub(super) struct Memory(Arc<Mutex<BTreeMap<String, u64>>>);

impl Memory {
    /// Looks at all processes that are theirs, until the caller has enough.
    pub(super) async fn watch(&self, whose: Whose) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        loop {
            tick.tick().await;
            let Ok(processes) = std::fs::read_dir("/proc") else { continue };
            for process in processes.flatten() {
                // Processes come and go while this looks.
                let Some((name, bytes)) = taken(&process.path(), &whose) else { continue };
                let mut most = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                let known = most.entry(name).or_default();
                *known = (*known).max(bytes);
            }
        }
    }

    /// Who took most.
    pub(super) fn most(&self) -> Option<(String, u64)> {
        let most = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        most.iter().max_by_key(|(_, bytes)| **bytes).map(|(name, bytes)| (name.clone(), *bytes))
    }
}

/// What is wrong with what the nodes took: too much, or that no process of theirs was ever seen, and then nothing is known of it.
pub(super) fn complaint(most: Option<&(String, u64)>) -> Option<String> {
    match most {
        Some((name, bytes)) if *bytes > MOST => Some(format!("{name} took {} MiB of memory", bytes >> 20)),
        Some(_) => None,
        None => Some("no process of a node was found, so nothing is known of their memory".to_owned()),
    }
}

/// By what the processes of nodes are known.
#[derive(Debug)]
pub(super) enum Whose {
    /// They were started from files in this directory, each in one of its own.
    From(PathBuf),
    /// They run in these containers: names of nodes, and ids. Looked up in the kernel's list of groups, for a container that starts again
    /// is another process, and to ask the engine takes longer than a look.
    In(Vec<(String, String)>),
}

impl Whose {
    /// The node that this process is.
    fn node(&self, process: &Path) -> Option<String> {
        let read = |name: &str| std::fs::read_to_string(process.join(name)).ok();
        match self {
            Whose::From(dir) => {
                let line = read("cmdline")?;
                let file = line.split('\0').find_map(|word| Path::new(word).strip_prefix(dir).ok())?;
                Some(file.iter().next()?.to_str()?.to_owned())
            }
            Whose::In(containers) => {
                let groups = read("cgroup")?;
                let within = containers.iter().find(|(_, id)| groups.contains(id.as_str()))?;
                Some(within.0.clone())
            }
        }
    }
}

/// The node that this process is, and what it takes.
fn taken(process: &Path, whose: &Whose) -> Option<(String, u64)> {
    let name = whose.node(process)?;
    let pages: u64 = std::fs::read_to_string(process.join("statm")).ok()?.split(' ').nth(1)?.parse().ok()?;
    Some((name, pages.saturating_mul(page_bytes())))
}

fn page_bytes() -> u64 {
    let told = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    told.ok().flatten().and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This very process is found by where it was started from; nobody is in a directory that there never was.
    #[tokio::test]
    async fn processes_that_nobody_found_are_a_complaint() {
        let binary = std::env::current_exe().unwrap();
        let dir = binary.parent().unwrap().to_owned();
        for (dir, is_found) in [(dir, true), (PathBuf::from("/nowhere"), false)] {
            let memory = Memory::default();
            // It looks at once, and then again and again.
            assert!(tokio::time::timeout(LOOK_EVERY, memory.watch(Whose::From(dir))).await.is_err());
            let most = memory.most();
            assert_eq!((most.is_some(), complaint(most.as_ref()).is_none()), (is_found, is_found));
        }
        assert!(complaint(Some(&("n1".to_owned(), MOST + 1))).unwrap().contains("n1 took 512 MiB"));
    }
}
