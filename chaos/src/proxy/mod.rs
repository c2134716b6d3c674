//! The network between real processes, and what goes wrong with it: a TCP proxy in front of every node.
//!
//! ```text
//!   node 0 ──┐                        ┌── door of node 1 ──► node 1
//!   node 2 ──┼── dials what node 1 ───┘      │
//!   client ──┘   gives as its address        └ who is it?  the handshake names the dialer's own door
//!                                              then each direction by the link's conduct (`pump.rs`)
//! ```
//!
//! The kernel's own means (netem) need root and a kernel that has them; this needs neither, is the same everywhere, and draws its
//! chance from a seed. It works on frames and not on packets, since TCP hides what becomes of those: a lost packet is a late one,
//! while a lost frame is worse than anything TCP does, and no promise may hang on its not happening. A repeated frame may be a
//! client's write that one node forwards to another; twice delivered it is two writes, concurrent ones.
//!
//! Nodes are told to advertise their door, so every connection between two of them comes through here. Both directions of a
//! connection have their own conduct, by who speaks to whom.

mod delay;
mod pieces;
mod pump;

pub use delay::Delay;

use crate::limits::{CONNECT_MAX, PROXY_ACCEPT_AGAIN, PROXY_CONNECTIONS_MAX, PROXY_HELLO_MAX};
use bytes::BytesMut;
use pieces::Pieces;
use pump::pump;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Who is at one end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    /// A node, counted from 0.
    Node(usize),
    /// Anybody else: a client, or a node that did not say who it is.
    Outside,
}

/// What a link does to what is sent over it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conduct {
    /// Nothing arrives. What was sent waits, and arrives when this has ended.
    pub stalled: bool,
    /// How long each frame takes.
    pub delay: Delay,
    /// Whether a frame that takes less time overtakes one that takes more.
    pub overtaking: bool,
    /// How many frames of a hundred never arrive.
    pub lost_percent: u8,
    /// How many of a hundred arrive twice, of those that may ([`is_nameless_write`]).
    pub repeated_percent: u8,
    /// How much goes through in a second, on each connection.
    pub bytes_per_second: Option<u32>,
}

/// What went through all links so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Frames, or what a read of a client's link brought.
    pub pieces: u64,
    /// Those that never arrived.
    pub lost: u64,
    /// Those that arrived twice.
    pub repeated: u64,
    /// Those that were made to wait.
    pub delayed: u64,
    /// Directions of connections that were stalled, each time anew.
    pub stalled: u64,
    /// Connections that were reset by order.
    pub reset: u64,
}

/// Doors in front of nodes. Dropping it closes all connections through them.
pub struct Proxy {
    pieces: Pieces,
    links: Arc<Links>,
    tasks: JoinSet<()>,
}

struct Links {
    doors: Mutex<Vec<SocketAddr>>,
    conducts: Mutex<BTreeMap<(Party, Party), watch::Sender<Conduct>>>,
    /// How often the connections between two were reset.
    resets: Mutex<BTreeMap<(Party, Party), watch::Sender<u64>>>,
    chance: Mutex<StdRng>,
    passed: Mutex<Passed>,
    room: Semaphore,
}

/// Whether this frame hands a client's write over to another node without a name. Carried out twice it is two writes: TCP delivers it once
/// or not at all, and a client who sends it twice means it. Nearly all have a name. Everything else that peers say may arrive twice, and
/// must be able to.
pub fn is_nameless_write(frame: &[u8]) -> bool {
    /// Where a frame says what it is for, and where its body's head begins: with the number of what is asked.
    const KIND_AT: usize = 9;
    const ASK_AT: usize = 58;
    const REQUEST: u8 = 1;
    const WRITE: u8 = 2;
    frame.get(KIND_AT) == Some(&REQUEST) && frame.get(ASK_AT) == Some(&WRITE)
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Doors in front of where these nodes listen for their peers, on free ports of loopback.
    pub async fn of_peers(seed: u64, nodes: &[SocketAddr]) -> io::Result<Proxy> {
        Self::open(seed, nodes, Pieces::Frames).await
    }

    /// Doors in front of where these nodes listen for clients. Frames are what a read brings, and none is lost or repeated.
    pub async fn of_clients(seed: u64, nodes: &[SocketAddr]) -> io::Result<Proxy> {
        Self::open(seed, nodes, Pieces::Bytes).await
    }

    async fn open(seed: u64, nodes: &[SocketAddr], pieces: Pieces) -> io::Result<Proxy> {
        let links = Arc::new(Links {
            doors: Mutex::default(),
            conducts: Mutex::default(),
            resets: Mutex::default(),
            chance: Mutex::new(StdRng::seed_from_u64(seed)),
            passed: Mutex::default(),
            room: Semaphore::new(PROXY_CONNECTIONS_MAX),
        });
        let mut proxy = Proxy { pieces, links, tasks: JoinSet::new() };
        for node in nodes {
            proxy.add(*node).await?;
        }
        Ok(proxy)
    }

    /// A door in front of one node more.
    pub async fn add(&mut self, node: SocketAddr) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let to = {
            let mut doors = lock(&self.links.doors);
            doors.push(address);
            doors.len() - 1
        };
        let door = Door { to, node, pieces: self.pieces, links: Arc::clone(&self.links) };
        self.tasks.spawn(door.keep(listener));
        Ok(address)
    }

    /// The door of a node: what it is to advertise.
    pub fn door(&self, node: usize) -> SocketAddr {
        lock(&self.links.doors)[node]
    }

    /// From now on this is how what the one says reaches the other, on connections that stand too.
    pub fn set(&self, from: Party, to: Party, conduct: Conduct) {
        self.links.conduct(from, to).send_replace(conduct);
    }

    /// All connections between two are reset, in both directions.
    pub fn reset(&self, one: Party, other: Party) {
        self.links.reset(one, other).send_modify(|resets| *resets += 1);
    }

    /// What went through so far.
    pub fn passed(&self) -> Passed {
        *lock(&self.links.passed)
    }

    /// Every link is whole again.
    pub fn heal(&self) {
        for conduct in lock(&self.links.conducts).values() {
            conduct.send_replace(Conduct::default());
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy with doors {:?}", lock(&self.links.doors))
    }
}

impl Links {
    fn conduct(&self, from: Party, to: Party) -> watch::Sender<Conduct> {
        lock(&self.conducts)
            .entry((from, to))
            .or_insert_with(|| watch::Sender::new(Conduct::default()))
            .clone()
    }

    fn reset(&self, one: Party, other: Party) -> watch::Sender<u64> {
        let pair = (one.min(other), one.max(other));
        lock(&self.resets).entry(pair).or_insert_with(|| watch::Sender::new(0)).clone()
    }
}

/// The way in to one node.
#[derive(Clone)]
struct Door {
    to: usize,
    node: SocketAddr,
    pieces: Pieces,
    links: Arc<Links>,
}

impl Door {
    async fn keep(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let Ok((inbound, _)) = accepted else {
                        // No descriptor is free; one will be.
                        tokio::time::sleep(PROXY_ACCEPT_AGAIN).await;
                        continue;
                    };
                    let door = self.clone();
                    connections.spawn(async move {
                        let links = Arc::clone(&door.links);
                        // Who comes when all are taken is turned away, as by a full machine.
                        let Ok(_room) = links.room.try_acquire() else { return };
                        // Whatever ends a connection ends both its sides, and that is all there is to say of it.
                        let _ = door.carry(inbound).await;
                    });
                }
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
            }
        }
    }

    async fn carry(self, mut inbound: TcpStream) -> io::Result<()> {
        let mut first = BytesMut::new();
        let from = match self.pieces {
            Pieces::Bytes => Party::Outside,
            Pieces::Frames => {
                let hello = tokio::time::timeout(PROXY_HELLO_MAX, self.hello(&mut inbound, &mut first));
                hello.await.unwrap_or_else(|elapsed| Err(elapsed.into()))?
            }
        };
        let to = Party::Node(self.to);
        let mut outbound = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(self.node)).await??;
        for stream in [&inbound, &outbound] {
            stream.set_nodelay(true)?;
        }
        let mut resets = self.links.reset(from, to).subscribe();
        let (there, back) =
            (self.links.conduct(from, to).subscribe(), self.links.conduct(to, from).subscribe());
        let chance = |links: &Links| StdRng::seed_from_u64(lock(&links.chance).random());
        let (one, other) = (chance(&self.links), chance(&self.links));
        let broken = {
            let (in_read, in_write) = inbound.split();
            let (out_read, out_write) = outbound.split();
            let ends = async {
                let there = pump(&self, in_read, out_write, first, (there, one));
                let back = pump(&self, out_read, in_write, BytesMut::new(), (back, other));
                tokio::try_join!(there, back)
            };
            tokio::select! {
                biased;
                _ = resets.changed() => {
                    lock(&self.links.passed).reset += 1;
                    true
                }
                ended = ends => ended.is_err(),
            }
        };
        // What ended in order has said so by itself; else both ends are to see a reset, whatever is on its way.
        if broken {
            inbound.set_zero_linger()?;
            outbound.set_zero_linger()?;
        }
        Ok(())
    }

    /// Reads the first step of the handshake, which stays in the buffer, and finds in it whose door the dialer advertises.
    async fn hello(&self, inbound: &mut TcpStream, first: &mut BytesMut) -> io::Result<Party> {
        loop {
            let mut whole = first.clone();
            if let Some(step) = self.pieces.next(&mut whole).map_err(io::Error::other)? {
                let named = |door: &SocketAddr| names(&step.bytes, *door);
                let dialer = lock(&self.links.doors).iter().position(named);
                return Ok(dialer.map_or(Party::Outside, Party::Node));
            }
            if inbound.read_buf(first).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// Whether the address stands in these bytes, and not as the beginning of a longer one: a text comes behind its length. What comes
/// behind it is chance, which is a digit once in 26 times.
fn names(bytes: &[u8], door: SocketAddr) -> bool {
    let text = door.to_string();
    let length = u8::try_from(text.len()).expect("an address and a port have few characters");
    let named = [&[length], text.as_bytes()].concat();
    bytes.windows(named.len()).any(|window| window == named)
}

#[cfg(test)]
mod tests;
