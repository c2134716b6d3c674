//! Questions about Merkle trees, asked of one peer, and the repair of what differs.
//!
//! Level by level from the roots to the keys; then each key that differs is fetched, merged here, and sent back as what came
//! of it. When to ask and which difference to believe is decided by whoever drives it: `duty/exchange.rs` all the time,
//! `repair.rs` when somebody is impatient.

use super::Node;
use super::trees::{NOT_BUILT, read_hashes};
use crate::limits::{AAE_BYTES_PER_SECOND, AAE_PAGES_MAX, AAE_REPAIRS_MAX, AAE_TIMEOUT, RECORD_TIMEOUT};
use crate::world::World;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use ring::ids::{NodeId, ObjectId};
use ring::tree::{FANOUT, Group, Leaf, Slot, Tree, Unlike, differing, slots_of, unlike};
use ring::wire::peer::{Answer, Ask, Message, Refusal, TreeAsk};
use ring::wire::record::{decode, digest};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The other side does not answer, or not about the same table. A later round tries again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Silent;

/// Which keys are meant; by default all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Only {
    pub(crate) bucket: Option<Bytes>,
    pub(crate) key: Option<Bytes>,
}

impl Only {
    fn means(&self, id: &ObjectId) -> bool {
        self.bucket.as_ref().is_none_or(|bucket| bucket == id.bucket())
            && self.key.as_ref().is_none_or(|key| key == id.key())
    }
}

/// What a repair found and did.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Came {
    pub(crate) differences: u64,
    pub(crate) repairs: u64,
}

/// One round with one peer.
pub(crate) struct Exchange<'a, W: World> {
    pub(crate) node: &'a Node<W>,
    pub(crate) peer: NodeId,
    /// Whether this node's own copies may be old: then others answer who would not otherwise.
    sifts: bool,
    /// Whether the peer is to have what is here.
    gives: bool,
    /// Whether the peer takes nothing that takes room, as its last answer had it.
    full_there: AtomicBool,
    /// Bytes that were moved since the last pause.
    moved: u64,
    /// Why the last key that could not be brought together was not.
    pub(crate) failed: Option<Failed>,
}

/// Why a key could not be brought together.
#[derive(Debug, Clone)]
pub(crate) struct Failed {
    pub(crate) why: String,
    /// Whether this node can take nothing at this moment: then the others need not be tried.
    pub(crate) here: bool,
    /// Bytes of records that were moved for nothing.
    moved: u64,
}

impl Failed {
    fn there(why: String) -> Failed {
        Failed { why, here: false, moved: 0 }
    }
}

impl<'a, W: World> Exchange<'a, W> {
    pub(crate) fn new(node: &'a Node<W>, peer: NodeId) -> Self {
        let full_there = AtomicBool::new(false);
        Exchange { node, peer, sifts: false, gives: true, full_there, moved: 0, failed: None }
    }

    /// One that fetches what the peer has, and gives it nothing: it may have no room for that, and what it lacks it is to have
    /// from those who own it with it.
    pub(crate) fn to_fetch(node: &'a Node<W>, peer: NodeId) -> Self {
        Exchange { gives: false, ..Exchange::new(node, peer) }
    }

    /// One that finds out what differs, and changes nothing anywhere.
    pub(crate) fn to_sift(node: &'a Node<W>, peer: NodeId) -> Self {
        Exchange { sifts: true, ..Exchange::new(node, peer) }
    }

    /// Of each tree, whether it is the same here and there; `None` where it is being built on one side.
    pub(crate) async fn same_roots(&mut self, groups: &[Group]) -> Result<Vec<Option<bool>>, Silent> {
        let theirs = self.hashes(TreeAsk::Roots(groups.to_vec()), groups.len()).await?;
        let trees = self.node.lock_trees();
        let same = |(group, theirs): (&Group, u128)| {
            let mine = trees.root(*group).filter(|_| theirs != NOT_BUILT);
            mine.map(|mine| mine == theirs)
        };
        Ok(groups.iter().zip(theirs).map(same).collect())
    }

    /// The slots of a tree that differ.
    pub(crate) async fn differing_slots(&mut self, group: Group) -> Result<BTreeSet<Slot>, Silent> {
        let theirs = self.hashes(TreeAsk::Branches(group), FANOUT).await?;
        let branches = differing(self.tree(group)?.branches(), &theirs);
        let mut slots = BTreeSet::new();
        if branches.is_empty() {
            return Ok(slots);
        }
        let ask = TreeAsk::Slots(group, branches.iter().map(|branch| *branch as u8).collect());
        let theirs = self.hashes(ask, branches.len() * FANOUT).await?;
        let mine = self.tree(group)?;
        for (branch, theirs) in branches.iter().zip(theirs.chunks(FANOUT)) {
            slots.extend(slots_of(*branch, differing(mine.slots(*branch), theirs)));
        }
        Ok(slots)
    }

    fn tree(&self, group: Group) -> Result<Tree, Silent> {
        let trees = self.node.lock_trees();
        trees.tree(group).map(std::borrow::Cow::into_owned).ok_or(Silent)
    }

    /// Compares the keys of these slots, and repairs those that differ. It ends the round where this node can take nothing.
    pub(crate) async fn reconcile(
        &mut self,
        group: Group,
        slots: &[Slot],
        only: &Only,
    ) -> Result<Came, Silent> {
        let mut unlike = self.unlike(group, slots).await?;
        unlike.retain(|key| only.means(&key.id) && (self.gives || key.theirs.is_some()));
        let differences = unlike.len() as u64;
        self.node.lock_aae().differences += differences;
        let repairs = self.repair_all(unlike).await;
        match &self.failed {
            Some(failed) if failed.here => Err(Silent),
            _ => Ok(Came { differences, repairs }),
        }
    }

    /// The keys of these slots that differ.
    pub(crate) async fn unlike(&mut self, group: Group, slots: &[Slot]) -> Result<Vec<Unlike>, Silent> {
        let mut theirs = self.leaves(group, slots).await?;
        let mut mine = self.node.all_leaves_here(group, slots).map_err(|_| Silent)?;
        theirs.sort_unstable();
        mine.sort_unstable();
        Ok(unlike(&mine, &theirs))
    }

    async fn repair_all(&mut self, unlike: Vec<Unlike>) -> u64 {
        let mut done = 0;
        let (node, peer) = (self.node, self.peer);
        let at_once = node.room(AAE_REPAIRS_MAX);
        // What is under way comes to its end, and nothing more begins.
        let full = AtomicBool::new(false);
        let further = stream::iter(unlike).take_while(|_| std::future::ready(!full.load(Ordering::Relaxed)));
        let full_there = self.gives.then_some(&self.full_there);
        let mut repairs = further.map(|key| repair(node, peer, key, full_there)).buffer_unordered(at_once);
        while let Some(moved) = repairs.next().await {
            let bytes = match &moved {
                Ok(bytes) => *bytes,
                Err(failed) => failed.moved,
            };
            done += u64::from(moved.is_ok());
            {
                let mut aae = node.lock_aae();
                aae.repairs += u64::from(moved.is_ok());
                aae.bytes += bytes;
            }
            self.moved += bytes;
            if let Err(failed) = moved {
                full.fetch_or(failed.here, Ordering::Relaxed);
                let worse = |known: &Failed| !known.here || failed.here;
                if self.failed.as_ref().is_none_or(worse) {
                    self.failed = Some(failed);
                }
            }
            if self.moved >= AAE_BYTES_PER_SECOND / 16 {
                let pause = Duration::from_secs(1) * u32::try_from(self.moved).unwrap_or(u32::MAX);
                tokio::time::sleep(pause / AAE_BYTES_PER_SECOND as u32).await;
                self.moved = 0;
            }
        }
        done
    }

    async fn leaves(&mut self, group: Group, slots: &[Slot]) -> Result<Vec<Leaf>, Silent> {
        let mut all = Vec::new();
        let mut from = Some((0_u16, None));
        for _ in 0..AAE_PAGES_MAX {
            let Some((at, after)) = from else { return Ok(all) };
            let rest: &[Slot] = slots.get(usize::from(at)..).unwrap_or_default();
            let ask = TreeAsk::Leaves { group, slots: rest.to_vec(), after };
            let Answer::Leaves { leaves, next } = self.ask(ask).await?.head else { return Err(Silent) };
            all.extend(leaves);
            from = next.map(|(further, after)| (at.saturating_add(further), after));
        }
        Err(Silent)
    }

    async fn hashes(&mut self, what: TreeAsk, count: usize) -> Result<Vec<u128>, Silent> {
        let answer = self.ask(what).await?;
        if answer.head != Answer::Hashes {
            return Err(Silent);
        }
        read_hashes(&answer.body, count).ok_or(Silent)
    }

    async fn ask(&mut self, what: TreeAsk) -> Result<Message<Answer>, Silent> {
        let snapshot = self.node.cluster.snapshot();
        let (table, ns) = (snapshot.regime.name().digest, snapshot.ns.tag());
        let head = match self.sifts {
            true => Ask::SiftTree { table, ns, what },
            false => Ask::Tree { table, ns, what },
        };
        let question = Message::of(head).encode();
        let asked = question.len();
        let answer = self.node.pool.call(self.peer, self.node.table_tag(), question, AAE_TIMEOUT).await;
        let answer = answer.map_err(|_| Silent)?;
        self.node.lock_aae().bytes += (asked + answer.len()) as u64;
        Message::decode(&answer).map_err(|_| Silent)
    }
}

/// Whether a node that says so takes no record at all, and not only not this one.
pub(crate) fn takes_nothing(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::DiskFull | Refusal::Disk(_) | Refusal::Draining | Refusal::Overloaded)
}

/// Brings one key together: theirs is merged here, then ours there, unless the peer is to have nothing. Answers how many bytes of
/// records that moved, or why it did not come to an end. Once the peer has said that it takes nothing, it is sent only what is dead.
async fn repair<W: World>(
    node: &Node<W>,
    peer: NodeId,
    key: Unlike,
    full_there: Option<&AtomicBool>,
) -> Result<u64, Failed> {
    let _work = node.begin_work();
    let mut moved = 0;
    let refused = |refusal: Refusal, moved| Failed {
        why: format!("{:?}: {refusal}", key.id),
        here: takes_nothing(&refusal),
        moved,
    };
    if key.theirs.is_some()
        && let Some(theirs) = fetch(node, peer, &key.id).await?
    {
        moved += theirs.len() as u64;
        node.merge_here(key.id.clone(), theirs, None, true)
            .await
            .map_err(|refusal| refused(refusal, moved))?;
    }
    let Some(full_there) = full_there else { return Ok(moved) };
    let Some(mine) = node.whole(&key.id).map_err(|refusal| refused(refusal, moved))? else {
        return Err(Failed::there(format!("{:?} is here no more", key.id)));
    };
    if !node.may_spread() {
        return Err(Failed::there("this node's disk may be behind what the others know".to_owned()));
    }
    if key.theirs != Some(digest(&mine)) {
        if full_there.load(Ordering::Relaxed) && !decode(&mine).is_ok_and(|mine| mine.is_dead()) {
            return Err(Failed { moved, ..Failed::there(format!("{peer} takes nothing now")) });
        }
        moved += mine.len() as u64;
        let stored = node.store_at(peer, key.id.clone(), mine, RECORD_TIMEOUT).await;
        stored.map_err(|refusal| {
            full_there.fetch_or(takes_nothing(&refusal), Ordering::Relaxed);
            Failed { moved, ..Failed::there(format!("{peer} did not take {:?}: {refusal}", key.id)) }
        })?;
    }
    Ok(moved)
}

/// The peer's record, if it has one; or that it does not say, and why.
async fn fetch<W: World>(node: &Node<W>, peer: NodeId, id: &ObjectId) -> Result<Option<Bytes>, Failed> {
    let ask = Message::of(Ask::Read { id: id.clone(), record: true });
    match node.ask(peer, ask, RECORD_TIMEOUT).await {
        Ok(Message { head: Answer::Held(hash), body }) if digest(&body) == hash => Ok(Some(body)),
        Ok(Message { head: Answer::Absent, .. }) => Ok(None),
        Ok(Message { head: Answer::Refused(refusal), .. }) => {
            Err(Failed::there(format!("{id:?} there: {refusal}")))
        }
        _ => Err(Failed::there(format!("{peer} does not answer"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Bench, ME, Peer, ids};

    /// As long as any message may be under way, and not only as long as a question about trees.
    #[tokio::test(start_paused = true)]
    async fn a_record_may_be_under_way_as_long_as_any_message() {
        let peer = Peer::new(11);
        let bench = Bench::start(1, &[ME, peer.id], &[&peer]).await;
        let id = &ids(1)[0];
        bench.put(id, 800_000, None).await;
        // Eight seconds.
        peer.narrow(100_000);
        let unlike = Unlike { id: id.clone(), mine: None, theirs: None };
        let moved = repair(&bench.node, peer.id, unlike, Some(&AtomicBool::new(false))).await;
        assert!(moved.is_ok_and(|bytes| bytes >= 800_000) && peer.holds(id));
    }
}
