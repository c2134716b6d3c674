//! The PUT machine, at the replica that coordinates.
//!
//! ```text
//!   StoringHere ── own record durable ──► AwaitingReplicas ── enough, or no longer possible ──► Answered ──► done
//! ```
//!
//! Nothing leaves before the own record is synced: a dot that others have and a crash takes back here would be issued
//! twice. An owner that fails is replaced by the next fallback, which keeps a durable hint and counts towards W; where no
//! other node is left the coordinator keeps the hint itself, and that does not count: it is the same disk. The reply is not
//! the end: later failures still leave hints.

use super::quorum::{Tally, WriteQuorum};
use super::{Outcome, Plan};
use crate::ids::NodeId;
use std::collections::BTreeMap;

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The own record is stored.
    StoredHere {
        /// And synced.
        durable: bool,
    },
    /// The own record could not be stored; nothing was sent.
    FailedHere,
    /// A replica has stored it.
    Stored {
        /// Which.
        by: NodeId,
        /// And synced.
        durable: bool,
    },
    /// A replica could not be reached, refused, or did not answer in time.
    Failed {
        /// Which.
        by: NodeId,
    },
    /// The request's time is up.
    TimedOut,
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Store the own record, and a hint for an owner if this node stands in for one.
    StoreHere {
        /// For whom.
        hint_for: Option<NodeId>,
    },
    /// Send it to a replica.
    Store {
        /// To whom.
        to: NodeId,
        /// For whom it keeps a hint, if it stands in for an owner.
        hint_for: Option<NodeId>,
    },
    /// Keep a hint for an owner here, which counts for nothing.
    KeepHint {
        /// For whom.
        owner: NodeId,
    },
    /// Answer the client. Said exactly once.
    Reply(Reply),
}

/// The answer, with the receipt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply {
    /// Whether the quorum was reached, and what is left behind if not.
    pub outcome: Outcome,
    /// Whether the time was up.
    pub timed_out: bool,
    /// What had come in.
    pub tally: Tally,
    /// Of that, fallbacks.
    pub fallbacks: usize,
    /// Hints ordered by then.
    pub hints: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    StoringHere,
    AwaitingReplicas,
    Answered,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asked {
    Waiting,
    Yes,
    No,
}

/// One write in progress.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Put {
    plan: Plan,
    quorum: WriteQuorum,
    phase: Phase,
    /// Everybody who was asked, this node included.
    asked: BTreeMap<NodeId, Asked>,
    /// Fallback → the owner for whom it keeps a hint.
    stands_for: BTreeMap<NodeId, NodeId>,
    /// Owners that were not asked because they are believed to be down.
    passed_over: Vec<NodeId>,
    tally: Tally,
    fallbacks: usize,
    hints: usize,
}

impl Put {
    /// Begins. `plan.me` is an owner, or a fallback that takes the write because no owner could.
    pub fn start(plan: Plan, quorum: WriteQuorum, out: &mut Vec<Effect>) -> Put {
        plan.assert_whole();
        let mut put = Put {
            asked: BTreeMap::from([(plan.me, Asked::Waiting)]),
            plan,
            quorum,
            phase: Phase::StoringHere,
            stands_for: BTreeMap::new(),
            passed_over: Vec::new(),
            tally: Tally::default(),
            fallbacks: 0,
            hints: 0,
        };
        let hint_for = if put.plan.owns(put.plan.me) { None } else { put.stand_in_here() };
        out.push(Effect::StoreHere { hint_for });
        put
    }

    /// A coordinator that owns nothing stands in for the first owner that is believed to be down, or the first at all.
    fn stand_in_here(&mut self) -> Option<NodeId> {
        let doubted = self.plan.owners.iter().copied().find(|o| self.plan.doubts(*o));
        let owner = doubted.or_else(|| self.plan.owners.first().copied())?;
        self.stands_for.insert(self.plan.me, owner);
        self.hints += 1;
        Some(owner)
    }

    /// Takes an event. A repeated or unexpected one changes nothing.
    pub fn on(&mut self, event: Event, out: &mut Vec<Effect>) {
        match event {
            Event::StoredHere { durable } if self.phase == Phase::StoringHere => {
                self.stored_here(durable, out)
            }
            Event::FailedHere if self.phase == Phase::StoringHere => {
                self.asked.insert(self.plan.me, Asked::No);
                self.reply(Outcome::NotApplied, false, out);
            }
            Event::Stored { by, durable } if self.asked.get(&by) == Some(&Asked::Waiting) => {
                self.yes(by, durable);
                self.conclude(out);
            }
            Event::Failed { by } if self.asked.get(&by) == Some(&Asked::Waiting) => {
                self.asked.insert(by, Asked::No);
                self.replace(by, out);
                self.conclude(out);
            }
            Event::TimedOut => self.timed_out(out),
            _ => {}
        }
    }

    /// Whether nothing more is expected, so that the driver may forget it.
    pub fn is_done(&self) -> bool {
        self.phase == Phase::Answered && self.asked.values().all(|a| *a != Asked::Waiting)
    }

    fn stored_here(&mut self, durable: bool, out: &mut Vec<Effect>) {
        self.phase = Phase::AwaitingReplicas;
        self.yes(self.plan.me, durable);
        for owner in self.plan.owners.clone() {
            // The own hint already stands for an owner that could not take the write itself.
            if owner == self.plan.me {
                continue;
            }
            if self.plan.doubts(owner) {
                self.passed_over.push(owner);
                if self.stands_for.values().all(|o| *o != owner) {
                    self.stand_in(owner, out);
                }
            } else {
                self.ask(owner, None, out);
            }
        }
        for pending in self.plan.pending.clone() {
            if pending != self.plan.me {
                self.ask(pending, None, out);
            }
        }
        self.conclude(out);
    }

    fn ask(&mut self, to: NodeId, hint_for: Option<NodeId>, out: &mut Vec<Effect>) {
        self.asked.insert(to, Asked::Waiting);
        out.push(Effect::Store { to, hint_for });
    }

    fn yes(&mut self, by: NodeId, durable: bool) {
        self.asked.insert(by, Asked::Yes);
        if !self.plan.counts(by) {
            return;
        }
        let owner = self.plan.owns(by);
        self.tally.count(owner, durable);
        self.fallbacks += usize::from(!owner);
    }

    /// Somebody failed: an owner, or the fallback that stood for one.
    fn replace(&mut self, failed: NodeId, out: &mut Vec<Effect>) {
        match self.stands_for.remove(&failed) {
            Some(owner) => {
                self.hints -= 1;
                self.stand_in(owner, out);
            }
            None if self.plan.owns(failed) => {
                if self.stands_for.values().all(|o| *o != failed) {
                    self.stand_in(failed, out);
                }
            }
            // A node that is being filled must not miss a write that came after its filling began.
            None if !self.plan.counts(failed) => {
                self.hints += 1;
                out.push(Effect::KeepHint { owner: failed });
            }
            None => {}
        }
    }

    fn stand_in(&mut self, owner: NodeId, out: &mut Vec<Effect>) {
        self.hints += 1;
        let free = |n: &&NodeId| !self.asked.contains_key(n) && !self.plan.doubts(**n);
        match self.plan.fallbacks.iter().find(free).copied().filter(|_| self.quorum.sloppy) {
            Some(fallback) => {
                self.stands_for.insert(fallback, owner);
                self.ask(fallback, Some(owner), out);
            }
            None => out.push(Effect::KeepHint { owner }),
        }
    }

    /// Answers as soon as it is decided; asks even those it doubts before it gives up.
    fn conclude(&mut self, out: &mut Vec<Effect>) {
        if self.phase != Phase::AwaitingReplicas {
            return;
        }
        if self.tally.reaches(&self.quorum) {
            return self.reply(Outcome::Applied, false, out);
        }
        if self.may_still_reach() {
            return;
        }
        for owner in std::mem::take(&mut self.passed_over) {
            if !self.asked.contains_key(&owner) {
                self.ask(owner, None, out);
            }
        }
        if !self.may_still_reach() {
            self.reply(Outcome::Indeterminate, false, out);
        }
    }

    fn may_still_reach(&self) -> bool {
        let waiting = self
            .asked
            .iter()
            .filter(|(n, a)| **a == Asked::Waiting && self.plan.counts(**n))
            .map(|(n, _)| *n);
        let (owners, others): (Vec<NodeId>, Vec<NodeId>) = waiting.partition(|n| self.plan.owns(*n));
        self.tally.may_reach(&self.quorum, owners.len(), others.len())
    }

    fn timed_out(&mut self, out: &mut Vec<Effect>) {
        match self.phase {
            // The own store may still succeed after this: say so.
            Phase::StoringHere => self.reply(Outcome::Indeterminate, true, out),
            Phase::AwaitingReplicas => self.reply(Outcome::Indeterminate, true, out),
            Phase::Answered => {}
        }
    }

    fn reply(&mut self, outcome: Outcome, timed_out: bool, out: &mut Vec<Effect>) {
        assert!(self.phase != Phase::Answered, "the reply is said once");
        self.phase = Phase::Answered;
        let (tally, fallbacks, hints) = (self.tally, self.fallbacks, self.hints);
        out.push(Effect::Reply(Reply { outcome, timed_out, tally, fallbacks, hints }));
    }
}
