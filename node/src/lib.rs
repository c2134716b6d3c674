//! The server of Cartwheel.

pub mod store;
pub mod world;
