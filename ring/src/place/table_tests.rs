//! The table against its promises, and one table written out: all nodes of all versions must compute this one.

use super::*;
use crate::ids::Zone;
use crate::place::Claimant;
use proptest::prelude::*;

fn table(members: &[Claimant], partitions: u16, counter: u64) -> Table {
    Table::of(&Layout::empty(partitions).evolve(members), counter)
}

fn members(count: u128) -> Vec<Claimant> {
    let member = |number: u128| Claimant {
        id: NodeId(number << 96 | number),
        zone: Zone(["a", "b", "c"][number as usize % 3].to_owned()),
        weight: 1 + number as u32 % 2,
    };
    (1..=count).map(member).collect()
}

#[test]
fn this_table_is_the_same_in_every_version() {
    let table = table(&members(7), 256, 12);
    assert_eq!(table.name().to_string(), "12-eeb37a77552f13d6");
    let owners = |p| table.owners(Partition(p), 3).iter().map(|id| id.0 >> 96).collect::<Vec<_>>();
    assert_eq!([owners(0), owners(1), owners(255)], [[4, 3, 5], [1, 5, 6], [3, 1, 2]]);
}

#[test]
fn an_object_has_owners_and_fallbacks() {
    let table = table(&members(7), 256, 1);
    let partition = table.partition_of(&ObjectId::new("carts", "17850").unwrap());
    assert!(table.contains(partition));
    let (owners, fallbacks) = (table.owners(partition, 3), table.fallbacks(partition, 3));
    assert_eq!((owners.len(), fallbacks.len()), (3, 4));
    let all: BTreeSet<NodeId> = owners.iter().chain(fallbacks).copied().collect();
    assert_eq!(&all, table.nodes());
}

#[test]
fn a_node_owns_what_names_it_as_owner() {
    let table = table(&members(7), 64, 1);
    let owned: usize = table.nodes().iter().map(|&node| table.owned_by(node, 3).count()).sum();
    assert_eq!(owned, 64 * 3);
    assert_eq!(table.owned_by(NodeId(99), 3).count(), 0);
}

#[test]
fn the_digest_tells_tables_apart_and_ignores_the_counter() {
    let table = |count, partitions, counter| table(&members(count), partitions, counter).name();
    assert_eq!(table(5, 256, 1).digest, table(5, 256, 2).digest);
    assert_ne!(table(5, 256, 1).digest, table(6, 256, 1).digest);
    assert_ne!(table(1, 256, 1).digest, table(1, 128, 1).digest);
    assert!(table(5, 256, 2) > table(6, 256, 1));
}

#[test]
fn a_table_of_nobody_names_nobody() {
    let table = table(&[], 8, 0);
    assert!(table.owners(Partition(7), 3).is_empty());
    assert!(table.fallbacks(Partition(7), 3).is_empty());
}

#[test]
#[should_panic(expected = "none of 8 slices")]
fn a_partition_beyond_the_ring_is_a_bug() {
    table(&members(3), 8, 0).owners(Partition(8), 3);
}

#[test]
fn a_name_survives_the_wire() {
    let name = table(&members(3), 8, 7).name();
    assert_eq!(postcard::from_bytes(&postcard::to_stdvec(&name).unwrap()), Ok(name));
}

proptest! {
    #[test]
    fn owners_and_fallbacks_never_overlap(count in 1u128..=40, n in 1usize..=N_MAX) {
        let table = table(&members(count), 16, 0);
        for partition in (0..16).map(Partition) {
            let (owners, fallbacks) = (table.owners(partition, n), table.fallbacks(partition, n));
            prop_assert_eq!(owners.len(), n.min(count as usize));
            prop_assert_eq!(fallbacks.len(), (count as usize - owners.len()).min(N_FALLBACKS_MAX));
            prop_assert!(fallbacks.iter().all(|node| !owners.contains(node)));
        }
    }
}
