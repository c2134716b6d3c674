//! What a request that did not succeed tells its client: one table for each thing that can go wrong.
//!
//! Each answer says what state it left (`outcome`) and whether to try again (`retry`). The rule behind the tables: what
//! was refused before anything was written is `not_applied` and `safe`; what may be on some replica is `indeterminate`
//! and `after_read`, because a repetition could write a second version.

use super::RETRY_AFTER_MS;
use crate::http::problem::{Code, Outcome, Problem, Retry};
use crate::node::write::WriteFail;
use ring::coord::get::Reply;
use ring::wire::peer::{Refusal, WriteAnswer};

/// After so long another attempt may find the replicas that were missing.
const REPLICAS_RETRY_MS: u64 = 500;

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Nothing was done, and nothing speaks against trying again.
fn untouched(code: Code, detail: impl Into<String>) -> Problem {
    Problem::new(code, detail).outcome(Outcome::NotApplied).retry(Retry::Safe)
}

/// Nothing was done, and the same request will fail again.
fn refused_for_good(code: Code, detail: impl Into<String>) -> Problem {
    Problem::new(code, detail).outcome(Outcome::NotApplied).retry(Retry::No)
}

/// It may be on some replica.
fn unknown(code: Code, detail: impl Into<String>) -> Problem {
    Problem::new(code, detail).outcome(Outcome::Indeterminate).retry(Retry::AfterRead)
}

/// A read that too few answered.
pub(super) fn read_short(need: usize, have: usize, timed_out: bool) -> Problem {
    let detail = format!("{have} of {need} replicas answered");
    let problem = if timed_out {
        Problem::new(Code::Timeout, format!("{detail} in time"))
    } else {
        Problem::new(Code::ReadQuorumNotMet, detail).retry_after_ms(REPLICAS_RETRY_MS)
    };
    problem.counts(count(need), count(have)).retry(Retry::Safe)
}

/// A read that found nobody who had seen the context.
pub(super) fn context_not_reached() -> Problem {
    Problem::new(Code::ContextNotReached, "no replica that answered in time has seen the context")
        .retry(Retry::Safe)
}

/// A read that has no record to show.
pub(super) fn read(reply: &Reply) -> Problem {
    match reply {
        Reply::TooFew { need, have, timed_out } => read_short(*need, *have, *timed_out),
        Reply::NotReached => context_not_reached(),
        Reply::Merged(_) => unreachable!("a merged record is an answer"),
    }
}

/// The problem of a receipt, if its quorum was not reached.
pub(super) fn decided(answer: &WriteAnswer) -> Option<Problem> {
    (answer.outcome != ring::coord::Outcome::Applied).then(|| write_short(answer))
}

/// A write without a receipt; `required` is how many replicas it needed.
pub(super) fn write_failed(fail: &WriteFail, required: usize) -> Problem {
    match fail {
        WriteFail::Refused(refusal) => refused(refusal, required),
        WriteFail::Lost => {
            unknown(Code::WriteQuorumNotMet, "the replica that coordinated the write was lost meanwhile")
                .counts(count(required), 0)
        }
        WriteFail::TimedOut => {
            unknown(Code::Timeout, "the disk of the replica that coordinates the write was too slow")
                .counts(count(required), 0)
        }
        WriteFail::Unreachable { need } => {
            untouched(Code::WriteQuorumNotMet, "no replica of the key could be reached")
                .counts(count(*need), 0)
                .retry_after_ms(REPLICAS_RETRY_MS)
        }
    }
}

/// A replica's no.
pub(super) fn refused(refusal: &Refusal, required: usize) -> Problem {
    let detail = refusal.to_string();
    match refusal {
        Refusal::Unavailable(_) | Refusal::StaleTables | Refusal::HintsFull => {
            untouched(Code::WriteQuorumNotMet, detail)
                .counts(count(required), 0)
                .retry_after_ms(REPLICAS_RETRY_MS)
        }
        Refusal::DiskFull => untouched(Code::DiskFull, detail),
        Refusal::Overloaded => untouched(Code::Overloaded, detail).retry_after_ms(RETRY_AFTER_MS),
        Refusal::Draining => untouched(Code::Draining, detail).retry_after_ms(RETRY_AFTER_MS),
        Refusal::SiblingLimit { .. } | Refusal::CartFull | Refusal::TooHeavy { .. } => {
            Problem::new(Code::SiblingLimit, detail).outcome(Outcome::NotApplied).retry(Retry::AfterRead)
        }
        Refusal::WrongType { .. } => refused_for_good(Code::WrongType, detail),
        Refusal::ContextRequired => refused_for_good(Code::ContextRequired, detail),
        Refusal::Malformed(_) | Refusal::NotAdmitted(_) => refused_for_good(Code::Internal, detail),
        Refusal::Disk(_) => unknown(Code::WriteQuorumNotMet, detail).counts(count(required), 0),
    }
}

/// A write that got its receipt and not its quorum.
pub(super) fn write_short(answer: &WriteAnswer) -> Problem {
    let quorum = &answer.quorum;
    // The level that is missed by most is the one to name; among equals w, because it is the one that everybody sets.
    let (what, required, acked) = [
        ("replicas have synced", quorum.dw, answer.durable),
        ("owners have taken", quorum.pw, answer.owners),
        ("replicas have taken", quorum.w, answer.acked),
    ]
    .into_iter()
    .filter(|(_, required, acked)| acked < required)
    .max_by_key(|(_, required, acked)| required - acked)
    .unwrap_or(("replicas have taken", quorum.w, answer.acked));
    let detail = format!("{acked} of {required} {what} the write; it may still become visible");
    let code = if answer.timed_out { Code::Timeout } else { Code::WriteQuorumNotMet };
    unknown(code, detail).counts(count(required), count(acked))
}

/// The key or bucket holds something else.
pub(super) fn wrong_type(holds: &str) -> Problem {
    refused(&Refusal::WrongType { holds: holds.to_owned() }, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use ring::coord::{self, WriteQuorum};

    fn json(problem: Problem) -> serde_json::Value {
        serde_json::from_slice(&problem.into_json(None)).unwrap()
    }

    fn short(acked: usize, owners: usize, durable: usize, timed_out: bool) -> serde_json::Value {
        json(write_short(&WriteAnswer {
            outcome: coord::Outcome::Indeterminate,
            timed_out,
            quorum: WriteQuorum { w: 2, pw: 2, dw: 3, sloppy: true },
            acked,
            owners,
            durable,
            fallbacks: 0,
            hints: 0,
            context: Bytes::new(),
            dots: vec![],
            siblings: 1,
        }))
    }

    #[test]
    fn a_short_write_names_the_level_that_was_missed() {
        for (answer, required, acked, word) in [
            (short(1, 1, 1, false), 3, 1, "have synced"),
            (short(1, 3, 3, false), 2, 1, "replicas have taken"),
            (short(3, 1, 3, false), 2, 1, "owners have taken"),
            (short(3, 3, 1, false), 3, 1, "have synced"),
        ] {
            assert_eq!(answer["code"], "write_quorum_not_met");
            assert_eq!((&answer["required"], &answer["acked"]), (&required.into(), &acked.into()));
            assert!(answer["detail"].as_str().unwrap().contains(word), "{answer}");
            assert_eq!(
                (&answer["outcome"], &answer["retry"]),
                (&"indeterminate".into(), &"after_read".into())
            );
        }
        assert_eq!(short(1, 1, 1, true)["status"], 504);
    }

    #[test]
    fn a_refusal_says_what_it_left_behind() {
        for (refusal, status, code, outcome, retry) in [
            (Refusal::Unavailable("x".into()), 503, "write_quorum_not_met", "not_applied", "safe"),
            (Refusal::DiskFull, 507, "disk_full", "not_applied", "safe"),
            (Refusal::Overloaded, 429, "overloaded", "not_applied", "safe"),
            (Refusal::Draining, 503, "draining", "not_applied", "safe"),
            (Refusal::SiblingLimit { have: 5, max: 5 }, 422, "sibling_limit", "not_applied", "after_read"),
            (Refusal::TooHeavy { have: 5, max: 5 }, 422, "sibling_limit", "not_applied", "after_read"),
            (Refusal::CartFull, 422, "sibling_limit", "not_applied", "after_read"),
            (Refusal::WrongType { holds: "cart".into() }, 409, "wrong_type", "not_applied", "no"),
            (Refusal::ContextRequired, 428, "context_required", "not_applied", "no"),
            (Refusal::Disk("x".into()), 503, "write_quorum_not_met", "indeterminate", "after_read"),
        ] {
            let found = json(refused(&refusal, 2));
            assert_eq!(found["status"], status, "{refusal:?}");
            assert_eq!(found["code"], code, "{refusal:?}");
            assert_eq!(found["outcome"], outcome, "{refusal:?}");
            assert_eq!(found["retry"], retry, "{refusal:?}");
        }
    }

    #[test]
    fn a_write_that_nobody_took_is_not_one_that_somebody_may_have() {
        let nobody = json(write_failed(&WriteFail::Unreachable { need: 2 }, 2));
        assert_eq!((&nobody["outcome"], &nobody["retry"]), (&"not_applied".into(), &"safe".into()));
        assert_eq!((&nobody["required"], &nobody["acked"]), (&2.into(), &0.into()));
        assert!(nobody["retry_after_ms"].is_u64(), "{nobody}");
        let lost = json(write_failed(&WriteFail::Lost, 2));
        assert_eq!((&lost["outcome"], &lost["retry"]), (&"indeterminate".into(), &"after_read".into()));
    }

    #[test]
    fn a_short_read_is_late_or_lonely() {
        let lonely = json(read_short(2, 1, false));
        assert_eq!((&lonely["code"], &lonely["acked"]), (&"read_quorum_not_met".into(), &1.into()));
        assert!(lonely.get("outcome").is_none(), "a read leaves nothing behind: {lonely}");
        assert_eq!(json(read_short(2, 1, true))["code"], "timeout");
        assert_eq!(json(context_not_reached())["status"], 504);
    }
}
