//! What one step of the lane collects: keys read and changed, rows to write, answers to give once they are written.

use super::job::Reply;
use super::ledger::HintChange;
use crate::store::{Batch, Family, keys};
use bytes::Bytes;
use ring::ids::{ObjectId, Partition};
use ring::record::Record;
use ring::time::Wall;
use ring::tree;
use ring::wire::peer::Refusal;
use ring::wire::record::{Digest, digest, encode};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A key in the batch: what it holds now, decoded once.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) partition: Partition,
    pub(super) tree: tree::Slot,
    pub(super) id: ObjectId,
    pub(super) record: Option<Arc<Record>>,
    /// The digest of what the disk holds.
    pub(super) stored: Option<Digest>,
    /// Whether the disk counts it among the dead.
    pub(super) dead: bool,
    /// When the values expire that the disk holds.
    pub(super) due: BTreeSet<Wall>,
    pub(super) changed: bool,
}

/// What a batch changes in the trees: partition, slot, where the leaf stands, whose it is, and its digests.
pub(super) type TreeChange = (Partition, tree::Slot, Vec<u8>, ObjectId, [Option<Digest>; 2]);

/// What one step collects.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) slots: BTreeMap<Vec<u8>, Slot>,
    pub(super) batch: Batch,
    pub(super) sync: bool,
    pub(super) answers: Vec<Answer>,
    /// Partitions with a leaf that was wrong.
    pub(super) mended: BTreeSet<Partition>,
    /// Hints that come and go, by their keys on disk.
    pub(super) hints: BTreeMap<Vec<u8>, HintChange>,
    /// Partitions of which a hint was given up.
    pub(super) given_up: Vec<Partition>,
    /// Partitions of which a copy goes that is not owned here.
    pub(super) let_go: BTreeSet<Partition>,
    /// The earliest of the notes about values that expire.
    pub(super) due: Option<Wall>,
}

pub(super) type Answer = Box<dyn FnOnce(Result<bool, Refusal>) + Send>;

impl Draft {
    /// Puts every changed record and its leaf into the batch.
    pub(super) fn write_slots(&mut self) -> Vec<TreeChange> {
        let mut changes = Vec::new();
        for (key, slot) in std::mem::take(&mut self.slots) {
            if !slot.changed {
                continue;
            }
            let leaf = keys::leaf_key(slot.partition, slot.tree, &slot.id);
            self.write_due(&slot);
            let after = match slot.record {
                Some(record) => {
                    let bytes = encode(&record);
                    let hash = digest(&bytes);
                    match (slot.dead, record.is_dead()) {
                        (_, true) => self.batch.put(Family::Dead, key.clone(), Bytes::new()),
                        (true, false) => self.batch.delete(Family::Dead, key.clone()),
                        (false, false) => {}
                    }
                    self.batch.put(Family::Records, key, bytes);
                    let value = Bytes::copy_from_slice(&hash.0.to_be_bytes());
                    self.batch.put(Family::Leaves, leaf.clone(), value);
                    Some(hash)
                }
                None => {
                    if slot.dead {
                        self.batch.delete(Family::Dead, key.clone());
                    }
                    self.batch.delete(Family::Records, key);
                    self.batch.delete(Family::Leaves, leaf.clone());
                    None
                }
            };
            changes.push((slot.partition, slot.tree, leaf, slot.id, [slot.stored, after]));
        }
        changes
    }

    /// What the disk holds of a key, unless this batch changes it.
    pub(super) fn unchanged(&self, key: &[u8]) -> Option<Option<Digest>> {
        self.slots.get(key).filter(|slot| !slot.changed).map(|slot| slot.stored)
    }

    pub(super) fn set(&mut self, key: &[u8], record: Option<Arc<Record>>) {
        let slot = self.slots.get_mut(key).expect("slot() has read it in");
        slot.record = record;
        slot.changed = true;
    }

    /// Answers after the batch is written, or at once if there is nothing to write for it.
    pub(super) fn answer<T: Send + 'static, U: Send + 'static>(
        &mut self,
        reply: Reply<U>,
        outcome: Result<T, Refusal>,
        finish: impl FnOnce(T, bool) -> U + Send + 'static,
    ) {
        match outcome {
            Err(refusal) => {
                let _ = reply.send(Err(refusal));
            }
            Ok(value) => self.answers.push(Box::new(move |written| {
                let _ = reply.send(written.map(|synced| finish(value, synced)));
            })),
        }
    }
}
