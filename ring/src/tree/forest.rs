//! All trees of a node, kept up with every write and built from the leaves on disk after a start.
//!
//! A partition is built a page of leaves at a time, in the order of their keys on disk. A write that comes in between
//! counts only if its key lies before the place that the building has reached: the rest will be read with what it wrote.
//! So there is no pause in which writes are missed. What is built anew (all of it when a bucket gets another n, since its keys
//! move to another tree; one partition when a leaf was found to be wrong) can't be compared meanwhile: as long as its leaves
//! take to read, a second for a million. Nobody whose trees go by the old n could be compared with it in any case.

use super::{Slot, Tree, leaf};
use crate::ids::{ObjectId, Partition};
use crate::wire::record::Digest;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use xxhash_rust::xxh3::Xxh3;

/// One tree: the keys of a partition whose buckets have this n.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize)]
pub struct Group {
    /// The partition.
    pub partition: Partition,
    /// The n.
    pub n: u8,
}

/// Which n each bucket has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ns {
    /// That of a bucket that nobody configured.
    pub default: u8,
    /// Those of the others.
    pub of: BTreeMap<Bytes, u8>,
}

impl Ns {
    /// The n of a bucket.
    pub fn of(&self, bucket: &Bytes) -> u8 {
        self.of.get(bucket).copied().unwrap_or(self.default)
    }

    /// Every n that there is.
    pub fn all(&self) -> BTreeSet<u8> {
        self.of.values().copied().chain([self.default]).collect()
    }

    /// A name that two nodes can compare: trees are alike only where this is.
    pub fn tag(&self) -> u64 {
        let mut hash = Xxh3::new();
        hash.update(&[self.default]);
        for (bucket, n) in self.of.iter().filter(|(_, n)| **n != self.default) {
            hash.update(&[*n, bucket.len() as u8]);
            hash.update(bucket);
        }
        hash.digest()
    }
}

/// How far a partition is built.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Built {
    /// Keys below this one; below an empty one there are none.
    Below(Vec<u8>),
    Whole,
}

impl Default for Built {
    fn default() -> Self {
        Built::Below(Vec::new())
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Plot {
    built: Built,
    /// Keys that are built.
    keys: u64,
    trees: BTreeMap<u8, Tree>,
}

/// The trees of all partitions of one node.
#[derive(Clone, Debug)]
pub struct Forest {
    ns: Ns,
    plots: Vec<Plot>,
}

impl Forest {
    /// Nothing is built yet.
    pub fn new(partitions: u16) -> Self {
        Forest { ns: Ns::default(), plots: vec![Plot::default(); usize::from(partitions)] }
    }

    /// Says which n each bucket has. A change moves keys between trees, so all are built anew. Answers whether it did.
    pub fn set_ns(&mut self, ns: &Ns) -> bool {
        if self.ns == *ns {
            return false;
        }
        self.ns = ns.clone();
        self.plots.fill(Plot::default());
        true
    }

    /// What [`Forest::set_ns`] said.
    pub fn ns(&self) -> &Ns {
        &self.ns
    }

    /// A record has changed, in a batch that is written. `key` is where its leaf stands on disk.
    pub fn change(
        &mut self,
        partition: Partition,
        slot: Slot,
        key: &[u8],
        id: &ObjectId,
        [before, after]: [Option<Digest>; 2],
    ) {
        let n = self.ns.of(id.bucket());
        let plot = self.plot(partition);
        let counts = match &plot.built {
            Built::Below(end) => key < end.as_slice(),
            Built::Whole => true,
        };
        if !counts || before == after {
            return;
        }
        plot.keys = plot.keys + u64::from(after.is_some()) - u64::from(before.is_some());
        let tree = plot.trees.entry(n).or_default();
        for digest in [before, after].into_iter().flatten() {
            tree.toggle(slot, leaf(id, digest));
        }
    }

    /// Where the building of a partition goes on: `None` if it stands, otherwise the key on disk to read from (empty: the
    /// partition's first).
    pub fn builds_from(&self, partition: Partition) -> Option<Vec<u8>> {
        match &self.plots[usize::from(partition.0)].built {
            Built::Below(end) => Some(end.clone()),
            Built::Whole => None,
        }
    }

    /// A page of leaves that begins where [`Forest::builds_from`] said; `next` is where the page after it begins.
    pub fn grow(&mut self, partition: Partition, page: &[(Slot, ObjectId, Digest)], next: Option<Vec<u8>>) {
        for (slot, id, digest) in page {
            let n = self.ns.of(id.bucket());
            self.plot(partition).trees.entry(n).or_default().toggle(*slot, leaf(id, *digest));
        }
        let plot = self.plot(partition);
        plot.keys += page.len() as u64;
        plot.built = next.map_or(Built::Whole, Built::Below);
    }

    /// Something is wrong with this partition's trees: they are built again.
    pub fn clear(&mut self, partition: Partition) {
        *self.plot(partition) = Plot::default();
    }

    /// Whether the partition's trees can be compared.
    pub fn stands(&self, partition: Partition) -> bool {
        self.plots[usize::from(partition.0)].built == Built::Whole
    }

    /// How many keys of a partition its trees hold.
    pub fn keys(&self, partition: Partition) -> u64 {
        self.plots[usize::from(partition.0)].keys
    }

    /// How many partitions are not built yet.
    pub fn unbuilt(&self) -> usize {
        self.plots.iter().filter(|plot| plot.built != Built::Whole).count()
    }

    /// A tree that stands; `None` while it is being built. An empty one is made up: it takes no memory.
    pub fn tree(&self, group: Group) -> Option<std::borrow::Cow<'_, Tree>> {
        let plot = self.plots.get(usize::from(group.partition.0))?;
        if plot.built != Built::Whole {
            return None;
        }
        Some(plot.trees.get(&group.n).map_or_else(Default::default, std::borrow::Cow::Borrowed))
    }

    /// The root of a tree that stands.
    pub fn root(&self, group: Group) -> Option<u128> {
        let plot = self.plots.get(usize::from(group.partition.0))?;
        let stands = plot.built == Built::Whole;
        stands.then(|| plot.trees.get(&group.n).map_or(0, Tree::root))
    }

    fn plot(&mut self, partition: Partition) -> &mut Plot {
        &mut self.plots[usize::from(partition.0)]
    }
}
