//! What comes before what at a start.

use super::*;
use crate::bench::{Bench, ME, Peer, ids};
use crate::limits::LANE_QUEUE_JOBS_MAX;
use crate::store::Store;
use crate::store::mem::Fault;
use crate::store::{Family, keys};
use std::time::Duration;
use tokio::sync::oneshot;

/// Somebody who may be the only one to remember says nothing. Whoever comes in as the door opens continues no version of before.
#[tokio::test(start_paused = true)]
async fn the_door_opens_after_the_versions_of_before_are_given_up() {
    let (answers, silent) = (Peer::new(11), Peer::new(12));
    let bench = Bench::start(1, &[ME, answers.id, silent.id], &[&answers, &silent]).await;
    bench.put(&ids(1)[0], 10, None).await;
    silent.narrow(1);
    let bench = bench.again(|_| {});
    let node = &bench.node;
    let given_up = || node.store.get(Family::Meta, keys::EPOCH_BOOT).unwrap();
    let before = given_up();
    let mut greeting = Box::pin(greet(node));
    loop {
        tokio::select! {
            biased;
            () = &mut greeting => break,
            () = std::future::ready(()) => {}
        }
        assert!(node.past.objection().is_some() || given_up() != before, "the door is open too early");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((node.past.objection(), node.past.standing()), (None, Standing::Clear));
    assert_ne!(given_up(), before);
    drop(greeting);
    silent.narrow(0);
    let bench = bench.again(|_| {});
    let before = bench.node.store.get(Family::Meta, keys::EPOCH_BOOT).unwrap();
    greet(&bench.node).await;
    let after = bench.node.store.get(Family::Meta, keys::EPOCH_BOOT).unwrap();
    assert_eq!(after, before, "when everybody answers, nothing is given up");
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
    let asked = node.store.get(Family::Meta, keys::ASKED).unwrap();
    assert_eq!(asked.as_deref(), Some(&told().to_be_bytes()[..]));
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
    let mut answers = Vec::new();
    for _ in 0..LANE_QUEUE_JOBS_MAX {
        let (reply, answer) = oneshot::channel();
        node.lane.submit(Job::Forsake { reply }).unwrap();
        answers.push(answer);
    }
    keep_asked(node).await;
    assert!(!node.past.is_asked_to_be_kept());
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
