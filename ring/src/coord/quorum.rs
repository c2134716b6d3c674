//! Quorum arithmetic, validated once; and what a failed write leaves behind.

use serde::{Deserialize, Serialize};

/// What a write needs before it is acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WriteQuorum {
    /// Replicas in all, owners or fallbacks.
    pub w: usize,
    /// Of them owners.
    pub pw: usize,
    /// Of them durable on disk.
    pub dw: usize,
    /// Whether fallbacks count.
    pub sloppy: bool,
}

/// What a read needs before it is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReadQuorum {
    /// Replicas in all.
    pub r: usize,
    /// Of them owners.
    pub pr: usize,
    /// Whether fallbacks are asked.
    pub sloppy: bool,
}

/// What a request that failed did to the data.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// Surely nothing.
    NotApplied,
    /// It may be on some replica and show up later.
    Indeterminate,
    /// It was done.
    Applied,
}

/// What has come in so far, counted once for each disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Replicas that answered yes.
    pub all: usize,
    /// Of them owners.
    pub owners: usize,
    /// Of them durable.
    pub durable: usize,
}

impl Tally {
    /// Whether it is enough.
    pub fn reaches(&self, quorum: &WriteQuorum) -> bool {
        self.all >= quorum.w && self.owners >= quorum.pw && self.durable >= quorum.dw
    }
}
