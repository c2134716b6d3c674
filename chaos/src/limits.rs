//! Every bound of this crate in one place, each with its arithmetic or its reason. A number that stands here is
//! never repeated elsewhere, and no loop, retry or wait in the crate goes without one of them.

use std::time::Duration;

/// How long a cluster may take to form. A node is ready in under 2 s by contract; five times that, because the first
/// start after a build reads the binary from a cold disk.
pub(crate) const CLUSTER_READY_MAX: Duration = Duration::from_secs(10);

/// How often readiness is asked for. 20 ms × 3 nodes costs nothing and hides nothing from a start of 800 ms.
pub(crate) const READY_POLL: Duration = Duration::from_millis(20);

/// What a node may take to finish on SIGTERM: the contract's 10 s, then it is killed.
pub(crate) const STOP_MAX: Duration = Duration::from_secs(10);

/// How often `dev` looks for nodes that ended, and how long it then listens for a Ctrl-C that would explain it.
pub(crate) const DEV_WATCH: Duration = Duration::from_millis(200);

/// How long nodes that were told by the terminal may take to end before they are told once more.
pub(crate) const DEV_GRACE: Duration = Duration::from_secs(1);

/// How long a killed process may take to leave the process table. The kernel needs milliseconds.
pub(crate) const REAP_MAX: Duration = Duration::from_secs(5);

/// What an error shows of a node's log: the last 20 lines of the last 8 KiB.
pub(crate) const LOG_TAIL_LINES: usize = 20;
/// See [`LOG_TAIL_LINES`].
pub(crate) const LOG_TAIL_BYTES: u64 = 8 * 1024;

/// Nodes in one local cluster. 20 × 60 MiB idle = 1.2 GiB, about what a laptop gives away gladly.
pub(crate) const NODES_MAX: u16 = 20;

/// Ports looked at before giving up: 200 random bases out of about 2,000.
pub(crate) const PORT_TRIES_MAX: usize = 200;

/// A connection on loopback or in a data centre stands in milliseconds; a dead host is noticed after this.
pub(crate) const CONNECT_MAX: Duration = Duration::from_secs(1);

/// One attempt of one request. A node that was stopped with SIGSTOP accepts connections and never answers; the next
/// node is asked after this.
pub(crate) const ATTEMPT_MAX: Duration = Duration::from_secs(5);

/// One event of a replay, all attempts together. A killed node is noticed within 3 s and back within seconds; an event
/// that is still not acknowledged after a minute is a finding, not a hiccup.
pub(crate) const EVENT_MAX: Duration = Duration::from_secs(60);

/// Reading one cart back, all attempts together.
pub(crate) const READ_MAX: Duration = Duration::from_secs(30);

/// The first and the longest pause between two attempts. 60 s ÷ 1 s ≈ 60 attempts at most, plus the short ones.
pub(crate) const BACKOFF_FIRST: Duration = Duration::from_millis(5);
/// See [`BACKOFF_FIRST`].
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Failures after which a replay stops: against a dead cluster each one costs a minute, so 370,931 of them would cost
/// 64 at a time four days, and the first hundred say it all.
pub(crate) const FAILURES_MAX: usize = 100;

/// Mismatches and failures that are listed; the rest are counted.
pub(crate) const LISTED_MAX: usize = 10;

/// A cart counts as large above this many items; its writes are measured apart.
pub(crate) const LARGE_CART_ITEMS: usize = 1_000;

/// A body that is read at all. The largest cart of the data has some 1,500 items of about 100 bytes = 150 KB; with
/// attributes and a context it stays far below this.
pub(crate) const BODY_MAX: usize = 64 * 1024 * 1024;

/// The longest latency that a histogram holds: two minutes, twice [`EVENT_MAX`], in microseconds.
pub(crate) const LATENCY_MAX_US: u64 = 120_000_000;

/// How often the progress line is refreshed, and so the window of its figures.
pub(crate) const PROGRESS_TICK: Duration = Duration::from_millis(250);

/// Connections through one proxy at once: nodes dial each other once each, 20 × 19, and clients keep some 32 to each node.
pub(crate) const PROXY_CONNECTIONS_MAX: usize = 1024;

/// Pieces on their way in one direction of a connection: at 400 ms of delay that is 10,000 frames a second.
pub(crate) const PROXY_PIECES_MAX: usize = 4096;

/// Bytes on their way, but for the last piece: 64 connections with 4 MiB each are 256 MiB.
pub(crate) const PROXY_BYTES_MAX: usize = 4 << 20;

/// How long a dialer may take to say who it is. Nodes give each other 3 s.
pub(crate) const PROXY_HELLO_MAX: Duration = Duration::from_secs(3);

/// How long a door waits when it can't take a connection for want of descriptors.
pub(crate) const PROXY_ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// How long containers may take to come up, and to be taken down.
pub(crate) const COMPOSE_READY_MAX: Duration = Duration::from_secs(180);

/// How long one command to containers may take. A stop waits for what is in flight, and up to 40 s.
pub(crate) const COMPOSE_STEP_MAX: Duration = Duration::from_secs(60);
