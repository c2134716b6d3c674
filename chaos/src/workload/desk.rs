//! One client of a workload: the real client library, and a line in the history for everything that it does.
//!
//! A client has a home node and mostly stays there; now and then it asks another, or leaves the choice to the library,
//! which then goes on to the next node by itself. After a failure it moves on. All of that is drawn from the client's own
//! chance, so what it asks next follows from its seed and from what it was answered.

use super::{Ground, Plan, body};
use crate::history::{Answer, Call, History, Item, OpId, Reading, Shown, Value, Why};
use client::{
    Client, Context, Error, HttpTransport, ItemChange, Object, Outcome, ReadOptions, WriteOptions, Written,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::ops::Range;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// A context, and the operation whose answer brought it.
#[derive(Debug, Clone)]
pub(super) struct Token {
    from: OpId,
    context: Context,
}

/// What a read showed.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) token: Option<Token>,
    pub(super) values: Vec<Value>,
    pub(super) items: Vec<Item>,
}

/// What became of a write.
#[derive(Debug)]
pub(super) enum Done {
    /// It was acknowledged.
    Ok(Option<Token>),
    /// Nothing changed; the code says why.
    Failed(String),
    /// It may have been done.
    Unknown,
}

/// What became of a read.
#[derive(Debug)]
pub(super) enum Unread {
    /// The node has not seen the context that was asked for, and did not come to see it.
    NotReached,
    /// Anything else.
    Other,
}

pub(super) struct Desk<T> {
    pub(super) client: u32,
    pub(super) rng: StdRng,
    nodes: Vec<(String, Client<T>)>,
    any: Client<T>,
    ground: Ground<T>,
    /// How many newcomers are among the nodes.
    caught_up: usize,
    home: usize,
    history: History,
    bucket: String,
    value_bytes: usize,
    think: Range<Duration>,
    stray_of: u32,
}

fn dial<T: HttpTransport + Clone>(ground: &Ground<T>, urls: Vec<String>) -> client::Result<Client<T>> {
    let client = Client::with_transport(urls, ground.transport.clone())?;
    Ok(client.with_attempt_timeout(ground.attempt_timeout))
}

impl<T: HttpTransport + Clone> Desk<T> {
    pub(super) fn new(
        plan: &Plan,
        ground: &Ground<T>,
        client: u32,
        rng: &mut StdRng,
    ) -> client::Result<Self> {
        let one = |url: &String| Ok((url.clone(), dial(ground, vec![url.clone()])?));
        let nodes: client::Result<Vec<_>> = ground.urls.iter().map(one).collect();
        Ok(Self {
            client,
            rng: StdRng::seed_from_u64(rng.random()),
            nodes: nodes?,
            any: dial(ground, ground.urls.clone())?,
            ground: ground.clone(),
            caught_up: 0,
            home: client as usize % ground.urls.len(),
            history: ground.history.clone(),
            bucket: plan.bucket.clone(),
            value_bytes: plan.value_bytes,
            think: plan.think.clone(),
            stray_of: plan.stray_of,
        })
    }

    /// Rests for a while, as people do before they act on what they see.
    pub(super) async fn ponder(&mut self) {
        let think = self.rng.random_range(self.think.start..=self.think.end);
        tokio::time::sleep(think).await;
    }

    pub(super) fn now(&self) -> Duration {
        self.history.now()
    }

    /// True once in so many times.
    pub(super) fn once_in(&mut self, times: u32) -> bool {
        self.rng.random_range(0..times) == 0
    }

    /// Reads an object as part of the load.
    pub(super) async fn get(&mut self, key: &str, min: Option<&Token>) -> Result<Seen, Unread> {
        let (name, client) = self.choose();
        self.get_from(&name, &client, key, min, Reading::Load).await
    }

    /// Reads a cart as part of the load.
    pub(super) async fn cart(&mut self, key: &str, min: Option<&Token>) -> Result<Seen, Unread> {
        let (name, client) = self.choose();
        self.cart_from(&name, &client, key, min, Reading::Load).await
    }

    /// Reads an object or a cart through this node and no other.
    pub(super) async fn read_at(
        &mut self,
        node: usize,
        key: &str,
        is_cart: bool,
        reading: Reading,
    ) -> Result<Seen, Unread> {
        let (name, client) = self.nodes[node % self.nodes.len()].clone();
        match is_cart {
            true => self.cart_from(&name, &client, key, None, reading).await,
            false => self.get_from(&name, &client, key, None, reading).await,
        }
    }

    /// Writes an object. The value gets its name here.
    pub(super) async fn put(
        &mut self,
        key: &str,
        text: String,
        seen: Option<&Token>,
        ttl: Option<Duration>,
    ) -> Done {
        let (name, client) = self.choose();
        let (prefix, from) =
            (format!("{}/{key}/c{}", self.bucket, self.client), seen.map(|token| token.from));
        let mut value = Value { id: String::new(), text };
        let ttl_seconds = ttl.map(|ttl| ttl.as_secs().max(1));
        let (op, _) = self.history.invoke(self.client, &name, &self.bucket, key, |op| {
            value.id = format!("{prefix}/{op}");
            Call::Put { value: value.clone(), seen: from, ttl_ms: ttl_seconds.map(|seconds| seconds * 1000) }
        });
        let options = WriteOptions { context: context(seen), ttl_seconds, ..WriteOptions::default() };
        let bytes = body::write(&value, self.value_bytes);
        let written = client.put(&self.bucket, key, bytes, &options).await;
        self.done(op, written)
    }

    /// Removes what was seen of an object.
    pub(super) async fn delete(&mut self, key: &str, seen: Option<&Token>) -> Done {
        let call = Call::Delete { seen: seen.map(|token| token.from) };
        let (op, client) = self.begin(key, call);
        let options = WriteOptions { context: context(seen), ..WriteOptions::default() };
        let written = client.delete(&self.bucket, key, &options).await;
        self.done(op, written)
    }

    /// Adds to an item of a cart. The operation gets its name here, so that the library may repeat it.
    pub(super) async fn add(&mut self, key: &str, sku: &str, quantity: i64) -> Done {
        let (name, client) = self.choose();
        let prefix = format!("{}/{key}/c{}", self.bucket, self.client);
        let mut op_id = String::new();
        let (op, _) = self.history.invoke(self.client, &name, &self.bucket, key, |op| {
            op_id = format!("{prefix}/{op}");
            Call::CartAdd { sku: sku.to_owned(), quantity, op_id: op_id.clone() }
        });
        let change = ItemChange { sku: sku.to_owned(), quantity, attributes: None, op_id: Some(op_id) };
        let written = client.cart_add(&self.bucket, key, &change).await;
        self.done(op, written)
    }

    /// Replaces what was seen of an item.
    pub(super) async fn set(&mut self, key: &str, sku: &str, quantity: i64, seen: &Token) -> Done {
        let call = Call::CartSet { sku: sku.to_owned(), quantity, seen: Some(seen.from) };
        let (op, client) = self.begin(key, call);
        let quantity = u64::try_from(quantity).expect("nobody sets an item to less than nothing");
        let written = client.cart_replace(&self.bucket, key, sku, quantity, &seen.context).await;
        self.done(op, written)
    }

    /// Removes what was seen of an item.
    pub(super) async fn remove(&mut self, key: &str, sku: &str, seen: &Token) -> Done {
        let call = Call::CartRemove { sku: sku.to_owned(), seen: Some(seen.from) };
        let (op, client) = self.begin(key, call);
        let written = client.cart_remove(&self.bucket, key, sku, &seen.context).await;
        self.done(op, written)
    }

    /// Removes what was seen of a cart.
    pub(super) async fn empty(&mut self, key: &str, seen: &Token) -> Done {
        let call = Call::CartEmpty { seen: Some(seen.from) };
        let (op, client) = self.begin(key, call);
        let written = client.cart_empty(&self.bucket, key, Some(&seen.context)).await;
        self.done(op, written)
    }

    fn begin(&mut self, key: &str, call: Call) -> (OpId, Client<T>) {
        let (name, client) = self.choose();
        let (op, _) = self.history.invoke(self.client, &name, &self.bucket, key, |_| call);
        (op, client)
    }

    fn choose(&mut self) -> (String, Client<T>) {
        self.catch_up();
        match self.rng.random_range(0..self.stray_of) {
            0 => ("any".to_owned(), self.any.clone()),
            1 => self.nodes[self.rng.random_range(0..self.nodes.len())].clone(),
            _ => self.nodes[self.home].clone(),
        }
    }

    /// Nodes that have come in since are as good as the others.
    fn catch_up(&mut self) {
        let joined = Arc::clone(&self.ground.joined);
        let joined = joined.lock().unwrap_or_else(PoisonError::into_inner);
        for url in joined.iter().skip(self.caught_up) {
            if let Ok(client) = dial(&self.ground, vec![url.clone()]) {
                self.nodes.push((url.clone(), client));
            }
        }
        self.caught_up = joined.len();
    }

    /// Who has little patience has the node say what is missing before he gives up.
    fn asks_for(&self, min: Option<&Token>) -> ReadOptions {
        let timeout_ms = self.ground.read_timeout.map(|at_most| at_most.as_millis() as u64);
        ReadOptions { min_context: context(min), timeout_ms, ..ReadOptions::default() }
    }

    async fn get_from(
        &mut self,
        name: &str,
        client: &Client<T>,
        key: &str,
        min: Option<&Token>,
        reading: Reading,
    ) -> Result<Seen, Unread> {
        let call = Call::Get { min: min.map(|token| token.from), reading };
        let (op, _) = self.history.invoke(self.client, name, &self.bucket, key, |_| call);
        let options = self.asks_for(min);
        match client.get(&self.bucket, key, &options).await {
            Ok(object) => Ok(self.saw(op, object)),
            Err(error) => Err(self.unread(op, &error)),
        }
    }

    async fn cart_from(
        &mut self,
        name: &str,
        client: &Client<T>,
        key: &str,
        min: Option<&Token>,
        reading: Reading,
    ) -> Result<Seen, Unread> {
        let call = Call::CartGet { min: min.map(|token| token.from), reading };
        let (op, _) = self.history.invoke(self.client, name, &self.bucket, key, |_| call);
        let options = self.asks_for(min);
        let cart = match client.cart_read(&self.bucket, key, &options).await {
            Ok(cart) => cart,
            Err(error) if error.is_not_found() => client::Cart::default(),
            Err(error) => return Err(self.unread(op, &error)),
        };
        let item = |item: client::CartItem| Item { sku: item.sku, quantity: item.quantity };
        let items: Vec<Item> = cart.items.into_iter().map(item).collect();
        let answer = Answer {
            context: cart.context.as_ref().map(Context::to_string),
            items: items.clone(),
            total: Some(cart.total_quantity),
            ..Answer::default()
        };
        self.history.ok(op, answer);
        Ok(Seen { token: cart.context.map(|context| Token { from: op, context }), values: Vec::new(), items })
    }

    fn saw(&mut self, op: OpId, object: Object) -> Seen {
        let shown = |version: client::Version| Shown {
            value: body::read(&version.value),
            etag: version.etag,
            expires_at: version.expires_at,
        };
        let versions = object.versions.into_iter().filter(|version| !version.deleted);
        let versions: Vec<Shown> = versions.map(shown).collect();
        let values = versions.iter().map(|shown| shown.value.clone()).collect();
        let context = object.context.as_ref().map(Context::to_string);
        let answer = Answer { context, versions, request_id: object.request_id, ..Answer::default() };
        self.history.ok(op, answer);
        Seen { token: object.context.map(|context| Token { from: op, context }), values, items: Vec::new() }
    }

    fn unread(&mut self, op: OpId, error: &Error) -> Unread {
        let why = why(error);
        let not_reached = why.code == "context_not_reached";
        self.history.fail(op, why);
        self.move_on();
        if not_reached { Unread::NotReached } else { Unread::Other }
    }

    fn done(&mut self, op: OpId, written: client::Result<Written>) -> Done {
        let error = match written {
            Ok(written) => {
                let token = written.context.clone().map(|context| Token { from: op, context });
                self.history.ok(op, answer(written));
                return Done::Ok(token);
            }
            Err(error) => error,
        };
        let why = why(&error);
        let is_refusal = error.problem().is_some_and(|problem| problem.status < 500);
        match error.outcome() {
            // A refusal of the request is no trouble of the node; anything else is a reason to ask another.
            Outcome::NotApplied if is_refusal => {}
            _ => self.move_on(),
        }
        match error.outcome() {
            // Done, by an answer that could not be read: as good as an acknowledgement without a context.
            Outcome::Applied if !is_refusal => {
                self.history.ok(op, Answer::default());
                Done::Ok(None)
            }
            // By the status of a refusal nothing has changed (P6), whatever else it says.
            Outcome::NotApplied | Outcome::Applied => {
                let code = why.code.clone();
                self.history.fail(op, why);
                Done::Failed(code)
            }
            Outcome::Indeterminate => {
                self.history.info(op, why);
                Done::Unknown
            }
        }
    }

    fn move_on(&mut self) {
        self.home = (self.home + 1) % self.nodes.len();
    }
}

fn context(token: Option<&Token>) -> Option<Context> {
    token.map(|token| token.context.clone())
}

fn answer(written: Written) -> Answer {
    let Written { context, etag, siblings, receipt, request_id } = written;
    let context = context.map(|context| context.0);
    Answer { context, etag, siblings, receipt, request_id, ..Answer::default() }
}

fn why(error: &Error) -> Why {
    let problem = error.problem();
    let code = problem.map_or("transport", |problem| problem.code.as_str()).to_owned();
    let request_id = problem.and_then(|problem| problem.request_id.clone());
    Why { code, detail: error.to_string(), request_id }
}
