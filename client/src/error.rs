//! What can come back instead of an answer, and what state it left.
//!
//! ```text
//! Problem    a node said no or could not: problem+json, with code, outcome and whether to try again
//! Transport  no answer: refused, broken, or not in time
//! Decode     an answer that this client can't read
//! Invalid    never sent: the call itself is wrong
//! ```
//! A caller that has to know whether a write may still appear asks [`Error::outcome`]. It covers every attempt that
//! was made: a refusal after an attempt that went silent is still `indeterminate`.

use crate::transport::{Response, TransportError};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The longest piece of a foreign error page that is shown.
const EXCERPT_CHARS: usize = 200;

/// The result of a call.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A node answered with an error.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// No node answered.
    #[error("{url}: {source}")]
    Transport {
        /// The node that was asked last.
        url: String,
        /// Why there is no answer.
        source: TransportError,
        /// What it left behind, over all attempts.
        outcome: Outcome,
    },
    /// A node answered something that is not in the contract.
    #[error("{url}: can't read the answer: {detail}")]
    Decode {
        /// The node that answered.
        url: String,
        /// What is wrong with it.
        detail: String,
        /// What it left behind, over all attempts.
        outcome: Outcome,
    },
    /// The call is wrong in itself, and nothing was sent.
    #[error("{0}")]
    Invalid(String),
}

/// The body of an error, contract section 4. Fields that did not apply are `None`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The kind, such as `write_quorum_not_met`. Empty when the answer was not a problem document.
    pub code: String,
    /// What happened, for people.
    pub detail: String,
    /// How many replicas had to answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub required: Option<u32>,
    /// How many did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acked: Option<u32>,
    /// Whether a write may still appear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Whether to try again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// When to try again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// The name of the request in the node's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The node that answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Whatever else the document holds, such as the `versions` of a failed precondition.
    #[serde(flatten)]
    pub rest: serde_json::Map<String, serde_json::Value>,
}

/// What a failed call left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing changed, and nothing will.
    NotApplied,
    /// The change is done.
    Applied,
    /// The change may be done, or appear later. What can't be read counts as this.
    #[serde(other)]
    Indeterminate,
}

/// Whether the same request may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// Yes, as it is.
    Safe,
    /// Only after reading what is there.
    AfterRead,
    /// No. What can't be read counts as this.
    #[serde(other)]
    No,
}

impl Error {
    /// What the call left behind, over all attempts. A read leaves nothing.
    pub fn outcome(&self) -> Outcome {
        match self {
            Error::Problem(problem) => problem.outcome.unwrap_or(Outcome::NotApplied),
            Error::Transport { outcome, .. } | Error::Decode { outcome, .. } => *outcome,
            Error::Invalid(_) => Outcome::NotApplied,
        }
    }

    /// The problem document, if a node sent one.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Error::Problem(problem) => Some(problem),
            _ => None,
        }
    }

    /// Whether a node said that there is no such thing.
    pub fn is_not_found(&self) -> bool {
        self.problem().is_some_and(|problem| problem.code == "not_found")
    }

    /// An earlier attempt may have been applied, so the last one can't say that nothing was.
    pub(crate) fn in_doubt(mut self) -> Self {
        if self.outcome() == Outcome::NotApplied {
            match &mut self {
                Error::Problem(problem) => problem.outcome = Some(Outcome::Indeterminate),
                Error::Transport { outcome, .. } | Error::Decode { outcome, .. } => {
                    *outcome = Outcome::Indeterminate;
                }
                Error::Invalid(_) => {}
            }
        }
        self
    }
}

impl Problem {
    /// Reads an error answer. A page of a proxy in between becomes a problem too, without a code.
    pub(crate) fn read(response: &Response, writes: bool) -> Self {
        let mut problem: Problem = serde_json::from_slice(&response.body).unwrap_or_default();
        problem.status = response.status;
        if problem.detail.is_empty() {
            problem.detail = match problem.rest.get("title").and_then(|title| title.as_str()) {
                Some(title) => title.to_owned(),
                None => String::from_utf8_lossy(&response.body).chars().take(EXCERPT_CHARS).collect(),
            };
        }
        if problem.retry_after_ms.is_none() {
            let seconds = response.header("retry-after").and_then(|text| text.parse::<u64>().ok());
            problem.retry_after_ms = seconds.map(|seconds| seconds.saturating_mul(1000));
        }
        // A 5xx that does not say what it left may have left anything; everything below was refused before it began.
        if problem.outcome.is_none() && writes {
            let outcome = if response.status >= 500 { Outcome::Indeterminate } else { Outcome::NotApplied };
            problem.outcome = Some(outcome);
        }
        problem
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code.as_str() {
            "" => write!(f, "status {}: {}", self.status, self.detail),
            code => write!(f, "{code}: {}", self.detail),
        }
    }
}

impl Outcome {
    /// The word of the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::NotApplied => "not_applied",
            Outcome::Applied => "applied",
            Outcome::Indeterminate => "indeterminate",
        }
    }
}
