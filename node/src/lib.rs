//! The server of Cartwheel.

pub mod config;
pub mod http;
pub mod store;
pub mod world;
