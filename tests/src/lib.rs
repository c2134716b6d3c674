//! What the acceptance tests stand on: real processes, plain HTTP, and a list of checks.
//!
//! ```text
//!   tests/tests/contract/*.rs      one test per topic: start three nodes once, run many named checks
//!        │           │        │
//!     cluster      http     checks
//!   processes,   calls and  collects every failure, so that one run
//!   signals      raw bytes  shows all that is wrong, not only the first
//! ```
//!
//! The simulation ([`sim`]) is another matter: it puts the node itself into a simulated world.
//!
//! Nothing else here uses the crates under test: what these tests know is what the contract promises to the
//! outside (a binary, its flags, its sockets), so a refactoring inside can't break them and a mistake
//! inside can't be shared by them. The one assumption about the build is where the binary lies:
//! `CARTWHEEL_BIN`, or `cartwheel` in the profile directory of the running test.

pub mod checks;
pub mod cluster;
pub mod http;
pub mod members;
pub mod raw;
pub mod sim;
