//! What clients were told that is no success, and what of that nobody may be told.

use super::pulse::Expected;
use crate::history::{Fate, Op, OpId, Why};
use std::collections::BTreeMap;

/// A mistake of the node's own.
const MISTAKE: &str = "internal";
/// The codes whose status is 500 or more and not 503. An error without a code is none of a node's, and no status that anybody may meet.
const NOT_503: [&str; 6] = [MISTAKE, "not_implemented", "timeout", "context_not_reached", "disk_full", ""];

/// Why it was not acknowledged, if that was said.
fn why(op: &Op) -> Option<&Why> {
    match &op.fate {
        Fate::Failed(why) | Fate::Unknown(Some(why)) => Some(why),
        Fate::Ok(_) | Fate::Unknown(None) => None,
    }
}

/// How many operations were not acknowledged, by the code of why.
pub(super) fn refusals(ops: &BTreeMap<OpId, Op>) -> BTreeMap<String, u64> {
    let mut by_code = BTreeMap::new();
    for op in ops.values().filter(|op| op.answer().is_none()) {
        let code = why(op).map_or("no end", |why| why.code.as_str()).to_owned();
        *by_code.entry(code).or_default() += 1;
    }
    by_code
}

/// A node that says that it has made a mistake has.
pub(super) fn mistakes(ops: &BTreeMap<OpId, Op>) -> Option<String> {
    told(ops.values().filter(|op| why(op).is_some_and(|why| why.code == MISTAKE)), "`internal`")
}

/// Answers by a status of 500 or more that is not 503: where nothing but announced restarts happens, nobody is told anything else. That the
/// context of a deletion is not reached which was forgotten is what he who asks for it has to be told.
pub(super) fn other_than_503(ops: &BTreeMap<OpId, Op>, expected: &Expected<'_>) -> Option<String> {
    let is_one = |op: &&Op| why(op).is_some_and(|why| NOT_503.contains(&why.code.as_str()));
    told(
        ops.values().filter(is_one).filter(|op| !expected.forgotten.has(op)),
        "errors of a node, and not by 503",
    )
}

fn told<'a>(mut all: impl Iterator<Item = &'a Op>, what: &str) -> Option<String> {
    let first = all.next()?;
    Some(format!("{} answers were {what}: {first} for one", 1 + all.count()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Call, Invoke, Moment, Reading};
    use crate::run::forgotten::Forgotten;
    use std::collections::BTreeSet;

    fn refused(code: &str, bucket: &str) -> Op {
        let call = Call::Get { min: None, reading: Reading::Load };
        let (node, bucket, key) = ("n".to_owned(), bucket.to_owned(), "k".to_owned());
        let invoke = Invoke { op: 0, client: 0, node, bucket, key, call };
        let (begun, ended) = (Moment { place: 0, at_us: 0 }, Some(Moment { place: 1, at_us: 1 }));
        Op { invoke, begun, ended, fate: Fate::Failed(Why { code: code.to_owned(), ..Why::default() }) }
    }

    #[test]
    fn a_restart_is_answered_by_no_other_error_of_a_node_than_503() {
        let strict = BTreeSet::new();
        let forgotten = &Forgotten::default();
        let expected = Expected { urls: &[], strict: &strict, forgotten, spans: &[] };
        let complaint = |op: Op| other_than_503(&BTreeMap::from([(0, op)]), &expected);
        let fine = ["write_quorum_not_met", "draining", "overloaded", "sibling_limit", "transport"];
        for code in fine {
            assert_eq!(complaint(refused(code, "b")), None, "{code}");
        }
        for code in NOT_503 {
            assert!(complaint(refused(code, "b")).unwrap().starts_with("1 answers"), "{code}");
        }
        assert!(mistakes(&BTreeMap::from([(0, refused(MISTAKE, "b"))])).is_some());
    }
}
