//! The calls to nodes: one keep-alive pool per node, a deadline on every attempt, a bound on every body.
//! Deliberately thin and without any retry: who calls decides which answer to accept and which node to ask next,
//! because that decision is the very thing that a replay is about.

use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::limits;

/// What may stand in a path segment as it is: RFC 3986's unreserved characters.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// One path segment, percent-encoded. `.` and `..` have no form that a URL parser would keep (`%2E` is resolved away as
/// well), so whoever takes ids from outside refuses these two.
pub(crate) fn segment(raw: &str) -> String {
    utf8_percent_encode(raw, SEGMENT).to_string()
}

/// An answer, whatever its status.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The body, at most [`limits::BODY_MAX`] bytes.
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// Whether the server did what was asked.
    pub(crate) fn is_done(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Whether another attempt can end otherwise: the server was busy, or failed; the request itself was fine.
    pub(crate) fn is_worth_a_retry(&self) -> bool {
        matches!(self.status, 408 | 429 | 500..)
    }

    /// The problem in one line: the `code` and `detail` of a problem document, or the start of whatever came.
    pub(crate) fn problem(&self) -> String {
        let json: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let said = match (json["code"].as_str(), json["detail"].as_str()) {
            (Some(code), Some(detail)) => format!("{code}: {detail}"),
            (Some(code), None) => code.to_owned(),
            _ => String::from_utf8_lossy(&self.body).chars().take(200).collect(),
        };
        format!("{} {said}", self.status).trim_end().to_owned()
    }
}

/// No answer at all: refused, cut off, too late, or larger than the bound.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NoAnswer(String);

impl From<reqwest::Error> for NoAnswer {
    /// The whole chain in one line; the outermost message alone only says "error sending request".
    fn from(error: reqwest::Error) -> Self {
        let mut line = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            line.push_str(": ");
            line.push_str(&inner.to_string());
            cause = inner.source();
        }
        Self(line)
    }
}

/// The client side of all connections of one command.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    client: reqwest::Client,
}

impl Http {
    /// A client that keeps at most `connections` idle connections to each node.
    pub(crate) fn new(connections: usize) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            // A proxy from the environment would stand between us and the very node that we mean to meet.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(limits::CONNECT_MAX)
            .pool_max_idle_per_host(connections)
            .tcp_nodelay(true)
            .build()?;
        Ok(Self { client })
    }

    /// One GET, answered within `deadline` or not at all.
    pub(crate) async fn get(&self, url: &str, deadline: Duration) -> Result<Reply, NoAnswer> {
        finish(self.client.get(url).timeout(deadline)).await
    }

    /// One PUT of some bytes, answered within `deadline` or not at all.
    pub(crate) async fn put(&self, url: &str, body: Vec<u8>, deadline: Duration) -> Result<Reply, NoAnswer> {
        finish(self.client.put(url).body(body).timeout(deadline)).await
    }

    /// One POST of a JSON body, answered within `deadline` or not at all.
    pub(crate) async fn post(&self, url: &str, body: &[u8], deadline: Duration) -> Result<Reply, NoAnswer> {
        let request = self.client.post(url).header("content-type", "application/json").body(body.to_vec());
        finish(request.timeout(deadline)).await
    }
}

async fn finish(request: reqwest::RequestBuilder) -> Result<Reply, NoAnswer> {
    let mut response = request.send().await?;
    let status = response.status().as_u16();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > limits::BODY_MAX {
            return Err(NoAnswer(format!("the answer is over {} bytes", limits::BODY_MAX)));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Reply { status, body })
}
