//! The protocol of Cartwheel as plain data and state machines: events in, effects out, time and chance as arguments.
//!
//! | floor | what |
//! | --- | --- |
//! | [`ids`], [`time`] | names and clocks as types |
//! | [`causal`] | dots, contexts, epochs, signed tokens |
//! | [`record`], [`cart`] | what is stored under a key, the one merge, what a write does |
//! | [`place`], [`members`], [`bucket`] | who owns what, who is here, how a bucket behaves |
//! | [`coord`] | the PUT and GET machines |
//! | [`tree`] | Merkle trees, and when a difference is believed |
//! | [`reap`] | when a deletion may be forgotten |
//! | [`wire`] | the bytes of all that |
//! | [`planted`] | rules that can be switched off, to try the simulation |
//!
//! Nothing here reads a clock, draws a random number, opens a socket or a file, or starts a task.

pub mod bucket;
pub mod cart;
pub mod causal;
pub mod clock;
pub mod coord;
pub mod ids;
pub mod members;
pub mod place;
pub mod planted;
pub mod reap;
pub mod record;
pub mod sift;
pub mod time;
pub mod tree;
pub mod wire;
