//! How the cluster did, second by second: what was asked, what was answered, how long that took, and whether those were answered
//! who asked a node that could.
//!
//! A refusal is an answer (the request was at fault, or had to wait for what it asked to see); no answer is what says that the node
//! could not, or nothing at all.

use super::forgotten::Forgotten;
use super::timeline::{Span, able};
use crate::history::{Fate, Op, OpId};
use hdrhistogram::Histogram;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// One second of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Second {
    /// Operations that were answered in it.
    pub(super) answered: u64,
    /// Those that began in it and were never answered, or with an error of the cluster's.
    pub(super) unanswered: u64,
    /// Of those that began in it and asked a node that could: all, and those that were answered.
    pub(super) fair: u64,
    pub(super) fair_answered: u64,
    /// How long the answers of this second took, half of them and 99 of 100, in milliseconds.
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Pulse {
    pub(super) seconds: Vec<Second>,
    /// Of those who asked a node that could, shortly after something broke or became whole again: how many, and answered.
    pub(super) early: (u64, u64),
    /// The same of all others.
    pub(super) later: (u64, u64),
}

/// How long it takes until everybody has noticed who is gone: what is asked meanwhile may wait for him.
pub(super) const NOTICED_AFTER: Duration = Duration::from_secs(3);

/// Codes of refusals that are answers: the request was at fault. Whatever else is said, by nodes or on the way to them, says that they
/// could not, or should not have said it.
const AT_FAULT: [&str; 6] = [
    "sibling_limit",
    "context_required",
    "precondition_failed",
    "wrong_type",
    "value_too_large",
    "not_found",
];

fn is_answered(fate: &Fate) -> bool {
    match fate {
        Fate::Ok(_) => true,
        Fate::Failed(why) => AT_FAULT.contains(&why.code.as_str()),
        Fate::Unknown(_) => false,
    }
}

/// What a run expects of whom.
pub(super) struct Expected<'a> {
    /// The nodes in their order.
    pub(super) urls: &'a [String],
    /// Buckets of what insists on owners: that is not expected to be answered while owners are out of reach.
    pub(super) strict: &'a BTreeSet<String>,
    /// Operations that asked for the context of a deletion that may have been forgotten.
    pub(super) forgotten: &'a Forgotten,
    /// What was broken when.
    pub(super) spans: &'a [Span],
}

impl Expected<'_> {
    /// Whether the operation asked a node that could do what it was asked.
    pub(super) fn has_to_answer(&self, op: &Op, (begun, ended): (Duration, Option<Duration>)) -> bool {
        self.can_serve(&op.invoke.node, &op.invoke.bucket, begun, ended) && !self.forgotten.has(op)
    }

    /// Whether that node could serve what is asked of the bucket.
    pub(super) fn can_serve(
        &self,
        node: &str,
        bucket: &str,
        begun: Duration,
        ended: Option<Duration>,
    ) -> bool {
        let node = self.urls.iter().position(|url| url == node);
        able(self.spans, node, begun, ended)
            && !(self.strict.contains(bucket) && self.may_lack_owners(begun, ended))
    }

    /// Whether two owners may be out of reach, of three. That who was is back takes as long to be noticed as that he was gone.
    pub(super) fn may_lack_owners(&self, begun: Duration, ended: Option<Duration>) -> bool {
        let begun = begun.saturating_sub(NOTICED_AFTER);
        let met = || self.spans.iter().filter(|span| span.shown && span.meets(begun, ended));
        let unable: BTreeSet<usize> = met().flat_map(|span| &span.unable).copied().collect();
        unable.len() > 1 || met().any(|span| span.parts)
    }
}

/// From when to when.
pub(super) fn times(op: &Op) -> (Duration, Option<Duration>) {
    (at(op.begun.at_us), op.ended.map(|ended| at(ended.at_us)))
}

pub(super) fn at(us: u64) -> Duration {
    Duration::from_micros(us)
}

impl Pulse {
    /// Of the operations that began between these two.
    pub(super) fn new(
        ops: &BTreeMap<OpId, Op>,
        expected: &Expected<'_>,
        (from, until): (Duration, Duration),
    ) -> Self {
        let count = usize::try_from(until.saturating_sub(from).as_secs_f64().ceil() as u64).unwrap_or(0);
        let mut seconds = vec![Second::default(); count.max(1)];
        let mut took: Vec<Histogram<u64>> = seconds.iter().map(|_| histogram()).collect();
        let last = seconds.len() - 1;
        let (mut early, mut later) = ((0, 0), (0, 0));
        let second = |moment: Duration| {
            usize::try_from(moment.saturating_sub(from).as_secs()).map_or(last, |s| s.min(last))
        };
        for op in ops.values() {
            let begun = at(op.begun.at_us);
            if begun < from || begun >= until {
                continue;
            }
            let ended = op.ended.map(|ended| at(ended.at_us));
            let answered = is_answered(&op.fate);
            let here = &mut seconds[second(begun)];
            if expected.has_to_answer(op, (begun, ended)) {
                here.fair += 1;
                here.fair_answered += u64::from(answered);
                let of = if is_early(expected.spans, begun, ended) { &mut early } else { &mut later };
                *of = (of.0 + 1, of.1 + u64::from(answered));
            }
            match (answered, ended) {
                (true, Some(ended)) => {
                    seconds[second(ended)].answered += 1;
                    let us = ended.saturating_sub(begun).as_micros();
                    took[second(ended)].saturating_record(u64::try_from(us).unwrap_or(u64::MAX).max(1));
                }
                _ => here.unanswered += 1,
            }
        }
        for (second, took) in seconds.iter_mut().zip(&took) {
            let ms = |quantile| took.value_at_quantile(quantile) as f64 / 1e3;
            if !took.is_empty() {
                (second.p50_ms, second.p99_ms) = (ms(0.5), ms(0.99));
            }
        }
        Self { seconds, early, later }
    }

    /// Operations that asked a node that could, and those of them that were answered.
    pub(super) fn fair(&self) -> (u64, u64) {
        let sum = |of: fn(&Second) -> u64| self.seconds.iter().map(of).sum();
        (sum(|second| second.fair), sum(|second| second.fair_answered))
    }

    /// The worst second for them: which, counted from 0, and how many were answered as a part of 1. `None` where nobody asked.
    pub(super) fn worst(&self) -> Option<(usize, f64)> {
        let part = |second: &Second| second.fair_answered as f64 / second.fair as f64;
        let asked = self.seconds.iter().enumerate().filter(|(_, second)| second.fair > 0);
        asked.map(|(at, second)| (at, part(second))).min_by(|(_, a), (_, b)| a.total_cmp(b))
    }
}

/// Whether something broke or became whole while it was asked or shortly before.
pub(super) fn is_early(spans: &[Span], begun: Duration, ended: Option<Duration>) -> bool {
    let near = |moment: Duration| {
        moment <= ended.unwrap_or(Duration::MAX) && begun <= moment.saturating_add(NOTICED_AFTER)
    };
    spans
        .iter()
        .filter(|span| span.shown && !span.announced)
        .any(|span| near(span.from) || span.until.is_some_and(near))
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, crate::limits::LATENCY_MAX_US, 2).expect("the bounds are in order")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Answer, Call, Invoke, Moment, Reading, Why};

    fn op(node: &str, begun_ms: u64, took_ms: Option<u64>, fate: Fate) -> Op {
        let call = Call::Get { min: None, reading: Reading::Load };
        let invoke =
            Invoke { op: 0, client: 0, node: node.into(), bucket: "b".into(), key: "k".into(), call };
        let moment = |ms: u64| Moment { place: 0, at_us: ms * 1000 };
        Op { invoke, begun: moment(begun_ms), ended: took_ms.map(|took| moment(begun_ms + took)), fate }
    }

    fn failed(code: &str) -> Fate {
        Fate::Failed(Why { code: code.into(), ..Why::default() })
    }

    fn pulse(
        ops: &BTreeMap<OpId, Op>,
        strict: &BTreeSet<String>,
        spans: &[Span],
        loaded: (Duration, Duration),
    ) -> Pulse {
        let urls = ["a".to_owned(), "b".to_owned()];
        let forgotten = &Forgotten::default();
        Pulse::new(ops, &Expected { urls: &urls, strict, forgotten, spans }, loaded)
    }

    /// Owners that are out of reach, and a moment after that, excuse who insists on them; one of three, a slow disk and nodes that have left do
    /// not.
    #[test]
    fn who_insists_on_owners_is_excused_while_they_are_out_of_reach() {
        let s = Duration::from_secs;
        let ops: BTreeMap<OpId, Op> = (0..8)
            .map(|at| (at, op("a", at * 1000 + 100, Some(5), failed("write_quorum_not_met"))))
            .collect();
        let span = |unable: &[usize]| Span::new("it".to_owned(), unable.iter().copied().collect(), s(1));
        let until = |span: Span| Span { until: Some(s(2)), ..span };
        let parted = until(Span { parts: true, ..span(&[]) });
        let gone = Span { shown: false, ..span(&[1, 2]) };
        let strict = BTreeSet::from(["b".to_owned()]);
        let fair = |span: Span| pulse(&ops, &strict, &[span], (s(0), s(8))).fair().0;
        assert_eq!([fair(until(span(&[]))), fair(parted), fair(until(span(&[1]))), fair(gone)], [8, 4, 8, 8]);
        assert_eq!(fair(until(span(&[1, 2]))), 4, "two are gone");
        let early = |span: Span| pulse(&ops, &BTreeSet::new(), &[span], (s(0), s(8))).early.0;
        let announced = Span { announced: true, ..until(span(&[1])) };
        assert_eq!([early(until(span(&[1]))), early(announced)], [4, 0]);
    }

    #[test]
    fn a_refusal_is_an_answer_only_where_the_request_was_at_fault() {
        let all =
            ["sibling_limit", "internal", "context_not_reached", "timeout", "overloaded", "not_found", "?"];
        let ops: BTreeMap<OpId, Op> =
            (0..).zip(all.map(|code| op("a", 100, Some(5), failed(code)))).collect();
        let s = Duration::from_secs;
        assert_eq!(pulse(&ops, &BTreeSet::new(), &[], (s(0), s(1))).fair(), (7, 2));
    }

    #[test]
    fn each_second_has_its_own_figures_and_who_was_down_is_not_counted_against_them() {
        let ok = || Fate::Ok(Answer::default());
        let list = [
            op("a", 5_100, Some(10), ok()),
            op("a", 5_200, Some(900), ok()),
            op("a", 6_000, Some(5), failed("sibling_limit")),
            op("a", 6_100, Some(5), failed("write_quorum_not_met")),
            op("b", 6_500, Some(1), failed("transport")),
            op("any", 6_600, None, Fate::Unknown(None)),
            op("a", 9_000, Some(1), ok()),
        ];
        let ops: BTreeMap<OpId, Op> = (0..).zip(list).collect();
        let s = Duration::from_secs;
        let down = Span { until: Some(s(7)), ..Span::new(String::new(), [1].into(), s(6)) };
        let pulse = pulse(&ops, &BTreeSet::new(), &[down], (s(5), s(8)));
        let counts: Vec<_> =
            pulse.seconds.iter().map(|s| (s.answered, s.unanswered, s.fair, s.fair_answered)).collect();
        assert_eq!(counts, [(1, 0, 2, 2), (2, 3, 2, 1), (0, 0, 0, 0)]);
        assert_eq!(pulse.fair(), (4, 3));
        assert_eq!((pulse.early, pulse.later), ((3, 2), (1, 1)));
        let (worst, part) = pulse.worst().unwrap();
        assert!(worst == 1 && (part - 0.5).abs() < 1e-9, "{part} in second {worst}");
        assert!((pulse.seconds[0].p50_ms - 10.0).abs() < 0.2, "{:?}", pulse.seconds[0]);
        assert!((pulse.seconds[1].p99_ms - 900.0).abs() < 10.0, "{:?}", pulse.seconds[1]);
    }
}
