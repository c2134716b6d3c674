//! The last look: every key that anybody touched, read through the nodes, after all is well again.
//!
//! A read that fails is tried again, since a node may still be busy; one that never succeeds stays in the history as what
//! it is, and the checkers say that the key could not be judged.

use super::desk::Desk;
use super::{Ground, Kind, Plan};
use crate::history::{Call, Reading, What};
use client::HttpTransport;
use futures_util::future::join_all;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::time::Duration;

/// How often one read is tried: with the pauses in between, half a minute of failures that come at once.
const TRIES_MAX: u32 = 15;
const PAUSE: Duration = Duration::from_secs(2);

/// How to look.
#[derive(Debug, Clone)]
pub struct ReadBack {
    /// Whether all replicas are known to be equal: then all reads of a key must agree.
    pub settled: bool,
    /// Through how many nodes each key is read. They are taken in turn, so fewer than all still means all of them.
    pub nodes_per_key: usize,
    /// How many reads at once.
    pub at_once: usize,
}

impl Default for ReadBack {
    /// Every key through every node, eight at once, and nothing known about the replicas.
    fn default() -> Self {
        Self { settled: false, nodes_per_key: usize::MAX, at_once: 8 }
    }
}

/// Reads all keys of the history. The reads are recorded as final ones.
pub async fn read_back<T: HttpTransport + Clone>(
    how: &ReadBack,
    ground: &Ground<T>,
    rng: &mut StdRng,
) -> client::Result<()> {
    let reading = if how.settled { Reading::Settled } else { Reading::Final };
    let nodes = ground.urls.len();
    let mut jobs: BTreeMap<String, Vec<(usize, String, bool)>> = BTreeMap::new();
    for (number, ((bucket, key), is_cart)) in touched(ground).into_iter().enumerate() {
        let through = (0..how.nodes_per_key.min(nodes)).map(|node| (number + node, key.clone(), is_cart));
        jobs.entry(bucket).or_default().extend(through);
    }
    for (bucket, jobs) in jobs {
        let plan = Plan { bucket, ..Plan::new(Kind::Keys) };
        let workers = how.at_once.clamp(1, jobs.len());
        let mut readers = Vec::new();
        for worker in 0..workers {
            let desk = Desk::new(&plan, ground, READER, rng)?;
            let share: Vec<_> = jobs.iter().skip(worker).step_by(workers).cloned().collect();
            readers.push(read_all(desk, share, reading));
        }
        join_all(readers).await;
    }
    Ok(())
}

/// Who reads in the end: no client of any workload.
const READER: u32 = u32::MAX;

async fn read_all<T: HttpTransport + Clone>(
    mut desk: Desk<T>,
    jobs: Vec<(usize, String, bool)>,
    reading: Reading,
) {
    for (node, key, is_cart) in jobs {
        for _ in 0..TRIES_MAX {
            if desk.read_at(node, &key, is_cart, reading).await.is_ok() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// All keys that anybody touched, and whether they are carts.
fn touched<T>(ground: &Ground<T>) -> BTreeMap<(String, String), bool> {
    let entries = ground.history.entries();
    let invokes = entries.into_iter().filter_map(|entry| match entry.what {
        What::Invoke(invoke) => Some(invoke),
        _ => None,
    });
    invokes.map(|invoke| ((invoke.bucket, invoke.key), of_cart(&invoke.call))).collect()
}

fn of_cart(call: &Call) -> bool {
    !matches!(call, Call::Get { .. } | Call::Put { .. } | Call::Delete { .. })
}
