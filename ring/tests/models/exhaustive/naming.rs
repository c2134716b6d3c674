//! One name for all states in which the same can happen.
//!
//! What no rule can tell apart is left out, each on its own ground:
//!
//! * **Which node is which.** No rule compares two nodes' names but to put dots in order, and merging by any other order of
//!   the names gives the same dots. So a state may stand for the one with its nodes exchanged.
//! * **Which number an epoch has.** Two epochs of one node are only ever compared, with each other and with `boot`, and a
//!   fresh one is above all that were drawn. Their order is all that counts. Where a rule is taken away so that a node may
//!   draw an epoch twice, that is not so, and the numbers stand as they are.
//! * **Which value is which.** Nobody looks into one. They are numbered as they first occur in the state. Of those that occur
//!   nowhere it only counts whether they should.

use super::clocks::{self, Clocks};
use super::node::{Ledger, NODES, Values, number};
use super::reaping::{self, Reaping};
use crate::key::Scheme;
use crate::reap::GRACE;
use ring::causal::{Actor, Context};
use ring::ids::NodeId;
use ring::planted::{self, Bug};
use ring::record::{Content, Record};
use ring::time::Time;
use xxhash_rust::xxh3::xxh3_128;

/// A place among the three, and how many disks it has had before this one.
pub(crate) fn node(place: usize, disks: u8) -> NodeId {
    // In the bits that are shown.
    NodeId(((place as u128) << 8 | u128::from(disks)) << 96)
}

/// Which of the three it is.
pub(crate) fn place(node: NodeId) -> usize {
    (node.0 >> 104) as usize
}

fn disks(node: NodeId) -> u8 {
    (node.0 >> 96) as u8
}

/// Where each of the three stands instead.
pub(crate) type Places = [u8; 3];

pub(crate) const AS_THEY_ARE: Places = [0, 1, 2];
const ALL_PLACES: [Places; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// The exchanges that put the nodes in the order of their marks. What equal marks hide is tried both ways.
pub(crate) fn sorted_by(marks: [u64; 3]) -> impl Iterator<Item = Places> {
    ALL_PLACES.into_iter().filter(move |places| {
        let mut there = [0; 3];
        (0..3).for_each(|at| there[usize::from(places[at])] = marks[at]);
        there.is_sorted()
    })
}

/// The epochs that a state mentions, in order.
pub(crate) struct Mentioned(Vec<Actor>);

impl Mentioned {
    pub(crate) fn by<'a>(contexts: impl Iterator<Item = &'a Context>) -> Mentioned {
        let mut actors: Vec<Actor> = contexts.flat_map(|c| c.runs().iter().map(|run| run.actor)).collect();
        actors.sort_unstable();
        actors.dedup();
        Mentioned(actors)
    }

    /// How many epochs of the same node are below this one.
    fn rank(&self, actor: Actor) -> u64 {
        let first = self.0.partition_point(|a| a.node < actor.node);
        (self.0.partition_point(|a| *a < actor) - first) as u64
    }
}

/// Writes a state down.
pub(crate) struct Pen<'a> {
    mentioned: &'a Mentioned,
    places: Places,
    /// Epochs are written as they are.
    raw: bool,
    labels: [u8; 16],
    next: u8,
    out: Vec<u8>,
}

impl<'a> Pen<'a> {
    pub(crate) fn new(mentioned: &'a Mentioned, places: Places, raw: bool) -> Pen<'a> {
        Pen { mentioned, places, raw, labels: [0; 16], next: 1, out: Vec::with_capacity(256) }
    }

    pub(crate) fn byte(&mut self, byte: u8) {
        self.out.push(byte);
    }

    /// Which of the three it is.
    pub(crate) fn place(&mut self, node: NodeId) {
        self.byte(self.places[place(node)]);
    }

    pub(crate) fn word(&mut self, word: u64) {
        self.out.extend_from_slice(&word.to_le_bytes());
    }

    /// An epoch of this node, or the bound of some.
    pub(crate) fn epoch(&mut self, actor: Actor) {
        match self.raw {
            true => self.word(actor.epoch),
            false => self.byte(self.mentioned.rank(actor) as u8),
        }
    }

    fn node(&self, node: NodeId) -> [u8; 2] {
        [self.places[place(node)], disks(node)]
    }

    pub(crate) fn context(&mut self, context: &Context) {
        let mut runs: Vec<_> = context
            .runs()
            .iter()
            .map(|run| (self.node(run.actor.node), run.actor, run.first, run.last))
            .collect();
        runs.sort_unstable_by_key(|(node, actor, first, _)| (*node, actor.epoch, *first));
        self.byte(runs.len() as u8);
        for (node, actor, first, last) in runs {
            self.out.extend(node);
            self.epoch(actor);
            self.out.extend([first as u8, last as u8]);
        }
    }

    pub(crate) fn record(&mut self, record: Option<&Record>) {
        let Some(record) = record else { return self.byte(0xff) };
        self.context(&record.clock);
        let mut siblings: Vec<_> = record.siblings.iter().map(|s| (self.node(s.dot.actor.node), s)).collect();
        siblings.sort_unstable_by_key(|(node, s)| (*node, s.dot.actor.epoch, s.dot.count));
        self.byte(siblings.len() as u8);
        for (node, sibling) in siblings {
            self.out.extend(node);
            self.epoch(sibling.dot.actor);
            self.byte(sibling.dot.count as u8);
            let label = match &sibling.content {
                Content::Object(object) => self.label(number(object)),
                _ => 0,
            };
            self.byte(label);
        }
    }

    fn label(&mut self, value: u8) -> u8 {
        let label = &mut self.labels[usize::from(value)];
        if *label == 0 {
            *label = self.next;
            self.next += 1;
        }
        *label
    }

    /// What of these values was named before.
    pub(crate) fn values(&mut self, values: Values) {
        let named = values.iter().map(|value| self.labels[usize::from(value)]);
        let bits = named.filter(|label| *label > 0).fold(0_u64, |bits, label| bits | 1 << label);
        self.word(bits);
    }

    /// After all records: what the ledger holds of their values, and how many it misses. Without the latter, a state in which a
    /// value was lost would pass for one in which somebody superseded it.
    pub(crate) fn end(mut self, ledger: &Ledger) -> u128 {
        self.values(ledger.superseded);
        let missed = ledger.due().iter().filter(|value| self.labels[usize::from(*value)] == 0).count();
        self.byte(missed as u8);
        xxh3_128(&self.out)
    }
}

impl Clocks {
    /// Where a fresh epoch may be an old one again, the numbers themselves count.
    fn has_raw_epochs(&self) -> bool {
        planted::is(Bug::OneEpoch)
            || matches!(self.scheme, Scheme::OneEpoch | Scheme::NameOutlivesDisk | Scheme::NobodyRemembers)
    }

    /// All that decides what may happen.
    fn written_down(&self, state: &clocks::State, mentioned: &Mentioned, places: Places) -> u128 {
        let raw = self.has_raw_epochs();
        let mut pen = Pen::new(mentioned, places, raw);
        let mut at_place = [0; NODES];
        (0..NODES).for_each(|at| at_place[usize::from(places[at])] = at);
        for node in at_place.map(|at| &state.nodes[at]) {
            pen.byte(node.disks);
            pen.record(node.copy.as_deref());
            pen.epoch(Actor { node: node.name(), epoch: node.epochs.boot() });
            if raw {
                pen.word(node.epochs.lease());
                pen.word(node.epochs.left());
            }
        }
        pen.byte(state.under_way.len() as u8);
        state.under_way.iter().for_each(|record| pen.record(Some(record)));
        pen.byte(u8::from(state.saved.is_some()));
        if let Some(saved) = &state.saved {
            pen.byte(places[saved.at]);
            pen.record(saved.copy.as_deref());
            if raw {
                pen.word(saved.epochs.lease());
                pen.word(saved.epochs.boot());
            }
        }
        let seen = [&state.read, &state.told];
        for seen in seen {
            pen.byte(u8::from(seen.is_some()));
            seen.iter().for_each(|seen| pen.context(&seen.context));
        }
        seen.into_iter().flatten().for_each(|seen| pen.values(seen.values));
        pen.end(&state.ledger)
    }

    pub(crate) fn named(&self, state: &clocks::State) -> u128 {
        let mentioned = Mentioned::by(state.contexts());
        if self.has_raw_epochs() {
            return self.written_down(state, &mentioned, AS_THEY_ARE);
        }
        let marks = [0, 1, 2].map(|at| Self::mark(state, at));
        let names = sorted_by(marks).map(|places| self.written_down(state, &mentioned, places));
        names.min().expect("some order fits")
    }

    /// What a node looks like, however the nodes are called.
    fn mark(state: &clocks::State, at: usize) -> u64 {
        let node = &state.nodes[at];
        let copy = node.copy.as_ref().map_or(0, |copy| {
            let dots: u64 = copy.clock.runs().iter().map(|run| run.last - run.first + 1).sum();
            let own = copy.clock.newest_of(node.name()).map_or(0, |(_, count)| count + 1);
            1 + dots + (own << 8) + ((copy.siblings.len() as u64) << 16)
        });
        let saved = state.saved.as_ref().is_some_and(|saved| saved.at == at);
        copy | u64::from(node.disks) << 32 | u64::from(saved) << 40
    }
}

impl Reaping {
    pub(crate) fn named(&self, state: &reaping::State) -> u128 {
        let mentioned = Mentioned::by(state.contexts());
        let mut pen = Pen::new(&mentioned, AS_THEY_ARE, false);
        for node in &state.nodes {
            pen.record(node.copy.as_deref());
            pen.epoch(Actor { node: node.name(), epoch: node.epochs.boot() });
        }
        pen.byte(state.under_way.len() as u8);
        state.under_way.iter().for_each(|message| pen.record(Some(&message.record)));
        pen.byte(state.work.as_ref().map_or(9, |work| work.at as u8));
        state.work.iter().for_each(|work| pen.record(Some(&work.record)));
        pen.byte(u8::from(state.read.is_some()));
        state.read.iter().for_each(|seen| pen.context(&seen.context));
        state.read.iter().for_each(|seen| pen.values(seen.values));
        pen.byte(u8::from(state.reaped));
        self.write_asking(state, &mut pen);
        pen.end(&state.ledger)
    }

    /// What is remembered of the asking. Marks only grow, and are only compared with each other. Of times only the order counts,
    /// and how many graces lie between two of them: rounds take moments, which all together are less than a grace. Both
    /// matter only where something is remembered: whatever is agreed upon next is so after all that has begun.
    fn write_asking(&self, state: &reaping::State, pen: &mut Pen<'_>) {
        let agreed = state.reaper.agreed(&self.id);
        let round = state.round.as_ref();
        pen.byte(round.map_or(9, |round| round.said.len() as u8));
        for (node, said) in round.iter().flat_map(|round| &round.said) {
            let said = said.as_ref().expect("who is silent is so at the end");
            pen.place(*node);
            pen.byte(u8::from(said.unlike.is_empty()));
            pen.byte(u8::from(said.mark == state.marks[place(*node)]));
        }
        pen.byte(state.going.as_ref().map_or(9, |going| going.at as u8));
        let dead =
            round.map(|round| &round.dead).into_iter().chain(state.going.as_ref().map(|going| &going.dead));
        dead.for_each(|dead| pen.record(Some(dead)));
        let Some((since, quiet)) = agreed else { return pen.byte(0) };
        pen.byte(1 + u8::from(quiet.is_some()));
        pen.record(state.judged.as_deref());
        (0..NODES).for_each(|at| pen.byte(u8::from(state.marks[at] == state.marks_said[at])));
        let mut times = vec![state.now, since];
        times.extend(quiet);
        times.extend(state.work.iter().map(|work| work.begun));
        if let Some(round) = round {
            times.push(round.asked);
            for (node, said) in &round.said {
                let Some(said) = said else { continue };
                pen.byte(u8::from(said.mark == state.marks_said[place(*node)]));
                times.push(Time(round.asked.0 - said.work.as_micros() as u64));
            }
        }
        let mut order = times.clone();
        order.sort_unstable();
        times.iter().for_each(|time| pen.byte(order.partition_point(|other| other < time) as u8));
        let graces = |pair: &[Time]| ((pair[1] - pair[0]).as_micros() / GRACE.as_micros()) as u8;
        order.windows(2).for_each(|pair| pen.byte(graces(pair)));
    }
}
