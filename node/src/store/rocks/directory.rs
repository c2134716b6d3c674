//! Whether a directory is ours, and nobody else's at the moment. Decided before the engine sees it.
//!
//! ```text
//!   absent, empty            make it ours: CARTWHEEL.tmp, sync, rename, sync the directory
//!   CARTWHEEL, format 3      ours
//!   CARTWHEEL, format 4…     Newer: refused, untouched
//!   CARTWHEEL, format 1, 2   Unusable: written before any release, by nothing that anybody was given
//!   anything else            Unusable: refused, untouched
//! ```
//!
//! The marker comes first, so a crash at any point leaves either an empty directory or one of ours.

#![expect(clippy::disallowed_methods, reason = "this is the disk of the real world")]

use crate::store::OpenError;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The newest format that this binary writes and reads.
pub(super) const FORMAT: u32 = 4;
const MARKER: &str = "CARTWHEEL";
const MARKER_TMP: &str = "CARTWHEEL.tmp";
/// The marker is some 100 bytes; a longer one isn't ours and need not be read whole.
const MARKER_BYTES_MAX: u64 = 4096;
/// What a directory may hold and still count as empty: our own unfinished marker, and what a fresh ext4 volume has.
const EMPTY: [&str; 2] = [MARKER_TMP, "lost+found"];

/// Where the engine keeps its files.
pub(super) fn database(dir: &Path) -> PathBuf {
    dir.join("db")
}

/// Makes sure that the directory is ours and gives back the lock on it, which holds until it is dropped.
pub(super) fn claim(dir: &Path) -> Result<File, OpenError> {
    let unusable = |error: io::Error| refused(dir, &error);
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unusable)?;
    let lock = lock(dir)?;
    match marker(dir)? {
        Some(text) => check_format(dir, &text)?,
        None => {
            check_empty(dir)?;
            write_marker(dir, &lock).map_err(unusable)?;
        }
    }
    check_whole(dir)?;
    match DirBuilder::new().mode(0o700).create(database(dir)) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(unusable(error)),
        _ => {}
    }
    // Synced at every open: a start that was cut off after the mkdir must not leave it undurable for ever.
    lock.sync_all().map_err(unusable)?;
    Ok(lock)
}

/// What the engine said, in our words.
pub(super) fn refused_by_engine(dir: &Path, error: &rocksdb::Error) -> OpenError {
    let text = error.as_ref();
    // Only reached where the file system knows no flock: the engine's own lock caught it.
    if text.contains("While lock file") || text.contains("lock hold by current process") {
        return OpenError::InUse(dir.display().to_string());
    }
    refused(
        dir,
        &format!(
            "{text}. If this can't be mended, set the directory aside and start with an empty one: a new node, which the others fill"
        ),
    )
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let handle = File::open(dir).map_err(|error| refused(dir, &error))?;
    match handle.try_lock() {
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(dir.display().to_string())),
        // Some network file systems can't lock a directory. The engine's lock on its own file is still to come.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(handle),
    }
}

fn marker(dir: &Path) -> Result<Option<String>, OpenError> {
    let path = dir.join(MARKER);
    match fs::metadata(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refused(dir, &error)),
        Ok(meta) if meta.len() > MARKER_BYTES_MAX => {
            return Err(refused(dir, &"its file CARTWHEEL is too long"));
        }
        Ok(_) => {}
    }
    fs::read_to_string(&path).map(Some).map_err(|error| refused(dir, &error))
}

fn check_format(dir: &Path, text: &str) -> Result<(), OpenError> {
    let mut lines = text.lines().filter_map(|line| line.split_once('='));
    let found =
        lines.find(|(name, _)| name.trim() == "format").and_then(|(_, value)| value.trim().parse().ok());
    match found {
        Some(FORMAT) => Ok(()),
        Some(found) if found > FORMAT => {
            Err(OpenError::Newer { dir: dir.display().to_string(), found, known: FORMAT })
        }
        Some(found @ 1..FORMAT) => {
            let why =
                format!("it is of format {found}, which was never released: start with an empty directory");
            Err(refused(dir, &why))
        }
        _ => Err(refused(dir, &"its file CARTWHEEL names no format that ever was")),
    }
}

fn check_empty(dir: &Path) -> Result<(), OpenError> {
    for entry in fs::read_dir(dir).map_err(|error| refused(dir, &error))? {
        let name = entry.map_err(|error| refused(dir, &error))?.file_name();
        if !EMPTY.iter().any(|harmless| name == *harmless) {
            return Err(refused(
                dir,
                &format!("it is not empty (it holds {name:?}) and not a Cartwheel data directory"),
            ));
        }
    }
    Ok(())
}

/// A database that lost its CURRENT file would be taken for none at all, and its tables be swept away as litter.
fn check_whole(dir: &Path) -> Result<(), OpenError> {
    let database = database(dir);
    if database.join("CURRENT").exists() {
        return Ok(());
    }
    let Ok(files) = fs::read_dir(&database) else { return Ok(()) };
    let data = |path: PathBuf| path.extension().is_some_and(|kind| kind == "sst" || kind == "log");
    if files.filter_map(Result::ok).any(|file| data(file.path())) {
        return Err(refused(dir, &"db/CURRENT is missing, but there is data beside it"));
    }
    Ok(())
}

fn write_marker(dir: &Path, dir_handle: &File) -> io::Result<()> {
    let tmp = dir.join(MARKER_TMP);
    let mut file = File::create(&tmp)?;
    writeln!(
        file,
        "# The data of one Cartwheel node. Copies of it must never run beside it.\nformat = {FORMAT}"
    )?;
    file.sync_all()?;
    fs::rename(&tmp, dir.join(MARKER))?;
    dir_handle.sync_all()?;
    // The directory's own entry must last as well, and those of its parents if we made them. Where we may not open a
    // parent, we did not make anything in it either.
    for parent in dir.canonicalize()?.ancestors().skip(1) {
        let _ = File::open(parent).and_then(|parent| parent.sync_all());
    }
    Ok(())
}

pub(super) fn refused(dir: &Path, why: &dyn ToString) -> OpenError {
    OpenError::Unusable { dir: dir.display().to_string(), why: why.to_string() }
}
