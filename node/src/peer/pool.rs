//! What callers hold: a link to every peer, dialed when first needed and again when broken.
//!
//! ```text
//!   unneeded ── first message ──► dialing ── hello done ──► connected
//!      ▲                            │ ▲                        │ broke
//!      │                     failed ▼ │ a message after        ▼
//!      └──────────────────────── backing off ◄─────── (no pause: the next message dials at once)
//! ```
//!
//! Each peer has one task that owns its outbox and its connection; there is nothing to lock and no race between two
//! dials. While it backs off a call fails at once: the coordinator has other replicas to ask, and waiting for a dead
//! one is the one thing it must not do. A peer that comes back is found by the next message after the pause, and
//! gossip sends one every second.

use super::CallError;
use super::conn::{self, Queued};
use super::frame::{BODY_BYTES_MAX, Header, Kind, TableTag};
use super::hearing::{Hearing, Silent};
use super::hello::{self, HelloError, Local, Nonce, PeerIdentity};
use crate::limits::{
    BACKOFF_MAX, BACKOFF_MIN, DIAL_TIMEOUT, IN_FLIGHT_BYTES_MAX, IN_FLIGHT_MAX, OUTBOX_MAX, TELL_DEADLINE,
};
use crate::world::World;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, RngExt};
use ring::ids::{ClusterId, NodeId};
use ring::time::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;

/// Links to all peers. Clones share them; dropping the last ends them.
#[derive(Clone)]
pub struct Pool<W: World> {
    dialer: Dialer<W>,
    links: Arc<RwLock<BTreeMap<NodeId, Arc<Link>>>>,
    silent: Silent,
}

/// One peer, as callers see it.
struct Link {
    address: String,
    outbox: mpsc::Sender<Queued>,
    connected: Arc<AtomicBool>,
    /// Which start of the peer the last connection led to; 0: there was none.
    boot: Arc<AtomicU64>,
    next_id: AtomicU64,
    slots: Semaphore,
    room: Arc<Semaphore>,
    hearing: Arc<Hearing>,
}

impl<W: World> Pool<W> {
    /// A pool without peers. It spawns tasks, so it is made inside the runtime.
    pub fn new(world: W, local: Arc<Local>) -> Self {
        let rng = Arc::new(Mutex::new(world.rng("peer.pool")));
        Pool { dialer: Dialer { world, local, rng }, links: Arc::default(), silent: Silent::default() }
    }

    /// Says where a peer lives. A new address ends the connection to the old one, after what is in flight there.
    pub fn set_peer(&self, node: NodeId, address: impl Into<String>) {
        let address = address.into();
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        if links.get(&node).is_some_and(|link| link.address == address) {
            return;
        }
        let hearing = Hearing::of(node, self.silent.clone());
        let (link, outbox) = Link::new(address.clone(), hearing);
        let (dialer, hearing) = (self.dialer.clone(), Arc::clone(&link.hearing));
        let (connected, boot) = (Arc::clone(&link.connected), Arc::clone(&link.boot));
        tokio::spawn(LinkTask { dialer, node, address, outbox, connected, boot, hearing }.run());
        if let Some(before) = links.insert(node, Arc::new(link)) {
            before.hearing.retire();
        }
    }

    /// Forgets a peer. What is in flight may still be answered.
    pub fn remove_peer(&self, node: NodeId) {
        let link = self.links.write().unwrap_or_else(PoisonError::into_inner).remove(&node);
        if let Some(link) = link {
            link.hearing.retire();
        }
        self.dialer.local.forget_calls_of(node);
    }

    /// Whether there is a connection to this peer right now. It may break before the next line.
    pub fn connected(&self, node: NodeId) -> bool {
        self.link(node).is_some_and(|link| link.connected.load(Ordering::Relaxed))
    }

    /// Which start of this peer the last connection led to, if there was one.
    pub fn boot_of(&self, node: NodeId) -> Option<u64> {
        let boot = self.link(node)?.boot.load(Ordering::Relaxed);
        (boot != 0).then_some(boot)
    }

    /// Those whom this node has asked something, and from whom nothing has come for [`MUTE_AFTER`](crate::limits::MUTE_AFTER):
    /// whatever others say of them, asking them is of no use.
    pub fn mute(&self) -> watch::Receiver<BTreeSet<NodeId>> {
        self.silent.mute.subscribe()
    }

    /// Those from whom nothing has come for [`LATE_AFTER`](crate::limits::LATE_AFTER) after a question, and those who are mute.
    pub fn late(&self) -> watch::Receiver<BTreeSet<NodeId>> {
        self.silent.late.subscribe()
    }

    /// For how long this peer has said nothing, since it was asked something; zero if nothing was asked.
    pub fn in_vain(&self, node: NodeId) -> Duration {
        self.link(node).map_or(Duration::ZERO, |link| link.hearing.in_vain(self.dialer.world.now()))
    }

    /// Asks a peer and waits for its answer, for `deadline` at most.
    pub async fn call(
        &self,
        to: NodeId,
        table: TableTag,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        self.call_traced(to, table, 0, body, deadline).await
    }

    /// Like [`Pool::call`], with the id that joins the logs of one client request.
    pub async fn call_traced(
        &self,
        to: NodeId,
        table: TableTag,
        trace: u64,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        let link = self.link(to).ok_or(CallError::Unreachable)?;
        let _slot = link.slots.try_acquire().map_err(|_| CallError::Overloaded)?;
        let (answer, answered) = oneshot::channel();
        let header = Header { table, trace, ..Header::bare(Kind::Request, link.next_id()) };
        link.queue(header, body, self.dialer.world.now() + deadline, Some(answer))?;
        await_answer(answered, deadline).await
    }

    /// Sends without waiting for anything. It may get lost; no one will know.
    pub fn tell(&self, to: NodeId, body: Bytes) {
        if let Some(link) = self.link(to) {
            let header = Header::bare(Kind::OneWay, link.next_id());
            let _best_effort = link.queue(header, body, self.dialer.world.now() + TELL_DEADLINE, None);
        }
    }

    /// Asks whoever lives at an address, over a connection of its own: for seeds, whose ids nobody knows yet.
    pub async fn call_address(
        &self,
        address: &str,
        body: Bytes,
        deadline: Duration,
    ) -> Result<(PeerIdentity, Bytes), CallError> {
        let until = self.dialer.world.now() + deadline;
        let (link, mut outbox) = Link::new(address.to_owned(), Hearing::of_a_stranger());
        let (answer, answered) = oneshot::channel();
        link.queue(Header::bare(Kind::Request, link.next_id()), body, until, Some(answer))?;
        let cluster = self.dialer.local.watch_cluster();
        let (stream, peer) = self.dialer.dial(address, None).await?;
        let conversation = conn::drive(&self.dialer.world, stream, None, &mut outbox, cluster, &link.hearing);
        let left = until - self.dialer.world.now();
        tokio::select! {
            biased;
            answer = await_answer(answered, left) => answer.map(|body| (peer, body)),
            _end = conversation => Err(CallError::Lost),
        }
    }

    fn link(&self, node: NodeId) -> Option<Arc<Link>> {
        self.links.read().unwrap_or_else(PoisonError::into_inner).get(&node).cloned()
    }
}

async fn await_answer(
    answered: oneshot::Receiver<Result<Bytes, CallError>>,
    deadline: Duration,
) -> Result<Bytes, CallError> {
    match timeout(deadline, answered).await {
        Ok(Ok(result)) => result,
        Ok(Err(_dropped)) => Err(CallError::Lost),
        Err(_elapsed) => Err(CallError::TimedOut),
    }
}

impl Link {
    fn new(address: String, hearing: Hearing) -> (Link, mpsc::Receiver<Queued>) {
        let (outbox, receiver) = mpsc::channel(OUTBOX_MAX);
        let link = Link {
            address,
            outbox,
            connected: Arc::default(),
            boot: Arc::default(),
            next_id: AtomicU64::new(1),
            slots: Semaphore::new(IN_FLIGHT_MAX),
            room: Arc::new(Semaphore::new(IN_FLIGHT_BYTES_MAX)),
            hearing: Arc::new(hearing),
        };
        (link, receiver)
    }

    fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    fn queue(
        &self,
        header: Header,
        body: Bytes,
        deadline: Time,
        answer: Option<conn::Answer>,
    ) -> Result<(), CallError> {
        if body.len() > BODY_BYTES_MAX {
            return Err(CallError::TooLarge(body.len()));
        }
        let room = self.room_for(body.len()).ok_or(CallError::Overloaded)?;
        let queued = Queued { header, body, deadline, answer, _room: room };
        self.outbox.try_send(queued).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => CallError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => CallError::Unreachable,
        })
    }

    /// A body that is larger than all the room there is goes when it is alone.
    fn room_for(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let permits = u32::try_from(bytes.min(IN_FLIGHT_BYTES_MAX)).expect("64 MiB fit into 32 bits");
        Arc::clone(&self.room).try_acquire_many_owned(permits).ok()
    }
}

/// What it takes to make a connection.
#[derive(Clone)]
struct Dialer<W> {
    world: W,
    local: Arc<Local>,
    rng: Arc<Mutex<StdRng>>,
}

impl<W: World> Dialer<W> {
    async fn dial(
        &self,
        address: &str,
        expected: Option<NodeId>,
    ) -> Result<(W::Stream, PeerIdentity), CallError> {
        let nonce = self.nonce();
        let dialing = async {
            let mut stream = self.world.dial(address).await?;
            let peer = hello::dial(&mut stream, &self.local, nonce, expected).await?;
            Ok((stream, peer))
        };
        timeout(DIAL_TIMEOUT, dialing).await.map_err(|_| CallError::Unreachable)?.map_err(|error| match error
        {
            HelloError::Refused(why) => CallError::Refused(why),
            HelloError::Rejected(_) | HelloError::Stranger | HelloError::Io(_) => CallError::Unreachable,
        })
    }

    fn nonce(&self) -> Nonce {
        let mut nonce = Nonce::default();
        self.rng.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(&mut nonce);
        nonce
    }

    /// Doubles with each failure, and half of it is chance, so that a returning peer does not meet everybody at once.
    fn backoff(&self, failures: u32) -> Duration {
        let full = BACKOFF_MIN.saturating_mul(1 << failures.min(16)).min(BACKOFF_MAX);
        full.mul_f64(self.rng.lock().unwrap_or_else(PoisonError::into_inner).random_range(0.5..1.0))
    }
}

/// The task behind a link.
struct LinkTask<W> {
    dialer: Dialer<W>,
    node: NodeId,
    address: String,
    outbox: mpsc::Receiver<Queued>,
    connected: Arc<AtomicBool>,
    boot: Arc<AtomicU64>,
    hearing: Arc<Hearing>,
}

impl<W: World> LinkTask<W> {
    async fn run(mut self) {
        let mut failures = 0;
        let mut failed: Option<(CallError, Time)> = None;
        let mut calls = 0;
        while let Some(first) = self.outbox.recv().await {
            let now = self.dialer.world.now();
            // Who has called meanwhile is up again, and is not kept waiting for a pause that was meant for the dead.
            let has_called = std::mem::replace(&mut calls, self.dialer.local.calls_of(self.node)) != calls;
            if let Some((why, until)) = &failed
                && now < *until
                && !has_called
            {
                first.fail(why.clone());
                continue;
            }
            if !first.is_wanted(now) {
                continue;
            }
            let cluster = self.dialer.local.watch_cluster();
            self.hearing.asks(now);
            match self.dialer.dial(&self.address, Some(self.node)).await {
                Ok((stream, peer)) => {
                    self.hearing.heard();
                    (failures, failed) = (0, None);
                    self.converse(stream, &peer, first, cluster).await;
                }
                Err(why) => {
                    self.hearing.look(self.dialer.world.now());
                    if failed.as_ref().is_none_or(|(before, _)| *before != why) {
                        tracing::info!(peer = %self.node, address = %self.address, %why, "no connection to a peer");
                    }
                    let until = self.dialer.world.now() + self.dialer.backoff(failures);
                    failures = failures.saturating_add(1);
                    self.fail_all(first, &why);
                    failed = Some((why, until));
                }
            }
        }
    }

    async fn converse(
        &mut self,
        stream: W::Stream,
        peer: &PeerIdentity,
        first: Queued,
        cluster: watch::Receiver<Option<ClusterId>>,
    ) {
        tracing::info!(peer = %self.node, address = %self.address, boot = peer.boot_id, "connected to a peer");
        self.boot.store(peer.boot_id, Ordering::Relaxed);
        self.connected.store(true, Ordering::Relaxed);
        let end =
            conn::drive(&self.dialer.world, stream, Some(first), &mut self.outbox, cluster, &self.hearing)
                .await;
        self.connected.store(false, Ordering::Relaxed);
        tracing::info!(peer = %self.node, address = %self.address, %end, "the connection to a peer ended");
    }

    /// Everything that came while we dialed learns of the failure now rather than at its deadline.
    fn fail_all(&mut self, first: Queued, why: &CallError) {
        first.fail(why.clone());
        while let Ok(queued) = self.outbox.try_recv() {
            queued.fail(why.clone());
        }
    }
}
