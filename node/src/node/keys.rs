//! Listing keys: a covering set of replicas, merged in key order, a page at a time.
//!
//! Every partition is read at one of its owners, the nearest that can be reached; each asked node answers with its next
//! keys in order, and the page ends where the first of the unfinished answers ends, so that nothing is skipped. Memory is
//! bounded by a page for each node.

use super::Node;
use crate::limits::{KEYS_PAGE_MAX, LIST_SCAN_BYTES, LIST_TIMEOUT};
use crate::store::{Family, Store, keys};
use crate::world::World;
use bytes::Bytes;
use futures_util::future::join_all;
use ring::ids::{NodeId, Partition};
use ring::wire::peer::{Answer, Ask, Message, Refusal};
use ring::wire::record::decode;
use std::collections::{BTreeMap, BTreeSet};

/// A page of keys.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Visible keys, in order.
    pub keys: Vec<Bytes>,
    /// Go on after this key; `None` at the end.
    pub next_after: Option<Bytes>,
    /// Partitions of which no replica could be read.
    pub missing: Vec<Partition>,
}

/// Keys from one node, with whether each is visible.
type Listed = Vec<(Bytes, bool)>;

impl<W: World> Node<W> {
    /// The next keys of a bucket with `start <= key < end` (an empty end is none).
    pub async fn list(&self, bucket: &Bytes, start: &Bytes, end: &Bytes, limit: usize) -> Page {
        let limit = limit.clamp(1, KEYS_PAGE_MAX);
        let mut lists: Vec<Listed> = Vec::new();
        let mut failed: BTreeSet<NodeId> = BTreeSet::new();
        let all = self.cluster.snapshot().view.partitions;
        let mut open: Vec<Partition> = (0..all).map(Partition).collect();
        let mut missing = Vec::new();
        while !open.is_empty() {
            let cover = self.cover(bucket, &open, &failed, &mut missing);
            open.clear();
            let asked = join_all(cover.into_iter().map(|(node, partitions)| async move {
                let listed = self.list_at(node, bucket, start, end, &partitions, limit).await;
                (node, partitions, listed)
            }));
            for (node, partitions, listed) in asked.await {
                match listed {
                    Some(list) => lists.push(list),
                    None => {
                        failed.insert(node);
                        open.extend(partitions);
                    }
                }
            }
        }
        let mut page = merge_lists(lists, limit);
        page.missing = missing;
        page
    }

    /// Whether there is any key in a bucket, visible or not; `None` if of some partition no quorum of owners could be
    /// asked. One owner's word is not enough: it may have missed the only write.
    pub async fn holds_any(&self, bucket: &Bytes) -> Option<bool> {
        let (snapshot, doubted, me) = (self.cluster.snapshot(), self.cluster.doubted(), self.id());
        let all: Vec<Partition> = (0..snapshot.view.partitions).map(Partition).collect();
        let nothing = Bytes::new();
        let asked = snapshot.view.living().map(|(id, _)| id).filter(|id| *id == me || !doubted.contains(id));
        let asked = asked.map(|node| {
            let (all, nothing) = (&all, &nothing);
            async move { (node, self.list_at(node, bucket, nothing, nothing, all, 1).await) }
        });
        let mut answered = BTreeSet::new();
        for (node, listed) in join_all(asked).await {
            match listed {
                Some(keys) if !keys.is_empty() => return Some(true),
                Some(_) => drop(answered.insert(node)),
                None => {}
            }
        }
        let n = usize::from(snapshot.settings(bucket).n);
        let quorum = |partition: &Partition| {
            let owners = snapshot.table.owners(*partition, n);
            owners.iter().filter(|owner| answered.contains(owner)).count() > owners.len() / 2
        };
        all.iter().all(quorum).then_some(false)
    }

    /// For each partition the owner to ask: this node if it is one, otherwise the first that is not doubted, and not late either.
    fn cover(
        &self,
        bucket: &Bytes,
        open: &[Partition],
        failed: &BTreeSet<NodeId>,
        missing: &mut Vec<Partition>,
    ) -> BTreeMap<NodeId, Vec<Partition>> {
        let snapshot = self.cluster.snapshot();
        let (doubted, late, me) = (self.cluster.doubted(), self.cluster.late(), self.id());
        let n = usize::from(snapshot.settings(bucket).n);
        let mut cover: BTreeMap<NodeId, Vec<Partition>> = BTreeMap::new();
        for partition in open {
            let able = || snapshot.table.owners(*partition, n).iter().filter(|o| !failed.contains(o));
            let best = able().min_by_key(|o| (**o != me, doubted.contains(o), late.contains(o)));
            match best {
                Some(owner) => cover.entry(*owner).or_default().push(*partition),
                None => missing.push(*partition),
            }
        }
        cover
    }

    async fn list_at(
        &self,
        node: NodeId,
        bucket: &Bytes,
        start: &Bytes,
        end: &Bytes,
        partitions: &[Partition],
        limit: usize,
    ) -> Option<Listed> {
        if node == self.id() {
            return self.keys_here(bucket, start, end, partitions, limit).ok();
        }
        let ask = Ask::Keys {
            bucket: bucket.clone(),
            start: start.clone(),
            end: end.clone(),
            partitions: partitions.to_vec(),
            limit: limit as u32,
        };
        match self.ask(node, Message::of(ask), LIST_TIMEOUT).await {
            Ok(Message { head: Answer::Keys(keys), .. }) => Some(keys),
            _ => None,
        }
    }

    /// The first keys of these partitions of the own copy, in order, at most `limit`.
    pub(crate) fn keys_here(
        &self,
        bucket: &Bytes,
        start: &Bytes,
        end: &Bytes,
        partitions: &[Partition],
        limit: usize,
    ) -> Result<Listed, Refusal> {
        if let Some(objection) = self.past.objection() {
            return Err(Refusal::Unavailable(objection.into()));
        }
        let limit = limit.clamp(1, KEYS_PAGE_MAX);
        let now = self.wall();
        let mut found: BTreeMap<Bytes, bool> = BTreeMap::new();
        for partition in partitions {
            let (mut from, last) = keys::records_of_bucket_between(*partition, bucket, start, end);
            let mut left = limit;
            while left > 0 {
                let rows = self
                    .store
                    .scan(Family::Records, &from, last.as_deref(), left, LIST_SCAN_BYTES)
                    .map_err(|e| Refusal::Unavailable(e.to_string()))?;
                let Some((key, _)) = rows.last() else { break };
                from = keys::after(key);
                left -= rows.len();
                for (key, value) in rows {
                    let (_, id) =
                        keys::decode_record_key(&key).map_err(|e| Refusal::Unavailable(e.to_string()))?;
                    let record = decode(&value).map_err(|e| Refusal::Unavailable(e.to_string()))?;
                    let visible = record.versions(now).next().is_some() || record.is_cart();
                    found.insert(id.key().clone(), visible);
                }
            }
            while found.len() > limit {
                found.pop_last();
            }
        }
        Ok(found.into_iter().collect())
    }
}

/// Merges sorted lists of at most `limit` keys each. A list that is full may go on, so nothing after its end is sure.
fn merge_lists(lists: Vec<Listed>, limit: usize) -> Page {
    let sure_until =
        lists.iter().filter(|l| l.len() >= limit).filter_map(|l| l.last()).map(|(k, _)| k.clone()).min();
    let mut all: BTreeMap<Bytes, bool> = BTreeMap::new();
    for (key, visible) in lists.into_iter().flatten() {
        *all.entry(key).or_default() |= visible;
    }
    let mut next_after = sure_until.clone();
    let mut keys = Vec::new();
    for (key, visible) in all {
        if sure_until.as_ref().is_some_and(|end| key > *end) {
            break;
        }
        if visible {
            keys.push(key.clone());
            if keys.len() == limit {
                next_after = Some(key);
                break;
            }
        }
    }
    Page { keys, next_after, missing: Vec::new() }
}
