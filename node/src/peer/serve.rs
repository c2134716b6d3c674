//! The acceptor's side: strangers out, requests to the handler, answers back together.
//!
//! ```text
//!   accept ─► a place among 64? ─► hello within 3 s ─► read ─► running (≤ 1,024) ─► answers ─► write
//!                no: closed           no: closed                handler futures       everything that waits
//! ```
//!
//! One task per connection runs its handlers itself (`FuturesUnordered`): a request costs no spawn, and what becomes
//! ready together is written together. When the connection has too much under way it is simply not read any further;
//! TCP tells the peer, whose own bound then answers `Overloaded`. A peer that does not read its answers stops its own
//! handlers and nobody else's, until the write gives up.

use super::frame::{BODY_BYTES_MAX, Delays, Frame, FrameError, Frames, Header, Kind, Silence};
use super::hello::{self, HelloError, Local, Nonce, PeerIdentity, Refusal};
use super::write::Pieces;
use crate::limits::{
    ANSWER_BYTES_MAX, CONNECTIONS_MAX, HELLO_TIMEOUT, HELLOS_MAX, LATE_MIN, MESSAGE_LIFE_MAX, PING_EVERY,
    SERVE_IN_FLIGHT_BYTES_MAX, SERVE_IN_FLIGHT_MAX, SILENT_PINGS_MAX, WRITE_BATCH_MAX,
};
use crate::world::{Listener, World};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rand::Rng;
use ring::planted::{self, Bug};
use ring::time::Time;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, split};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// Answers peers.
pub trait Handler: Clone + Send + Sync + 'static {
    /// The answer to a message; none to a one-way message, or to a request that is not served to this peer.
    /// `from.cluster` is none for a joiner: then only messages of joining may be answered. The handler keeps the
    /// deadline itself, which counts from now: it knows what may be dropped half-way and what must not. The future is dropped when the
    /// connection ends, so whatever has to be finished once begun belongs to somebody else's task, like the lane's.
    fn handle(
        &self,
        from: &PeerIdentity,
        header: Header,
        body: Bytes,
    ) -> impl Future<Output = Option<Bytes>> + Send;
}

/// Serves peers until `shutdown` turns true or its sender is gone. Then all connections are closed.
pub async fn serve<W: World, H: Handler>(
    world: W,
    mut listener: W::Listener,
    local: Arc<Local>,
    handler: H,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut rng = world.rng("peer.serve");
    let hellos = Arc::new(Semaphore::new(HELLOS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let (stream, from) = tokio::select! {
            biased;
            () = stopped(&mut shutdown) => break,
            Some(ended) = connections.join_next() => {
                report(ended);
                continue;
            }
            arrived = accept(&mut listener) => arrived,
        };
        let place = Arc::clone(&hellos).try_acquire_owned().ok();
        let Some(place) = place.filter(|_| connections.len() < CONNECTIONS_MAX) else {
            tracing::debug!(%from, "too many connections, closed one");
            continue;
        };
        let mut nonce = Nonce::default();
        rng.fill_bytes(&mut nonce);
        let acceptor = Acceptor { world: world.clone(), local: Arc::clone(&local), handler: handler.clone() };
        connections.spawn(async move {
            let ended = acceptor.run(stream, nonce, place).await;
            if let Err(Ended::Hello(HelloError::Rejected(Refusal::SameIdentity))) = ended {
                tracing::error!(%from, "another process uses this node's identity and is refused: a data directory was copied, or --node-id names a member");
            }
            tracing::debug!(%from, ?ended, "a peer's connection ended");
        });
    }
}

/// Asked to stop, or nobody left who could ask.
async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    let _or_gone = shutdown.wait_for(|stop| *stop).await;
}

async fn accept<L: Listener>(listener: &mut L) -> (L::Stream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(arrived) => return arrived,
            Err(error) => {
                // Out of descriptors or memory: others will give some back.
                tracing::warn!(%error, "could not accept a connection from a peer");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "the task of a peer's connection panicked");
    }
}

/// Why an accepted connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("it did not introduce itself in time")]
    NoHello,
    #[error(transparent)]
    Hello(#[from] HelloError),
    #[error("the peer closed it")]
    Closed,
    #[error("the peer was silent for too long")]
    Silent,
    #[error("the peer belongs to another cluster than the one that this node joined since")]
    OtherCluster,
    #[error("what the peer sends was under way for {0:?}, or one of the two clocks has stood still")]
    Late(Duration),
    #[error("the peer sent a {0:?} where only requests belong")]
    Unexpected(Kind),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("writing failed: {0}")]
    Write(#[from] io::Error),
}

struct Acceptor<W, H> {
    world: W,
    local: Arc<Local>,
    handler: H,
}

/// An answer on its way out, with the room that it takes.
struct Reply {
    header: Header,
    body: Bytes,
    _room: OwnedSemaphorePermit,
}

impl<W: World, H: Handler> Acceptor<W, H> {
    async fn run(
        self,
        mut stream: W::Stream,
        nonce: Nonce,
        place: OwnedSemaphorePermit,
    ) -> Result<(), Ended> {
        let mut cluster = self.local.watch_cluster();
        let hello = timeout(HELLO_TIMEOUT, hello::accept(&mut stream, &self.local, nonce)).await;
        drop(place);
        let peer = hello.map_err(|_| Ended::NoHello)??;
        self.local.has_called(peer.node);
        let other_cluster =
            cluster.wait_for(|ours| ours.is_some() && peer.cluster.is_some() && *ours != peer.cluster);

        let (read, write) = split(stream);
        let (silence, heard_at) = (Silence::default(), AtomicU64::new(0));
        let heard = || {
            silence.broken();
            heard_at.store(self.world.now().0, Ordering::Relaxed);
        };
        let (replies, outbox) = mpsc::channel(WRITE_BATCH_MAX);
        let room = Arc::new(Semaphore::new(ANSWER_BYTES_MAX));
        let session = Session { acceptor: &self, peer: &peer, replies, room, heard_at: &heard_at };
        tokio::select! {
            biased;
            ended = session.answer(Frames::new(read, heard), &silence) => Err(ended),
            written = write_replies(write, outbox) => Ok(written?),
            Ok(_) = other_cluster => Err(Ended::OtherCluster),
        }
    }
}

struct Session<'a, W, H> {
    acceptor: &'a Acceptor<W, H>,
    peer: &'a PeerIdentity,
    replies: mpsc::Sender<Reply>,
    room: Arc<Semaphore>,
    /// When bytes last arrived, in the microseconds of [`Time`].
    heard_at: &'a AtomicU64,
}

/// A message that was handled.
struct Done {
    header: Header,
    request_bytes: usize,
    answer: Option<Bytes>,
}

impl<W: World, H: Handler> Session<'_, W, H> {
    async fn answer(
        &self,
        mut frames: Frames<impl AsyncRead + Unpin, impl Fn()>,
        silence: &Silence,
    ) -> Ended {
        let mut running = FuturesUnordered::new();
        let mut running_bytes = 0;
        let mut delays = Delays::since(self.acceptor.world.now());
        let mut ticks = interval(PING_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let has_room = running.len() < SERVE_IN_FLIGHT_MAX && running_bytes < SERVE_IN_FLIGHT_BYTES_MAX;
            tokio::select! {
                biased;
                Some(done) = running.next(), if !running.is_empty() => {
                    let done: Done = done;
                    running_bytes -= done.request_bytes;
                    self.reply(done).await;
                }
                frame = frames.next(), if has_room => {
                    let Frame { mut header, body } = match frame {
                        Ok(Some(frame)) => frame,
                        Ok(None) => return Ended::Closed,
                        Err(error) => return Ended::Frame(error),
                    };
                    let delay = delays.of(header.sent_ms, self.acceptor.world.now());
                    let deadline = Duration::from_millis(header.deadline_ms.into());
                    let too_late =
                        delay >= deadline.clamp(LATE_MIN, MESSAGE_LIFE_MAX) && !planted::is(Bug::LateMessages);
                    header.deadline_ms = self.left_ms(header.deadline_ms, delay);
                    match header.kind {
                        Kind::Ping => self.send(Kind::Pong, header.id, Bytes::new()).await,
                        // Perhaps it was not under way for long at all: a machine that slept has a clock that is behind for
                        // good, and all that it sends looks old here. A new connection begins with a new comparison.
                        Kind::Request | Kind::OneWay if too_late => return Ended::Late(delay),
                        // Nobody waits for it any more.
                        Kind::Request | Kind::OneWay if header.deadline_ms == 0 => {}
                        Kind::Request | Kind::OneWay => {
                            running_bytes += body.len();
                            running.push(self.handle(header, body));
                        }
                        other => return Ended::Unexpected(other),
                    }
                }
                _ = ticks.tick() => match has_room {
                    // We were the ones who did not listen.
                    false => silence.broken(),
                    true if silence.look() >= SILENT_PINGS_MAX => return Ended::Silent,
                    true => {}
                }
            }
        }
    }

    /// What is left of a deadline after the time that the request spent on its way, and in our buffer behind others. Nothing,
    /// whatever the deadline was, after [`MESSAGE_LIFE_MAX`].
    fn left_ms(&self, deadline_ms: u32, delay: Duration) -> u32 {
        if planted::is(Bug::LateMessages) {
            return deadline_ms.max(1);
        }
        let waited = self.acceptor.world.now() - Time(self.heard_at.load(Ordering::Relaxed));
        let waited = waited.max(delay);
        if waited >= MESSAGE_LIFE_MAX {
            return 0;
        }
        deadline_ms.saturating_sub(u32::try_from(waited.as_millis()).unwrap_or(u32::MAX))
    }

    async fn handle(&self, header: Header, body: Bytes) -> Done {
        let request_bytes = body.len();
        let answer = self.acceptor.handler.handle(self.peer, header, body).await;
        Done { header, request_bytes, answer }
    }

    async fn reply(&self, done: Done) {
        match (done.header.kind, done.answer) {
            (Kind::Request, Some(body)) if body.len() <= BODY_BYTES_MAX => {
                self.send(Kind::Response, done.header.id, body).await;
            }
            (Kind::Request, _) => self.send(Kind::NotServed, done.header.id, Bytes::new()).await,
            _ => {}
        }
    }

    /// Waits while the peer leaves too many answers unread; the write loop, polled beside us, ends that one way or
    /// the other.
    async fn send(&self, kind: Kind, id: u64, body: Bytes) {
        let permits = u32::try_from(body.len().min(ANSWER_BYTES_MAX)).expect("64 MiB fit into 32 bits");
        let room =
            Arc::clone(&self.room).acquire_many_owned(permits).await.expect("nobody closes the semaphore");
        let reply = Reply { header: Header::bare(kind, id), body, _room: room };
        // The write loop drops its end only when it is done for, and then this future is dropped too.
        let _ended = self.replies.send(reply).await;
    }
}

async fn write_replies(mut to: impl AsyncWrite + Unpin, mut outbox: mpsc::Receiver<Reply>) -> io::Result<()> {
    let mut batch = Vec::new();
    let mut pieces = Pieces::default();
    while outbox.recv_many(&mut batch, WRITE_BATCH_MAX).await > 0 {
        for reply in &mut batch {
            pieces.push(&reply.header, std::mem::take(&mut reply.body));
        }
        pieces.write_to(&mut to).await?;
        batch.clear();
    }
    Ok(())
}
