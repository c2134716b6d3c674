//! Drives the PUT machine: effects become calls, answers become events.
//!
//! The driver is a task of its own: it outlives the client's connection, so that late failures still leave hints.

use super::Node;
use super::forward::passes;
use super::work::Work;
use crate::cluster::Snapshot;
use crate::lane::{Job, Taken};
use crate::limits::{HAND_OVER_WITHIN, LOOK_WHO_IS_LATE_EVERY, REPLANS_MAX, RESENDS_MAX};
use crate::peer::CallError;
use crate::peer::frame::TableTag;
use crate::world::World;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use ring::bucket::{BucketSettings, Durability};
use ring::causal::Context;
use ring::coord::put::{Effect, Event, Put, Reply};
use ring::coord::{Outcome, Plan, WriteQuorum};
use ring::ids::{NodeId, ObjectId};
use ring::record::write::{CONTEXT_RUNS_MAX, Write};
use ring::wire::bytes::{Reader, put_context, read_context};
use ring::wire::peer::{Action, Answer, Ask, Message, QuorumAsk, Refusal, WriteAnswer, WriteAsk};
use ring::wire::record::encode;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep};

/// A write's answer: the receipt, and the coordinator's record if it was asked for.
pub type Written = Result<Message<WriteAnswer>, WriteFail>;

/// Why a write got no receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteFail {
    /// A replica refused it.
    Refused(Refusal),
    /// The coordinator was lost while it had the write: it may show up later.
    Lost,
    /// The coordinator's own disk did not answer in time: it may show up later.
    TimedOut,
    /// No replica could be reached; nothing was done.
    Unreachable {
        /// How many were needed.
        need: usize,
    },
}

/// What a request's levels mean for a bucket with so many replicas.
pub fn write_quorum(settings: &BucketSettings, ask: &QuorumAsk, replicas: usize) -> WriteQuorum {
    WriteQuorum {
        w: ask.w.unwrap_or(settings.w).resolve(replicas).max(1),
        pw: ask.pw.unwrap_or(settings.pw).resolve(replicas),
        dw: ask.dw.unwrap_or(settings.dw).resolve(replicas),
        sloppy: ask.sloppy.unwrap_or(settings.sloppy),
    }
}

/// The bytes of a context.
pub fn context_bytes(context: &Context) -> Bytes {
    let mut out = Vec::new();
    put_context(&mut out, context);
    Bytes::from(out)
}

/// A context from a peer.
pub fn context_from(bytes: &Bytes) -> Result<Context, Refusal> {
    read_context(&mut Reader::new(bytes.clone())).map_err(|e| Refusal::Malformed(e.to_string()))
}

impl<W: World> Node<W> {
    /// A client's write: coordinated here if this node owns the key, and by an owner otherwise.
    pub async fn write(&self, ask: WriteAsk, body: Bytes) -> Written {
        let snapshot = self.cluster.snapshot();
        let plan = self.cluster.plan(&snapshot, &ask.id);
        let may_coordinate = !self.is_joining() && self.objection().is_none();
        let owns = plan.owners.contains(&self.id()) && may_coordinate;
        // One whose disk is full says so to those who ask it (507): they know of others to ask. One that is spoiled all over
        // lets another owner take what it can't.
        if owns && !self.gaps.are_full() {
            return self.coordinate(ask, body).await;
        }
        let (is_doubted, is_late) =
            (|node: &NodeId| plan.doubted.contains(node), |node: &NodeId| plan.late.contains(node));
        let others = plan.owners.iter().filter(|owner| **owner != self.id());
        let (mut ready, mut rest): (Vec<NodeId>, Vec<NodeId>) =
            others.partition(|owner| !is_doubted(owner) && !is_late(owner));
        // What has been handed over to somebody is asked of nobody else: he had better be one who answers.
        ready.sort_by_key(|owner| self.pool.in_vain(*owner) >= HAND_OVER_WITHIN);
        // Why somebody did not take it who would, had he room for it.
        let mut full = None;
        if owns && let Some(written) = self.coordinate_or_pass(&ask, &body, &mut full).await {
            return written;
        }
        for owner in ready {
            if let Some(written) = self.forward(owner, &ask, &body, &mut full).await {
                return written;
            }
        }
        let quorum = write_quorum(snapshot.settings(ask.id.bucket()), &ask.quorum, plan.owners.len());
        let has_room = !self.crowded.load(Ordering::Relaxed) || matches!(ask.action, Action::Delete);
        if !has_room {
            full = Some(Refusal::DiskFull);
        }
        // Who leaves would have to hand on at once what it takes for others: somebody who stays stands in.
        let stands_in = quorum.sloppy && may_coordinate && has_room && !owns && !snapshot.leaves(self.id());
        if stands_in && let Some(written) = self.coordinate_or_pass(&ask, &body, &mut full).await {
            return written;
        }
        let stays = |node: &&NodeId| **node != self.id() && !is_doubted(node);
        rest.extend(plan.fallbacks.iter().filter(stays).filter(|_| quorum.sloppy));
        rest.sort_by_key(|node| (is_doubted(node), is_late(node)));
        for node in rest {
            if let Some(written) = self.forward(node, &ask, &body, &mut full).await {
                return written;
            }
        }
        Err(full.map_or(WriteFail::Unreachable { need: quorum.w }, WriteFail::Refused))
    }

    /// Coordinates here; `None` if that did nothing and another may be asked.
    async fn coordinate_or_pass(
        &self,
        ask: &WriteAsk,
        body: &Bytes,
        full: &mut Option<Refusal>,
    ) -> Option<Written> {
        match self.coordinate(ask.clone(), body.clone()).await {
            Err(WriteFail::Refused(refusal)) => passes(refusal, full).map(|why| Err(WriteFail::Refused(why))),
            written => Some(written),
        }
    }

    /// Asks a node something. Who has met nobody since his start meets the other one first: what he has to say may be old.
    pub(crate) async fn ask(
        &self,
        to: NodeId,
        message: Message<Ask>,
        deadline: Duration,
    ) -> Result<Message<Answer>, CallError> {
        self.ask_by(None, to, message, deadline).await
    }

    /// The same under the name of these tables, or of those of the moment when it goes out.
    async fn ask_by(
        &self,
        tables: Option<TableTag>,
        to: NodeId,
        message: Message<Ask>,
        deadline: Duration,
    ) -> Result<Message<Answer>, CallError> {
        let stands_alone = self.past.standing() == super::past::Standing::Alone;
        if stands_alone
            && super::serve::touches_copies(&message.head)
            && crate::duty::past::silence(self, to).await.is_some()
        {
            return Err(CallError::Unreachable);
        }
        let tables = tables.unwrap_or_else(|| self.table_tag());
        let answer = self.pool.call(to, tables, message.encode(), deadline).await?;
        Message::decode(&answer).map_err(|_| CallError::Lost)
    }

    /// Asks an owner or a stand-in to store a record, by the tables by which it was chosen. It may be asked twice: if the connection
    /// breaks before the answer, over the next one; and if this node turns out to act by older tables, when it has heard of the newer
    /// ones. An owner of before is not: by those it would take it, and count, though nobody reads there and it keeps no hint.
    async fn ask_to_store(
        &self,
        to: NodeId,
        ask: Message<Ask>,
        deadline: Duration,
        mut tables: TableTag,
    ) -> Result<Message<Answer>, CallError> {
        let until = self.now() + deadline;
        let (mut replans, mut resends) = (0, 0);
        loop {
            let answer = self.ask_by(Some(tables), to, ask.clone(), until - self.now()).await;
            match &answer {
                Ok(Message { head: Answer::Refused(Refusal::StaleTables), .. })
                    if replans < REPLANS_MAX && self.now() < until =>
                {
                    replans += 1;
                    crate::duty::gossip::exchange(self, to).await;
                }
                Err(CallError::Lost) if resends < RESENDS_MAX && self.now() < until => resends += 1,
                _ => return answer,
            }
            let snapshot = self.cluster.snapshot();
            let is_asked = match &ask.head {
                Ask::Store { id, hint_for: None, .. } => self.cluster.plan(&snapshot, id).concerns(to),
                _ => true,
            };
            if !is_asked {
                return answer;
            }
            tables = tag_of(&snapshot);
        }
    }

    /// The name of the tables by which this node acts.
    pub(crate) fn table_tag(&self) -> TableTag {
        tag_of(&self.cluster.snapshot())
    }

    /// Coordinates a write here.
    pub(crate) async fn coordinate(&self, ask: WriteAsk, body: Bytes) -> Written {
        let (answer, wait) = oneshot::channel();
        self.begin_write(ask, body, answer);
        wait.await.unwrap_or(Err(WriteFail::Lost))
    }

    /// The same for somebody who waits elsewhere.
    pub(super) fn begin_write(&self, ask: WriteAsk, body: Bytes, answer: oneshot::Sender<Written>) {
        let seen = match ask.seen.as_ref().map(context_from).transpose() {
            Ok(seen) => seen,
            Err(refusal) => {
                let _ = answer.send(Err(WriteFail::Refused(refusal)));
                return;
            }
        };
        let snapshot = self.cluster.snapshot();
        let plan = self.own_plan(&snapshot, &ask.id);
        let settings = snapshot.settings(ask.id.bucket());
        let quorum = write_quorum(settings, &ask.quorum, plan.owners.len());
        let write = Write {
            action: ask.action,
            body,
            seen,
            ttl_default: settings.ttl_seconds.map(Duration::from_secs),
            blind: settings.blind_writes,
            siblings_max: settings.max_siblings as usize,
            context_runs_max: CONTEXT_RUNS_MAX,
        };
        let drive = Drive {
            node: self.clone(),
            id: ask.id,
            quorum,
            sync: settings.durability == Durability::Fsync || quorum.dw > 0,
            timeout: Duration::from_millis(u64::from(ask.timeout_ms)),
            return_record: ask.return_record,
            answer: Some(answer),
            taken: None,
            replicate: Bytes::new(),
            tables: tag_of(&snapshot),
            _work: self.begin_work(),
        };
        tokio::spawn(drive.run(plan, write));
    }

    /// Whom a write concerns that this node coordinates.
    fn own_plan(&self, snapshot: &Snapshot, id: &ObjectId) -> Plan {
        let mut plan = self.cluster.plan(snapshot, id);
        // Far down the walk a node is not even a fallback; it stands in all the same.
        if ![&plan.owners, &plan.pending, &plan.fallbacks].iter().any(|nodes| nodes.contains(&self.id())) {
            plan.fallbacks.push(self.id());
        }
        plan
    }
}

/// What tables are called between nodes.
fn tag_of(snapshot: &Snapshot) -> TableTag {
    let name = snapshot.regime.name();
    TableTag { counter: name.counter, digest: name.digest }
}

/// Awaits some work however long it takes, and says when it takes too long. A client need not wait for a disk that hangs;
/// what the disk says later still goes to the others.
async fn to_its_end<T>(work: impl Future<Output = T>, clock: &mut Clock<'_>, late: impl FnOnce()) -> T {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => return done,
        () = clock.deadline() => late(),
    }
    work.await
}

/// The one timer of a write. It goes off now and then before the time is up, to look who is late by then. To be told of each change at
/// once every write would have to wait for two things, and nearly all of them are answered before it goes off at all.
struct Clock<'a> {
    sleep: Pin<&'a mut Sleep>,
    deadline: Instant,
}

impl<'a> Clock<'a> {
    /// Of one that sleeps until the time is up.
    fn new(mut sleep: Pin<&'a mut Sleep>, timeout: Duration) -> Clock<'a> {
        let deadline = sleep.deadline();
        sleep.as_mut().reset(deadline - timeout.saturating_sub(LOOK_WHO_IS_LATE_EVERY));
        Clock { sleep, deadline }
    }

    /// Waits until it goes off, and says whether the time is up.
    async fn tick(&mut self) -> bool {
        self.sleep.as_mut().await;
        let is_up = self.sleep.deadline() >= self.deadline;
        if !is_up {
            let next = self.sleep.deadline() + LOOK_WHO_IS_LATE_EVERY;
            self.sleep.as_mut().reset(self.deadline.min(next));
        }
        is_up
    }

    async fn deadline(&mut self) {
        while !self.tick().await {}
    }
}

/// One write on its way.
struct Drive<W: World> {
    node: Node<W>,
    id: ObjectId,
    quorum: WriteQuorum,
    sync: bool,
    timeout: Duration,
    return_record: bool,
    answer: Option<oneshot::Sender<Written>>,
    taken: Option<Taken>,
    replicate: Bytes,
    /// The tables by which it goes on.
    tables: TableTag,
    /// It holds the record until the last replica has it.
    _work: Work<W>,
}

impl<W: World> Drive<W> {
    async fn run(mut self, plan: Plan, write: Write) {
        let sleep = std::pin::pin!(sleep(self.timeout));
        let mut clock = Clock::new(sleep, self.timeout);
        let mut effects = Vec::new();
        let mut put = Put::start(plan, self.quorum, &mut effects);
        let Some(Effect::StoreHere { hint_for }) = effects.pop() else {
            unreachable!("a put begins by storing here")
        };
        let mut answer = self.answer.take();
        let too_slow = || {
            if let Some(client) = answer.take() {
                let _ = client.send(Err(WriteFail::TimedOut));
            }
        };
        let stored = to_its_end(self.store_here(write, hint_for), &mut clock, too_slow).await;
        self.answer = answer;
        match stored {
            Ok(durable) => {
                if !self.catch_up(&mut put, &mut effects) {
                    return;
                }
                put.on(Event::StoredHere { durable }, &mut effects);
            }
            Err(refusal) => {
                // What the lane refuses was not written, or the node is about to leave; nothing was sent.
                self.say(Err(WriteFail::Refused(refusal)));
                return;
            }
        }
        let mut calls: FuturesUnordered<BoxFuture<'static, Option<Event>>> = FuturesUnordered::new();
        loop {
            for effect in effects.drain(..) {
                match effect {
                    Effect::StoreHere { .. } => unreachable!("the own record is stored once"),
                    Effect::Store { to, hint_for } => calls.push(self.send(to, hint_for)),
                    Effect::KeepHint { owner } => calls.push(self.keep_hint(owner)),
                    Effect::Reply(reply) => self.reply(reply),
                }
            }
            if put.is_done() && calls.is_empty() {
                return;
            }
            let event = tokio::select! {
                biased;
                event = calls.next(), if !calls.is_empty() => event.flatten(),
                is_up = clock.tick(), if self.answer.is_some() => Some(match is_up {
                    true => Event::TimedOut,
                    false => Event::Late(self.node.cluster.late().iter().copied().collect()),
                }),
            };
            if let Some(event) = event {
                if !self.catch_up(&mut put, &mut effects) {
                    return;
                }
                put.on(event, &mut effects);
            }
        }
    }

    /// Nothing counts before the write goes by the tables of this moment: a yes may have been given by newer ones. By these this node
    /// may have been removed. Then its own copy counts for nothing, and what is in it besides this write may have been deleted and
    /// forgotten, so the write ends here: its outcome is not known, and the copy is compared like all others. Whether it goes on.
    fn catch_up(&mut self, put: &mut Put, effects: &mut Vec<Effect>) -> bool {
        let snapshot = self.node.cluster.snapshot();
        let now = tag_of(&snapshot);
        if now.digest != self.tables.digest {
            self.tables = now;
            put.on(Event::Replanned(self.node.own_plan(&snapshot, &self.id)), effects);
        }
        !snapshot.is_removed(self.node.id())
    }

    async fn store_here(&mut self, write: Write, hint_for: Option<NodeId>) -> Result<bool, Refusal> {
        let (id, sync, now) = (self.id.clone(), self.sync, self.node.wall());
        let since = self.node.now();
        let taken = self
            .node
            .lane
            .run(|reply| Job::Coordinate { id, write: Box::new(write), now, hint_for, sync, reply })
            .await?;
        self.node.pace.wrote(self.node.now() - since);
        if hint_for.is_some() {
            self.node.hints_written.fetch_add(1, Ordering::Relaxed);
        }
        self.replicate = encode(&taken.replicate);
        let durable = taken.durable;
        self.taken = Some(taken);
        Ok(durable)
    }

    fn send(&self, to: NodeId, hint_for: Option<NodeId>) -> BoxFuture<'static, Option<Event>> {
        let (node, timeout) = (self.node.clone(), self.timeout);
        let head = Ask::Store { id: self.id.clone(), hint_for, sync: self.sync };
        let message = Message { head, body: self.replicate.clone() };
        let tables = self.tables;
        Box::pin(async move {
            let answer = node.ask_to_store(to, message, timeout, tables).await;
            Some(match answer {
                Ok(Message { head: Answer::Stored { durable }, .. }) => Event::Stored { by: to, durable },
                _ => Event::Failed { by: to },
            })
        })
    }

    fn keep_hint(&self, owner: NodeId) -> BoxFuture<'static, Option<Event>> {
        let (node, id) = (self.node.clone(), self.id.clone());
        let partition = node.cluster.snapshot().table.partition_of(&id);
        Box::pin(async move {
            let now = node.wall();
            match node.lane.run(|reply| Job::KeepHint { id, owner, now, reply }).await {
                Ok(true) => drop(node.hints_written.fetch_add(1, Ordering::Relaxed)),
                // There was no room, and the lane has said so.
                Ok(false) => {}
                Err(refusal) => {
                    tracing::warn!(%owner, %refusal, "a hint could not be kept: its partition is compared instead");
                    node.lock_hints().drop_one(partition);
                }
            }
            None
        })
    }

    fn reply(&mut self, reply: Reply) {
        let taken = self.taken.as_ref().expect("a reply follows the own store");
        let body = if self.return_record { encode(&taken.record) } else { Bytes::new() };
        let head = WriteAnswer {
            outcome: reply.outcome,
            timed_out: reply.timed_out,
            quorum: self.quorum,
            acked: reply.tally.all,
            owners: reply.tally.owners,
            durable: reply.tally.durable,
            fallbacks: reply.fallbacks,
            hints: reply.hints,
            context: context_bytes(&taken.context),
            dots: taken.dots.clone(),
            siblings: taken.record.versions(self.node.wall()).count(),
        };
        assert!(head.outcome != Outcome::NotApplied, "the own record is stored");
        self.say(Ok(Message { head, body }));
    }

    fn say(&mut self, written: Written) {
        if let Some(answer) = self.answer.take() {
            // A client that has left does not hear it; the write goes on.
            let _ = answer.send(written);
        }
    }
}

#[cfg(test)]
#[path = "write_tests.rs"]
mod tests;
