//! Drives the GET machine: effects become calls, answers become events.

use super::Node;
use crate::limits::{READ_ALL_ONE_IN, REPLANS_MAX};
use crate::world::World;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use rand::RngExt;
use ring::bucket::{BucketSettings, Level};
use ring::causal::Context;
use ring::coord::ReadQuorum;
use ring::coord::get::{Effect, Event, Get, Held, Reply, Want};
use ring::ids::{NodeId, ObjectId};
use ring::planted::{self, Bug};
use ring::record::Record;
use ring::time::Time;
use ring::wire::peer::{Answer, Ask, Message, Refusal};
use ring::wire::record::{decode, digest, encode};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;

/// What a client wants to read.
#[derive(Debug, Clone)]
pub struct ReadAsk {
    /// The key.
    pub id: ObjectId,
    /// Overrides of the bucket's `r`.
    pub r: Option<Level>,
    /// Overrides of the bucket's `pr`.
    pub pr: Option<Level>,
    /// Overrides of the bucket's `sloppy`.
    pub sloppy: Option<bool>,
    /// What the answer must have seen.
    pub at_least: Option<Context>,
    /// How long it may take.
    pub timeout: Duration,
}

impl ReadAsk {
    /// A read by the bucket's settings.
    pub fn of(id: ObjectId, timeout: Duration) -> Self {
        ReadAsk { id, r: None, pr: None, sloppy: None, at_least: None, timeout }
    }
}

fn read_quorum(settings: &BucketSettings, ask: &ReadAsk, replicas: usize) -> ReadQuorum {
    ReadQuorum {
        r: ask.r.unwrap_or(settings.r).resolve(replicas).max(1),
        pr: ask.pr.unwrap_or(settings.pr).resolve(replicas),
        sloppy: ask.sloppy.unwrap_or(settings.sloppy),
    }
}

type Calls = FuturesUnordered<BoxFuture<'static, Event>>;

impl<W: World> Node<W> {
    /// A client's read. One that failed while the tables changed is tried again by the new ones.
    pub async fn read(&self, ask: ReadAsk) -> Reply {
        let until = self.now() + ask.timeout;
        for _ in 0..REPLANS_MAX {
            let regime = self.table_tag().digest;
            let reply = self.read_once(ReadAsk { timeout: until - self.now(), ..ask.clone() }).await;
            let failed = matches!(reply, Reply::TooFew { .. }) && self.now() < until;
            if !failed || self.table_tag().digest == regime {
                return reply;
            }
        }
        self.read_once(ReadAsk { timeout: until - self.now(), ..ask }).await
    }

    async fn read_once(&self, ask: ReadAsk) -> Reply {
        let (answer, wait) = oneshot::channel();
        let node = self.clone();
        // A task of its own: the driver goes on after the answer, where late replicas may need repair.
        tokio::spawn(async move { node.drive_read(ask, answer).await });
        wait.await.unwrap_or(Reply::TooFew { need: 1, have: 0, timed_out: false })
    }

    async fn drive_read(&self, ask: ReadAsk, answer: oneshot::Sender<Reply>) {
        let _work = self.begin_work();
        let mut answer = Some(answer);
        let snapshot = self.cluster.snapshot();
        let plan = self.cluster.plan(&snapshot, &ask.id);
        let quorum = read_quorum(snapshot.settings(ask.id.bucket()), &ask, plan.owners.len());
        drop(snapshot);
        let ask_all = self.one_in(READ_ALL_ONE_IN);
        let (now, mut effects, mut calls) = (self.now(), Vec::new(), Calls::new());
        let deadline = now + ask.timeout;
        let want = Want { quorum, at_least: ask.at_least, ask_all };
        let mut get = Get::start(plan, want, now, deadline, &mut effects);
        loop {
            while let Some(effect) = effects.pop() {
                match effect {
                    Effect::Read { from, record } if from == self.id() => {
                        let event = self.read_here(&ask.id, record);
                        get.on(event, &mut effects);
                    }
                    Effect::Read { from, record } => {
                        calls.push(self.read_there(from, &ask.id, record, ask.timeout))
                    }
                    Effect::Repair { to, record } => {
                        calls.push(self.repair(to, &ask.id, &record, ask.timeout))
                    }
                    Effect::Reply(reply) => {
                        if let Some(answer) = answer.take() {
                            let _ = answer.send(reply);
                        }
                    }
                }
            }
            if get.is_done() && calls.is_empty() {
                return;
            }
            let event = self.next_event(&mut calls, get.deadline()).await;
            get.on(event, &mut effects);
        }
    }

    async fn next_event(&self, calls: &mut Calls, tick: Option<Time>) -> Event {
        let span = tick.map_or(Duration::MAX, |at| at - self.now());
        tokio::select! {
            biased;
            Some(event) = calls.next(), if !calls.is_empty() => event,
            () = tokio::time::sleep(span), if tick.is_some() => Event::Tick { now: self.now() },
        }
    }

    fn one_in(&self, n: u32) -> bool {
        self.rng.lock().unwrap_or_else(std::sync::PoisonError::into_inner).random_range(0..n) == 0
    }

    fn read_here(&self, id: &ObjectId, record: bool) -> Event {
        let by = self.id();
        match self.held(id, record) {
            Ok((held, _)) => Event::Found { by, held },
            Err(_) => Event::Failed { by },
        }
    }

    /// Whether this node may lack what it ought to know of a key: it has no part in the settled table, or is just taking the
    /// key's partition over.
    pub(super) fn lacks(&self, id: &ObjectId) -> bool {
        let snapshot = self.cluster.snapshot();
        let n = usize::from(snapshot.settings(id.bucket()).n);
        let (me, partition) = (self.id(), snapshot.table.partition_of(id));
        let takes_over =
            || snapshot.regime.target.as_ref().is_some_and(|t| t.owners(partition, n).contains(&me));
        !snapshot.table.nodes().contains(&me)
            || (!snapshot.table.owners(partition, n).contains(&me) && takes_over())
    }

    /// The own copy, for a coordinator here or elsewhere; damaged or half-filled copies answer nothing at all.
    pub(crate) fn held(&self, id: &ObjectId, record: bool) -> Result<(Held, Bytes), Refusal> {
        if let Some(objection) = self.past.objection() {
            return Err(Refusal::Unavailable(objection.into()));
        }
        if self.lacks(id) && !planted::is(Bug::ReadsTarget) {
            return Err(Refusal::Unavailable("this node is being filled".into()));
        }
        if self.gaps.has(id) {
            let why = "this node's copy was spoiled, and not every other owner has said yet what he has";
            return Err(Refusal::Unavailable(why.into()));
        }
        let held = if record { self.held_whole(id) } else { self.held_digest(id) };
        if held.is_err() {
            self.suspects.add(id);
        }
        held
    }

    fn held_digest(&self, id: &ObjectId) -> Result<(Held, Bytes), Refusal> {
        let Some(bytes) = self.whole(id)? else { return Ok((Held::Absent, Bytes::new())) };
        Ok((Held::Digest(digest(&bytes)), bytes))
    }

    fn held_whole(&self, id: &ObjectId) -> Result<(Held, Bytes), Refusal> {
        let Some(bytes) = self.local(id)? else { return Ok((Held::Absent, Bytes::new())) };
        let hash = digest(&bytes);
        let decoded = decode(&bytes).map_err(|e| Refusal::Unavailable(e.to_string()))?;
        Ok((Held::Record(hash, Arc::new(decoded)), bytes))
    }

    fn read_there(
        &self,
        from: NodeId,
        id: &ObjectId,
        record: bool,
        timeout: Duration,
    ) -> BoxFuture<'static, Event> {
        let (node, id) = (self.clone(), id.clone());
        Box::pin(async move {
            let answer = node.ask(from, Message::of(Ask::Read { id, record }), timeout).await;
            let held = match answer {
                Ok(Message { head: Answer::Absent, .. }) => Some(Held::Absent),
                Ok(Message { head: Answer::Held(hash), body }) if record => {
                    // The digest names the bytes; bytes that were damaged on their way don't match it.
                    decode(&body)
                        .ok()
                        .filter(|_| digest(&body) == hash)
                        .map(|r| Held::Record(hash, Arc::new(r)))
                }
                Ok(Message { head: Answer::Held(hash), .. }) => Some(Held::Digest(hash)),
                Ok(Message { head: Answer::Refused(Refusal::StaleTables), .. }) => {
                    // The read fails here or succeeds elsewhere; the next one is to know better.
                    crate::duty::gossip::exchange(&node, from).await;
                    None
                }
                _ => None,
            };
            held.map_or(Event::Failed { by: from }, |held| Event::Found { by: from, held })
        })
    }

    fn repair(
        &self,
        to: NodeId,
        id: &ObjectId,
        record: &Arc<Record>,
        timeout: Duration,
    ) -> BoxFuture<'static, Event> {
        let (node, id, body) = (self.clone(), id.clone(), encode(record));
        self.read_repairs.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            match node.store_at(to, id, body, timeout).await {
                Ok(_) => Event::Repaired { by: to },
                Err(_) => Event::Failed { by: to },
            }
        })
    }

    /// Merges a record into a node's copy, this one's included; answers whether it is durable there. What a removed node holds is
    /// nobody's copy any more, and goes to no other in this way, also if that one has not heard of it.
    pub(crate) async fn store_at(
        &self,
        to: NodeId,
        id: ObjectId,
        body: Bytes,
        timeout: Duration,
    ) -> Result<bool, Refusal> {
        if to == self.id() {
            return self.merge_here(id, body, None, true).await;
        }
        if self.cluster.snapshot().is_removed(self.id()) {
            return Err(Refusal::Unavailable(super::REMOVED.into()));
        }
        let head = Ask::Store { id, hint_for: None, sync: true };
        match self.ask(to, Message { head, body }, timeout).await {
            Ok(Message { head: Answer::Stored { durable }, .. }) => Ok(durable),
            Ok(Message { head: Answer::Refused(refusal), .. }) => Err(refusal),
            _ => Err(Refusal::Unavailable(format!("{to} does not answer"))),
        }
    }
}
