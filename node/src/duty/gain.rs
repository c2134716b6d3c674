//! Fetches the partitions that this node takes over, from everybody who owns them.
//!
//! One owner alone may have missed a write, so each of them is asked: the first gives whole pages, and after that Merkle
//! trees are compared and what differs is fetched, which costs little where two owners agree. Only what has been compared
//! with every owner that can be reached, and with most of them in any case, counts as here. An owner that is given up is not
//! waited for where half of them or more were heard: whatever a majority has acknowledged is with one of these. Where most are
//! given up, only an operator's word (`--force`) can say that what they have is to be lost. Nothing is given to them on this way: one
//! whose disk is full would stand in the way of the very change that is to relieve it. Meanwhile every write of these
//! partitions is sent here as well, so nothing is chased.

use crate::limits::{
    AAE_ROOTS_MAX, AAE_SLOTS_MAX, GAIN_BYTES_PER_SECOND, GAINS_AT_ONCE, PULL_MERGES, PULL_TIMEOUT,
};
use crate::node::Node;
use crate::node::exchange::{Exchange, Only, Silent, takes_nothing};
use crate::node::serve::Rows;
use crate::world::World;
use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, stream};
use ring::ids::{NodeId, ObjectId, Partition};
use ring::members::fill;
use ring::planted::{self, Bug};
use ring::tree::{Group, Slot};
use ring::wire::peer::{Answer, Ask, Message, Refusal};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What is to be fetched, and from whom it has been.
struct Wanted {
    /// Each tree with its settled owners.
    sources: BTreeMap<Group, Vec<NodeId>>,
    heard: BTreeMap<Group, BTreeSet<NodeId>>,
    /// The tables, and the n of each bucket, by which all this is wanted.
    by: (u64, u64),
    /// Why the last fetch from an owner failed, where that is known.
    failed: BTreeMap<(NodeId, Group), String>,
    /// Whether this node can take nothing at this moment: then nothing more is fetched in this round.
    full: bool,
}

/// Fetches everything. Whether all of it is here; if not, the reason stands in the node's `gain`.
pub(super) async fn fetch_all<W: World>(node: &Node<W>) -> bool {
    let snapshot = node.cluster.snapshot();
    let mut wanted = Wanted {
        sources: BTreeMap::new(),
        heard: BTreeMap::new(),
        by: (snapshot.regime.name().digest, snapshot.ns.tag()),
        failed: BTreeMap::new(),
        full: false,
    };
    for n in snapshot.ns.all() {
        for partition in snapshot.regime.gained_by(node.id(), usize::from(n)) {
            let owners = snapshot.table.owners(partition, usize::from(n)).to_vec();
            wanted.sources.insert(Group { partition, n }, owners);
        }
    }
    node.lock_gain().begin(wanted.partitions(), node.now());
    if wanted.sources.is_empty() {
        return true;
    }
    super::exchange::build(node).await;
    let owners: BTreeSet<NodeId> = wanted.sources.values().flatten().copied().collect();
    for owner in owners {
        if !snapshot.view.is_given_up(owner, &node.cluster.doubted()) {
            fetch_from(node, owner, &mut wanted).await;
        }
        if !wanted.is_wanted_still(node) {
            return false;
        }
        if wanted.full {
            break;
        }
    }
    let missing = wanted.missing(node);
    node.lock_gain().reason = missing.clone();
    missing.is_none()
}

impl Wanted {
    /// Whether the tables, and the n of each bucket, are those of before; else what is to be fetched is another question: keys of a bucket
    /// that got another n are in other trees, and those of before are equal for having none of them.
    fn is_wanted_still<W: World>(&self, node: &Node<W>) -> bool {
        let snapshot = node.cluster.snapshot();
        (snapshot.regime.name().digest, snapshot.ns.tag()) == self.by
    }

    fn partitions(&self) -> BTreeSet<Partition> {
        self.sources.keys().map(|group| group.partition).collect()
    }

    /// Whether enough of a tree's owners were heard.
    fn is_heard<W: World>(&self, node: &Node<W>, group: &Group) -> bool {
        let (snapshot, doubted) = (node.cluster.snapshot(), node.cluster.doubted());
        let nobody = BTreeSet::new();
        let heard = self.heard.get(group).unwrap_or(&nobody);
        let owners = &self.sources[group];
        if planted::is(Bug::FillFromOne) && !heard.is_empty() {
            return true;
        }
        fill::is_heard(&snapshot.view, owners, heard, &doubted)
    }

    /// Who is missing, in words.
    fn missing<W: World>(&self, node: &Node<W>) -> Option<String> {
        let group = self.sources.keys().find(|group| !self.is_heard(node, group))?;
        let (snapshot, doubted) = (node.cluster.snapshot(), node.cluster.doubted());
        let unheard = |owner: &&NodeId| self.heard.get(group).is_none_or(|heard| !heard.contains(owner));
        let given_up = |owner: &&NodeId| snapshot.view.is_given_up(**owner, &doubted);
        // One that is given up as well would be excused if this one came back.
        let owner = self.sources[group].iter().filter(unheard).min_by_key(given_up)?;
        if fill::lacks_most(&snapshot.view, &self.sources[group], &doubted) {
            return Some(format!(
                "most owners of partition {} leave and can't be reached, and what only they have would be lost: bring one \
                 back, or, if they are gone for ever, let them leave by force",
                group.partition.0
            ));
        }
        let help = match (doubted.contains(owner), self.failed.get(&(*owner, *group))) {
            (true, _) => ": it can't be reached; bring it back, or let it leave".to_owned(),
            (false, Some(why)) => format!(" yet: {why}"),
            (false, None) => " yet".to_owned(),
        };
        Some(format!("partition {} could not be fetched from {owner}{help}", group.partition.0))
    }

    fn hear<W: World>(&mut self, node: &Node<W>, owner: NodeId, group: Group) {
        self.heard.entry(group).or_default().insert(owner);
        self.failed.remove(&(owner, group));
        let whole = self.sources.keys().filter(|other| other.partition == group.partition);
        if whole.into_iter().all(|other| self.is_heard(node, other)) {
            node.lock_gain().complete.insert(group.partition);
        }
    }
}

/// Everything that this owner has of what is wanted.
async fn fetch_from<W: World>(node: &Node<W>, owner: NodeId, wanted: &mut Wanted) {
    let groups: Vec<Group> = wanted
        .sources
        .iter()
        .filter(|(_, owners)| owners.contains(&owner))
        .map(|(group, _)| *group)
        .collect();
    let mut differing = Vec::new();
    for some in groups.chunks(AAE_ROOTS_MAX) {
        let Ok(same) = Exchange::new(node, owner).same_roots(some).await else { return };
        for (group, same) in some.iter().zip(same) {
            if same == Some(true) {
                wanted.hear(node, owner, *group);
            } else {
                differing.push(*group);
            }
        }
    }
    let mut fetching = FuturesUnordered::new();
    while !(differing.is_empty() && fetching.is_empty()) {
        // Asked anew for each: a fetch takes long, and clients come and go meanwhile.
        let room = node.room(GAINS_AT_ONCE);
        while fetching.len() < room
            && !wanted.full
            && let Some(group) = differing.pop()
        {
            fetching.push(async move { (group, fetch_group(node, owner, group).await) });
        }
        let Some((group, came)) = fetching.next().await else { break };
        match came {
            Ok(()) => wanted.hear(node, owner, group),
            Err(Halt { why, here }) => {
                tracing::debug!(%owner, partition = group.partition.0, why, "a partition was not fetched");
                wanted.failed.insert((owner, group), why);
                wanted.full |= here;
            }
        }
        if !wanted.is_wanted_still(node) {
            // What is under way is left where it is: the next question may take hours less.
            return;
        }
        if wanted.full {
            differing.clear();
        }
    }
}

async fn fetch_group<W: World>(node: &Node<W>, owner: NodeId, group: Group) -> Result<(), Halt> {
    let _work = node.begin_work();
    if node.lock_trees().root(group) == Some(0) {
        match pull(node, owner, group.partition).await {
            Ok(()) => {}
            Err(halt) if halt.here => return Err(halt),
            // One record that can't be read there, or a page that is too large for this link, ends the pages. Key by key the
            // others can be had.
            Err(Halt { why, .. }) => {
                tracing::debug!(%owner, partition = group.partition.0, why, "no further whole pages can be had");
            }
        }
    }
    let silent = |Silent| Halt::there(format!("{owner} does not answer questions about its trees"));
    let mut exchange = Exchange::to_fetch(node, owner);
    let slots: Vec<Slot> = exchange.differing_slots(group).await.map_err(silent)?.into_iter().collect();
    let mut unlike = 0;
    for some in slots.chunks(AAE_SLOTS_MAX) {
        match (exchange.reconcile(group, some, &Only::default()).await, &exchange.failed) {
            (Ok(came), _) => unlike += came.differences - came.repairs,
            (Err(Silent), Some(failed)) if failed.here => {
                return Err(Halt { why: failed.why.clone(), here: true });
            }
            (Err(Silent), _) => return Err(silent(Silent)),
        }
    }
    if unlike == 0 {
        return Ok(());
    }
    let why = exchange.failed.map_or(String::new(), |failed| failed.why);
    Err(Halt::there(format!("{unlike} of its keys could not be had, the last one {why}")))
}

/// What kept a partition from being fetched.
struct Halt {
    why: String,
    /// Whether this node can take nothing at this moment, whatever it is.
    here: bool,
}

impl Halt {
    fn there(why: String) -> Halt {
        Halt { why, here: false }
    }
}

/// A whole partition, page by page.
async fn pull<W: World>(node: &Node<W>, owner: NodeId, partition: Partition) -> Result<(), Halt> {
    let mut after = None;
    loop {
        let ask = Ask::Pull { partition, after: after.clone() };
        let answer = node.ask(owner, Message::of(ask), PULL_TIMEOUT).await;
        let (more, body) = match answer {
            Ok(Message { head: Answer::Rows { more }, body }) => (more, body),
            Ok(Message { head: Answer::Refused(refusal), .. }) => {
                return Err(Halt::there(refusal.to_string()));
            }
            Ok(_) => return Err(Halt::there("an answer that does not fit".to_owned())),
            Err(error) => return Err(Halt::there(error.to_string())),
        };
        let page: Rows = postcard::from_bytes(&body).map_err(|error| Halt::there(error.to_string()))?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        let merged = merge_page(node, page).await;
        let bytes = body.len() as u64;
        node.lock_gain().bytes += bytes;
        if more || merged.is_err() {
            let pause = Duration::from_secs(1) * u32::try_from(bytes).unwrap_or(u32::MAX);
            tokio::time::sleep(pause / (GAIN_BYTES_PER_SECOND / GAINS_AT_ONCE as u64) as u32).await;
        }
        merged.map_err(|refusal| Halt { why: refusal.to_string(), here: takes_nothing(&refusal) })?;
        if !more {
            return Ok(());
        }
    }
}

/// Many rows share a sync.
async fn merge_page<W: World>(node: &Node<W>, page: Vec<(ObjectId, Vec<u8>)>) -> Result<(), Refusal> {
    let merges = page.into_iter().map(|(id, record)| node.merge_here(id, Bytes::from(record), None, true));
    let mut merged = stream::iter(merges).buffer_unordered(PULL_MERGES);
    while let Some(row) = merged.next().await {
        if let Err(refusal) = row {
            tracing::warn!(%refusal, "a row could not be merged");
            return Err(refusal);
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "gain_tests.rs"]
mod tests;
