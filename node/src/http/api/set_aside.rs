//! `GET /v1/set-aside`: old copies that this node has set aside, for a person who decides whether any of it was a value.
//!
//! Without parameters it names keys, a page at a time; with `bucket` and `key` it shows what was kept of one. Putting a value
//! back is a write like every other, by whoever knows that it was not deleted.

use super::reply::{self, put_name};
use super::{Answer, Api};
use crate::http::params::Params;
use crate::http::path::name_problem;
use crate::http::problem::{Code, Problem, Retry};
use crate::limits::{LIST_SCAN_BYTES, SET_ASIDE_ROWS};
use crate::store::{Family, Store, keys};
use crate::world::World;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ring::ids::ObjectId;
use ring::record::{Content, Record, Sibling};
use ring::wire::record::decode;
use serde_json::{Map, Value, json};

/// Answers both.
pub(super) fn handle<W: World>(api: &Api<W>, query: Option<&str>) -> Answer {
    let params = Params::parse(query, &["bucket", "key", "after"])?;
    let store = &api.node.store;
    let unreadable = |error: String| Problem::new(Code::Internal, error).retry(Retry::Safe);
    if let (Some(bucket), Some(key)) = (params.bytes("bucket"), params.bytes("key")) {
        let id = ObjectId::new(Bytes::copy_from_slice(bucket), Bytes::copy_from_slice(key));
        let id = id.map_err(name_problem)?;
        let partition = api.node.cluster.snapshot().table.partition_of(&id);
        let row = store.get(Family::Meta, &keys::aside_key(partition, &id));
        let none = || Problem::new(Code::NotFound, "nothing was set aside of this key here").retry(Retry::No);
        let row = row.map_err(|error| unreadable(error.to_string()))?.ok_or_else(none)?;
        let record = decode(&row).map_err(|error| unreadable(error.to_string()))?;
        return Ok(reply::value(&one(&id, &record)));
    }
    let (mut start, end) = keys::asides();
    if let Some(after) = params.bytes("after") {
        let after = STANDARD.decode(after).ok().filter(|after| *after >= start);
        let wrong = || Problem::parameter("after", "something else", "`next` of the page before");
        start = keys::after(&after.ok_or_else(wrong)?);
    }
    let rows = store.scan(Family::Meta, &start, end.as_deref(), SET_ASIDE_ROWS, LIST_SCAN_BYTES);
    let rows = rows.map_err(|error| unreadable(error.to_string()))?;
    let ids = rows.iter().filter_map(|(key, _)| Some(keys::decode_aside_key(key).ok()?.1));
    let items: Vec<Value> = ids.map(|id| Value::Object(named(&id))).collect();
    let next = rows.last().map(|(last, _)| STANDARD.encode(last));
    Ok(reply::value(&json!({ "node": api.node.id().to_string(), "items": items, "next": next })))
}

fn named(id: &ObjectId) -> Map<String, Value> {
    let mut names = Map::new();
    put_name(&mut names, "bucket", id.bucket());
    put_name(&mut names, "key", id.key());
    names
}

fn one(id: &ObjectId, record: &Record) -> Value {
    let mut all = named(id);
    all.insert("versions".to_owned(), record.siblings.iter().map(version).collect());
    Value::Object(all)
}

fn version(sibling: &Sibling) -> Value {
    let mut all = Map::new();
    all.insert("dot".to_owned(), sibling.dot.to_string().into());
    all.insert("deleted".to_owned(), sibling.content.is_dead().into());
    match &sibling.content {
        Content::Object(object) => put_name(&mut all, "value", &object.body),
        Content::CartAdd { sku, quantity, .. } => {
            put_name(&mut all, "sku", sku);
            all.insert("quantity".to_owned(), (*quantity).into());
        }
        Content::CartAttributes { sku, json } => {
            put_name(&mut all, "sku", sku);
            put_name(&mut all, "attributes", json);
        }
        _ => {}
    }
    Value::Object(all)
}
