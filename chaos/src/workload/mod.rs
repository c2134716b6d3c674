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

mod blind;
mod body;
mod carts;
mod desk;
mod keys;
mod read_back;
mod recreate;
mod register;
mod set_add;
mod slots;
mod ttl;

pub use read_back::{ReadBack, read_back};
pub(crate) use set_add::elements;
pub(crate) use slots::count;

use crate::history::{History, Setting};
use anyhow::ensure;
use client::{Client, HttpTransport, Quorum, Settings};
use desk::Desk;
use futures_util::future::join_all;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// W1, and with many clients on ten keys W9: elements into sets, by reading and writing the union.
    SetAdd,
    /// W2: carts.
    Carts,
    /// W3: a key for each element.
    Keys,
    /// W4: a register for each client, which never reads an older value of its own.
    Register,
    /// W5: counters, a slot for each client.
    Slots,
    /// W6: keys that are deleted and made again.
    Recreate,
    /// W7: values that live for a time.
    Ttl,
    /// W8: writers that never read.
    Blind,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 8] = [
        Kind::SetAdd,
        Kind::Carts,
        Kind::Keys,
        Kind::Register,
        Kind::Slots,
        Kind::Recreate,
        Kind::Ttl,
        Kind::Blind,
    ];

    /// Its name, as in a history.
    pub fn name(self) -> &'static str {
        match self {
            Kind::SetAdd => "set_add",
            Kind::Carts => "carts",
            Kind::Keys => "keys",
            Kind::Register => "register",
            Kind::Slots => "slots",
            Kind::Recreate => "recreate",
            Kind::Ttl => "ttl",
            Kind::Blind => "blind",
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
    /// The longest lifetime, where values have one.
    pub ttl_max: Duration,
    /// Whether reads and writes insist on a majority of the owners: then reads are never out of date.
    pub strict: bool,
    /// Of so many operations, one leaves the choice of the node to the library, and one goes to any node; at least 3.
    pub stray_of: u32,
    /// N, R and W of the bucket, if not the usual ones.
    pub quorums: Option<[u32; 3]>,
    /// Whether writes are acknowledged before they are synced (`durability = os`).
    pub unsynced: bool,
    /// Keys that are made again and again are deleted and left alone for so long, and then made again, in turns: time to forget that
    /// they were deleted.
    pub rests: Option<Duration>,
}

impl Plan {
    /// A plan that suits the kind: five clients, a few keys, about 20 steps a second each.
    pub fn new(kind: Kind) -> Self {
        let bucket = format!("w-{}", kind.name());
        let think = Duration::from_millis(20)..Duration::from_millis(80);
        let ttl_max = Duration::from_secs(4);
        Self {
            kind,
            bucket,
            clients: 5,
            keys: 3,
            think,
            value_bytes: 64,
            ttl_max,
            strict: false,
            stray_of: 5,
            quorums: None,
            unsynced: false,
            rests: None,
        }
    }

    /// W9: forty clients, each one step a second, on ten keys.
    pub fn many_clients() -> Self {
        let think = Duration::from_millis(500)..Duration::from_millis(1500);
        Self { bucket: "w-many".to_owned(), clients: 40, keys: 10, think, ..Self::new(Kind::SetAdd) }
    }
}

/// The N of a bucket that nobody has set up.
const USUAL_N: u32 = 3;
/// The W of a bucket that nobody has set up: a majority of three.
const USUAL_W: u32 = 2;
/// How soon a node that has not heard of a setting is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// How often at most: for ten seconds.
const ASKED_MAX: u32 = 200;

/// Nodes that have come in since the work began, by their URLs.
pub type Joined = Arc<Mutex<Vec<String>>>;

/// Where it happens.
#[derive(Clone)]
pub struct Ground<T> {
    /// The nodes.
    pub urls: Vec<String>,
    /// Further ones, as they come.
    pub joined: Joined,
    /// How they are reached.
    pub transport: T,
    /// What is written down, and by whose clock.
    pub history: History,
    /// How long one attempt of one request may take.
    pub attempt_timeout: Duration,
    /// How long nodes may try to read, if not as long as they do by themselves.
    pub read_timeout: Option<Duration>,
}

impl<T> Ground<T> {
    /// Ten seconds an attempt.
    pub fn new(urls: Vec<String>, transport: T, history: History) -> Self {
        let attempt_timeout = Duration::from_secs(10);
        Self { urls, joined: Joined::default(), transport, history, attempt_timeout, read_timeout: None }
    }

    /// The nodes, and those that have come.
    pub(crate) fn all_urls(&self) -> Vec<String> {
        let joined = self.joined.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut all = self.urls.clone();
        all.extend(joined.iter().filter(|url| !self.urls.contains(url)).cloned());
        all
    }
}

/// Sets the bucket up as the plan needs it, and waits until every node knows. To be called before [`run`], while all are well:
/// a node that has not heard of a setting goes by its default.
pub async fn prepare<T: HttpTransport + Clone>(plan: &Plan, ground: &Ground<T>) -> anyhow::Result<()> {
    match settings(plan) {
        Some(wanted) => establish(&plan.bucket, &wanted, ground).await,
        None => Ok(()),
    }
}

/// Sets a bucket up so, and waits until every node goes by that.
pub async fn establish<T: HttpTransport + Clone>(
    bucket: &str,
    wanted: &Settings,
    ground: &Ground<T>,
) -> anyhow::Result<()> {
    let dial = |urls: Vec<String>| {
        let client = Client::with_transport(urls, ground.transport.clone())?;
        client::Result::Ok(client.with_attempt_timeout(ground.attempt_timeout))
    };
    dial(ground.urls.clone())?.patch_settings(bucket, wanted).await?;
    for url in &ground.urls {
        let node = dial(vec![url.clone()])?;
        let mut asked = 0;
        loop {
            let has = node.settings(bucket).await?;
            let known = |has: Option<Quorum>, wanted: Option<Quorum>| wanted.is_none() || has == wanted;
            let number = |has: Option<u32>, wanted: Option<u32>| wanted.is_none() || has == wanted;
            let numbers = number(has.max_siblings, wanted.max_siblings) && number(has.n, wanted.n);
            let word = |has: &Option<String>, wanted: &Option<String>| wanted.is_none() || has == wanted;
            let words =
                word(&has.durability, &wanted.durability) && word(&has.blind_writes, &wanted.blind_writes);
            let of = |s: &Settings| [s.r, s.w, s.pr, s.pw];
            if numbers
                && words
                && of(&has).into_iter().zip(of(wanted)).all(|(has, wanted)| known(has, wanted))
            {
                break;
            }
            asked += 1;
            ensure!(asked < ASKED_MAX, "{url} does not hear of the settings of {bucket}: {has:?}");
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }
    Ok(())
}

fn settings(plan: &Plan) -> Option<Settings> {
    let max_siblings = (plan.kind == Kind::Blind).then_some(blind::SIBLINGS_MAX);
    let majority = plan.strict.then_some(Quorum::Quorum);
    let count = |at: usize| plan.quorums.map(|quorums| Quorum::Count(quorums[at]));
    let settings = Settings {
        n: plan.quorums.map(|[n, ..]| n),
        r: count(1),
        w: count(2),
        max_siblings,
        durability: plan.unsynced.then(|| "os".to_owned()),
        pr: majority,
        pw: majority,
        ..Settings::default()
    };
    (settings != Settings::default()).then_some(settings)
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
        w: plan.quorums.map_or(USUAL_W, |[.., w]| w),
        strict: plan.strict,
        majority: if plan.strict { plan.quorums.map_or(USUAL_N, |[n, ..]| n) / 2 + 1 } else { 0 },
        unsynced: plan.unsynced,
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
        desk.ponder().await;
        if desk.now() >= until {
            return;
        }
        worker.step(&mut desk).await;
    }
}

enum Worker {
    SetAdd(set_add::SetAdd),
    Carts(carts::Carts),
    Keys(keys::Keys),
    Register(register::Register),
    Slots(slots::Slots),
    Recreate(recreate::Recreate),
    Ttl(ttl::Ttl),
    Blind(blind::Blind),
}

impl Worker {
    fn new(plan: &Plan) -> Self {
        match plan.kind {
            Kind::SetAdd => Worker::SetAdd(set_add::SetAdd::new(plan)),
            Kind::Carts => Worker::Carts(carts::Carts::new(plan)),
            Kind::Keys => Worker::Keys(keys::Keys::new()),
            Kind::Register => Worker::Register(register::Register::new(plan.clients)),
            Kind::Slots => Worker::Slots(slots::Slots::new(plan)),
            Kind::Recreate => Worker::Recreate(recreate::Recreate::new(plan)),
            Kind::Ttl => Worker::Ttl(ttl::Ttl::new(plan)),
            Kind::Blind => Worker::Blind(blind::Blind::new(plan)),
        }
    }

    async fn step<T: HttpTransport + Clone>(&mut self, desk: &mut Desk<T>) {
        match self {
            Worker::SetAdd(work) => work.step(desk).await,
            Worker::Carts(work) => work.step(desk).await,
            Worker::Keys(work) => work.step(desk).await,
            Worker::Register(work) => work.step(desk).await,
            Worker::Slots(work) => work.step(desk).await,
            Worker::Recreate(work) => work.step(desk).await,
            Worker::Ttl(work) => work.step(desk).await,
            Worker::Blind(work) => work.step(desk).await,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
