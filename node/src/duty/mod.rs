//! What a node does without being asked. Each duty is a loop with one list of causes, ends with the shutdown signal, and
//! shows what it does in the metrics.

pub mod gossip;
pub mod hints;
