//! Who is mute and who is only slow, over pipes and on a paused clock.

use super::super::frame::{Kind, encode_head};
use super::super::hello::{self, Nonce};
use super::super::{CallError, Handler, Header, Local, PeerIdentity, Pool, Secret, TableTag, serve};
use super::*;
use crate::bench::Pipes;
use crate::limits::PING_EVERY;
use crate::world::{Listener, World};
use bytes::Bytes;
use ring::ids::ClusterId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::advance;

const PEER: NodeId = NodeId(2);
const ADDRESS: &str = "10.0.0.2:1";
/// What a client may wait.
const PATIENCE: Duration = Duration::from_millis(500);

fn local(node: u128) -> Arc<Local> {
    Local::new(NodeId(node), 1, ADDRESS, Secret::new("s"), Some(ClusterId(5)))
}

fn pool(world: &Pipes) -> Pool<Pipes> {
    let pool = Pool::new(world.clone(), local(1));
    pool.set_peer(PEER, ADDRESS);
    pool
}

async fn ask(pool: &Pool<Pipes>, body: &'static str) -> Result<Bytes, CallError> {
    pool.call(PEER, TableTag::default(), body.into(), PATIENCE).await
}

fn is_late(pool: &Pool<Pipes>) -> bool {
    pool.late().borrow().contains(&PEER)
}

fn is_mute(pool: &Pool<Pipes>) -> bool {
    pool.mute().borrow().contains(&PEER)
}

/// Answers, except to what is beyond it.
#[derive(Clone)]
struct Slow;

impl Handler for Slow {
    async fn handle(&self, _: &PeerIdentity, _: Header, body: Bytes) -> Option<Bytes> {
        if body == "too much" {
            std::future::pending::<()>().await;
        }
        Some(body)
    }
}

/// Whoever lives there from now on answers.
async fn answers(world: &Pipes) -> watch::Sender<bool> {
    let (stop, stopping) = watch::channel(false);
    let port = world.bind(ADDRESS.parse().unwrap()).await.unwrap();
    tokio::spawn(serve(world.clone(), port, local(PEER.0), Slow, stopping));
    stop
}

/// Shakes hands, and then hears nothing: as behind a link that is cut after that.
async fn swallows(world: &Pipes) -> tokio::task::JoinHandle<()> {
    let mut port = world.bind(ADDRESS.parse().unwrap()).await.unwrap();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = port.accept().await {
            hello::accept(&mut stream, &local(PEER.0), Nonce::default()).await.unwrap();
            kept.push(stream);
        }
    })
}

#[tokio::test(start_paused = true)]
async fn who_answers_nothing_for_two_seconds_is_mute_until_something_comes() {
    let world = Pipes::new();
    let there = swallows(&world).await;
    let pool = pool(&world);
    let asked = world.now();
    let first = ask(&pool, "anyone?");
    let (first, late_after) = tokio::join!(first, async {
        pool.late().wait_for(|set| set.contains(&PEER)).await.unwrap();
        world.now() - asked
    });
    assert_eq!(first, Err(CallError::TimedOut));
    assert!(
        late_after >= LATE_AFTER && late_after <= LATE_AFTER + Duration::from_millis(2),
        "{late_after:?}"
    );
    while !is_mute(&pool) {
        assert_eq!(ask(&pool, "anyone?").await, Err(CallError::TimedOut));
        assert!(is_late(&pool) && world.now() - asked < MUTE_AFTER + 2 * LOOK_EVERY + PATIENCE);
    }
    assert!(world.now() - asked >= MUTE_AFTER);
    there.abort();
    let _there = answers(&world).await;
    while ask(&pool, "and now?").await.is_err() {}
    assert!(!is_mute(&pool) && !is_late(&pool), "at the first answer");
}

/// For ten seconds: nobody is to blame for that silence. Whoever says nothing after it is late, and mute, as soon as any other.
#[tokio::test(start_paused = true)]
async fn who_has_stood_still_himself_holds_it_against_nobody() {
    let world = Pipes::new();
    let _there = swallows(&world).await;
    let pool = pool(&world);
    tokio::spawn({
        let pool = pool.clone();
        async move { pool.call(PEER, TableTag::default(), "anyone?".into(), 10 * MUTE_AFTER).await }
    });
    while pool.in_vain(PEER) < LATE_AFTER / 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    advance(Duration::from_secs(10)).await;
    let woke = world.now();
    let took = async |mut set: watch::Receiver<BTreeSet<NodeId>>| {
        set.wait_for(|set| set.contains(&PEER)).await.unwrap();
        world.now() - woke
    };
    let (late, mute) = tokio::join!(took(pool.late()), took(pool.mute()));
    assert!(late >= LATE_AFTER && late <= LATE_AFTER + Duration::from_millis(2), "{late:?}");
    assert!(mute >= MUTE_AFTER && mute <= MUTE_AFTER + LOOK_EVERY, "{mute:?}");
}

/// A peer answers one question, and then its link is cut. Nobody asks it anything after that.
#[tokio::test(start_paused = true)]
async fn who_is_asked_nothing_is_found_mute_by_the_signs_of_life() {
    let world = Pipes::new();
    let mut port = world.bind(ADDRESS.parse().unwrap()).await.unwrap();
    let pool = pool(&world);
    let there = async {
        let (mut stream, _) = port.accept().await.unwrap();
        hello::accept(&mut stream, &local(PEER.0), Nonce::default()).await.unwrap();
        stream.read_u8().await.unwrap();
        let head = encode_head(&Header::bare(Kind::Response, 1), b"yes");
        stream.write_all(&[&head[..], b"yes"].concat()).await.unwrap();
        stream
    };
    let (answer, _stream) = tokio::join!(ask(&pool, "anyone?"), there);
    assert_eq!(answer, Ok("yes".into()));
    let begun = world.now();
    pool.mute().wait_for(|set| set.contains(&PEER)).await.unwrap();
    assert!(world.now() - begun <= 2 * PING_EVERY + MUTE_AFTER + LOOK_EVERY, "{:?}", world.now() - begun);
}

#[tokio::test(start_paused = true)]
async fn who_takes_long_for_an_answer_is_not_mute() {
    let world = Pipes::new();
    let (_there, pool) = (answers(&world).await, pool(&world));
    for _ in 0..20 {
        assert_eq!(ask(&pool, "too much").await, Err(CallError::TimedOut));
        assert!(!is_mute(&pool));
    }
}

#[tokio::test(start_paused = true)]
async fn who_can_not_be_dialed_is_mute_after_as_long() {
    let world = Pipes::new();
    let pool = pool(&world);
    let asked = world.now();
    while !is_mute(&pool) {
        assert_eq!(ask(&pool, "anyone?").await, Err(CallError::Unreachable));
        assert!(world.now() - asked < 2 * MUTE_AFTER, "it is asked again within a second");
        advance(PATIENCE).await;
    }
    assert!(world.now() - asked >= MUTE_AFTER);
    let _there = answers(&world).await;
    while ask(&pool, "and now?").await.is_err() {
        advance(PATIENCE).await;
    }
    assert!(!is_mute(&pool));
}

/// Another address is another link, and of a peer that was forgotten nothing is said.
#[tokio::test(start_paused = true)]
async fn a_link_that_ends_takes_its_word_back() {
    let world = Pipes::new();
    let _there = swallows(&world).await;
    let pool = pool(&world);
    while !is_mute(&pool) {
        assert!(ask(&pool, "anyone?").await.is_err());
    }
    // Its old connection stands, with a question under way, and would go on to look.
    let asking = tokio::spawn({
        let pool = pool.clone();
        async move { pool.call(PEER, TableTag::default(), "still there?".into(), 20 * MUTE_AFTER).await }
    });
    tokio::task::yield_now().await;
    let moved = "10.0.0.2:2";
    let (_stop, stopping) = watch::channel(false);
    let port = world.bind(moved.parse().unwrap()).await.unwrap();
    tokio::spawn(serve(world.clone(), port, local(PEER.0), Slow, stopping));
    assert!(is_late(&pool));
    pool.set_peer(PEER, moved);
    assert!(!is_mute(&pool) && !is_late(&pool));
    for _ in 0..20 {
        assert_eq!(ask(&pool, "here?").await, Ok("here?".into()));
        assert!(!is_mute(&pool), "it answers at its new address");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    assert!(!asking.is_finished(), "the old connection is gone, so this proves nothing");
    pool.set_peer(PEER, ADDRESS);
    while !is_mute(&pool) {
        assert!(ask(&pool, "anyone?").await.is_err());
    }
    pool.remove_peer(PEER);
    assert!(!is_mute(&pool));
}
