//! The accept loop over real sockets: half requests, large heads, slow bodies, the drain.

use super::*;
use crate::http::body::read_body;
use crate::http::problem::{Code, Problem, Scope, catch_panic};
use crate::limits::REFUSED_PAUSE;
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

struct Real(TcpListener);

impl Listener for Real {
    type Stream = TcpStream;
    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        self.0.accept().await
    }
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// A server over real sockets: `/hold` answers when `release` says so, everything else repeats what was sent.
struct Server {
    addr: SocketAddr,
    stop: watch::Sender<bool>,
    held: Arc<Notify>,
    release: Arc<Notify>,
    gate: Arc<Gate>,
    done: JoinHandle<usize>,
}

const BODY_LIMIT: u64 = 1000;

fn small() -> Bounds {
    Bounds {
        head: Duration::from_millis(200),
        idle: Duration::from_secs(30),
        connections: 8,
        drain: Duration::from_secs(20),
        ..Bounds::default()
    }
}

async fn start(bounds: Bounds) -> Server {
    let listener = Real(TcpListener::bind("127.0.0.1:0").await.unwrap());
    let addr = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let (held, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let scope = Scope::new("n1", 1);
    let (of_held, of_release) = (held.clone(), release.clone());
    let gate = Arc::new(Gate::default());
    let of_gate = gate.clone();
    let handler = move |request: Request<Incoming>| {
        let (scope, held, release) = (scope.clone(), of_held.clone(), of_release.clone());
        let gate = of_gate.clone();
        async move {
            let ctx = scope.ctx(request.headers());
            catch_panic(&ctx, async {
                match request.uri().path() {
                    "/hold" => {
                        held.notify_one();
                        release.notified().await;
                        Response::new("held".into())
                    }
                    "/panic" => panic!("on purpose"),
                    "/busy" => {
                        let mut refusal = Problem::new(Code::Overloaded, "not now").respond(&ctx);
                        refusal.extensions_mut().insert(gate);
                        refusal
                    }
                    _ => match read_body(request.into_body(), BODY_LIMIT, Duration::from_millis(300)).await {
                        Ok(body) => Response::new(body.into()),
                        Err(problem) => problem.respond(&ctx),
                    },
                }
            })
            .await
        }
    };
    let done = tokio::spawn(serve(listener, bounds, stopped, None, handler));
    Server { addr, stop, held, release, gate, done }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    /// Sends bytes and reads until the server closes.
    async fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        read_to_close(&mut stream).await
    }
}

/// Everything until the connection ends; a reset ends it as well.
async fn read_to_close(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let mut part = [0; 4096];
    loop {
        match timeout(Duration::from_secs(20), stream.read(&mut part)).await.expect("the server must close") {
            Ok(0) | Err(_) => return String::from_utf8(all).unwrap(),
            Ok(n) => all.extend_from_slice(&part[..n]),
        }
    }
}

/// Reads until this text has arrived.
async fn read_until(stream: &mut TcpStream, text: &str) {
    let mut all = String::new();
    let mut part = [0; 4096];
    while !all.contains(text) {
        let n = timeout(Duration::from_secs(20), stream.read(&mut part)).await.unwrap().unwrap();
        assert_ne!(n, 0, "closed after {all:?}");
        all.push_str(std::str::from_utf8(&part[..n]).unwrap());
    }
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
const GET_CLOSE: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

fn assert_problem(answer: &str, status: u16, code: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer:?}");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head ends");
    assert!(head.contains("application/problem+json"), "{head}");
    let json: serde_json::Value = serde_json::from_str(body).expect(body);
    assert_eq!(json["code"], code);
    assert_eq!(json["status"], status);
}

#[tokio::test]
async fn a_kept_connection_serves_many_requests() {
    let server = start(small()).await;
    let mut stream = server.connect().await;
    for _ in 0..3 {
        stream.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc").await.unwrap();
        read_until(&mut stream, "\r\n\r\nabc").await;
    }
    stream.write_all(&[GET, GET_CLOSE].concat()).await.unwrap();
    assert_eq!(read_to_close(&mut stream).await.matches("HTTP/1.1 200 OK").count(), 2);
}

#[tokio::test]
async fn silence_and_half_a_request_are_closed() {
    let server = start(small()).await;
    assert_eq!(server.exchange(b"").await, "");
    assert_eq!(server.exchange(b"GET / HTTP/1.1\r\nHos").await, "");
    let mut kept = server.connect().await;
    kept.write_all(GET).await.unwrap();
    read_until(&mut kept, "\r\n\r\n").await;
    kept.write_all(b"GET / HT").await.unwrap();
    assert_eq!(read_to_close(&mut kept).await, "");
}

#[tokio::test]
async fn a_trickled_head_is_closed_although_bytes_keep_coming() {
    let server = start(small()).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let started = tokio::time::Instant::now();
    let mut byte = [0];
    loop {
        let _reset_is_an_end = stream.write_all(b"a: b\r\n").await;
        match timeout(Duration::from_millis(20), stream.read(&mut byte)).await {
            Ok(Ok(0) | Err(_)) => break,
            Ok(Ok(_)) => panic!("no answer is due"),
            Err(_) => assert!(started.elapsed() < Duration::from_secs(20), "it must be closed"),
        }
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_but_one_in_service_is_not() {
    let idle = Duration::from_millis(100);
    let server = start(Bounds { idle, head: idle, ..small() }).await;
    let mut busy = server.connect().await;
    busy.write_all(b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    server.held.notified().await;
    let mut kept = server.connect().await;
    kept.write_all(GET).await.unwrap();
    assert!(read_to_close(&mut kept).await.starts_with("HTTP/1.1 200"));
    // The other one has been silent for longer by now.
    server.release.notify_one();
    read_until(&mut busy, "held").await;
    assert_eq!(read_to_close(&mut busy).await, "");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_431() {
    let server = start(small()).await;
    let large = format!("GET / HTTP/1.1\r\nHost: x\r\na: {}\r\n\r\n", "x".repeat(17 * 1024));
    assert_problem(&server.exchange(large.as_bytes()).await, 431, "headers_too_large");
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(17 * 1024));
    assert_problem(&server.exchange(long.as_bytes()).await, 431, "headers_too_large");
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "a: b\r\n".repeat(101));
    assert_problem(&server.exchange(many.as_bytes()).await, 431, "headers_too_large");
    let allowed = format!("GET / HTTP/1.1\r\nConnection: close\r\na: {}\r\n\r\n", "x".repeat(15 * 1024));
    assert!(server.exchange(allowed.as_bytes()).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn what_is_not_http_is_400_also_after_a_good_request() {
    let server = start(small()).await;
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\n\r\n",
    ] {
        assert_problem(&server.exchange(bytes).await, 400, "invalid_request");
    }
    let mut kept = server.connect().await;
    kept.write_all(GET).await.unwrap();
    read_until(&mut kept, "\r\n\r\n").await;
    kept.write_all(b"nonsense\r\n\r\n").await.unwrap();
    assert_problem(&read_to_close(&mut kept).await, 400, "invalid_request");
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_with_and_without_a_length() {
    let server = start(small()).await;
    let claimed = b"PUT / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1001\r\n\r\n";
    assert_problem(&server.exchange(claimed).await, 413, "value_too_large");
    let mut chunked =
        b"PUT / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..11 {
        chunked.extend_from_slice(b"64\r\n");
        chunked.extend_from_slice(&[b'x'; 100]);
        chunked.extend_from_slice(b"\r\n");
    }
    assert_problem(&server.exchange(&chunked).await, 413, "value_too_large");
}

#[tokio::test]
async fn a_client_that_sends_all_of_a_large_body_still_sees_the_refusal() {
    let server = start(small()).await;
    let mut whole = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n".to_vec();
    whole.resize(whole.len() + 8_000_000, b'x');
    assert_problem(&server.exchange(&whole).await, 413, "value_too_large");
    let mut head = b"GET / HTTP/1.1\r\nHost: x\r\na: ".to_vec();
    head.resize(head.len() + 8_000_000, b'x');
    assert_problem(&server.exchange(&head).await, 431, "headers_too_large");
}

#[tokio::test]
async fn a_refused_client_that_holds_the_connection_is_cut() {
    let server = start(Bounds { connections: 1, ..small() }).await;
    let mut refused = server.connect().await;
    refused.write_all(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n").await.unwrap();
    read_until(&mut refused, "value_too_large").await;
    // The only place is free again although the first client never closes.
    assert!(server.exchange(GET_CLOSE).await.starts_with("HTTP/1.1 200"));
    drop(refused);
}

#[tokio::test]
async fn a_slow_body_is_504_and_a_broken_one_400() {
    let server = start(small()).await;
    let slow = b"PUT / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 9\r\n\r\nabc";
    assert_problem(&server.exchange(slow).await, 504, "timeout");
    let broken = b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
    assert_problem(&server.exchange(broken).await, 400, "invalid_body");
}

#[tokio::test]
async fn a_panic_costs_one_request_and_not_the_connection() {
    let server = start(small()).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /panic HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    read_until(&mut stream, "\"internal\"").await;
    stream.write_all(GET_CLOSE).await.unwrap();
    assert!(read_to_close(&mut stream).await.contains("HTTP/1.1 200"));
}

#[tokio::test]
async fn above_the_cap_a_connection_waits_for_its_turn() {
    let server = start(Bounds { connections: 1, ..small() }).await;
    let mut first = server.connect().await;
    first.write_all(b"GET /hold HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    server.held.notified().await;
    let mut second = server.connect().await;
    second.write_all(GET_CLOSE).await.unwrap();
    let early = timeout(Duration::from_millis(300), second.read_u8()).await;
    assert!(early.is_err(), "the only place is taken");
    server.release.notify_one();
    assert!(read_to_close(&mut first).await.ends_with("held"));
    assert!(read_to_close(&mut second).await.starts_with("HTTP/1.1 200"));
}

const HELLO: &[u8] = b"PUT / HTTP/1.1\r\nhost: n\r\ncontent-length: 5\r\n\r\nhello";

/// A client that was refused, and has asked again at once.
async fn refused(server: &Server) -> TcpStream {
    let mut client = server.connect().await;
    client.write_all(b"PUT /busy HTTP/1.1\r\nhost: n\r\ncontent-length: 3\r\n\r\nabc").await.unwrap();
    read_until(&mut client, "\"overloaded\"").await;
    client.write_all(HELLO).await.unwrap();
    client
}

#[tokio::test]
async fn who_was_refused_is_read_when_its_turn_comes_and_others_are_at_once() {
    let server = start(small()).await;
    let (mut first, mut second) = (refused(&server).await, refused(&server).await);
    let mut other = server.connect().await;
    other.write_all(HELLO).await.unwrap();
    read_until(&mut other, "hello").await;
    let told = std::time::Instant::now();
    server.gate.done(false);
    tokio::select! {
        biased;
        () = read_until(&mut second, "hello") => panic!("one is done, and two were read"),
        () = read_until(&mut first, "hello") => {}
    }
    server.gate.done(true);
    read_until(&mut second, "hello").await;
    assert!(told.elapsed() < REFUSED_PAUSE / 2, "{:?}", told.elapsed());
}

#[tokio::test]
async fn who_was_refused_is_read_after_a_while_also_if_nothing_gets_done() {
    let server = start(small()).await;
    let before = std::time::Instant::now();
    let mut client = refused(&server).await;
    read_until(&mut client, "hello").await;
    assert!(before.elapsed() >= REFUSED_PAUSE, "{:?}", before.elapsed());
}

#[tokio::test]
async fn who_had_sent_the_next_request_before_he_was_refused_is_served() {
    let server = start(small()).await;
    let mut client = server.connect().await;
    let both = b"GET /busy HTTP/1.1\r\nhost: n\r\n\r\nGET /hold HTTP/1.1\r\nhost: n\r\n\r\n";
    client.write_all(both).await.unwrap();
    server.held.notified().await;
    let asked = std::time::Instant::now();
    server.release.notify_one();
    read_until(&mut client, "held").await;
    assert!(asked.elapsed() < REFUSED_PAUSE / 2, "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_drain_does_not_wait_for_who_was_refused() {
    let server = start(small()).await;
    let mut client = server.connect().await;
    client.write_all(b"GET /busy HTTP/1.1\r\nhost: n\r\n\r\n").await.unwrap();
    read_until(&mut client, "\"overloaded\"").await;
    let told = std::time::Instant::now();
    server.stop.send_replace(true);
    assert_eq!(server.done.await.unwrap(), 0);
    assert!(told.elapsed() < REFUSED_PAUSE / 2, "{:?}", told.elapsed());
}

#[tokio::test]
async fn a_drain_finishes_what_is_in_flight_and_accepts_nothing_new() {
    let server = start(small()).await;
    let mut idle = server.connect().await;
    idle.write_all(GET).await.unwrap();
    read_until(&mut idle, "\r\n\r\n").await;
    let mut busy = server.connect().await;
    busy.write_all(b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    server.held.notified().await;
    server.stop.send(true).unwrap();
    assert_eq!(read_to_close(&mut idle).await, "", "an idle connection is closed at once");
    assert!(TcpStream::connect(server.addr).await.is_err(), "the port is closed");
    assert!(!server.done.is_finished());
    server.release.notify_one();
    assert!(read_to_close(&mut busy).await.ends_with("held"));
    assert_eq!(server.done.await.unwrap(), 0);
}

#[tokio::test]
async fn a_drain_ends_although_a_request_does_not() {
    let server = start(Bounds { drain: Duration::from_millis(100), ..small() }).await;
    let mut busy = server.connect().await;
    busy.write_all(b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    server.held.notified().await;
    drop(server.stop);
    assert_eq!(server.done.await.unwrap(), 1);
    assert_eq!(read_to_close(&mut busy).await, "");
}
