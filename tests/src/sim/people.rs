//! Everybody who uses the cluster: the workloads of `chaos`, by the real client library, and the operator.

use super::operator::{Operator, Order};
use super::rest;
use super::transport::SimTransport;
use super::watch::Watch;
use super::wires::{HTTP_PORT, Host};
use super::{CLIENT, Only, Stage};
use chaos::history::History;
use chaos::workload::{self, Ground, Joined, Kind, Plan, ReadBack};
use client::{Client, ReadOptions, WriteOptions};
use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch as channel};

/// Workloads at once, at most: more of them are more of the same.
const KINDS_MAX: usize = 3;

/// One run in so many has forty clients more, on ten keys.
const MANY_OF: u32 = 8;

/// How long keys that are deleted and made again are left alone, in half of the runs: longer than a deletion is remembered.
const RESTS: Duration = Duration::from_secs(25);

/// How large a workload's values are: a frame of several, one of many, and one that a link of the simulation takes in pieces.
const VALUE_BYTES: [usize; 3] = [64, 64, 16 << 10];

/// One workload in so many insists on a majority of the owners.
const STRICT_OF: u32 = 3;

/// One bucket in so many acknowledges before it syncs: what is acknowledged there a power cut may take.
const UNSYNCED_OF: u32 = 3;
/// Clients of these read nothing without the token of their last write. Once that is lost they are refused for ever, as they must
/// be, and find nothing more.
const GOES_ON_FROM_ITS_TOKEN: [Kind; 2] = [Kind::Register, Kind::Slots];

/// N, R and W of a bucket: mostly the usual ones. Never fewer than two copies at an acknowledgement, for one disk may be lost.
const QUORUMS: [Option<[u32; 3]>; 6] = [None, None, None, Some([3, 1, 3]), Some([3, 3, 2]), Some([4, 2, 3])];

/// What they have seen in the end.
#[derive(Default)]
pub(super) struct Told {
    /// How many deletions nodes had forgotten.
    pub(super) forgotten: Cell<u64>,
    /// Whether a read has met a deletion that was being forgotten.
    pub(super) reads_unjudged: Cell<bool>,
    /// By which tables each node says that it acts, by its address for clients.
    pub(super) rings: RefCell<BTreeMap<String, Value>>,
}

/// What they have.
pub(super) struct People {
    /// For how long they work.
    pub(super) load: Duration,
    /// What they do, if that is not to be drawn.
    pub(super) only: Option<Only>,
    /// How they reach the nodes.
    pub(super) transport: SimTransport,
    /// The nodes that they know from the beginning.
    pub(super) nodes: Vec<Host>,
    /// And those that have come in since.
    pub(super) joined: Joined,
    pub(super) chance: StdRng,
    /// Another one, for what is drawn besides: whatever hangs on the first stays as it was.
    pub(super) aside: StdRng,
    /// How long they wait for an answer.
    pub(super) patience: Duration,
    /// Where the run is.
    pub(super) stages: channel::Receiver<Stage>,
    /// Told when nobody waits for an answer any more.
    pub(super) idle: channel::Sender<bool>,
    /// What they write down.
    pub(super) history: History,
    /// Told in the end.
    pub(super) told: Rc<Told>,
    pub(super) watch: Watch,
}

impl People {
    /// Works, waits until all is well, reads everything back.
    pub(super) async fn live(
        mut self,
        orders: mpsc::UnboundedReceiver<Order>,
        done: channel::Sender<usize>,
        by: Operator,
    ) -> turmoil::Result {
        super::log::here(CLIENT);
        let all = self.ground(&self.nodes);
        let operator = Client::with_transport(all.urls.clone(), self.transport.clone())?;
        let node = |url: &String| Client::with_transport(vec![url.clone()], self.transport.clone());
        let nodes = all.urls.iter().map(node).collect::<client::Result<Vec<_>>>()?;
        tokio::task::spawn_local(by.work(nodes, orders, done));
        let _ = self.stages.wait_for(|stage| *stage >= Stage::Prepare).await;
        let plans = self.plans();
        for plan in &plans {
            workload::prepare(plan, &all).await?;
        }
        self.idle.send_replace(true);
        let _ = self.stages.wait_for(|stage| *stage >= Stage::Load).await;
        self.idle.send_replace(false);
        let until = (self.history.now()) + self.load;
        let mut chances: Vec<StdRng> =
            plans.iter().map(|_| StdRng::seed_from_u64(self.chance.random())).collect();
        let runs =
            plans.iter().zip(&mut chances).map(|(plan, chance)| workload::run(plan, &all, chance, until));
        for run in join_all(runs).await {
            run?;
        }
        self.idle.send_replace(true);
        let _ = self.stages.wait_for(|stage| *stage >= Stage::ReadBack).await;
        let ground = self.serving(&operator).await?;
        let before = rest::count(&ground.urls, &self.transport).await?;
        tokio::time::sleep(rest::REST).await;
        let rested = rest::count(&ground.urls, &self.transport).await?;
        let how = ReadBack { settled: true, nodes_per_key: 3, at_once: 32 };
        workload::read_back(&how, &ground, &mut self.chance).await?;
        let after = rest::count(&ground.urls, &self.transport).await?;
        self.told.forgotten.set(after.iter().map(rest::Tally::reaped).sum());
        self.told.reads_unjudged.set(rest::is_excused(&rested, &after));
        rest::objections(&before, &rested, &after).into_iter().for_each(|said| self.watch.broken(said));
        if ground.urls.is_empty() {
            self.watch.broken("nobody is left who serves".into());
        }
        for url in &ground.urls {
            if let Err(error) = self.serves(url).await {
                self.watch.broken(format!("all is well, and {url} serves nobody: {error}"));
            }
        }
        Ok(())
    }

    /// A write and a read through this node and no other: a cluster that refuses everything loses nothing either.
    async fn serves(&self, url: &str) -> client::Result<()> {
        let node = Client::with_transport(vec![url.to_owned()], self.transport.clone())?;
        let key = url.replace(['/', ':'], "-");
        node.put("afterwards", &key, url.to_owned(), &WriteOptions::default()).await?;
        node.get("afterwards", &key, &ReadOptions::default()).await?;
        let ring = node.ring().await?;
        self.told.rings.borrow_mut().insert(url.to_owned(), ring);
        Ok(())
    }

    fn plans(&mut self) -> Vec<Plan> {
        let mut kinds = Kind::ALL.to_vec();
        kinds.shuffle(&mut self.chance);
        kinds.truncate(self.chance.random_range(1..=KINDS_MAX));
        kinds.sort_unstable();
        let only = self.only;
        kinds = only.map_or(kinds, |only| vec![only.kind]);
        let think_ms = *[20, 60, 200].choose(&mut self.chance).expect("the list is not empty");
        let think = Duration::from_millis(think_ms)..Duration::from_millis(3 * think_ms);
        let nodes = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        let mut plan = |kind| {
            let unsynced =
                self.aside.random_range(0..UNSYNCED_OF) == 0 && !GOES_ON_FROM_ITS_TOKEN.contains(&kind);
            let quorums = *QUORUMS.choose(&mut self.chance).expect("the list is not empty");
            let quorums = quorums.filter(|[n, ..]| *n <= nodes);
            let drawn = self.chance.random_range(0..STRICT_OF) == 0;
            let strict = only.and_then(|only| only.strict).unwrap_or(drawn);
            let value_bytes = *VALUE_BYTES.choose(&mut self.chance).expect("the list is not empty");
            let rests = kind == Kind::Recreate && (only.is_some() || self.aside.random::<bool>());
            let rests = rests.then_some(RESTS);
            Plan { think: think.clone(), strict, value_bytes, quorums, unsynced, rests, ..Plan::new(kind) }
        };
        let mut plans: Vec<Plan> = kinds.into_iter().map(&mut plan).collect();
        plans.extend((self.aside.random_range(0..MANY_OF) == 0).then(Plan::many_clients));
        plans
    }

    fn ground(&self, nodes: &[Host]) -> Ground<SimTransport> {
        let urls = nodes.iter().map(|host| url(*host)).collect();
        let mut ground = Ground::new(urls, self.transport.clone(), self.history.clone());
        ground.joined = Arc::clone(&self.joined);
        ground.attempt_timeout = self.patience;
        ground
    }

    /// Who was removed serves nobody any more.
    async fn serving(&self, client: &Client<SimTransport>) -> client::Result<Ground<SimTransport>> {
        let cluster = client.cluster().await?;
        let is_removed = |url: &String| {
            let of = |member: &&client::Member| {
                member.http.as_ref().is_some_and(|http| *url == format!("http://{http}"))
            };
            cluster.members.iter().filter(of).all(|member| member.status == "removed")
        };
        let mut ground = self.ground(&self.nodes);
        let joined = std::mem::take(&mut ground.joined);
        ground.urls.extend(joined.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
        ground.urls.retain(|url| !is_removed(url));
        Ok(ground)
    }
}

/// Where a node listens for clients.
pub(super) fn url(host: Host) -> String {
    format!("http://{}:{HTTP_PORT}", host.ip())
}
