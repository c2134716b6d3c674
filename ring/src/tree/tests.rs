//! Trees against the plain set of leaves that they stand for.

use super::*;
use crate::ids::{NodeId, Partition};
use crate::place::position;
use crate::time::Time;
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

const P: Partition = Partition(0);

fn id(bucket: u8, key: u8) -> ObjectId {
    ObjectId::new(vec![b'a' + bucket], vec![key]).unwrap()
}

fn ns() -> Ns {
    Ns { default: 3, of: BTreeMap::from([(Bytes::from_static(b"b"), 1)]) }
}

/// What stands on disk, in the order of its keys there.
type Disk = BTreeMap<Vec<u8>, (ObjectId, Digest)>;

fn key_of(id: &ObjectId) -> Vec<u8> {
    let slot = slot(position(id)).0.to_be_bytes();
    [&slot[..], id.bucket(), id.key()].concat()
}

/// The trees that a disk has, all at once.
fn planted(disk: &Disk) -> Forest {
    let mut forest = Forest::new(1);
    forest.set_ns(&ns());
    let page: Vec<_> = disk.values().map(|(id, d)| (slot(position(id)), id.clone(), *d)).collect();
    forest.grow(P, &page, None);
    forest
}

fn same(a: &Forest, b: &Forest) -> bool {
    [1, 3].into_iter().all(|n| a.tree(Group { partition: P, n }) == b.tree(Group { partition: P, n }))
}

#[derive(Clone, Debug)]
enum Act {
    Write(u8, u8, Option<u8>),
    Build(usize),
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0..2_u8, 0..30_u8, proptest::option::of(0..4_u8)).prop_map(|(b, k, v)| Act::Write(b, k, v)),
        1 => (1..6_usize).prop_map(Act::Build),
    ]
}

fn build(forest: &mut Forest, disk: &Disk, rows: usize) {
    let Some(from) = forest.builds_from(P) else { return };
    let mut rest = disk.range(from..);
    let page: Vec<_> =
        rest.by_ref().take(rows).map(|(_, (id, d))| (slot(position(id)), id.clone(), *d)).collect();
    let next = rest.next().map(|(key, _)| key.clone());
    forest.grow(P, &page, next);
}

proptest! {
    /// However the building and the writes interleave, the trees are those of the disk.
    #[test]
    fn a_tree_that_grows_while_it_is_written_is_that_of_the_disk(acts in proptest::collection::vec(any_act(), 0..80)) {
        let (mut forest, mut disk) = (Forest::new(1), Disk::new());
        forest.set_ns(&ns());
        for act in acts {
            match act {
                Act::Build(rows) => build(&mut forest, &disk, rows),
                Act::Write(bucket, key, value) => {
                    let id = id(bucket, key);
                    let at = key_of(&id);
                    let after = value.map(|v| Digest(u128::from(v)));
                    let before = match after {
                        Some(digest) => disk.insert(at.clone(), (id.clone(), digest)),
                        None => disk.remove(&at),
                    };
                    let change = [before.map(|(_, d)| d), after];
                    forest.change(P, slot(position(&id)), &at, &id, change);
                }
            }
        }
        while forest.builds_from(P).is_some() {
            build(&mut forest, &disk, 7);
        }
        prop_assert!(same(&forest, &planted(&disk)));
    }

    /// Level by level two trees lead to exactly the keys that differ.
    #[test]
    fn narrowing_finds_every_difference_and_nothing_else(
        both in proptest::collection::btree_map(0..60_u8, 0..3_u8, 0..40),
        mine in proptest::collection::btree_map(0..60_u8, 0..3_u8, 0..4),
        theirs in proptest::collection::btree_map(0..60_u8, 0..3_u8, 0..4),
    ) {
        let disk = |own: &BTreeMap<u8, u8>| -> Disk {
            let all = both.iter().chain(own).map(|(k, v)| (id(0, *k), Digest(u128::from(*v))));
            all.map(|(id, digest)| (key_of(&id), (id, digest))).collect()
        };
        let (a, b) = (disk(&mine), disk(&theirs));
        let group = Group { partition: P, n: 3 };
        let (x, y) = (planted(&a), planted(&b));
        let (x, y) = (x.tree(group).unwrap(), y.tree(group).unwrap());
        let mut slots = BTreeSet::new();
        for branch in differing(x.branches(), y.branches()) {
            slots.extend(slots_of(branch, differing(x.slots(branch), y.slots(branch))));
        }
        let leaves = |disk: &Disk| -> Vec<Leaf> {
            let mut all: Vec<Leaf> =
                disk.values().filter(|(id, _)| slots.contains(&slot(position(id)))).cloned().collect();
            all.sort();
            all
        };
        let found: BTreeSet<ObjectId> = unlike(&leaves(&a), &leaves(&b)).into_iter().map(|u| u.id).collect();
        let wanted: BTreeSet<ObjectId> = a.iter().chain(&b)
            .filter(|(key, _)| a.get(*key) != b.get(*key))
            .map(|(_, (id, _))| id.clone())
            .collect();
        prop_assert_eq!(found, wanted);
        prop_assert_eq!(x.root() == y.root(), a == b);
    }
}

#[test]
fn swapped_values_and_moved_buckets_are_differences() {
    let (one, two) = (Digest(1), Digest(2));
    assert_ne!(leaf(&id(0, 1), one) ^ leaf(&id(0, 2), two), leaf(&id(0, 1), two) ^ leaf(&id(0, 2), one));
    let [x, y] = [("ab", "c"), ("a", "bc")].map(|(b, k)| leaf(&ObjectId::new(b, k).unwrap(), one));
    assert_ne!(x, y);
}

#[test]
fn the_slot_of_a_name_is_pinned() {
    let of = |bucket: &'static str, key: &'static str| slot(position(&ObjectId::new(bucket, key).unwrap()));
    assert_eq!([of("carts", "anna"), of("b", "k")], [Slot(809), Slot(248)]);
}

#[test]
fn another_n_for_a_bucket_is_another_tag_and_builds_anew() {
    let mut forest = planted(&Disk::from([(key_of(&id(0, 1)), (id(0, 1), Digest(9)))]));
    assert!(forest.stands(P) && !forest.set_ns(&ns()));
    let changed = Ns { default: 3, of: BTreeMap::from([(Bytes::from_static(b"b"), 2)]) };
    assert_ne!(changed.tag(), ns().tag());
    assert!(forest.set_ns(&changed));
    assert!(!forest.stands(P) && forest.root(Group { partition: P, n: 3 }).is_none());
    // A bucket that says what holds anyway changes no tree.
    let said = Ns { default: 3, of: BTreeMap::from([(Bytes::from_static(b"x"), 3)]) };
    assert_eq!(said.tag(), Ns { default: 3, of: BTreeMap::new() }.tag());
}

#[test]
fn a_difference_is_believed_when_it_stays() {
    let (peer, group, apart) = (NodeId(7), Group { partition: P, n: 3 }, Duration::from_secs(2));
    let set = |slots: &[u16]| slots.iter().map(|s| Slot(*s)).collect::<BTreeSet<_>>();
    let at = |seconds: u64| Time(seconds * 1_000_000);
    let mut doubts = Doubts::default();
    assert_eq!(doubts.look(peer, group, &set(&[1, 2]), at(0), apart), set(&[]));
    assert_eq!(doubts.look(peer, group, &set(&[2, 3]), at(1), apart), set(&[]), "1 was equal");
    assert_eq!(doubts.look(peer, group, &set(&[1, 2, 3]), at(2), apart), set(&[2]), "1 begins anew");
    assert_eq!(doubts.trees(peer), 1);
    doubts.settle(peer, group, &set(&[2]));
    assert_eq!(doubts.look(peer, group, &set(&[2, 3]), at(3), apart), set(&[3]), "2 begins anew");
    assert_eq!(
        doubts.look(NodeId(8), group, &set(&[3]), at(9), apart),
        set(&[]),
        "another peer, another doubt"
    );
    assert_eq!(doubts.look(peer, group, &set(&[]), at(4), apart), set(&[]));
    assert_eq!(doubts.trees(peer), 0);
    doubts.keep(&BTreeSet::new());
    assert_eq!(doubts, Doubts::default());
}
