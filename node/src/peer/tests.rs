//! The transport over real sockets: what a caller sees when things go well, and when peers die, lie or stall.

use super::frame::{HEAD_BYTES, decode, encode_head};
use super::*;
use crate::limits::{FRAME_BYTES_MAX, HELLO_TIMEOUT, HELLOS_MAX, IN_FLIGHT_MAX};
use crate::real::RealWorld;
use crate::store::{Batch, Family, OpenError, Row, Store, StoreError};
use crate::world::{Listener, World};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::{self, FuturesUnordered};
use ring::ids::{ClusterId, NodeId};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_secs(1);
const SERVER: NodeId = NodeId(2);
const TABLE: TableTag = TableTag { counter: 3, digest: 4 };

/// The transport never touches the disk.
#[derive(Clone)]
struct NoStore;

impl Store for NoStore {
    fn get(&self, _: Family, _: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(None)
    }
    fn write(&self, _: Batch, _: bool) -> Result<(), StoreError> {
        Err(StoreError::Io("no disk here".into()))
    }
    fn scan(
        &self,
        _: Family,
        _: &[u8],
        _: Option<&[u8]>,
        _: usize,
        _: usize,
    ) -> Result<Vec<Row>, StoreError> {
        Ok(Vec::new())
    }
    fn estimate_keys(&self, _: Family) -> u64 {
        0
    }
    fn disk_bytes(&self) -> u64 {
        0
    }
    fn has_lost_writes(&self) -> bool {
        false
    }
    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

fn world() -> RealWorld<NoStore> {
    fn open(_: &Path) -> Result<NoStore, OpenError> {
        Ok(NoStore)
    }
    RealWorld::new(open)
}

fn local(node: u128, secret: &str, cluster: Option<u128>) -> Arc<Local> {
    Local::new(NodeId(node), node as u64, "host:1", Secret::new(secret), cluster.map(ClusterId))
}

/// Does what the body's first word says, and counts.
#[derive(Clone)]
struct Script {
    handled: watch::Sender<usize>,
}

impl Handler for Script {
    async fn handle(&self, from: &PeerIdentity, header: Header, body: Bytes) -> Option<Bytes> {
        self.handled.send_modify(|count| *count += 1);
        match &body[..] {
            b"stuck" => std::future::pending().await,
            b"not for you" => None,
            b"who am I" => Some(format!("{:?}", from.cluster).into()),
            b"header" => Some(format!("{:?} {}", header.table, header.trace).into()),
            _ => Some(body),
        }
    }
}

struct Server {
    address: SocketAddr,
    local: Arc<Local>,
    handled: watch::Receiver<usize>,
    task: JoinHandle<()>,
    _running: watch::Sender<bool>,
}

impl Server {
    async fn start_at(address: &str, local: Arc<Local>) -> Server {
        let listener = world().bind(address.parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (handled, count) = watch::channel(0);
        let (running, shutdown) = watch::channel(false);
        let serving = serve(world(), listener, Arc::clone(&local), Script { handled }, shutdown);
        Server { address, local, handled: count, task: tokio::spawn(serving), _running: running }
    }

    async fn start() -> Server {
        Server::start_at("127.0.0.1:0", local(SERVER.0, "s", Some(5))).await
    }

    fn pool(&self) -> Pool<RealWorld<NoStore>> {
        pool_to(&self.address.to_string())
    }

    async fn kill(self) -> SocketAddr {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
        self.address
    }

    async fn handled(&mut self, count: usize) {
        timeout(LONG, self.handled.wait_for(|n| *n >= count)).await.unwrap().unwrap();
    }

    async fn still_serves(&self) {
        assert_eq!(ask(&self.pool(), "still there?").await, Ok("still there?".into()));
    }

    /// A connection past its handshake, to write raw bytes on.
    async fn raw(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        hello::dial(&mut stream, &local(1, "s", Some(5)), [1; 32], Some(SERVER)).await.unwrap();
        stream
    }
}

fn pool_to(address: &str) -> Pool<RealWorld<NoStore>> {
    let pool = Pool::new(world(), local(1, "s", Some(5)));
    pool.set_peer(SERVER, address);
    pool
}

async fn ask(pool: &Pool<RealWorld<NoStore>>, body: &'static str) -> Result<Bytes, CallError> {
    pool.call(SERVER, TABLE, body.into(), LONG).await
}

fn frame(header: &Header, body: &[u8]) -> Vec<u8> {
    [&encode_head(header, body)[..], body].concat()
}

/// Waits until the other side closes, and gives what it said before.
async fn until_closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut seen = Vec::new();
    // A reset is as good an end as any.
    let _reset = timeout(3 * LONG, stream.read_to_end(&mut seen)).await.expect("the connection stays open");
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_pipelined_calls_each_get_their_own_answer() {
    let server = Server::start().await;
    let pool = server.pool();
    let answers = stream::iter(0..10_000u32)
        .map(|n| {
            let (pool, body) = (&pool, Bytes::from(n.to_string()));
            async move { (pool.call(SERVER, TABLE, body.clone(), LONG).await, body) }
        })
        .buffer_unordered(512);
    let mut right = 0;
    for (answer, body) in answers.collect::<Vec<_>>().await {
        assert_eq!(answer, Ok(body));
        right += 1;
    }
    assert_eq!(right, 10_000);
    assert!(pool.connected(SERVER));
}

#[tokio::test]
async fn the_handler_sees_table_and_trace() {
    let server = Server::start().await;
    let answer = server.pool().call_traced(SERVER, TABLE, 77, "header".into(), LONG).await.unwrap();
    assert_eq!(answer, format!("{TABLE:?} 77"));
}

#[tokio::test]
async fn a_large_body_travels_whole_among_small_ones() {
    let server = Server::start().await;
    let pool = server.pool();
    let large = Bytes::from((0..4 << 20).map(|n: u32| (n % 251) as u8).collect::<Vec<_>>());
    let (a, b, small) = tokio::join!(
        pool.call(SERVER, TABLE, large.clone(), LONG),
        pool.call(SERVER, TABLE, large.clone(), LONG),
        ask(&pool, "small"),
    );
    assert_eq!((a.unwrap(), b.unwrap(), small.unwrap()), (large.clone(), large, "small".into()));
}

#[tokio::test]
async fn a_peer_that_dies_loses_its_calls_at_once_and_is_found_again_at_once() {
    let mut server = Server::start().await;
    let pool = server.pool();
    let killed = async {
        server.handled(1).await;
        let (died, address) = (Instant::now(), server.kill().await);
        (died, address)
    };
    let (lost, (died, address)) = tokio::join!(ask(&pool, "stuck"), killed);
    assert_eq!(lost, Err(CallError::Lost));
    assert!(died.elapsed() < SOON, "{:?}", died.elapsed());
    let _again = Server::start_at(&address.to_string(), local(SERVER.0, "s", Some(5))).await;
    assert_eq!(ask(&pool, "back?").await, Ok("back?".into()));
}

#[tokio::test]
async fn nobody_at_the_port_is_an_answer_and_not_a_wait() {
    let address = Server::start().await.kill().await;
    let pool = pool_to(&address.to_string());
    let started = Instant::now();
    for _ in 0..100 {
        assert_eq!(ask(&pool, "anyone?").await, Err(CallError::Unreachable));
    }
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    assert!(!pool.connected(SERVER));
    assert_eq!(pool.call(NodeId(9), TABLE, Bytes::new(), LONG).await, Err(CallError::Unreachable));
}

#[tokio::test]
async fn a_peer_behind_its_backoff_is_found_again() {
    let address = Server::start().await.kill().await;
    let pool = pool_to(&address.to_string());
    assert_eq!(ask(&pool, "anyone?").await, Err(CallError::Unreachable));
    let _back = Server::start_at(&address.to_string(), local(SERVER.0, "s", Some(5))).await;
    let found = async {
        while ask(&pool, "now?").await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, found).await.expect("the pause between dials is bounded");
}

/// A node that restarts calls the others first. They need not wait for the end of a pause that was meant for a dead one.
#[tokio::test]
async fn a_peer_that_has_called_is_called_at_once() {
    let address = Server::start().await.kill().await;
    let ours = Server::start_at("127.0.0.1:0", local(1, "s", Some(5))).await;
    let pool = Pool::new(world(), Arc::clone(&ours.local));
    pool.set_peer(SERVER, address.to_string());
    assert_eq!(ask(&pool, "anyone?").await, Err(CallError::Unreachable));
    let back = Server::start_at(&address.to_string(), local(SERVER.0, "s", Some(5))).await;
    let theirs = Pool::new(world(), Arc::clone(&back.local));
    theirs.set_peer(NodeId(1), ours.address.to_string());
    theirs.call(NodeId(1), TABLE, "I am back".into(), LONG).await.unwrap();
    assert_eq!(ask(&pool, "already?").await, Ok("already?".into()), "at the first try");
}

#[tokio::test]
async fn a_refused_caller_hears_why() {
    let server = Server::start().await;
    let reason = async |local: Arc<Local>, node: NodeId| {
        let pool = Pool::new(world(), local);
        pool.set_peer(node, server.address.to_string());
        match pool.call(node, TABLE, "hi".into(), LONG).await {
            Err(CallError::Refused(why)) => why,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(reason(local(1, "wrong", Some(5)), SERVER).await, Refusal::WrongSecret);
    assert_eq!(reason(local(1, "", Some(5)), SERVER).await, Refusal::WrongSecret);
    let theirs = ClusterId(5);
    assert_eq!(reason(local(1, "s", Some(6)), SERVER).await, Refusal::WrongCluster { theirs });
    assert_eq!(reason(local(1, "s", Some(5)), NodeId(3)).await, Refusal::WrongNode { found: SERVER });
    assert_eq!(reason(Arc::clone(&server.local), SERVER).await, Refusal::Itself);
    server.still_serves().await;
}

#[tokio::test]
async fn a_seed_is_asked_by_its_address_and_says_who_it_is() {
    let server = Server::start().await;
    let joiner = Pool::new(world(), local(1, "s", None));
    let (peer, answer) =
        joiner.call_address(&server.address.to_string(), "who am I".into(), LONG).await.unwrap();
    assert_eq!((peer.node, peer.cluster, &answer[..]), (SERVER, Some(ClusterId(5)), &b"None"[..]));
}

#[tokio::test]
async fn joining_a_cluster_renews_the_connections_made_before() {
    let server = Server::start().await;
    let joiner = local(1, "s", None);
    let pool = Pool::new(world(), Arc::clone(&joiner));
    pool.set_peer(SERVER, server.address.to_string());
    assert_eq!(ask(&pool, "who am I").await.unwrap(), "None");
    joiner.set_cluster(ClusterId(5));
    while pool.connected(SERVER) {
        tokio::task::yield_now().await;
    }
    assert_eq!(ask(&pool, "who am I").await.unwrap(), format!("{:?}", Some(ClusterId(5))));
}

#[tokio::test]
async fn a_request_without_an_answer_is_not_served_and_a_told_message_arrives() {
    let mut server = Server::start().await;
    let pool = server.pool();
    assert_eq!(ask(&pool, "not for you").await, Err(CallError::NotServed));
    pool.tell(SERVER, "psst".into());
    server.handled(2).await;
}

#[tokio::test]
async fn a_deadline_ends_a_call_and_the_late_answer_disturbs_nobody() {
    let server = Server::start().await;
    let pool = server.pool();
    let short = Duration::from_millis(50);
    assert_eq!(pool.call(SERVER, TABLE, "stuck".into(), short).await, Err(CallError::TimedOut));
    assert_eq!(ask(&pool, "next").await, Ok("next".into()));
}

#[tokio::test]
async fn a_request_whose_deadline_has_passed_is_not_handled() {
    let mut server = Server::start().await;
    let mut raw = server.raw().await;
    let expired = Header { deadline_ms: 0, ..Header::bare(Kind::Request, 1) };
    raw.write_all(&[frame(&expired, b"late"), frame(&Header::bare(Kind::Request, 2), b"fresh")].concat())
        .await
        .unwrap();
    let mut answer = vec![0; HEAD_BYTES + 5];
    raw.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, frame(&Header::bare(Kind::Response, 2), b"fresh"));
    assert_eq!(*server.handled.borrow_and_update(), 1);
}

#[tokio::test]
async fn a_peer_whose_clock_has_stood_still_is_heard_again_on_a_new_connection() {
    let mut server = Server::start().await;
    let mut raw = server.raw().await;
    let sent_ms = |id, sent_ms| Header { deadline_ms: 2_000, sent_ms, ..Header::bare(Kind::Request, id) };
    raw.write_all(&frame(&sent_ms(1, 60_000), b"before")).await.unwrap();
    let mut answer = vec![0; HEAD_BYTES + 6];
    raw.read_exact(&mut answer).await.unwrap();
    // As if half a second were half a minute to it: its clock is behind for good from here on.
    raw.write_all(&frame(&sent_ms(2, 30_000), b"after")).await.unwrap();
    let mut rest = Vec::new();
    timeout(LONG, raw.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest, b"", "nothing is answered, and the connection ends");
    assert_eq!(*server.handled.borrow_and_update(), 1);
    server.still_serves().await;
}

#[tokio::test]
async fn too_many_calls_in_flight_are_refused_at_once() {
    let mut server = Server::start().await;
    let pool = server.pool();
    let mut stuck: FuturesUnordered<_> = (0..IN_FLIGHT_MAX).map(|_| ask(&pool, "stuck")).collect();
    tokio::select! {
        biased;
        ended = stuck.next() => panic!("a stuck call ended: {ended:?}"),
        () = server.handled(IN_FLIGHT_MAX) => {}
    }
    assert_eq!(ask(&pool, "one more").await, Err(CallError::Overloaded));
    drop(stuck);
    // The caller has room again, the peer does not: its handlers are still stuck, and so it reads no further.
    let short = Duration::from_millis(50);
    assert_eq!(pool.call(SERVER, TABLE, "one more".into(), short).await, Err(CallError::TimedOut));
    server.still_serves().await;
}

#[tokio::test]
async fn too_many_bytes_in_flight_are_refused_at_once() {
    // Nobody accepts here, so nothing is written.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pool = pool_to(&mute.local_addr().unwrap().to_string());
    let large = Bytes::from(vec![0; 40 << 20]);
    let first = pool.call(SERVER, TABLE, large.clone(), LONG);
    let second = async {
        let started = Instant::now();
        (pool.call(SERVER, TABLE, large.clone(), LONG).await, started.elapsed())
    };
    let (first, (second, took)) = tokio::join!(biased; first, second);
    assert_eq!((first, second), (Err(CallError::Unreachable), Err(CallError::Overloaded)));
    assert!(took < SOON, "{took:?}");
    let oversized = Bytes::from(vec![0; FRAME_BYTES_MAX + 1]);
    let refused = Err(CallError::TooLarge(FRAME_BYTES_MAX + 1));
    assert_eq!(pool.call(SERVER, TABLE, oversized, LONG).await, refused);
}

#[tokio::test]
async fn a_strangers_bytes_get_nothing() {
    let server = Server::start().await;
    let whispers: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &[0xff; 5000],
        b"CTWL\xff\xff and a length of 64 KiB",
        b"CTWL\x04\x00\xff\xff\xff\xff",
        &[0; 64],
    ];
    for bytes in whispers {
        let mut stranger = TcpStream::connect(server.address).await.unwrap();
        stranger.write_all(bytes).await.unwrap();
        assert_eq!(until_closed(&mut stranger).await, b"", "{}", bytes.escape_ascii());
    }
    server.still_serves().await;
}

#[tokio::test]
async fn silent_strangers_are_few_and_do_not_stay() {
    let server = Server::start().await;
    let established = server.pool();
    ask(&established, "before").await.unwrap();
    let started = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..HELLOS_MAX {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    let mut extra = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(until_closed(&mut extra).await, b"");
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    ask(&established, "meanwhile").await.unwrap();
    for stranger in &mut silent {
        assert_eq!(until_closed(stranger).await, b"");
    }
    assert!(started.elapsed() >= HELLO_TIMEOUT, "{:?}", started.elapsed());
    server.still_serves().await;
}

#[tokio::test]
async fn damaged_or_senseless_frames_close_their_connection_and_no_other() {
    let mut server = Server::start().await;
    let good = frame(&Header::bare(Kind::Request, 1), b"body");
    let mut flipped = good.clone();
    flipped[HEAD_BYTES] ^= 1;
    let mut huge = good.clone();
    huge[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let misplaced = frame(&Header::bare(Kind::Response, 1), b"body");
    for bad in [flipped, huge, misplaced] {
        let mut raw = server.raw().await;
        raw.write_all(&bad).await.unwrap();
        assert_eq!(until_closed(&mut raw).await, b"");
    }
    assert_eq!(*server.handled.borrow_and_update(), 0);
    server.still_serves().await;
}

#[tokio::test]
async fn a_damaged_answer_loses_the_call() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pool = pool_to(&listener.local_addr().unwrap().to_string());
    let liar = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        hello::accept(&mut stream, &local(SERVER.0, "s", Some(5)), [2; 32]).await.unwrap();
        let mut answer = frame(&Header::bare(Kind::Response, 1), b"body");
        answer[HEAD_BYTES] ^= 1;
        stream.write_all(&answer).await.unwrap();
        until_closed(&mut stream).await
    };
    let (answer, _) = tokio::join!(ask(&pool, "body"), liar);
    assert_eq!(answer, Err(CallError::Lost));
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_given_up_by_both_sides() {
    let server = Server::start().await;
    let mut mute_dialer = server.raw().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pool = pool_to(&listener.local_addr().unwrap().to_string());
    let mute_acceptor = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        hello::accept(&mut stream, &local(SERVER.0, "s", Some(5)), [2; 32]).await.unwrap();
        tokio::time::pause();
        until_closed(&mut stream).await
    };
    let call = pool.call(SERVER, TABLE, "hello?".into(), 10 * LONG);
    let (answer, heard) = tokio::join!(call, mute_acceptor);
    assert_eq!(answer, Err(CallError::Lost));
    let last = decode(&mut BytesMut::from(&heard[heard.len() - HEAD_BYTES..])).unwrap().unwrap();
    assert_eq!(last.header.kind, Kind::Ping, "the dialer asks for a sign of life before it gives up");
    assert_eq!(until_closed(&mut mute_dialer).await, b"");
}

#[tokio::test]
async fn pings_keep_an_idle_connection_and_a_slow_call_alive() {
    let mut server = Server::start().await;
    let pool = server.pool();
    let slow = async {
        server.handled(1).await;
        tokio::time::pause();
    };
    let (answer, ()) = tokio::join!(pool.call(SERVER, TABLE, "stuck".into(), 6 * LONG), slow);
    assert_eq!(answer, Err(CallError::TimedOut), "not lost: two minutes of pings kept the connection");
    assert!(pool.connected(SERVER));
}
