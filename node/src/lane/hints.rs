//! The lane's part of hinted handoff: a hint comes and goes in the batch of its record.

use super::core::Core;
use super::draft::Draft;
use super::ledger::{HintChange, HintRow};
use crate::store::{Family, Store, keys};
use ring::ids::{NodeId, ObjectId};
use ring::place::{partition, position};
use ring::record::Record;
use ring::time::Wall;
use ring::wire::peer::Refusal;
use ring::wire::record::{Digest, digest, encode};

/// A hint that is to be kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// For whom.
    pub(super) owner: NodeId,
    /// Whether an acknowledgement will rely on it.
    pub(super) counted: bool,
    pub(super) now: Wall,
}

impl<S: Store> Core<S> {
    /// Keeps a hint of a key whose record has about so many bytes. One that counts is refused where there is no room, or by a
    /// node that leaves, and the write goes elsewhere; another one is given up, and its partition compared instead: a node that
    /// leaves would else never be done while clients write what somebody who is away owns. Whether it is kept.
    pub(super) fn keep_hint(
        &self,
        id: &ObjectId,
        wanted: Wanted,
        bytes: usize,
        draft: &mut Draft,
    ) -> Result<bool, Refusal> {
        // Asked here and nowhere earlier: a node says that it keeps nothing more for others after it has kept the view in which
        // it leaves, and what an earlier batch holds is found by then.
        let leaves = self.cluster.snapshot().leaves(self.node);
        if wanted.counted && leaves {
            return Err(Refusal::Unavailable("this node leaves, and keeps nothing more for others".into()));
        }
        let current = self.hint(id, wanted.owner, draft)?;
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let more = u64::from(bytes).saturating_sub(current.map_or(0, |row| u64::from(row.bytes)));
        let partition = partition(position(id), self.partitions);
        if leaves && current.is_none() {
            draft.given_up.push(partition);
            return Ok(false);
        }
        // What this batch adds is not in the ledger yet: the bound may be passed by a batch's worth.
        let has_room = (current.is_some() && more == 0) || self.lock_hints().has_room(more);
        if !has_room && wanted.counted {
            return Err(Refusal::HintsFull);
        }
        if !has_room && !current.is_some_and(|row| row.counted) {
            self.drop_row(id, wanted.owner, draft)?;
            draft.given_up.push(partition);
            return Ok(false);
        }
        // An acknowledgement relies on it: it says what is here now, however that has grown.
        let since = current.map_or(wanted.now, |row| row.since);
        let counted = wanted.counted || current.is_some_and(|row| row.counted);
        self.set_hint(id, wanted.owner, Some(HintRow { since, counted, bytes }), draft)?;
        Ok(true)
    }

    /// The hint as this batch leaves it so far.
    fn hint(&self, id: &ObjectId, owner: NodeId, draft: &Draft) -> Result<Option<HintRow>, Refusal> {
        let key = keys::hint_key(owner, partition(position(id), self.partitions), id);
        if let Some(change) = draft.hints.get(&key) {
            return Ok(change.after);
        }
        let row = self.store.get(Family::Hints, &key).map_err(|e| self.refusal(e))?;
        Ok(row.map(|row| HintRow::decode(&row)))
    }

    /// Its record went another way.
    pub(super) fn drop_row(&self, id: &ObjectId, target: NodeId, draft: &mut Draft) -> Result<(), Refusal> {
        if self.hint(id, target, draft)?.is_some() {
            self.set_hint(id, target, None, draft)?;
        }
        Ok(())
    }

    fn set_hint(
        &self,
        id: &ObjectId,
        target: NodeId,
        after: Option<HintRow>,
        draft: &mut Draft,
    ) -> Result<(), Refusal> {
        let before = self.hint(id, target, draft)?;
        let partition = partition(position(id), self.partitions);
        let key = keys::hint_key(target, partition, id);
        let change = draft.hints.entry(key).or_insert(HintChange { target, partition, before, after });
        change.after = after;
        Ok(())
    }

    /// The hint was delivered as this version; it goes unless the copy has changed since, and the copy with its last hint.
    pub(super) fn drop_hint(
        &mut self,
        id: &ObjectId,
        owner: NodeId,
        delivered: Option<Digest>,
        drop_copy_unless: Option<Vec<NodeId>>,
        draft: &mut Draft,
    ) -> Result<bool, Refusal> {
        let (key, local) = self.slot(id, draft)?;
        if self.held(&key, local.as_deref(), draft) != delivered {
            return Ok(false);
        }
        self.set_hint(id, owner, None, draft)?;
        let Some(others) = drop_copy_unless else { return Ok(true) };
        for other in others.into_iter().filter(|other| *other != owner) {
            if self.hint(id, other, draft)?.is_some() {
                return Ok(true);
            }
        }
        draft.set(&key, None);
        draft.let_go.insert(partition(position(id), self.partitions));
        Ok(true)
    }

    /// The digest of a key's copy as this batch leaves it so far.
    pub(super) fn held(&self, key: &[u8], local: Option<&Record>, draft: &Draft) -> Option<Digest> {
        match draft.unchanged(key) {
            Some(stored) => stored,
            None => local.map(|record| digest(&encode(record))),
        }
    }

    /// Gives a hint up that was kept since then and that nobody's acknowledgement relies on. Whether it was one.
    pub(super) fn give_up(
        &self,
        id: &ObjectId,
        owner: NodeId,
        since: Wall,
        draft: &mut Draft,
    ) -> Result<bool, Refusal> {
        let row = self.hint(id, owner, draft)?;
        if row.is_none_or(|row| row.counted || row.since != since) {
            return Ok(false);
        }
        self.set_hint(id, owner, None, draft)?;
        draft.given_up.push(partition(position(id), self.partitions));
        Ok(true)
    }
}
