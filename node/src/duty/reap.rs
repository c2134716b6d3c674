//! Forgets deletions once nothing is left that they would have to meet. The proofs are in `ring::reap`; here the first owner
//! of each partition asks for them, round after round, and lets go what is ripe: at the other owners first, here last, so
//! that what fails half-way is found again.
//!
//! The dead are found in an index of their own. A round costs one question to each member for every 256 of them, or for every
//! partition that has any. Where there are more than one round may ask about, `ring::reap::Tour` says where to begin.

use crate::limits::{
    REAP_EVERY_MAX, REAP_EVERY_MIN, REAP_KEYS_MAX, REAP_PAGE_ROWS, REAP_STAY_ROUNDS, REAP_TIMEOUT,
};
use crate::node::Node;
use crate::node::reap::said;
use crate::store::{Family, Store, keys};
use crate::world::World;
use bytes::Bytes;
use futures_util::future::join_all;
use ring::ids::{NodeId, Partition};
use ring::reap::{Dead, Reaper, Said, Tour, Waiting};
use ring::tree::Leaf;
use ring::wire::peer::{Answer, Ask, Message, Refusal};
use ring::wire::record::digest;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::watch;

/// Runs until the shutdown.
pub async fn run<W: World>(node: Node<W>, grace: Duration, mut shutdown: watch::Receiver<bool>) {
    let every = (grace / 4).clamp(REAP_EVERY_MIN, REAP_EVERY_MAX);
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut reaper = Reaper::new(grace, REAP_KEYS_MAX);
    let mut tour = Tour::new(REAP_KEYS_MAX, 2 * grace + REAP_STAY_ROUNDS * every);
    loop {
        tokio::select! {
            biased;
            _ = shutdown.changed() => return,
            _ = tick.tick() => {}
        }
        tokio::select! {
            biased;
            _ = shutdown.changed() => return,
            came = round(&node, &mut reaper, &mut tour) => if let Err(refusal) = came {
                tracing::debug!(%refusal, "a round of forgetting was given up");
            }
        }
    }
}

/// Goes through all dead records here, and asks about as many as it may. Those of other askers are only counted.
async fn round<W: World>(
    node: &Node<W>,
    reaper: &mut Reaper,
    tour: &mut Tour<Vec<u8>>,
) -> Result<(), Refusal> {
    if let Some(why) = node.past.silence() {
        // What is agreed with an old copy is agreed about nothing.
        return Err(Refusal::Unavailable(why.into()));
    }
    let table = node.table_tag().digest;
    reaper.begin(table);
    let (mut held, mut waiting) = (0, Waiting::default());
    let partitions = node.cluster.snapshot().view.partitions;
    for (partition, mut start, end) in once_round(partitions, tour.begin()) {
        loop {
            let rows = node
                .store
                .scan(Family::Dead, &start, end.as_deref(), REAP_PAGE_ROWS, usize::MAX)
                .map_err(|error| Refusal::Unavailable(error.to_string()))?;
            let (Some((first, _)), Some((last, _))) = (rows.first(), rows.last()) else { break };
            start = keys::after(last);
            held += rows.len() as u64;
            if !leads(node, partition) {
                continue;
            }
            let snapshot = node.cluster.snapshot();
            if !snapshot.regime.is_settled() || snapshot.regime.name().digest != table {
                waiting.moving += rows.len() as u64;
            } else if tour.takes(&first.to_vec(), rows.len()) {
                let (page, unreadable) = page(node, partition, rows.iter().map(|(key, _)| key))?;
                waiting.differing += unreadable;
                add(&mut waiting, go_through(node, reaper, page).await);
            } else {
                waiting.young += rows.len() as u64;
            }
        }
    }
    tour.end(node.now());
    reaper.end();
    let mut reaped = node.lock_reaped();
    (reaped.held, reaped.waiting) = (held, waiting);
    reaped.rounds += 1;
    Ok(())
}

/// A stretch of the keys of one partition.
type Stretch = (Partition, Vec<u8>, Option<Vec<u8>>);

/// All partitions from a key on, round to the key again.
fn once_round(partitions: u16, from: Option<Vec<u8>>) -> Vec<Stretch> {
    let whole = |partition: u16| {
        let (start, end) = keys::records_of_partition(Partition(partition));
        (Partition(partition), start, end)
    };
    let first = from.as_deref().and_then(|key| key.first_chunk()).map(|bytes| u16::from_be_bytes(*bytes));
    let (Some(from), Some(first)) = (from, first) else { return (0..partitions).map(whole).collect() };
    let mut stretches: Vec<Stretch> = (first..partitions).chain(0..=first).map(whole).collect();
    if let [(_, start, _), .., (_, _, end)] = stretches.as_mut_slice() {
        (*start, *end) = (from.clone(), Some(from));
    }
    stretches
}

/// Whether this node asks about the partition: it is the first that owns it.
fn leads<W: World>(node: &Node<W>, partition: Partition) -> bool {
    node.cluster.snapshot().table.owners(partition, 1).first() == Some(&node.id())
}

/// The dead records under these keys, as they are now; and how many can't be read.
fn page<'a, W: World>(
    node: &Node<W>,
    partition: Partition,
    keys: impl Iterator<Item = &'a Bytes>,
) -> Result<(Vec<Dead>, u64), Refusal> {
    let snapshot = node.cluster.snapshot();
    let (mut page, mut unreadable) = (Vec::new(), 0);
    for key in keys {
        let (_, id) = keys::decode_record_key(key).map_err(|e| Refusal::Unavailable(e.to_string()))?;
        let n = usize::from(snapshot.settings(id.bucket()).n);
        let owners = snapshot.table.owners(partition, n).to_vec();
        // A record that went in the meantime is no longer in the index either.
        match node.whole(&id) {
            Ok(Some(record)) => page.push(Dead { id, digest: digest(&record), owners }),
            Ok(None) => {}
            // It is healed first, and keeps no other waiting.
            Err(_) => unreadable += 1,
        }
    }
    Ok((page, unreadable))
}

async fn go_through<W: World>(node: &Node<W>, reaper: &mut Reaper, page: Vec<Dead>) -> Waiting {
    let asked = node.now();
    let said = ask_all(node, &page).await;
    let judged = reaper.judge(&page, &said, asked, node.now());
    let mut waiting = judged.waiting;
    push(node, &page, judged.push).await;
    let mut by_owners: BTreeMap<&[NodeId], Vec<Leaf>> = BTreeMap::new();
    for dead in judged.ripe.iter().map(|at| &page[usize::from(*at)]) {
        by_owners.entry(&dead.owners).or_default().push((dead.id.clone(), dead.digest));
    }
    for (owners, leaves) in by_owners {
        let wanted = leaves.len();
        waiting.differing += (wanted - let_go(node, owners, leaves).await) as u64;
    }
    waiting
}

/// Asks every member, whatever it owns: it may hold a copy, or a hint, or be at work.
async fn ask_all<W: World>(node: &Node<W>, page: &[Dead]) -> BTreeMap<NodeId, Option<Said>> {
    let leaves: Vec<Leaf> = page.iter().map(|dead| (dead.id.clone(), dead.digest)).collect();
    let body = encode(&leaves);
    let members: Vec<NodeId> = node.cluster.snapshot().view.living().map(|(id, _)| id).collect();
    let answers = members.into_iter().map(|member| {
        let (body, leaves) = (body.clone(), &leaves);
        async move {
            if member == node.id() {
                return (member, node.say_reapable(leaves).await.ok());
            }
            let answer = node.ask(member, Message { head: Ask::Reapable, body }, REAP_TIMEOUT).await;
            (member, answer.ok().and_then(said))
        }
    });
    join_all(answers).await.into_iter().collect()
}

/// Owners that lack a dead record are given it; what they have instead comes here by the exchange of trees.
async fn push<W: World>(node: &Node<W>, page: &[Dead], lacking: Vec<(NodeId, u16)>) {
    let _work = node.begin_work();
    for (owner, at) in lacking.into_iter().filter(|(owner, _)| *owner != node.id()) {
        let id = page[usize::from(at)].id.clone();
        let Ok(Some(record)) = node.local(&id) else { continue };
        if node.store_at(owner, id, record, REAP_TIMEOUT).await.is_err() {
            return;
        }
    }
}

/// At all other owners, and then here. How many are gone everywhere.
async fn let_go<W: World>(node: &Node<W>, owners: &[NodeId], leaves: Vec<Leaf>) -> usize {
    let body = encode(&leaves);
    let mut kept = BTreeSet::new();
    for owner in owners.iter().filter(|owner| **owner != node.id()) {
        let ask = Message { head: Ask::Reap, body: body.clone() };
        match node.ask(*owner, ask, REAP_TIMEOUT).await {
            Ok(Message { head: Answer::Lacking(some), .. }) => kept.extend(some),
            _ => return 0,
        }
    }
    let all = (0_u16..).zip(leaves).filter(|(at, _)| !kept.contains(at)).map(|(_, leaf)| leaf);
    let all: Vec<Leaf> = all.collect();
    let wanted = all.len();
    node.reap_here(all).await.map_or(0, |kept| wanted - kept.len())
}

fn encode(leaves: &[Leaf]) -> Bytes {
    Bytes::from(postcard::to_stdvec(leaves).expect("names and numbers are plain data"))
}

fn add(sum: &mut Waiting, more: Waiting) {
    sum.silent += more.silent;
    sum.differing += more.differing;
    sum.hinted += more.hinted;
    sum.young += more.young;
    sum.moving += more.moving;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_that_begins_in_the_middle_comes_to_each_key_once() {
        let key = |partition: u16, name: u8| [&partition.to_be_bytes()[..], &[name]].concat();
        let all: Vec<Vec<u8>> =
            (0..4).flat_map(|partition| (0..3).map(move |name| key(partition, name))).collect();
        for (at, from) in all.iter().enumerate() {
            let mut met = Vec::new();
            for (partition, start, end) in once_round(4, Some(from.clone())) {
                let within = |key: &&Vec<u8>| **key >= start && end.as_ref().is_none_or(|end| *key < end);
                let found: Vec<&Vec<u8>> = all.iter().filter(within).collect();
                assert!(found.iter().all(|key| key[..2] == partition.0.to_be_bytes()));
                met.extend(found.into_iter().cloned());
            }
            assert_eq!(met, [&all[at..], &all[..at]].concat());
        }
        assert_eq!(once_round(4, None).len(), 4);
    }
}
