//! Keys whose record could not be read here, whoever has met it: a read, a hint's delivery, a transfer, the scrub.
//!
//! The scrub comes to each record within hours, and what waits for this one (a hint that somebody relies on, a change that moves it) would wait as
//! long. So they are named to it, and it looks at them within a second (`duty/scrub.rs`). The list is in memory only: after a
//! restart whoever meets the record names it again.

use super::Node;
use crate::limits::SUSPECTS_MAX;
use crate::world::World;
use bytes::Bytes;
use ring::ids::ObjectId;
use ring::wire::peer::Refusal;
use ring::wire::record::verify;
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Keys whose record is to be looked at soon.
#[derive(Debug, Default)]
pub struct Suspects(Mutex<BTreeSet<ObjectId>>);

impl Suspects {
    /// Names one. Where there are very many the scrub's own round finds the rest.
    pub(crate) fn add(&self, id: &ObjectId) {
        let mut ids = self.lock();
        if ids.len() < SUSPECTS_MAX {
            ids.insert(id.clone());
        }
    }

    /// Some of them, from the first after that one on.
    pub(crate) fn some(&self, after: Option<&ObjectId>, most: usize) -> Vec<ObjectId> {
        let ids = self.lock();
        ids.iter().filter(|id| after.is_none_or(|after| *id > after)).take(most).cloned().collect()
    }

    /// Its record is whole, or there is none any more.
    pub(crate) fn clear(&self, id: &ObjectId) -> bool {
        self.lock().remove(id)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<ObjectId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W: World> Node<W> {
    /// The own copy, if its bytes are whole.
    pub(crate) fn whole(&self, id: &ObjectId) -> Result<Option<Bytes>, Refusal> {
        let bytes = self.local(id).and_then(|bytes| match bytes.as_ref().map(verify) {
            Some(Err(error)) => Err(Refusal::Unavailable(error.to_string())),
            _ => Ok(bytes),
        });
        if bytes.is_err() {
            self.suspects.add(id);
        }
        bytes
    }
}
