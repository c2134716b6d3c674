//! Dropped at any moment, anywhere, or not at all: the same to everybody, and never back.

use crate::bucket::BlindWrites;
use crate::causal::{Context, Dot, Epochs};
use crate::ids::NodeId;
use crate::record::write::{CONTEXT_RUNS_MAX, Write, take};
use crate::record::{Content, Me, Record, merge, receive};
use crate::time::Wall;
use crate::wire::peer::Action;
use crate::wire::record::{Digest, decode, digest, encode};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// What happens; replicas are numbers.
#[derive(Clone, Debug)]
enum Step {
    /// A value is written that lives so long, or for ever; by somebody who has read this replica, or nothing.
    Write { at: usize, ttl: Option<u64>, seen: bool },
    /// A value is deleted by somebody who has read it.
    Delete { at: usize },
    /// One replica's copy arrives at another: at once, or as it was long ago.
    Send { from: usize, to: usize, ago: usize },
    /// A replica drops what has expired.
    Sweep { at: usize },
    /// A replica forgets what it had not written to its disk, which is nothing.
    Restart { at: usize },
    /// Time passes.
    Pass(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let at = || 0..3_usize;
    prop_oneof![
        3 => (at(), proptest::option::of(1..6_u64), any::<bool>())
            .prop_map(|(at, ttl, seen)| Step::Write { at, ttl, seen }),
        1 => at().prop_map(|at| Step::Delete { at }),
        5 => (at(), at(), 0..6_usize).prop_map(|(from, to, ago)| Step::Send { from, to, ago }),
        3 => at().prop_map(|at| Step::Sweep { at }),
        1 => at().prop_map(|at| Step::Restart { at }),
        2 => (1..5_u64).prop_map(Step::Pass),
    ]
}

#[derive(Default)]
struct Replica {
    copy: Record,
    /// Every state of before, oldest first.
    past: Vec<Record>,
    /// Values that were once dropped here.
    dropped: BTreeSet<Dot>,
}

impl Replica {
    fn set(&mut self, copy: Record) {
        self.past.push(std::mem::replace(&mut self.copy, copy));
    }

    fn values(&self) -> BTreeSet<Dot> {
        self.copy.siblings.iter().filter(|s| matches!(s.content, Content::Object(_))).map(|s| s.dot).collect()
    }
}

fn write(replica: &mut Replica, epochs: &mut Epochs, at: usize, ttl: Option<u64>, seen: bool, now: Wall) {
    let action = Action::Put { content_type: String::new(), meta: Vec::new(), ttl_ms: ttl };
    put(replica, epochs, at, action, seen, now);
}

fn put(replica: &mut Replica, epochs: &mut Epochs, at: usize, action: Action, seen: bool, now: Wall) {
    let seen = Some(if seen { replica.copy.clock.clone() } else { Context::new() });
    let write = Write {
        action,
        body: Bytes::from_static(b"value"),
        seen,
        ttl_default: None,
        blind: BlindWrites::Siblings,
        siblings_max: usize::MAX,
        context_runs_max: CONTEXT_RUNS_MAX,
    };
    let mut me = Me { node: NodeId(at as u128 + 1), epochs };
    let held = (replica.copy != Record::default()).then(|| replica.copy.clone());
    let record = take(held.as_ref(), write, now, &mut me).expect("no limit is set").record;
    replica.set(record);
}

fn hash(record: &Record) -> Digest {
    digest(&encode(record))
}

proptest! {
    #[test]
    fn dropping_changes_neither_the_digest_nor_what_anybody_sees(
        ttls in proptest::collection::vec(proptest::option::of(1..6_u64), 1..5), now in 0..8_u64,
    ) {
        let (mut replica, mut epochs) = (Replica::default(), Epochs::at_start(1, 0, false));
        for ttl in ttls {
            write(&mut replica, &mut epochs, 0, ttl, false, Wall(0));
        }
        let (whole, now) = (replica.copy, Wall(now));
        if let Some(less) = whole.without_expired(now) {
            prop_assert_eq!(hash(&less), hash(&whole));
            prop_assert!(encode(&less).len() < encode(&whole).len());
            prop_assert_eq!(decode(&encode(&less)), Ok(less.clone()));
            prop_assert_eq!(less.without_expired(now), None);
            let dots = |r: &Record| r.versions(now).map(|v| v.dot).collect::<Vec<_>>();
            prop_assert_eq!(dots(&less), dots(&whole));
            prop_assert_eq!(merge(&whole, &less), less.clone());
            prop_assert_eq!(merge(&less, &whole), less);
        } else {
            prop_assert!(whole.expiries().all(|at| now < at));
        }
    }

    /// Any interleaving of writes, messages early and late, drops and restarts.
    #[test]
    fn what_has_expired_is_gone_everywhere_and_comes_back_nowhere(
        steps in proptest::collection::vec(any_step(), 1..40),
    ) {
        let mut replicas: [Replica; 3] = Default::default();
        let mut epochs: Vec<Epochs> = (0..3).map(|_| Epochs::at_start(1, 0, false)).collect();
        let mut now = Wall(0);
        for step in steps {
            match step {
                Step::Write { at, ttl, seen } => {
                    write(&mut replicas[at], &mut epochs[at], at, ttl, seen, now);
                }
                Step::Delete { at } => put(&mut replicas[at], &mut epochs[at], at, Action::Delete, true, now),
                Step::Send { from, to, ago } => {
                    let past = &replicas[from].past;
                    let sent = past.len().checked_sub(ago).and_then(|n| past.get(n)).unwrap_or(&replicas[from].copy);
                    let sent = sent.clone();
                    let mut me = Me { node: NodeId(to as u128 + 1), epochs: &mut epochs[to] };
                    if let Some(merged) = receive(Some(&replicas[to].copy), &sent, &mut me) {
                        replicas[to].set(merged);
                    }
                }
                Step::Sweep { at } => {
                    let before = replicas[at].values();
                    if let Some(less) = replicas[at].copy.without_expired(now) {
                        replicas[at].set(less);
                    }
                    let gone: Vec<Dot> = before.difference(&replicas[at].values()).copied().collect();
                    replicas[at].dropped.extend(gone);
                }
                Step::Restart { at } => {
                    let copy = decode(&encode(&replicas[at].copy)).expect("it was written here");
                    replicas[at].copy = copy;
                }
                Step::Pass(ms) => now.0 += ms,
            }
            for replica in &replicas {
                prop_assert!(replica.dropped.is_disjoint(&replica.values()), "a dropped value is held again");
                let late = replica.copy.versions(now).any(|v| v.object.expires_at.is_some_and(|at| at <= now));
                prop_assert!(!late, "a value is seen after its time");
            }
            for (a, b) in [(0, 1), (1, 2), (0, 2)] {
                let [a, b] = [a, b].map(|n| &replicas[n].copy);
                let end = |r: &Record| r.without_expired(Wall(u64::MAX)).unwrap_or_else(|| r.clone());
                prop_assert_eq!(hash(a) == hash(b), end(a) == end(b), "digests tell what is there, and not what was dropped");
            }
        }
    }
}
