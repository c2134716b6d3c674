//! From a configuration to a serving node, and back: open, load, start in order, stop in reverse.
//!
//! `main` and a simulated host call the very same [`run`]. What a data directory knows of itself stands in one row of its
//! store, so that it can't be half there: who it is, which cluster it belongs to, under which key that signs.

use crate::cluster::Cluster;
use crate::config::Config;
use crate::duty::{gossip, hints, join, swim};
use crate::http::api::{Api, Options};
use crate::http::{listen, metrics};
use crate::lane::{Core, Lane};
use crate::limits::{DRAIN_MAX, SWIM_QUEUE_MAX};
use crate::node::{Inner, Node};
use crate::peer::{self, Local, Pool, Secret};
use crate::serve::Peers;
use crate::store::{Batch, Family, OpenError, Store, StoreError, keys};
use crate::world::{Listener, World};
use bytes::Bytes;
use rand::RngExt;
use ring::bucket::BucketSettings;
use ring::causal::Epochs;
use ring::causal::token::TokenKey;
use ring::ids::{ClusterId, NodeId};
use ring::members::{Description, Status, View};
use ring::place::PARTITIONS_DEFAULT;
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering;
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

/// What a data directory knows of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Identity {
    node: NodeId,
    /// The cluster and its key, once it has one.
    cluster: Option<(ClusterId, [u8; 32])>,
    starts: u64,
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
    let identity = load_identity(&world, &store, &config)?;
    let http_listener = bind(&world, "http", config.http).await?;
    let peer_listener = bind(&world, "peer", config.peer).await?;
    let addresses = Bound { http: local_addr(&http_listener), peer: local_addr(&peer_listener) };
    if let Some(bound) = bound {
        let _ = bound.send(addresses);
    }
    let boot_id = world.rng("boot").random();
    let description = describe(&config, &addresses, &identity, boot_id);
    let secret =
        Secret::new(config.cluster_secret.as_ref().map(|s| s.expose().as_bytes()).unwrap_or_default());
    let cluster_known = identity.cluster.map(|(id, _)| id);
    let local = Local::new(identity.node, boot_id, description.peer.clone(), secret, cluster_known);
    let pool = Pool::new(world.clone(), Arc::clone(&local));
    let (stop, stopping) = watch::channel(false);
    let (swim_in, swim_inbox) = mpsc::channel(SWIM_QUEUE_MAX);
    let peers = Peers::<W>::new(swim_in);
    let serving_peers = tokio::spawn(peer::serve(
        world.clone(),
        peer_listener,
        Arc::clone(&local),
        peers.clone(),
        stopping.clone(),
    ));

    let entered = tokio::select! {
        biased;
        _ = shutdown.wait_for(|stop| *stop) => return Ok(()),
        entered = enter(&world, &store, &config, identity, &description, &pool, &local) => entered?,
    };
    let (failed, mut failure) = watch::channel(None);
    let started = start(&world, &store, entered, &config, defaults, &pool, failed)?;
    let Started { node, starts, lane_done } = started;
    node.cluster
        .update(|view| view.admit(node.id(), description).map(drop))
        .map_err(|e| identity_error(&config, e.to_string()))?;
    gossip::introduce(&node);
    peers.serve(node.clone());
    let duties = [
        tokio::spawn(gossip::run(node.clone(), stopping.clone())),
        tokio::spawn(swim::run(node.clone(), starts, swim_inbox, stopping.clone())),
        tokio::spawn(hints::run(node.clone(), stopping.clone())),
        tokio::spawn(join::fill(node.clone(), stopping.clone())),
        tokio::spawn(metrics::upkeep(stopping.clone())),
    ];
    let api = Api::new(
        node.clone(),
        Options {
            boot_id,
            value_bytes: config.limits.value_bytes,
            in_flight: config.limits.in_flight,
            request: config.timeouts.request,
            body: config.timeouts.body,
        },
    );
    let bounds = listen::Bounds {
        head: config.timeouts.header,
        idle: config.timeouts.idle,
        head_bytes: config.limits.header_bytes,
        connections: config.limits.connections,
        drain: DRAIN_MAX,
    };
    let (http_stop, http_stopping) = watch::channel(false);
    let handler = move |request| {
        let api = api.clone();
        async move { api.handle(request).await }
    };
    let mut serving = tokio::spawn(listen::serve(http_listener, bounds, http_stopping, handler));
    tracing::info!(node = %node.id(), cluster = %node.cluster_id, http = %addresses.http, peer = %addresses.peer, "serving");

    let outcome = tokio::select! {
        biased;
        failed = failure.wait_for(Option::is_some) => {
            let why = failed.ok().and_then(|why| why.clone());
            Err(BootError::Failed(why.unwrap_or_default()))
        }
        _ = shutdown.wait_for(|stop| *stop) => Ok(()),
        _ = &mut serving => Ok(()),
    };
    if outcome.is_err() {
        // Nobody knows what the failed sync left behind: no more answers, no flush, no clean mark.
        return outcome;
    }
    node.draining.store(true, Ordering::Relaxed);
    let _ = http_stop.send(true);
    if !serving.is_finished() {
        let _ = serving.await;
    }
    let _ = stop.send(true);
    for duty in duties {
        let _ = duty.await;
    }
    let _ = serving_peers.await;
    drop(peers);
    stop_clean(node, store, pool, lane_done).await
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

fn identity_error(config: &Config, why: impl Into<String>) -> BootError {
    BootError::Identity { dir: config.data_dir.display().to_string(), why: why.into() }
}

/// Reads or makes the identity, and counts this start durably.
fn load_identity<W: World>(world: &W, store: &W::Store, config: &Config) -> Result<Identity, BootError> {
    let found = store.get(Family::Meta, keys::IDENTITY)?;
    let mut identity = match found {
        Some(bytes) => {
            postcard::from_bytes(&bytes).map_err(|_| identity_error(config, "its identity can't be read"))?
        }
        None => {
            let node = config.node_id.unwrap_or_else(|| NodeId(world.rng("identity").random()));
            Identity { node, cluster: None, starts: 0 }
        }
    };
    if let Some(wanted) = config.node_id.filter(|id| *id != identity.node) {
        return Err(identity_error(config, format!("it belongs to node {}, not to {wanted}", identity.node)));
    }
    identity.starts += 1;
    save(store, &identity, None)?;
    Ok(identity)
}

fn save<S: Store>(store: &S, identity: &Identity, view: Option<&View>) -> Result<(), StoreError> {
    let mut batch = Batch::default();
    batch.put(
        Family::Meta,
        keys::IDENTITY,
        postcard::to_stdvec(identity).expect("an identity is plain data"),
    );
    if let Some(view) = view {
        batch.put(Family::Meta, keys::VIEW, view.encode());
    }
    store.write(batch, true)
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

/// A node that knows its cluster.
struct Entered {
    node: NodeId,
    starts: u64,
    cluster: ClusterId,
    cluster_key: [u8; 32],
    view: View,
}

/// Finds the cluster: the one on the disk, the one of the seeds, or a new one.
async fn enter<W: World>(
    world: &W,
    store: &W::Store,
    config: &Config,
    mut identity: Identity,
    description: &Description,
    pool: &Pool<W>,
    local: &Local,
) -> Result<Entered, BootError> {
    let stored = store.get(Family::Meta, keys::VIEW)?;
    let view = match (identity.cluster, stored) {
        (Some(_), Some(bytes)) => View::decode(&bytes).map_err(|e| identity_error(config, e.to_string()))?,
        (Some(_), None) => return Err(identity_error(config, "its view of the cluster is missing")),
        (None, _) if config.seeds.is_empty() => found(world, config, &mut identity, description)
            .map_err(|e| identity_error(config, e.to_string()))?,
        (None, _) => {
            let welcome = join::enter(pool, &config.seeds, description).await;
            identity.cluster = Some((welcome.view.cluster, welcome.cluster_key));
            welcome.view
        }
    };
    save(store, &identity, Some(&view))?;
    let (cluster, cluster_key) = identity.cluster.expect("every branch has set it");
    local.set_cluster(cluster);
    Ok(Entered { node: identity.node, starts: identity.starts, cluster, cluster_key, view })
}

/// Makes a cluster of one.
fn found<W: World>(
    world: &W,
    config: &Config,
    identity: &mut Identity,
    description: &Description,
) -> Result<View, ring::members::ViewError> {
    let mut rng = world.rng("cluster");
    let cluster = ClusterId(rng.random());
    identity.cluster = Some((cluster, rng.random()));
    let mut view = View::new(cluster, config.partitions.unwrap_or(PARTITIONS_DEFAULT));
    view.admit(identity.node, description.clone())?;
    view.set_status(identity.node, Status::Up)?;
    Ok(view)
}

struct Started<W: World> {
    node: Node<W>,
    starts: u64,
    lane_done: oneshot::Receiver<()>,
}

/// Leases epochs, starts the lane, puts the node together.
fn start<W: World>(
    world: &W,
    store: &W::Store,
    entered: Entered,
    config: &Config,
    defaults: BucketSettings,
    pool: &Pool<W>,
    failed: watch::Sender<Option<String>>,
) -> Result<Started<W>, BootError> {
    let leased = store.get(Family::Meta, keys::EPOCH_LEASE)?;
    let leased = match leased {
        None => 0,
        Some(bytes) => u64::from_be_bytes(
            bytes.as_ref().try_into().map_err(|_| identity_error(config, "its epoch lease can't be read"))?,
        ),
    };
    // Synced writes survive a kill; ones that were left to the system may be gone after a power cut.
    let may_have_lost = store.get(Family::Meta, keys::UNSYNCED)?.is_some();
    let epochs = Epochs::at_start(leased, may_have_lost);
    let mut batch = Batch::default();
    batch.put(Family::Meta, keys::EPOCH_LEASE, Bytes::copy_from_slice(&epochs.lease_end().to_be_bytes()));
    batch.delete(Family::Meta, keys::UNSYNCED);
    store.write(batch, true)?;
    let core = Core::new(store.clone(), entered.node, epochs, entered.view.partitions, failed);
    let (lane, lane_done) = Lane::start(core, world.threads());
    let node = Node::new(Inner {
        world: world.clone(),
        cluster: Arc::new(Cluster::new(entered.node, entered.view, defaults)),
        cluster_id: entered.cluster,
        tokens: TokenKey::new(&entered.cluster_key),
        cluster_key: entered.cluster_key,
        pool: pool.clone(),
        lane,
        store: store.clone(),
        heard: arc_swap::ArcSwap::default(),
        in_flight: 0.into(),
        draining: false.into(),
        hints_written: 0.into(),
        hints_delivered: 0.into(),
        read_repairs: 0.into(),
        rng: Mutex::new(world.rng("node")),
    });
    Ok(Started { node, starts: entered.starts, lane_done })
}

/// Flushes everything; after this nothing can have been lost, whatever durability a bucket had.
async fn stop_clean<W: World>(
    node: Node<W>,
    store: W::Store,
    pool: Pool<W>,
    lane_done: oneshot::Receiver<()>,
) -> Result<(), BootError> {
    drop(pool);
    drop(node);
    let _ = tokio::time::timeout(DRAIN_MAX, lane_done).await;
    store.flush()?;
    let mut batch = Batch::default();
    batch.delete(Family::Meta, keys::UNSYNCED);
    store.write(batch, true)?;
    Ok(())
}
