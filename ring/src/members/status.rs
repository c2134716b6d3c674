//! A member's status, and how two opinions about it become one.
//!
//! ```text
//!   Joining ──▶ Up ◀──▶ Leaving ──▶ Lost ──▶ Removed
//! ```
//!
//! Each may also be skipped forwards. Lost is a leave of somebody whose last word nobody waits for: its disk is gone, or
//! an operator says so.
//!
//! Each change by an operator or by the node raises a version, so of two opinions the one of the higher version is
//! the later; at the same version, made on two sides of a partition, the one further to the right wins. Removed wins
//! against everything for ever: the data of a removed node have been handed on, and a late word from it must not
//! make it an owner again. Whoever wants back comes with an empty directory and a new id.

use serde::{Deserialize, Serialize};

/// Where a member stands between joining and having gone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Status {
    /// Known to the cluster, owner of nothing.
    Joining,
    /// A member that owns its share, or is about to.
    Up,
    /// Still an owner, until others have taken over what it holds.
    Leaving,
    /// Leaving, without being waited for: what it alone holds is given up, unless it comes back and hands it on.
    Lost,
    /// Gone for ever.
    Removed,
}

impl Status {
    /// Whether a member of this status claims a part of the ring.
    pub fn claims(self) -> bool {
        self == Status::Up
    }

    /// Whether it is on its way out.
    pub fn leaves(self) -> bool {
        matches!(self, Status::Leaving | Status::Lost)
    }

    /// Whether one who stands here may be moved there.
    pub fn may_become(self, next: Status) -> bool {
        use Status::{Joining, Leaving, Lost, Removed, Up};
        let forwards = matches!((self, next), (Joining, Up) | (Up, Leaving) | (Up | Leaving, Lost));
        forwards || (self, next) == (Leaving, Up) || (next == Removed && self != Removed)
    }

    /// The contract's word for it, while the member can be reached.
    pub fn name(self) -> &'static str {
        match self {
            Status::Joining => "joining",
            Status::Up => "up",
            Status::Leaving | Status::Lost => "leaving",
            Status::Removed => "removed",
        }
    }
}

/// Joins two opinions, each a version and a status.
///
/// The version only ever grows, also where Removed wins with the lower one: sums of versions can count changes.
pub(super) fn join(a: (u64, Status), b: (u64, Status)) -> (u64, Status) {
    let (version, status) = a.max(b);
    if a.1 == Status::Removed || b.1 == Status::Removed {
        (version, Status::Removed)
    } else {
        (version, status)
    }
}

#[cfg(test)]
mod tests {
    use super::Status::{Joining, Leaving, Lost, Removed, Up};
    use super::*;

    fn opinions() -> Vec<(u64, Status)> {
        let versions = |version| [Joining, Up, Leaving, Lost, Removed].map(|status| (version, status));
        (1..=3).flat_map(versions).collect()
    }

    #[test]
    fn joining_opinions_is_lawful_over_every_small_value() {
        for a in opinions() {
            assert_eq!(join(a, a), a);
            for b in opinions() {
                assert_eq!(join(a, b), join(b, a));
                for c in opinions() {
                    assert_eq!(join(join(a, b), c), join(a, join(b, c)), "{a:?} {b:?} {c:?}");
                }
            }
        }
    }

    #[test]
    fn the_later_opinion_wins_and_removed_wins_for_ever() {
        assert_eq!(join((2, Leaving), (3, Up)), (3, Up));
        assert_eq!(join((2, Leaving), (2, Up)), (2, Leaving));
        assert_eq!(join((2, Removed), (7, Up)), (7, Removed));
    }

    #[test]
    fn nobody_comes_back_from_removed_or_goes_back_to_joining() {
        for status in [Joining, Up, Leaving, Lost, Removed] {
            assert!(!Removed.may_become(status));
            assert!(!status.may_become(Joining));
        }
        assert!(Leaving.may_become(Up), "a leave can be called off");
        assert!(!Lost.may_become(Up), "a given up member can't come back");
        assert!(!Joining.may_become(Lost) && !Lost.may_become(Leaving));
    }
}
