//! What the node needs of a disk: ordered bytes in a few families, and batches that are all or nothing.
//!
//! A [`Store`] is synchronous and knows nothing of records. The lane (`lane.rs`) is the only writer; readers come from
//! anywhere. Two implementations pass one suite (`conformance.rs`): `rocks.rs` for real disks and `mem.rs`, its twin in
//! memory, which forgets at a crash whatever was not synced.

use bytes::Bytes;
use std::time::Duration;

#[cfg(test)]
mod conformance;
pub mod keys;
pub mod mem;
#[cfg(feature = "rocks")]
pub mod rocks;

/// A key space of its own, so that scans of one never meet another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    /// Records by partition, bucket and key.
    Records,
    /// Leaves of the Merkle trees, written in the same batch as the record they hash.
    Leaves,
    /// Hints: records kept for a replica that could not be reached.
    Hints,
    /// Which values expire when, written in the same batch as the record that holds them.
    Due,
    /// Identity, membership, epochs, bucket settings.
    Meta,
    /// Which records are dead, so that they are found without a look at the others. Written with them.
    Dead,
}

/// Every family, in the order of their discriminants.
pub const FAMILIES: [Family; 6] =
    [Family::Records, Family::Leaves, Family::Hints, Family::Due, Family::Meta, Family::Dead];

/// One change of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Sets a key.
    Put(Family, Vec<u8>, Bytes),
    /// Removes a key; removing what is not there is no error.
    Delete(Family, Vec<u8>),
}

impl Change {
    /// Where it belongs.
    pub fn family(&self) -> Family {
        match self {
            Change::Put(family, ..) | Change::Delete(family, _) => *family,
        }
    }
}

/// Changes that become visible and durable together or not at all, in the order they were added.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Batch {
    /// The changes, in order.
    pub changes: Vec<Change>,
}

impl Batch {
    /// Adds a put.
    pub fn put(&mut self, family: Family, key: impl Into<Vec<u8>>, value: impl Into<Bytes>) {
        self.changes.push(Change::Put(family, key.into(), value.into()));
    }

    /// Adds a delete.
    pub fn delete(&mut self, family: Family, key: impl Into<Vec<u8>>) {
        self.changes.push(Change::Delete(family, key.into()));
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// One row of a scan: key and value.
pub type Row = (Bytes, Bytes);

/// The disk said no. Which of these it is decides what the node does next.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Bytes on disk failed their checksum. The rest of the store may be fine.
    #[error("corrupt data on disk: {0}")]
    Corrupt(String),
    /// No space left. Nothing of the batch was written; reads still work.
    #[error("no space left on the device: {0}")]
    Full(String),
    /// A write or sync failed. What is on disk is unknown until the store is opened again; it takes no more writes.
    /// From a read: the bytes could not be had; that fences nothing.
    #[error("disk failure: {0}")]
    Io(String),
}

/// Why a data directory can't be used. It was left untouched.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("the data directory {0} is in use by another process")]
    InUse(String),
    /// It was written by a newer version.
    #[error("the data directory {dir} has format {found}, this binary knows formats up to {known}")]
    Newer {
        /// The directory.
        dir: String,
        /// The format found in it.
        found: u32,
        /// The newest format that this binary knows.
        known: u32,
    },
    /// It is not one of ours, or can't be read or made.
    #[error("the data directory {dir} can't be opened: {why}")]
    Unusable {
        /// The directory.
        dir: String,
        /// What is wrong with it.
        why: String,
    },
}

/// What is left of a disk, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// What this process may still use.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

/// Ordered bytes on a disk. Clones share one store; dropping the last clone closes it.
pub trait Store: Clone + Send + Sync + 'static {
    /// The value of a key.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Applies a batch, all or nothing. With `sync` it returns only after the batch, and all before it, are durable.
    /// An [`StoreError::Io`] fences the store: every later write fails with it too.
    fn write(&self, batch: Batch, sync: bool) -> Result<(), StoreError>;

    /// Rows with `start <= key < end` (no `end`: to the end of the family) in key order; no more than `rows_max` rows
    /// and `bytes_max` bytes of keys and values, but always the first row, so that a scan can go on under any limits.
    /// The next page starts at [`keys::after`] the last key; an empty page is the end.
    fn scan(
        &self,
        family: Family,
        start: &[u8],
        end: Option<&[u8]>,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Row>, StoreError>;

    /// About how many keys a family holds; for people, not for decisions.
    fn estimate_keys(&self, family: Family) -> u64;

    /// Bytes that the store takes on disk; for people, not for decisions.
    fn disk_bytes(&self) -> u64;

    /// What is left of the disk; `None` if the disk has no end.
    fn room(&self) -> Option<Room> {
        None
    }

    /// Whether the open found that acknowledged writes are missing: the disk has gone back in time.
    fn has_lost_writes(&self) -> bool;

    /// Families that the disk had spoiled, and that are empty now: what follows from the records is to be written anew before
    /// anything relies on it.
    fn lacks(&self) -> Vec<Family> {
        Vec::new()
    }

    /// Whether it takes no more writes, for what was found to be spoiled: the process is to end.
    fn is_fenced(&self) -> bool {
        false
    }

    /// That is done, and durable.
    fn lacks_nothing(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Makes everything durable that was written, before a clean stop.
    fn flush(&self) -> Result<(), StoreError>;

    /// How long the last write would have kept its caller, on a disk whose writes take no time: the lane of a simulation
    /// waits for so long before it goes on. A real disk has kept it already.
    fn lag(&self) -> Duration {
        Duration::ZERO
    }
}
