//! Hands on what this node holds and does not own: of partitions that went to others, and of fallbacks' copies whose hint is
//! gone. Space comes back, and nothing is forgotten on the way.
//!
//! It begins when a change is over and everybody has heard of it, for until then somebody may still read here. A record goes
//! only after **every** owner has said that it holds just this version or has durably merged it, and only if it has not
//! changed since.
//!
//! A node that was removed is asked by nobody any more before a deletion is forgotten. It sends no copy of a key that several
//! own: it waits until all owners know what is in it, and sets aside what none of them knows (`ring::sift::part`).

use crate::lane::{Job, Sift};
use crate::limits::{
    HINT_CREDIT_BUSY, LACKS_ROWS_MAX, LACKS_TIMEOUT, PULL_BYTES_MAX, PULL_MERGES, SURPLUS_EVERY,
};
use crate::node::Node;
use crate::node::hints::{batch, pack};
use crate::store::{Batch, Family, Store, keys};
use crate::world::World;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use ring::ids::{NodeId, ObjectId, Partition};
use ring::planted::{self, Bug};
use ring::tree::Leaf;
use ring::wire::peer::{Answer, Ask, Message, Refusal};
use ring::wire::record::{digest, verify};
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::watch;

/// Runs until the shutdown.
pub async fn run<W: World>(node: Node<W>, mut shutdown: watch::Receiver<bool>) {
    let mut tick = tokio::time::interval(SURPLUS_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut begin = Begin::new();
    loop {
        tokio::select! {
            biased;
            _ = shutdown.changed() => return,
            _ = tick.tick() => {}
        }
        tokio::select! {
            biased;
            _ = shutdown.changed() => return,
            () = round(&node, &mut begin) => {}
        }
    }
}

/// Where to begin in a partition of which the last round was broken off, and how often that has been tried.
type Begin = BTreeMap<Partition, (Vec<u8>, u32)>;

/// Rounds that begin there again though nothing went: each takes 10 s at most, and 4 MiB at 1 Mbit/s take 34.
const AGAIN_MAX: u32 = 6;

/// Once through all partitions; in each from where the last round was broken off, and the next time from its first key again.
async fn round<W: World>(node: &Node<W>, begin: &mut Begin) {
    let snapshot = node.cluster.snapshot();
    let removed = snapshot.is_removed(node.id());
    if !snapshot.regime.is_settled() || snapshot.table.nodes().is_empty() || !(removed || node.may_spread()) {
        return;
    }
    let name = snapshot.regime.name().digest;
    let surplus = node.surplus(&snapshot);
    begin.retain(|partition, _| surplus.contains(partition));
    let mut undone = None;
    for partition in surplus {
        let (from, tries) = begin.remove(&partition).unzip();
        if let Err(Undone { why, last, halted }) = hand_on(node, partition, name, from.clone()).await {
            match (last, from, tries) {
                (Some(last), ..) => {
                    begin.insert(partition, (keys::after(&keys::record_key(partition, &last)), 0));
                }
                // The link may still be busy with what was missed before.
                (None, Some(from), Some(tries)) if halted && tries < AGAIN_MAX => {
                    begin.insert(partition, (from, tries + 1));
                }
                _ => {}
            }
            tracing::debug!(%why, partition = partition.0, "what is not owned here could not be handed on yet");
            undone = Some(format!("partition {} could not be handed on yet: {why}", partition.0));
        }
    }
    node.lock_gain().not_handed_on = undone;
}

/// Why nothing more was handed on.
pub(super) struct Halt {
    pub(super) why: Refusal,
    /// The first record that did not go, if those behind it may be tried.
    pub(super) last: Option<ObjectId>,
}

impl From<Refusal> for Halt {
    fn from(why: Refusal) -> Self {
        Halt { why, last: None }
    }
}

/// Why a partition was not handed on to its end.
struct Undone {
    why: Refusal,
    last: Option<ObjectId>,
    /// Whether it was broken off on its way.
    halted: bool,
}

impl From<Refusal> for Undone {
    fn from(why: Refusal) -> Self {
        Undone { why, last: None, halted: false }
    }
}

/// One partition, page by page, from that key on.
async fn hand_on<W: World>(
    node: &Node<W>,
    partition: Partition,
    regime: u64,
    from: Option<Vec<u8>>,
) -> Result<(), Undone> {
    let (first, end) = keys::records_of_partition(partition);
    let mut start = from.unwrap_or(first);
    let mut giving = BTreeMap::new();
    let unreadable = |why: &dyn std::fmt::Display| Refusal::Unavailable(why.to_string());
    let mut kept = 0;
    loop {
        let _work = node.begin_work();
        let rows = node
            .store
            .scan(Family::Records, &start, end.as_deref(), LACKS_ROWS_MAX, PULL_BYTES_MAX)
            .map_err(|error| unreadable(&error))?;
        let Some((last, _)) = rows.last() else { break };
        start = keys::after(last);
        let mut page: BTreeMap<Vec<NodeId>, Vec<(ObjectId, Bytes)>> = BTreeMap::new();
        let snapshot = node.cluster.snapshot();
        if snapshot.regime.name().digest != regime {
            return Ok(());
        }
        for (key, record) in rows {
            let (_, id) = keys::decode_record_key(&key).map_err(|error| unreadable(&error))?;
            if verify(&record).is_err() {
                node.suspects.add(&id);
                kept += 1;
                continue;
            }
            let n = usize::from(snapshot.settings(id.bucket()).n);
            let owners = snapshot.table.owners(partition, n);
            let removed = snapshot.is_removed(node.id());
            if !owners.contains(&node.id()) && (removed || node.hints_of(&id)?.is_empty()) {
                page.entry(owners.to_vec()).or_default().push((id, record));
            }
        }
        let mut halted = None;
        // What may be too large for a link comes last: behind it nothing else gets through.
        let mut page: Vec<_> = page.into_iter().collect();
        page.sort_by_key(|(_, records)| records.iter().map(|(_, record)| record.len()).max());
        for (owners, records) in page {
            if snapshot.is_removed(node.id()) && owners.len() > 1 {
                kept += super::parting::part_with(node, &owners, records).await?;
            } else {
                let (stay, halt) = hand_to(node, &owners, regime, records, &mut giving).await?;
                kept += stay;
                halted = halted.or(halt);
            }
        }
        // What others could take of this page is theirs.
        if let Some(Halt { why, last }) = halted {
            return Err(Undone { why, last, halted: true });
        }
    }
    match kept {
        0 => Ok(()),
        count => Err(unreadable(&format!("{count} records can't be read or were not taken")).into()),
    }
}

/// Gives every owner by these tables what it lacks, and then lets the copies go. How many somebody did not take, which stay, and why
/// no more was tried.
async fn hand_to<W: World>(
    node: &Node<W>,
    owners: &[NodeId],
    regime: u64,
    records: Vec<(ObjectId, Bytes)>,
    giving: &mut BTreeMap<NodeId, Giving>,
) -> Result<(usize, Option<Halt>), Refusal> {
    let (mut refused, mut halted) = (BTreeSet::new(), None);
    let asked = if planted::is(Bug::SurplusDropped) { &[] } else { owners };
    for owner in asked {
        let given = give(node, *owner, &records, giving.entry(*owner).or_default()).await;
        refused.extend(given.refused);
        halted = halted.or(given.halt);
    }
    let taken = records.iter().filter(|(id, _)| !refused.contains(id));
    let leaves = taken.map(|(id, record)| (id.clone(), digest(record))).collect::<Vec<Leaf>>();
    let dropped = leaves.into_iter().map(|(id, held)| async move {
        if !node.cluster.snapshot().is_removed(node.id()) {
            return node.lane.run(|reply| Job::DropCopy { id, held, regime, reply }).await;
        }
        // Its hints go with the copy: every owner has it.
        let hints = node.hints_of(&id)?;
        let sift = Sift { id, held: Some(held), record: None, aside: false, hints };
        node.lane.run(|reply| Job::Sift(sift, reply)).await
    });
    let mut dropped = stream::iter(dropped).buffer_unordered(PULL_MERGES);
    while let Some(gone) = dropped.next().await {
        gone?;
    }
    Ok((refused.len(), halted))
}

/// What came of giving.
pub(super) struct Given {
    /// Those of which nobody knows that the other has them now, tried or not.
    pub(super) refused: BTreeSet<ObjectId>,
    pub(super) halt: Option<Halt>,
}

/// Lets another node have what it lacks of these records, durably; what it has is not sent. Each is refused for itself, so that one
/// stands in no other's way; it halts at the second message in a row that is not answered, of this call or the one before. How much
/// goes at once, and after which pause, the receiver says.
pub(super) async fn give<W: World>(
    node: &Node<W>,
    to: NodeId,
    records: &[(ObjectId, Bytes)],
    giving: &mut Giving,
) -> Given {
    let mut given = Given { refused: records.iter().map(|(id, _)| id.clone()).collect(), halt: None };
    for records in records.chunks(LACKS_ROWS_MAX) {
        if let Err(halt) = give_some(node, to, records, giving, &mut given.refused).await {
            given.halt = Some(halt);
            break;
        }
    }
    given
}

/// How giving to one node goes on, from one call to the next: what is too large for the link goes alone, and what fails then is what
/// comes behind it.
pub(super) struct Giving {
    /// How many bytes the other asks for at a time.
    credit: usize,
    /// The last record of a delivery that was not answered, if it was the one before.
    pub(super) missed: Option<ObjectId>,
}

impl Default for Giving {
    fn default() -> Self {
        Giving { credit: HINT_CREDIT_BUSY as usize, missed: None }
    }
}

async fn give_some<W: World>(
    node: &Node<W>,
    to: NodeId,
    records: &[(ObjectId, Bytes)],
    giving: &mut Giving,
    refused: &mut BTreeSet<ObjectId>,
) -> Result<(), Halt> {
    let leaves: Vec<Leaf> = records.iter().map(|(id, record)| (id.clone(), digest(record))).collect();
    let body = Bytes::from(postcard::to_stdvec(&leaves).expect("names and numbers are plain data"));
    let lacking: BTreeSet<usize> = match node.ask(to, Message { head: Ask::Lacks, body }, LACKS_TIMEOUT).await
    {
        Ok(Message { head: Answer::Lacking(lacking), .. }) => lacking.into_iter().map(usize::from).collect(),
        Ok(Message { head: Answer::Refused(refusal), .. }) => return Err(refusal.into()),
        _ => {
            let why = Refusal::Unavailable(format!("{to} does not answer"));
            return Err(Halt { why, last: giving.missed.take() });
        }
    };
    let (lacked, there): (Vec<_>, Vec<_>) =
        records.iter().enumerate().partition(|(at, _)| lacking.contains(at));
    for (_, (id, _)) in there {
        refused.remove(id);
    }
    let mut lacked =
        lacked.into_iter().map(|(_, row)| row.clone()).collect::<Vec<_>>().into_iter().peekable();
    loop {
        let sent = batch(&mut lacked, giving.credit, |(_, record)| record.len());
        let Some((last, _)) = sent.last() else { return Ok(()) };
        match (node.store_many(to, pack(&sent), LACKS_TIMEOUT).await, giving.missed.take()) {
            (Ok(came), _) => {
                giving.credit = came.credit;
                for (_, (id, _)) in sent.iter().enumerate().filter(|(at, _)| !came.failed.contains(at)) {
                    refused.remove(id);
                }
                if !came.pause.is_zero() {
                    tokio::time::sleep(came.pause).await;
                }
            }
            // A large one that takes too long; two in a row are the node.
            (Err(_), None) => giving.missed = Some(last.clone()),
            (Err(why), Some(missed)) => return Err(Halt { why, last: Some(missed) }),
        }
    }
}

impl<W: World> Node<W> {
    /// Which of these records are not here as they are there.
    pub(crate) async fn answer_lacks(&self, body: &Bytes) -> Result<Message<Answer>, Refusal> {
        let leaves: Vec<Leaf> =
            postcard::from_bytes(body).map_err(|error| Refusal::Malformed(error.to_string()))?;
        if leaves.len() > LACKS_ROWS_MAX {
            return Err(Refusal::Malformed("too many records at once".into()));
        }
        let mut lacking = Vec::new();
        for (at, (id, theirs)) in (0..).zip(&leaves) {
            // What can't be read here is lacking: the copy that comes takes its place.
            let ours = self.whole(id).ok().flatten();
            if ours.map(|record| digest(&record)) != Some(*theirs) {
                lacking.push(at);
            }
        }
        // What was found may have been left to the system to sync, and who asks is about to let his copy go.
        self.lane.run(|reply| Job::Raw { batch: Batch::default(), sync: true, reply }).await?;
        Ok(Message::of(Answer::Lacking(lacking)))
    }
}

#[cfg(test)]
#[path = "surplus_tests.rs"]
mod tests;
