//! Cuts what comes in over a connection into pieces that a bad network treats one by one.
//!
//! Between peers that is a frame: a piece of one lost or repeated would only break the connection, which a reset does better.
//! Of the protocol nothing is known here but where a frame ends (docs/formats.md): the handshake's steps are `CTWL`, a length of two
//! bytes and the step; after it come a length of four bytes and the frame. Clients' links are cut wherever a read ended, and
//! nothing of theirs is lost or repeated, for TCP never does that to a stream.

use bytes::{Bytes, BytesMut};

/// How the bytes of a connection are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pieces {
    /// Whole frames of peers.
    Frames,
    /// As they come.
    Bytes,
}

/// What goes through at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) bytes: Bytes,
    /// Whether the network may lose it, repeat it, or let others overtake it.
    pub(super) loose: bool,
}

/// The bytes are no peer's. There is no way to find the next frame.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} bytes is larger than any peer's")]
pub(super) struct Garbled(usize);

const STEP: &[u8; 4] = b"CTWL";
const STEP_HEAD: usize = 6;
const FRAME_HEAD: usize = 4;
/// The largest frame of a peer: 64 MiB of value and room for its names, clocks and head.
const FRAME_MAX: usize = 80 << 20;

impl Pieces {
    /// Takes the next piece off, if it is all there.
    pub(super) fn next(self, buffer: &mut BytesMut) -> Result<Option<Piece>, Garbled> {
        let (length, loose) = match self {
            Pieces::Bytes => (buffer.len(), false),
            Pieces::Frames => match whole(buffer)? {
                Some(whole) => whole,
                None => return Ok(None),
            },
        };
        if length == 0 || buffer.len() < length {
            return Ok(None);
        }
        Ok(Some(Piece { bytes: buffer.split_to(length).freeze(), loose }))
    }
}

/// How long what the buffer begins with is in all, and whether it is a frame.
fn whole(buffer: &[u8]) -> Result<Option<(usize, bool)>, Garbled> {
    if let Some([m0, m1, m2, m3, l0, l1]) = buffer.first_chunk::<STEP_HEAD>()
        && [*m0, *m1, *m2, *m3] == *STEP
    {
        return Ok(Some((STEP_HEAD + usize::from(u16::from_le_bytes([*l0, *l1])), false)));
    }
    match buffer.first_chunk::<FRAME_HEAD>() {
        None => Ok(None),
        // The rest of its head is still to come.
        Some(head) if head == STEP => Ok(None),
        Some(head) => {
            let length = usize::try_from(u32::from_le_bytes(*head)).unwrap_or(usize::MAX);
            if length > FRAME_MAX { Err(Garbled(length)) } else { Ok(Some((FRAME_HEAD + length, true))) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut buffer: BytesMut) -> Vec<(usize, bool)> {
        let next = || Pieces::Frames.next(&mut buffer).unwrap().map(|piece| (piece.bytes.len(), piece.loose));
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn steps_of_the_handshake_and_frames_are_told_apart_wherever_a_read_ends() {
        let stream =
            [&b"CTWL\x03\0abc"[..], b"CTWL\0\0", b"\x05\0\0\0hello", b"\x02\0\0\0CT", b"\0\0\0\0"].concat();
        let wanted = [(9, false), (6, false), (9, true), (6, true), (4, true)];
        assert_eq!(all(BytesMut::from(&stream[..])), wanted);
        for cut in 0..stream.len() {
            let mut buffer = BytesMut::from(&stream[..cut]);
            let mut pieces = Vec::new();
            while let Some(piece) = Pieces::Frames.next(&mut buffer).unwrap() {
                pieces.push((piece.bytes.len(), piece.loose));
            }
            buffer.extend_from_slice(&stream[cut..]);
            pieces.extend(all(buffer));
            assert_eq!(pieces, wanted, "cut at {cut}");
        }
    }

    #[test]
    fn a_length_that_no_peer_says_is_an_error() {
        let mut buffer = BytesMut::from(&b"GET / HTTP/1.1"[..]);
        assert_eq!(Pieces::Frames.next(&mut buffer), Err(Garbled(0x2054_4547)));
    }

    #[test]
    fn a_stream_of_clients_is_taken_as_it_comes_and_never_lost() {
        let mut buffer = BytesMut::from(&b"GET / HTTP/1.1"[..]);
        let piece = Pieces::Bytes.next(&mut buffer).unwrap().unwrap();
        assert_eq!((piece.bytes.len(), piece.loose), (14, false));
        assert_eq!(Pieces::Bytes.next(&mut buffer), Ok(None));
    }
}
