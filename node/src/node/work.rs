//! Whatever may hold a record in memory, and since when: a record that was read from a disk and is sent later may be older
//! than a deletion that all disks hold by then. Before a deletion is forgotten, all work that began earlier must be over.
//!
//! Work is counted from before it reads to after its last answer. A process that stood still has old work when it goes on.

use super::Node;
use crate::world::World;
use ring::time::Time;
use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

/// The work under way: numbers in the order of their beginnings.
#[derive(Debug, Default)]
pub struct Works {
    next: u64,
    begun: BTreeMap<u64, Time>,
}

/// Work under way, until it is dropped.
pub(crate) struct Work<W: World> {
    node: Node<W>,
    number: u64,
}

impl<W: World> Drop for Work<W> {
    fn drop(&mut self) {
        self.node.lock_works().begun.remove(&self.number);
    }
}

impl<W: World> Node<W> {
    fn lock_works(&self) -> MutexGuard<'_, Works> {
        self.works.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something begins that may read a record and send it on.
    pub(crate) fn begin_work(&self) -> Work<W> {
        let mut works = self.lock_works();
        let (number, now) = (works.next, self.now());
        works.next += 1;
        works.begun.insert(number, now);
        drop(works);
        Work { node: self.clone(), number }
    }

    /// For how long the oldest work has gone on.
    pub(crate) fn oldest_work(&self) -> Duration {
        let begun = self.lock_works().begun.first_key_value().map(|(_, begun)| *begun);
        begun.map_or(Duration::ZERO, |begun| self.now() - begun)
    }
}
