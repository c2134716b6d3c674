//! Looks at every record once in a while: that its bytes are whole, and that its leaf is its own.
//!
//! Merkle trees compare leaves and never look at the records, so a record that the disk has spoiled would agree with
//! everybody for ever and answer nobody. Here it is found without a read, and fetched from the other owners as if this node had
//! lost it: with a mark that its own dots of before are not continued, and without a word to readers until all of them have
//! answered (`lane/damage.rs`). A leaf that is wrong is written again, and its
//! partition's trees are built anew.
//!
//! It goes by the leaves, one page after the other, and not by a scan of the records: a scan ends at the first spoiled block.
//! After each round it rests. Copies that are known to lack something, and those that somebody could not read, are not kept
//! waiting for that: until they are mended their keys are refused to whoever insists on this owner, and of those that can't be
//! read hints wait, and so does a change that moves them.

use crate::lane::{Job, leaf_row};
use crate::limits::{
    GAPS_AT_ONCE, MENDS_AT_ONCE, RECORD_TIMEOUT, SCRUB_EVERY, SCRUB_PAGE_BYTES, SCRUB_PAGE_ROWS, SCRUB_REST,
};
use crate::node::Node;
use crate::node::hints::State;
use crate::store::{Batch, Family, Store, keys};
use crate::world::World;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use ring::ids::{NodeId, ObjectId, Partition};
use ring::wire::peer::{Answer, Ask, Message};
use ring::wire::record::{Digest, digest, verify};
use tokio::sync::watch;

/// Runs until the shutdown.
pub async fn run<W: World>(node: Node<W>, mut shutdown: watch::Receiver<bool>) {
    let mut tick = tokio::time::interval(SCRUB_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut from, mut last_gap, mut last_suspect, mut rests_until) = (Vec::new(), None, None, node.now());
    loop {
        tokio::select! {
            biased;
            _ = shutdown.changed() => return,
            _ = tick.tick() => {}
        }
        end_if_fenced(&node).await;
        // Before the page names others: where the list is full, it waits for the room that this makes.
        let suspects = node.suspects.take(last_suspect.as_ref(), GAPS_AT_ONCE);
        last_suspect = suspects.last().cloned().or(last_suspect);
        if node.now() >= rests_until {
            tokio::select! {
                biased;
                _ = shutdown.changed() => return,
                next = page(&node, &from) => from = next,
            }
            if from.is_empty() {
                // A disk does not spoil in a moment, and a small one would be read over and over.
                rests_until = node.now() + SCRUB_REST;
            }
        }
        let gaps = node.gaps.some(last_gap.as_ref(), GAPS_AT_ONCE);
        last_gap = gaps.last().cloned();
        tokio::select! {
            biased;
            _ = shutdown.changed() => return,
            () = mend(&node, suspects.into_iter().chain(gaps)) => {}
        }
    }
}

/// Somebody may have met a spoiled block that can't be read around. A node that nobody writes to would go on half blind: this write
/// is refused, and ends it.
async fn end_if_fenced<W: World>(node: &Node<W>) {
    if node.store.is_fenced() {
        let _ = node.lane.run(|reply| Job::Raw { batch: Batch::default(), sync: true, reply }).await;
    }
}

/// Looks at some records; answers where to go on.
async fn page<W: World>(node: &Node<W>, from: &[u8]) -> Vec<u8> {
    let rows = match node.store.scan(Family::Leaves, from, None, SCRUB_PAGE_ROWS, usize::MAX) {
        Ok(rows) => rows,
        Err(error) => {
            tracing::warn!(%error, "leaves can't be read");
            return Vec::new();
        }
    };
    let mut bytes = 0;
    let mut next = Vec::new();
    for row in &rows {
        next = keys::after(&row.0);
        if let Some((partition, _, id, leaf)) = leaf_row(row) {
            // Where too many wait to be healed it goes on with this one.
            let Some(more) = look(node, partition, id, leaf).await else { return row.0.to_vec() };
            bytes += more;
        }
        if bytes >= SCRUB_PAGE_BYTES {
            return next;
        }
    }
    if rows.len() == SCRUB_PAGE_ROWS {
        return next;
    }
    node.lock_aae().scrubs += 1;
    Vec::new()
}

/// Looks at one record, and mends what is wrong. Answers how many bytes it has; nothing if it is to be looked at later.
async fn look<W: World>(node: &Node<W>, partition: Partition, id: ObjectId, leaf: Digest) -> Option<usize> {
    node.lock_aae().scrubbed += 1;
    let record = node.store.get(Family::Records, &keys::record_key(partition, &id));
    let whole = record.as_ref().is_ok_and(|record| record.as_ref().is_none_or(|r| verify(r).is_ok()));
    if !whole {
        tracing::warn!(key = ?id, "a record on this disk is damaged; it is fetched from the other owners");
        return node.suspects.add(&id).then_some(0);
    }
    let record = record.ok().flatten();
    if record.as_deref().map(digest) != Some(leaf) {
        // It may have been written since the leaf was read; the lane knows.
        let mended = node.lane.run(|reply| Job::CheckLeaf { id, reply }).await;
        if matches!(mended, Ok(true)) {
            node.lock_aae().mended += 1;
        }
    }
    Some(record.map_or(0, |record| record.len()))
}

/// Asks the other owners about keys whose copies lack something or could not be read.
async fn mend<W: World>(node: &Node<W>, some: impl Iterator<Item = ObjectId>) {
    let mut mended = stream::iter(some).map(|id| mend_one(node, id)).buffer_unordered(MENDS_AT_ONCE);
    while mended.next().await.is_some() {
        end_if_fenced(node).await;
    }
}

async fn mend_one<W: World>(node: &Node<W>, id: ObjectId) {
    let spoiled = node.look_at(&id).is_err();
    if spoiled || node.gaps.has(&id) {
        heal(node, id.clone()).await;
    }
    // A copy that can be read and still lacks something has held no hint up.
    if node.look_at(&id).is_err() || (!spoiled && node.gaps.has(&id)) {
        return;
    }
    if spoiled {
        node.suspects.count_healed();
    }
    // Hints of it may have been put off for that.
    let targets = node.hints_of(&id).unwrap_or_default();
    for (target, delivery) in node.lock_deliveries().iter_mut() {
        if delivery.state == State::BackingOff && targets.contains(target) {
            delivery.not_before = node.now();
        }
    }
}

/// Puts the other owners' copies in the place of a spoiled one, or merges them with what has taken it. Only when all of them have
/// answered does the copy count again. If each says that it has none, what can't be read is of no use to anybody and goes, for it
/// would refuse this key for ever; as long as one of them is silent it stays as it is, and is looked at again. The settled owners are
/// those to ask, during a change of the tables too: they have everything that was acknowledged, and a change waits for this copy
/// if it can't be handed on.
async fn heal<W: World>(node: &Node<W>, id: ObjectId) {
    let _work = node.begin_work();
    let (snapshot, doubted) = (node.cluster.snapshot(), node.cluster.doubted());
    let plan = node.cluster.plan(&snapshot, &id);
    let counts = |owner: &NodeId| *owner != node.id() && !snapshot.view.is_given_up(*owner, &doubted);
    let owners: Vec<NodeId> = plan.owners.iter().copied().filter(counts).collect();
    let (mut answered, mut stored) = (0, 0);
    // Of those that are away nothing is to be had, and others wait meanwhile.
    for owner in owners.iter().filter(|owner| !doubted.contains(owner)) {
        let Some(record) = fetch(node, *owner, &id).await else { continue };
        if let Some(record) = record {
            if let Err(refusal) = node.merge_here(id.clone(), record, None, true).await {
                tracing::warn!(%refusal, "a spoiled copy could not be replaced");
                continue;
            }
            stored += 1;
        }
        answered += 1;
    }
    let has_gap = node.gaps.has(&id);
    let same_tables = node.cluster.snapshot().regime.name() == snapshot.regime.name();
    if answered < owners.len() || !same_tables || (owners.is_empty() && !has_gap) {
        return;
    }
    node.lock_aae().healed += u64::from(stored > 0);
    if stored == 0 && !has_gap {
        tracing::error!(key = ?id, "a record on this disk was damaged, no other owner has it, and it is given up");
        if let Err(refusal) = node.lane.run(|reply| Job::GiveUpDamaged { id, reply }).await {
            tracing::warn!(%refusal, "a damaged record could not be given up");
        }
    } else if let Err(refusal) = node.lane.run(|reply| Job::CloseGap { id, reply }).await {
        tracing::warn!(%refusal, "that a spoiled copy is whole again could not be kept");
    }
}

/// The owner's copy, or its word that it has none; `None` if it does not say.
async fn fetch<W: World>(node: &Node<W>, from: NodeId, id: &ObjectId) -> Option<Option<Bytes>> {
    let ask = Message::of(Ask::Mend { id: id.clone() });
    match node.ask(from, ask, RECORD_TIMEOUT).await.ok()? {
        Message { head: Answer::Held(hash), body } if digest(&body) == hash => Some(Some(body)),
        Message { head: Answer::Absent, .. } => Some(None),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Bench, ME, Peer, ids};
    use ring::members::Status;
    use std::time::Duration;

    /// What rots under fifteen thousand small records must be found, and healed, within the minute in which all copies are to be equal.
    #[test]
    fn fifteen_thousand_records_are_looked_at_within_a_minute() {
        let pages = u32::try_from(15_000_usize.div_ceil(SCRUB_PAGE_ROWS)).expect("it is a small number");
        assert!(SCRUB_EVERY * pages + SCRUB_REST < Duration::from_secs(60) - SCRUB_EVERY * 5);
    }

    /// A spoiled record that no other owner has. A newcomer is to have it, and can't be filled before it is given up: so whether he
    /// answers is of no account, and as long as one of the owners of now is silent it stays.
    #[tokio::test(start_paused = true)]
    async fn a_spoiled_record_that_no_owner_has_is_given_up_before_a_newcomer_is_filled() {
        let (owners, newcomer) = ([11, 12].map(Peer::new), Peer::new(13));
        let [one, two] = &owners;
        let bench = Bench::start(16, &[ME, one.id, two.id], &[one, two, &newcomer]).await;
        bench.update(|view| assert!(view.set_status(newcomer.id, Status::Up).unwrap()));
        let pending = |id: &ObjectId| bench.node.cluster.plan(&bench.node.cluster.snapshot(), id).pending;
        let id = ids(100).into_iter().find(|id| pending(id) == [newcomer.id]).expect("some keys move to him");
        bench.put(&id, 10, None).await;
        let partition = ring::place::partition(ring::place::position(&id), 16);
        bench.disk().corrupt(Family::Records, &keys::record_key(partition, &id));
        drop(bench.cut(&newcomer));
        let is_back = bench.cut(two);
        mend(&bench.node, [id.clone()].into_iter()).await;
        assert!(bench.node.look_at(&id).is_err(), "one owner may have it");
        is_back();
        tokio::time::advance(crate::limits::BACKOFF_MAX).await;
        mend(&bench.node, [id.clone()].into_iter()).await;
        assert_eq!(bench.node.look_at(&id).ok(), Some(None), "nobody has it, and it is in nobody's way");
    }
}
