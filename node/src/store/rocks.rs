//! The store on a real disk: one RocksDB, four column families, one log.
//!
//! ```text
//!   DIR/            0700, locked (flock) while a process has it open
//!     CARTWHEEL     text: "format = 2", read before anything else is touched
//!     SYNCED        how far the log was at the last sync (`synced.rs`)
//!     SPOILED       families to be made anew at the next open (`spoiled.rs`); mostly not there
//!     db/           RocksDB: column families records, leaves, hints, meta
//! ```
//!
//! One log for all families makes a batch of record, leaf and hint all or nothing; two databases could not. The lock
//! is ours besides RocksDB's, because RocksDB rotates its info log *before* it looks at its own lock: a second process
//! would have changed the directory that it is then refused.
//!
//! What a failing disk does, tried on a full tmpfs with 11.8:
//! - **No space for the log.** The write fails with `IO error: No space left on device: …`, nothing of the batch is
//!   visible then or after a restart (a torn log tail is cut off at recovery), and RocksDB refuses all writes with that
//!   same error while reads go on. Every five seconds its own file manager looks whether there is room for the largest
//!   write buffer of all families (16 MiB) and then resumes; nothing has to be opened again. So [`StoreError::Full`]
//!   fences nothing: try again later. A restart on a full disk may fail, since recovery writes tables.
//! - **A sync that fails**, for whatever reason, no space included: the kernel may have dropped the dirty pages and
//!   says so once, so a second sync that succeeds proves nothing. That is [`StoreError::Io`], and the fence goes up:
//!   the process must end and read back what the disk has.
//! - **Any other failed write** (also `Resource busy` and the like): what is on disk is unknown, so the same.
//! - **A spoiled block.** A read of a record says so and fences nothing: another copy is fetched. One in a family that follows
//!   from the records, or one that a compaction meets, can't be read around: the fence goes up.

use super::{Batch, Change, FAMILIES, Family, OpenError, Room, Row, Store, StoreError};
use bytes::Bytes;
use rocksdb::{DBWithThreadMode, ReadOptions, SingleThreaded, WriteBatch, WriteOptions};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use synced::Synced;

mod directory;
mod settings;
mod spoiled;
mod synced;

// The set of families is fixed at open, so handles need no lock: `SingleThreaded` means just that, and is `Sync`.
type Db = DBWithThreadMode<SingleThreaded>;

/// What helps where nothing can be read around any more.
const REPLACE: &str = "this disk has spoiled what can't be read around: start with an empty data directory, and let the new node \
                       take this one's place (cartwheel cluster replace)";

/// A data directory that was opened. Clones share it; dropping the last one closes it.
#[derive(Clone)]
pub struct RocksStore {
    inner: Arc<Inner>,
}

struct Inner {
    // Fields drop in this order: the database is closed before the directory is given free.
    db: Db,
    dir: PathBuf,
    fenced: AtomicBool,
    mark: Synced,
    has_lost_writes: bool,
    lacks: Vec<Family>,
    spoiled: Mutex<BTreeSet<Family>>,
    synced: WriteOptions,
    unsynced: WriteOptions,
    _lock: File,
}

impl RocksStore {
    /// Opens a data directory, or makes one where there is nothing yet. What it refuses it leaves untouched.
    pub fn open(dir: &Path) -> Result<RocksStore, OpenError> {
        let lock = directory::claim(dir)?;
        let lacks = spoiled::read(dir).map_err(|error| directory::refused(dir, &error))?;
        if !lacks.is_empty() {
            // Closed again: an open makes the families that are missing.
            let mut db = open_database(dir)?;
            // The leaves are the only list of what a spoiled block of the records held. They are not given up for nothing.
            check_records(&db).map_err(|why| directory::refused(dir, &why))?;
            for family in &lacks {
                db.drop_cf(settings::name(*family))
                    .map_err(|error| directory::refused_by_engine(dir, &error))?;
            }
        }
        let db = open_database(dir)?;
        let mark = Synced::open(dir).map_err(|error| directory::refused(dir, &error))?;
        let (was, is) = (mark.read(), db.latest_sequence_number());
        let has_lost_writes = is < was;
        if has_lost_writes {
            tracing::error!(dir = %dir.display(), was, is, "the log ends before its last synced write: acknowledged writes are missing here");
        }
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        Ok(RocksStore {
            inner: Arc::new(Inner {
                db,
                dir: dir.to_path_buf(),
                fenced: AtomicBool::new(false),
                mark,
                has_lost_writes,
                lacks,
                spoiled: Mutex::default(),
                synced,
                unsynced: WriteOptions::default(),
                _lock: lock,
            }),
        })
    }
}

impl Store for RocksStore {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let found = self.inner.db.get_pinned_cf(self.inner.handle(family), key);
        let found = found.map_err(|error| self.inner.fence_on_spoiled(family, sort(error)))?;
        // A copy, because a pinned slice borrows the database and keeps its block in memory for as long as a slow
        // client takes to read its answer.
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn write(&self, batch: Batch, sync: bool) -> Result<(), StoreError> {
        let inner = &*self.inner;
        inner.check_fence()?;
        if batch.is_empty() && !sync {
            return Ok(());
        }
        let mut out = WriteBatch::default();
        for change in &batch.changes {
            match change {
                Change::Put(family, key, value) => out.put_cf(inner.handle(*family), key, value),
                Change::Delete(family, key) => out.delete_cf(inner.handle(*family), key),
            }
        }
        let options = if sync { &inner.synced } else { &inner.unsynced };
        inner.db.write_opt(out, options).map_err(|error| inner.fence_on_failure(sort(error)))?;
        if sync {
            inner.mark.note(inner.db.latest_sequence_number());
        }
        Ok(())
    }

    fn scan(
        &self,
        family: Family,
        start: &[u8],
        end: Option<&[u8]>,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let mut options = ReadOptions::default();
        if let Some(end) = end {
            options.set_iterate_upper_bound(end);
        }
        // Repair, transfers and listings meet each record once and would push out the hot ones.
        options.fill_cache(family != Family::Records);
        let mut iterator = self.inner.db.raw_iterator_cf_opt(self.inner.handle(family), options);
        let (mut rows, mut bytes) = (Vec::new(), 0);
        iterator.seek(start);
        while let Some((key, value)) = iterator.item() {
            bytes += key.len() + value.len();
            if bytes > bytes_max && !rows.is_empty() {
                break;
            }
            rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            if rows.len() >= rows_max {
                break;
            }
            iterator.next();
        }
        // An iterator that meets a damaged block just ends; only its status tells that from the end of the family.
        iterator.status().map_err(|error| self.inner.fence_on_spoiled(family, sort(error)))?;
        Ok(rows)
    }

    fn estimate_keys(&self, family: Family) -> u64 {
        let found =
            self.inner.db.property_int_value_cf(self.inner.handle(family), "rocksdb.estimate-num-keys");
        found.ok().flatten().unwrap_or(0)
    }

    fn disk_bytes(&self) -> u64 {
        // The directory is flat. Files may vanish while we count; those take no space any more.
        let Ok(files) = fs::read_dir(directory::database(&self.inner.dir)) else { return 0 };
        files.filter_map(|file| file.ok()?.metadata().ok()).map(|meta| meta.len()).sum()
    }

    fn room(&self) -> Option<Room> {
        let told = nix::sys::statvfs::statvfs(&self.inner.dir).ok()?;
        let (block, free, blocks) = (told.fragment_size(), told.blocks_available(), told.blocks());
        Some(Room { free: free.saturating_mul(block), total: blocks.saturating_mul(block) })
    }

    fn has_lost_writes(&self) -> bool {
        self.inner.has_lost_writes
    }

    fn lacks(&self) -> Vec<Family> {
        self.inner.lacks.clone()
    }

    fn is_fenced(&self) -> bool {
        self.inner.fenced.load(Ordering::Acquire)
    }

    fn lacks_nothing(&self) -> Result<(), StoreError> {
        spoiled::forget(&self.inner.dir).map_err(|error| StoreError::Io(error.to_string()))
    }

    fn flush(&self) -> Result<(), StoreError> {
        // The log is what makes things durable. Memory tables stay: replaying 16 MiB at the next start is a matter of
        // milliseconds, and a table file at every restart would only be more to merge. A synced write of nothing syncs
        // all of the log before it; `flush_wal(true)` would as well, but on a full disk it goes past RocksDB's own error
        // state, runs into the half-written log and turns an error that passes into one that stays.
        self.write(Batch::default(), true)
    }
}

impl Inner {
    fn handle(&self, family: Family) -> &rocksdb::ColumnFamily {
        self.db.cf_handle(settings::name(family)).expect("open() named every family")
    }

    fn check_fence(&self) -> Result<(), StoreError> {
        if self.fenced.load(Ordering::Acquire) {
            return Err(StoreError::Io(
                "an earlier write failed; the store takes no more until it is reopened".into(),
            ));
        }
        Ok(())
    }

    /// What to say of a write or a sync that failed. Whatever is not plainly "no space" leaves the disk's state unknown.
    fn fence_on_failure(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Full(_) => error,
            StoreError::Io(text) => {
                self.fenced.store(true, Ordering::Release);
                StoreError::Io(text)
            }
            StoreError::Corrupt(text) => {
                self.fenced.store(true, Ordering::Release);
                match self.family_of(&text).filter(|family| spoiled::is_derived(*family)) {
                    Some(family) => StoreError::Io(format!("{text}; {}", self.is_made_anew(family))),
                    None => StoreError::Io(format!("{text}; {REPLACE}")),
                }
            }
        }
    }

    /// A read has met a spoiled block. Of what follows from the records nothing can be had any more that lies behind it.
    fn fence_on_spoiled(&self, family: Family, error: StoreError) -> StoreError {
        match error {
            StoreError::Corrupt(text) if spoiled::is_derived(family) => {
                self.fenced.store(true, Ordering::Release);
                StoreError::Corrupt(format!("{text}; {}", self.is_made_anew(family)))
            }
            // Who this node is and what it has agreed to stands nowhere else.
            StoreError::Corrupt(text) if family == Family::Meta => {
                StoreError::Corrupt(format!("{text}; {REPLACE}"))
            }
            error => error,
        }
    }

    fn is_made_anew(&self, family: Family) -> String {
        let name = settings::name(family);
        let mut noted = self.spoiled.lock().unwrap_or_else(PoisonError::into_inner);
        let note = if noted.contains(&family) { Ok(()) } else { spoiled::note(&self.dir, family) };
        match note {
            Ok(()) => {
                noted.insert(family);
                format!("the next start makes the family {name} anew")
            }
            Err(error) => {
                format!("and that the family {name} is to be made anew could not be noted: {error}")
            }
        }
    }

    /// The family of the table file that a text of RocksDB's names: `…, in /dir/db/000123.sst offset 0 size 8158 …`.
    fn family_of(&self, text: &str) -> Option<Family> {
        let (stem, _) = text.split_once(".sst")?;
        let number = stem.rsplit('/').next().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))?;
        let files = self.db.live_files().ok()?;
        let file =
            files.into_iter().find(|file| file.name.trim_start_matches('/') == format!("{number}.sst"))?;
        FAMILIES.into_iter().find(|family| settings::name(*family) == file.column_family_name)
    }
}

/// Reads every record's block.
fn check_records(db: &Db) -> Result<(), String> {
    let records = db.cf_handle(settings::name(Family::Records)).expect("open() named every family");
    let mut options = ReadOptions::default();
    options.fill_cache(false);
    let mut iterator = db.raw_iterator_cf_opt(records, options);
    iterator.seek_to_first();
    while iterator.valid() {
        iterator.next();
    }
    iterator
        .status()
        .map_err(|error| format!("{error}, and what follows from the records is spoiled too; {REPLACE}"))
}

fn open_database(dir: &Path) -> Result<Db, OpenError> {
    let (options, families) = settings::tuned();
    Db::open_cf_descriptors(&options, directory::database(dir), families)
        .map_err(|error| directory::refused_by_engine(dir, &error))
}

fn sort(error: rocksdb::Error) -> StoreError {
    sort_text(error.into_string())
}

/// Which of our errors one of RocksDB's is. Its C interface hands over the text alone: `IO error: No space left on
/// device: While appending to file: …: No space left on device`.
fn sort_text(text: String) -> StoreError {
    let in_sync = ["While fdatasync", "While fsync", "While sync"].iter().any(|part| text.contains(part));
    if text.starts_with("Corruption:") {
        StoreError::Corrupt(text)
    } else if text.starts_with("IO error: No space left on device") && !in_sync {
        StoreError::Full(text)
    } else {
        StoreError::Io(text)
    }
}

#[cfg(test)]
pub(super) mod tests;
