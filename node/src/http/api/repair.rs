//! `POST /v1/repair`, `GET /v1/repair/{id}`: compare replicas now, and say how far that is.

use super::{Answer, Api, overloaded, reply};
use crate::http::params::Params;
use crate::http::path::Route;
use crate::http::problem::{Code, Outcome, Problem, Retry};
use crate::node::repair::{Progress, Scope};
use crate::world::World;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::LOCATION;
use http::{HeaderValue, Request, StatusCode};
use hyper::body::Body;
use ring::ids::{ObjectId, Partition, check_bucket};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// A bucket and a key, escaped as JSON escapes control characters: six times as long, and longer than base64.
const BODY_BYTES_MAX: u64 = 16 << 10;

/// What the body says; a field that is misspelt is refused.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Asked {
    bucket: Option<String>,
    bucket_base64: Option<String>,
    key: Option<String>,
    key_base64: Option<String>,
    partition: Option<u16>,
}

/// Answers both.
pub(super) async fn handle<W: World, B>(api: &Api<W>, route: Route<'_>, req: Request<B>) -> Answer
where
    B: Body<Data = Bytes> + Unpin,
{
    Params::parse(req.uri().query(), &[])?;
    if let Route::RepairJob { id } = route {
        return show(api, &id);
    }
    let body = api.body(req.into_body(), BODY_BYTES_MAX).await?;
    let scope = scope(&body, api.node.cluster.snapshot().view.partitions)?;
    let id = api.node.begin_repair(scope).ok_or_else(|| overloaded("enough repairs are running".into()))?;
    let id = format!("{id:016x}");
    let mut response = reply::value(&json!({ "id": id, "node": api.node.id().to_string() }));
    *response.status_mut() = StatusCode::ACCEPTED;
    let place = HeaderValue::try_from(format!("/v1/repair/{id}")).expect("a number is visible ascii");
    response.headers_mut().insert(LOCATION, place);
    Ok(response)
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(Code::InvalidBody, detail.into()).outcome(Outcome::NotApplied).retry(Retry::No)
}

/// An empty body means everything.
fn scope(body: &[u8], partitions: u16) -> Result<Scope, Problem> {
    let asked: Asked = if body.is_empty() {
        Asked::default()
    } else {
        // By way of a map, for serde would take an array for a struct as well.
        let fields: Map<String, Value> = serde_json::from_slice(body).map_err(|e| invalid(e.to_string()))?;
        Asked::deserialize(Value::Object(fields)).map_err(|e| invalid(e.to_string()))?
    };
    let bucket = name("bucket", asked.bucket, asked.bucket_base64)?;
    let key = name("key", asked.key, asked.key_base64)?;
    if key.is_some() && bucket.is_none() {
        return Err(invalid("/key: a key is one of a bucket, which is missing"));
    }
    if asked.partition.is_some() && key.is_some() {
        return Err(invalid("/partition: a key has a partition of its own"));
    }
    if let Some(partition) = asked.partition.filter(|partition| *partition >= partitions) {
        return Err(invalid(format!("/partition: there are {partitions}, from 0, and no {partition}")));
    }
    if let Some(bucket) = &bucket {
        check_bucket(bucket).map_err(|wrong| invalid(format!("the bucket: {wrong}")))?;
    }
    if let (Some(bucket), Some(key)) = (&bucket, &key) {
        ObjectId::new(bucket.clone(), key.clone()).map_err(|wrong| invalid(format!("the key: {wrong}")))?;
    }
    Ok(Scope { bucket, key, partition: asked.partition.map(Partition) })
}

/// A name is text, or octets in base64.
fn name(field: &str, text: Option<String>, encoded: Option<String>) -> Result<Option<Bytes>, Problem> {
    match (text, encoded) {
        (Some(_), Some(_)) => Err(invalid(format!("/{field}_base64: the {field} is given twice"))),
        (text, None) => Ok(text.map(Bytes::from)),
        (None, Some(encoded)) => {
            let octets = STANDARD.decode(encoded);
            octets
                .map(|octets| Some(octets.into()))
                .map_err(|_| invalid(format!("/{field}_base64: this is no base64")))
        }
    }
}

fn show<W: World>(api: &Api<W>, id: &[u8]) -> Answer {
    let text = std::str::from_utf8(id).ok().filter(|text| text.len() == 16);
    let number = text.and_then(|text| u64::from_str_radix(text, 16).ok());
    let jobs = api.node.lock_repairs();
    match number.and_then(|number| Some((number, jobs.get(number)?))) {
        Some((number, progress)) => Ok(reply::value(&progress_json(number, progress))),
        None => Err(Problem::new(Code::NotFound, "this node knows of no such repair").retry(Retry::No)),
    }
}

fn progress_json(id: u64, progress: &Progress) -> Value {
    let state = match (progress.ended, progress.incomplete.is_empty() && progress.done == progress.partitions)
    {
        (false, _) => "running",
        (true, true) => "done",
        (true, false) => "incomplete",
    };
    json!({
        "id": format!("{id:016x}"),
        "state": state,
        "partitions": progress.partitions,
        "partitions_done": progress.done,
        "partitions_incomplete": progress.incomplete.iter().map(|partition| partition.0).collect::<Vec<_>>(),
        "differences": progress.differences,
        "repairs": progress.repairs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_taken_strictly() {
        assert_eq!(scope(b"", 8).unwrap(), Scope::default());
        assert_eq!(scope(b"{\"partition\":7}", 8).unwrap().partition, Some(Partition(7)));
        let key = scope(br#"{"bucket":"b","key":"k"}"#, 8).unwrap();
        assert_eq!((key.bucket, key.key), (Some(Bytes::from("b")), Some(Bytes::from("k"))));
        let octets = scope(br#"{"bucket_base64":"/w==","key_base64":"AP8="}"#, 8).unwrap();
        assert_eq!(octets.bucket, Some(Bytes::from_static(b"\xff")));
        assert_eq!(octets.key, Some(Bytes::from_static(b"\0\xff")));
        for wrong in [
            "[]",
            "{\"bucket_base64\":\"?\"}",
            "{\"bucket\":\"b\",\"bucket_base64\":\"Yg==\"}",
            "{\"key_base64\":\"Yg==\"}",
            "{\"partition\":8}",
            "{\"partition\":-1}",
            "{\"key\":\"k\"}",
            "{\"bucket\":\"\"}",
            "{\"bucket\":\"b\",\"key\":\"\"}",
            "{\"bucket\":\"b\",\"key\":\"k\",\"partition\":1}",
            "{\"buckett\":\"b\"}",
            "{",
        ] {
            assert!(scope(wrong.as_bytes(), 8).is_err(), "{wrong}");
        }
    }
}
