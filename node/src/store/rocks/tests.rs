//! What only a real disk and a real process can show: a SIGKILL, a second process, foreign and damaged directories.
//!
//! The killed process is this test binary once more, told by [`CHILD`] to play the part of a node.

use super::*;
use crate::store::FAMILIES;
use crate::store::conformance::{Rig, get, put};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

pub(in crate::store) struct RocksRig(TempDir);

impl Rig for RocksRig {
    type Store = RocksStore;
    fn new() -> Self {
        RocksRig(tempfile::tempdir().expect("there is a temporary directory"))
    }
    fn open(&self) -> Result<RocksStore, OpenError> {
        RocksStore::open(&self.0.path().join("data"))
    }
}

const CHILD: &str = "CARTWHEEL_TEST_CHILD_DIR";
const KEY: &[u8] = b"key";

fn batch(key: &[u8], value: &[u8]) -> Batch {
    let mut batch = Batch::default();
    batch.put(Family::Records, key, value.to_vec());
    batch
}

/// Every file below a directory with its bytes.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("it is there") {
        let path = entry.expect("it is readable").path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).expect("it is readable"));
        }
    }
    found
}

fn refused_untouched(dir: &Path) -> OpenError {
    let before = contents(dir);
    let error = RocksStore::open(dir).err().expect("it is refused");
    assert_eq!(contents(dir), before, "the refused directory is as it was");
    error
}

#[test]
fn a_new_directory_is_private_and_says_what_it_is() {
    let parent = tempfile::tempdir().expect("there is a temporary directory");
    let dir = parent.path().join("deep/data");
    drop(RocksStore::open(&dir).expect("nothing is in the way"));
    assert_eq!(fs::metadata(&dir).expect("it was made").permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(dir.join("db")).expect("it was made").permissions().mode() & 0o777, 0o700);
    assert_eq!(
        fs::read_to_string(dir.join("CARTWHEEL")).expect("it was made"),
        "# The data of one Cartwheel node. Copies of it must never run beside it.\nformat = 4\n"
    );
}

#[test]
fn a_start_that_was_cut_off_is_no_obstacle() {
    let parent = tempfile::tempdir().expect("there is a temporary directory");
    let dir = parent.path();
    fs::write(dir.join("CARTWHEEL.tmp"), "# The da").expect("the disk is well");
    fs::create_dir(dir.join("lost+found")).expect("the disk is well");
    put(&RocksStore::open(dir).expect("it counts as empty"), Family::Meta, KEY, b"1");
    assert!(!dir.join("CARTWHEEL.tmp").exists());
    let store = RocksStore::open(dir).expect("it is ours now");
    assert_eq!(get(&store, Family::Meta, KEY).as_deref(), Some(&b"1"[..]));
}

#[test]
fn a_newer_format_is_refused_untouched() {
    let rig = RocksRig::new();
    put(&rig.open().expect("nothing is in the way"), Family::Meta, KEY, b"1");
    let dir = rig.0.path().join("data");
    fs::write(dir.join("CARTWHEEL"), "format = 7\n").expect("the disk is well");
    assert!(matches!(refused_untouched(&dir), OpenError::Newer { found: 7, known: 4, .. }));
    for nonsense in [
        "",
        "format = x\n",
        "format = 0\n",
        "format = 1\n",
        "format = 2\n",
        "format = 3\n",
        "\u{0}\u{0}\u{0}",
        "another file\n",
    ] {
        fs::write(dir.join("CARTWHEEL"), nonsense).expect("the disk is well");
        assert!(matches!(refused_untouched(&dir), OpenError::Unusable { .. }), "{nonsense:?} is no marker");
    }
    fs::write(dir.join("CARTWHEEL"), vec![b'\n'; 1 << 20]).expect("the disk is well");
    assert!(matches!(refused_untouched(&dir), OpenError::Unusable { .. }));
    fs::write(dir.join("CARTWHEEL"), "format=4").expect("the disk is well");
    assert_eq!(get(&rig.open().expect("it is ours"), Family::Meta, KEY).as_deref(), Some(&b"1"[..]));
}

#[test]
fn a_foreign_directory_is_refused_untouched() {
    let foreign = tempfile::tempdir().expect("there is a temporary directory");
    fs::write(foreign.path().join("thesis.tex"), "years of work").expect("the disk is well");
    let error = refused_untouched(foreign.path());
    assert!(matches!(&error, OpenError::Unusable { why, .. } if why.contains("thesis.tex")), "{error}");
    let error = RocksStore::open(&foreign.path().join("thesis.tex")).err().expect("a file is no directory");
    assert!(matches!(error, OpenError::Unusable { .. }));
    assert_eq!(contents(foreign.path()).len(), 1);
}

#[test]
fn a_database_without_its_root_is_refused_and_not_swept_away() {
    let rig = RocksRig::new();
    put(&rig.open().expect("nothing is in the way"), Family::Meta, KEY, b"1");
    let dir = rig.0.path().join("data");
    fs::remove_file(dir.join("db/CURRENT")).expect("it is there");
    assert!(matches!(refused_untouched(&dir), OpenError::Unusable { .. }));
}

#[test]
fn damaged_bytes_are_corrupt_and_not_an_answer() {
    let rig = RocksRig::new();
    let store = rig.open().expect("nothing is in the way");
    put(&store, Family::Records, KEY, &[b'x'; 1000]);
    drop(store);
    // The second open has replayed the log into a table file.
    drop(rig.open().expect("it was closed"));
    let database = rig.0.path().join("data/db");
    let tables = contents(&database)
        .into_iter()
        .filter(|(path, _)| path.extension().is_some_and(|kind| kind == "sst"));
    for (path, mut bytes) in tables {
        bytes[10] ^= 0x40;
        fs::write(path, bytes).expect("the disk is well");
    }
    let store = rig.open().expect("a damaged block is found when it is read");
    assert!(matches!(store.get(Family::Records, KEY), Err(StoreError::Corrupt(_))));
    assert!(matches!(store.scan(Family::Records, b"", None, 9, 9_999), Err(StoreError::Corrupt(_))));
}

#[test]
fn a_torn_log_tail_costs_the_torn_batch_and_no_other() {
    let rig = RocksRig::new();
    let store = rig.open().expect("nothing is in the way");
    put(&store, Family::Records, b"a", &[1; 500]);
    put(&store, Family::Records, b"b", &[2; 500]);
    drop(store);
    let log = contents(&rig.0.path().join("data/db"))
        .into_keys()
        .filter(|path| path.extension().is_some_and(|kind| kind == "log"));
    let log = log.max().expect("there is a log");
    let file = fs::OpenOptions::new().write(true).open(log).expect("it is ours");
    let len = file.metadata().expect("it is ours").len();
    file.set_len(len - 100).expect("the disk is well");
    let store = rig.open().expect("a torn tail is what every crash may leave");
    assert_eq!(get(&store, Family::Records, b"a"), Some(vec![1; 500]));
    assert_eq!(get(&store, Family::Records, b"b"), None);
}

/// The newest log file.
fn log_of(rig: &RocksRig) -> PathBuf {
    let logs = contents(&rig.0.path().join("data/db"))
        .into_iter()
        .filter(|(path, bytes)| path.extension().is_some_and(|kind| kind == "log") && !bytes.is_empty());
    logs.max().expect("there is a log").0
}

#[test]
fn a_log_that_lost_its_end_is_found_out() {
    for cut in [1, 7, 100, 600, 4096] {
        let rig = RocksRig::new();
        let store = rig.open().expect("nothing is in the way");
        assert!(!store.has_lost_writes());
        for n in 0..20_u8 {
            put(&store, Family::Records, &[n], &[n; 500]);
        }
        drop(store);
        let file = fs::OpenOptions::new().write(true).open(log_of(&rig)).expect("it is ours");
        let len = file.metadata().expect("it is ours").len();
        file.set_len(len.saturating_sub(cut)).expect("the disk is well");
        assert!(rig.open().expect("the rest is fine").has_lost_writes(), "{cut} bytes fewer");
    }
}

#[test]
fn a_log_that_is_damaged_in_the_middle_is_found_out() {
    let rig = RocksRig::new();
    let store = rig.open().expect("nothing is in the way");
    for n in 0..20_u8 {
        put(&store, Family::Records, &[n], &[n; 500]);
    }
    drop(store);
    let log = log_of(&rig);
    let mut bytes = fs::read(&log).expect("it is ours");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&log, bytes).expect("the disk is well");
    // Refused, or opened without what follows the damage and known to lack it: never taken for whole.
    if let Ok(store) = rig.open() {
        assert!(store.has_lost_writes());
        assert_eq!(get(&store, Family::Records, &[0]), Some(vec![0; 500]));
    }
}

#[test]
fn a_killed_or_closed_store_has_lost_nothing() {
    let rig = RocksRig::new();
    for n in 0..5_u8 {
        let store = rig.open().expect("it was closed");
        assert!(!store.has_lost_writes(), "open {n}");
        put(&store, Family::Records, &[n], b"v");
        store.write(batch(b"loose", &[n]), false).expect("the disk is well");
        store.flush().expect("the disk is well");
    }
}

#[test]
fn an_error_is_sorted_by_what_is_left_to_do() {
    let sort = |text: &str| sort_text(text.to_owned());
    let full = "IO error: No space left on device: While appending to file: /d/db/000004.log: No space left on device";
    assert!(matches!(sort(full), StoreError::Full(text) if text == full));
    let sync =
        "IO error: No space left on device: While fdatasync: /d/db/000004.log: No space left on device";
    assert!(matches!(sort(sync), StoreError::Io(_)), "a sync that failed says nothing about what is on disk");
    assert!(matches!(sort("IO error: While appending to file: /d: Input/output error"), StoreError::Io(_)));
    assert!(matches!(sort("Corruption: block checksum mismatch"), StoreError::Corrupt(_)));
    assert!(matches!(sort("Resource busy: "), StoreError::Io(_)));
    assert!(matches!(sort(""), StoreError::Io(_)));
}

#[test]
fn behind_the_fence_reads_go_on_and_writes_do_not() {
    let rig = RocksRig::new();
    let store = rig.open().expect("nothing is in the way");
    put(&store, Family::Records, KEY, b"1");
    let error = store.inner.fence_on_failure(StoreError::Full("log".into()));
    assert!(matches!(error, StoreError::Full(_)));
    put(&store, Family::Records, KEY, b"2");
    let error = store.inner.fence_on_failure(StoreError::Corrupt("log".into()));
    assert!(matches!(error, StoreError::Io(_)), "a write that fails so leaves an unknown state");
    assert!(matches!(store.write(batch(KEY, b"3"), false), Err(StoreError::Io(_))));
    assert!(matches!(store.write(Batch::default(), true), Err(StoreError::Io(_))));
    assert!(matches!(store.flush(), Err(StoreError::Io(_))));
    assert_eq!(get(&store, Family::Records, KEY).as_deref(), Some(&b"2"[..]));
    drop(store);
    put(&rig.open().expect("it was closed"), Family::Records, KEY, b"4");
}

/// The part that the child plays: it writes for ever and says what is durable. Run by itself it has nothing to play.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let mut out = std::io::stdout().lock();
    let store = match RocksStore::open(Path::new(&dir)) {
        Ok(store) => store,
        Err(error) => return writeln!(out, "error {error:?}").expect("the parent listens"),
    };
    let found = store.scan(Family::Meta, b"", None, usize::MAX, usize::MAX).expect("the disk is well").len();
    for at in found as u64.. {
        let mut batch = Batch::default();
        for family in FAMILIES {
            batch.put(family, at.to_be_bytes(), vec![at as u8; 2_000]);
        }
        store.write(batch, true).expect("the disk is well");
        writeln!(out, "durable {at}").expect("the parent listens");
    }
}

fn start_child(dir: &Path) -> (Child, impl Iterator<Item = String> + use<>) {
    let mut child = Command::new(std::env::current_exe().expect("this test runs from a file"))
        .args(["--exact", "store::rocks::tests::child", "--nocapture"])
        .env(CHILD, dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a test binary can be started");
    let out = BufReader::new(child.stdout.take().expect("it is piped"));
    // The test harness prints lines of its own, one of them without an end.
    let lines = out.lines().map_while(Result::ok).filter_map(|line| {
        ["durable ", "error "].iter().find_map(|word| line.find(word)).map(|at| line[at..].to_owned())
    });
    (child, lines)
}

#[test]
fn a_killed_process_loses_nothing_that_it_acknowledged() {
    let parent = tempfile::tempdir().expect("there is a temporary directory");
    let dir = parent.path().join("data");
    for (round, lines_before_the_kill) in [1, 30, 400].into_iter().enumerate() {
        let (mut child, mut lines) = start_child(&dir);
        let first = lines.by_ref().take(lines_before_the_kill).last().expect("the child writes");
        child.kill().expect("it runs");
        // What it had said and we had not read yet counts as well.
        let last = lines.last().unwrap_or(first);
        child.wait().expect("it was killed");
        let durable: u64 = last.strip_prefix("durable ").expect("it wrote").parse().expect("it counts");

        let store = RocksStore::open(&dir).expect("its process is gone");
        for family in FAMILIES {
            let rows = store.scan(family, b"", None, usize::MAX, usize::MAX).expect("the disk is well");
            for (at, (key, value)) in rows.iter().enumerate() {
                assert_eq!(key[..], (at as u64).to_be_bytes(), "there is no hole in round {round}");
                assert_eq!(value[..], [at as u8; 2_000]);
            }
            assert!(rows.len() as u64 > durable, "{} rows of {family:?} hold number {durable}", rows.len());
        }
    }
}

#[test]
fn a_second_process_is_refused_untouched() {
    let parent = tempfile::tempdir().expect("there is a temporary directory");
    let dir = parent.path().join("data");
    let store = RocksStore::open(&dir).expect("nothing is in the way");
    put(&store, Family::Meta, KEY, b"1");
    let before = contents(&dir);
    let (mut child, mut lines) = start_child(&dir);
    let said = lines.next().expect("the child says why");
    child.wait().expect("it ended");
    assert!(said.starts_with("error InUse"), "{said}");
    assert_eq!(contents(&dir), before, "the second process changed nothing");
    put(&store, Family::Meta, KEY, b"2");
}

/// 100,000 bytes that no compression makes less.
fn noise(seed: u32) -> Vec<u8> {
    use rand::{RngExt, SeedableRng};
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed.into());
    (0..100_000).map(|_| rng.random()).collect()
}

/// A file system of 60 MiB, gone with its guard. Only the superuser may mount one, as CI does.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<SmallDisk> {
        let at = tempfile::tempdir().expect("there is a temporary directory");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=60m", "none"]).arg(at.path()).status();
        mount.is_ok_and(|status| status.success()).then_some(SmallDisk(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "what was not tested is said aloud")]
fn a_full_disk_refuses_writes_and_takes_them_again_once_there_is_room() {
    let Some(mounted) = SmallDisk::mount() else {
        return eprintln!("NOT TESTED: a full disk, for want of the right to mount one");
    };
    let disk = mounted.0.path();
    let (dir, ballast) = (disk.join("data"), disk.join("ballast"));
    let store = RocksStore::open(&dir).expect("nothing is in the way");
    fs::write(&ballast, vec![0; 24 << 20]).expect("there is room yet");
    let mut written = 0u32;
    let error = loop {
        match store.write(batch(&written.to_be_bytes(), &noise(written)), true) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1_000, "the disk fills up");
    };
    assert!(matches!(error, StoreError::Full(_)), "{error}");
    assert!(matches!(store.flush(), Err(StoreError::Full(_))), "and asking for a sync makes it no worse");
    assert!(matches!(store.write(batch(b"again", &noise(0)), true), Err(StoreError::Full(_))));
    assert_eq!(get(&store, Family::Records, &(written - 1).to_be_bytes()), Some(noise(written - 1)));
    assert_eq!(get(&store, Family::Records, &written.to_be_bytes()), None);
    fs::remove_file(&ballast).expect("it is there");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while let Err(error) = store.write(batch(b"again", &noise(0)), true) {
        assert!(matches!(error, StoreError::Full(_)), "{error}");
        assert!(std::time::Instant::now() < deadline, "RocksDB looks for room every five seconds");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    drop(store);
    let store = RocksStore::open(&dir).expect("it was closed");
    assert_eq!(
        store.scan(Family::Records, b"", None, 9_999, 1 << 30).expect("the disk is well").len(),
        written as usize + 1
    );
}

/// Spoils the table files of one family: each names it among its properties, the value right behind the name.
fn spoil(dir: &Path, family: Family) -> usize {
    let (mut spoiled, property) = (0, format!("name{}", settings::name(family)));
    for (path, mut bytes) in contents(&dir.join("db")) {
        let is_its = bytes.windows(property.len()).any(|part| part == property.as_bytes());
        if is_its && path.extension().is_some_and(|kind| kind == "sst") {
            // The first block begins the file, and holds rows.
            bytes[20] ^= 0x40;
            fs::write(path, bytes).expect("it is writable");
            spoiled += 1;
        }
    }
    spoiled
}

fn rows(store: &RocksStore, family: Family) -> Result<usize, StoreError> {
    store.scan(family, b"", None, usize::MAX, usize::MAX).map(|rows| rows.len())
}

/// What follows from the records is empty after the next open, until somebody says that it was written again.
#[test]
fn a_derived_family_with_a_spoiled_block_is_dropped_at_the_next_open() {
    let rig = RocksRig::new();
    let dir = rig.0.path().join("data");
    let store = rig.open().expect("it is new");
    for number in 0..100_u8 {
        let mut batch = batch(&[number], &[number; 100]);
        batch.put(Family::Leaves, [number], vec![number; 16]);
        store.write(batch, true).expect("the disk is whole");
    }
    store.inner.db.flush_cf(store.inner.handle(Family::Leaves)).expect("the disk is whole");
    drop(store);
    assert!(spoil(&dir, Family::Leaves) > 0, "no table file of the leaves was found");
    let store = rig.open().expect("nothing is noticed yet");
    assert_eq!(store.lacks(), []);
    let error = rows(&store, Family::Leaves).expect_err("its block is spoiled");
    assert!(
        matches!(&error, StoreError::Corrupt(why) if why.contains("makes the family leaves anew")),
        "{error}"
    );
    assert_eq!(rows(&store, Family::Records).expect("they are whole"), 100);
    assert!(matches!(store.write(batch(b"more", b""), false), Err(StoreError::Io(_))), "it goes on");
    drop(store);
    for _until_it_is_done in 0..2 {
        let store = rig.open().expect("it drops the family");
        assert_eq!(store.lacks(), [Family::Leaves]);
        assert_eq!(rows(&store, Family::Leaves).expect("it is empty"), 0);
        assert_eq!(rows(&store, Family::Records).expect("they are whole"), 100);
    }
    let store = rig.open().expect("it drops the family");
    let mut again = Batch::default();
    again.put(Family::Leaves, [7], vec![7; 16]);
    store.write(again, true).expect("the disk is whole");
    store.lacks_nothing().expect("the disk is whole");
    drop(store);
    let store = rig.open().expect("it is whole");
    assert_eq!((store.lacks(), rows(&store, Family::Leaves).expect("they are whole")), (vec![], 1));
}

/// A compaction that meets a spoiled block ends all writing, and the error says what is to be done.
#[test]
fn a_compaction_that_meets_a_spoiled_block_says_what_helps() {
    for (family, help) in [(Family::Records, "cluster replace"), (Family::Leaves, "the family leaves anew")] {
        let rig = RocksRig::new();
        let store = rig.open().expect("it is new");
        let mut batch = Batch::default();
        (0..100_u8).for_each(|number| batch.put(family, [number], vec![number; 100]));
        store.write(batch, true).expect("the disk is whole");
        store.inner.db.flush_cf(store.inner.handle(family)).expect("the disk is whole");
        drop(store);
        assert!(spoil(&rig.0.path().join("data"), family) > 0);
        let store = rig.open().expect("nothing is noticed yet");
        let text = format!("Corruption: block checksum mismatch: stored = 1, computed = 2 in {}", {
            let files = store.inner.db.live_files().expect("there is one");
            format!("/d/db/{} offset 0 size 90", files[0].name.trim_start_matches('/'))
        });
        let error = store.inner.fence_on_failure(StoreError::Corrupt(text));
        assert!(matches!(&error, StoreError::Io(why) if why.contains(help)), "{error}");
        assert!(matches!(store.write(Batch::default(), true), Err(StoreError::Io(_))), "it goes on");
    }
}
