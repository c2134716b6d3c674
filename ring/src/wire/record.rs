//! Records to the byte: on disk, between peers, and under the Merkle trees.
//!
//! ```text
//!   magic 0xC7 | version 3 | checksum u64 LE (xxh3-64 of all that follows)
//!   perishable how many bytes at the end are values that expire
//!   actors     count, then node (16 bytes BE) and epoch each, sorted
//!   clock      count, then (actor index, first count − 1, length − 1) of each run
//!   siblings   count, then (actor index, count, content) each, in the order of the dots
//!   content    kind u8, then by kind (see `put_content`)
//!   perishables of each value that expires, in the order of the dots: length and bytes, nothing if it was dropped
//! ```
//!
//! Integers are LEB128. The encoding is canonical: equal records have equal bytes. The digest of a record is the xxh3-128 of
//! what stands between the head and the perishables, clock and values alike. A value that expires stands there as its
//! instant and its hash, whether it is still held or was dropped, so replicas that drop it at different moments are equal
//! all the while, and their trees with them. The checksum is made by whoever wrote the bytes and is looked at on every
//! read, before every use: damaged bytes are never taken for a record.

use super::bytes::{
    ActorTable, DecodeError, Reader, put_bytes, put_context, put_signed, put_varint, read_context,
};
use crate::record::{Content, Object, Op, Record, Sibling};
use crate::time::Wall;
use bytes::Bytes;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

const MAGIC: u8 = 0xC7;
const VERSION: u8 = 3;
const HEAD_BYTES: usize = 10;

/// A fingerprint of clock and values: equal on two replicas if and only if their records are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, serde::Serialize, serde::Deserialize)]
pub struct Digest(pub u128);

/// The digest of an encoded record. Of bytes that can't be one it is some number that no record's copy has.
pub fn digest(encoded: &[u8]) -> Digest {
    let lasting = encoded.get(HEAD_BYTES..).and_then(|rest| lasting(rest).ok());
    Digest(xxh3_128(lasting.map_or(encoded, |lasting| &encoded[HEAD_BYTES..][lasting])))
}

/// Where in the bytes after the head that stands which is the same whether expired values were dropped or not.
fn lasting(rest: &[u8]) -> Result<std::ops::Range<usize>, DecodeError> {
    let mut perishable = 0_u64;
    for (at, byte) in rest.iter().take(5).enumerate() {
        perishable |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            let perishable = perishable as usize;
            let held = rest.len() - at - 1;
            return if perishable > held {
                Err(DecodeError::Short)
            } else {
                Ok(at + 1..rest.len() - perishable)
            };
        }
    }
    Err(DecodeError::Range("perishable bytes"))
}

/// The bytes of a record.
pub fn encode(record: &Record) -> Bytes {
    let perishables = put_perishables(record);
    let guess = record.siblings.iter().map(|s| content_bytes(&s.content)).sum::<usize>() + 128;
    let mut out = Vec::with_capacity(guess);
    out.extend_from_slice(&[MAGIC, VERSION, 0, 0, 0, 0, 0, 0, 0, 0]);
    put_varint(&mut out, perishables.bytes.len() as u64);
    let actors = ActorTable::collect(&record.clock, record.siblings.iter().map(|s| &s.dot));
    actors.put(&mut out);
    actors.put_context(&mut out, &record.clock);
    put_varint(&mut out, record.siblings.len() as u64);
    let mut hashes = perishables.hashes.into_iter();
    for sibling in &record.siblings {
        actors.put_dot(&mut out, sibling.dot.actor, sibling.dot.count);
        put_content(&mut out, &sibling.content, &mut hashes);
    }
    out.extend_from_slice(&perishables.bytes);
    let sum = xxh3_64(&out[HEAD_BYTES..]);
    out[2..HEAD_BYTES].copy_from_slice(&sum.to_le_bytes());
    Bytes::from(out)
}

/// The values that expire, and the hashes of those that are held.
#[derive(Default)]
struct Perishables {
    bytes: Vec<u8>,
    hashes: Vec<u128>,
}

/// Nothing at all if none of them is held.
fn put_perishables(record: &Record) -> Perishables {
    let mut all = Perishables::default();
    if record.siblings.iter().all(|s| s.content.expires_at().is_none()) {
        return all;
    }
    for sibling in &record.siblings {
        match &sibling.content {
            Content::Object(object) if object.expires_at.is_some() => {
                let value = object_bytes(object);
                all.hashes.push(xxh3_128(&value));
                put_bytes(&mut all.bytes, &value);
            }
            Content::Expired { .. } => put_bytes(&mut all.bytes, &[]),
            _ => {}
        }
    }
    all
}

/// What an expired value leaves; `None` for anything else. Its time is for the caller to judge.
pub fn expired(content: &Content) -> Option<Content> {
    match content {
        Content::Object(object) => {
            object.expires_at.map(|at| Content::Expired { at, was: xxh3_128(&object_bytes(object)) })
        }
        _ => None,
    }
}

fn object_bytes(object: &Object) -> Vec<u8> {
    let mut out =
        Vec::with_capacity(object.body.len() + object.content_type.len() + 64 * object.meta.len() + 32);
    put_object(&mut out, object);
    out
}

/// Whether these are the undamaged bytes of a record.
pub fn verify(bytes: &Bytes) -> Result<(), DecodeError> {
    if bytes.len() < HEAD_BYTES {
        return Err(DecodeError::Short);
    }
    if bytes[0] != MAGIC {
        return Err(DecodeError::Unknown("magic"));
    }
    if bytes[1] != VERSION {
        return Err(DecodeError::Unknown("record version"));
    }
    let (head, rest) = bytes.split_at(HEAD_BYTES);
    if head[2..] != xxh3_64(rest).to_le_bytes() {
        return Err(DecodeError::Checksum);
    }
    Ok(())
}

/// Reads a record; values share the buffer.
pub fn decode(bytes: &Bytes) -> Result<Record, DecodeError> {
    verify(bytes)?;
    let rest = bytes.slice(HEAD_BYTES..);
    let lasting = lasting(&rest)?;
    let perishables = rest.slice(lasting.end..);
    let mut input = Reader::new(rest.slice(lasting));
    let actors = ActorTable::read(&mut input)?;
    let clock = actors.read_context(&mut input)?;
    let n = input.count()?;
    let mut siblings: Vec<Sibling> = Vec::with_capacity(n.min(4096));
    for _ in 0..n {
        let dot = actors.read_dot(&mut input)?;
        let content = read_content(&mut input)?;
        if siblings.last().is_some_and(|last| last.dot >= dot) || !clock.has(&dot) {
            return Err(DecodeError::Range("sibling order"));
        }
        siblings.push(Sibling { dot, content });
    }
    input.end()?;
    if !perishables.is_empty() {
        read_perishables(perishables, &mut siblings)?;
    }
    Ok(Record { clock, siblings })
}

/// Puts the values that expire and are still held in their places.
fn read_perishables(bytes: Bytes, siblings: &mut [Sibling]) -> Result<(), DecodeError> {
    let mut input = Reader::new(bytes);
    let mut held = false;
    for sibling in siblings {
        let Content::Expired { at, was } = sibling.content else { continue };
        let value = input.bytes()?;
        if value.is_empty() {
            continue;
        }
        if xxh3_128(&value) != was {
            return Err(DecodeError::Checksum);
        }
        held = true;
        let mut value = Reader::new(value);
        sibling.content = Content::Object(read_object(&mut value, Some(at))?);
        value.end()?;
    }
    input.end()?;
    if held { Ok(()) } else { Err(DecodeError::Range("perishable bytes")) }
}

fn content_bytes(content: &Content) -> usize {
    match content {
        Content::Object(o) => o.body.len() + o.content_type.len() + o.meta.len() * 64 + 48,
        Content::CartAttributes { json, .. } => json.len() + 48,
        Content::CartSpent { ops } => ops.len() * 24 + 16,
        _ => 48,
    }
}

/// Appends one content. `hashes` gives those of the values that expire, which stand elsewhere, in their order.
fn put_content(out: &mut Vec<u8>, content: &Content, hashes: &mut impl Iterator<Item = u128>) {
    match content {
        Content::Object(object) => match object.expires_at {
            Some(at) => put_expiring(out, at, hashes.next().expect("every value that expires was hashed")),
            None => {
                out.push(0);
                put_object(out, object);
            }
        },
        Content::Expired { at, was } => put_expiring(out, *at, *was),
        Content::Tombstone { deleted } => {
            out.push(2);
            put_varint(out, deleted.0);
        }
        Content::CartAdd { sku, quantity, op } => {
            out.push(if op.is_some() { 4 } else { 3 });
            put_bytes(out, sku);
            put_signed(out, *quantity);
            if let Some(op) = op {
                out.extend_from_slice(&op.0.to_be_bytes());
            }
        }
        Content::CartAttributes { sku, json } => {
            out.push(5);
            put_bytes(out, sku);
            put_bytes(out, json);
        }
        Content::CartRemoved { sku, seen } => {
            out.push(if sku.is_some() { 7 } else { 6 });
            if let Some(sku) = sku {
                put_bytes(out, sku);
            }
            put_context(out, seen);
        }
        Content::CartSpent { ops } => {
            out.push(8);
            put_varint(out, ops.len() as u64);
            for (op, at) in ops {
                out.extend_from_slice(&op.0.to_be_bytes());
                put_varint(out, at.0);
            }
        }
    }
}

fn put_expiring(out: &mut Vec<u8>, at: Wall, was: u128) {
    out.push(1);
    put_varint(out, at.0);
    out.extend_from_slice(&was.to_be_bytes());
}

fn put_object(out: &mut Vec<u8>, object: &Object) {
    put_varint(out, object.modified.0);
    put_bytes(out, object.content_type.as_bytes());
    put_varint(out, object.meta.len() as u64);
    for (name, value) in &object.meta {
        put_bytes(out, name.as_bytes());
        put_bytes(out, value);
    }
    put_bytes(out, &object.body);
}

fn read_content(input: &mut Reader) -> Result<Content, DecodeError> {
    Ok(match input.u8()? {
        0 => Content::Object(read_object(input, None)?),
        1 => Content::Expired { at: Wall(input.varint()?), was: input.u128()? },
        2 => Content::Tombstone { deleted: Wall(input.varint()?) },
        kind @ (3 | 4) => Content::CartAdd {
            sku: input.bytes()?,
            quantity: input.signed()?,
            op: if kind == 4 { Some(Op(input.u128()?)) } else { None },
        },
        5 => Content::CartAttributes { sku: input.bytes()?, json: input.bytes()? },
        6 => Content::CartRemoved { sku: None, seen: read_context(input)? },
        7 => Content::CartRemoved { sku: Some(input.bytes()?), seen: read_context(input)? },
        8 => {
            let n = input.count()?;
            let mut ops = Vec::with_capacity(n.min(4096));
            for _ in 0..n {
                ops.push((Op(input.u128()?), Wall(input.varint()?)));
            }
            Content::CartSpent { ops }
        }
        _ => return Err(DecodeError::Unknown("content kind")),
    })
}

fn read_object(input: &mut Reader, expires_at: Option<Wall>) -> Result<Object, DecodeError> {
    let modified = Wall(input.varint()?);
    let content_type = text(input)?;
    let n = input.count()?;
    let mut meta = Vec::with_capacity(n.min(64));
    for _ in 0..n {
        meta.push((text(input)?, input.bytes()?));
    }
    Ok(Object { modified, expires_at, content_type, meta, body: input.bytes()? })
}

fn text(input: &mut Reader) -> Result<String, DecodeError> {
    let bytes = input.bytes()?;
    std::str::from_utf8(&bytes).map(str::to_owned).map_err(|_| DecodeError::Range("text"))
}
