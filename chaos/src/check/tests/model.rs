//! A cluster of three replicas in memory that keeps every promise, unless one fault is planted in it.
//!
//! ```text
//!   request ─► replica of that URL: a clock of dots and the siblings, by the rules of the protocol
//!                 now and then two replicas merge; requests are refused, lost, carried out unheard, or late
//!   calm()    ─► what is late arrives, all replicas merge, nothing fails any more
//! ```
//!
//! It is as lax as a real cluster may be: an acknowledged write is at one replica only, a plain read shows what that replica
//! has, and a read with a minimum waits or fails. So a checker that cries wolf about any of that is found out here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use client::{FailureKind, HttpTransport, Method, Request, Response, TransportError};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// What the model does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// An acknowledged write is not kept.
    LoseWrite,
    /// A write takes away what its writer had not seen.
    LastWriterWins,
    /// A value that was superseded is back in the end.
    Revive,
    /// A deletion is acknowledged and not done.
    ForgetDelete,
    /// A read shows a changed byte.
    FlipBit,
    /// A read shows another key's value.
    OtherValue,
    /// A write that was refused is done all the same.
    ApplyRefused,
    /// A read does not care what it must have seen.
    IgnoreMin,
    /// A read that insists on a majority asks one replica.
    ReadOne,
    /// A write leaves what its writer had seen beside it.
    KeepCovered,
    /// Siblings have no limit.
    NoLimit,
    /// Values end before their time.
    EndEarly,
    /// Values are shown after their time.
    EndLate,
    /// A change of a cart is acknowledged and not kept.
    LoseAdd,
    /// A change of a cart counts twice.
    DoubleAdd,
    /// A removal takes what its sender had not seen.
    RemoveUnseen,
    /// A removal is acknowledged and not done.
    ForgetRemove,
    /// Sums below 0 are shown.
    ShowNegative,
    /// A receipt admits that too few have the write.
    ShortReceipt,
    /// What arrives late reaches one replica only.
    Diverge,
}

/// One in so many chances to do wrong is taken.
const STRIKE_OF: u32 = 8;
const REPLICAS: usize = 3;

type Id = (String, String);

#[derive(Clone)]
pub(super) struct Model {
    state: Arc<Mutex<State>>,
}

struct State {
    rng: StdRng,
    started: Instant,
    replicas: Vec<BTreeMap<Id, Record>>,
    /// The dot of each operation of a cart that was carried out.
    ops: BTreeMap<String, u64>,
    limits: BTreeMap<String, usize>,
    /// Buckets whose reads and writes insist on two replicas.
    strict: BTreeSet<String>,
    last_dot: u64,
    late: Vec<Request>,
    graves: Vec<(Id, u64, Content)>,
    fault: Option<Fault>,
    calm: bool,
}

#[derive(Clone, Default)]
struct Record {
    clock: BTreeSet<u64>,
    siblings: BTreeMap<u64, Content>,
}

#[derive(Clone)]
enum Content {
    Value { body: Bytes, until: Option<Duration> },
    Add { sku: String, quantity: i64 },
}

/// What becomes of a request.
enum Fortune {
    Heard,
    Refused,
    Lost,
    Unheard,
    Late,
}

impl Model {
    pub(super) fn new(seed: u64, fault: Option<Fault>) -> Self {
        let state = State {
            rng: StdRng::seed_from_u64(seed),
            started: Instant::now(),
            replicas: vec![BTreeMap::new(); REPLICAS],
            ops: BTreeMap::new(),
            limits: BTreeMap::new(),
            strict: BTreeSet::new(),
            last_dot: 0,
            late: Vec::new(),
            graves: Vec::new(),
            fault,
            calm: false,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    pub(super) fn urls() -> Vec<String> {
        (0..REPLICAS).map(|replica| format!("http://n{replica}")).collect()
    }

    /// Everything is well again.
    pub(super) fn calm(&self) {
        self.state().calm();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    async fn silence(&self, request: &Request) -> Result<Response, TransportError> {
        tokio::time::sleep(request.timeout * 2).await;
        Err(TransportError::new(FailureKind::Timeout, "nobody waits so long"))
    }
}

impl HttpTransport for Model {
    async fn send(&self, request: Request) -> Result<Response, TransportError> {
        let (before, after, fortune) = self.state().fortune();
        tokio::time::sleep(before).await;
        match fortune {
            Fortune::Heard => {
                let response = self.state().handle(&request);
                tokio::time::sleep(after).await;
                Ok(response)
            }
            Fortune::Refused => Ok(self.state().refuse(&request)),
            Fortune::Lost => self.silence(&request).await,
            Fortune::Unheard => {
                self.state().handle(&request);
                self.silence(&request).await
            }
            Fortune::Late => {
                self.state().late.push(request.clone());
                self.silence(&request).await
            }
        }
    }
}

impl State {
    fn fortune(&mut self) -> (Duration, Duration, Fortune) {
        let mut delay = || Duration::from_millis(self.rng.random_range(1..20));
        let (before, after) = (delay(), delay());
        let fortune = match self.rng.random_range(0..100) {
            _ if self.calm => Fortune::Heard,
            0..3 => Fortune::Refused,
            3 => Fortune::Lost,
            4..6 => Fortune::Unheard,
            6..8 => Fortune::Late,
            _ => Fortune::Heard,
        };
        (before, after, fortune)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// Whether to do wrong this time.
    fn strikes(&mut self, fault: Fault) -> bool {
        self.has(fault) && self.rng.random_range(0..STRIKE_OF) == 0
    }

    fn calm(&mut self) {
        for request in std::mem::take(&mut self.late) {
            self.carry_out(&request);
        }
        self.calm = true;
        if self.has(Fault::Diverge) {
            return;
        }
        for _ in 0..2 {
            for replica in 0..REPLICAS {
                self.pull(replica);
            }
        }
        if self.has(Fault::Revive) {
            for (id, dot, content) in std::mem::take(&mut self.graves).into_iter().step_by(5) {
                for replica in &mut self.replicas {
                    replica.entry(id.clone()).or_default().siblings.insert(dot, content.clone());
                }
            }
        }
    }

    /// One replica learns what all others have.
    fn pull(&mut self, replica: usize) {
        for other in 0..REPLICAS {
            self.merge(replica, other);
        }
    }

    fn merge(&mut self, into: usize, from: usize) {
        let theirs = self.replicas[from].clone();
        for (id, record) in theirs {
            let mine = self.replicas[into].entry(id).or_default();
            let (my_clock, their_clock) = (mine.clock.clone(), &record.clock);
            mine.siblings.retain(|dot, _| record.siblings.contains_key(dot) || !their_clock.contains(dot));
            let news = record.siblings.into_iter().filter(|(dot, _)| !my_clock.contains(dot));
            mine.siblings.extend(news);
            mine.clock.extend(their_clock);
        }
    }

    fn handle(&mut self, request: &Request) -> Response {
        if !self.calm && self.rng.random_range(0..3) == 0 {
            let (into, from) = (self.rng.random_range(0..REPLICAS), self.rng.random_range(0..REPLICAS));
            self.merge(into, from);
        }
        if !self.late.is_empty() && self.rng.random_range(0..10) == 0 {
            let late = self.late.remove(0);
            self.carry_out(&late);
        }
        let bucket = request.target.split('/').nth(3).unwrap_or_default();
        if !self.strict.contains(bucket) {
            return self.carry_out(request);
        }
        // Two of three: any two of them meet.
        let (here, other) = (self.replica(request), self.rng.random_range(1..REPLICAS));
        let other = (here + other) % REPLICAS;
        if request.method == Method::Get && !self.has(Fault::ReadOne) {
            self.merge(here, other);
        }
        let response = self.carry_out(request);
        if request.method != Method::Get {
            self.merge(other, here);
        }
        response
    }

    fn replica(&self, request: &Request) -> usize {
        request.base.strip_prefix("http://n").unwrap().parse().unwrap()
    }

    fn refuse(&mut self, request: &Request) -> Response {
        if self.has(Fault::ApplyRefused) {
            self.carry_out(request);
        }
        problem(503, "write_quorum_not_met")
    }

    fn carry_out(&mut self, request: &Request) -> Response {
        let replica = self.replica(request);
        let path = request.target.split('?').next().unwrap();
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let seen = |name: &str| {
            let header = request.headers.iter().find(|(candidate, _)| candidate == name)?;
            Some(dots(std::str::from_utf8(&header.1).unwrap()))
        };
        let (context, min) = (seen("cartwheel-context"), seen("cartwheel-min-context"));
        let id = |bucket: &str, key: &str| (bucket.to_owned(), key.to_owned());
        match (request.method, parts.as_slice()) {
            (Method::Patch, ["v1", "buckets", bucket]) => {
                let body: Value = serde_json::from_slice(&request.body).unwrap();
                if let Some(limit) = body["max_siblings"].as_u64() {
                    self.limits.insert((*bucket).to_owned(), limit as usize);
                }
                if body["pr"] == "quorum" && body["pw"] == "quorum" {
                    self.strict.insert((*bucket).to_owned());
                }
                response(204, Vec::new(), "")
            }
            (Method::Get, ["v1", "buckets", bucket]) => {
                let level = self.strict.contains(*bucket).then_some("quorum");
                let settings =
                    json!({ "max_siblings": self.limits.get(*bucket), "pr": level, "pw": level }).to_string();
                response(200, Vec::new(), settings)
            }
            (Method::Get, ["v1", "buckets", bucket, "keys", key]) => self.get(replica, &id(bucket, key), min),
            (Method::Put, ["v1", "buckets", bucket, "keys", key]) => {
                let ttl = request.headers.iter().find(|(name, _)| name == "cartwheel-ttl");
                let ttl = ttl.map(|(_, text)| std::str::from_utf8(text).unwrap().parse().unwrap());
                self.put(replica, &id(bucket, key), context, request.body.clone(), ttl)
            }
            (Method::Delete, ["v1", "buckets", bucket, "keys", key]) => {
                self.delete(replica, &id(bucket, key), context.expect("no workload deletes blindly"))
            }
            (Method::Get, ["v1", "carts", bucket, key]) => self.cart(replica, &id(bucket, key), min),
            (Method::Post, ["v1", "carts", bucket, key, "items"]) => {
                self.add(replica, &id(bucket, key), &serde_json::from_slice(&request.body).unwrap())
            }
            (Method::Put, ["v1", "carts", bucket, key, "items", sku]) => {
                let body: Value = serde_json::from_slice(&request.body).unwrap();
                let put = Some(((*sku).to_owned(), body["quantity"].as_i64().unwrap()));
                self.remove(replica, &id(bucket, key), context.unwrap(), Some(sku), put)
            }
            (Method::Delete, ["v1", "carts", bucket, key, "items", sku]) => {
                self.remove(replica, &id(bucket, key), context.unwrap(), Some(sku), None)
            }
            (Method::Delete, ["v1", "carts", bucket, key]) => {
                self.remove(replica, &id(bucket, key), context.unwrap(), None, None)
            }
            other => panic!("the model does not know {other:?}"),
        }
    }

    fn dot(&mut self) -> u64 {
        self.last_dot += 1;
        self.last_dot
    }

    /// The record as a read shows it; `None` if the minimum is not reached.
    fn look(&mut self, replica: usize, id: &Id, min: Option<BTreeSet<u64>>) -> Option<Record> {
        let record = self.replicas[replica].get(id).cloned().unwrap_or_default();
        let short = min.is_some_and(|min| !min.is_subset(&record.clock));
        if !short || self.has(Fault::IgnoreMin) {
            return Some(record);
        }
        if self.rng.random_range(0..4) == 0 {
            return None;
        }
        self.pull(replica);
        self.replicas[replica].get(id).cloned()
    }

    fn get(&mut self, replica: usize, id: &Id, min: Option<BTreeSet<u64>>) -> Response {
        let Some(record) = self.look(replica, id, min) else { return problem(504, "context_not_reached") };
        let mut bodies: Vec<Bytes> = self.live(&record).into_values().collect();
        if let Some(body) = bodies.first_mut() {
            if self.strikes(Fault::FlipBit) {
                let mut bytes = body.to_vec();
                let at = self.rng.random_range(0..bytes.len());
                bytes[at] ^= 4;
                *body = bytes.into();
            }
            if self.strikes(Fault::OtherValue) {
                let others = self.replicas[replica].iter().filter(|(other, _)| *other != id);
                let other = others.flat_map(|(_, record)| record.siblings.values()).next();
                if let Some(Content::Value { body: other, .. }) = other {
                    *body = other.clone();
                }
            }
        }
        let headers =
            if record.clock.is_empty() { vec![] } else { vec![("cartwheel-context", token(&record.clock))] };
        match bodies.as_slice() {
            [] => Response { headers: sent(headers), ..problem(404, "not_found") },
            [one] => response(200, headers, one.clone()),
            several => {
                let versions: Vec<Value> =
                    several.iter().map(|body| json!({ "value_base64": STANDARD.encode(body) })).collect();
                response(300, headers, json!({ "versions": versions }).to_string())
            }
        }
    }

    fn live(&self, record: &Record) -> BTreeMap<u64, Bytes> {
        let now = self.now();
        let lives = |until: &Option<Duration>| until.is_none_or(|until| now < until);
        let siblings = record.siblings.iter().filter_map(|(dot, content)| match content {
            Content::Value { body, until } if lives(until) => Some((*dot, body.clone())),
            _ => None,
        });
        siblings.collect()
    }

    fn put(
        &mut self,
        replica: usize,
        id: &Id,
        context: Option<BTreeSet<u64>>,
        body: Bytes,
        ttl: Option<u64>,
    ) -> Response {
        let mut seen = context.unwrap_or_default();
        let record = self.replicas[replica].entry(id.clone()).or_default().clone();
        let stay = record.siblings.keys().filter(|dot| !seen.contains(dot)).count();
        let limit = self.limits.get(&id.0).copied().unwrap_or(100);
        if stay >= limit && stay >= record.siblings.len() && !self.has(Fault::NoLimit) {
            return problem(422, "sibling_limit");
        }
        if self.strikes(Fault::LastWriterWins) {
            seen.extend(record.siblings.keys());
        }
        let dot = self.dot();
        let until = ttl.map(|seconds| {
            let ttl = Duration::from_secs(seconds);
            match self.fault {
                Some(Fault::EndEarly) => self.now() + ttl / 4,
                Some(Fault::EndLate) => self.now() + ttl + Duration::from_secs(2),
                _ => self.now() + ttl,
            }
        });
        let (keeps, loses) = (self.strikes(Fault::KeepCovered), self.strikes(Fault::LoseWrite));
        let record = self.replicas[replica].entry(id.clone()).or_default();
        let covered: Vec<u64> = record.siblings.keys().filter(|dot| seen.contains(dot)).copied().collect();
        for dot in covered.into_iter().filter(|_| !keeps) {
            let content = record.siblings.remove(&dot).unwrap();
            self.graves.push((id.clone(), dot, content));
        }
        record.clock.extend(&seen);
        record.clock.insert(dot);
        if !loses {
            record.siblings.insert(dot, Content::Value { body, until });
        }
        self.written(seen, dot)
    }

    fn delete(&mut self, replica: usize, id: &Id, seen: BTreeSet<u64>) -> Response {
        let dot = self.dot();
        if !self.strikes(Fault::ForgetDelete) {
            let record = self.replicas[replica].entry(id.clone()).or_default();
            let gone = record.siblings.extract_if(.., |dot, _| seen.contains(dot));
            self.graves.extend(gone.map(|(dot, content)| (id.clone(), dot, content)));
            record.clock.extend(&seen);
            record.clock.insert(dot);
        }
        self.written(seen, dot)
    }

    fn cart(&mut self, replica: usize, id: &Id, min: Option<BTreeSet<u64>>) -> Response {
        let Some(record) = self.look(replica, id, min) else { return problem(504, "context_not_reached") };
        if record.clock.is_empty() {
            return problem(404, "not_found");
        }
        let mut sums: BTreeMap<&str, i64> = BTreeMap::new();
        for content in record.siblings.values() {
            if let Content::Add { sku, quantity } = content {
                *sums.entry(sku).or_default() += quantity;
            }
        }
        sums.retain(|_, sum| *sum > 0 || (*sum < 0 && self.fault == Some(Fault::ShowNegative)));
        let items: Vec<Value> =
            sums.iter().map(|(sku, sum)| json!({ "sku": sku, "quantity": sum, "attributes": {} })).collect();
        let total: i64 = sums.values().sum();
        let context = token(&record.clock);
        let body = json!({ "id": id.1, "items": items, "total_quantity": total, "context": context });
        response(200, Vec::new(), body.to_string())
    }

    fn add(&mut self, replica: usize, id: &Id, change: &Value) -> Response {
        let (sku, op) = (change["sku"].as_str().unwrap().to_owned(), change["op_id"].as_str().unwrap());
        let mut quantity = change["quantity"].as_i64().unwrap();
        if let Some(dot) = self.ops.get(op).copied() {
            return self.written(BTreeSet::new(), dot);
        }
        let dot = self.dot();
        self.ops.insert(op.to_owned(), dot);
        let loses = self.strikes(Fault::LoseAdd);
        if self.strikes(Fault::DoubleAdd) {
            quantity *= 2;
        }
        let record = self.replicas[replica].entry(id.clone()).or_default();
        record.clock.insert(dot);
        if !loses {
            record.siblings.insert(dot, Content::Add { sku, quantity });
        }
        self.written(BTreeSet::new(), dot)
    }

    /// Removes what was seen of an item or of all, and puts a quantity in its place.
    fn remove(
        &mut self,
        replica: usize,
        id: &Id,
        seen: BTreeSet<u64>,
        of: Option<&str>,
        put: Option<(String, i64)>,
    ) -> Response {
        // What was seen and is not here yet must be removed as well; here it is fetched first.
        self.pull(replica);
        let (forgets, unseen) = (self.strikes(Fault::ForgetRemove), self.strikes(Fault::RemoveUnseen));
        let dot = self.dot();
        let record = self.replicas[replica].entry(id.clone()).or_default();
        if !forgets {
            record.siblings.retain(|dot, content| {
                let Content::Add { sku, .. } = content else { return true };
                !(of.is_none_or(|of| of == sku) && (unseen || seen.contains(dot)))
            });
        }
        record.clock.insert(dot);
        if let Some((sku, quantity)) = put {
            record.siblings.insert(dot, Content::Add { sku, quantity });
        }
        self.written(seen, dot)
    }

    fn written(&mut self, mut seen: BTreeSet<u64>, dot: u64) -> Response {
        seen.insert(dot);
        let acked = if self.strikes(Fault::ShortReceipt) { 1 } else { 2 };
        let receipt = format!("w=2;acked={acked};durable={acked};fallbacks=0;hints=0");
        response(204, vec![("cartwheel-context", token(&seen)), ("cartwheel-write", receipt)], "")
    }
}

fn token(clock: &BTreeSet<u64>) -> String {
    let dots: Vec<String> = clock.iter().map(u64::to_string).collect();
    dots.join(".")
}

fn dots(token: &str) -> BTreeSet<u64> {
    token.split('.').map(|dot| dot.parse().unwrap()).collect()
}

fn response(status: u16, headers: Vec<(&str, String)>, body: impl Into<Bytes>) -> Response {
    Response { status, headers: sent(headers), body: body.into() }
}

fn sent(headers: Vec<(&str, String)>) -> Vec<(String, Bytes)> {
    headers.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
}

/// Nothing was changed, and asking again is of no use.
fn problem(status: u16, code: &str) -> Response {
    let body =
        json!({ "status": status, "code": code, "detail": code, "outcome": "not_applied", "retry": "no" });
    response(status, Vec::new(), body.to_string())
}
