//! Where fresh epochs come from: a lease that is durable before any number of it is used.
//!
//! ```text
//!   on disk   lease_hi = 20000          nothing at or above it was ever used
//!   in use    10000 .. 20000  (next = 10007)
//!   restart   next = 20000, raise lease_hi to 30000, sync, go on
//! ```
//!
//! A start skips the rest of the old lease, so an epoch is issued once even when the process dies between use and any
//! later write.
//!
//! Beside the lease stands the `boot` epoch: own actors below it are never used again, because a start since then may have
//! taken copies back in time. It is durable too: a key that nobody has written since is as old after the next clean start
//! as it was before.

/// How many epochs one synced write leases.
pub const LEASE_COUNT: u64 = 10_000;

/// The allocator of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epochs {
    next: u64,
    lease_end: u64,
    boot: u64,
}

impl Epochs {
    /// At a start. `leased` and `boot` are what the disk says of the starts before (0 on a new one). The caller makes
    /// [`Epochs::lease_end`] and [`Epochs::boot`] durable before it uses the value. After a start that `may_have_lost`
    /// data, no actor of an earlier start is ever used again, in later starts neither: any copy may be older than what
    /// others have seen of it.
    pub fn at_start(leased: u64, boot: u64, may_have_lost: bool) -> Self {
        // The boot epoch was issued as little as anything above the lease, should the two rows disagree.
        let next = leased.max(boot).max(1);
        Epochs { next, lease_end: next + LEASE_COUNT, boot: if may_have_lost { next } else { boot } }
    }

    /// No epoch at or above this is ever issued before [`Epochs::renewed`].
    pub fn lease_end(&self) -> u64 {
        self.lease_end
    }

    /// How many epochs are left.
    pub fn left(&self) -> u64 {
        self.lease_end - self.next
    }

    /// The caller has made `lease_end` durable.
    pub fn renewed(&mut self, lease_end: u64) {
        assert!(lease_end >= self.lease_end, "a lease only grows: {lease_end} < {}", self.lease_end);
        self.lease_end = lease_end;
    }

    /// Own actors with an epoch below this must not be used again. The same from start to start until data may be lost.
    pub fn boot(&self) -> u64 {
        self.boot
    }

    /// An epoch that was never issued before.
    pub fn fresh(&mut self) -> u64 {
        assert!(self.next < self.lease_end, "the lane renews the lease before a batch could exhaust it");
        self.next += 1;
        self.next - 1
    }
}

#[cfg(test)]
mod tests;
