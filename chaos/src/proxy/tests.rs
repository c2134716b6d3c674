//! The proxy between real sockets.

use super::*;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};

/// Far longer than anything here takes.
const SOON: Duration = Duration::from_secs(10);
const FRAMES: u32 = 300;

/// Two nodes that do nothing but listen; 0 speaks to 1.
struct Pair {
    proxy: Proxy,
    near: TcpStream,
    far: TcpStream,
}

fn step(door: SocketAddr) -> Vec<u8> {
    let door = door.to_string();
    // Behind the address comes chance, and that may be a digit.
    let text = [b"dialer at ", &[door.len() as u8][..], door.as_bytes(), b"7"].concat();
    let length = u16::try_from(text.len()).unwrap().to_le_bytes();
    [&b"CTWL"[..], &length, &text].concat()
}

fn frame(number: u32) -> Vec<u8> {
    [4u32.to_le_bytes(), number.to_le_bytes()].concat()
}

impl Pair {
    async fn meet(seed: u64) -> Pair {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // Nobody dials node 0 here.
        let nodes = ["127.0.0.1:1".parse().unwrap(), listener.local_addr().unwrap()];
        let proxy = Proxy::of_peers(seed, &nodes).await.unwrap();
        let mut near = TcpStream::connect(proxy.door(1)).await.unwrap();
        let hello = step(proxy.door(0));
        near.write_all(&hello).await.unwrap();
        let (mut far, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
        let mut heard = vec![0; hello.len()];
        timeout(SOON, far.read_exact(&mut heard)).await.unwrap().unwrap();
        assert_eq!(heard, hello);
        Pair { proxy, near, far }
    }

    fn set(&self, conduct: Conduct) {
        self.proxy.set(Party::Node(0), Party::Node(1), conduct);
    }

    /// Sends numbered frames and ends; what arrived of them.
    async fn send_all(mut self) -> Vec<u32> {
        let sent: Vec<u8> = (0..FRAMES).flat_map(frame).collect();
        self.near.write_all(&sent).await.unwrap();
        self.near.shutdown().await.unwrap();
        let mut heard = Vec::new();
        timeout(SOON, self.far.read_to_end(&mut heard)).await.unwrap().unwrap();
        let numbers = heard.chunks_exact(8).map(|frame| u32::from_le_bytes(frame[4..].try_into().unwrap()));
        numbers.collect()
    }
}

async fn hears(stream: &mut TcpStream, number: u32) {
    let mut heard = [0; 8];
    timeout(SOON, stream.read_exact(&mut heard)).await.unwrap().unwrap();
    assert_eq!(heard[..], frame(number));
}

#[tokio::test]
async fn a_whole_link_changes_nothing() {
    let arrived = Pair::meet(1).await.send_all().await;
    assert_eq!(arrived, (0..FRAMES).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_stalled_direction_is_silent_the_other_is_not_and_all_of_it_arrives_afterwards() {
    let mut pair = Pair::meet(1).await;
    pair.set(Conduct { stalled: true, ..Conduct::default() });
    pair.near.write_all(&frame(7)).await.unwrap();
    // Each answer goes the whole way, so what went before it the other way had its time.
    for number in 0..20 {
        pair.far.write_all(&frame(number)).await.unwrap();
        hears(&mut pair.near, number).await;
    }
    let mut nothing = [0; 1];
    assert_eq!(pair.far.try_read(&mut nothing).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    pair.near.write_all(&frame(8)).await.unwrap();
    assert_eq!(pair.proxy.passed().stalled, 1, "one direction, however often it was looked at");
    pair.proxy.heal();
    hears(&mut pair.far, 7).await;
    hears(&mut pair.far, 8).await;
}

#[tokio::test]
async fn a_reset_is_one_for_both_ends_also_of_a_stalled_link() {
    let mut pair = Pair::meet(1).await;
    pair.set(Conduct { stalled: true, ..Conduct::default() });
    pair.near.write_all(&frame(7)).await.unwrap();
    pair.proxy.reset(Party::Node(1), Party::Node(0));
    for stream in [&mut pair.near, &mut pair.far] {
        let ended = timeout(SOON, stream.read_u8()).await.unwrap();
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
    assert_eq!(pair.proxy.passed().reset, 1);
}

#[tokio::test]
async fn frames_are_lost_and_repeated_as_the_seed_says() {
    let lossy = Conduct { lost_percent: 20, repeated_percent: 20, ..Conduct::default() };
    let mut runs = Vec::new();
    for seed in [1, 1, 2] {
        let pair = Pair::meet(seed).await;
        pair.set(lossy.clone());
        runs.push(pair.send_all().await);
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
    let distinct: BTreeSet<u32> = runs[0].iter().copied().collect();
    assert!(distinct.len() < FRAMES as usize, "none was lost");
    assert!(runs[0].len() > distinct.len(), "none was repeated");
    assert!(runs[0].is_sorted(), "a link that is not late keeps the order");
}

#[tokio::test]
async fn late_frames_overtake_each_other_only_where_they_may() {
    let delay = Delay::Between(Duration::ZERO, Duration::from_millis(50));
    for overtaking in [false, true] {
        let pair = Pair::meet(3).await;
        pair.set(Conduct { delay, overtaking, ..Conduct::default() });
        let mut arrived = pair.send_all().await;
        assert_eq!(arrived.is_sorted(), !overtaking);
        arrived.sort_unstable();
        assert_eq!(arrived, (0..FRAMES).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_narrow_link_takes_its_time_and_every_frame_its_delay() {
    let pair = Pair::meet(1).await;
    let bytes = FRAMES * 8;
    pair.set(Conduct { bytes_per_second: Some(bytes * 5), ..Conduct::default() });
    let began = Instant::now();
    assert_eq!(pair.send_all().await.len(), FRAMES as usize);
    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());

    let mut pair = Pair::meet(1).await;
    let late = Duration::from_millis(100);
    pair.set(Conduct { delay: Delay::Between(late, late), ..Conduct::default() });
    let began = Instant::now();
    pair.near.write_all(&frame(1)).await.unwrap();
    hears(&mut pair.far, 1).await;
    assert!(began.elapsed() >= late, "{:?}", began.elapsed());
    assert_eq!(pair.proxy.passed().delayed, 1, "the greeting was not late");
}

#[tokio::test]
async fn a_forwarded_write_arrives_once() {
    let mut pair = Pair::meet(1).await;
    pair.set(Conduct { repeated_percent: 100, ..Conduct::default() });
    let mut write = [&55u32.to_le_bytes()[..], &[0_u8; 55]].concat();
    (write[9], write[58]) = (1, 2);
    pair.near.write_all(&[write.clone(), frame(7), write.clone()].concat()).await.unwrap();
    pair.near.shutdown().await.unwrap();
    let mut heard = Vec::new();
    timeout(SOON, pair.far.read_to_end(&mut heard)).await.unwrap().unwrap();
    assert_eq!(heard, [write.clone(), frame(7), frame(7), write].concat());
}

#[tokio::test]
async fn who_speaks_no_protocol_of_peers_is_let_go() {
    let pair = Pair::meet(1).await;
    let mut stranger = TcpStream::connect(pair.proxy.door(1)).await.unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut heard = Vec::new();
    let ended = timeout(SOON, stream_end(&mut stranger, &mut heard)).await;
    assert!(ended.is_ok() && heard.is_empty());
}

async fn stream_end(stream: &mut TcpStream, heard: &mut Vec<u8>) {
    // Closed or reset: both are an end.
    let _ = stream.read_to_end(heard).await;
}

#[tokio::test]
async fn clients_are_anybody_and_their_bytes_go_through_as_they_come() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::of_clients(1, &[listener.local_addr().unwrap()]).await.unwrap();
    proxy.set(Party::Outside, Party::Node(0), Conduct { lost_percent: 100, ..Conduct::default() });
    let mut near = TcpStream::connect(proxy.door(0)).await.unwrap();
    near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    near.shutdown().await.unwrap();
    let (mut far, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    let mut heard = Vec::new();
    timeout(SOON, far.read_to_end(&mut heard)).await.unwrap().unwrap();
    assert_eq!(heard, b"GET / HTTP/1.1\r\n\r\n");
}

/// A receiver that reads nothing is felt by the sender, and not by this machine's memory.
#[tokio::test]
async fn what_is_under_way_is_bounded() {
    let mut pair = Pair::meet(1).await;
    pair.set(Conduct { delay: Delay::Between(SOON, SOON), ..Conduct::default() });
    let large = [&(1u32 << 20).to_le_bytes()[..], &vec![0; 1 << 20]].concat();
    let mut taken = 0;
    // Whoever is not read from for half a second has been made to wait.
    while timeout(Duration::from_millis(500), pair.near.write_all(&large)).await.is_ok() {
        taken += large.len();
        assert!(taken < 16 * crate::limits::PROXY_BYTES_MAX, "{taken} bytes were taken");
    }
    assert!(taken >= crate::limits::PROXY_BYTES_MAX, "only {taken} bytes were taken");
}

#[test]
fn a_door_is_not_the_beginning_of_another_one() {
    let door = "127.0.0.1:2810".parse().unwrap();
    assert!(names(b"at \x0e127.0.0.1:2810!", door));
    assert!(names(b"\x0e127.0.0.1:2810", door));
    assert!(names(b"\x0e127.0.0.1:28109", door), "with whatever comes behind it");
    assert!(!names(b"at \x0f127.0.0.1:28101!", door));
}
