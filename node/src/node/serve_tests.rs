//! What a node answers somebody who acts by other tables.

use crate::bench::{Bench, ME, Peer, ids, said, write_of};
use crate::duty::past::keep_asked;
use crate::lane::Job;
use crate::limits::{CATCH_UP_MAX, GAPS_MAX, GOSSIP_TIMEOUT, LATE_AFTER};
use crate::node::hints::pack;
use crate::node::past::Standing;
use crate::node::serve::Newcomer;
use crate::node::serve::Welcome;
use crate::node::write::WriteFail;
use crate::peer::frame::TableTag;
use crate::store::{Batch, Family, keys};
use bytes::Bytes;
use ring::bucket::{BucketSettings, Level};
use ring::coord::Outcome;
use ring::ids::{NodeId, ObjectId, Partition};
use ring::members::{Description, Status, View};
use ring::place::Layout;
use ring::tree::Leaf;
use ring::wire::peer::{Answer, Ask, Message, QuorumAsk, Refusal, WriteAsk};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

const OWNER: NodeId = NodeId(11);
const OTHER: NodeId = NodeId(12);
const THIRD: NodeId = NodeId(13);

/// Two nodes were removed while they could not be reached. The one learns of it from the other, in the midst of a client's write that
/// both are to store. It must not be acknowledged: what the two of them hold is nobody's copy.
#[tokio::test(start_paused = true)]
async fn a_write_that_is_overtaken_by_its_nodes_removal_is_not_acknowledged() {
    let other = Peer::new(OTHER.0);
    let bench = Bench::start(1, &[ME, OWNER], &[&other]).await;
    let owner = bench.beside(OWNER).await;
    owner.update(|view| {
        view.set_status(OTHER, Status::Up).unwrap();
        for gone in [ME, OWNER] {
            view.set_status(gone, Status::Leaving).unwrap();
            view.set_status(gone, Status::Removed).unwrap();
        }
        view.settled.layout = Layout::empty(1).evolve(&view.claimants());
        view.settled.stamp += 1;
    });
    let written = bench.node.coordinate(write_of(&ids(1)[0], 2), "v".into()).await;
    assert_eq!(written.unwrap_err(), WriteFail::Lost, "it may show up, if somebody else has it");
    assert!(bench.node.cluster.snapshot().is_removed(ME), "it has heard of it");
    assert!(owner.kept().is_empty() && !other.holds(&ids(1)[0]));
    // Nor is it taken at its word that it has something, or stores many at a time: whoever asks would let his own copy go.
    let rows = [(ids(1)[0].clone(), "v".into())];
    let stored = bench.node.store_many(OWNER, pack(&rows), GOSSIP_TIMEOUT).await;
    assert!(matches!(stored.err(), Some(Refusal::Unavailable(_))));
    let asks = Message { head: Ask::Lacks, body: postcard::to_stdvec::<Vec<Leaf>>(&vec![]).unwrap().into() };
    let answer = bench.node.ask(OWNER, asks, GOSSIP_TIMEOUT).await.unwrap();
    assert!(matches!(answer.head, Answer::Refused(Refusal::Unavailable(_))), "{answer:?}");
}

/// The only partition goes from one node to another.
fn gives_way(view: &mut View) {
    view.set_status(OTHER, Status::Up).unwrap();
    view.set_status(OWNER, Status::Leaving).unwrap();
    view.settled.layout = Layout::empty(1).evolve(&view.claimants());
    view.settled.stamp += 1;
}

/// A key's owner has given way to another, and its coordinator has not heard of it. Whom it asked by the old tables it does not ask
/// again by the new ones, once it has heard of them: his copy would count, and nobody reads there.
#[tokio::test(start_paused = true)]
async fn who_owns_a_key_no_more_is_not_sent_it_again() {
    for breaks in [0, 1] {
        let other = Peer::new(OTHER.0);
        let bench = Bench::start(1, &[ME, OWNER], &[&other]).await;
        let owner = bench.beside(OWNER).await;
        owner.update(gives_way);
        let id = &ids(1)[0];
        let write = bench.node.coordinate(write_of(id, 2), "v".into());
        let written = if breaks == 0 {
            write.await
        } else {
            // It hears of it from a third, just before the connection breaks.
            bench.hangs_up(OWNER, breaks).await;
            tokio::join!(write, async { bench.update(gives_way) }).0
        };
        let said = written.unwrap().head;
        assert_eq!((said.outcome, said.acked, said.owners), (Outcome::Applied, 2, 2), "{breaks}");
        assert_eq!(bench.owners(id).iter().collect::<BTreeSet<_>>(), BTreeSet::from([&ME, &OTHER]));
        assert!(other.holds(id) && owner.kept().is_empty(), "{breaks} broken connections");
    }
}

/// The same where the owner of before is still a member, and two of the owners of now are dead: it keeps a hint for one of them, like
/// any other fallback.
#[tokio::test(start_paused = true)]
async fn who_owns_a_key_no_more_may_stand_in() {
    let bench = Bench::start(32, &[ME, OWNER, OTHER], &[]).await;
    bench.update(|view| {
        view.admit(THIRD, said(THIRD)).unwrap();
    });
    let owner = bench.beside(OWNER).await;
    owner.update(|view| {
        view.set_status(THIRD, Status::Up).unwrap();
        view.settled.layout = view.target();
        view.settled.stamp += 1;
    });
    let all = ids(200);
    let given = |id: &&ObjectId| {
        let owners = owner.owners(id);
        owners.contains(&ME) && !owners.contains(&OWNER)
    };
    let id = all.iter().find(given).expect("one of them has other owners");
    let said = bench.node.coordinate(write_of(id, 2), "v".into()).await.unwrap().head;
    assert_eq!((said.outcome, said.acked, said.owners, said.fallbacks), (Outcome::Applied, 2, 1, 1));
    let hints = [OTHER, THIRD].map(|target| owner.hints_for(target));
    assert_eq!((owner.kept(), hints.iter().sum::<usize>()), (vec![id.clone()], 1));
}

/// A node was removed while it could not be reached, and what it holds was deleted and forgotten by all others meanwhile. Somebody
/// writes that key through it before it has heard of that: nothing of what it holds gets to the owners with it. Nor does it by itself.
#[tokio::test(start_paused = true)]
async fn a_removed_node_brings_nothing_back() {
    let bench = Bench::start(1, &[ME, OWNER], &[]).await;
    let owner = bench.beside(OWNER).await;
    let (id, single) = (&ids(2)[0], &ids(2)[1]);
    let forgotten = bench.put(id, 10, None).await;
    owner.update(|view| {
        view.set_status(ME, Status::Leaving).unwrap();
        view.set_status(ME, Status::Removed).unwrap();
        view.admit(OTHER, crate::bench::said(OTHER)).unwrap();
        view.set_status(OTHER, Status::Up).unwrap();
        view.settled.layout = Layout::empty(1).evolve(&view.claimants());
        view.settled.stamp += 1;
    });
    let written = bench.node.coordinate(write_of(id, 2), "v".into()).await;
    assert_eq!(written.unwrap_err(), WriteFail::Lost);
    assert!(bench.node.cluster.snapshot().is_removed(ME), "it has heard of it");
    assert!(owner.kept().is_empty(), "not even when it asks again by the new tables");
    let node = &bench.node;
    let head = Ask::Store { id: id.clone(), hint_for: None, sync: true };
    let answer = node.ask(OWNER, Message { head, body: forgotten.clone() }, GOSSIP_TIMEOUT).await.unwrap();
    assert!(matches!(answer.head, Answer::Refused(_)), "{answer:?}");
    let rows = [(id.clone(), forgotten.clone()), (single.clone(), forgotten)];
    let many = async || node.store_many(OWNER, pack(&rows), GOSSIP_TIMEOUT).await.map(|stored| stored.failed);
    assert_eq!(many().await, Ok([0, 1].into()), "each is refused for itself");
    assert!(owner.kept().is_empty());
    // What only it has owned is nowhere else.
    for one in [&bench, &owner] {
        one.update(|view| {
            let settings = BucketSettings { n: 1, ..BucketSettings::default() };
            view.set_bucket("b".into(), OWNER, Some(settings)).unwrap();
        });
    }
    assert_eq!(many().await, Ok([].into()));
    assert_eq!(owner.kept().len(), 2);
}

/// A read has begun before its node was removed, and ends in a repair of an owner who has not heard of that and can't be told.
#[tokio::test(start_paused = true)]
async fn a_removed_node_repairs_nobody() {
    let bench = Bench::start(1, &[ME, OWNER], &[]).await;
    let owner = bench.beside(OWNER).await;
    let id = &ids(1)[0];
    let forgotten = bench.put(id, 10, None).await;
    owner.node.pool.set_peer(ME, "10.0.0.99:1");
    let repair = async || bench.node.store_at(OWNER, id.clone(), forgotten.clone(), GOSSIP_TIMEOUT).await;
    bench.update(|view| {
        view.set_status(ME, Status::Leaving).unwrap();
        view.set_status(ME, Status::Removed).unwrap();
    });
    assert!(matches!(repair().await, Err(Refusal::Unavailable(_))));
    assert!(owner.kept().is_empty());
}

/// On one side of a partition the only partition has gone from one node to another. The other side knows nothing of that, and has
/// made more changes of its own, so its tables count more. It must not take the former owner's word that there is nothing.
#[tokio::test(start_paused = true)]
async fn who_counts_more_changes_is_not_thereby_newer() {
    let bench = Bench::start(1, &[OWNER], &[]).await;
    let admit = |view: &mut View| {
        view.admit(OTHER, crate::bench::said(OTHER)).unwrap();
    };
    bench.update(admit);
    let owner = bench.beside(OWNER).await;
    owner.update(|view| {
        view.set_status(OTHER, Status::Up).unwrap();
        let others: Vec<_> = view.claimants().into_iter().filter(|member| member.id == OTHER).collect();
        view.settled.layout = Layout::empty(1).evolve(&others);
        view.settled.stamp += 1;
    });
    bench.update(|view| {
        for status in [Status::Up, Status::Leaving, Status::Up, Status::Leaving, Status::Up] {
            view.set_status(ME, status).unwrap();
        }
    });
    let (ours, theirs) = (bench.node.table_tag(), owner.node.table_tag());
    assert!(ours.counter > theirs.counter && ours.digest != theirs.digest);
    let ask = Message::of(Ask::Read { id: ids(1)[0].clone(), record: true });
    let answer = bench.node.ask(OWNER, ask, GOSSIP_TIMEOUT).await.unwrap();
    assert_eq!(answer.head, Answer::Refused(Refusal::StaleTables));
    assert_eq!(bench.node.table_tag(), owner.node.table_tag(), "both have heard of both");
}

/// A client's write through a node that stands in and whose disk is full: another one has room for it. Of its own keys it says that it
/// is full.
#[tokio::test(start_paused = true)]
async fn who_stands_in_without_room_lets_another_do_so() {
    let bench = Bench::start(1, &[OWNER], &[]).await;
    let owner = bench.beside(OWNER).await;
    bench.node.crowded.store(true, Ordering::Relaxed);
    let written = bench.node.write(write_of(&ids(1)[0], 2), "v".into()).await;
    assert!(written.is_ok(), "{written:?}");
    assert_eq!((bench.kept().len(), owner.kept().len()), (0, 1));
    owner.node.crowded.store(true, Ordering::Relaxed);
    let written = bench.node.write(write_of(&ids(2)[1], 2), "v".into()).await;
    assert_eq!(written.unwrap_err(), WriteFail::Refused(Refusal::DiskFull));
}

/// A client's write of a key whose copy here can't be read, at an owner that has room for no more gaps: the other owner takes it.
#[tokio::test(start_paused = true)]
async fn who_is_spoiled_all_over_lets_another_owner_decide() {
    let bench = Bench::start(1, &[ME, OWNER], &[]).await;
    let (spoiled, whole) = (&ids(2)[0], &ids(2)[1]);
    bench.put(spoiled, 10, None).await;
    let mut batch = Batch::default();
    for number in 0..GAPS_MAX {
        let id = ObjectId::new("gone", number.to_string()).unwrap();
        batch.put(Family::Meta, keys::gap_key(Partition(0), &id), Bytes::new());
    }
    bench.node.lane.run(|reply| Job::Raw { batch, sync: true, reply }).await.unwrap();
    let bench = bench.again(|_| {});
    bench.node.past.asked(true);
    let owner = bench.beside(OWNER).await;
    assert!(bench.node.gaps.are_full());
    bench.disk().corrupt(Family::Records, &keys::record_key(Partition(0), spoiled));
    let one = QuorumAsk { w: Some(Level::One), ..QuorumAsk::default() };
    let ask = |id| WriteAsk { quorum: one, ..write_of(id, 2) };
    let written = bench.node.write(ask(spoiled), "v".into()).await.unwrap();
    assert_eq!(written.head.outcome, Outcome::Applied);
    assert!(owner.kept().contains(spoiled));
    assert_eq!(bench.disk().corrupted(), 1, "nothing was done here");
    // What can be read it decides by itself.
    owner.node.crowded.store(true, Ordering::Relaxed);
    let written = bench.node.write(ask(whole), "v".into()).await.unwrap();
    assert_eq!(written.head.outcome, Outcome::Applied);
    assert!(bench.kept().contains(whole) && !owner.kept().contains(whole));
}

/// Many ask at once by tables that nobody here knows, and none of them says what they are: each has its answer in time, and what is
/// too late is not done.
#[tokio::test(start_paused = true)]
async fn nobody_waits_long_for_tables_that_are_not_told() {
    let silent = Peer::new(OTHER.0);
    let bench = Bench::start(1, &[ME, OTHER], &[&silent]).await;
    silent.narrow(1);
    let (node, began) = (&bench.node, bench.node.now());
    let (ours, body) = (node.table_tag(), bench.put(&ids(9)[8], 10, None).await);
    let asks = ids(8).into_iter().enumerate().map(async |(number, id)| {
        let theirs = TableTag { counter: ours.counter + 1, digest: ours.digest ^ (number as u64 + 1) };
        // Half of them wait for less than the tables would take.
        let patience = if number % 2 == 0 { CATCH_UP_MAX * 2 } else { CATCH_UP_MAX / 2 };
        let head = Ask::Store { id, hint_for: None, sync: true };
        let message = Message { head, body: body.clone() };
        let answer = node.answer(OTHER, theirs, began + patience, message).await;
        (answer.head, node.now() - began)
    });
    for (number, (answer, took)) in futures_util::future::join_all(asks).await.into_iter().enumerate() {
        assert!(took <= CATCH_UP_MAX, "{number}: {took:?}");
        match number % 2 {
            0 => assert_eq!(answer, Answer::Stored { durable: true }),
            _ => assert!(matches!(answer, Answer::Refused(Refusal::Unavailable(_))), "{answer:?}"),
        }
    }
    assert_eq!(bench.kept().len(), 1 + 4);
}

/// Each partition has two owners, one of whom stands still: those of which he is the first are listed by the other one.
#[tokio::test(start_paused = true)]
async fn who_owes_an_answer_is_not_asked_for_a_list() {
    let silent = Peer::new(OTHER.0);
    let bench = Bench::start(8, &[OWNER, OTHER], &[&silent]).await;
    let owner = bench.beside(OWNER).await;
    silent.narrow(1);
    assert!(ids(50).iter().any(|id| bench.owners(id)[0] == OTHER));
    owner.put(&ids(1)[0], 10, None).await;
    bench.node.cluster.set_late([OTHER].into());
    let (began, nothing) = (bench.node.now(), Bytes::new());
    let page = bench.node.list(ids(1)[0].bucket(), &nothing, &nothing, 10).await;
    assert_eq!((page.keys.len(), page.missing.len()), (1, 0));
    assert!(bench.node.now() - began < LATE_AFTER, "{:?}", bench.node.now() - began);
}

/// Of this node's directory from before, which is lost: this start's number is a higher one.
#[tokio::test(start_paused = true)]
async fn a_view_that_tells_of_another_directory_under_this_name_is_heard() {
    for (boot_id, acts, finds) in [(77, true, true), (77, false, false), (1, true, false)] {
        let other = Peer::new(OTHER.0);
        let bench = Bench::start(1, &[ME, OTHER], &[&other]).await;
        keep_asked(&bench.node).await;
        let bench = bench.again(|_| {});
        let mut theirs = bench.node.cluster.snapshot().view.clone();
        let me = theirs.members.get_mut(&ME).unwrap();
        me.description.boot_id = boot_id;
        me.acting.version = u64::from(acts);
        bench.node.take_view(&theirs);
        let found = bench.node.past.standing() == Standing::Behind { remembered: 1 };
        assert_eq!(found, finds, "{boot_id} {acts}: {:?}", bench.node.past.standing());
    }
}

/// It has come in meanwhile, and acts: whoever asks to be let in under its name now is somebody else. Before that, whoever
/// does not know the start by which it is known as one of its own; an earlier version says only how many it has had.
#[tokio::test(start_paused = true)]
async fn nobody_is_let_in_under_the_name_of_another_directory() {
    for (acts, starts, boot_ids, is_let_in) in [
        (1, 2, Some(vec![9, 1]), false),
        (0, 2, Some(vec![9, 1]), true),
        (0, 7, Some(vec![9, 8]), false),
        (0, 7, Some(vec![]), false),
        (0, 2, None, true),
        (0, 1, None, false),
        (1, 2, None, false),
    ] {
        let bench = Bench::start(1, &[ME, OTHER], &[]).await;
        bench.update(|view| view.members.get_mut(&OTHER).unwrap().acting.version = acts);
        let description = Description { boot_id: 9, starts, ..said(OTHER) };
        let asks = match boot_ids {
            None => postcard::to_stdvec(&description).unwrap().into(),
            boot_ids => Newcomer { description, boot_ids }.bytes(),
        };
        let answer = bench.node.answer_join(OTHER, &asks);
        assert_eq!(answer.is_ok(), is_let_in, "{acts} {starts}: {answer:?}");
        assert_eq!(bench.node.past.namesakes(), u64::from(!is_let_in));
        let known = bench.node.cluster.snapshot().view.members[&OTHER].description.boot_id;
        assert_eq!(known, if is_let_in { 9 } else { 1 });
    }
}

/// An earlier version reads and writes the key and the view behind it, and neither knows of defaults.
#[test]
fn a_welcome_is_what_it_was_and_brings_the_defaults() {
    let mut view = View::new(ring::ids::ClusterId(9), 8);
    let cluster_key = [7; 32];
    let before = postcard::to_stdvec(&(cluster_key, &view)).unwrap();
    assert_eq!(Welcome { cluster_key, view: view.clone() }.bytes(), before);
    view.defaults = Some(ring::bucket::BucketSettings { n: 2, ..Default::default() });
    let read = Welcome::read(&Welcome { cluster_key, view: view.clone() }.bytes()).unwrap();
    assert_eq!((read.cluster_key, read.view), (cluster_key, view));
    assert!(Welcome::read(&before[..31]).is_err() && Welcome::read(&before[..40]).is_err());
}
