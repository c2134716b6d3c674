//! One key on every replica, for a person who wonders.

use super::Node;
use super::write::{context_bytes, context_from};
use crate::cluster::Snapshot;
use crate::limits::EXPLAIN_TIMEOUT;
use crate::store::{Family, Store, keys};
use crate::world::World;
use futures_util::future::join_all;
use ring::causal::Context;
use ring::coord::Plan;
use ring::ids::{NodeId, ObjectId, Partition};
use ring::place::{partition, position};
use ring::record::{Content, Sibling};
use ring::time::Wall;
use ring::tree::Group;
use ring::wire::peer::{Answer, Ask, Explanation, Message, Refusal};
use ring::wire::record::{decode, digest};

/// What became of asking one node.
#[derive(Debug, Clone)]
pub struct ReplicaExplained {
    /// The node.
    pub node: NodeId,
    /// What it is to the key; fallbacks are named only if they hold something.
    pub role: Role,
    /// What it said, if it could be reached.
    pub told: Option<Explanation>,
}

/// What a node is to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It owns it, now and after whatever change is under way.
    Owner,
    /// It owns it no longer, or not for long.
    Losing,
    /// It is about to own it.
    Gaining,
    /// It stands in for owners.
    Fallback,
}

impl Role {
    /// In the API's words.
    pub fn name(self) -> &'static str {
        match self {
            Role::Owner => "owner",
            Role::Losing => "losing",
            Role::Gaining => "gaining",
            Role::Fallback => "fallback",
        }
    }

    fn of(node: NodeId, snapshot: &Snapshot, plan: &Plan, partition: Partition) -> Role {
        let n = plan.owners.len();
        let target = snapshot.regime.target.as_ref().map(|target| target.owners(partition, n));
        let stays = target.is_none_or(|target| target.contains(&node));
        match (plan.owners.contains(&node), plan.pending.contains(&node)) {
            (true, _) if stays => Role::Owner,
            (true, _) => Role::Losing,
            (false, true) if target.is_some() && stays => Role::Gaining,
            (false, true) => Role::Losing,
            (false, false) => Role::Fallback,
        }
    }
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
    /// Every owner, whoever is about to be one or has been, and every fallback that holds a copy.
    pub replicas: Vec<ReplicaExplained>,
    /// `converged`, `stale`, `diverged` or `unreachable`.
    pub verdict: &'static str,
}

impl<W: World> Node<W> {
    /// Asks every node that may hold the key.
    pub async fn explain(&self, id: &ObjectId) -> KeyExplained {
        let snapshot = self.cluster.snapshot();
        let plan = self.cluster.plan(&snapshot, id);
        let partition = snapshot.table.partition_of(id);
        let concerned = plan.owners.iter().chain(&plan.pending).copied();
        // Also those who are asked to stand in no longer: they may hold something still.
        let others = snapshot.table.fallbacks(partition, plan.owners.len()).iter().copied();
        let everybody = concerned.clone().chain(others.filter(|node| !concerned.clone().any(|c| c == *node)));
        let told =
            join_all(everybody.map(|node| async move { (node, self.explain_at(node, id).await) })).await;
        let mut replicas: Vec<ReplicaExplained> = told
            .into_iter()
            .map(|(node, told)| ReplicaExplained {
                node,
                role: Role::of(node, &snapshot, &plan, partition),
                told,
            })
            .collect();
        let holds = |t: &Explanation| t.present || t.set_aside || !t.hints.is_empty();
        replicas.retain(|r| r.role != Role::Fallback || r.told.as_ref().is_some_and(holds));
        let settled: Vec<&ReplicaExplained> =
            replicas.iter().filter(|r| plan.owners.contains(&r.node)).collect();
        let verdict = verdict(&settled);
        KeyExplained { hash: position(id).0, partition, owners: plan.owners, replicas, verdict }
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
        let snapshot = self.cluster.snapshot();
        let (n, partition) = (snapshot.settings(id.bucket()).n, snapshot.table.partition_of(id));
        let gains = snapshot.regime.gained_by(self.id(), usize::from(n)).contains(&partition);
        let done = self.transfers_here().done || self.lock_gain().complete.contains(&partition);
        let mut explanation = Explanation {
            present: false,
            digest: None,
            context: Default::default(),
            versions: vec![],
            hints: self.hints_of(id)?,
            root: self.lock_trees().root(Group { partition, n }),
            fetched: gains.then_some(done),
            behind: self.past.is_behind(),
            set_aside: self
                .store
                .get(Family::Meta, &keys::aside_key(partition, id))
                .is_ok_and(|row| row.is_some()),
        };
        let bytes = match self.whole(id) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(explanation),
            // It is there and nobody can read it, which is more than the asker would learn from a refusal.
            Err(_) => return Ok(Explanation { present: true, ..explanation }),
        };
        let record = decode(&bytes).map_err(|e| Refusal::Unavailable(e.to_string()))?;
        explanation.present = true;
        // A copy with a gap in it answers no reads, and agrees with nobody's.
        explanation.digest = (!self.gaps.has(id)).then(|| digest(&bytes));
        explanation.context = context_bytes(&record.clock);
        let now = self.wall();
        explanation.versions = record.siblings.iter().map(|sibling| version(sibling, now)).collect();
        Ok(explanation)
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

/// A value that has expired counts as deleted, and has a size until it is dropped.
fn version(sibling: &Sibling, now: Wall) -> (ring::causal::Dot, bool, u64, Wall) {
    let (deleted, size, when) = match &sibling.content {
        Content::Object(object) => {
            (object.expires_at.is_some_and(|at| at <= now), object.body.len(), object.modified)
        }
        Content::Expired { at, .. } => (true, 0, *at),
        Content::Tombstone { deleted } => (true, 0, *deleted),
        Content::CartAdd { sku, .. } => (false, sku.len() + 8, Wall(0)),
        Content::CartAttributes { json, .. } => (false, json.len(), Wall(0)),
        Content::CartRemoved { .. } => (true, 0, Wall(0)),
        Content::CartSpent { ops } => (true, ops.len() * 24, Wall(0)),
    };
    (sibling.dot, deleted, size as u64, when)
}

/// Whether there is a copy that does not count: it can't be read, or what it has lost is not known.
pub(crate) fn is_damaged(told: &Explanation) -> bool {
    told.present && told.digest.is_none()
}

/// Owners alone decide: fallbacks are on their way elsewhere, and who is being filled is not done.
fn verdict(owners: &[&ReplicaExplained]) -> &'static str {
    if owners.iter().any(|r| r.told.is_none()) {
        return "unreachable";
    }
    let digests: Vec<_> = owners.iter().map(|r| r.told.as_ref().and_then(|t| t.digest)).collect();
    let is_damaged = owners.iter().filter_map(|r| r.told.as_ref()).any(is_damaged);
    if !is_damaged && digests.windows(2).all(|pair| pair[0] == pair[1]) {
        return "converged";
    }
    if !is_damaged && one_knows_all(owners) { "stale" } else { "diverged" }
}

/// Whether one of them has seen everything that the others have: then these are merely behind. Clocks that can't be read say nothing.
fn one_knows_all(owners: &[&ReplicaExplained]) -> bool {
    let told = owners.iter().filter_map(|r| r.told.as_ref());
    let clock = |told: &Explanation| match told.present {
        true => context_from(&told.context).ok(),
        false => Some(Context::new()),
    };
    let Some(clocks) = told.map(|told| Some((clock(told)?, told.digest))).collect::<Option<Vec<_>>>() else {
        return false;
    };
    clocks.iter().any(|(all, digest)| {
        // Two that have seen the same hold the same.
        clocks.iter().all(|(seen, other)| all.covers(seen) && (!seen.covers(all) || digest == other))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Bench, ME, ids};
    use ring::causal::{Actor, Dot};
    use ring::ids::Partition;
    use ring::wire::record::Digest;

    fn owner(digest: Option<u128>, seen: &[(u128, u64)]) -> ReplicaExplained {
        let dot = |(node, counter): &(u128, u64)| Dot {
            actor: Actor { node: NodeId(*node), epoch: 1 },
            count: *counter,
        };
        let told = Explanation {
            present: digest.is_some(),
            digest: digest.map(Digest),
            context: context_bytes(&Context::of_dots(seen.iter().map(dot))),
            versions: vec![],
            hints: vec![],
            root: None,
            fetched: None,
            behind: false,
            set_aside: false,
        };
        ReplicaExplained { node: NodeId(1), role: Role::Owner, told: Some(told) }
    }

    #[test]
    fn who_is_merely_behind_is_told_from_who_has_something_of_his_own() {
        let (none, old, new) =
            (owner(None, &[]), owner(Some(1), &[(1, 1)]), owner(Some(2), &[(1, 1), (1, 2)]));
        let (aside, same_clock) = (owner(Some(3), &[(1, 1), (2, 1)]), owner(Some(4), &[(1, 1), (1, 2)]));
        assert_eq!(verdict(&[&new, &new]), "converged");
        assert_eq!(verdict(&[&new, &none, &new]), "stale");
        assert_eq!(verdict(&[&old, &new, &none]), "stale", "what it has was superseded");
        assert_eq!(verdict(&[&new, &aside, &old]), "diverged");
        assert_eq!(verdict(&[&new, &same_clock]), "diverged", "these must not be");
    }

    /// Nobody can read the copy, and everything else about it is told all the same.
    #[tokio::test(start_paused = true)]
    async fn a_copy_that_can_not_be_read_is_no_silence() {
        let away = NodeId(11);
        let bench = Bench::start(1, &[ME], &[]).await;
        bench.update(|view| view.admit(away, crate::bench::said(away)).map(drop).unwrap());
        let id = &ids(1)[0];
        bench.put(id, 10, Some(away)).await;
        assert_eq!(bench.node.explain(id).await.verdict, "converged");
        bench.disk().corrupt(Family::Records, &keys::record_key(Partition(0), id));
        let explained = bench.node.explain(id).await;
        let told = explained.replicas[0].told.as_ref().unwrap();
        assert!(is_damaged(told) && told.versions.is_empty());
        assert_eq!((told.hints.as_slice(), explained.verdict), (&[away][..], "diverged"));
    }
}
