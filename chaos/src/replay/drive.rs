//! The writers: many workers that pull events from one file and see each one through.
//!
//! ```text
//!   Events ──lock, next()──▶ worker 1 ──▶ node 1, or 2, or 3 …  ──▶ Tally (model, latency, failures)
//!                     └────▶ worker 2 ──▶ …
//! ```
//!
//! Workers pull, so there is no queue to bound: what is in flight is one event per worker. Events of one cart may be in
//! flight together and arrive in any order; quantities add up all the same. The model takes an event in only when it is
//! acknowledged, because that is when the cluster has made a promise about it.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::ask::{Nodes, Request};
use super::events::{BadFile, Event, Events};
use super::model::Model;
use super::progress::Progress;
use super::report::Latency;
use crate::limits;

/// What the writers bring home.
pub(super) struct Tally {
    pub(super) model: Model,
    pub(super) acknowledged: u64,
    pub(super) retries: u64,
    pub(super) failed: usize,
    /// The first failures, in words.
    pub(super) failures: Vec<String>,
    /// Latency of writes, from the first attempt to the acknowledgement.
    pub(super) writes: Latency,
    /// The same, of writes to large carts alone.
    pub(super) large: Latency,
    pub(super) took: Duration,
    /// The file could be read once and then no more.
    pub(super) broken: Option<BadFile>,
}

/// How the writers work.
pub(super) struct Plan {
    pub(super) concurrency: usize,
    pub(super) seed: u64,
    /// Events up to this one may be sent; opened step by step by whoever wants to do something in the middle.
    pub(super) gate: watch::Receiver<u64>,
    /// Told how many events are through, acknowledged or given up.
    pub(super) through: watch::Sender<u64>,
}

struct Shared {
    nodes: Arc<Nodes>,
    /// The events, and how many were pulled.
    source: Mutex<(Events, u64)>,
    tally: Mutex<Tally>,
    through: watch::Sender<u64>,
    progress: Progress,
}

/// Sends every event until it is acknowledged or its deadline has passed.
pub(super) async fn write_all(nodes: Arc<Nodes>, events: Events, plan: Plan, progress: Progress) -> Tally {
    let began = Instant::now();
    let Plan { concurrency, seed, gate, through } = plan;
    let (source, tally) = (Mutex::new((events, 0)), Mutex::new(Tally::new()));
    let shared = Arc::new(Shared { nodes, source, tally, through, progress });
    let mut workers = JoinSet::new();
    for worker in 0..concurrency {
        let rng = StdRng::seed_from_u64(seed.wrapping_add(worker as u64));
        workers.spawn(work(Arc::clone(&shared), gate.clone(), rng));
    }
    while let Some(ended) = workers.join_next().await {
        ended.expect("a worker neither panics nor is aborted");
    }
    let shared = Arc::into_inner(shared).expect("every worker has ended and dropped its share");
    let mut tally = shared.tally.into_inner().expect("no worker panicked");
    shared.progress.finish();
    tally.took = began.elapsed();
    tally
}

async fn work(shared: Arc<Shared>, mut gate: watch::Receiver<u64>, mut rng: StdRng) {
    while let Some((event, ordinal)) = shared.pull() {
        // An error means that the gate is gone, and with it whoever might have closed it.
        let _ = gate.wait_for(|open| *open >= ordinal).await;
        shared.see_through(event, &mut rng).await;
    }
}

impl Shared {
    /// The next event, unless the file is at its end or too much has failed already.
    fn pull(&self) -> Option<(Event, u64)> {
        if self.tally().failed >= limits::FAILURES_MAX {
            return None;
        }
        let next = {
            let mut source = self.source.lock().expect("no worker panicked");
            let (events, pulled) = &mut *source;
            *pulled += 1;
            events.next()?.map(|event| (event, *pulled))
        };
        next.map_err(|error| self.tally().broken = Some(error)).ok()
    }

    async fn see_through(&self, event: Event, rng: &mut StdRng) {
        let change = serde_json::json!({
            "sku": event.sku,
            "quantity": event.quantity,
            "op_id": format!("row-{}", event.row),
        });
        let request = Request::Change { cart: event.cart.clone(), body: change.to_string().into_bytes() };
        let route = self.nodes.write_route(event.row);
        let began = Instant::now();
        let asked = self.nodes.ask(&request, route, limits::EVENT_MAX, rng).await;
        let took = began.elapsed();
        {
            let mut tally = self.tally();
            match asked {
                Ok(answer) if answer.reply.is_done() => {
                    tally.acknowledged(&event, answer.node, answer.retries, took);
                }
                Ok(answer) => {
                    let why = format!("{}: {}", self.nodes.urls[answer.node], answer.reply.problem());
                    tally.failed(&event, answer.retries, &format!("refused by {why}"));
                }
                Err(gave_up) => {
                    let why = format!("not acknowledged in {} s; last by {}", took.as_secs(), gave_up.last);
                    tally.failed(&event, gave_up.retries, &why);
                }
            }
        }
        self.progress.record(took);
        self.through.send_modify(|through| *through += 1);
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().expect("no worker panicked")
    }
}

impl Tally {
    fn new() -> Self {
        Self {
            model: Model::default(),
            acknowledged: 0,
            retries: 0,
            failed: 0,
            failures: Vec::new(),
            writes: Latency::new(),
            large: Latency::new(),
            took: Duration::ZERO,
            broken: None,
        }
    }

    fn acknowledged(&mut self, event: &Event, node: usize, retries: u64, took: Duration) {
        self.acknowledged += 1;
        self.retries += retries;
        self.writes.record(took);
        if self.model.acknowledged(event, node) > limits::LARGE_CART_ITEMS {
            self.large.record(took);
        }
    }

    fn failed(&mut self, event: &Event, retries: u64, why: &str) {
        self.failed += 1;
        self.retries += retries;
        self.model.unacknowledged(event);
        if self.failures.len() < limits::LISTED_MAX {
            self.failures.push(format!("row {} (cart {}, item {}): {why}", event.row, event.cart, event.sku));
        }
    }
}
