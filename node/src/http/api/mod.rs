//! The HTTP API: from a route to its handler, with what holds for all of them.
//!
//! ```text
//!   request ─► route ─► method? ─► draining? overloaded? ─► objects · buckets · carts · cluster ─► response
//!                └────────── a Problem at any step is the response ──────────────┘
//! ```
//!
//! Every handler answers `Result<Response, Problem>`; here the problem gets its request's id, a panic becomes a `500`,
//! and what happened is measured. Requests for data are counted and refused above a bound; what tells of the node's
//! health is not, because it matters most when everything else is refused.

mod buckets;
mod cart_body;
mod cart_view;
mod carts;
mod cluster;
mod directory;
mod envelope;
mod failure;
mod get;
mod health;
mod hints;
mod listing;
mod metrics_text;
mod objects;
mod plan;
mod put;
mod repair;
mod reply;
mod set_aside;
mod transfers;
pub mod waiting;

use super::body::{ReplyBody, read_body};
use super::gate::Gate;
use super::metrics::Requests;
use super::path::{Kind, Route, route};
use super::problem::{Code, Ctx, Outcome, Problem, Retry, Scope, X_REQUEST_ID, catch_panic};
use crate::limits::{BODY_BYTES_IN_FLIGHT_MAX, POLLERS_MAX, REPLY_BYTES_IN_FLIGHT_MAX, REPLY_BYTES_SMALL};
use crate::node::{Node, REMOVED};
use crate::world::World;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Body;
use ring::time::Time;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// What every handler answers.
type Answer = Result<Response<ReplyBody>, Problem>;

/// After so long an overloaded or stopping node may be asked again.
const RETRY_AFTER_MS: u64 = 1000;

/// What the API is told at the start.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The largest value.
    pub value_bytes: u64,
    /// The most requests for data at once.
    pub in_flight: usize,
    /// How long a request may take that does not say.
    pub request: Duration,
    /// How long a request's body may take.
    pub body: Duration,
}

/// The API of one node.
pub struct Api<W: World> {
    node: Node<W>,
    limits: Options,
    /// When it began to serve.
    started: Time,
    shared: Arc<Shared>,
}

struct Shared {
    scope: Arc<Scope>,
    requests: Requests,
    /// Where clients wait that were refused since too much was in flight.
    gate: Arc<Gate>,
    pollers: Semaphore,
    /// Room for bodies, in KiB.
    bodies: Semaphore,
    /// Room for answers that are not read yet, in KiB.
    replies: Arc<Semaphore>,
}

impl<W: World> Clone for Api<W> {
    fn clone(&self) -> Self {
        Api {
            node: self.node.clone(),
            limits: self.limits,
            started: self.started,
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<W: World> Api<W> {
    /// The API of this node. `scope` says who answers, and numbers requests.
    pub fn new(node: Node<W>, options: Options, scope: Arc<Scope>) -> Self {
        let shared = Shared {
            scope,
            requests: Requests::default(),
            gate: Arc::default(),
            pollers: Semaphore::new(POLLERS_MAX),
            bodies: Semaphore::new((BODY_BYTES_IN_FLIGHT_MAX >> 10) as usize),
            replies: Arc::new(Semaphore::new((REPLY_BYTES_IN_FLIGHT_MAX >> 10) as usize)),
        };
        let started = node.now();
        Api { node, limits: options, started, shared: Arc::new(shared) }
    }

    /// Answers a request; whatever goes wrong is an answer too.
    pub async fn handle<B>(&self, req: Request<B>) -> Response<ReplyBody>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let ctx = self.shared.scope.ctx(req.headers());
        let (began, method, uri) = (self.node.now(), req.method().clone(), req.uri().clone());
        let (kind, mut response) = match route(uri.path()) {
            Ok(_) if is_homeless(&req) => (Kind::Unknown, homeless().respond(&ctx)),
            Ok(route) => (route.kind(), catch_panic(&ctx, self.answer(&ctx, route, req)).await),
            Err(problem) => (Kind::Unknown, problem.respond(&ctx)),
        };
        if let Some(id) = ctx.given_id() {
            response.headers_mut().insert(X_REQUEST_ID, id.clone());
        }
        self.shared.requests.record(kind, &method, response.status(), self.node.now() - began);
        response
    }

    async fn answer<B>(&self, ctx: &Ctx, route: Route<'_>, req: Request<B>) -> Response<ReplyBody>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let (changes, kind) = (!matches!(*req.method(), Method::GET | Method::HEAD), route.kind());
        let admitted = route.check_method(req.method()).and_then(|()| self.admit(route.kind()));
        let answer = match admitted {
            Ok(_in_flight) => self.dispatch(ctx, route, req).await,
            Err(problem) if problem.code() == Code::Overloaded => {
                let mut refusal = problem.respond(ctx);
                refusal.extensions_mut().insert(Arc::clone(&self.shared.gate));
                return refusal;
            }
            Err(problem) => Err(problem),
        };
        let answer = answer.and_then(|response| self.hold(response, changes, kind));
        answer.unwrap_or_else(|problem| problem.respond(ctx))
    }

    /// Counts a large answer until its last byte has left: a client that reads slowly keeps it in memory. Where there is no room for it,
    /// what has been done is told without its body (204 in place of 200): it is acknowledged all the same. Anything else is refused. What an
    /// operator has done goes as it is.
    fn hold(&self, mut response: Response<ReplyBody>, changes: bool, kind: Kind) -> Answer {
        let ReplyBody::Full(bytes) = response.body() else { return Ok(response) };
        if bytes.len() <= REPLY_BYTES_SMALL {
            return Ok(response);
        }
        // One that is larger than the room goes when it is alone.
        let kib = ((bytes.len() as u64 >> 10) + 1).min(REPLY_BYTES_IN_FLIGHT_MAX >> 10);
        let kib = u32::try_from(kib).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&self.shared.replies).try_acquire_many_owned(kib) else {
            if changes && response.status().is_success() {
                return Ok(if is_data(kind) { without_body(response) } else { response });
            }
            return Err(overloaded(
                "answers that clients have not read fill the room that they have".to_owned(),
            ));
        };
        let held = Unread { bytes: bytes.clone(), _room: room };
        *response.body_mut() = ReplyBody::Full(Bytes::from_owner(held));
        Ok(response)
    }

    async fn dispatch<B>(&self, ctx: &Ctx, route: Route<'_>, req: Request<B>) -> Answer
    where
        B: Body<Data = Bytes> + Unpin,
    {
        match route.kind() {
            Kind::Object | Kind::Keys => objects::handle(self, ctx, route, req).await,
            Kind::Buckets | Kind::Bucket => buckets::handle(self, ctx, route, req).await,
            Kind::Cart | Kind::CartItems | Kind::CartItem | Kind::CartMerge => {
                carts::handle(self, ctx, route, req).await
            }
            Kind::Repair | Kind::RepairJob => repair::handle(self, route, req).await,
            Kind::Plan | Kind::Commit => plan::handle(self, route, req).await,
            Kind::ObjectUpdate | Kind::Batch | Kind::Watch => Err(not_implemented(route.kind())),
            _ => cluster::handle(self, ctx, route, req).await,
        }
    }

    /// Counts a request in, unless it is for data and the node stops or has too many.
    fn admit(&self, kind: Kind) -> Result<InFlight<'_, W>, Problem> {
        // Counted first, so that many at once can't all find the last place free.
        let before = self.node.in_flight.fetch_add(1, Ordering::Relaxed);
        match self.check_admission(kind, before) {
            Ok(()) => Ok(InFlight(self)),
            Err(problem) => {
                self.node.in_flight.fetch_sub(1, Ordering::Relaxed);
                Err(problem)
            }
        }
    }

    fn check_admission(&self, kind: Kind, before: usize) -> Result<(), Problem> {
        if !is_data(kind) {
            return Ok(());
        }
        self.node.is_waited_for();
        if self.node.is_draining() {
            return Err(draining(STOPPING));
        }
        if self.node.cluster.snapshot().is_removed(self.node.id()) {
            return Err(draining(REMOVED));
        }
        if before >= self.limits.in_flight {
            return Err(overloaded(format!("{before} requests are in flight already")));
        }
        Ok(())
    }

    /// Reserves room for a body; a length that is not told counts as the limit.
    fn room<B: Body>(&self, body: &B, limit: u64) -> Result<SemaphorePermit<'_>, Problem> {
        let bytes = body.size_hint().exact().unwrap_or(limit).min(limit);
        let kib = u32::try_from((bytes >> 10) + 1).unwrap_or(u32::MAX);
        let full = |_| overloaded("the bodies in flight fill the room that they have".to_owned());
        self.shared.bodies.try_acquire_many(kib).map_err(full)
    }

    /// Reads a body of at most `limit` bytes.
    async fn body<B>(&self, body: B, limit: u64) -> Result<Bytes, Problem>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        read_body(body, limit, self.limits.body).await
    }
}

/// An answer with the room that it takes.
struct Unread {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Unread {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A request that is being answered.
struct InFlight<'a, W: World>(&'a Api<W>);

impl<W: World> Drop for InFlight<'_, W> {
    fn drop(&mut self) {
        let before = self.0.node.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.0.shared.gate.done(before <= self.0.limits.in_flight / 2);
    }
}

/// HTTP/1.1 without a `Host` (RFC 9112, 3.2): what lies between may have taken it for another request.
fn is_homeless<B>(req: &Request<B>) -> bool {
    req.version() == Version::HTTP_11 && !req.headers().contains_key(HOST) && req.uri().host().is_none()
}

fn homeless() -> Problem {
    Problem::parameter("host", "nothing", "the Host header, which HTTP/1.1 asks for")
        .header(CONNECTION, HeaderValue::from_static("close"))
}

fn is_data(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Object
            | Kind::ObjectUpdate
            | Kind::Keys
            | Kind::Batch
            | Kind::Watch
            | Kind::Buckets
            | Kind::Bucket
            | Kind::Cart
            | Kind::CartItems
            | Kind::CartItem
            | Kind::CartMerge
    )
}

const STOPPING: &str = "this node is stopping; another one serves";

fn draining(why: impl Into<String>) -> Problem {
    Problem::new(Code::Draining, why.into())
        .outcome(Outcome::NotApplied)
        .retry(Retry::Safe)
        .retry_after_ms(RETRY_AFTER_MS)
}

/// The same answer, of which only the head is sent.
fn without_body(mut response: Response<ReplyBody>) -> Response<ReplyBody> {
    if response.status() == StatusCode::OK {
        *response.status_mut() = StatusCode::NO_CONTENT;
    }
    for about_body in [CONTENT_TYPE, CONTENT_LENGTH] {
        response.headers_mut().remove(about_body);
    }
    *response.body_mut() = ReplyBody::empty();
    response
}

fn overloaded(detail: String) -> Problem {
    Problem::new(Code::Overloaded, detail)
        .outcome(Outcome::NotApplied)
        .retry(Retry::Safe)
        .retry_after_ms(RETRY_AFTER_MS)
}

fn not_implemented(kind: Kind) -> Problem {
    Problem::new(Code::NotImplemented, format!("{} is not supported", kind.name()))
        .outcome(Outcome::NotApplied)
        .retry(Retry::No)
}
