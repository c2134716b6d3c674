//! The server of Cartwheel.

pub mod http;
pub mod store;
pub mod world;
