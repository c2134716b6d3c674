//! The world of a simulated node: turmoil's network, its clock, a seed, a disk that outlives it.

use super::disk::{Disk, SimStore};
use super::wires::{Host, SimStream, Wires};
use node::store::OpenError;
use node::world::{Listener, World};
use rand::SeedableRng;
use rand::rngs::StdRng;
use ring::time::{Time, Wall};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use turmoil::net::{TcpListener, TcpStream};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// When the simulated calendars begin: 2026-01-01.
const EPOCH: Wall = Wall(1_767_225_600_000);

/// A machine: what stays when the node on it ends.
pub struct Machine {
    /// Which one.
    pub host: Host,
    /// Its disk of this moment. Wiping the machine puts a new one in.
    pub disk: Mutex<Disk>,
    /// How far its calendar is off.
    pub calendar_off_ms: AtomicI64,
    /// Whether an operator is to take the node in that begins on it.
    pub waits: AtomicBool,
    /// How long it has slept so far, and since when it sleeps, in simulated time.
    pub slept: Mutex<(Duration, Option<Duration>)>,
    /// How many nodes have begun on it.
    pub boots: AtomicU64,
    /// The chance of everything on it.
    pub seed: u64,
    /// Its network.
    pub wires: Wires,
}

impl Machine {
    /// The disk of this moment.
    pub fn disk(&self) -> Disk {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// For how long its clock has stood still so far. Its timers go on: whoever sleeps is cut off, and nobody sees them.
    pub fn slept(&self) -> Duration {
        let (before, since) = *self.slept.lock().unwrap_or_else(PoisonError::into_inner);
        let now = turmoil::sim_elapsed().unwrap_or_default();
        before + since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    /// It falls asleep, or wakes up.
    pub fn set_asleep(&self, asleep: bool, now: Duration) {
        let mut slept = self.slept.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, since) = *slept;
        let before = before + since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
        *slept = (before, asleep.then_some(now));
    }
}

/// The world of one start of a node.
#[derive(Clone)]
pub struct SimWorld(Arc<Boot>);

struct Boot {
    machine: Arc<Machine>,
    number: u64,
    started: Instant,
    slept_before: Duration,
    /// How often chance was asked for by each purpose: the second link's is another than the first's.
    asked: Mutex<BTreeMap<String, u64>>,
}

impl SimWorld {
    /// A start on a machine. To be called in its runtime.
    pub fn start(machine: Arc<Machine>) -> SimWorld {
        let number = machine.boots.fetch_add(1, Ordering::Relaxed);
        let slept_before = machine.slept();
        SimWorld(Arc::new(Boot {
            slept_before,
            machine,
            number,
            started: Instant::now(),
            asked: Mutex::default(),
        }))
    }
}

impl World for SimWorld {
    type Stream = SimStream;
    type Listener = SimListener;
    type Store = SimStore;

    fn now(&self) -> Time {
        Time::default()
            + self.0.started.elapsed().saturating_sub(self.0.machine.slept() - self.0.slept_before)
    }

    fn wall(&self) -> Wall {
        let right = EPOCH.plus(turmoil::sim_elapsed().unwrap_or(Duration::ZERO));
        Wall(right.0.saturating_add_signed(self.0.machine.calendar_off_ms.load(Ordering::Relaxed)))
    }

    fn rng(&self, purpose: &str) -> StdRng {
        let mut asked = self.0.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let times = asked.entry(purpose.to_owned()).or_default();
        *times += 1;
        let name = format!("{}/{}/{purpose}/{times}", self.0.machine.host, self.0.number);
        StdRng::seed_from_u64(xxh3_64_with_seed(name.as_bytes(), self.0.machine.seed))
    }

    async fn bind(&self, addr: SocketAddr) -> io::Result<SimListener> {
        let inner = TcpListener::bind(addr).await?;
        let (host, wires) = (self.0.machine.host, self.0.machine.wires.clone());
        Ok(SimListener { inner, host, wires, port: addr.port() })
    }

    async fn dial(&self, addr: &str) -> io::Result<SimStream> {
        let host = self.0.machine.host;
        dial(&self.0.machine.wires, host, addr).await
    }

    fn open_store(&self, _dir: &Path) -> Result<SimStore, OpenError> {
        self.0.machine.disk().open()
    }

    fn threads(&self) -> bool {
        false
    }
}

/// Connects from a host to an address.
pub async fn dial(wires: &Wires, from: Host, addr: &str) -> io::Result<SimStream> {
    let addr: SocketAddr = addr.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    wires.passable(from, Host::of(addr.ip())).await;
    wires.attach(TcpStream::connect(addr).await?, from)
}

/// Where connections arrive.
pub struct SimListener {
    inner: TcpListener,
    host: Host,
    wires: Wires,
    port: u16,
}

impl Listener for SimListener {
    type Stream = SimStream;

    async fn accept(&mut self) -> io::Result<(SimStream, SocketAddr)> {
        let (stream, from) = self.inner.accept().await?;
        Ok((self.wires.attach(stream, self.host)?, from))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::new(self.host.ip(), self.port))
    }
}
