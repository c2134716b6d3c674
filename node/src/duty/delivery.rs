//! Sends one page of hints after the other, and lets go of what has arrived.
//!
//! Records are read as they go, a delivery's worth at a time, for a target may be owed more than fits into memory. Hints leave in
//! the order of their keys. One that does not get through costs the next ones its own time and, since a link keeps its order, maybe
//! their turn: so the pass after a broken one begins behind the first that failed, and comes to it last.

use super::readdress::{self, Taking};
use crate::lane::Job;
use crate::limits::{HINT_CREDIT_BUSY, HINT_CREDIT_IDLE, HINT_TIMEOUT, PULL_MERGES};
use crate::node::Node;
use crate::node::hints::{Stored, batch, pack};
use crate::store::keys;
use crate::world::World;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use ring::ids::{NodeId, ObjectId, Partition};
use ring::planted::{self, Bug};
use ring::time::Wall;
use ring::wire::record::{Digest, digest};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

/// A hint that was delivered, with the version of the record that was sent.
type Sent = (ObjectId, Option<Digest>);

/// A hint's key, and this node's copy of it if it has one.
type Held = (ObjectId, Option<Bytes>);

/// A copy that may be old is delivered to nobody; a removed node lets its hints go with their copies (`surplus.rs`).
pub(super) fn may_deliver<W: World>(node: &Node<W>) -> bool {
    node.may_spread() && !node.cluster.snapshot().is_removed(node.id())
}

/// Why not everything that is kept for a node was delivered.
pub(super) struct Undelivered {
    pub(super) why: String,
    /// Where the next pass begins, if this one was broken off by records that did not go.
    pub(super) from: Option<Vec<u8>>,
}

impl From<String> for Undelivered {
    fn from(why: String) -> Self {
        Undelivered { why, from: None }
    }
}

/// How to deliver what is kept for a node.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    There,
    ToOwners,
    ToAnother,
    Wait,
}

/// Deliveries in a row of which nothing could be stored: one record may be at odds with what is there, so many are the node.
const IN_VAIN_MAX: usize = 3;

/// What one pass has met so far.
pub(super) struct Pass {
    /// How many bytes the target asks for at a time.
    credit: usize,
    /// Whether some of it waits for the target.
    pub(super) waits: bool,
    /// Deliveries to the target in a row of which nothing was stored, on this page and those before.
    in_vain: usize,
    /// What is behind the first of them.
    behind: Option<Vec<u8>>,
    /// Their records can't be read, until the scrub has fetched other copies.
    pub(super) damaged: usize,
    /// Somebody who is to have them is away or could not take them.
    pub(super) refused: usize,
    /// How owners other than the target take their parts.
    pub(super) taking: Taking,
    /// The oldest hint of each partition, of those that it has come to.
    pub(super) oldest: BTreeMap<Partition, Wall>,
    /// Why nothing more is sent to the target in this pass. What is for others goes on.
    pub(super) stopped: Option<Undelivered>,
}

impl Default for Pass {
    fn default() -> Self {
        let (taking, credit) = (Taking::default(), HINT_CREDIT_BUSY as usize);
        Pass {
            credit,
            waits: false,
            in_vain: 0,
            behind: None,
            damaged: 0,
            refused: 0,
            taking,
            oldest: BTreeMap::new(),
            stopped: None,
        }
    }
}

impl Pass {
    pub(super) fn comes_to(&mut self, partition: Partition, since: Wall) {
        let oldest = self.oldest.entry(partition).or_insert(since);
        *oldest = since.min(*oldest);
    }

    /// One more of which nothing was stored, with what is behind it.
    fn fails(&mut self, behind: Vec<u8>) {
        if self.in_vain == 0 {
            self.behind = Some(behind);
        }
        self.in_vain += 1;
    }

    fn broken_off(&self, why: String) -> Undelivered {
        Undelivered { why, from: self.behind.clone() }
    }

    pub(super) fn in_words(&self) -> Option<String> {
        let damaged = (self.damaged > 0).then(|| format!("{} records can't be read", self.damaged));
        let refused = (self.refused > 0)
            .then(|| format!("{} wait for an owner that is away or can't take them", self.refused));
        let both: Vec<String> = damaged.into_iter().chain(refused).collect();
        (!both.is_empty()).then(|| both.join("; "))
    }
}

/// Where a page of hints goes, and the tables by which that was decided.
#[derive(Clone, Copy)]
pub(super) struct Route {
    pub(super) target: NodeId,
    pub(super) way: Way,
    pub(super) regime: u64,
}

impl Route {
    /// What was decided by other tables is decided anew, in the next round.
    fn stands<W: World>(self, node: &Node<W>) -> bool {
        may_deliver(node) && node.cluster.snapshot().regime.name().digest == self.regime
    }
}

/// The records of hints, each read when its turn has come: only a delivery's worth of them is in memory. Those that the disk has
/// spoiled are only counted.
struct Readable<'a, W: World> {
    node: &'a Node<W>,
    ids: std::vec::IntoIter<ObjectId>,
    damaged: &'a mut usize,
}

impl<W: World> Iterator for Readable<'_, W> {
    type Item = Held;

    fn next(&mut self) -> Option<Held> {
        loop {
            let id = self.ids.next()?;
            match self.node.whole(&id) {
                Ok(record) => return Some((id, record)),
                Err(refusal) => {
                    *self.damaged += 1;
                    tracing::debug!(key = ?id, %refusal, "a hint's record can't be read");
                }
            }
        }
    }
}

fn size((_, record): &Held) -> usize {
    record.as_ref().map_or(0, Bytes::len)
}

/// Sends records to the target, as much at a time as it asks for, unless it has failed to take them in this pass.
pub(super) async fn send_there<W: World>(node: &Node<W>, to: Route, ids: Vec<ObjectId>, pass: &mut Pass) {
    if pass.stopped.is_some() {
        return;
    }
    let mut damaged = 0;
    let mut records = Readable { node, ids: ids.into_iter(), damaged: &mut damaged }.peekable();
    let mut work = node.begin_work();
    pass.stopped = loop {
        // What stands first now was read while the last work went on: that one ends only with this delivery.
        let _before = std::mem::replace(&mut work, node.begin_work());
        let records = if to.stands(node) { batch(&mut records, pass.credit, size) } else { Vec::new() };
        if records.is_empty() {
            break None;
        }
        if let Err(error) = deliver(node, to, records, pass).await {
            break Some(error);
        }
    };
    pass.damaged += damaged;
}

/// Sends one delivery, and lets go of what was stored.
async fn deliver<W: World>(
    node: &Node<W>,
    to: Route,
    records: Vec<Held>,
    pass: &mut Pass,
) -> Result<(), Undelivered> {
    let behind = records.last().map(|(last, _)| keys::after(&node.hint_key(to.target, last)));
    let (mut sent, body) = packed(records);
    if planted::is(Bug::HintForgotten) {
        drop_hints(node, to, sent.clone()).await?;
    }
    let count = sent.len();
    let came = node.store_many(to.target, body, HINT_TIMEOUT).await;
    if let Ok(Stored { failed, credit, .. }) = &came {
        let mut at = 0..;
        sent.retain(|_| at.next().is_none_or(|at| !failed.contains(&at)));
        pass.credit = *credit;
        pass.refused += failed.len();
    } else {
        sent.clear();
        pass.refused += count;
    }
    if sent.is_empty() {
        pass.fails(behind.unwrap_or_default());
    } else {
        pass.in_vain = 0;
    }
    match came {
        Ok(_) if pass.in_vain >= IN_VAIN_MAX => Err(pass.broken_off("the node can't store anything".into())),
        Ok(Stored { pause, .. }) => {
            drop_hints(node, to, sent).await?;
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            Ok(())
        }
        // A large one may take too long; the next ones are tried all the same.
        Err(_) if pass.in_vain == 1 => Ok(()),
        Err(refusal) => Err(pass.broken_off(refusal.to_string())),
    }
}

/// One delivery: what it names, and its bytes. Those that the receiver counts come first, then hints without a record.
fn packed(records: Vec<Held>) -> (Vec<Sent>, Bytes) {
    let (rows, bare): (Vec<_>, Vec<_>) = records.into_iter().partition(|(_, record)| record.is_some());
    let rows: Vec<(ObjectId, Bytes)> =
        rows.into_iter().filter_map(|(id, record)| Some((id, record?))).collect();
    let body = pack(&rows);
    let sent = rows.into_iter().map(|(id, record)| (id, Some(digest(&record))));
    (sent.chain(bare.into_iter().map(|(id, _)| (id, None))).collect(), body)
}

/// Sends records to every owner of their keys, or hints of them to another node that stands in.
pub(super) async fn send_elsewhere<W: World>(
    node: &Node<W>,
    to: Route,
    ids: Vec<ObjectId>,
    pass: &mut Pass,
) -> Result<(), String> {
    let Pass { refused, damaged, taking, .. } = pass;
    let mut records = Readable { node, ids: ids.into_iter(), damaged }.peekable();
    let mut work = node.begin_work();
    while to.stands(node) {
        let _before = std::mem::replace(&mut work, node.begin_work());
        let records = batch(&mut records, HINT_CREDIT_IDLE as usize, size);
        if records.is_empty() {
            break;
        }
        let (records, bare): (Vec<_>, Vec<_>) = records.into_iter().partition(|(_, record)| record.is_some());
        let records: Vec<_> = records.into_iter().filter_map(|(id, record)| Some((id, record?))).collect();
        let count = records.len();
        let done = match to.way {
            Way::ToAnother => readdress::to_another(node, to.target, records).await,
            way => {
                readdress::to_owners(node, (way == Way::There).then_some(to.target), records, taking).await
            }
        };
        *refused += count - done.len();
        let stored = done.into_iter().map(|(id, record)| (id, Some(digest(&record))));
        let stored = stored.chain(bare.into_iter().map(|(id, _)| (id, None))).collect();
        drop_hints(node, to, stored).await?;
    }
    Ok(())
}

async fn drop_hints<W: World>(node: &Node<W>, to: Route, delivered: Vec<Sent>) -> Result<(), String> {
    let Route { target: owner, regime, .. } = to;
    let snapshot = node.cluster.snapshot();
    let jobs = delivered.into_iter().map(|(id, delivered)| {
        let plan = node.cluster.plan(&snapshot, &id);
        let owns = plan.owners.contains(&node.id()) || plan.pending.contains(&node.id());
        let drop_copy_unless =
            if owns { None } else { Some(snapshot.view.members.keys().copied().collect()) };
        let is_record = delivered.is_some();
        let drop = node.lane.run(move |reply| Job::DropHint {
            id,
            owner,
            delivered,
            drop_copy_unless,
            regime,
            reply,
        });
        async move { (is_record, drop.await) }
    });
    let mut dropped = stream::iter(jobs).buffer_unordered(PULL_MERGES);
    while let Some((is_record, gone)) = dropped.next().await {
        // A copy that has changed since keeps its hint, for the next round; so do all if the tables have. A hint of which no record is
        // left goes too, and has delivered nothing; nor has one that somebody else keeps now.
        if gone.map_err(|refusal| refusal.to_string())? && is_record && to.way != Way::ToAnother {
            node.hints_delivered.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pass_after_a_broken_one_begins_behind_the_first_that_failed() {
        let mut pass = Pass::default();
        pass.fails(vec![1]);
        pass.fails(vec![2]);
        assert_eq!(pass.broken_off(String::new()).from, Some(vec![1]));
        // Something was stored, on whichever page: who fails next is the first of a new row.
        pass.in_vain = 0;
        pass.fails(vec![7]);
        pass.fails(vec![8]);
        assert_eq!(pass.broken_off(String::new()).from, Some(vec![7]));
    }
}
