//! The server of Cartwheel: everything that waits.
//!
//! | room | what |
//! | --- | --- |
//! | [`world`], [`real`] | network, clock, entropy, disk, as one type parameter |
//! | [`store`], [`lane`] | ordered bytes on a disk; their only writer |
//! | [`peer`] | frames between nodes |
//! | [`cluster`], [`node`], [`duty`] | the view; requests and answers; what is done unasked |
//! | [`http`] | the outside |
//! | [`limits`] | every bound, with its arithmetic |

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests stand outside the world that the node lives in")
)]

#[cfg(test)]
mod bench;
pub mod boot;
pub mod cluster;
pub mod config;
pub mod duty;
pub mod http;
pub mod lane;
pub mod limits;
pub mod node;
pub mod peer;
pub mod real;
pub mod serve;
pub mod store;
pub mod world;
