//! Records to the byte: on disk, between peers, and under the Merkle trees.
//!
//! ```text
//!   magic 0xC7 | version 2 | checksum u64 LE (xxh3-64 of all that follows)
//!   actors     count, then node (16 bytes BE) and epoch each, sorted
//!   clock      count, then (actor index, first count − 1, length − 1) of each run
//!   siblings   count, then (actor index, count, content) each, in the order of the dots
//!   content    kind u8, then by kind (see `put_content`)
//! ```
//!
//! Integers are LEB128. The encoding is canonical: equal records have equal bytes, so the xxh3-128 of the bytes is the
//! record's digest, clock and values alike. The checksum is made by whoever wrote the bytes and is looked at on every
//! read, before every use: damaged bytes are never taken for a record.

use super::bytes::{
    ActorTable, DecodeError, Reader, put_bytes, put_context, put_signed, put_varint, read_context,
};
use crate::record::{Content, Object, Op, Record, Sibling};
use crate::time::Wall;
use bytes::Bytes;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

const MAGIC: u8 = 0xC7;
const VERSION: u8 = 2;
const HEAD_BYTES: usize = 10;

/// A fingerprint of clock and values: equal on two replicas if and only if their records are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, serde::Serialize, serde::Deserialize)]
pub struct Digest(pub u128);

/// The digest of an encoded record.
pub fn digest(encoded: &[u8]) -> Digest {
    Digest(xxh3_128(encoded))
}

/// The bytes of a record.
pub fn encode(record: &Record) -> Bytes {
    let guess = record.siblings.iter().map(|s| content_bytes(&s.content)).sum::<usize>() + 128;
    let mut out = Vec::with_capacity(guess);
    out.extend_from_slice(&[MAGIC, VERSION, 0, 0, 0, 0, 0, 0, 0, 0]);
    let actors = ActorTable::collect(&record.clock, record.siblings.iter().map(|s| &s.dot));
    actors.put(&mut out);
    actors.put_context(&mut out, &record.clock);
    put_varint(&mut out, record.siblings.len() as u64);
    for sibling in &record.siblings {
        actors.put_dot(&mut out, sibling.dot.actor, sibling.dot.count);
        put_content(&mut out, &sibling.content);
    }
    let sum = xxh3_64(&out[HEAD_BYTES..]);
    out[2..HEAD_BYTES].copy_from_slice(&sum.to_le_bytes());
    Bytes::from(out)
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
    let mut input = Reader::new(bytes.slice(HEAD_BYTES..));
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
    Ok(Record { clock, siblings })
}

fn content_bytes(content: &Content) -> usize {
    match content {
        Content::Object(o) => o.body.len() + o.content_type.len() + o.meta.len() * 64 + 48,
        Content::CartAttributes { json, .. } => json.len() + 48,
        Content::CartSpent { ops } => ops.len() * 24 + 16,
        _ => 48,
    }
}

fn put_content(out: &mut Vec<u8>, content: &Content) {
    match content {
        Content::Object(object) => {
            out.push(if object.expires_at.is_some() { 1 } else { 0 });
            put_varint(out, object.modified.0);
            if let Some(at) = object.expires_at {
                put_varint(out, at.0);
            }
            put_bytes(out, object.content_type.as_bytes());
            put_varint(out, object.meta.len() as u64);
            for (name, value) in &object.meta {
                put_bytes(out, name.as_bytes());
                put_bytes(out, value);
            }
            put_bytes(out, &object.body);
        }
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

fn read_content(input: &mut Reader) -> Result<Content, DecodeError> {
    Ok(match input.u8()? {
        kind @ (0 | 1) => Content::Object(read_object(input, kind == 1)?),
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

fn read_object(input: &mut Reader, expires: bool) -> Result<Object, DecodeError> {
    let modified = Wall(input.varint()?);
    let expires_at = if expires { Some(Wall(input.varint()?)) } else { None };
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
