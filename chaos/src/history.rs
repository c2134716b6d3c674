//! What was asked of a cluster and what it answered, in the order in which it happened.
//!
//! ```text
//!   invoke 7  c2 → http://…:8098  put orders/k1 "orders/k1/c2/7" seen 5
//!   invoke 8  c0 → http://…:8108  get orders/k1
//!   ok     7  context …, receipt w=2 …
//!   info   8  no answer within 2000 ms
//! ```
//!
//! Every operation is invoked once and ends at most once: `ok` is an acknowledgement, `fail` an honest "nothing changed",
//! `info` everything that may or may not have happened. An operation without an end is an `info` that nobody wrote down.
//! Checkers compare positions in this list, not times: it was written by one task, so it is the true order.
//!
//! Contexts are opaque, so a write does not name the token that it sent but the operation whose answer brought the token:
//! what the writer had seen is then what that operation saw, and no checker has to read tokens.

mod op;

pub use op::{Fate, Moment, Op, ops};

use client::Receipt;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{self, BufRead, Write};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Monotonic time since some moment before the run. Simulated or real, it is the caller's.
pub type Now = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Who is told of each line as it is written. The list is locked meanwhile.
pub type Ear = Arc<dyn Fn(&What) + Send + Sync>;

/// The number of an operation.
pub type OpId = u64;

/// The list, shared by everything that adds to it. A clone is the same list.
#[derive(Clone)]
pub struct History {
    now: Now,
    ear: Option<Ear>,
    list: Arc<Mutex<List>>,
}

#[derive(Default)]
struct List {
    entries: Vec<Entry>,
    next: OpId,
}

/// One line of the list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When, in microseconds of [`Now`].
    pub at_us: u64,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What a line says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// A workload begins.
    Setting(Setting),
    /// An operation begins.
    Invoke(Invoke),
    /// It was acknowledged.
    Ok {
        /// The operation.
        op: OpId,
        /// What came back.
        answer: Answer,
    },
    /// It was refused, and nothing changed.
    Fail {
        /// The operation.
        op: OpId,
        /// What came back.
        why: Why,
    },
    /// Nobody knows what became of it.
    Info {
        /// The operation.
        op: OpId,
        /// What came back.
        why: Why,
    },
}

/// What a checker has to know of a workload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// The name of the workload.
    pub workload: String,
    /// Its bucket.
    pub bucket: String,
    /// Its clients.
    pub clients: u32,
    /// The nodes that it was given.
    pub nodes: u32,
    /// The bucket's limit of siblings, if the workload set one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub siblings_max: Option<u32>,
    /// How many replicas a write of the bucket requires; 0 if nobody has said.
    #[serde(default)]
    pub w: u32,
    /// Whether its reads and writes insist on a majority of the owners.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub strict: bool,
    /// How many owners a write of it requires then.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub majority: u32,
    /// Whether its writes are acknowledged before they are synced (`durability = os`): a power cut may take them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unsynced: bool,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The begin of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invoke {
    /// Its number.
    pub op: OpId,
    /// Who asks.
    pub client: u32,
    /// Which node is asked; `any` where the client library chooses.
    pub node: String,
    /// The bucket.
    pub bucket: String,
    /// The key, or the cart.
    pub key: String,
    /// What is asked.
    #[serde(flatten)]
    pub call: Call,
}

/// What is asked. `seen` and `min` are the operations whose answers brought the context that is sent along.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
#[allow(missing_docs, reason = "the fields are those of the requests")]
pub enum Call {
    /// Reads an object.
    Get { min: Option<OpId>, reading: Reading },
    /// Writes an object.
    Put { value: Value, seen: Option<OpId>, ttl_ms: Option<u64> },
    /// Removes an object.
    Delete { seen: Option<OpId> },
    /// Reads a cart.
    CartGet { min: Option<OpId>, reading: Reading },
    /// Adds to an item of a cart, or, below 0, takes away.
    CartAdd { sku: String, quantity: i64, op_id: String },
    /// Replaces what was seen of an item.
    CartSet { sku: String, quantity: i64, seen: Option<OpId> },
    /// Removes what was seen of an item.
    CartRemove { sku: String, seen: Option<OpId> },
    /// Removes what was seen of all items.
    CartEmpty { seen: Option<OpId> },
}

/// Why somebody reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    /// As part of the load: what it shows may be out of date.
    Load,
    /// After the load: it must show everything that was acknowledged.
    Final,
    /// After the load, and all replicas are known to be equal: all such reads of a key must agree.
    Settled,
}

/// A value of an object: a name that no other write has, and what the workload has to say.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Value {
    /// Bucket, key, client and operation.
    pub id: String,
    /// The workload's own words; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
}

/// What an acknowledgement says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// The token. An answer without one has seen nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// The values of an object.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<Shown>,
    /// The items of a cart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<Item>,
    /// What a cart says is the sum of its quantities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<i64>,
    /// The name of the version that was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// Versions there are after a write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub siblings: Option<u32>,
    /// Who has a write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
    /// The name of the request in the node's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// A value as it was shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// The value. Where the bytes are not those of any value, its id begins with `?`.
    #[serde(flatten)]
    pub value: Value,
    /// The name of the version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// When it ends, by the cluster's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// An item of a cart as it was shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// What.
    pub sku: String,
    /// How many.
    pub quantity: i64,
}

/// Why an operation was not acknowledged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// The code of the problem, or `transport`.
    pub code: String,
    /// For people.
    pub detail: String,
    /// The name of the request in the node's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

impl History {
    /// An empty list.
    pub fn new(now: Now) -> Self {
        Self { now, ear: None, list: Arc::default() }
    }

    /// A list that goes on after entries that were read from somewhere.
    pub fn from_entries(now: Now, entries: Vec<Entry>) -> Self {
        let next = entries.iter().filter_map(|entry| entry.what.op()).max().map_or(0, |op| op + 1);
        Self { now, ear: None, list: Arc::new(Mutex::new(List { entries, next })) }
    }

    /// The same list; what is written by this clone and its own is told as well.
    pub fn told_to(self, ear: Ear) -> Self {
        Self { ear: Some(ear), ..self }
    }

    /// The time that entries get.
    pub fn now(&self) -> Duration {
        (self.now)()
    }

    /// Says under what conditions the operations on a bucket are run.
    pub fn setting(&self, setting: Setting) {
        self.add(|_| What::Setting(setting));
    }

    /// An operation begins. `call` gets its number, because a value has it in its name.
    pub fn invoke(
        &self,
        client: u32,
        node: &str,
        bucket: &str,
        key: &str,
        call: impl FnOnce(OpId) -> Call,
    ) -> (OpId, Call) {
        let (node, bucket, key) = (node.to_owned(), bucket.to_owned(), key.to_owned());
        let mut made = None;
        self.add(|list| {
            let op = list.next;
            list.next += 1;
            let call = call(op);
            made = Some((op, call.clone()));
            What::Invoke(Invoke { op, client, node, bucket, key, call })
        });
        made.expect("add() calls what it is given")
    }

    /// The operation was acknowledged.
    pub fn ok(&self, op: OpId, answer: Answer) {
        self.add(|_| What::Ok { op, answer });
    }

    /// The operation was refused and changed nothing.
    pub fn fail(&self, op: OpId, why: Why) {
        self.add(|_| What::Fail { op, why });
    }

    /// The operation may have been carried out.
    pub fn info(&self, op: OpId, why: Why) {
        self.add(|_| What::Info { op, why });
    }

    /// All that happened so far.
    pub fn entries(&self) -> Vec<Entry> {
        self.list().entries.clone()
    }

    /// What happened from that line on.
    pub fn since(&self, place: usize) -> Vec<Entry> {
        self.list().entries.get(place..).unwrap_or_default().to_vec()
    }

    /// How many operations were acknowledged since then.
    pub fn done_since(&self, moment: Duration) -> usize {
        let is_done = |entry: &&Entry| {
            u128::from(entry.at_us) >= moment.as_micros() && matches!(entry.what, What::Ok { .. })
        };
        self.list().entries.iter().filter(is_done).count()
    }

    /// How many lines there are.
    pub fn len(&self) -> usize {
        self.list().entries.len()
    }

    /// Whether nothing has happened yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes one JSON object a line.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        for entry in &self.list().entries {
            serde_json::to_writer(&mut *out, entry)?;
            out.write_all(b"\n")?;
        }
        out.flush()
    }

    fn add(&self, what: impl FnOnce(&mut List) -> What) {
        let at_us = u64::try_from(self.now().as_micros()).unwrap_or(u64::MAX);
        let mut list = self.list();
        let what = what(&mut list);
        if let Some(ear) = &self.ear {
            ear(&what);
        }
        list.entries.push(Entry { at_us, what });
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().expect("nothing panics while it holds the list")
    }
}

/// Reads what [`History::write_to`] wrote.
pub fn read_from(lines: impl BufRead) -> io::Result<Vec<Entry>> {
    let parse = |line: io::Result<String>| Ok(serde_json::from_str(&line?)?);
    lines.lines().map(parse).collect()
}

impl What {
    fn op(&self) -> Option<OpId> {
        match self {
            What::Setting(_) => None,
            What::Invoke(invoke) => Some(invoke.op),
            What::Ok { op, .. } | What::Fail { op, .. } | What::Info { op, .. } => Some(*op),
        }
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "History of {} entries", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> History {
        History::new(Arc::new(|| Duration::from_micros(1_500_000)))
    }

    fn put(history: &History) -> OpId {
        let call = |op| Call::Put {
            value: Value { id: format!("b/k/c1/{op}"), text: "words".into() },
            seen: None,
            ttl_ms: Some(1000),
        };
        history.invoke(1, "n1", "b", "k", call).0
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let history = history();
        history.setting(Setting {
            workload: "keys".into(),
            bucket: "b".into(),
            clients: 2,
            nodes: 3,
            unsynced: true,
            ..Setting::default()
        });
        let op = put(&history);
        let shown = Shown {
            value: Value { id: "x".into(), text: "y".into() },
            etag: Some("\"e\"".into()),
            expires_at: None,
        };
        let receipt = Some(Receipt { w: 2, acked: 2, durable: 2, fallbacks: 0, hints: 0 });
        history.ok(op, Answer { versions: vec![shown], receipt, total: Some(-1), ..Answer::default() });
        let get = |_| Call::Get { min: Some(op), reading: Reading::Settled };
        let (get, _) = history.invoke(0, "any", "b", "k", get);
        history.info(get, Why { code: "transport".into(), detail: "silence".into(), request_id: None });
        let mut text = Vec::new();
        history.write_to(&mut text).unwrap();
        assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 5);
        assert_eq!(read_from(text.as_slice()).unwrap(), history.entries());
        let on = History::from_entries(Arc::new(|| Duration::ZERO), history.entries());
        assert_eq!(put(&on), 2, "numbers go on after those that were read");
    }

    #[test]
    fn begins_and_ends_are_joined() {
        let history = history();
        let (first, second) = (put(&history), put(&history));
        history.ok(second, Answer::default());
        let ops = ops(&history.entries()).unwrap();
        assert_eq!(ops[&first].fate, Fate::Unknown(None));
        assert!(!ops[&first].over_before(usize::MAX), "what has no end is later than everything");
        assert!(ops[&second].over_before(3) && !ops[&second].over_before(2));
        let line = ops[&second].to_string();
        assert_eq!(
            line,
            "#1 put \"b/k/c1/1\" for 1000 ms on b/k by c1 through n1, 1.500 s to 1.500 s, acknowledged"
        );
    }

    #[test]
    fn an_end_without_a_begin_is_no_history() {
        let history = history();
        let op = put(&history);
        history.ok(op, Answer::default());
        history.ok(op, Answer::default());
        assert!(ops(&history.entries()).unwrap_err().contains("twice"));
        let stray = vec![Entry { at_us: 0, what: What::Ok { op: 9, answer: Answer::default() } }];
        assert!(ops(&stray).unwrap_err().contains("never began"));
    }
}
