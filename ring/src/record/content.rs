//! What one write can say.
//!
//! Objects and carts share one record and one merge: a cart's operations are siblings of their own, each with its dot, so
//! that "removed after it was seen" is the same rule as "overwritten after it was read".

use crate::causal::Context;
use crate::time::Wall;
use bytes::Bytes;

/// A user's header, kept as it was sent.
pub type Meta = Vec<(String, Bytes)>;

/// Opaque bytes with what HTTP says about them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Object {
    /// The value.
    pub body: Bytes,
    /// Its `Content-Type`.
    pub content_type: String,
    /// `Cartwheel-Meta-*`, names in lower case.
    pub meta: Meta,
    /// When the coordinator took it; shown, never compared.
    pub modified: Wall,
    /// When it stops being visible. Part of the version, so it is the same instant on every replica.
    pub expires_at: Option<Wall>,
}

/// The name that a client gave an operation, hashed to 128 bits; retries carry the same one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Op(pub u128);

impl Op {
    /// Hashes a client's `op_id`.
    pub fn of(text: &[u8]) -> Op {
        Op(xxhash_rust::xxh3::xxh3_128(text))
    }
}

/// One sibling's content.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Content {
    /// An object's value.
    Object(Object),
    /// A deletion that concurrent writes may stand beside.
    Tombstone {
        /// When the coordinator took it.
        deleted: Wall,
    },
    /// What an object leaves once its time is over and its value was dropped. It stands for the object wherever records are
    /// compared, and takes its place wherever they are merged.
    Expired {
        /// When that was.
        at: Wall,
        /// What the object was, hashed.
        was: u128,
    },
    /// A cart: so many more (or fewer) of an item.
    CartAdd {
        /// The item.
        sku: Bytes,
        /// How many; negative takes away.
        quantity: i64,
        /// The client's name for the operation.
        op: Option<Op>,
    },
    /// A cart: what the shop says about an item, as a JSON object.
    CartAttributes {
        /// The item.
        sku: Bytes,
        /// The JSON text.
        json: Bytes,
    },
    /// A cart: a removal of what its caller had seen and this copy had not, so that it holds when it arrives.
    CartRemoved {
        /// The item, or all of them.
        sku: Option<Bytes>,
        /// What the caller had seen.
        seen: Context,
    },
    /// A cart: operations whose adds were removed, so that a late retry does not bring them back.
    CartSpent {
        /// The operations, sorted, with the time of their removal.
        ops: Vec<(Op, Wall)>,
    },
}

/// About how many bytes a sibling takes beside what it is made of.
const SIBLING_BYTES: usize = 64;

impl Content {
    /// About how many bytes it takes in a record.
    pub fn bytes(&self) -> usize {
        let text = match self {
            Content::Object(object) => {
                let meta: usize = object.meta.iter().map(|(name, value)| name.len() + value.len()).sum();
                object.body.len() + object.content_type.len() + meta
            }
            Content::Tombstone { .. } | Content::Expired { .. } => 0,
            Content::CartAdd { sku, .. } => sku.len(),
            Content::CartAttributes { sku, json } => sku.len() + json.len(),
            Content::CartRemoved { sku, seen } => sku.as_ref().map_or(0, Bytes::len) + 48 * seen.runs().len(),
            Content::CartSpent { ops } => 24 * ops.len(),
        };
        text + SIBLING_BYTES
    }

    /// Whether it only remembers that something is gone, and may be forgotten once nobody can bring that back. What a cart
    /// remembers is not among it: its removals wait for what has not come yet, and its spent names for late retries.
    pub fn is_dead(&self) -> bool {
        matches!(self, Content::Tombstone { .. } | Content::Expired { .. })
    }

    /// Whether it belongs to a cart.
    pub fn is_cart(&self) -> bool {
        !matches!(self, Content::Object(_) | Content::Tombstone { .. } | Content::Expired { .. })
    }

    /// When a value that is still here stops being visible.
    pub fn expires_at(&self) -> Option<Wall> {
        match self {
            Content::Object(object) => object.expires_at,
            _ => None,
        }
    }
}
