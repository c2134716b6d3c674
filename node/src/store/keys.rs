//! Every key that is ever written to a disk, encoded in this one file.
//!
//! ```text
//!   Records           partition u16 BE ‖ bucket length u8 ‖ bucket ‖ key
//!   Leaves            partition u16 BE ‖ slot u16 BE ‖ bucket length u8 ‖ bucket ‖ key
//!   Dead              as a record's
//!   Hints             target NodeId 16 bytes BE ‖ as a record's
//!   Due               when, in milliseconds since 1970, u64 BE ‖ as a record's
//!   Meta              plain names: "identity", "view", …, "aside/" ‖ as a record's
//! ```
//!
//! Everything of fixed width comes first, big end first, so that bytewise order is the order of the numbers and a
//! partition, a bucket in it, or the hints for one node are each one contiguous range. Within a bucket the key stands
//! last and bare: its order on disk is the order that a listing promises, and a key prefix is a range too. The bucket
//! carries its length instead of a terminator because any octet may stand in a name; buckets are therefore ordered by
//! length first, which nobody is promised anything about.
//!
//! These bytes are a promise to every data directory out there: `docs/formats.md` has the table, the tests have the
//! bytes written out, and a change needs a new format number in `rocks.rs`.

use bytes::Bytes;
use ring::ids::{BUCKET_BYTES_MAX, NameError, NodeId, ObjectId, Partition};
use ring::time::Wall;
use ring::tree::{SLOTS, Slot};

/// The identity of this data directory: node, cluster, partitions.
pub const IDENTITY: &[u8] = b"identity";
/// The last view of the membership that was seen.
pub const VIEW: &[u8] = b"view";
/// The number of the last lease of epochs that was taken, eight bytes big-endian; at least one for each start.
pub const EPOCH_LEASE: &[u8] = b"epoch_lease";
/// Own epochs below this number, eight bytes big-endian, are never used again.
pub const EPOCH_BOOT: &[u8] = b"epoch_boot";
/// The number of the last start that has asked the others what they remember of it, and was answered; eight bytes big-endian.
pub const ASKED: &[u8] = b"asked";
/// The boot ids of the last starts of this directory, the latest at the end (`node/lives.rs`).
pub const LIVES: &[u8] = b"lives";
/// Whatever others remember of this node under a lower number, eight bytes big-endian, has been answered for.
pub const ANSWERED: &[u8] = b"answered";
/// Present while this disk may be behind what the other nodes know: since which start, eight bytes big-endian.
pub const BEHIND: &[u8] = b"behind";
/// What old copies that were set aside are kept under, followed by their record keys.
const ASIDE: &[u8] = b"aside/";
const GAP: &[u8] = b"gap/";
/// Present while writes may be on their way to the disk that nobody synced.
pub const UNSYNCED: &[u8] = b"unsynced";
/// What this start's clock of the cluster leaves to the next, sixteen bytes.
pub const CLOCK: &[u8] = b"clock";

/// Where a scan starts, and where it ends: before this key, or at the end of the family.
pub type Range = (Vec<u8>, Option<Vec<u8>>);

/// A key on disk or in a cursor that this file can't have written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It ends before its fixed part or its bucket does.
    #[error("a stored key of {0} bytes ends too early")]
    Short(usize),
    /// Its bucket or key has an impossible length.
    #[error("a stored key holds an impossible name: {0}")]
    Name(#[from] NameError),
    /// It stands outside the range that its kind lives in.
    #[error("a stored key has the wrong prefix")]
    Prefix,
}

/// Where a record is kept.
pub fn record_key(partition: Partition, id: &ObjectId) -> Vec<u8> {
    let mut out = Vec::with_capacity(3 + id.bucket().len() + id.key().len());
    push_object(&mut out, partition, id);
    out
}

/// Where the tree leaf of a record is kept: beside the others of its slot, so that a slot is one range.
pub fn leaf_key(partition: Partition, slot: Slot, id: &ObjectId) -> Vec<u8> {
    let mut out = Vec::with_capacity(5 + id.bucket().len() + id.key().len());
    out.extend_from_slice(&partition.0.to_be_bytes());
    out.extend_from_slice(&slot.0.to_be_bytes());
    push_name(&mut out, id.bucket());
    out.extend_from_slice(id.key());
    out
}

/// Where a hint is kept: a record that waits for its target.
pub fn hint_key(target: NodeId, partition: Partition, id: &ObjectId) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + 3 + id.bucket().len() + id.key().len());
    out.extend_from_slice(&target.0.to_be_bytes());
    push_object(&mut out, partition, id);
    out
}

/// Where it is kept that a record holds a value that expires then.
pub fn due_key(at: Wall, partition: Partition, id: &ObjectId) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + 3 + id.bucket().len() + id.key().len());
    out.extend_from_slice(&at.0.to_be_bytes());
    push_object(&mut out, partition, id);
    out
}

/// Where an old copy is kept that was set aside.
pub fn aside_key(partition: Partition, id: &ObjectId) -> Vec<u8> {
    let mut out = ASIDE.to_vec();
    push_object(&mut out, partition, id);
    out
}

/// Where it is kept that a key's copy was spoiled, and that what took its place may lack something.
pub fn gap_key(partition: Partition, id: &ObjectId) -> Vec<u8> {
    let mut out = GAP.to_vec();
    push_object(&mut out, partition, id);
    out
}

/// All keys with such a gap.
pub fn gaps() -> Range {
    all_under(GAP.to_vec())
}

/// Reads back [`gap_key`].
pub fn decode_gap_key(key: &Bytes) -> Result<(Partition, ObjectId), KeyError> {
    if !key.starts_with(GAP) {
        return Err(KeyError::Prefix);
    }
    decode_record_key(&key.slice(GAP.len()..))
}

/// All copies that were set aside.
pub fn asides() -> Range {
    all_under(ASIDE.to_vec())
}

/// All leaves of a partition.
pub fn leaves_of_partition(partition: Partition) -> Range {
    records_of_partition(partition)
}

/// All leaves of a slot.
pub fn leaves_of_slot(partition: Partition, slot: Slot) -> Range {
    all_under([partition.0.to_be_bytes(), slot.0.to_be_bytes()].concat())
}

/// All records of a partition.
pub fn records_of_partition(partition: Partition) -> Range {
    all_under(partition.0.to_be_bytes().to_vec())
}

/// The records of a bucket in one partition whose keys begin with `prefix` (empty: all), in key order.
/// The bucket has passed [`ring::ids::check_bucket`].
pub fn records_of_bucket(partition: Partition, bucket: &[u8], prefix: &[u8]) -> Range {
    let mut out = Vec::with_capacity(3 + bucket.len() + prefix.len());
    push_bucket(&mut out, partition, bucket);
    out.extend_from_slice(prefix);
    all_under(out)
}

/// The records of a bucket in one partition whose keys lie in `start..end`; an empty `end` is the bucket's.
pub fn records_of_bucket_between(partition: Partition, bucket: &[u8], start: &[u8], end: &[u8]) -> Range {
    let (mut first, last) = records_of_bucket(partition, bucket, b"");
    let stem = first.clone();
    first.extend_from_slice(start);
    if end.is_empty() {
        return (first, last);
    }
    (first, Some([stem.as_slice(), end].concat()))
}

/// All hints that wait for a node.
pub fn hints_for(target: NodeId) -> Range {
    all_under(target.0.to_be_bytes().to_vec())
}

/// What is due at these instants, both included.
pub fn due_between(from: Wall, now: Wall) -> Range {
    (due_from(from), now.0.checked_add(1).map(|end| end.to_be_bytes().to_vec()))
}

/// Where it begins what is due at this instant or after it.
pub fn due_from(from: Wall) -> Vec<u8> {
    from.0.to_be_bytes().to_vec()
}

/// The first key after this one: where a scan goes on whose last row had it.
pub fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// Reads back [`record_key`]. The names share the memory of `key`.
pub fn decode_record_key(key: &Bytes) -> Result<(Partition, ObjectId), KeyError> {
    let [high, low, ..] = key[..] else { return Err(KeyError::Short(key.len())) };
    Ok((Partition(u16::from_be_bytes([high, low])), decode_name(key, 2)?))
}

/// The bucket with its length, and the key to the end.
fn decode_name(key: &Bytes, at: usize) -> Result<ObjectId, KeyError> {
    let length = usize::from(*key.get(at).ok_or(KeyError::Short(key.len()))?);
    let bucket_end = at + 1 + length;
    if key.len() < bucket_end {
        return Err(KeyError::Short(key.len()));
    }
    Ok(ObjectId::new(key.slice(at + 1..bucket_end), key.slice(bucket_end..))?)
}

/// Reads back [`aside_key`].
pub fn decode_aside_key(key: &Bytes) -> Result<(Partition, ObjectId), KeyError> {
    if !key.starts_with(ASIDE) {
        return Err(KeyError::Prefix);
    }
    decode_record_key(&key.slice(ASIDE.len()..))
}

/// Reads back [`leaf_key`].
pub fn decode_leaf_key(key: &Bytes) -> Result<(Partition, Slot, ObjectId), KeyError> {
    let [p0, p1, s0, s1, ..] = key[..] else { return Err(KeyError::Short(key.len())) };
    let slot = Slot(u16::from_be_bytes([s0, s1]));
    if slot.0 >= SLOTS {
        return Err(KeyError::Prefix);
    }
    let id = decode_name(key, 4)?;
    Ok((Partition(u16::from_be_bytes([p0, p1])), slot, id))
}

/// Reads back [`hint_key`]. The names share the memory of `key`.
pub fn decode_hint_key(key: &Bytes) -> Result<(NodeId, Partition, ObjectId), KeyError> {
    let Some((target, _)) = key.split_first_chunk::<16>() else { return Err(KeyError::Short(key.len())) };
    let (partition, id) = decode_record_key(&key.slice(16..))?;
    Ok((NodeId(u128::from_be_bytes(*target)), partition, id))
}

/// Reads back [`due_key`]. The names share the memory of `key`.
pub fn decode_due_key(key: &Bytes) -> Result<(Wall, Partition, ObjectId), KeyError> {
    let Some((at, _)) = key.split_first_chunk::<8>() else { return Err(KeyError::Short(key.len())) };
    let (partition, id) = decode_record_key(&key.slice(8..))?;
    Ok((Wall(u64::from_be_bytes(*at)), partition, id))
}

fn push_object(out: &mut Vec<u8>, partition: Partition, id: &ObjectId) {
    push_bucket(out, partition, id.bucket());
    out.extend_from_slice(id.key());
}

fn push_bucket(out: &mut Vec<u8>, partition: Partition, bucket: &[u8]) {
    out.extend_from_slice(&partition.0.to_be_bytes());
    push_name(out, bucket);
}

fn push_name(out: &mut Vec<u8>, bucket: &[u8]) {
    assert!(bucket.len() <= BUCKET_BYTES_MAX, "a bucket of {} bytes has passed its check", bucket.len());
    out.push(bucket.len() as u8);
    out.extend_from_slice(bucket);
}

/// Everything that begins with these bytes. Under nothing but 0xff bytes that reaches to the end of the family.
fn all_under(prefix: Vec<u8>) -> Range {
    let end = prefix.iter().rposition(|byte| *byte != 0xff).map(|last| {
        let mut end = prefix[..=last].to_vec();
        end[last] += 1;
        end
    });
    (prefix, end)
}

#[cfg(test)]
mod tests;
