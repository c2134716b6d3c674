//! A dot names one write: the actor that took it, and that actor's count on this key.
//!
//! The actor is a replica, never the node that a client happened to talk to: with one actor per replica, clocks stay as
//! short as the preference list. It carries an epoch, and a replica that may have forgotten part of its past writes under
//! a fresh one (see `record::coordinate`). Counters alone, even ones that are never used twice, are not enough: a clock
//! entry `a: n` claims to have seen *all* of a's events up to n.

use crate::ids::NodeId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A replica in one stretch of uninterrupted memory of a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Actor {
    /// The data directory.
    pub node: NodeId,
    /// Raised whenever that directory may have forgotten something of the key.
    pub epoch: u64,
}

/// One write.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dot {
    /// Who took the write.
    pub actor: Actor,
    /// The how-manieth of that actor on this key, from 1.
    pub count: u64,
}

impl fmt::Debug for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}.{}", self.node, self.epoch)
    }
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:{}", self.actor, self.count)
    }
}

impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}:{}", self.actor.node, self.actor.epoch, self.count)
    }
}
