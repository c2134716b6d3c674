//! Everything that waits, in one system call.
//!
//! Small bodies are copied beside their headers into one piece; large ones go as they are, as pieces of their own of
//! one vectored write. A loaded connection so costs one system call for dozens of messages, and a value of a megabyte
//! is never copied.

use super::frame::{self, Header};
use crate::limits::{COPY_BYTES_MAX, WRITE_STALL_MAX};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// Frames on their way to a socket.
#[derive(Default)]
pub(super) struct Pieces {
    sealed: VecDeque<Bytes>,
    sealed_bytes: usize,
    tail: BytesMut,
}

impl Pieces {
    pub(super) fn push(&mut self, header: &Header, body: Bytes) {
        self.tail.extend_from_slice(&frame::encode_head(header, &body));
        if body.len() <= COPY_BYTES_MAX {
            self.tail.extend_from_slice(&body);
        } else {
            self.seal();
            self.sealed_bytes += body.len();
            self.sealed.push_back(body);
        }
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.sealed_bytes += self.tail.len();
            self.sealed.push_back(self.tail.split().freeze());
        }
    }

    /// Writes all of it. Fails if the other side does not take a single byte for [`WRITE_STALL_MAX`].
    pub(super) async fn write_to(&mut self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        self.seal();
        while self.has_remaining() {
            if timeout(WRITE_STALL_MAX, to.write_buf(self)).await?? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        to.flush().await
    }
}

/// Only sealed pieces are there to be read; `write_to` seals first.
impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.sealed_bytes
    }

    fn chunk(&self) -> &[u8] {
        self.sealed.front().map_or(&[], |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        slices.iter_mut().zip(&self.sealed).map(|(slice, piece)| *slice = IoSlice::new(piece)).count()
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.sealed_bytes, "{count} of {} bytes were written", self.sealed_bytes);
        self.sealed_bytes -= count;
        while count > 0 {
            let piece = self.sealed.front_mut().expect("the pieces add up to their bytes");
            if count < piece.len() {
                return piece.advance(count);
            }
            count -= piece.len();
            self.sealed.pop_front();
        }
    }
}
