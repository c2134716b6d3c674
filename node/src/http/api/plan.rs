//! Changing the cluster: stage, look, commit. And how far a committed change has come.
//!
//! | path | what |
//! | --- | --- |
//! | `POST /v1/cluster/plan` | stages changes |
//! | `GET /v1/cluster/plan` | what is staged, what it would move, and its hash |
//! | `POST /v1/cluster/commit` | makes it so, if the hash is that of what is staged now |
//! | `DELETE /v1/cluster/plan` | forgets what is staged |
//! | `GET /v1/transfers` | how far every node has come |
//!
//! A plan moves nothing until it is committed, and a commit names what its author has looked at: what somebody else staged
//! in between makes another hash, and the commit is `409 plan_changed`.

use super::{Answer, Api, reply};
use crate::cluster::Snapshot;
use crate::http::params::Params;
use crate::http::path::Route;
use crate::http::problem::{Code, Outcome, Problem, Retry};
use crate::node::{Node, REMOVED};
use crate::world::World;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use hyper::body::Body;
use ring::ids::{NodeId, Partition, Zone};
use ring::members::{Change, ChangeError, STAGED_MAX, View, ViewError, fill};
use ring::place::{Layout, SHARE_UNIT, Table};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// As many changes as there can be, each below 500 bytes.
const BODY_BYTES_MAX: u64 = STAGED_MAX as u64 * 512;

/// Answers all but the transfers.
pub(super) async fn handle<W: World, B>(api: &Api<W>, route: Route<'_>, req: Request<B>) -> Answer
where
    B: Body<Data = Bytes> + Unpin,
{
    Params::parse(req.uri().query(), &[])?;
    let node = &api.node;
    let n = node.cluster.snapshot().n_most();
    if req.method() != Method::GET && node.cluster.snapshot().is_removed(node.id()) {
        return Err(super::draining(REMOVED));
    }
    // Whether somebody who leaves is waited for follows from whether it can be reached.
    let lost = node.cluster.doubted_surely().await;
    match (route, req.method().clone()) {
        (Route::Commit, _) => {
            let body = api.body(req.into_body(), BODY_BYTES_MAX).await?;
            let hash = hash(&body)?;
            let commit = |view: &mut View| view.commit(node.id(), hash, n, &lost);
            node.cluster.update(commit).map_err(change_problem)?;
            keep(node).await?;
            tracing::info!(hash = format!("{hash:016x}"), "a plan was committed");
            let ring = super::cluster::ring_summary(&node.cluster.snapshot());
            Ok(reply::value(&json!({ "committed": true, "hash": format!("{hash:016x}"), "ring": ring })))
        }
        (_, Method::DELETE) => {
            let clear = |view: &mut View| {
                view.clear_staged(node.id());
                Ok::<(), ChangeError>(())
            };
            node.cluster.update(clear).map_err(change_problem)?;
            keep(node).await?;
            Ok(reply::status(StatusCode::NO_CONTENT))
        }
        (_, Method::POST) => {
            let body = api.body(req.into_body(), BODY_BYTES_MAX).await?;
            let changes = changes(&body)?;
            let mut staged = node.cluster.snapshot().view.clone();
            let stage = |view: &mut View| {
                view.stage(node.id(), changes, n, &lost)?;
                staged.clone_from(view);
                Ok(())
            };
            node.cluster.update(stage).map_err(change_problem)?;
            keep(node).await?;
            // What was staged here, and not what somebody else makes of it in the meantime: the hash names this.
            Ok(reply::value(&plan_json(node, &staged).await))
        }
        _ => {
            let view = node.cluster.snapshot().view.clone();
            Ok(reply::value(&plan_json(node, &view).await))
        }
    }
}

/// What is said to be done is on the disk.
pub(super) async fn keep<W: World>(node: &Node<W>) -> Result<(), Problem> {
    let unsure = |refusal: ring::wire::peer::Refusal| {
        let detail = format!("the change could not be written to the disk: {refusal}");
        Problem::new(Code::Internal, detail).outcome(Outcome::Indeterminate).retry(Retry::AfterRead)
    };
    node.keep_view().await.map(drop).map_err(unsure)
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(Code::InvalidBody, detail.into()).outcome(Outcome::NotApplied).retry(Retry::No)
}

fn change_problem(error: ChangeError) -> Problem {
    let detail = match &error {
        ChangeError::Unfit { at, field, .. } => format!("/changes/{at}{field}: {error}"),
        ChangeError::NoMember { at, .. } => format!("/changes/{at}: {error}"),
        ChangeError::TooFew { at, .. } => format!("/changes/{at}: {error}"),
        _ => error.to_string(),
    };
    let code = match &error {
        ChangeError::NoMember { .. } | ChangeError::View(ViewError::NoMember(_)) => Code::NotFound,
        ChangeError::OtherPlan { .. } => Code::PlanChanged,
        ChangeError::Nothing => Code::Conflict,
        _ => Code::InvalidConfig,
    };
    Problem::new(code, detail).outcome(Outcome::NotApplied).retry(Retry::No)
}

fn fields(body: &[u8]) -> Result<Map<String, Value>, Problem> {
    serde_json::from_slice(body).map_err(|error| invalid(error.to_string()))
}

fn only(what: &str, fields: &Map<String, Value>, known: &[&str]) -> Result<(), Problem> {
    match fields.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(invalid(format!("{what}/{name}: allowed are {}", known.join(", ")))),
        None => Ok(()),
    }
}

fn hash(body: &[u8]) -> Result<u64, Problem> {
    let fields = fields(body)?;
    only("", &fields, &["hash"])?;
    let text = fields.get("hash").and_then(Value::as_str);
    let text =
        text.ok_or_else(|| invalid("/hash: the hash of the plan, as GET /v1/cluster/plan shows it"))?;
    // Whatever is no hash of ours is the hash of no plan.
    u64::from_str_radix(text, 16).map_err(|_| {
        let detail = "/hash: the hash of the plan, as GET /v1/cluster/plan shows it";
        Problem::new(Code::PlanChanged, detail).outcome(Outcome::NotApplied).retry(Retry::No)
    })
}

/// Reads the changes; a field that is misspelt is refused.
fn changes(body: &[u8]) -> Result<Vec<Change>, Problem> {
    let fields = fields(body)?;
    only("", &fields, &["changes"])?;
    let list = fields.get("changes").and_then(Value::as_array);
    let list = list.ok_or_else(|| invalid("/changes: a list of changes"))?;
    if list.is_empty() || list.len() > STAGED_MAX {
        return Err(invalid(format!("/changes: 1 to {STAGED_MAX} changes, not {}", list.len())));
    }
    list.iter().enumerate().map(|(at, change)| self::change(&format!("/changes/{at}"), change)).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Replaced {
    old: String,
    new: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Set {
    id: String,
    weight: Option<u32>,
    zone: Option<String>,
}

fn change(at: &str, change: &Value) -> Result<Change, Problem> {
    let allowed = "one of {\"join\":…}, {\"leave\":…}, {\"replace\":{\"old\",\"new\"}}, {\"set\":{\"id\",\"weight\",\"zone\"}}; \
                   a leave or a replacement of who is gone for ever may have \"force\":true";
    let wrong = |why: String| invalid(format!("{at}: {why}; allowed is {allowed}"));
    let mut fields = change.as_object().cloned().ok_or_else(|| wrong("not a change".into()))?;
    let may_force = fields.contains_key("leave") || fields.contains_key("replace");
    let force = match fields.get("force").filter(|_| may_force) {
        None => false,
        Some(force) => force.as_bool().ok_or_else(|| wrong("force: true or false".into()))?,
    };
    if may_force {
        fields.remove("force");
    }
    let one = fields.iter().next().filter(|_| fields.len() == 1);
    let (name, value) = one.ok_or_else(|| wrong("not a change".into()))?;
    let text = || value.as_str().ok_or_else(|| wrong(format!("{name}: not an id")));
    let object =
        || value.is_object().then(|| value.clone()).ok_or_else(|| wrong(format!("{name}: no object")));
    match name.as_str() {
        "join" => Ok(Change::Join(id(at, text()?)?)),
        "leave" => Ok(Change::Leave { id: id(at, text()?)?, force }),
        "replace" => {
            let of = Replaced::deserialize(object()?).map_err(|error| wrong(error.to_string()))?;
            Ok(Change::Replace { old: id(at, &of.old)?, new: id(at, &of.new)?, force })
        }
        "set" => {
            let of = Set::deserialize(object()?).map_err(|error| wrong(error.to_string()))?;
            if of.weight.is_none() && of.zone.is_none() {
                return Err(wrong("neither a weight nor a zone".into()));
            }
            Ok(Change::Set { id: id(at, &of.id)?, weight: of.weight, zone: of.zone.map(Zone) })
        }
        _ => Err(wrong(format!("{name} is not a change"))),
    }
}

/// Whatever is no id is the id of nobody.
fn id(at: &str, text: &str) -> Result<NodeId, Problem> {
    text.parse().map_err(|_| {
        let detail = format!("{at}: there is no member {text}");
        Problem::new(Code::NotFound, detail).outcome(Outcome::NotApplied).retry(Retry::No)
    })
}

async fn plan_json<W: World>(node: &Node<W>, view: &View) -> Value {
    let bytes = node.bytes_of_partitions().await;
    let (snapshot, lost) = (node.cluster.snapshot(), node.cluster.doubted());
    // What was staged may have become impossible since; then the reason is the answer to a commit, and this shows no moves.
    let after = view.preview(&view.staged.changes, snapshot.n_most(), &lost).ok();
    let after = after.as_ref().unwrap_or(view);
    let moves = Moves::of(&snapshot, view, after, &bytes);
    let changes: Vec<Value> = view.staged.changes.iter().map(change_json).collect();
    let unreachable: Vec<String> = view.staged.silent(&lost).iter().map(NodeId::to_string).collect();
    json!({
        "changes": changes,
        "hash": format!("{:016x}", view.plan_hash(&lost)),
        "unreachable": unreachable,
        "partitions_without_most_owners": without_most_owners(view, after, &snapshot.ns.all(), &lost),
        "partitions_to_move": moves.partitions,
        "bytes_to_move": moves.bytes,
        "nodes": moves.nodes,
        "balance": { "before": moves.before, "after": moves.after },
    })
}

/// Of how many partitions most owners would go without being heard. What only these have would be lost, so without force the
/// change waits for one of them.
fn without_most_owners(before: &View, after: &View, ns: &BTreeSet<u8>, lost: &BTreeSet<NodeId>) -> usize {
    let table = Table::of(&before.settled.layout, 0);
    let lacks = |partition: &Partition| {
        ns.iter().any(|n| fill::lacks_most(after, table.owners(*partition, usize::from(*n)), lost))
    };
    (0..before.settled.layout.partitions()).map(Partition).filter(lacks).count()
}

fn change_json(change: &Change) -> Value {
    match change {
        Change::Join(id) => json!({ "join": id.to_string() }),
        Change::Leave { id, force } => forced(json!({ "leave": id.to_string() }), *force),
        Change::Replace { old, new, force } => {
            forced(json!({ "replace": { "old": old.to_string(), "new": new.to_string() } }), *force)
        }
        Change::Set { id, weight, zone } => {
            let mut set = json!({ "id": id.to_string() });
            if let Some(weight) = weight {
                set["weight"] = (*weight).into();
            }
            if let Some(zone) = zone {
                set["zone"] = zone.0.clone().into();
            }
            json!({ "set": set })
        }
    }
}

fn forced(mut change: Value, force: bool) -> Value {
    if force {
        change["force"] = true.into();
    }
    change
}

/// What a change moves, at the default n.
struct Moves {
    partitions: usize,
    bytes: u64,
    nodes: Vec<Value>,
    before: f64,
    after: f64,
}

impl Moves {
    fn of(snapshot: &Snapshot, before: &View, after: &View, bytes: &BTreeMap<Partition, u64>) -> Moves {
        let n = usize::from(snapshot.defaults.n);
        let layouts = (before.settled.layout.clone(), after.target());
        let (old, new) = (Table::of(&layouts.0, 0), Table::of(&layouts.1, 0));
        let mut moves = Moves {
            partitions: 0,
            bytes: 0,
            nodes: Vec::new(),
            before: balance(&layouts.0, &old, n),
            after: balance(&layouts.1, &new, n),
        };
        for id in old.nodes().union(new.nodes()) {
            let had: Vec<Partition> = old.owned_by(*id, n).collect();
            let has: Vec<Partition> = new.owned_by(*id, n).collect();
            let gains: Vec<&Partition> = has.iter().filter(|p| !had.contains(p)).collect();
            let losses: Vec<&Partition> = had.iter().filter(|p| !has.contains(p)).collect();
            let sum = |of: &[&Partition]| of.iter().map(|p| bytes.get(p).copied().unwrap_or(0)).sum::<u64>();
            moves.partitions += gains.len();
            moves.bytes += sum(&gains);
            let seat = after.members.get(id).map(|member| &member.seat);
            moves.nodes.push(json!({
                "id": id.to_string(),
                "zone": seat.map(|seat| seat.zone.0.as_str()),
                "weight": seat.map(|seat| seat.weight),
                "before": had.len(),
                "after": has.len(),
                "gains": gains.len(),
                "losses": losses.len(),
                "bytes_in": sum(&gains),
                "bytes_out": sum(&losses),
            }));
        }
        moves
    }
}

/// What the fullest node holds over its fair share.
fn balance(layout: &Layout, table: &Table, n: usize) -> f64 {
    let shares = layout.fair_shares(n);
    let over = shares
        .iter()
        .filter(|(_, share)| **share > 0)
        .map(|(id, share)| table.owned_by(*id, n).count() as f64 * SHARE_UNIT as f64 / *share as f64);
    let most = over.fold(0.0, f64::max);
    (most * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_read_strictly() {
        let (a, b) = (NodeId(0xa), NodeId(0xb));
        let text = format!(
            r#"{{"changes":[{{"join":"{a}"}},{{"leave":"{b}"}},{{"replace":{{"old":"{a}","new":"{b}"}}}},
            {{"set":{{"id":"{a}","weight":2,"zone":"z"}}}},{{"leave":"{a}","force":true}},
            {{"replace":{{"old":"{a}","new":"{b}"}},"force":true}}]}}"#
        );
        let read = changes(text.as_bytes()).unwrap();
        let set = Change::Set { id: a, weight: Some(2), zone: Some(Zone("z".into())) };
        let replace = |force| Change::Replace { old: a, new: b, force };
        let by_force = Change::Leave { id: a, force: true };
        let expected = [Change::Join(a), Change::leave(b), replace(false), set, by_force, replace(true)];
        assert_eq!(read, expected);
        let shown = json!({ "changes": read.iter().map(change_json).collect::<Vec<_>>() });
        assert_eq!(changes(shown.to_string().as_bytes()).unwrap(), read, "what is shown can be sent again");
        for wrong in [
            "{}",
            "[]",
            "{\"changes\":{}}",
            "{\"changes\":[]}",
            "{\"changes\":[{}]}",
            "{\"changes\":[\"leave\"]}",
            "{\"changes\":[{\"leave\":7}]}",
            "{\"changes\":[{\"leave\":\"a\",\"force\":1}]}",
            "{\"changes\":[{\"join\":\"a\",\"force\":true}]}",
            "{\"changes\":[{\"force\":true}]}",
            "{\"changes\":[{\"remove\":\"a\"}]}",
            "{\"changes\":[{\"set\":[\"a\",2,\"b\"]}]}",
            "{\"changes\":[{\"set\":{\"id\":\"a\"}}]}",
            "{\"changes\":[{\"set\":{\"id\":\"a\",\"weight\":-1}}]}",
            "{\"changes\":[{\"replace\":{\"old\":\"a\"}}]}",
            "{\"change\":[]}",
        ] {
            assert_eq!(changes(wrong.as_bytes()).unwrap_err().code(), Code::InvalidBody, "{wrong}");
        }
        let nobody = changes(br#"{"changes":[{"leave":"nobody"}]}"#).unwrap_err();
        assert_eq!(nobody.code(), Code::NotFound);
    }

    #[test]
    fn a_hash_is_a_number_in_hexadecimal() {
        assert_eq!(hash(br#"{"hash":"00000000000000ff"}"#).unwrap(), 255);
        assert_eq!(hash(br#"{"hash":"last"}"#).unwrap_err().code(), Code::PlanChanged);
        assert_eq!(hash(br#"{"hash":7}"#).unwrap_err().code(), Code::InvalidBody);
        assert_eq!(hash(br#"{"hash":"1","force":true}"#).unwrap_err().code(), Code::InvalidBody);
    }
}
