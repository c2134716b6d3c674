//! What must hold at every write to any disk, looked at from outside the node.
//!
//! | rule | what breaks it |
//! | --- | --- |
//! | a dot is issued once | two writes of one key with the same name: a merge drops one of them |
//! | a dot is synced where it was issued before it is anywhere else, but where the bucket leaves that to the system | a crash there, and it is issued again |
//! | the clock of a copy only grows, except on a disk that may be behind | a copy that has forgotten takes what it is told for new |
//! | an owner lets no record go that holds values, unless it may be behind | a copy that is counted on is gone until somebody compares it |
//! | a hint that counts is synced, but where the bucket leaves that to the system | an acknowledgement relies on it, and a power cut takes it away |
//! | the leaf is the record's | trees that say "equal" where replicas differ, or repair for ever |
//! | no sibling twice, each within its clock | (the decoder of records refuses these) |
//! | preference lists name members, each once; regimes of one name have the same tables on all disks, and one layout follows each settled one | a quorum that is none, or two that do not meet |
//!
//! No code of the node knows of it: batches come by on their way to the disk.

use super::wires::Host;
use bytes::Bytes;
use node::lane::HintRow;
use node::store::{Batch, Change, Family, Store, keys};
use ring::bucket::{BucketSettings, Durability};
use ring::causal::{Actor, Dot};
use ring::ids::{NodeId, ObjectId, Partition};
use ring::members::{Regime, View};
use ring::place::{Table, position};
use ring::record::object::etag;
use ring::record::{Content, Record};
use ring::tree;
use ring::wire::record::{decode, digest, encode};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The most violations that are kept: the first explains the rest.
const KEPT_MAX: usize = 20;

/// The eye. Clones are the same.
#[derive(Clone, Default)]
pub struct Watch {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// What each dot of each key stands for, as far as a disk has ever seen it.
    dots: BTreeMap<(ObjectId, Dot), u64>,
    /// What each name of a version stands for.
    named: BTreeMap<(ObjectId, String), Dot>,
    /// The last batch in which some disk let a record go.
    let_go: BTreeMap<ObjectId, u64>,
    /// How often some node has kept other members.
    views: u64,
    /// Which members each process has kept last, or wanted to: a disk that is full takes none, and its node goes by them all the same.
    knows: BTreeMap<Host, Bytes>,
    /// Until when disks that are slow or full may be behind what their processes know.
    late: BTreeMap<Host, Duration>,
    /// Up to which count each name has issued dots for a key, by what was written to its own disk.
    issued: BTreeMap<(ObjectId, Actor), u64>,
    /// What was written to a disk and is not synced yet, where it has to be before anybody hears of it.
    unsynced: BTreeMap<Host, Vec<Issue>>,
    /// Which layout each settled one was, by its number.
    settled: BTreeMap<u64, u64>,
    /// Whether a disk has been put back that may have forgotten to what it agreed (docs/membership.md).
    has_old_disks: bool,
    /// How often a disk was lost, put back, or spoiled.
    harms: usize,
    violations: Vec<String>,
    /// How many of them were told at their moment.
    told: usize,
    /// Records that were written as something else than they were.
    changes: u64,
    /// Batches that were written.
    batches: u64,
}

/// Whether the node of this disk owns the key or is to own it, by the members that it knows if its disk could not keep them. Who doesn't may
/// let its copy go and take in another within one batch. Where a disk is slow or full, who owned it until just now hears that the change is
/// over everywhere some time before its disk has kept that; then it is asked for nothing any more.
fn concerns<S: Store>(
    store: &S,
    (knows, is_late): (Option<&Bytes>, bool),
    partition: Partition,
    id: &ObjectId,
) -> bool {
    let meta = |key: &[u8]| store.get(Family::Meta, key).ok().flatten();
    let view = knows.cloned().or_else(|| meta(keys::VIEW)).and_then(|bytes| View::decode(&bytes).ok());
    let node = meta(keys::IDENTITY).and_then(|bytes| super::converged::node_id(&bytes));
    let (Some(view), Some(node)) = (view, node) else { return true };
    let n = view.bucket(id.bucket()).map_or_else(|| BucketSettings::default().n, |settings| settings.n);
    let regime = Regime::of(&view);
    let tables =
        [Some(&regime.settled), regime.target.as_ref(), regime.previous.as_ref().filter(|_| !is_late)];
    tables.into_iter().flatten().any(|table| table.owners(partition, usize::from(n)).contains(&node))
}

/// Whether the hint is of a bucket whose writes are synced before they are acknowledged.
fn hinted_syncs_first<S: Store>(store: &S, hint: &[u8]) -> bool {
    let hint = keys::decode_hint_key(&Bytes::copy_from_slice(hint));
    hint.map_or(true, |(_, _, id)| syncs_first(store, &id))
}

/// Whether the key's bucket is one whose writes are synced before they are acknowledged.
fn syncs_first<S: Store>(store: &S, id: &ObjectId) -> bool {
    let view = store.get(Family::Meta, keys::VIEW).ok().flatten().and_then(|bytes| View::decode(&bytes).ok());
    let settings = view.as_ref().and_then(|view| view.bucket(id.bucket()));
    settings.is_none_or(|settings| settings.durability == Durability::Fsync)
}

/// Whether the disk is one that may be behind, whose copies become what the others have.
fn is_behind<S: Store>(store: &S) -> bool {
    store.get(Family::Meta, keys::BEHIND).is_ok_and(|mark| mark.is_some())
}

/// What is wrong with a preference list: it names members, each once, and as many as a bucket may ask for.
fn fault(table: &Table, partition: Partition, view: &View) -> Option<String> {
    let n = usize::from(ring::bucket::N_MAX).min(table.nodes().len());
    let (owners, others) = (table.owners(partition, n), table.fallbacks(partition, n));
    let list = owners.iter().chain(others);
    let named: BTreeSet<NodeId> = list.clone().copied().collect();
    let is_right = owners.len() == n
        && named.len() == owners.len() + others.len()
        && named.iter().all(|node| view.members.contains_key(node));
    (!is_right).then(|| format!("the list of {partition:?} is {:?}", list.collect::<Vec<_>>()))
}

/// Up to which count a node has issued dots of its own for a key.
type Issue = (ObjectId, Actor, u64);

/// Up to which count a node has issued dots of its own, by a record of its disk.
fn issued(here: Option<NodeId>, id: &ObjectId, record: &Record) -> Vec<Issue> {
    let own = record.clock.runs().iter().map(|run| run.actor).filter(|actor| here == Some(actor.node));
    own.map(|actor| (id.clone(), actor, record.clock.top(actor))).collect()
}

/// The records of a batch, as they stood before it.
pub struct Seen {
    rows: Vec<(Bytes, Option<Bytes>)>,
    /// Whose disk it is, and up to which count it issues dots by this batch.
    here: Option<NodeId>,
    issues: Vec<Issue>,
}

impl Watch {
    /// Before a batch is written.
    pub fn before<S: Store>(&self, host: Host, store: &S, batch: &Batch, sync: bool) -> Seen {
        let identity = store.get(Family::Meta, keys::IDENTITY).ok().flatten();
        let here = identity.and_then(|identity| super::converged::node_id(&identity));
        let (mut rows, mut issues) = (Vec::new(), Vec::new());
        for change in &batch.changes {
            if let Change::Put(Family::Hints, key, row) = change
                && HintRow::decode(row).counted
                && !sync
                && hinted_syncs_first(store, key)
            {
                self.broken(format!("{host}: a hint that counts is written without a sync"));
            }
            if let Change::Put(Family::Meta, key, view) = change
                && key == keys::VIEW
            {
                {
                    let mut state = self.lock();
                    state.views += 1;
                    state.knows.insert(host, Bytes::copy_from_slice(view));
                }
                self.look_at_tables(host, view);
            }
            let (Change::Put(Family::Records, key, _) | Change::Delete(Family::Records, key)) = change else {
                continue;
            };
            let old = store.get(Family::Records, key).unwrap_or_default();
            match change {
                Change::Put(_, key, new) => {
                    let written = self.look(host, store, key, old.as_ref(), new);
                    issues.extend(written.into_iter().flat_map(|(id, record)| issued(here, &id, &record)));
                }
                Change::Delete(_, key) => self.look_at_loss(host, store, key, old.as_ref(), batch),
            }
            rows.push((Bytes::copy_from_slice(key), old));
        }
        Seen { rows, here, issues }
    }

    /// After it was written.
    pub fn after<S: Store>(&self, host: Host, store: &S, seen: Seen, sync: bool) {
        self.lock().batches += 1;
        let Seen { rows, here, issues } = seen;
        let (waits, heard): (Vec<Issue>, Vec<Issue>) =
            issues.into_iter().partition(|(id, ..)| !sync && syncs_first(store, id));
        self.note_issued(heard);
        self.lock().unsynced.entry(host).or_default().extend(waits);
        if sync {
            self.synced(host);
        }
        for (key, _) in rows {
            let Ok((partition, id)) = keys::decode_record_key(&key) else { continue };
            let at = keys::leaf_key(partition, tree::slot(position(&id)), &id);
            let (Ok(record), Ok(leaf)) = (store.get(Family::Records, &key), store.get(Family::Leaves, &at))
            else {
                continue;
            };
            if let Some(Ok(record)) = record.as_ref().map(decode) {
                self.note_dots(host, &id, &record);
                self.look_at_origin(host, here, &id, &record);
            }
            let right = record.map(|record| digest(&record).0.to_be_bytes().to_vec());
            if leaf.map(|leaf| leaf.to_vec()) != right {
                self.broken(format!("{host}: the leaf of {id:?} is not its record's"));
            }
        }
    }

    /// From now on one disk may have forgotten to which change it agreed.
    pub fn has_old_disks(&self) {
        self.lock().has_old_disks = true;
    }

    /// Until then a disk is slow or full, or sleeps off what it was asked while it was.
    pub fn is_late_until(&self, host: Host, until: Duration) {
        self.lock().late.insert(host, until);
    }

    /// The members that a process has kept last, or wanted to.
    pub fn known(&self, host: Host) -> Option<Bytes> {
        self.lock().knows.get(&host).cloned()
    }

    /// A process ends, and what is on its disk is all that is known there.
    pub fn ends(&self, host: Host) {
        self.lock().knows.remove(&host);
    }

    fn concerns<S: Store>(&self, host: Host, store: &S, partition: Partition, id: &ObjectId) -> bool {
        let (knows, is_late) = {
            let state = self.lock();
            let now = turmoil::sim_elapsed().unwrap_or_default();
            (state.knows.get(&host).cloned(), state.late.get(&host).is_some_and(|until| now <= *until))
        };
        concerns(store, (knows.as_ref(), is_late), partition, id)
    }

    /// A disk is lost, put back, or spoiled.
    pub fn harmed(&self) {
        self.lock().harms += 1;
    }

    /// How often that was so far, each time to one disk.
    pub fn harms(&self) -> usize {
        self.lock().harms
    }

    /// How many batches were written to any disk so far.
    pub fn batches(&self) -> u64 {
        self.lock().batches
    }

    /// How often some node has kept other members so far.
    pub fn views(&self) -> u64 {
        self.lock().views
    }

    /// What a client is told that a version is called, as the dot of what some disk has.
    pub fn dot_of(&self, id: &ObjectId, named: &str) -> Option<Dot> {
        self.lock().named.get(&(id.clone(), named.to_owned())).copied()
    }

    /// How many batches had been written when some disk last let a record of the key go; 0 if none has.
    pub fn let_go(&self, id: &ObjectId) -> u64 {
        self.lock().let_go.get(id).copied().unwrap_or_default()
    }

    /// How many records became something else so far. Dropping an expired value is no change, nor is forgetting a deletion.
    pub fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// A record that is to be written, and what it is.
    fn look<S: Store>(
        &self,
        host: Host,
        store: &S,
        key: &[u8],
        old: Option<&Bytes>,
        new: &Bytes,
    ) -> Option<(ObjectId, Record)> {
        let Ok((partition, id)) = keys::decode_record_key(&Bytes::copy_from_slice(key)) else {
            self.broken(format!("{host}: a record lies under a key that is none: {}", key.escape_ascii()));
            return None;
        };
        let record = match decode(new) {
            Ok(record) => record,
            Err(error) => {
                self.broken(format!("{host}: {id:?} is written so that it can't be read: {error}"));
                return None;
            }
        };
        if old.map(|old| digest(old)) != Some(digest(new)) {
            self.lock().changes += 1;
        }
        if let Some(Ok(old)) = old.map(decode)
            && !record.clock.covers(&old.clock)
            && self.concerns(host, store, partition, &id)
            && !is_behind(store)
        {
            self.broken(format!(
                "{host}: the clock of {id:?} shrinks from {:?} to {:?}",
                old.clock, record.clock
            ));
        }
        Some((id, record))
    }

    fn look_at_loss<S: Store>(&self, host: Host, store: &S, key: &[u8], old: Option<&Bytes>, batch: &Batch) {
        let (Ok((partition, id)), Some(Ok(old))) =
            (keys::decode_record_key(&Bytes::copy_from_slice(key)), old.map(decode))
        else {
            return;
        };
        {
            let mut state = self.lock();
            let number = state.batches;
            state.let_go.insert(id.clone(), number);
        }
        let comes_back = batch.changes.iter().any(
            |change| matches!(change, Change::Put(Family::Records, again, _) if again.as_slice() == key),
        );
        let stays = |content: &Content| {
            matches!(content, Content::Object(_) | Content::CartAdd { .. } | Content::CartAttributes { .. })
                && content.expires_at().is_none()
        };
        let holds = old.siblings.iter().any(|sibling| stays(&sibling.content));
        if holds && !comes_back && self.concerns(host, store, partition, &id) && !is_behind(store) {
            self.broken(format!("{host}: an owner lets {id:?} go, which holds values"));
        }
    }

    /// By which tables acts whoever keeps these members.
    fn look_at_tables(&self, host: Host, view: &[u8]) {
        let view = match View::decode(view) {
            Ok(view) => view,
            Err(error) => {
                return self
                    .broken(format!("{host}: members are written so that they can't be read: {error}"));
            }
        };
        let regime = Regime::of(&view);
        let tables = [Some(&regime.settled), regime.target.as_ref(), regime.previous.as_ref()];
        for table in tables.into_iter().flatten() {
            if let Some(why) =
                (0..table.partitions()).find_map(|number| fault(table, Partition(number), &view))
            {
                self.broken(format!("{host}: {why}"));
            }
        }
        let (stamp, layout) = (view.settled.stamp, view.settled.layout.digest());
        let settled = *self.lock().settled.entry(stamp).or_insert(layout);
        if settled != layout && !self.lock().has_old_disks {
            self.broken(format!("{host}: two layouts came to stand in one's place, as number {stamp}"));
        }
    }

    /// Only what was written: the dot of a write that failed went nowhere, and may be used again.
    fn note_dots(&self, host: Host, id: &ObjectId, record: &Record) {
        let mut twice = None;
        {
            let mut state = self.lock();
            for sibling in &record.siblings {
                // A marker stands for a value that it doesn't hold any more.
                if matches!(sibling.content, Content::Expired { .. }) {
                    continue;
                }
                let alone = Record { siblings: vec![sibling.clone()], ..Record::default() };
                let means = xxhash_rust::xxh3::xxh3_64(&encode(&alone));
                match state.dots.get(&(id.clone(), sibling.dot)) {
                    Some(known) if *known == means => {}
                    Some(_) => twice = Some(sibling.dot),
                    None => {
                        state.dots.insert((id.clone(), sibling.dot), means);
                        state.named.insert((id.clone(), etag([sibling.dot])), sibling.dot);
                    }
                }
            }
        }
        if let Some(dot) = twice {
            self.broken(format!("{host}: the dot {dot:?} of {id:?} was issued twice"));
        }
    }

    /// A batch that failed may be there all the same when its disk is opened again.
    pub fn may_be_there(&self, seen: Seen) {
        self.note_issued(seen.issues);
    }

    /// All that was written to this disk is synced now.
    pub fn synced(&self, host: Host) {
        let issues = self.lock().unsynced.remove(&host).unwrap_or_default();
        self.note_issued(issues);
    }

    fn note_issued(&self, issues: Vec<Issue>) {
        let mut state = self.lock();
        for (id, actor, count) in issues {
            let issued = state.issued.entry((id, actor)).or_default();
            *issued = count.max(*issued);
        }
    }

    /// A dot goes nowhere before it is written where it was issued, and synced unless the bucket says otherwise.
    fn look_at_origin(&self, host: Host, here: Option<NodeId>, id: &ObjectId, record: &Record) {
        let early = {
            let state = self.lock();
            let is_early = |dot: &Dot| {
                here != Some(dot.actor.node)
                    && state.issued.get(&(id.clone(), dot.actor)).is_none_or(|issued| *issued < dot.count)
            };
            record.siblings.iter().map(|sibling| sibling.dot).find(is_early)
        };
        if let Some(dot) = early {
            self.broken(format!(
                "{host}: the dot {dot:?} of {id:?} is here before it is synced where it was issued"
            ));
        }
    }

    /// Something else that must never be.
    pub fn broken(&self, what: String) {
        let mut state = self.lock();
        if state.violations.len() < KEPT_MAX {
            state.violations.push(what);
        }
    }

    /// What was broken since this was last asked.
    pub fn noticed(&self) -> Vec<String> {
        let mut state = self.lock();
        let noticed = state.violations[state.told..].to_vec();
        state.told = state.violations.len();
        noticed
    }

    /// What was broken so far.
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
