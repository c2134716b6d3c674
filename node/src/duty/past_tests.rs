//! What comes before what at a start.

use super::*;
use crate::bench::{Bench, ME, Peer, ids, said};
use crate::limits::{GOSSIP_EVERY, LANE_QUEUE_JOBS_MAX};
use crate::store::Store;
use crate::store::mem::Fault;
use crate::store::{Batch, Family, keys};
use bytes::Bytes;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::oneshot;

impl Bench {
    /// Up to where own versions were given up.
    fn given_up(&self) -> Option<Bytes> {
        self.node.store.get(Family::Meta, keys::EPOCH_BOOT).unwrap()
    }

    fn number(&self, key: &[u8]) -> Option<u64> {
        let number = |bytes: Bytes| u64::from_be_bytes(bytes.as_ref().try_into().unwrap());
        self.node.store.get(Family::Meta, key).unwrap().map(number)
    }

    /// From now on, until somebody waits for something, the lane takes nothing more.
    fn fill_lane(&self) {
        for _ in 0..LANE_QUEUE_JOBS_MAX {
            // Nobody wants the answer.
            let (reply, _) = oneshot::channel();
            self.node.lane.submit(Job::Raw { batch: Batch::default(), sync: false, reply }).unwrap();
        }
    }
}

/// Somebody who may be the only one to remember says nothing. Whoever comes in as the door opens continues no version of before.
#[tokio::test(start_paused = true)]
async fn the_door_opens_after_the_versions_of_before_are_given_up() {
    let (answers, silent) = (Peer::new(11), Peer::new(12));
    let bench = Bench::start(1, &[ME, answers.id, silent.id], &[&answers, &silent]).await;
    bench.put(&ids(1)[0], 10, None).await;
    silent.narrow(1);
    let bench = bench.again(|_| {});
    let node = &bench.node;
    let before = bench.given_up();
    let mut greeting = Box::pin(greet(node));
    loop {
        tokio::select! {
            biased;
            () = &mut greeting => break,
            () = std::future::ready(()) => {}
        }
        assert!(node.past.objection().is_some() || bench.given_up() != before, "the door is open too early");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((node.past.objection(), node.past.standing()), (None, Standing::Clear));
    assert_ne!(bench.given_up(), before);
    drop(greeting);
    silent.narrow(0);
    let bench = bench.again(|_| {});
    let before = bench.given_up();
    greet(&bench.node).await;
    assert_eq!(bench.given_up(), before, "when everybody answers, nothing is given up");
}

/// An image of its disk is older than a member who may be the only one to remember, and who says nothing. Somebody else tells of him.
#[tokio::test(start_paused = true)]
async fn whom_a_start_learns_of_only_by_asking_is_asked_too() {
    let other = NodeId(11);
    let bench = Bench::start(1, &[ME, other], &[]).await;
    let beside = bench.beside(other).await;
    bench.put(&ids(1)[0], 10, None).await;
    keep_asked(&bench.node).await;
    beside.update(|view| assert!(view.admit(NodeId(12), said(NodeId(12))).unwrap()));
    let bench = bench.again(|_| {});
    let before = bench.given_up();
    greet(&bench.node).await;
    assert_eq!((bench.node.past.standing(), bench.node.past.is_behind()), (Standing::Clear, false));
    assert_ne!(bench.given_up(), before, "12 was not heard");
}

/// Nobody waits for him, but he may remember what nobody else does.
#[tokio::test(start_paused = true)]
async fn who_was_given_up_and_is_silent_is_not_waited_for_and_nothing_is_continued() {
    let (answers, lost) = (Peer::new(11), Peer::new(12));
    let bench = Bench::start(1, &[ME, answers.id, lost.id], &[&answers, &lost]).await;
    bench.put(&ids(1)[0], 10, None).await;
    bench.update(|view| assert!(view.set_status(lost.id, Status::Lost).unwrap()));
    lost.narrow(1);
    let bench = bench.again(|_| {});
    let (before, began) = (bench.given_up(), bench.node.now());
    greet(&bench.node).await;
    assert!(bench.node.now() - began < GREET_TIMEOUT / 2, "{:?}", bench.node.now() - began);
    assert_ne!(bench.given_up(), before);
}

/// The disk is full when a node starts. What the others remember of a start that the disk does not, the next one would take for one that it
/// has forgotten: it would answer for nothing, and set aside what nobody else has.
#[tokio::test(start_paused = true)]
async fn nobody_is_told_of_a_start_before_the_disk_knows_that_it_has_asked() {
    let other = Peer::new(11);
    let bench = Bench::start(1, &[ME, other.id], &[&other]).await;
    let bench = bench.again(|_| {});
    let node = &bench.node;
    let told = || node.cluster.snapshot().view.members[&ME].description.starts;
    let before = told();
    bench.disk().set_fault(Some(Fault::Full));
    greet(node).await;
    keep_asked(node).await;
    come_in(node).unwrap();
    assert_eq!((node.past.standing(), told()), (Standing::Clear, before));
    bench.disk().set_fault(None);
    keep_asked(node).await;
    come_in(node).unwrap();
    assert_eq!(told(), before + 1);
    assert_eq!(bench.number(keys::ASKED), Some(told()));
}

/// It is to stop before it has asked everybody: then nobody hears of it.
#[tokio::test(start_paused = true)]
async fn who_stops_before_he_has_asked_tells_nobody_of_his_start() {
    let other = Peer::new(11);
    let bench = Bench::start(1, &[ME, other.id], &[&other]).await;
    let bench = bench.again(|_| {});
    let told = || bench.node.cluster.snapshot().view.members[&ME].description.starts;
    let before = told();
    keep_asked(&bench.node).await;
    come_in(&bench.node).unwrap();
    assert_eq!((bench.node.past.standing(), told()), (Standing::Unasked, before));
}

/// The lane has as much to do as it takes: whoever waits in turn gets its turn.
#[tokio::test(start_paused = true)]
async fn a_start_is_kept_however_busy_the_lane_is() {
    let other = Peer::new(11);
    let bench = Bench::start(1, &[ME, other.id], &[&other]).await;
    let bench = bench.again(|_| {});
    let node = &bench.node;
    greet(node).await;
    bench.fill_lane();
    keep_asked(node).await;
    assert!(!node.past.is_asked_to_be_kept());
}

/// While it waits for its turn, somebody tells of a start that is not this directory's. That is answered for first: the next start would
/// not find it among those to answer for.
#[tokio::test(start_paused = true)]
async fn nothing_is_kept_or_said_over_what_is_heard_before_its_turn() {
    let other = Peer::new(11);
    for raises in [false, true] {
        let bench = Bench::start(1, &[ME, other.id], &[&other]).await;
        let bench = bench.again(|_| {});
        let node = &bench.node;
        greet(node).await;
        if raises {
            keep_asked(node).await;
            come_in(node).unwrap();
        }
        let told = || node.cluster.snapshot().view.members[&ME].description.starts;
        let kept = || (bench.number(keys::ASKED), bench.number(keys::EPOCH_LEASE), told());
        let before = kept();
        bench.fill_lane();
        let mut in_turn: Pin<Box<dyn Future<Output = ()>>> =
            if raises { Box::pin(raise(node)) } else { Box::pin(keep_asked(node)) };
        let polled = poll_fn(|cx| Poll::Ready(in_turn.as_mut().poll(cx).is_ready())).await;
        assert!(!polled, "the lane has room, so this proves nothing");
        node.past.hear_of(1 << 20);
        in_turn.await;
        assert_eq!(kept(), before, "raises: {raises}");
    }
}

/// What could not be said at the start is, as soon as it is kept.
#[tokio::test(start_paused = true)]
async fn gossip_comes_in_for_who_could_not_at_his_start() {
    let other = Peer::new(11);
    let bench = Bench::start(1, &[ME, other.id], &[&other]).await;
    let bench = bench.again(|_| {});
    let told = || bench.node.cluster.snapshot().view.members[&ME].description.starts;
    let before = told();
    bench.disk().set_fault(Some(Fault::Full));
    greet(&bench.node).await;
    keep_asked(&bench.node).await;
    let (_stop, stopping) = watch::channel(false);
    let gossips = tokio::spawn(gossip::run(bench.node.clone(), vec![], stopping));
    tokio::time::sleep(10 * GOSSIP_EVERY).await;
    assert_eq!(told(), before);
    bench.disk().set_fault(None);
    tokio::time::sleep(10 * GOSSIP_EVERY).await;
    assert_eq!(told(), before + 1);
    gossips.abort();
}

/// One that was ended between its first view and coming in is no newcomer to the others any more: its next start is told after it is kept.
#[tokio::test(start_paused = true)]
async fn who_was_let_in_and_has_not_come_in_does_so_when_its_start_is_kept() {
    let other = Peer::new(11);
    let bench = Bench::start(1, &[other.id], &[&other]).await;
    let status = |bench: &Bench| bench.node.cluster.snapshot().view.members[&ME].status;
    assert_eq!(status(&bench), Status::Joining);
    let bench = bench.again(|_| {});
    let node = &bench.node;
    let told = || node.cluster.snapshot().view.members[&ME].description.starts;
    let before = told();
    bench.disk().set_fault(Some(Fault::Full));
    greet(node).await;
    keep_asked(node).await;
    come_in(node).unwrap();
    assert_eq!((node.past.standing(), status(&bench), told()), (Standing::Clear, Status::Joining, before));
    bench.disk().set_fault(None);
    keep_asked(node).await;
    come_in(node).unwrap();
    assert_eq!((status(&bench), told()), (Status::Up, before + 1));
}
