//! Hints as others meet them: what comes in for this node, and how far the deliveries to others are.

use super::Node;
use super::serve::Rows;
use crate::lane::Ledger;
use crate::limits::{
    HINT_CREDIT_BUSY, HINT_CREDIT_IDLE, HINT_PAUSE_BUSY, HINT_PAUSE_FELT, HINT_ROWS_MAX, PULL_MERGES,
};
use crate::store::keys;
use crate::world::World;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use ring::ids::{NodeId, ObjectId};
use ring::place::{partition, position};
use ring::time::Time;
use ring::wire::peer::{Answer, Ask, Message, Refusal};
use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

/// What the delivery to one node is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// Nothing is under way.
    #[default]
    Idle,
    /// Records are on their way.
    Delivering,
    /// The target can't be reached.
    Waiting,
    /// The last try failed.
    BackingOff,
}

impl State {
    /// In the API's words.
    pub fn name(self) -> &'static str {
        match self {
            State::Idle => "idle",
            State::Delivering => "delivering",
            State::Waiting => "waiting",
            State::BackingOff => "backing_off",
        }
    }
}

/// The delivery to one node.
#[derive(Debug, Clone, Default)]
pub struct Delivery {
    /// What it is at.
    pub state: State,
    /// Tries that have failed since one succeeded.
    pub failures: u32,
    /// When it is tried again.
    pub not_before: Time,
    /// Why the last try failed.
    pub error: Option<String>,
    /// Where the next try begins, if the last was broken off on its way.
    pub(crate) from: Option<Vec<u8>>,
}

/// What came of sending many records at once.
pub(crate) struct Stored {
    /// Those that were not stored, by their place in the list.
    pub(crate) failed: BTreeSet<usize>,
    /// How many bytes the receiver asks for next, and after what pause.
    pub(crate) credit: usize,
    pub(crate) pause: Duration,
}

/// The next of them, until so many bytes are reached. One that is larger than that goes alone: it may be too large for the link.
pub(crate) fn batch<T>(
    rest: &mut Peekable<impl Iterator<Item = T>>,
    bytes_max: usize,
    size: impl Fn(&T) -> usize,
) -> Vec<T> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while let Some(next) =
        rest.next_if(|next| batch.is_empty() || (bytes < bytes_max && size(next) <= bytes_max))
    {
        bytes += size(&next);
        batch.push(next);
    }
    batch
}

/// The body of such a message.
pub(crate) fn pack(rows: &[(ObjectId, Bytes)]) -> Bytes {
    let bytes = rows.iter().map(|(id, record)| id.bucket().len() + id.key().len() + record.len() + 16);
    let room = Vec::with_capacity(bytes.sum());
    Bytes::from(postcard::to_extend(rows, room).expect("rows are bytes"))
}

impl<W: World> Node<W> {
    /// Lets another node store many records at once.
    pub(crate) async fn store_many(
        &self,
        to: NodeId,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Stored, Refusal> {
        match self.ask(to, Message { head: Ask::StoreMany, body }, timeout).await {
            Ok(Message { head: Answer::StoredMany { failed, credit, pause_ms }, .. }) => Ok(Stored {
                failed: failed.into_iter().map(usize::from).collect(),
                credit: credit.clamp(1, HINT_CREDIT_IDLE) as usize,
                pause: Duration::from_millis(u64::from(pause_ms)),
            }),
            Ok(Message { head: Answer::Refused(refusal), .. }) => Err(refusal),
            Ok(_) => Err(Refusal::Malformed("an answer that does not fit".into())),
            Err(error) => Err(Refusal::Unavailable(format!("{to} does not answer: {error}"))),
        }
    }

    /// The key of a hint's row.
    pub(crate) fn hint_key(&self, target: NodeId, id: &ObjectId) -> Vec<u8> {
        keys::hint_key(target, partition(position(id), self.cluster.snapshot().view.partitions), id)
    }

    pub(crate) fn lock_hints(&self) -> MutexGuard<'_, Ledger> {
        self.hints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lock_deliveries(&self) -> MutexGuard<'_, BTreeMap<NodeId, Delivery>> {
        self.deliveries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Merges many records at once, and says how many more may come: few while clients or other nodes wait for this one.
    pub(crate) async fn answer_store_many(
        &self,
        from: NodeId,
        body: &Bytes,
    ) -> Result<Message<Answer>, Refusal> {
        let rows: Rows = postcard::from_bytes(body).map_err(|error| Refusal::Malformed(error.to_string()))?;
        if rows.len() > HINT_ROWS_MAX {
            return Err(Refusal::Malformed("too many records at once".into()));
        }
        let snapshot = self.cluster.snapshot();
        let removed = snapshot.is_removed(from);
        let owned_by_many = |id: &ObjectId| {
            let n = usize::from(snapshot.settings(id.bucket()).n);
            snapshot.table.owners(snapshot.table.partition_of(id), n).len() > 1
        };
        let (refused, rows): (Vec<_>, Vec<_>) =
            (0..).zip(rows).partition(|(_, (id, _))| removed && owned_by_many(id));
        let merges = rows.into_iter().map(|(at, (id, record))| async move {
            (at, self.merge_here(id, Bytes::from(record), None, true).await)
        });
        let mut merged = stream::iter(merges).buffer_unordered(PULL_MERGES);
        let mut failed: Vec<u16> = refused.into_iter().map(|(at, _)| at).collect();
        while let Some((at, durable)) = merged.next().await {
            if durable != Ok(true) {
                failed.push(at);
            }
        }
        let (credit, pause) = match (self.is_busy(), self.pace.is_felt()) {
            (true, true) => (HINT_CREDIT_BUSY, HINT_PAUSE_FELT),
            (true, false) => (HINT_CREDIT_BUSY, HINT_PAUSE_BUSY),
            (false, _) => (HINT_CREDIT_IDLE, Duration::ZERO),
        };
        let pause_ms = u32::try_from(pause.as_millis()).unwrap_or(u32::MAX);
        Ok(Message::of(Answer::StoredMany { failed, credit, pause_ms }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(sizes: &[usize], bytes_max: usize) -> Vec<Vec<usize>> {
        let mut rest = sizes.iter().copied().peekable();
        let next = || Some(batch(&mut rest, bytes_max, |size| *size)).filter(|batch| !batch.is_empty());
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn a_record_too_large_for_a_delivery_goes_alone() {
        assert_eq!(batches(&[1, 2, 90, 3, 4], 10), [vec![1, 2], vec![90], vec![3, 4]]);
        assert_eq!(batches(&[90, 91], 10), [[90], [91]]);
    }

    #[test]
    fn a_delivery_ends_with_the_record_that_reaches_its_bytes() {
        assert_eq!(batches(&[5, 5, 1, 8, 9, 0, 10], 10), [vec![5, 5], vec![1, 8, 9], vec![0, 10]]);
        assert!(batches(&[], 10).is_empty());
    }
}
