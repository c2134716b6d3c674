//! The server of Cartwheel.

pub mod limits;
pub mod peer;
pub mod real;
pub mod store;
pub mod world;
