//! A member's status, and how two opinions about it become one.
//!
//! ```text
//!   Joining ──▶ Up ──▶ Leaving ──▶ Lost ──▶ WrittenOff        each may be skipped forwards
//!               ▲         │          │           │
//!               └─────────┴── join ──┴───────────┘           and be called off, until it is
//!                         └──────────┴──▶ Removed
//! ```
//!
//! Lost is a leave of somebody whose last word nobody waits for while it can't be reached: it was away when it was told to
//! go. It still counts among those of whom a change needs most, or a few could declare the many lost. Who is written off does
//! not count either: an operator says by force that it will never come back. No step removes it, because whoever is written
//! off on one side of a broken network may be writing off the other side: it stays listed until somebody lets it leave
//! again, or calls it back. Both are heard if they do come back, and then hand on what they have as any leaver does.
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
    /// Lost, and not counted either: by force, where most are gone for ever.
    WrittenOff,
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
        matches!(self, Status::Leaving | Status::Lost | Status::WrittenOff)
    }

    /// Whether it is removed once others have what it holds.
    pub fn goes(self) -> bool {
        matches!(self, Status::Leaving | Status::Lost)
    }

    /// Whether one who stands here may be moved there.
    pub fn may_become(self, next: Status) -> bool {
        use Status::{Joining, Leaving, Lost, Removed, Up, WrittenOff};
        match next {
            Joining => false,
            Up => self == Joining || self.leaves(),
            Leaving => matches!(self, Joining | Up | WrittenOff),
            Lost => matches!(self, Up | Leaving | WrittenOff),
            WrittenOff => matches!(self, Up | Leaving | Lost),
            Removed => self != Removed,
        }
    }

    /// The contract's word for it, while the member can be reached.
    pub fn name(self) -> &'static str {
        match self {
            Status::Joining => "joining",
            Status::Up => "up",
            Status::Leaving | Status::Lost | Status::WrittenOff => "leaving",
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
    use super::Status::{Joining, Leaving, Lost, Removed, Up, WrittenOff};
    use super::*;

    fn opinions() -> Vec<(u64, Status)> {
        let versions =
            |version| [Joining, Up, Leaving, Lost, WrittenOff, Removed].map(|status| (version, status));
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
        for status in [Joining, Up, Leaving, Lost, WrittenOff, Removed] {
            assert!(!Removed.may_become(status));
            assert!(!status.may_become(Joining));
            assert!(!status.leaves() || status.may_become(Up), "a leave can be called off: {status:?}");
        }
        assert!(!Joining.may_become(Lost) && !Lost.may_become(Leaving));
        assert!(WrittenOff.may_become(Lost) && !WrittenOff.goes(), "it goes only when it is let go again");
    }
}
