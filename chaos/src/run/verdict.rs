//! The promises against what happened, one row for each (reliability's P1 to P8).
//!
//! A row says how much was put to the test and how often it failed. In a run that is long enough for all of them, one with nothing put to
//! the test says that instead, and the run does not hold: it is no proof of anything.

use super::goodput::{self, Goodput};
use super::pulse::Pulse;
use super::sessions::Sessions;
use super::sums::{Sums, by_name};
use super::tries::Tally;
use crate::check::stable::Stable;
use crate::check::{Breach, Counts, Violation};
use crate::history::{Call, Fate, Op, OpId, Reading};
use comfy_table::{CellAlignment, Table, presets};
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

/// Of ten thousand requests at nodes that can serve, how many have to be answered.
const LATER: u64 = 9_990;
/// The same within three seconds of a change: what is asked then may wait for who is gone.
const EARLY: u64 = 9_800;
/// The same of single requests, later: seven of ten thousand were not served at the first try where nodes are cut off again and again, and of a
/// run of 30 s that is chance. A node that serves no first try at all is one of five.
const LATER_TRIES: u64 = 9_950;
const UNTESTED: &str = "not put to the test";
/// Violations that are told in words; the history has them all.
const TOLD_MAX: usize = 10;

/// One promise.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) promise: &'static str,
    pub(super) about: &'static str,
    /// What was put to the test, in words.
    pub(super) tested: String,
    /// How often it was broken.
    pub(super) broken: u64,
    /// Whether there was nothing to judge it by, where there had to be.
    pub(super) untested: bool,
}

impl Row {
    /// What the last column says: how often it was broken, if it could have been.
    pub(super) fn found(&self) -> String {
        if self.untested && self.broken == 0 { UNTESTED.to_owned() } else { self.broken.to_string() }
    }
}

/// What is to be said of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Verdict {
    pub(super) rows: Vec<Row>,
    /// Violations, panics, nodes that ended: each a sentence.
    pub(super) told: Vec<String>,
    pub(super) untold: usize,
    /// What was done and what came to harm, counted.
    pub(super) sums: Sums,
    /// The worst second for those who asked nodes that could serve, and when all replicas were equal, in words.
    pub(super) worst: String,
    pub(super) equal: String,
    /// What came to harm, by name.
    pub(super) named: Vec<String>,
}

/// What a verdict is made of.
pub(super) struct Evidence<'a> {
    pub(super) ops: &'a BTreeMap<OpId, Op>,
    pub(super) counts: &'a Counts,
    pub(super) found: &'a [Violation],
    pub(super) pulse: &'a Pulse,
    /// How each request was answered.
    pub(super) tries: &'a Tally,
    /// Reads that asked for what their session had seen.
    pub(super) sessions: &'a Sessions,
    /// How long it took until all replicas were equal, or what was missing.
    pub(super) equal: &'a Result<Duration, String>,
    /// How long it took to read everything back, or why not everything was.
    pub(super) read: &'a Result<Duration, String>,
    /// What was done while no node was owed an answer of.
    pub(super) goodput: &'a [Goodput],
    /// Whether it lasted so long that every promise must have been put to the test.
    pub(super) is_long: bool,
    /// Deletions that nodes have forgotten.
    pub(super) forgotten: u64,
    /// What else went wrong: panics, nodes that ended by themselves.
    pub(super) accidents: &'a [String],
}

impl Verdict {
    pub(super) fn new(evidence: &Evidence<'_>) -> Self {
        let Evidence {
            ops,
            counts,
            found,
            pulse,
            tries,
            sessions,
            equal,
            read,
            goodput,
            accidents,
            forgotten,
            is_long,
        } = evidence;
        let of =
            |breaches: &[Breach]| found.iter().filter(|one| breaches.contains(&one.breach)).count() as u64;
        let refusals =
            found.iter().filter(|one| one.breach == Breach::Dishonest).filter(|one| one.ops.len() > 1);
        let refusals = refusals.count() as u64;
        let ok = |op: &&Op| matches!(op.fate, Fate::Ok(_));
        let settled = ops.values().filter(ok).filter(|op| reading(op) == Some(Reading::Settled)).count();
        let deletes = ops.values().filter(ok).filter(|op| {
            matches!(op.invoke.call, Call::Delete { .. } | Call::CartRemove { .. } | Call::CartEmpty { .. })
        });
        let deletes = deletes.count() as u64;
        let too_few = |(fair, answered): (u64, u64), floor: u64| answered * 10_000 < fair * floor;
        let too_little = goodput.iter().filter(|one| one.is_too_little()).count() as u64;
        // The library asks again where that can't count twice; those who don't use it meet each answer.
        let of_both =
            [(pulse.early, EARLY), (pulse.later, LATER), (tries.early, EARLY), (tries.later, LATER_TRIES)];
        let too_few =
            too_little + of_both.into_iter().filter(|(of, floor)| too_few(*of, *floor)).count() as u64;
        let percent = |part: f64| format!("{:.2} %", part * 100.0);
        let part = |(fair, answered): (u64, u64)| match fair {
            0 => "-".to_owned(),
            _ => percent(answered as f64 / fair as f64),
        };
        let worst = pulse.worst().map_or_else(
            || "-".to_owned(),
            |(second, worst)| format!("{}, from {second} s on", percent(worst)),
        );
        let mut availability = format!(
            "of {} at nodes that could serve {} were answered, of {} within 3 s of a change {}; worst second: {}",
            pulse.later.0,
            part(pulse.later),
            pulse.early.0,
            part(pulse.early),
            worst
        );
        let _ = write!(availability, "; {tries}");
        for least in goodput::least(goodput) {
            let _ = write!(availability, "; {least}");
        }
        let is_refused_write = |op: &&Op| matches!(op.fate, Fate::Failed(_)) && reading(op).is_none();
        let refused = ops.values().filter(is_refused_write).count() as u64;
        // How much there was to judge it by.
        let row = |promise, about, tested, broken, by: u64| {
            let untested = *is_long && by == 0;
            Row { promise, about, tested, broken, untested }
        };
        let rows = vec![
            row(
                "P1",
                "durable when acknowledged",
                match read {
                    Ok(_) => {
                        format!("{} writes acknowledged, read back through several nodes", counts.writes)
                    }
                    Err(why) => format!("{} writes acknowledged, and {why}", counts.writes),
                },
                of(&[Breach::Lost, Breach::Unjudged, Breach::Dishonest]) - refusals
                    + u64::from(read.is_err()),
                counts.writes,
            ),
            row(
                "P2",
                "no lost update",
                format!(
                    "{} operations, as sets, carts, registers, counters; {}",
                    counts.acknowledged,
                    Stable::of(ops)
                ),
                of(&[Breach::Lost, Breach::Cart, Breach::Counter, Breach::Siblings]),
                counts.acknowledged,
            ),
            row(
                "P3",
                "replicas become equal",
                match equal {
                    Ok(after) => format!(
                        "equal {:.1} s after the last trouble; {settled} reads agree",
                        after.as_secs_f64()
                    ),
                    Err(why) => why.clone(),
                },
                of(&[Breach::Diverged]) + u64::from(equal.is_err()),
                settled as u64,
            ),
            row("P4", "available", availability, too_few, pulse.early.0 + pulse.later.0),
            row(
                "P5",
                "sessions see what they have seen",
                sessions.to_string(),
                of(&[Breach::Stale]) + sessions.broken(),
                sessions.seen as u64,
            ),
            row(
                "P6",
                "errors are honest",
                format!("{} refused, of which {refused} writes, {} unknown", counts.failed, counts.unknown),
                refusals,
                refused,
            ),
            row(
                "P7",
                "nothing comes back",
                format!("{deletes} deletions acknowledged, {forgotten} of all nodes' forgotten"),
                of(&[Breach::Revived, Breach::Expiry]),
                deletes,
            ),
            row(
                "P8",
                "nothing is made up",
                format!("{} reads, to the byte", counts.reads),
                of(&[Breach::Wrong]),
                counts.reads,
            ),
        ];
        let mut told: Vec<String> = accidents.to_vec();
        told.extend(found.iter().map(ToString::to_string));
        let untold = told.len().saturating_sub(TOLD_MAX);
        told.truncate(TOLD_MAX);
        let equal = equal
            .as_ref()
            .map_or_else(|_| "never".to_owned(), |after| format!("{:.1} s", after.as_secs_f64()));
        Self { rows, told, untold, sums: Sums::of(counts, found), worst, equal, named: by_name(found) }
    }

    /// Whether every promise that had to be was put to the test, none was broken, and nothing else went wrong.
    pub(super) fn holds(&self) -> bool {
        self.told.is_empty() && self.rows.iter().all(|row| row.broken == 0 && !row.untested)
    }

    /// The figures of the run, each with its name.
    pub(super) fn figures(&self) -> Vec<(&'static str, String)> {
        let mut figures: Vec<_> =
            self.sums.counts().into_iter().map(|(name, count)| (name, count.to_string())).collect();
        figures.push(("worst second", self.worst.clone()));
        figures.push(("replicas equal after", self.equal.clone()));
        figures
    }
}

fn reading(op: &Op) -> Option<Reading> {
    match op.invoke.call {
        Call::Get { reading, .. } | Call::CartGet { reading, .. } => Some(reading),
        _ => None,
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["promise", "", "put to the test", "broken"]);
        for row in &self.rows {
            let Row { promise, about, tested, .. } = row;
            table.add_row([(*promise).to_owned(), (*about).to_owned(), tested.clone(), row.found()]);
        }
        if let Some(column) = table.column_mut(3) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let (names, figures): (Vec<_>, Vec<_>) = self.figures().into_iter().unzip();
        let mut sums = Table::new();
        sums.load_style(presets::UTF8_FULL_CONDENSED);
        sums.set_header(names).add_row(figures);
        write!(f, "{table}\n{sums}")?;
        for line in &self.named {
            write!(f, "\n{line}")?;
        }
        for line in &self.told {
            write!(f, "\nbroken: {line}")?;
        }
        match self.untold {
            0 => Ok(()),
            more => write!(f, "\n… and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::forgotten::Forgotten;
    use crate::run::pulse::{Expected, Second};
    use std::collections::BTreeSet;

    /// What there is to judge a run by: nothing, and nothing is wrong with it, but for what a test is about.
    struct Given {
        ops: BTreeMap<OpId, Op>,
        counts: Counts,
        pulse: Pulse,
        tries: Tally,
        found: Vec<Violation>,
        equal: Result<Duration, String>,
        read: Result<Duration, String>,
        goodput: Vec<Goodput>,
        accidents: Vec<String>,
        is_long: bool,
    }

    impl Default for Given {
        fn default() -> Self {
            let well = || Ok(Duration::from_secs(1));
            let (ops, counts, pulse) = (BTreeMap::new(), Counts::default(), Pulse::default());
            let tries = Tally::default();
            let (found, goodput, accidents) = (Vec::new(), Vec::new(), Vec::new());
            let (equal, read, is_long) = (well(), well(), false);
            Self { ops, counts, pulse, tries, found, equal, read, goodput, accidents, is_long }
        }
    }

    impl Given {
        fn judged(&self) -> Verdict {
            let Self { ops, counts, pulse, tries, found, equal, read, goodput, accidents, is_long } = self;
            let (strict, excused) = (BTreeSet::new(), Forgotten::default());
            let expected = Expected { urls: &[], strict: &strict, forgotten: &excused, spans: &[] };
            let (is_long, forgotten) = (*is_long, 0);
            Verdict::new(&Evidence {
                ops,
                counts,
                found,
                pulse,
                tries,
                sessions: &Sessions::of(ops, &expected),
                equal,
                read,
                goodput,
                is_long,
                forgotten,
                accidents,
            })
        }
    }

    fn of(found: Violation) -> Verdict {
        Given { found: vec![found], ..Given::default() }.judged()
    }

    fn found(breach: Breach, ops: &[OpId]) -> Violation {
        Violation { breach, bucket: "b".into(), key: "k".into(), story: "a story".into(), ops: ops.to_vec() }
    }

    fn broken(verdict: &Verdict) -> Vec<&str> {
        verdict.rows.iter().filter(|row| row.broken > 0).map(|row| row.promise).collect()
    }

    #[test]
    fn each_breach_breaks_the_promise_that_it_is_of() {
        assert!(Given::default().judged().holds());
        let all = [
            (Breach::Unjudged, &["P1"][..]),
            (Breach::Lost, &["P1", "P2"]),
            (Breach::Cart, &["P2"]),
            (Breach::Counter, &["P2"]),
            (Breach::Siblings, &["P2"]),
            (Breach::Diverged, &["P3"]),
            (Breach::Stale, &["P5"]),
            (Breach::Revived, &["P7"]),
            (Breach::Expiry, &["P7"]),
            (Breach::Wrong, &["P8"]),
        ];
        for (breach, promises) in all {
            let verdict = of(found(breach, &[1]));
            assert_eq!(broken(&verdict), promises, "{breach:?}");
            assert!(!verdict.holds() && verdict.to_string().contains("a story"), "{verdict}");
        }
        let lost = of(found(Breach::Lost, &[7, 1])).to_string();
        assert!(lost.contains("\nlost: b/k (#1, #7)\n"), "{lost}");
        assert_eq!(broken(&of(found(Breach::Dishonest, &[1]))), ["P1"], "a receipt");
        assert_eq!(broken(&of(found(Breach::Dishonest, &[1, 2]))), ["P6"], "a refusal");
    }

    #[test]
    fn what_never_became_equal_and_what_fell_over_are_broken_too() {
        let never =
            Given { equal: Err("3 keys differ, b/k for one".to_owned()), ..Given::default() }.judged();
        assert_eq!((broken(&never), never.equal.as_str()), (vec!["P3"], "never"));
        let verdict =
            Given { accidents: vec!["n2 ended (signal: 6)".to_owned()], ..Given::default() }.judged();
        assert!(!verdict.holds() && verdict.to_string().contains("n2 ended"), "{verdict}");
    }

    #[test]
    fn what_was_not_read_back_breaks_the_first() {
        let why = "not everything could be read back in 9 s";
        let verdict = Given { read: Err(why.to_owned()), ..Given::default() }.judged();
        assert_eq!(broken(&verdict), ["P1"]);
        assert!(verdict.to_string().contains(why), "{verdict}");
    }

    #[test]
    fn too_few_answers_break_the_fourth() {
        // The second of these two is the worst.
        let second = |fair_answered| Second { fair: 4, fair_answered, ..Second::default() };
        let seconds = vec![second(4), second(3)];
        let cases = [
            ((0, 0), (0, 0), &[][..]),
            ((100, 98), (1000, 999), &[]),
            ((100, 97), (1000, 999), &["P4"]),
            ((100, 98), (1000, 998), &["P4"]),
        ];
        for (early, later, expected) in cases {
            let pulse = Pulse { early, later, seconds: seconds.clone() };
            let verdict = Given { pulse, ..Given::default() }.judged();
            assert_eq!(broken(&verdict), expected);
            assert!(verdict.rows[3].tested.contains("worst second: 75.00 %, from 1 s on; "), "{verdict}");
        }
        for (early, later, expected) in [
            ((100, 98), (200, 199), &[][..]),
            ((100, 97), (200, 199), &["P4"]),
            ((100, 98), (200, 198), &["P4"]),
        ] {
            let tries = Tally { early, later, ..Tally::default() };
            assert_eq!(broken(&Given { tries, ..Given::default() }.judged()), expected, "single requests");
        }
    }

    /// Where every node is excused, a part of what was done before is owed all the same.
    #[test]
    fn too_little_goodput_breaks_the_fourth() {
        for (meanwhile, expected) in [(300.0, &[][..]), (299.0, &["P4"])] {
            let goodput = vec![Goodput { trouble: "overload", before: 900.0, meanwhile, one_of: 3 }];
            let verdict = Given { goodput, ..Given::default() }.judged();
            assert_eq!(broken(&verdict), expected);
            assert!(verdict.rows[3].tested.contains("overload excuses all nodes, and "), "{verdict}");
        }
    }

    /// In a long run a row without evidence is no row that holds; in a short one there need not be any yet.
    #[test]
    fn what_was_not_put_to_the_test_does_not_hold_in_a_long_run() {
        let counts = Counts { tried: 9, acknowledged: 9, writes: 5, reads: 4, ..Counts::default() };
        let short = Given { counts: counts.clone(), ..Given::default() }.judged();
        assert!(short.holds() && !short.to_string().contains(UNTESTED), "{short}");
        let pulse = Pulse { later: (9, 9), ..Pulse::default() };
        let long = Given { counts, pulse, is_long: true, ..Given::default() }.judged();
        let untested = |verdict: &Verdict| -> Vec<&str> {
            verdict.rows.iter().filter(|row| row.untested).map(|row| row.promise).collect()
        };
        assert_eq!((untested(&long), broken(&long)), (vec!["P3", "P5", "P6", "P7"], vec![]));
        assert!(!long.holds() && long.to_string().matches(UNTESTED).count() == 4, "{long}");
        let nothing = Given { is_long: true, ..Given::default() }.judged();
        assert_eq!(untested(&nothing).len(), 8);
    }

    #[test]
    fn the_figures_of_the_run_stand_below_its_promises() {
        let counts = Counts { tried: 12, acknowledged: 11, ..Counts::default() };
        let verdict = Given { counts, ..Given::default() }.judged();
        let values: Vec<String> = verdict.figures().into_iter().map(|(_, value)| value).collect();
        assert_eq!(values, ["12", "11", "0", "0", "0", "-", "1.0 s"]);
        let text = verdict.to_string();
        assert!(verdict.figures().iter().all(|(name, _)| text.contains(name)), "{text}");
    }
}
