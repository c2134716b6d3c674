//! The envelope of every message between peers.
//!
//! ```text
//!  0       4       8        9      10     18            22              30             38      46        54
//!  ┌───────┬───────┬─────────┬──────┬──────┬─────────────┬───────────────┬──────────────┬───────┬─────────┬──────┐
//!  │ len   │ crc32 │ version │ kind │ id   │ deadline_ms │ table counter │ table digest │ trace │ sent_ms │ body │
//!  │ u32   │ u32   │ u8      │ u8   │ u64  │ u32         │ u64           │ u64          │ u64   │ u64     │ …    │
//!  └───────┴───────┴─────────┴──────┴──────┴─────────────┴───────────────┴──────────────┴───────┴─────────┴──────┘
//!           `len` counts from the checksum on; the checksum covers from the version on; all little-endian
//! ```
//!
//! The header is fixed and hand-written, not serde: it is read before anything is allocated, and a dump of the wire
//! can be read by eye. The deadline is what is left of it, because two machines share no clock; how
//! long it was on its way the receiver finds out by `sent_ms` (`Delays`). The checksum is there
//! although TCP has one: TCP's lets about one in 65,536 damaged segments through, and a replica would keep it.

use crate::limits::{FRAME_BYTES_MAX, HELLO_TIMEOUT, READ_BYTES};
use bytes::{Buf, Bytes, BytesMut};
use ring::time::Time;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};

/// The version of the frame and of the bodies in it, agreed on in the hello.
pub const PROTOCOL: u8 = 3;
/// Bytes in front of the body.
pub const HEAD_BYTES: usize = 54;
/// The largest body.
pub const BODY_BYTES_MAX: usize = FRAME_BYTES_MAX - HEAD_BYTES;
/// The length prefix, which does not count itself.
const LEN_BYTES: usize = 4;
/// Length and checksum: what the checksum does not cover.
const BARE_BYTES: usize = 8;

/// What a frame is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Wants an answer with the same id.
    Request = 1,
    /// The answer.
    Response = 2,
    /// Wants no answer.
    OneWay = 3,
    /// Wants a pong, as a sign of life.
    Ping = 4,
    /// The sign of life.
    Pong = 5,
    /// The answer to a request that the peer has no answer to.
    NotServed = 6,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        [Kind::Request, Kind::Response, Kind::OneWay, Kind::Ping, Kind::Pong, Kind::NotServed]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// Which table the sender had in mind when it chose the receiver.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct TableTag {
    /// Grows with every change of membership.
    pub counter: u64,
    /// Tells two tables with the same counter apart.
    pub digest: u64,
}

/// What stands in front of a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What the frame is for.
    pub kind: Kind,
    /// Joins an answer to its request; unique within a connection.
    pub id: u64,
    /// What is left of the deadline, in milliseconds. 0: it has passed.
    pub deadline_ms: u32,
    /// The sender's table.
    pub table: TableTag,
    /// Joins the logs of all nodes that one client request touched. 0: not traced.
    pub trace: u64,
    /// When it was written, in milliseconds since the sender finished the hello of this connection. 0 in answers.
    pub sent_ms: u64,
}

impl Header {
    /// A header without deadline, table or trace.
    pub fn bare(kind: Kind, id: u64) -> Header {
        Header { kind, id, deadline_ms: u32::MAX, table: TableTag::default(), trace: 0, sent_ms: 0 }
    }
}

/// A whole message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Its header.
    pub header: Header,
    /// Its body: a slice of the read buffer, so whoever keeps it for long makes a copy.
    pub body: Bytes,
}

/// Why the bytes of a connection make no sense. It is closed: there is no way to find the next frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The length is above [`FRAME_BYTES_MAX`].
    #[error("a frame of {0} bytes is too large")]
    TooLarge(usize),
    /// The length has no room for a header.
    #[error("a frame of {0} bytes is too short")]
    TooShort(usize),
    /// The bytes were damaged on their way.
    #[error("a frame's checksum is wrong")]
    Checksum,
    /// Not the version that was agreed on.
    #[error("a frame has version {0}")]
    Version(u8),
    /// No kind that we know.
    #[error("a frame has kind {0}")]
    Kind(u8),
    /// The connection ended in the middle of a frame.
    #[error("the connection ended in the middle of a frame")]
    Cut,
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

/// The bytes in front of a body. The body has at most [`BODY_BYTES_MAX`] bytes; the callers refuse larger ones.
pub fn encode_head(header: &Header, body: &[u8]) -> [u8; HEAD_BYTES] {
    assert!(body.len() <= BODY_BYTES_MAX, "a body of {} bytes was let through", body.len());
    let len = u32::try_from(HEAD_BYTES - LEN_BYTES + body.len()).expect("72 MiB fit into 32 bits");
    let mut head = [0; HEAD_BYTES];
    head[0..4].copy_from_slice(&len.to_le_bytes());
    head[8] = PROTOCOL;
    head[9] = header.kind as u8;
    head[10..18].copy_from_slice(&header.id.to_le_bytes());
    head[18..22].copy_from_slice(&header.deadline_ms.to_le_bytes());
    head[22..30].copy_from_slice(&header.table.counter.to_le_bytes());
    head[30..38].copy_from_slice(&header.table.digest.to_le_bytes());
    head[38..46].copy_from_slice(&header.trace.to_le_bytes());
    head[46..54].copy_from_slice(&header.sent_ms.to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head[BARE_BYTES..]);
    crc.update(body);
    head[4..8].copy_from_slice(&crc.finalize().to_le_bytes());
    head
}

/// How many bytes the frame at the front of `buffer` has in all, if its length is there yet.
fn frame_bytes(buffer: &[u8]) -> Result<Option<usize>, FrameError> {
    let Some(len) = buffer.first_chunk::<LEN_BYTES>() else { return Ok(None) };
    match (u32::from_le_bytes(*len) as usize).saturating_add(LEN_BYTES) {
        n if n < HEAD_BYTES => Err(FrameError::TooShort(n)),
        n if n > FRAME_BYTES_MAX => Err(FrameError::TooLarge(n)),
        n => Ok(Some(n)),
    }
}

/// Takes one frame off the front of `buffer`, if a whole one is there.
pub fn decode(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    match frame_bytes(buffer)? {
        Some(n) if buffer.len() >= n => decode_whole(buffer.split_to(n).freeze()).map(Some),
        _ => Ok(None),
    }
}

fn decode_whole(mut bytes: Bytes) -> Result<Frame, FrameError> {
    if bytes.len() < HEAD_BYTES {
        return Err(FrameError::TooShort(bytes.len()));
    }
    bytes.advance(LEN_BYTES);
    if bytes.get_u32_le() != crc32fast::hash(&bytes) {
        return Err(FrameError::Checksum);
    }
    let version = bytes.get_u8();
    if version != PROTOCOL {
        return Err(FrameError::Version(version));
    }
    let kind = bytes.get_u8();
    let header = Header {
        kind: Kind::from_byte(kind).ok_or(FrameError::Kind(kind))?,
        id: bytes.get_u64_le(),
        deadline_ms: bytes.get_u32_le(),
        table: TableTag { counter: bytes.get_u64_le(), digest: bytes.get_u64_le() },
        trace: bytes.get_u64_le(),
        sent_ms: bytes.get_u64_le(),
    };
    Ok(Frame { header, body: bytes })
}

/// How long frames were on their way, as far as a receiver can know without the sender's clock.
///
/// The fastest frame so far stands for no delay at all. Before the first one there is the hello: both sides ended it within
/// [`HELLO_TIMEOUT`] of each other, so no connection can begin with frames that are older than they look by more than that.
/// Clocks drift, so the fastest may fade, and no faster than clocks drift: frames that trickle in after minutes in the
/// system's buffers can't make their own delay the rule.
#[derive(Debug)]
pub(super) struct Delays {
    hello: Time,
    last: Time,
    /// The least of arrival minus sending, in microseconds, each since its side's hello.
    least: i64,
}

/// Two clocks drift apart by no more than one part in so many: twice what a system may slew its clock.
const DRIFT_ONE_IN: i64 = 1000;

impl Delays {
    pub(super) fn since(hello: Time) -> Self {
        Delays { hello, last: hello, least: HELLO_TIMEOUT.as_micros() as i64 }
    }

    /// How long a frame was on its way that is looked at now.
    pub(super) fn of(&mut self, sent_ms: u64, now: Time) -> Duration {
        let micros = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        let sent = i64::try_from(sent_ms).unwrap_or(i64::MAX).saturating_mul(1000);
        let took = micros(now - self.hello).saturating_sub(sent);
        let faded = self.least.saturating_add(micros(now - self.last) / DRIFT_ONE_IN);
        self.last = now;
        self.least = faded.min(took);
        Duration::from_micros(u64::try_from(took.saturating_sub(self.least)).unwrap_or_default())
    }
}

/// How often in a row a look at the connection found that nothing had arrived.
#[derive(Default, Debug)]
pub(super) struct Silence(AtomicU32);

impl Silence {
    pub(super) fn broken(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Counts one more look, and says how many were in vain before it.
    pub(super) fn look(&self) -> u32 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// The reading half of a connection.
pub(super) struct Frames<R, F> {
    from: R,
    buffer: BytesMut,
    heard: F,
}

impl<R: AsyncRead + Unpin, F: Fn()> Frames<R, F> {
    /// `heard` is called whenever bytes arrived, whole frames or not.
    pub(super) fn new(from: R, heard: F) -> Self {
        Frames { from, buffer: BytesMut::new(), heard }
    }

    /// The next frame, or none after the last. May be cancelled: what was read stays in the buffer.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some(frame) = decode(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            let missing = frame_bytes(&self.buffer)?.unwrap_or(0).saturating_sub(self.buffer.len());
            self.buffer.reserve(missing.max(READ_BYTES));
            if self.from.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(FrameError::Cut) };
            }
            (self.heard)();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(header: &Header, body: &[u8]) -> Vec<u8> {
        [&encode_head(header, body)[..], body].concat()
    }

    fn header() -> impl Strategy<Value = Header> {
        (1..=6u8, any::<(u64, u32, u64, u64, u64, u64)>()).prop_map(
            |(kind, (id, deadline_ms, counter, digest, trace, sent_ms))| Header {
                kind: Kind::from_byte(kind).unwrap(),
                id,
                deadline_ms,
                table: TableTag { counter, digest },
                trace,
                sent_ms,
            },
        )
    }

    #[test]
    fn a_frame_has_exactly_these_bytes() {
        let header = Header {
            kind: Kind::Request,
            id: 0x0102,
            deadline_ms: 1000,
            table: TableTag { counter: 7, digest: 0xfeed },
            trace: 0xabcdef,
            sent_ms: 0x0304,
        };
        let bytes = encode(&header, b"hi");
        // zlib's crc32 of what follows it.
        let crc = 0xff3f_ef2f_u32.to_le_bytes();
        let expected = [
            &[52, 0, 0, 0][..],
            &crc,
            &[3, 1],
            &[2, 1, 0, 0, 0, 0, 0, 0],
            &[0xe8, 3, 0, 0],
            &[7, 0, 0, 0, 0, 0, 0, 0],
            &[0xed, 0xfe, 0, 0, 0, 0, 0, 0],
            &[0xef, 0xcd, 0xab, 0, 0, 0, 0, 0],
            &[4, 3, 0, 0, 0, 0, 0, 0],
            b"hi",
        ]
        .concat();
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_length_is_judged_before_anything_is_allocated() {
        let mut huge = BytesMut::from(&u32::MAX.to_le_bytes()[..]);
        assert!(matches!(decode(&mut huge), Err(FrameError::TooLarge(_))));
        let mut short = BytesMut::from(&49u32.to_le_bytes()[..]);
        assert!(matches!(decode(&mut short), Err(FrameError::TooShort(53))));
    }

    #[test]
    fn a_frame_is_as_late_as_it_is_later_than_the_fastest() {
        let at = |ms: u64| Time(ms * 1000);
        // Off by the drift that is allowed for in the longest pause here, 20 s.
        let (ms, close) =
            (Duration::from_millis, |a: Duration, b: Duration| a.abs_diff(b) < Duration::from_millis(25));
        // The sender's hello ended half a second after ours, which no frame may look early for.
        let mut delays = Delays::since(at(7000));
        assert_eq!(delays.of(0, at(7520)), ms(0));
        assert_eq!(delays.of(100, at(7600)), ms(0), "a faster one");
        assert!(close(delays.of(150, at(9650)), ms(2000)));
        assert!(close(delays.of(2200, at(9700)), ms(0)), "the next is not late for that");
        // A process stood still, and what had arrived before is looked at after.
        assert!(close(delays.of(2300, at(29_800)), ms(20_000)));
        // Ten minutes of trickle teach nothing.
        for second in 0..600 {
            let late = delays.of(2300 + 1000 * second, at(130_000 + 1000 * second));
            assert!(late > ms(119_000), "{late:?}");
        }
    }

    #[test]
    fn a_connection_cannot_begin_late_and_pass_for_fast() {
        let mut delays = Delays::since(Time(0));
        assert!(delays.of(0, Time(600_000_000)) > Duration::from_secs(590));
        let mut slow = Delays::since(Time(0));
        assert_eq!(slow.of(0, Time(2_900_000)), Duration::ZERO, "within the hello's bound");
    }

    #[test]
    fn clocks_that_drift_make_nothing_late() {
        let mut delays = Delays::since(Time(0));
        for minute in 0..60 * 24 * 30 {
            let sent_ms = minute * 60_000;
            let now = Time(sent_ms * 1000 + sent_ms / 2);
            assert!(
                delays.of(sent_ms, now) < Duration::from_millis(1),
                "500 parts in a million, minute {minute}"
            );
        }
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let good = encode(&Header::bare(Kind::Response, 9), b"body");
        for bit in 32..good.len() * 8 {
            let mut bad = BytesMut::from(&good[..]);
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(decode(&mut bad), Err(FrameError::Checksum)), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn frames_survive_the_wire_in_any_pieces(
            frames in prop::collection::vec((header(), prop::collection::vec(any::<u8>(), 0..300)), 1..6),
            piece in 1..97usize,
        ) {
            let wire: Vec<u8> = frames.iter().flat_map(|(h, b)| encode(h, b)).collect();
            let (mut buffer, mut seen) = (BytesMut::new(), Vec::new());
            for chunk in wire.chunks(piece) {
                buffer.extend_from_slice(chunk);
                while let Some(frame) = decode(&mut buffer).unwrap() {
                    seen.push((frame.header, frame.body.to_vec()));
                }
            }
            prop_assert_eq!(seen, frames);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), len in 0..220u32) {
            // Half of the cases get a plausible length, else hardly any would come past it.
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode(&mut buffer) {}
            let mut plausible = BytesMut::from(&[&len.to_le_bytes()[..], &bytes].concat()[..]);
            while let Ok(Some(_)) = decode(&mut plausible) {}
        }
    }
}
