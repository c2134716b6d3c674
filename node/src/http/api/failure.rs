//! What a failed request left behind, as a problem.

use crate::http::problem::{Code, Outcome, Problem, Retry};
use crate::node::write::WriteFail;
use ring::coord::Outcome as Decided;
use ring::coord::get::Reply;
use ring::wire::peer::{Refusal, WriteAnswer};

/// A write without a receipt.
pub(super) fn write(fail: WriteFail) -> Problem {
    match fail {
        WriteFail::Refused(Refusal::WrongType { holds }) => {
            Problem::new(Code::WrongType, format!("the key holds a {holds}"))
        }
        WriteFail::Refused(refusal) => Problem::new(Code::WriteQuorumNotMet, refusal.to_string()),
        WriteFail::Lost => Problem::new(Code::Timeout, "lost").outcome(Outcome::Indeterminate),
        WriteFail::Unreachable { need } => {
            Problem::new(Code::WriteQuorumNotMet, "nobody can be reached").counts(need as u32, 0)
        }
    }
    .retry(Retry::AfterRead)
}

/// A receipt that is not what was asked for.
pub(super) fn decided(answer: &WriteAnswer) -> Option<Problem> {
    (answer.outcome != Decided::Applied).then(|| Problem::new(Code::WriteQuorumNotMet, "too few"))
}

/// A read without a record.
pub(super) fn read(reply: &Reply) -> Problem {
    match reply {
        Reply::NotReached => Problem::new(Code::ContextNotReached, "not reached"),
        _ => Problem::new(Code::ReadQuorumNotMet, "too few"),
    }
}
