//! When a change of the tables may go on: a pure function of the view and of whom a node believes to be down.
//!
//! | step | when |
//! | --- | --- |
//! | `Fill` | everybody acts by both tables: what was acknowledged before is on the settled owners now, what comes reaches both |
//! | `Agree` | everybody who takes over is filled, everybody who leaves has nothing left that only it could hand on |
//! | `Settle` | most of the settled owners have agreed: the target is the settled table |
//! | `Retire` | everybody has heard that the change is over, and most have agreed: who has gone is removed |
//!
//! "Everybody" is every member that can be reached, and in any case **most of the settled owners, those that were given up
//! among them**. One that can't be reached is not waited for: it acts by an older regime, so those it asks refuse it and tell
//! it of the newer one. But who takes over must be filled. A change that leaves fewer members than a bucket wants replicas
//! waits, whoever has committed what: two commits on two sides may each leave enough, and together too few.
//!
//! # Why no two sides can both go on
//! From each settled layout (each stamp) at most one step is ever taken, on whatever sides its owners find themselves, and
//! however often the sides change:
//!
//! 1. Only a settled owner takes a step, while it acts by the regime whose step it is, once it sees that most of the settled
//!    owners have agreed to it. With an even split neither half is most: both wait, say so, and go on when they meet.
//! 2. Two majorities of one layout have an owner in common. It has agreed to the one, and later to the other.
//! 3. A node that sees that an owner has agreed to another step from the same stamp agrees to its own only if that one can't
//!    be taken any more: too many have gone past it without having agreed, or nobody is left who still acts by it. Nobody
//!    comes back to a regime that it has left (`regime`), so what can't be taken now never can, and 2 is impossible.
//!
//! What is removed is part of the step, so whoever is removed owned nothing in the layout that most of the owners of before
//! agreed to, and that layout has owners. Marks that were made on the losing side are rows like all others: they merge. A
//! member that was given up and is heard after all counts as leaving and hands on what it has; a `join` calls its leave off;
//! and where two sides have given up each other, and too few are left once they meet, everything stays as it is until some
//! are called back.
//!
//! One thing is an operator's word against the argument: members that are written off do not count among the owners of whom
//! most must agree, nor are they asked what they have done before (3). That is what it is for. If they come back after all, the
//! two layouts of one stamp merge to one of them.

use super::member::Agreed;
use super::regime::Regime;
use super::status::Status;
use super::view::{Settled, View, ViewError};
use crate::ids::NodeId;
use crate::place::Layout;
use crate::planted::{self, Bug};
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
    /// Each settled owner may agree to the step that follows.
    Agree,
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
    /// It leaves, and too few would stay.
    TooFew,
    /// It can't be reached, and may have taken a step that others had agreed to before the change became another.
    MayHaveGoneOn,
}

impl Why {
    /// In words.
    pub fn text(self) -> &'static str {
        match self {
            Why::HasNotHeard => "it has not heard of the change yet",
            Why::Majority => {
                "it can't be reached, and the change needs a majority of the owners; bring it back, or, if most are \
                 gone for ever, let them leave by force"
            }
            Why::IsFilled => "it is fetching what it takes over",
            Why::DoesNotAnswer => {
                "its part is not done and it can't be reached; bring it back, or let it leave"
            }
            Why::HandsOn => "it leaves and is handing on what it keeps for others",
            Why::TooFew => {
                "it leaves, and fewer members would be left than a bucket wants replicas: let one join, or call a \
                 leave off by `join`"
            }
            Why::MayHaveGoneOn => {
                "it can't be reached, and may have carried out an earlier form of this change; bring it back, or, if \
                 it is gone for ever, let it leave by force"
            }
        }
    }
}

/// What can be done now, in the eyes of a node that believes `doubted` to be down. `ns` is every n that a bucket has.
pub fn next(view: &View, regime: &Regime, ns: &BTreeSet<u8>, doubted: &BTreeSet<NodeId>) -> Step {
    let waits = too_few(view, regime, ns);
    if !waits.is_empty() {
        return Step::Wait(waits);
    }
    if regime.is_settled() {
        return Step::Rest;
    }
    let waits = not_acting(view, regime, doubted);
    if !waits.is_empty() && !planted::is(Bug::OldTables) {
        return Step::Wait(waits);
    }
    let waits = not_done(view, regime, ns, doubted);
    if !waits.is_empty() {
        return Step::Fill(waits);
    }
    let waits = unsure(view, regime);
    if !waits.is_empty() {
        return Step::Wait(waits);
    }
    let voters = voters(view, regime);
    let agreed = voters.iter().filter(|id| agreed(view, **id) == Some(agreed_to(regime))).count();
    match (2 * agreed > voters.len(), &regime.target) {
        (false, _) => Step::Agree,
        (true, Some(_)) => Step::Settle,
        (true, None) => Step::Retire,
    }
}

/// Who leaves, where together they would leave too few.
fn too_few(view: &View, regime: &Regime, ns: &BTreeSet<u8>) -> Vec<Wait> {
    let n = ns.last().map_or(1, |n| usize::from(*n));
    if !view.leaves_too_few(n) {
        return Vec::new();
    }
    let claims = |id: &NodeId| view.members.get(id).is_some_and(|member| member.status.claims());
    let leavers = regime.settled.nodes().iter().filter(|id| !claims(id));
    leavers.map(|id| Wait { node: *id, why: Why::TooFew }).collect()
}

/// The settled owners of whom a step needs most: all but those that were written off and are silent.
fn voters(view: &View, regime: &Regime) -> Vec<NodeId> {
    let counts = |id: &NodeId| match view.members.get(id).map(|member| member.status) {
        None | Some(Status::Removed) => false,
        Some(Status::WrittenOff) => acts(view, regime, *id),
        Some(_) => true,
    };
    regime.settled.nodes().iter().copied().filter(counts).collect()
}

fn acts(view: &View, regime: &Regime, id: NodeId) -> bool {
    view.members.get(&id).is_some_and(|member| member.acting.regime == regime.name().digest)
}

fn agreed(view: &View, id: NodeId) -> Option<Agreed> {
    view.members.get(&id).and_then(|member| member.acting.agreed)
}

fn agreed_to(regime: &Regime) -> Agreed {
    Agreed { stamp: regime.stamp, regime: regime.name().digest }
}

/// Who has a say, and does not act by this regime yet.
fn not_acting(view: &View, regime: &Regime, doubted: &BTreeSet<NodeId>) -> Vec<Wait> {
    let waited_for = |id: &NodeId| !doubted.contains(id) && !view.is_given_up(*id, doubted);
    let missing: Vec<NodeId> = regime.nodes().into_iter().filter(|id| !acts(view, regime, *id)).collect();
    let living: Vec<NodeId> = missing.iter().copied().filter(waited_for).collect();
    if !living.is_empty() {
        return living.into_iter().map(|node| Wait { node, why: Why::HasNotHeard }).collect();
    }
    let voters = voters(view, regime);
    let voting = voters.iter().filter(|id| acts(view, regime, **id)).count();
    if 2 * voting > voters.len() {
        return Vec::new();
    }
    let silent = missing.into_iter().filter(|id| regime.settled.nodes().contains(id));
    silent.map(|node| Wait { node, why: Why::Majority }).collect()
}

/// Who may have taken, unheard, a step that others had agreed to. That it was given up says nothing of what it did before.
fn unsure(view: &View, regime: &Regime) -> Vec<Wait> {
    let (voters, ours) = (voters(view, regime), agreed_to(regime));
    let is_rival = |other: &Agreed| other.stamp == ours.stamp && *other != ours;
    let rivals = voters.iter().filter_map(|id| agreed(view, *id)).filter(is_rival);
    // Who acts by this regime has left all earlier ones.
    let past = |rival: Agreed| {
        voters.iter().filter(move |id| acts(view, regime, **id) && agreed(view, **id) != Some(rival)).count()
    };
    let may_be_taken = rivals.into_iter().any(|rival| 2 * (voters.len() - past(rival)) > voters.len());
    if !may_be_taken {
        return Vec::new();
    }
    let silent = voters.iter().filter(|id| !acts(view, regime, **id));
    silent.map(|node| Wait { node: *node, why: Why::MayHaveGoneOn }).collect()
}

/// Who takes over something or leaves, and has not said that it is done.
fn not_done(view: &View, regime: &Regime, ns: &BTreeSet<u8>, doubted: &BTreeSet<NodeId>) -> Vec<Wait> {
    let Some(target) = &regime.target else { return Vec::new() };
    let wait = |(node, member): (&NodeId, &super::Member)| {
        let done = acts(view, regime, *node) && member.acting.done;
        let takes_over = target.nodes().contains(node);
        let given_up = view.is_given_up(*node, doubted);
        let leaves = member.status.leaves() && !given_up && regime.settled.nodes().contains(node);
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
    /// Lets a node take the step that [`next`] allows: agree, or write down what most have agreed to. Nobody does so for
    /// a regime by which it does not act, or whose settled owner it is not. Says whether anything changed.
    pub fn advance(&mut self, me: NodeId, regime: &Regime, step: &Step) -> Result<bool, ViewError> {
        let has_a_say = regime.settled.nodes().contains(&me) && acts(self, regime, me);
        if !has_a_say || self.settled.stamp != regime.stamp {
            return Ok(false);
        }
        match step {
            Step::Agree => Ok(self.agree(me, agreed_to(regime))),
            Step::Settle => {
                let layout = Layout::clone(&regime.layout);
                let previous = Some(std::mem::replace(&mut self.settled.layout, layout));
                self.settled.stamp += 1;
                self.settled.previous = previous;
                Ok(true)
            }
            Step::Retire => {
                self.settled.stamp += 1;
                self.settled.previous = None;
                for id in regime.going.difference(regime.settled.nodes()) {
                    self.set_status(*id, Status::Removed)?;
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
