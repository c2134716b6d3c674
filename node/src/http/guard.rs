//! What stands between a client's connection and hyper: it watches the pace and gives hyper's bare refusals a body.
//!
//! ```text
//!   socket ◄─► Guard ◄─► hyper ◄─► handler          Pulse: what Guard and handler saw, read by listen.rs
//! ```
//!
//! hyper's own head time-out starts a timer for each request and can't tell a client that thinks from one that
//! trickles half a request. Here each connection has one lazy timer (see `listen.rs`), and the [`Pulse`] says what
//! it should stand for; a request that arrives in one piece touches no timer at all.
//!
//! A request that hyper can't parse is answered by hyper with `400`, `414` or `431`, no body, and a close. Those
//! answers never pass a handler, so they are known by their first bytes here, and replaced by a problem.

use super::problem::{Code, Outcome, Problem, Retry};
use bytes::{Buf, Bytes};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a connection is doing. One task writes and reads it, hence the relaxed order.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    /// Requests that reached the handler.
    served: AtomicU64,
    /// Reads and writes that moved something.
    moved: AtomicU64,
    /// The handler has a request and has not answered.
    in_service: AtomicBool,
    /// Bytes of a next request have arrived, and no request came of them yet.
    head_pending: AtomicBool,
}

impl Pulse {
    pub(super) fn request(&self) {
        self.served.fetch_add(1, Relaxed);
        self.head_pending.store(false, Relaxed);
        self.in_service.store(true, Relaxed);
    }

    pub(super) fn answered(&self) {
        self.in_service.store(false, Relaxed);
    }

    pub(super) fn in_service(&self) -> bool {
        self.in_service.load(Relaxed)
    }

    pub(super) fn head_pending(&self) -> bool {
        self.head_pending.load(Relaxed)
    }

    pub(super) fn served(&self) -> u64 {
        self.served.load(Relaxed)
    }

    pub(super) fn moved(&self) -> u64 {
        self.moved.load(Relaxed)
    }
}

/// The connection as hyper sees it.
pub(super) struct Guard<S> {
    inner: S,
    pulse: Arc<Pulse>,
    refusal: Refusal,
}

enum Refusal {
    None,
    Sending(Bytes),
    Sent,
}

impl<S> Guard<S> {
    pub(super) fn new(inner: S, pulse: Arc<Pulse>) -> Guard<S> {
        Guard { inner, pulse, refusal: Refusal::None }
    }

    /// Whether these bytes are an answer that hyper wrote by itself. A handler's answer with such a status has a
    /// body, so its length is not 0.
    fn is_refusal(&self, buf: &[u8]) -> bool {
        self.pulse.head_pending()
            && !self.pulse.in_service()
            && refused(buf).is_some()
            && buf.windows(EMPTY.len()).any(|part| part == EMPTY)
    }
}

const EMPTY: &[u8] = b"content-length: 0\r\n";

fn refused(buf: &[u8]) -> Option<(Code, &'static str)> {
    match buf.get(..13)? {
        b"HTTP/1.1 400 " | b"HTTP/1.0 400 " => {
            Some((Code::InvalidRequest, "the request could not be parsed as HTTP/1.1"))
        }
        b"HTTP/1.1 414 " | b"HTTP/1.0 414 " | b"HTTP/1.1 431 " | b"HTTP/1.0 431 " => {
            Some((Code::HeadersTooLarge, "the request's line and headers are larger than the limit"))
        }
        _ => None,
    }
}

fn refusal(code: Code, detail: &str) -> Bytes {
    let problem = Problem::new(code, detail).outcome(Outcome::NotApplied).retry(Retry::No);
    let (status, body) = (code.status(), problem.into_json());
    let mut all = format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/problem+json\r\nx-content-type-options: nosniff\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or_default(),
        body.len()
    )
    .into_bytes();
    all.extend_from_slice(&body);
    all.into()
}

impl<S: AsyncRead + Unpin> AsyncRead for Guard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.pulse.moved.fetch_add(1, Relaxed);
            if !self.pulse.in_service() {
                self.pulse.head_pending.store(true, Relaxed);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Guard<S> {
    /// Sends what is left of a refusal.
    fn poll_refusal(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Refusal::Sending(rest) = &mut self.refusal {
            if rest.is_empty() {
                self.refusal = Refusal::Sent;
                break;
            }
            let n = ready!(Pin::new(&mut self.inner).poll_write(cx, rest))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            rest.advance(n);
        }
        Poll::Ready(Ok(()))
    }

    /// Swallows hyper's refusal and sends ours. `None`: these bytes are none, write them as they are.
    fn poll_replace(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Option<Poll<io::Result<()>>> {
        if matches!(self.refusal, Refusal::None) && !self.is_refusal(buf) {
            return None;
        }
        if let (Refusal::None, Some((code, detail))) = (&self.refusal, refused(buf)) {
            self.refusal = Refusal::Sending(refusal(code, detail));
        }
        Some(self.poll_refusal(cx))
    }

    fn wrote(&self, done: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(1..)) = done {
            self.pulse.moved.fetch_add(1, Relaxed);
        }
        done
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(replaced) = self.poll_replace(cx, buf) {
            ready!(replaced)?;
            return Poll::Ready(Ok(buf.len()));
        }
        let done = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.wrote(done)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = bufs.first().map_or(&[][..], |buf| buf);
        if let Some(replaced) = self.poll_replace(cx, first) {
            ready!(replaced)?;
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        let done = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.wrote(done)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_refusal(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_refusal(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
