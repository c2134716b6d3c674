//! `/v1/carts`: a cart is read, an item added, set or removed, a guest's cart moved in.
//!
//! ```text
//!   POST items            one write; it needs no read, for an add supersedes nothing
//!   PUT, DELETE           what is superseded was seen: by the caller (Cartwheel-Context), else by a read quorum now
//!   POST merge            read the source · add to the target · wait · empty the source of what was read
//! ```
//!
//! The context of an answer covers what the caller said it had seen, and its own write. It never covers what the node
//! read on the caller's behalf: a later removal with it would take away what the caller has not seen.

use super::cart_body::{self, BODY_BYTES_MAX};
use super::put::required;
use super::reply::{self, CONTEXT, WRITE, header};
use super::{Api, cart_view, failure};
use crate::http::body::{ReplyBody, read_body};
use crate::http::headers::one;
use crate::http::params::{self, Params};
use crate::http::path::{Route, name_problem};
use crate::http::problem::{Code, Ctx, Outcome, Problem, Retry};
use crate::node::read::ReadAsk;
use crate::node::write::{context_bytes, context_from};
use crate::world::World;
use bytes::Bytes;
use futures_util::future::try_join_all;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Body;
use ring::bucket::{BucketSettings, DataType, Level};
use ring::cart::{Cart, Target, moved};
use ring::causal::Context;
use ring::coord::get::Reply;
use ring::ids::ObjectId;
use ring::record::{Op, Record};
use ring::wire::peer::{Action, QuorumAsk, WriteAnswer, WriteAsk};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The longest time that a request may give itself.
const TIMEOUT_MS_MAX: u64 = 60_000;
/// Items with attributes that move at a time.
const MOVES_IN_FLIGHT: usize = 16;

const READ_PARAMS: &[&str] = &["r", "pr", "sloppy", "timeout_ms"];
const WRITE_PARAMS: &[&str] = &["w", "pw", "dw", "sloppy", "timeout_ms"];

/// Answers a request for a cart.
pub(super) async fn handle<W: World, B>(
    api: &Api<W>,
    _ctx: &Ctx,
    route: Route<'_>,
    req: Request<B>,
) -> Result<Response<ReplyBody>, Problem>
where
    B: Body<Data = Bytes> + Unpin,
{
    let (head, body) = req.into_parts();
    match route {
        Route::Cart { bucket, id } => {
            let door = Door::open(api, &head, &bucket, &id)?;
            if head.method == Method::DELETE {
                door.remove(Target::Everything).await
            } else {
                door.show().await
            }
        }
        Route::CartItems { bucket, id } => {
            let door = Door::open(api, &head, &bucket, &id)?;
            door.add(&read_body(body, BODY_BYTES_MAX, api.limits.body).await?).await
        }
        Route::CartItem { bucket, id, sku } => {
            let door = Door::open(api, &head, &bucket, &id)?;
            cart_body::check_sku(&sku).map_err(|wrong| refused(Code::InvalidParameter, wrong))?;
            let sku = Bytes::copy_from_slice(&sku);
            if head.method == Method::DELETE {
                return door.remove(Target::Sku(sku)).await;
            }
            door.set(sku, &read_body(body, BODY_BYTES_MAX, api.limits.body).await?).await
        }
        Route::CartMerge { bucket, id } => {
            let door = Door::open(api, &head, &bucket, &id)?;
            door.merge(&read_body(body, BODY_BYTES_MAX, api.limits.body).await?).await
        }
        _ => Err(Problem::no_route()),
    }
}

/// One request for one cart.
struct Door<'a, W: World> {
    api: &'a Api<W>,
    head: &'a Parts,
    id: ObjectId,
    settings: BucketSettings,
}

/// How a write is to be done.
struct How {
    quorum: QuorumAsk,
    timeout: Duration,
}

impl<'a, W: World> Door<'a, W> {
    fn open(api: &'a Api<W>, head: &'a Parts, bucket: &[u8], id: &[u8]) -> Result<Self, Problem> {
        let id = ObjectId::new(Bytes::copy_from_slice(bucket), Bytes::copy_from_slice(id));
        let id = id.map_err(name_problem)?;
        let settings = api.node.cluster.snapshot().settings(id.bucket()).clone();
        if !matches!(settings.kind, None | Some(DataType::Cart)) {
            return Err(wrong_type("the bucket is configured for another type than cart"));
        }
        Ok(Door { api, head, id, settings })
    }

    async fn show(&self) -> Result<Response<ReplyBody>, Problem> {
        let params = Params::parse(self.head.uri.query(), READ_PARAMS)?;
        let ask = ReadAsk {
            r: self.level(&params, "r", 1)?,
            pr: self.level(&params, "pr", 0)?,
            sloppy: params.flag("sloppy")?,
            at_least: self.token("cartwheel-min-context")?,
            ..ReadAsk::of(self.id.clone(), self.timeout(&params)?)
        };
        let Some(record) = self.read(ask).await?.filter(|record| record.is_cart() || !record.is_object())
        else {
            return Err(Problem::new(Code::NotFound, "there is no such cart"));
        };
        let token = self.api.node.tokens.seal(&self.id, &record.seen_as_cart());
        let mut response = reply::json(cart_view::whole(self.id.key(), &Cart::of(&record), &token));
        response.headers_mut().insert(CONTEXT, header(&token));
        Ok(response)
    }

    async fn add(&self, body: &[u8]) -> Result<Response<ReplyBody>, Problem> {
        let change = cart_body::change(body)?;
        let (how, seen) = (self.how()?, self.token("cartwheel-context")?);
        let action = Action::CartAdd {
            sku: change.sku,
            quantity: change.quantity,
            op: change.op.map(|Op(op)| op),
            attributes: change.attributes,
        };
        let written = self.write(&how, &self.id, action, None).await?;
        self.done(seen, &written, |token| json!({ "context": token }))
    }

    async fn set(&self, sku: Bytes, body: &[u8]) -> Result<Response<ReplyBody>, Problem> {
        let set = cart_body::set(body)?;
        let (how, seen) = (self.how()?, self.token("cartwheel-context")?);
        let superseded = self.seen_or_read(seen.as_ref(), how.timeout).await?;
        let action = Action::CartSet { sku, quantity: set.quantity, attributes: set.attributes };
        let written = self.write(&how, &self.id, action, Some(&superseded)).await?;
        self.done(seen, &written, |token| json!({ "context": token }))
    }

    async fn remove(&self, target: Target) -> Result<Response<ReplyBody>, Problem> {
        let (how, seen) = (self.how()?, self.token("cartwheel-context")?);
        let superseded = self.seen_or_read(seen.as_ref(), how.timeout).await?;
        if superseded.is_empty() {
            // Nobody has seen anything of it, so there is nothing to remove, and nothing to write about it.
            return Ok(reply::status(StatusCode::NO_CONTENT));
        }
        let written = self.write(&how, &self.id, Action::CartRemove(target), Some(&superseded)).await?;
        let mut response = self.done(seen, &written, |_| Value::Null)?;
        *response.body_mut() = ReplyBody::empty();
        *response.status_mut() = StatusCode::NO_CONTENT;
        response.headers_mut().remove(http::header::CONTENT_TYPE);
        Ok(response)
    }

    async fn merge(&self, body: &[u8]) -> Result<Response<ReplyBody>, Problem> {
        let from = cart_body::merge(body)?;
        let (how, seen) = (self.how()?, self.token("cartwheel-context")?);
        let source = ObjectId::new(self.id.bucket().clone(), from)
            .map_err(|error| cart_body::invalid("/from", &error.to_string()))?;
        if source == self.id {
            return Err(cart_body::invalid("/from", "a cart can't be moved into itself"));
        }
        let record = self.look(source.clone(), how.timeout).await?.unwrap_or_default();
        let adds = moved(&record, source.key());
        if adds.is_empty() {
            // Either there never was anything, or an earlier try has moved it: both leave nothing to do.
            return Ok(reply::value(&json!({ "moved": 0 })));
        }
        let count = adds.len();
        let written = self.move_in(&how, &record, adds).await?;
        // Only now: until the target had them all, the source was the only one to have them.
        let emptied = Action::CartRemove(Target::Everything);
        self.write(&how, &source, emptied, Some(&record.seen_as_cart())).await?;
        self.done(seen, &written, |token| json!({ "context": token, "moved": count }))
    }

    /// Adds everything to this cart. An item with attributes moves its first add by itself, which carries them; the
    /// others go in one write.
    async fn move_in(
        &self,
        how: &How,
        source: &Record,
        adds: Vec<(Bytes, i64, Op)>,
    ) -> Result<WriteAnswer, Problem> {
        let (describing, plain) = split(source, adds);
        let mut written = None;
        for some in describing.chunks(MOVES_IN_FLIGHT) {
            let writes = some.iter().map(|action| self.write(how, &self.id, action.clone(), None));
            written = try_join_all(writes).await?.pop().or(written);
        }
        if !plain.is_empty() {
            written = Some(self.write(how, &self.id, Action::CartAddMany(plain), None).await?);
        }
        Ok(written.expect("there was at least one add to move"))
    }

    /// What a removal takes away: what the caller has seen, or else what a read quorum shows.
    async fn seen_or_read(&self, seen: Option<&Context>, timeout: Duration) -> Result<Context, Problem> {
        if let Some(seen) = seen {
            return Ok(seen.clone());
        }
        let record = self.look(self.id.clone(), timeout).await?;
        Ok(record.map(|record| record.seen_as_cart().into_owned()).unwrap_or_default())
    }

    /// Reads on behalf of a write: when that fails, nothing was written.
    async fn look(&self, id: ObjectId, timeout: Duration) -> Result<Option<Arc<Record>>, Problem> {
        self.read(ReadAsk::of(id, timeout)).await.map_err(|problem| problem.outcome(Outcome::NotApplied))
    }

    async fn read(&self, ask: ReadAsk) -> Result<Option<Arc<Record>>, Problem> {
        match self.api.node.read(ask).await {
            Reply::Merged(record) => {
                let now = self.api.node.wall();
                if record.as_ref().is_some_and(|record| record.is_only_object(now)) {
                    return Err(wrong_type("the key holds an object"));
                }
                Ok(record)
            }
            other => Err(failure::read(&other)),
        }
    }

    async fn write(
        &self,
        how: &How,
        id: &ObjectId,
        action: Action,
        seen: Option<&Context>,
    ) -> Result<WriteAnswer, Problem> {
        let ask = WriteAsk {
            id: id.clone(),
            action,
            seen: seen.map(context_bytes),
            quorum: how.quorum,
            timeout_ms: u32::try_from(how.timeout.as_millis()).unwrap_or(u32::MAX),
            return_record: false,
        };
        let written = self
            .api
            .node
            .write(ask, Bytes::new())
            .await
            .map_err(|fail| failure::write_failed(&fail, required(self.api, id, &how.quorum)))?
            .head;
        match failure::decided(&written) {
            Some(problem) => Err(problem),
            None => Ok(written),
        }
    }

    /// `200` with the receipt and the context.
    fn done(
        &self,
        seen: Option<Context>,
        written: &WriteAnswer,
        body: impl FnOnce(&str) -> Value,
    ) -> Result<Response<ReplyBody>, Problem> {
        let token = self.token_of(seen.unwrap_or_default(), written)?;
        let mut response = reply::value(&body(&token));
        response.headers_mut().insert(CONTEXT, header(&token));
        response.headers_mut().insert(WRITE, header(&receipt(written)));
        Ok(response)
    }

    /// What the caller knows now: what it had said, and what it did.
    fn token_of(&self, seen: Context, written: &WriteAnswer) -> Result<String, Problem> {
        let own = context_from(&written.context)
            .map_err(|error| Problem::new(Code::Internal, error.to_string()).outcome(Outcome::Applied))?;
        let mut all = seen;
        all.join(&own);
        Ok(self.api.node.tokens.seal(&self.id, &all))
    }

    fn token(&self, name: &'static str) -> Result<Option<Context>, Problem> {
        let Some(token) = one(&self.head.headers, name)? else { return Ok(None) };
        let opened = self.api.node.tokens.open(&self.id, token);
        opened.map(Some).map_err(|error| refused(Code::InvalidContext, format!("{name}: {error}")))
    }

    fn how(&self) -> Result<How, Problem> {
        let params = Params::parse(self.head.uri.query(), WRITE_PARAMS)?;
        let quorum = QuorumAsk {
            w: self.level(&params, "w", 1)?,
            pw: self.level(&params, "pw", 0)?,
            dw: self.level(&params, "dw", 0)?,
            sloppy: params.flag("sloppy")?,
        };
        Ok(How { quorum, timeout: self.timeout(&params)? })
    }

    fn timeout(&self, params: &Params<'_>) -> Result<Duration, Problem> {
        let asked = params.number("timeout_ms", 1..=TIMEOUT_MS_MAX)?;
        Ok(asked.map_or(self.api.limits.request, Duration::from_millis))
    }

    fn level(&self, params: &Params<'_>, name: &str, least: u32) -> Result<Option<Level>, Problem> {
        let Some(asked) = params.level(name, least)? else { return Ok(None) };
        let level = match asked {
            params::Level::One => Level::One,
            params::Level::Quorum => Level::Quorum,
            params::Level::All => Level::All,
            params::Level::Count(count) => Level::Count(u8::try_from(count).unwrap_or(u8::MAX)),
        };
        let checked = self.settings.check_level(name, level, least as usize);
        let wrong = |detail| refused(Code::InvalidParameter, format!("{name}: {detail}"));
        checked.map(|()| Some(level)).map_err(|invalid| wrong(invalid.detail))
    }
}

/// Takes the first add of each item with attributes out of the rest.
fn split(source: &Record, adds: Vec<(Bytes, i64, Op)>) -> (Vec<Action>, Vec<(Bytes, i64, u128)>) {
    let items = Cart::of(source).items.into_iter().filter(|(_, item)| !item.attributes.is_empty());
    let mut attributes: BTreeMap<Bytes, Bytes> =
        items.map(|(sku, item)| (sku, cart_view::merged_attributes(&item.attributes))).collect();
    let (mut describing, mut plain) = (Vec::new(), Vec::new());
    for (sku, quantity, Op(op)) in adds {
        match attributes.remove(&sku) {
            Some(json) => {
                describing.push(Action::CartAdd { sku, quantity, op: Some(op), attributes: Some(json) });
            }
            None => plain.push((sku, quantity, op)),
        }
    }
    (describing, plain)
}

/// What a write achieved, as the contract words it.
fn receipt(written: &WriteAnswer) -> String {
    let WriteAnswer { quorum, acked, durable, fallbacks, hints, .. } = written;
    format!("w={};acked={acked};durable={durable};fallbacks={fallbacks};hints={hints}", quorum.w)
}

fn wrong_type(detail: &str) -> Problem {
    refused(Code::WrongType, detail)
}

/// Nothing was done, and nothing would be another time.
fn refused(code: Code, detail: impl Into<String>) -> Problem {
    Problem::new(code, detail).outcome(Outcome::NotApplied).retry(Retry::No)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::causal::{Actor, Dot};
    use ring::ids::NodeId;
    use ring::record::{Content, Sibling};

    fn add(count: u64, sku: &'static str) -> Sibling {
        let content = Content::CartAdd { sku: Bytes::from_static(sku.as_bytes()), quantity: 1, op: None };
        Sibling { dot: dot(count), content }
    }

    fn dot(count: u64) -> Dot {
        Dot { actor: Actor { node: NodeId(1), epoch: 1 }, count }
    }

    #[test]
    fn attributes_move_with_the_first_add_of_their_item() {
        let json = Bytes::from_static(br#"{"size":"XL"}"#);
        let said = Content::CartAttributes { sku: Bytes::from_static(b"shirt"), json: json.clone() };
        let siblings =
            vec![add(1, "mug"), add(2, "shirt"), Sibling { dot: dot(3), content: said }, add(4, "shirt")];
        let source = Record { clock: Context::of_dots((1..=4).map(dot)), siblings };
        let adds = moved(&source, b"guest");
        let first = adds[1].2.0;
        let (describing, plain) = split(&source, adds);
        assert_eq!(
            describing,
            [Action::CartAdd {
                sku: Bytes::from_static(b"shirt"),
                quantity: 1,
                op: Some(first),
                attributes: Some(json)
            }]
        );
        assert_eq!(plain.iter().map(|(sku, ..)| &sku[..]).collect::<Vec<_>>(), [&b"mug"[..], b"shirt"]);
    }
}
