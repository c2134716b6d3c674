//! What an operator asks for: staged, looked at, committed together.
//!
//! Changes are staged in the view, so each node shows the same plan and any of them may commit it. A commit turns them into
//! rows of members; what that moves follows from the rows. Two commits at once on two sides of a partition both hold: rows
//! merge, and there is one target in the end. The hash of a plan names what is staged *and* what it would be applied to:
//! who commits what he has not seen is refused.
//!
//! Who can't be reached and is let go is given up: nobody waits for its word. It still counts among those of whom a change
//! needs most (`settle`), so a minority may commit what it likes and moves nothing. Where most are gone for ever an operator
//! says so of each of them by force, and they do not count any more.

use super::status::Status;
use super::view::{TEXT_BYTES_MAX, VERSION_MAX, View, ViewError};
use crate::ids::{NodeId, Zone};
use crate::place::{Layout, WEIGHT_MAX};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use xxhash_rust::xxh3::xxh3_64;

/// The most changes in one plan: one for each member that a cluster can have.
pub const STAGED_MAX: usize = super::view::MEMBERS_MAX;

/// One change.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Change {
    /// A node that waits takes its share.
    Join(NodeId),
    /// A member hands everything on and goes.
    Leave {
        /// Who.
        id: NodeId,
        /// It can't be reached and never will be: it does not count among those of whom a change needs most.
        force: bool,
    },
    /// The one goes, the other takes its place.
    Replace {
        /// Who goes.
        old: NodeId,
        /// Who comes.
        new: NodeId,
        /// As of a leave.
        force: bool,
    },
    /// A member gets another weight or zone.
    Set {
        /// Which.
        id: NodeId,
        /// The weight, 1 to [`WEIGHT_MAX`].
        weight: Option<u32>,
        /// The zone.
        zone: Option<Zone>,
    },
}

/// What is staged.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Staged {
    /// Which version of the plan this is.
    pub version: u64,
    /// The node that took it.
    pub by: Option<NodeId>,
    /// The changes, in the order in which they came.
    pub changes: Vec<Change>,
}

/// Why a change can't be made. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Nobody of that name ever joined.
    #[error("there is no member {id}")]
    NoMember {
        /// Which of the changes.
        at: usize,
        /// Who.
        id: NodeId,
    },
    /// It does not fit.
    #[error("{why}")]
    Unfit {
        /// Which of the changes.
        at: usize,
        /// Which field of it, as a JSON pointer continues.
        field: &'static str,
        /// What does not fit.
        why: String,
    },
    /// Too many changes.
    #[error("a plan has at most {STAGED_MAX} changes")]
    TooMany,
    /// Fewer members than replicas would be left.
    #[error(
        "{left} members would be left, and the buckets keep {n} replicas: add nodes first, or lower the buckets' n"
    )]
    TooFew {
        /// The first change that leaves too few.
        at: usize,
        /// How many.
        left: usize,
        /// How many are needed.
        n: usize,
    },
    /// The plan is not the one that was looked at.
    #[error("the plan has changed since: its hash is {now:016x} now")]
    OtherPlan {
        /// The hash of what is staged now.
        now: u64,
    },
    /// There is no plan.
    #[error("nothing is staged")]
    Nothing,
    /// The view refused it.
    #[error(transparent)]
    View(#[from] ViewError),
}

impl Change {
    /// A leave of somebody who hands on what it has, or whom the others do without.
    pub fn leave(id: NodeId) -> Change {
        Change::Leave { id, force: false }
    }

    /// Who goes by it.
    pub fn goes(&self) -> Option<NodeId> {
        match self {
            Change::Leave { id, .. } | Change::Replace { old: id, .. } => Some(*id),
            Change::Join(_) | Change::Set { .. } => None,
        }
    }

    /// The members that it concerns.
    fn concerns(&self) -> Vec<NodeId> {
        match self {
            Change::Join(id) | Change::Leave { id, .. } | Change::Set { id, .. } => vec![*id],
            Change::Replace { old, new, .. } => vec![*old, *new],
        }
    }
}

impl Staged {
    /// Who would go without being waited for.
    pub fn silent(&self, lost: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        self.changes.iter().filter_map(Change::goes).filter(|id| lost.contains(id)).collect()
    }

    pub(super) fn validate(&self) -> Result<(), ViewError> {
        let long = |change: &Change| matches!(change, Change::Set { zone: Some(zone), .. } if zone.0.len() > TEXT_BYTES_MAX);
        if self.version > VERSION_MAX || self.changes.len() > STAGED_MAX || self.changes.iter().any(long) {
            return Err(ViewError::Register("staged"));
        }
        Ok(())
    }
}

impl View {
    /// Adds changes to what is staged. A change of a member takes the place of an earlier one of the same member; an earlier
    /// one that can't be made any more, as after somebody else has made it, falls out: it must not stand in the way of
    /// whoever comes next. `n` is the greatest n of any bucket, `lost` who can't be reached.
    pub fn stage(
        &mut self,
        by: NodeId,
        changes: Vec<Change>,
        n: usize,
        lost: &BTreeSet<NodeId>,
    ) -> Result<(), ChangeError> {
        let concerned: BTreeSet<NodeId> = changes.iter().flat_map(Change::concerns).collect();
        let mut view = self.clone();
        let mut all: Vec<Change> = Vec::new();
        for earlier in &self.staged.changes {
            let mut after = view.clone();
            let is_of_others = !earlier.concerns().iter().any(|id| concerned.contains(id));
            if is_of_others && after.apply(all.len(), earlier, lost).is_ok() {
                view = after;
                all.push(earlier.clone());
            }
        }
        let kept = all.len();
        all.extend(changes);
        self.preview(&all, n, lost).map_err(|error| error.counted_from(kept))?;
        self.staged = Staged { version: self.staged.version + 1, by: Some(by), changes: all };
        Ok(())
    }

    /// Forgets what is staged.
    pub fn clear_staged(&mut self, by: NodeId) {
        if !self.staged.changes.is_empty() {
            self.staged = Staged { version: self.staged.version + 1, by: Some(by), changes: Vec::new() };
        }
    }

    /// The view as it would be with these changes.
    pub fn preview(
        &self,
        changes: &[Change],
        n: usize,
        lost: &BTreeSet<NodeId>,
    ) -> Result<View, ChangeError> {
        if changes.len() > STAGED_MAX {
            return Err(ChangeError::TooMany);
        }
        let mut view = self.clone();
        let (mut seen, mut first_too_few) = (BTreeSet::new(), None);
        for (at, change) in changes.iter().enumerate() {
            if change.concerns().into_iter().any(|id| !seen.insert(id)) {
                let why = "a member is named twice in one plan".to_owned();
                return Err(ChangeError::Unfit { at, field: "", why });
            }
            view.apply(at, change, lost)?;
            let left = view.claimants().len();
            if left < self.claimants().len() && view.leaves_too_few(n) {
                first_too_few.get_or_insert(at);
            }
        }
        // A later change may have made up for it.
        let left = view.claimants().len();
        match first_too_few {
            Some(at) if left < self.claimants().len() && view.leaves_too_few(n) => {
                Err(ChangeError::TooFew { at, left, n })
            }
            _ => Ok(view),
        }
    }

    /// Makes the staged changes, if they are those that the hash names.
    pub fn commit(
        &mut self,
        by: NodeId,
        hash: u64,
        n: usize,
        lost: &BTreeSet<NodeId>,
    ) -> Result<(), ChangeError> {
        let now = self.plan_hash(lost);
        if hash != now {
            return Err(ChangeError::OtherPlan { now });
        }
        if self.staged.changes.is_empty() {
            return Err(ChangeError::Nothing);
        }
        let mut view = self.preview(&self.staged.changes, n, lost)?;
        view.clear_staged(by);
        *self = view;
        Ok(())
    }

    /// The name of a plan: what is staged, what it would be applied to, and whose last word nobody would wait for. Whoever
    /// has looked at the leave of a node that hands on what it has has not looked at that of one that is silent.
    pub fn plan_hash(&self, lost: &BTreeSet<NodeId>) -> u64 {
        let (claimants, silent) = (self.claimants(), self.staged.silent(lost));
        let named = (&self.staged, &claimants, self.settled.layout.digest(), &silent);
        xxh3_64(&postcard::to_stdvec(&named).expect("a plan is plain data"))
    }

    /// The layout that the members as they are will have in the end. Where nobody is left, those who have everything keep it.
    pub fn target(&self) -> Layout {
        let claimants = self.claimants();
        if claimants.is_empty() {
            self.settled.layout.clone()
        } else {
            self.settled.layout.evolve(&claimants)
        }
    }

    /// Whether fewer would own the ring than a bucket of the greatest `n` wants replicas, and than own it now.
    pub fn leaves_too_few(&self, n: usize) -> bool {
        let left = self.members.values().filter(|member| member.status.claims()).count();
        left < n.min(self.settled.layout.members().len())
    }

    fn apply(&mut self, at: usize, change: &Change, lost: &BTreeSet<NodeId>) -> Result<(), ChangeError> {
        match change {
            Change::Join(id) => self.join(at, "/join", *id),
            Change::Leave { id, force } => self.leave(at, "/leave", *id, *force, lost),
            Change::Replace { old, new, force } => {
                self.leave(at, "/replace/old", *old, *force, lost)?;
                match self.member(at, *new)?.status {
                    // A node that has come in by itself may take a dead one's place as well.
                    Status::Up => Ok(()),
                    _ => self.join(at, "/replace/new", *new),
                }
            }
            Change::Set { id, weight, zone } => {
                let member = self.member(at, *id)?;
                let weight = weight.unwrap_or(member.seat.weight);
                let wanted = zone.as_ref();
                let zone = wanted.unwrap_or(&member.seat.zone).clone();
                let unfit = |field, why| ChangeError::Unfit { at, field, why };
                if !(1..=WEIGHT_MAX).contains(&weight) {
                    return Err(unfit("/set/weight", format!("a weight is 1 to {WEIGHT_MAX}, not {weight}")));
                }
                if zone.0.len() > TEXT_BYTES_MAX {
                    return Err(unfit("/set/zone", format!("a zone has at most {TEXT_BYTES_MAX} bytes")));
                }
                if wanted.is_some_and(|zone| zone.0.chars().any(char::is_control)) {
                    return Err(unfit("/set/zone", "a zone has no control characters".to_owned()));
                }
                if member.status > Status::Up {
                    let why = format!("member {id} is {}", member.status.name());
                    return Err(unfit("/set/id", why));
                }
                Ok(self.set_seat(*id, weight, zone).map(drop)?)
            }
        }
    }

    fn member(&self, at: usize, id: NodeId) -> Result<&super::Member, ChangeError> {
        self.members.get(&id).ok_or(ChangeError::NoMember { at, id })
    }

    fn join(&mut self, at: usize, field: &'static str, id: NodeId) -> Result<(), ChangeError> {
        let status = self.member(at, id)?.status;
        if status != Status::Joining && !status.leaves() {
            let why = format!("member {id} is {} and can't join", status.name());
            return Err(ChangeError::Unfit { at, field, why });
        }
        Ok(self.set_status(id, Status::Up).map(drop)?)
    }

    fn leave(
        &mut self,
        at: usize,
        field: &'static str,
        id: NodeId,
        force: bool,
        lost: &BTreeSet<NodeId>,
    ) -> Result<(), ChangeError> {
        let (status, silent) = (self.member(at, id)?.status, lost.contains(&id));
        let to = match status {
            // A newcomer owns nothing, and is removed as soon as the others know.
            Status::Joining => Status::Leaving,
            _ if force && !silent => {
                let why = format!("member {id} can be reached: let it leave without force");
                return Err(ChangeError::Unfit { at, field: "/force", why });
            }
            Status::Up | Status::Leaving | Status::Lost if force => Status::WrittenOff,
            Status::Up | Status::Leaving | Status::WrittenOff if silent && !force => Status::Lost,
            Status::Up | Status::WrittenOff if !force => Status::Leaving,
            _ => {
                let why = format!("member {id} is {} already", status.name());
                return Err(ChangeError::Unfit { at, field, why });
            }
        };
        Ok(self.set_status(id, to).map(drop)?)
    }
}

impl ChangeError {
    /// A caller counts his own changes, and not those that were staged before.
    fn counted_from(self, kept: usize) -> ChangeError {
        match self {
            ChangeError::NoMember { at, id } => ChangeError::NoMember { at: at.saturating_sub(kept), id },
            ChangeError::TooFew { at, left, n } => {
                ChangeError::TooFew { at: at.saturating_sub(kept), left, n }
            }
            ChangeError::Unfit { at, field, why } => {
                ChangeError::Unfit { at: at.saturating_sub(kept), field, why }
            }
            other => other,
        }
    }
}

#[cfg(test)]
#[path = "change_tests.rs"]
mod tests;
