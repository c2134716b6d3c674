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
//! Two lives of one directory can have the same lease: one that was put back from a copy, and the one that the copy knows nothing
//! of. So each start begins to count at a place of its own, drawn by chance ([`Epochs::scattered`]), and the two issue different
//! epochs. An own epoch of this lease that this start has not issued is then proof of another life ([`Epochs::is_foreign`]).
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
    /// The highest lease that was taken: this one, or one that only says how far this directory has come.
    taken: u64,
    /// Where in a lease this start begins to count, and its first epoch, if that was drawn by chance.
    offset: u64,
    first: Option<u64>,
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
        let boot = if may_have_lost && !planted::is(Bug::NoBootRule) { next } else { boot };
        Epochs { lease, taken: lease, offset: 0, first: None, next, boot }
    }

    /// The same, beginning to count somewhere in the lower half of each lease.
    pub fn scattered(mut self, chance: u32) -> Self {
        assert!(self.next == first_of(self.lease), "a start is scattered before it issues anything");
        self.offset = u64::from(chance >> 1);
        self.next += self.offset;
        self.first = Some(self.next);
        self
    }

    /// Whether an epoch of this node's was issued by another life of its directory: not by this start, and under its lease or
    /// a later one.
    pub fn is_foreign(&self, epoch: u64) -> bool {
        self.first.is_some_and(|first| epoch >= self.next || (first - self.offset..first).contains(&epoch))
    }

    /// Whether an own actor with this epoch may be used on.
    pub fn may_continue(&self, epoch: u64) -> bool {
        epoch >= self.boot && !self.is_foreign(epoch)
    }

    /// Nobody could say whether this directory has forgotten a start: no actor of an earlier one is used again. The caller
    /// makes [`Epochs::boot`] durable.
    pub fn forsake(&mut self) {
        if !planted::is(Bug::NoBootRule) {
            self.boot = self.boot.max(self.first.unwrap_or(first_of(self.lease)));
        }
    }

    /// The caller has made a lease durable under which nothing is issued for now.
    pub fn raised(&mut self, lease: u64) {
        assert!(lease > self.taken, "leases only grow: {lease} after {}", self.taken);
        self.taken = lease;
    }

    /// The highest lease that was taken.
    pub fn taken(&self) -> u64 {
        self.taken
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
        self.raised(lease);
        self.lease = lease;
        self.next = first_of(lease) + self.offset;
    }

    /// Somebody remembers a start that this directory has forgotten: nothing that was issued so far is used again. The
    /// caller has made the lease durable, and its first epoch as the boot epoch.
    pub fn jump(&mut self, lease: u64) {
        self.renewed(lease);
        self.first = self.first.map(|_| self.next);
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

/// The lease under which an epoch was issued.
pub fn lease_of(epoch: u64) -> u64 {
    epoch >> COUNT_BITS
}

#[cfg(test)]
mod tests;
