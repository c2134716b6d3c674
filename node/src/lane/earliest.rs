//! When the first value may expire, kept in memory so that nobody has to look on the disk for it.
//!
//! The family `due` is a queue, and what was taken off its head stays on the disk as deletions until they are compacted
//! away. A look that starts at the head steps over all of them: after 50,000 values have expired that is some ten
//! milliseconds, twice a second and for as long as nobody writes. So a look starts where something may stand, and where
//! nothing is due there is none.

use ring::time::Wall;
use std::sync::{Arc, Mutex};

/// When the first value may expire, shared by the lane, which notes more, and by those who wait for it.
pub type Due = Arc<Mutex<Earliest>>;

/// No note on the disk is earlier than this.
#[derive(Debug)]
pub struct Earliest {
    /// As it was found at the last look.
    found: Wall,
    /// Of what the lane has written since that look began.
    noted: Wall,
}

/// Nothing expires.
const NEVER: Wall = Wall(u64::MAX);

impl Default for Earliest {
    /// Of what an earlier start has left behind nothing is known.
    fn default() -> Self {
        Earliest { found: Wall(0), noted: NEVER }
    }
}

impl Earliest {
    /// When the first value may expire; `None` if none does.
    pub fn at(&self) -> Option<Wall> {
        Some(self.found.min(self.noted)).filter(|at| *at < NEVER)
    }

    /// The lane has written a note. To be called after the write: a look that has begun meanwhile may have missed it.
    pub fn note(&mut self, at: Wall) {
        self.noted = self.noted.min(at);
    }

    /// A look begins, if something may be due: from there on. Until it ends what it knew before holds.
    pub fn look(&mut self, now: Wall) -> Option<Wall> {
        let from = self.at().filter(|at| *at <= now)?;
        (self.found, self.noted) = (from, NEVER);
        Some(from)
    }

    /// The look has ended, and this is the first that stands there now.
    pub fn found(&mut self, first: Option<Wall>) {
        self.found = first.unwrap_or(NEVER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_looks_from_the_beginning() {
        let mut earliest = Earliest::default();
        assert_eq!(earliest.look(Wall(5)), Some(Wall(0)));
        assert_eq!(earliest.at(), Some(Wall(0)), "nothing is known before the look has ended");
        earliest.found(None);
        assert_eq!((earliest.at(), earliest.look(Wall(5))), (None, None));
    }

    #[test]
    fn nobody_looks_before_something_is_due() {
        let mut earliest = Earliest::default();
        earliest.found(Some(Wall(100)));
        assert_eq!(earliest.look(Wall(99)), None);
        assert_eq!(earliest.look(Wall(100)), Some(Wall(100)));
    }

    #[test]
    fn what_is_noted_during_a_look_is_not_forgotten_at_its_end() {
        let mut earliest = Earliest::default();
        earliest.note(Wall(70));
        assert_eq!(earliest.look(Wall(80)), Some(Wall(0)));
        earliest.note(Wall(60));
        earliest.found(Some(Wall(100)));
        assert_eq!(earliest.look(Wall(80)), Some(Wall(60)), "it may have come after its place was passed");
        earliest.found(Some(Wall(100)));
        assert_eq!(earliest.at(), Some(Wall(100)), "the look has seen what was noted before it");
    }
}
