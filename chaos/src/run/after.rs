//! What is looked at once the last trouble is over: whether every node still runs, whether all replicas become equal, and what every key
//! reads in the end.
//!
//! ```text
//!   has a node ended by itself? ─┬─ none ─► wait for equality ─► read everything back through all ───┐
//!                                └─ some ─► (not waited for) ──► read it back through the others ───┴─► has one since?
//! ```
//!
//! A node that is dead never holds what the others hold, and each read through it is tried for half a minute: asked about last, it
//! would cost an hour before anybody heard of it. Both looks have a deadline, and what runs into it is a broken promise.

use super::equal;
use super::live::Live;
use super::site::Site;
use super::tries::Noted;
use crate::target::process::name;
use crate::workload::{self, Ground, Joined, ReadBack};
use anyhow::Result;
use rand::rngs::StdRng;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long it may take until all replicas are equal after the last trouble.
const EQUAL_MAX: Duration = Duration::from_secs(60);
/// Reading back: through how many nodes each key, and how many reads at once.
const READ_THROUGH: usize = 2;
const READS_AT_ONCE: usize = 16;
/// How long reading everything back may take: one read that fails at once is tried for half a minute, one that is never answered for
/// a whole one, and the half minute beyond that is for the others.
const READ_BACK_MAX: Duration = Duration::from_secs(90);
/// And for each read so much more, for a long run has many keys. A read takes a millisecond, and sixteen are under way at once.
const READ_MAX: Duration = Duration::from_millis(5);

/// What was seen.
pub(super) struct After {
    /// How long it took until all replicas were equal, or what was missing.
    pub(super) equal: Result<Duration, String>,
    /// How long it took to read everything back, or why not everything was.
    pub(super) read: Result<Duration, String>,
    /// The nodes that were read through.
    pub(super) urls: Vec<String>,
    /// Panics, and nodes that ended though nobody ended them.
    pub(super) accidents: Vec<String>,
}

/// Looks at all nodes but those that left for good. Whatever is missing, the look has an end.
pub(super) async fn look(
    site: &mut Site,
    removed: &BTreeSet<usize>,
    ground: &Ground<Noted>,
    chance: &mut StdRng,
) -> Result<After> {
    if let Some(line) = site.panics().await?.first() {
        Live::say(&format!("a node panicked: {line}"));
    }
    let mut dead = site.strays(removed).await?;
    let equal = if dead.is_empty() {
        Live::say("no more trouble; waiting until all replicas are equal");
        let urls = living(site, |_| true, removed);
        let equal = equal::wait(&ground.history, &urls, ground.transport.network(), EQUAL_MAX).await?;
        dead = site.strays(removed).await?;
        equal
    } else {
        let names: Vec<String> = dead.iter().map(|(i, _)| name(*i)).collect();
        Live::say(&format!("{} ended by itself; equality is not waited for", names.join(", ")));
        Err(format!("not waited for: {} ended by itself", names.join(", ")))
    };
    let urls = living(site, |i| dead.iter().all(|(ended, _)| *ended != i), removed);
    let ground = Ground { urls: urls.clone(), joined: Joined::default(), ..ground.clone() };
    let settled = equal.is_ok() && dead.is_empty();
    let read = read_back(&ground, settled, chance, READ_BACK_MAX).await?;
    for (i, how) in site.strays(removed).await? {
        if dead.iter().all(|(ended, _)| *ended != i) {
            dead.push((i, how));
        }
    }
    let mut accidents = site.panics().await?;
    accidents.extend(dead.into_iter().map(|(_, how)| how));
    Ok(After { equal, read, urls, accidents })
}

/// Reads every key through some of the nodes, and says how long that took; or, after too long, that it was not done.
async fn read_back(
    ground: &Ground<Noted>,
    settled: bool,
    chance: &mut StdRng,
    at_most: Duration,
) -> Result<Result<Duration, String>> {
    if ground.urls.is_empty() {
        return Ok(Err("no node is left to read through".to_owned()));
    }
    Live::say("reading everything back");
    let began = Instant::now();
    let reads = equal::touched(&ground.history).len() * READ_THROUGH;
    let at_most = at_most + READ_MAX.saturating_mul(u32::try_from(reads).unwrap_or(u32::MAX));
    let how = ReadBack { settled, nodes_per_key: READ_THROUGH, at_once: READS_AT_ONCE };
    match tokio::time::timeout(at_most, workload::read_back(&how, ground, chance)).await {
        Ok(read) => read.map(|()| Ok(began.elapsed())).map_err(Into::into),
        Err(_) => Ok(Err(format!("not everything could be read back in {:.1} s", at_most.as_secs_f64()))),
    }
}

fn living(site: &Site, is_alive: impl Fn(usize) -> bool, removed: &BTreeSet<usize>) -> Vec<String> {
    let there = (0..site.len()).filter(|i| is_alive(*i) && !removed.contains(i));
    there.map(|i| site.url(i)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Call, History, Reading};
    use rand::SeedableRng;
    use std::sync::Arc;

    /// As by a node that stands still: its kernel takes connections, and nobody says anything on them.
    #[tokio::test]
    async fn looks_at_a_node_that_never_answers_end_in_words() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let began = Instant::now();
        let history = History::new(Arc::new(move || began.elapsed()));
        history.invoke(1, &url, "b", "k", |_| Call::Get { min: None, reading: Reading::Load });
        let transport = Noted::new(client::ReqwestTransport::new().unwrap(), Arc::new(Duration::default));
        let short = Duration::from_millis(200);
        let equal =
            equal::wait(&history, std::slice::from_ref(&url), transport.network(), short).await.unwrap();
        let told = equal.unwrap_err();
        assert!(told.contains("1 keys") && told.contains("0.2 s"), "{told}");
        let ground = Ground::new(vec![url], transport, history);
        let read = read_back(&ground, true, &mut StdRng::seed_from_u64(1), short).await.unwrap();
        assert_eq!(read, Err("not everything could be read back in 0.2 s".to_owned()));
        // One attempt alone would take ten seconds.
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        let nobody = Ground { urls: Vec::new(), ..ground };
        let read = read_back(&nobody, false, &mut StdRng::seed_from_u64(1), short).await.unwrap();
        assert!(read.unwrap_err().contains("no node is left"));
    }
}
