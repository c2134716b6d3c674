//! Objects: opaque bytes under a bucket and a key, with all their concurrent versions.
//!
//! A read asks for the plain form: one value comes as raw bytes, several as the envelope of contract section 3. Both
//! become an [`Object`]. So does an absence, because a removed object still has a context, and a writer who wants to
//! supersede the removal needs it.

use crate::call::{Answer, Call, Client};
use crate::error::Result;
use crate::path::Target;
use crate::retry::Repeat;
use crate::transport::{HttpTransport, Method};
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

pub(crate) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a reader has seen, as an opaque token. Sent with a write, it says what the write supersedes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Context(pub String);

/// How many replicas must answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub enum Quorum {
    /// That many.
    Count(u32),
    /// One.
    One,
    /// More than half of N.
    Quorum,
    /// All N.
    All,
}

/// An object as read: no version means that there is none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Object {
    /// What was seen. `None` when the cluster has never heard of the object.
    pub context: Option<Context>,
    /// The concurrent versions: none, one, or siblings.
    pub versions: Vec<Version>,
    /// The name of the request in the node's log.
    pub request_id: Option<String>,
}

/// One of the concurrent versions of an object.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Version {
    /// The bytes. Among siblings a JSON value comes written anew: equal, but not byte for byte.
    pub value: Bytes,
    /// What the bytes are.
    pub content_type: String,
    /// A removal that is concurrent with the other versions. It has no value.
    pub deleted: bool,
    /// When it was written.
    pub modified: Option<String>,
    /// When it ends.
    pub expires_at: Option<String>,
    /// The name of this version.
    pub etag: Option<String>,
    /// What was sent as `Cartwheel-Meta-*`, names in lower case.
    pub meta: BTreeMap<String, String>,
}

/// How to read.
#[derive(Debug, Clone, Default)]
pub struct ReadOptions {
    /// Replicas that must answer.
    pub r: Option<Quorum>,
    /// Primary owners among them.
    pub pr: Option<Quorum>,
    /// Whether fallbacks may answer.
    pub sloppy: Option<bool>,
    /// How long the node may take.
    pub timeout_ms: Option<u64>,
    /// The answer must have seen at least this.
    pub min_context: Option<Context>,
}

/// How to write.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// What the writer had read. Without it the write is concurrent with whatever is there.
    pub context: Option<Context>,
    /// What the bytes are; `application/octet-stream` when not said.
    pub content_type: Option<String>,
    /// Seconds until the value ends.
    pub ttl_seconds: Option<u64>,
    /// Sent as `Cartwheel-Meta-*`.
    pub meta: BTreeMap<String, String>,
    /// Write only if there is nothing.
    pub if_none_match: bool,
    /// Write only if this is the version that is there.
    pub if_match: Option<String>,
    /// Replicas that must have taken it.
    pub w: Option<Quorum>,
    /// Replicas that must have it on disk.
    pub dw: Option<Quorum>,
    /// Primary owners that must have taken it.
    pub pw: Option<Quorum>,
    /// Whether fallbacks may take it.
    pub sloppy: Option<bool>,
    /// How long the node may take.
    pub timeout_ms: Option<u64>,
}

/// What a node said about a write that is done.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Written {
    /// Covers what the writer had seen and this write. Objects always have it.
    pub context: Option<Context>,
    /// The name of the new version.
    pub etag: Option<String>,
    /// Versions there are now.
    pub siblings: Option<u32>,
    /// Who has it.
    pub receipt: Option<Receipt>,
    /// The name of the request in the node's log.
    pub request_id: Option<String>,
}

/// The header `Cartwheel-Write`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Replicas that were required.
    pub w: u32,
    /// Replicas that had answered.
    pub acked: u32,
    /// Of those, durable on disk.
    pub durable: u32,
    /// Of those, fallbacks.
    pub fallbacks: u32,
    /// Hints written for missed replicas.
    pub hints: u32,
}

impl<T: HttpTransport> Client<T> {
    /// Reads an object. An absent one is an [`Object`] without versions.
    pub async fn get(
        &self,
        bucket: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
        options: &ReadOptions,
    ) -> Result<Object> {
        let target = object_target(bucket.as_ref(), key.as_ref());
        let call = read_call(target, options).absence_is_an_answer();
        let answer = self.send(call).await?;
        let versions = match answer.response.status {
            300 => return envelope(&answer),
            404 => Vec::new(),
            _ => vec![single(&answer)],
        };
        Ok(Object { context: header_context(&answer), versions, request_id: request_id(&answer) })
    }

    /// Writes an object.
    pub async fn put(
        &self,
        bucket: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
        options: &WriteOptions,
    ) -> Result<Written> {
        let content_type = options.content_type.as_deref().unwrap_or("application/octet-stream");
        let target = write_target(bucket.as_ref(), key.as_ref(), options);
        // A second copy of the same PUT would be a sibling of the first.
        let mut call =
            write_call(Method::Put, target, Repeat::Counts, options).body(content_type, value.into());
        if let Some(seconds) = options.ttl_seconds {
            call = call.header("cartwheel-ttl", seconds.to_string());
        }
        for (name, value) in &options.meta {
            call = call.header(&format!("cartwheel-meta-{}", name.to_ascii_lowercase()), value.clone());
        }
        written(&self.send(call).await?)
    }

    /// Removes an object: what the context covers, or, without one, what a read quorum shows at that moment.
    pub async fn delete(
        &self,
        bucket: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
        options: &WriteOptions,
    ) -> Result<Written> {
        // What a context covers is the same the second time; what a quorum shows is not.
        let repeat = if options.context.is_some() { Repeat::Harmless } else { Repeat::Counts };
        let target = write_target(bucket.as_ref(), key.as_ref(), options);
        written(&self.send(write_call(Method::Delete, target, repeat, options)).await?)
    }
}

fn object_target(bucket: &[u8], key: &[u8]) -> Target {
    Target::at("/v1/buckets").segment(bucket).then("keys").segment(key)
}

fn write_target(bucket: &[u8], key: &[u8], options: &WriteOptions) -> Target {
    object_target(bucket, key)
        .query_if("w", options.w)
        .query_if("dw", options.dw)
        .query_if("pw", options.pw)
        .query_if("sloppy", options.sloppy)
        .query_if("timeout_ms", options.timeout_ms)
}

/// A read of an object or of a cart.
pub(crate) fn read_call(target: Target, options: &ReadOptions) -> Call {
    let target = target
        .query_if("r", options.r)
        .query_if("pr", options.pr)
        .query_if("sloppy", options.sloppy)
        .query_if("timeout_ms", options.timeout_ms);
    let call = Call::get(target).timeout_ms(options.timeout_ms);
    match &options.min_context {
        Some(context) => call.header("cartwheel-min-context", context.0.clone()),
        None => call,
    }
}

fn write_call(method: Method, target: Target, repeat: Repeat, options: &WriteOptions) -> Call {
    let mut call = Call::new(method, target, repeat).timeout_ms(options.timeout_ms);
    if let Some(context) = &options.context {
        call = call.header("cartwheel-context", context.0.clone());
    }
    if options.if_none_match {
        call = call.header("if-none-match", "*");
    }
    if let Some(etag) = &options.if_match {
        call = call.header("if-match", etag.clone());
    }
    call
}

pub(crate) fn header_context(answer: &Answer) -> Option<Context> {
    answer.response.header("cartwheel-context").map(|text| Context(text.to_owned()))
}

fn request_id(answer: &Answer) -> Option<String> {
    answer.response.header("x-request-id").map(str::to_owned)
}

/// Reads the headers that every acknowledged write carries.
pub(crate) fn written(answer: &Answer) -> Result<Written> {
    let header = |name| answer.response.header(name);
    let receipt = header("cartwheel-write").map(Receipt::from_str).transpose();
    let siblings = header("cartwheel-siblings").map(str::parse).transpose();
    Ok(Written {
        context: header_context(answer),
        etag: header("etag").map(str::to_owned),
        siblings: siblings.map_err(|error| answer.unreadable(format!("Cartwheel-Siblings: {error}")))?,
        receipt: receipt.map_err(|error| answer.unreadable(error))?,
        request_id: request_id(answer),
    })
}

fn single(answer: &Answer) -> Version {
    let header = |name| answer.response.header(name).map(str::to_owned);
    let meta = answer.response.headers.iter().filter_map(|(name, value)| {
        let name = name.strip_prefix("cartwheel-meta-")?;
        Some((name.to_owned(), String::from_utf8_lossy(value).into_owned()))
    });
    Version {
        value: answer.response.body.clone(),
        content_type: header("content-type").unwrap_or_default(),
        deleted: false,
        modified: header("last-modified"),
        expires_at: header("cartwheel-expires-at"),
        etag: header("etag"),
        meta: meta.collect(),
    }
}

#[derive(Deserialize)]
struct Envelope {
    context: Option<Context>,
    versions: Vec<EnvelopeVersion>,
}

#[derive(Deserialize)]
struct EnvelopeVersion {
    /// Told apart from an absent one, because `null` is a JSON value like any other.
    #[serde(default, deserialize_with = "present")]
    value: Option<Value>,
    value_base64: Option<String>,
    #[serde(default)]
    content_type: Option<String>,
    #[serde(default)]
    deleted: bool,
    modified: Option<String>,
    expires_at: Option<String>,
    etag: Option<String>,
    #[serde(default)]
    meta: Option<BTreeMap<String, String>>,
}

fn present<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

fn envelope(answer: &Answer) -> Result<Object> {
    let envelope: Envelope = answer.json()?;
    let versions: std::result::Result<_, _> = envelope.versions.into_iter().map(Version::try_from).collect();
    let versions = versions.map_err(|error: base64::DecodeError| answer.unreadable(error))?;
    let context = header_context(answer).or(envelope.context);
    Ok(Object { context, versions, request_id: request_id(answer) })
}

impl TryFrom<EnvelopeVersion> for Version {
    type Error = base64::DecodeError;

    fn try_from(from: EnvelopeVersion) -> std::result::Result<Self, Self::Error> {
        let value = match (from.value_base64, from.value) {
            (Some(text), _) => BASE64.decode(text)?.into(),
            (None, Some(json)) if !from.deleted => json.to_string().into(),
            (None, _) => Bytes::new(),
        };
        Ok(Version {
            value,
            content_type: from.content_type.unwrap_or_default(),
            deleted: from.deleted,
            modified: from.modified,
            expires_at: from.expires_at,
            etag: from.etag,
            meta: from.meta.unwrap_or_default(),
        })
    }
}

impl FromStr for Receipt {
    type Err = String;

    /// Reads `w=2;acked=3;durable=3;fallbacks=0;hints=0`. Names that are not known yet are passed over.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let mut receipt = Receipt::default();
        for part in text.split(';') {
            let wrong = || format!("Cartwheel-Write: {part:?} is not a name and a number");
            let (name, number) = part.trim().split_once('=').ok_or_else(wrong)?;
            let field = match name {
                "w" => &mut receipt.w,
                "acked" => &mut receipt.acked,
                "durable" => &mut receipt.durable,
                "fallbacks" => &mut receipt.fallbacks,
                "hints" => &mut receipt.hints,
                _ => continue,
            };
            *field = number.parse().map_err(|_| wrong())?;
        }
        Ok(receipt)
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Receipt { w, acked, durable, fallbacks, hints } = self;
        write!(f, "w={w};acked={acked};durable={durable};fallbacks={fallbacks};hints={hints}")
    }
}

impl FromStr for Quorum {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "one" => Ok(Quorum::One),
            "quorum" => Ok(Quorum::Quorum),
            "all" => Ok(Quorum::All),
            _ => text
                .parse()
                .map(Quorum::Count)
                .map_err(|_| "a number, `one`, `quorum` or `all` is allowed".into()),
        }
    }
}

impl fmt::Display for Quorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Quorum::Count(count) => write!(f, "{count}"),
            Quorum::One => f.write_str("one"),
            Quorum::Quorum => f.write_str("quorum"),
            Quorum::All => f.write_str("all"),
        }
    }
}

impl TryFrom<Value> for Quorum {
    type Error = String;

    fn try_from(value: Value) -> std::result::Result<Self, String> {
        match value {
            Value::String(text) => text.parse(),
            other => other.to_string().parse(),
        }
    }
}

impl From<Quorum> for Value {
    fn from(quorum: Quorum) -> Value {
        match quorum {
            Quorum::Count(count) => count.into(),
            word => word.to_string().into(),
        }
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
