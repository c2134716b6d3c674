//! What a node does without being asked. Each duty is a loop with one list of causes, and ends with the shutdown signal.

pub mod clock;
mod delivery;
pub mod exchange;
pub mod expiry;
mod gain;
pub mod gossip;
pub mod hints;
pub mod join;
mod parting;
pub mod past;
mod readdress;
pub mod reap;
pub mod room;
pub mod scrub;
pub mod shape;
pub mod sift;
pub mod surplus;
pub mod swim;
pub mod urgent;
