//! The protocol of Cartwheel.

pub mod bucket;
pub mod ids;
pub mod members;
pub mod place;
pub mod time;
