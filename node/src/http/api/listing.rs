//! The keys of a bucket, a page at a time or all of them as lines.
//!
//! ```text
//!   prefix, start, end, cursor ─► one range [from, to) ─► Node::list, page by page ─► {"items":[…],"cursor":…}
//! ```
//!
//! A page of the node may be short because deleted keys were in it, so pages are gathered until the client's is full;
//! after [`LIST_ROUNDS_MAX`] of them it gets what there is, and a cursor. The other way round the store can't be read, so
//! a reversed page reads its whole range and keeps the last keys: bounded memory, at the cost of time.

use super::reply::write_name;
use super::{Answer, Api};
use crate::http::body::ReplyBody;
use crate::http::params::Params;
use crate::http::path::name_problem;
use crate::http::problem::{Code, Problem, Retry};
use crate::limits::{KEYS_PAGE_MAX, LIST_ROUNDS_MAX, REVERSE_PAGES_MAX};
use crate::node::keys::Page;
use crate::world::World;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures_util::stream;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Response};
use ring::ids::{KEY_BYTES_MAX, Partition, check_bucket};
use std::collections::VecDeque;

const PARAMS: &[&str] = &["prefix", "start", "end", "limit", "cursor", "reverse", "partial", "include"];
const NDJSON: &str = "application/x-ndjson";
/// The first byte of a cursor: its form, and its direction.
const FORWARD: u8 = 1;
const BACKWARD: u8 = 2;

/// What a client wants to have listed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Want {
    bucket: Bytes,
    range: Range,
    limit: usize,
    reverse: bool,
    partial: bool,
}

/// Keys with `from <= key < to`; `None` for no end.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Range {
    from: Bytes,
    to: Option<Bytes>,
}

impl Range {
    fn is_empty(&self) -> bool {
        self.to.as_ref().is_some_and(|to| *to <= self.from)
    }

    /// What comes after a key.
    fn after(&self, key: &[u8]) -> Range {
        Range { from: successor(key).max(self.from.clone()), to: self.to.clone() }
    }

    /// What comes before a key.
    fn before(&self, key: &[u8]) -> Range {
        let key = Bytes::copy_from_slice(key);
        Range { from: self.from.clone(), to: Some(self.to.clone().map_or(key.clone(), |to| to.min(key))) }
    }
}

/// The first key that comes after this one.
fn successor(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

/// The first key after all that begin so; `None` when there is none.
fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let (last, before) = prefix.split_last()?;
    match last.checked_add(1) {
        Some(next) => Some([before, &[next]].concat().into()),
        None => prefix_end(before),
    }
}

impl Want {
    fn read(bucket: &[u8], query: Option<&str>) -> Result<Want, Problem> {
        check_bucket(bucket).map_err(name_problem)?;
        let params = Params::parse(query, PARAMS)?;
        let bytes = |name| params.bytes(name).map(Bytes::copy_from_slice);
        let prefix = bytes("prefix").unwrap_or_default();
        let from = bytes("start").unwrap_or_default().max(prefix.clone());
        let end = bytes("end").filter(|end| !end.is_empty());
        let to = match (end, prefix_end(&prefix)) {
            (Some(end), Some(last)) => Some(end.min(last)),
            (end, last) => end.or(last),
        };
        let reverse = params.flag("reverse")?.unwrap_or(false);
        let mut range = Range { from, to };
        if let Some(cursor) = params.bytes("cursor") {
            let key = open_cursor(cursor, reverse)?;
            range = if reverse { range.before(&key) } else { range.after(&key) };
        }
        if params.word("include", &["keys", "versions"])? == Some(1) {
            return Err(Problem::new(Code::NotImplemented, "include=versions is not supported"));
        }
        let limit = params.number("limit", 1..=KEYS_PAGE_MAX as u64)?.unwrap_or(KEYS_PAGE_MAX as u64);
        let partial = params.flag("partial")?.unwrap_or(false);
        let bucket = Bytes::copy_from_slice(bucket);
        Ok(Want { bucket, range, limit: limit as usize, reverse, partial })
    }
}

fn cursor(key: &[u8], reverse: bool) -> String {
    let form = if reverse { BACKWARD } else { FORWARD };
    URL_SAFE_NO_PAD.encode([&[form], key].concat())
}

fn open_cursor(text: &[u8], reverse: bool) -> Result<Vec<u8>, Problem> {
    let form = if reverse { BACKWARD } else { FORWARD };
    let opened = URL_SAFE_NO_PAD.decode(text).ok();
    let key = opened.as_deref().and_then(|bytes| bytes.strip_prefix(&[form]));
    match key.filter(|key| !key.is_empty() && key.len() <= KEY_BYTES_MAX) {
        Some(key) => Ok(key.to_vec()),
        None => {
            let shown: String = String::from_utf8_lossy(text).chars().take(64).collect();
            Err(Problem::parameter("cursor", &shown, "the cursor of an earlier page in the same direction"))
        }
    }
}

/// Some keys, and whether more may come after them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Listed {
    keys: Vec<Bytes>,
    /// The key to go on from; it may be one that is not visible.
    next: Option<Bytes>,
    missing: Vec<Partition>,
}

/// `GET /v1/buckets/{b}/keys`
pub(super) async fn list<W: World>(api: &Api<W>, bucket: &[u8], head: &Parts) -> Answer {
    let want = Want::read(bucket, head.uri.query())?;
    let lines = wants_lines(&head.headers);
    let first = page(api, &want).await?;
    if lines {
        return Ok(stream_lines(api, want, first));
    }
    let mut out = Vec::with_capacity(64 + first.keys.len() * 32);
    out.extend_from_slice(b"{\"items\":[");
    for (index, key) in first.keys.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        put_item(&mut out, key);
    }
    out.extend_from_slice(b"],\"cursor\":");
    match &first.next {
        Some(key) => out.extend_from_slice(format!("\"{}\"", cursor(key, want.reverse)).as_bytes()),
        None => out.extend_from_slice(b"null"),
    }
    if !first.missing.is_empty() {
        let missing: Vec<u16> = first.missing.iter().map(|partition| partition.0).collect();
        out.extend_from_slice(format!(",\"partial\":true,\"missing_partitions\":{missing:?}").as_bytes());
    }
    out.push(b'}');
    Ok(reply(ReplyBody::from(out), "application/json"))
}

fn reply(body: ReplyBody, kind: &'static str) -> Response<ReplyBody> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn put_item(out: &mut Vec<u8>, key: &[u8]) {
    out.push(b'{');
    write_name(out, "key", key);
    out.push(b'}');
}

fn wants_lines(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds = values.flat_map(|text| text.split(',')).filter_map(|range| range.split(';').next());
    kinds.any(|kind| kind.trim().eq_ignore_ascii_case(NDJSON))
}

/// One page of the answer, complete unless the client takes parts.
async fn page<W: World>(api: &Api<W>, want: &Want) -> Result<Listed, Problem> {
    if want.range.is_empty() {
        return Ok(Listed::default());
    }
    let listed = if want.reverse { backward(api, want).await? } else { forward(api, want).await };
    if listed.missing.is_empty() || want.partial {
        return Ok(listed);
    }
    let missing: Vec<u16> = listed.missing.iter().map(|partition| partition.0).collect();
    let detail = format!("{} partitions can't be read; partial=true lists the others", missing.len());
    Err(Problem::new(Code::CoverageIncomplete, detail)
        .retry(Retry::Safe)
        .retry_after_ms(super::RETRY_AFTER_MS)
        .field("missing_partitions", missing.into()))
}

async fn fetch<W: World>(api: &Api<W>, bucket: &Bytes, range: &Range, limit: usize) -> Page {
    let to = range.to.clone().unwrap_or_default();
    api.node.list(bucket, &range.from, &to, limit).await
}

async fn forward<W: World>(api: &Api<W>, want: &Want) -> Listed {
    let (mut listed, mut range) = (Listed::default(), want.range.clone());
    for _ in 0..LIST_ROUNDS_MAX {
        let page = fetch(api, &want.bucket, &range, want.limit).await;
        listed.keys.extend(page.keys);
        listed.missing = page.missing;
        listed.next = page.next_after;
        if listed.keys.len() > want.limit {
            listed.keys.truncate(want.limit);
            listed.next = listed.keys.last().cloned();
        }
        let Some(next) = &listed.next else { break };
        if listed.keys.len() == want.limit || !listed.missing.is_empty() && !want.partial {
            break;
        }
        range = range.after(next);
    }
    listed
}

/// Reads the whole range and keeps its last keys, and one more that tells whether there is another page.
async fn backward<W: World>(api: &Api<W>, want: &Want) -> Result<Listed, Problem> {
    let (mut last, mut range, mut missing) = (VecDeque::new(), want.range.clone(), Vec::new());
    for _ in 0..REVERSE_PAGES_MAX {
        let page = fetch(api, &want.bucket, &range, KEYS_PAGE_MAX).await;
        for key in page.keys {
            last.push_back(key);
            if last.len() > want.limit + 1 {
                last.pop_front();
            }
        }
        missing = page.missing;
        if !missing.is_empty() && !want.partial {
            break;
        }
        let Some(next) = page.next_after else {
            let more = last.len() > want.limit;
            let keys: Vec<Bytes> = last.into_iter().rev().take(want.limit).collect();
            let next = if more { keys.last().cloned() } else { None };
            return Ok(Listed { keys, next, missing });
        };
        range = range.after(&next);
    }
    if !missing.is_empty() {
        return Ok(Listed { missing, ..Listed::default() });
    }
    let most = KEYS_PAGE_MAX * REVERSE_PAGES_MAX;
    Err(Problem::parameter("reverse", "a longer range", &format!("ranges of at most {most} keys")))
}

/// All pages as lines. The next page is read when the client has taken the last one, so that a slow client costs no more
/// than a page. A page that can't be read ends the answer in the middle, which the client sees: half a list is no list.
fn stream_lines<W: World>(api: &Api<W>, want: Want, first: Listed) -> Response<ReplyBody> {
    let state = Some((api.clone(), want, Some(first)));
    let pages = stream::unfold(state, |state| async move {
        let (api, mut want, ready) = state?;
        let listed = match ready {
            Some(listed) => listed,
            None => match page(&api, &want).await {
                Ok(listed) => listed,
                Err(problem) => return Some((Err(std::io::Error::other(format!("{problem:?}"))), None)),
            },
        };
        let mut out = Vec::with_capacity(listed.keys.len() * 32);
        for key in &listed.keys {
            put_item(&mut out, key);
            out.push(b'\n');
        }
        let rest = listed.next.map(|next| {
            want.range = if want.reverse { want.range.before(&next) } else { want.range.after(&next) };
            (api, want, None)
        });
        Some((Ok(Bytes::from(out)), rest))
    });
    reply(ReplyBody::Stream(axum::body::Body::from_stream(pages)), NDJSON)
}

#[cfg(test)]
#[path = "listing_tests.rs"]
mod tests;
