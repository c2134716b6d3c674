//! One node under test on a paused clock, and peers that answer as they are told: for what a node does when others don't answer.
//!
//! The node is put together by the very code of production, with the in-memory store, and without its duties: a test calls those
//! that it is about. A peer is real from its port on; behind that stands a list of what it holds and a link that is as narrow as
//! the test wants it. Nothing sleeps for real, so ten seconds without an answer cost nothing.

use crate::boot;
use crate::config::{Config, NodeArgs};
use crate::duty::gossip;
use crate::lane::{Job, derive};
use crate::limits::{LOOK_EVERY, MUTE_AFTER};
use crate::node::Node;
use crate::node::lives::Lives;
use crate::peer::frame::{Header, Kind};
use crate::peer::{Handler, Local, PeerIdentity, Pool, Secret, hello, serve};
use crate::serve::Peers;
use crate::store::mem::{MemDisk, MemStore};
use crate::store::{Batch, Family, OpenError, Store, keys};
use crate::world::{Listener, World};
use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;
use ring::bucket::{BlindWrites, BucketSettings, Level};
use ring::ids::{ClusterId, NodeId, ObjectId, Zone};
use ring::members::{Description, Status, View, ViewError};
use ring::place::{partition, position};
use ring::record::write::{CONTEXT_RUNS_MAX, Write};
use ring::time::{Time, Wall};
use ring::tree::Leaf;
use ring::wire::peer::{Action, Answer, Ask, Message, QuorumAsk, WriteAsk};
use ring::wire::record::{Digest, decode, digest};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The node under test.
pub(crate) const ME: NodeId = NodeId(1);
const CLUSTER: ClusterId = ClusterId(9);
/// What fits between two ends before the writer waits.
const PIPE_BYTES: usize = 1 << 20;
/// Connections that wait to be accepted.
const BACKLOG: usize = 16;

type Ports = Arc<Mutex<BTreeMap<String, mpsc::Sender<DuplexStream>>>>;

/// A network of pipes, and a disk in memory.
#[derive(Clone)]
pub(crate) struct Pipes {
    ports: Ports,
    disk: MemDisk,
    started: Instant,
}

impl Pipes {
    pub(crate) fn new() -> Pipes {
        Pipes { ports: Ports::default(), disk: MemDisk::new(), started: Instant::now() }
    }

    /// Another machine on the same network.
    pub(crate) fn another(&self) -> Pipes {
        Pipes { disk: MemDisk::new(), ..self.clone() }
    }

    pub(crate) fn disk(&self) -> &MemDisk {
        &self.disk
    }
}

pub(crate) struct Port(mpsc::Receiver<DuplexStream>, SocketAddr);

impl World for Pipes {
    type Stream = DuplexStream;
    type Listener = Port;
    type Store = MemStore;

    fn now(&self) -> Time {
        Time::default() + self.started.elapsed()
    }

    fn wall(&self) -> Wall {
        Wall(1_000_000).plus(self.started.elapsed())
    }

    fn rng(&self, purpose: &str) -> StdRng {
        StdRng::seed_from_u64(purpose.len() as u64)
    }

    async fn bind(&self, addr: SocketAddr) -> io::Result<Port> {
        let (door, waiting) = mpsc::channel(BACKLOG);
        self.ports.lock().unwrap().insert(addr.to_string(), door);
        Ok(Port(waiting, addr))
    }

    async fn dial(&self, addr: &str) -> io::Result<DuplexStream> {
        let door = self.ports.lock().unwrap().get(addr).cloned();
        let (here, there) = tokio::io::duplex(PIPE_BYTES);
        let door = door.ok_or(io::ErrorKind::ConnectionRefused)?;
        door.send(there).await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(here)
    }

    fn open_store(&self, _: &Path) -> Result<MemStore, OpenError> {
        self.disk.open()
    }

    fn threads(&self) -> bool {
        false
    }
}

impl Listener for Port {
    type Stream = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, SocketAddr)> {
        Ok((self.0.recv().await.ok_or(io::ErrorKind::NotConnected)?, self.1))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.1)
    }
}

/// What a peer holds, and how it is to be reached.
#[derive(Default)]
struct Held {
    records: BTreeMap<ObjectId, Digest>,
    /// Hints that it was asked to keep.
    hints: Vec<(ObjectId, NodeId)>,
    /// Bytes that its link carries in a second; 0: any number.
    bytes_per_second: u64,
    /// Since when the link has been full, and when it will have carried everything that was sent so far.
    full_since: Option<Instant>,
    free_at: Option<Instant>,
    refuses: bool,
    /// How often somebody began to gossip with it.
    gossip: usize,
}

/// A peer that answers as it is told. Clones are the same.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    held: Arc<Mutex<Held>>,
}

impl Peer {
    pub(crate) fn new(id: u128) -> Peer {
        Peer { id: NodeId(id), held: Arc::default() }
    }

    /// From now on its link carries so many bytes in a second, one message after the other, and what is sent meanwhile waits.
    pub(crate) fn narrow(&self, bytes_per_second: u64) {
        let mut held = self.held.lock().unwrap();
        (held.bytes_per_second, held.free_at) = (bytes_per_second, None);
    }

    /// Whether nothing could be heard of it for too long, since its link is full.
    fn is_mute(&self) -> bool {
        let (held, now) = (self.held.lock().unwrap(), Instant::now());
        let full = held.free_at.is_some_and(|at| at > now);
        full && held.full_since.is_some_and(|since| now - since >= MUTE_AFTER)
    }

    /// Whether it refuses what it is asked to keep.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.held.lock().unwrap().refuses = refuses;
    }

    pub(crate) fn hold(&self, id: &ObjectId, record: &[u8]) {
        self.held.lock().unwrap().records.insert(id.clone(), digest(record));
    }

    pub(crate) fn holds(&self, id: &ObjectId) -> bool {
        self.held.lock().unwrap().records.contains_key(id)
    }

    pub(crate) fn hints(&self) -> usize {
        self.held.lock().unwrap().hints.len()
    }

    pub(crate) fn gossip(&self) -> usize {
        self.held.lock().unwrap().gossip
    }

    fn answer(&self, ask: Message<Ask>) -> Option<Answer> {
        let mut held = self.held.lock().unwrap();
        let refused = || Some(Answer::Refused(ring::wire::peer::Refusal::Overloaded));
        match ask.head {
            Ask::Lacks => {
                let leaves: Vec<Leaf> = postcard::from_bytes(&ask.body).unwrap();
                let lacks = |(id, theirs): &Leaf| held.records.get(id) != Some(theirs);
                let lacking = (0..).zip(&leaves).filter(|(_, leaf)| lacks(leaf)).map(|(at, _)| at);
                Some(Answer::Lacking(lacking.collect()))
            }
            Ask::StoreMany | Ask::Store { .. } if held.refuses => refused(),
            Ask::StoreMany => {
                let rows: Vec<(ObjectId, Vec<u8>)> = postcard::from_bytes(&ask.body).unwrap();
                held.records.extend(rows.into_iter().map(|(id, record)| (id, digest(&record))));
                Some(Answer::StoredMany { failed: Vec::new(), credit: 1 << 20, pause_ms: 0 })
            }
            Ask::Store { id, hint_for: Some(target), .. } => {
                held.hints.push((id, target));
                Some(Answer::Stored { durable: true })
            }
            Ask::Store { id, hint_for: None, .. } => {
                held.records.insert(id, digest(&ask.body));
                Some(Answer::Stored { durable: true })
            }
            // It knows what everybody knows.
            Ask::Gossip { .. } => Some(Answer::Same),
            _ => None,
        }
    }
}

impl Handler for Peer {
    async fn handle(&self, _: &PeerIdentity, header: Header, body: Bytes) -> Option<Bytes> {
        let ask = Message::<Ask>::decode(&body).unwrap();
        let arrives = {
            let mut held = self.held.lock().unwrap();
            held.gossip += usize::from(matches!(ask.head, Ask::Gossip { .. }));
            let takes = match held.bytes_per_second {
                0 => Duration::ZERO,
                rate => Duration::from_secs_f64(body.len() as f64 / rate as f64),
            };
            let now = Instant::now();
            let begins = held.free_at.unwrap_or(now).max(now);
            if begins == now {
                held.full_since = Some(now);
            }
            let arrives = begins + takes;
            held.free_at = Some(arrives);
            arrives
        };
        // What comes too late is dropped by whoever it comes to.
        if arrives > Instant::now() + Duration::from_millis(u64::from(header.deadline_ms)) {
            return std::future::pending().await;
        }
        tokio::time::sleep_until(arrives).await;
        let answer = (header.kind == Kind::Request).then(|| self.answer(ask)).flatten()?;
        Some(Message::of(answer).encode())
    }
}

/// A node under test, and those it speaks to.
pub(crate) struct Bench {
    pub(crate) node: Node<Pipes>,
    stop: watch::Sender<bool>,
}

pub(crate) fn said(id: NodeId) -> Description {
    let peer = SocketAddr::from(([10, 0, 0, id.0 as u8], 1)).to_string();
    Description { http: peer.clone(), peer, zone: Zone::default(), weight: 1, starts: 1, boot_id: 1 }
}

fn local(id: NodeId) -> Arc<Local> {
    Local::new(id, 1, said(id).peer, Secret::new("s"), Some(CLUSTER))
}

impl Bench {
    /// The peers and the node are members. The first layout has those who are named as its owners.
    pub(crate) async fn start(partitions: u16, owners: &[NodeId], peers: &[&Peer]) -> Bench {
        let world = Pipes::new();
        let (stop, stopping) = watch::channel(false);
        let mut view = View::new(CLUSTER, partitions);
        for id in owners {
            view.admit(*id, said(*id)).unwrap();
            view.set_status(*id, Status::Up).unwrap();
        }
        view.found();
        for id in peers.iter().map(|peer| peer.id).chain([ME]) {
            view.admit(id, said(id)).unwrap();
        }
        let bench = Bench::of(world.clone(), ME, 1, view, stop);
        bench.node.past.asked(true);
        for peer in peers {
            let address = said(peer.id).peer;
            let port = world.bind(address.parse().unwrap()).await.unwrap();
            let handler = (*peer).clone();
            tokio::spawn(serve(world.clone(), port, local(peer.id), handler, stopping.clone()));
            bench.node.pool.set_peer(peer.id, address);
        }
        bench
    }

    /// From now on the node doubts whoever of these is mute, until the task ends.
    pub(crate) fn doubts_who_is_mute(&self, peers: &[&Peer]) -> JoinHandle<()> {
        let cluster = Arc::clone(&self.node.cluster);
        let peers: Vec<Peer> = peers.iter().map(|peer| (*peer).clone()).collect();
        tokio::spawn(async move {
            loop {
                cluster.set_doubted(peers.iter().filter(|peer| peer.is_mute()).map(|peer| peer.id).collect());
                tokio::time::sleep(LOOK_EVERY).await;
            }
        })
    }

    /// Nobody who calls a peer gets through any more, until what this gives back is called.
    pub(crate) fn cut(&self, peer: &Peer) -> impl FnOnce() + use<> {
        let (ports, address) = (Arc::clone(&self.node.world.ports), said(peer.id).peer);
        let door = ports.lock().unwrap().remove(&address).unwrap();
        move || drop(ports.lock().unwrap().insert(address, door))
    }

    /// Somebody with this name shakes hands with whoever calls, reads nothing that comes after that, and says nothing.
    pub(crate) async fn stands_still(&self, id: NodeId) {
        let address = said(id).peer;
        let mut port = self.node.world.bind(address.parse().unwrap()).await.unwrap();
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((mut stream, _)) = port.accept().await {
                hello::accept(&mut stream, &local(id), hello::Nonce::default()).await.unwrap();
                kept.push(stream);
            }
        });
        self.node.pool.set_peer(id, address);
    }

    /// Whoever calls this peer is hung up on in the midst of what comes after the handshake, for so many connections to come.
    pub(crate) async fn hangs_up(&self, id: NodeId, connections: usize) {
        let (door, mut port) = self.takes_port(id).await;
        tokio::spawn(async move {
            for _ in 0..connections {
                let (mut stream, _) = port.accept().await.unwrap();
                hello::accept(&mut stream, &local(id), hello::Nonce::default()).await.unwrap();
                stream.read_u8().await.unwrap();
            }
            while let Ok((stream, _)) = port.accept().await {
                door.send(stream).await.unwrap();
            }
        });
    }

    /// Stands before this peer: the way to it, and what comes for it.
    async fn takes_port(&self, id: NodeId) -> (mpsc::Sender<DuplexStream>, Port) {
        let address = said(id).peer;
        let door = self.node.world.ports.lock().unwrap().remove(&address).unwrap();
        (door, self.node.world.bind(address.parse().unwrap()).await.unwrap())
    }

    /// What this peer is asked, it hears, and then its connection breaks before the first answer, for so many connections to come.
    pub(crate) async fn loses_answers(&self, id: NodeId, connections: usize) {
        let (door, mut port) = self.takes_port(id).await;
        tokio::spawn(async move {
            for _ in 0..connections {
                let (stream, _) = port.accept().await.unwrap();
                let (here, there) = tokio::io::duplex(PIPE_BYTES);
                door.send(there).await.unwrap();
                let (mut asks, mut asked) = tokio::io::split(stream);
                let (mut answers, mut answered) = tokio::io::split(here);
                tokio::select! {
                    biased;
                    _ = tokio::io::copy(&mut asks, &mut answered) => {}
                    () = pass_hello(&mut answers, &mut asked) => {}
                }
            }
            while let Ok((stream, _)) = port.accept().await {
                door.send(stream).await.unwrap();
            }
        });
    }

    /// Another node of production's code, with a disk of its own and the same view, which answers this one.
    pub(crate) async fn beside(&self, id: NodeId) -> Bench {
        let world = self.node.world.another();
        let view = self.node.cluster.snapshot().view.clone();
        let bench = Bench::of(world.clone(), id, 1, view, self.stop.clone());
        bench.node.past.asked(true);
        let peers = Peers::new(mpsc::channel(1).0);
        peers.serve(bench.node.clone());
        self.answers_by(id, peers).await;
        let (peers, address) = (Peers::new(mpsc::channel(1).0), said(self.node.id()).peer);
        peers.serve(self.node.clone());
        let port = world.bind(address.parse().unwrap()).await.unwrap();
        tokio::spawn(serve(world, port, local(self.node.id()), peers, self.stop.subscribe()));
        bench.node.pool.set_peer(self.node.id(), address);
        bench
    }

    /// Whoever calls this peer from now on is answered by this handler.
    pub(crate) async fn answers_by(&self, id: NodeId, handler: impl Handler) {
        let (world, address) = (self.node.world.another(), said(id).peer);
        let port = world.bind(address.parse().unwrap()).await.unwrap();
        tokio::spawn(serve(world, port, local(id), handler, self.stop.subscribe()));
        self.node.pool.set_peer(id, address);
    }

    /// The process dies, and another one starts on its disk, as it is left to it. Nobody was asked yet what he remembers.
    pub(crate) fn again(self, leave: impl FnOnce(&MemDisk)) -> Bench {
        let Bench { node, stop } = self;
        let (world, view) = (node.world.clone(), node.cluster.snapshot().view.clone());
        let (id, starts) = (node.id(), node.past.said().starts + 1);
        drop(node);
        world.disk.crash_keeping(usize::MAX);
        leave(&world.disk);
        let bench = Bench::of(world, id, starts, view, stop);
        gossip::introduce(&bench.node);
        bench
    }

    fn of(world: Pipes, node: NodeId, starts: u64, view: View, stop: watch::Sender<bool>) -> Bench {
        let config = Config::load(&NodeArgs::default(), &|_| None, &|_| Ok(())).unwrap();
        let description = Description { starts, boot_id: starts, ..said(node) };
        let entered = boot::Entered { node, description, cluster: CLUSTER, cluster_key: [7; 32], view };
        let pool = Pool::new(world.clone(), local(node));
        let (store, failed) = (world.disk.open().unwrap(), watch::channel(None).0);
        let mut begins = Batch::default();
        let mut lives = Lives::load(&store).unwrap().unwrap();
        lives.begin(starts, starts, lives.last(), true, &mut begins);
        store.write(begins, true).unwrap();
        derive(&store).unwrap();
        let defaults = BucketSettings::default();
        let (node, _) = boot::start(&world, &store, entered, &config, defaults, &pool, failed).unwrap();
        Bench { node, stop }
    }

    pub(crate) fn disk(&self) -> &MemDisk {
        &self.node.world.disk
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut View)) {
        let change = |view: &mut View| {
            change(view);
            Ok::<(), ViewError>(())
        };
        self.node.cluster.update(change).unwrap();
    }

    /// The node writes a value of so many bytes.
    pub(crate) async fn put(&self, id: &ObjectId, bytes: usize, hint_for: Option<NodeId>) -> Bytes {
        let action = Action::Put { content_type: "text/plain".into(), meta: vec![], ttl_ms: None };
        self.write(id, action, bytes, hint_for).await
    }

    /// The node deletes a value.
    pub(crate) async fn delete(&self, id: &ObjectId) -> Bytes {
        self.write(id, Action::Delete, 0, None).await
    }

    async fn write(&self, id: &ObjectId, action: Action, bytes: usize, hint_for: Option<NodeId>) -> Bytes {
        let held = self.node.local(id).unwrap().map(|held| decode(&held).unwrap().clock);
        let write = Write {
            action,
            body: Bytes::from(vec![b'x'; bytes]),
            seen: held,
            ttl_default: None,
            blind: BlindWrites::Siblings,
            siblings_max: 100,
            context_runs_max: CONTEXT_RUNS_MAX,
        };
        let (write, now) = (Box::new(write), self.node.wall());
        let job = |reply| Job::Coordinate { id: id.clone(), write, now, hint_for, sync: true, reply };
        self.node.lane.run(job).await.unwrap();
        self.node.local(id).unwrap().unwrap()
    }

    /// The keys that the node holds.
    pub(crate) fn kept(&self) -> Vec<ObjectId> {
        let rows = self.node.world.disk.rows(Family::Records);
        rows.iter().map(|(key, _)| keys::decode_record_key(key).unwrap().1).collect()
    }

    /// For how many keys it holds a hint for this one.
    pub(crate) fn hints_for(&self, target: NodeId) -> usize {
        let rows = self.node.world.disk.rows(Family::Hints);
        rows.iter().filter(|(key, _)| keys::decode_hint_key(key).unwrap().0 == target).count()
    }

    pub(crate) fn owners(&self, id: &ObjectId) -> Vec<NodeId> {
        let snapshot = self.node.cluster.snapshot();
        let partition = partition(position(id), snapshot.view.partitions);
        snapshot.table.owners(partition, 3).to_vec()
    }
}

/// Passes on the two steps of a handshake that come from who is called, and waits for what comes after them.
async fn pass_hello(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) {
    for _ in 0..2 {
        let mut head = [0; 6];
        from.read_exact(&mut head).await.unwrap();
        let mut step = vec![0; usize::from(u16::from_le_bytes([head[4], head[5]]))];
        from.read_exact(&mut step).await.unwrap();
        to.write_all(&head).await.unwrap();
        to.write_all(&step).await.unwrap();
    }
    from.read_u8().await.unwrap();
}

/// A client's write that `w` disks must have.
pub(crate) fn write_of(id: &ObjectId, w: u8) -> WriteAsk {
    WriteAsk {
        id: id.clone(),
        action: Action::Put { content_type: "text/plain".into(), meta: vec![], ttl_ms: None },
        seen: None,
        quorum: QuorumAsk { w: Some(Level::Count(w)), ..QuorumAsk::default() },
        timeout_ms: 5_000,
        return_record: false,
    }
}

/// So many keys, in the order in which the disk has them if there is one partition.
pub(crate) fn ids(count: usize) -> Vec<ObjectId> {
    (0..count).map(|at| ObjectId::new("b", format!("k{at:05}")).unwrap()).collect()
}
