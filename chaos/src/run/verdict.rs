//! The promises against what happened, one row for each (reliability's P1 to P8).
//!
//! A row says how much was put to the test and how often it failed. One with nothing put to the test is no proof of anything, and says
//! so by its count.

use super::pulse::Pulse;
use super::sums::{Sums, by_name};
use crate::check::{Breach, Counts, Violation};
use crate::history::{Call, Fate, Op, OpId, Reading};
use comfy_table::{CellAlignment, Table, presets};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Of ten thousand requests at nodes that can serve, how many have to be answered.
const LATER: u64 = 9_990;
/// The same within three seconds of a change: what is asked then may wait for who is gone.
const EARLY: u64 = 9_800;
/// One of so many reads that ask for a context must be answered, whatever is broken.
const SEEN_OF: usize = 2;
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
    /// What came to harm, by name.
    pub(super) named: Vec<String>,
}

/// What a verdict is made of.
pub(super) struct Evidence<'a> {
    pub(super) ops: &'a BTreeMap<OpId, Op>,
    pub(super) counts: &'a Counts,
    pub(super) found: &'a [Violation],
    pub(super) pulse: &'a Pulse,
    /// How long it took until all replicas were equal, or what was missing.
    pub(super) equal: &'a Result<Duration, String>,
    /// How long it took to read everything back, or why not everything was.
    pub(super) read: &'a Result<Duration, String>,
    /// Deletions that nodes have forgotten.
    pub(super) forgotten: u64,
    /// What else went wrong: panics, nodes that ended by themselves.
    pub(super) accidents: &'a [String],
}

impl Verdict {
    pub(super) fn new(evidence: &Evidence<'_>) -> Self {
        let Evidence { ops, counts, found, pulse, equal, read, accidents, forgotten } = evidence;
        let of =
            |breaches: &[Breach]| found.iter().filter(|one| breaches.contains(&one.breach)).count() as u64;
        let refusals =
            found.iter().filter(|one| one.breach == Breach::Dishonest).filter(|one| one.ops.len() > 1);
        let refusals = refusals.count() as u64;
        let ok = |op: &&Op| matches!(op.fate, Fate::Ok(_));
        let has_min = |op: &&Op| {
            matches!(op.invoke.call, Call::Get { min: Some(_), .. } | Call::CartGet { min: Some(_), .. })
        };
        let with_min = ops.values().filter(has_min).count();
        let seen = ops.values().filter(has_min).filter(ok).count();
        // Sessions whose reads are refused have seen nothing stale, and nothing else.
        let unseen = u64::from(seen < with_min / SEEN_OF);
        let settled = ops.values().filter(ok).filter(|op| reading(op) == Some(Reading::Settled)).count();
        let deletes = ops.values().filter(ok).filter(|op| {
            matches!(op.invoke.call, Call::Delete { .. } | Call::CartRemove { .. } | Call::CartEmpty { .. })
        });
        let too_few = |(fair, answered): (u64, u64), floor: u64| answered * 10_000 < fair * floor;
        let too_few = u64::from(too_few(pulse.early, EARLY)) + u64::from(too_few(pulse.later, LATER));
        let percent = |part: f64| format!("{:.2} %", part * 100.0);
        let part = |(fair, answered): (u64, u64)| match fair {
            0 => "-".to_owned(),
            _ => percent(answered as f64 / fair as f64),
        };
        let worst = pulse.worst().map_or_else(
            || "-".to_owned(),
            |(second, worst)| format!("{}, from {second} s on", percent(worst)),
        );
        let availability = format!(
            "of {} at nodes that could serve {} were answered, of {} within 3 s of a change {}; worst second: {}",
            pulse.later.0,
            part(pulse.later),
            pulse.early.0,
            part(pulse.early),
            worst
        );
        let row = |promise, about, tested, broken| Row { promise, about, tested, broken };
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
            ),
            row(
                "P2",
                "no lost update",
                format!("{} operations, as sets, carts, registers, counters", counts.acknowledged),
                of(&[Breach::Lost, Breach::Cart, Breach::Counter, Breach::Siblings]),
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
            ),
            row("P4", "available", availability, too_few),
            row(
                "P5",
                "sessions see what they have seen",
                format!("{seen} of {with_min} reads with a context answered"),
                of(&[Breach::Stale]) + unseen,
            ),
            row(
                "P6",
                "errors are honest",
                format!("{} refused, {} unknown", counts.failed, counts.unknown),
                refusals,
            ),
            row(
                "P7",
                "nothing comes back",
                format!("{} deletions acknowledged, {forgotten} of all nodes' forgotten", deletes.count()),
                of(&[Breach::Revived, Breach::Expiry]),
            ),
            row(
                "P8",
                "nothing is made up",
                format!("{} reads, to the byte", counts.reads),
                of(&[Breach::Wrong]),
            ),
        ];
        let mut told: Vec<String> = accidents.to_vec();
        told.extend(found.iter().map(ToString::to_string));
        let untold = told.len().saturating_sub(TOLD_MAX);
        told.truncate(TOLD_MAX);
        Self { rows, told, untold, sums: Sums::of(counts, found), named: by_name(found) }
    }

    /// Whether no promise was broken and nothing else went wrong.
    pub(super) fn holds(&self) -> bool {
        self.told.is_empty() && self.rows.iter().all(|row| row.broken == 0)
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
        for Row { promise, about, tested, broken } in &self.rows {
            table.add_row([(*promise).to_owned(), (*about).to_owned(), tested.clone(), broken.to_string()]);
        }
        if let Some(column) = table.column_mut(3) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        write!(f, "{table}")?;
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
    use crate::run::pulse::Second;

    fn verdict(found: &[Violation], equal: &Result<Duration, String>, accidents: &[String]) -> Verdict {
        let (ops, counts, pulse) = (BTreeMap::new(), Counts::default(), Pulse::default());
        Verdict::new(&Evidence {
            ops: &ops,
            counts: &counts,
            found,
            pulse: &pulse,
            equal,
            read: &Ok(Duration::ZERO),
            accidents,
            forgotten: 0,
        })
    }

    fn found(breach: Breach, ops: &[OpId]) -> Violation {
        Violation { breach, bucket: "b".into(), key: "k".into(), story: "a story".into(), ops: ops.to_vec() }
    }

    fn broken(verdict: &Verdict) -> Vec<&str> {
        verdict.rows.iter().filter(|row| row.broken > 0).map(|row| row.promise).collect()
    }

    #[test]
    fn each_breach_breaks_the_promise_that_it_is_of() {
        let well = Ok(Duration::from_secs(1));
        assert!(verdict(&[], &well, &[]).holds());
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
            let verdict = verdict(&[found(breach, &[1])], &well, &[]);
            assert_eq!(broken(&verdict), promises, "{breach:?}");
            assert!(!verdict.holds() && verdict.to_string().contains("a story"), "{verdict}");
        }
        let lost = verdict(&[found(Breach::Lost, &[7, 1])], &well, &[]).to_string();
        assert!(lost.contains("\nlost: b/k (#1, #7)\n"), "{lost}");
        assert_eq!(broken(&verdict(&[found(Breach::Dishonest, &[1])], &well, &[])), ["P1"], "a receipt");
        assert_eq!(broken(&verdict(&[found(Breach::Dishonest, &[1, 2])], &well, &[])), ["P6"], "a refusal");
    }

    #[test]
    fn what_never_became_equal_and_what_fell_over_are_broken_too() {
        let never = Err("3 keys differ, b/k for one".to_owned());
        assert_eq!(broken(&verdict(&[], &never, &[])), ["P3"]);
        let verdict = verdict(&[], &Ok(Duration::ZERO), &["n2 ended (signal: 6)".to_owned()]);
        assert!(!verdict.holds() && verdict.to_string().contains("n2 ended"), "{verdict}");
    }

    #[test]
    fn what_was_not_read_back_breaks_the_first() {
        let (ops, counts, pulse) = (BTreeMap::new(), Counts::default(), Pulse::default());
        let (equal, read) = (Ok(Duration::ZERO), Err("not everything could be read back in 9 s".to_owned()));
        let verdict = Verdict::new(&Evidence {
            ops: &ops,
            counts: &counts,
            found: &[],
            pulse: &pulse,
            equal: &equal,
            read: &read,
            accidents: &[],
            forgotten: 0,
        });
        assert_eq!(broken(&verdict), ["P1"]);
        assert!(verdict.to_string().contains("not everything could be read back in 9 s"), "{verdict}");
    }

    #[test]
    fn too_few_answers_break_the_fourth() {
        let (ops, counts, equal) = (BTreeMap::new(), Counts::default(), Ok(Duration::ZERO));
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
            let verdict = Verdict::new(&Evidence {
                ops: &ops,
                counts: &counts,
                found: &[],
                pulse: &pulse,
                equal: &equal,
                read: &equal,
                accidents: &[],
                forgotten: 0,
            });
            assert_eq!(broken(&verdict), expected);
            assert!(verdict.rows[3].tested.ends_with("worst second: 75.00 %, from 1 s on"), "{verdict}");
        }
    }
}
