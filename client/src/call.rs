//! The client itself: which node is asked, how long, and how often.
//!
//! A client holds the URLs of some nodes and asks the one that answered last. On a failure that may be repeated it
//! goes on to the next. One attempt lasts at most [`ATTEMPT_TIMEOUT`], a call at most one attempt for each node and
//! two more, with pauses of at most two seconds: with three nodes 5 × 10 s + 4 × 2 s at the very worst.

use crate::error::{Error, Outcome, Problem, Result};
use crate::path::{self, Target};
use crate::retry::{self, Repeat};
use crate::transport::{
    FailureKind, HttpTransport, Method, Request, ReqwestTransport, Response, TransportError,
};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How long one attempt may last. Longer than a node's own deadline, because its answer says what became of the write
/// and our own impatience does not.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// What an attempt gets beyond the `timeout_ms` that was sent along.
const TIMEOUT_SLACK: Duration = Duration::from_secs(1);

/// A client of a cluster. A clone shares connections and the memory of which node answered.
pub struct Client<T = ReqwestTransport> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    urls: Vec<String>,
    /// The index of the node that answered last.
    preferred: AtomicUsize,
    token: Option<String>,
    attempt_timeout: Duration,
    transport: T,
}

impl Client<ReqwestTransport> {
    /// A client that asks these nodes over the real network, the first one first.
    pub fn new(urls: Vec<String>) -> Result<Self> {
        let transport = ReqwestTransport::new().map_err(|error| Error::Invalid(error.message))?;
        Self::with_transport(urls, transport)
    }
}

impl<T: HttpTransport> Client<T> {
    /// A client that asks these nodes over a transport of the caller's.
    pub fn with_transport(urls: Vec<String>, transport: T) -> Result<Self> {
        let urls: Result<Vec<String>> =
            urls.iter().map(|url| path::base_url(url).map_err(Error::Invalid)).collect();
        let urls = urls?;
        if urls.is_empty() {
            return Err(Error::Invalid("a client needs the URL of at least one node".into()));
        }
        let preferred = AtomicUsize::new(0);
        let shared = Shared { urls, preferred, token: None, attempt_timeout: ATTEMPT_TIMEOUT, transport };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Sends this bearer token along. To be called before the client is cloned.
    pub fn with_token(self, token: Option<String>) -> Self {
        self.set_up(|shared| shared.token = token)
    }

    /// Gives every attempt this long instead of ten seconds. To be called before the client is cloned.
    pub fn with_attempt_timeout(self, timeout: Duration) -> Self {
        self.set_up(|shared| shared.attempt_timeout = timeout)
    }

    /// The nodes of this client.
    pub fn urls(&self) -> &[String] {
        &self.shared.urls
    }

    fn set_up(mut self, change: impl FnOnce(&mut Shared<T>)) -> Self {
        change(Arc::get_mut(&mut self.shared).expect("a client is set up before it is cloned"));
        self
    }

    /// Sends the call until it is answered, can't be repeated, or the attempts are used up.
    pub(crate) async fn send(&self, call: Call) -> Result<Answer> {
        let nodes = self.shared.urls.len();
        let mut node = self.shared.preferred.load(Ordering::Relaxed);
        let mut in_doubt = false;
        let mut attempt = 0;
        loop {
            let error = match self.attempt(&call, node).await {
                Ok(answer) => {
                    self.shared.preferred.store(node, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let Some(pause) = retry::pause(&error, call.repeat, attempt, nodes, &call.target) else {
                return Err(if in_doubt { error.in_doubt() } else { error });
            };
            in_doubt |= call.writes() && error.outcome() == Outcome::Indeterminate;
            node = (node + 1) % nodes;
            attempt += 1;
            tokio::time::sleep(pause).await;
        }
    }

    async fn attempt(&self, call: &Call, node: usize) -> Result<Answer> {
        let url = &self.shared.urls[node];
        let request = self.request(call, url);
        let timeout = request.timeout;
        let sent = tokio::time::timeout(timeout, self.shared.transport.send(request)).await;
        let response = match sent {
            Ok(Ok(response)) => response,
            Ok(Err(source)) if source.kind == FailureKind::Invalid => {
                return Err(Error::Invalid(source.message));
            }
            Ok(Err(source)) => return Err(unanswered(call, url, source)),
            Err(_) => {
                let message = format!("no answer within {} ms", timeout.as_millis());
                return Err(unanswered(call, url, TransportError::new(FailureKind::Timeout, message)));
            }
        };
        match response.status {
            200..=399 => Ok(Answer { url: url.clone(), writes: call.writes(), response }),
            404 if call.absence_is_an_answer && Problem::read(&response, false).code == "not_found" => {
                Ok(Answer { url: url.clone(), writes: call.writes(), response })
            }
            _ => Err(Error::Problem(Box::new(Problem::read(&response, call.writes())))),
        }
    }

    fn request(&self, call: &Call, url: &str) -> Request {
        let mut headers = call.headers.clone();
        if let Some(token) = &self.shared.token {
            headers.push(("authorization".into(), format!("Bearer {token}").into()));
        }
        let timeout = match call.timeout_ms {
            Some(asked_ms) => Duration::from_millis(asked_ms).saturating_add(TIMEOUT_SLACK),
            None => self.shared.attempt_timeout,
        };
        let (base, target, body) = (url.to_owned(), call.target.clone(), call.body.clone());
        Request { method: call.method, base, target, headers, body, timeout }
    }
}

fn unanswered(call: &Call, url: &str, source: TransportError) -> Error {
    let in_doubt = call.writes() && source.may_have_arrived();
    let outcome = if in_doubt { Outcome::Indeterminate } else { Outcome::NotApplied };
    Error::Transport { url: url.to_owned(), source, outcome }
}

impl<T> Clone for Client<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

/// A request before it is known which node gets it.
pub(crate) struct Call {
    pub(crate) method: Method,
    target: String,
    headers: Vec<(String, Bytes)>,
    body: Bytes,
    repeat: Repeat,
    timeout_ms: Option<u64>,
    absence_is_an_answer: bool,
}

impl Call {
    pub(crate) fn get(target: Target) -> Self {
        Self::new(Method::Get, target, Repeat::Harmless)
    }

    pub(crate) fn new(method: Method, target: Target, repeat: Repeat) -> Self {
        let target = target.into_text();
        let (headers, body) = (Vec::new(), Bytes::new());
        Self { method, target, headers, body, repeat, timeout_ms: None, absence_is_an_answer: false }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<Bytes>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn body(mut self, content_type: &str, body: Bytes) -> Self {
        self.body = body;
        self.header("content-type", content_type.to_owned())
    }

    pub(crate) fn json(self, body: &serde_json::Value) -> Self {
        self.body("application/json", body.to_string().into())
    }

    pub(crate) fn timeout_ms(mut self, timeout_ms: Option<u64>) -> Self {
        self.timeout_ms = timeout_ms;
        self
    }

    /// A `404 not_found` is then handed to the caller as an answer.
    pub(crate) fn absence_is_an_answer(mut self) -> Self {
        self.absence_is_an_answer = true;
        self
    }

    fn writes(&self) -> bool {
        self.method != Method::Get
    }
}

/// An answer, and enough of its story to complain about it.
pub(crate) struct Answer {
    url: String,
    writes: bool,
    pub(crate) response: Response,
}

impl Answer {
    pub(crate) fn json<D: DeserializeOwned>(&self) -> Result<D> {
        serde_json::from_slice(&self.response.body).map_err(|error| self.unreadable(error))
    }

    /// The answer of a node that did what was asked, but whose words can't be read: a write is done all the same.
    pub(crate) fn unreadable(&self, why: impl ToString) -> Error {
        let outcome = if self.writes { Outcome::Applied } else { Outcome::NotApplied };
        Error::Decode { url: self.url.clone(), detail: why.to_string(), outcome }
    }
}
