//! Deletions that are forgotten, with one proof after the other left out.
//!
//! One key, three owners and two others. Copies stay behind, readers hold what they have read, messages are under way for up
//! to their life, nodes are away; and node 0 asks and lets go by `ring::reap` itself. A proof is left out by a lie in the
//! answers, or in what the network does: each must bring a deleted value back in some history, and none may without a lie.

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ring::causal::{Context, Dot, Epochs};
use ring::ids::{NodeId, ObjectId};
use ring::reap::{Dead, Reaper, Said};
use ring::record::{Content, Me, Object, Record, coordinate, merge, receive};
use ring::time::{Time, Wall};
use ring::wire::record::{digest, encode};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const OWNERS: usize = 3;
const NODES: usize = 5;
const HISTORIES: u64 = 10_000;
const STEPS: usize = 160;
/// So many steps, and as many without writes, reads and new failures: else hardly anything would ever ripen.
const CALM: usize = 40;
pub(crate) const LIFE: Duration = Duration::from_secs(10);
pub(crate) const GRACE: Duration = Duration::from_secs(11);

/// What is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lie {
    Nothing,
    /// An owner that does not answer is taken for one that agrees.
    SilenceIsConsent,
    /// Nobody asks who does not own the key.
    OwnersOnly,
    /// A copy that went between two rounds is not told of.
    LetGoInSilence,
    /// Work in memory is not told of.
    NoWork,
    /// What is ripe goes at once.
    NoGrace,
    /// Messages are taken however old they are.
    NoLife,
    /// A ripe key goes without a look at what is there by then.
    Unlooked,
}

struct Message {
    to: usize,
    record: Record,
    sent: Time,
}

struct Work {
    at: usize,
    record: Record,
    begun: Time,
}

struct Node {
    copy: Option<Record>,
    epochs: Epochs,
    mark: u64,
    up: bool,
}

struct Key {
    lie: Lie,
    now: Time,
    nodes: Vec<Node>,
    messages: Vec<Message>,
    works: Vec<Work>,
    contexts: Vec<Context>,
    reaper: Reaper,
    covered: BTreeSet<Dot>,
    written: BTreeSet<Dot>,
    reaped: u64,
}

fn name(node: usize) -> NodeId {
    NodeId(node as u128 + 1)
}

impl Key {
    fn new(lie: Lie) -> Key {
        let node = |_| Node { copy: None, epochs: Epochs::at_start(1, 0, false), mark: 0, up: true };
        let grace = if lie == Lie::NoGrace { Duration::ZERO } else { GRACE };
        Key {
            lie,
            now: Time(0),
            nodes: (0..NODES).map(node).collect(),
            messages: Vec::new(),
            works: Vec::new(),
            contexts: vec![Context::new()],
            reaper: Reaper::new(grace, 1),
            covered: BTreeSet::new(),
            written: BTreeSet::new(),
            reaped: 0,
        }
    }

    fn take(&mut self, at: usize, record: &Record) {
        let node = &mut self.nodes[at];
        let mut me = Me { node: name(at), epochs: &mut node.epochs };
        if let Some(merged) = receive(node.copy.as_ref(), record, &mut me) {
            node.copy = Some(merged);
        }
    }

    fn write(&mut self, rng: &mut StdRng, at: usize) {
        let seen = self.contexts[self.contexts.len().saturating_sub(rng.random_range(1..3))].clone();
        let delete = rng.random_bool(0.6);
        let content =
            if delete { Content::Tombstone { deleted: Wall(1) } } else { Content::Object(Object::default()) };
        let node = &mut self.nodes[at];
        let mut me = Me { node: name(at), epochs: &mut node.epochs };
        let done = coordinate(node.copy.as_ref(), &seen, vec![content], &mut me);
        self.covered.extend(self.written.iter().filter(|dot| seen.has(dot)).copied());
        if !delete {
            self.written.extend(&done.dots);
        }
        node.copy = Some(done.record.clone());
        for to in (0..NODES).filter(|to| *to != at) {
            match rng.random_range(0..10) {
                0..5 if self.nodes[to].up => self.take(to, &done.record),
                5 => self.messages.push(Message { to, record: done.record.clone(), sent: self.now }),
                _ => {}
            }
        }
    }

    /// Somebody reads some copies, and goes on to hold what he read.
    fn read(&mut self, rng: &mut StdRng, at: usize) {
        let of = |node: &Node| node.up.then(|| node.copy.clone()).flatten();
        let some: Vec<Record> = self.nodes.iter().filter_map(of).filter(|_| rng.random_bool(0.5)).collect();
        let Some(record) = some.into_iter().reduce(|a, b| merge(&a, &b)) else { return };
        self.contexts.push(record.clock.clone());
        self.works.push(Work { at, record, begun: self.now });
    }

    /// What was read goes to somebody, and the reader is done.
    fn send(&mut self, rng: &mut StdRng) {
        if self.works.is_empty() {
            return;
        }
        let work = self.works.swap_remove(rng.random_range(0..self.works.len()));
        for to in 0..NODES {
            if self.nodes[work.at].up && rng.random_bool(0.4) {
                self.messages.push(Message { to, record: work.record.clone(), sent: self.now });
            }
        }
    }

    fn arrive(&mut self, rng: &mut StdRng) {
        if self.messages.is_empty() {
            return;
        }
        let at = rng.random_range(0..self.messages.len());
        if !self.nodes[self.messages[at].to].up {
            return;
        }
        let Message { to, record, sent } = self.messages.swap_remove(at);
        if self.lie == Lie::NoLife || self.now - sent < LIFE {
            self.take(to, &record);
        }
    }

    /// Two owners become equal; or somebody else hands on what he holds, and lets it go.
    fn exchange(&mut self, rng: &mut StdRng) {
        let (from, to) = (rng.random_range(0..NODES), rng.random_range(0..OWNERS));
        let all_up = self.nodes.iter().take(OWNERS).all(|node| node.up);
        let Some(record) = self.nodes[from].copy.clone().filter(|_| self.nodes[from].up) else { return };
        if from < OWNERS && self.nodes[to].up {
            self.take(to, &record);
        } else if from >= OWNERS && all_up {
            (0..OWNERS).for_each(|owner| self.take(owner, &record));
            self.nodes[from].copy = None;
            self.nodes[from].mark += 1;
        }
    }

    fn said(&self, at: usize, dead: &Dead) -> Option<Said> {
        let node = &self.nodes[at];
        if !node.up {
            return (self.lie == Lie::SilenceIsConsent).then(Said::default);
        }
        let held = node.copy.as_ref().map(|record| digest(&encode(record)));
        let fits = if at < OWNERS { held == Some(dead.digest) } else { held.is_none() };
        let works = self.works.iter().filter(|work| work.at == at).map(|work| self.now - work.begun);
        let mut said = Said { work: works.max().unwrap_or_default(), mark: node.mark, ..Said::default() };
        let unasked = self.lie == Lie::OwnersOnly && at >= OWNERS;
        if !fits && !unasked {
            said.unlike.insert(0);
        }
        if self.lie == Lie::NoWork {
            said.work = Duration::ZERO;
        }
        if matches!(self.lie, Lie::LetGoInSilence | Lie::OwnersOnly) {
            said.mark = 0;
        }
        Some(said)
    }

    fn round(&mut self, rng: &mut StdRng) {
        let Some(record) = self.nodes[0].copy.clone().filter(|record| self.nodes[0].up && record.is_dead())
        else {
            return;
        };
        let id =
            ObjectId::new(Bytes::from_static(b"b"), Bytes::from_static(b"k")).expect("both names are short");
        let dead = Dead { id, digest: digest(&encode(&record)), owners: (0..OWNERS).map(name).collect() };
        let said: BTreeMap<_, _> = (0..NODES).map(|at| (name(at), self.said(at, &dead))).collect();
        let judged = self.reaper.judge(std::slice::from_ref(&dead), &said, self.now, self.now);
        self.reaper.end();
        for owner in 0..OWNERS {
            if judged.push.iter().any(|(to, _)| *to == name(owner)) {
                self.take(owner, &record);
            }
        }
        if judged.ripe.is_empty() {
            return;
        }
        self.reaped += 1;
        for owner in (0..OWNERS).rev() {
            if rng.random_bool(0.1) {
                return;
            }
            let same = |copy: &Record| self.lie == Lie::Unlooked || digest(&encode(copy)) == dead.digest;
            if self.nodes[owner].up && self.nodes[owner].copy.as_ref().is_some_and(same) {
                self.nodes[owner].copy = None;
            }
        }
    }

    fn step(&mut self, rng: &mut StdRng) {
        let at = rng.random_range(0..NODES);
        match rng.random_range(0..100) {
            0..7 if self.nodes[at].up => self.write(rng, at),
            7..17 if self.nodes[at].up => self.read(rng, at),
            17..29 => self.send(rng),
            29..44 => self.arrive(rng),
            44..62 => self.exchange(rng),
            62..66 => self.nodes[at].up = !self.nodes[at].up || at == 0,
            66..70 => self.nodes.iter_mut().for_each(|node| node.up = true),
            70..82 => self.now = self.now + Duration::from_secs(rng.random_range(1..5)),
            _ => self.round(rng),
        }
    }

    fn calm_step(&mut self, rng: &mut StdRng) {
        match rng.random_range(0..100) {
            0..4 => self.send(rng),
            4..8 => self.arrive(rng),
            8..50 => self.exchange(rng),
            50..70 => self.now = self.now + Duration::from_secs(rng.random_range(1..5)),
            _ => self.round(rng),
        }
    }

    /// What comes back, and what is lost, when everything has arrived that may.
    fn end(mut self) -> (bool, bool, u64) {
        self.nodes.iter_mut().for_each(|node| node.up = true);
        for work in std::mem::take(&mut self.works) {
            self.messages.push(Message { to: work.at, record: work.record, sent: self.now });
        }
        for Message { to, record, sent } in std::mem::take(&mut self.messages) {
            if self.lie == Lie::NoLife || self.now - sent < LIFE {
                self.take(to, &record);
            }
        }
        let copies = self.nodes.iter().filter_map(|node| node.copy.clone());
        let all = copies.reduce(|a, b| merge(&a, &b)).unwrap_or_default();
        let there: BTreeSet<Dot> =
            all.siblings.iter().filter(|s| !s.content.is_dead()).map(|s| s.dot).collect();
        let revived = there.intersection(&self.covered).next().is_some();
        let lost = self.written.iter().any(|dot| !there.contains(dot) && !self.covered.contains(dot));
        (revived, lost, self.reaped)
    }
}

fn play(lie: Lie, seed: u64) -> (bool, bool, u64) {
    let (mut rng, mut key) = (StdRng::seed_from_u64(seed), Key::new(lie));
    for step in 0..STEPS {
        if step % CALM == 0 {
            key.nodes.iter_mut().for_each(|node| node.up = true);
            let away = rng.random_range(1..2 * NODES);
            key.nodes.iter_mut().skip(away).take(1).for_each(|node| node.up = false);
        }
        if (step / CALM).is_multiple_of(2) { key.step(&mut rng) } else { key.calm_step(&mut rng) }
    }
    key.end()
}

#[test]
fn nothing_comes_back_and_nothing_is_lost() {
    let mut reaped = 0;
    for seed in 0..HISTORIES {
        let (revived, lost, times) = play(Lie::Nothing, seed);
        assert!(!revived, "seed {seed}: a deleted value came back");
        assert!(!lost, "seed {seed}: a written value is lost");
        reaped += times;
    }
    assert!(reaped > HISTORIES / 20, "only {reaped} reaps: the model tries nothing");
}

#[test]
fn each_proof_is_needed() {
    use Lie::{NoGrace, NoLife, NoWork, OwnersOnly, SilenceIsConsent};
    for lie in [SilenceIsConsent, OwnersOnly, NoWork, NoGrace, NoLife] {
        let revives = (0..HISTORIES).find(|seed| play(lie, *seed).0);
        assert!(revives.is_some(), "{lie:?} brings nothing back");
    }
}

/// A late message leaves the value with somebody else, a reader takes it from there, and the copy goes: all between two rounds.
/// No 200,000 random histories go that way.
fn through_another(lie: Lie) -> (bool, bool, u64) {
    let mut rng = StdRng::seed_from_u64(1);
    let mut key = Key::new(lie);
    let mut me = Me { node: name(0), epochs: &mut key.nodes[0].epochs };
    let value = coordinate(None, &Context::new(), vec![Content::Object(Object::default())], &mut me);
    let gone = vec![Content::Tombstone { deleted: Wall(1) }];
    let dead = coordinate(Some(&value.record), &value.context, gone, &mut me).record;
    key.written.extend(&value.dots);
    key.covered.extend(&value.dots);
    key.nodes[0].copy = Some(dead.clone());
    (1..OWNERS).for_each(|owner| key.nodes[owner].copy = Some(dead.clone()));
    for _ in 0..30 {
        // Agreed, and quiet: the reader has nothing yet, and the message is under way.
        key.round(&mut rng);
        key.now = key.now + Duration::from_secs(1);
        key.round(&mut rng);
        key.take(3, &value.record);
        key.works.push(Work { at: 4, record: value.record.clone(), begun: key.now });
        (0..OWNERS).for_each(|owner| key.take(owner, &value.record));
        key.nodes[3].copy = None;
        key.nodes[3].mark += 1;
        key.now = key.now + GRACE;
        key.round(&mut rng);
        if key.reaped > 0 {
            break;
        }
        key.works.clear();
    }
    for Work { record, .. } in std::mem::take(&mut key.works) {
        (0..OWNERS).for_each(|owner| key.take(owner, &record));
    }
    key.end()
}

#[test]
fn a_copy_that_went_between_two_rounds_is_told_of() {
    assert!(through_another(Lie::LetGoInSilence).0, "it comes back where nobody tells of it");
    assert!(!through_another(Lie::Nothing).0);
}
