//! How soon what was acknowledged is there for everybody, of sets: an element is stable once no read that begins later lacks it.
//!
//! The stable latency of Jepsen's checker `set-full`: the time from the acknowledgement to the beginning of the last read that lacks the
//! element, and 0 if there is none. No promise is given for it (who wants to see what he has written says so), so it is told and not judged;
//! that it is there in the end is `lost.rs`'s to see.

use crate::history::{Call, Fate, Op, OpId, Reading};
use crate::workload::elements;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// How long the elements of all sets took, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stable {
    latencies: Vec<Duration>,
}

/// What is known of one set: when each element was acknowledged, and what was shown when.
#[derive(Default)]
struct Set<'a> {
    added: BTreeMap<(u32, u32), u64>,
    reads: Vec<&'a Op>,
}

impl Stable {
    /// Of the sets of a history, as they are read under load: afterwards nobody is away any more.
    pub fn of(ops: &BTreeMap<OpId, Op>) -> Stable {
        let mut sets: BTreeMap<(&str, &str), Set<'_>> = BTreeMap::new();
        for op in ops.values() {
            let (Fate::Ok(_), Some(ended)) = (&op.fate, op.ended) else { continue };
            let of = (op.invoke.bucket.as_str(), op.invoke.key.as_str());
            match &op.invoke.call {
                Call::Put { value, .. } => {
                    if let Some(element) = elements(&value.text).0 {
                        sets.entry(of).or_default().added.insert(element, ended.at_us);
                    }
                }
                Call::Get { reading: Reading::Load, .. } => sets.entry(of).or_default().reads.push(op),
                _ => {}
            }
        }
        let mut latencies: Vec<Duration> = sets.values().flat_map(Set::latencies).collect();
        latencies.sort_unstable();
        Stable { latencies }
    }

    /// So many of a hundred were stable within this time.
    fn within(&self, percent: usize) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get(last * percent / 100).copied().unwrap_or_default()
    }
}

impl Set<'_> {
    fn latencies(&self) -> Vec<Duration> {
        let mut lacked: BTreeMap<(u32, u32), u64> = BTreeMap::new();
        for read in &self.reads {
            let Some(answer) = read.answer() else { continue };
            let shown: BTreeSet<_> =
                answer.versions.iter().flat_map(|shown| elements(&shown.value.text).1).collect();
            let begun = read.begun.at_us;
            let known = self.added.iter().filter(|(_, at)| **at < begun);
            for (element, _) in known.filter(|(element, _)| !shown.contains(element)) {
                let last = lacked.entry(*element).or_default();
                *last = begun.max(*last);
            }
        }
        let took = |(element, at): (&(u32, u32), &u64)| {
            Duration::from_micros(lacked.get(element).map_or(0, |last| last - at))
        };
        self.added.iter().map(took).collect()
    }
}

impl fmt::Display for Stable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |took: Duration| took.as_secs_f64() * 1000.0;
        let [p50, p95, p99, max] = [50, 95, 99, 100].map(|percent| ms(self.within(percent)));
        write!(
            f,
            "{} elements of sets there for every read {p50:.0}, {p95:.0}, {p99:.0} ms (p50, p95, p99) after their acknowledgement, at most {max:.0} ms",
            self.latencies.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Answer, Invoke, Moment, Shown, Value};

    #[test]
    fn an_element_is_stable_once_every_later_read_shows_it() {
        let moment = |ms: u64| Moment { place: 0, at_us: ms * 1000 };
        let op = |call: Call, begun: u64, ended: u64, fate: Fate| {
            let (node, bucket, key) = ("n".to_owned(), "b".to_owned(), "k".to_owned());
            let invoke = Invoke { op: 0, client: 0, node, bucket, key, call };
            Op { invoke, begun: moment(begun), ended: Some(moment(ended)), fate }
        };
        let value = |text: &str| Value { id: text.to_owned(), text: text.to_owned() };
        let put = |text: &str, begun: u64, ended: u64| {
            let call = Call::Put { value: value(text), seen: None, ttl_ms: None };
            op(call, begun, ended, Fate::Ok(Answer::default()))
        };
        let get = |begun: u64, texts: &[&str]| {
            let shown = |text: &&str| Shown { value: value(text), etag: None, expires_at: None };
            let answer = Answer { versions: texts.iter().map(shown).collect(), ..Answer::default() };
            op(Call::Get { min: None, reading: Reading::Load }, begun, begun + 5, Fate::Ok(answer))
        };
        let refused = op(Call::Get { min: None, reading: Reading::Load }, 90, 95, Fate::Unknown(None));
        let list = [
            put("+c1:1|c1:1", 0, 10),
            put("+c2:1|c1:1;c2:1", 0, 20),
            // It began before the acknowledgement, and may lack it.
            get(9, &[]),
            get(15, &["+c1:1|c1:1"]),
            get(30, &["+c1:1|c1:1"]),
            get(40, &["+c1:1|c1:1"]),
            get(50, &["+c1:1|c1:1", "+c2:1|c2:1"]),
            refused,
        ];
        let stable = Stable::of(&(0..).zip(list).collect());
        assert_eq!(stable.latencies, [0, 20].map(Duration::from_millis));
        let told = "2 elements of sets there for every read 0, 0, 0 ms (p50, p95, p99) after their acknowledgement, at most 20 ms";
        assert_eq!(stable.to_string(), told);
    }
}
