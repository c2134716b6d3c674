//! What a client says of a cart, taken strictly: a field that is misspelt, or a quantity that is no whole number, is
//! refused with the JSON pointer of what is wrong, and nothing is changed.
//!
//! ```text
//!   POST …/items         {"sku":"mug","quantity":2,"attributes":{"colour":"red"},"op_id":"order-7"}
//!   PUT  …/items/{sku}   {"quantity":2,"attributes":{…}}
//!   POST …/merge         {"from":"guest-12"}
//! ```
//!
//! A name that is not text comes as `sku_base64` or `from_base64`, as the cart itself shows it. `null` is as good as
//! leaving a field out.

use crate::http::problem::{Code, Outcome, Problem, Retry};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ring::cart::{QUANTITY_MAX, SKU_BYTES_MAX};
use ring::record::Op;
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// The largest body: the longest item, its attributes twice as long by escapes, and room for spaces.
pub(super) const BODY_BYTES_MAX: u64 = 64 << 10;
/// The longest name of an operation.
pub(super) const OP_ID_BYTES_MAX: usize = 64;
/// The most that a shop may say about one item. 50,000 adds of one cart can carry 200 MB; the frame's limit comes first.
pub(super) const ATTRIBUTES_BYTES_MAX: usize = 4 << 10;

/// A change of one item.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) sku: Bytes,
    pub(super) quantity: i64,
    pub(super) attributes: Option<Bytes>,
    pub(super) op: Option<Op>,
}

/// Just so many of one item.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) quantity: i64,
    pub(super) attributes: Option<Bytes>,
}

/// Reads `POST …/items`.
pub(super) fn change(body: &[u8]) -> Result<Change, Problem> {
    let mut fields = Fields::read(body)?;
    let sku = fields.name("sku")?;
    check_sku(&sku, "/sku")?;
    let change = Change {
        sku,
        quantity: fields.quantity(-QUANTITY_MAX..=QUANTITY_MAX)?,
        attributes: fields.attributes()?,
        op: fields.op()?,
    };
    if change.quantity == 0 {
        return Err(invalid("/quantity", "0 changes nothing; PUT sets a quantity, DELETE removes an item"));
    }
    fields.end()?;
    Ok(change)
}

/// Reads `PUT …/items/{sku}`. An `op_id` is taken and means nothing: setting a quantity twice is setting it once.
pub(super) fn set(body: &[u8]) -> Result<Set, Problem> {
    let mut fields = Fields::read(body)?;
    let set = Set { quantity: fields.quantity(0..=QUANTITY_MAX)?, attributes: fields.attributes()? };
    fields.op()?;
    fields.end()?;
    Ok(set)
}

/// Reads `POST …/merge`: the other cart's id.
pub(super) fn merge(body: &[u8]) -> Result<Bytes, Problem> {
    let mut fields = Fields::read(body)?;
    let from = fields.name("from")?;
    fields.end()?;
    Ok(from)
}

/// Whether these bytes may name an item.
pub(super) fn check_sku(sku: &[u8], pointer: &str) -> Result<(), Problem> {
    if (1..=SKU_BYTES_MAX).contains(&sku.len()) {
        return Ok(());
    }
    Err(invalid(pointer, &format!("a sku has 1 to {SKU_BYTES_MAX} bytes, this one has {}", sku.len())))
}

/// `400 invalid_body` with a JSON pointer.
pub(super) fn invalid(pointer: &str, detail: &str) -> Problem {
    let place = if pointer.is_empty() { String::new() } else { format!("{pointer}: ") };
    Problem::new(Code::InvalidBody, format!("{place}{detail}"))
        .field("pointer", pointer.into())
        .outcome(Outcome::NotApplied)
        .retry(Retry::No)
}

/// A JSON object, or `400 invalid_body`.
pub(super) fn object(body: &[u8]) -> Result<Map<String, Value>, Problem> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(invalid("", "the body is JSON, but no object")),
        Err(error) => Err(invalid("", &format!("the body is no JSON: {error}"))),
    }
}

/// The JSON pointer of a field.
pub(super) fn pointer(field: &str) -> String {
    format!("/{}", field.replace('~', "~0").replace('/', "~1"))
}

/// The fields that nobody has asked for yet.
struct Fields(Map<String, Value>);

impl Fields {
    fn read(body: &[u8]) -> Result<Fields, Problem> {
        object(body).map(Fields)
    }

    fn take(&mut self, field: &str) -> Option<Value> {
        self.0.remove(field).filter(|value| !value.is_null())
    }

    fn name(&mut self, field: &str) -> Result<Bytes, Problem> {
        let encoded = format!("{field}_base64");
        match (self.take(field), self.take(&encoded)) {
            (Some(Value::String(text)), None) => Ok(Bytes::from(text)),
            (None, Some(Value::String(text))) => match STANDARD.decode(text) {
                Ok(bytes) => Ok(Bytes::from(bytes)),
                Err(_) => Err(invalid(&pointer(&encoded), "this is no base64")),
            },
            (None, None) => Err(invalid(&pointer(field), "it is missing")),
            (Some(_), Some(_)) => Err(invalid(&pointer(&encoded), &format!("{field} is there as well"))),
            (None, Some(_)) => Err(invalid(&pointer(&encoded), "a string is allowed")),
            (Some(_), None) => Err(invalid(&pointer(field), "a string is allowed")),
        }
    }

    fn quantity(&mut self, range: RangeInclusive<i64>) -> Result<i64, Problem> {
        let Some(value) = self.take("quantity") else { return Err(invalid("/quantity", "it is missing")) };
        value.as_i64().filter(|n| range.contains(n)).ok_or_else(|| {
            let (low, high) = (range.start(), range.end());
            invalid("/quantity", &format!("an integer from {low} to {high} is allowed"))
        })
    }

    fn attributes(&mut self) -> Result<Option<Bytes>, Problem> {
        let Some(value) = self.take("attributes") else { return Ok(None) };
        if !value.is_object() {
            return Err(invalid("/attributes", "a JSON object is allowed"));
        }
        let json = value.to_string();
        if json.len() > ATTRIBUTES_BYTES_MAX {
            let detail =
                format!("at most {ATTRIBUTES_BYTES_MAX} bytes are allowed, these are {}", json.len());
            return Err(invalid("/attributes", &detail));
        }
        Ok(Some(Bytes::from(json)))
    }

    fn op(&mut self) -> Result<Option<Op>, Problem> {
        match self.take("op_id") {
            None => Ok(None),
            Some(Value::String(id)) if (1..=OP_ID_BYTES_MAX).contains(&id.len()) => {
                Ok(Some(Op::of(id.as_bytes())))
            }
            Some(_) => {
                Err(invalid("/op_id", &format!("a string of 1 to {OP_ID_BYTES_MAX} bytes is allowed")))
            }
        }
    }

    fn end(self) -> Result<(), Problem> {
        match self.0.iter().find(|(_, value)| !value.is_null()) {
            Some((field, _)) => Err(invalid(&pointer(field), "there is no such field")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(problem: Problem) -> String {
        assert_eq!(problem.code(), Code::InvalidBody);
        problem.detail().split(": ").next().unwrap_or_default().to_owned()
    }

    #[test]
    fn a_change_says_what_and_how_many() {
        let body = br#"{"sku":"mug","quantity":-2,"attributes":{"b":1,"a":null},"op_id":"x"}"#;
        let change = change(body).unwrap();
        assert_eq!((&change.sku[..], change.quantity), (&b"mug"[..], -2));
        assert_eq!(change.attributes.as_deref(), Some(&br#"{"a":null,"b":1}"#[..]));
        assert_eq!(change.op, Some(Op::of(b"x")));
    }

    #[test]
    fn what_is_left_out_or_null_is_not_there() {
        let change = change(br#"{"sku_base64":"/w==","quantity":1,"op_id":null}"#).unwrap();
        assert_eq!(
            change,
            Change { sku: Bytes::from_static(b"\xff"), quantity: 1, attributes: None, op: None }
        );
        assert_eq!(set(br#"{"quantity":0,"op_id":"a"}"#).unwrap(), Set { quantity: 0, attributes: None });
        assert_eq!(&merge(br#"{"from":"guest"}"#).unwrap()[..], b"guest");
    }

    #[test]
    fn whatever_is_wrong_is_named() {
        let long = "x".repeat(256);
        for (body, pointer) in [
            (r#"{"quantity":1}"#.to_owned(), "/sku"),
            (r#"{"sku":"a"}"#.to_owned(), "/quantity"),
            (r#"{"sku":"","quantity":1}"#.to_owned(), "/sku"),
            (format!(r#"{{"sku":"{long}","quantity":1}}"#), "/sku"),
            (r#"{"sku":7,"quantity":1}"#.to_owned(), "/sku"),
            (r#"{"sku":"a","sku_base64":"YQ==","quantity":1}"#.to_owned(), "/sku_base64"),
            (r#"{"sku_base64":"?","quantity":1}"#.to_owned(), "/sku_base64"),
            (r#"{"sku":"a","quantity":0}"#.to_owned(), "/quantity"),
            (r#"{"sku":"a","quantity":1.5}"#.to_owned(), "/quantity"),
            (r#"{"sku":"a","quantity":1e300}"#.to_owned(), "/quantity"),
            (r#"{"sku":"a","quantity":1000000001}"#.to_owned(), "/quantity"),
            (r#"{"sku":"a","quantity":"1"}"#.to_owned(), "/quantity"),
            (r#"{"sku":"a","quantity":1,"attributes":"red"}"#.to_owned(), "/attributes"),
            (r#"{"sku":"a","quantity":1,"op_id":5}"#.to_owned(), "/op_id"),
            (r#"{"sku":"a","quantity":1,"op_id":""}"#.to_owned(), "/op_id"),
            (format!(r#"{{"sku":"a","quantity":1,"op_id":"{}"}}"#, "x".repeat(65)), "/op_id"),
            (r#"{"sku":"a","quantity":1,"a/b":1}"#.to_owned(), "/a~1b"),
        ] {
            assert_eq!(at(change(body.as_bytes()).unwrap_err()), pointer, "{body}");
        }
        assert_eq!(at(set(br#"{"quantity":-1}"#).unwrap_err()), "/quantity");
        assert_eq!(at(merge(br#"{"form":"x"}"#).unwrap_err()), "/from");
    }

    #[test]
    fn attributes_have_a_limit() {
        let of = |len: usize| {
            format!(r#"{{"sku":"a","quantity":1,"attributes":{{"k":"{}"}}}}"#, "x".repeat(len - 8))
        };
        assert!(change(of(ATTRIBUTES_BYTES_MAX).as_bytes()).is_ok());
        assert_eq!(at(change(of(ATTRIBUTES_BYTES_MAX + 1).as_bytes()).unwrap_err()), "/attributes");
    }

    #[test]
    fn a_body_is_an_object() {
        let deep = "[".repeat(10_000);
        for body in ["", "{", "[]", "nonsense", "\0", "{\"sku\":\"a\",\"quantity\":1", &deep] {
            assert_eq!(change(body.as_bytes()).unwrap_err().code(), Code::InvalidBody, "{body:.20}");
        }
    }
}
