//! What a node says about dead records, and how it lets them go. When that may be is decided in `ring::reap`, by whoever
//! asks: `duty/reap.rs`.

use super::Node;
use crate::cluster::Snapshot;
use crate::lane::Job;
use crate::limits::{PULL_MERGES, REAP_PAGE_ROWS};
use crate::peer::frame::TableTag;
use crate::store::Batch;
use crate::world::World;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use ring::ids::ObjectId;
use ring::planted::{self, Bug};
use ring::reap::{Said, Waiting};
use ring::tree::Leaf;
use ring::wire::peer::{Answer, Message, Refusal};
use ring::wire::record::digest;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

/// What became of deletions since the start.
#[derive(Debug, Default, Clone, Copy)]
pub struct Reaped {
    /// Dead records on this disk, at the last look.
    pub held: u64,
    /// Dead records that this node has let go.
    pub reaped: u64,
    /// Rounds of asking that came to their end.
    pub rounds: u64,
    /// What waits of the keys about which this node asks, after the last round.
    pub waiting: Waiting,
}

impl Reaped {
    /// How many keys wait for what, in words.
    pub fn reasons(&self) -> [(&'static str, u64); 5] {
        let Waiting { silent, differing, hinted, young, moving } = self.waiting;
        [("down", silent), ("differing", differing), ("hints", hinted), ("young", young), ("moving", moving)]
    }
}

impl<W: World> Node<W> {
    pub(crate) fn lock_reaped(&self) -> MutexGuard<'_, Reaped> {
        self.reaped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What stands in the way of forgetting these, as far as this node goes. They are of one partition.
    pub(crate) async fn say_reapable(&self, leaves: &[Leaf]) -> Result<Said, Refusal> {
        let snapshot = self.cluster.snapshot();
        let mut said = Said::default();
        for (at, (id, theirs)) in (0..).zip(leaves) {
            // What can't be read is not what somebody else has.
            let held = self.whole(id).map(|record| record.map(|record| digest(&record)));
            let expected = self.owns_by(&snapshot, id).then_some(*theirs);
            // Whoever keeps a hint has the copy that it names, and says so too: the two are one rule.
            let lets_hints_be = planted::is(Bug::ReapIgnoresHints) && expected.is_none();
            let fits = held == Ok(expected) || lets_hints_be;
            if !fits {
                said.unlike.insert(at);
            }
            if !self.hints_of(id)?.is_empty() && !planted::is(Bug::ReapIgnoresHints) {
                said.hinted.insert(at);
            }
        }
        // After the look: what was seen is then durable, and whatever went before it is counted.
        self.lane.run(|reply| Job::Raw { batch: Batch::default(), sync: true, reply }).await?;
        if let Some((id, _)) = leaves.first() {
            let partition = snapshot.table.partition_of(id);
            said.mark = self.let_go[usize::from(partition.0)].load(Ordering::SeqCst);
        }
        said.work = self.oldest_work();
        Ok(said)
    }

    /// Lets go those that still are just so. The places of those that stay.
    pub(crate) async fn reap_here(&self, leaves: Vec<Leaf>) -> Result<BTreeSet<u16>, Refusal> {
        let jobs = (0..).zip(leaves).map(|(at, (id, held))| async move {
            let gone = match self.hints_of(&id)?.is_empty() || planted::is(Bug::ReapIgnoresHints) {
                true => self.lane.run(|reply| Job::Reap { id, held, reply }).await?,
                false => false,
            };
            Ok((at, gone))
        });
        let done: Vec<Result<(u16, bool), Refusal>> =
            stream::iter(jobs).buffer_unordered(PULL_MERGES).collect().await;
        let mut kept = BTreeSet::new();
        for each in done {
            let (at, gone) = each?;
            if gone {
                self.lock_reaped().reaped += 1;
            } else {
                kept.insert(at);
            }
        }
        Ok(kept)
    }

    fn owns_by(&self, snapshot: &Arc<Snapshot>, id: &ObjectId) -> bool {
        let n = usize::from(snapshot.settings(id.bucket()).n);
        snapshot.table.owners(snapshot.table.partition_of(id), n).contains(&self.id())
    }

    /// Only between nodes that act by the same tables, while nothing moves.
    fn leaves_of(&self, table: TableTag, body: &Bytes) -> Result<Vec<Leaf>, Refusal> {
        if self.table_tag() != table || !self.cluster.snapshot().regime.is_settled() {
            return Err(Refusal::StaleTables);
        }
        let leaves: Vec<Leaf> =
            postcard::from_bytes(body).map_err(|error| Refusal::Malformed(error.to_string()))?;
        if leaves.len() > REAP_PAGE_ROWS {
            return Err(Refusal::Malformed("too many records at once".into()));
        }
        Ok(leaves)
    }

    pub(crate) async fn answer_reapable(
        &self,
        table: TableTag,
        body: &Bytes,
    ) -> Result<Message<Answer>, Refusal> {
        let leaves = self.leaves_of(table, body)?;
        let Said { unlike, hinted, work, mark } = self.say_reapable(&leaves).await?;
        // Rounded up: work is never younger than was said.
        let work_ms = u64::try_from(work.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        let (unlike, hinted) = (unlike.into_iter().collect(), hinted.into_iter().collect());
        Ok(Message::of(Answer::Reapable { unlike, hinted, work_ms, mark }))
    }

    pub(crate) async fn answer_reap(
        &self,
        table: TableTag,
        body: &Bytes,
    ) -> Result<Message<Answer>, Refusal> {
        let leaves = self.leaves_of(table, body)?;
        let kept = self.reap_here(leaves).await?;
        Ok(Message::of(Answer::Lacking(kept.into_iter().collect())))
    }
}

/// What another member said.
pub(crate) fn said(answer: Message<Answer>) -> Option<Said> {
    let Answer::Reapable { unlike, hinted, work_ms, mark } = answer.head else { return None };
    let (unlike, hinted) = (unlike.into_iter().collect(), hinted.into_iter().collect());
    Some(Said { unlike, hinted, work: Duration::from_millis(work_ms), mark })
}

#[cfg(test)]
#[path = "reap_tests.rs"]
mod tests;
