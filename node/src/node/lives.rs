//! Which starts were this directory's own.
//!
//! Each start draws a number, its boot id, makes it durable and tells the others of it. Who remembers another one under this node's
//! name remembers another directory: one that is lost, a copy, or what this one was before it was put back from a copy. However often
//! this one has started since, and whoever of them was heard so far, that stays so. The numbers of starts alone would not
//! tell: each life counts its own.

use crate::limits::LIVES_MAX;
use crate::store::{Batch, Family, Store, StoreError, keys};
use bytes::Bytes;

/// The boot ids of a directory's own starts, and up to where others have been answered for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lives {
    own: Vec<u64>,
    answered: u64,
}

impl Lives {
    /// Those that the disk knows of; `None` where what stands there can't be read.
    pub fn load<S: Store>(store: &S) -> Result<Option<Lives>, StoreError> {
        let own = store.get(Family::Meta, keys::LIVES)?.map(|bytes| postcard::from_bytes(&bytes));
        let answered = store.get(Family::Meta, keys::ANSWERED)?.map(|bytes| bytes.as_ref().try_into());
        let (Ok(own), Ok(answered)) = (own.transpose(), answered.transpose()) else { return Ok(None) };
        let answered = answered.map(u64::from_be_bytes).unwrap_or_default();
        Ok(Some(Lives { own: own.unwrap_or_default(), answered }))
    }

    /// One more begins, the directory's start of this number. A directory that has started before without noting whose it
    /// was takes all those for its own.
    pub fn begin(&mut self, boot_id: u64, starts: u64, batch: &mut Batch) {
        if self.own.is_empty() && starts > 1 && self.answered == 0 {
            self.answered = starts;
            batch.put(Family::Meta, keys::ANSWERED, Bytes::copy_from_slice(&starts.to_be_bytes()));
        }
        // Who is told again of one that was forgotten takes it for another's, and compares copies in vain: nothing worse.
        let surplus = (self.own.len() + 1).saturating_sub(LIVES_MAX);
        self.own.drain(..surplus);
        self.own.push(boot_id);
        let own = postcard::to_stdvec(&self.own).expect("numbers are plain data");
        batch.put(Family::Meta, keys::LIVES, own);
    }

    /// Whether a start that others remember was another directory's, and nobody has answered for it yet.
    pub fn are_foreign_to(&self, boot_id: u64, starts: u64) -> bool {
        starts >= self.answered && !self.own.contains(&boot_id)
    }

    /// The copies here are compared since, with all that others had under a lower number.
    pub fn answered(&mut self, below: u64) {
        self.answered = self.answered.max(below);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::mem::MemDisk;

    fn begin(disk: &MemDisk, boot_id: u64, starts: u64) -> Lives {
        let store = disk.open().unwrap();
        let (mut lives, mut batch) = (Lives::load(&store).unwrap().unwrap(), Batch::default());
        lives.begin(boot_id, starts, &mut batch);
        store.write(batch, true).unwrap();
        assert_eq!(Lives::load(&store).unwrap().as_ref(), Some(&lives));
        lives
    }

    #[test]
    fn own_starts_are_known_after_any_number_of_them() {
        let disk = MemDisk::new();
        for start in 1..10 {
            begin(&disk, 10 * start, start);
        }
        let lives = begin(&disk, 100, 10);
        assert!((1..=10).all(|start| !lives.are_foreign_to(10 * start, start)));
        assert!(lives.are_foreign_to(31, 3), "another directory was start 3 as well");
    }

    #[test]
    fn a_directory_from_before_starts_were_noted_takes_them_for_its_own() {
        let lives = begin(&MemDisk::new(), 50, 5);
        assert!(!lives.are_foreign_to(40, 4) && lives.are_foreign_to(51, 5));
    }

    #[test]
    fn the_list_has_an_end_and_only_the_oldest_is_forgotten() {
        let disk = MemDisk::new();
        let most = LIVES_MAX as u64;
        for start in 1..=most {
            begin(&disk, start, start);
        }
        let lives = begin(&disk, most + 1, most + 1);
        assert!(lives.are_foreign_to(1, 1) && !lives.are_foreign_to(2, 2));
        assert!(!lives.are_foreign_to(most + 1, most + 1));
    }

    #[test]
    fn what_was_answered_for_is_nobodys_any_more() {
        let mut lives = begin(&MemDisk::new(), 10, 1);
        assert!(lives.are_foreign_to(31, 3));
        lives.answered(1027);
        assert!(!lives.are_foreign_to(31, 3) && lives.are_foreign_to(31, 1027));
    }
}
