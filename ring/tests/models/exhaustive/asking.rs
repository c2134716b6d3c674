//! Rounds of asking, as the first owner goes through them, and what is said in them: truly, or with one lie.

use super::node::NODES;
use super::reap_events::{Ask, Then};
use super::reaping::{OTHER, OWNERS, Reaping, State, digest_of};
use super::search::Broken;
use crate::key::Scheme;
use crate::reap::{GRACE, Lie};
use ring::ids::NodeId;
use ring::planted::{self, Bug};
use ring::reap::{Dead, Reaper, Said};
use ring::record::Record;
use ring::time::Time;
use ring::wire::record::Digest;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// So long a round takes. All rounds of a history together take less than a message lives.
const MOMENT: Duration = Duration::from_millis(100);

/// A round whose answers are not all in.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    pub(crate) asked: Time,
    pub(crate) dead: Rc<Record>,
    pub(crate) said: BTreeMap<NodeId, Option<Said>>,
}

/// A ripe key on its way out: where it goes next, if it is still just this there.
#[derive(Clone, Debug)]
pub(crate) struct Going {
    pub(crate) at: usize,
    pub(crate) dead: Rc<Record>,
}

impl Reaping {
    pub(crate) fn reaper(&self) -> Reaper {
        Reaper::new(if self.lie == Lie::NoGrace { Duration::ZERO } else { GRACE }, 1)
    }

    /// So many events it takes at least until the key is ripe: a round in which all agree, one after which it is quiet, a grace,
    /// and a last one (without a grace, the one after which it is quiet); and something else before these where the asker holds
    /// nothing dead, or not what was agreed on.
    pub(crate) fn until_ripe(&self, state: &State) -> usize {
        if planted::is(Bug::ReapAtOnce) {
            return 1;
        }
        let (quiet_and_wait, grace) = if self.lie == Lie::NoGrace { (0, Duration::ZERO) } else { (2, GRACE) };
        let anew = 2 + quiet_and_wait;
        let agreed = match state.reaper.agreed(&self.id) {
            None => anew,
            Some((_, None)) => 1 + quiet_and_wait,
            Some((_, Some(quiet))) => 1 + usize::from(state.now + MOMENT < quiet + grace),
        };
        let dead: Vec<Rc<Record>> = state
            .dead()
            .into_iter()
            .chain(state.round.as_ref().map(|round| Rc::clone(&round.dead)))
            .collect();
        match (dead.is_empty(), dead.iter().any(|dead| state.judged.as_ref() == Some(dead))) {
            (false, true) => agreed,
            (false, false) => anew.min(agreed + 1),
            (true, _) => agreed + 1,
        }
    }

    fn said(&self, state: &State, at: usize, dead: Digest, silent: bool) -> Option<Said> {
        if silent {
            return (self.lie == Lie::SilenceIsConsent).then(Said::default);
        }
        let held = state.nodes[at].copy.as_ref().map(|record| digest_of(record));
        let fits = if OWNERS.contains(&at) { held == Some(dead) } else { held.is_none() };
        let work = state.work.iter().find(|work| work.at == at).map(|work| state.now - work.begun);
        let mut said = Said { work: work.unwrap_or_default(), mark: state.marks[at], ..Said::default() };
        let unasked = self.lie == Lie::OwnersOnly && at == OTHER;
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

    /// A round begins, and some answer at once.
    pub(crate) fn ask(&self, state: &State, now: Ask) -> Option<State> {
        let dead = state.dead().filter(|_| state.round.is_none())?;
        let mut after = state.clone();
        after.now = after.now + MOMENT;
        let said = (0..NODES).filter(|at| now.asks(*at));
        let said =
            said.map(|at| (after.nodes[at].name(), self.said(&after, at, digest_of(&dead), false))).collect();
        after.round = Some(Round { asked: after.now, dead, said });
        Some(after)
    }

    /// The others answer, and the round is judged.
    pub(crate) fn judge(
        &self,
        state: &State,
        silent: Option<usize>,
        then: Then,
    ) -> Result<Option<State>, Broken> {
        let mut after = state.clone();
        let Some(Round { asked, dead, mut said }) = after.round.take() else { return Ok(None) };
        for at in 0..NODES {
            let name = after.nodes[at].name();
            said.entry(name).or_insert_with(|| self.said(&after, at, digest_of(&dead), silent == Some(at)));
        }
        let owners = OWNERS.map(|owner| after.nodes[owner].name()).to_vec();
        let page = [Dead { id: self.id.clone(), digest: digest_of(&dead), owners }];
        for at in 0..NODES {
            let said = said.get(&after.nodes[at].name()).and_then(Option::as_ref);
            after.marks_said[at] = said.map_or(after.marks[at], |said| said.mark);
        }
        after.judged = Some(Rc::clone(&dead));
        after.reaper.begin(1);
        let judged = after.reaper.judge(&page, &said, asked, after.now);
        after.reaper.end();
        after.now = after.now + MOMENT;
        if let Some(record) = after.nodes[0].copy.clone().filter(|_| !judged.push.is_empty()) {
            for owner in OWNERS {
                if judged.push.iter().any(|(to, _)| *to == after.nodes[owner].name()) {
                    after.nodes[owner].hear(Scheme::Built, &record)?;
                }
            }
        }
        if judged.ripe.is_empty() {
            return Ok((then == Then::Nothing).then_some(after));
        }
        after.going = Some(Going { at: OWNERS[1], dead });
        Ok(match then {
            Then::Nothing => Some(after),
            Then::Other => self.go(&after),
            Then::Both => self.go(&after).and_then(|after| self.go(&after)),
        })
    }

    /// A ripe key goes where it is next, if it is still just this; then at the asker.
    pub(crate) fn go(&self, state: &State) -> Option<State> {
        let mut after = state.clone();
        let Going { at, dead } = after.going.take()?;
        let copy = &mut after.nodes[at].copy;
        let just_so = self.lie == Lie::Unlooked
            || copy.as_ref().is_some_and(|held| digest_of(held) == digest_of(&dead));
        if just_so {
            *copy = None;
            after.reaped = true;
            after.going = (at != OWNERS[0]).then_some(Going { at: OWNERS[0], dead });
        }
        Some(after)
    }
}
