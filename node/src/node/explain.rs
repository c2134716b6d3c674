//! One key on every replica, for a person who wonders.

use super::Node;
use super::write::context_bytes;
use crate::limits::EXPLAIN_TIMEOUT;
use crate::store::{Family, Store, keys};
use crate::world::World;
use futures_util::future::join_all;
use ring::ids::{NodeId, ObjectId, Partition};
use ring::place::{partition, position};
use ring::record::{Content, Sibling};
use ring::time::Wall;
use ring::wire::peer::{Answer, Ask, Explanation, Message, Refusal};
use ring::wire::record::{decode, digest};

/// What became of asking one node.
#[derive(Debug, Clone)]
pub struct ReplicaExplained {
    /// The node.
    pub node: NodeId,
    /// Whether it is an owner; the others are fallbacks that hold something.
    pub owner: bool,
    /// What it said, if it could be reached.
    pub told: Option<Explanation>,
}

/// A key in the eyes of the cluster.
#[derive(Debug, Clone)]
pub struct KeyExplained {
    /// Its position on the ring.
    pub hash: u64,
    /// Its partition.
    pub partition: Partition,
    /// Its owners, in order of preference.
    pub owners: Vec<NodeId>,
    /// Every owner, and every fallback that holds a copy.
    pub replicas: Vec<ReplicaExplained>,
    /// `converged`, `stale`, `diverged` or `unreachable`.
    pub verdict: &'static str,
}

impl<W: World> Node<W> {
    /// Asks every node that may hold the key.
    pub async fn explain(&self, id: &ObjectId) -> KeyExplained {
        let snapshot = self.cluster.snapshot();
        let plan = self.cluster.plan(&snapshot, id);
        let everybody = plan.owners.iter().chain(&plan.fallbacks).copied();
        let told =
            join_all(everybody.map(|node| async move { (node, self.explain_at(node, id).await) })).await;
        let mut replicas: Vec<ReplicaExplained> = told
            .into_iter()
            .map(|(node, told)| ReplicaExplained { node, owner: plan.owners.contains(&node), told })
            .collect();
        let holds = |t: &Explanation| t.present || !t.hints.is_empty();
        replicas.retain(|r| r.owner || r.told.as_ref().is_some_and(holds));
        let verdict = verdict(&replicas);
        KeyExplained {
            hash: position(id).0,
            partition: snapshot.table.partition_of(id),
            owners: plan.owners,
            replicas,
            verdict,
        }
    }

    async fn explain_at(&self, node: NodeId, id: &ObjectId) -> Option<Explanation> {
        if node == self.id() {
            return self.explain_here(id).ok();
        }
        match self.ask(node, Message::of(Ask::Explain { id: id.clone() }), EXPLAIN_TIMEOUT).await {
            Ok(Message { head: Answer::Explained(told), .. }) => Some(told),
            _ => None,
        }
    }

    /// The own copy of a key.
    pub(crate) fn explain_here(&self, id: &ObjectId) -> Result<Explanation, Refusal> {
        let hints = self.hints_of(id)?;
        let Some(bytes) = self.local(id)? else {
            return Ok(Explanation {
                present: false,
                digest: None,
                context: Default::default(),
                versions: vec![],
                hints,
            });
        };
        let record = decode(&bytes).map_err(|e| Refusal::Unavailable(e.to_string()))?;
        Ok(Explanation {
            present: true,
            digest: Some(digest(&bytes)),
            context: context_bytes(&record.clock),
            versions: record.siblings.iter().map(version).collect(),
            hints,
        })
    }

    /// For whom this node keeps hints of a key.
    pub(crate) fn hints_of(&self, id: &ObjectId) -> Result<Vec<NodeId>, Refusal> {
        let snapshot = self.cluster.snapshot();
        let partition = partition(position(id), snapshot.view.partitions);
        let mut hints = Vec::new();
        for node in snapshot.view.members.keys() {
            let row = self.store.get(Family::Hints, &keys::hint_key(*node, partition, id));
            if row.map_err(|e| Refusal::Unavailable(e.to_string()))?.is_some() {
                hints.push(*node);
            }
        }
        Ok(hints)
    }
}

fn version(sibling: &Sibling) -> (ring::causal::Dot, bool, u64, Wall) {
    let (deleted, size, when) = match &sibling.content {
        Content::Object(object) => (false, object.body.len(), object.modified),
        Content::Tombstone { deleted } => (true, 0, *deleted),
        Content::CartAdd { sku, .. } => (false, sku.len() + 8, Wall(0)),
        Content::CartAttributes { json, .. } => (false, json.len(), Wall(0)),
        Content::CartRemoved { .. } => (true, 0, Wall(0)),
        Content::CartSpent { ops } => (true, ops.len() * 24, Wall(0)),
    };
    (sibling.dot, deleted, size as u64, when)
}

/// Owners alone decide: fallbacks are on their way elsewhere.
fn verdict(replicas: &[ReplicaExplained]) -> &'static str {
    let owners = || replicas.iter().filter(|r| r.owner);
    if owners().any(|r| r.told.is_none()) {
        return "unreachable";
    }
    let digests: Vec<_> = owners().map(|r| r.told.as_ref().and_then(|t| t.digest)).collect();
    if digests.windows(2).all(|pair| pair[0] == pair[1]) {
        return "converged";
    }
    let mut present: Vec<_> = digests.iter().flatten().collect();
    present.sort_unstable();
    present.dedup();
    // One state and its absence: somebody is merely behind. Two states: they differ.
    if present.len() == 1 { "stale" } else { "diverged" }
}
