//! Clients' writes beside nodes that stand still, and a disk that hangs.

use super::*;
use crate::bench::{Bench, ME, Peer, ids, write_of};
use crate::duty::swim;
use crate::limits::LATE_AFTER;
use crate::store::{Family, keys};
use ring::bucket::Level;
use ring::ids::Partition;
use ring::time::Time;
use tokio::sync::{mpsc, watch};

const OWNER: NodeId = NodeId(11);
const OTHER: NodeId = NodeId(12);
const THIRD: NodeId = NodeId(13);
const SOON: Duration = Duration::from_millis(10);

/// Keys of which these are owners, and nobody else.
fn owned_by<'a>(
    bench: &'a Bench,
    all: &'a [ObjectId],
    owners: [NodeId; 3],
) -> impl Iterator<Item = &'a ObjectId> {
    all.iter().filter(move |id| bench.owners(id).iter().all(|owner| owners.contains(owner)))
}

/// Four nodes of which two stand still. Those are the first two fallbacks' business as soon as nothing has come from them for a while:
/// the third write finds them late, and waits for nobody.
#[tokio::test(start_paused = true)]
async fn a_fallback_stands_in_for_those_who_stand_still() {
    let bench = Bench::start(32, &[ME, OWNER, OTHER, THIRD], &[]).await;
    let fallback = bench.beside(OWNER).await;
    bench.stands_still(OTHER).await;
    bench.stands_still(THIRD).await;
    let (_stop, stopping) = watch::channel(false);
    let (_inbox, messages) = mpsc::channel(1);
    tokio::spawn(swim::run(bench.node.clone(), 1, messages, stopping));
    let all = ids(200);
    let mut keys = owned_by(&bench, &all, [ME, OTHER, THIRD]);
    let at_once = Duration::ZERO..SOON;
    let when = [LATE_AFTER..LATE_AFTER + LOOK_WHO_IS_LATE_EVERY + SOON, at_once.clone(), at_once];
    for (number, expected) in when.into_iter().enumerate() {
        let began = bench.node.now();
        let written = bench.node.write(write_of(keys.next().unwrap(), 2), "v".into()).await.unwrap().head;
        let took = bench.node.now() - began;
        assert!(expected.contains(&took), "{number}: {took:?}");
        assert_eq!((written.outcome, written.acked, written.owners), (Outcome::Applied, 2, 1));
        let hints = [OTHER, THIRD].map(|owner| fallback.hints_for(owner));
        assert_eq!((fallback.kept().len(), hints.iter().sum::<usize>()), (number + 1, number + 1));
    }
    // There is no second one who could.
    let written = bench.node.write(write_of(keys.next().unwrap(), 3), "v".into()).await.unwrap().head;
    assert_eq!((written.outcome, written.acked), (Outcome::Indeterminate, 2));
}

/// A client's write of a key of others, the first of whom stands still: another one is asked to decide it, for what was handed over
/// to somebody can't be asked of anybody else.
#[tokio::test(start_paused = true)]
async fn who_owes_an_answer_is_not_asked_to_decide() {
    let silent = Peer::new(OTHER.0);
    let bench = Bench::start(1, &[OWNER, OTHER], &[&silent]).await;
    let owner = bench.beside(OWNER).await;
    silent.narrow(1);
    let key = &ids(1)[0];
    let first = bench.owners(key)[0];
    for late in [OTHER, OWNER] {
        bench.node.cluster.set_late([late].into());
        let written = bench.node.write(write_of(key, 1), "v".into()).await;
        assert_eq!(written.is_ok(), late == OTHER, "{late:?} of {first:?}: {written:?}");
        assert_eq!(owner.kept().len(), 1);
    }
}

/// The same long before he is late.
#[tokio::test(start_paused = true)]
async fn who_has_owed_an_answer_for_a_moment_is_not_asked_to_decide() {
    let bench = Bench::start(8, &[OWNER, OTHER], &[]).await;
    let owner = bench.beside(OWNER).await;
    bench.stands_still(OTHER).await;
    let all = ids(50);
    let mut keys = all.iter().filter(|id| bench.owners(id)[0] == OTHER);
    let node = bench.node.clone();
    tokio::spawn(async move {
        let asked = Message::of(Ask::Gossip { digest: 0 });
        node.ask(OTHER, asked, LATE_AFTER).await
    });
    while bench.node.pool.in_vain(OTHER) < HAND_OVER_WITHIN {
        sleep(Duration::from_millis(1)).await;
    }
    let (began, key) = (bench.node.now(), keys.next().unwrap());
    bench.node.write(write_of(key, 1), "v".into()).await.unwrap();
    assert!(bench.node.now() - began < SOON && bench.node.cluster.late().is_empty());
    assert_eq!(owner.kept(), std::slice::from_ref(key));
}

/// All owners are late, though one answers: somebody else decides it, unless fallbacks count for nothing.
#[tokio::test(start_paused = true)]
async fn late_owners_decide_only_what_nobody_else_may() {
    let owners = [OWNER, OTHER, THIRD];
    let bench = Bench::start(32, &[ME, OWNER, OTHER, THIRD], &[]).await;
    let owner = bench.beside(OWNER).await;
    bench.node.cluster.set_late(owners.into());
    let all = ids(200);
    let mut keys = owned_by(&bench, &all, owners);
    let (first, second) = (keys.next().unwrap(), keys.next().unwrap());
    bench.node.write(write_of(first, 1), "v".into()).await.unwrap();
    assert_eq!(bench.kept(), std::slice::from_ref(first));
    assert_eq!(bench.hints_for(bench.owners(first)[0]), 1);
    let strict = QuorumAsk { w: Some(Level::One), sloppy: Some(false), ..QuorumAsk::default() };
    let ask = WriteAsk { quorum: strict, ..write_of(second, 1) };
    bench.node.write(ask, "v".into()).await.unwrap();
    assert!(owner.kept().contains(second) && !bench.kept().contains(second));
}

/// A network that resets connections: the record goes out once more over the next one, and not for ever.
#[tokio::test(start_paused = true)]
async fn a_record_is_sent_again_when_its_connection_breaks() {
    let all = ids(2);
    for (breaks, outcome, acked) in [(1, Outcome::Applied, 2), (2, Outcome::Indeterminate, 1)] {
        let bench = Bench::start(1, &[ME, OTHER], &[]).await;
        let other = bench.beside(OTHER).await;
        bench.hangs_up(OTHER, breaks).await;
        let began = bench.node.now();
        let written = bench.node.write(write_of(&all[0], 2), "v".into()).await.unwrap().head;
        assert_eq!((written.outcome, written.acked), (outcome, acked), "{breaks} broken connections");
        assert!(bench.node.now() - began < SOON && !written.timed_out);
        assert_eq!(other.kept().len(), acked - 1);
        // The one that it gave up after is not the last one there is.
        let next = bench.node.write(write_of(&all[1], 2), "v".into()).await.unwrap().head;
        assert_eq!((next.outcome, next.acked), (Outcome::Applied, 2));
    }
}

/// The only other owner stands still, and when a hint is due for it the own record can't be read: then nobody keeps one, and the
/// partition is compared before its turn.
#[tokio::test(start_paused = true)]
async fn a_hint_that_can_not_be_kept_is_counted_and_compared_instead() {
    let bench = Bench::start(1, &[ME, OTHER], &[]).await;
    bench.stands_still(OTHER).await;
    let key = &ids(1)[0];
    bench.node.write(write_of(key, 1), "v".into()).await.unwrap();
    bench.disk().corrupt(Family::Records, &keys::record_key(Partition(0), key));
    let dropped = || bench.node.lock_hints().dropped;
    while dropped() == 0 {
        assert!(bench.node.now() < Time::default() + Duration::from_secs(30), "nobody was told");
        sleep(SOON).await;
    }
    assert_eq!((dropped(), bench.hints_for(OTHER)), (1, 0));
    assert!(bench.node.lock_hints().urgent.contains_key(&Partition(0)));
    assert_eq!(bench.node.hints_written.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_is_told_of_in_time_and_waited_for() {
    let seconds = Duration::from_secs;
    for (takes, told) in [(1, false), (30, true)] {
        let (say, mut heard) = oneshot::channel();
        let work = async move {
            sleep(seconds(takes)).await;
            7
        };
        let driver = tokio::spawn(async move {
            let sleep = std::pin::pin!(sleep(seconds(10)));
            let mut clock = Clock::new(sleep, seconds(10));
            to_its_end(work, &mut clock, || say.send(()).unwrap()).await
        });
        sleep(seconds(11)).await;
        assert_eq!(heard.try_recv().is_ok(), told, "work of {takes} s");
        assert_eq!(driver.await.unwrap(), 7, "it is awaited to its end");
    }
}
