//! The dialer's side of one connection: requests out, answers in, matched by id.
//!
//! ```text
//!   outbox ─► write_requests ─► socket          one task, two loops: whichever can go on does, and each write takes
//!                 │ id → caller                 along everything that waits at that moment
//!   caller ◄─ read_answers  ◄── socket
//! ```
//!
//! A request is known to be unsent as long as it is in the outbox, so a broken connection leaves the outbox alone: its
//! requests go out over the next one. Whatever was taken out is [`CallError::Lost`], and its
//! callers hear so at once, because dropping the table of callers closes their channels.

use super::CallError;
use super::frame::{FrameError, Frames, Header, Kind, Silence};
use super::hearing::Hearing;
use super::write::Pieces;
use crate::limits::{IN_FLIGHT_MAX, LOOK_EVERY, PING_EVERY, SILENT_PINGS_MAX, WRITE_BATCH_MAX};
use crate::world::World;
use bytes::Bytes;
use ring::ids::ClusterId;
use ring::time::Time;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, split};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Where the answer goes.
pub(super) type Answer = oneshot::Sender<Result<Bytes, CallError>>;

/// A frame that waits in an outbox.
pub(super) struct Queued {
    /// Its header; the deadline is filled in when it is written.
    pub(super) header: Header,
    pub(super) body: Bytes,
    /// After this nobody wants it any more.
    pub(super) deadline: Time,
    /// Who wants the answer; none for one-way messages.
    pub(super) answer: Option<Answer>,
    /// The room that its body takes until it is written.
    pub(super) _room: OwnedSemaphorePermit,
}

impl Queued {
    /// Whether sending it could still be of use.
    pub(super) fn is_wanted(&self, now: Time) -> bool {
        now < self.deadline && self.answer.as_ref().is_none_or(|answer| !answer.is_closed())
    }

    /// Tells the caller, if there is one and it still listens.
    pub(super) fn fail(self, why: CallError) {
        if let Some(answer) = self.answer {
            let _gone = answer.send(Err(why));
        }
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("nobody needs it any more")]
    Unneeded,
    #[error("the peer closed it")]
    Closed,
    #[error("the peer was silent for too long")]
    Silent,
    #[error("it was made before this node knew its cluster")]
    Rejoined,
    #[error("the peer sent a {0:?} where only answers belong")]
    Unexpected(Kind),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("writing failed: {0}")]
    Write(#[from] io::Error),
}

/// Callers by the id of their request.
#[derive(Default)]
struct Waiting(Mutex<BTreeMap<u64, Answer>>);

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Answer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, id: u64, answer: Answer) {
        let mut waiting = self.lock();
        // A caller that gave up leaves its entry behind. At most IN_FLIGHT_MAX callers have not, so at twice as many
        // entries a sweep frees half of them or more, and costs each entry less than two looks.
        if waiting.len() >= 2 * IN_FLIGHT_MAX {
            waiting.retain(|_, answer| !answer.is_closed());
        }
        waiting.insert(id, answer);
    }

    fn answer(&self, id: u64, result: Result<Bytes, CallError>) {
        // No entry, or nobody behind it: the answer came too late.
        if let Some(answer) = self.lock().remove(&id) {
            let _late = answer.send(result);
        }
    }

    fn is_idle(&self) -> bool {
        self.lock().values().all(oneshot::Sender::is_closed)
    }
}

/// Runs a connection until it breaks or nobody needs it. `first` goes out before the rest of the outbox.
pub(super) async fn drive<W: World>(
    world: &W,
    stream: W::Stream,
    first: Option<Queued>,
    outbox: &mut mpsc::Receiver<Queued>,
    mut cluster: watch::Receiver<Option<ClusterId>>,
    hearing: &Hearing,
) -> End {
    let (read, write) = split(stream);
    let (waiting, silence) = (Waiting::default(), Silence::default());
    let heard = || {
        silence.broken();
        hearing.heard();
    };
    let writer = Writer { world, waiting: &waiting, silence: &silence, hearing };
    tokio::select! {
        biased;
        end = read_answers(Frames::new(read, heard), &waiting) => end,
        end = writer.run(write, first, outbox) => end.unwrap_or_else(End::Write),
        Ok(()) = cluster.changed() => End::Rejoined,
        () = hearing.keep_looking(world) => unreachable!("it looks for as long as the connection stands"),
    }
}

async fn read_answers(mut frames: Frames<impl AsyncRead + Unpin, impl Fn()>, waiting: &Waiting) -> End {
    loop {
        let frame = match frames.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return End::Closed,
            Err(error) => return End::Frame(error),
        };
        match frame.header.kind {
            Kind::Response => waiting.answer(frame.header.id, Ok(frame.body)),
            Kind::NotServed => waiting.answer(frame.header.id, Err(CallError::NotServed)),
            Kind::Pong => {}
            other => return End::Unexpected(other),
        }
    }
}

struct Writer<'a, W> {
    world: &'a W,
    waiting: &'a Waiting,
    silence: &'a Silence,
    hearing: &'a Hearing,
}

impl<W: World> Writer<'_, W> {
    async fn run(
        self,
        mut to: impl AsyncWrite + Unpin,
        first: Option<Queued>,
        outbox: &mut mpsc::Receiver<Queued>,
    ) -> io::Result<End> {
        let hello = self.world.now();
        let mut batch: Vec<Queued> = first.into_iter().collect();
        let mut pieces = Pieces::default();
        let (mut ticks, mut looks) = (every(PING_EVERY), every(LOOK_EVERY));
        ticks.tick().await;
        loop {
            self.push_wanted(&mut batch, hello, &mut pieces);
            pieces.write_to(&mut to).await?;
            batch.clear();
            tokio::select! {
                biased;
                count = outbox.recv_many(&mut batch, WRITE_BATCH_MAX), if !outbox.is_closed() || !outbox.is_empty() => {
                    if count == 0 && self.waiting.is_idle() {
                        return Ok(End::Unneeded);
                    }
                }
                _ = ticks.tick() => match self.silence.look() {
                    _ if outbox.is_closed() && self.waiting.is_idle() => return Ok(End::Unneeded),
                    0 => {}
                    n if n >= SILENT_PINGS_MAX => return Ok(End::Silent),
                    _ => self.push_ping(hello, &mut pieces),
                },
                _ = looks.tick() => if self.hearing.in_vain(self.world.now()) >= LOOK_EVERY {
                    self.push_ping(hello, &mut pieces);
                }
            }
        }
    }

    fn push_wanted(&self, batch: &mut [Queued], hello: Time, pieces: &mut Pieces) {
        let now = self.world.now();
        for queued in batch.iter_mut().filter(|queued| queued.is_wanted(now)) {
            queued.header.deadline_ms = left_ms(queued.deadline, now);
            queued.header.sent_ms = since_ms(hello, now);
            if let Some(answer) = queued.answer.take() {
                self.waiting.add(queued.header.id, answer);
                self.hearing.asks(now);
            }
            pieces.push(&queued.header, std::mem::take(&mut queued.body));
        }
    }

    fn push_ping(&self, hello: Time, pieces: &mut Pieces) {
        let now = self.world.now();
        self.hearing.asks(now);
        let ping = Header { sent_ms: since_ms(hello, now), ..Header::bare(Kind::Ping, 0) };
        pieces.push(&ping, Bytes::new());
    }
}

fn every(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn since_ms(hello: Time, now: Time) -> u64 {
    u64::try_from((now - hello).as_millis()).unwrap_or(u64::MAX)
}

/// Rounded up: a request whose last millisecond runs is still wanted.
fn left_ms(deadline: Time, now: Time) -> u32 {
    u32::try_from((deadline - now).as_micros().div_ceil(1000)).unwrap_or(u32::MAX)
}
