//! The handlers.

mod buckets;
mod cart_body;
mod cart_view;
mod carts;
mod cluster;
mod directory;
mod failure;
mod health;
mod metrics_text;
mod reply;

use crate::node::Node;
use crate::world::World;
use ring::time::Time;
use std::time::Duration;

/// What handlers stand on.
pub struct Api<W: World> {
    /// The node.
    pub node: Node<W>,
    /// The largest value.
    pub value_bytes: u64,
    /// How long a request may take that does not say so itself.
    pub timeout: Duration,
    /// When this process began to serve.
    pub started: Time,
}
