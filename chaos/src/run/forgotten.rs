//! Reads that ask for a context of what has been deleted and forgotten since: they are told for good that it is not reached, and rightly.
//!
//! A record is forgotten as a whole, when nothing in it is alive and everybody has agreed on that for a grace. So the excuse is for a key
//! that somebody deleted, or a cart that somebody emptied, a grace before the answer at least; and if the reader asks for what was
//! written or deleted, only if that deletion is the one, or may have come after it. (No client holds what has expired for as long as a grace.)

use super::pulse::times;
use crate::history::{Call, Fate, Op, OpId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Bucket and key.
type Key = (String, String);

/// Those reads, and when each key had some.
#[derive(Clone, Debug, Default)]
pub(super) struct Forgotten {
    ops: BTreeSet<OpId>,
    times: BTreeMap<Key, Vec<(Duration, Duration)>>,
}

impl Forgotten {
    /// Deletions are forgotten after this grace at the soonest.
    pub(super) fn of(ops: &BTreeMap<OpId, Op>, grace: Duration) -> Self {
        let key = |op: &Op| (op.invoke.bucket.clone(), op.invoke.key.clone());
        let mut deletions: BTreeMap<Key, Vec<&Op>> = BTreeMap::new();
        for op in
            ops.values().filter(|op| matches!(op.invoke.call, Call::Delete { .. } | Call::CartEmpty { .. }))
        {
            deletions.entry(key(op)).or_default().push(op);
        }
        let mut forgotten = Self::default();
        for (id, op) in ops.iter().filter(|(_, op)| is_refused(op)) {
            let (begun, ended) = times(op);
            let ended = ended.unwrap_or(begun);
            let takes = |deletion: &&Op| {
                let (deleted, over) = times(deletion);
                let came_before = |write: Duration| over.is_some_and(|over| over < write);
                deleted + grace <= ended && !written(ops, op).is_some_and(came_before)
            };
            if deletions.get(&key(op)).is_some_and(|of| of.iter().any(takes)) {
                forgotten.ops.insert(*id);
                forgotten.times.entry(key(op)).or_default().push((begun, ended));
            }
        }
        forgotten
    }

    /// Whether it is one of them.
    pub(super) fn has(&self, op: &Op) -> bool {
        self.ops.contains(&op.invoke.op)
    }

    /// Whether a request of that key was one of such a read.
    pub(super) fn has_request(&self, bucket: &str, key: &str, begun: Duration) -> bool {
        let of = self.times.get(&(bucket.to_owned(), key.to_owned()));
        of.is_some_and(|of| of.iter().any(|(from, until)| (*from..=*until).contains(&begun)))
    }
}

fn is_refused(op: &Op) -> bool {
    matches!(&op.fate, Fate::Failed(why) if why.code == "context_not_reached")
}

/// When what it asks for was written, if that is what it asks for.
fn written(ops: &BTreeMap<OpId, Op>, read: &Op) -> Option<Duration> {
    let (Call::Get { min, .. } | Call::CartGet { min, .. }) = &read.invoke.call else { return None };
    let min = ops.get(min.as_ref()?)?;
    (!min.reads()).then(|| times(min).0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Answer, Invoke, Moment, Reading, Value, Why};

    const GRACE: Duration = Duration::from_secs(20);

    fn op(op: OpId, call: Call, seconds: u64, fate: Fate) -> (OpId, Op) {
        let moment = |us: u64| Moment { place: 0, at_us: seconds * 1_000_000 + us };
        let invoke = Invoke { op, client: 0, node: "n".into(), bucket: "b".into(), key: "k".into(), call };
        (op, Op { invoke, begun: moment(0), ended: Some(moment(1)), fate })
    }

    fn put(number: OpId, seconds: u64) -> (OpId, Op) {
        let value = Value { id: "v".into(), text: String::new() };
        op(number, Call::Put { value, seen: None, ttl_ms: None }, seconds, Fate::Ok(Answer::default()))
    }

    /// A read refused that asks for what operation 1 was told.
    fn read(seconds: u64) -> (OpId, Op) {
        let fate = Fate::Failed(Why { code: "context_not_reached".into(), ..Why::default() });
        op(9, Call::Get { min: Some(1), reading: Reading::Load }, seconds, fate)
    }

    fn delete(number: OpId, seconds: u64) -> (OpId, Op) {
        op(number, Call::Delete { seen: None }, seconds, Fate::Ok(Answer::default()))
    }

    fn excused(ops: &[(OpId, Op)]) -> bool {
        let ops: BTreeMap<OpId, Op> = ops.iter().cloned().collect();
        let forgotten = Forgotten::of(&ops, GRACE);
        let (asked, begun) = (&ops[&9], times(&ops[&9]).0);
        assert_eq!(forgotten.has_request("b", "k", begun), forgotten.has(asked));
        assert!(
            !forgotten.has_request("b", "other", begun) && !forgotten.has_request("b", "k", begun + GRACE)
        );
        forgotten.has(asked)
    }

    #[test]
    fn a_deletion_excuses_whoever_asks_for_it_once_its_grace_is_over() {
        assert!(excused(&[put(1, 1), delete(2, 5), read(25)]));
        assert!(!excused(&[put(1, 1), delete(2, 5), read(24)]), "nobody has forgotten it yet");
        assert!(!excused(&[put(1, 1), read(90)]), "nothing was deleted");
        assert!(!excused(&[delete(2, 5), put(1, 30), read(60)]), "what was written since is alive");
        assert!(excused(&[delete(2, 5), put(1, 30), delete(3, 31), read(60)]));
        assert!(excused(&[delete(1, 5), read(30)]), "the deletion itself");
        assert!(!excused(&[delete(1, 25), read(30)]));
        assert!(!excused(&[delete(2, 1), put(3, 20), delete(1, 25), read(30)]), "one of long before");
        let removed = |number| {
            op(number, Call::CartRemove { sku: "s".into(), seen: None }, 5, Fate::Ok(Answer::default()))
        };
        assert!(!excused(&[put(1, 1), removed(2), read(90)]), "the cart has other items");
    }
}
