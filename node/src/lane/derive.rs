//! Writes anew what follows from the records, where the disk has spoiled it: leaves, the lists of the dead and of what is due, and hints.
//!
//! At the start, before anything relies on them: a tree over leaves that are not there would have this node fetch everything from
//! the others, and hand on nothing. But after the start has noted what it found (`boot/identity.rs`): what is written here would
//! hide that the log had lost its end.

use super::ledger::HintRow;
use crate::cluster::Snapshot;
use crate::store::{Batch, Family, Store, StoreError, keys};
use bytes::Bytes;
use ring::ids::NodeId;
use ring::place::position;
use ring::time::Wall;
use ring::tree;
use ring::wire::record::{Digest, decode, digest};

/// Records that share a batch: some 5 ms each.
const PAGE_ROWS: usize = 1024;
const PAGE_BYTES: usize = 4 << 20;
/// The leaf of a record that can't be read: no record has it, so the scrub looks at this one and fetches another copy.
const UNREADABLE: Digest = Digest(0);

/// Goes through all records, if the store lacks anything that follows from them alone. That it lacks it stays noted until hints
/// were made anew as well, which takes the cluster's tables ([`owe_anew`]).
pub fn derive<S: Store>(store: &S) -> Result<(), StoreError> {
    let families: Vec<Family> = store.lacks().into_iter().filter(|family| *family != Family::Hints).collect();
    if families.is_empty() {
        return Ok(());
    }
    tracing::warn!(?families, "what the disk has spoiled is written anew from the records");
    let records = write_anew(store, &families)?;
    tracing::warn!(records, "these are whole again");
    Ok(())
}

/// Keeps hints in the place of those that the disk has spoiled. Nobody knows any more who is owed what, so every copy that this node
/// does not own is owed to each owner, and counts. A node that leaves must not be done before they have it. What it keeps for
/// others of keys that it owns itself, the comparison of trees finds. Answers how many keys that are.
pub fn owe_anew<S: Store>(
    store: &S,
    snapshot: &Snapshot,
    me: NodeId,
    now: Wall,
) -> Result<usize, StoreError> {
    let (mut from, mut count) = (Vec::new(), 0);
    loop {
        let rows = store.scan(Family::Records, &from, None, PAGE_ROWS, PAGE_BYTES)?;
        let Some((last, _)) = rows.last() else { break };
        from = keys::after(last);
        let mut batch = Batch::default();
        for (key, record) in &rows {
            let Ok((partition, id)) = keys::decode_record_key(key) else { continue };
            let n = usize::from(snapshot.settings(id.bucket()).n);
            let owners = snapshot.table.owners(partition, n);
            // What it is about to own it has been sent as such.
            if owners.contains(&me) || snapshot.regime.also(partition, n).iter().flatten().any(|id| *id == me)
            {
                continue;
            }
            let bytes = u32::try_from(record.len()).unwrap_or(u32::MAX);
            let row = HintRow { since: now, counted: true, bytes }.encode();
            owners.iter().for_each(|owner| {
                batch.put(Family::Hints, keys::hint_key(*owner, partition, &id), row.clone())
            });
            count += 1;
        }
        // Hints that count are never on a disk that may lose them.
        store.write(batch, true)?;
    }
    Ok(count)
}

/// Goes through all records. How many there are.
fn write_anew<S: Store>(store: &S, families: &[Family]) -> Result<usize, StoreError> {
    let (mut from, mut count) = (Vec::new(), 0);
    loop {
        let rows = store.scan(Family::Records, &from, None, PAGE_ROWS, PAGE_BYTES)?;
        let Some((last, _)) = rows.last() else { break };
        from = keys::after(last);
        count += rows.len();
        let mut batch = Batch::default();
        rows.iter().for_each(|(key, record)| rows_of(key, record, &mut batch));
        // Those families alone: what is whole in the others is not written over.
        batch.changes.retain(|change| families.contains(&change.family()));
        store.write(batch, false)?;
    }
    store.write(Batch::default(), true)?;
    Ok(count)
}

/// What follows from one record.
fn rows_of(key: &Bytes, bytes: &Bytes, batch: &mut Batch) {
    let Ok((partition, id)) = keys::decode_record_key(key) else { return };
    let record = decode(bytes).ok();
    let hash = if record.is_some() { digest(bytes) } else { UNREADABLE };
    let leaf = keys::leaf_key(partition, tree::slot(position(&id)), &id);
    batch.put(Family::Leaves, leaf, Bytes::copy_from_slice(&hash.0.to_be_bytes()));
    let Some(record) = record else { return };
    if record.is_dead() {
        batch.put(Family::Dead, key.to_vec(), Bytes::new());
    }
    for at in record.expiries() {
        batch.put(Family::Due, keys::due_key(at, partition, &id), Bytes::new());
    }
}

#[cfg(test)]
pub(super) fn write_all_anew<S: Store>(store: &S) {
    write_anew(store, &[Family::Leaves, Family::Dead, Family::Due]).expect("the disk is whole");
}
