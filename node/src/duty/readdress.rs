//! Hints that go to others than the node for which they were kept: to every owner of a key that has moved, or, from a node that
//! leaves, to another that stands in.
//!
//! Owners are asked what they lack before anything is sent. So while one of them is away the others get what they lack once, and
//! each further try costs them a comparison of digests; but for keys that are newer there, which are sent again.

use super::surplus::{Giving, Halt, give};
use crate::limits::{HINT_TIMEOUT, HINTS_IN_FLIGHT};
use crate::node::Node;
use crate::world::World;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use ring::ids::{NodeId, ObjectId};
use ring::wire::peer::{Answer, Ask, Message};
use std::collections::{BTreeMap, BTreeSet};

type Records = Vec<(ObjectId, Bytes)>;

/// How owners take their parts in one pass.
#[derive(Default)]
pub(super) struct Taking {
    /// How giving to each of them goes on.
    giving: BTreeMap<NodeId, Giving>,
    /// Those that could not take their part; they are not asked again in this pass.
    unable: BTreeSet<NodeId>,
    /// The first record that was too much for the way to one of them. The next pass begins behind it.
    pub(super) missed: Option<ObjectId>,
}

/// Gives every owner, of now and of the change under way, what it lacks; the records that all of them have now. Of a target that
/// can be reached and owns them still, it and those to come are enough. Those that were given up are not asked: the change that
/// takes them out may be waiting for just this hint.
pub(super) async fn to_owners<W: World>(
    node: &Node<W>,
    there: Option<NodeId>,
    records: Records,
    taking: &mut Taking,
) -> Records {
    let (snapshot, doubted) = (node.cluster.snapshot(), node.cluster.doubted());
    let mut groups: BTreeMap<(bool, Vec<NodeId>), Records> = BTreeMap::new();
    for (id, record) in records {
        let plan = node.cluster.plan(&snapshot, &id);
        let there = there.filter(|target| plan.owners.contains(target));
        let enough =
            |owner: &NodeId| there.is_none_or(|there| *owner == there || plan.pending.contains(owner));
        let counts = |owner: &NodeId| {
            *owner != node.id() && !snapshot.view.is_given_up(*owner, &doubted) && enough(owner)
        };
        let others = plan.owners.iter().chain(&plan.pending).copied().filter(counts).collect();
        groups.entry((plan.owners.contains(&node.id()), others)).or_default().push((id, record));
    }
    let mut stored = Vec::new();
    for ((owns, others), records) in groups {
        let refused = refused_by_some(node, owns, &others, &records, taking).await;
        stored.extend(records.into_iter().filter(|(id, _)| !refused.contains(id)));
    }
    stored
}

/// Which of the records some owner does not have now. A node that leaves does not wait for one that is away, but lets another keep
/// them for it.
async fn refused_by_some<W: World>(
    node: &Node<W>,
    owns: bool,
    others: &[NodeId],
    records: &Records,
    taking: &mut Taking,
) -> BTreeSet<ObjectId> {
    let (leaves, doubted) = (node.cluster.snapshot().leaves(node.id()), node.cluster.doubted());
    let all = || records.iter().map(|(id, _)| id.clone());
    let (mut some, mut refused) = (owns, BTreeSet::new());
    for owner in others {
        if doubted.contains(owner) && leaves {
            let kept = to_another(node, *owner, records.clone()).await;
            let kept: BTreeSet<ObjectId> = kept.into_iter().map(|(id, _)| id).collect();
            refused.extend(all().filter(|id| !kept.contains(id)));
            continue;
        }
        if doubted.contains(owner) || taking.unable.contains(owner) {
            // It may have become mute over a record that was too much for the way to it.
            taking.missed = taking.missed.take().or_else(|| taking.giving.get_mut(owner)?.missed.take());
            refused.extend(all());
            continue;
        }
        let given = give(node, *owner, records, taking.giving.entry(*owner).or_default()).await;
        some = true;
        refused.extend(given.refused);
        if let Some(Halt { why, last }) = given.halt {
            tracing::debug!(%owner, %why, "an owner can't have what was kept for another");
            taking.unable.insert(*owner);
            taking.missed = taking.missed.take().or(last);
        }
    }
    if some { refused } else { all().collect() }
}

/// Lets other nodes keep hints for the target; the records for which one does.
pub(super) async fn to_another<W: World>(node: &Node<W>, target: NodeId, records: Records) -> Records {
    let kept = stream::iter(records).map(|(id, record)| async move {
        let kept = hand_on(node, target, &id, &record).await;
        kept.then_some((id, record))
    });
    kept.buffer_unordered(HINTS_IN_FLIGHT).filter_map(std::future::ready).collect().await
}

/// Lets others keep a hint, each of which says so once it is durable. One alone may be the very node that has the only other copy:
/// then a write that was acknowledged by two would lie on one disk. Nobody knows how many this one was acknowledged by, so it goes to
/// as many as there are replicas, or to all that can be reached, and those are at least `w`; else it waits for the target.
async fn hand_on<W: World>(node: &Node<W>, target: NodeId, id: &ObjectId, record: &Bytes) -> bool {
    let (snapshot, doubted) = (node.cluster.snapshot(), node.cluster.doubted());
    let (plan, settings) = (node.cluster.plan(&snapshot, id), snapshot.settings(id.bucket()));
    let n = usize::from(settings.n);
    let others = plan.fallbacks.iter().chain(&plan.owners).chain(&plan.pending);
    let able = |other: &&NodeId| **other != node.id() && **other != target && !doubted.contains(*other);
    let (mut asked, mut kept) = (BTreeSet::new(), 0);
    for other in others.filter(able) {
        if kept == n || !asked.insert(*other) {
            continue;
        }
        let head = Ask::Store { id: id.clone(), hint_for: Some(target), sync: true };
        let answer = node.ask(*other, Message { head, body: record.clone() }, HINT_TIMEOUT).await;
        kept += usize::from(matches!(answer, Ok(Message { head: Answer::Stored { durable: true }, .. })));
    }
    kept >= settings.w.resolve(n) && kept == asked.len().min(n)
}
