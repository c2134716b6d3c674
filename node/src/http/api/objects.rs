//! Objects: what reading, writing and listing share.
//!
//! Parameters are checked here against the bucket's settings, so that `w=4` of three replicas is a `400` that says so
//! and never a write that can't succeed. A request without a query skips all of it.

use super::{Answer, Api, get, listing, put};
use crate::http::params::{self, Params};
use crate::http::path::{Route, Segment, name_problem};
use crate::http::problem::{Code, Ctx, Outcome, Problem, Retry};
use crate::limits::TIMEOUT_MAX_MS;
use crate::world::World;
use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request};
use hyper::body::Body;
use ring::bucket::{BucketSettings, Level};
use ring::causal::Context;
use ring::ids::ObjectId;
use std::time::Duration;

/// The causal context, both ways.
pub(super) const CONTEXT: HeaderName = HeaderName::from_static("cartwheel-context");
/// What a read must have seen.
pub(super) const MIN_CONTEXT: HeaderName = HeaderName::from_static("cartwheel-min-context");
/// How many values stand side by side.
pub(super) const SIBLINGS: HeaderName = HeaderName::from_static("cartwheel-siblings");
/// A delete is remembered.
pub(super) const DELETED: HeaderName = HeaderName::from_static("cartwheel-deleted");
/// When the value goes.
pub(super) const EXPIRES_AT: HeaderName = HeaderName::from_static("cartwheel-expires-at");
/// The receipt of a write.
pub(super) const RECEIPT: HeaderName = HeaderName::from_static("cartwheel-write");

/// Answers requests for objects and for the keys of a bucket.
pub(super) async fn handle<W: World, B>(api: &Api<W>, _ctx: &Ctx, route: Route<'_>, req: Request<B>) -> Answer
where
    B: Body<Data = Bytes> + Unpin,
{
    let (head, body) = req.into_parts();
    match route {
        Route::Object { bucket, key } => {
            let id = object_id(bucket, key)?;
            match head.method {
                Method::PUT => put::put(api, id, &head, body, put::Named::ByClient).await,
                Method::DELETE => put::delete(api, id, &head).await,
                _ => get::get(api, id, &head).await,
            }
        }
        Route::Keys { bucket } if head.method == Method::POST => {
            let id = object_id(bucket, Segment::Owned(put::made_up_key(api)))?;
            put::put(api, id, &head, body, put::Named::ByServer).await
        }
        Route::Keys { bucket } => listing::list(api, &bucket, &head).await,
        _ => Err(Problem::no_route()),
    }
}

/// The checked name of an object.
pub(super) fn object_id(bucket: Segment<'_>, key: Segment<'_>) -> Result<ObjectId, Problem> {
    ObjectId::new(bucket.into_owned(), key.into_owned()).map_err(name_problem)
}

/// A level that the request names, if the bucket can keep it.
pub(super) fn level(
    params: &Params<'_>,
    settings: &BucketSettings,
    name: &'static str,
    least: u8,
) -> Result<Option<Level>, Problem> {
    let Some(asked) = params.level(name, least.into())? else { return Ok(None) };
    let impossible = |found: &str| {
        let allowed =
            format!("an integer from {least} to {} (the bucket's n), or one, quorum, all", settings.n);
        Problem::parameter(name, found, &allowed).outcome(Outcome::NotApplied).retry(Retry::No)
    };
    let level = match asked {
        params::Level::One => Level::One,
        params::Level::Quorum => Level::Quorum,
        params::Level::All => Level::All,
        params::Level::Count(count) => {
            Level::Count(u8::try_from(count).map_err(|_| impossible(&count.to_string()))?)
        }
    };
    match settings.check_level(name, level, least.into()) {
        Ok(()) => Ok(Some(level)),
        Err(_) => Err(impossible(&level.to_string())),
    }
}

/// How long the request may take.
pub(super) fn timeout<W: World>(api: &Api<W>, params: &Params<'_>) -> Result<Duration, Problem> {
    let asked = params.number("timeout_ms", 1..=TIMEOUT_MAX_MS)?;
    Ok(asked.map_or(api.limits.request, Duration::from_millis))
}

/// Opens a context that a client brought along; one that can't be opened is refused and never taken for an empty one.
pub(super) fn open<W: World>(api: &Api<W>, id: &ObjectId, token: &[u8]) -> Result<Context, Problem> {
    let token = std::str::from_utf8(token).map_err(|_| invalid_context("it is not even text"))?;
    api.node.tokens.open(id, token).map_err(|error| invalid_context(&error.to_string()))
}

/// The context in a header that may stand there once.
pub(super) fn context_header<W: World>(
    api: &Api<W>,
    id: &ObjectId,
    headers: &HeaderMap,
    name: &HeaderName,
) -> Result<Option<Context>, Problem> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(token), None) => open(api, id, token.as_bytes()).map(Some),
        (Some(_), Some(_)) => Err(invalid_context("it stands there twice")),
    }
}

fn invalid_context(detail: &str) -> Problem {
    Problem::new(Code::InvalidContext, detail).outcome(Outcome::NotApplied).retry(Retry::No)
}

/// A context as a client carries it.
pub(super) fn seal<W: World>(api: &Api<W>, id: &ObjectId, context: &Context) -> HeaderValue {
    HeaderValue::try_from(api.node.tokens.seal(id, context)).expect("base64 is visible ascii")
}

/// A tag as a header has it.
pub(super) fn tag_value(etag: String) -> HeaderValue {
    HeaderValue::try_from(etag).expect("a tag is hexadecimal digits in quotes")
}

/// A tag without its quotes, as conditions are compared.
pub(super) fn opaque(etag: &str) -> &str {
    etag.trim_matches('"')
}
