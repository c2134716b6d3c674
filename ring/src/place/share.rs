//! What each node should hold: its fair share.
//!
//! A share is not simply weight over total weight. A node keeps a slice once, however heavy it is; a zone that is one
//! of exactly N zones keeps every slice, however light it is. So the shares are poured like water: each vessel fills
//! in proportion to its weight until it is full, and what it can't take rises in the others.
//!
//! ```text
//!   3 owners, zones a (1 node), b (2 nodes), c (2 nodes), all of weight 1, 256 slices:
//!       a ██████████ 256        b ██████████ 128 + 128        c ██████████ 128 + 128
//! ```
//!
//! All in integers, in millionths of a slice (2^-20, to be exact): every node must arrive at the same table, and the
//! rounding of floats is one more thing that would have to be the same everywhere.

/// One slice, in the unit of the shares.
pub(super) const SLICE: u64 = 1 << 20;

/// What each node should hold among the first 1, 2, … `ranks` owners, in [`SLICE`]s: `shares[rank - 1][node]`.
///
/// `nodes` gives each node's weight and the index of its zone.
pub(super) fn shares(nodes: &[(u64, usize)], zones: usize, slices: u64, ranks: usize) -> Vec<Vec<u64>> {
    let full = slices * SLICE;
    let mut by_zone = vec![0; zones];
    for &(weight, zone) in nodes {
        by_zone[zone] += weight;
    }
    let weights: Vec<u64> = nodes.iter().map(|&(weight, _)| weight).collect();
    let mut shares = vec![0; nodes.len()];
    let mut all = Vec::with_capacity(ranks);
    for rank in 1..=ranks {
        let total = full * rank as u64;
        shares = if rank <= zones {
            // No two of the first owners stand in one zone: a zone holds each slice at most once.
            let level = level(&by_zone, &vec![0; zones], full, total);
            let share = |&(weight, zone): &(u64, usize)| {
                u128::from(poured(level, by_zone[zone], 0, full)) * u128::from(weight)
                    / u128::from(by_zone[zone])
            };
            nodes.iter().map(|node| u64::try_from(share(node)).expect("below its zone's share")).collect()
        } else {
            // Every zone has its one, which nobody takes back; the rest goes by weight alone.
            let level = level(&weights, &shares, full, total);
            weights.iter().zip(&shares).map(|(&weight, &low)| poured(level, weight, low, full)).collect()
        };
        all.push(shares.clone());
    }
    all
}

/// What a vessel holds when the water stands at `level`.
fn poured(level: u64, weight: u64, low: u64, full: u64) -> u64 {
    let share = (u128::from(level) * u128::from(weight)) >> 20;
    u64::try_from(share).unwrap_or(u64::MAX).clamp(low, full)
}

/// The highest level at which all vessels together hold no more than `total`.
fn level(weights: &[u64], lows: &[u64], full: u64, total: u64) -> u64 {
    // At the upper end even a vessel of weight 1 is full. 2^12 slices × 2^20 × 2^20 leaves 11 bits of room.
    let (mut low, mut high) = (0, (full << 20) + 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        let held: u64 = weights.iter().zip(lows).map(|(&w, &least)| poured(middle, w, least, full)).sum();
        if held <= total { low = middle } else { high = middle }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(nodes: &[(u64, usize)], ranks: usize, expected: &[u64]) {
        let zones = nodes.iter().map(|node| node.1 + 1).max().unwrap();
        let shares = shares(nodes, zones, 256, ranks);
        let hundredths: Vec<u64> =
            shares[ranks - 1].iter().map(|share| (share * 100 + SLICE / 2) / SLICE).collect();
        assert_eq!(hundredths, expected);
    }

    #[test]
    fn equal_nodes_have_equal_shares() {
        check(&[(1, 0); 4], 1, &[6400; 4]);
        check(&[(1, 0); 4], 3, &[19200; 4]);
    }

    #[test]
    fn weight_counts_in_proportion() {
        check(&[(2, 0), (1, 0), (1, 0)], 1, &[12800, 6400, 6400]);
    }

    #[test]
    fn nobody_holds_a_slice_twice() {
        // By weight alone the first would be due 2.5 of 3 copies; the others share what it can't take.
        check(&[(10, 0), (1, 0), (1, 0)], 2, &[25600, 12800, 12800]);
        check(&[(1, 0), (1, 0), (1, 0)], 3, &[25600; 3]);
    }

    #[test]
    fn a_zone_that_is_needed_everywhere_is_full() {
        check(&[(1, 0), (1, 1), (1, 1), (1, 2), (1, 2)], 3, &[25600, 12800, 12800, 12800, 12800]);
    }

    #[test]
    fn past_the_last_zone_weight_alone_counts() {
        // Two zones, three copies: the lonely node has them all, the other zone holds two of each slice.
        check(&[(1, 0), (1, 1), (1, 1), (1, 1), (1, 1)], 3, &[25600, 12800, 12800, 12800, 12800]);
    }
}
