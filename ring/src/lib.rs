//! The protocol of Cartwheel.

pub mod ids;
pub mod time;
