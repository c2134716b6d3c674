//! How nodes talk: frames over one connection per pair and direction.
//!
//! ```text
//!   pool.call(to, …) ─► link of `to` ─► outbox ─┐   one connection    ┌─► frames ─► handler ─┐
//!                                               ├══ hello, frames ════┤                      │
//!   answer by id ◄──────────────────────────────┘                     └─◄ everything that ◄──┘
//!                                                                          waits, in one write
//! ```
//!
//! Not HTTP: a client's request costs several between nodes, and there HTTP costs about ten times as much per
//! message. The dialer asks and the acceptor answers; a node that wants to ask back dials its own connection, so no
//! two sides ever argue about whose connection it is.
//!
//! Bodies are opaque here. What they mean, and which of them a joiner may send, the [`Handler`] decides; this module
//! only says who is asking ([`PeerIdentity`]) and proves that it knows the cluster's secret.
//!
//! `frame` is the envelope, `hello` the handshake, `conn` the dialer's side of a connection, `hearing` what it says of the
//! peer, `pool` what callers hold, `serve` the acceptor's side.

mod conn;
pub mod frame;
mod hearing;
pub mod hello;
mod pool;
mod serve;
#[cfg(test)]
mod tests;
mod write;

pub use frame::{Header, Kind, TableTag};
pub use hello::{Local, PeerIdentity, Refusal, Secret};
pub use pool::Pool;
pub use serve::{Handler, serve};

/// Why there is no answer. Everything but [`CallError::TimedOut`] and [`CallError::Lost`] is sure that the peer did nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No connection; nothing was sent. Worth another try after a moment, elsewhere at once.
    #[error("the peer can't be reached")]
    Unreachable,
    /// The deadline passed. The request may have been applied, or may still be.
    #[error("the peer did not answer in time")]
    TimedOut,
    /// The connection broke while the request was under way. It may have been applied.
    #[error("the connection to the peer broke before its answer")]
    Lost,
    /// One side did not accept the other in the handshake. Nothing was sent; trying again won't help by itself.
    #[error("the connection was refused: {0}")]
    Refused(Refusal),
    /// Too much waits for this peer already. Nothing was sent; worth another try after a moment.
    #[error("too much waits for this peer already")]
    Overloaded,
    /// The peer has no answer to this message from us. What it did, its protocol says.
    #[error("the peer does not serve this message")]
    NotServed,
    /// The body does not fit into a frame. Nothing was sent.
    #[error("the message of {0} bytes does not fit into a frame")]
    TooLarge(usize),
}
