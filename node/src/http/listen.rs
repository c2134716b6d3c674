//! The accept loop: own, because `axum::serve` has no time-outs, no cap and no end to its drain.
//!
//! ```text
//!   permit ──► accept ──► task { hyper http1 over Guard, one lazy timer } ──► handler(request)
//!     ▲                     │
//!     └──── given back ─────┘         shutdown: stop accepting, finish what is in flight, then cut
//! ```
//!
//! A permit is taken before `accept`: what comes above the cap waits in the system's backlog, where it costs this
//! process nothing. There is no cap per address: behind one proxy or in one container network all clients share
//! one. A client that sends half a request and falls silent is closed after `head`, one that keeps an unused or
//! stalled connection after one to two spans of `idle`. The timer of a connection is set when it fires or when a
//! head stays incomplete, never for a request that arrives whole: it stays off the hot path.
//!
//! A client that was refused because the node has too much to do is not read until its turn comes (`gate.rs`).

use super::body::ReplyBody;
use super::gate::Gate;
use super::guard::{Guard, Pulse};
use super::problem::Scope;
use crate::world::Listener;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Sleep, sleep, timeout};

/// hyper's buffer for each direction: 64 KiB × 2 × 1,024 connections = 128 MiB at worst.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// The pause after a failed `accept` (mostly: out of file descriptors), so that the loop does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// How long a client that was refused may go on sending before it is cut: a slow client, a large value.
const LINGER: Duration = Duration::from_secs(2);

/// The bounds of a listener.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Within this a request's head must be whole, counted from its first byte (or from the connect).
    pub head: Duration,
    /// A connection on which nothing moves for this long is closed.
    pub idle: Duration,
    /// The largest head in bytes.
    pub head_bytes: usize,
    /// The most connections at once.
    pub connections: usize,
    /// How long the drain may take.
    pub drain: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            head: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            head_bytes: 16 * 1024,
            connections: 1024,
            drain: Duration::from_secs(10),
        }
    }
}

/// Serves until `shutdown` turns true (or its sender is gone), then drains. Returns how many connections were cut
/// because they did not finish in time. `scope` numbers the refusals of what could not be parsed.
pub async fn serve<L, H, F>(
    mut listener: L,
    bounds: Bounds,
    shutdown: watch::Receiver<bool>,
    scope: Option<Arc<Scope>>,
    handler: H,
) -> usize
where
    L: Listener,
    L::Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<ReplyBody>> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(bounds.connections));
    let (cut, cut_seen) = watch::channel(false);
    let mut stopping = shutdown.clone();
    let mut stopped = pin!(async move {
        let _sender_gone_means_stop = stopping.wait_for(|stop| *stop).await;
    });
    loop {
        let accepted = async {
            let permit = Arc::clone(&permits).acquire_owned().await.expect("nobody closes the semaphore");
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            biased;
            () = &mut stopped => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = connection(stream, bounds, shutdown.clone(), scope.clone(), handler.clone());
                let mut cut = cut_seen.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        biased;
                        () = connection => (),
                        _ = cut.wait_for(|cut| *cut) => (),
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                drop(permit);
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
    drop(listener);
    drain(&permits, bounds, &cut).await
}

async fn drain(permits: &Semaphore, bounds: Bounds, cut: &watch::Sender<bool>) -> usize {
    let all = u32::try_from(bounds.connections).unwrap_or(u32::MAX);
    if timeout(bounds.drain, permits.acquire_many(all)).await.is_ok() {
        return 0;
    }
    let left = bounds.connections.saturating_sub(permits.available_permits());
    cut.send_replace(true);
    tracing::warn!(connections = left, "connections were cut at the end of the drain");
    left
}

/// One connection, from its first byte to its last.
async fn connection<S, H, F>(
    stream: S,
    bounds: Bounds,
    mut shutdown: watch::Receiver<bool>,
    scope: Option<Arc<Scope>>,
    handler: H,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<ReplyBody>> + Send,
{
    let pulse = Arc::new(Pulse::default());
    let of_service = Arc::clone(&pulse);
    let service = service_fn(move |request: Request<Incoming>| {
        of_service.request();
        let has_body = !request.body().is_end_stream();
        let answer = handler(request);
        let pulse = Arc::clone(&of_service);
        async move {
            let mut answer = answer.await;
            let status = answer.status();
            pulse.answered(has_body && (status.is_client_error() || status.is_server_error()));
            if let Some(gate) = answer.extensions_mut().remove::<Arc<Gate>>() {
                pulse.wait_at(gate);
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let io = TokioIo::new(Guard::new(stream, Arc::clone(&pulse), scope));
    let mut http = pin!(
        http1::Builder::new()
            .header_read_timeout(None)
            .max_header_size(bounds.head_bytes)
            .max_buf_size(BUFFER_BYTES_MAX)
            .serve_connection(io, service)
    );
    let mut stopping = pin!(async move {
        let _sender_gone_means_stop = shutdown.wait_for(|stop| *stop).await;
    });
    let mut draining = false;
    let mut watchdog = pin!(Watchdog::new(&pulse, bounds));
    let mut pause: Option<BoxFuture<'static, ()>> = None;
    poll_fn(|cx| {
        if !draining && stopping.as_mut().poll(cx).is_ready() {
            draining = true;
            http.as_mut().graceful_shutdown();
        }
        loop {
            if !draining && pause.as_mut().is_some_and(|pause| pause.as_mut().poll(cx).is_pending()) {
                return Poll::Pending;
            }
            pause = None;
            if let Poll::Ready(done) = http.as_mut().poll(cx) {
                if let Err(error) = done {
                    tracing::debug!(%error, "a connection ended early");
                }
                return Poll::Ready(());
            }
            match pulse.has_to_wait() {
                Some(gate) if !pulse.lingering() && !pulse.in_service() => {
                    pause = Some(Box::pin(gate.wait()))
                }
                // What a refused client is still sending is thrown away at once; and one who had sent his next request already is being
                // served.
                _ => return watchdog.as_mut().poll_expired(cx),
            }
        }
    })
    .await;
}

/// The one timer of a connection.
struct Watchdog<'a> {
    pulse: &'a Pulse,
    bounds: Bounds,
    sleep: Pin<Box<Sleep>>,
    armed: Armed,
}

/// What the timer stands for.
#[derive(PartialEq)]
enum Armed {
    /// The head of request number `served` must be whole.
    Head { served: u64 },
    /// Something must have moved since then.
    Moved { moved: u64 },
    /// A client that was refused may send on until then.
    Linger,
}

impl<'a> Watchdog<'a> {
    /// A new connection owes its first head.
    fn new(pulse: &'a Pulse, bounds: Bounds) -> Self {
        Watchdog { pulse, bounds, sleep: Box::pin(sleep(bounds.head)), armed: Armed::Head { served: 0 } }
    }

    /// Ready when the connection has been silent for too long. Called after hyper did what it could.
    fn poll_expired(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.pulse.lingering() && self.armed != Armed::Linger {
            self.sleep = Box::pin(sleep(LINGER));
            self.armed = Armed::Linger;
        }
        let owed = Armed::Head { served: self.pulse.served() };
        if self.pulse.head_pending() && !self.pulse.lingering() && self.armed != owed {
            self.sleep = Box::pin(sleep(self.bounds.head));
            self.armed = owed;
        }
        while self.sleep.as_mut().poll(cx).is_ready() {
            let expired = match self.armed {
                Armed::Linger => true,
                Armed::Head { served } => self.pulse.served() == served,
                Armed::Moved { moved } => self.pulse.moved() == moved && !self.pulse.in_service(),
            };
            if expired {
                return Poll::Ready(());
            }
            self.armed = Armed::Moved { moved: self.pulse.moved() };
            self.sleep = Box::pin(sleep(self.bounds.idle));
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;
