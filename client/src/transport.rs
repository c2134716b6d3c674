//! One HTTP exchange, as plain bytes: what a request is, what came back, and what can go wrong in between.
//!
//! The client meets the network only through [`HttpTransport`]. The real one is [`ReqwestTransport`]; a simulation
//! hands in one that dials through its own network. The one thing a transport must tell truly is whether a failed
//! request can have reached a node ([`FailureKind`]): retries and the outcome of a write depend on it.

use bytes::{Bytes, BytesMut};
use std::fmt;
use std::future::Future;
use std::time::Duration;

/// How long a connection may take to open. A node that does not answer this soon is passed over for the next.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The largest answer taken: 100 siblings × 4 MiB in base64 come to 534 MiB at worst, which nobody wants whole;
/// one value at its hard ceiling of 64 MiB and its envelope fit.
const RESPONSE_BYTES_MAX: usize = 128 << 20;

/// The verbs of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Method {
    Get,
    Put,
    Post,
    Patch,
    Delete,
}

impl Method {
    /// The verb as it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Put => "PUT",
            Method::Post => "POST",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
        }
    }
}

/// A request to one node.
#[derive(Debug, Clone)]
pub struct Request {
    /// The verb.
    pub method: Method,
    /// The node, such as `http://127.0.0.1:8098`, without a slash at the end.
    pub base: String,
    /// Path and query, percent-encoded. To be sent byte for byte.
    pub target: String,
    /// Header names in lower case, and values.
    pub headers: Vec<(String, Bytes)>,
    /// The body; empty for none.
    pub body: Bytes,
    /// When the client gives up on this exchange. The client enforces it; a transport may use it as well.
    pub timeout: Duration,
}

/// What a node answered.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header names in lower case, and values.
    pub headers: Vec<(String, Bytes)>,
    /// The whole body.
    pub body: Bytes,
}

impl Response {
    /// The first header of that (lower-case) name, as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(candidate, _)| candidate == name)?;
        std::str::from_utf8(value).ok()
    }
}

/// How far a failed exchange had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The request can't be sent as it is; nothing left this process, and no other node will do better.
    Invalid,
    /// No connection: the node has not seen the request.
    Connect,
    /// Nothing came back in time. The node may have done what was asked.
    Timeout,
    /// The connection broke, or what came back was not HTTP. The node may have done what was asked.
    Broken,
}

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct TransportError {
    /// How far it had come.
    pub kind: FailureKind,
    /// What the library below said.
    pub message: String,
}

impl TransportError {
    /// An error of that kind.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// Whether a node may have seen the request.
    pub fn may_have_arrived(&self) -> bool {
        matches!(self.kind, FailureKind::Timeout | FailureKind::Broken)
    }
}

/// Anything that can carry one request to one node.
pub trait HttpTransport: Send + Sync + 'static {
    /// Sends the request once, without retries or redirects, and collects the answer whatever its status.
    fn send(&self, request: Request) -> impl Future<Output = Result<Response, TransportError>> + Send;
}

/// The real network: reqwest with its pool of connections.
#[derive(Debug, Clone)]
pub struct ReqwestTransport {
    inner: reqwest::Client,
}

impl ReqwestTransport {
    /// A transport with an empty pool.
    pub fn new() -> Result<Self, TransportError> {
        // No proxy, because nodes are named by their own address. No redirects, because a 300 is data and a token is
        // not handed on. No retries below ours, because ours know what may be repeated.
        let built = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_TIMEOUT)
            .build();
        match built {
            Ok(inner) => Ok(Self { inner }),
            Err(error) => Err(TransportError::new(FailureKind::Invalid, causes(&error))),
        }
    }

    fn build(&self, request: Request) -> Result<reqwest::Request, TransportError> {
        let invalid = |message: String| TransportError::new(FailureKind::Invalid, message);
        let full = format!("{}{}", request.base, request.target);
        let url = reqwest::Url::parse(&full).map_err(|error| invalid(format!("{full}: {error}")))?;
        // URL parsers resolve `..` even when it is escaped. Asking for another object than the one that was named is
        // the worst answer, so a URL that does not come out as it went in is not sent.
        if !url.as_str().ends_with(&request.target) {
            return Err(invalid(format!(
                "{}: a name that is `.` or `..` can't be sent in a URL",
                request.target
            )));
        }
        let method = match request.method {
            Method::Get => reqwest::Method::GET,
            Method::Put => reqwest::Method::PUT,
            Method::Post => reqwest::Method::POST,
            Method::Patch => reqwest::Method::PATCH,
            Method::Delete => reqwest::Method::DELETE,
        };
        let mut built = reqwest::Request::new(method, url);
        for (name, value) in request.headers {
            let name = reqwest::header::HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| invalid(format!("{name:?} is not a header name")))?;
            let value = reqwest::header::HeaderValue::from_bytes(&value)
                .map_err(|_| invalid(format!("the value of {name} has bytes that a header can't carry")))?;
            built.headers_mut().append(name, value);
        }
        if request.method != Method::Get {
            *built.body_mut() = Some(request.body.into());
        }
        Ok(built)
    }
}

impl HttpTransport for ReqwestTransport {
    async fn send(&self, request: Request) -> Result<Response, TransportError> {
        let request = self.build(request)?;
        let mut answer = self.inner.execute(request).await.map_err(failure)?;
        let headers = answer
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), Bytes::copy_from_slice(value.as_bytes())))
            .collect();
        let mut body = BytesMut::new();
        while let Some(chunk) = answer.chunk().await.map_err(failure)? {
            if body.len() + chunk.len() > RESPONSE_BYTES_MAX {
                let message = format!("the answer is larger than {RESPONSE_BYTES_MAX} bytes");
                return Err(TransportError::new(FailureKind::Broken, message));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Response { status: answer.status().as_u16(), headers, body: body.freeze() })
    }
}

fn failure(error: reqwest::Error) -> TransportError {
    let kind = if error.is_builder() {
        FailureKind::Invalid
    } else if error.is_connect() {
        FailureKind::Connect
    } else if error.is_timeout() {
        FailureKind::Timeout
    } else {
        FailureKind::Broken
    };
    TransportError::new(kind, causes(&error))
}

/// The innermost cause says what happened ("connection refused"); the layers around it only say where.
fn causes(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
