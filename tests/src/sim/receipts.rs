//! P1 at the moment of the acknowledgement: as many disks have a write as its receipt says, and so that no power cut could take it.
//!
//! ```text
//!   client hears:  ok, durable=2  ─►  on how many disks does a synced row cover the write's dot,
//!                                     of nodes that own the key by what they know, or keep a hint of it?
//! ```
//!
//! A power cut a moment later finds out the same, if it comes just then, hits just these, and nobody else has the value. Here every
//! acknowledged put is looked at, and also what no loss would show soon: a copy with somebody who owns the key no more counts for nothing,
//! and goes.
//!
//! What moves between the write and the answer is let be: disks that are lost, put back or rot, records that some owner has let go since (of
//! these puts nothing is looked at), and who owns what where any node has kept other members since.

use super::fleet::Fleet;
use super::watch::Watch;
use super::wires::Host;
use bytes::Bytes;
use chaos::history::{Call, OpId, What};
use node::store::mem::MemDisk;
use node::store::{Family, keys};
use ring::bucket::BucketSettings;
use ring::causal::Dot;
use ring::ids::{NodeId, ObjectId};
use ring::members::{Regime, View};
use ring::place::{partition, position};
use ring::wire::record::decode;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What clients were told, until it is looked at. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Receipts {
    heard: Arc<Mutex<Heard>>,
}

#[derive(Default)]
struct Heard {
    begun: BTreeMap<OpId, Begun>,
    told: Vec<Told>,
    /// By which tables each machine acted when it was last looked at, for to work them out takes long.
    acts_by: BTreeMap<Host, ActsBy>,
    /// How many receipts were held against the disks.
    held: u64,
}

/// A put that is under way: of what, and what had been written by then.
struct Begun {
    id: ObjectId,
    batches: u64,
    views: u64,
    harms: usize,
}

/// A put that was acknowledged.
struct Told {
    of: Begun,
    etag: String,
    durable: u32,
}

struct ActsBy {
    bytes: Bytes,
    view: View,
    regime: Regime,
}

impl Receipts {
    /// Hears a line of the history.
    pub(super) fn hear(&self, what: &What, watch: &Watch) {
        match what {
            What::Invoke(invoke) if matches!(invoke.call, Call::Put { .. }) => {
                let id = ObjectId::new(invoke.bucket.clone(), invoke.key.clone());
                let id = id.expect("a workload's names are valid ones");
                let (batches, views, harms) = (watch.batches(), watch.views(), watch.harms());
                self.lock().begun.insert(invoke.op, Begun { id, batches, views, harms });
            }
            What::Ok { op, answer } => {
                let mut heard = self.lock();
                if let (Some(of), Some(etag), Some(receipt)) =
                    (heard.begun.remove(op), &answer.etag, answer.receipt)
                {
                    heard.told.push(Told { of, etag: etag.clone(), durable: receipt.durable });
                }
            }
            What::Fail { op, .. } | What::Info { op, .. } => drop(self.lock().begun.remove(op)),
            What::Invoke(_) | What::Setting(_) => {}
        }
    }

    /// Holds what was told since the last look against the disks.
    pub(super) fn look(&self, fleet: &Fleet) {
        let told = std::mem::take(&mut self.lock().told);
        for Told { of, etag, durable } in told {
            let watch = &fleet.watch;
            let Some(dot) = watch.dot_of(&of.id, &etag) else {
                watch.broken(format!("{:?} was acknowledged as {etag}, which no disk has ever seen", of.id));
                continue;
            };
            if watch.let_go(&of.id) >= of.batches {
                continue;
            }
            self.lock().held += 1;
            let settled = watch.views() == of.views;
            let hosts = fleet.hosts();
            let has = |host: &&Host| {
                let rows = &fleet.machine(**host).disk().rows;
                holds(rows, fleet.partitions(), &of.id, dot)
                    && (!settled || self.counts(**host, watch.known(**host), rows, &of.id))
            };
            let there: Vec<String> = hosts.iter().filter(has).map(Host::to_string).collect();
            let lost = watch.harms() - of.harms;
            if there.len() + lost < durable as usize {
                watch.broken(format!(
                    "{:?} was acknowledged as {etag} ({dot:?}), durable on {durable} disks, and is synced at {} owners and stand-ins ({})",
                    of.id,
                    there.len(),
                    there.join(", ")
                ));
            }
        }
    }

    /// How many were held against the disks.
    pub(super) fn held(&self) -> u64 {
        self.lock().held
    }

    /// Whether a copy there is counted on: its node owns the key by what it knows, which a full disk may not have kept, or keeps a hint of
    /// it.
    fn counts(&self, host: Host, known: Option<Bytes>, rows: &MemDisk, id: &ObjectId) -> bool {
        let meta = |key: &[u8]| rows.row(Family::Meta, key);
        let view = known.or_else(|| meta(keys::VIEW));
        let (Some(identity), Some(bytes)) = (meta(keys::IDENTITY), view) else { return true };
        let Some(node) = super::converged::node_id(&identity) else { return true };
        let mut heard = self.lock();
        if heard.acts_by.get(&host).is_none_or(|by| by.bytes != bytes) {
            let Ok(view) = View::decode(&bytes) else { return true };
            let regime = Regime::of(&view);
            heard.acts_by.insert(host, ActsBy { bytes, view, regime });
        }
        owns(&heard.acts_by[&host], node, id) || has_hint(rows, id)
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn owns(by: &ActsBy, node: NodeId, id: &ObjectId) -> bool {
    let n = by.view.bucket(id.bucket()).map_or_else(|| BucketSettings::default().n, |settings| settings.n);
    by.regime.concerns(node, partition(position(id), by.view.partitions), usize::from(n))
}

fn has_hint(rows: &MemDisk, id: &ObjectId) -> bool {
    let hints = rows.rows(Family::Hints);
    hints.iter().any(|(key, _)| keys::decode_hint_key(key).is_ok_and(|(_, _, of)| of == *id))
}

/// Whether a power cut at this moment would leave a record there that knows the dot.
fn holds(rows: &MemDisk, partitions: u16, id: &ObjectId, dot: Dot) -> bool {
    let key = keys::record_key(partition(position(id), partitions), id);
    let record = rows.synced_row(Family::Records, &key);
    record.is_some_and(|record| decode(&record).is_ok_and(|record| record.clock.has(&dot)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use node::store::{Batch, Store};
    use ring::causal::Actor;
    use ring::record::Record;
    use ring::wire::record::encode;

    const PARTITIONS: u16 = 8;

    #[test]
    fn only_what_is_synced_is_held() {
        let (disk, id) = (MemDisk::new(), ObjectId::new(&b"b"[..], "k").expect("a short key"));
        let store = disk.open().expect("it is new");
        let dot = |count| Dot { actor: Actor { node: NodeId(1), epoch: 1 }, count };
        let write = |count, sync| {
            let mut record = Record::default();
            (1..=count).for_each(|count| record.clock.insert(dot(count)));
            let mut batch = Batch::default();
            let key = keys::record_key(partition(position(&id), PARTITIONS), &id);
            batch.put(Family::Records, key, encode(&record));
            store.write(batch, sync).expect("the disk is well");
            [1, 2, 3].map(|count| holds(&disk, PARTITIONS, &id, dot(count)))
        };
        assert_eq!(write(1, true), [true, false, false]);
        assert_eq!(write(2, false), [true, false, false], "a power cut would take it");
        assert_eq!(write(3, true), [true; 3]);
    }
}
