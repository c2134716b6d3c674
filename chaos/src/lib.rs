//! Workloads, faults and checkers. This floor meets nodes as a user does: over HTTP, and by signals to processes.
//! It knows nothing of the server's insides (it does not depend on `node`), so what it finds wrong is wrong
//! for a user too, and it runs unchanged against any cluster that speaks the contract. Workloads and checkers also serve the
//! simulation, which brings a network and a clock of its own.
//!
//! ```text
//!   dev ────────┐                     one command, a whole local cluster to play with
//!   replay ─────┼──▶ target::process  real `cartwheel node` processes on loopback
//!     │         │
//!     └─────────┴──▶ http             one keep-alive pool, every call with a deadline
//!
//!   workload ──▶ history ──▶ check    what clients do, what came of it, and whether a promise was broken
//! ```
//!
//! | file | what it is |
//! | --- | --- |
//! | `dev.rs` | `cartwheel dev`: brings a cluster up, prints where it is, stops it on Ctrl-C |
//! | `target/process.rs` | `LocalCluster`: start, kill, stop, pause, start again; each node a process |
//! | `target/process/ready.rs` | when nodes count as up |
//! | `target/process/ending.rs` | how they go away, and what is left |
//! | `target/ports.rs` | finding free ports, and saying which one is taken |
//! | `replay/events.rs` | shop events from CSV, one row at a time |
//! | `replay/model.rs` | what the carts must hold, by plain addition; the comparison |
//! | `replay/drive.rs` | the writers: many at once, every node in turn, retried until acknowledged |
//! | `replay/readback.rs` | every cart read through another node than the one that wrote it last |
//! | `replay/sabotage.rs` | the SIGKILL in the middle, and the start after it |
//! | `replay/report.rs` | the table, the verdict, the exit code |
//! | `workload/` | what clients do over and over, by the client library on any transport; the last look |
//! | `history.rs` | what was asked and what was answered, in order; JSON lines |
//! | `check/` | whether a history keeps the promises, a file for each promise |
//! | `run/` | `cartwheel chaos`: scenarios, the verdict, the report |
//! | `target/shim/` | what stands between a node and its disk and calendar |
//! | `proxy/` | the network between processes, and what goes wrong with it |
//! | `http.rs`, `limits.rs`, `signals.rs` | the calls; every bound with its arithmetic; how a command is told to stop |

// This crate lives in the real world on purpose: it measures real time and draws real jitter. The fences that keep
// clocks and chance inside `World` are for the server.
#![allow(
    clippy::disallowed_methods,
    reason = "faults and measurements happen in real time, outside any simulated world"
)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod check;
pub mod dev;
pub mod history;
mod http;
mod limits;
pub mod proxy;
pub mod replay;
pub mod run;
mod signals;
pub mod target;
pub mod workload;
