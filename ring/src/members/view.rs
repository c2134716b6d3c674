//! The cluster view: members and bucket settings, row by row a value with a join.
//!
//! | row | written by | two writers at once |
//! | --- | --- | --- |
//! | a member | see `member.rs` | part by part |
//! | the settled layout | whoever sees that a step may be taken | the higher stamp, then the greater content |
//! | what is staged | any node, with a higher version | the greater node id wins |
//! | a bucket's settings | any node, with a higher version | the greater node id wins |
//!
//! Every row's join is the maximum of a total order (or, for a member, of several), so the whole is commutative,
//! associative and idempotent, and gossip may deliver anything in any order, twice or late.
//!
//! Rows are never deleted: a removed member and a deleted bucket stay as markers, or a late gossip would bring them
//! back. The hard bounds on rows are therefore a multiple of the bounds on what lives, and only adding a row of
//! one's own is refused at the lower bound: two sides of a partition that both filled up must still merge.

use super::change::Staged;
use super::member::{Acting, Agreed, Description, Member, Seat};
use super::status::Status;
use crate::bucket::{BucketSettings, Invalid};
use crate::ids::{ClusterId, NameError, NodeId, Zone, check_bucket};
use crate::place::{Claimant, Layout, LayoutError, PARTITIONS_MAX, partitions_valid};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use xxhash_rust::xxh3::xxh3_64;

/// The most members that a cluster has at a time.
pub const MEMBERS_MAX: usize = 1024;
/// The most members ever, the removed ones among them. 4,096 rows × about 1 KiB = 4 MiB at worst.
pub const MEMBER_ROWS_MAX: usize = 4 * MEMBERS_MAX;
/// The most buckets with settings of their own.
pub const BUCKETS_MAX: usize = 10_000;
/// The most buckets ever configured. 40,000 rows × about 350 bytes = 14 MiB at worst.
pub const BUCKET_ROWS_MAX: usize = 4 * BUCKETS_MAX;
/// The longest address or zone, in bytes.
pub const TEXT_BYTES_MAX: usize = 255;
/// The greatest version or incarnation: room for a thousand changes a second over eight thousand years, and for sums.
pub const VERSION_MAX: u64 = 1 << 48;

/// The layout whose owners have everything, and the one before while somebody may still act by it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Settled {
    /// Which step this is; each is taken by whoever sees first that it may be.
    pub stamp: u64,
    /// Whose owners have everything.
    pub layout: Layout,
    /// What was settled before.
    pub previous: Option<Layout>,
}

/// The settings of a bucket, or the marker that it has the defaults again.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct BucketEntry {
    /// Which change this is.
    pub version: u64,
    /// The node that took the change.
    pub by: NodeId,
    /// The settings; `None` where they were deleted.
    pub settings: Option<BucketSettings>,
}

/// What a node knows about its cluster. Equal views make equal tables.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct View {
    /// Which cluster.
    pub cluster: ClusterId,
    /// How many slices its ring has, fixed at birth.
    pub partitions: u16,
    /// Everybody who ever joined.
    pub members: BTreeMap<NodeId, Member>,
    /// Who owns what.
    pub settled: Settled,
    /// Changes that somebody has put together and not committed.
    pub staged: Staged,
    /// Every bucket that was ever configured.
    pub buckets: BTreeMap<Bytes, BucketEntry>,
    /// The settings of all other buckets, made when the cluster was founded: which n a bucket has must be the same for everybody. It
    /// stands behind the rest of the bytes, where a node that does not know of it stops reading.
    #[serde(skip)]
    pub defaults: Option<BucketSettings>,
}

/// Why a view was not changed, or not accepted. The view is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// These are not the bytes of a view.
    #[error("these are not the bytes of a view")]
    Bytes,
    /// The other view is of another cluster.
    #[error("it is of cluster {theirs}, this is cluster {ours}")]
    OtherCluster {
        /// This cluster.
        ours: ClusterId,
        /// The other one.
        theirs: ClusterId,
    },
    /// The other view has another count of slices, or an impossible one.
    #[error(
        "a ring of {0} slices was found, allowed is this cluster's own, a power of two up to {PARTITIONS_MAX}"
    )]
    Partitions(u16),
    /// There are as many members as there can be.
    #[error("a cluster has at most {MEMBERS_MAX} members, and {MEMBER_ROWS_MAX} in all its time")]
    TooManyMembers,
    /// There are as many configured buckets as there can be.
    #[error(
        "a cluster has settings for at most {BUCKETS_MAX} buckets, and {BUCKET_ROWS_MAX} in all its time"
    )]
    TooManyBuckets,
    /// Nobody of that name ever joined.
    #[error("there is no member {0}")]
    NoMember(NodeId),
    /// The member has gone for ever and comes back only with a new identity, that is, an empty data directory.
    #[error("member {0} was removed; start with an empty data directory to join anew")]
    Removed(NodeId),
    /// The status can't change like that.
    #[error("member {id} is {} and can't become {}", from.name(), to.name())]
    Status {
        /// Who.
        id: NodeId,
        /// What it is.
        from: Status,
        /// What it should have become.
        to: Status,
    },
    /// An address or zone is too long, a zone has control characters, a weight or version out of range.
    #[error("the description of member {id} has a bad {what}")]
    Description {
        /// Whose.
        id: NodeId,
        /// Which part.
        what: &'static str,
    },
    /// The bucket can't be called that.
    #[error(transparent)]
    BucketName(#[from] NameError),
    /// The bucket's settings can't be kept.
    #[error(transparent)]
    Settings(#[from] Invalid),
    /// The layout can't be one.
    #[error("the layout can't be used: {0}")]
    Layout(#[from] LayoutError),
    /// The stamp of the settled layout is out of range, or more is staged than can be.
    #[error("what is {0} is out of range")]
    Register(&'static str),
    /// A bucket's version is out of range.
    #[error("version {0} of a bucket's settings is above {VERSION_MAX}")]
    BucketVersion(u64),
}

impl View {
    /// The view of a cluster that nobody has joined yet.
    pub fn new(cluster: ClusterId, partitions: u16) -> View {
        assert!(
            partitions_valid(partitions),
            "a ring has a power of two of slices up to 4,096, not {partitions}"
        );
        let settled = Settled { stamp: 0, layout: Layout::empty(partitions), previous: None };
        let (members, buckets) = (BTreeMap::new(), BTreeMap::new());
        View { cluster, partitions, members, settled, staged: Staged::default(), buckets, defaults: None }
    }

    /// Checks a view that came from outside. A joiner does so before it takes a whole view as its own.
    pub fn validate(&self) -> Result<(), ViewError> {
        if !partitions_valid(self.partitions) {
            return Err(ViewError::Partitions(self.partitions));
        }
        if self.members.len() > MEMBER_ROWS_MAX {
            return Err(ViewError::TooManyMembers);
        }
        if self.buckets.len() > BUCKET_ROWS_MAX {
            return Err(ViewError::TooManyBuckets);
        }
        self.members.iter().try_for_each(|(id, member)| member.validate(*id))?;
        self.settled.validate(self.partitions)?;
        self.staged.validate()?;
        self.buckets.iter().try_for_each(|(name, entry)| entry.validate(name))?;
        self.defaults.as_ref().map_or(Ok(()), |settings| Ok(settings.validate()?))
    }

    /// Takes in what another node knows. Says whether anything was new; on an error nothing was taken.
    pub fn merge(&mut self, other: &View) -> Result<bool, ViewError> {
        if other.cluster != self.cluster {
            return Err(ViewError::OtherCluster { ours: self.cluster, theirs: other.cluster });
        }
        if other.partitions != self.partitions {
            return Err(ViewError::Partitions(other.partitions));
        }
        other.validate()?;
        let new_members = other.members.keys().filter(|id| !self.members.contains_key(id)).count();
        if self.members.len() + new_members > MEMBER_ROWS_MAX {
            return Err(ViewError::TooManyMembers);
        }
        let new_buckets = other.buckets.keys().filter(|name| !self.buckets.contains_key(*name)).count();
        if self.buckets.len() + new_buckets > BUCKET_ROWS_MAX {
            return Err(ViewError::TooManyBuckets);
        }
        let members = merge_rows(&mut self.members, &other.members, Member::merge);
        let buckets = merge_rows(&mut self.buckets, &other.buckets, BucketEntry::merge);
        let settled = take_greater(&mut self.settled, &other.settled);
        let staged = take_greater(&mut self.staged, &other.staged);
        // They are made once, by the founder. That both sides end with the same ones holds whatever a peer sends.
        let defaults = take_greater(&mut self.defaults, &other.defaults);
        Ok(members || buckets || settled || staged || defaults)
    }

    /// The bytes of the view, for peers and for the disk.
    pub fn encode(&self) -> Bytes {
        let plain = "a view is plain data, and a vector takes any length";
        let mut bytes = postcard::to_stdvec(self).expect(plain);
        if self.defaults.is_some() {
            bytes.extend(postcard::to_stdvec(&self.defaults).expect(plain));
        }
        Bytes::from(bytes)
    }

    /// Reads a view and checks all of it.
    pub fn decode(bytes: &[u8]) -> Result<View, ViewError> {
        let (mut view, rest): (View, &[u8]) =
            postcard::take_from_bytes(bytes).map_err(|_| ViewError::Bytes)?;
        if !rest.is_empty() {
            view.defaults = postcard::from_bytes(rest).map_err(|_| ViewError::Bytes)?;
        }
        view.validate()?;
        Ok(view)
    }

    /// A hash of everything: two nodes of one digest have nothing to tell each other.
    pub fn digest(&self) -> u64 {
        xxh3_64(&self.encode())
    }

    /// A number that never falls as views merge, for [`TableName::counter`](crate::place::TableName).
    pub fn table_counter(&self) -> u64 {
        // 4,096 rows × 2 × 2^48 and one more = 2^61: the sum fits.
        let members = self.members.values().map(|member| member.seat.version + member.status_version);
        self.settled.stamp + members.sum::<u64>()
    }

    /// Those who should own the ring: what the settled layout is to become.
    pub fn claimants(&self) -> Vec<Claimant> {
        let claimant = |(id, member): (&NodeId, &Member)| Claimant {
            id: *id,
            zone: member.seat.zone.clone(),
            weight: member.seat.weight,
        };
        self.members.iter().filter(|(_, member)| member.status.claims()).map(claimant).collect()
    }

    /// Whether a member's part is not waited for: it was told to go and can't be reached.
    pub fn is_given_up(&self, id: NodeId, doubted: &BTreeSet<NodeId>) -> bool {
        let silent = doubted.contains(&id);
        self.members.get(&id).is_none_or(|member| match member.status {
            Status::Removed => true,
            Status::Lost | Status::WrittenOff => silent,
            Status::Joining | Status::Up | Status::Leaving => false,
        })
    }

    /// Whether an operator has said by force that what this member has is given up, and it has not come back.
    pub fn is_written_off(&self, id: NodeId, doubted: &BTreeSet<NodeId>) -> bool {
        self.members.get(&id).is_none_or(|member| match member.status {
            Status::Removed => true,
            Status::WrittenOff => doubted.contains(&id),
            Status::Joining | Status::Up | Status::Leaving | Status::Lost => false,
        })
    }

    /// Everybody but the removed.
    pub fn living(&self) -> impl Iterator<Item = (NodeId, &Member)> {
        let living = self.members.iter().filter(|(_, member)| member.status != Status::Removed);
        living.map(|(id, member)| (*id, member))
    }

    /// Lets a node say what it is: a newcomer becomes Joining, a member gets a higher incarnation if anything is new.
    ///
    /// Only the node itself calls this for its own id, at its start and whenever a merge shows a description of it
    /// that it did not give (one from before its disk lost the last words). Says whether anything changed.
    pub fn admit(&mut self, id: NodeId, description: Description) -> Result<bool, ViewError> {
        let member = match self.members.get(&id) {
            Some(member) if member.status == Status::Removed => return Err(ViewError::Removed(id)),
            Some(member) if member.description == description => return Ok(false),
            Some(member) => {
                let mut member = Member { incarnation: member.incarnation + 1, ..member.clone() };
                let Description { weight, zone, .. } = description.clone();
                let wished = (member.seat.weight, &member.seat.zone) != (weight, &zone);
                if member.status == Status::Joining && wished {
                    member.seat = Seat { version: member.seat.version + 1, weight, zone };
                }
                Member { description, ..member }
            }
            None if self.living().count() >= MEMBERS_MAX || self.members.len() >= MEMBER_ROWS_MAX => {
                return Err(ViewError::TooManyMembers);
            }
            None => Member::new(description),
        };
        member.validate(id)?;
        self.members.insert(id, member);
        Ok(true)
    }

    /// Moves a member to another status. Says whether that was a change.
    pub fn set_status(&mut self, id: NodeId, to: Status) -> Result<bool, ViewError> {
        let member = self.members.get(&id).ok_or(ViewError::NoMember(id))?;
        let from = member.status;
        if from == to {
            return Ok(false);
        }
        if !from.may_become(to) {
            return Err(ViewError::Status { id, from, to });
        }
        let moved = Member { status: to, status_version: member.status_version + 1, ..member.clone() };
        moved.validate(id)?;
        self.members.insert(id, moved);
        Ok(true)
    }

    /// Gives a member another weight or zone. Says whether that was a change.
    pub fn set_seat(&mut self, id: NodeId, weight: u32, zone: Zone) -> Result<bool, ViewError> {
        let member = self.members.get(&id).ok_or(ViewError::NoMember(id))?;
        if (member.seat.weight, &member.seat.zone) == (weight, &zone) {
            return Ok(false);
        }
        let seat = Seat { version: member.seat.version + 1, weight, zone };
        let moved = Member { seat, ..member.clone() };
        moved.validate(id)?;
        self.members.insert(id, moved);
        Ok(true)
    }

    /// Lets a node say by which regime it acts. Only the node itself calls this. Says whether that was news.
    pub fn act(&mut self, id: NodeId, regime: u64, done: bool) -> bool {
        let Some(member) = self.members.get_mut(&id) else { return false };
        let before = member.acting;
        if (before.regime, before.done) == (regime, done) {
            return false;
        }
        member.acting = Acting { version: before.version + 1, regime, done, ..before };
        true
    }

    /// Lets a node agree to the step of a regime. Only the node itself calls this. Says whether that was news.
    pub(super) fn agree(&mut self, id: NodeId, agreed: Agreed) -> bool {
        let Some(member) = self.members.get_mut(&id) else { return false };
        let news = member.acting.agreed != Some(agreed);
        if news {
            member.acting.version += 1;
            member.acting.agreed = Some(agreed);
        }
        news
    }

    /// Gives a bucket settings of its own, or with `None` the defaults again. Says whether that was a change.
    pub fn set_bucket(
        &mut self,
        name: Bytes,
        by: NodeId,
        settings: Option<BucketSettings>,
    ) -> Result<bool, ViewError> {
        let before = self.bucket(&name);
        if before == settings.as_ref() {
            check_bucket(&name)?;
            return Ok(false);
        }
        if let (Some(before), Some(after)) = (before, &settings) {
            before.check_successor(after)?;
        }
        let known = self.buckets.get(&name);
        let rows_full = known.is_none() && self.buckets.len() >= BUCKET_ROWS_MAX;
        if rows_full || (before.is_none() && self.buckets_configured().count() >= BUCKETS_MAX) {
            return Err(ViewError::TooManyBuckets);
        }
        let entry = BucketEntry { version: known.map_or(1, |entry| entry.version + 1), by, settings };
        entry.validate(&name)?;
        self.buckets.insert(name, entry);
        Ok(true)
    }

    /// A bucket's own settings, if it has any.
    pub fn bucket(&self, name: &[u8]) -> Option<&BucketSettings> {
        self.buckets.get(name)?.settings.as_ref()
    }

    /// Every bucket that has settings of its own.
    pub fn buckets_configured(&self) -> impl Iterator<Item = (&Bytes, &BucketSettings)> {
        self.buckets.iter().filter_map(|(name, entry)| Some((name, entry.settings.as_ref()?)))
    }
}

fn take_greater<T: Ord + Clone>(ours: &mut T, theirs: &T) -> bool {
    let newer = theirs > ours;
    if newer {
        ours.clone_from(theirs);
    }
    newer
}

/// Joins `theirs` into `ours` row by row. Says whether anything changed.
fn merge_rows<K: Ord + Clone, V: Clone>(
    ours: &mut BTreeMap<K, V>,
    theirs: &BTreeMap<K, V>,
    join: impl Fn(&mut V, &V) -> bool,
) -> bool {
    let mut changed = false;
    for (key, theirs) in theirs {
        changed |= match ours.get_mut(key) {
            Some(ours) => join(ours, theirs),
            None => ours.insert(key.clone(), theirs.clone()).is_none(),
        };
    }
    changed
}

impl Settled {
    fn validate(&self, partitions: u16) -> Result<(), ViewError> {
        for layout in std::iter::once(&self.layout).chain(&self.previous) {
            layout.validate()?;
            if layout.partitions() != partitions {
                return Err(ViewError::Partitions(layout.partitions()));
            }
        }
        if self.stamp > VERSION_MAX { Err(ViewError::Register("settled")) } else { Ok(()) }
    }
}

impl BucketEntry {
    fn merge(&mut self, other: &BucketEntry) -> bool {
        // The derived order compares the version first, then the writer, then the content.
        take_greater(self, other)
    }

    fn validate(&self, name: &[u8]) -> Result<(), ViewError> {
        check_bucket(name)?;
        if self.version > VERSION_MAX {
            return Err(ViewError::BucketVersion(self.version));
        }
        self.settings.as_ref().map_or(Ok(()), |settings| Ok(settings.validate()?))
    }
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
