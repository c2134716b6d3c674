//! A write that is handed over is carried out once, however often it comes, and whatever breaks on its way.

use super::*;
use crate::bench::{Bench, ME, Pipes, ids, said as said_of, write_of};
use crate::peer::frame::Header;
use crate::peer::{Handler, PeerIdentity};
use crate::serve::Peers;
use ring::bucket::Level;
use ring::coord::Outcome;
use ring::ids::ObjectId;
use ring::wire::bytes::DecodeError;
use ring::wire::peer::QuorumAsk;
use ring::wire::record::decode;
use tokio::sync::mpsc;

const OWNER: NodeId = NodeId(11);
const OTHER: NodeId = NodeId(12);
const SOON: Duration = Duration::from_millis(10);
/// What every process of the bench says that it is.
const BOOT: u64 = 1;

fn forward_of(id: &ObjectId, number: u64) -> Forward {
    Forward { life: 7, number, boot: BOOT, again: false, write: write_of(id, 1) }
}

/// As a frame brings it.
async fn hand_over(owner: &Bench, forward: Forward) -> Message<Answer> {
    let (ask, until) =
        (Message { head: Ask::Forward(forward), body: "v".into() }, owner.node.now() + FORWARD_GRACE);
    owner.node.answer(ME, owner.node.table_tag(), until, ask).await
}

fn siblings(bench: &Bench, id: &ObjectId) -> usize {
    bench.node.local(id).unwrap().map_or(0, |held| decode(&held).unwrap().siblings.len())
}

/// The node under test, which owns nothing, and the owner of everything. They have met. It is the node's second start, so that its boot id
/// is another one than that of the owner.
async fn pair() -> (Bench, Bench) {
    let bench = Bench::start(1, &[OWNER], &[]).await;
    let owner = bench.beside(OWNER).await;
    (started_anew(bench, &[OWNER]), owner)
}

fn started_anew(bench: Bench, peers: &[NodeId]) -> Bench {
    let bench = bench.again(|_| ());
    bench.node.past.asked(true);
    for peer in peers {
        bench.node.pool.set_peer(*peer, said_of(*peer).peer);
    }
    assert_ne!(bench.node.boot_id, BOOT);
    bench
}

fn peers_of(owner: &Bench) -> Peers<Pipes> {
    let peers = Peers::new(mpsc::channel(1).0);
    peers.serve(owner.node.clone());
    peers
}

/// It knows to which start of the owner its connection leads, and breaks with that connection.
async fn meet(bench: &Bench) {
    let _broken = bench.node.ask(OWNER, Message::of(Ask::Clock), SOON).await;
    assert_eq!(bench.node.pool.boot_of(OWNER), Some(BOOT));
}

/// A network that resets connections, before the owner has heard of the write and after. Each client is told what became of its
/// write, and each value is there once. A second reset is one too many: nobody knows, and it is there once at the most.
#[tokio::test(start_paused = true)]
async fn a_write_is_handed_over_again_when_its_connection_breaks() {
    let id = &ids(1)[0];
    for (resets, is_heard, outcome, copies) in
        [(1, false, true, 1), (1, true, true, 1), (2, false, false, 0), (2, true, false, 1)]
    {
        let (bench, owner) = pair().await;
        match is_heard {
            false => bench.hangs_up(OWNER, resets + 1).await,
            true => bench.loses_answers(OWNER, resets + 1).await,
        }
        meet(&bench).await;
        let began = bench.node.now();
        let written = bench.node.write(write_of(id, 1), "v".into()).await;
        match outcome {
            true => assert_eq!(written.unwrap().head.outcome, Outcome::Applied),
            false => assert_eq!(written.unwrap_err(), WriteFail::Lost),
        }
        assert_eq!(siblings(&owner, id), copies, "{resets} resets, heard: {is_heard}");
        assert!(bench.node.now() - began < SOON, "nothing waits for a deadline");
        // The next one is another one.
        bench.node.write(write_of(id, 1), "v".into()).await.unwrap();
        assert_eq!(siblings(&owner, id), copies + 1);
    }
}

/// The owner was started anew between the two, and can't know what became of it. Nobody else is asked: that could make two of it.
#[tokio::test(start_paused = true)]
async fn a_later_start_of_the_owner_does_not_carry_it_out_again() {
    let id = &ids(1)[0];
    for is_earlier in [false, true] {
        let bench = Bench::start(1, &[OWNER, OTHER], &[]).await;
        let (owner, other) = (bench.beside(OWNER).await, bench.beside(OTHER).await);
        let (bench, owner) = (started_anew(bench, &[OWNER, OTHER]), started_anew(owner, &[OTHER]));
        owner.node.cluster.set_late([OTHER].into());
        bench.node.cluster.set_late([OTHER].into());
        match is_earlier {
            false => bench.answers_by(OWNER, peers_of(&owner)).await,
            true => bench.answers_by(OWNER, Downgraded(peers_of(&owner))).await,
        }
        bench.loses_answers(OWNER, 2).await;
        meet(&bench).await;
        let strict = QuorumAsk { w: Some(Level::One), sloppy: Some(false), ..QuorumAsk::default() };
        let written = bench.node.write(WriteAsk { quorum: strict, ..write_of(id, 1) }, "v".into()).await;
        match is_earlier {
            false => assert_eq!(written.unwrap_err(), WriteFail::Refused(not_known())),
            true => assert_eq!(written.unwrap_err(), WriteFail::Lost),
        }
        assert_eq!(siblings(&owner, id), 1);
        assert!(siblings(&other, id) <= 1, "it has what the owner has replicated, and nothing of its own");
    }
}

/// It takes writes under names until somebody asks again: then one of an earlier version has been started in its place.
#[derive(Clone)]
struct Downgraded(Peers<Pipes>);

impl Handler for Downgraded {
    async fn handle(&self, from: &PeerIdentity, header: Header, body: Bytes) -> Option<Bytes> {
        match Message::<Ask>::decode(&body).unwrap().head {
            Ask::Forward(Forward { again: true, .. }) => {
                Earlier(self.0.clone()).handle(from, header, body).await
            }
            _ => self.0.handle(from, header, body).await,
        }
    }
}

/// A connection ends while the owner looks whether it may take the write at all. Nothing is decided then, and whoever comes next decides.
#[tokio::test(start_paused = true)]
async fn a_name_is_not_taken_by_who_did_not_stay() {
    let (_bench, owner) = pair().await;
    let id = &ids(1)[0];
    let for_ever = owner.node.answer_forward(ME, forward_of(id, 1), "v".into(), std::future::pending());
    assert!(tokio::time::timeout(SOON, for_ever).await.is_err());
    let answer = hand_over(&owner, Forward { again: true, ..forward_of(id, 1) }).await;
    assert!(matches!(answer.head, Answer::Written(_)), "{:?}", answer.head);
    assert_eq!(siblings(&owner, id), 1);
}

/// The port is served before there is a node. What was refused then is refused for good.
#[tokio::test(start_paused = true)]
async fn what_came_too_early_is_not_carried_out_later() {
    let (bench, owner) = pair().await;
    let peers = Peers::new(mpsc::channel(1).0);
    bench.answers_by(OWNER, peers.clone()).await;
    let id = &ids(1)[0];
    let ask = Message { head: Ask::Forward(forward_of(id, 1)), body: "v".into() };
    let refused = bench.node.ask(OWNER, ask.clone(), SOON).await.unwrap();
    assert!(matches!(refused.head, Answer::Refused(Refusal::Unavailable(_))), "{:?}", refused.head);
    peers.serve(owner.node.clone());
    assert_eq!((bench.node.ask(OWNER, ask, SOON).await.unwrap(), siblings(&owner, id)), (refused, 0));
    bench.node.write(write_of(id, 1), "v".into()).await.unwrap();
    assert_eq!(siblings(&owner, id), 1);
}

/// The network delivers it twice, on two connections at once. The first of them is gone before there is an answer.
#[tokio::test(start_paused = true)]
async fn whoever_asks_again_is_told_the_same() {
    let bench = Bench::start(1, &[OWNER, OTHER], &[]).await;
    let owner = bench.beside(OWNER).await;
    owner.stands_still(OTHER).await;
    let id = &ids(1)[0];
    let forward = Forward { write: write_of(id, 2), ..forward_of(id, 1) };
    let ask = |again| hand_over(&owner, Forward { again, ..forward.clone() });
    let gone = tokio::time::timeout(SOON, ask(false)).await;
    assert!(gone.is_err(), "the other owner's word is awaited");
    let (second, third) = tokio::join!(ask(true), ask(false));
    let Answer::Written(written) = &second.head else { panic!("{:?}", second.head) };
    assert_eq!((written.outcome, written.dots.len()), (Outcome::Indeterminate, 1));
    assert_eq!((&second, siblings(&owner, id)), (&third, 1));
    // Long after that, and though the node is about to stop.
    owner.node.draining.store(true, Ordering::Relaxed);
    assert_eq!(ask(true).await, second);
    // Under another name, or of another life of the sender, it is another write.
    owner.node.draining.store(false, Ordering::Relaxed);
    for other in [Forward { number: 2, ..forward.clone() }, Forward { life: 8, ..forward.clone() }] {
        hand_over(&owner, other).await;
    }
    assert_eq!(siblings(&owner, id), 3);
}

/// Who can't know what became of a write leaves it alone: the sender may have asked an earlier start of this node.
#[tokio::test(start_paused = true)]
async fn what_may_have_been_carried_out_is_not_carried_out_again() {
    let (_bench, owner) = pair().await;
    let id = &ids(1)[0];
    let to_another = Forward { again: true, boot: BOOT + 1, ..forward_of(id, 5) };
    let answer = hand_over(&owner, to_another).await;
    assert_eq!((answer.head, siblings(&owner, id)), (Answer::Refused(not_known()), 0));
    // What can't have been is, the first of its sender as well.
    hand_over(&owner, Forward { again: true, ..forward_of(id, 5) }).await;
    hand_over(&owner, Forward { boot: BOOT + 1, ..forward_of(id, 6) }).await;
    assert_eq!(siblings(&owner, id), 2);
}

/// A node that is about to stop refuses a write, and its sender asks another one. What the network has kept of it for later changes
/// nothing any more.
#[tokio::test(start_paused = true)]
async fn what_was_refused_is_not_carried_out_later() {
    let (_bench, owner) = pair().await;
    let id = &ids(1)[0];
    owner.node.draining.store(true, Ordering::Relaxed);
    let refused = Answer::Refused(Refusal::Draining);
    assert_eq!(hand_over(&owner, forward_of(id, 1)).await.head, refused);
    owner.node.draining.store(false, Ordering::Relaxed);
    assert_eq!((hand_over(&owner, forward_of(id, 1)).await.head, siblings(&owner, id)), (refused, 0));
    hand_over(&owner, forward_of(id, 2)).await;
    assert_eq!(siblings(&owner, id), 1);
}

/// A client that wants the record back is not answered from memory: that would have to hold it.
#[tokio::test(start_paused = true)]
async fn an_answer_with_its_record_is_not_remembered() {
    let (bench, owner) = pair().await;
    meet(&bench).await;
    let id = &ids(1)[0];
    let ask = WriteAsk { return_record: true, ..write_of(id, 1) };
    let written = bench.node.write(ask, "v".into()).await.unwrap();
    assert_eq!(decode(&written.body).unwrap().siblings.len(), 1);
    assert!(owner.node.lock_forwarded().windows.is_empty());
    bench.node.write(write_of(id, 1), "v".into()).await.unwrap();
    assert_eq!(owner.node.lock_forwarded().windows.len(), 1);
}

/// An earlier version, which knows no names.
#[derive(Clone)]
struct Earlier(Peers<Pipes>);

impl Handler for Earlier {
    async fn handle(&self, from: &PeerIdentity, header: Header, body: Bytes) -> Option<Bytes> {
        if let Ask::Forward(_) = Message::<Ask>::decode(&body).unwrap().head {
            let refusal = Refusal::Malformed(DecodeError::Unknown("message").to_string());
            return Some(Message::of(Answer::Refused(refusal)).encode());
        }
        self.0.handle(from, header, body).await
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_of_an_earlier_version_is_asked_without_a_name() {
    let (bench, owner) = pair().await;
    bench.answers_by(OWNER, Earlier(peers_of(&owner))).await;
    meet(&bench).await;
    let written = bench.node.write(write_of(&ids(1)[0], 1), "v".into()).await.unwrap();
    assert_eq!((written.head.outcome, owner.kept().len()), (Outcome::Applied, 1));
    assert!(owner.node.lock_forwarded().windows.is_empty());
}

/// What is remembered is bounded, and what was forgotten is refused rather than carried out twice.
#[test]
fn the_window_moves_on() {
    let id = &ids(1)[0];
    let (mut forwarded, now) = (Forwarded::default(), Time(1));
    let mut admit = |number, again, now| {
        let forward = Forward { again, ..forward_of(id, number) };
        forwarded.admit(ME, &forward, now).map(|admitted| matches!(admitted, Admitted::New(..)))
    };
    let most = FORWARDED_KEPT_MAX as u64;
    for number in 0..=most {
        assert_eq!(admit(number, false, now), Ok(true));
    }
    assert_eq!((admit(0, true, now), admit(0, false, now)), (Err(not_known()), Err(not_known())));
    assert_eq!((admit(1, true, now), admit(most, false, now)), (Ok(false), Ok(false)));
}

/// Processes that have handed nothing over for long are dropped when another one comes, and the longest silent of too many. What they
/// repeat after that is not carried out, for they may have slept.
#[test]
fn windows_are_dropped_and_what_was_in_them_is_not_known() {
    let id = &ids(1)[0];
    let mut forwarded = Forwarded::default();
    let mut came = |life, again, now| {
        let forward = Forward { life, again, ..forward_of(id, 1) };
        let admitted = forwarded.admit(ME, &forward, now);
        (admitted.map(|admitted| matches!(admitted, Admitted::New(..))), forwarded.windows.len())
    };
    let now = Time(1);
    let later = now + FORWARDERS_FORGOTTEN_AFTER;
    assert_eq!((came(1, false, now), came(2, true, now)), ((Ok(true), 1), (Ok(true), 2)));
    assert_eq!(came(3, false, Time(later.0 - 1)), (Ok(true), 3), "they may still ask");
    assert_eq!(came(4, false, later), (Ok(true), 2));
    assert_eq!(came(1, true, later), (Err(not_known()), 2));
    assert_eq!(came(4, true, later), (Ok(false), 2));
    for life in 5..5 + FORWARDERS_MAX as u64 {
        assert_eq!(came(life, false, Time(later.0 + life)).0, Ok(true));
    }
    assert_eq!(came(4, true, later), (Err(not_known()), FORWARDERS_MAX));
    assert_eq!(came(5, true, later), (Ok(false), FORWARDERS_MAX));
}
