//! Reading one object: the value itself, its versions, or the wait for news of it.
//!
//! ```text
//!   visible values   0 → 404 (with the context of a remembered delete)     1 → 200, raw     n → 300, all of them
//! ```
//!
//! The context of an answer is the merged record's whole clock: it covers what is shown and what that replaced. A long
//! poll reads again and again with growing pauses: the news may arrive at any replica, so a watcher at this node alone
//! would miss some of it.

use super::envelope::{Show, envelope, multipart, rfc3339, system_time};
use super::objects::{
    CONTEXT, DELETED, EXPIRES_AT, MIN_CONTEXT, SIBLINGS, context_header, level, opaque, open, seal,
    tag_value, timeout,
};
use super::{Answer, Api, STOPPING, cart_view, draining, failure, overloaded, reply};
use crate::http::body::ReplyBody;
use crate::http::headers::{Condition, Form, META_PREFIX, VERSIONS_JSON, accept};
use crate::http::params::Params;
use crate::http::problem::{Code, Problem};
use crate::limits::{POLL_PAUSE_MAX, POLL_PAUSE_MIN, WAIT_DEFAULT_MS, WAIT_MAX_MS};
use crate::node::read::ReadAsk;
use crate::world::World;
use http::header::{
    ACCEPT, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, LAST_MODIFIED, X_CONTENT_TYPE_OPTIONS,
};
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};
use rand::RngExt;
use ring::bucket::DataType;
use ring::causal::Context;
use ring::coord::get::Reply;
use ring::ids::ObjectId;
use ring::record::object::etag;
use ring::record::{Object, Record};
use ring::time::{Time, Wall};
use std::sync::Arc;
use std::time::Duration;

const PARAMS: &[&str] = &["r", "pr", "sloppy", "timeout_ms", "since", "wait_ms"];

/// What a read found.
type Found = Option<Arc<Record>>;

/// `GET` and `HEAD`; hyper leaves a `HEAD`'s body out.
pub(super) async fn get<W: World>(api: &Api<W>, id: ObjectId, head: &Parts) -> Answer {
    let form = accept(&head.headers)?;
    let mut ask = ReadAsk::of(id.clone(), api.limits.request);
    ask.at_least = context_header(api, &id, &head.headers, &MIN_CONTEXT)?;
    let Some(query) = head.uri.query() else {
        let found = read(api, ask).await?;
        return show(api, &id, found, form, &head.headers);
    };
    let params = Params::parse(Some(query), PARAMS)?;
    set_levels(api, &mut ask, &params)?;
    let wait = params.number("wait_ms", 0..=WAIT_MAX_MS)?;
    let found = match params.bytes("since") {
        Some(token) => {
            let since = open(api, &id, token)?;
            let wait = Duration::from_millis(wait.unwrap_or(WAIT_DEFAULT_MS));
            match poll(api, ask, &since, wait).await? {
                Some(news) => Some(news),
                None => return Ok(not_modified()),
            }
        }
        None if wait.is_some() => {
            return Err(Problem::parameter("wait_ms", "it alone", "together with since"));
        }
        None => read(api, ask).await?,
    };
    show(api, &id, found, form, &head.headers)
}

fn set_levels<W: World>(api: &Api<W>, ask: &mut ReadAsk, params: &Params<'_>) -> Result<(), Problem> {
    let snapshot = api.node.cluster.snapshot();
    let settings = snapshot.settings(ask.id.bucket());
    ask.r = level(params, settings, "r", 1)?;
    ask.pr = level(params, settings, "pr", 0)?;
    ask.sloppy = params.flag("sloppy")?;
    ask.timeout = timeout(api, params)?;
    Ok(())
}

/// Reads a quorum. A context that must have been seen is waited for, as long as the request may take.
pub(super) async fn read<W: World>(api: &Api<W>, ask: ReadAsk) -> Result<Found, Problem> {
    if ask.at_least.is_none() {
        return match api.node.read(ask).await {
            Reply::Merged(found) => Ok(found),
            Reply::TooFew { need, have, timed_out } => Err(failure::read_short(need, have, timed_out)),
            Reply::NotReached => Err(failure::context_not_reached()),
        };
    }
    let deadline = api.node.now() + ask.timeout;
    let mut pause = POLL_PAUSE_MIN;
    let mut lacks_only_that = false;
    loop {
        let timeout = deadline - api.node.now();
        match api.node.read(ReadAsk { timeout, ..ask.clone() }).await {
            Reply::Merged(found) => return Ok(found),
            Reply::NotReached => lacks_only_that = true,
            // Enough have answered, and the time ran out while the others were asked for the context.
            Reply::TooFew { need, have, timed_out: true } if have >= need => lacks_only_that = true,
            // Enough had answered before. The last round has what is left of the time, which is nothing at times.
            Reply::TooFew { .. } if lacks_only_that && api.node.now() >= deadline => {}
            Reply::TooFew { need, have, timed_out } => {
                return Err(failure::read_short(need, have, timed_out));
            }
        }
        if !rest(api, deadline, &mut pause).await {
            return Err(failure::context_not_reached());
        }
    }
}

/// Sleeps for a growing while; false when the time is up.
async fn rest<W: World>(api: &Api<W>, until: Time, pause: &mut Duration) -> bool {
    let left = until - api.node.now();
    if left.is_zero() {
        return false;
    }
    tokio::time::sleep(left.min(*pause)).await;
    *pause = (*pause * 3 / 2).min(POLL_PAUSE_MAX);
    true
}

/// Waits for something that `since` does not cover.
async fn poll<W: World>(
    api: &Api<W>,
    ask: ReadAsk,
    since: &Context,
    wait: Duration,
) -> Result<Found, Problem> {
    let full = |_| overloaded("too many long polls are waiting".to_owned());
    let _one = api.shared.pollers.try_acquire().map_err(full)?;
    let until = api.node.now() + wait;
    let mut pause = POLL_PAUSE_MIN;
    loop {
        let found = read(api, ask.clone()).await?;
        if let Some(record) = found
            && is_news(&record, since)
        {
            return Ok(Some(record));
        }
        if !rest(api, until, &mut pause).await {
            return Ok(None);
        }
        if api.node.is_draining() {
            return Err(draining(STOPPING));
        }
    }
}

/// Whether there is something that a reader with this context has not seen. For objects every change leaves a sibling,
/// while the clock also has dots that were superseded unseen; a removal from a cart may leave nothing but the clock.
fn is_news(record: &Record, since: &Context) -> bool {
    if record.is_cart() && !record.is_object() {
        return !since.covers(&record.clock);
    }
    record.siblings.iter().any(|sibling| !sibling.content.is_cart() && !since.has(&sibling.dot))
}

/// The answer to what was found.
fn show<W: World>(api: &Api<W>, id: &ObjectId, found: Found, form: Form, headers: &HeaderMap) -> Answer {
    let Some(record) = found else { return Err(not_found("there is nothing at this key")) };
    let now = api.node.wall();
    if record.is_only_cart(now) || (!record.is_object() && holds_carts(api, id)) {
        return cart(api, id, &record);
    }
    let token = seal(api, id, &record.seen_as_object());
    let count = record.versions(now).count();
    if count == 0 && !(form == Form::Versions && record.tombstones().next().is_some()) {
        return Err(gone(&record, token, now));
    }
    let tag = etag(record.versions(now).map(|version| version.dot));
    let matched = match Condition::parse(headers, "if-none-match")? {
        Some(condition) => condition.holds_weakly((count > 0).then(|| opaque(&tag))),
        None => false,
    };
    let mut response = match (form, count) {
        _ if matched => not_modified(),
        (Form::Versions, _) => versions(id, &token, &record, now, Show::All),
        (_, 1) => value(&record, now),
        (Form::Multipart, _) => parts(api, &record, now),
        (Form::Raw, _) if !takes_json(headers) => return Err(siblings_not_acceptable(count)),
        (Form::Raw, _) => {
            let mut response = versions(id, &token, &record, now, Show::Values);
            *response.status_mut() = StatusCode::MULTIPLE_CHOICES;
            response
        }
    };
    let map = response.headers_mut();
    map.insert(CONTEXT, token);
    map.insert(SIBLINGS, siblings_value(count));
    if count > 0 {
        map.insert(ETAG, tag_value(tag));
    }
    map.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

fn holds_carts<W: World>(api: &Api<W>, id: &ObjectId) -> bool {
    api.node.cluster.snapshot().settings(id.bucket()).kind == Some(DataType::Cart)
}

/// A cart is shown here only where the bucket was declared to hold carts: elsewhere a reader of objects meant something
/// else.
fn cart<W: World>(api: &Api<W>, id: &ObjectId, record: &Record) -> Answer {
    if !holds_carts(api, id) {
        return Err(failure::wrong_type("cart"));
    }
    let token = seal(api, id, &record.seen_as_cart());
    let text = token.to_str().expect("a token is visible ascii");
    let mut response = reply::json(cart_view::typed_value(record, text));
    response.headers_mut().insert(CONTEXT, token);
    Ok(response)
}

/// How many there are, as a header.
pub(super) fn siblings_value(count: usize) -> HeaderValue {
    if count == 1 { HeaderValue::from_static("1") } else { HeaderValue::from(count) }
}

/// One value as it was stored.
fn value(record: &Record, now: Wall) -> Response<ReplyBody> {
    let version = record.versions(now).next().expect("the caller counted one");
    let object = version.object;
    let mut response = Response::new(ReplyBody::Full(object.body.clone()));
    let map = response.headers_mut();
    // Room for the headers of every answer, so that the map grows once.
    map.reserve(10 + object.meta.len());
    map.insert(CONTENT_TYPE, content_type(object));
    let modified = httpdate::fmt_http_date(system_time(object.modified));
    map.insert(LAST_MODIFIED, HeaderValue::try_from(modified).expect("a date is visible ascii"));
    if let Some(at) = object.expires_at {
        map.insert(EXPIRES_AT, HeaderValue::try_from(rfc3339(at)).expect("a date is visible ascii"));
    }
    for (name, value) in &object.meta {
        let name = HeaderName::try_from(format!("{META_PREFIX}{name}"));
        // A replica of another version may have stored what HTTP can't say; the value itself is still good.
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_maybe_shared(value.clone())) {
            map.append(name, value);
        }
    }
    response
}

fn content_type(object: &Object) -> HeaderValue {
    match object.content_type.as_str() {
        "application/json" => HeaderValue::from_static("application/json"),
        "application/octet-stream" => HeaderValue::from_static("application/octet-stream"),
        other => HeaderValue::from_str(other)
            .unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream")),
    }
}

/// The envelope, with status 200.
pub(super) fn versions(
    id: &ObjectId,
    token: &HeaderValue,
    record: &Record,
    now: Wall,
    show: Show,
) -> Response<ReplyBody> {
    let context = token.to_str().expect("a token is visible ascii");
    let mut response = Response::new(ReplyBody::from(envelope(id, context, record, now, show)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(VERSIONS_JSON));
    response
}

fn parts<W: World>(api: &Api<W>, record: &Record, now: Wall) -> Response<ReplyBody> {
    let boundary = format!("cartwheel-{:032x}", draw(api));
    let mut response = Response::new(ReplyBody::Full(multipart(&boundary, record, now)));
    *response.status_mut() = StatusCode::MULTIPLE_CHOICES;
    let kind = HeaderValue::try_from(format!("multipart/mixed; boundary={boundary}"));
    response.headers_mut().insert(CONTENT_TYPE, kind.expect("the boundary is hexadecimal digits"));
    response
}

/// 128 random bits: nobody guesses them, so no value holds them as its boundary and no key has them as its name.
pub(super) fn draw<W: World>(api: &Api<W>) -> u128 {
    api.node.rng.lock().unwrap_or_else(std::sync::PoisonError::into_inner).random()
}

fn not_modified() -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response
}

fn not_found(detail: &str) -> Problem {
    Problem::new(Code::NotFound, detail)
}

/// Nothing is visible, but the key has a past: its context lets the next writer go on from there.
fn gone(record: &Record, token: HeaderValue, now: Wall) -> Problem {
    let detail = match (record.tombstones().next(), record.has_expired(now)) {
        (Some(_), _) => "the value was deleted",
        (None, true) => "the value has expired",
        (None, false) => return not_found("nothing is left at this key").header(CONTEXT, token),
    };
    not_found(detail).header(CONTEXT, token).header(DELETED, HeaderValue::from_static("true"))
}

/// Whether the client takes the envelope without having asked for it by name.
fn takes_json(headers: &HeaderMap) -> bool {
    let mut ranges = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
    ranges.peek().is_none()
        || ranges.flat_map(|text| text.split(',')).any(|range| {
            let kind = range.split(';').next().unwrap_or_default().trim();
            ["*/*", "application/*", "application/json", VERSIONS_JSON]
                .iter()
                .any(|json| kind.eq_ignore_ascii_case(json))
        })
}

fn siblings_not_acceptable(count: usize) -> Problem {
    let detail = format!("there are {count} values, which come as {VERSIONS_JSON} or as multipart/mixed");
    Problem::new(Code::NotAcceptable, detail)
}

#[cfg(test)]
#[path = "get_tests.rs"]
mod tests;
