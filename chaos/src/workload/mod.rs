//! What clients do to a cluster, over and over, so that afterwards something can be said about it.
//!
//! ```text
//!   run(plan, ground, rng, until)       clients as futures in one task, each: step, think, step, …
//!       │  set_add keys carts register slots recreate ttl blind      what a step is
//!       └─ desk                         the client library, and the history of everything it did
//!   read_back(ground, …)                in the end, every key through every node
//!   check::all(&history.entries())      what was wrong
//! ```
//!
//! The same code runs against real processes and inside a simulation. So it is generic over the transport, its time is the
//! history's clock and tokio's timers, its chance comes from one seed, and it starts no task.

mod body;
mod desk;
mod keys;
mod read_back;
mod set_add;

pub use read_back::{ReadBack, read_back};
pub(crate) use set_add::elements;

use crate::history::{History, Setting};
use client::{Client, HttpTransport, Settings};
use desk::Desk;
use futures_util::future::join_all;
use rand::RngExt;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;
use std::time::Duration;

/// What clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// W1, and with many clients on ten keys W9: elements into sets, by reading and writing the union.
    SetAdd,
    /// W3: a key for each element.
    Keys,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 2] = [Kind::SetAdd, Kind::Keys];

    /// Its name, as in a history.
    pub fn name(self) -> &'static str {
        match self {
            Kind::SetAdd => "set_add",
            Kind::Keys => "keys",
        }
    }
}

/// How much of it.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What clients do.
    pub kind: Kind,
    /// The bucket that is theirs alone.
    pub bucket: String,
    /// How many clients at once.
    pub clients: u32,
    /// How many keys, sets, carts or counters they share; where each client has keys of its own it means nothing.
    pub keys: u32,
    /// How long a client rests after a step.
    pub think: Range<Duration>,
    /// About how large a value is.
    pub value_bytes: usize,
}

impl Plan {
    /// A plan that suits the kind: five clients, a few keys, about 20 steps a second each.
    pub fn new(kind: Kind) -> Self {
        let bucket = format!("w-{}", kind.name());
        let think = Duration::from_millis(20)..Duration::from_millis(80);
        Self { kind, bucket, clients: 5, keys: 3, think, value_bytes: 64 }
    }
}

/// Where it happens.
#[derive(Clone)]
pub struct Ground<T> {
    /// The nodes.
    pub urls: Vec<String>,
    /// How they are reached.
    pub transport: T,
    /// What is written down, and by whose clock.
    pub history: History,
    /// How long one attempt of one request may take.
    pub attempt_timeout: Duration,
}

impl<T> Ground<T> {
    /// Ten seconds an attempt.
    pub fn new(urls: Vec<String>, transport: T, history: History) -> Self {
        Self { urls, transport, history, attempt_timeout: Duration::from_secs(10) }
    }
}

/// Sets the bucket up as the plan needs it. To be called before [`run`], while all nodes are well.
pub async fn prepare<T: HttpTransport + Clone>(plan: &Plan, ground: &Ground<T>) -> client::Result<()> {
    let Some(settings) = settings(plan) else { return Ok(()) };
    let client = Client::with_transport(ground.urls.clone(), ground.transport.clone())?;
    client.with_attempt_timeout(ground.attempt_timeout).patch_settings(&plan.bucket, &settings).await
}

fn settings(_plan: &Plan) -> Option<Settings> {
    None
}

/// Runs the clients of a plan until that time of the history's clock, and until each has finished its last step.
pub async fn run<T: HttpTransport + Clone>(
    plan: &Plan,
    ground: &Ground<T>,
    rng: &mut StdRng,
    until: Duration,
) -> client::Result<()> {
    ground.history.setting(Setting {
        workload: plan.kind.name().to_owned(),
        bucket: plan.bucket.clone(),
        clients: plan.clients,
        nodes: u32::try_from(ground.urls.len()).unwrap_or(u32::MAX),
        siblings_max: settings(plan).and_then(|settings| settings.max_siblings),
    });
    let desks: client::Result<Vec<_>> =
        (0..plan.clients).map(|client| Desk::new(plan, ground, client, rng)).collect();
    join_all(desks?.into_iter().map(|desk| work(plan, desk, until))).await;
    Ok(())
}

async fn work<T: HttpTransport + Clone>(plan: &Plan, mut desk: Desk<T>, until: Duration) {
    let mut worker = Worker::new(plan);
    loop {
        // The rest comes first, so that not all clients begin at once.
        let think = desk.rng.random_range(plan.think.start..=plan.think.end);
        tokio::time::sleep(think).await;
        if desk.now() >= until {
            return;
        }
        worker.step(&mut desk).await;
    }
}

enum Worker {
    SetAdd(set_add::SetAdd),
    Keys(keys::Keys),
}

impl Worker {
    fn new(plan: &Plan) -> Self {
        match plan.kind {
            Kind::SetAdd => Worker::SetAdd(set_add::SetAdd::new(plan)),
            Kind::Keys => Worker::Keys(keys::Keys::new()),
        }
    }

    async fn step<T: HttpTransport + Clone>(&mut self, desk: &mut Desk<T>) {
        match self {
            Worker::SetAdd(work) => work.step(desk).await,
            Worker::Keys(work) => work.step(desk).await,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
