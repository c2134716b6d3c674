//! The GET machine, at the node that a client asked.
//!
//! ```text
//!   ask R replicas: the first for the record, the others for its digest
//!     equal     → answer
//!     different → fetch the records that are missing, merge, repair the quorum, answer
//!   a failure, or slowness, asks one more
//! ```
//!
//! One value crosses the wire where all agree, which is nearly always. Where they differ, the stale part of the quorum is
//! repaired *before* the answer, so that a later quorum read can't go back behind it; a repair that fails delays the
//! answer no longer than the deadline. Late answers still lead to repairs. Fallbacks are read but never repaired: their
//! copies are on their way elsewhere. A fallback that has nothing says little: it was never meant to have the key, so its
//! "nothing" is no answer by itself (see `votes`).
//!
//! A read that can't succeed any more is answered at once. A replica that is asked for a record it has just named may hang
//! as well as any other: after [`HEDGE_AFTER`] somebody else with the same digest is asked.

use super::Plan;
use super::quorum::ReadQuorum;
use crate::causal::Context;
use crate::ids::NodeId;
use crate::planted::{self, Bug};
use crate::record::{Record, merge};
use crate::time::Time;
use crate::wire::record::Digest;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// What a replica holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Held {
    /// Nothing, as far as it can be sure of it.
    Absent,
    /// A record with this digest.
    Digest(Digest),
    /// This record.
    Record(Digest, Arc<Record>),
}

impl Held {
    fn digest(&self) -> Option<Digest> {
        match self {
            Held::Absent => None,
            Held::Digest(digest) | Held::Record(digest, _) => Some(*digest),
        }
    }
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A replica answered a read.
    Found {
        /// Which.
        by: NodeId,
        /// What it holds.
        held: Held,
    },
    /// A replica could not be reached, could not answer for the key, or was too late.
    Failed {
        /// Which.
        by: NodeId,
    },
    /// A replica took a repair.
    Repaired {
        /// Which.
        by: NodeId,
    },
    /// The time that `deadline()` named has come.
    Tick {
        /// The time.
        now: Time,
    },
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Ask a replica.
    Read {
        /// Whom.
        from: NodeId,
        /// Whether for the record, or for its digest.
        record: bool,
    },
    /// Send the merged record to an owner that lacks some of it.
    Repair {
        /// Whom.
        to: NodeId,
        /// The record.
        record: Arc<Record>,
    },
    /// Answer the client. Said exactly once.
    Reply(Reply),
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// A read quorum's merged record; `None` if none of it has one.
    Merged(Option<Arc<Record>>),
    /// Too few answered.
    TooFew {
        /// How many were needed: replicas, or owners if it is them who lack.
        need: usize,
        /// How many of those answered.
        have: usize,
        /// Whether the time was up.
        timed_out: bool,
    },
    /// Nobody who answered has seen the context that was asked for.
    NotReached,
}

/// How long a read waits for its quorum before it asks one replica more.
pub const HEDGE_AFTER: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asked {
    Waiting,
    Answered,
    Failed,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    AwaitingAnswers,
    AwaitingRepairs,
    Answered,
}

/// What the client wants to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Want {
    /// How many must agree.
    pub quorum: ReadQuorum,
    /// What the answer must have seen, if anything.
    pub at_least: Option<Context>,
    /// Ask every owner, so that stale copies outside the quorum are found too.
    pub ask_all: bool,
}

/// One read in progress.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Get {
    plan: Plan,
    want: Want,
    phase: Phase,
    /// Whom to ask next, in order.
    queue: Vec<NodeId>,
    asked: BTreeMap<NodeId, Asked>,
    /// Those of them who were asked for the record.
    whole: BTreeSet<NodeId>,
    held: BTreeMap<NodeId, Held>,
    /// Which replica has been asked for the record that others have only named.
    fetching: BTreeMap<Digest, NodeId>,
    merged: Option<Arc<Record>>,
    merged_digest: Option<Digest>,
    repairing: Vec<NodeId>,
    hedge_at: Time,
    deadline: Time,
}

impl Get {
    /// Begins. The caller asks again at [`Get::deadline`].
    pub fn start(plan: Plan, want: Want, now: Time, deadline: Time, out: &mut Vec<Effect>) -> Get {
        plan.assert_whole();
        let queue = Self::order(&plan, &want);
        let mut get = Get {
            plan,
            want,
            phase: Phase::AwaitingAnswers,
            queue,
            asked: BTreeMap::new(),
            whole: BTreeSet::new(),
            held: BTreeMap::new(),
            fetching: BTreeMap::new(),
            merged: None,
            merged_digest: None,
            repairing: Vec::new(),
            hedge_at: now + HEDGE_AFTER,
            deadline,
        };
        let first = if get.want.ask_all { get.plan.owners.len() } else { 0 };
        for _ in 0..first.max(get.want.quorum.r) {
            get.ask_next(out);
        }
        get.conclude(out);
        get
    }

    /// This node first if it is an owner (its answer costs no frame), then owners, of whom the late ones last, then fallbacks, and the
    /// doubted last of all.
    fn order(plan: &Plan, want: &Want) -> Vec<NodeId> {
        let fallbacks: &[NodeId] = if want.quorum.sloppy { &plan.fallbacks } else { &[] };
        let mut owners = plan.owners.clone();
        owners.sort_by_key(|owner| plan.late.contains(owner));
        let all = owners.iter().chain(fallbacks).copied();
        let (trusted, doubted): (Vec<NodeId>, Vec<NodeId>) =
            all.partition(|n| *n == plan.me || !plan.doubts(*n));
        let mut order: Vec<NodeId> = trusted.into_iter().chain(doubted).collect();
        if plan.owns(plan.me)
            && let Some(at) = order.iter().position(|n| *n == plan.me)
        {
            order[..=at].rotate_right(1);
        }
        order
    }

    /// When to send a [`Event::Tick`].
    pub fn deadline(&self) -> Option<Time> {
        match self.phase {
            Phase::Answered => None,
            Phase::AwaitingAnswers => Some(self.hedge_at.min(self.deadline)),
            Phase::AwaitingRepairs => Some(self.deadline),
        }
    }

    /// Takes an event. A repeated or unexpected one changes nothing.
    pub fn on(&mut self, event: Event, out: &mut Vec<Effect>) {
        match event {
            // It named the record and can't produce it.
            Event::Found { by, held: Held::Digest(_) } if self.whole.contains(&by) => self.failed(by, out),
            Event::Found { by, held } if self.asked.get(&by) == Some(&Asked::Waiting) => {
                self.asked.insert(by, Asked::Answered);
                self.held.insert(by, held);
                self.fetching.retain(|_, from| *from != by);
                match self.phase {
                    Phase::AwaitingAnswers => self.conclude(out),
                    Phase::AwaitingRepairs | Phase::Answered => self.repair_late(by, out),
                }
            }
            Event::Repaired { by } => self.repaired(by, out),
            Event::Failed { by } if self.repairing.contains(&by) => self.repaired(by, out),
            Event::Failed { by } => self.failed(by, out),
            Event::Tick { now } => self.tick(now, out),
            Event::Found { .. } => {}
        }
    }

    /// One repair less to wait for, whether it was done or not: the next read finds who is still behind.
    fn repaired(&mut self, by: NodeId, out: &mut Vec<Effect>) {
        let before = self.repairing.len();
        self.repairing.retain(|n| *n != by);
        if self.repairing.len() < before {
            self.conclude(out);
        }
    }

    /// Whether nothing more is expected, so that the driver may forget it.
    pub fn is_done(&self) -> bool {
        self.phase == Phase::Answered && self.asked.values().all(|a| *a != Asked::Waiting)
    }

    fn ask_next(&mut self, out: &mut Vec<Effect>) -> bool {
        if self.queue.is_empty() {
            return false;
        }
        // Where owners lack, a fallback's answer would be of no use.
        let owner = self.queue.iter().position(|n| self.plan.owns(*n));
        let at = owner.filter(|_| self.owners_possible() < self.want.quorum.pr).unwrap_or(0);
        let from = self.queue.remove(at);
        // One record is enough where all agree, as long as the one who was asked for it has not failed.
        let one = self.whole.iter().any(|n| self.asked.get(n) != Some(&Asked::Failed));
        self.ask(from, !one || self.want.at_least.is_some(), out);
        true
    }

    fn ask(&mut self, from: NodeId, record: bool, out: &mut Vec<Effect>) {
        self.asked.insert(from, Asked::Waiting);
        if record {
            self.whole.insert(from);
        }
        out.push(Effect::Read { from, record });
    }

    fn failed(&mut self, by: NodeId, out: &mut Vec<Effect>) {
        if self.asked.get(&by) != Some(&Asked::Waiting) {
            return;
        }
        self.asked.insert(by, Asked::Failed);
        self.held.remove(&by);
        self.fetching.retain(|_, from| *from != by);
        if self.phase == Phase::AwaitingAnswers {
            self.ask_next(out);
            self.conclude(out);
        }
    }

    fn tick(&mut self, now: Time, out: &mut Vec<Effect>) {
        if self.phase == Phase::Answered {
            return;
        }
        if now >= self.deadline {
            match self.phase {
                Phase::AwaitingRepairs => self.reply(Reply::Merged(self.merged.clone()), out),
                _ if self.want.at_least.is_some() && self.enough() => self.reply(Reply::NotReached, out),
                _ => self.too_few(true, out),
            }
        } else if now >= self.hedge_at {
            self.hedge_at = now + HEDGE_AFTER;
            if self.phase == Phase::AwaitingAnswers {
                // The quorum may have formed without the one whose record it waits for; else one more may complete it.
                let before = out.len();
                self.fetching.clear();
                self.conclude(out);
                if out.len() == before {
                    self.ask_next(out);
                }
            }
        }
    }

    fn enough(&self) -> bool {
        self.votes() >= self.want.quorum.r && self.owners_held() >= self.want.quorum.pr
    }

    /// Whether it would be enough if everybody who is being waited for answered.
    fn possible(&self) -> bool {
        let (with, without) = self.fallbacks_held();
        let owners = self.owners_possible();
        let fallbacks = with + self.waiting_fallbacks() + if owners > 0 { without } else { 0 };
        owners + fallbacks >= self.want.quorum.r && owners >= self.want.quorum.pr
    }

    /// How many of the answers count. That a fallback has nothing counts beside an owner's answer, and if none of them has
    /// anything, only once no owner is waited for: two quick fallbacks would outvote the one owner who is left and holds
    /// the record, and the client would be told that there is none.
    fn votes(&self) -> usize {
        let (owners, (with, without)) = (self.owners_held(), self.fallbacks_held());
        let found = self.held.values().any(|held| *held != Held::Absent);
        let settled = found || self.owners_possible() == owners;
        owners + with + if owners > 0 && settled { without } else { 0 }
    }

    /// How many fallbacks have something, and how many have nothing.
    fn fallbacks_held(&self) -> (usize, usize) {
        let all = self.held.iter().filter(|(node, _)| !self.plan.owns(**node));
        let (with, without): (Vec<_>, Vec<_>) = all.partition(|(_, held)| **held != Held::Absent);
        (with.len(), without.len())
    }

    fn waiting_fallbacks(&self) -> usize {
        self.asked.iter().filter(|(n, a)| **a == Asked::Waiting && !self.plan.owns(**n)).count()
    }

    fn owners_held(&self) -> usize {
        self.held.keys().filter(|n| self.plan.owns(**n)).count()
    }

    fn owners_possible(&self) -> usize {
        let waiting = |n: &&NodeId| self.asked.get(n) == Some(&Asked::Waiting);
        self.owners_held() + self.plan.owners.iter().filter(waiting).count()
    }

    fn waiting(&self) -> usize {
        self.asked.values().filter(|a| **a == Asked::Waiting).count()
    }

    fn too_few(&mut self, timed_out: bool, out: &mut Vec<Effect>) {
        let ReadQuorum { r, pr, .. } = self.want.quorum;
        let (all, owners) = (self.votes(), self.owners_held());
        let (need, have) = if all < r || owners >= pr { (r, all) } else { (pr, owners) };
        self.reply(Reply::TooFew { need, have, timed_out }, out);
    }

    fn conclude(&mut self, out: &mut Vec<Effect>) {
        match self.phase {
            Phase::AwaitingAnswers => self.conclude_answers(out),
            Phase::AwaitingRepairs if self.repairing.is_empty() => {
                self.reply(Reply::Merged(self.merged.clone()), out);
            }
            _ => {}
        }
    }

    fn conclude_answers(&mut self, out: &mut Vec<Effect>) {
        if !self.enough() {
            while !self.possible() {
                if !self.ask_next(out) {
                    return self.too_few(false, out);
                }
            }
            return;
        }
        if self.fetch_missing(out) {
            return;
        }
        self.merge_all();
        if !self.reaches_context() {
            if !self.ask_next(out) && self.waiting() == 0 {
                self.reply(Reply::NotReached, out);
            }
            return;
        }
        self.repair_stale(out);
        self.phase = Phase::AwaitingRepairs;
        self.conclude(out);
    }

    /// Asks for every record of which only the digest is known, one replica for each digest.
    fn fetch_missing(&mut self, out: &mut Vec<Effect>) -> bool {
        let known: Vec<Digest> = self
            .held
            .values()
            .filter_map(|h| match h {
                Held::Record(digest, _) => Some(*digest),
                _ => None,
            })
            .collect();
        let named = self.held.iter().filter_map(|(node, held)| match held {
            Held::Digest(digest) if !known.contains(digest) => Some((*digest, *node)),
            _ => None,
        });
        let missing: Vec<(Digest, NodeId)> = named.collect();
        for (digest, from) in &missing {
            if !self.fetching.contains_key(digest) {
                self.fetching.insert(*digest, *from);
                self.held.remove(from);
                self.ask(*from, true, out);
            }
        }
        !missing.is_empty()
    }

    fn merge_all(&mut self) {
        let mut merged: Option<(Digest, Arc<Record>)> = None;
        for held in self.held.values() {
            let Held::Record(digest, record) = held else { continue };
            merged = Some(match merged {
                None => (*digest, Arc::clone(record)),
                Some((same, so_far)) if same == *digest => (same, so_far),
                Some((_, so_far)) => {
                    let both = merge(&so_far, record);
                    let digest = crate::wire::record::digest(&crate::wire::record::encode(&both));
                    (digest, Arc::new(both))
                }
            });
        }
        self.merged_digest = merged.as_ref().map(|(digest, _)| *digest);
        self.merged = merged.map(|(_, record)| record);
    }

    fn reaches_context(&self) -> bool {
        let empty = Context::new();
        let clock = self.merged.as_ref().map_or(&empty, |r| &r.clock);
        self.want.at_least.as_ref().is_none_or(|wanted| clock.covers(wanted))
    }

    fn repair_stale(&mut self, out: &mut Vec<Effect>) {
        let equal = planted::is(Bug::RepairsEqual) && self.merged.is_some();
        let differs = |h: &Held| h.digest() != self.merged_digest || equal;
        let stale = self.held.iter().filter(|(n, h)| self.plan.owns(**n) && differs(h));
        self.repairing = stale.map(|(n, _)| *n).collect();
        for to in self.repairing.clone() {
            self.repair(to, out);
        }
    }

    fn repair(&self, to: NodeId, out: &mut Vec<Effect>) {
        let record = self.merged.clone().expect("only a present record can differ from what somebody holds");
        out.push(Effect::Repair { to, record });
    }

    /// An answer after the reply: its record, or the lack of one, may still be mended.
    fn repair_late(&mut self, by: NodeId, out: &mut Vec<Effect>) {
        let digest = self.held.get(&by).and_then(Held::digest);
        if self.plan.owns(by) && self.merged.is_some() && digest != self.merged_digest {
            self.repair(by, out);
        }
    }

    fn reply(&mut self, reply: Reply, out: &mut Vec<Effect>) {
        assert!(self.phase != Phase::Answered, "the reply is said once");
        self.phase = Phase::Answered;
        out.push(Effect::Reply(reply));
    }
}

#[cfg(test)]
mod tests;
