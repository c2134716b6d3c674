//! The lane's part of the Merkle trees: their leaves on disk, mended where they are wrong, and the trees made of them anew.

use super::core::Core;
use super::draft::Draft;
use crate::limits::LEAF_PAGE_ROWS;
use crate::store::{Family, Row, Store, keys};
use bytes::Bytes;
use ring::ids::{ObjectId, Partition};
use ring::tree::{self, Group, Ns, Slot, leaf};
use ring::wire::peer::Refusal;
use ring::wire::record::Digest;

impl<S: Store> Core<S> {
    /// Somebody sent what is here already, perhaps because the leaf here says something else. Then the leaf is mended, and
    /// the partition's trees are built again: they were made of it.
    pub(super) fn hash_again(&self, key: &[u8], draft: &mut Draft) -> Result<(), Refusal> {
        let slot = &draft.slots[key];
        if slot.changed {
            return Ok(());
        }
        let at = keys::leaf_key(slot.partition, slot.tree, &slot.id);
        let leaf = self.store.get(Family::Leaves, &at).map_err(|e| self.refusal(e))?;
        let right = slot.stored.map(|digest| Bytes::copy_from_slice(&digest.0.to_be_bytes()));
        if leaf == right {
            return Ok(());
        }
        tracing::warn!(key = ?slot.id, "a leaf was not that of its record");
        match right {
            Some(right) => draft.batch.put(Family::Leaves, at, right),
            None => draft.batch.delete(Family::Leaves, at),
        }
        draft.mended.insert(slot.partition);
        Ok(())
    }

    /// Reads the next page of leaves into the trees. Between two batches nothing is under way: the page is all that the
    /// disk holds there.
    pub(super) fn grow_tree(&self, partition: Partition) -> Result<bool, Refusal> {
        let Some(from) = self.lock_trees().builds_from(partition) else { return Ok(true) };
        let (first, end) = keys::leaves_of_partition(partition);
        let from = if from.is_empty() { first } else { from };
        let rows = self
            .store
            .scan(Family::Leaves, &from, end.as_deref(), LEAF_PAGE_ROWS, usize::MAX)
            .map_err(|e| self.refusal(e))?;
        let next = rows.last().filter(|_| rows.len() == LEAF_PAGE_ROWS).map(|(last, _)| keys::after(last));
        let page: Vec<_> = rows.iter().filter_map(leaf_row).map(|(_, slot, id, d)| (slot, id, d)).collect();
        self.lock_trees().grow(partition, &page, next);
        Ok(self.lock_trees().stands(partition))
    }

    /// Has a partition's trees built again if slots of one are not what its leaves make of them. Whether they were not.
    pub(super) fn check_tree(&self, group: Group, slots: &[Slot]) -> Result<bool, Refusal> {
        for slot in slots {
            let (in_tree, ns) = {
                let trees = self.lock_trees();
                let Some(tree) = trees.tree(group) else { return Ok(false) };
                (tree.slot(*slot), trees.ns().clone())
            };
            if self.of_leaves(group, *slot, &ns)? != in_tree {
                tracing::warn!(partition = group.partition.0, "a tree was not that of its leaves");
                self.lock_trees().clear(group.partition);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What the leaves on the disk make of a slot.
    fn of_leaves(&self, group: Group, slot: Slot, ns: &Ns) -> Result<u128, Refusal> {
        let (mut from, end) = keys::leaves_of_slot(group.partition, slot);
        let mut sum = 0;
        loop {
            let rows = self
                .store
                .scan(Family::Leaves, &from, end.as_deref(), LEAF_PAGE_ROWS, usize::MAX)
                .map_err(|e| self.refusal(e))?;
            let leaves = rows.iter().filter_map(leaf_row);
            let its = leaves.filter(|(_, _, id, _)| ns.of(id.bucket()) == group.n);
            sum = its.fold(sum, |sum, (_, _, id, digest)| sum ^ leaf(&id, digest));
            match rows.last() {
                Some((last, _)) if rows.len() == LEAF_PAGE_ROWS => from = keys::after(last),
                _ => return Ok(sum),
            }
        }
    }
}

/// A leaf as it stands on disk; `None` if these bytes can't be one.
pub fn leaf_row((key, value): &Row) -> Option<(Partition, tree::Slot, ObjectId, Digest)> {
    let (partition, slot, id) = keys::decode_leaf_key(key).ok()?;
    let digest = Digest(u128::from_be_bytes(value.as_ref().try_into().ok()?));
    Some((partition, slot, id, digest))
}
