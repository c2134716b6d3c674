//! When a change of the tables may go on: a pure function of the view and of whom a node believes to be down.
//!
//! | step | when |
//! | --- | --- |
//! | `Fill` | everybody acts by both tables: what was acknowledged before is on the settled owners now, what comes reaches both |
//! | `Settle` | everybody who takes over is filled, everybody who leaves has nothing left that only it could hand on |
//! | `Retire` | everybody has heard that the change is over; who has gone is removed |
//!
//! "Everybody" is every member that can be reached, and in any case most of the settled owners. One that can't be reached is
//! not waited for: it acts by an older regime, so those it asks refuse it and tell it of the newer one. But who takes over
//! must be filled, and a minority must not change the tables behind a majority's back. Any member may take a step: all of
//! them would write the same.

use super::regime::Regime;
use super::status::Status;
use super::view::{Settled, View, ViewError};
use crate::ids::NodeId;
use std::collections::BTreeSet;

/// What can be done now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Nothing moves.
    Rest,
    /// Not before these have done their part.
    Wait(Vec<Wait>),
    /// Who takes over partitions may begin to fetch them; these have not yet done so.
    Fill(Vec<Wait>),
    /// The target becomes the settled table.
    Settle,
    /// The previous table is no longer needed.
    Retire,
}

/// Whom a change waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wait {
    /// Whom.
    pub node: NodeId,
    /// Why.
    pub why: Why,
}

/// Why somebody is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// It has not said that it acts by the new tables.
    HasNotHeard,
    /// It can't be reached, and without it there is no majority.
    Majority,
    /// It is fetching what it takes over.
    IsFilled,
    /// It takes over partitions, or leaves, and can't be reached.
    DoesNotAnswer,
    /// It leaves, and still holds what only it can hand on.
    HandsOn,
}

impl Why {
    /// In words.
    pub fn text(self) -> &'static str {
        match self {
            Why::HasNotHeard => "it has not heard of the change yet",
            Why::Majority => "it can't be reached, and the change needs a majority of the members",
            Why::IsFilled => "it is fetching what it takes over",
            Why::DoesNotAnswer => {
                "its part is not done and it can't be reached; bring it back, or let it leave"
            }
            Why::HandsOn => "it leaves and is handing on what it keeps for others",
        }
    }
}

/// What can be done now, in the eyes of a node that believes `doubted` to be down. `ns` is every n that a bucket has.
pub fn next(view: &View, regime: &Regime, ns: &BTreeSet<u8>, doubted: &BTreeSet<NodeId>) -> Step {
    if regime.is_settled() {
        return Step::Rest;
    }
    let waits = not_acting(view, regime, doubted);
    if !waits.is_empty() {
        return Step::Wait(waits);
    }
    if regime.target.is_none() {
        return Step::Retire;
    }
    let waits = not_done(view, regime, ns, doubted);
    if waits.is_empty() { Step::Settle } else { Step::Fill(waits) }
}

/// Who has a say, and does not act by this regime yet.
fn not_acting(view: &View, regime: &Regime, doubted: &BTreeSet<NodeId>) -> Vec<Wait> {
    let acts =
        |node: &NodeId| view.members.get(node).is_some_and(|m| m.acting.regime == regime.name().digest);
    let given_up = |node: &NodeId| view.members.get(node).is_none_or(|m| m.status >= Status::Lost);
    let missing: Vec<NodeId> = regime.nodes().into_iter().filter(|n| !acts(n) && !given_up(n)).collect();
    let living: Vec<NodeId> = missing.iter().copied().filter(|n| !doubted.contains(n)).collect();
    if !living.is_empty() {
        return living.into_iter().map(|node| Wait { node, why: Why::HasNotHeard }).collect();
    }
    let voters: Vec<NodeId> = regime.settled.nodes().iter().copied().filter(|n| !given_up(n)).collect();
    let voting = voters.iter().filter(|n| acts(n)).count();
    if 2 * voting > voters.len() || voters.is_empty() {
        return Vec::new();
    }
    let silent = missing.into_iter().filter(|node| voters.contains(node));
    silent.map(|node| Wait { node, why: Why::Majority }).collect()
}

/// Who takes over something or leaves, and has not said that it is done.
fn not_done(view: &View, regime: &Regime, ns: &BTreeSet<u8>, doubted: &BTreeSet<NodeId>) -> Vec<Wait> {
    let Some(target) = &regime.target else { return Vec::new() };
    let wait = |(node, member): (&NodeId, &super::Member)| {
        let done = member.acting.regime == regime.name().digest && member.acting.done;
        let takes_over = target.nodes().contains(node);
        let leaves = member.status == Status::Leaving && regime.settled.nodes().contains(node);
        let why = match (done, doubted.contains(node)) {
            (true, _) => return None,
            _ if !takes_over && !leaves => return None,
            // Who only keeps what it has is done without a word.
            _ if takes_over && !gains(regime, ns, *node) => return None,
            (false, true) => Why::DoesNotAnswer,
            _ if leaves => Why::HandsOn,
            _ => Why::IsFilled,
        };
        Some(Wait { node: *node, why })
    };
    view.members.iter().filter_map(wait).collect()
}

/// Whether a node takes over any partition.
fn gains(regime: &Regime, ns: &BTreeSet<u8>, node: NodeId) -> bool {
    ns.iter().any(|n| !regime.gained_by(node, usize::from(*n)).is_empty())
}

impl View {
    /// Takes the step that [`next`] allows. Says whether anything changed.
    pub fn advance(&mut self, step: &Step) -> Result<bool, ViewError> {
        match step {
            Step::Settle => {
                let layout = self.settled.layout.evolve(&self.claimants());
                let previous = Some(std::mem::replace(&mut self.settled.layout, layout));
                self.settled.stamp += 1;
                self.settled.previous = previous;
                Ok(true)
            }
            Step::Retire => {
                self.settled.stamp += 1;
                self.settled.previous = None;
                let owners: BTreeSet<NodeId> = self.settled.layout.members().iter().map(|m| m.id).collect();
                let gone = |(id, member): (&NodeId, &super::Member)| {
                    (member.status.leaves() && !owners.contains(id)).then_some(*id)
                };
                let gone: Vec<NodeId> = self.members.iter().filter_map(gone).collect();
                for id in gone {
                    self.set_status(id, Status::Removed)?;
                }
                Ok(true)
            }
            Step::Rest | Step::Wait(_) | Step::Fill(_) => Ok(false),
        }
    }

    /// A cluster's first layout: its only member owns everything.
    pub fn found(&mut self) {
        let layout = self.settled.layout.evolve(&self.claimants());
        self.settled = Settled { stamp: 1, layout, previous: None };
    }
}

#[cfg(test)]
#[path = "settle_tests.rs"]
mod tests;
