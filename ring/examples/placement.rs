//! Prints the table of docs/placement.md: how even the partitions lie, and what a change of members moves, for clusters of 3
//! to 1,000 nodes. `cargo run --release -p cartwheel-ring --example placement`
#![expect(clippy::print_stdout, reason = "to print a table is all it does")]
#![expect(clippy::disallowed_methods, reason = "how long a layout takes is one of its columns")]

use ring::ids::{NodeId, Partition, Zone};
use ring::place::{Claimant, Layout, SHARE_UNIT, Table, movement};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

fn node(number: u128, zone: u128, weight: u32) -> Claimant {
    // Ids are spread over the whole range as real ones are.
    let id = NodeId(number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835) ^ 0x5555);
    Claimant { id, zone: Zone(format!("zone-{zone}")), weight }
}

fn members(count: u128, zones: u128, unequal: bool) -> Vec<Claimant> {
    let weight = |number: u128| if unequal { [1, 2, 1, 4][number as usize % 4] } else { 1 };
    (1..=count).map(|number| node(number, number % zones, weight(number))).collect()
}

fn owners(layout: &Layout, n: usize) -> Vec<BTreeSet<NodeId>> {
    let table = Table::of(layout, 0);
    let all = (0..layout.partitions()).map(Partition);
    all.map(|partition| table.owners(partition, n).iter().copied().collect()).collect()
}

fn loads(layout: &Layout, n: usize) -> BTreeMap<NodeId, u64> {
    let mut loads: BTreeMap<NodeId, u64> = layout.members().iter().map(|member| (member.id, 0)).collect();
    for id in owners(layout, n).into_iter().flatten() {
        *loads.entry(id).or_default() += 1;
    }
    loads
}

/// What the fullest node holds over the greater of its fair share and that share rounded up.
fn fullest(layout: &Layout, n: usize) -> f64 {
    let shares = layout.fair_shares(n);
    let over = |(id, load): (NodeId, u64)| load as f64 / shares[&id].div_ceil(SHARE_UNIT).max(1) as f64;
    loads(layout, n).into_iter().map(over).fold(0.0, f64::max)
}

/// The copies that move at n = 3, over the least that could.
fn moves(before: &Layout, after: &Layout) -> f64 {
    let (moved, least) = movement(before, after);
    if moved == least { 1.0 } else { moved as f64 / least as f64 }
}

fn main() {
    println!(
        "| nodes | partitions | zones | weights | fullest n=3 | n=1 | n=2 | join | leave | replace | ms |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let sizes = [(3, 256), (4, 256), (5, 256), (10, 256), (30, 256), (100, 1024), (300, 4096), (1000, 4096)];
    for (count, partitions) in sizes {
        for (zones, unequal) in [1, 2, 3, 4, 5].into_iter().flat_map(|zones| [(zones, false), (zones, true)])
        {
            if count >= zones {
                line(count, partitions, zones, unequal);
            }
        }
    }
}

fn line(count: u128, partitions: u16, zones: u128, unequal: bool) {
    let now = members(count, zones, unequal);
    let layout = Layout::empty(partitions).evolve(&now);
    let began = Instant::now();
    let joined = layout.evolve(&members(count + 1, zones, unequal));
    let ms = began.elapsed().as_millis();
    let left = layout.evolve(&now[1..]);
    let like = node(9999, 1 % zones, now[0].weight);
    let replaced: Vec<Claimant> = now[1..].iter().cloned().chain([like]).collect();
    let replaced = layout.evolve(&replaced);
    let full = [3, 1, 2].map(|n| format!("{:.2}", fullest(&layout, n))).join(" | ");
    let moves = [joined, left, replaced].map(|after| format!("{:.2}", moves(&layout, &after))).join(" | ");
    let weights = if unequal { "1, 2, 4" } else { "equal" };
    println!("| {count} | {partitions} | {zones} | {weights} | {full} | {moves} | {ms} |");
}
