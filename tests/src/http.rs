//! HTTP as a client sees it: a call, its reply, and what the contract says about every reply.
//!
//! ```text
//! let reply = http::put(key_url(&url, "carts", "k")).header("content-type", "text/plain").body("v").send().await?;
//! reply.expect(204)?.context()?
//! ```
//!
//! Not the project's own client: these tests would otherwise believe what it believes. A wrong status is an
//! error that shows the call, the whole head and the beginning of the body, because that is all one has in CI.

use anyhow::{Context, Result, anyhow, ensure};
use base64::Engine;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use std::time::Duration;

/// Longer than any time-out of the server's, so that it is always the server who gives up first.
const CALL_TIME_MAX: Duration = Duration::from_secs(40);

/// The media type that asks for the envelope.
pub const VERSIONS: &str = "application/vnd.cartwheel.versions+json";

/// A request being put together.
#[derive(Clone)]
pub struct Call {
    method: Method,
    url: String,
    headers: HeaderMap,
    body: Option<Vec<u8>>,
}

/// A `GET`.
pub fn get(url: impl Into<String>) -> Call {
    call("GET", url)
}

/// A `PUT`; without a body it sends an empty one.
pub fn put(url: impl Into<String>) -> Call {
    call("PUT", url)
}

/// A `POST`.
pub fn post(url: impl Into<String>) -> Call {
    call("POST", url)
}

/// A `DELETE`.
pub fn delete(url: impl Into<String>) -> Call {
    call("DELETE", url)
}

/// Any method.
pub fn call(method: &str, url: impl Into<String>) -> Call {
    let method = method.parse().expect("tests name methods that exist");
    Call { method, url: url.into(), headers: HeaderMap::new(), body: None }
}

impl Call {
    /// Adds a header; the value may be any bytes that a header can carry.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Call {
        let name: HeaderName = name.parse().expect("tests name headers that can be sent");
        let value = HeaderValue::from_bytes(value.as_ref()).expect("tests give values that can be sent");
        self.headers.append(name, value);
        self
    }

    /// Adds `Cartwheel-Context`.
    #[must_use]
    pub fn context(self, context: &str) -> Call {
        self.header("cartwheel-context", context)
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Call {
        self.body = Some(body.into());
        self
    }

    /// Sets a plain-text body.
    #[must_use]
    pub fn text(self, body: &str) -> Call {
        self.header("content-type", "text/plain").body(body)
    }

    /// Sets a JSON body.
    #[must_use]
    pub fn json(self, body: &Value) -> Call {
        self.header("content-type", "application/json").body(body.to_string())
    }

    /// Sends it and reads the whole answer.
    pub async fn send(self) -> Result<Reply> {
        let name = format!("{} {}", self.method, self.url);
        self.exchange(name.clone()).await.with_context(|| name)
    }

    async fn exchange(self, name: String) -> Result<Reply> {
        let url: Url = self.url.parse()?;
        let request = client().request(self.method, url).headers(self.headers);
        let response = request.body(self.body.unwrap_or_default()).send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Reply { call: name, status, headers, body: response.bytes().await?.to_vec() })
    }
}

fn client() -> &'static reqwest::Client {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    CLIENT.get_or_init(|| {
        let builder = reqwest::Client::builder().no_proxy().timeout(CALL_TIME_MAX);
        // A killed node must not leave the next test a dead connection to write into.
        let builder = builder.pool_max_idle_per_host(0).redirect(reqwest::redirect::Policy::none());
        builder.build().expect("these options need nothing of the machine")
    })
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Reply {
    call: String,
    /// The status code.
    pub status: u16,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// The reply itself if it has this status, else an error that shows all of it.
    pub fn expect(self, status: u16) -> Result<Reply> {
        self.expect_one_of(&[status])
    }

    /// The reply itself if it has one of these statuses.
    pub fn expect_one_of(self, statuses: &[u16]) -> Result<Reply> {
        if statuses.contains(&self.status) { Ok(self) } else { Err(self.wrong(&format!("{statuses:?}"))) }
    }

    /// The reply itself if its status is in the two hundreds.
    pub fn expect_success(self) -> Result<Reply> {
        if (200..300).contains(&self.status) { Ok(self) } else { Err(self.wrong("2xx")) }
    }

    fn wrong(&self, expected: &str) -> anyhow::Error {
        anyhow!("expected {expected}, got {self}")
    }

    /// A header that may be missing.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// A header that must be there.
    pub fn need(&self, name: &str) -> Result<&str> {
        self.header(name).with_context(|| format!("no header {name} in {self}"))
    }

    /// `Cartwheel-Context`.
    pub fn context(&self) -> Result<String> {
        self.need("cartwheel-context").map(str::to_owned)
    }

    /// `ETag`, with its quotes.
    pub fn etag(&self) -> Result<String> {
        let etag = self.need("etag")?;
        ensure!(
            etag.len() > 2 && etag.starts_with('"') && etag.ends_with('"'),
            "the ETag {etag} is not quoted"
        );
        Ok(etag.to_owned())
    }

    /// `Cartwheel-Siblings`.
    pub fn siblings(&self) -> Result<usize> {
        let siblings = self.need("cartwheel-siblings")?;
        siblings.parse().with_context(|| format!("Cartwheel-Siblings is {siblings:?}"))
    }

    /// `Cartwheel-Write`, field by field.
    pub fn receipt(&self) -> Result<BTreeMap<String, u64>> {
        let text = self.need("cartwheel-write")?;
        let mut receipt = BTreeMap::new();
        for field in text.split(';') {
            let (name, count) = field.trim().split_once('=').with_context(|| format!("receipt {text:?}"))?;
            receipt.insert(name.to_owned(), count.parse().with_context(|| format!("receipt {text:?}"))?);
        }
        for name in ["w", "acked", "durable", "fallbacks", "hints"] {
            ensure!(receipt.contains_key(name), "no {name}= in the receipt {text:?}");
        }
        Ok(receipt)
    }

    /// The media type, without parameters.
    pub fn media_type(&self) -> &str {
        self.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default().trim()
    }

    /// The body as text, whatever it is.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("no JSON in {self}"))
    }

    /// The problem document, if the reply has this status and is everything that an error must be.
    pub fn problem(&self, status: u16) -> Result<Value> {
        ensure!(self.status == status, "expected {status}, got {self}");
        self.any_problem()
    }

    /// The problem document with this code.
    pub fn problem_code(&self, status: u16, code: &str) -> Result<Value> {
        let problem = self.problem(status)?;
        ensure!(problem["code"] == code, "expected the code {code} in {problem}");
        Ok(problem)
    }

    /// The problem document, whatever its status.
    pub fn any_problem(&self) -> Result<Value> {
        ensure!(self.status >= 400, "expected an error, got {self}");
        ensure!(self.media_type() == "application/problem+json", "an error is problem+json, not {self}");
        check_problem(&self.json()?, self.status).with_context(|| self.to_string())
    }

    /// The values of the live versions: of the envelope for `300` and for the versions type, else the body.
    pub fn values(&self) -> Result<BTreeSet<String>> {
        if self.status == 404 {
            return Ok(BTreeSet::new());
        }
        if self.status == 300 || self.media_type() == VERSIONS {
            return envelope_values(&self.json()?);
        }
        ensure!(self.status == 200, "expected a value, got {self}");
        Ok(BTreeSet::from([self.text()]))
    }
}

impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text: String = self.text().chars().take(600).collect();
        write!(f, "{} for {} {:?} with body {text:?}", self.status, self.call, self.headers)
    }
}

/// A problem document that has every field that each error has; `status` is that of the reply.
pub fn check_problem(problem: &Value, status: u16) -> Result<Value> {
    for field in ["type", "title", "code", "detail", "message", "request_id", "node"] {
        let text = problem[field].as_str();
        ensure!(text.is_some_and(|text| !text.is_empty()), "the problem has no text {field:?}: {problem}");
    }
    ensure!(problem["status"] == status, "the problem's status is not {status}: {problem}");
    ensure!(problem["detail"] == problem["message"], "detail and message differ: {problem}");
    Ok(problem.clone())
}

/// The values of an envelope that are no tombstones; JSON values are printed, others decoded.
pub fn envelope_values(envelope: &Value) -> Result<BTreeSet<String>> {
    let mut values = BTreeSet::new();
    for version in envelope_versions(envelope)? {
        if version["deleted"] == true {
            continue;
        }
        values.insert(match version.get("value_base64").and_then(Value::as_str) {
            Some(encoded) => String::from_utf8_lossy(&from_base64(encoded)?).into_owned(),
            None => version.get("value").with_context(|| format!("no value in {version}"))?.to_string(),
        });
    }
    Ok(values)
}

/// `versions` of an envelope.
pub fn envelope_versions(envelope: &Value) -> Result<&Vec<Value>> {
    envelope["versions"].as_array().with_context(|| format!("`versions` is no array in {envelope}"))
}

/// Standard base64, with or without padding.
pub fn from_base64(text: &str) -> Result<Vec<u8>> {
    let engine = base64::engine::general_purpose::STANDARD_NO_PAD;
    engine.decode(text.trim_end_matches('=')).with_context(|| format!("{text:?} is not base64"))
}

/// Percent-encodes everything that is not a plain letter, digit, `-` or `_`.
pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    let mut text = String::new();
    for &byte in bytes.as_ref() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => text.push(char::from(byte)),
            _ => text += &format!("%{byte:02X}"),
        }
    }
    text
}

/// `/v1/buckets/{b}/keys/{k}` on a node.
pub fn key_url(base: &str, bucket: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> String {
    format!("{base}/v1/buckets/{}/keys/{}", encode(bucket), encode(key))
}

/// `/v1/buckets/{b}` on a node.
pub fn bucket_url(base: &str, bucket: &str) -> String {
    format!("{base}/v1/buckets/{}", encode(bucket))
}
