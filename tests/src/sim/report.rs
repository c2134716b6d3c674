//! What came of a run, in words; and whether its clients were served at all.

use super::fleet::Shape;
use super::plagues::Plague;
use chaos::check::{self, Counts};
use chaos::history::{Call, Entry, Reading, Setting, What};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Violations of one seed that are printed.
const SHOWN_MAX: usize = 5;
/// Operations of each workload that are acknowledged in a minute of load at least, however bad its troubles, or one of so many that were
/// tried, where that is less: a cluster that answers nobody has none. (With a bad draw few are left. Of the seeds 1 to 2,200 seed 952 had the
/// fewest, 11; of 2207, in which nodes are killed 20 times a minute on bad and clogged links, clients wait so long that few are tried at
/// all: 9 of a workload, and 24 of 102 in all.)
const ACKNOWLEDGED_A_MINUTE_MIN: u64 = 10;
const ACKNOWLEDGED_OF: u64 = 10;

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// How the cluster looked.
    pub shape: Shape,
    /// What could go wrong.
    pub plagues: Vec<Plague>,
    /// What must not have happened, in words; empty if all is well.
    pub violations: Vec<String>,
    /// Simulated time in all.
    pub simulated: Duration,
    /// How long after the last trouble all replicas were identical.
    pub healed_after: Option<Duration>,
    /// Records that were spoiled.
    pub rotted: usize,
    /// Families of rows that were spoiled.
    pub spoilt: usize,
    /// Deletions that had been forgotten in the end, as far as the nodes that then ran had counted.
    pub forgotten: u64,
    /// Whether reads had to repair what was just being forgotten, so that repairs among them are not judged.
    pub reads_unjudged: bool,
    /// Acknowledged puts whose receipts were held against the disks.
    pub receipts: u64,
    /// Batches that were not synced when the power failed, and were lost with it.
    pub undone: usize,
    /// What clients did.
    pub counts: Counts,
    /// How many operations were acknowledged of the workload that had fewest.
    pub fewest: u64,
    /// The digest of the trace.
    pub digest: u64,
    /// How many lines it had.
    pub lines: u64,
    /// The lines themselves, if they were kept.
    pub trace: Vec<String>,
}

impl fmt::Display for Report {
    /// One line, and one more for each of the first violations: they explain the rest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let healed =
            self.healed_after.map_or("never".into(), |after| format!("{:.1} s", after.as_secs_f64()));
        write!(
            f,
            "seed {}: {:?}, {:?}; {:.0} s; {} of {} operations acknowledged, {} of one workload at least, {} receipts held against the disks; healed after {healed}; {} batches lost unsynced, {} deletions forgotten, {} records and {} families spoiled{}; trace {:016x} of {} lines",
            self.seed,
            self.plagues,
            self.shape,
            self.simulated.as_secs_f64(),
            self.counts.acknowledged,
            self.counts.tried,
            self.fewest,
            self.receipts,
            self.undone,
            self.forgotten,
            self.rotted,
            self.spoilt,
            if self.reads_unjudged { "; last reads not judged" } else { "" },
            self.digest,
            self.lines,
        )?;
        self.violations.iter().take(SHOWN_MAX).try_for_each(|violation| write!(f, "\n  broken: {violation}"))
    }
}

/// How many operations of the load were acknowledged of the workload that had fewest, and what there is to say if those are too
/// few: a cluster that answers nobody breaks no promise about what it has answered.
pub(super) fn fewest(load: &[Entry], lasted: Duration) -> (u64, Option<String>) {
    let settings = load.iter().filter_map(|entry| match &entry.what {
        What::Setting(setting) => Some(setting),
        _ => None,
    });
    let of = |setting: &Setting| {
        let counts = check::count(load, Some(&setting.bucket));
        (counts.acknowledged, counts.tried, setting.workload.clone())
    };
    let all: Vec<_> = settings.map(of).collect();
    let idle = all.iter().find_map(|(acknowledged, tried, workload)| {
        let most = lasted.as_secs() * ACKNOWLEDGED_A_MINUTE_MIN / 60;
        // One that has not even tried is as idle as one can be.
        let least = most.min(tried.div_ceil(ACKNOWLEDGED_OF).max(1));
        let said = || {
            format!("{workload}: {acknowledged} of {tried} operations were acknowledged, and there must be {least}")
        };
        (*acknowledged < least).then(said)
    });
    (all.iter().map(|(acknowledged, ..)| *acknowledged).min().unwrap_or_default(), idle)
}

/// Reads of the end that failed twice, at one node and of one key. Nodes at rest have no reason to refuse one: where real machines are tried
/// for half a minute, here a second try is enough.
pub(super) fn refused_at_rest(entries: &[Entry]) -> Option<String> {
    let (mut begun, mut failed) = (BTreeMap::new(), BTreeMap::new());
    for entry in entries {
        match &entry.what {
            What::Invoke(invoke) => {
                let (Call::Get { reading, .. } | Call::CartGet { reading, .. }) = &invoke.call else {
                    continue;
                };
                if *reading == Reading::Settled {
                    begun.insert(invoke.op, (&invoke.node, &invoke.bucket, &invoke.key));
                }
            }
            What::Fail { op, why } | What::Info { op, why } => {
                let Some(of) = begun.get(op) else { continue };
                let times = failed.entry(*of).or_insert(0);
                *times += 1;
                if *times > 1 {
                    let (node, bucket, key) = of;
                    return Some(format!(
                        "all is well, and {node} refuses {bucket}/{key} again: {}",
                        why.detail
                    ));
                }
            }
            What::Ok { .. } | What::Setting(_) => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use chaos::history::{Answer, History, Why};
    use std::sync::Arc;

    #[test]
    fn each_workload_is_served_and_not_only_one() {
        let history = History::new(Arc::new(Duration::default));
        for bucket in ["busy", "idle"] {
            history.setting(Setting { workload: bucket.into(), bucket: bucket.into(), ..Setting::default() });
        }
        let ask = |bucket: &str| {
            let get = |_| Call::Get { min: None, reading: Reading::Load };
            history.invoke(0, "n1", bucket, "k", get).0
        };
        let serve = |bucket: &str, times: u64| {
            (0..times).for_each(|_| history.ok(ask(bucket), Answer::default()));
        };
        let minute = Duration::from_secs(60);
        serve("busy", 1000);
        assert!(fewest(&history.entries(), minute).1.is_some(), "nobody has even asked it");
        (0..100).for_each(|_| _ = ask("idle"));
        serve("idle", ACKNOWLEDGED_A_MINUTE_MIN - 1);
        let (count, said) = fewest(&history.entries(), minute);
        assert_eq!(count, ACKNOWLEDGED_A_MINUTE_MIN - 1);
        assert!(said.is_some_and(|said| said.starts_with("idle: ")));
        serve("idle", 1);
        assert_eq!(fewest(&history.entries(), minute), (ACKNOWLEDGED_A_MINUTE_MIN, None));
    }

    #[test]
    fn where_little_was_tried_a_part_of_it_is_owed() {
        let history = History::new(Arc::new(Duration::default));
        history.setting(Setting { workload: "slow".into(), bucket: "slow".into(), ..Setting::default() });
        let get = |_| Call::Get { min: None, reading: Reading::Load };
        let ops: Vec<_> = (0..20).map(|_| history.invoke(0, "n1", "slow", "k", get).0).collect();
        let minute = Duration::from_secs(60);
        history.ok(ops[0], Answer::default());
        assert!(fewest(&history.entries(), minute).1.is_some_and(|said| said.ends_with("there must be 2")));
        history.ok(ops[1], Answer::default());
        assert_eq!(fewest(&history.entries(), minute), (2, None));
        // Of another one more were acknowledged, and much more was tried.
        history.setting(Setting { workload: "busy".into(), bucket: "busy".into(), ..Setting::default() });
        let ops: Vec<_> = (0..500).map(|_| history.invoke(0, "n1", "busy", "k", get).0).collect();
        ops[..5].iter().for_each(|op| history.ok(*op, Answer::default()));
        let (count, said) = fewest(&history.entries(), minute);
        assert!(count == 2 && said.is_some_and(|said| said.starts_with("busy: 5 of 500")));
    }

    #[test]
    fn a_node_at_rest_refuses_nothing_twice() {
        let history = History::new(Arc::new(Duration::default));
        let read = |node: &str, key: &str, fails: bool| {
            let call = Call::Get { min: None, reading: Reading::Settled };
            let (op, _) = history.invoke(0, node, "b", key, |_| call);
            match fails {
                true => history.fail(op, Why::default()),
                false => history.ok(op, Answer::default()),
            }
            refused_at_rest(&history.entries()).is_some()
        };
        let once =
            [read("n1", "k", true), read("n1", "k", false), read("n2", "k", true), read("n1", "l", true)];
        assert_eq!(once, [false; 4]);
        assert!(read("n2", "k", true));
    }
}
