//! By which tables the cluster acts at a moment: one while nothing moves, two while something does.
//!
//! ```text
//!   settled ──── a change is committed ────► settled + target ── everybody acts by both, the newcomers are filled ──►
//!   settled' + previous ── everybody has heard ──► settled'
//! ```
//!
//! Reads are answered by the settled owners, who have everything. A write reaches its quorum among the owners of **each** of
//! the tables: so whatever is acknowledged is found by a quorum of the settled owners before the change and after it, also
//! by a node that has not heard yet that the change is over. The target is not negotiated: it is what the settled layout
//! becomes with the members as they are, so two commits on two sides of a partition merge into one target everywhere.
//!
//! A regime has a name. A node that acts by an older one than the node it asks is told so, and asks again by the newer. The
//! name is made of the versions of all that the tables follow from, and not of the tables alone: a change that is called off
//! leads to the tables of before under a new name. So nobody who acts by a regime ever comes back to one that it has left, and
//! what a member says of itself by name stays true (`settle`).

use super::member::Seat;
use super::status::Status;
use super::view::View;
use crate::ids::{NodeId, Partition};
use crate::place::{Layout, Table, TableName};
use std::collections::BTreeSet;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// The tables of one moment.
#[derive(Clone, Debug)]
pub struct Regime {
    /// Whose owners have everything.
    pub settled: Arc<Table>,
    /// What it is becoming, if anything.
    pub target: Option<Arc<Table>>,
    /// What it has just been, until everybody knows that it is no longer.
    pub previous: Option<Arc<Table>>,
    /// Who is to be removed in the end.
    pub going: BTreeSet<NodeId>,
    /// Which settled layout this is.
    pub stamp: u64,
    /// The layout of the target: the settled one while nothing moves.
    pub layout: Arc<Layout>,
    name: TableName,
}

impl Regime {
    /// The regime of a view. The same view makes the same regime everywhere.
    pub fn of(view: &View) -> Regime {
        let settled = &view.settled;
        let layout = view.target();
        let previous = settled.previous.as_ref();
        let digests = [settled.layout.digest(), layout.digest(), previous.map_or(0, Layout::digest)];
        let named = (settled.stamp, digests, standing(view));
        let bytes = postcard::to_stdvec(&named).expect("a regime's name is made of plain data");
        let counter = view.table_counter();
        let going = view.members.iter().filter(|(_, member)| member.status.goes());
        let table = |layout: &Layout| Arc::new(Table::of(layout, counter));
        Regime {
            settled: table(&settled.layout),
            target: (layout != settled.layout).then(|| table(&layout)),
            previous: previous.map(table),
            going: going.map(|(id, _)| *id).collect(),
            stamp: settled.stamp,
            layout: Arc::new(layout),
            name: TableName { counter, digest: xxh3_64(&bytes) },
        }
    }

    /// Whether two views have the same regime, which is then not computed again.
    pub fn same(a: &View, b: &View) -> bool {
        a.settled == b.settled && standing(a) == standing(b) && a.table_counter() == b.table_counter()
    }

    /// What to call it in every request between nodes.
    pub fn name(&self) -> TableName {
        self.name
    }

    /// Whether nothing moves.
    pub fn is_settled(&self) -> bool {
        self.target.is_none() && self.previous.is_none() && self.going.is_empty()
    }

    /// The owners of a partition in each further table that a write must satisfy, where they are not the settled ones.
    pub fn also(&self, partition: Partition, n: usize) -> Vec<Vec<NodeId>> {
        let owners = sorted(self.settled.owners(partition, n));
        let further = [&self.target, &self.previous].into_iter().flatten();
        let mut also: Vec<Vec<NodeId>> = Vec::new();
        for table in further {
            let set = table.owners(partition, n).to_vec();
            if sorted(&set) != owners && also.iter().all(|other| sorted(other) != sorted(&set)) {
                also.push(set);
            }
        }
        also
    }

    /// Everybody who has a part in any of the tables.
    pub fn nodes(&self) -> BTreeSet<NodeId> {
        let tables = [Some(&self.settled), self.target.as_ref(), self.previous.as_ref()];
        tables.into_iter().flatten().flat_map(|table| table.nodes().iter().copied()).collect()
    }

    /// Whether a node owns the partition in any of the tables.
    pub fn concerns(&self, node: NodeId, partition: Partition, n: usize) -> bool {
        let tables = [Some(&self.settled), self.target.as_ref(), self.previous.as_ref()];
        tables.into_iter().flatten().any(|table| table.owners(partition, n).contains(&node))
    }

    /// The partitions that a node takes over in buckets of `n`.
    pub fn gained_by(&self, node: NodeId, n: usize) -> Vec<Partition> {
        let Some(target) = &self.target else { return Vec::new() };
        let gained = |partition: &Partition| !self.settled.owners(*partition, n).contains(&node);
        target.owned_by(node, n).filter(gained).collect()
    }
}

/// Everybody who claims a part or leaves, as it was decided. Rows only grow, so this never comes back to what it was.
fn standing(view: &View) -> Vec<(NodeId, Status, u64, &Seat)> {
    let stands = |status: Status| status.claims() || status.leaves();
    let rows = view.members.iter().filter(|(_, member)| stands(member.status));
    rows.map(|(id, member)| (*id, member.status, member.status_version, &member.seat)).collect()
}

fn sorted(nodes: &[NodeId]) -> Vec<NodeId> {
    let mut nodes = nodes.to_vec();
    nodes.sort_unstable();
    nodes
}
