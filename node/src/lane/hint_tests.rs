//! Hints, and copies that are handed on: neither goes before somebody else has what is in it.

use super::{Bench, HINT_BYTES_MAX, ME, OTHER, PARTITIONS, id};
use crate::lane::{Job, Taken};
use crate::store::mem::MemDisk;
use crate::store::{Family, Store, keys};
use bytes::Bytes;
use ring::bucket::BlindWrites;
use ring::causal::{Actor, Context, Dot};
use ring::place::{partition, position};
use ring::record::write::{CONTEXT_RUNS_MAX, Write};
use ring::record::{Content, Record, Sibling};
use ring::time::Wall;
use ring::wire::peer::{Action, Refusal};
use ring::wire::record::{decode, digest, encode};

#[tokio::test]
async fn a_copy_goes_only_as_it_was_handed_on() {
    let bench = Bench::on(MemDisk::new());
    let key = id("k");
    bench.put(&key, "v", None, true).await.unwrap();
    let held = digest(&bench.bytes(&key).unwrap());
    bench.put(&key, "w", None, true).await.unwrap();
    let regime = bench.regime();
    let drop = |held| bench.lane.run(move |reply| Job::DropCopy { id: id("k"), held, regime, reply });
    assert_eq!(drop(held).await, Ok(false));
    assert!(bench.bytes(&key).is_some());
    let held = digest(&bench.bytes(&key).unwrap());
    assert_eq!(drop(held).await, Ok(true));
    assert_eq!(bench.bytes(&key), None);
    let mark = bench.store.get(Family::Meta, keys::UNSYNCED).unwrap();
    assert_eq!(mark, None, "what is not synced is taken for lost if the process dies, and costs an epoch");
}

/// Whoever held everything by the tables of before may be no owner now, and this node one.
#[tokio::test]
async fn nothing_goes_that_was_decided_by_other_tables() {
    let bench = Bench::on(MemDisk::new());
    let key = id("k");
    bench.put(&key, "v", None, true).await.unwrap();
    assert!(bench.hint(&key).await);
    let (held, regime) = (digest(&bench.bytes(&key).unwrap()), bench.regime());
    bench.leaves(OTHER);
    assert_ne!(bench.regime(), regime);
    let drop_hint = |regime| {
        let (id, owner, delivered, drop_copy_unless) = (id("k"), OTHER, Some(held), Some(vec![ME, OTHER]));
        bench.lane.run(move |reply| Job::DropHint { id, owner, delivered, drop_copy_unless, regime, reply })
    };
    let drop_copy = |regime| bench.lane.run(move |reply| Job::DropCopy { id: id("k"), held, regime, reply });
    assert_eq!(drop_copy(regime).await, Ok(false), "the copy stays");
    assert_eq!(drop_hint(regime).await, Ok(false), "the hint stays");
    assert!(bench.bytes(&key).is_some() && !bench.hints.lock().unwrap().is_empty());
    assert_eq!(drop_hint(bench.regime()).await, Ok(true));
    assert!(bench.bytes(&key).is_none() && bench.hints.lock().unwrap().is_empty());
}

/// Its own check, by the view of that moment: one that a request made earlier would let a hint in after it has said that it
/// keeps none.
#[tokio::test]
async fn who_leaves_takes_nothing_more_for_others() {
    let bench = Bench::on(MemDisk::new());
    let (key, other) = (id("k"), id("other"));
    let taken = bench.put(&other, "v", None, true).await.unwrap();
    let record = encode(&taken.record);
    let store = |hint_for| {
        let (id, record) = (key.clone(), record.clone());
        bench.lane.run(move |reply| Job::Merge { id, record, hint_for, sync: true, now: Wall(1), reply })
    };
    bench.leaves(ME);
    assert!(matches!(store(Some(OTHER)).await, Err(Refusal::Unavailable(_))));
    assert_eq!(bench.bytes(&key), None, "nothing was stored");
    assert!(bench.hints.lock().unwrap().is_empty());
    assert_eq!(store(None).await, Ok(true), "what it owns it still takes");
    // Nobody relies on this one, and it would have the node wait for who is away as well.
    assert!(!bench.hint(&other).await && !bench.has_hint(&other));
    let place = partition(position(&other), PARTITIONS);
    assert!(bench.hints.lock().unwrap().urgent.contains_key(&place), "its partition is compared instead");
}

#[tokio::test]
async fn a_hint_goes_only_for_what_was_delivered() {
    let bench = Bench::on(MemDisk::new());
    let key = id("k");
    bench.put(&key, "old", None, true).await.unwrap();
    assert!(bench.hint(&key).await, "a hint is durable");
    let delivered = bench.bytes(&key).map(|b| digest(&b));
    bench.put(&key, "new", None, true).await.unwrap();
    assert!(!bench.drop_hint(&key, delivered).await, "the copy has changed since");
    assert!(bench.has_hint(&key));
    let delivered = bench.bytes(&key).map(|b| digest(&b));
    assert!(bench.drop_hint(&key, delivered).await);
    assert!(!bench.has_hint(&key));
    assert_eq!(bench.bytes(&key), None, "a fallback's copy goes with its last hint");
}

#[tokio::test]
async fn a_hint_that_counts_is_refused_where_there_is_no_room_and_another_is_given_up() {
    let bench = Bench::on(MemDisk::new());
    let big = bench.put(&id("big"), &"x".repeat(800), None, true).await.unwrap();
    assert!(bench.hint(&id("big")).await);
    bench.put(&id("k"), &"y".repeat(300), None, true).await.unwrap();
    assert!(!bench.hint(&id("k")).await, "there is no room for it");
    assert!(!bench.has_hint(&id("k")));
    let record = encode(&big.record);
    let stand_in = |key: &str| {
        let (id, record) = (id(key), record.clone());
        bench.lane.run(|reply| Job::Merge {
            id,
            record,
            hint_for: Some(OTHER),
            sync: true,
            now: Wall(2),
            reply,
        })
    };
    assert_eq!(stand_in("other").await, Err(Refusal::HintsFull));
    assert_eq!(bench.bytes(&id("other")), None, "nothing was done");
    assert_eq!(stand_in("big").await, Ok(true), "what is kept already has its room");
    let place = partition(position(&id("k")), PARTITIONS);
    {
        let ledger = bench.hints.lock().unwrap();
        assert_eq!((ledger.dropped, ledger.urgent.contains_key(&place)), (1, true));
        assert_eq!(ledger.of_target(OTHER).counted, 1, "it counts now");
    }
    let since = Wall(1);
    let give_up = bench.lane.run(|reply| Job::GiveUpHint { id: id("big"), owner: OTHER, since, reply }).await;
    assert_eq!(give_up, Ok(false), "what counted is never given up");
    bench.disk.crash();
    let again = Bench::on(bench.disk);
    assert_eq!(again.hints.lock().unwrap().of_target(OTHER).rows, 1, "the sum is made anew");
}

fn write(action: Action) -> Write {
    Write {
        action,
        body: Bytes::new(),
        seen: None,
        ttl_default: None,
        blind: BlindWrites::Siblings,
        siblings_max: 100,
        context_runs_max: CONTEXT_RUNS_MAX,
    }
}

/// Coordinates a write in another's stead.
async fn stand_in(bench: &Bench, key: &str, write: Write) -> Result<Taken, Refusal> {
    let (id, hint_for, sync, now) = (id(key), Some(OTHER), true, Wall(1));
    let job = |reply| Job::Coordinate { id, write: Box::new(write), now, hint_for, sync, reply };
    bench.lane.run(job).await
}

/// A key that is kept for somebody who is away is overwritten with more and more.
#[tokio::test]
async fn a_hint_that_grows_is_refused_where_there_is_no_room_as_well() {
    let bench = Bench::on(MemDisk::new());
    let store = async |bytes: usize, seen: Option<Context>| {
        let action = Action::Put { content_type: "text/plain".into(), meta: vec![], ttl_ms: None };
        let write = Write { body: vec![b'x'; bytes].into(), seen, ..write(action) };
        stand_in(&bench, "k", write).await.map(|taken| taken.context)
    };
    let kept = || bench.hints.lock().unwrap().of_target(OTHER).bytes;
    let mut seen = store(10, None).await.unwrap();
    let here = |bench: &Bench| decode(&bench.bytes(&id("k")).unwrap()).unwrap().bytes() as u64;
    assert_eq!(kept(), here(&bench));
    for bytes in [500, 800, 800, 20, 800] {
        seen = store(bytes, Some(seen)).await.unwrap();
        assert_eq!(kept(), here(&bench), "of {bytes}");
    }
    assert_eq!(store(HINT_BYTES_MAX as usize + 1, Some(seen.clone())).await, Err(Refusal::HintsFull));
    assert_eq!(store(800, None).await, Err(Refusal::HintsFull), "beside what is there");
    assert_eq!(kept(), here(&bench));
    seen = store(800, Some(seen)).await.unwrap();
    // The same by way of others, who coordinated it.
    let held = decode(&bench.bytes(&id("k")).unwrap()).unwrap();
    let (mut larger, mut as_large) = (held.clone(), held);
    for (record, bytes) in [(&mut larger, 1200), (&mut as_large, 800)] {
        let dot = Dot { actor: Actor { node: OTHER, epoch: 1 }, count: 1 };
        record.clock.join(&seen);
        record.clock.insert(dot);
        let Content::Object(mut object) = record.siblings[0].content.clone() else { panic!("a value") };
        object.body = vec![b'y'; bytes].into();
        record.siblings = vec![Sibling { dot, content: Content::Object(object) }];
    }
    let merge = async |record: &Record| {
        let (id, record, hint_for, sync, now) = (id("k"), encode(record), Some(OTHER), true, Wall(2));
        bench.lane.run(|reply| Job::Merge { id, record, hint_for, sync, now, reply }).await
    };
    assert_eq!(merge(&larger).await, Err(Refusal::HintsFull));
    // One that is as large has its room, even where there is none left.
    let room = |bytes: u64| bench.hints.lock().unwrap().has_room(bytes);
    let filler = Action::Put { content_type: String::new(), meta: vec![], ttl_ms: None };
    let left = (0..HINT_BYTES_MAX).rev().find(|bytes| room(*bytes)).unwrap() as usize;
    let empty = bench.write(&id("empty"), filler.clone(), "", None, true).await.unwrap().record.bytes();
    let record = bench.write(&id("filler"), filler, &"z".repeat(left - empty), None, true).await.unwrap();
    let (id, record, now) = (id("filler"), encode(&record.record), Wall(2));
    let fill = |reply| Job::Merge { id, record, hint_for: Some(OTHER), sync: true, now, reply };
    assert_eq!(bench.lane.run(fill).await, Ok(true));
    assert!(!room(1));
    assert_eq!(merge(&as_large).await, Ok(true));
}

/// An acknowledgement that does not rely on it is no reason to keep more than there is room for.
#[tokio::test]
async fn a_hint_that_grows_and_never_counted_is_given_up() {
    let bench = Bench::on(MemDisk::new());
    let key = id("k");
    let small = bench.put(&key, "v", None, true).await.unwrap();
    assert!(bench.hint(&key).await);
    let large = "x".repeat(HINT_BYTES_MAX as usize);
    bench.put(&key, &large, Some(small.context), true).await.unwrap();
    assert!(!bench.hint(&key).await && !bench.has_hint(&key));
    let place = partition(position(&key), PARTITIONS);
    let ledger = bench.hints.lock().unwrap();
    assert_eq!((ledger.of_target(OTHER).bytes, ledger.dropped), (0, 1));
    assert!(ledger.urgent.contains_key(&place), "its partition is compared instead");
}

/// What comes too late changes nothing, and needs no room.
#[tokio::test]
async fn a_hint_needs_room_for_what_its_record_comes_to_and_no_more() {
    let bench = Bench::on(MemDisk::new());
    let action = Action::Put { content_type: String::new(), meta: vec![], ttl_ms: None };
    let first = Write { body: vec![b'x'; 700].into(), ..write(action.clone()) };
    let first = stand_in(&bench, "k", first).await.unwrap();
    let second = Write { body: vec![b'y'; 800].into(), seen: Some(first.context), ..write(action) };
    let second = stand_in(&bench, "k", second).await.unwrap();
    let (record, now) = (encode(&first.record), Wall(2));
    let late = |reply| Job::Merge { id: id("k"), record, hint_for: Some(OTHER), sync: true, now, reply };
    assert_eq!(bench.lane.run(late).await, Ok(true), "it has been superseded");
    assert_eq!(decode(&bench.bytes(&id("k")).unwrap()).unwrap(), *second.record);
    assert_eq!(bench.hints.lock().unwrap().of_target(OTHER).bytes, second.record.bytes() as u64);
}

/// What a cart's changes come to counts, though they have no body.
#[tokio::test]
async fn a_hint_of_a_cart_is_counted_by_all_that_is_in_it() {
    let bench = Bench::on(MemDisk::new());
    let add = async |number: usize| {
        let action = Action::CartAdd {
            sku: format!("sku-{number}").into(),
            quantity: 1,
            op: None,
            attributes: Some(format!("{{\"note\":\"{}\"}}", "n".repeat(50)).into()),
        };
        stand_in(&bench, "cart", write(action)).await.map(drop)
    };
    let mut refused = None;
    for number in 0..10 {
        let before = bench.hints.lock().unwrap().of_target(OTHER).bytes;
        if let Err(refusal) = add(number).await {
            refused = Some(refusal);
            break;
        }
        let held = decode(&bench.bytes(&id("cart")).unwrap()).unwrap().bytes() as u64;
        let kept = bench.hints.lock().unwrap().of_target(OTHER).bytes;
        assert!(kept > before && kept == held, "{kept} bytes of {held}");
    }
    assert_eq!(refused, Some(Refusal::HintsFull));
}

#[tokio::test]
async fn a_hint_that_never_counted_is_given_up_durably_and_its_partition_is_compared() {
    let bench = Bench::on(MemDisk::new());
    let key = id("k");
    bench.put(&key, "v", None, true).await.unwrap();
    assert!(bench.hint(&key).await);
    let give_up = |since| {
        let since = Wall(since);
        bench.lane.run(move |reply| Job::GiveUpHint { id: id("k"), owner: OTHER, since, reply })
    };
    assert_eq!(give_up(0).await, Ok(false), "it is another one than was seen to be old");
    assert!(bench.has_hint(&key));
    assert_eq!(give_up(1).await, Ok(true));
    assert!(!bench.has_hint(&key) && bench.bytes(&key).is_some(), "the copy stays");
    let place = partition(position(&key), PARTITIONS);
    assert!(bench.hints.lock().unwrap().urgent.contains_key(&place));
    assert_eq!(give_up(1).await, Ok(false), "there is none");
    let mark = bench.store.get(Family::Meta, keys::UNSYNCED).unwrap();
    assert_eq!(mark, None, "what is not synced is taken for lost if the process dies, and costs an epoch");
}
