//! What is stored under a key: a causal context and the siblings that it has not superseded.

pub mod content;
pub mod coordinate;
pub mod expiry;
pub mod merge;
pub mod object;
pub mod write;

pub use content::{Content, Meta, Object, Op};
pub use coordinate::{Coordinated, Me, coordinate};
pub use merge::{merge, receive};

use crate::causal::{Context, Dot};

/// One version of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sibling {
    /// The write that made it.
    pub dot: Dot,
    /// What it wrote.
    pub content: Content,
}

/// A copy of a key: everything this copy has seen, and what of it is still there.
///
/// A dot that the clock has and no sibling carries was superseded. That is all there is to deletion, overwriting and
/// merging; what a sibling *means* is the business of `object` and of `cart`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// Every event that this copy has seen or superseded.
    pub clock: Context,
    /// What is left, in the order of the dots.
    pub siblings: Vec<Sibling>,
}

impl Record {
    /// Asserts what must hold of every record of ours, in release too: decoded ones are checked by the decoder.
    pub(crate) fn assert_whole(&self) {
        assert!(
            self.siblings.windows(2).all(|pair| pair[0].dot < pair[1].dot),
            "siblings stand in the order of their dots, each once"
        );
        for sibling in &self.siblings {
            assert!(self.clock.has(&sibling.dot), "the clock has seen {:?}", sibling.dot);
        }
    }

    /// Whether nothing is alive in it: only its clock, or memories of what is gone.
    pub fn is_dead(&self) -> bool {
        self.siblings.iter().all(|s| s.content.is_dead())
    }

    /// About how many bytes its siblings take.
    pub fn bytes(&self) -> usize {
        self.siblings.iter().map(|s| s.content.bytes()).sum()
    }

    /// The sibling with this dot.
    pub fn sibling(&self, dot: &Dot) -> Option<&Sibling> {
        self.siblings.binary_search_by_key(dot, |s| s.dot).ok().map(|at| &self.siblings[at])
    }
}

#[cfg(test)]
mod tests;
