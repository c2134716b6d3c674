//! What the nodes count themselves: deletions that they have forgotten, without which a run says nothing of what may come back then, and
//! spoiled copies that they have healed.
//!
//! Each node counts from its start on, so who restarts begins anew. What it had counted by the last look before that stays, and what it
//! has counted since then does not: the sums are lower bounds.

use crate::http::Http;
use crate::limits::CONNECT_MAX;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_secs(2);
/// What is counted, by the names of the metrics.
pub(super) const FORGOTTEN: &str = "cartwheel_reaped_total";
pub(super) const HEALED: &str = "cartwheel_scrub_healed_total";

/// What each node was heard to have counted, by the name of the metric and its address.
#[derive(Clone, Default)]
pub(super) struct Counters(Arc<Mutex<BTreeMap<(&'static str, String), Count>>>);

#[derive(Default)]
struct Count {
    since_start: u64,
    before: u64,
}

impl Counters {
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
            Some((url.clone(), String::from_utf8_lossy(&reply.body).into_owned()))
        };
        for (url, text) in futures_util::future::join_all(urls.iter().map(ask)).await.into_iter().flatten() {
            for what in [FORGOTTEN, HEALED] {
                if let Some(count) = read(what, &text) {
                    self.heard(what, url.clone(), count);
                }
            }
        }
    }

    fn heard(&self, what: &'static str, url: String, count: u64) {
        let mut nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let node = nodes.entry((what, url)).or_default();
        if count < node.since_start {
            node.before += node.since_start;
        }
        node.since_start = count;
    }

    /// By all nodes.
    pub(super) fn sum(&self, what: &str) -> u64 {
        let nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let some = nodes.iter().filter(|((name, _), _)| *name == what);
        some.map(|(_, node)| node.since_start + node.before).sum()
    }
}

fn read(what: &str, metrics: &str) -> Option<u64> {
    metrics.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_begins_anew_keeps_what_it_had() {
        let counters = Counters::default();
        for (node, count) in [("a", 3), ("b", 2), ("a", 5), ("a", 1), ("a", 1), ("a", 0)] {
            counters.heard(FORGOTTEN, node.to_owned(), count);
        }
        counters.heard(HEALED, "a".to_owned(), 7);
        assert_eq!((counters.sum(FORGOTTEN), counters.sum(HEALED)), (2 + 5 + 1, 7));
    }

    #[test]
    fn a_count_is_read_from_the_metrics() {
        let text = "# TYPE cartwheel_reaped_total counter\ncartwheel_reaped_total 17\ncartwheel_reap_rounds_total 4\n\
                    cartwheel_scrub_healed_total_ever 9\n";
        assert_eq!((read(FORGOTTEN, text), read(HEALED, text)), (Some(17), None));
    }
}
