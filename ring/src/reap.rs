//! When a deletion may be forgotten.
//!
//! A dead record (`Record::is_dead`) keeps what it deleted from coming back. It may go once nothing is left that it would
//! have to meet: no older copy at any node, in anybody's memory, or on the wire. A timer alone proves none of that. So the
//! first owner of a partition asks **every** member about its dead keys, round after round:
//!
//! ```text
//!   all owners hold exactly this, durably ───► since      whatever is older was read off a disk before that
//!   all work that began before since is over ─► quiet      nobody holds in memory what was read then
//!   quiet was a grace ago ─────────────────────► ripe       what such work had sent is delivered, or too old to be taken
//!   throughout: everybody answers; no hint of the key waits; nobody else holds a copy, or has let one go
//! ```
//!
//! Where any of that is missing in a round, the key begins anew. A ripe key goes at all owners "if it is still just this",
//! at the asker last: what fails half-way leaves the dead record somewhere, it spreads again, and nothing is lost.
//!
//! That copies outside the owners are told of after they went too closes a circle: such a copy may be read, go, and come back
//! out of the reader's memory between two rounds. Comparing trees would prove less than asking: a tree says what leaves say,
//! and here every owner looks at the record itself, twice and a grace apart.
//!
//! All times are the asker's monotonic ones, in memory: a restart begins anew, and no calendar is trusted.

mod tour;

pub use tour::Tour;

use crate::ids::{NodeId, ObjectId};
use crate::planted::{self, Bug};
use crate::time::Time;
use crate::wire::record::Digest;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

/// A dead record as the asker holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dead {
    /// The key.
    pub id: ObjectId,
    /// The record.
    pub digest: Digest,
    /// Who owns the key.
    pub owners: Vec<NodeId>,
}

/// What a member said about a page of dead records, by their places in it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Said {
    /// An owner: not durably held just so. Another: held at all.
    pub unlike: BTreeSet<u16>,
    /// A hint of the key waits there.
    pub hinted: BTreeSet<u16>,
    /// For how long its oldest work has gone on that may hold a record in memory.
    pub work: Duration,
    /// Changes whenever it has let go a copy that it did not own, and with every start.
    pub mark: u64,
}

/// How many keys wait, and for what.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Waiting {
    /// Some member did not answer.
    pub silent: u64,
    /// Owners differ, or somebody else holds a copy.
    pub differing: u64,
    /// A hint of the key waits somewhere.
    pub hinted: u64,
    /// Everybody agrees, and not for long enough.
    pub young: u64,
    /// The tables are changing.
    pub moving: u64,
}

/// What follows from a round about one page.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Judged {
    /// Which owners lack which of the records.
    pub push: Vec<(NodeId, u16)>,
    /// What may go.
    pub ripe: Vec<u16>,
    /// What waits.
    pub waiting: Waiting,
}

/// A key about which everybody agrees.
#[derive(Clone, Debug)]
struct Agreed {
    digest: Digest,
    /// The marks of all members, hashed.
    marks: u64,
    since: Time,
    quiet: Option<Time>,
    round: u64,
}

/// What the asker remembers between two rounds.
#[derive(Clone, Debug)]
pub struct Reaper {
    grace: Duration,
    keys_max: usize,
    table: u64,
    round: u64,
    agreed: BTreeMap<ObjectId, Agreed>,
}

impl Reaper {
    /// `grace`: longer than a message can be under way. `keys_max`: so many keys are remembered at a time.
    pub fn new(grace: Duration, keys_max: usize) -> Self {
        Reaper { grace, keys_max, table: 0, round: 0, agreed: BTreeMap::new() }
    }

    /// A round begins under these tables. What was agreed under others is void: other nodes were asked.
    pub fn begin(&mut self, table: u64) {
        self.round += 1;
        if self.table != table {
            self.table = table;
            self.agreed.clear();
        }
    }

    /// The round is over: what nobody asked about is no longer dead, or no longer this node's to ask about.
    pub fn end(&mut self) {
        let round = self.round;
        self.agreed.retain(|_, agreed| agreed.round == round);
    }

    /// Since when everybody agrees about a key, and since when it is quiet.
    pub fn agreed(&self, id: &ObjectId) -> Option<(Time, Option<Time>)> {
        self.agreed.get(id).map(|agreed| (agreed.since, agreed.quiet))
    }

    /// Judges a page by what was said between `asked` and `answered`. Every member must be in `said`; `None` is one that did
    /// not answer.
    pub fn judge(
        &mut self,
        page: &[Dead],
        said: &BTreeMap<NodeId, Option<Said>>,
        asked: Time,
        answered: Time,
    ) -> Judged {
        let mut judged = Judged::default();
        let marks = marks(said);
        for (at, dead) in (0_u16..).zip(page) {
            let lack = |owner: &&NodeId| {
                said.get(*owner).is_some_and(|s| s.as_ref().is_some_and(|s| s.unlike.contains(&at)))
            };
            judged.push.extend(dead.owners.iter().filter(lack).map(|owner| (*owner, at)));
            let waiting = &mut judged.waiting;
            let all: Option<Vec<&Said>> = said.values().map(Option::as_ref).collect();
            let (heard, all) = (dead.owners.iter().all(|o| said.contains_key(o)), all.unwrap_or_default());
            let obstacle = if !heard || all.len() < said.len() {
                Some(&mut waiting.silent)
            } else if all.iter().any(|s| s.unlike.contains(&at)) && !planted::is(Bug::ReapOwnersOnly) {
                Some(&mut waiting.differing)
            } else if all.iter().any(|s| s.hinted.contains(&at)) && !planted::is(Bug::ReapIgnoresHints) {
                Some(&mut waiting.hinted)
            } else {
                None
            };
            if let Some(obstacle) = obstacle {
                *obstacle += 1;
                self.agreed.remove(&dead.id);
            } else if self.is_ripe(dead, &all, marks, asked, answered) {
                judged.ripe.push(at);
            } else {
                waiting.young += 1;
            }
        }
        judged
    }

    fn is_ripe(&mut self, dead: &Dead, all: &[&Said], marks: u64, asked: Time, answered: Time) -> bool {
        let round = self.round;
        if planted::is(Bug::ReapAtOnce) {
            return true;
        }
        let anew = Agreed { digest: dead.digest, marks, since: answered, quiet: None, round };
        let Some(agreed) = self.agreed.get_mut(&dead.id) else {
            if self.agreed.len() < self.keys_max {
                self.agreed.insert(dead.id.clone(), anew);
            }
            return false;
        };
        if agreed.digest != dead.digest || agreed.marks != marks {
            *agreed = anew;
            return false;
        }
        agreed.round = round;
        // By the asker's clock it was said some time after the question; the worst is that it was at once. Work that began at
        // the very instant may have read before it.
        let work_is_new = all.iter().all(|s| asked > agreed.since + s.work);
        if agreed.quiet.is_none() && work_is_new {
            agreed.quiet = Some(answered);
        }
        agreed.quiet.is_some_and(|quiet| asked >= quiet + self.grace)
    }
}

/// One name for what all members have let go so far, and for who they are.
fn marks(said: &BTreeMap<NodeId, Option<Said>>) -> u64 {
    let of = |(node, said): (&NodeId, &Option<Said>)| {
        let mark = said.as_ref().map_or(0, |said| said.mark);
        [&node.0.to_be_bytes()[..], &mark.to_be_bytes()[..]].concat()
    };
    xxh3_64(&said.iter().flat_map(of).collect::<Vec<u8>>())
}

#[cfg(test)]
mod tests;
