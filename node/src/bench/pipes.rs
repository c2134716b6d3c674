//! The world of a node under test: a network of pipes in one process, a paused clock, and a disk in memory.
//!
//! Not the simulation's world: that one breaks things by chance, and lives in a crate that is built on this one.

use crate::store::OpenError;
use crate::store::mem::{MemDisk, MemStore};
use crate::world::{Listener, World};
use rand::SeedableRng;
use rand::rngs::StdRng;
use ring::time::{Time, Wall};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// What fits between two ends before the writer waits.
pub(super) const PIPE_BYTES: usize = 1 << 20;
/// Connections that wait to be accepted.
const BACKLOG: usize = 16;

type Ports = Arc<Mutex<BTreeMap<String, mpsc::Sender<DuplexStream>>>>;

/// A network of pipes, and a disk in memory.
#[derive(Clone)]
pub(crate) struct Pipes {
    pub(super) ports: Ports,
    pub(super) disk: MemDisk,
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
