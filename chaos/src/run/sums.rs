//! What was done and what came to harm, counted over a run and over all of them, and the harm by name.

use crate::check::{Breach, Counts, Violation};
use crate::history::OpId;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::AddAssign;

/// Keys that are named of each kind of harm, and operations of each key; the history has them all.
const KEYS_MAX: usize = 5;
const OPS_MAX: usize = 4;

/// The figures that the last line tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    tried: u64,
    acknowledged: u64,
    lost: u64,
    resurrected: u64,
    wrong: u64,
}

/// A kind of harm. Every breach is of one of them, so that none goes uncounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    Lost,
    Resurrected,
    Wrong,
}

impl Harm {
    fn of(breach: Breach) -> Harm {
        match breach {
            Breach::Lost | Breach::Cart | Breach::Counter => Harm::Lost,
            Breach::Revived | Breach::Expiry => Harm::Resurrected,
            Breach::Wrong
            | Breach::Stale
            | Breach::Siblings
            | Breach::Dishonest
            | Breach::Diverged
            | Breach::Unjudged => Harm::Wrong,
        }
    }
}

impl Sums {
    pub(super) fn of(counts: &Counts, found: &[Violation]) -> Sums {
        let count = |harm: Harm| found.iter().filter(|one| Harm::of(one.breach) == harm).count() as u64;
        Sums {
            tried: counts.tried,
            acknowledged: counts.acknowledged,
            lost: count(Harm::Lost),
            resurrected: count(Harm::Resurrected),
            wrong: count(Harm::Wrong),
        }
    }
}

impl Sums {
    /// Each with its name.
    pub(super) fn counts(&self) -> [(&'static str, u64); 5] {
        let Sums { tried, acknowledged, lost, resurrected, wrong } = *self;
        [
            ("tried", tried),
            ("acknowledged", acknowledged),
            ("lost", lost),
            ("resurrected", resurrected),
            ("wrong", wrong),
        ]
    }
}

impl AddAssign for Sums {
    fn add_assign(&mut self, other: Sums) {
        let Sums { tried, acknowledged, lost, resurrected, wrong } = other;
        self.tried += tried;
        self.acknowledged += acknowledged;
        self.lost += lost;
        self.resurrected += resurrected;
        self.wrong += wrong;
    }
}

impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.counts().map(|(name, count)| format!("{count} {name}"));
        f.write_str(&counts.join(", "))
    }
}

/// What came to harm, a line for each kind: the first keys of it, with the operations that show it.
pub(super) fn by_name(found: &[Violation]) -> Vec<String> {
    let kinds = [(Harm::Lost, "lost"), (Harm::Resurrected, "resurrected"), (Harm::Wrong, "wrong")];
    let line = |(harm, word): (Harm, &str)| {
        let mut keys: BTreeMap<(&str, &str), BTreeSet<OpId>> = BTreeMap::new();
        for one in found.iter().filter(|one| Harm::of(one.breach) == harm) {
            keys.entry((&one.bucket, &one.key)).or_default().extend(&one.ops);
        }
        let named = keys
            .iter()
            .map(|((bucket, key), ops)| format!("{bucket}/{key} ({})", listed(ops.iter(), OPS_MAX, "#")));
        (!keys.is_empty()).then(|| format!("{word}: {}", listed(named, KEYS_MAX, "")))
    };
    kinds.into_iter().filter_map(line).collect()
}

/// The first of them, and how many there are beside.
fn listed(all: impl ExactSizeIterator<Item = impl fmt::Display>, at_most: usize, before: &str) -> String {
    let more = all.len().saturating_sub(at_most);
    let first: Vec<String> = all.take(at_most).map(|one| format!("{before}{one}")).collect();
    let first = first.join(", ");
    if more == 0 { first } else { format!("{first} and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(breach: Breach, key: &str, ops: &[OpId]) -> Violation {
        let (bucket, key, story) = ("b".to_owned(), key.to_owned(), String::new());
        Violation { breach, bucket, key, story, ops: ops.to_vec() }
    }

    #[test]
    fn harm_is_named_by_key_and_operation_and_no_list_grows_without_end() {
        let mut all = vec![
            found(Breach::Lost, "k1", &[7, 3]),
            found(Breach::Counter, "k1", &[3, 9]),
            found(Breach::Expiry, "k2", &[1, 2, 3, 4, 5, 6]),
        ];
        assert_eq!(
            by_name(&all),
            ["lost: b/k1 (#3, #7, #9)", "resurrected: b/k2 (#1, #2, #3, #4 and 2 more)"]
        );
        all.extend((0..8).map(|n| found(Breach::Wrong, &format!("w{n}"), &[n])));
        assert_eq!(
            by_name(&all)[2],
            "wrong: b/w0 (#0), b/w1 (#1), b/w2 (#2), b/w3 (#3), b/w4 (#4) and 3 more"
        );
        assert!(by_name(&[]).is_empty());
    }

    #[test]
    fn the_sums_are_those_of_all_runs() {
        let counts = Counts { tried: 10, acknowledged: 8, ..Counts::default() };
        let mut sums = Sums::of(&counts, &[found(Breach::Lost, "k", &[1]), found(Breach::Stale, "k", &[2])]);
        sums += Sums::of(&counts, &[found(Breach::Revived, "k", &[1])]);
        assert_eq!(sums.to_string(), "20 tried, 16 acknowledged, 1 lost, 1 resurrected, 1 wrong");
    }
}
