//! Keys whose record could not be read here, whoever has met it: a read, a hint's delivery, a transfer, the scrub.
//!
//! The scrub comes to each record within hours, and what waits for this one (a hint that somebody relies on, a change that moves
//! it) would wait as long. So they are named to it, and it tries to heal them within a second (`duty/scrub.rs`). A try takes the
//! name off the list, whatever comes of it: many that nobody has another copy of must not keep out those that can be healed, and
//! whoever meets a record again names it again.

use super::Node;
use crate::limits::SUSPECTS_MAX;
use crate::world::World;
use bytes::Bytes;
use ring::ids::ObjectId;
use ring::wire::peer::Refusal;
use ring::wire::record::verify;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Keys whose record is to be looked at soon.
#[derive(Debug, Default)]
pub struct Suspects {
    ids: Mutex<BTreeSet<ObjectId>>,
    healed: AtomicU64,
}

impl Suspects {
    /// Names one. Whether there was room for it.
    pub(crate) fn add(&self, id: &ObjectId) -> bool {
        let mut ids = self.lock();
        ids.contains(id) || (ids.len() < SUSPECTS_MAX && ids.insert(id.clone()))
    }

    /// Takes some of them off, from the first after that one on and round to the first of all.
    pub(crate) fn take(&self, after: Option<&ObjectId>, most: usize) -> Vec<ObjectId> {
        let mut ids = self.lock();
        let behind = |after| ids.range((Bound::Excluded(after), Bound::Unbounded));
        let (rest, first) = (after.map(behind).into_iter().flatten(), ids.iter());
        let until = |id: &&ObjectId| after.is_none_or(|after| *id <= after);
        let taken: Vec<ObjectId> = rest.chain(first.take_while(until)).take(most).cloned().collect();
        for id in &taken {
            ids.remove(id);
        }
        taken
    }

    /// One was healed.
    pub(crate) fn count_healed(&self) {
        self.healed.fetch_add(1, Ordering::Relaxed);
    }

    /// How many were, since the start.
    pub(crate) fn healed(&self) -> u64 {
        self.healed.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<ObjectId>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W: World> Node<W> {
    /// The own copy, if its bytes are whole; else its key is a suspect.
    pub(crate) fn whole(&self, id: &ObjectId) -> Result<Option<Bytes>, Refusal> {
        let bytes = self.look_at(id);
        if bytes.is_err() {
            self.suspects.add(id);
        }
        bytes
    }

    /// The same, for the one who heals it.
    pub(crate) fn look_at(&self, id: &ObjectId) -> Result<Option<Bytes>, Refusal> {
        self.local(id).and_then(|bytes| match bytes.as_ref().map(verify) {
            Some(Err(error)) => Err(Refusal::Unavailable(error.to_string())),
            _ => Ok(bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> ObjectId {
        ObjectId::new(&b"b"[..], format!("{number:04}")).unwrap()
    }

    #[test]
    fn each_has_its_turn_however_often_the_others_are_named_again() {
        let suspects = Suspects::default();
        let (mut last, mut taken) = (None, BTreeSet::new());
        for _ in 0..4 {
            (0..20).for_each(|number| assert!(suspects.add(&id(number))));
            let some = suspects.take(last.as_ref(), 5);
            assert_eq!(some.len(), 5);
            last = some.last().cloned();
            taken.extend(some);
        }
        assert_eq!(taken.len(), 20);
    }

    #[test]
    fn a_full_list_says_so_and_a_try_makes_room() {
        let suspects = Suspects::default();
        (0..SUSPECTS_MAX).for_each(|number| assert!(suspects.add(&id(number))));
        assert!(suspects.add(&id(3)), "it is there");
        assert!(!suspects.add(&id(SUSPECTS_MAX)));
        assert_eq!(suspects.take(None, 64).len(), 64);
        assert!(suspects.add(&id(SUSPECTS_MAX)));
    }
}
