//! The lane over the honest disk: what it says is durable survives a crash, and nothing else is promised.

use super::{Core, Crowded, Due, Gaps, Hints, Job, Lane, Ledger, Shared, Taken, Trees};
use crate::cluster::Cluster;
use crate::limits::GAPS_MAX;
use crate::store::mem::{Fault, MemDisk, MemStore};
use crate::store::{Batch, Family, Store, keys};
use bytes::Bytes;
use ring::bucket::{BlindWrites, BucketSettings};
use ring::causal::{Context, Epochs};
use ring::ids::{ClusterId, NodeId, ObjectId, Partition, Zone};
use ring::members::{Description, Status, View};
use ring::place::{partition, position};
use ring::record::write::{CONTEXT_RUNS_MAX, Write};
use ring::time::Wall;
use ring::tree::{Forest, Group, SLOTS, Slot, slot};
use ring::wire::peer::{Action, Refusal};
use ring::wire::record::{Digest, decode, digest, encode};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

#[path = "derive_tests.rs"]
mod derive;
#[path = "hint_tests.rs"]
mod handing;
#[path = "queue_tests.rs"]
mod queue;
#[path = "sift_tests.rs"]
mod sift;

const ME: NodeId = NodeId(7);
const OTHER: NodeId = NodeId(8);
const PARTITIONS: u16 = 256;
const HINT_BYTES_MAX: u64 = 1000;

struct Bench {
    disk: MemDisk,
    store: MemStore,
    lane: Lane,
    gaps: Gaps,
    trees: Trees,
    hints: Hints,
    cluster: Arc<Cluster>,
    earliest: Due,
    crowded: Crowded,
    failed: watch::Receiver<Option<String>>,
}

impl Bench {
    fn on(disk: MemDisk) -> Bench {
        let store = disk.open().unwrap();
        let leased = store.get(Family::Meta, keys::EPOCH_LEASE).unwrap();
        let leased = leased.map_or(0, |b| u64::from_be_bytes(b.as_ref().try_into().unwrap()));
        let epochs = Epochs::at_start(leased + 1, 0, false);
        let mut lease = Batch::default();
        lease.put(Family::Meta, keys::EPOCH_LEASE, Bytes::copy_from_slice(&epochs.lease().to_be_bytes()));
        store.write(lease, true).unwrap();
        let (tell, failed) = watch::channel(None);
        let trees: Trees = Arc::new(Mutex::new(Forest::new(PARTITIONS)));
        let hints = Arc::new(Mutex::new(Ledger::load(&store, HINT_BYTES_MAX).unwrap()));
        let let_go = (0..PARTITIONS).map(|_| AtomicU64::new(0)).collect();
        let mut view = View::new(ClusterId(1), PARTITIONS);
        for node in [ME, OTHER] {
            let (http, peer) = (String::new(), String::new());
            let said =
                Description { http, peer, zone: Zone(String::new()), weight: 1, starts: 1, boot_id: 1 };
            view.admit(node, said).unwrap();
            view.set_status(node, Status::Up).unwrap();
        }
        let cluster = Arc::new(Cluster::new(ME, view, BucketSettings::default()));
        let (trees_too, hints_too) = (Arc::clone(&trees), Arc::clone(&hints));
        let (due, stray) = (Due::default(), Arc::<AtomicU64>::default());
        let (gaps, crowded) = (Gaps::load(&store).unwrap(), Crowded::default());
        let shared = Shared {
            trees: trees_too,
            hints: hints_too,
            let_go,
            cluster: Arc::clone(&cluster),
            due: Arc::clone(&due),
            stray: Arc::clone(&stray),
            gaps: gaps.clone(),
            crowded: Arc::clone(&crowded),
        };
        let core = Core::new(store.clone(), ME, epochs, PARTITIONS, shared, tell);
        let (lane, _done) = Lane::start(core, false);
        Bench { disk, store, lane, trees, gaps, hints, cluster, earliest: due, crowded, failed }
    }

    async fn put(
        &self,
        id: &ObjectId,
        value: &str,
        seen: Option<Context>,
        sync: bool,
    ) -> Result<Taken, Refusal> {
        self.put_for(id, value, seen, sync, None).await
    }

    async fn put_for(
        &self,
        id: &ObjectId,
        value: &str,
        seen: Option<Context>,
        sync: bool,
        ttl_ms: Option<u64>,
    ) -> Result<Taken, Refusal> {
        let action = Action::Put { content_type: "text/plain".into(), meta: vec![], ttl_ms };
        self.write(id, action, value, seen, sync).await
    }

    async fn write(
        &self,
        id: &ObjectId,
        action: Action,
        value: &str,
        seen: Option<Context>,
        sync: bool,
    ) -> Result<Taken, Refusal> {
        let write = Write {
            action,
            body: Bytes::copy_from_slice(value.as_bytes()),
            seen,
            ttl_default: None,
            blind: BlindWrites::Siblings,
            siblings_max: 100,
            context_runs_max: CONTEXT_RUNS_MAX,
        };
        let (id, now) = (id.clone(), Wall(1));
        self.lane
            .run(|reply| Job::Coordinate { id, write: Box::new(write), now, hint_for: None, sync, reply })
            .await
    }

    async fn hint(&self, id: &ObjectId) -> bool {
        let id = id.clone();
        self.lane.run(|reply| Job::KeepHint { id, owner: OTHER, now: Wall(1), reply }).await.unwrap()
    }

    async fn drop_hint(&self, id: &ObjectId, delivered: Option<ring::wire::record::Digest>) -> bool {
        let id = id.clone();
        let (drop_copy_unless, regime) = (Some(vec![ME, OTHER]), self.regime());
        self.lane
            .run(|reply| Job::DropHint { id, owner: OTHER, delivered, drop_copy_unless, regime, reply })
            .await
            .unwrap()
    }

    /// The name of the tables of this moment.
    fn regime(&self) -> u64 {
        self.cluster.snapshot().regime.name().digest
    }

    /// A member is on its way out: from now on other tables are acted by.
    fn leaves(&self, node: NodeId) {
        self.cluster.update(|view| view.set_status(node, Status::Leaving).map(drop)).unwrap();
    }

    fn bytes(&self, id: &ObjectId) -> Option<Bytes> {
        let key = keys::record_key(partition(position(id), PARTITIONS), id);
        self.store.get(Family::Records, &key).unwrap()
    }

    fn due(&self) -> Vec<(Wall, ObjectId)> {
        let rows = self.store.scan(Family::Due, b"", None, usize::MAX, usize::MAX).unwrap();
        let read = |(key, _): &(Bytes, Bytes)| keys::decode_due_key(key).map(|(at, _, id)| (at, id));
        rows.iter().map(|row| read(row).unwrap()).collect()
    }

    fn has_hint(&self, id: &ObjectId) -> bool {
        let key = keys::hint_key(OTHER, partition(position(id), PARTITIONS), id);
        self.store.get(Family::Hints, &key).unwrap().is_some()
    }
}

fn id(key: &str) -> ObjectId {
    ObjectId::new("b", key.to_owned()).unwrap()
}

#[tokio::test]
async fn what_was_said_to_be_durable_survives_a_crash() {
    let bench = Bench::on(MemDisk::new());
    let synced = bench.put(&id("k"), "one", None, true).await.unwrap();
    assert!(synced.durable);
    // The first write that nobody syncs is synced all the same, to say that there will be such writes.
    bench.put(&id("first"), "x", None, false).await.unwrap();
    let loose = bench.put(&id("loose"), "two", None, false).await.unwrap();
    assert!(!loose.durable);
    bench.disk.crash();
    let again = Bench::on(bench.disk);
    let record = decode(&again.bytes(&id("k")).unwrap()).unwrap();
    assert_eq!(record, *synced.record);
    assert_eq!(again.bytes(&id("loose")), None);
    assert!(again.store.get(Family::Meta, keys::UNSYNCED).unwrap().is_some());
}

#[tokio::test]
async fn writes_of_one_batch_see_each_other() {
    let bench = Bench::on(MemDisk::new());
    let key = id("k");
    let puts = (0..20).map(|n| bench.put(&key, if n % 2 == 0 { "even" } else { "odd" }, None, true));
    let taken: Vec<Taken> =
        futures_util::future::join_all(puts).await.into_iter().map(Result::unwrap).collect();
    let mut dots: Vec<_> = taken.iter().flat_map(|t| t.dots.clone()).collect();
    dots.sort_unstable();
    dots.dedup();
    assert_eq!(dots.len(), 20, "every write has a dot of its own");
    let record = decode(&bench.bytes(&key).unwrap()).unwrap();
    assert_eq!(record.siblings.len(), 20, "blind writes stand side by side");
}

#[tokio::test]
async fn the_leaf_is_the_digest_of_the_record() {
    let bench = Bench::on(MemDisk::new());
    let key = id("k");
    for value in ["a", "b", "c"] {
        bench.put(&key, value, None, true).await.unwrap();
        let leaf = bench.store.get(Family::Leaves, &leaf_of(&key)).unwrap().unwrap();
        assert_eq!(leaf.as_ref(), digest(&bench.bytes(&key).unwrap()).0.to_be_bytes());
    }
}

#[tokio::test]
async fn an_epoch_is_never_issued_twice_over_crashes() {
    let mut disk = MemDisk::new();
    let mut seen = std::collections::BTreeSet::new();
    for start in 0..5 {
        let bench = Bench::on(disk);
        for n in 0..3 {
            // A key without a local copy draws a fresh epoch.
            let taken = bench.put(&id(&format!("{start}-{n}")), "v", None, true).await.unwrap();
            assert!(seen.insert(taken.dots[0].actor), "actor {:?} was issued twice", taken.dots[0].actor);
        }
        bench.disk.crash();
        disk = bench.disk;
    }
}

#[tokio::test]
async fn a_damaged_record_is_not_nothing() {
    let bench = Bench::on(MemDisk::new());
    let key = id("k");
    let first = bench.put(&key, "v", None, true).await.unwrap();
    bench.disk.corrupt(Family::Records, &keys::record_key(partition(position(&key), PARTITIONS), &key));
    // What was here may be more than the writer has seen: it gets a new name, and nobody is told that it is all there is.
    let before = first.dots[0].actor;
    let second = bench.put(&key, "w", None, true).await.unwrap();
    assert_ne!(second.dots[0].actor, before, "no dot of before is continued");
    assert!(bench.gaps.has(&key), "others may have more");
    assert_eq!(decode(&bench.bytes(&key).unwrap()).unwrap().siblings.len(), 1);
    // The others bring back what was here, beside it.
    let (id, record, now) = (key.clone(), encode(&first.record), Wall(1));
    let merge = |reply| Job::Merge { id, record, hint_for: None, sync: true, now, reply };
    assert_eq!(bench.lane.run(merge).await, Ok(true));
    assert_eq!(decode(&bench.bytes(&key).unwrap()).unwrap().siblings.len(), 2);
}

#[tokio::test]
async fn a_damaged_record_is_replaced_as_if_it_had_been_lost() {
    let bench = Bench::on(MemDisk::new());
    let key = id("k");
    let first = bench.put(&key, "v", None, true).await.unwrap();
    let copy = bench.bytes(&key).unwrap();
    bench.disk.corrupt(Family::Records, &keys::record_key(partition(position(&key), PARTITIONS), &key));
    let (record, now) = (copy.clone(), Wall(1));
    let merge = |reply| Job::Merge { id: key.clone(), record, hint_for: None, sync: true, now, reply };
    assert_eq!(bench.lane.run(merge).await, Ok(true));
    assert!(bench.gaps.has(&key), "what took its place may be a part of it");
    assert!(Gaps::load(&bench.store).unwrap().has(&key), "and the next start knows that too");
    let close = || bench.lane.run(|reply| Job::CloseGap { id: key.clone(), reply });
    assert_eq!((close().await, close().await), (Ok(true), Ok(false)));
    assert!(!bench.gaps.has(&key) && Gaps::load(&bench.store).unwrap().count() == 0);
    let unsynced = bench.store.get(Family::Meta, keys::UNSYNCED).unwrap();
    assert_eq!(unsynced, None, "the next start has nothing to doubt for that");
    let healed = decode(&bench.bytes(&key).unwrap()).unwrap();
    assert_eq!(healed.siblings.len(), 1);
    assert_ne!(healed.clock, decode(&copy).unwrap().clock, "its own dots of before are not continued");
    let second = bench.put(&key, "w", Some(first.context), true).await.unwrap();
    assert_ne!(second.dots[0].actor, first.dots[0].actor);
}

#[tokio::test]
async fn a_damaged_record_that_nobody_has_goes_and_a_whole_one_stays() {
    let bench = Bench::on(MemDisk::new());
    let key = id("k");
    bench.put(&key, "v", None, true).await.unwrap();
    let give_up = || bench.lane.run(|reply| Job::GiveUpDamaged { id: key.clone(), reply });
    assert_eq!(give_up().await, Ok(false));
    assert!(bench.bytes(&key).is_some());
    bench.disk.corrupt(Family::Records, &keys::record_key(partition(position(&key), PARTITIONS), &key));
    assert_eq!(give_up().await, Ok(true));
    assert!(bench.bytes(&key).is_none());
    let position = position(&key);
    let leaf = keys::leaf_key(partition(position, PARTITIONS), slot(position), &key);
    assert_eq!(bench.store.get(Family::Leaves, &leaf).unwrap(), None);
    bench.put(&key, "w", None, true).await.unwrap();
}

#[tokio::test]
async fn a_wrong_leaf_is_found_and_written_again() {
    let bench = Bench::on(MemDisk::new());
    let key = id("k");
    bench.put(&key, "v", None, true).await.unwrap();
    let check = || bench.lane.run(|reply| Job::CheckLeaf { id: key.clone(), reply });
    assert_eq!(check().await, Ok(false));
    let position = position(&key);
    let leaf = keys::leaf_key(partition(position, PARTITIONS), slot(position), &key);
    let right = bench.store.get(Family::Leaves, &leaf).unwrap();
    let mut batch = Batch::default();
    batch.put(Family::Leaves, leaf.clone(), Bytes::from(vec![7; 16]));
    bench.store.write(batch, true).unwrap();
    assert_eq!(check().await, Ok(true));
    assert_eq!(bench.store.get(Family::Leaves, &leaf).unwrap(), right);
    assert_eq!(check().await, Ok(false));
}

#[tokio::test]
async fn the_dead_are_found_and_go_only_as_they_were_agreed_on() {
    let bench = Bench::on(MemDisk::new());
    let key = id("k");
    let dead = || bench.store.scan(Family::Dead, &[], None, 9, usize::MAX).unwrap().len();
    let reap = |held| bench.lane.run(move |reply| Job::Reap { id: id("k"), held, reply });
    let alive = bench.put(&key, "v", None, true).await.unwrap();
    assert_eq!(dead(), 0);
    assert_eq!(reap(digest(&bench.bytes(&key).unwrap())).await, Ok(false), "it is alive");
    let deleted = |seen| bench.write(&key, Action::Delete, "", Some(seen), true);
    deleted(alive.context).await.unwrap();
    assert_eq!(dead(), 1);
    let held = digest(&bench.bytes(&key).unwrap());
    let again = bench.put(&key, "again", None, true).await.unwrap();
    assert_eq!(dead(), 0, "a value stands beside it");
    assert_eq!(reap(held).await, Ok(false), "it has changed since");
    deleted(again.record.clock.clone()).await.unwrap();
    assert_eq!(dead(), 1);
    assert_eq!(reap(digest(&bench.bytes(&key).unwrap())).await, Ok(true));
    assert_eq!((bench.bytes(&key), dead()), (None, 0));
}

/// The notes of what is due are exact after every change, and a value is dropped at its time and not before.
#[tokio::test]
async fn what_is_due_is_noted_and_dropped() {
    let bench = Bench::on(MemDisk::new());
    let key = id("k");
    let first = bench.put_for(&key, "short", None, true, Some(10)).await.unwrap();
    bench.put_for(&key, "long", None, true, Some(100)).await.unwrap();
    bench.put(&key, "for ever", None, true).await.unwrap();
    assert_eq!(bench.due(), [(Wall(11), key.clone()), (Wall(101), key.clone())]);
    let expire =
        |now| bench.lane.run(move |reply| Job::Expire { id: id("k"), due: Wall(11), now: Wall(now), reply });
    let (before, leaf) =
        (bench.bytes(&key).unwrap(), bench.store.get(Family::Leaves, &leaf_of(&key)).unwrap());
    assert_eq!(expire(11).await, Ok(true));
    assert_eq!(bench.due(), [(Wall(101), key.clone())]);
    let after = bench.bytes(&key).unwrap();
    assert!(after.len() < before.len());
    assert_eq!(digest(&after), digest(&before));
    assert_eq!(bench.store.get(Family::Leaves, &leaf_of(&key)).unwrap(), leaf);
    // A late message brings nothing back; a write that has seen the long one takes its note away.
    let merge = |record| {
        bench.lane.run(|reply| Job::Merge {
            id: key.clone(),
            record,
            hint_for: None,
            sync: true,
            now: Wall(1),
            reply,
        })
    };
    merge(before).await.unwrap();
    assert_eq!(bench.bytes(&key).unwrap(), after);
    let seen = Some(decode(&after).unwrap().clock);
    bench.put_for(&key, "last", seen, true, Some(500)).await.unwrap();
    assert_eq!(bench.due(), [(Wall(501), key.clone())]);
    assert!(first.durable);
    bench.disk.crash();
    assert_eq!(Bench::on(bench.disk).due(), [(Wall(501), key)]);
}

/// Whoever waits for the first of them is told by the lane, also of one that comes late and is due before all others.
#[tokio::test]
async fn the_earliest_of_what_is_due_is_known_without_a_look() {
    let bench = Bench::on(MemDisk::new());
    let earliest = || bench.earliest.lock().unwrap();
    assert_eq!(earliest().look(Wall(0)), Some(Wall(0)));
    earliest().found(None);
    bench.put(&id("for ever"), "v", None, true).await.unwrap();
    assert_eq!(earliest().at(), None);
    bench.put_for(&id("long"), "v", None, true, Some(100)).await.unwrap();
    bench.put_for(&id("longer"), "v", None, true, Some(200)).await.unwrap();
    assert_eq!(earliest().at(), Some(Wall(101)));
    assert_eq!(earliest().look(Wall(150)), Some(Wall(101)));
    let elsewhere = Bench::on(MemDisk::new());
    elsewhere.put_for(&id("short"), "v", None, true, Some(10)).await.unwrap();
    let (id, record) = (id("short"), elsewhere.bytes(&id("short")).unwrap());
    let merge = |reply| Job::Merge { id, record, hint_for: None, sync: true, now: Wall(120), reply };
    bench.lane.run(merge).await.unwrap();
    earliest().found(Some(Wall(201)));
    assert_eq!(earliest().at(), Some(Wall(11)));
}

#[tokio::test]
async fn a_full_disk_refuses_and_recovers() {
    let bench = Bench::on(MemDisk::new());
    bench.disk.set_fault(Some(Fault::Full));
    assert_eq!(bench.put(&id("k"), "v", None, true).await.unwrap_err(), Refusal::DiskFull);
    assert_eq!(bench.bytes(&id("k")), None);
    bench.disk.set_fault(None);
    assert!(bench.put(&id("k"), "v", None, true).await.unwrap().durable);
    assert!(bench.failed.borrow().is_none());
}

#[tokio::test]
async fn a_crowded_disk_takes_deletions_and_nothing_more() {
    let bench = Bench::on(MemDisk::new());
    let (kept, new) = (id("kept"), id("new"));
    let taken = bench.put(&kept, "v", None, true).await.unwrap();
    let elsewhere = Bench::on(MemDisk::new());
    elsewhere.put(&new, "v", None, true).await.unwrap();
    let record = elsewhere.bytes(&new).unwrap();
    let merge = || {
        let (id, record) = (id("new"), record.clone());
        bench.lane.run(|reply| Job::Merge { id, record, hint_for: None, sync: true, now: Wall(1), reply })
    };
    bench.crowded.store(true, Ordering::Relaxed);
    assert_eq!(bench.put(&new, "v", None, true).await.unwrap_err(), Refusal::DiskFull);
    assert_eq!(merge().await, Err(Refusal::DiskFull), "from others, too");
    assert_eq!(bench.bytes(&new), None);
    let gone = bench.write(&kept, Action::Delete, "", Some(taken.context), true).await.unwrap();
    assert!(gone.durable && gone.record.is_dead());
    bench.crowded.store(false, Ordering::Relaxed);
    assert_eq!(merge().await, Ok(true));
}

#[tokio::test]
async fn a_mark_that_a_full_disk_did_not_take_is_made_later() {
    let bench = Bench::on(MemDisk::new());
    bench.disk.set_fault(Some(Fault::Full));
    assert_eq!(bench.put(&id("k"), "v", None, false).await.unwrap_err(), Refusal::DiskFull);
    bench.disk.set_fault(None);
    bench.put(&id("k"), "v", None, false).await.unwrap();
    bench.disk.crash();
    let marked = bench.disk.row(Family::Meta, keys::UNSYNCED);
    assert!(marked.is_some(), "the next start takes what was not synced for lost");
}

#[tokio::test]
async fn two_jobs_of_a_batch_that_find_no_room_for_a_gap_are_both_refused() {
    let bench = Bench::on(MemDisk::new());
    let key = id("k");
    bench.put(&key, "v", None, true).await.unwrap();
    let record = bench.bytes(&key).unwrap();
    let mut batch = Batch::default();
    for number in 0..GAPS_MAX {
        batch.put(Family::Meta, keys::gap_key(Partition(0), &id(&format!("other{number}"))), Bytes::new());
    }
    bench.store.write(batch, true).unwrap();
    bench.disk.crash();
    let bench = Bench::on(bench.disk);
    assert_eq!(bench.gaps.count(), GAPS_MAX);
    bench.disk.corrupt(Family::Records, &keys::record_key(partition(position(&key), PARTITIONS), &key));
    let merge = || {
        let (id, record) = (key.clone(), record.clone());
        bench.lane.run(|reply| Job::Merge { id, record, hint_for: None, sync: true, now: Wall(1), reply })
    };
    let (first, second) = tokio::join!(merge(), merge());
    assert!(matches!(first, Err(Refusal::Unavailable(_))), "{first:?}");
    assert!(matches!(second, Err(Refusal::Unavailable(_))), "{second:?}");
    assert_eq!(bench.disk.corrupted(), 1, "the copy is as it was");
}

#[tokio::test]
async fn a_failed_sync_ends_the_node() {
    let bench = Bench::on(MemDisk::new());
    bench.put(&id("a"), "v", None, true).await.unwrap();
    bench.disk.set_fault(Some(Fault::Io));
    assert!(matches!(bench.put(&id("k"), "v", None, true).await, Err(Refusal::Disk(_))));
    assert!(bench.failed.borrow().is_some(), "the node is told to leave");
}

fn leaf_of(id: &ObjectId) -> Vec<u8> {
    keys::leaf_key(partition(position(id), PARTITIONS), slot(position(id)), id)
}

impl Bench {
    async fn grow(&self) {
        for partition in (0..PARTITIONS).map(Partition) {
            while !self.lane.run(|reply| Job::GrowTree { partition, reply }).await.unwrap() {}
        }
    }

    fn roots(&self) -> Vec<Option<u128>> {
        let trees = self.trees.lock().unwrap();
        (0..PARTITIONS).map(|p| trees.root(Group { partition: Partition(p), n: 0 })).collect()
    }
}

/// After every kind of change, and after a crash, the trees that were kept up are those that the disk gives.
#[tokio::test]
async fn trees_are_kept_up_with_the_disk() {
    let bench = Bench::on(MemDisk::new());
    bench.put(&id("before"), "x", None, true).await.unwrap();
    bench.grow().await;
    for n in 0..50 {
        let taken = bench.put(&id(&format!("k{}", n % 20)), "v", None, true).await.unwrap();
        bench.put(&id(&format!("k{}", n % 7)), "w", Some(taken.context), true).await.unwrap();
    }
    bench.hint(&id("k1")).await;
    let delivered = bench.bytes(&id("k1")).map(|b| digest(&b));
    assert!(bench.drop_hint(&id("k1"), delivered).await);
    assert_eq!(bench.bytes(&id("k1")), None, "its copy went with its last hint");
    let kept_up = bench.roots();
    bench.disk.crash();
    let again = Bench::on(bench.disk);
    assert!(again.roots().iter().all(Option::is_none), "nothing is claimed before it is built");
    again.grow().await;
    assert_eq!(again.roots(), kept_up);
    assert!(kept_up.iter().any(|root| root.is_some_and(|hash| hash != 0)));
}

/// Slot by slot: two that are wrong in the same way are not right together.
#[tokio::test]
async fn a_tree_that_is_not_of_its_leaves_is_built_again() {
    let bench = Bench::on(MemDisk::new());
    let key = id("k");
    bench.put(&key, "v", None, true).await.unwrap();
    bench.grow().await;
    let right = bench.roots();
    let (partition, its) = (partition(position(&key), PARTITIONS), slot(position(&key)));
    let slots = vec![its, Slot((its.0 + 1) % SLOTS), Slot((its.0 + 2) % SLOTS)];
    let group = Group { partition, n: 0 };
    let check = || {
        let slots = slots.clone();
        bench.lane.run(move |reply| Job::CheckTree { group, slots, reply })
    };
    assert_eq!(check().await, Ok(false));
    assert_eq!(bench.roots(), right);
    for slot in &slots[1..] {
        bench.trees.lock().unwrap().change(partition, *slot, b"", &id("stray"), [None, Some(Digest(7))]);
    }
    assert_eq!(check().await, Ok(true));
    assert_eq!(bench.roots().iter().filter(|root| root.is_none()).count(), 1);
    assert_eq!(check().await, Ok(false), "it is being built");
    bench.grow().await;
    assert_eq!(bench.roots(), right);
}

/// A leaf that is not its record's is mended by the next copy that arrives, changed or not, and so is the tree.
#[tokio::test]
async fn a_wrong_leaf_is_mended_by_what_arrives() {
    let bench = Bench::on(MemDisk::new());
    let key = id("k");
    bench.put(&key, "v", None, true).await.unwrap();
    bench.grow().await;
    let right = bench.roots();
    let (record, leaf) =
        (bench.bytes(&key).unwrap(), bench.store.get(Family::Leaves, &leaf_of(&key)).unwrap());
    let mut damage = Batch::default();
    damage.put(Family::Leaves, leaf_of(&key), vec![1; 16]);
    bench.store.write(damage, true).unwrap();
    let merge =
        |reply| Job::Merge { id: key.clone(), record, hint_for: None, sync: true, now: Wall(1), reply };
    bench.lane.run(merge).await.unwrap();
    assert_eq!(bench.store.get(Family::Leaves, &leaf_of(&key)).unwrap(), leaf);
    assert_eq!(bench.roots().iter().filter(|root| root.is_none()).count(), 1, "its partition is built again");
    bench.grow().await;
    assert_eq!(bench.roots(), right);
}
