//! Reading and writing small pieces: variable-length integers (LEB128), byte strings, actors.
//!
//! Written by hand because it is the hot path and because slices of the incoming buffer are handed on without a copy. A
//! [`Reader`] never panics and never allocates from a length that the input merely claims.

use crate::causal::{Actor, COUNT_MAX, Context, Dot, Run};
use crate::ids::NodeId;
use bytes::{Buf, Bytes};

/// The bytes were not what they should be. What was read so far is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The input ends too early.
    #[error("the input ends too early")]
    Short,
    /// Something follows the end.
    #[error("something follows the end")]
    Trailing,
    /// A magic, version or kind is not known.
    #[error("unknown {0}")]
    Unknown(&'static str),
    /// A number or text is out of its range.
    #[error("{0} out of range")]
    Range(&'static str),
    /// The checksum does not match: the bytes were damaged.
    #[error("checksum mismatch")]
    Checksum,
}

/// Appends a LEB128 integer.
pub fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n as u8) | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Appends a signed integer, zigzag.
pub fn put_signed(out: &mut Vec<u8>, n: i64) {
    put_varint(out, ((n << 1) ^ (n >> 63)) as u64);
}

/// Appends a length and the bytes.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A cursor over immutable bytes.
#[derive(Debug, Clone)]
pub struct Reader {
    rest: Bytes,
}

impl Reader {
    /// Starts at the front.
    pub fn new(bytes: Bytes) -> Self {
        Reader { rest: bytes }
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        if self.rest.is_empty() { Err(DecodeError::Short) } else { Ok(self.rest.get_u8()) }
    }

    /// A LEB128 integer.
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut n = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(DecodeError::Range("integer"));
            }
            n |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(n);
            }
        }
        Err(DecodeError::Range("integer"))
    }

    /// A zigzag integer.
    pub fn signed(&mut self) -> Result<i64, DecodeError> {
        let n = self.varint()?;
        Ok(((n >> 1) as i64) ^ -((n & 1) as i64))
    }

    /// A count of things that take at least one byte each, so never more than what is left.
    pub fn count(&mut self) -> Result<usize, DecodeError> {
        let n = usize::try_from(self.varint()?).map_err(|_| DecodeError::Range("count"))?;
        if n > self.left() { Err(DecodeError::Short) } else { Ok(n) }
    }

    /// A length and that many bytes, shared with the input.
    pub fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let n = self.count()?;
        Ok(self.rest.split_to(n))
    }

    /// A fixed number of bytes.
    pub fn take(&mut self, n: usize) -> Result<Bytes, DecodeError> {
        if self.rest.len() < n { Err(DecodeError::Short) } else { Ok(self.rest.split_to(n)) }
    }

    /// 128 bits, big-endian.
    pub fn u128(&mut self) -> Result<u128, DecodeError> {
        if self.rest.len() < 16 { Err(DecodeError::Short) } else { Ok(self.rest.get_u128()) }
    }

    /// Nothing may follow.
    pub fn end(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing) }
    }
}

/// The actors of a record or context, each written once and then named by index.
#[derive(Debug, Default)]
pub struct ActorTable(Vec<Actor>);

impl ActorTable {
    /// Collects the actors of a context and of further dots.
    pub fn collect<'a>(context: &'a Context, dots: impl Iterator<Item = &'a Dot>) -> Self {
        let mut actors: Vec<Actor> = context.runs().iter().map(|r| r.actor).collect();
        actors.dedup();
        for dot in dots {
            if let Err(at) = actors.binary_search(&dot.actor) {
                actors.insert(at, dot.actor);
            }
        }
        ActorTable(actors)
    }

    /// Appends the table.
    pub fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, self.0.len() as u64);
        for actor in &self.0 {
            out.extend_from_slice(&actor.node.0.to_be_bytes());
            put_varint(out, actor.epoch);
        }
    }

    /// Reads a table.
    pub fn read(input: &mut Reader) -> Result<Self, DecodeError> {
        let n = input.count()?;
        let mut actors = Vec::with_capacity(n.min(64));
        for _ in 0..n {
            actors.push(Actor { node: NodeId(input.u128()?), epoch: input.varint()? });
        }
        if !actors.windows(2).all(|pair| pair[0] < pair[1]) {
            return Err(DecodeError::Range("actor order"));
        }
        Ok(ActorTable(actors))
    }

    /// Appends a dot by its actor's index.
    pub fn put_dot(&self, out: &mut Vec<u8>, actor: Actor, count: u64) {
        let at = self.0.binary_search(&actor).expect("collect() has put every actor into the table");
        put_varint(out, at as u64);
        put_varint(out, count);
    }

    fn read_actor(&self, input: &mut Reader) -> Result<Actor, DecodeError> {
        let at = usize::try_from(input.varint()?).map_err(|_| DecodeError::Range("actor index"))?;
        self.0.get(at).copied().ok_or(DecodeError::Range("actor index"))
    }

    /// Reads a dot.
    pub fn read_dot(&self, input: &mut Reader) -> Result<Dot, DecodeError> {
        let actor = self.read_actor(input)?;
        let count = input.varint()?;
        if count == 0 || count > COUNT_MAX {
            Err(DecodeError::Range("count"))
        } else {
            Ok(Dot { actor, count })
        }
    }

    /// Appends a context whose actors are all in the table: of each run its actor, first count − 1 and length − 1.
    pub fn put_context(&self, out: &mut Vec<u8>, context: &Context) {
        put_varint(out, context.runs().len() as u64);
        for run in context.runs() {
            self.put_dot(out, run.actor, run.first - 1);
            put_varint(out, run.last - run.first);
        }
    }

    /// Reads a context.
    pub fn read_context(&self, input: &mut Reader) -> Result<Context, DecodeError> {
        let n = input.count()?;
        let mut runs: Vec<Run> = Vec::with_capacity(n.min(64));
        for _ in 0..n {
            let actor = self.read_actor(input)?;
            let before = input.varint()?;
            let more = input.varint()?;
            if before >= COUNT_MAX || more >= COUNT_MAX - before {
                return Err(DecodeError::Range("count"));
            }
            let run = Run { actor, first: before + 1, last: before + 1 + more };
            if runs.last().is_some_and(|last| (last.actor, last.last + 1) >= (run.actor, run.first)) {
                return Err(DecodeError::Range("context order"));
            }
            runs.push(run);
        }
        Ok(Context::of_runs(runs))
    }
}

/// Appends a context with an actor table of its own.
pub fn put_context(out: &mut Vec<u8>, context: &Context) {
    let table = ActorTable::collect(context, std::iter::empty());
    table.put(out);
    table.put_context(out, context);
}

/// Reads a context with its actor table.
pub fn read_context(input: &mut Reader) -> Result<Context, DecodeError> {
    let table = ActorTable::read(input)?;
    table.read_context(input)
}
