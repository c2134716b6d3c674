//! The real world: the kernel's sockets and clocks, the system's entropy, a disk.
//!
//! This is the one file that may reach for them. Everything else asks its [`World`], so that a simulation can hand it
//! another. The store's type is a parameter: production opens RocksDB here, tests whatever they like.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "here the outside comes in")]

use crate::store::{OpenError, Store};
use crate::world::{Listener, World};
use rand::SeedableRng;
use rand::rngs::{StdRng, SysRng};
use ring::time::{Time, Wall};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// The world of a process that runs for real.
#[derive(Clone)]
pub struct RealWorld<S> {
    started: Instant,
    skew_ms: i64,
    open: fn(&Path) -> Result<S, OpenError>,
}

impl<S: Store> RealWorld<S> {
    /// A world whose monotonic clock starts now and whose disks are opened by `open`.
    pub fn new(open: fn(&Path) -> Result<S, OpenError>) -> Self {
        RealWorld { started: Instant::now(), skew_ms: 0, open }
    }

    /// The same with a calendar that is off by so much, to try what a wrong one does.
    #[must_use]
    pub fn skewed(self, ms: i64) -> Self {
        RealWorld { skew_ms: ms, ..self }
    }
}

impl<S: Store> World for RealWorld<S> {
    type Stream = TcpStream;
    type Listener = RealListener;
    type Store = S;

    fn now(&self) -> Time {
        Time::default() + self.started.elapsed()
    }

    fn wall(&self) -> Wall {
        // A calendar before 1970 is a dead clock battery; the epoch is as good a guess as any.
        let right = Wall::default().plus(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        Wall(right.0.saturating_add_signed(self.skew_ms))
    }

    fn rng(&self, _purpose: &str) -> StdRng {
        StdRng::try_from_rng(&mut SysRng).expect("the system has entropy once it runs processes")
    }

    async fn bind(&self, addr: SocketAddr) -> io::Result<RealListener> {
        TcpListener::bind(addr).await.map(RealListener)
    }

    async fn dial(&self, addr: &str) -> io::Result<TcpStream> {
        nodelay(TcpStream::connect(addr).await?)
    }

    fn open_store(&self, dir: &Path) -> Result<S, OpenError> {
        (self.open)(dir)
    }

    fn threads(&self) -> bool {
        true
    }
}

/// A listening socket.
#[derive(Debug)]
pub struct RealListener(TcpListener);

impl Listener for RealListener {
    type Stream = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, from) = self.0.accept().await?;
        Ok((nodelay(stream)?, from))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// Everything that waits is written at once already, so holding small writes back only costs time.
fn nodelay(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    Ok(stream)
}
