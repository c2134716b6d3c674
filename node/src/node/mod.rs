//! One node, as HTTP handlers and peers use it: requests in, answers out.
//!
//! The decisions are `ring`'s; here effects become calls and answers become events. A [`Node`] is cheap to clone.

pub(crate) mod exchange;
pub mod explain;
pub mod forward;
pub mod gain;
pub mod hints;
pub mod keys;
pub mod lives;
pub mod pace;
pub mod past;
pub mod read;
pub mod reap;
pub mod repair;
pub mod serve;
pub mod suspects;
pub mod trees;
pub mod work;
pub mod write;

use crate::cluster::{Cluster, Snapshot};
use crate::config::Join;
use crate::lane::{Crowded, Due, Earliest, Gaps, Hints, Job, Lane, LetGo, Trees};
use crate::limits::BUSY_FOR;
use crate::peer::Pool;
use crate::store::{Batch, Family, Store, keys as rows};
use crate::world::World;
use arc_swap::ArcSwap;
use bytes::Bytes;
use rand::rngs::StdRng;
use ring::causal::token::TokenKey;
use ring::clock::Clock;
use ring::ids::{ClusterId, NodeId, ObjectId};
use ring::place::{partition, position};
use ring::planted::{self, Bug};
use ring::time::{Time, Wall};
use ring::wire::peer::Refusal;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a node says that was removed.
pub const REMOVED: &str = "this node was removed from the cluster; what only it has is under its /v1/set-aside; to join anew, \
                           start it with an empty data directory";

/// The shared parts of a node.
pub struct Inner<W: World> {
    /// Network, clock, entropy, disk.
    pub world: W,
    /// What this node says of itself, and whether others remember it otherwise.
    pub past: past::Past,
    /// Who commits that this node comes in.
    pub join: Join,
    /// Members, settings, table.
    pub cluster: Arc<Cluster>,
    /// The cluster's identity.
    pub cluster_id: ClusterId,
    /// Signs the contexts that clients carry.
    pub tokens: TokenKey,
    /// The cluster's key, handed to joiners.
    pub cluster_key: [u8; 32],
    /// Connections to the others.
    pub pool: Pool<W>,
    /// The only writer.
    pub lane: Lane,
    /// For reading.
    pub store: W::Store,
    /// Whom the failure detector hears at this moment.
    pub heard: ArcSwap<BTreeSet<NodeId>>,
    /// Requests that clients are waiting for.
    pub in_flight: AtomicUsize,
    /// Tells this start of the node from every other one.
    pub boot_id: u64,
    /// How many writes were handed over to others under a name.
    pub forwards: AtomicU64,
    /// Those that were handed to this node.
    pub forwarded: Mutex<forward::Forwarded>,
    /// Whether the node is stopping.
    pub draining: AtomicBool,
    /// Writes that left a hint, since the start.
    pub hints_written: AtomicU64,
    /// Hints delivered, since the start.
    pub hints_delivered: AtomicU64,
    /// Records sent by read repair, since the start.
    pub read_repairs: AtomicU64,
    /// The clock by which values expire.
    pub clock: Mutex<Clock>,
    /// Values that were dropped because their time was over, since the start.
    pub expired: AtomicU64,
    /// The Merkle trees, which the lane keeps up.
    pub trees: Trees,
    /// How often the lane has let go what is not owned here.
    pub let_go: LetGo,
    /// When the first value may expire, which the lane keeps up.
    pub due: Due,
    /// What may hold a record in memory.
    pub works: Mutex<work::Works>,
    /// What became of deletions.
    pub reaped: Mutex<reap::Reaped>,
    /// What came of comparing them.
    pub aae: Mutex<trees::Aae>,
    /// What somebody has asked to be repaired.
    pub repairs: Mutex<repair::Jobs>,
    /// What is kept here for others, which the lane keeps up.
    pub hints: Hints,
    /// How the deliveries of it go.
    pub deliveries: Mutex<BTreeMap<NodeId, hints::Delivery>>,
    /// How old a hint may grow that no acknowledgement relies on.
    pub hint_age: Duration,
    /// When somebody last waited for this node: a client, or a node on a client's behalf.
    pub waited_for: AtomicU64,
    /// The highest lease under which another life of this directory is known to have written; 0 if none is.
    pub stray: Arc<AtomicU64>,
    /// The keys whose copies here lack something.
    pub gaps: Gaps,
    /// Whether the disk is nearly full, and nothing is taken that takes room.
    pub crowded: Crowded,
    /// The keys whose copies here could not be read.
    pub suspects: suspects::Suspects,
    /// What clients' writes take here, by which background work goes.
    pub pace: pace::Pace,
    /// One at a time writes the view to the disk: an older one must not come after a newer.
    pub keeping: tokio::sync::Mutex<()>,
    /// One at a time asks somebody for tables that are not known here: which were asked for last, and when.
    pub catching_up: tokio::sync::Mutex<Option<(u64, Time)>>,
    /// How far it has come with what it takes over.
    pub gain: Mutex<gain::Gain>,
    /// What came of comparing copies that may be old, since the start.
    pub sifting: Sifting,
    /// Chance, for what is sampled.
    pub rng: Mutex<StdRng>,
}

/// What came of comparing copies that may be old.
#[derive(Debug, Default)]
pub struct Sifting {
    /// Copies that were compared one by one.
    pub looked_at: AtomicU64,
    /// Of them changed to what the others have.
    pub replaced: AtomicU64,
    /// Of them set aside, because no other owner knew all of it.
    pub set_aside: AtomicU64,
}

/// One node.
pub struct Node<W: World>(Arc<Inner<W>>);

impl<W: World> Clone for Node<W> {
    fn clone(&self) -> Self {
        Node(Arc::clone(&self.0))
    }
}

impl<W: World> std::ops::Deref for Node<W> {
    type Target = Inner<W>;
    fn deref(&self) -> &Inner<W> {
        &self.0
    }
}

impl<W: World> Node<W> {
    /// Puts the parts together.
    pub fn new(inner: Inner<W>) -> Self {
        Node(Arc::new(inner))
    }

    /// This node's identity.
    pub fn id(&self) -> NodeId {
        self.cluster.me()
    }

    /// The monotonic clock.
    pub fn now(&self) -> Time {
        self.world.now()
    }

    /// The cluster's clock, which is everybody's: expiry goes by it, and every date that is shown. The own calendar has a say in
    /// it and no more.
    pub fn wall(&self) -> Wall {
        if planted::is(Bug::OwnCalendar) {
            return self.world.wall();
        }
        self.lock_clock().read(self.now())
    }

    pub(crate) fn lock_clock(&self) -> MutexGuard<'_, Clock> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lock_due(&self) -> MutexGuard<'_, Earliest> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the node is stopping.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Whether it has no part in the settled table yet: it can't tell "nothing" from "not here yet".
    pub fn is_joining(&self) -> bool {
        !self.cluster.snapshot().table.nodes().contains(&self.id())
    }

    /// Why this node takes no part in the data at this moment, if it takes none.
    pub fn objection(&self) -> Option<&'static str> {
        let snapshot = self.cluster.snapshot();
        if snapshot.is_removed(self.id()) {
            return Some(REMOVED);
        }
        self.past.objection()
    }

    /// Whether this node may send what it holds, and let others rely on it.
    pub(crate) fn may_spread(&self) -> bool {
        self.past.silence().is_none()
    }

    /// Somebody waits for this node from now on. Says when that is.
    pub(crate) fn is_waited_for(&self) -> Time {
        let now = self.now();
        self.waited_for.store(now.0.max(1), Ordering::Relaxed);
        now
    }

    /// How much of `most` background work may do at once, so that clients do not feel it.
    pub(crate) fn room(&self, most: usize) -> usize {
        self.pace.room(most, self.is_busy())
    }

    /// Whether somebody has waited for this node lately, so that what nobody waits for should leave it room.
    pub(crate) fn is_busy(&self) -> bool {
        let last = self.waited_for.load(Ordering::Relaxed);
        last > 0 && self.now() - Time(last) < BUSY_FOR
    }

    /// Writes the view of this moment to the disk, and gives it back. Who changes it says so only after this.
    pub(crate) async fn keep_view(&self) -> Result<Arc<Snapshot>, Refusal> {
        let _one = self.keeping.lock().await;
        let snapshot = self.cluster.snapshot();
        self.write_view(&snapshot.view).await?;
        Ok(snapshot)
    }

    /// Writes the view to the disk with a change that is `made` to it only afterwards: before anybody else writes the view
    /// of a moment at which it was not.
    pub(crate) async fn keep_ahead(
        &self,
        change: impl FnOnce(&mut ring::members::View) -> bool,
        made: impl FnOnce(),
    ) -> Result<(), Refusal> {
        let _one = self.keeping.lock().await;
        let mut view = self.cluster.snapshot().view.clone();
        if change(&mut view) {
            self.write_view(&view).await?;
        }
        made();
        Ok(())
    }

    async fn write_view(&self, view: &ring::members::View) -> Result<(), Refusal> {
        let mut batch = Batch::default();
        batch.put(Family::Meta, rows::VIEW, view.encode());
        self.lane.run(|reply| Job::Raw { batch, sync: true, reply }).await.map(drop)
    }

    /// The own copy of a key as it is on disk.
    pub(crate) fn local(&self, id: &ObjectId) -> Result<Option<Bytes>, Refusal> {
        let partitions = self.cluster.snapshot().view.partitions;
        let key = rows::record_key(partition(position(id), partitions), id);
        self.store.get(Family::Records, &key).map_err(|e| Refusal::Unavailable(e.to_string()))
    }
}
