//! The lane's part of comparing copies that may be old. What becomes of each is decided in `ring::sift`.

use super::core::Core;
use super::draft::Draft;
use super::job::Sift;
use crate::store::{Batch, Family, Store, keys};
use bytes::Bytes;
use ring::causal::epochs::{JUMP, LEASE_MAX, first_of};
use ring::place::{partition, position};
use ring::record::{Record, merge};
use ring::wire::peer::Refusal;
use ring::wire::record::{decode, encode};
use std::sync::Arc;

impl<S: Store> Core<S> {
    /// Puts what the others have in the place of a copy, exactly: neither the old clock nor a mark of this node's stays in it.
    /// Own dots of before are not continued in any case, for the start or the jump that made the mark has seen to that.
    pub(super) fn sift(&mut self, sift: Sift, draft: &mut Draft) -> Result<bool, Refusal> {
        let Sift { id, held, record, aside, hints } = sift;
        let record = record.map(|record| decode(&record)).transpose();
        let record = record.map_err(|error| Refusal::Malformed(error.to_string()))?;
        let (key, local) = self.slot(&id, draft)?;
        if self.held(&key, local.as_deref(), draft) != held {
            return Ok(false);
        }
        if let Some(local) = local.as_deref().filter(|_| aside) {
            self.set_aside(&id, local, draft)?;
        }
        for target in hints {
            self.drop_row(&id, target, draft)?;
        }
        if record.is_none() {
            draft.let_go.insert(partition(position(&id), self.partitions));
        }
        if local.is_some() || record.is_some() {
            draft.set(&key, record.map(Arc::new));
        }
        Ok(true)
    }

    /// Beside what was set aside of the key before.
    fn set_aside(&self, id: &ring::ids::ObjectId, copy: &Record, draft: &mut Draft) -> Result<(), Refusal> {
        let key = keys::aside_key(partition(position(id), self.partitions), id);
        let before = self.store.get(Family::Meta, &key).map_err(|error| self.refusal(error))?;
        let before = before.and_then(|bytes| decode(&bytes).ok());
        let all = before.map_or_else(|| copy.clone(), |before| merge(&before, copy));
        draft.batch.put(Family::Meta, key, encode(&all));
        Ok(())
    }

    /// Others remember starts of this name that are not this directory's: no epoch from before is used again, and its copies may be
    /// behind. Synced at once, and before anything that follows in this batch. Answers the lease: beyond what they remember, and
    /// beyond every one that was taken here, since a node that has run for days has taken many.
    pub(super) fn jump(&mut self, remembered: u64) -> Result<u64, Refusal> {
        let lease = remembered.max(self.epochs.taken()).saturating_add(JUMP);
        // Room is left for those that a node takes as it runs.
        if lease > LEASE_MAX / 2 {
            return Err(Refusal::Unavailable(format!(
                "no lease is left beyond start {remembered}, which others remember"
            )));
        }
        let number = |number: u64| Bytes::copy_from_slice(&number.to_be_bytes());
        let mut batch = Batch::default();
        for key in [keys::BEHIND, keys::EPOCH_LEASE, keys::ASKED, keys::ANSWERED] {
            batch.put(Family::Meta, key, number(lease));
        }
        batch.put(Family::Meta, keys::EPOCH_BOOT, number(first_of(lease)));
        self.store.write(batch, true).map_err(|e| self.refusal(e))?;
        self.epochs.jump(lease);
        Ok(lease)
    }

    /// No actor of an earlier start is used again, durably: not every other could say what he remembers of this directory.
    pub(super) fn forsake(&mut self) -> Result<(), Refusal> {
        self.epochs.forsake();
        let mut batch = Batch::default();
        batch.put(Family::Meta, keys::EPOCH_BOOT, Bytes::copy_from_slice(&self.epochs.boot().to_be_bytes()));
        self.store.write(batch, true).map_err(|error| self.refusal(error))
    }

    /// The others were asked under the latest lease. Written at once: what came of the draft of this batch would be older than a lease
    /// that is raised in it.
    pub(super) fn keep_asked(&self) -> Result<(), Refusal> {
        let mut batch = Batch::default();
        batch.put(Family::Meta, keys::ASKED, Bytes::copy_from_slice(&self.epochs.taken().to_be_bytes()));
        self.store.write(batch, true).map_err(|error| self.refusal(error))
    }

    /// Takes the next lease before the present one is used up. That the others were asked under it is written with it: they
    /// are told of it only afterwards, and who starts on an image from before does not know of it.
    pub(super) fn raise(&mut self) -> Result<u64, Refusal> {
        let lease = self.epochs.taken() + 1;
        let mut batch = Batch::default();
        for key in [keys::EPOCH_LEASE, keys::ASKED] {
            batch.put(Family::Meta, key, Bytes::copy_from_slice(&lease.to_be_bytes()));
        }
        self.store.write(batch, true).map_err(|error| self.refusal(error))?;
        self.epochs.raised(lease);
        Ok(lease)
    }

    /// Takes the mark off the disk, synced at once: what made another one in this very batch was written at once as well.
    pub(super) fn take_mark_off(&mut self, mark: u64) -> Result<bool, Refusal> {
        let stands = self.store.get(Family::Meta, keys::BEHIND).map_err(|error| self.refusal(error))?;
        if stands.as_deref() != Some(&mark.to_be_bytes()[..]) {
            return Ok(false);
        }
        let mut batch = Batch::default();
        batch.delete(Family::Meta, keys::BEHIND);
        self.store.write(batch, true).map_err(|error| self.refusal(error))?;
        Ok(true)
    }
}
