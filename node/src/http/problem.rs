//! Every error that a client sees: one `application/problem+json` per code of the contract.
//!
//! ```text
//!   Problem::new(Code::WriteQuorumNotMet, "1 of 2 replicas answered")
//!       .counts(2, 1).outcome(Outcome::Indeterminate).retry(Retry::AfterRead)
//!       .respond(&ctx)      ──►  503, Retry-After, X-Request-Id, {"type":…,"code":…,"outcome":…}
//! ```
//!
//! An error tells what happened, what state it left and whether to try again; a field that does not apply is left
//! out. The code decides the status, so that no handler can pair them wrongly. A [`Problem`] is one boxed pointer:
//! a `Result` that carries it stays small on the way where nothing goes wrong. The request id is written only when
//! somebody reads it, which on that way is nobody.

use super::body::ReplyBody;
use axum::response::IntoResponse;
use futures_util::FutureExt;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, Response, StatusCode};
use serde::Serialize;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The header that carries a request's id, both ways.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest request id that is taken from a client; a longer one is replaced, not refused.
pub const REQUEST_ID_BYTES_MAX: usize = 64;

macro_rules! codes {
    ($($variant:ident $name:literal $status:ident $title:literal;)*) => {
        /// What went wrong, as a program reads it. The contract lists them in its section 4.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the name of each code is its documentation, and its title stands beside it")]
        pub enum Code { $($variant),* }

        impl Code {
            /// All codes, in the order of their status.
            pub const ALL: &[Code] = &[$(Code::$variant),*];
            /// The value of the field `code`.
            pub fn name(self) -> &'static str {
                match self { $(Code::$variant => $name),* }
            }
            /// The value of the field `type`.
            pub fn type_uri(self) -> &'static str {
                match self { $(Code::$variant => concat!("/problems/", $name)),* }
            }
            /// The one status that this code is sent with.
            pub fn status(self) -> StatusCode {
                match self { $(Code::$variant => StatusCode::$status),* }
            }
            /// The value of the field `title`.
            pub fn title(self) -> &'static str {
                match self { $(Code::$variant => $title),* }
            }
        }
    };
}

codes! {
    InvalidParameter "invalid_parameter" BAD_REQUEST "A parameter can't be used";
    InvalidContext "invalid_context" BAD_REQUEST "The causal context can't be used";
    InvalidBody "invalid_body" BAD_REQUEST "The body can't be used";
    InvalidRequest "invalid_request" BAD_REQUEST "The request is not HTTP";
    Unauthenticated "unauthenticated" UNAUTHORIZED "A token is needed";
    Forbidden "forbidden" FORBIDDEN "The token does not allow this";
    NotFound "not_found" NOT_FOUND "Not found";
    MethodNotAllowed "method_not_allowed" METHOD_NOT_ALLOWED "The method is not allowed here";
    NotAcceptable "not_acceptable" NOT_ACCEPTABLE "No form of the answer is acceptable";
    WrongType "wrong_type" CONFLICT "The bucket holds another type";
    PlanChanged "plan_changed" CONFLICT "The plan has changed";
    Conflict "conflict" CONFLICT "Something else came first";
    PreconditionFailed "precondition_failed" PRECONDITION_FAILED "The precondition does not hold";
    ValueTooLarge "value_too_large" PAYLOAD_TOO_LARGE "The value is too large";
    KeyTooLarge "key_too_large" PAYLOAD_TOO_LARGE "The key is too large";
    UnsupportedMediaType "unsupported_media_type" UNSUPPORTED_MEDIA_TYPE "The body's form is not supported";
    InvalidConfig "invalid_config" UNPROCESSABLE_ENTITY "The settings can't be used";
    SiblingLimit "sibling_limit" UNPROCESSABLE_ENTITY "The key has too many siblings";
    ContextRequired "context_required" PRECONDITION_REQUIRED "A causal context is needed";
    Overloaded "overloaded" TOO_MANY_REQUESTS "The node is overloaded";
    HeadersTooLarge "headers_too_large" REQUEST_HEADER_FIELDS_TOO_LARGE "The request's head is too large";
    Internal "internal" INTERNAL_SERVER_ERROR "A mistake of the server";
    NotImplemented "not_implemented" NOT_IMPLEMENTED "Not supported";
    ReadQuorumNotMet "read_quorum_not_met" SERVICE_UNAVAILABLE "Too few replicas answered the read";
    WriteQuorumNotMet "write_quorum_not_met" SERVICE_UNAVAILABLE "Too few replicas took the write";
    CoverageIncomplete "coverage_incomplete" SERVICE_UNAVAILABLE "A part of the ring can't be read";
    Draining "draining" SERVICE_UNAVAILABLE "The node takes no requests now";
    Timeout "timeout" GATEWAY_TIMEOUT "The time ran out";
    ContextNotReached "context_not_reached" GATEWAY_TIMEOUT "The wanted context was not reached in time";
    DiskFull "disk_full" INSUFFICIENT_STORAGE "The disk is full";
}

/// What a failed request left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing was changed.
    NotApplied,
    /// The value may still appear.
    Indeterminate,
    /// The value is there, although not as firmly as was asked for.
    Applied,
}

/// Whether to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// The same request may be sent again.
    Safe,
    /// Read first: a repetition may write a second time.
    AfterRead,
    /// It will fail again.
    No,
}

/// An answer that is not what was asked for.
pub struct Problem(Box<Inner>);

struct Inner {
    code: Code,
    detail: String,
    required: Option<u32>,
    acked: Option<u32>,
    outcome: Option<Outcome>,
    retry: Option<Retry>,
    retry_after_ms: Option<u64>,
    headers: Vec<(HeaderName, HeaderValue)>,
    extra: serde_json::Map<String, serde_json::Value>,
}

#[derive(Serialize)]
struct Wire<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    code: &'static str,
    detail: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    required: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    acked: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<Retry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a str>,
    #[serde(flatten)]
    extra: &'a serde_json::Map<String, serde_json::Value>,
}

impl Problem {
    /// A problem with nothing but its code and one sentence for a person.
    pub fn new(code: Code, detail: impl Into<String>) -> Problem {
        Problem(Box::new(Inner {
            code,
            detail: detail.into(),
            required: None,
            acked: None,
            outcome: None,
            retry: None,
            retry_after_ms: None,
            headers: Vec::new(),
            extra: serde_json::Map::new(),
        }))
    }

    /// `400 invalid_parameter`, with the parameter's name, what was found and what is allowed.
    pub fn parameter(name: &str, found: &str, allowed: &str) -> Problem {
        Problem::new(Code::InvalidParameter, format!("{name}: found {found:?}, allowed: {allowed}"))
    }

    /// `404` for a path that names nothing here.
    pub fn no_route() -> Problem {
        Problem::new(Code::NotFound, "no such path; GET / lists them")
    }

    /// `405` with what is allowed.
    pub fn method_not_allowed(allow: &'static str) -> Problem {
        Problem::new(Code::MethodNotAllowed, format!("allowed here: {allow}"))
            .header(ALLOW, HeaderValue::from_static(allow))
    }

    /// How many replicas were required, and how many had answered.
    #[must_use]
    pub fn counts(mut self, required: u32, acked: u32) -> Problem {
        self.0.required = Some(required);
        self.0.acked = Some(acked);
        self
    }

    /// What the request left behind.
    #[must_use]
    pub fn outcome(mut self, outcome: Outcome) -> Problem {
        self.0.outcome = Some(outcome);
        self
    }

    /// Whether to try again.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Problem {
        self.0.retry = Some(retry);
        self
    }

    /// When to try again; `429` and `503` also say it in `Retry-After`.
    #[must_use]
    pub fn retry_after_ms(mut self, span_ms: u64) -> Problem {
        self.0.retry_after_ms = Some(span_ms);
        self
    }

    /// A header that goes with the answer, as the context with a remembered delete.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Problem {
        self.0.headers.push((name, value));
        self
    }

    /// A field that only this code has, as `versions` of a failed precondition.
    #[must_use]
    pub fn field(mut self, name: &str, value: serde_json::Value) -> Problem {
        self.0.extra.insert(name.to_owned(), value);
        self
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The sentence for a person.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// The whole answer, stamped with the request's id and the node's.
    pub fn respond(self, ctx: &Ctx) -> Response<ReplyBody> {
        let id = ctx.request_id();
        let mut response = self.render(id.to_str().ok(), Some(ctx.node()));
        response.headers_mut().insert(X_REQUEST_ID, id);
        response
    }

    /// The body alone, for an answer that is written without hyper.
    pub(super) fn into_json(self, ctx: Option<&Ctx>) -> Vec<u8> {
        let id = ctx.map(Ctx::request_id);
        self.json(id.as_ref().and_then(|id| id.to_str().ok()), ctx.map(Ctx::node))
    }

    fn json(&self, request_id: Option<&str>, node: Option<&str>) -> Vec<u8> {
        let inner = &*self.0;
        let wire = Wire {
            r#type: inner.code.type_uri(),
            title: inner.code.title(),
            status: inner.code.status().as_u16(),
            code: inner.code.name(),
            detail: &inner.detail,
            message: &inner.detail,
            required: inner.required,
            acked: inner.acked,
            outcome: inner.outcome,
            retry: inner.retry,
            retry_after_ms: inner.retry_after_ms,
            request_id,
            node,
            extra: &inner.extra,
        };
        serde_json::to_vec(&wire).expect("text and numbers always serialize")
    }

    fn render(self, request_id: Option<&str>, node: Option<&str>) -> Response<ReplyBody> {
        let body = self.json(request_id, node);
        let Inner { code, retry_after_ms, headers, .. } = *self.0;
        let mut response = Response::new(ReplyBody::from(body));
        *response.status_mut() = code.status();
        let map = response.headers_mut();
        map.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        map.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Some(span_ms) = retry_after_ms
            && matches!(code.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
        {
            map.insert(RETRY_AFTER, HeaderValue::from(span_ms.div_ceil(1000).max(1)));
        }
        map.extend(headers);
        response
    }
}

impl fmt::Debug for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.0.code.status().as_u16(), self.0.code.name(), self.0.detail)
    }
}

/// Without a [`Ctx`]: for an axum handler that knows neither the request's id nor the node's.
impl IntoResponse for Problem {
    fn into_response(self) -> axum::response::Response {
        self.render(None, None).map(axum::body::Body::new)
    }
}

/// Who answers, and how its requests are numbered. One for each process.
#[derive(Debug)]
pub struct Scope {
    node: String,
    boot: u64,
    counter: AtomicU64,
}

impl Scope {
    /// `boot` is a random number: ids of two runs of one node must differ.
    pub fn new(node: impl Into<String>, boot: u64) -> Arc<Scope> {
        Arc::new(Scope { node: node.into(), boot, counter: AtomicU64::new(0) })
    }

    /// The context of a request that just arrived. Nothing is allocated.
    pub fn ctx(self: &Arc<Self>, headers: &HeaderMap) -> Ctx {
        let given = headers.get(X_REQUEST_ID).filter(|id| {
            !id.is_empty()
                && id.len() <= REQUEST_ID_BYTES_MAX
                && id.as_bytes().iter().all(u8::is_ascii_graphic)
        });
        let id = match given {
            Some(id) => RequestId::Given(id.clone()),
            None => RequestId::Made(self.counter.fetch_add(1, Ordering::Relaxed)),
        };
        Ctx { scope: Arc::clone(self), id }
    }
}

/// What a request carries from its arrival to its answer.
#[derive(Clone, Debug)]
pub struct Ctx {
    scope: Arc<Scope>,
    id: RequestId,
}

#[derive(Clone, Debug)]
enum RequestId {
    Given(HeaderValue),
    Made(u64),
}

impl Ctx {
    /// The client's `X-Request-Id`, or one that was made up here.
    pub fn request_id(&self) -> HeaderValue {
        match &self.id {
            RequestId::Given(id) => id.clone(),
            RequestId::Made(n) => HeaderValue::try_from(format!("{:016x}-{n}", self.scope.boot))
                .expect("hexadecimal digits are visible ascii"),
        }
    }

    /// The id that the client itself gave: an answer of any kind repeats it.
    pub fn given_id(&self) -> Option<&HeaderValue> {
        match &self.id {
            RequestId::Given(id) => Some(id),
            RequestId::Made(_) => None,
        }
    }

    /// The node that answers.
    pub fn node(&self) -> &str {
        &self.scope.node
    }
}

/// Runs a handler; a panic inside becomes a `500` and a line in the log instead of a closed connection.
pub async fn catch_panic<F>(ctx: &Ctx, handler: F) -> Response<ReplyBody>
where
    F: Future<Output = Response<ReplyBody>>,
{
    match AssertUnwindSafe(handler).catch_unwind().await {
        Ok(response) => response,
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().copied();
            let text =
                text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
            tracing::error!(request_id = ?ctx.request_id(), panic = text, "a request handler panicked");
            Problem::new(Code::Internal, "the request hit a mistake of the server, which has been logged")
                .outcome(Outcome::Indeterminate)
                .retry(Retry::AfterRead)
                .respond(ctx)
        }
    }
}

#[cfg(test)]
mod tests;
