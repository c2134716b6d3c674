//! What hints are kept here, counted as they come and go: for how many keys, of how many bytes, and whether they may be given up.
//!
//! The rows on disk are the truth; this is their sum, changed by the lane in the order of its batches and made anew at each
//! start. So the bound on hints, the question whether a node that leaves still keeps one, and what is shown of them cost no
//! scan.

use crate::limits::{HINT_SCAN_BYTES, HINT_SCAN_ROWS};
use crate::store::{Family, Store, StoreError, keys};
use bytes::Bytes;
use ring::ids::{NodeId, Partition};
use ring::time::Wall;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

/// Shared with those who look.
pub type Hints = Arc<Mutex<Ledger>>;

/// A hint's row: since when, whether it counted towards somebody's W, and how many bytes its record had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HintRow {
    /// When it was first kept.
    pub since: Wall,
    /// Whether an acknowledgement relies on it: then it is never given up.
    pub counted: bool,
    /// About how many bytes its record had.
    pub bytes: u32,
}

impl HintRow {
    /// As it stands on disk.
    pub fn encode(self) -> Bytes {
        let mut out = Vec::with_capacity(13);
        out.extend_from_slice(&self.since.0.to_be_bytes());
        out.push(u8::from(self.counted));
        out.extend_from_slice(&self.bytes.to_be_bytes());
        Bytes::from(out)
    }

    /// Reads it back. What can't be read is taken for one that counted: it is kept.
    pub fn decode(bytes: &[u8]) -> HintRow {
        let row = || {
            let (since, rest) = bytes.split_first_chunk::<8>()?;
            let (counted, rest) = rest.split_first()?;
            let bytes = u32::from_be_bytes(rest.try_into().ok()?);
            Some(HintRow { since: Wall(u64::from_be_bytes(*since)), counted: *counted != 0, bytes })
        };
        row().unwrap_or(HintRow { since: Wall(0), counted: true, bytes: 0 })
    }
}

/// The hints of one partition for one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Kept {
    /// Keys.
    pub rows: u64,
    /// Of them such as an acknowledgement relies on.
    pub counted: u64,
    /// Bytes of their records.
    pub bytes: u64,
    /// When the first of them was kept since there were none.
    pub since: Wall,
}

/// A row that has come, changed or gone.
#[derive(Clone, Copy, Debug)]
pub struct HintChange {
    /// For whom.
    pub target: NodeId,
    /// The key's partition.
    pub partition: Partition,
    /// What was there.
    pub before: Option<HintRow>,
    /// What is there.
    pub after: Option<HintRow>,
}

/// The sum of all rows.
#[derive(Debug)]
pub struct Ledger {
    of: BTreeMap<(NodeId, Partition), Kept>,
    bytes: u64,
    bytes_max: u64,
    /// Hints that were given up, or not taken, since the start.
    pub dropped: u64,
    /// Partitions of which one was: with whom they are still to be compared; nobody yet, if everybody.
    pub urgent: BTreeMap<Partition, Option<BTreeSet<NodeId>>>,
}

impl Ledger {
    /// Nothing is kept, and so many bytes may be.
    pub fn new(bytes_max: u64) -> Ledger {
        Ledger { of: BTreeMap::new(), bytes: 0, bytes_max, dropped: 0, urgent: BTreeMap::new() }
    }

    /// What the disk holds.
    pub fn load<S: Store>(store: &S, bytes_max: u64) -> Result<Ledger, StoreError> {
        let mut ledger = Ledger::new(bytes_max);
        let mut start = Vec::new();
        loop {
            let rows = store.scan(Family::Hints, &start, None, HINT_SCAN_ROWS, HINT_SCAN_BYTES)?;
            let Some((last, _)) = rows.last() else { return Ok(ledger) };
            start = keys::after(last);
            for (key, value) in &rows {
                if let Ok((target, partition, _)) = keys::decode_hint_key(key) {
                    let after = Some(HintRow::decode(value));
                    ledger.apply(&HintChange { target, partition, before: None, after });
                }
            }
        }
    }

    /// A batch with this change was written.
    pub fn apply(&mut self, change: &HintChange) {
        let kept = self.of.entry((change.target, change.partition)).or_default();
        if let Some(row) = change.before {
            kept.rows = kept.rows.saturating_sub(1);
            kept.counted = kept.counted.saturating_sub(u64::from(row.counted));
            kept.bytes = kept.bytes.saturating_sub(u64::from(row.bytes));
            self.bytes = self.bytes.saturating_sub(u64::from(row.bytes));
        }
        if let Some(row) = change.after {
            kept.since = if kept.rows == 0 { row.since } else { kept.since.min(row.since) };
            kept.rows += 1;
            kept.counted += u64::from(row.counted);
            kept.bytes += u64::from(row.bytes);
            self.bytes += u64::from(row.bytes);
        }
        if kept.rows == 0 {
            self.of.remove(&(change.target, change.partition));
        }
    }

    /// One was given up or not taken: the exchange must find what it would have brought.
    pub fn drop_one(&mut self, partition: Partition) {
        self.dropped += 1;
        self.urgent.insert(partition, None);
    }

    /// Whoever went through all that is kept for a node since then says which of it is the oldest, by partition. What came and went before
    /// counts no longer.
    pub fn saw(&mut self, target: NodeId, oldest: &BTreeMap<Partition, Wall>, since: Wall) {
        let of_target = self.of.range_mut((target, Partition(0))..=(target, Partition(u16::MAX)));
        for ((_, partition), kept) in of_target {
            let seen = oldest.get(partition).copied().unwrap_or(since);
            kept.since = kept.since.max(seen.min(since));
        }
    }

    /// Whether so many bytes more may be kept.
    pub fn has_room(&self, bytes: u64) -> bool {
        self.bytes + bytes <= self.bytes_max
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// Whether anything of a partition is kept, for whomever.
    pub fn has_partition(&self, partition: Partition) -> bool {
        self.of.keys().any(|(_, of)| *of == partition)
    }

    /// For whom anything is kept.
    pub fn targets(&self) -> BTreeSet<NodeId> {
        self.of.keys().map(|(target, _)| *target).collect()
    }

    /// What is kept for one node.
    pub fn of_target(&self, target: NodeId) -> Kept {
        let mut sum = Kept::default();
        let first = (target, Partition(0));
        for ((_, _), kept) in self.of.range(first..=(target, Partition(u16::MAX))) {
            sum.since = if sum.rows == 0 { kept.since } else { sum.since.min(kept.since) };
            sum.rows += kept.rows;
            sum.counted += kept.counted;
            sum.bytes += kept.bytes;
        }
        sum
    }

    /// Bytes that are kept, and how many may be.
    pub fn bytes(&self) -> (u64, u64) {
        (self.bytes, self.bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(since: u64, counted: bool, bytes: u32) -> HintRow {
        HintRow { since: Wall(since), counted, bytes }
    }

    fn change(target: u128, before: Option<HintRow>, after: Option<HintRow>) -> HintChange {
        HintChange { target: NodeId(target), partition: Partition(3), before, after }
    }

    #[test]
    fn rows_are_read_back_and_what_can_t_be_read_is_kept() {
        let one = row(7, true, 1000);
        assert_eq!(HintRow::decode(&one.encode()), one);
        assert!(HintRow::decode(b"short").counted);
    }

    #[test]
    fn what_has_gone_makes_nothing_older_than_it_is() {
        let mut ledger = Ledger::new(100);
        ledger.apply(&change(1, None, Some(row(5, false, 1))));
        ledger.apply(&change(1, None, Some(row(8, false, 1))));
        ledger.apply(&change(2, None, Some(row(3, false, 1))));
        ledger.apply(&change(1, Some(row(5, false, 1)), None));
        ledger.saw(NodeId(1), &[(Partition(3), Wall(8))].into(), Wall(9));
        let since = |ledger: &Ledger, target| ledger.of_target(NodeId(target)).since;
        assert_eq!([since(&ledger, 1), since(&ledger, 2)], [Wall(8), Wall(3)]);
        // One came after it had been looked for.
        ledger.saw(NodeId(1), &BTreeMap::new(), Wall(9));
        assert_eq!(since(&ledger, 1), Wall(9));
        ledger.saw(NodeId(1), &[(Partition(3), Wall(4))].into(), Wall(9));
        assert_eq!(since(&ledger, 1), Wall(9), "a calendar that was set back");
    }

    #[test]
    fn the_sum_follows_the_rows() {
        let mut ledger = Ledger::new(100);
        assert!(ledger.is_empty() && ledger.has_room(100) && !ledger.has_room(101));
        ledger.apply(&change(1, None, Some(row(5, false, 40))));
        ledger.apply(&change(1, None, Some(row(4, true, 20))));
        assert_eq!(ledger.of_target(NodeId(1)), Kept { rows: 2, counted: 1, bytes: 60, since: Wall(4) });
        assert!(!ledger.has_room(41) && ledger.has_partition(Partition(3)));
        ledger.apply(&change(1, Some(row(5, false, 40)), Some(row(5, true, 50))));
        assert_eq!(ledger.of_target(NodeId(1)).counted, 2);
        ledger.apply(&change(1, Some(row(5, true, 50)), None));
        ledger.apply(&change(1, Some(row(4, true, 20)), None));
        assert!(ledger.is_empty() && ledger.bytes() == (0, 100));
    }
}
