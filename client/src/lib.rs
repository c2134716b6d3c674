//! The client of Cartwheel: a library for programs and the client commands of the one binary.
//!
//! ```no_run
//! # async fn example() -> client::Result<()> {
//! let client = client::Client::new(vec!["http://127.0.0.1:8098".into()])?;
//! let seen = client.get("shop", "greeting", &Default::default()).await?;
//! let write = client::WriteOptions { context: seen.context, ..Default::default() };
//! client.put("shop", "greeting", "hello", &write).await?;
//! # Ok(()) }
//! ```
//!
//! Three rules shape it:
//! - Names are bytes. A bucket or a key is percent-encoded byte by byte and never repaired on the way.
//! - A request is repeated only where a repetition can't count twice (see `retry`).
//! - An error says what it left behind: [`Error::outcome`] is honest over all attempts, not only about the last.
//!
//! HTTP itself stands behind [`HttpTransport`], because a simulated network brings a connector of its own and the
//! usual library (reqwest) can't be given one.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod bucket;
mod call;
mod cart;
pub mod cli;
mod cluster;
mod error;
mod object;
mod path;
mod plan;
mod repair;
mod retry;
#[cfg(test)]
mod stage;
#[cfg(test)]
mod tests;
mod transport;

pub use bucket::{KeyPage, ListOptions, Settings};
pub use call::Client;
pub use cart::{Cart, CartItem, ItemChange, fresh_op_id};
pub use cluster::{Cluster, Explanation, Member, Progress, Replica, ReplicaVersion, RingState, Waiting};
pub use error::{Error, Outcome, Problem, Result, Retry};
pub use object::{Context, Object, Quorum, ReadOptions, Receipt, Version, WriteOptions, Written};
pub use plan::{Balance, Change, Committed, Plan, PlannedNode, Replaced, Surplus, Transfer, Transfers};
pub use repair::{Repair, RepairScope};
pub use transport::{
    FailureKind, HttpTransport, Method, Request, ReqwestTransport, Response, TransportError,
};
