//! The GET machine: a few scripts to read, and every history of a small cluster.
//!
//! Owners are 1 2 3, fallbacks 4 5. What a node holds is a word: `-` nothing, `a` and `b` two concurrent writes, `ab` both.
//! In a script `+2` is node 2's answer to what it was asked, `-2` its failure, `=2` a repair it took, `h` the hedge's time
//! and `T` the end. On the other side `?2` asks for a digest, `!2` for the record, `2<ab` repairs node 2 with both writes, and
//! a reply is what was read, in brackets.

use super::*;
use crate::causal::{Actor, Dot};
use crate::record::{Content, Object, Sibling};
use crate::wire::record::{digest, encode};
use bytes::Bytes;

fn id(n: u128) -> NodeId {
    NodeId(n)
}

fn ids(ns: &[u128]) -> Vec<NodeId> {
    ns.iter().copied().map(NodeId).collect()
}

fn plan(me: u128, fallbacks: &[u128], doubted: &[u128]) -> Plan {
    let (fallbacks, doubted) = (ids(fallbacks), ids(doubted));
    Plan {
        me: id(me),
        owners: ids(&[1, 2, 3]),
        also: vec![],
        fallbacks,
        pending: vec![],
        doubted,
        late: vec![],
    }
}

fn want(r: usize) -> Want {
    Want { quorum: ReadQuorum { r, pr: 0, sloppy: true }, at_least: None, ask_all: false }
}

/// The record of a word: one sibling a letter.
fn record(word: &str) -> Option<Arc<Record>> {
    let sibling = |letter: u8| Sibling {
        dot: Dot { actor: Actor { node: NodeId(u128::from(letter)), epoch: 1 }, count: 1 },
        content: Content::Object(Object { body: Bytes::from(vec![letter]), ..Object::default() }),
    };
    let siblings: Vec<Sibling> = word.bytes().filter(|b| *b != b'-').map(sibling).collect();
    let clock = Context::of_dots(siblings.iter().map(|s| s.dot));
    if siblings.is_empty() { None } else { Some(Arc::new(Record { clock, siblings })) }
}

fn word(record: Option<&Arc<Record>>) -> String {
    let Some(record) = record else { return "-".into() };
    record.siblings.iter().map(|s| char::from(s.dot.actor.node.0 as u8)).collect()
}

fn held(word: &str, whole: bool) -> Held {
    match record(word) {
        None => Held::Absent,
        Some(record) if whole => Held::Record(digest(&encode(&record)), record),
        Some(record) => Held::Digest(digest(&encode(&record))),
    }
}

fn said(effects: &[Effect]) -> String {
    let one = |effect: &Effect| match effect {
        Effect::Read { from, record } => format!("{}{}", if *record { '!' } else { '?' }, from.0),
        Effect::Repair { to, record } => format!("{}<{}", to.0, word(Some(record))),
        Effect::Reply(Reply::Merged(record)) => format!("[{}]", word(record.as_ref())),
        Effect::Reply(Reply::TooFew { need, have, timed_out }) => {
            format!("[{have} of {need}{}]", if *timed_out { " in time" } else { "" })
        }
        Effect::Reply(Reply::NotReached) => "[not reached]".into(),
    };
    effects.iter().map(one).collect::<Vec<String>>().join(" ")
}

const START: Time = Time(1_000_000);
const END: Time = Time(11_000_000);

/// `holds` says what nodes 1 to 5 hold.
#[track_caller]
fn check(plan: Plan, want: Want, holds: &str, script: &str, expected: &str) {
    let holds: Vec<&str> = holds.split_whitespace().collect();
    let mut effects = Vec::new();
    let mut get = Get::start(plan, want, START, END, &mut effects);
    for step in script.split_whitespace() {
        let node = || NodeId(step[1..].parse().unwrap());
        let event = match &step[..1] {
            "+" => {
                let last = effects.iter().rev().find_map(|e| match e {
                    Effect::Read { from, record } if *from == node() => Some(*record),
                    _ => None,
                });
                Event::Found { by: node(), held: held(holds[node().0 as usize - 1], last.unwrap_or(false)) }
            }
            "-" => Event::Failed { by: node() },
            "=" => Event::Repaired { by: node() },
            "h" => Event::Tick { now: get.deadline().unwrap() },
            _ => Event::Tick { now: END },
        };
        get.on(event, &mut effects);
    }
    assert_eq!(said(&effects), expected);
}

#[test]
fn who_is_late_is_asked_after_the_other_owners() {
    let late = |late: &[u128], doubted: &[u128]| Plan { late: ids(late), ..plan(9, &[4], doubted) };
    check(late(&[1], &[]), want(2), "a a a", "+2 +3", "!2 ?3 [a]");
    check(late(&[1], &[]), want(2), "a a a", "-2 +3 +1", "!2 ?3 !1 [a]");
    check(late(&[1, 2, 3], &[]), want(2), "a a a", "+1 +2", "!1 ?2 [a]");
    check(late(&[1], &[2]), want(2), "a a a", "+3 +1", "!3 ?1 [a]");
}

#[test]
fn one_record_is_enough_where_all_agree() {
    check(plan(1, &[], &[]), want(2), "a a a", "+1 +2", "!1 ?2 [a]");
    check(plan(2, &[], &[]), want(3), "a a a", "+2 +3 +1", "!2 ?1 ?3 [a]");
    check(plan(1, &[], &[]), want(2), "- - a", "+1 +2", "!1 ?2 [-]");
}

#[test]
fn where_they_differ_the_quorum_is_repaired_before_the_answer() {
    check(plan(1, &[], &[]), want(2), "a ab a", "+1 +2 +2 =1", "!1 ?2 !2 1<ab [ab]");
    check(plan(1, &[], &[]), want(2), "a b a", "+1 +2 +2 =2 -1", "!1 ?2 !2 1<ab 2<ab [ab]");
    check(plan(1, &[], &[]), want(2), "- b a", "+1 +2 +2 T", "!1 ?2 !2 1<b [b]");
}

#[test]
fn a_failure_asks_one_more() {
    check(plan(1, &[4], &[]), want(2), "a a a a", "+1 -2 +3", "!1 ?2 ?3 [a]");
    check(plan(1, &[4], &[]), want(2), "a a a a", "+1 -2 -3 +4", "!1 ?2 ?3 ?4 [a]");
}

#[test]
fn when_the_one_who_was_asked_for_the_record_fails_the_next_is() {
    check(plan(1, &[], &[]), want(1), "a a a", "-1 +2", "!1 !2 [a]");
}

#[test]
fn what_fallbacks_lack_is_no_proof_that_there_is_nothing() {
    // Two fallbacks are quicker than the only owner who is left.
    let few = || plan(4, &[4, 5], &[1, 2]);
    check(few(), want(2), "- - a - -", "+4 h +5 +3", "!3 ?4 ?5 [a]");
    check(few(), want(2), "- - - - -", "+4 h +5 +3", "!3 ?4 ?5 [-]");
    check(few(), want(2), "- - - - -", "-3 +4 +5 -1 -2", "!3 ?4 !5 ?1 ?2 [0 of 2]");
    // What they have was written for the owners: it counts without them.
    check(few(), want(2), "- - - a a", "-3 +4 +5 +5", "!3 ?4 !5 [a]");
}

#[test]
fn slowness_asks_one_more() {
    check(plan(1, &[], &[]), want(2), "a a a", "+1 h +3", "!1 ?2 ?3 [a]");
}

#[test]
fn a_hopeless_read_is_answered_at_once() {
    check(plan(1, &[], &[]), want(3), "a a a", "+1 -2", "!1 ?2 ?3 [1 of 3]");
    check(plan(1, &[], &[]), want(4), "a a a", "", "!1 ?2 ?3 [0 of 4]");
}

#[test]
fn fallbacks_are_read_and_neither_repaired_nor_counted_as_owners() {
    check(plan(1, &[4], &[2, 3]), want(2), "a - - ab", "+1 +4 +4 =1", "!1 ?4 !4 1<ab [ab]");
    let mut owners = want(2);
    owners.quorum.pr = 2;
    check(plan(1, &[4], &[2, 3]), owners, "a a - a", "+1 +4 +2", "!1 ?2 [a]");
}

#[test]
fn the_receipt_of_a_failed_read_names_what_lacks() {
    let mut owners = want(1);
    owners.quorum.pr = 3;
    check(plan(1, &[], &[]), owners, "a a a", "+1 -3", "!1 ?2 ?3 [1 of 3]");
}

#[test]
fn one_of_several_who_name_a_record_is_asked_and_another_if_it_hangs() {
    let all = || Want { ask_all: true, ..want(2) };
    check(plan(1, &[], &[]), all(), "a b b", "+1 +2 +3 +2 =1 =2 =3", "!1 ?2 ?3 !2 1<ab 2<ab 3<ab [ab]");
    check(plan(1, &[], &[]), all(), "a b b", "+1 +2 +3 h +3 =1 =3", "!1 ?2 ?3 !2 !3 1<ab 3<ab [ab]");
    check(plan(1, &[], &[]), all(), "a b b", "+1 +2 +3 -2 +3 =1 =3", "!1 ?2 ?3 !2 !3 1<ab 3<ab [ab]");
}

#[test]
fn a_late_answer_is_still_repaired() {
    let all = || Want { ask_all: true, ..want(2) };
    check(plan(1, &[], &[]), all(), "ab ab a", "+1 +2 +3", "!1 ?2 ?3 [ab] 3<ab");
    check(plan(1, &[], &[]), all(), "ab a a", "+1 +2 +2 +3 =2", "!1 ?2 ?3 !2 2<ab 3<ab [ab]");
}

#[test]
fn more_are_asked_until_the_context_is_reached() {
    let at_least = record("ab").map(|r| r.clock.clone());
    let want = || Want { at_least: at_least.clone(), ..want(1) };
    check(plan(1, &[], &[]), want(), "a - ab", "+1 +2 +3 =1 =2", "!1 !2 !3 1<ab 2<ab [ab]");
    check(plan(1, &[], &[]), want(), "a - b", "+1 +2 +3 =1 =2 =3", "!1 !2 !3 1<ab 2<ab 3<ab [ab]");
    check(plan(1, &[], &[]), want(), "a - a", "+1 +2 +3", "!1 !2 !3 [not reached]");
    check(plan(1, &[], &[]), want(), "a - b", "+1 +2 T", "!1 !2 !3 [not reached]");
}

/// What an onlooker knows, reckoned from events and effects alone.
#[derive(Clone, Default)]
struct Onlooker {
    reading: BTreeMap<NodeId, bool>,
    asked: BTreeMap<NodeId, usize>,
    found: BTreeMap<NodeId, Option<Arc<Record>>>,
    failed: usize,
    hedged: bool,
    records: usize,
    repairing: Vec<NodeId>,
    ever_repaired: Vec<NodeId>,
    reply: Option<Reply>,
}

struct Case {
    plan: Plan,
    want: Want,
    /// What each node answers when it is asked for its digest, and for its record.
    holds: Vec<(Held, Held)>,
}

impl Case {
    fn answer(&self, node: NodeId, whole: bool) -> Held {
        let (digest, record) = &self.holds[node.0 as usize - 1];
        if whole { record.clone() } else { digest.clone() }
    }

    fn record(&self, node: NodeId) -> Option<Arc<Record>> {
        match self.answer(node, true) {
            Held::Record(_, record) => Some(record),
            _ => None,
        }
    }

    fn may_be_asked(&self) -> impl Iterator<Item = NodeId> {
        let fallbacks: &[NodeId] = if self.want.quorum.sloppy { &self.plan.fallbacks } else { &[] };
        self.plan.owners.iter().chain(fallbacks).copied()
    }

    fn owns(&self, node: &NodeId) -> bool {
        self.plan.owners.contains(node)
    }
}

impl Onlooker {
    /// Whether these are a quorum. A fallback that has said that it has nothing counts beside an owner only.
    fn enough<'a>(&self, case: &Case, nodes: impl Iterator<Item = &'a NodeId>) -> bool {
        let (owners, fallbacks): (Vec<_>, Vec<_>) = nodes.partition(|n| case.owns(n));
        let lacks = |n: &&&NodeId| self.found.get(**n) == Some(&None);
        let void = if owners.is_empty() { fallbacks.iter().filter(lacks).count() } else { 0 };
        let all = owners.len() + fallbacks.len() - void;
        all >= case.want.quorum.r && owners.len() >= case.want.quorum.pr
    }

    fn sees(&mut self, case: &Case, event: Option<&Event>, effects: &[Effect]) {
        match event {
            Some(Event::Found { by, held }) => {
                self.reading.remove(by);
                if !matches!(held, Held::Digest(_)) {
                    self.records += usize::from(*held != Held::Absent);
                }
                self.found.insert(*by, case.record(*by));
            }
            Some(Event::Failed { by }) if self.reading.remove(by).is_some() => {
                self.found.remove(by);
                self.failed += 1;
            }
            Some(Event::Failed { by } | Event::Repaired { by }) => self.repairing.retain(|n| n != by),
            Some(Event::Tick { .. }) => self.hedged = true,
            None => {}
        }
        for effect in effects {
            match effect {
                Effect::Read { from, record } => {
                    assert!(case.may_be_asked().any(|n| n == *from), "{from:?} is not to be read");
                    let times = self.asked.entry(*from).or_default();
                    *times += 1;
                    assert!(
                        *times == 1 || (*times == 2 && *record),
                        "{from:?} is asked once, and for its record"
                    );
                    self.reading.insert(*from, *record);
                }
                Effect::Repair { to, record } => {
                    assert!(case.plan.owners.contains(to), "only owners are repaired");
                    let theirs = self.found.get(to).expect("only who answered is repaired");
                    assert!(theirs.as_ref() != Some(record), "{to:?} has it already");
                    self.repairing.push(*to);
                    assert!(!self.ever_repaired.contains(to), "{to:?} is repaired once");
                    self.ever_repaired.push(*to);
                }
                Effect::Reply(reply) => {
                    assert!(self.reply.is_none(), "the reply is said once");
                    self.reply = Some(reply.clone());
                    self.judge(case, event, reply);
                }
            }
        }
        let waits = !self.reading.is_empty() || !self.repairing.is_empty();
        assert!(self.reply.is_some() || waits, "somebody hangs");
    }

    fn judge(&self, case: &Case, event: Option<&Event>, reply: &Reply) {
        let at_end = matches!(event, Some(Event::Tick { now }) if *now == END);
        match reply {
            Reply::Merged(merged) => {
                let empty = Arc::new(Record::default());
                let merged = merged.as_ref().unwrap_or(&empty);
                let inside =
                    |r: &Option<Arc<Record>>| r.as_ref().is_none_or(|r| merge(merged, r) == **merged);
                let heard: Vec<&NodeId> =
                    self.found.iter().filter(|(_, r)| inside(r)).map(|(n, _)| n).collect();
                assert!(self.enough(case, heard.iter().copied()), "a quorum stands behind it");
                let owners = heard.iter().filter(|n| case.owns(n)).count();
                let awaited = self.reading.keys().any(|n| case.owns(n));
                let nothing = self.found.values().all(Option::is_none);
                assert!(!(nothing && awaited) || owners >= case.want.quorum.r, "an owner may have it still");
                let sum = heard
                    .iter()
                    .filter_map(|n| self.found[n].clone())
                    .fold(Record::default(), |sum, r| merge(&sum, &r));
                assert_eq!(**merged, sum, "it is what the quorum holds");
                assert!(case.want.at_least.as_ref().is_none_or(|least| merged.clock.covers(least)));
                let same = self.found.values().flatten().all(|r| *r == *merged);
                if same && self.failed == 0 && !self.hedged && case.want.at_least.is_none() {
                    assert!(self.records <= 1, "equal digests need one record");
                }
            }
            Reply::TooFew { timed_out, .. } if at_end => assert!(timed_out),
            Reply::TooFew { need, have, timed_out } => {
                assert!(have < need && !timed_out, "{have} of {need}");
                let could: BTreeSet<&NodeId> = self.found.keys().chain(self.reading.keys()).collect();
                assert!(
                    !self.enough(case, could.into_iter()),
                    "gave up with {:?} still to answer",
                    self.reading
                );
                assert!(
                    case.may_be_asked().all(|n| self.asked.contains_key(&n)),
                    "gave up without asking all"
                );
            }
            Reply::NotReached => {
                assert!(at_end || case.may_be_asked().all(|n| self.asked.contains_key(&n)));
                assert!(self.enough(case, self.found.keys()));
                let sum = self.found.values().flatten().fold(Record::default(), |sum, r| merge(&sum, r));
                assert!(!sum.clock.covers(case.want.at_least.as_ref().unwrap()), "it was reached");
            }
        }
    }
}

fn walk(case: &Case, get: &Get, onlooker: &Onlooker, left: usize, hedges: usize) -> u64 {
    let mut next: Vec<Event> = Vec::new();
    for (by, whole) in onlooker.reading.iter().map(|(n, whole)| (*n, *whole)) {
        next.push(Event::Failed { by });
        next.push(Event::Found { by, held: case.answer(by, whole) });
    }
    for by in onlooker.repairing.iter().copied() {
        next.push(Event::Repaired { by });
    }
    assert_eq!(get.is_done(), onlooker.reply.is_some() && onlooker.reading.is_empty());
    assert_eq!(get.deadline().is_none(), onlooker.reply.is_some(), "whoever waits has a deadline");
    if let Some(at) = get.deadline() {
        assert!(at <= END && at > START);
        next.extend((at < END && hedges > 0).then_some(Event::Tick { now: at }));
        next.push(Event::Tick { now: END });
    }
    if next.is_empty() || left == 0 {
        return 1;
    }
    let mut histories = 0;
    for event in next {
        let (mut get, mut onlooker, mut effects) = (get.clone(), onlooker.clone(), Vec::new());
        get.on(event.clone(), &mut effects);
        onlooker.sees(case, Some(&event), &effects);
        let tick = matches!(event, Event::Tick { .. });
        let asked_again = effects.iter().any(
            |e| matches!((e, &event), (Effect::Read { from, .. }, Event::Found { by, .. }) if from == by),
        );
        let repair = effects
            .iter()
            .any(|e| matches!((e, &event), (Effect::Repair { to, .. }, Event::Found { by, .. }) if to == by));
        if !tick && !asked_again && !repair {
            let (before, said) = (get.clone(), effects.len());
            get.on(event, &mut effects);
            assert!(effects.len() == said && get == before, "a repeated event changes nothing");
        }
        histories += walk(case, &get, &onlooker, left - 1, hedges - usize::from(tick && hedges > 0));
    }
    histories
}

fn every_history(length: usize, ask_all: bool) -> u64 {
    let mut histories = 0;
    let both = record("ab").map(|r| r.clock.clone());
    for holds in
        ["a a a a -", "a a a - ab", "a b a a a", "- a - - a", "- - - - a", "a ab b - -", "ab - - a b"]
    {
        for (r, pr, sloppy) in
            [(1, 0, true), (2, 0, true), (3, 0, true), (2, 2, true), (3, 0, false), (2, 1, false)]
        {
            for (me, fallbacks, doubted) in [
                (1, &[][..], &[][..]),
                (2, &[4], &[]),
                (1, &[4], &[2, 3]),
                (4, &[4, 5], &[1, 2]),
                (3, &[5], &[1, 2, 5]),
                (8, &[4], &[1]),
            ] {
                for at_least in [None, both.clone()] {
                    let case = Case {
                        plan: plan(me, fallbacks, doubted),
                        want: Want { quorum: ReadQuorum { r, pr, sloppy }, at_least, ask_all },
                        holds: holds.split_whitespace().map(|w| (held(w, false), held(w, true))).collect(),
                    };
                    let (mut effects, mut onlooker) = (Vec::new(), Onlooker::default());
                    let get = Get::start(case.plan.clone(), case.want.clone(), START, END, &mut effects);
                    onlooker.sees(&case, None, &effects);
                    histories += walk(&case, &get, &onlooker, length, 1);
                }
            }
        }
    }
    histories
}

#[test]
fn every_short_history_ends_well() {
    let histories = every_history(6, false);
    assert!(histories > 100_000, "{histories}");
}

#[test]
fn every_short_history_that_asks_all_ends_well() {
    let histories = every_history(5, true);
    assert!(histories > 100_000, "{histories}");
}
