//! What names a state of the search over clocks.

use super::clocks::{Clocks, State};
use super::naming::{AS_THEY_ARE, Mentioned, Pen, Places, sorted_by};
use super::node::NODES;
use crate::key::Scheme;
use ring::causal::Actor;

impl Clocks {
    /// Where a fresh epoch may be an old one again, the numbers themselves count.
    fn has_raw_epochs(&self) -> bool {
        matches!(self.scheme, Scheme::OneEpoch | Scheme::NameOutlivesDisk | Scheme::NobodyRemembers)
    }

    /// All that decides what may happen; or of that what the invariants look at.
    fn written_down(&self, state: &State, mentioned: &Mentioned, places: Places, all: bool) -> u128 {
        let raw = self.has_raw_epochs();
        let mut pen = Pen::new(mentioned, places, raw);
        let mut at_place = [0; NODES];
        (0..NODES).for_each(|at| at_place[usize::from(places[at])] = at);
        for node in at_place.map(|at| &state.nodes[at]) {
            pen.byte(node.disks);
            pen.record(node.copy.as_deref());
            if all || raw {
                pen.epoch(Actor { node: node.name(), epoch: node.epochs.boot() });
            }
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
        if all {
            let seen = [&state.read, &state.told];
            for seen in seen {
                pen.byte(u8::from(seen.is_some()));
                seen.iter().for_each(|seen| pen.context(&seen.context));
            }
            seen.into_iter().flatten().for_each(|seen| pen.values(seen.values));
        }
        pen.end(&state.ledger)
    }

    pub(crate) fn named(&self, state: &State, all: bool) -> u128 {
        let mentioned = match all {
            true => Mentioned::by(state.contexts()),
            false => Mentioned::by(state.records().map(|record| &record.clock)),
        };
        if self.has_raw_epochs() {
            return self.written_down(state, &mentioned, AS_THEY_ARE, all);
        }
        let marks = [0, 1, 2].map(|at| Self::mark(state, at));
        let names = sorted_by(marks).map(|places| self.written_down(state, &mentioned, places, all));
        names.min().expect("some order fits")
    }

    /// What a node looks like, however the nodes are called.
    fn mark(state: &State, at: usize) -> u64 {
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
