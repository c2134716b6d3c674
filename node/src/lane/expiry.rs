//! The lane's part of expiry: what is due is noted in the batch of its record, and dropped in one of its own.

use super::core::Core;
use super::draft::{Draft, Slot};
use crate::store::{Family, Store, keys};
use bytes::Bytes;
use ring::ids::ObjectId;
use ring::place::{partition, position};
use ring::time::Wall;
use ring::wire::peer::Refusal;
use std::collections::BTreeSet;
use std::sync::Arc;

impl<S: Store> Core<S> {
    /// The note goes in any case: whatever the record holds now has notes of its own.
    pub(super) fn expire(
        &self,
        id: &ObjectId,
        due: Wall,
        now: Wall,
        draft: &mut Draft,
    ) -> Result<bool, Refusal> {
        let (key, local) = self.slot(id, draft)?;
        let partition = partition(position(id), self.partitions);
        draft.batch.delete(Family::Due, keys::due_key(due, partition, id));
        let Some(less) = local.as_deref().and_then(|record| record.without_expired(now)) else {
            return Ok(false);
        };
        draft.set(&key, Some(Arc::new(less)));
        Ok(true)
    }
}

impl Draft {
    /// Notes which values expire when, so that nobody has to look for them.
    pub(super) fn write_due(&mut self, slot: &Slot) {
        let after: BTreeSet<Wall> = slot.record.iter().flat_map(|record| record.expiries()).collect();
        for gone in slot.due.difference(&after) {
            self.batch.delete(Family::Due, keys::due_key(*gone, slot.partition, &slot.id));
        }
        for at in &after {
            self.batch.put(Family::Due, keys::due_key(*at, slot.partition, &slot.id), Bytes::new());
        }
        self.due = self.due.into_iter().chain(after).min();
    }
}
