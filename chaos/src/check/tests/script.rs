//! Histories in a few words a line, for tests.
//!
//! ```text
//!   1 put a                  client 1 writes a through node n1 and is answered
//!   2 get 1 = a              a read, asking for at least what operation 1 knew, shows a
//!   1 put b having 2 ?       outcome unknown; ! is a refusal
//!   9 final = a b            a read of the end; `settled` if replicas are said to be equal
//!   strict                   reads and writes insist on a majority
//!   unsynced                 writes are acknowledged before they are synced
//!   begin 1 put c · end      an operation that spans what stands between (`end` ends the oldest open one)
//! ```
//! Operations are numbered from 0 in the order of their begins. Each line takes 100 ms; `wait 5000` lets time pass.

use crate::history::*;
use client::Receipt;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Half of what a line takes: between its begin and its end.
const HALF_LINE_MS: u64 = 50;

struct Stage {
    clock: Arc<AtomicU64>,
    history: History,
    open: VecDeque<(OpId, Vec<String>)>,
}

/// The history of a script, of one key.
pub(super) fn play(script: &str) -> Vec<Entry> {
    let clock = Arc::new(AtomicU64::new(0));
    let hands = clock.clone();
    let history = History::new(Arc::new(move || Duration::from_millis(hands.load(Ordering::Relaxed))));
    let mut stage = Stage { clock, history, open: VecDeque::new() };
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        stage.line(line);
    }
    stage.history.entries()
}

impl Stage {
    fn line(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["wait", ms] => self.pass(ms.parse().unwrap()),
            ["setting", workload, siblings_max] => self.history.setting(Setting {
                workload: (*workload).into(),
                bucket: "b".into(),
                clients: 2,
                nodes: 1,
                siblings_max: siblings_max.parse().ok(),
                ..Setting::default()
            }),
            ["quorum", w] => {
                let w = w.parse().unwrap();
                self.history.setting(Setting { bucket: "b".into(), w, ..Setting::default() });
            }
            ["majority", of] => {
                let majority = of.parse().unwrap();
                self.history.setting(Setting { bucket: "b".into(), majority, ..Setting::default() });
            }
            ["strict"] => {
                self.history.setting(Setting { bucket: "b".into(), strict: true, ..Setting::default() });
            }
            ["unsynced"] => {
                self.history.setting(Setting { bucket: "b".into(), unsynced: true, ..Setting::default() });
            }
            ["end"] => {
                let (op, rest) = self.open.pop_front().expect("something is open");
                self.end(op, &rest);
            }
            ["begin", words @ ..] => {
                let begun = self.begin(words);
                self.open.push_back(begun);
            }
            words => {
                let (op, rest) = self.begin(words);
                self.end(op, &rest);
            }
        }
    }

    fn pass(&self, ms: u64) {
        self.clock.fetch_add(ms, Ordering::Relaxed);
    }

    /// Begins an operation; what is left of the words says how it ends.
    fn begin(&self, words: &[&str]) -> (OpId, Vec<String>) {
        self.pass(HALF_LINE_MS);
        let client: u32 = words[0].parse().unwrap();
        let end = words
            .iter()
            .position(|word| ["=", "?", "!", "receipt", "beside"].contains(word))
            .unwrap_or(words.len());
        let (asked, rest) = (&words[1..end], words[end..].iter().map(|word| (*word).to_owned()).collect());
        let after = |name: &str| {
            let at = asked.iter().position(|word| *word == name)?;
            asked.get(at + 1).map(|word| word.parse::<u64>().unwrap())
        };
        let (seen, ttl_ms) = (after("having"), after("for"));
        let reading = match asked[0] {
            "final" => Reading::Final,
            "settled" => Reading::Settled,
            _ => Reading::Load,
        };
        let min = || asked.get(1).map(|word| word.parse().unwrap());
        let sku = || asked[1].to_owned();
        let quantity = || asked[2].parse::<i64>().unwrap();
        let call = |op: OpId| match asked[0] {
            "get" => Call::Get { min: min(), reading },
            "final" | "settled" => Call::Get { min: None, reading },
            "put" => Call::Put { value: value(asked[1]), seen, ttl_ms },
            "delete" => Call::Delete { seen },
            "cart" if asked.get(1) == Some(&"final") => Call::CartGet { min: None, reading: Reading::Final },
            "cart" => Call::CartGet { min: min(), reading },
            "add" => Call::CartAdd { sku: sku(), quantity: quantity(), op_id: format!("op{op}") },
            "set" => Call::CartSet { sku: sku(), quantity: quantity(), seen },
            "remove" => Call::CartRemove { sku: sku(), seen },
            "empty" => Call::CartEmpty { seen },
            other => panic!("what is {other:?}?"),
        };
        (self.history.invoke(client, &format!("n{client}"), "b", "k", call).0, rest)
    }

    fn end(&self, op: OpId, rest: &[String]) {
        self.pass(HALF_LINE_MS);
        let why = Why { code: "x".into(), detail: "told so".into(), request_id: None };
        match rest.first().map(String::as_str) {
            Some("?") => self.history.info(op, why),
            Some("!") => self.history.fail(op, why),
            Some("receipt") if rest[1] == "none" => {
                self.history.ok(op, Answer { request_id: Some("r".into()), ..Answer::default() });
            }
            Some("receipt") => {
                let [w, acked, durable] = [1, 2, 3].map(|at| rest[at].parse().unwrap());
                let fallbacks = rest.get(4).map_or(0, |word| word.parse().unwrap());
                let receipt = Some(Receipt { w, acked, durable, fallbacks, hints: 0 });
                self.history.ok(op, Answer { receipt, ..Answer::default() });
            }
            Some("beside") => {
                let siblings = Some(rest[1].parse().unwrap());
                self.history.ok(op, Answer { siblings, ..Answer::default() });
            }
            _ => self.history.ok(op, answer(rest.get(1..).unwrap_or_default())),
        }
    }
}

/// `a`, or `slot:7` for a value with words of its own.
fn value(word: &str) -> Value {
    let (id, text) = word.split_once(':').unwrap_or((word, ""));
    Value { id: id.to_owned(), text: text.to_owned() }
}

/// `a b` are values; `mug*3 total*3` is a cart.
fn answer(words: &[String]) -> Answer {
    let mut answer = Answer::default();
    for word in words {
        match word.split_once('*') {
            Some(("total", sum)) => answer.total = Some(sum.parse().unwrap()),
            Some((sku, quantity)) => {
                answer.items.push(Item { sku: sku.to_owned(), quantity: quantity.parse().unwrap() });
            }
            None => answer.versions.push(Shown { value: value(word), etag: None, expires_at: None }),
        }
    }
    answer
}
