//! Where fresh epochs come from: the number of a start, durable before it is used, and a counter below it.
//!
//! ```text
//!   epoch = lease << 32 | count        on disk: the last lease that was taken
//!   restart    lease + 1, synced, go on
//!   exhausted  the same, after four thousand million epochs
//! ```
//!
//! Each start has a range of its own, so an epoch is issued once even when the process dies between use and any later
//! write. The number also says *which* start, and the others are told of it: a directory that was put back from a copy
//! counts its next start like one that was there before, and whoever remembers that one can say so. Then the range
//! jumps ahead of everything that was ever used ([`Epochs::jump`]).
//!
//! Beside the lease stands the `boot` epoch: own actors below it are never used again, because a start since then may have
//! taken copies back in time. It is durable too: a key that nobody has written since is as old after the next clean start
//! as it was before.

use crate::planted::{self, Bug};

/// An epoch's low bits, in which one lease counts.
const COUNT_BITS: u32 = 32;

/// How far a jump goes beyond what others remember: leases that an exhausted one took are not told to anybody.
pub const JUMP: u64 = 1 << 10;

/// The greatest lease that can be taken: the counts of its epochs still fit.
pub const LEASE_MAX: u64 = (1 << (64 - COUNT_BITS)) - 2;

/// The allocator of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epochs {
    lease: u64,
    /// The next epoch, within the lease or at its end.
    next: u64,
    boot: u64,
}

impl Epochs {
    /// At a start, under a lease above all that were ever taken. `boot` is what the disk says of the starts before (0 on
    /// a new one). The caller makes the lease and [`Epochs::boot`] durable before it uses the value. After a start that
    /// `may_have_lost` data, no actor of an earlier start is ever used again, in later starts neither: any copy may be
    /// older than what others have seen of it.
    pub fn at_start(lease: u64, boot: u64, may_have_lost: bool) -> Self {
        let next = first_of(lease);
        Epochs { lease, next, boot: if may_have_lost && !planted::is(Bug::NoBootRule) { next } else { boot } }
    }

    /// The lease in use.
    pub fn lease(&self) -> u64 {
        self.lease
    }

    /// How many epochs are left.
    pub fn left(&self) -> u64 {
        first_of(self.lease) + (1 << COUNT_BITS) - self.next
    }

    /// The caller has made the next lease durable.
    pub fn renewed(&mut self, lease: u64) {
        assert!(lease > self.lease, "leases only grow: {lease} after {}", self.lease);
        self.lease = lease;
        self.next = first_of(lease);
    }

    /// Somebody remembers a start that this directory has forgotten: nothing that was issued so far is used again. The
    /// caller has made the lease durable, and its first epoch as the boot epoch.
    pub fn jump(&mut self, lease: u64) {
        self.renewed(lease);
        if !planted::is(Bug::NoBootRule) {
            self.boot = self.next;
        }
    }

    /// Own actors with an epoch below this must not be used again. The same from start to start until data may be lost.
    pub fn boot(&self) -> u64 {
        self.boot
    }

    /// An epoch that was never issued before.
    pub fn fresh(&mut self) -> u64 {
        assert!(self.left() > 0, "the lane renews the lease before a batch could exhaust it");
        self.next += 1;
        self.next - 1
    }
}

/// The first epoch of a lease.
pub fn first_of(lease: u64) -> u64 {
    assert!((1..=LEASE_MAX).contains(&lease), "leases are numbered from 1 to 2^32 - 2, not {lease}");
    lease << COUNT_BITS
}

#[cfg(test)]
mod tests;
