//! The HTTP side that knows no protocol: from bytes on a socket to a checked request, and from a result to an answer.
//!
//! ```text
//!   listen ── guard ──► path::route ─► params, headers, body::read_body ─► (handlers) ─► body, problem
//!                                                                              └──► metrics
//! ```
//!
//! Everything here is strict: what is not understood is refused with a problem that names it. Handlers stand on top
//! and never see an unchecked byte. The way of a plain GET or PUT allocates only what it keeps.

pub mod api;
pub mod body;
mod gate;
mod guard;
pub mod headers;
pub mod listen;
pub mod metrics;
pub mod params;
pub mod path;
pub mod problem;
