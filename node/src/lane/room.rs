//! What a disk that is nearly full still takes: deletions, and what makes room.

use super::core::Core;
use crate::store::Store;
use ring::wire::peer::Refusal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the disk is nearly full; kept up by `duty/room.rs`.
pub type Crowded = Arc<AtomicBool>;

impl<S: Store> Core<S> {
    /// Refuses what takes room where there is hardly any. A deletion takes little, and is how room is made.
    pub(super) fn has_room(&self, removes: bool) -> Result<(), Refusal> {
        match removes || !self.crowded.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(Refusal::DiskFull),
        }
    }
}
