//! Compares the copies of a disk that may be behind with those of the other owners, until all of them have been.
//!
//! ```text
//!   owned here      trees with every other owner · equal: as good as theirs
//!                   a slot differs → its keys → each that differs: asked of the owners one by one
//!   not owned here  every copy, of its owners: what was kept for others (hints), what was not handed on yet
//!   all of it       the mark goes, durably; until then nothing here is served, sent, or taken in
//! ```
//!
//! What becomes of a copy is decided in `ring::sift`. Nothing is taken in meanwhile, so that no write that counts is ever in
//! doubt: the others keep hints for this node, as for one that is down. A tree counts as compared when most of its other
//! owners have answered; those that are doubted are not waited for. How far it is, is kept in memory: a crash begins anew,
//! which finds most of it equal.
//!
//! Two that are behind at once answer each other here, or a power cut that cost all logs their ends would stop the cluster
//! for ever. What one of them has then, the other takes for known.

use crate::lane::{Job, Sift};
use crate::limits::{
    AAE_ROOTS_MAX, AAE_SLOTS_MAX, PULL_BYTES_MAX, RECORD_TIMEOUT, SIFT_AT_ONCE, SIFT_EVERY, SIFT_ROWS,
};
use crate::node::Node;
use crate::node::exchange::{Exchange, Silent};
use crate::store::{Family, Store, keys};
use crate::world::World;
use futures_util::{FutureExt, StreamExt, stream};
use ring::ids::{NodeId, ObjectId, Partition};
use ring::record::Record;
use ring::sift::{Said, Verdict, is_enough, sift};
use ring::tree::{Group, Slot};
use ring::wire::peer::{Answer, Ask, Message};
use ring::wire::record::{decode, digest, encode};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use tokio::sync::watch;

/// What was compared under one mark and one regime.
#[derive(Debug, Default)]
struct Done {
    under: (u64, u64),
    owned: BTreeSet<Group>,
    foreign: BTreeSet<Partition>,
}

/// Slots that differ, by tree and by the other owners that have answered.
type Heard = BTreeMap<Group, BTreeMap<NodeId, BTreeSet<Slot>>>;

/// Runs until the shutdown.
pub async fn run<W: World>(node: Node<W>, mut shutdown: watch::Receiver<bool>) {
    let mut tick = tokio::time::interval(SIFT_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut done = Done::default();
    loop {
        tokio::select! {
            biased;
            _ = shutdown.changed() => return,
            _ = tick.tick() => {}
        }
        tokio::select! {
            biased;
            _ = shutdown.changed() => return,
            () = round(&node, &mut done) => {}
        }
    }
}

async fn round<W: World>(node: &Node<W>, done: &mut Done) {
    let Some(mark) = node.past.to_sift() else { return };
    let snapshot = node.cluster.snapshot();
    if snapshot.is_removed(node.id()) {
        // It serves nobody, and what it hands on is compared copy by copy (`parting.rs`).
        return;
    }
    let under = (mark, snapshot.regime.name().digest);
    if done.under != under {
        *done = Done { under, ..Done::default() };
    }
    super::exchange::build(node).await;
    let whole = sift_owned(node, done).await & sift_foreign(node, done).await;
    if !whole || node.cluster.snapshot().regime.name().digest != under.1 || node.past.to_sift() != Some(mark)
    {
        return;
    }
    match node.lane.run(|reply| Job::Sifted { mark, reply }).await {
        Ok(true) => {
            node.past.sifted(mark);
            let set_aside = node.sifting.set_aside.load(Ordering::Relaxed);
            tracing::info!(set_aside, "this disk was compared with the other owners', and serves again");
        }
        Ok(false) => {}
        Err(refusal) => tracing::warn!(%refusal, "the mark of an old disk could not be taken off"),
    }
}

/// The other owners of a key or a tree that anybody waits for.
fn others<W: World>(node: &Node<W>, partition: Partition, n: usize) -> Vec<NodeId> {
    let (snapshot, doubted) = (node.cluster.snapshot(), node.cluster.doubted());
    let owners = snapshot.table.owners(partition, n).iter().copied();
    owners.filter(|owner| *owner != node.id() && !snapshot.view.is_given_up(*owner, &doubted)).collect()
}

/// Every tree that this node owns. Whether all of them are compared.
async fn sift_owned<W: World>(node: &Node<W>, done: &mut Done) -> bool {
    let (snapshot, doubted) = (node.cluster.snapshot(), node.cluster.doubted());
    let mut wanted: BTreeMap<Group, Vec<NodeId>> = BTreeMap::new();
    for partition in (0..snapshot.view.partitions).map(Partition) {
        for n in snapshot.ns.all() {
            let group = Group { partition, n };
            let owns = snapshot.table.owners(partition, usize::from(n)).contains(&node.id());
            if owns && !done.owned.contains(&group) {
                wanted.insert(group, others(node, partition, usize::from(n)));
            }
        }
    }
    let peers: BTreeSet<NodeId> = wanted.values().flatten().copied().collect();
    let mut heard = Heard::new();
    for peer in peers.into_iter().filter(|peer| !doubted.contains(peer)) {
        let of = |(group, others): (&Group, &Vec<NodeId>)| others.contains(&peer).then_some(*group);
        let groups: Vec<Group> = wanted.iter().filter_map(of).collect();
        if look(node, peer, &groups, &mut heard).await.is_err() {
            tracing::debug!(%peer, "an old disk could not be compared with everything there");
        }
    }
    let mut whole = true;
    for (group, others) in wanted {
        let heard = heard.remove(&group).unwrap_or_default();
        if is_enough(others.len(), heard.len()) && sift_tree(node, group, &others, heard).await == Ok(true) {
            done.owned.insert(group);
        } else {
            whole = false;
        }
    }
    whole
}

/// Which slots of these trees differ from a peer's.
async fn look<W: World>(
    node: &Node<W>,
    peer: NodeId,
    groups: &[Group],
    heard: &mut Heard,
) -> Result<(), Silent> {
    let mut exchange = Exchange::to_sift(node, peer);
    for some in groups.chunks(AAE_ROOTS_MAX) {
        let same = exchange.same_roots(some).await?;
        for (group, same) in some.iter().zip(same) {
            let is_same = same == Some(true);
            let slots = if is_same { BTreeSet::new() } else { exchange.differing_slots(*group).await? };
            heard.entry(*group).or_default().insert(peer, slots);
        }
    }
    Ok(())
}

/// Every key of a tree that differs from one of those that answered.
async fn sift_tree<W: World>(
    node: &Node<W>,
    group: Group,
    others: &[NodeId],
    heard: BTreeMap<NodeId, BTreeSet<Slot>>,
) -> Result<bool, Silent> {
    let slots: BTreeSet<Slot> = heard.values().flatten().copied().collect();
    let slots: Vec<Slot> = slots.into_iter().collect();
    for some in slots.chunks(AAE_SLOTS_MAX) {
        let mut ids = BTreeSet::new();
        for peer in heard.keys() {
            let unlike = Exchange::to_sift(node, *peer).unlike(group, some).await?;
            ids.extend(unlike.into_iter().map(|key| key.id));
        }
        let each = ids.into_iter().map(|id| judge(node, id, others).boxed()).collect::<Vec<_>>();
        let mut judged = stream::iter(each).buffer_unordered(SIFT_AT_ONCE);
        while let Some(is_done) = judged.next().await {
            if !is_done {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Every copy here of a key that this node does not own.
async fn sift_foreign<W: World>(node: &Node<W>, done: &mut Done) -> bool {
    let snapshot = node.cluster.snapshot();
    let mut whole = true;
    for partition in (0..snapshot.view.partitions).map(Partition) {
        let is_foreign = snapshot.ns.all().into_iter().any(|n| {
            let owns = snapshot.table.owners(partition, usize::from(n)).contains(&node.id());
            !owns && node.lock_trees().root(Group { partition, n }) != Some(0)
        });
        if !is_foreign || done.foreign.contains(&partition) {
            continue;
        }
        if sift_partition(node, partition).await == Some(true) {
            done.foreign.insert(partition);
        } else {
            whole = false;
        }
    }
    whole
}

async fn sift_partition<W: World>(node: &Node<W>, partition: Partition) -> Option<bool> {
    let (mut start, end) = keys::records_of_partition(partition);
    loop {
        let rows =
            node.store.scan(Family::Records, &start, end.as_deref(), SIFT_ROWS, PULL_BYTES_MAX).ok()?;
        let Some((last, _)) = rows.last() else { return Some(true) };
        start = keys::after(last);
        let snapshot = node.cluster.snapshot();
        let mut foreign = Vec::new();
        for (key, _) in &rows {
            let (_, id) = keys::decode_record_key(key).ok()?;
            let n = usize::from(snapshot.settings(id.bucket()).n);
            let owners = snapshot.table.owners(partition, n);
            // What has one owner, nobody but this node can have had: it is delivered.
            if !owners.contains(&node.id()) && owners.len() > 1 {
                foreign.push((id, others(node, partition, n)));
            }
        }
        let each: Vec<_> =
            foreign.iter().map(|(id, others)| judge(node, id.clone(), others).boxed()).collect();
        let mut judged = stream::iter(each).buffer_unordered(SIFT_AT_ONCE);
        while let Some(is_done) = judged.next().await {
            if !is_done {
                return Some(false);
            }
        }
    }
}

/// Asks the other owners of one key, and does what follows. Whether it is done with.
async fn judge<W: World>(node: &Node<W>, id: ObjectId, others: &[NodeId]) -> bool {
    let _work = node.begin_work();
    let Ok(bytes) = node.local(&id) else { return false };
    let held = bytes.as_deref().map(digest);
    let mine = bytes.as_ref().map(decode).transpose();
    let doubted = node.cluster.doubted();
    let asked: Vec<NodeId> = others.iter().copied().filter(|other| !doubted.contains(other)).collect();
    let said = ask(node, &id, &asked).await;
    node.sifting.looked_at.fetch_add(1, Ordering::Relaxed);
    let Ok(mine) = mine else { return mend(node, id, others, &said).await };
    let (record, aside) = match sift(mine.as_ref(), others, &said) {
        Verdict::Wait => return false,
        Verdict::Keep => return true,
        Verdict::Take { record, aside } => (record.as_ref().map(encode), aside),
    };
    let work = Sift { id: id.clone(), held, record, aside, hints: Vec::new() };
    match node.lane.run(|reply| Job::Sift(work, reply)).await {
        Ok(true) => {
            node.sifting.replaced.fetch_add(1, Ordering::Relaxed);
            if aside {
                tell_aside(node, &id);
            }
            true
        }
        _ => false,
    }
}

/// Counts it, and says where a person looks.
pub(super) fn tell_aside<W: World>(node: &Node<W>, id: &ObjectId) {
    node.sifting.set_aside.fetch_add(1, Ordering::Relaxed);
    tracing::warn!(key = ?id, "an old copy holds versions that no other owner knows: they were deleted and forgotten, or were acknowledged for this disk alone; it was set aside");
}

/// A copy that can't be read says nothing: it is replaced as a damaged one is, if anybody has another.
async fn mend<W: World>(node: &Node<W>, id: ObjectId, others: &[NodeId], said: &Said) -> bool {
    let Verdict::Take { record: Some(record), .. } = sift(None, others, said) else {
        return is_enough(others.len(), said.len());
    };
    node.merge_here(id, encode(&record), None, true).await.is_ok()
}

/// What these hold of a key; who does not say is not in it.
pub(super) async fn ask<W: World>(node: &Node<W>, id: &ObjectId, asked: &[NodeId]) -> Said {
    let asked: Vec<_> = asked.iter().map(|other| ask_one(node, id, *other).boxed()).collect();
    futures_util::future::join_all(asked).await.into_iter().flatten().collect()
}

async fn ask_one<W: World>(node: &Node<W>, id: &ObjectId, other: NodeId) -> Option<(NodeId, Option<Record>)> {
    let ask = Message::of(Ask::SiftRead { id: id.clone() });
    Some((other, heard(node.ask(other, ask, RECORD_TIMEOUT).await.ok()?)?))
}

fn heard(answer: Message<Answer>) -> Option<Option<Record>> {
    match answer {
        Message { head: Answer::Held(hash), body } if digest(&body) == hash => {
            Some(Some(decode(&body).ok()?))
        }
        Message { head: Answer::Absent, .. } => Some(None),
        _ => None,
    }
}
