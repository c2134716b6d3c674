//! A shim between a node and the C library: syncs that fail or take long, a calendar that is wrong, and the knowledge of what is
//! safe on its disk, so that a power cut can be played in earnest.
//!
//! It is C, because only what is loaded before the C library can stand in front of it; it is built when it is wanted, by the
//! compiler that is there (`cc`). Orders are words in a file that the shim has mapped, so they hold at once and while the node runs.
//! The node's own code knows nothing of it, and it is no part of any build.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

const SOURCE: &str = include_str!("shim.c");
/// As in the source.
const WORDS: u64 = 512;

/// A word of the page of orders.
#[derive(Clone, Copy, Debug)]
enum Word {
    Loaded = 0,
    SyncFails = 1,
    SyncDelay = 2,
    ClockAhead = 3,
    Syncs = 4,
    SyncsFailed = 5,
    SyncsLate = 7,
    WrongTimes = 8,
}

/// The built library.
#[derive(Debug)]
pub(super) struct Library(PathBuf);

/// What one node's disk and calendar are told.
#[derive(Debug)]
pub struct Shim {
    page: File,
    page_path: PathBuf,
    notes: PathBuf,
}

impl Library {
    /// Builds it, in that directory.
    pub(super) fn build(dir: &Path) -> Result<Library> {
        let (source, built) = (dir.join("shim.c"), dir.join("shim.so"));
        fs::write(&source, SOURCE).with_context(|| format!("cannot write {}", source.display()))?;
        let mut command = Command::new("cc");
        command.args(["-O2", "-shared", "-fPIC", "-Wall", "-o"]).arg(&built).arg(&source).arg("-ldl");
        // A Ctrl-C is for the harness, which waits for it.
        let ran = command
            .process_group(0)
            .output()
            .context("no C compiler (`cc`) is here, and the shim is made by it")?;
        ensure!(
            ran.status.success(),
            "the shim could not be built: {}",
            String::from_utf8_lossy(&ran.stderr)
        );
        Ok(Library(built))
    }
}

impl Shim {
    /// A page without orders in that directory.
    pub(super) fn new(home: &Path) -> Result<Shim> {
        let (page_path, notes) = (home.join("orders"), home.join("synced"));
        let page = File::options().read(true).write(true).create(true).truncate(true).open(&page_path);
        let page = page.with_context(|| format!("cannot write {}", page_path.display()))?;
        page.set_len(WORDS * 8)?;
        Ok(Shim { page, page_path, notes })
    }

    /// What a process needs in its environment to have the shim in front of it.
    pub(super) fn environment(&self, library: &Library) -> [(&'static str, PathBuf); 3] {
        [
            ("LD_PRELOAD", library.0.clone()),
            ("CARTWHEEL_SHIM", self.page_path.clone()),
            ("CARTWHEEL_SHIM_NOTES", self.notes.clone()),
        ]
    }

    /// So many syncs fail from now on; `u64::MAX` are all of them.
    pub fn fail_syncs(&self, count: u64) -> Result<()> {
        self.write(Word::SyncFails, count)
    }

    /// Each sync takes so much longer.
    pub fn delay_syncs(&self, by: Duration) -> Result<()> {
        self.write(Word::SyncDelay, u64::try_from(by.as_micros())?)
    }

    /// The calendar is ahead by so many milliseconds, or behind.
    pub fn set_clock_ahead(&self, ms: i64) -> Result<()> {
        self.write(Word::ClockAhead, ms.saturating_mul(1_000_000).cast_unsigned())
    }

    /// Nothing more is ordered.
    pub fn heal(&self) -> Result<()> {
        self.fail_syncs(0)?;
        self.delay_syncs(Duration::ZERO)?;
        self.set_clock_ahead(0)
    }

    /// The process that has it in front of it; whoever relies on its orders asks.
    pub fn loaded_by(&self) -> Result<u64> {
        self.read(Word::Loaded)
    }

    /// Syncs so far, and those of them that failed.
    pub fn syncs(&self) -> Result<(u64, u64)> {
        Ok((self.read(Word::Syncs)?, self.read(Word::SyncsFailed)?))
    }

    /// Syncs so far that took longer by order.
    pub fn syncs_late(&self) -> Result<u64> {
        self.read(Word::SyncsLate)
    }

    /// How often a calendar was read while it was off by order.
    pub fn wrong_times(&self) -> Result<u64> {
        self.read(Word::WrongTimes)
    }

    /// Takes from these files what was never synced, as a power cut does; the process must have ended. How many bytes went.
    pub(super) fn cut_power(&self, data: &Path) -> Result<u64> {
        let notes = fs::read_to_string(&self.notes).context("no sync was noted: is the shim loaded?")?;
        let mut safe: BTreeMap<(u64, u128), u64> = BTreeMap::new();
        for line in notes.lines() {
            // The last line may be torn: it was being written when the process was killed.
            let words: Vec<&str> = line.split(' ').collect();
            let [inode, born, size] = words[..] else { continue };
            let (Ok(inode), Ok(born), Ok(size)) = (inode.parse(), born.parse(), size.parse::<u64>()) else {
                continue;
            };
            // Two syncs at once may be noted in the other order.
            let known = safe.entry((inode, born)).or_default();
            *known = (*known).max(size);
        }
        let (mut gone, mut left) = (0, String::new());
        for path in files(data)? {
            let file = File::options().write(true).open(&path);
            let file = file.with_context(|| format!("cannot open {}", path.display()))?;
            let is = file.metadata()?;
            let born = is.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
            let born = born.map_or(0, |born| born.as_nanos());
            let was = safe.get(&(is.ino(), born)).copied().unwrap_or(0);
            if is.len() > was {
                // What the store tells people of itself is never synced, and no loss.
                let is_told = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("LOG"));
                gone += if is_told { 0 } else { is.len() - was };
                file.set_len(was)?;
            }
            let _ = writeln!(left, "{} {born} {}", is.ino(), is.len().min(was));
        }
        // What is left is all that counts as safe from now on.
        fs::write(&self.notes, left)?;
        Ok(gone)
    }

    fn write(&self, word: Word, value: u64) -> Result<()> {
        Ok(self.page.write_all_at(&value.to_ne_bytes(), word as u64 * 8)?)
    }

    fn read(&self, word: Word) -> Result<u64> {
        let mut bytes = [0; 8];
        self.page.read_exact_at(&mut bytes, word as u64 * 8)?;
        Ok(u64::from_ne_bytes(bytes))
    }
}

/// All regular files below a directory.
pub(super) fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut left) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                left.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that writes, syncs, writes more, and says what time it is.
    fn run(shim: &Shim, library: &Library, script: &str, dir: &Path) -> (bool, String) {
        let mut command = Command::new("python3");
        command.args(["-c", script]).current_dir(dir).envs(shim.environment(library));
        let ran = command.output().unwrap();
        (ran.status.success(), String::from_utf8_lossy(&ran.stdout).trim().to_owned())
    }

    #[test]
    fn orders_reach_a_process_and_a_power_cut_takes_what_was_not_synced() {
        let dir = tempfile::tempdir().unwrap();
        let library = Library::build(dir.path()).unwrap();
        let data = dir.path().join("data");
        fs::create_dir(&data).unwrap();
        let shim = Shim::new(dir.path()).unwrap();
        let write = "import os; f=open('log','ab',0); f.write(b'safe'); os.fdatasync(f.fileno()); f.write(b'gone')\n\
                     g=open('old','ab',0); g.write(b'abc'); os.fsync(g.fileno()); os.rename('old','new')\n\
                     h=open('never','ab',0); h.write(b'x')";
        assert!(run(&shim, &library, write, &data).0);
        assert!(shim.loaded_by().unwrap() > 0);
        assert_eq!(shim.syncs().unwrap(), (2, 0));
        assert_eq!(shim.cut_power(&data).unwrap(), 5);
        let left = |name: &str| fs::read_to_string(data.join(name)).unwrap();
        assert_eq!((left("log"), left("new"), left("never")), ("safe".into(), "abc".into(), String::new()));

        shim.fail_syncs(1).unwrap();
        let sync = "import os; f=open('log','ab',0); os.fdatasync(f.fileno())";
        assert!(!run(&shim, &library, sync, &data).0, "the sync fails");
        assert!(run(&shim, &library, sync, &data).0, "once");
        assert_eq!((shim.syncs().unwrap().1, shim.syncs_late().unwrap()), (1, 0));
        shim.delay_syncs(Duration::from_millis(1)).unwrap();
        assert!(run(&shim, &library, sync, &data).0);
        assert_eq!(shim.syncs_late().unwrap(), 1);

        let now = "import time; print(time.time())";
        let told = |shim: &Shim| run(shim, &library, now, &data).1.parse::<f64>().unwrap();
        let right = told(&shim);
        assert_eq!(shim.wrong_times().unwrap(), 0);
        shim.set_clock_ahead(-3_600_000).unwrap();
        let late = told(&shim);
        assert!((3_500.0..3_601.0).contains(&(right - late)), "{right} {late}");
        assert!(shim.wrong_times().unwrap() > 0);
        shim.heal().unwrap();
        assert!(told(&shim) >= right);
    }
}
