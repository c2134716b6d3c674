//! Writing one object: put, post and delete, with their conditions and their receipt.
//!
//! ```text
//!   headers, query ─► body ─► condition? read a quorum, compare ─► write ─► 204 + context, etag, receipt
//! ```
//!
//! Everything that can be refused is refused before the body is read, and the body before anybody is asked. Conditions
//! are best effort: what a read quorum shows may be overtaken before the write arrives. That is why a condition that
//! holds also says what the writer has seen: a value that came in between becomes a sibling and is not lost.

use super::envelope::{Show, versions};
use super::get::{self, draw, siblings_value};
use super::objects::{CONTEXT, RECEIPT, SIBLINGS, context_header, level, opaque, seal, tag_value, timeout};
use super::{Answer, Api, failure};
use crate::http::body::ReplyBody;
use crate::http::headers::{self, Condition};
use crate::http::params::Params;
use crate::http::problem::{Code, Outcome, Problem, Retry};
use crate::node::read::ReadAsk;
use crate::node::write::{context_bytes, context_from, write_quorum};
use crate::world::World;
use bytes::Bytes;
use http::header::{ETAG, HeaderValue, LOCATION, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};
use hyper::body::Body;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use ring::bucket::{BucketSettings, DataType, Level};
use ring::causal::Context;
use ring::coord;
use ring::ids::ObjectId;
use ring::record::Record;
use ring::record::object::etag;
use ring::time::Time;
use ring::wire::peer::{Action, QuorumAsk, WriteAnswer, WriteAsk};
use ring::wire::record::decode;
use std::time::Duration;

const PARAMS: &[&str] = &["w", "dw", "pw", "sloppy", "timeout_ms", "return"];
const OCTETS: &str = "application/octet-stream";
/// What a path segment may hold as it is.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Who chose the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// `PUT`
    ByClient,
    /// `POST`: the answer is `201` and says where it is.
    ByServer,
}

/// What a write's query and headers ask for, whatever it writes.
struct Asked {
    quorum: QuorumAsk,
    timeout: Duration,
    deadline: Time,
    return_versions: bool,
    seen: Option<Context>,
}

impl Asked {
    fn read<W: World>(api: &Api<W>, id: &ObjectId, head: &Parts) -> Result<Asked, Problem> {
        let snapshot = api.node.cluster.snapshot();
        let settings = snapshot.settings(id.bucket());
        check_kind(settings)?;
        let params = Params::parse(head.uri.query(), PARAMS)?;
        let timeout = timeout(api, &params)?;
        Ok(Asked {
            quorum: QuorumAsk {
                w: level(&params, settings, "w", 1)?,
                pw: level(&params, settings, "pw", 0)?,
                dw: level(&params, settings, "dw", 0)?,
                sloppy: params.flag("sloppy")?,
            },
            timeout,
            deadline: api.node.now() + timeout,
            return_versions: params.word("return", &["none", "versions"])? == Some(1),
            seen: context_header(api, id, &head.headers, &CONTEXT)?,
        })
    }

    /// What is left of the request's time; a moment at least, so that the write itself answers that it is over.
    fn left<W: World>(&self, api: &Api<W>) -> Duration {
        (self.deadline - api.node.now()).max(Duration::from_millis(1))
    }
}

/// A bucket that was declared to hold something else takes no objects.
fn check_kind(settings: &BucketSettings) -> Result<(), Problem> {
    match settings.kind {
        None | Some(DataType::Object) => Ok(()),
        Some(DataType::Counter) => Err(failure::wrong_type("counter")),
        Some(DataType::Set) => Err(failure::wrong_type("set")),
        Some(DataType::Map) => Err(failure::wrong_type("map")),
        Some(DataType::Cart) => Err(failure::wrong_type("cart")),
    }
}

/// A key that nobody else will choose.
pub(super) fn made_up_key<W: World>(api: &Api<W>) -> Vec<u8> {
    format!("{:032x}", draw(api)).into_bytes()
}

/// `PUT` of an object, or `POST` to its bucket.
pub(super) async fn put<W: World, B>(
    api: &Api<W>,
    id: ObjectId,
    head: &Parts,
    body: B,
    named: Named,
) -> Answer
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut asked = Asked::read(api, &id, head)?;
    let action = put_action(&head.headers)?;
    let conditions = Conditions::read(&head.headers)?;
    let limit = api.limits.value_bytes;
    let _room = api.room(&body, limit)?;
    let value = api.body(body, limit).await?;
    // The client's own pace is not the request's: its time begins when the body is whole.
    asked.deadline = api.node.now() + asked.timeout;
    if let Some(conditions) = conditions {
        let found = look(api, &id, &asked).await?;
        conditions.check(api, &id, found.as_deref())?;
        asked.seen = asked.seen.or_else(|| conditions.seen(found.as_deref()));
    }
    write(api, id, asked, action, value, named).await
}

fn put_action(headers: &HeaderMap) -> Result<Action, Problem> {
    headers::check_content_encoding(headers)?;
    let content_type = match headers::content_type(headers)? {
        Some(value) => value.to_str().unwrap_or(OCTETS).to_owned(),
        None => OCTETS.to_owned(),
    };
    let meta = headers::meta(headers)?;
    let meta =
        meta.into_iter().map(|(name, value)| (name, Bytes::copy_from_slice(value.as_bytes()))).collect();
    let ttl_ms = headers::ttl_seconds(headers)?.map(|seconds| seconds * 1000);
    Ok(Action::Put { content_type, meta, ttl_ms })
}

/// `DELETE`: without a context, of what a read quorum shows.
pub(super) async fn delete<W: World>(api: &Api<W>, id: ObjectId, head: &Parts) -> Answer {
    let mut asked = Asked::read(api, &id, head)?;
    let conditions = Conditions::read(&head.headers)?;
    if conditions.is_some() || asked.seen.is_none() {
        let found = look(api, &id, &asked).await?;
        let found = found.as_deref();
        if found.is_some_and(|record| record.is_only_cart(api.node.wall())) {
            return Err(failure::wrong_type("cart"));
        }
        if let Some(conditions) = conditions {
            conditions.check(api, &id, found)?;
        }
        if asked.seen.is_none() {
            let clock = found.map(|record| record.seen_as_object().into_owned()).unwrap_or_default();
            if found.is_none_or(|record| record.versions(api.node.wall()).next().is_none()) {
                return Ok(nothing_to_delete(api, &id, &clock));
            }
            asked.seen = Some(clock);
        }
    }
    write(api, id, asked, Action::Delete, Bytes::new(), Named::ByClient).await
}

/// There was nothing, so nothing was written and nobody had to take it.
fn nothing_to_delete<W: World>(api: &Api<W>, id: &ObjectId, clock: &Context) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let map = response.headers_mut();
    map.insert(CONTEXT, seal(api, id, clock));
    map.insert(SIBLINGS, HeaderValue::from_static("0"));
    map.insert(RECEIPT, HeaderValue::from_static("w=0;acked=0;durable=0;fallbacks=0;hints=0"));
    response
}

/// What a read quorum shows, whatever the bucket's `r` is.
async fn look<W: World>(
    api: &Api<W>,
    id: &ObjectId,
    asked: &Asked,
) -> Result<Option<std::sync::Arc<Record>>, Problem> {
    let mut ask = ReadAsk::of(id.clone(), asked.left(api));
    ask.r = Some(Level::Quorum);
    ask.sloppy = asked.quorum.sloppy;
    get::read(api, ask).await.map_err(|problem| problem.outcome(Outcome::NotApplied))
}

/// `If-Match` and `If-None-Match` of a write.
struct Conditions<'a> {
    matches: Option<Condition<'a>>,
    none_match: Option<Condition<'a>>,
}

impl<'a> Conditions<'a> {
    fn read(headers: &'a HeaderMap) -> Result<Option<Conditions<'a>>, Problem> {
        let matches = Condition::parse(headers, "if-match")?;
        let none_match = Condition::parse(headers, "if-none-match")?;
        Ok((matches.is_some() || none_match.is_some()).then_some(Conditions { matches, none_match }))
    }

    fn hold(&self, etag: Option<&str>) -> bool {
        self.matches.as_ref().is_none_or(|c| c.holds_strongly(etag))
            && self.none_match.as_ref().is_none_or(|c| !c.holds_weakly(etag))
    }

    fn check<W: World>(&self, api: &Api<W>, id: &ObjectId, found: Option<&Record>) -> Result<(), Problem> {
        let now = api.node.wall();
        let tag = found.and_then(|record| {
            let mut dots = record.versions(now).map(|version| version.dot).peekable();
            dots.peek().is_some().then(|| etag(dots))
        });
        if self.hold(tag.as_deref().map(opaque)) {
            return Ok(());
        }
        let detail = if tag.is_some() { "the key holds another version" } else { "the key holds nothing" };
        let mut problem = Problem::new(Code::PreconditionFailed, detail)
            .outcome(Outcome::NotApplied)
            .retry(Retry::AfterRead)
            .field("versions", versions(found, now));
        if let Some(record) = found {
            problem = problem.header(CONTEXT, seal(api, id, &record.seen_as_object()));
        }
        if let Some(tag) = tag {
            problem = problem.header(ETAG, tag_value(tag));
        }
        Err(problem)
    }

    /// What the writer of a condition that holds has seen: who names the tag of all that is there has read it, and who
    /// asks for nothing has found it. `If-Match: *` names nothing.
    fn seen(&self, found: Option<&Record>) -> Option<Context> {
        match &self.matches {
            Some(Condition::Any) => None,
            _ => Some(found.map(|record| record.seen_as_object().into_owned()).unwrap_or_default()),
        }
    }
}

async fn write<W: World>(
    api: &Api<W>,
    id: ObjectId,
    asked: Asked,
    action: Action,
    value: Bytes,
    named: Named,
) -> Answer {
    let is_delete = action == Action::Delete;
    let timeout_ms = u32::try_from(asked.left(api).as_millis()).unwrap_or(u32::MAX).max(1);
    let ask = WriteAsk {
        id: id.clone(),
        action,
        seen: asked.seen.as_ref().map(context_bytes),
        quorum: asked.quorum,
        timeout_ms,
        return_record: asked.return_versions,
    };
    let written = match api.node.write(ask, value).await {
        Ok(written) if written.head.outcome == coord::Outcome::Applied => written,
        Ok(written) => return Err(failure::write_short(&written.head)),
        Err(fail) => return Err(failure::write_failed(&fail, required(api, &id, &asked.quorum))),
    };
    let mut response = if asked.return_versions {
        with_versions(api, &id, &written.body)?
    } else {
        let context = context_from(&written.head.context).map_err(|refusal| failure::refused(&refusal, 0))?;
        let mut response = Response::new(ReplyBody::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        response.headers_mut().insert(CONTEXT, seal(api, &id, &context));
        response
    };
    let map = response.headers_mut();
    if !is_delete {
        map.insert(ETAG, tag_value(etag(written.head.dots.iter().copied())));
    }
    map.insert(SIBLINGS, siblings_value(written.head.siblings));
    map.insert(RECEIPT, receipt(&written.head));
    if named == Named::ByServer {
        map.insert(LOCATION, location(&id));
        *response.status_mut() = StatusCode::CREATED;
    }
    Ok(response)
}

/// What stands at the coordinator now, under a context that covers all of it.
fn with_versions<W: World>(
    api: &Api<W>,
    id: &ObjectId,
    encoded: &Bytes,
) -> Result<Response<ReplyBody>, Problem> {
    let record = decode(encoded).map_err(|error| {
        Problem::new(Code::Internal, format!("the write was done, its record can't be read: {error}"))
            .outcome(Outcome::Applied)
            .retry(Retry::AfterRead)
    })?;
    let token = seal(api, id, &record.seen_as_object());
    let mut response = get::versions(id, &token, &record, api.node.wall(), Show::All);
    let map = response.headers_mut();
    map.insert(CONTEXT, token);
    map.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

/// How many replicas a failed write needed.
pub(super) fn required<W: World>(api: &Api<W>, id: &ObjectId, ask: &QuorumAsk) -> usize {
    let snapshot = api.node.cluster.snapshot();
    let owners = api.node.cluster.plan(&snapshot, id).owners.len();
    write_quorum(snapshot.settings(id.bucket()), ask, owners).w
}

/// `w=2;acked=3;durable=3;fallbacks=0;hints=0`
fn receipt(answer: &WriteAnswer) -> HeaderValue {
    let text = format!(
        "w={};acked={};durable={};fallbacks={};hints={}",
        answer.quorum.w, answer.acked, answer.durable, answer.fallbacks, answer.hints
    );
    HeaderValue::try_from(text).expect("words and numbers are visible ascii")
}

fn location(id: &ObjectId) -> HeaderValue {
    let (bucket, key) = (percent_encode(id.bucket(), ESCAPED), percent_encode(id.key(), ESCAPED));
    HeaderValue::try_from(format!("/v1/buckets/{bucket}/keys/{key}")).expect("what is escaped is ascii")
}

#[cfg(test)]
#[path = "put_tests.rs"]
mod tests;
