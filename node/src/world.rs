//! The world a node lives in: network, clock, entropy and disk, as one type parameter.
//!
//! ```text
//!        main.rs ── RealWorld ──┐
//!                               ├──► boot::run(world, config)      the very same code
//!     simulation ── SimWorld  ──┘
//! ```
//!
//! Nothing else in this crate may reach for a clock, a socket, a random number or a file; the lint lists in
//! `clippy.toml` say so. Timers are tokio's: a simulation pauses and advances them, production lets them run.

use crate::store::{OpenError, Store};
use rand::rngs::StdRng;
use ring::time::{Time, Wall};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use tokio::io::{AsyncRead, AsyncWrite};

/// What a node may know of and do to the outside.
pub trait World: Clone + Send + Sync + 'static {
    /// A connection, either direction.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// Where connections arrive.
    type Listener: Listener<Stream = Self::Stream>;
    /// The disk.
    type Store: Store;

    /// The monotonic clock: deadlines, detectors, latencies.
    fn now(&self) -> Time;
    /// This node's calendar. It has a say in the cluster's clock (`ring/src/clock.rs`), and nothing else goes by it.
    fn wall(&self) -> Wall;
    /// A stream of random numbers for one purpose. In a simulation the same seed and purpose repeat it.
    fn rng(&self, purpose: &str) -> StdRng;
    /// Listens on an address.
    fn bind(&self, addr: SocketAddr) -> impl Future<Output = io::Result<Self::Listener>> + Send;
    /// Connects to `host:port`. It may hang: every caller brings a time-out.
    fn dial(&self, addr: &str) -> impl Future<Output = io::Result<Self::Stream>> + Send;
    /// Opens the data directory, or makes one.
    fn open_store(&self, dir: &Path) -> Result<Self::Store, OpenError>;
    /// Whether a blocking loop gets a thread of its own (production) or runs as a task (simulation, where a foreign
    /// thread would let the paused clock run away).
    fn threads(&self) -> bool;
}

/// Where connections arrive.
pub trait Listener: Send + 'static {
    /// What arrives.
    type Stream;
    /// Waits for the next connection.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;
    /// The address that was bound, with the port that the system chose if it was 0.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}
