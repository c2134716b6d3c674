//! Every cart read back through another node than the one that wrote it last, and compared with the model. The writer
//! itself would prove little: it may still have in memory what it never gave to anybody.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::JoinSet;

use super::ask::{Nodes, Request};
use super::model::{Cart, Difference, Model, Shown};
use super::progress::Progress;
use super::report::{Latency, Mismatch};
use crate::limits;

/// What the readers found.
#[derive(Debug)]
pub(super) struct Findings {
    /// Carts that were read and compared.
    pub(super) compared: usize,
    pub(super) unreadable: usize,
    /// All differences, and the first of them.
    pub(super) mismatches: usize,
    pub(super) listed: Vec<Mismatch>,
    pub(super) retries: u64,
    pub(super) reads: Latency,
}

struct Shared {
    nodes: Arc<Nodes>,
    carts: Vec<(String, Cart)>,
    next: AtomicUsize,
    findings: Mutex<Findings>,
    progress: Progress,
}

/// Reads and compares every cart of the model.
pub(super) async fn compare_all(
    nodes: Arc<Nodes>,
    model: Model,
    concurrency: usize,
    seed: u64,
    progress: Progress,
) -> Findings {
    let findings = Findings {
        compared: 0,
        unreadable: 0,
        mismatches: 0,
        listed: Vec::new(),
        retries: 0,
        reads: Latency::new(),
    };
    let carts = model.into_carts().into_iter().collect();
    let (next, findings) = (AtomicUsize::new(0), Mutex::new(findings));
    let shared = Arc::new(Shared { nodes, carts, next, findings, progress });
    let mut readers = JoinSet::new();
    for reader in 0..concurrency {
        let rng = StdRng::seed_from_u64(!seed.wrapping_add(reader as u64));
        readers.spawn(read(Arc::clone(&shared), rng));
    }
    while let Some(ended) = readers.join_next().await {
        ended.expect("a reader neither panics nor is aborted");
    }
    let shared = Arc::into_inner(shared).expect("every reader has ended and dropped its share");
    shared.progress.finish();
    shared.findings.into_inner().expect("no reader panicked")
}

async fn read(shared: Arc<Shared>, mut rng: StdRng) {
    while let Some((id, cart)) = shared.carts.get(shared.next.fetch_add(1, Ordering::Relaxed)) {
        if !shared.compare(id, cart, &mut rng).await {
            break;
        }
    }
}

impl Shared {
    /// Reads and compares one cart. Says whether it makes sense to go on.
    async fn compare(&self, id: &str, cart: &Cart, rng: &mut StdRng) -> bool {
        let began = std::time::Instant::now();
        let request = Request::Cart { cart: id.to_owned() };
        let asked =
            self.nodes.ask(&request, self.nodes.read_route(cart.last_writer), limits::READ_MAX, rng).await;
        let took = began.elapsed();
        self.progress.record(took);

        let (node, retries, shown) = match asked {
            Ok(answer) => (Some(answer.node), answer.retries, parse(answer.reply.status, &answer.reply.body)),
            Err(gave_up) => (None, gave_up.retries, Err(gave_up.last)),
        };
        let mut findings = self.findings.lock().expect("no reader panicked");
        findings.retries += retries;
        let differences = match shown {
            Ok(shown) => {
                findings.compared += 1;
                findings.reads.record(took);
                cart.differences(&shown)
            }
            Err(why) => {
                findings.unreadable += 1;
                vec![Difference::Unreadable { why }]
            }
        };
        findings.mismatches += differences.len();
        for difference in differences {
            if findings.listed.len() < limits::LISTED_MAX {
                let read_from = node.map(|node| self.nodes.urls[node].clone());
                findings.listed.push(Mismatch { cart: id.to_owned(), read_from, difference });
            }
        }
        findings.unreadable < limits::FAILURES_MAX
    }
}

/// The cart in an answer. One that does not exist is an empty one: all that was put in may have been returned.
fn parse(status: u16, body: &[u8]) -> Result<Shown, String> {
    match status {
        200 => serde_json::from_slice(body).map_err(|error| format!("not a cart: {error}")),
        404 => Ok(Shown::default()),
        _ => Err(format!("{status} {}", String::from_utf8_lossy(&body[..body.len().min(200)]))),
    }
}
