//! `/v1/buckets` and the settings of one bucket.
//!
//! ```text
//!   PUT     the defaults, with what the body names        (the type stays where the body does not name it)
//!   PATCH   what holds now, with what the body names
//!   DELETE  the defaults
//! ```
//!
//! Settings live in the view that gossip spreads. The node that takes a change holds it at once and tells everybody it
//! can reach before it answers, so that the next request through another node finds it; who can't be reached hears of
//! it later. The type is what the data under it is read by, so it is kept while there is any.

use super::cart_body::{object, pointer};
use super::reply::{self, put_name};
use super::{Api, cart_body::BODY_BYTES_MAX, plan};
use crate::cluster::Snapshot;
use crate::duty::gossip::exchange;
use crate::http::body::{ReplyBody, read_body};
use crate::http::params::Params;
use crate::http::path::{Route, name_problem};
use crate::http::problem::{Code, Ctx, Outcome, Problem, Retry};
use crate::limits::GOSSIP_FANOUT;
use crate::store::{Family, Store, StoreError, keys};
use crate::world::World;
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Body;
use ring::bucket::{BucketSettings, DataType, Invalid, Setting};
use ring::ids::{Partition, check_bucket};
use ring::members::ViewError;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::timeout;

/// How long an answer waits for others to hear of a change.
const SPREAD_MAX: Duration = Duration::from_secs(1);
/// Names that are listed: 10,000 × 255 bytes = 2.5 MB at worst.
const NAMES_MAX: usize = 10_000;
/// Looks into the store for one listing, each of them one seek: below a tenth of a second.
const SEEKS_MAX: usize = 20_000;

/// Answers a request for buckets or for one bucket's settings.
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
    Params::parse(head.uri.query(), &[])?;
    let Route::Bucket { bucket } = route else { return list(api) };
    check_bucket(&bucket).map_err(name_problem)?;
    let bucket = Bytes::copy_from_slice(&bucket);
    let change = match head.method {
        Method::DELETE => Change::Reset,
        Method::PUT => Change::Replace(fields(body, api, &bucket).await?),
        Method::PATCH => Change::Some(fields(body, api, &bucket).await?),
        _ => return Ok(shown(api, &bucket)),
    };
    take(api, &bucket, &change).await?;
    spread(api).await;
    Ok(match change {
        Change::Reset => reply::status(StatusCode::NO_CONTENT),
        _ => shown(api, &bucket),
    })
}

/// What is asked of a bucket's settings.
enum Change {
    Reset,
    Replace(Map<String, Value>),
    Some(Map<String, Value>),
}

/// Why settings were not changed.
#[derive(Debug)]
enum Refused {
    Invalid(Invalid),
    View(ViewError),
    /// The type was changed by somebody else since it was looked at.
    Race,
}

impl Change {
    /// The settings that should hold, given those that do.
    fn of(&self, now: &BucketSettings, defaults: &BucketSettings) -> Result<BucketSettings, Invalid> {
        let (base, fields) = match self {
            Change::Reset => return Ok(BucketSettings { kind: now.kind, ..defaults.clone() }),
            Change::Replace(fields) => (BucketSettings { kind: now.kind, ..defaults.clone() }, fields),
            Change::Some(fields) => (now.clone(), fields),
        };
        let mut next = base;
        for (name, value) in fields {
            let value = match setting(name, value)? {
                Setting::Null => default_of(name, defaults),
                other => other,
            };
            if name == "type" {
                // Whether the type may change is decided by whether there is data, not here.
                next.kind = None;
            }
            next.set(name, value)?;
        }
        if let Some(kind) = next.kind.filter(|kind| !matches!(kind, DataType::Object | DataType::Cart)) {
            let found = format!("{kind:?}").to_lowercase();
            return Err(Invalid::new("type", format!("{found:?} is not supported yet, object and cart are")));
        }
        next.validate()?;
        Ok(next)
    }
}

fn setting(name: &str, value: &Value) -> Result<Setting, Invalid> {
    match value {
        Value::Null => Ok(Setting::Null),
        Value::Bool(truth) => Ok(Setting::Bool(*truth)),
        Value::String(text) => Ok(Setting::Text(text.clone())),
        Value::Number(number) if number.is_u64() => Ok(Setting::Number(number.as_u64().unwrap_or_default())),
        other => {
            let shown: String = other.to_string().chars().take(64).collect();
            // A name that does not exist is the greater mistake.
            BucketSettings::default().set(name, Setting::Null)?;
            Err(Invalid::new(
                name,
                format!("{shown} was found, a whole number, text, true or false is allowed"),
            ))
        }
    }
}

fn default_of(name: &str, defaults: &BucketSettings) -> Setting {
    let all = defaults.get_all().into_iter();
    all.filter(|(known, _)| *known == name).map(|(_, value)| value).next().unwrap_or(Setting::Null)
}

/// The body's fields without the bucket's own name, so that what GET answers can be sent back.
async fn fields<W: World, B>(body: B, api: &Api<W>, bucket: &[u8]) -> Result<Map<String, Value>, Problem>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut fields = object(&read_body(body, BODY_BYTES_MAX, api.limits.body).await?)?;
    let mut own = Map::new();
    put_name(&mut own, "bucket", bucket);
    for (name, value) in own {
        if let Some(found) = fields.remove(&name)
            && found != value
        {
            return Err(invalid_config(&pointer(&name), "this is not the bucket that the path names"));
        }
    }
    Ok(fields)
}

async fn take<W: World>(api: &Api<W>, bucket: &Bytes, change: &Change) -> Result<(), Problem> {
    let snapshot = api.node.cluster.snapshot();
    let now = snapshot.settings(bucket).clone();
    let next = change.of(&now, &snapshot.defaults).map_err(|e| invalid_config(&e.pointer, &e.detail))?;
    let keeps_kind = match (change, next.kind != now.kind) {
        (Change::Reset, _) => now.kind.is_some() && holds_data(api, bucket).await.unwrap_or(true),
        (_, true) if holds_data(api, bucket).await? => return Err(type_is_kept()),
        _ => false,
    };
    let me = api.node.id();
    let taken = api.node.cluster.update(|view| {
        let now_here = view.bucket(bucket).unwrap_or(&snapshot.defaults).clone();
        if now_here.kind != now.kind {
            return Err(Refused::Race);
        }
        let next = change.of(&now_here, &snapshot.defaults).map_err(Refused::Invalid)?;
        let next = if matches!(change, Change::Reset) && !keeps_kind { None } else { Some(next) };
        let kind = |settings: Option<&BucketSettings>| settings.and_then(|settings| settings.kind);
        if kind(view.bucket(bucket)).is_some() && kind(view.bucket(bucket)) != kind(next.as_ref()) {
            // The view itself never changes a type; it is forgotten first.
            view.set_bucket(bucket.clone(), me, None).map_err(Refused::View)?;
        }
        view.set_bucket(bucket.clone(), me, next).map(drop).map_err(Refused::View)
    });
    taken.map(drop).map_err(|refused| match refused {
        Refused::Invalid(e) | Refused::View(ViewError::Settings(e)) => invalid_config(&e.pointer, &e.detail),
        Refused::View(error) => invalid_config("", &error.to_string()),
        Refused::Race => {
            Problem::new(Code::Conflict, "the bucket's type was changed by somebody else just now")
                .outcome(Outcome::NotApplied)
                .retry(Retry::Safe)
        }
    })?;
    plan::keep(&api.node).await
}

/// Whether any key of the bucket is known somewhere; an error where that can't be found out.
async fn holds_data<W: World>(api: &Api<W>, bucket: &Bytes) -> Result<bool, Problem> {
    let detail =
        "whether the bucket holds data can't be found out: of a part of the ring no quorum can be read";
    let unknown =
        || Problem::new(Code::CoverageIncomplete, detail).outcome(Outcome::NotApplied).retry(Retry::Safe);
    api.node.holds_any(bucket).await.ok_or_else(unknown)
}

/// Tells everybody who can be reached. Who is missed hears of it by gossip.
async fn spread<W: World>(api: &Api<W>) {
    let (snapshot, doubted, me) = (api.node.cluster.snapshot(), api.node.cluster.doubted(), api.node.id());
    let others = snapshot.view.living().map(|(id, _)| id).filter(|id| *id != me && !doubted.contains(id));
    let told = join_all(others.take(GOSSIP_FANOUT).map(|to| exchange(&api.node, to)));
    if timeout(SPREAD_MAX, told).await.is_err() {
        tracing::debug!("a change of a bucket's settings has not reached everybody yet");
    }
}

fn shown<W: World>(api: &Api<W>, bucket: &Bytes) -> Response<ReplyBody> {
    reply::value(&settings_json(&api.node.cluster.snapshot(), bucket))
}

fn settings_json(snapshot: &Snapshot, bucket: &Bytes) -> Value {
    let mut all = Map::new();
    put_name(&mut all, "bucket", bucket);
    for (name, setting) in snapshot.settings(bucket).get_all() {
        let value = match setting {
            Setting::Number(number) => number.into(),
            Setting::Text(text) => text.into(),
            Setting::Bool(truth) => truth.into(),
            Setting::Null => Value::Null,
        };
        all.insert(name.to_owned(), value);
    }
    Value::Object(all)
}

/// The buckets that have settings of their own, and those that this node holds data of.
fn list<W: World>(api: &Api<W>) -> Result<Response<ReplyBody>, Problem> {
    let snapshot = api.node.cluster.snapshot();
    let mut names: BTreeSet<Bytes> = BTreeSet::new();
    names.extend(snapshot.view.buckets_configured().map(|(name, _)| name.clone()));
    let whole = add_held(&api.node.store, snapshot.view.partitions, &mut names);
    let whole = whole.map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
    let items: Vec<Value> = names
        .iter()
        .map(|name| {
            let mut item = Map::new();
            put_name(&mut item, "bucket", name);
            Value::Object(item)
        })
        .collect();
    Ok(reply::value(&serde_json::json!({ "items": items, "complete": whole })))
}

/// Goes from bucket to bucket in each partition, one seek for each. Says whether it came to the end within its bounds.
fn add_held<S: Store>(store: &S, partitions: u16, names: &mut BTreeSet<Bytes>) -> Result<bool, StoreError> {
    let mut seeks = 0;
    for partition in (0..partitions).map(Partition) {
        let (mut start, end) = keys::records_of_partition(partition);
        loop {
            seeks += 1;
            if seeks > SEEKS_MAX || names.len() >= NAMES_MAX {
                return Ok(false);
            }
            let rows = store.scan(Family::Records, &start, end.as_deref(), 1, 1)?;
            let Some((key, _)) = rows.first() else { break };
            let Ok((_, id)) = keys::decode_record_key(key) else { break };
            names.insert(Bytes::copy_from_slice(id.bucket()));
            match keys::records_of_bucket(partition, id.bucket(), b"").1 {
                Some(next) => start = next,
                None => break,
            }
        }
    }
    Ok(true)
}

fn invalid_config(pointer: &str, detail: &str) -> Problem {
    let place = if pointer.is_empty() { String::new() } else { format!("{pointer}: ") };
    Problem::new(Code::InvalidConfig, format!("{place}{detail}"))
        .field("pointer", pointer.into())
        .outcome(Outcome::NotApplied)
        .retry(Retry::No)
}

fn type_is_kept() -> Problem {
    Problem::new(Code::Conflict, "the bucket holds data, so its type can't be changed")
        .field("pointer", "/type".into())
        .outcome(Outcome::NotApplied)
        .retry(Retry::No)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Batch, mem::MemDisk};
    use ring::bucket::Level;
    use ring::ids::{ClusterId, ObjectId};
    use ring::members::View;
    use serde_json::json;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn wrong(value: Value) -> String {
        let now = BucketSettings::default();
        Change::Some(map(value)).of(&now, &now).unwrap_err().pointer
    }

    #[test]
    fn a_put_starts_from_the_defaults_and_a_patch_from_what_holds() {
        let defaults = BucketSettings { max_siblings: 50, ..BucketSettings::default() };
        let now = BucketSettings { w: Level::All, kind: Some(DataType::Cart), ..BucketSettings::default() };
        let put = Change::Replace(map(json!({"r": 1}))).of(&now, &defaults).unwrap();
        assert_eq!((put.r, put.w, put.max_siblings), (Level::Count(1), Level::Quorum, 50));
        assert_eq!(put.kind, Some(DataType::Cart), "a put that does not name the type keeps it");
        let patch = Change::Some(map(json!({"r": 1, "max_siblings": null}))).of(&now, &defaults).unwrap();
        assert_eq!((patch.r, patch.w, patch.max_siblings), (Level::Count(1), Level::All, 50));
    }

    #[test]
    fn what_is_wrong_is_named_by_its_pointer() {
        for (body, pointer) in [
            (json!({"n": 0}), "/n"),
            (json!({"n": -1}), "/n"),
            (json!({"n": 1.5}), "/n"),
            (json!({"n": [3]}), "/n"),
            (json!({"w": 9}), "/w"),
            (json!({"r": "many"}), "/r"),
            (json!({"sloppy": 1}), "/sloppy"),
            (json!({"type": "counter"}), "/type"),
            (json!({"type": "pie"}), "/type"),
            (json!({"w": 2, "frobnicate": [1]}), "/frobnicate"),
        ] {
            assert_eq!(wrong(body.clone()), pointer, "{body}");
        }
    }

    #[test]
    fn several_settings_are_judged_together() {
        let now = BucketSettings::default();
        let next = Change::Some(map(json!({"w": 4, "n": 5}))).of(&now, &now).unwrap();
        assert_eq!((next.n, next.w), (5, Level::Count(4)));
    }

    #[test]
    fn settings_show_every_name_of_the_contract() {
        let cluster = crate::cluster::Cluster::new(
            ring::ids::NodeId(1),
            View::new(ClusterId(1), 8),
            BucketSettings::default(),
        );
        assert_eq!(
            settings_json(&cluster.snapshot(), &Bytes::from_static(b"shop")),
            json!({
                "bucket": "shop", "n": 3, "r": "quorum", "w": "quorum", "pr": 0, "pw": 0, "dw": 0,
                "sloppy": true, "ttl_seconds": null, "max_siblings": 100, "blind_writes": "siblings",
                "durability": "fsync", "type": null,
            })
        );
    }

    #[test]
    fn buckets_that_hold_data_are_found_in_every_partition() {
        let store = MemDisk::new().open().unwrap();
        let mut batch = Batch::default();
        for (partition, bucket) in [(0, "b"), (0, "aa"), (0, "b"), (7, "c"), (7, "b")] {
            for key in ["1", "2", "3"] {
                let id = ObjectId::new(bucket, key).unwrap();
                batch.put(Family::Records, keys::record_key(Partition(partition), &id), Bytes::new());
            }
        }
        store.write(batch, true).unwrap();
        let mut names = BTreeSet::new();
        assert!(add_held(&store, 8, &mut names).unwrap());
        assert_eq!(names.iter().map(|name| &name[..]).collect::<Vec<_>>(), [&b"aa"[..], b"b", b"c"]);
    }
}
