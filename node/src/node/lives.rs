//! Which starts were this directory's own.
//!
//! Each start draws a number, its boot id, makes it durable and tells the others of it. Who remembers another one under this node's
//! name remembers another directory: one that is lost, a copy, or what this one was before it was put back from a copy. However often
//! this one has started since, and whoever of them was heard so far, that stays so. The numbers of starts alone would not
//! tell: each life counts its own.
//!
//! A start raises its number while it runs, and the next one of the directory begins beyond all that it has said. So who remembers
//! an own start with a number beyond that remembers it going on in another directory, of which this one is an image.

use crate::limits::{LIVES_MAX, TOLD_LIVES_MAX};
use crate::store::{Batch, Family, Store, StoreError, keys};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Own {
    boot_id: u64,
    /// The number of the next one, which is above all that this one has said; 0 while there is none, or it is not known.
    until: u64,
}

/// The boot ids of a directory's own starts, and up to where others have been answered for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lives {
    own: Vec<Own>,
    /// The number of the start that was noted last.
    last: u64,
    answered: u64,
}

impl Lives {
    /// Those that the disk knows of; `None` where what stands there can't be read.
    pub fn load<S: Store>(store: &S) -> Result<Option<Lives>, StoreError> {
        let noted = store.get(Family::Meta, keys::LIVES)?.map(|bytes| Noted::read(&bytes));
        let answered = store.get(Family::Meta, keys::ANSWERED)?.map(|bytes| bytes.as_ref().try_into());
        let (Ok(noted), Ok(answered)) = (noted.transpose(), answered.transpose()) else { return Ok(None) };
        let Noted(last, boot_ids, untils) = noted.unwrap_or_default();
        let untils = untils.into_iter().chain(std::iter::repeat(0));
        let own = boot_ids.into_iter().zip(untils).map(|(boot_id, until)| Own { boot_id, until }).collect();
        let answered = answered.map(u64::from_be_bytes).unwrap_or_default();
        Ok(Some(Lives { own, last, answered }))
    }

    /// One more begins, the directory's start of this number after that one `before`, of which the others were `told` or not. A
    /// directory that has started before without noting whose start it was, under an earlier version, takes all those for its own.
    pub fn begin(&mut self, boot_id: u64, starts: u64, before: u64, told: bool, batch: &mut Batch) {
        if self.last != before {
            self.answered = starts;
            batch.put(Family::Meta, keys::ANSWERED, Bytes::copy_from_slice(&starts.to_be_bytes()));
        } else if !told {
            // Nobody remembers it: however often a start fails, those that are remembered stay.
            self.own.pop();
        }
        if let Some(previous) = self.own.last_mut().filter(|own| own.until == 0 && self.last == before) {
            previous.until = starts;
        }
        let surplus = (self.own.len() + 1).saturating_sub(LIVES_MAX);
        self.own.drain(..surplus);
        self.own.push(Own { boot_id, until: 0 });
        self.last = starts;
        let (boot_ids, untils) = self.own.iter().map(|own| (own.boot_id, own.until)).unzip();
        batch.put(Family::Meta, keys::LIVES, Noted(self.last, boot_ids, untils).bytes());
    }

    /// The boot ids of the newest of them.
    pub fn boot_ids(&self) -> Vec<u64> {
        self.own.iter().rev().take(TOLD_LIVES_MAX).map(|own| own.boot_id).collect()
    }

    /// The number of the start that was noted last.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Whether a start that others remember was another directory's, and nobody has answered for it yet.
    pub fn are_foreign_to(&self, boot_id: u64, starts: u64) -> bool {
        let is_ours = |own: &Own| own.boot_id == boot_id && (own.until == 0 || starts < own.until);
        starts >= self.answered && !self.own.iter().any(is_ours)
    }

    /// The copies here are compared since, with all that others had under a lower number.
    pub fn answered(&mut self, below: u64) {
        self.answered = self.answered.max(below);
    }
}

/// What stands on the disk: the number of the last start, and for each start its boot id and the number of the next one.
#[derive(Default, Serialize, Deserialize)]
struct Noted(u64, Vec<u64>, Vec<u64>);

impl Noted {
    /// An earlier version noted no numbers of next ones.
    fn read(bytes: &[u8]) -> Result<Noted, postcard::Error> {
        let before =
            |_| postcard::from_bytes(bytes).map(|(last, boot_ids)| Noted(last, boot_ids, Vec::new()));
        postcard::from_bytes(bytes).or_else(before)
    }

    fn bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("numbers are plain data")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::mem::MemDisk;

    fn begin(disk: &MemDisk, boot_id: u64, starts: u64) -> Lives {
        begin_after(disk, boot_id, starts, true)
    }

    fn begin_after(disk: &MemDisk, boot_id: u64, starts: u64, told: bool) -> Lives {
        let store = disk.open().unwrap();
        let (mut lives, mut batch) = (Lives::load(&store).unwrap().unwrap(), Batch::default());
        lives.begin(boot_id, starts, starts - 1, told, &mut batch);
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

    /// An image of a running directory that was put back, and the life that it was taken from, which went on to number 60.
    #[test]
    fn an_own_start_that_went_on_in_another_directory_is_told_from_what_it_was_here() {
        let disk = MemDisk::new();
        begin(&disk, 30, 3);
        let lives = begin_after(&disk, 40, 4, true);
        assert!(!lives.are_foreign_to(30, 3) && lives.are_foreign_to(30, 60));
        assert!(!lives.are_foreign_to(40, 60), "it may go on itself");
        // Start 4 has told nobody, and 5 comes after 61: what start 3 said has ended before 4 all the same.
        let store = disk.open().unwrap();
        let (mut lives, mut batch) = (Lives::load(&store).unwrap().unwrap(), Batch::default());
        lives.begin(70, 62, 4, false, &mut batch);
        store.write(batch, true).unwrap();
        let lives = Lives::load(&store).unwrap().unwrap();
        assert!(lives.are_foreign_to(30, 60) && lives.are_foreign_to(40, 4) && !lives.are_foreign_to(30, 3));
    }

    #[test]
    fn what_an_earlier_version_noted_is_read() {
        let disk = MemDisk::new();
        let (store, mut batch) = (disk.open().unwrap(), Batch::default());
        batch.put(Family::Meta, keys::LIVES, postcard::to_stdvec(&(2_u64, vec![10_u64, 20])).unwrap());
        store.write(batch, true).unwrap();
        drop(store);
        let lives = begin(&disk, 30, 3);
        assert!(!lives.are_foreign_to(10, 9), "how far it came is not known");
        assert!(!lives.are_foreign_to(20, 2) && lives.are_foreign_to(20, 3) && lives.are_foreign_to(40, 3));
        let (last, boot_ids): (u64, Vec<u64>) =
            postcard::from_bytes(&Noted(3, vec![10, 30], vec![3, 0]).bytes()).unwrap();
        assert_eq!((last, boot_ids), (3, vec![10, 30]), "which can read this one's");
    }

    #[test]
    fn a_directory_from_before_starts_were_noted_takes_them_for_its_own() {
        let disk = MemDisk::new();
        let lives = begin(&disk, 50, 5);
        assert!(!lives.are_foreign_to(40, 4) && lives.are_foreign_to(51, 5));
        // Start 6 was one of the version from before, for a while.
        let lives = begin(&disk, 70, 7);
        assert!(!lives.are_foreign_to(60, 6) && lives.are_foreign_to(71, 7));
    }

    #[test]
    fn starts_of_which_nobody_was_told_push_no_other_one_out() {
        let disk = MemDisk::new();
        begin(&disk, 10, 1);
        begin_after(&disk, 20, 2, true);
        for start in 3..3 + 2 * LIVES_MAX as u64 {
            begin_after(&disk, 10 * start, start, start == 3);
        }
        let lives = begin_after(&disk, 7, 3 + 2 * LIVES_MAX as u64, false);
        assert!(!lives.are_foreign_to(10, 1) && !lives.are_foreign_to(20, 2));
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
