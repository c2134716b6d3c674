//! What is there to see of the cluster: members, ring, hints, one key on every replica.
//!
//! Everything here is this node's own opinion at this moment, for people and for tests that wait for a state; no
//! request is decided by it. Numbers of 64 bits that are names rather than counts (hash, digest) are hexadecimal
//! text: JSON readers round them otherwise.
//!
//! | path | what |
//! | --- | --- |
//! | `/v1/cluster` | members with status and whether this node hears them |
//! | `/v1/ring` | partition → owners |
//! | `/v1/explain` | one key, asked of every node that may hold it |
//! | `/v1/hints`, `/v1/transfers` | what waits here for others |
//! | `/v1/set-aside` | old copies that were set aside here |
//! | `/v1/aae` | how far this node and the others were seen to agree |

use super::envelope::rfc3339;
use super::reply::{self, put_name};
use super::{Api, directory, health, hints, metrics_text, set_aside, transfers};
use crate::cluster::Snapshot;
use crate::http::body::ReplyBody;
use crate::http::params::Params;
use crate::http::path::{Route, name_problem};
use crate::http::problem::{Code, Ctx, Outcome, Problem, Retry};
use crate::node::Node;
use crate::node::explain::{KeyExplained, ReplicaExplained, Role, is_damaged};
use crate::node::write::context_from;
use crate::store::StoreError;
use crate::world::World;
use bytes::Bytes;
use http::{Request, Response};
use ring::causal::Dot;
use ring::causal::token::TokenKey;
use ring::ids::{NodeId, ObjectId, Partition};
use ring::members::{Member, Status};
use ring::record::object::etag;
use serde_json::{Map, Value, json};
use std::sync::atomic::Ordering;

/// Answers a request about the cluster or this node.
pub(super) async fn handle<W: World, B>(
    api: &Api<W>,
    _ctx: &Ctx,
    route: Route<'_>,
    req: Request<B>,
) -> Result<Response<ReplyBody>, Problem> {
    let query = req.uri().query();
    if let Route::Explain = route {
        return explain(api, query).await;
    }
    if let Route::SetAside = route {
        return set_aside::handle(api, query);
    }
    Params::parse(query, &[])?;
    match route {
        Route::Cluster => Ok(reply::value(&cluster_json(&api.node))),
        Route::Ring => Ok(reply::value(&ring_json(&api.node.cluster.snapshot()))),
        Route::Hints => Ok(reply::value(&hints::all(&api.node))),
        Route::Aae => Ok(reply::value(&aae_json(&api.node))),
        Route::Transfers => Ok(reply::value(&transfers::all(&api.node).await)),
        Route::Live => Ok(reply::value(&json!({ "live": true }))),
        Route::Ready => Ok(health::ready(&api.node)),
        Route::Ping => Ok(reply::typed("OK", "text/plain")),
        Route::Metrics => metrics_text::scrape(api).map_err(unreadable),
        Route::Root => Ok(directory::answer(req.headers())),
        Route::Faults => Err(Problem::new(Code::Forbidden, "this node was started without --faults")),
        _ => Err(Problem::new(Code::NotImplemented, "this is not there yet")
            .outcome(Outcome::NotApplied)
            .retry(Retry::No)),
    }
}

fn unreadable(error: StoreError) -> Problem {
    Problem::new(Code::Internal, error.to_string()).retry(Retry::Safe)
}

fn cluster_json<W: World>(node: &Node<W>) -> Value {
    let (snapshot, doubted, heard) = (node.cluster.snapshot(), node.cluster.doubted(), node.heard.load());
    let members: Vec<Value> = snapshot
        .view
        .members
        .iter()
        .map(|(id, member)| {
            let doubted = doubted.contains(id);
            let reachable = *id == node.id() || (heard.contains(id) && !doubted);
            member_json(*id, member, &snapshot, doubted, reachable)
        })
        .collect();
    json!({
        "cluster": node.cluster_id.to_string(),
        "node": node.id().to_string(),
        "members": members,
        "ring": ring_summary(&snapshot),
        "transfers": transfers::summary(node, &snapshot),
    })
}

/// The name of the tables, which two nodes can compare.
pub(super) fn ring_summary(snapshot: &Snapshot) -> Value {
    let name = snapshot.regime.name();
    json!({
        "version": name.counter,
        "digest": format!("{:016x}", name.digest),
        "partitions": snapshot.view.partitions,
        "settled": snapshot.regime.is_settled(),
    })
}

fn member_json(id: NodeId, member: &Member, snapshot: &Snapshot, doubted: bool, reachable: bool) -> Value {
    let said = &member.description;
    json!({
        "id": id.to_string(),
        "http": said.http,
        "peer": said.peer,
        "zone": member.seat.zone.0,
        "weight": member.seat.weight,
        "status": status(member.status, snapshot.table.nodes().contains(&id), doubted),
        "reachable": reachable && member.status != Status::Removed,
        "incarnation": member.incarnation,
        "starts": said.starts,
        "partitions": snapshot.table.owned_by(id, usize::from(snapshot.defaults.n)).count(),
    })
}

/// "down" is no status but an opinion: this node does not hear a member that should be up. Who has no part in the settled
/// table yet is still joining.
fn status(status: Status, settled: bool, doubted: bool) -> &'static str {
    match status {
        Status::Up if doubted => "down",
        Status::Up if !settled => Status::Joining.name(),
        _ => status.name(),
    }
}

fn ring_json(snapshot: &Snapshot) -> Value {
    let name = snapshot.regime.name();
    let n = usize::from(snapshot.defaults.n);
    let partitions: Vec<Value> = (0..snapshot.view.partitions)
        .map(|number| {
            let owners = ids(snapshot.table.owners(Partition(number), n));
            json!({ "partition": number, "owners": owners })
        })
        .collect();
    json!({
        "version": name.counter,
        "digest": format!("{:016x}", name.digest),
        "n": n,
        "partitions": partitions,
    })
}

fn ids(nodes: &[NodeId]) -> Vec<String> {
    nodes.iter().map(NodeId::to_string).collect()
}

fn aae_json<W: World>(node: &Node<W>) -> Value {
    let oldest = node.oldest_unverified();
    let building = node.lock_trees().unbuilt();
    let urgent: Vec<u16> = node.lock_hints().urgent.keys().map(|partition| partition.0).collect();
    let reaped = *node.lock_reaped();
    let waiting: Map<String, Value> =
        reaped.reasons().into_iter().map(|(reason, count)| (reason.to_owned(), count.into())).collect();
    let aae = node.lock_aae();
    let peers: Vec<Value> = aae
        .peers
        .iter()
        .map(|(peer, (at, compared, differing))| {
            json!({ "node": peer.to_string(), "last_exchange": rfc3339(*at), "compared": compared, "differing": differing })
        })
        .collect();
    json!({
        "node": node.id().to_string(),
        "building": building,
        "last_exchange": aae.last.map(rfc3339),
        "exchanges": aae.exchanges,
        "differences": aae.differences,
        "repairs": aae.repairs,
        "read_repairs": node.read_repairs.load(Ordering::Relaxed),
        "bytes": aae.bytes,
        "scrub": {
            "records": aae.scrubbed,
            "rounds": aae.scrubs,
            "healed": aae.healed,
            "leaves_mended": aae.mended,
        },
        "reap": {
            "tombstones": reaped.held,
            "reaped": reaped.reaped,
            "rounds": reaped.rounds,
            "waiting": waiting,
        },
        "oldest_unverified_ms": oldest.map(|age| age.as_millis() as u64),
        "urgent": urgent,
        "peers": peers,
    })
}

async fn explain<W: World>(api: &Api<W>, query: Option<&str>) -> Result<Response<ReplyBody>, Problem> {
    let params = Params::parse(query, &["bucket", "key"])?;
    let named = |name: &str| {
        let bytes = params.bytes(name).map(Bytes::copy_from_slice);
        bytes.ok_or_else(|| Problem::parameter(name, "nothing", "a name of any octets, percent-encoded"))
    };
    let id = ObjectId::new(named("bucket")?, named("key")?).map_err(name_problem)?;
    let explained = api.node.explain(&id).await;
    Ok(reply::value(&explained_json(&id, &explained, &api.node.cluster.snapshot(), &api.node.tokens)))
}

fn explained_json(id: &ObjectId, explained: &KeyExplained, snapshot: &Snapshot, tokens: &TokenKey) -> Value {
    let mut all = Map::new();
    put_name(&mut all, "bucket", id.bucket());
    put_name(&mut all, "key", id.key());
    all.insert("hash".to_owned(), format!("{:016x}", explained.hash).into());
    all.insert("partition".to_owned(), explained.partition.0.into());
    all.insert("preference_list".to_owned(), ids(&explained.owners).into());
    let common = common_root(explained);
    let replicas = explained
        .replicas
        .iter()
        .map(|replica| replica_json(id, replica, explained, common, snapshot, tokens));
    all.insert("replicas".to_owned(), replicas.collect());
    all.insert("verdict".to_owned(), explained.verdict.into());
    Value::Object(all)
}

/// The root that most owners' trees have: a tree that has another is the one that differs.
fn common_root(explained: &KeyExplained) -> Option<u128> {
    let owners = explained.replicas.iter().filter(|replica| explained.owners.contains(&replica.node));
    let roots: Vec<u128> = owners.filter_map(|replica| replica.told.as_ref()?.root).collect();
    roots.iter().copied().max_by_key(|root| (roots.iter().filter(|other| *other == root).count(), *root))
}

fn replica_json(
    id: &ObjectId,
    replica: &ReplicaExplained,
    explained: &KeyExplained,
    common: Option<u128>,
    snapshot: &Snapshot,
    tokens: &TokenKey,
) -> Value {
    let zone = snapshot.view.members.get(&replica.node).map(|member| member.seat.zone.0.as_str());
    let mut all = json!({
        "node": replica.node.to_string(),
        "zone": zone,
        "owner": explained.owners.contains(&replica.node),
        "role": replica.role.name(),
        "transfer": null,
        "tree": "unknown",
        "reachable": replica.told.is_some(),
        "present": false,
        "damaged": false,
        "versions": [],
        "context": null,
        "hints": [],
        "behind": null,
        "set_aside": false,
    });
    if let Some(told) = &replica.told {
        all["present"] = told.present.into();
        all["damaged"] = is_damaged(told).into();
        all["versions"] =
            told.versions.iter().map(|(dot, deleted, size, _)| version_json(*dot, *deleted, *size)).collect();
        // A context that can't be read is another node's mistake, and no reason to show nothing.
        let context = context_from(&told.context).ok().filter(|_| told.present);
        all["context"] = context.map(|context| tokens.seal(id, &context)).into();
        all["hints"] = ids(&told.hints).into();
        all["behind"] = told.behind.into();
        all["set_aside"] = told.set_aside.into();
        all["transfer"] = match (replica.role, told.fetched) {
            (Role::Gaining, Some(true)) => "done".into(),
            (Role::Gaining, Some(false)) => "moving".into(),
            (Role::Gaining, None) => "waiting".into(),
            _ => Value::Null,
        };
        all["tree"] = match (told.root, common) {
            (Some(root), Some(common)) if root == common => "agrees".into(),
            (Some(_), Some(_)) => "differs".into(),
            _ => "unknown".into(),
        };
    }
    all
}

fn version_json(dot: Dot, deleted: bool, size: u64) -> Value {
    let tag = etag([dot]);
    json!({ "dot": dot.to_string(), "etag": tag.trim_matches('"'), "deleted": deleted, "size": size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::write::context_bytes;
    use ring::bucket::BucketSettings;
    use ring::causal::{Actor, Context};
    use ring::ids::{ClusterId, Zone};
    use ring::members::{Description, View};
    use ring::time::Wall;
    use ring::wire::peer::Explanation;

    fn cluster(nodes: u128) -> crate::cluster::Cluster {
        let mut view = View::new(ClusterId(9), 8);
        for node in 1..=nodes {
            let description = Description {
                http: format!("h{node}:1"),
                peer: format!("h{node}:2"),
                zone: Zone(format!("z{node}")),
                weight: 1,
                starts: 1,
                boot_id: 1,
            };
            view.admit(NodeId(node), description).unwrap();
            view.set_status(NodeId(node), Status::Up).unwrap();
        }
        view.found();
        crate::cluster::Cluster::new(NodeId(1), view, BucketSettings::default())
    }

    #[test]
    fn a_member_that_is_not_heard_is_down() {
        assert_eq!(status(Status::Up, true, false), "up");
        assert_eq!(status(Status::Up, false, false), "joining");
        assert_eq!(status(Status::Up, true, true), "down");
        assert_eq!(status(Status::Leaving, true, true), "leaving");
        let snapshot = cluster(1).snapshot();
        let member = &snapshot.view.members[&NodeId(1)];
        let shown = member_json(NodeId(1), member, &snapshot, false, true);
        assert_eq!(shown["id"], "00000000000000000000000000000001");
        assert_eq!((&shown["http"], &shown["zone"]), (&json!("h1:1"), &json!("z1")));
        assert_eq!((&shown["status"], &shown["reachable"]), (&json!("up"), &json!(true)));
    }

    #[test]
    fn the_ring_names_three_owners_of_every_partition() {
        let ring = ring_json(&cluster(4).snapshot());
        let partitions = ring["partitions"].as_array().unwrap();
        assert_eq!(partitions.len(), 8);
        for (number, partition) in partitions.iter().enumerate() {
            assert_eq!(partition["partition"], number);
            assert_eq!(partition["owners"].as_array().unwrap().len(), 3);
        }
    }

    #[test]
    fn a_key_is_explained_replica_by_replica() {
        let (id, tokens) = (ObjectId::new("b", vec![0xff]).unwrap(), TokenKey::new(&[7; 32]));
        let dot = Dot { actor: Actor { node: NodeId(2), epoch: 3 }, count: 4 };
        let context = Context::of_dots([dot]);
        let told = Explanation {
            present: true,
            digest: None,
            context: context_bytes(&context),
            versions: vec![(dot, true, 5, Wall(0))],
            hints: vec![NodeId(3)],
            root: Some(7),
            fetched: None,
            behind: false,
            set_aside: false,
        };
        let explained = KeyExplained {
            hash: 1,
            partition: Partition(6),
            owners: vec![NodeId(1), NodeId(2)],
            replicas: vec![
                ReplicaExplained { node: NodeId(1), role: Role::Owner, told: Some(told) },
                ReplicaExplained { node: NodeId(2), role: Role::Gaining, told: None },
            ],
            verdict: "unreachable",
        };
        let shown = explained_json(&id, &explained, &cluster(2).snapshot(), &tokens);
        assert_eq!((&shown["bucket"], &shown["key_base64"]), (&json!("b"), &json!("/w==")));
        assert_eq!((&shown["hash"], &shown["partition"]), (&json!("0000000000000001"), &json!(6)));
        let here = &shown["replicas"][0];
        assert_eq!((&here["present"], &here["zone"]), (&json!(true), &json!("z1")));
        assert_eq!(here["damaged"], json!(true), "it has no digest");
        assert_eq!(here["versions"][0]["dot"], "00000000000000000000000000000002.3:4");
        assert_eq!(
            (&here["versions"][0]["deleted"], &here["versions"][0]["size"]),
            (&json!(true), &json!(5))
        );
        assert_eq!(here["hints"][0], "00000000000000000000000000000003");
        assert_eq!((&here["role"], &here["tree"]), (&json!("owner"), &json!("agrees")));
        assert_eq!(tokens.open(&id, here["context"].as_str().unwrap()), Ok(context));
        let away = &shown["replicas"][1];
        assert_eq!((&away["reachable"], &away["context"]), (&json!(false), &Value::Null));
        assert_eq!((&away["role"], &away["tree"]), (&json!("gaining"), &json!("unknown")));
    }
}
