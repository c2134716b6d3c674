//! When to send a request again. A pure function, so that the whole table can be tried.
//!
//! ```text
//! no connection             again: the node never saw it
//! broken or out of time     again only if a repetition can't count twice
//! problem, retry "safe"     again, the node has promised that it is
//! problem, retry otherwise  never
//! problem that doesn't say  429, 502, 503, 504: again if it was not applied or can't count twice
//! anything else             never
//! ```
//! A plain PUT of an object is not repeatable: its second copy would be a sibling of the first. A write with an
//! `op_id`, a read, and a removal of what a context has seen are.

use crate::error::{Error, Outcome, Problem, Retry};
use crate::transport::FailureKind;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// Attempts beyond one for each known node.
pub(crate) const ATTEMPTS_EXTRA: usize = 2;
/// The first pause; it doubles with every round over all nodes.
const PAUSE_FIRST_MS: u64 = 50;
/// The longest pause. A node that asks for more gets its error handed on instead: the caller knows better how to wait.
pub(crate) const PAUSE_MAX_MS: u64 = 2_000;

/// Whether a request that may have been carried out can be sent again without counting twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It can.
    Harmless,
    /// It would count twice.
    Counts,
}

/// How long to wait before the next attempt, or `None` to give up. `attempt` counts from 0.
pub(crate) fn pause(
    error: &Error,
    repeat: Repeat,
    attempt: usize,
    nodes: usize,
    salt: &str,
) -> Option<Duration> {
    if attempt + 1 >= nodes + ATTEMPTS_EXTRA {
        return None;
    }
    let harmless = repeat == Repeat::Harmless;
    match error {
        // The next node is asked at once; only when all have been tried is there a pause.
        Error::Transport { source, .. } => match source.kind {
            FailureKind::Invalid => None,
            FailureKind::Connect => Some(backoff(attempt, nodes, salt)),
            FailureKind::Timeout | FailureKind::Broken => harmless.then(|| backoff(attempt, nodes, salt)),
        },
        Error::Problem(problem) if may_repeat(problem, harmless) => match problem.retry_after_ms {
            Some(asked_ms) if asked_ms > PAUSE_MAX_MS => None,
            Some(asked_ms) => Some(Duration::from_millis(asked_ms)),
            None => Some(backoff(attempt.max(nodes), nodes, salt)),
        },
        Error::Problem(_) | Error::Decode { .. } | Error::Invalid(_) => None,
    }
}

fn may_repeat(problem: &Problem, harmless: bool) -> bool {
    match problem.retry {
        Some(retry) => retry == Retry::Safe,
        None => {
            let transient = matches!(problem.status, 429 | 502 | 503 | 504);
            transient && (harmless || problem.outcome == Some(Outcome::NotApplied))
        }
    }
}

/// Doubles per round and spreads over half its length. The spread comes from a hash of the request instead of chance,
/// so that a simulated run repeats exactly.
fn backoff(attempt: usize, nodes: usize, salt: &str) -> Duration {
    if attempt + 1 < nodes {
        return Duration::ZERO;
    }
    let round = (attempt + 1 - nodes).min(5) as u32;
    let full_ms = (PAUSE_FIRST_MS << round).min(PAUSE_MAX_MS);
    let mut hasher = DefaultHasher::new();
    (salt, attempt).hash(&mut hasher);
    Duration::from_millis(full_ms - hasher.finish() % (full_ms / 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::TransportError;

    fn transport(kind: FailureKind) -> Error {
        let source = TransportError::new(kind, "x");
        Error::Transport { url: "u".into(), source, outcome: Outcome::Indeterminate }
    }

    fn problem(status: u16, retry: Option<Retry>, outcome: Outcome) -> Error {
        Error::Problem(Box::new(Problem { status, retry, outcome: Some(outcome), ..Problem::default() }))
    }

    fn again(error: &Error, repeat: Repeat) -> bool {
        pause(error, repeat, 0, 1, "salt").is_some()
    }

    #[test]
    fn a_refused_connection_is_tried_again_whatever_was_asked() {
        assert!(again(&transport(FailureKind::Connect), Repeat::Counts));
    }

    #[test]
    fn silence_is_tried_again_only_where_a_repetition_is_harmless() {
        for kind in [FailureKind::Timeout, FailureKind::Broken] {
            assert!(again(&transport(kind), Repeat::Harmless));
            assert!(!again(&transport(kind), Repeat::Counts));
        }
    }

    #[test]
    fn the_word_of_the_node_decides() {
        for repeat in [Repeat::Harmless, Repeat::Counts] {
            assert!(again(&problem(503, Some(Retry::Safe), Outcome::NotApplied), repeat));
            assert!(!again(&problem(503, Some(Retry::No), Outcome::NotApplied), repeat));
            assert!(!again(&problem(503, Some(Retry::AfterRead), Outcome::Indeterminate), repeat));
        }
    }

    #[test]
    fn without_a_word_only_transient_answers_are_tried_again() {
        assert!(again(&problem(503, None, Outcome::Indeterminate), Repeat::Harmless));
        assert!(!again(&problem(503, None, Outcome::Indeterminate), Repeat::Counts));
        assert!(again(&problem(429, None, Outcome::NotApplied), Repeat::Counts));
        assert!(!again(&problem(400, None, Outcome::NotApplied), Repeat::Harmless));
    }

    #[test]
    fn attempts_and_pauses_have_an_end() {
        let error = transport(FailureKind::Connect);
        let pauses: Vec<_> =
            (0..100).map_while(|attempt| pause(&error, Repeat::Counts, attempt, 3, "s")).collect();
        assert_eq!(pauses.len(), 4, "three nodes and two more make five attempts with four pauses");
        assert_eq!(pauses[0], Duration::ZERO, "the next node is asked at once");
        assert!(pauses.iter().all(|pause| pause.as_millis() as u64 <= PAUSE_MAX_MS));
    }

    #[test]
    fn a_node_that_asks_for_a_long_pause_is_not_waited_for() {
        let asked = Problem {
            status: 429,
            retry: Some(Retry::Safe),
            retry_after_ms: Some(60_000),
            ..Problem::default()
        };
        assert!(!again(&Error::Problem(Box::new(asked)), Repeat::Harmless));
    }
}
