//! What names a state of the search over reaping.

use super::naming::{AS_THEY_ARE, Mentioned, Pen, place};
use super::node::NODES;
use super::reaping::{Reaping, State};
use crate::reap::GRACE;
use ring::causal::Actor;
use ring::time::Time;

impl Reaping {
    pub(crate) fn named(&self, state: &State) -> u128 {
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

    pub(crate) fn named_by_records(&self, state: &State) -> u128 {
        let mentioned = Mentioned::by(state.contexts());
        let mut pen = Pen::new(&mentioned, AS_THEY_ARE, false);
        state.nodes.iter().for_each(|node| pen.record(node.copy.as_deref()));
        state.elsewhere().into_iter().for_each(|record| pen.record(Some(record)));
        pen.end(&state.ledger)
    }

    /// What is remembered of the asking. Marks only grow, and are only compared with each other. Of times only the order counts,
    /// and how many graces lie between two of them: rounds take moments, which all together are less than a grace. Both
    /// matter only where something is remembered: whatever is agreed upon next is so after all that has begun.
    fn write_asking(&self, state: &State, pen: &mut Pen<'_>) {
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
        let dead = round.map(|round| &round.dead).into_iter().chain(state.going.as_ref().map(|going| &going.dead));
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
