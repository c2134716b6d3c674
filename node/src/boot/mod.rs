//! From a configuration to a serving node, and back: open, load, start in order, stop in reverse.
//!
//! `main` and a simulated host call the very same [`run`].

mod front;
mod identity;

use crate::cluster::Cluster;
use crate::config::Config;
use crate::duty::{
    clock, exchange, expiry, gossip, hints, past, reap, room, scrub, shape, sift, surplus, swim, urgent,
};
use crate::http::metrics;
use crate::lane::{Core, Crowded, Due, Gaps, Lane, Ledger, LetGo, Shared, Trees, derive, owe_anew};
use crate::limits::{DRAIN_MAX, SWIM_QUEUE_MAX};
use crate::node::lives::Lives;
use crate::node::pace::Pace;
use crate::node::past::Past;
use crate::node::{Inner, Node, Sifting};
use crate::peer::{self, Pool};
use crate::serve::Peers;
use crate::store::{Batch, Family, OpenError, Store, StoreError, keys};
use crate::world::{Listener, World};
use bytes::Bytes;
use front::Front;
pub(crate) use identity::Entered;
use identity::{Door, Identity};
use rand::RngExt;
use ring::bucket::BucketSettings;
use ring::causal::Epochs;
use ring::causal::token::TokenKey;
use ring::clock::{Clock, Kept};
use ring::ids::Partition;
use ring::members::Description;
use ring::tree::Forest;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, oneshot, watch};

/// Why a node did not start, or had to leave.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The data directory can't be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The disk failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An address can't be bound.
    #[error("{key}: {address} can't be bound: {why}")]
    Bind {
        /// The configuration's key.
        key: &'static str,
        /// The address.
        address: std::net::SocketAddr,
        /// The system's word.
        why: std::io::Error,
    },
    /// The data directory holds something that does not fit.
    #[error("the data directory {dir} can't be used: {why}")]
    Identity {
        /// The directory.
        dir: String,
        /// What does not fit.
        why: String,
    },
    /// The disk failed while the node ran: what it has said so far holds, and it says nothing more.
    #[error("the disk failed, the node leaves: {0}")]
    Failed(String),
}

/// Tells the caller the addresses that were bound.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// Where clients are served.
    pub http: std::net::SocketAddr,
    /// Where peers are served.
    pub peer: std::net::SocketAddr,
}

/// Runs a node until `shutdown` turns true.
pub async fn run<W: World>(
    world: W,
    config: Config,
    defaults: BucketSettings,
    mut shutdown: watch::Receiver<bool>,
    bound: Option<oneshot::Sender<Bound>>,
) -> Result<(), BootError> {
    let store = world.open_store(&config.data_dir)?;
    let boot_id = world.rng("boot").random();
    let identity = Identity::load(&world, &store, &config, boot_id)?;
    derive(&store)?;
    let http_listener = bind(&world, "http", config.http).await?;
    let peer_listener = bind(&world, "peer", config.peer).await?;
    let addresses = Bound { http: local_addr(&http_listener), peer: local_addr(&peer_listener) };
    if let Some(bound) = bound {
        let _ = bound.send(addresses);
    }
    let description = describe(&config, &addresses, &identity, boot_id);
    let local = identity.introduce(&config, &description);
    let pool = Pool::new(world.clone(), Arc::clone(&local));
    let (stop, stopping) = watch::channel(false);
    let (swim_in, swim_inbox) = mpsc::channel(SWIM_QUEUE_MAX);
    let peers = Peers::<W>::new(swim_in);
    let peer_port = peer::serve(world.clone(), peer_listener, local.clone(), peers.clone(), stopping.clone());
    let mut tasks = vec![tokio::spawn(peer_port)];
    let front = Front::open(&identity, &config, boot_id, http_listener);
    let door = Door { pool: &pool, local: &local, waits: &front.waits };
    let entered = tokio::select! {
        biased;
        _ = shutdown.wait_for(|stop| *stop) => return Ok(()),
        entered = identity.enter(&world, &store, &config, &description, &door) => entered?,
    };
    let starts = entered.description.starts;
    let (failed, failure) = watch::channel(None);
    let (node, lane_done) = start(&world, &store, entered, &config, defaults, &pool, failed)?;
    gossip::introduce(&node);
    peers.serve(node.clone());
    tokio::select! {
        biased;
        _ = shutdown.wait_for(|stop| *stop) => {}
        () = async {
            futures_util::future::join(past::greet(&node), clock::set(&node)).await;
            past::keep_asked(&node).await;
        } => {}
    }
    if node.cluster.snapshot().is_removed(node.id()) {
        tracing::error!(node = %node.id(), "{}", crate::node::REMOVED);
    }
    if !*shutdown.borrow() {
        // Only now: an answer to somebody's gossip would otherwise put this start's description in the place of the one that
        // they remember, before they were asked for it.
        past::come_in(&node).map_err(|e| identity::error(&config, e.to_string()))?;
    }
    tasks.push(tokio::spawn(gossip::run(node.clone(), config.seeds.clone(), stopping.clone())));
    tasks.push(tokio::spawn(swim::run(node.clone(), starts, swim_inbox, stopping.clone())));
    tasks.push(tokio::spawn(hints::run(node.clone(), stopping.clone())));
    tasks.push(tokio::spawn(exchange::run(node.clone(), stopping.clone())));
    tasks.push(tokio::spawn(urgent::run(node.clone(), stopping.clone())));
    tasks.push(tokio::spawn(shape::run(node.clone(), stopping.clone())));
    tasks.push(tokio::spawn(scrub::run(node.clone(), stopping.clone())));
    tasks.push(tokio::spawn(past::run(node.clone(), stopping.clone())));
    tasks.push(tokio::spawn(sift::run(node.clone(), stopping.clone())));
    tasks.push(tokio::spawn(surplus::run(node.clone(), stopping.clone())));
    tasks.push(tokio::spawn(reap::run(node.clone(), config.reap_grace, stopping.clone())));
    tasks.push(tokio::spawn(clock::run(node.clone(), stopping.clone())));
    tasks.push(tokio::spawn(expiry::run(node.clone(), stopping.clone())));
    tasks.push(tokio::spawn(room::run(node.clone(), stopping.clone())));
    tasks.push(tokio::spawn(metrics::upkeep(stopping.clone())));
    tracing::info!(node = %node.id(), cluster = %node.cluster_id, http = %addresses.http, peer = %addresses.peer, "serving");
    let served = front.serve(&node, &config, shutdown, failure).await;
    let _ = stop.send(true);
    let ended = tokio::time::timeout(DRAIN_MAX, futures_util::future::join_all(tasks.iter_mut())).await;
    if ended.is_err() {
        tracing::warn!("some duties did not end in time, and are ended");
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
    drop((peers, pool, node));
    // After a disk has failed, too: the lane must not be in the engine while the process takes it down.
    let ended = tokio::time::timeout(DRAIN_MAX, lane_done).await;
    served?;
    if ended.is_err() {
        // Somebody may write yet, and the mark of what is not synced is to outlive him.
        tracing::warn!(
            "the last writes did not end in time; the next start takes what was not synced for lost"
        );
        return Ok(());
    }
    stop_clean(store)
}

async fn bind<W: World>(
    world: &W,
    key: &'static str,
    address: std::net::SocketAddr,
) -> Result<W::Listener, BootError> {
    world.bind(address).await.map_err(|why| BootError::Bind { key, address, why })
}

fn local_addr<L: Listener>(listener: &L) -> std::net::SocketAddr {
    listener.local_addr().expect("a bound listener has an address")
}

fn describe(config: &Config, bound: &Bound, identity: &Identity, boot_id: u64) -> Description {
    Description {
        http: config.advertise_http.clone().unwrap_or_else(|| bound.http.to_string()),
        peer: config.advertise_peer.clone().unwrap_or_else(|| bound.peer.to_string()),
        zone: config.zone.clone(),
        weight: config.weight,
        starts: identity.starts,
        boot_id,
    }
}

/// The defaults are the cluster's, and those of its founder: nobody else ever says any, for whoever comes later, or comes back with an
/// old disk, may have others in his file. A cluster that was founded before this rule has none, and each node goes by its own file.
/// Whether the view has changed.
fn settle_defaults(entered: &mut Entered, given: &BucketSettings) -> bool {
    let Some(holds) = &entered.view.defaults else {
        let is_alone = entered.view.members.len() == 1;
        if is_alone {
            entered.view.defaults = Some(given.clone());
        }
        return is_alone;
    };
    let differ = given.get_all().into_iter().filter(|said| !holds.get_all().contains(said));
    let ignored: Vec<&str> = differ.map(|(name, _)| name).collect();
    if !ignored.is_empty() {
        tracing::warn!(?ignored, "defaults in this node's file are not those of its cluster, which hold");
    }
    false
}

/// Takes this start's lease of epochs, starts the lane, puts the node together.
pub(crate) fn start<W: World>(
    world: &W,
    store: &W::Store,
    mut entered: Entered,
    config: &Config,
    defaults: BucketSettings,
    pool: &Pool<W>,
    failed: watch::Sender<Option<String>>,
) -> Result<(Node<W>, oneshot::Receiver<()>), BootError> {
    let boot = identity::number(store, config, keys::EPOCH_BOOT)?;
    let asked = identity::number(store, config, keys::ASKED)?;
    let lives = Lives::load(store)?.ok_or_else(|| identity::error(config, "its starts can't be read"))?;
    let kept = store.get(Family::Meta, keys::CLOCK)?.and_then(|bytes| Kept::from_bytes(&bytes));
    // Synced writes survive a kill; ones that were left to the system may be gone after a power cut.
    let behind = identity::number(store, config, keys::BEHIND)?;
    let behind = (behind > 0).then_some(behind);
    let unsynced = store.get(Family::Meta, keys::UNSYNCED)?.is_some();
    let may_have_lost = unsynced || store.has_lost_writes() || behind.is_some();
    if behind.is_some() {
        tracing::error!(
            "this disk may be behind what the others know: every copy is compared before it counts"
        );
    }
    let chance = world.rng("epochs").random();
    let epochs = Epochs::at_start(entered.description.starts, boot, may_have_lost).scattered(chance);
    let mut batch = Batch::default();
    batch.put(Family::Meta, keys::EPOCH_LEASE, Bytes::copy_from_slice(&epochs.lease().to_be_bytes()));
    batch.put(Family::Meta, keys::EPOCH_BOOT, Bytes::copy_from_slice(&epochs.boot().to_be_bytes()));
    batch.delete(Family::Meta, keys::UNSYNCED);
    if settle_defaults(&mut entered, &defaults) {
        batch.put(Family::Meta, keys::VIEW, entered.view.encode());
    }
    store.write(batch, true)?;
    let partitions = entered.view.partitions;
    let trees: Trees = Arc::new(Mutex::new(Forest::new(partitions)));
    let cluster = Arc::new(Cluster::new(entered.node, entered.view, defaults));
    let mut clock = Clock::start(kept, world.wall(), world.now());
    let lacks_hints = store.lacks().contains(&Family::Hints);
    if lacks_hints && !cluster.snapshot().is_removed(entered.node) {
        let keys = owe_anew(store, &cluster.snapshot(), entered.node, clock.read(world.now()))?;
        tracing::warn!(
            keys,
            "hints that the disk has spoiled were made anew from what is here and not owned here"
        );
    }
    if !store.lacks().is_empty() {
        store.lacks_nothing()?;
    }
    let mut ledger = Ledger::load(store, config.limits.hint_bytes)?;
    if lacks_hints {
        ledger.urgent.extend((0..partitions).map(|partition| (Partition(partition), None)));
    }
    let hints = Arc::new(Mutex::new(ledger));
    // Far apart from start to start: nobody takes a count for the one that it heard before a restart.
    let first = world.rng("let_go").random::<u64>();
    let let_go: LetGo = (0..partitions).map(|_| AtomicU64::new(first)).collect();
    let (due, stray) = (Due::default(), Arc::<AtomicU64>::default());
    let (gaps, crowded) = (Gaps::load(store)?, Crowded::default());
    let shared = Shared {
        trees: Arc::clone(&trees),
        hints: Arc::clone(&hints),
        let_go: Arc::clone(&let_go),
        cluster: Arc::clone(&cluster),
        due: Arc::clone(&due),
        stray: Arc::clone(&stray),
        gaps: gaps.clone(),
        crowded: Arc::clone(&crowded),
    };
    let core = Core::new(store.clone(), entered.node, epochs, partitions, shared, failed);
    let (lane, lane_done) = Lane::start(core, world.threads());
    let node = Node::new(Inner {
        world: world.clone(),
        boot_id: entered.description.boot_id,
        past: Past::new(entered.description, lives, asked, behind),
        join: config.join,
        cluster,
        cluster_id: entered.cluster,
        tokens: TokenKey::new(&entered.cluster_key),
        cluster_key: entered.cluster_key,
        pool: pool.clone(),
        lane,
        store: store.clone(),
        heard: arc_swap::ArcSwap::default(),
        in_flight: 0.into(),
        forwards: 0.into(),
        forwarded: Mutex::default(),
        draining: false.into(),
        hints_written: 0.into(),
        hints_delivered: 0.into(),
        read_repairs: 0.into(),
        clock: Mutex::new(clock),
        expired: 0.into(),
        trees,
        let_go,
        due,
        works: Mutex::default(),
        reaped: Mutex::default(),
        aae: Mutex::default(),
        repairs: Mutex::default(),
        hints,
        deliveries: Mutex::default(),
        hint_age: config.limits.hint_age,
        waited_for: 0.into(),
        pace: Pace::default(),
        stray,
        gaps,
        crowded,
        suspects: crate::node::suspects::Suspects::default(),
        keeping: tokio::sync::Mutex::default(),
        catching_up: tokio::sync::Mutex::default(),
        gain: Mutex::default(),
        sifting: Sifting::default(),
        rng: Mutex::new(world.rng("node")),
    });
    Ok((node, lane_done))
}

/// Flushes everything; after this nothing can have been lost, whatever durability a bucket had.
fn stop_clean<S: Store>(store: S) -> Result<(), BootError> {
    store.flush()?;
    let mut batch = Batch::default();
    batch.delete(Family::Meta, keys::UNSYNCED);
    store.write(batch, true)?;
    Ok(())
}

#[cfg(test)]
mod tests;
