//! Bodies, both ways: what is sent, and how what arrives is read without trusting the sender.
//!
//! A reply is nearly always some bytes that are already there. [`ReplyBody`] says so in an enum; `axum::body::Body`
//! would put every one of them in a box first.
//!
//! A request's body is held to three bounds: its size (before reading if it has a length, while reading if not),
//! its pace (1 KiB a second after a grace of 5 s, so that a value can't be trickled in for ever) and a deadline.
//! A body that came in one piece is handed on as it is; only a body in several pieces is put together.

use super::problem::{Code, Outcome, Problem, Retry};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// For so long a body may arrive at any pace.
pub const BODY_GRACE: Duration = Duration::from_secs(5);
/// After the grace a body must have brought this many bytes for each second: 64 MiB take at most 18 hours this way,
/// which is what the deadline is for.
pub const BODY_BYTES_PER_SECOND_MIN: u64 = 1024;
/// A length that a client claims is believed up to here when room is made for the body: 1 MiB.
const PREALLOCATE_BYTES_MAX: u64 = 1 << 20;

/// What an answer consists of.
pub enum ReplyBody {
    /// Some bytes, sent in one piece; empty means no body.
    Full(Bytes),
    /// Anything else: event streams, long lists.
    Stream(axum::body::Body),
}

impl ReplyBody {
    /// No body.
    pub fn empty() -> ReplyBody {
        ReplyBody::Full(Bytes::new())
    }
}

impl From<Bytes> for ReplyBody {
    fn from(bytes: Bytes) -> Self {
        ReplyBody::Full(bytes)
    }
}
impl From<Vec<u8>> for ReplyBody {
    fn from(bytes: Vec<u8>) -> Self {
        ReplyBody::Full(bytes.into())
    }
}
impl From<&'static str> for ReplyBody {
    fn from(text: &'static str) -> Self {
        ReplyBody::Full(Bytes::from_static(text.as_bytes()))
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match self.get_mut() {
            ReplyBody::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            ReplyBody::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            ReplyBody::Stream(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ReplyBody::Full(bytes) => bytes.is_empty(),
            ReplyBody::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ReplyBody::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            ReplyBody::Stream(body) => body.size_hint(),
        }
    }
}

/// Reads a whole body of at most `limit` bytes within `deadline`. Nothing was done when it fails.
///
/// hyper gives a request with a `Content-Length` an exact size hint, so a claim that is too large is refused before
/// a byte is read. A body shorter than its claim, or one with broken chunks, is `400 invalid_body`; one that stalls
/// is `504 timeout`.
#[expect(clippy::disallowed_methods, reason = "tokio's clock, which a simulation pauses and advances")]
pub async fn read_body<B>(mut body: B, limit: u64, deadline: Duration) -> Result<Bytes, Problem>
where
    B: Body<Data = Bytes> + Unpin,
{
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let claimed = body.size_hint().exact();
    if claimed.is_some_and(|len| len > limit) {
        return Err(too_large(limit));
    }
    let started = Instant::now();
    let mut taken = Taken::Nothing;
    loop {
        let next = timeout_at(due(started, taken.len(), deadline), body.frame()).await;
        let frame = match next {
            Err(_) => return Err(stalled(taken.len())),
            Ok(None) => break,
            Ok(Some(Err(_))) => return Err(truncated(taken.len())),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        if taken.len() + data.len() as u64 > limit {
            return Err(too_large(limit));
        }
        taken.push(data, claimed);
        if Some(taken.len()) == claimed {
            break;
        }
    }
    Ok(taken.into_bytes())
}

/// Until when the next piece must be there.
fn due(started: Instant, taken: u64, deadline: Duration) -> Instant {
    let pace = BODY_GRACE + Duration::from_secs(taken / BODY_BYTES_PER_SECOND_MIN);
    started + pace.min(deadline)
}

enum Taken {
    Nothing,
    One(Bytes),
    Many(BytesMut),
}

impl Taken {
    fn len(&self) -> u64 {
        match self {
            Taken::Nothing => 0,
            Taken::One(bytes) => bytes.len() as u64,
            Taken::Many(bytes) => bytes.len() as u64,
        }
    }

    fn push(&mut self, data: Bytes, claimed: Option<u64>) {
        match self {
            Taken::Nothing => *self = Taken::One(data),
            Taken::One(first) => {
                let least = (first.len() + data.len()) as u64;
                let room = claimed.unwrap_or(0).min(PREALLOCATE_BYTES_MAX).max(least);
                let mut all = BytesMut::with_capacity(usize::try_from(room).unwrap_or(0));
                all.extend_from_slice(first);
                all.extend_from_slice(&data);
                *self = Taken::Many(all);
            }
            Taken::Many(all) => all.extend_from_slice(&data),
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Taken::Nothing => Bytes::new(),
            Taken::One(bytes) => bytes,
            Taken::Many(bytes) => bytes.freeze(),
        }
    }
}

fn too_large(limit: u64) -> Problem {
    Problem::new(Code::ValueTooLarge, format!("the body is larger than the limit of {limit} bytes"))
        .field("limit", limit.into())
        .outcome(Outcome::NotApplied)
        .retry(Retry::No)
}

fn truncated(taken: u64) -> Problem {
    Problem::new(Code::InvalidBody, format!("the body broke off after {taken} bytes"))
        .outcome(Outcome::NotApplied)
        .retry(Retry::Safe)
}

fn stalled(taken: u64) -> Problem {
    Problem::new(Code::Timeout, format!("the body came too slowly: {taken} bytes so far"))
        .outcome(Outcome::NotApplied)
        .retry(Retry::Safe)
}

#[cfg(test)]
mod tests;
