//! How far the log was when a write was last said to be durable, kept beside the database.
//!
//! RocksDB takes a log that ends early for one that was never longer: a log that lost its end (a truncated file, a byte
//! that flipped in the middle, a restored part of a snapshot) opens as if its last acknowledged writes had never been.
//! Sixteen bytes in a file of their own know better: the sequence number of the last synced write, and its complement. They
//! are written after each sync and never synced themselves, which costs about a microsecond: a killed process keeps
//! them, and after a power cut they can only be too low, which accuses nobody.

#![expect(clippy::disallowed_methods, reason = "this is the disk of the real world")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

const NAME: &str = "SYNCED";

/// The file, open for as long as the database is.
pub(super) struct Synced {
    file: File,
}

impl Synced {
    /// Opens or makes it.
    pub(super) fn open(dir: &Path) -> io::Result<Synced> {
        let mut options = OpenOptions::new();
        let file =
            options.read(true).write(true).create(true).truncate(false).mode(0o600).open(dir.join(NAME))?;
        Ok(Synced { file })
    }

    /// The sequence number that it holds; 0 if it holds none, or half of one.
    pub(super) fn read(&self) -> u64 {
        let mut bytes = [0; 16];
        if self.file.read_exact_at(&mut bytes, 0).is_err() {
            return 0;
        }
        let (number, complement) = bytes.split_at(8);
        let number = u64::from_le_bytes(number.try_into().expect("half of sixteen is eight"));
        let complement = u64::from_le_bytes(complement.try_into().expect("half of sixteen is eight"));
        if number == !complement { number } else { 0 }
    }

    /// Notes that everything up to this number is durable. A disk that refuses has its say at the next sync.
    pub(super) fn note(&self, number: u64) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        bytes[8..].copy_from_slice(&(!number).to_le_bytes());
        let _ = self.file.write_all_at(&bytes, 0);
    }
}
