//! Active anti-entropy: compares Merkle trees with one other node after the other, and repairs what differs.
//!
//! ```text
//!   every second, the next peer    all roots in one question: a converged cluster stops here
//!   a root differs                 branches, then slots of those that differ
//!   a slot differs twice, 2 s apart, and never was equal in between
//!                                  keys and digests of both sides, and the records of those that differ:
//!                                  theirs is merged here, and what came of it is merged there
//! ```
//!
//! No read of a client is needed for replicas to become equal, and no fallback takes part: only owners of a partition
//! compare it, under one table. It moves a bounded number of bytes in a second and does less while clients are served.

use crate::lane::Job;
use crate::limits::{
    AAE_APART, AAE_BYTES_PER_SECOND, AAE_EVERY, AAE_PAGES_MAX, AAE_REPAIRS_BUSY, AAE_REPAIRS_IDLE,
    AAE_ROOTS_MAX, AAE_SLOTS_MAX, AAE_TIMEOUT,
};
use crate::node::Node;
use crate::node::trees::read_hashes;
use crate::world::World;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use ring::ids::{NodeId, ObjectId, Partition};
use ring::tree::{Doubts, FANOUT, Group, Leaf, Slot, Tree, Unlike, differing, slots_of, unlike};
use ring::wire::peer::{Answer, Ask, Message, TreeAsk};
use ring::wire::record::digest;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;

/// Runs until the shutdown.
pub async fn run<W: World>(node: Node<W>, mut shutdown: watch::Receiver<bool>) {
    let mut tick = tokio::time::interval(AAE_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut doubts = Doubts::default();
    let mut turn = 0;
    loop {
        tokio::select! {
            biased;
            _ = shutdown.changed() => return,
            _ = tick.tick() => {}
        }
        tokio::select! {
            biased;
            _ = shutdown.changed() => return,
            () = round(&node, &mut doubts, turn) => {}
        }
        turn += 1;
    }
}

async fn round<W: World>(node: &Node<W>, doubts: &mut Doubts, turn: usize) {
    build(node).await;
    let (snapshot, doubted) = (node.cluster.snapshot(), node.cluster.doubted());
    let members: BTreeSet<NodeId> =
        snapshot.table.nodes().iter().copied().filter(|peer| *peer != node.id()).collect();
    doubts.keep(&members);
    {
        let mut aae = node.lock_aae();
        aae.peers.retain(|peer, _| members.contains(peer));
        let ns = snapshot.ns.all();
        aae.same.retain(|(peer, group), _| members.contains(peer) && ns.contains(&group.n));
    }
    let peers: Vec<NodeId> = members.iter().copied().filter(|peer| !doubted.contains(peer)).collect();
    if node.is_joining() || peers.is_empty() {
        return;
    }
    let mut exchange = Exchange { node, peer: peers[turn % peers.len()], moved: 0 };
    if let Err(Silent) = exchange.run(doubts).await {
        tracing::debug!(peer = %exchange.peer, "an exchange was given up");
    }
}

/// Builds whatever tree does not stand: all of them after a start, or after a bucket got another n.
async fn build<W: World>(node: &Node<W>) {
    let snapshot = node.cluster.snapshot();
    node.lock_trees().set_ns(&snapshot.ns);
    for partition in (0..snapshot.view.partitions).map(Partition) {
        let mut stands = node.lock_trees().stands(partition);
        while !stands {
            match node.lane.run(|reply| Job::GrowTree { partition, reply }).await {
                Ok(whole) => stands = whole,
                Err(refusal) => return tracing::warn!(%refusal, "a tree can't be built"),
            }
        }
    }
}

/// The other side does not answer, or not about the same table. The next round tries again.
struct Silent;

/// One round with one peer.
struct Exchange<'a, W: World> {
    node: &'a Node<W>,
    peer: NodeId,
    /// Bytes that this round has moved.
    moved: u64,
}

impl<W: World> Exchange<'_, W> {
    async fn run(&mut self, doubts: &mut Doubts) -> Result<(), Silent> {
        let groups = self.node.shared_with(self.peer);
        let mut differ = 0;
        for some in groups.chunks(AAE_ROOTS_MAX) {
            let theirs = self.hashes(TreeAsk::Roots(some.to_vec()), some.len()).await?;
            for (group, theirs) in some.iter().zip(theirs) {
                let mine = self.node.lock_trees().root(*group);
                if mine == Some(theirs) {
                    doubts.look(self.peer, *group, &BTreeSet::new(), self.node.now(), AAE_APART);
                    let now = self.node.now();
                    self.node.lock_aae().same.insert((self.peer, *group), now);
                } else {
                    differ += 1;
                    self.narrow(*group, doubts).await?;
                }
            }
        }
        let wall = self.node.wall();
        let mut aae = self.node.lock_aae();
        aae.exchanges += 1;
        aae.last = Some(wall);
        aae.peers.insert(self.peer, (wall, groups.len(), differ));
        Ok(())
    }

    /// Which slots of a tree differ, and what is to be done about it.
    async fn narrow(&mut self, group: Group, doubts: &mut Doubts) -> Result<(), Silent> {
        let theirs = self.hashes(TreeAsk::Branches(group), FANOUT).await?;
        let branches = differing(self.tree(group)?.branches(), &theirs);
        let mut slots = BTreeSet::new();
        if !branches.is_empty() {
            let ask = TreeAsk::Slots(group, branches.iter().map(|branch| *branch as u8).collect());
            let theirs = self.hashes(ask, branches.len() * FANOUT).await?;
            let mine = self.tree(group)?;
            for (branch, theirs) in branches.iter().zip(theirs.chunks(FANOUT)) {
                slots.extend(slots_of(*branch, differing(mine.slots(*branch), theirs)));
            }
        }
        let due = doubts.look(self.peer, group, &slots, self.node.now(), AAE_APART);
        let due: Vec<Slot> = due.into_iter().collect();
        for some in due.chunks(AAE_SLOTS_MAX) {
            self.reconcile(group, some).await?;
            doubts.settle(self.peer, group, &some.iter().copied().collect());
        }
        Ok(())
    }

    fn tree(&self, group: Group) -> Result<Tree, Silent> {
        let trees = self.node.lock_trees();
        trees.tree(group).map(std::borrow::Cow::into_owned).ok_or(Silent)
    }

    /// Compares the keys of these slots, and repairs those that differ.
    async fn reconcile(&mut self, group: Group, slots: &[Slot]) -> Result<(), Silent> {
        let mut theirs = self.leaves(group, slots).await?;
        let mut mine: Vec<Leaf> = Vec::new();
        let mut from = Some((0, None));
        while let Some((at, after)) = from {
            let rest = slots.get(usize::from(at)..).unwrap_or_default();
            let (page, next) = self.node.leaves_here(group, rest, after).map_err(|_| Silent)?;
            mine.extend(page);
            from = next.map(|(further, after)| (at + further, after));
        }
        theirs.sort_unstable();
        mine.sort_unstable();
        let unlike = unlike(&mine, &theirs);
        if unlike.is_empty() {
            // The leaves agree and the hashes over them did not: then one of the trees is not that of its leaves.
            self.node.lock_trees().clear(group.partition);
            return Ok(());
        }
        self.node.lock_aae().differences += unlike.len() as u64;
        self.repair_all(unlike).await;
        Ok(())
    }

    async fn repair_all(&mut self, unlike: Vec<Unlike>) {
        let (node, peer) = (self.node, self.peer);
        let busy = node.in_flight.load(Ordering::Relaxed) > 0;
        let at_once = if busy { AAE_REPAIRS_BUSY } else { AAE_REPAIRS_IDLE };
        let mut repairs = stream::iter(unlike).map(|key| repair(node, peer, key)).buffer_unordered(at_once);
        while let Some(moved) = repairs.next().await {
            let Some(moved) = moved else { continue };
            {
                let mut aae = node.lock_aae();
                aae.repairs += 1;
                aae.bytes += moved;
            }
            self.moved += moved;
            if self.moved >= AAE_BYTES_PER_SECOND / 16 {
                let pause = Duration::from_secs(1) * u32::try_from(self.moved).unwrap_or(u32::MAX);
                tokio::time::sleep(pause / AAE_BYTES_PER_SECOND as u32).await;
                self.moved = 0;
            }
        }
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
        let (table, ns) = (snapshot.table.name().digest, snapshot.ns.tag());
        let question = Message::of(Ask::Tree { table, ns, what }).encode();
        let asked = question.len();
        let answer = self.node.pool.call(self.peer, self.node.table_tag(), question, AAE_TIMEOUT).await;
        let answer = answer.map_err(|_| Silent)?;
        self.node.lock_aae().bytes += (asked + answer.len()) as u64;
        Message::decode(&answer).map_err(|_| Silent)
    }
}

/// Brings one key together: theirs is merged here, then ours there. Answers how many bytes of records that moved; `None` if it
/// did not come to an end.
async fn repair<W: World>(node: &Node<W>, peer: NodeId, key: Unlike) -> Option<u64> {
    let mut moved = 0;
    if key.theirs.is_some()
        && let Some(theirs) = fetch(node, peer, &key.id).await?
    {
        moved += theirs.len() as u64;
        node.merge_here(key.id.clone(), theirs, None, true).await.ok()?;
    }
    let mine = node.local(&key.id).ok()??;
    if key.theirs != Some(digest(&mine)) {
        moved += mine.len() as u64;
        node.store_at(peer, key.id, mine, AAE_TIMEOUT).await.ok()?;
    }
    Some(moved)
}

/// The peer's record: `Some(None)` if it has none, `None` if it does not say.
async fn fetch<W: World>(node: &Node<W>, peer: NodeId, id: &ObjectId) -> Option<Option<Bytes>> {
    let ask = Message::of(Ask::Read { id: id.clone(), record: true });
    match node.ask(peer, ask, AAE_TIMEOUT).await.ok()? {
        Message { head: Answer::Held(hash), body } if digest(&body) == hash => Some(Some(body)),
        Message { head: Answer::Absent, .. } => Some(None),
        _ => None,
    }
}
