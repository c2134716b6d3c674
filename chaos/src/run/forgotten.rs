//! How many deletions the nodes have forgotten: without any, a run says nothing of what may come back then.
//!
//! Each node counts from its start on, so who restarts begins anew. What it had forgotten by the last look before that stays counted,
//! and what it has forgotten since then does not: the sum is a lower bound.

use crate::http::Http;
use crate::limits::CONNECT_MAX;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_secs(2);
const NAME: &str = "cartwheel_reaped_total";

/// What each node was last heard to have forgotten since its start, and what it had before that.
#[derive(Clone, Default)]
pub(super) struct Forgotten(Arc<Mutex<BTreeMap<String, (u64, u64)>>>);

impl Forgotten {
    /// Asks the nodes that are there, until the caller has enough.
    pub(super) async fn watch(&self, urls: impl Fn() -> Vec<String>, http: &Http) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        loop {
            tick.tick().await;
            self.look(&urls(), http).await;
        }
    }

    /// Asks each once. Who does not answer keeps what it had.
    pub(super) async fn look(&self, urls: &[String], http: &Http) {
        let ask = async |url: &String| {
            let reply = http.get(&format!("{url}/metrics"), CONNECT_MAX).await.ok()?;
            Some((url.clone(), read(&String::from_utf8_lossy(&reply.body))?))
        };
        for (url, count) in futures_util::future::join_all(urls.iter().map(ask)).await.into_iter().flatten() {
            self.heard(url, count);
        }
    }

    fn heard(&self, url: String, count: u64) {
        let mut nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, before) = nodes.entry(url).or_default();
        if count < *last {
            *before += *last;
        }
        *last = count;
    }

    /// By all nodes.
    pub(super) fn sum(&self) -> u64 {
        let nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.values().map(|(last, before)| last + before).sum()
    }
}

fn read(metrics: &str) -> Option<u64> {
    metrics.lines().find_map(|line| line.strip_prefix(NAME)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_begins_anew_keeps_what_it_had() {
        let forgotten = Forgotten::default();
        for (node, count) in [("a", 3), ("b", 2), ("a", 5), ("a", 1), ("a", 1), ("a", 0)] {
            forgotten.heard(node.to_owned(), count);
        }
        assert_eq!(forgotten.sum(), 2 + 5 + 1);
    }

    #[test]
    fn the_count_is_read_from_the_metrics() {
        let text = "# TYPE cartwheel_reaped_total counter\ncartwheel_reaped_total 17\ncartwheel_reap_rounds_total 4\n";
        assert_eq!((read(text), read("nothing")), (Some(17), None));
    }
}
