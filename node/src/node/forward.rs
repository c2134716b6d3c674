//! Writes that this node hands over to an owner, and what it remembers of those that were handed to it.
//!
//! ```text
//!   who got the write                            the owner
//!     │ Forward { life, number, boot, … }          │ number is new: coordinates, and remembers the answer
//!     ├───────────────────────────────────────────►│
//!     │                                   ✗ reset  │
//!     │ the same, again: true                      │ known: waits for the same answer
//!     ├───────────────────────────────────────────►│ not known, and can't have been: coordinates
//!     │◄───────────────────────────────── Written  │ not known, but may have been forgotten: says so
//! ```
//!
//! A write that is carried out twice is two writes, siblings of each other. So one that was handed over when the connection broke could
//! not be handed over again, and its client heard that nobody knows what became of it, for each connection that a network resets. With
//! a name it can: the owner carries out each name once. That is the exactly-once remote call of RIFL (Lee et al., "Implementing
//! Linearizability at Large Scale and Low Latency", SOSP 2015) without its durable half: names live in memory, and the repetition goes
//! to the very start of the owner that got the first one, or nowhere. What an owner must remember is bounded by a window that moves on,
//! as where packets are kept from being played back (RFC 4303, section 3.4.3): below it nothing is carried out any more.

use super::Node;
use super::write::{WriteFail, Written};
use crate::limits::{FORWARD_GRACE, FORWARDED_KEPT_MAX, FORWARDERS_FORGOTTEN_AFTER, FORWARDERS_MAX};
use crate::peer::CallError;
use crate::world::World;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::Shared;
use ring::ids::NodeId;
use ring::planted::{self, Bug};
use ring::time::Time;
use ring::wire::peer::{Answer, Ask, Forward, Message, Refusal, WriteAsk};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// The answer to a write, for all who wait for it.
type Awaited = Shared<oneshot::Receiver<Written>>;

/// The writes that others have handed to this node lately, by the life of the process that did.
#[derive(Default)]
pub struct Forwarded {
    windows: BTreeMap<(NodeId, u64), Window>,
    /// Whether any window was dropped: then a process that has none may have had one.
    has_dropped: bool,
}

/// Those of one process.
struct Window {
    /// When the last one came.
    heard: Time,
    /// All below were forgotten.
    forgotten: u64,
    answers: BTreeMap<u64, Awaited>,
}

/// What is to be done with a write that was handed over.
enum Admitted {
    /// It was carried out, or is being, or was refused.
    Known(Awaited),
    /// It is to be carried out, and the answer given here.
    New(oneshot::Sender<Written>, Awaited),
}

impl Forwarded {
    fn known(&self, from: NodeId, forward: &Forward) -> Option<Awaited> {
        let window = self.windows.get(&(from, forward.life))?;
        window.answers.get(&forward.number).filter(|_| !planted::is(Bug::ForwardTwice)).cloned()
    }

    /// Finds a write, or takes it up.
    fn admit(&mut self, from: NodeId, forward: &Forward, now: Time) -> Result<Admitted, Refusal> {
        if let Some(known) = self.known(from, forward) {
            return Ok(Admitted::Known(known));
        }
        let window = self.windows.get_mut(&(from, forward.life));
        let may_have_been = match &window {
            Some(window) => forward.number < window.forgotten,
            None => forward.again && self.has_dropped,
        };
        if may_have_been {
            return Err(not_known());
        }
        let window = match window {
            Some(window) => window,
            None => self.begin_window(from, forward.life, now),
        };
        let (answer, wait) = oneshot::channel();
        let wait = wait.shared();
        window.heard = now;
        window.answers.insert(forward.number, wait.clone());
        while window.answers.len() > FORWARDED_KEPT_MAX {
            let (oldest, _) = window.answers.pop_first().expect("it holds more than some");
            window.forgotten = oldest + 1;
        }
        Ok(Admitted::New(answer, wait))
    }

    /// One more process hands its writes over. Those from which nothing has come for long are dropped, and if there are too many, the one
    /// from which nothing has come for longest. They may still come back: a machine that slept does not know for how long.
    fn begin_window(&mut self, from: NodeId, life: u64, now: Time) -> &mut Window {
        let before = self.windows.len();
        self.windows.retain(|_, window| now - window.heard < FORWARDERS_FORGOTTEN_AFTER);
        if self.windows.len() >= FORWARDERS_MAX
            && let Some(unheard) =
                self.windows.iter().min_by_key(|(_, window)| window.heard).map(|(name, _)| *name)
        {
            self.windows.remove(&unheard);
        }
        self.has_dropped |= self.windows.len() < before;
        let window = || Window { heard: now, forgotten: 0, answers: BTreeMap::new() };
        self.windows.entry((from, life)).or_insert_with(window)
    }

    /// What is refused stays refused: who hears that nothing was done asks another one.
    pub(crate) fn refuse(&mut self, from: NodeId, forward: &Forward, refusal: Refusal, now: Time) {
        if let Ok(Admitted::New(answer, _)) = self.admit(from, forward, now) {
            let _ = answer.send(Err(WriteFail::Refused(refusal)));
        }
    }
}

impl<W: World> Node<W> {
    /// Asks a node to coordinate; `None` if it surely did nothing and another may be asked.
    pub(super) async fn forward(
        &self,
        owner: NodeId,
        ask: &WriteAsk,
        body: &Bytes,
        full: &mut Option<Refusal>,
    ) -> Option<Written> {
        let until = self.now() + Duration::from_millis(u64::from(ask.timeout_ms)) + FORWARD_GRACE;
        let call = |head| self.ask(owner, Message { head, body: body.clone() }, until - self.now());
        // An answer with the record would have to be remembered with it, and that may have megabytes.
        let Some(boot) = self.pool.boot_of(owner).filter(|_| !ask.return_record) else {
            return taken(call(Ask::Write(ask.clone())).await, full);
        };
        let number = self.forwards.fetch_add(1, Ordering::Relaxed);
        let mut forward = Forward { life: self.boot_id, number, boot, again: false, write: ask.clone() };
        match call(Ask::Forward(forward.clone())).await {
            // An earlier version knows no names, and has done nothing.
            Ok(Message { head: Answer::Refused(Refusal::Malformed(_)), .. }) => {
                taken(call(Ask::Write(ask.clone())).await, full)
            }
            Err(CallError::Lost) if self.now() < until => {
                forward.again = true;
                let left = (until - self.now()).saturating_sub(FORWARD_GRACE);
                forward.write.timeout_ms =
                    u32::try_from(left.as_millis()).map_or(ask.timeout_ms, |left| left.max(1));
                Some(match call(Ask::Forward(forward)).await {
                    // One of an earlier version has started in its place.
                    Ok(Message { head: Answer::Refused(Refusal::Malformed(_)), .. }) => Err(WriteFail::Lost),
                    // Where nothing is done now, it may have been done before.
                    again => taken(again, full).unwrap_or(Err(WriteFail::Lost)),
                })
            }
            answer => taken(answer, full),
        }
    }

    /// Coordinates what another node hands over, once for each name. Between taking a name up and deciding about it nothing is awaited: a
    /// connection that ends there would leave a name without an answer.
    pub(super) async fn answer_forward(
        &self,
        from: NodeId,
        mut forward: Forward,
        body: Bytes,
        refused: impl Future<Output = Option<Refusal>>,
    ) -> Message<Answer> {
        if forward.again && forward.boot != self.boot_id {
            return Message::of(Answer::Refused(not_known()));
        }
        let known = self.lock_forwarded().known(from, &forward);
        let wait = match known {
            Some(wait) => wait,
            None => {
                let refused = refused.await.or_else(|| self.objects_to_writes());
                let admitted = self.lock_forwarded().admit(from, &forward, self.now());
                match (admitted, refused) {
                    (Ok(Admitted::Known(wait)), _) => wait,
                    (Ok(Admitted::New(answer, wait)), Some(refusal)) => {
                        let _ = answer.send(Err(WriteFail::Refused(refusal)));
                        wait
                    }
                    (Ok(Admitted::New(answer, wait)), None) => {
                        forward.write.return_record = false;
                        self.begin_write(forward.write, body, answer);
                        wait
                    }
                    (Err(not_known), _) => return Message::of(Answer::Refused(not_known)),
                }
            }
        };
        said(wait.await.unwrap_or(Err(WriteFail::Lost)))
    }

    /// The same for what has no name.
    pub(super) async fn answer_write(&self, ask: WriteAsk, body: Bytes) -> Message<Answer> {
        match self.objects_to_writes() {
            Some(refusal) => Message::of(Answer::Refused(refusal)),
            None => said(self.coordinate(ask, body).await),
        }
    }

    fn objects_to_writes(&self) -> Option<Refusal> {
        if self.is_draining() {
            return Some(Refusal::Draining);
        }
        if let Some(objection) = self.objection() {
            return Some(Refusal::Unavailable(objection.into()));
        }
        self.is_joining().then(|| Refusal::Unavailable("this node is being filled".into()))
    }

    pub(crate) fn lock_forwarded(&self) -> MutexGuard<'_, Forwarded> {
        self.forwarded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// No other refusal says that something may have been done.
fn not_known() -> Refusal {
    Refusal::Disk("whether this write was carried out is not known".into())
}

/// What a coordinator says to who handed the write over.
fn said(written: Written) -> Message<Answer> {
    let refusal = match written {
        Ok(written) => return Message { head: Answer::Written(written.head), body: written.body },
        Err(WriteFail::Refused(refusal)) => refusal,
        Err(WriteFail::TimedOut) => Refusal::Disk("it did not answer in time".into()),
        Err(WriteFail::Lost | WriteFail::Unreachable { .. }) => {
            Refusal::Disk("the write's task ended".into())
        }
    };
    Message::of(Answer::Refused(refusal))
}

/// What that means for the client; `None` if another may be asked.
fn taken(answer: Result<Message<Answer>, CallError>, full: &mut Option<Refusal>) -> Option<Written> {
    match answer {
        Ok(Message { head: Answer::Written(written), body }) => Some(Ok(Message { head: written, body })),
        Ok(Message { head: Answer::Refused(refusal), .. }) => {
            passes(refusal, full).map(|why| Err(WriteFail::Refused(why)))
        }
        Ok(_) => Some(Err(WriteFail::Lost)),
        Err(CallError::Unreachable | CallError::Refused(_) | CallError::Overloaded) => None,
        Err(CallError::Lost | CallError::TimedOut | CallError::TooLarge(_) | CallError::NotServed) => {
            Some(Err(WriteFail::Lost))
        }
    }
}

/// A coordinator did nothing, and says why. `None` if another might take the write; a lack of room is remembered, of the disk above all.
pub(super) fn passes(refusal: Refusal, full: &mut Option<Refusal>) -> Option<Refusal> {
    match refusal {
        Refusal::DiskFull => *full = Some(refusal),
        Refusal::HintsFull => *full = full.take().or(Some(refusal)),
        Refusal::Draining | Refusal::Unavailable(_) => {}
        other => return Some(other),
    }
    None
}

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
