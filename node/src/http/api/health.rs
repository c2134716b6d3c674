//! Whether a load balancer should send requests here.
//!
//! Live is who can answer at all. Ready is who can serve: it is neither being filled nor stopping, and for every
//! partition it hears of enough nodes for the default quorums. Fallbacks count as far as the defaults let them, so a
//! cluster that has lost one node of three is still ready. It is an opinion like every opinion about liveness: a
//! request may fail on a ready node and succeed on one that is not.

use super::reply;
use crate::cluster::Snapshot;
use crate::config::Join;
use crate::http::body::ReplyBody;
use crate::node::Node;
use crate::world::World;
use http::{Response, StatusCode};
use ring::ids::{NodeId, Partition};
use ring::members::Status;
use serde_json::json;
use std::collections::BTreeSet;

/// `200` or `503`, with the reasons.
pub(super) fn ready<W: World>(node: &Node<W>) -> Response<ReplyBody> {
    let mut reasons = Vec::new();
    if node.is_draining() {
        reasons.push("this node is stopping".to_owned());
    }
    match node.objection() {
        Some(objection) => reasons.push(objection.to_owned()),
        None if node.is_joining() => reasons.push(joining(node).to_owned()),
        None => {}
    }
    if !node.cluster.snapshot().is_removed(node.id()) {
        reasons.extend(out_of_reach(&node.cluster.snapshot(), &unheard(node)));
    }
    answer(&reasons)
}

/// What a node that owns nothing yet waits for.
fn joining<W: World>(node: &Node<W>) -> &'static str {
    let status = node.cluster.snapshot().view.members.get(&node.id()).map(|member| member.status);
    match status {
        Some(Status::Joining) if node.join == Join::Auto => {
            node.past.silence().unwrap_or("this node has just started and is about to ask for its share")
        }
        Some(Status::Joining) => {
            "this node is joining, and waits for an operator: cartwheel cluster join, then commit"
        }
        _ => "this node is joining and not filled yet",
    }
}

/// Whom this node does not hear. Requests give the silent a moment after a start; who promises a quorum does not.
fn unheard<W: World>(node: &Node<W>) -> BTreeSet<NodeId> {
    let (snapshot, heard) = (node.cluster.snapshot(), node.heard.load());
    let silent =
        snapshot.view.living().map(|(id, _)| id).filter(|id| *id != node.id() && !heard.contains(id));
    silent.chain(node.cluster.doubted().iter().copied()).collect()
}

/// The answer of a node that is not there yet.
pub(super) fn not_ready(why: &str) -> Response<ReplyBody> {
    answer(&[why.to_owned()])
}

fn answer(reasons: &[String]) -> Response<ReplyBody> {
    let mut response = reply::value(&json!({ "ready": reasons.is_empty(), "reasons": reasons }));
    if !reasons.is_empty() {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

/// How many partitions lack a quorum, if any.
fn out_of_reach(snapshot: &Snapshot, doubted: &BTreeSet<NodeId>) -> Option<String> {
    let all = snapshot.view.partitions;
    let lacking = (0..all).map(Partition).filter(|p| !has_quorum(snapshot, doubted, *p)).count();
    (lacking > 0).then(|| format!("{lacking} of {all} partitions lack a quorum of nodes that can be reached"))
}

fn has_quorum(snapshot: &Snapshot, doubted: &BTreeSet<NodeId>, partition: Partition) -> bool {
    let settings = &snapshot.defaults;
    let n = usize::from(settings.n);
    let owners = snapshot.table.owners(partition, n);
    let fallbacks = if settings.sloppy { snapshot.table.fallbacks(partition, n) } else { &[] };
    let trusted = owners.iter().chain(fallbacks).filter(|node| !doubted.contains(node)).count();
    let need = settings.r.resolve(owners.len()).max(settings.w.resolve(owners.len()));
    !owners.is_empty() && trusted >= need
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Cluster;
    use ring::bucket::BucketSettings;
    use ring::ids::{ClusterId, Zone};
    use ring::members::{Description, Status, View};

    fn lacking(nodes: u128, doubted: &[u128], sloppy: bool) -> Option<String> {
        let mut view = View::new(ClusterId(1), 8);
        for node in 1..=nodes {
            let zone = Zone::default();
            let (http, peer) = (String::new(), String::new());
            let said = Description { http, peer, zone, weight: 1, starts: 1, boot_id: 1 };
            view.admit(NodeId(node), said).unwrap();
            view.set_status(NodeId(node), Status::Up).unwrap();
        }
        view.found();
        let cluster = Cluster::new(NodeId(1), view, BucketSettings { sloppy, ..BucketSettings::default() });
        out_of_reach(&cluster.snapshot(), &doubted.iter().copied().map(NodeId).collect())
    }

    #[test]
    fn one_node_of_three_may_be_lost_and_two_may_not() {
        assert_eq!(lacking(3, &[], true), None);
        assert_eq!(lacking(3, &[2], true), None);
        assert!(lacking(3, &[2, 3], true).unwrap().starts_with("8 of 8 partitions"));
    }

    #[test]
    fn fallbacks_count_where_the_defaults_let_them() {
        assert_eq!(lacking(5, &[2, 3], true), None);
        assert!(lacking(5, &[2, 3], false).is_some());
    }

    #[test]
    fn a_cluster_of_one_is_ready_and_one_without_owners_is_not() {
        assert_eq!(lacking(1, &[], true), None);
        assert!(lacking(0, &[], true).is_some());
    }

    #[test]
    fn the_reasons_come_with_503() {
        assert_eq!(answer(&[]).status(), StatusCode::OK);
        assert_eq!(answer(&["x".to_owned()]).status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
