//! What peers say to each other: a small head in postcard, and the bytes that it is about, untouched.
//!
//! ```text
//!   head length u32 LE | head (postcard) | body (a record, a value, a view; may be empty)
//! ```
//!
//! The body stays outside the head so that a value is neither copied nor looked at on its way through.

use super::bytes::DecodeError;
use super::record::Digest;
use crate::causal::Dot;
use crate::coord::{Outcome, WriteQuorum};
use crate::ids::{NodeId, ObjectId, Partition};
use crate::time::Wall;
use crate::tree::{Group, Slot};
use bytes::{BufMut, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A head and the bytes that it is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message<H> {
    /// What is asked or answered.
    pub head: H,
    /// The bytes that it is about.
    pub body: Bytes,
}

impl<H: Serialize + DeserializeOwned> Message<H> {
    /// A message without a body.
    pub fn of(head: H) -> Self {
        Message { head, body: Bytes::new() }
    }

    /// The bytes to send.
    pub fn encode(&self) -> Bytes {
        let head = postcard::to_stdvec(&self.head).expect("heads hold nothing that postcard can't say");
        let mut out = BytesMut::with_capacity(4 + head.len() + self.body.len());
        out.put_u32_le(u32::try_from(head.len()).expect("heads are small"));
        out.put_slice(&head);
        out.put_slice(&self.body);
        out.freeze()
    }

    /// Reads what a peer sent; the body shares its bytes.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Err(DecodeError::Short) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > rest.len() {
            return Err(DecodeError::Short);
        }
        let head = postcard::from_bytes(&rest[..length]).map_err(|_| DecodeError::Unknown("message"))?;
        Ok(Message { head, body: bytes.slice(4 + length..) })
    }
}

/// What one node asks of another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Ask {
    /// Merge the record in the body into your copy, and keep a hint if it is meant for somebody else.
    Store {
        /// The key.
        id: ObjectId,
        /// For whom you stand in.
        hint_for: Option<NodeId>,
        /// Answer only when it is synced.
        sync: bool,
    },
    /// What do you hold of a key?
    Read {
        /// The key.
        id: ObjectId,
        /// The record itself, or its digest only.
        record: bool,
    },
    /// Coordinate this write: you are an owner and I am not.
    Write(WriteAsk),
    /// Everything about your copy of a key, for a person.
    Explain {
        /// The key.
        id: ObjectId,
    },
    /// My view of the cluster has this digest; the body holds the view if you are meant to merge it.
    Gossip {
        /// The digest.
        digest: u64,
    },
    /// A failure detector's message, in the body. No answer.
    Swim,
    /// Let me in: I am new here, and this is how I can be reached. The body holds my member entry.
    Join,
    /// Records of a partition that come after a key, as many as fit.
    Pull {
        /// The partition.
        partition: Partition,
        /// Where to go on.
        after: Option<ObjectId>,
    },
    /// Keys of a bucket in a range, in order, from these partitions of yours.
    Keys {
        /// The bucket.
        bucket: Bytes,
        /// The first key, included.
        start: Bytes,
        /// The end, not included; empty for none.
        end: Bytes,
        /// Which partitions to look into.
        partitions: Vec<Partition>,
        /// How many keys at most.
        limit: u32,
    },
    /// Something about your Merkle trees.
    Tree {
        /// The digest of the table by which I compare.
        table: u64,
        /// Which n I take each bucket to have.
        ns: u64,
        /// What I want to know.
        what: TreeAsk,
    },
    /// How many keys do you hold of each partition, and how long are their records on average?
    Sizes,
    /// How far have you come with what you take over, and with handing on?
    Transfers,
    /// Merge the records in the body, which were kept for you or are yours now.
    StoreMany,
    /// Records that I hold and don't own. Which of them do you lack? In the body, key and digest each.
    Lacks,
    /// Make all owners of a partition equal, as far as these keys go.
    Repair {
        /// The partition, of which you are an owner.
        partition: Partition,
        /// Only this bucket.
        bucket: Option<Bytes>,
        /// Only this key of it.
        key: Option<Bytes>,
    },
    /// May these dead records be forgotten, as far as you are concerned? In the body, key and digest each.
    Reapable,
    /// Forget these dead records, each if it still is just this one. In the body, key and digest each.
    Reap,
    /// What do your clocks say?
    Clock,
    /// The same as [`Ask::Tree`], from one whose disk may be behind: it wants to find out, and sends nothing. Yours may be
    /// behind as well.
    SiftTree {
        /// The digest of the table by which I compare.
        table: u64,
        /// Which n I take each bucket to have.
        ns: u64,
        /// What I want to know.
        what: TreeAsk,
    },
    /// The same as [`Ask::Read`] of a record, likewise.
    SiftRead {
        /// The key.
        id: ObjectId,
    },
    /// What do you, an owner, hold of a key of which my disk has spoiled the copy? Say so even if yours lacks something too.
    Mend {
        /// The key.
        id: ObjectId,
    },
    /// The same as [`Ask::Write`], under a name: however often it comes, it is carried out once.
    Forward(Forward),
}

/// A question about Merkle trees.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum TreeAsk {
    /// The roots of these.
    Roots(Vec<Group>),
    /// The branches of this one.
    Branches(Group),
    /// The slots of these branches of this one.
    Slots(Group, Vec<u8>),
    /// The keys in these slots, in order, and the digests of their records.
    Leaves {
        /// The tree.
        group: Group,
        /// The slots, in order.
        slots: Vec<Slot>,
        /// Go on after this key of the first slot.
        after: Option<ObjectId>,
    },
}

/// What a node answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The record is merged.
    Stored {
        /// And synced.
        durable: bool,
    },
    /// No copy here.
    Absent,
    /// A copy with this digest; the body holds it if it was asked for.
    Held(Digest),
    /// The write was decided; the body holds the merged record if it was asked for.
    Written(WriteAnswer),
    /// What this replica knows of a key.
    Explained(Explanation),
    /// My view, in the body.
    View,
    /// You and I know the same.
    Same,
    /// Welcome: the body holds the cluster's key and view.
    Welcome,
    /// Some rows, in the body; whether there are more.
    Rows {
        /// Go on after the last one.
        more: bool,
    },
    /// Keys in order: key, whether something visible is under it.
    Keys(Vec<(Bytes, bool)>),
    /// No.
    Refused(Refusal),
    /// Hashes of a tree, 16 bytes big-endian each, in the body.
    Hashes,
    /// Leaves of slots.
    Leaves {
        /// Key and digest, in the order of the slots and of the keys in them.
        leaves: Vec<(ObjectId, Digest)>,
        /// Where there is more, if anywhere: in which of the slots asked for, after which of its keys.
        next: Option<(u16, Option<ObjectId>)>,
    },
    /// For each partition: keys, and bytes of an average record.
    Sizes(Vec<(u64, u64)>),
    /// How far this node has come.
    Transfers(Transfers),
    /// The records are merged and synced, but for those at these places of the list.
    StoredMany {
        /// The places.
        failed: Vec<u16>,
        /// How many bytes may come next.
        credit: u32,
        /// After how many milliseconds.
        pause_ms: u32,
    },
    /// Which of the records that were named are not held here as they are there, by their place in the list.
    Lacking(Vec<u16>),
    /// The owners of the partition were compared.
    Repaired {
        /// How many keys differed, counted for each pair.
        differences: u64,
        /// How many were brought together.
        repairs: u64,
        /// Whether all owners took part and are equal now.
        whole: bool,
    },
    /// What stands in the way of forgetting, by the places in the list that was asked about.
    Reapable {
        /// An owner: not durably held as it is there. Another: held at all.
        unlike: Vec<u16>,
        /// A hint of the key waits here.
        hinted: Vec<u16>,
        /// For how long the oldest work has gone on here that may hold a record in memory.
        work_ms: u64,
        /// Changes whenever a copy of the partition that was not owned here was let go, and with every start.
        mark: u64,
    },
    /// What this node's clocks say.
    Clock(crate::clock::Said),
}

/// Why a node says no. Each says what it did to the data.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The copy here can't be trusted (damaged, or still being filled). Nothing was done.
    #[error("this replica can't answer for the key: {0}")]
    Unavailable(String),
    /// Nothing was done.
    #[error("the disk is full")]
    DiskFull,
    /// Too much is waiting already. Nothing was done.
    #[error("overloaded")]
    Overloaded,
    /// The node is stopping. Nothing was done.
    #[error("the node is stopping")]
    Draining,
    /// The key would have more siblings than its bucket allows. Nothing was done.
    #[error("the key has {have} siblings, its bucket allows {max}")]
    SiblingLimit {
        /// How many it has.
        have: usize,
        /// How many it may have.
        max: usize,
    },
    /// The key holds something of another type. Nothing was done.
    #[error("the key holds a {holds}")]
    WrongType {
        /// What it holds.
        holds: String,
    },
    /// The bucket takes writes only with a context. Nothing was done.
    #[error("this bucket takes writes only with a Cartwheel-Context")]
    ContextRequired,
    /// The cart holds as many operations as it may. Nothing was done.
    #[error("the cart is full")]
    CartFull,
    /// The message could not be understood. Nothing was done.
    #[error("the message could not be understood: {0}")]
    Malformed(String),
    /// The disk failed while it was written: it may or may not be there.
    #[error("the disk failed: {0}")]
    Disk(String),
    /// The key's siblings would weigh more than they may. Nothing was done.
    #[error(
        "the versions of the key have {have} bytes together, {max} are allowed: read it, and write with its context"
    )]
    TooHeavy {
        /// How many bytes they have.
        have: usize,
        /// How many they may have.
        max: usize,
    },
    /// You act by older tables than I do: hear of the newer ones, and ask again. A record that came with it may be stored,
    /// and does not count.
    #[error("the cluster's tables have changed")]
    StaleTables,
    /// No room for a hint. Nothing was done.
    #[error("this node keeps as many hints as it may")]
    HintsFull,
    /// Whoever asks to join can't become a member. Nothing was done.
    #[error("not let in: {0}")]
    NotAdmitted(String),
}

/// A write, as the coordinator is asked for it. Object values are in the message's body.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WriteAsk {
    /// The key.
    pub id: ObjectId,
    /// What to write.
    pub action: Action,
    /// What the writer had seen, encoded; `None` if it said nothing.
    pub seen: Option<Bytes>,
    /// Overrides of the bucket's settings.
    pub quorum: QuorumAsk,
    /// Milliseconds from now.
    pub timeout_ms: u32,
    /// Whether the merged record is wanted in the answer.
    pub return_record: bool,
}

/// A write that is handed over under a name: the sender's id, its life and the number. An earlier version answers
/// [`Refusal::Malformed`] and does nothing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Forward {
    /// The boot id of the sender.
    pub life: u64,
    /// Which one it is of those that the sender has handed over since.
    pub number: u64,
    /// The boot id of the receiver, as far as the sender knows.
    pub boot: u64,
    /// The sender has asked already, and its connection broke before the answer. Whoever has another boot id by now can't know what
    /// became of that, and refuses.
    pub again: bool,
    /// What is to be written. The answer never has the record.
    pub write: WriteAsk,
}

/// Levels that a request names; `None` is the bucket's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct QuorumAsk {
    /// Replicas.
    pub w: Option<crate::bucket::Level>,
    /// Owners.
    pub pw: Option<crate::bucket::Level>,
    /// Durable ones.
    pub dw: Option<crate::bucket::Level>,
    /// Whether fallbacks count.
    pub sloppy: Option<bool>,
}

/// What to write.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Action {
    /// The body, as an object.
    Put {
        /// Its type.
        content_type: String,
        /// The user's headers.
        meta: Vec<(String, Bytes)>,
        /// How long it lives.
        ttl_ms: Option<u64>,
    },
    /// A deletion.
    Delete,
    /// So many more of an item of a cart.
    CartAdd {
        /// The item.
        sku: Bytes,
        /// How many.
        quantity: i64,
        /// The operation's name, hashed.
        op: Option<u128>,
        /// A JSON object.
        attributes: Option<Bytes>,
    },
    /// Several at once.
    CartAddMany(Vec<(Bytes, i64, u128)>),
    /// Just this many.
    CartSet {
        /// The item.
        sku: Bytes,
        /// How many.
        quantity: i64,
        /// A JSON object.
        attributes: Option<Bytes>,
    },
    /// What was seen of an item, or of all, goes.
    CartRemove(crate::cart::Target),
}

/// How far a node has come with a change of the tables.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Transfers {
    /// The regime that it is about.
    pub regime: u64,
    /// Whether everything is here.
    pub done: bool,
    /// Whether it has begun.
    pub moving: bool,
    /// Partitions to take over.
    pub partitions: u64,
    /// Of them here.
    pub complete: Vec<Partition>,
    /// Bytes of records that have come in.
    pub bytes: u64,
    /// Milliseconds since it began.
    pub elapsed_ms: u64,
    /// What is in the way.
    pub reason: Option<String>,
    /// Partitions of which it holds records that it does not own.
    pub surplus: u64,
}

/// How a write ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WriteAnswer {
    /// Whether the quorum was reached, and what is left behind if not.
    pub outcome: Outcome,
    /// Whether the time was up.
    pub timed_out: bool,
    /// What was required.
    pub quorum: WriteQuorum,
    /// Replicas that had answered by then.
    pub acked: usize,
    /// Of them owners.
    pub owners: usize,
    /// Of them durable.
    pub durable: usize,
    /// Of them fallbacks.
    pub fallbacks: usize,
    /// Hints ordered by then.
    pub hints: usize,
    /// What the writer knows now, encoded.
    pub context: Bytes,
    /// The new versions' dots.
    pub dots: Vec<Dot>,
    /// Values that stand side by side at the coordinator now.
    pub siblings: usize,
}

/// What one replica knows of a key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// Whether there is a copy.
    pub present: bool,
    /// Its digest.
    pub digest: Option<Digest>,
    /// Its clock, encoded.
    pub context: Bytes,
    /// Its versions: dot, deleted, size, written when.
    pub versions: Vec<(Dot, bool, u64, Wall)>,
    /// For whom this node keeps a hint of the key.
    pub hints: Vec<NodeId>,
    /// The root of the Merkle tree that the key belongs to; `None` while it is being built.
    pub root: Option<u128>,
    /// Whether this node is fetching the key's partition, and has all of it: none, not yet, or done.
    pub fetched: Option<bool>,
    /// Whether this node's disk may be behind what the others know, so that its copy counts for nothing.
    pub behind: bool,
    /// Whether an old copy of the key was set aside here, because no other owner knew all of it.
    pub set_aside: bool,
}
