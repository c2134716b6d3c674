//! A deletion that is forgotten: two owners of one key, a third node that may hold a copy, and `ring::reap` at the first owner.
//!
//! A value is there from the beginning, on both owners and in a message that is under way. Time stands still but for a moment
//! around each round of asking, and for a grace that may pass at any time; a message lives for less than that.

use super::asking::{Going, Round};
use super::node::{Ledger, NODES, Node, Seen, Values, any_of, merged, say_the_same, show};
use super::reap_events::{Ask, Event};
use super::search::{Broken, Model};
use crate::key::Scheme;
use crate::reap::{GRACE, LIFE, Lie};
use bytes::Bytes;
use ring::causal::{Context, Epochs};
use ring::ids::ObjectId;
use ring::reap::Reaper;
use ring::record::Record;
use ring::time::Time;
use ring::wire::record::{Digest, digest, encode};
use std::rc::Rc;

/// The one who asks, and the other owner.
pub(crate) const OWNERS: [usize; 2] = [0, 1];
/// Who owns nothing.
pub(crate) const OTHER: usize = 2;

#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) record: Rc<Record>,
    pub(crate) sent: Time,
}

/// What a reader holds in memory.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) at: usize,
    pub(crate) record: Rc<Record>,
    pub(crate) begun: Time,
}

#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) now: Time,
    pub(crate) nodes: [Node; NODES],
    /// What each node says of the copies that it has let go.
    pub(crate) marks: [u64; NODES],
    pub(crate) under_way: Vec<Message>,
    pub(crate) work: Option<Work>,
    pub(crate) read: Option<Rc<Seen>>,
    pub(crate) reaper: Reaper,
    pub(crate) round: Option<Round>,
    pub(crate) going: Option<Going>,
    /// About what the last round was.
    pub(crate) judged: Option<Rc<Record>>,
    /// What the marks were in it.
    pub(crate) marks_said: [u64; NODES],
    /// Something was let go.
    pub(crate) reaped: bool,
    pub(crate) ledger: Ledger,
}

impl State {
    pub(crate) fn copies(&self) -> impl Iterator<Item = &Record> {
        self.nodes.iter().filter_map(|node| node.copy.as_deref())
    }

    /// What may still arrive somewhere.
    pub(crate) fn elsewhere(&self) -> Vec<&Record> {
        let sent = self.under_way.iter().map(|message| message.record.as_ref());
        sent.chain(self.work.iter().map(|work| work.record.as_ref())).collect()
    }

    pub(crate) fn contexts(&self) -> impl Iterator<Item = &Context> {
        let asked = self.judged.iter().chain(self.round.iter().map(|round| &round.dead));
        let asked = asked.chain(self.going.iter().map(|going| &going.dead)).map(Rc::as_ref);
        let records = self.copies().chain(self.elsewhere()).chain(asked).map(|record| &record.clock);
        records.chain(self.read.iter().map(|seen| &seen.context))
    }

    /// The dead record about which the first owner asks.
    pub(crate) fn dead(&self) -> Option<Rc<Record>> {
        self.nodes[OWNERS[0]].copy.clone().filter(|record| record.is_dead())
    }
}

pub(crate) fn digest_of(record: &Record) -> Digest {
    digest(&encode(record))
}

/// The search for what brings a deleted value back.
pub(crate) struct Reaping {
    pub(crate) lie: Lie,
    /// With what no lie needs: answers of one round at different moments, copies that are lost, a second message.
    whole: bool,
    pub(crate) id: ObjectId,
}

impl Reaping {
    pub(crate) fn new(lie: Lie, whole: bool) -> Reaping {
        let id = ObjectId::new(Bytes::from_static(b"b"), Bytes::from_static(b"k"));
        let id = id.expect("both names are short");
        Reaping { lie, whole, id }
    }

    /// Of the messages under way only the last ones may still arrive.
    fn send(&self, state: &mut State, record: Rc<Record>) {
        state.under_way.retain(|message| message.record != record);
        state.under_way.push(Message { record, sent: state.now });
        if state.under_way.len() > if self.whole { 2 } else { 1 } {
            state.under_way.remove(0);
        }
    }

    fn write(
        &self,
        state: &State,
        at: usize,
        seen: bool,
        delete: bool,
        reaches: bool,
    ) -> Result<Option<State>, Broken> {
        let seen = match (seen, &state.read) {
            (true, None) => return Ok(None),
            (true, Some(seen)) => Some(seen.as_ref()),
            (false, _) => None,
        };
        let mut after = state.clone();
        after.nodes[at].write(Scheme::Built, seen, delete, &mut after.ledger);
        let record = after.nodes[at].copy.clone().expect("it was just written");
        if reaches {
            for owner in OWNERS.into_iter().filter(|owner| *owner != at) {
                after.nodes[owner].hear(Scheme::Built, &record)?;
            }
        }
        if !delete {
            self.send(&mut after, record);
        }
        Ok(Some(after))
    }

    /// Somebody reads a copy by way of another node, which then holds it in memory.
    fn read(&self, state: &State, at: usize) -> Option<State> {
        let record = state.nodes[at].copy.clone()?;
        let mut after = state.clone();
        after.read = Some(Seen::by_reading(record.as_ref().clone()));
        let by = OWNERS[usize::from(at == OWNERS[0])];
        after.work = Some(Work { at: by, record, begun: state.now });
        Some(after)
    }

    /// The reader sends what it has read, or does not, and is done.
    fn read_ends(&self, state: &State, sends: bool) -> Option<State> {
        let mut after = state.clone();
        let work = after.work.take()?;
        if sends {
            self.send(&mut after, work.record);
        }
        Some(after)
    }

    fn arrive(&self, state: &State, which: usize, to: usize) -> Result<Option<State>, Broken> {
        let Message { record, sent } = &state.under_way[which];
        if self.lie != Lie::NoLife && state.now - *sent >= LIFE {
            return Ok(None);
        }
        let mut after = state.clone();
        Ok(after.nodes[to].hear(Scheme::Built, record)?.then_some(after))
    }

    fn exchange(&self, state: &State) -> Result<Option<State>, Broken> {
        let both = merged(OWNERS.iter().filter_map(|owner| state.nodes[*owner].copy.as_deref()));
        let mut after = state.clone();
        let mut changed = false;
        for owner in OWNERS {
            changed |= after.nodes[owner].hear(Scheme::Built, &both)?;
        }
        Ok(changed.then_some(after))
    }

    /// Who owns nothing hands on what he holds, and may let it go then. A hint is such a copy: it goes once the one that it was
    /// for has it.
    fn hand_on(&self, state: &State, to: &[usize], goes: bool) -> Result<Option<State>, Broken> {
        let mut after = state.clone();
        let Some(record) = after.nodes[OTHER].copy.clone() else { return Ok(None) };
        let mut changed = goes;
        for owner in to {
            changed |= after.nodes[*owner].hear(Scheme::Built, &record)?;
        }
        if goes {
            after.nodes[OTHER].copy = None;
            after.marks[OTHER] += 1;
        }
        Ok(changed.then_some(after))
    }

    /// A disk has lost the copy, and the node is started anew: no copy is ever lost but by a start, or let go and told of.
    fn lose(&self, state: &State, at: usize) -> Option<State> {
        let mut after = state.clone();
        after.nodes[at].copy.take()?;
        let epochs = &mut after.nodes[at].epochs;
        *epochs = Epochs::at_start(epochs.lease() + 1, epochs.boot(), true);
        after.marks[at] += 1;
        say_the_same(state.copies(), after.copies(), &state.elsewhere()).then_some(after)
    }

    fn wait(&self, state: &State) -> State {
        let mut after = state.clone();
        after.now = after.now + GRACE;
        if self.lie != Lie::NoLife {
            let now = after.now;
            after.under_way.retain(|message| now - message.sent < LIFE);
            // The other owner was asked by a message, too.
            after.going = after.going.filter(|going| going.at == OWNERS[0]);
        }
        after
    }
}

impl Model for Reaping {
    type State = State;
    type Event = Event;

    fn start(&self) -> State {
        let mut nodes = [Node::new(0), Node::new(1), Node::new(2)];
        let mut ledger = Ledger::default();
        let (done, _) = nodes[0].write(Scheme::Built, None, false, &mut ledger);
        nodes[1].hear(Scheme::Built, &done.record).expect("there was nothing");
        let mut state = State {
            now: Time(0),
            nodes,
            marks: [0; NODES],
            under_way: Vec::new(),
            work: None,
            read: Some(Seen::by_reading(done.record.clone())),
            reaper: self.reaper(),
            round: None,
            going: None,
            judged: None,
            marks_said: [0; NODES],
            reaped: false,
            ledger,
        };
        self.send(&mut state, Rc::new(done.record));
        state
    }

    fn events(&self, state: &State, last: bool) -> Vec<Event> {
        Event::all(state.under_way.len(), state.round.is_some(), self.whole, last)
    }

    /// As long as nothing goes, the asking changes no copy but by what any exchange does: those histories are for the search over
    /// clocks. So a state is left where, if all agreed from now on, nothing could go in time.
    fn is_worth(&self, state: &State, left: usize) -> bool {
        state.reaped || state.going.is_some() || left >= self.until_ripe(state)
    }

    fn step(&self, state: &State, event: Event) -> Result<Option<State>, Broken> {
        match event {
            Event::Write { at, seen, delete, reaches } => self.write(state, at, seen, delete, reaches),
            Event::Read { at } => Ok(self.read(state, at)),
            Event::ReadEnds { sends } => Ok(self.read_ends(state, sends)),
            Event::Arrive { which, to } => self.arrive(state, which, to),
            Event::Exchange => self.exchange(state),
            Event::HandOn { to, goes } => self.hand_on(state, to, goes),
            Event::Lose { at } => Ok(self.lose(state, at)),
            Event::Wait => Ok(Some(self.wait(state))),
            Event::Ask(now) => Ok(self.ask(state, now)),
            Event::Judge { silent, then } => self.judge(state, silent, then),
            Event::Round { silent, then } => match self.ask(state, Ask::Nobody) {
                Some(asked) => self.judge(&asked, silent, then),
                None => Ok(None),
            },
            Event::Go => Ok(self.go(state)),
        }
    }

    /// Whatever of what is under way or in memory arrives in the end, what is read then is what the ledger says.
    fn check(&self, after: &State) -> Result<(), Broken> {
        any_of(&after.elsewhere())
            .try_for_each(|some| after.ledger.compare(Values::of(&merged(after.copies().chain(some)))))
    }

    fn at_rest(&self, state: State) -> State {
        let (reaper, reaped) = (self.reaper(), false);
        State { read: None, reaper, round: None, going: None, judged: None, reaped, ..state }
    }

    fn name(&self, state: &State) -> u128 {
        self.named(state)
    }

    fn show(&self, state: &State) -> String {
        show(&state.nodes)
    }
}
