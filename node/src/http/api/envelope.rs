//! The versions of a key in one answer: the JSON envelope, and the multipart form.
//!
//! ```text
//!   {"bucket":"b","key":"k","context":"AbC…","versions":[{"value":{"a":1},"content_type":"application/json", …}]}
//! ```
//!
//! The JSON is written by hand because a stored JSON value must go out byte for byte: through a parsed tree its numbers
//! would lose digits and its names their order. What is passed on raw is parsed first by [`Checked`], which refuses all
//! that a reader might refuse (lone surrogates, numbers out of range, deep nesting); such a value comes as base64.

use super::reply::{write_name, write_text};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use humantime::format_rfc3339_millis;
use ring::causal::Dot;
use ring::ids::ObjectId;
use ring::record::object::etag;
use ring::record::{Content, Object, Record};
use ring::time::Wall;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// JSON that is nested deeper comes as base64: many parsers give up at 128, and the envelope itself has three.
const JSON_DEPTH_MAX: u8 = 100;

/// Which versions an envelope shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    /// The values.
    Values,
    /// The values and the deletions that are still remembered.
    All,
}

/// The envelope of a record.
pub(super) fn envelope(id: &ObjectId, context: &str, record: &Record, now: Wall, show: Show) -> Vec<u8> {
    let size: usize = record.versions(now).map(|v| v.object.body.len() * 4 / 3 + 512).sum();
    let mut out = Vec::with_capacity(size + 512);
    out.push(b'{');
    write_name(&mut out, "bucket", id.bucket());
    out.push(b',');
    write_name(&mut out, "key", id.key());
    out.extend_from_slice(b",\"context\":");
    write_text(&mut out, context);
    out.extend_from_slice(b",\"versions\":");
    put_versions(&mut out, record, now, show);
    out.push(b'}');
    out
}

/// The versions alone, for a failed precondition.
pub(super) fn versions(record: Option<&Record>, now: Wall) -> serde_json::Value {
    let mut out = Vec::new();
    match record {
        Some(record) => put_versions(&mut out, record, now, Show::Values),
        None => out.extend_from_slice(b"[]"),
    }
    serde_json::from_slice(&out).expect("what was checked or written here is JSON")
}

fn put_versions(out: &mut Vec<u8>, record: &Record, now: Wall, show: Show) {
    out.push(b'[');
    let mut first = true;
    for sibling in &record.siblings {
        let visible = |object: &Object| object.expires_at.is_none_or(|at| now < at);
        if !matches!(&sibling.content, Content::Object(object) if visible(object))
            && !matches!(&sibling.content, Content::Tombstone { .. } if show == Show::All)
        {
            continue;
        }
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        match &sibling.content {
            Content::Object(object) => put_object(out, sibling.dot, object),
            Content::Tombstone { deleted } => put_tombstone(out, sibling.dot, *deleted),
            _ => unreachable!("nothing else was let through"),
        }
    }
    out.push(b']');
}

fn put_object(out: &mut Vec<u8>, dot: Dot, object: &Object) {
    if is_json_type(&object.content_type) && is_json(&object.body) {
        out.extend_from_slice(b"{\"value\":");
        out.extend_from_slice(&object.body);
    } else {
        out.extend_from_slice(b"{\"value_base64\":");
        write_text(out, &STANDARD.encode(&object.body));
    }
    out.extend_from_slice(b",\"content_type\":");
    write_text(out, &object.content_type);
    put_facts(out, false, object.modified, dot);
    out.extend_from_slice(b",\"expires_at\":");
    match object.expires_at {
        Some(at) => write_text(out, &rfc3339(at)),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"meta\":{");
    for (index, (name, value)) in object.meta.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_text(out, name);
        out.push(b':');
        write_text(out, &String::from_utf8_lossy(value));
    }
    out.extend_from_slice(b"}}");
}

fn put_tombstone(out: &mut Vec<u8>, dot: Dot, deleted: Wall) {
    out.extend_from_slice(b"{\"content_type\":null");
    put_facts(out, true, deleted, dot);
    out.push(b'}');
}

/// What values and deletions have in common.
fn put_facts(out: &mut Vec<u8>, deleted: bool, modified: Wall, dot: Dot) {
    out.extend_from_slice(if deleted { b",\"deleted\":true" } else { b",\"deleted\":false" });
    out.extend_from_slice(b",\"modified\":");
    write_text(out, &rfc3339(modified));
    out.extend_from_slice(b",\"etag\":");
    write_text(out, &etag([dot]));
}

/// A point in time for people and programs.
pub(super) fn rfc3339(at: Wall) -> String {
    format_rfc3339_millis(system_time(at)).to_string()
}

/// The latest time that the textual forms can say: the year 9999.
const LATEST: Wall = Wall(253_402_300_799_000);

pub(super) fn system_time(at: Wall) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(at.min(LATEST).0)
}

/// `application/json`, or anything that ends in `+json`.
fn is_json_type(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let suffix = essence.len().checked_sub("+json".len()).and_then(|at| essence.get(at..));
    essence.eq_ignore_ascii_case("application/json")
        || suffix.is_some_and(|end| end.eq_ignore_ascii_case("+json"))
}

fn is_json(body: &[u8]) -> bool {
    if std::str::from_utf8(body).is_err() {
        return false;
    }
    let mut parser = serde_json::Deserializer::from_slice(body);
    Checked { depth_left: JSON_DEPTH_MAX }.deserialize(&mut parser).is_ok() && parser.end().is_ok()
}

/// Parses JSON strictly and keeps nothing of it.
#[derive(Clone, Copy)]
struct Checked {
    depth_left: u8,
}

impl Checked {
    fn deeper<E: serde::de::Error>(self) -> Result<Checked, E> {
        match self.depth_left.checked_sub(1) {
            Some(depth_left) => Ok(Checked { depth_left }),
            None => Err(E::custom("nested too deeply")),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Checked {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<(), D::Error> {
        parser.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Checked {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while seq.next_element_seed(inner)?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while map.next_key_seed(inner)?.is_some() {
            map.next_value_seed(inner)?;
        }
        Ok(())
    }
}

/// Several values as one part each, parted by `boundary`, which the caller drew at random.
pub(super) fn multipart(boundary: &str, record: &Record, now: Wall) -> Bytes {
    let size: usize = record.versions(now).map(|v| v.object.body.len() + 512).sum();
    let mut out = Vec::with_capacity(size + 128);
    for version in record.versions(now) {
        let object = version.object;
        let modified = httpdate::fmt_http_date(system_time(object.modified));
        let head = format!(
            "--{boundary}\r\nContent-Type: {}\r\nETag: {}\r\nLast-Modified: {modified}\r\n",
            object.content_type,
            etag([version.dot]),
        );
        out.extend_from_slice(head.as_bytes());
        if let Some(at) = object.expires_at {
            out.extend_from_slice(format!("Cartwheel-Expires-At: {}\r\n", rfc3339(at)).as_bytes());
        }
        for (name, value) in &object.meta {
            out.extend_from_slice(format!("Cartwheel-Meta-{name}: ").as_bytes());
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&object.body);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    out.into()
}

#[cfg(test)]
#[path = "envelope_tests.rs"]
mod tests;
