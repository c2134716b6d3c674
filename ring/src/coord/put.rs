//! The PUT machine, at the replica that coordinates.
//!
//! ```text
//!   StoringHere ── own record durable ──► AwaitingReplicas ── enough, or no longer possible ──► Answered ──► done
//! ```
//!
//! Nothing leaves before the own record is synced: a dot that others have and a crash takes back here would be issued
//! twice. An owner that fails is replaced by the next fallback, which keeps a durable hint and counts towards W; where no
//! other node is left the coordinator keeps the hint itself, and that does not count: it is the same disk. Nor does a fallback beside
//! the owner for which it stands in, or beside another that does: once the hint is delivered they are one copy.
//!
//! An owner that stands still does not fail before its time is up, and the client's time is up by then. So where those who are
//! not late can't make up the quorum, fallbacks stand in for the late ones as well, no more of them than are lacking; a late yes
//! still counts. Reads ask one more after a while whoever it is they wait for. Here that would cost a synced write and a hint's delivery
//! for each answer that takes long, and under load all do: only silence of the whole node (`Plan::late`) is reason enough.
//!
//! While partitions move there are several sets of owners, and the quorum must be reached among each of them. A fallback
//! counts for all: whatever set the owner belonged to for which it stands in, its hint is delivered to all of them. If the
//! tables change in the midst of a write, the write goes on by the new ones, and what has been stored so far counts.
//!
//! The reply is not the end: later failures still leave hints, and an own record that becomes durable after the time was up is sent out all
//! the same, since it is there and may be read.

use super::quorum::{Tally, WriteQuorum};
use super::{Outcome, Plan};
use crate::ids::NodeId;
use std::collections::{BTreeMap, BTreeSet};

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
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
    /// The tables have changed since the write began.
    Replanned(Plan),
    /// These are late now, and no others.
    Late(Vec<NodeId>),
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
    Yes { durable: bool },
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
    /// For whom this node keeps a hint that does not count.
    kept: BTreeSet<NodeId>,
    /// Owners that were not asked because they are believed to be down.
    passed_over: Vec<NodeId>,
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
            kept: BTreeSet::new(),
            passed_over: Vec::new(),
        };
        let hint_for = if put.plan.owns(put.plan.me) { None } else { put.stand_in_here() };
        out.push(Effect::StoreHere { hint_for });
        put
    }

    /// A coordinator that owns nothing stands in for the first owner that is believed to be down, or is late, or the first at all.
    fn stand_in_here(&mut self) -> Option<NodeId> {
        let (doubts, is_late) = (|o: &NodeId| self.plan.doubts(*o), |o: &NodeId| self.plan.is_late(*o));
        let owner = self.plan.owners.iter().copied().min_by_key(|o| (!doubts(o), !is_late(o)))?;
        self.stands_for.insert(self.plan.me, owner);
        Some(owner)
    }

    /// Takes an event. A repeated or unexpected one changes nothing; but who is asked twice may fail twice, as an owner of before and as
    /// a stand-in.
    pub fn on(&mut self, event: Event, out: &mut Vec<Effect>) {
        match event {
            Event::StoredHere { durable } if self.waits_for(self.plan.me) => self.stored_here(durable, out),
            Event::FailedHere if self.waits_for(self.plan.me) => self.failed_here(out),
            Event::Stored { by, durable } if by != self.plan.me && self.waits_for(by) => {
                self.asked.insert(by, Asked::Yes { durable });
                self.conclude(out);
            }
            Event::Failed { by } if by != self.plan.me && self.waits_for(by) => {
                self.failed(by, out);
                self.conclude(out);
            }
            Event::Replanned(plan) => self.replan(plan, out),
            Event::Late(late) => {
                self.plan.late = late;
                self.conclude(out);
            }
            // The own store may still succeed after this: indeterminate, whatever it waits for.
            Event::TimedOut if self.phase != Phase::Answered => self.reply(Outcome::Indeterminate, true, out),
            _ => {}
        }
    }

    fn waits_for(&self, node: NodeId) -> bool {
        self.asked.get(&node) == Some(&Asked::Waiting)
    }

    /// Whether nothing more is expected, so that the driver may forget it.
    pub fn is_done(&self) -> bool {
        self.phase == Phase::Answered && self.asked.values().all(|a| *a != Asked::Waiting)
    }

    fn stored_here(&mut self, durable: bool, out: &mut Vec<Effect>) {
        if self.phase == Phase::StoringHere {
            self.phase = Phase::AwaitingReplicas;
        }
        self.asked.insert(self.plan.me, Asked::Yes { durable });
        self.ask_concerned(out);
        self.conclude(out);
    }

    /// Asks everybody who owns the key and was not asked yet.
    fn ask_concerned(&mut self, out: &mut Vec<Effect>) {
        for owner in self.plan.concerned() {
            // The own hint already stands for an owner that could not take the write itself.
            if self.asked.contains_key(&owner) || self.passed_over.contains(&owner) {
                continue;
            }
            if self.plan.doubts(owner) {
                self.passed_over.push(owner);
                self.stand_in(owner, out);
            } else {
                self.ask(owner, None, out);
            }
        }
    }

    /// Goes on by other tables. Whoever has stored it has stored it; who owns it now and was not asked is asked.
    fn replan(&mut self, plan: Plan, out: &mut Vec<Effect>) {
        plan.assert_whole();
        assert_eq!(plan.me, self.plan.me, "a write stays with its coordinator");
        // An owner of before that has failed as one has not been asked yet as a fallback.
        let before = std::mem::replace(&mut self.plan, plan);
        let is_free = |n: &NodeId| before.concerns(*n) && !self.plan.concerns(*n) && *n != before.me;
        self.asked.retain(|n, asked| *asked != Asked::No || !is_free(n));
        if self.phase == Phase::StoringHere || self.waits_for(self.plan.me) {
            return;
        }
        // Who stood in and has left hands its hints on, or took them with it: somebody else keeps one.
        let (plan, me) = (&self.plan, self.plan.me);
        self.stands_for.retain(|n, _| *n == me || plan.concerns(*n) || plan.fallbacks.contains(n));
        self.passed_over.retain(|owner| plan.concerns(*owner));
        self.ask_concerned(out);
        self.stand_in_for_missing(out);
        self.conclude(out);
    }

    /// Sees to it that somebody keeps a hint for each owner that has failed or was not asked.
    fn stand_in_for_missing(&mut self, out: &mut Vec<Effect>) {
        for owner in self.plan.concerned() {
            if self.asked.get(&owner) == Some(&Asked::No) || self.passed_over.contains(&owner) {
                self.stand_in(owner, out);
            }
        }
    }

    fn failed_here(&mut self, out: &mut Vec<Effect>) {
        self.asked.insert(self.plan.me, Asked::No);
        self.stands_for.remove(&self.plan.me);
        if self.phase != Phase::Answered {
            self.reply(Outcome::NotApplied, false, out);
        }
    }

    fn ask(&mut self, to: NodeId, hint_for: Option<NodeId>, out: &mut Vec<Effect>) {
        self.asked.insert(to, Asked::Waiting);
        out.push(Effect::Store { to, hint_for });
    }

    /// Whether a yes of this node may count for an owner. By the tables of now: who was an owner when it said yes, and has left the
    /// cluster since, sets its copy aside.
    fn may_stand_in(&self, node: NodeId) -> bool {
        let is_fallback = node == self.plan.me || self.plan.fallbacks.contains(&node);
        self.quorum.sloppy && is_fallback && !self.plan.concerns(node)
    }

    /// Where the copy of a node that said yes will be in the end, if it counts in a set: a hint is handed over to the owner, and then
    /// it and the owner's own yes are one copy.
    fn disk(&self, node: NodeId, set: &[NodeId]) -> Option<NodeId> {
        if set.contains(&node) {
            return Some(node);
        }
        self.may_stand_in(node).then(|| self.stands_for.get(&node).copied().unwrap_or(node))
    }

    /// What comes in if those who are waited for, and hoped for, say yes: how many disks, as far as they count in a set.
    fn tally(&self, set: &[NodeId], is_hoped: impl Fn(NodeId) -> bool) -> Tally {
        let mut disks: Vec<(NodeId, bool)> = Vec::new();
        let mut owners = 0;
        for (node, asked) in &self.asked {
            let durable = match asked {
                Asked::Yes { durable } => *durable,
                Asked::Waiting if is_hoped(*node) => true,
                Asked::Waiting | Asked::No => continue,
            };
            let Some(disk) = self.disk(*node, set) else { continue };
            owners += usize::from(disk == *node && set.contains(node));
            match disks.iter_mut().find(|(other, _)| *other == disk) {
                Some((_, so_far)) => *so_far |= durable,
                None => disks.push((disk, durable)),
            }
        }
        Tally { all: disks.len(), owners, durable: disks.iter().filter(|(_, durable)| *durable).count() }
    }

    /// What is needed in a set: a table with fewer nodes can't give more.
    fn quorum_of(&self, quorum: &WriteQuorum, set: &[NodeId]) -> WriteQuorum {
        let most =
            |level: usize| if set.len() == self.plan.owners.len() { level } else { level.min(set.len()) };
        let WriteQuorum { w, pw, dw, sloppy } = *quorum;
        WriteQuorum { w: most(w), pw: most(pw), dw: most(dw), sloppy }
    }

    /// Somebody failed: an owner, or the fallback that stood for one.
    fn failed(&mut self, failed: NodeId, out: &mut Vec<Effect>) {
        self.asked.insert(failed, Asked::No);
        let stood_for = self.stands_for.remove(&failed);
        // An owner that was doubted and asked in the end may have taken it after all.
        let has_it = |owner: &NodeId| matches!(self.asked.get(owner), Some(Asked::Yes { .. }));
        if let Some(owner) = stood_for.filter(|owner| !has_it(owner)) {
            self.stand_in(owner, out);
        }
        if self.plan.concerns(failed) {
            // A node that is being filled must not miss a write that came after its filling began. Who stood in may be one by now.
            self.stand_in(failed, out);
        } else if stood_for.is_none() {
            // It was asked as an owner, and is none any more: as a fallback it has not been asked yet.
            self.asked.remove(&failed);
            self.stand_in_for_missing(out);
        }
    }

    /// Sees to it that somebody keeps a hint for this owner.
    fn stand_in(&mut self, owner: NodeId, out: &mut Vec<Effect>) {
        // By the tables of now it may own nothing any more.
        if !self.plan.concerns(owner) || self.stands_for.values().any(|o| *o == owner) {
            return;
        }
        match self.free_fallback() {
            Some(fallback) => {
                self.stands_for.insert(fallback, owner);
                self.ask(fallback, Some(owner), out);
            }
            None => self.keep_hint(owner, out),
        }
    }

    /// The first in the ring's order who may stand in without doubt, or the first who is not late.
    fn free_fallback(&self) -> Option<NodeId> {
        let free = |n: &&NodeId| !self.asked.contains_key(n) && !self.plan.doubts(**n);
        let free = self.plan.fallbacks.iter().filter(free).min_by_key(|n| self.plan.is_late(**n));
        free.copied().filter(|_| self.quorum.sloppy)
    }

    fn keep_hint(&mut self, owner: NodeId, out: &mut Vec<Effect>) {
        if self.kept.insert(owner) {
            out.push(Effect::KeepHint { owner });
        }
    }

    /// Answers as soon as it is decided; asks even those it doubts before it gives up.
    fn conclude(&mut self, out: &mut Vec<Effect>) {
        if self.phase != Phase::AwaitingReplicas {
            return;
        }
        if self.may_reach(&self.quorum, |_| false) {
            return self.reply(Outcome::Applied, false, out);
        }
        while !self.may_still_reach() {
            if !self.ask_doubted(out) {
                return self.reply(Outcome::Indeterminate, false, out);
            }
        }
        // Nearly always nobody is, and then it need not be reckoned.
        while !self.plan.late.is_empty() && !self.may_reach_without_late() && self.stand_in_for_late(out) {}
    }

    /// Asks whom it has spared so far: the owners together, then the fallbacks one by one. False if nobody is left.
    fn ask_doubted(&mut self, out: &mut Vec<Effect>) -> bool {
        if !self.passed_over.is_empty() {
            for owner in std::mem::take(&mut self.passed_over) {
                self.ask(owner, None, out);
            }
            return true;
        }
        // Everybody who can be asked without doubt has been asked by now: each owner that failed took the next one.
        let spared = |n: &&NodeId| !self.asked.contains_key(n);
        let lacks = |o: &&NodeId| {
            self.asked.get(o) == Some(&Asked::No) && self.stands_for.values().all(|stood| stood != *o)
        };
        let fallback = self.plan.fallbacks.iter().find(spared).copied().filter(|_| self.quorum.sloppy);
        let concerned = self.plan.concerned();
        let (Some(fallback), Some(owner)) = (fallback, concerned.iter().find(lacks).copied()) else {
            return false;
        };
        self.stands_for.insert(fallback, owner);
        self.ask(fallback, Some(owner), out);
        true
    }

    fn may_still_reach(&self) -> bool {
        self.may_reach(&self.quorum, |_| true)
    }

    /// Whether it would be enough without a yes of those who are late. The lack of owners is nothing that a fallback makes up for.
    fn may_reach_without_late(&self) -> bool {
        self.may_reach(&WriteQuorum { pw: 0, ..self.quorum }, |node| !self.plan.is_late(node))
    }

    /// Whether it would be enough if everybody who is waited for, and hoped for, said yes.
    fn may_reach(&self, quorum: &WriteQuorum, is_hoped: impl Fn(NodeId) -> bool) -> bool {
        self.plan.sets().all(|set| self.tally(set, &is_hoped).reaches(&self.quorum_of(quorum, set)))
    }

    /// Asks one fallback more, for an owner from whom no yes is to be expected soon, neither its own nor one on its behalf. False
    /// if there is none, or nobody who could be asked.
    fn stand_in_for_late(&mut self, out: &mut Vec<Effect>) -> bool {
        let hoped = |node: &NodeId| match self.asked.get(node) {
            Some(Asked::Yes { .. }) => true,
            Some(Asked::Waiting) => !self.plan.is_late(*node),
            Some(Asked::No) | None => false,
        };
        let covered = |owner: &NodeId| {
            self.stands_for.iter().any(|(node, of)| of == owner && hoped(node) && self.may_stand_in(*node))
        };
        let owner = self.plan.concerned().into_iter().find(|owner| !hoped(owner) && !covered(owner));
        let fallback = self.free_fallback().filter(|node| !self.plan.is_late(*node));
        let (Some(owner), Some(fallback)) = (owner, fallback) else { return false };
        self.stands_for.insert(fallback, owner);
        self.ask(fallback, Some(owner), out);
        true
    }

    fn reply(&mut self, outcome: Outcome, timed_out: bool, out: &mut Vec<Effect>) {
        assert!(self.phase != Phase::Answered, "the reply is said once");
        self.phase = Phase::Answered;
        let tally = self.tally(&self.plan.owners, |_| false);
        let fallbacks = tally.all - tally.owners;
        let hints = self.stands_for.len() + self.kept.len();
        out.push(Effect::Reply(Reply { outcome, timed_out, tally, fallbacks, hints }));
    }
}

#[cfg(test)]
mod tests;
