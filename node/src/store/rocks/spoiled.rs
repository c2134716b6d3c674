//! Which families have met a block that the disk has spoiled, kept beside the database.
//!
//! RocksDB reads around nothing: a scan ends at such a block, and the first compaction that comes to it ends all writing, at
//! every start again. What is derived from the records (leaves, dead, due) can be made anew, so those families are dropped as a
//! whole at the next open, if all records can be read, and the start writes them from these. So are hints: a hint only names a copy
//! that is here (`lane/derive.rs`). A text file, because the database may be what is broken.

#![expect(clippy::disallowed_methods, reason = "this is the disk of the real world")]

use super::settings;
use crate::store::{FAMILIES, Family};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const NAME: &str = "SPOILED";

/// Whether nothing is lost with a family that the records don't say as well.
pub(super) fn is_derived(family: Family) -> bool {
    matches!(family, Family::Leaves | Family::Dead | Family::Due | Family::Hints)
}

/// The families that the last process has found spoiled.
pub(super) fn read(dir: &Path) -> io::Result<Vec<Family>> {
    let text = match fs::read(dir.join(NAME)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        text => String::from_utf8_lossy(&text?).into_owned(),
    };
    let names = |family: &Family| text.lines().any(|line| line == settings::name(*family));
    Ok(FAMILIES.into_iter().filter(|family| is_derived(*family) && names(family)).collect())
}

/// Notes one more, for the next open.
pub(super) fn note(dir: &Path, family: Family) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(dir.join(NAME))?;
    writeln!(file, "{}", settings::name(family))?;
    file.sync_all()?;
    File::open(dir)?.sync_all()
}

/// All of them are whole again.
pub(super) fn forget(dir: &Path) -> io::Result<()> {
    match fs::remove_file(dir.join(NAME)) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::open(dir)?.sync_all()
}
