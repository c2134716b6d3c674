//! Answers in JSON, and names in them: a bucket, key, cart or item is any octets, and JSON is text.
//!
//! ```text
//!   "mug"     {"sku":"mug"}
//!   0xff      {"sku_base64":"/w=="}
//! ```

use crate::http::body::ReplyBody;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Map, Value};

/// What the caller has seen, both ways.
pub(super) const CONTEXT: HeaderName = HeaderName::from_static("cartwheel-context");
/// The receipt of a write.
pub(super) const WRITE: HeaderName = HeaderName::from_static("cartwheel-write");

/// `200` with JSON that is written already.
pub(super) fn json(body: impl Into<ReplyBody>) -> Response<ReplyBody> {
    typed(body, "application/json")
}

/// `200` with a body of some type.
pub(super) fn typed(body: impl Into<ReplyBody>, content_type: &'static str) -> Response<ReplyBody> {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// `200` with a value.
pub(super) fn value(value: &Value) -> Response<ReplyBody> {
    json(value.to_string().into_bytes())
}

/// A status and nothing more.
pub(super) fn status(status: StatusCode) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::empty());
    *response.status_mut() = status;
    response
}

/// Writes a name as a member of an object.
pub(super) fn write_name(out: &mut Vec<u8>, field: &str, name: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(field.as_bytes());
    match std::str::from_utf8(name) {
        Ok(text) => {
            out.extend_from_slice(b"\":");
            write_text(out, text);
        }
        Err(_) => {
            out.extend_from_slice(b"_base64\":\"");
            out.extend_from_slice(STANDARD.encode(name).as_bytes());
            out.push(b'"');
        }
    }
}

/// Writes a string with its quotes.
pub(super) fn write_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("text is JSON, and a vector takes any length");
}

/// Puts a name into an object.
pub(super) fn put_name(map: &mut Map<String, Value>, field: &str, name: &[u8]) {
    match std::str::from_utf8(name) {
        Ok(text) => map.insert(field.to_owned(), text.into()),
        Err(_) => map.insert(format!("{field}_base64"), STANDARD.encode(name).into()),
    };
}

/// A header's value out of text that was made here.
pub(super) fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("tokens and receipts are visible ascii")
}
