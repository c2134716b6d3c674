//! Where a local cluster lives on disk, and how its paths and logs are shown to a person.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::TempDir;

use crate::limits;

/// The directory of a cluster: ours, and removed with us, or the user's, and kept.
#[derive(Debug)]
pub(super) enum Home {
    Temporary(TempDir),
    Given(PathBuf),
}

impl Home {
    /// The user's directory, made if it is missing, or a new temporary one.
    pub(super) fn open(dir: Option<PathBuf>) -> anyhow::Result<Self> {
        let Some(dir) = dir else {
            return Ok(Self::Temporary(tempfile::Builder::new().prefix("cartwheel-").tempdir()?));
        };
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        // Absolute, so that the command to start a node again works from any directory.
        Ok(Self::Given(dir.canonicalize().with_context(|| format!("cannot open {}", dir.display()))?))
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Temporary(dir) => dir.path(),
            Self::Given(path) => path,
        }
    }
}

/// A word as a shell would read it back.
pub(super) fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// The last lines of a file, in bounded memory however long it is.
pub(super) fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(limits::LOG_TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(limits::LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(limits::LOG_TAIL_LINES)..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_survives_a_path_with_spaces() {
        assert_eq!(shell_word("/a/b.toml"), "/a/b.toml");
        assert_eq!(shell_word("/my dir/it's"), r"'/my dir/it'\''s'");
    }

    #[test]
    fn the_end_of_a_long_log_is_its_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let text: String = (1..=10_000).map(|n| format!("line {n}\n")).collect();
        fs::write(&path, text).unwrap();
        let end = tail(&path).unwrap();
        assert_eq!(end.lines().count(), limits::LOG_TAIL_LINES);
        assert_eq!(end.lines().last(), Some("line 10000"));
    }
}
