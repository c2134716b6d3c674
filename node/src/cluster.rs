//! What this node knows of the cluster: the view, the table that follows from it, and whom it believes to be down.
//!
//! Readers take a snapshot without a lock; one mutex orders the writers. The tables are computed here from the view and
//! from nothing else, so two nodes with the same view have the same tables without asking each other.

use crate::limits::SWIM_GRACE;
use arc_swap::ArcSwap;
use bytes::Bytes;
use ring::bucket::BucketSettings;
use ring::coord::Plan;
use ring::ids::{NodeId, ObjectId};
use ring::members::{Regime, Status, View};
use ring::place::Table;
use ring::planted::{self, Bug};
use ring::tree::Ns;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// A view and its tables, which belong together.
#[derive(Debug)]
pub struct Snapshot {
    /// Members and bucket settings.
    pub view: View,
    /// By which tables to act.
    pub regime: Arc<Regime>,
    /// Who owns what and has all of it: the settled one of them.
    pub table: Arc<Table>,
    /// The settings of a bucket that nobody configured: the cluster's, or this node's where the cluster has none yet.
    pub defaults: BucketSettings,
    /// Which n each bucket has: those with another than the default are named.
    pub ns: Ns,
}

impl Snapshot {
    fn of(view: View, given: &BucketSettings, before: Option<&Snapshot>) -> Snapshot {
        let defaults = view.defaults.as_ref().unwrap_or(given).clone();
        // Most changes of a view move nothing, and to place a thousand nodes takes a while.
        let regime = match before.filter(|before| Regime::same(&before.view, &view)) {
            Some(before) => Arc::clone(&before.regime),
            None => Arc::new(Regime::of(&view)),
        };
        let table = Arc::clone(&regime.settled);
        // A bucket that says so and one that says nothing have the same trees: else each new bucket would have all built anew.
        let other = view.buckets_configured().filter(|(_, settings)| settings.n != defaults.n);
        let of = other.map(|(name, settings)| (name.clone(), settings.n)).collect();
        let ns = Ns { default: defaults.n, of };
        Snapshot { view, regime, table, defaults, ns }
    }

    /// The greatest n of any bucket: so many members there must be.
    pub fn n_most(&self) -> usize {
        self.ns.all().into_iter().max().map_or(1, usize::from)
    }

    /// Whether the node has been told to go and is gone for the others.
    pub fn is_removed(&self, node: NodeId) -> bool {
        self.view.members.get(&node).is_some_and(|member| member.status == Status::Removed)
    }

    /// Whether the node is on its way out.
    pub fn leaves(&self, node: NodeId) -> bool {
        self.view.members.get(&node).is_some_and(|member| member.status.leaves())
    }

    /// The settings that hold for a bucket.
    pub fn settings(&self, bucket: &Bytes) -> &BucketSettings {
        self.view.bucket(bucket).unwrap_or(&self.defaults)
    }
}

/// The cluster as this node sees it.
#[derive(Debug)]
pub struct Cluster {
    me: NodeId,
    current: ArcSwap<Snapshot>,
    given: BucketSettings,
    doubted: ArcSwap<BTreeSet<NodeId>>,
    late: ArcSwap<BTreeSet<NodeId>>,
    /// Whether the failure detector has listened for long enough to have an opinion.
    listened: watch::Sender<bool>,
    writer: Mutex<()>,
    changed: watch::Sender<u64>,
}

impl Cluster {
    /// Starts from a view that was just made, handed over, or read from the disk. `given` are the defaults of this node's own file.
    pub fn new(me: NodeId, view: View, given: BucketSettings) -> Self {
        Cluster {
            me,
            current: ArcSwap::from_pointee(Snapshot::of(view, &given, None)),
            given,
            doubted: ArcSwap::from_pointee(BTreeSet::new()),
            late: ArcSwap::default(),
            listened: watch::channel(false).0,
            writer: Mutex::new(()),
            changed: watch::channel(0).0,
        }
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// The view and table of this moment.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Fires after every change of the view.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Changes the view. If nothing came of it, nobody is told.
    pub fn update<E>(&self, change: impl FnOnce(&mut View) -> Result<(), E>) -> Result<bool, E> {
        let _one = self.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let old = self.current.load();
        let mut view = old.view.clone();
        change(&mut view)?;
        if view == old.view {
            return Ok(false);
        }
        self.current.store(Arc::new(Snapshot::of(view, &self.given, Some(&old))));
        self.changed.send_modify(|n| *n += 1);
        Ok(true)
    }

    /// Whom the failure detector believes to be down.
    pub fn doubted(&self) -> Arc<BTreeSet<NodeId>> {
        self.doubted.load_full()
    }

    /// The failure detector has changed its mind.
    pub fn set_doubted(&self, doubted: BTreeSet<NodeId>) {
        self.doubted.store(Arc::new(doubted));
        self.changed.send_modify(|n| *n += 1);
    }

    /// Who owes this node an answer for so long that others are better asked first.
    pub fn late(&self) -> Arc<BTreeSet<NodeId>> {
        self.late.load_full()
    }

    /// Somebody is late, or no longer.
    pub fn set_late(&self, late: BTreeSet<NodeId>) {
        self.late.store(Arc::new(late));
    }

    /// The failure detector has listened for a while: from now on its silence about somebody means something.
    pub fn set_listened(&self) {
        self.listened.send_if_modified(|listened| !std::mem::replace(listened, true));
    }

    /// Whom the failure detector believes to be down, once it can know. A node that has just begun doubts nobody, which is no
    /// reason to wait for the dead.
    pub async fn doubted_surely(&self) -> Arc<BTreeSet<NodeId>> {
        let mut listened = self.listened.subscribe();
        // After twice the grace there is no detector that could have one.
        let _ = tokio::time::timeout(2 * SWIM_GRACE, listened.wait_for(|listened| *listened)).await;
        self.doubted()
    }

    /// Whom a request for a key concerns.
    pub fn plan(&self, snapshot: &Snapshot, id: &ObjectId) -> Plan {
        let n = usize::from(snapshot.settings(id.bucket()).n);
        let partition = snapshot.table.partition_of(id);
        let doubted = self.doubted.load();
        let mut owners = snapshot.table.owners(partition, n).to_vec();
        let mut also = snapshot.regime.also(partition, n);
        if planted::is(Bug::ReadsTarget) && !also.is_empty() {
            std::mem::swap(&mut owners, &mut also[0]);
        }
        let mut pending: Vec<NodeId> =
            also.iter().flatten().copied().filter(|o| !owners.contains(o)).collect();
        pending.sort_unstable();
        pending.dedup();
        // Who leaves would have to hand a hint on at once.
        let able =
            |node: &&NodeId| !owners.contains(node) && !pending.contains(node) && !snapshot.leaves(**node);
        let fallbacks = snapshot.table.fallbacks(partition, n).iter().filter(able).copied().collect();
        let doubted = doubted.iter().copied().collect();
        let late = self.late.load().iter().copied().collect();
        Plan { me: self.me, owners, also, fallbacks, pending, doubted, late }
    }
}
