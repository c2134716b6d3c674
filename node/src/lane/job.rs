//! What the lane can be asked to do.

use crate::store::Batch;
use bytes::Bytes;
use ring::causal::{Context, Dot};
use ring::ids::{NodeId, ObjectId, Partition};
use ring::record::Record;
use ring::record::write::Write;
use ring::time::Wall;
use ring::tree::{Group, Slot};
use ring::wire::peer::Refusal;
use ring::wire::record::Digest;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Where a job's answer goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// What is asked when a job's turn has come.
pub struct Still(Box<dyn FnOnce() -> bool + Send>);

impl Still {
    /// The job is done only if this holds then.
    pub fn if_so(holds: impl FnOnce() -> bool + Send + 'static) -> Still {
        Still(Box::new(holds))
    }

    pub(super) fn holds(self) -> bool {
        (self.0)()
    }
}

impl std::fmt::Debug for Still {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Still")
    }
}

/// One job.
#[derive(Debug)]
pub enum Job {
    /// Take a client's write as its coordinator.
    Coordinate {
        /// The key.
        id: ObjectId,
        /// The write.
        write: Box<Write>,
        /// The coordinator's calendar.
        now: Wall,
        /// The owner for whom this node stands in.
        hint_for: Option<NodeId>,
        /// Answer only when it is synced.
        sync: bool,
        /// The answer.
        reply: Reply<Taken>,
    },
    /// Merge a record that came from elsewhere; answers whether it is durable.
    Merge {
        /// The key.
        id: ObjectId,
        /// The record, encoded.
        record: Bytes,
        /// The owner for whom this node stands in.
        hint_for: Option<NodeId>,
        /// Answer only when it is synced.
        sync: bool,
        /// When, for the age of the hint.
        now: Wall,
        /// The answer.
        reply: Reply<bool>,
    },
    /// Keep a hint of a key for an owner; the record is the own copy.
    KeepHint {
        /// The key.
        id: ObjectId,
        /// For whom.
        owner: NodeId,
        /// When, for its age.
        now: Wall,
        /// The answer.
        reply: Reply<bool>,
    },
    /// The hint was delivered and durably acknowledged.
    DropHint {
        /// The key.
        id: ObjectId,
        /// For whom it was.
        owner: NodeId,
        /// What was delivered; a copy that has changed since keeps its hint.
        delivered: Option<Digest>,
        /// Whose other hints need this node's copy; empty if the node owns the key itself and keeps it anyway.
        drop_copy_unless: Option<Vec<NodeId>>,
        /// The tables by which all this was decided; by others the hint is looked at again.
        regime: u64,
        /// The answer: whether the hint is gone.
        reply: Reply<bool>,
    },
    /// Let a copy go that can't be read, since no other owner has one.
    GiveUpDamaged {
        /// The key.
        id: ObjectId,
        /// The answer: whether it could not be read.
        reply: Reply<bool>,
    },
    /// A key has no gap any more.
    CloseGap {
        /// The key.
        id: ObjectId,
        /// The answer: whether it had one.
        reply: Reply<bool>,
    },
    /// See to it that a key's leaf is that of its record.
    CheckLeaf {
        /// The key.
        id: ObjectId,
        /// The answer: whether it was not.
        reply: Reply<bool>,
    },
    /// Drop the values of a key whose time is over, and the note that one of them is due.
    Expire {
        /// The key.
        id: ObjectId,
        /// When it was due.
        due: Wall,
        /// The cluster's clock.
        now: Wall,
        /// The answer: whether it held such a value.
        reply: Reply<bool>,
    },
    /// Every owner holds this version of a key that this node does not own: let the copy go, unless it has changed.
    DropCopy {
        /// The key.
        id: ObjectId,
        /// The version.
        held: Digest,
        /// The tables whose owners hold it; by others this node may own it.
        regime: u64,
        /// The answer: whether it is gone.
        reply: Reply<bool>,
    },
    /// Give a hint up that no acknowledgement relies on, and have its partition compared instead.
    GiveUpHint {
        /// The key.
        id: ObjectId,
        /// For whom it was.
        owner: NodeId,
        /// Since when it was kept; another one, which came when that one had gone, stays.
        since: Wall,
        /// The answer: whether it was such a one.
        reply: Reply<bool>,
    },
    /// Every node agrees that a dead record may be forgotten: let it go, unless it has changed.
    Reap {
        /// The key.
        id: ObjectId,
        /// The version.
        held: Digest,
        /// The answer: whether it is gone.
        reply: Reply<bool>,
    },
    /// Others remember a start that is not this directory's: go on under a lease beyond it, and never again under an
    /// actor of before.
    Jump {
        /// The start's number.
        remembered: u64,
        /// The answer: the lease.
        reply: Reply<u64>,
    },
    /// Use no actor of an earlier start again.
    Forsake {
        /// The answer.
        reply: Reply<bool>,
    },
    /// Note that the others were asked under the latest lease. Answers whether it was still to be.
    Asked {
        /// Whether nothing has been heard meanwhile that is to be answered for first.
        still: Still,
        /// The answer.
        reply: Reply<bool>,
    },
    /// Take another lease, so that the others may remember that this disk has come as far. Answers its number, if it was still to be.
    Raise {
        /// As for [`Job::Asked`].
        still: Still,
        /// The answer.
        reply: Reply<Option<u64>>,
    },
    /// A copy that may be old was compared with the other owners'; answers whether it still was what was compared.
    Sift(Sift, Reply<bool>),
    /// All copies were compared: take the mark off the disk, unless another was made since. Answers whether it is gone.
    Sifted {
        /// The mark.
        mark: u64,
        /// The answer.
        reply: Reply<bool>,
    },
    /// Read one more page of leaves into the trees of a partition.
    GrowTree {
        /// The partition.
        partition: Partition,
        /// The answer: whether they stand.
        reply: Reply<bool>,
    },
    /// See to it that slots of a tree are what their leaves make of them.
    CheckTree {
        /// The tree.
        group: Group,
        /// The slots.
        slots: Vec<Slot>,
        /// The answer: whether they were not, and the partition's trees are built again.
        reply: Reply<bool>,
    },
    /// Write rows that are not records.
    Raw {
        /// The rows.
        batch: Batch,
        /// Answer only when it is synced.
        sync: bool,
        /// The answer.
        reply: Reply<bool>,
    },
}

impl Job {
    /// Answers that nothing was done.
    pub(super) fn refuse(self, refusal: Refusal) {
        match self {
            Job::Coordinate { reply, .. } => drop(reply.send(Err(refusal))),
            Job::Raise { reply, .. } => drop(reply.send(Err(refusal))),
            Job::Jump { reply, .. } => drop(reply.send(Err(refusal))),
            Job::Merge { reply, .. }
            | Job::KeepHint { reply, .. }
            | Job::DropHint { reply, .. }
            | Job::GiveUpHint { reply, .. }
            | Job::DropCopy { reply, .. }
            | Job::Reap { reply, .. }
            | Job::Expire { reply, .. }
            | Job::GiveUpDamaged { reply, .. }
            | Job::CloseGap { reply, .. }
            | Job::CheckLeaf { reply, .. }
            | Job::Forsake { reply }
            | Job::Asked { reply, .. }
            | Job::Sift(_, reply)
            | Job::Sifted { reply, .. }
            | Job::GrowTree { reply, .. }
            | Job::CheckTree { reply, .. }
            | Job::Raw { reply, .. } => drop(reply.send(Err(refusal))),
        }
    }
}

/// What is to become of a copy that may be old.
#[derive(Debug)]
pub struct Sift {
    /// The key.
    pub id: ObjectId,
    /// What was compared; a copy that has changed since stays.
    pub held: Option<Digest>,
    /// What takes its place, encoded.
    pub record: Option<Bytes>,
    /// Whether the old one is set aside.
    pub aside: bool,
    /// For whom hints of it are dropped with it.
    pub hints: Vec<NodeId>,
}

/// A coordinated write, stored here.
#[derive(Clone, Debug)]
pub struct Taken {
    /// What the other replicas need.
    pub replicate: Arc<Record>,
    /// The own copy as it was just after this write.
    pub record: Arc<Record>,
    /// What the writer knows now.
    pub context: Context,
    /// The new versions' dots.
    pub dots: Vec<Dot>,
    /// Whether it is synced.
    pub durable: bool,
}
