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
//!
//! Whoever is refused may still be sending. Closing with unread bytes makes the kernel reset the connection, and the
//! reset overtakes the answer: a client that sends 5 MiB would see a broken pipe and no `413`. So after such an
//! answer the close lingers: our side is shut, and what still comes is read and thrown away, within bounds.

use super::gate::Gate;
use super::problem::{Code, Outcome, Problem, Retry, Scope};
use bytes::{Buf, Bytes};
use http::HeaderMap;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is read and thrown away after a refusal: as much as the largest value, so that its sender sees the answer.
const LINGER_BYTES_MAX: u64 = crate::config::VALUE_BYTES_CEILING;
/// Read at once while lingering.
const LINGER_CHUNK_BYTES: usize = 16 * 1024;

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
    /// The last answer refused a request whose body may still be on its way.
    refused: AtomicBool,
    /// Where the client has to wait that the last answer has refused.
    gate: Mutex<Option<Arc<Gate>>>,
    /// The answer is out, our side is shut, the rest is thrown away.
    lingering: AtomicBool,
}

impl Pulse {
    pub(super) fn request(&self) {
        self.served.fetch_add(1, Relaxed);
        self.head_pending.store(false, Relaxed);
        self.in_service.store(true, Relaxed);
    }

    /// `refused`: an error, to a request with a body.
    pub(super) fn answered(&self, refused: bool) {
        self.in_service.store(false, Relaxed);
        self.refused.store(refused, Relaxed);
    }

    /// The client that was just answered has to wait there.
    pub(super) fn wait_at(&self, gate: Arc<Gate>) {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner).replace(gate);
    }

    /// Where the client has to wait, once.
    pub(super) fn has_to_wait(&self) -> Option<Arc<Gate>> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn lingering(&self) -> bool {
        self.lingering.load(Relaxed)
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
    scope: Option<Arc<Scope>>,
    refusal: Refusal,
    /// The client has shut its side.
    ended: bool,
    /// How much more is thrown away.
    linger_bytes: u64,
}

enum Refusal {
    None,
    Sending(Bytes),
    Sent,
}

impl<S> Guard<S> {
    pub(super) fn new(inner: S, pulse: Arc<Pulse>, scope: Option<Arc<Scope>>) -> Guard<S> {
        Guard { inner, pulse, scope, refusal: Refusal::None, ended: false, linger_bytes: LINGER_BYTES_MAX }
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

fn refusal(code: Code, detail: &str, scope: Option<&Arc<Scope>>) -> Bytes {
    let problem = Problem::new(code, detail).outcome(Outcome::NotApplied).retry(Retry::No);
    // Nothing of the request is known; it still gets a number, so that a person can ask about it.
    let (status, body) = (code.status(), problem.into_json(scope.map(|s| s.ctx(&HeaderMap::new())).as_ref()));
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
        } else if buf.remaining() > 0 {
            self.ended = true;
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
            self.refusal = Refusal::Sending(refusal(code, detail, self.scope.as_ref()));
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

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<S> {
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
        ready!(Pin::new(&mut self.inner).poll_shutdown(cx))?;
        if !self.ended && (self.pulse.refused.load(Relaxed) || matches!(self.refusal, Refusal::Sent)) {
            self.pulse.lingering.store(true, Relaxed);
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> Guard<S> {
    /// Throws away what still comes, until the client has had enough, or we.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut chunk = [0; LINGER_CHUNK_BYTES];
        while self.linger_bytes > 0 {
            let mut buf = ReadBuf::new(&mut chunk);
            let read = ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buf));
            let count = buf.filled().len() as u64;
            if read.is_err() || count == 0 {
                break;
            }
            self.linger_bytes = self.linger_bytes.saturating_sub(count);
        }
        self.ended = true;
        Poll::Ready(())
    }
}
