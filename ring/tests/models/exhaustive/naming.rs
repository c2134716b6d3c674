//! One name for all states in which the same can happen.
//!
//! What no rule can tell apart is left out, each on its own ground:
//!
//! * **Which node is which.** No rule compares two nodes' names but to put dots in order, and merging by any other order of
//!   the names gives the same dots. So a state may stand for the one with its nodes exchanged.
//! * **Which number an epoch has.** Two epochs of one node are only ever compared, with each other and with `boot`, and a
//!   fresh one is above all that were drawn. Their order is all that counts. Where a rule is taken away so that a node may
//!   draw an epoch twice, that is not so, and the numbers stand as they are.
//! * **Which value is which.** Nobody looks into one. They are numbered as they first occur in the state, and what the ledger
//!   holds of a value that occurs nowhere any more can't come to matter.

use super::ledger::{Ledger, Values, number};
use ring::causal::{Actor, Context};
use ring::ids::NodeId;
use ring::record::{Content, Record};
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

    /// After all records: what the ledger holds of their values.
    pub(crate) fn end(mut self, ledger: &Ledger) -> u128 {
        self.values(ledger.superseded);
        xxh3_128(&self.out)
    }
}
