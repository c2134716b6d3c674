//! What the eye on all disks objects to, and what it lets be.

use super::*;
use ring::causal::Actor;
use ring::ids::{ClusterId, Zone};
use ring::members::{Description, Status};
use ring::record::{Object, Sibling};
use ring::time::Wall;

fn members(ids: &[u128]) -> View {
    let mut view = View::new(ClusterId(1), 8);
    for id in ids {
        let at = |port: &str| format!("{port}:{id}");
        let (http, peer, zone) = (at("h"), at("p"), Zone::default());
        let described = Description { http, peer, zone, weight: 1, starts: 1, boot_id: 1 };
        view.admit(NodeId(*id), described).expect("there is room");
        view.set_status(NodeId(*id), Status::Up).expect("it joins");
    }
    view
}

#[test]
fn a_list_names_members_and_each_once() {
    let view = members(&[1, 2, 3]);
    let table = Regime::of(&view).target.expect("three come in");
    assert_eq!((0..8).find_map(|number| fault(&table, Partition(number), &view)), None);
    assert!(fault(&table, Partition(0), &members(&[1, 2])).is_some(), "3 is a stranger");
}

#[test]
fn of_each_number_there_is_one_settled_layout() {
    let (watch, view) = (Watch::default(), members(&[1, 2, 3]));
    watch.look_at_tables(Host(1), &view.encode());
    watch.look_at_tables(Host(2), &view.encode());
    assert_eq!(watch.violations(), Vec::<String>::new());
    watch.lock().settled.values_mut().for_each(|layout| *layout ^= 1);
    watch.look_at_tables(Host(3), &view.encode());
    assert_eq!(watch.violations().len(), 1, "another disk had another layout of this number");
    watch.look_at_tables(Host(3), b"no view");
    assert_eq!(watch.violations().len(), 2);
}

#[test]
fn a_dot_is_first_where_it_is_issued() {
    let id = ObjectId::new(&b"b"[..], "k").expect("a short key");
    let watch = Watch::default();
    let store = |node: u128| {
        let store = node::store::mem::MemDisk::new().open().expect("it is new");
        let mut batch = Batch::default();
        batch.put(
            Family::Meta,
            keys::IDENTITY.to_vec(),
            postcard::to_stdvec(&NodeId(node)).expect("plain data"),
        );
        store.write(batch, true).expect("the disk is well");
        store
    };
    let (one, two) = (store(1), store(2));
    let key = keys::record_key(Partition(0), &id);
    let synced = std::cell::Cell::new(true);
    let comes = |host: u8, store: &node::store::mem::MemStore, count: u64, fails: bool| {
        let dot = |count| Dot { actor: Actor { node: NodeId(1), epoch: 1 }, count };
        let mut record = Record::default();
        (1..=count).for_each(|count| record.clock.insert(dot(count)));
        record.siblings.push(Sibling { dot: dot(count), content: Content::Object(Object::default()) });
        let mut batch = Batch::default();
        let (bytes, slot) = (encode(&record), tree::slot(position(&id)));
        let leaf = digest(&bytes).0.to_be_bytes().to_vec();
        batch.put(Family::Records, key.clone(), bytes);
        batch.put(Family::Leaves, keys::leaf_key(Partition(0), slot, &id), leaf);
        let seen = watch.before(Host(host), store, &batch, true);
        if fails {
            watch.may_be_there(seen);
        } else {
            store.write(batch, true).expect("the disk is well");
            watch.after(Host(host), store, seen, synced.get());
        }
        watch.violations().len()
    };
    let said = || watch.violations();
    assert_eq!([comes(1, &one, 1, false), comes(2, &two, 1, false)], [0; 2], "{:?}", said());
    // Two writes of one batch: nobody's disk ever shows the first, and others are told of it all the same.
    assert_eq!([comes(1, &one, 3, false), comes(2, &two, 2, false)], [0; 2], "{:?}", said());
    assert_eq!([comes(1, &one, 4, true), comes(2, &two, 4, false)], [0; 2], "it may be there: {:?}", said());
    assert_eq!(comes(2, &two, 5, false), 1, "it is nowhere else yet");
    synced.set(false);
    assert_eq!(
        [comes(1, &one, 6, false), comes(2, &two, 6, false)],
        [1, 2],
        "it is not synced: {:?}",
        said()
    );
    watch.synced(Host(1));
    assert_eq!([comes(2, &two, 6, false), comes(1, &one, 7, false)], [2; 2], "{:?}", said());
    synced.set(true);
    assert_eq!([comes(1, &one, 8, false), comes(2, &two, 7, false)], [2; 2], "{:?}", said());
}

#[test]
fn a_clock_only_grows() {
    let (watch, disk) = (Watch::default(), node::store::mem::MemDisk::new());
    let store = disk.open().expect("it is new");
    let id = ObjectId::new(&b"b"[..], "k").expect("a short key");
    let write = |count: u64| {
        let mut record = Record::default();
        (1..=count)
            .for_each(|count| record.clock.insert(Dot { actor: Actor { node: NodeId(1), epoch: 1 }, count }));
        let mut batch = Batch::default();
        batch.put(Family::Records, keys::record_key(Partition(0), &id), encode(&record));
        watch.before(Host(1), &store, &batch, true);
        store.write(batch, true).expect("the disk is well");
        watch.violations().len()
    };
    assert_eq!([write(1), write(2), write(2)], [0; 3]);
    assert_eq!(write(1), 1, "it shrinks: {:?}", watch.violations());
}

#[test]
fn what_holds_values_is_not_let_go() {
    let (watch, disk) = (Watch::default(), node::store::mem::MemDisk::new());
    let store = disk.open().expect("it is new");
    let id = ObjectId::new(&b"b"[..], "k").expect("a short key");
    let key = keys::record_key(Partition(0), &id);
    let lets_go = |contents: &[Content]| {
        let dot = |count| Dot { actor: Actor { node: NodeId(1), epoch: 1 }, count };
        let mut record = Record::default();
        for (count, content) in (1..).zip(contents) {
            record.clock.insert(dot(count));
            record.siblings.push(Sibling { dot: dot(count), content: content.clone() });
        }
        let (mut put, mut delete) = (Batch::default(), Batch::default());
        put.put(Family::Records, key.clone(), encode(&record));
        store.write(put, true).expect("the disk is well");
        delete.delete(Family::Records, key.clone());
        watch.before(Host(1), &store, &delete, true);
        std::mem::take(&mut watch.lock().violations).len()
    };
    let value = Content::Object(Object::default());
    let ends = Content::Object(Object { expires_at: Some(Wall(1)), ..Object::default() });
    let deleted = Content::Tombstone { deleted: Wall(1) };
    assert_eq!(lets_go(std::slice::from_ref(&value)), 1);
    assert_eq!(lets_go(&[deleted.clone(), value]), 1);
    assert_eq!([deleted, ends].map(|content| lets_go(std::slice::from_ref(&content))), [0; 2]);
}

#[test]
fn one_layout_follows_another() {
    let (watch, one, mut other) = (Watch::default(), members(&[1, 2, 3]), members(&[1, 2, 3]));
    other.settled.layout = members(&[1, 2]).target();
    watch.look_at_tables(Host(1), &one.encode());
    watch.look_at_tables(Host(2), &other.encode());
    assert_eq!(watch.violations().len(), 1, "{:?}", watch.violations());
    watch.has_old_disks();
    watch.look_at_tables(Host(2), &other.encode());
    assert_eq!(watch.violations().len(), 1, "what an old disk has agreed to it has forgotten");
}
