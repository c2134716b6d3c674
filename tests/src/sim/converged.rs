//! Whether all replicas are identical, looked at on their disks: no read is asked for, so none can have repaired anything.

use super::fleet::Fleet;
use super::people::url;
use super::wires::Host;
use bytes::Bytes;
use node::lane::leaf_row;
use node::store::mem::MemDisk;
use node::store::{Family, keys};
use ring::bucket::BucketSettings;
use ring::ids::{NodeId, ObjectId, Partition};
use ring::members::{Regime, Status, View, next};
use ring::place::position;
use ring::tree;
use ring::wire::record::{Digest, digest};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What is not yet as it must become, in a few words; none once all is well.
pub fn objection(fleet: &Fleet) -> Option<String> {
    let mut places = BTreeMap::new();
    let mut views: Vec<(Host, View)> = Vec::new();
    for host in fleet.hosts() {
        let disk = fleet.machine(host).disk().rows;
        let view = disk.row(Family::Meta, keys::VIEW).and_then(|bytes| View::decode(&bytes).ok());
        let (Some(view), Some(id)) = (view, disk.row(Family::Meta, keys::IDENTITY).and_then(|b| node_id(&b)))
        else {
            return Some(format!("{host} is in no cluster"));
        };
        places.insert(id, host);
        views.push((host, view));
    }
    // Who was removed is no replica, and hears nothing more.
    let mut known = views.first()?.1.clone();
    for (host, view) in &views {
        if let Err(error) = known.merge(view) {
            return Some(format!("the view of {host} can't be merged: {error}"));
        }
    }
    let is_removed = |id: &NodeId| known.members.get(id).is_some_and(|m| m.status == Status::Removed);
    places.retain(|id, _| !is_removed(id));
    views.retain(|(host, _)| places.values().any(|place| place == host));
    let (first, view) = views.first()?;
    if let Some((other, _)) =
        views.iter().find(|(_, other)| Regime::of(other).name() != Regime::of(view).name())
    {
        return Some(format!("{first} and {other} act by different tables"));
    }
    let regime = Regime::of(view);
    if !regime.is_settled() {
        return Some("partitions are moving".into());
    }
    if let Some((id, member)) = view.members.iter().find(|(_, m)| m.status == Status::Leaving) {
        return Some(format!("{id} is {:?}", member.status));
    }
    if let Some(stray) = regime.nodes().iter().find(|id| !places.contains_key(*id)) {
        return Some(format!("{stray} is in the table and on no machine"));
    }
    if let Some((id, host)) = places.iter().find(|(id, _)| !regime.nodes().contains(*id)) {
        return Some(format!("{host} ({id}) has no part in the table"));
    }
    let disks = places.into_iter().map(|(id, host)| (id, (host, fleet.machine(host).disk().rows)));
    records(&disks.collect(), view, &regime)
}

/// What a change of the members waits for, as the first node's disk has it, and who is what: for whoever looks at a run that did not
/// come to an end.
pub fn waits(fleet: &Fleet) -> String {
    let on = |host: Host, key: &[u8]| fleet.machine(host).disk().rows.row(Family::Meta, key);
    let views = fleet.hosts().into_iter();
    let mut views = views.filter_map(|host| on(host, keys::VIEW).and_then(|bytes| View::decode(&bytes).ok()));
    let Some(mut view) = views.next() else { return "nobody has a view".into() };
    for other in views {
        if let Err(error) = view.merge(&other) {
            return error.to_string();
        }
    }
    let alive: BTreeSet<NodeId> =
        fleet.hosts().into_iter().filter_map(|host| node_id(&on(host, keys::IDENTITY)?)).collect();
    let gone: BTreeSet<NodeId> = view.living().map(|(id, _)| id).filter(|id| !alive.contains(id)).collect();
    let regime = Regime::of(&view);
    let step = next(&view, &regime, &BTreeSet::from([BucketSettings::default().n]), &gone);
    let members = view.members.iter().map(|(id, member)| {
        let word = if alive.contains(id) { "" } else { ", on no machine" };
        format!("{id} {:?}, {:?}{word}", member.status, member.acting)
    });
    let hints = fleet.hosts().into_iter().flat_map(|host| {
        let mut kept: BTreeMap<NodeId, usize> = BTreeMap::new();
        for (key, _) in fleet.machine(host).disk().rows.rows(Family::Hints) {
            if let Ok((target, ..)) = keys::decode_hint_key(&key) {
                *kept.entry(target).or_default() += 1;
            }
        }
        kept.into_iter().map(move |(target, count)| format!("{host} keeps {count} hints for {target}"))
    });
    format!("{step:?}; {}", members.chain(hints).collect::<Vec<_>>().join("; "))
}

/// Who acts by other tables than those that follow from the members on its disk, now that these are the same everywhere. They are worked
/// out anew here; a node keeps those of before as long as it believes that nothing has moved.
pub(super) fn other_tables(fleet: &Fleet, told: &BTreeMap<String, Value>) -> Vec<String> {
    let judge = |host: Host| {
        let ring = told.get(&url(host))?;
        let view = fleet.machine(host).disk().rows.row(Family::Meta, keys::VIEW)?;
        let others = || format!("{host} acts by other tables than those of its members: {ring}");
        (!follows(ring, &view)).then(others)
    };
    fleet.hosts().into_iter().filter_map(judge).collect()
}

/// Whether the tables that a node tells of are those of its members.
fn follows(ring: &Value, view: &[u8]) -> bool {
    View::decode(view).map(|view| ring_of(&view)).is_ok_and(|(name, owners)| {
        let listed = ring["partitions"].as_array().is_some_and(|rows| {
            rows.len() == owners.len()
                && rows.iter().zip(owners).all(|(row, owners)| row["owners"] == json!(owners))
        });
        ring["digest"] == json!(name) && listed
    })
}

/// The name of a view's tables, and the owners of each partition where nothing is said of how many.
fn ring_of(view: &View) -> (String, Vec<Vec<String>>) {
    let (regime, n) =
        (Regime::of(view), view.defaults.as_ref().map_or(BucketSettings::default().n, |defaults| defaults.n));
    let owners = |number| {
        regime.settled.owners(Partition(number), usize::from(n)).iter().map(NodeId::to_string).collect()
    };
    (format!("{:016x}", regime.name().digest), (0..view.partitions).map(owners).collect())
}

/// The machine of each member, and what is on its disk.
type Disks = BTreeMap<NodeId, (Host, MemDisk)>;

fn records(disks: &Disks, view: &View, regime: &Regime) -> Option<String> {
    let mut copies: BTreeMap<Bytes, BTreeMap<Host, Digest>> = BTreeMap::new();
    for (host, disk) in disks.values() {
        if let Some((key, _)) = disk.rows(Family::Hints).first() {
            return Some(format!("{host} keeps a hint: {}", key.escape_ascii()));
        }
        if disk.corrupted() > 0 {
            return Some(format!("{host} has {} records that can't be read", disk.corrupted()));
        }
        let is_gap = |(key, _): &(Bytes, Bytes)| keys::decode_gap_key(key).is_ok();
        if disk.rows(Family::Meta).iter().any(is_gap) {
            return Some(format!("{host} has a copy that lacks something"));
        }
        for (key, value) in disk.rows(Family::Records) {
            copies.entry(key).or_default().insert(*host, digest(&value));
        }
    }
    for (key, copies) in copies {
        let (partition, id) = keys::decode_record_key(&key).ok()?;
        let n =
            view.bucket(id.bucket()).map_or(ring::bucket::BucketSettings::default().n, |settings| settings.n);
        let owners = regime.settled.owners(partition, usize::from(n));
        let owners: Vec<Host> = owners.iter().map(|owner| disks[owner].0).collect();
        if let Some((stray, _)) = copies.iter().find(|(host, _)| !owners.contains(host)) {
            return Some(format!("{stray} holds {id:?} and does not own it"));
        }
        let digests: Vec<Option<&Digest>> = owners.iter().map(|owner| copies.get(owner)).collect();
        if digests.windows(2).any(|pair| pair[0] != pair[1]) {
            return Some(format!("owners {owners:?} of {id:?} differ: {digests:?}"));
        }
    }
    disks.values().find_map(|(host, disk)| leaves(*host, disk))
}

/// What is wrong with the leaves of a disk: each is its record's, and no record is without one. Whoever compares trees sees no more
/// of the records than that.
fn leaves(host: Host, disk: &MemDisk) -> Option<String> {
    let mut left: BTreeMap<ObjectId, (Partition, u128)> = BTreeMap::new();
    for (key, value) in disk.rows(Family::Records) {
        let (partition, id) = keys::decode_record_key(&key).ok()?;
        left.insert(id, (partition, digest(&value).0));
    }
    for row in disk.rows(Family::Leaves) {
        let Some((partition, slot, id, leaf)) = leaf_row(&row) else {
            return Some(format!("{host} has a leaf that is none: {}", row.0.escape_ascii()));
        };
        let right = left.remove(&id) == Some((partition, leaf.0)) && slot == tree::slot(position(&id));
        if !right {
            return Some(format!("{host} has a leaf of {id:?} that is not its record's"));
        }
    }
    left.first_key_value().map(|(id, _)| format!("{host} has no leaf of {id:?}"))
}

/// Whose disk it is: the identity begins with the node's id (docs/formats.md).
pub fn node_id(identity: &[u8]) -> Option<NodeId> {
    postcard::take_from_bytes::<NodeId>(identity).ok().map(|(id, _)| id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use node::store::mem::MemStore;
    use node::store::{Batch, Store};
    use ring::causal::{Actor, Dot};
    use ring::ids::{ClusterId, Zone};
    use ring::members::Description;
    use ring::record::Record;
    use ring::wire::record::encode;

    /// A disk with a record and a leaf, or with one of them.
    fn disk(record: bool, leaf: Option<u128>) -> MemDisk {
        let (disk, id) = (MemDisk::new(), ObjectId::new("b", "k").expect("short names"));
        let mut batch = Batch::default();
        if record {
            batch.put(Family::Records, keys::record_key(Partition(0), &id), encode(&Record::default()));
        }
        if let Some(leaf) = leaf {
            let key = keys::leaf_key(Partition(0), tree::slot(position(&id)), &id);
            batch.put(Family::Leaves, key, leaf.to_be_bytes().to_vec());
        }
        disk.open().expect("nobody has it open").write(batch, true).expect("the disk is well");
        disk
    }

    fn members(count: u16) -> View {
        let mut view = View::new(ClusterId(1), 8);
        for id in 1..=count {
            let (http, peer, zone) = (format!("h:{id}"), format!("p:{id}"), Zone::default());
            let described = Description { http, peer, zone, weight: 1, starts: 1, boot_id: 1 };
            view.admit(NodeId(u128::from(id)), described).expect("there is room");
            view.set_status(NodeId(u128::from(id)), Status::Up).expect("it joins");
        }
        view.settled.layout = view.target();
        view
    }

    #[test]
    fn a_node_acts_by_the_tables_of_its_members() {
        let tells = |view: &View| {
            let (digest, owners) = ring_of(view);
            let rows: Vec<Value> = owners.iter().map(|owners| json!({ "owners": owners })).collect();
            json!({ "digest": digest, "partitions": rows })
        };
        let (four, three) = (members(4), members(3));
        let told = tells(&four);
        assert!(follows(&told, &four.encode()));
        assert!(!follows(&told, &three.encode()), "those of before");
        assert!(!follows(&told, b"no members"));
        let with = |change: &dyn Fn(&mut Value)| {
            let mut other = told.clone();
            change(&mut other);
            follows(&other, &four.encode())
        };
        assert!(!with(&|ring| ring["digest"] = tells(&three)["digest"].clone()), "another name");
        assert!(!with(&|ring| ring["partitions"] = tells(&three)["partitions"].clone()), "other owners");
        assert!(!with(&|ring| drop(ring["partitions"].as_array_mut().map(Vec::pop))), "one is missing");
        assert!(!with(&|ring| *ring = Value::Null), "it says nothing");
    }

    /// What is objected to on the disks of four members of which three own the key, each as it is made by `with`: whether its node
    /// owns the key, by its place among those who do or not.
    fn objected(with: impl Fn(bool, usize, &MemStore)) -> Option<String> {
        let view = members(4);
        let regime = Regime::of(&view);
        let owners = regime.settled.owners(partition(), 3).to_vec();
        let (mut own, mut rest, mut disks) = (0, 0, Disks::new());
        for (id, host) in view.members.keys().zip(1..) {
            let (owns, disk) = (owners.contains(id), MemDisk::new());
            let count = if owns { &mut own } else { &mut rest };
            with(owns, *count, &disk.open().expect("nobody has it open"));
            *count += 1;
            disks.insert(*id, (Host(host), disk));
        }
        assert_eq!((own, rest), (3, 1));
        records(&disks, &view, &regime)
    }

    fn key() -> ObjectId {
        ObjectId::new("b", "k").expect("short names")
    }

    fn partition() -> Partition {
        ring::place::partition(position(&key()), 8)
    }

    fn put(store: &MemStore, record: &Record) {
        let (partition, id, bytes) = (partition(), key(), encode(record));
        let mut batch = Batch::default();
        let leaf = digest(&bytes).0.to_be_bytes().to_vec();
        batch.put(Family::Records, keys::record_key(partition, &id), bytes);
        batch.put(Family::Leaves, keys::leaf_key(partition, tree::slot(position(&id)), &id), leaf);
        store.write(batch, true).expect("the disk is well");
    }

    fn note(store: &MemStore, family: Family, key: Vec<u8>) {
        let mut batch = Batch::default();
        batch.put(family, key, Vec::new());
        store.write(batch, true).expect("the disk is well");
    }

    #[test]
    fn owners_have_the_same_and_nobody_else_has_anything() {
        let same = |owns: bool, _: usize, store: &MemStore| {
            if owns {
                put(store, &Record::default());
            }
        };
        assert_eq!(objected(same), None);
        let objects = |with: &dyn Fn(bool, usize, &MemStore), why: &str| {
            let said = objected(with).unwrap_or_default();
            assert!(said.contains(why), "{why}: {said}");
        };
        objects(
            &|owns, at, store| {
                if owns && at > 0 {
                    same(owns, at, store)
                }
            },
            "differ",
        );
        objects(
            &|owns, at, store| {
                let mut record = Record::default();
                if at == 2 {
                    record.clock.insert(Dot { actor: Actor { node: NodeId(1), epoch: 1 }, count: 1 });
                }
                if owns {
                    put(store, &record);
                }
            },
            "differ",
        );
        objects(&|_, _, store| put(store, &Record::default()), "does not own it");
        objects(
            &|owns, at, store| {
                same(owns, at, store);
                if owns && at == 1 {
                    note(store, Family::Hints, keys::hint_key(NodeId(3), partition(), &key()));
                }
            },
            "keeps a hint",
        );
        objects(
            &|owns, at, store| {
                same(owns, at, store);
                if owns && at == 1 {
                    note(store, Family::Meta, keys::gap_key(partition(), &key()));
                }
            },
            "lacks something",
        );
    }

    #[test]
    fn each_leaf_is_its_records_and_none_is_missing() {
        let right = digest(&encode(&Record::default())).0;
        let objects = |record, leaf| leaves(Host(1), &disk(record, leaf)).is_some();
        assert!(!objects(true, Some(right)) && !objects(false, None));
        assert!(objects(true, None), "a record without a leaf");
        assert!(objects(false, Some(right)), "a leaf without a record");
        assert!(objects(true, Some(right ^ 1)), "a leaf of something else");
    }
}
