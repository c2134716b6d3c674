//! Files that somebody has damaged while their node was stopped, and trees that are gone. Entries 31 and 36 of the catalogue of
//! known failures.
//!
//! Nobody is ever told a wrong value, and what is missing comes back from the others without a read.

use crate::aae::{BUCKET, HEAL_TIME_MAX, IDLE_ROUNDS, aae, all_converged, repairs_nothing, rounds};
use crate::hints::hints_of;
use crate::rollback::{log_of, lose};
use crate::steps::is_down;
use crate::support::{copy, eventually, keep_one_copy, metric, put_back, put_blind, versions};
use anyhow::{Context, Result, ensure};
use node::store::keys::{decode_record_key, leaf_key};
use node::store::rocks::RocksStore;
use node::store::{Batch, Family, Store};
use ring::place::position;
use ring::tree::slot;
use ring::wire::record::digest;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tests::checks::Checks;
use tests::cluster::Cluster;
use tests::http::{self, key_url};

const KEYS: usize = 120;

/// Some kilobytes that belong to one key and to no other.
fn value_of(number: usize) -> String {
    let mut state = number as u64 + 1;
    let mut words = Vec::new();
    for _ in 0..256 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        words.push(format!("{state:016x}"));
    }
    words.concat()
}

/// Flips bytes in the first half of every large table file: its blocks of data. Answers how many.
fn spoil(dir: &std::path::Path) -> Result<usize> {
    let mut flipped = 0;
    for entry in std::fs::read_dir(dir.join("db"))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "sst") {
            continue;
        }
        let mut bytes = std::fs::read(&path)?;
        if bytes.len() < 64 << 10 {
            continue;
        }
        for eighth in 1..4 {
            let at = bytes.len() * eighth / 8;
            bytes[at] ^= 0x40;
            flipped += 1;
        }
        std::fs::write(&path, bytes)?;
    }
    Ok(flipped)
}

#[tokio::test]
async fn entry_36_damaged_records_are_never_told_and_mended_without_a_read() -> Result<()> {
    let mut c = Cluster::start(3).await?;
    for number in 0..KEYS {
        let url = key_url(&c.url(number), BUCKET, format!("k{number}"));
        put_blind(&url, &value_of(number)).await?.expect(204)?;
    }
    eventually(HEAL_TIME_MAX, || all_converged(&c, BUCKET, KEYS)).await?;
    // A start makes table files of the log.
    c.stop(2).await?;
    c.restart(2).await?;
    c.stop(2).await?;
    let flipped = spoil(c.data_dir(2))?;
    ensure!(flipped > 0, "there was no table file to spoil");
    c.restart(2).await?;
    for number in 0..KEYS {
        let url = key_url(&c.url(2), BUCKET, format!("k{number}"));
        let reply = http::get(format!("{url}?r=1")).send().await?;
        ensure!(reply.status != 404, "a damaged record is not nothing");
        if reply.status == 200 {
            ensure!(reply.text() == value_of(number), "wrong bytes were told of k{number}");
        }
    }
    eventually(HEAL_TIME_MAX, || async {
        let scrub = &aae(&c, 2).await?["scrub"];
        ensure!(scrub["healed"].as_u64() > Some(0) && scrub["rounds"].as_u64() > Some(0), "{scrub}");
        all_converged(&c, BUCKET, KEYS).await
    })
    .await?;
    for number in 0..KEYS {
        let url = key_url(&c.url(2), BUCKET, format!("k{number}"));
        let reply = http::get(format!("{url}?r=1")).send().await?.expect(200)?;
        ensure!(reply.text() == value_of(number), "wrong bytes were told of k{number}");
    }
    ensure!(c.panics().is_empty(), "{:?}", c.panics());
    Ok(())
}

/// Spoils the first block of each table file of a family. Each names it among its properties, the value right behind the name.
fn spoil_family(dir: &Path, name: &str) -> Result<usize> {
    let (mut spoiled, property) = (0, format!("name{name}"));
    for entry in std::fs::read_dir(dir.join("db"))? {
        let path = entry?.path();
        let mut bytes = std::fs::read(&path)?;
        let is_its = bytes.windows(property.len()).any(|part| part == property.as_bytes());
        if is_its && path.extension().is_some_and(|extension| extension == "sst") {
            bytes[20] ^= 0x40;
            std::fs::write(&path, bytes)?;
            spoiled += 1;
        }
    }
    Ok(spoiled)
}

/// Nothing is lost with what follows from the records: the node ends, and its next start makes it anew, from its own disk.
#[tokio::test]
async fn entry_36_damaged_leaves_are_made_anew_from_the_records() -> Result<()> {
    let mut c = Cluster::start(3).await?;
    fill(&c, BUCKET).await?;
    // A start makes table files of the log.
    c.stop(2).await?;
    c.restart(2).await?;
    c.stop(2).await?;
    ensure!(spoil_family(c.data_dir(2), "leaves")? > 0, "there was no table file to spoil");
    c.spawn(2)?;
    // It ends by itself as soon as its next write is refused, and every node writes now and then.
    let ended = eventually(HEAL_TIME_MAX, || async {
        let url = key_url(&c.url(2), BUCKET, "more");
        let answer = put_blind(&url, "more").await;
        ensure!(answer.is_err(), "it still answers");
        Ok(())
    });
    ended.await?;
    let ended = c.ended(2).await?;
    ensure!(ended.code() == Some(1), "it ended with {ended}");
    c.restart(2).await?;
    eventually(HEAL_TIME_MAX, || async {
        let told = aae(&c, 2).await?;
        ensure!(told["building"] == 0 && told["exchanges"].as_u64() > Some(1), "{told}");
        all_converged(&c, BUCKET, KEYS).await
    })
    .await?;
    let told = aae(&c, 2).await?;
    ensure!(told["repairs"] == 0, "what was on its own disk came from the others: {told}");
    ensure!(c.panics().is_empty(), "{:?}", c.panics());
    Ok(())
}

/// Of hints nothing is lost but who is owed what: the copies are here. Those that are not owned here are owed to each owner from the
/// next start on, whether he is there or not; of the others the comparison of trees brings them where they belong.
#[tokio::test]
async fn entry_36_damaged_hints_are_made_anew_and_what_they_named_arrives() -> Result<()> {
    const ALONE: &str = "alone";
    let mut c = Cluster::start(3).await?;
    keep_one_copy(&c, ALONE).await?;
    let silent = c.member(0, 2).await?["id"].as_str().context("no id")?.to_owned();
    c.kill(2).await?;
    is_down(&c, &[0, 1], &silent).await?;
    for number in 0..KEYS {
        let url = key_url(&c.url(0), BUCKET, format!("k{number}"));
        put_blind(&url, &value_of(number)).await?.expect(204)?;
        let alone = key_url(&c.url(0), ALONE, format!("k{number}"));
        put_blind(&alone, &value_of(number)).await?.expect(204)?;
    }
    let kept = hints_of(&c, 0, "waiting").await?;
    let foreign = kept.checked_sub(KEYS as u64).context("not every key has a hint")?;
    ensure!(foreign > 0, "{kept} hints are kept");
    // A start makes table files of the log.
    c.stop(0).await?;
    c.spawn(0)?;
    eventually(HEAL_TIME_MAX, || async {
        ensure!(hints_of(&c, 0, "waiting").await? == kept, "it is not there yet");
        Ok(())
    })
    .await?;
    c.stop(0).await?;
    ensure!(spoil_family(c.data_dir(0), "hints")? > 0, "there was no table file to spoil");
    c.spawn(0)?;
    let ended = c.ended(0).await?;
    ensure!(ended.code() == Some(1), "it ended with {ended}");
    c.spawn(0)?;
    eventually(HEAL_TIME_MAX, || async {
        let kept = hints_of(&c, 0, "waiting").await?;
        ensure!(kept == foreign, "{kept} hints are kept, and {foreign} keys are owned by the other alone");
        Ok(())
    })
    .await?;
    c.spawn(2)?;
    c.await_ready().await?;
    eventually(HEAL_TIME_MAX, || all_converged(&c, BUCKET, KEYS)).await?;
    eventually(HEAL_TIME_MAX, || async {
        ensure!(hints_of(&c, 0, "waiting").await? == 0, "what could not be read is still counted");
        Ok(())
    })
    .await?;
    tells_the_truth(&c, 2, BUCKET).await?;
    tells_the_truth(&c, 2, ALONE).await?;
    ensure!(c.panics().is_empty(), "{:?}", c.panics());
    Ok(())
}

fn tables_of(dir: &Path) -> Result<Vec<PathBuf>> {
    let files = std::fs::read_dir(dir.join("db"))?.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(files.filter(|path| path.extension().is_some_and(|extension| extension == "sst")).collect())
}

/// The node serves, has looked at all its records, and is as the others are; or it has ended. Which of the two.
async fn serves_or_ends(c: &mut Cluster) -> Result<bool> {
    let begun = Instant::now();
    while !c.has_ended(2)? {
        let healthy = async {
            let told = aae(c, 2).await?;
            ensure!(told["building"] == 0 && told["scrub"]["rounds"].as_u64() > Some(0), "{told}");
            all_converged(c, BUCKET, KEYS).await
        };
        match healthy.await {
            Ok(()) => return Ok(true),
            Err(error) if begun.elapsed() > HEAL_TIME_MAX => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    let ended = c.ended(2).await?;
    ensure!(!ended.success(), "it ended with {ended}");
    Ok(false)
}

/// Records, leaves, the lists of the dead and of what is due, what the node knows of itself: whichever of them is spoiled, nobody is
/// told anything wrong, and the node is whole again at the second start, or says at each that it is to be replaced.
#[tokio::test]
async fn entry_36_a_byte_of_each_table_file_in_turn_is_mended_or_refused_and_never_told() -> Result<()> {
    let mut c = Cluster::start(3).await?;
    fill(&c, BUCKET).await?;
    for number in 0..KEYS {
        let short = key_url(&c.url(0), "short", format!("k{number}"));
        http::put(short).header("cartwheel-ttl", "3600").text("short").send().await?.expect(204)?;
        let gone = key_url(&c.url(0), "gone", format!("k{number}"));
        let context = put_blind(&gone, "gone").await?.context()?;
        http::delete(&gone).context(&context).send().await?.expect(204)?;
    }
    // A start makes table files of the log.
    c.stop(2).await?;
    c.restart(2).await?;
    c.stop(2).await?;
    let (dir, saved) = (c.data_dir(2).to_owned(), c.dir().join("saved"));
    copy(&dir, &saved)?;
    let tables = tables_of(&dir)?;
    ensure!(tables.len() >= 5, "only {} table files", tables.len());
    let mut refused = Vec::new();
    for table in &tables {
        let mut bytes = std::fs::read(table)?;
        bytes[20] ^= 0x40;
        std::fs::write(table, bytes)?;
        c.spawn(2)?;
        let mut serves = serves_or_ends(&mut c).await?;
        if !serves {
            c.spawn(2)?;
            serves = serves_or_ends(&mut c).await?;
        }
        if serves {
            tells_the_truth(&c, 2, BUCKET).await?;
            c.stop(2).await?;
        } else {
            ensure!(
                c.log(2).contains("replace"),
                "{} and no word of what to do: {}",
                table.display(),
                c.log(2)
            );
            refused.push(table);
        }
        tells_the_truth(&c, 0, BUCKET).await?;
        put_back(&saved, &dir)?;
    }
    ensure!(refused.len() < tables.len() / 2, "most of these could not be mended: {refused:?}");
    c.restart(2).await?;
    eventually(HEAL_TIME_MAX, || all_converged(&c, BUCKET, KEYS)).await?;
    ensure!(c.panics().is_empty(), "{:?}", c.panics());
    Ok(())
}

async fn fill(c: &Cluster, bucket: &str) -> Result<()> {
    for number in 0..KEYS {
        put_blind(&key_url(&c.url(number), bucket, format!("k{number}")), &value_of(number)).await?;
    }
    eventually(HEAL_TIME_MAX, || all_converged(c, bucket, KEYS)).await
}

/// What an ordinary read through a node answers is right, for every key.
async fn tells_the_truth(c: &Cluster, node: usize, bucket: &str) -> Result<()> {
    for number in 0..KEYS {
        let reply =
            http::get(key_url(&c.url(node), bucket, format!("k{number}"))).send().await?.expect(200)?;
        ensure!(reply.text() == value_of(number), "wrong bytes were told of k{number}");
    }
    Ok(())
}

/// Changes one byte, so many eighths into the file.
fn flip(path: &Path, eighths: usize) -> Result<()> {
    let mut bytes = std::fs::read(path)?;
    ensure!(!bytes.is_empty(), "{} is empty", path.display());
    let at = (bytes.len() * eighths / 8).min(bytes.len() - 1);
    bytes[at] ^= 0x40;
    Ok(std::fs::write(path, bytes)?)
}

/// The log ends where it was damaged: what came after is missing here, and no more than missing.
#[tokio::test]
async fn entry_36_a_damaged_log_loses_what_the_others_have_and_tells_nothing_wrong() -> Result<()> {
    let mut c = Cluster::start(3).await?;
    for eighths in [1, 6] {
        let bucket = format!("{BUCKET}-{eighths}");
        fill(&c, &bucket).await?;
        // The log holds everything since the start.
        c.kill(2).await?;
        flip(&log_of(c.data_dir(2))?, eighths)?;
        c.restart(2).await?;
        // It knows that its log was cut, and is not ready before it has taken from the others what is gone.
        let replaced = metric(&c, 2, "cartwheel_sift_replaced_total").await?;
        ensure!(replaced > 0.0, "the damage took nothing from the node");
        tells_the_truth(&c, 2, &bucket).await?;
        eventually(HEAL_TIME_MAX, || all_converged(&c, &bucket, KEYS)).await?;
    }
    ensure!(c.panics().is_empty(), "{:?}", c.panics());
    Ok(())
}

fn manifest_of(dir: &Path) -> Result<PathBuf> {
    let files = std::fs::read_dir(dir.join("db"))?.filter_map(|entry| Some(entry.ok()?.path()));
    let is_manifest = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("MANIFEST-"))
    };
    files.filter(is_manifest).max().with_context(|| format!("{} has no manifest", dir.display()))
}

/// A store that does not know its own files is not opened. The node says so and ends; it never takes itself to be empty.
#[tokio::test]
async fn entry_36_a_damaged_manifest_ends_the_start_and_is_never_taken_for_nothing() -> Result<()> {
    let mut c = Cluster::start(3).await?;
    fill(&c, BUCKET).await?;
    // A start makes table files of the log, and the next one finds them by the manifest alone.
    c.stop(2).await?;
    c.restart(2).await?;
    c.stop(2).await?;
    let (dir, saved) = (c.data_dir(2).to_owned(), c.dir().join("saved"));
    copy(&dir, &saved)?;
    let mut refused = 0;
    for eighths in [0, 4, 8] {
        flip(&manifest_of(&dir)?, eighths)?;
        match c.restart(2).await {
            Ok(()) => {
                tells_the_truth(&c, 2, BUCKET).await?;
                eventually(HEAL_TIME_MAX, || all_converged(&c, BUCKET, KEYS)).await?;
                c.stop(2).await?;
            }
            Err(error) => {
                let status = c.ended(2).await?;
                ensure!(!status.success(), "it ended with {status}: {error:#}");
                let said = c.log(2);
                ensure!(said.contains("can't be opened") && said.contains("orruption"), "{said}");
                refused += 1;
            }
        }
        tells_the_truth(&c, 0, BUCKET).await?;
        put_back(&saved, &dir)?;
    }
    ensure!(refused > 0, "no damage was found");
    c.restart(2).await?;
    tells_the_truth(&c, 2, BUCKET).await?;
    eventually(HEAL_TIME_MAX, || all_converged(&c, BUCKET, KEYS)).await?;
    ensure!(c.panics().is_empty(), "{:?}", c.panics());
    Ok(())
}

/// How many records a stopped node has, and of how many the leaf is missing or another's. A leaf without a record is wrong too.
fn leaves(dir: &Path) -> Result<(usize, usize)> {
    let store = RocksStore::open(dir)?;
    let all = |family| store.scan(family, &[], None, usize::MAX, usize::MAX);
    let records = all(Family::Records)?;
    let mut leaves: BTreeMap<_, _> = all(Family::Leaves)?.into_iter().collect();
    let mut wrong = 0;
    for (key, record) in &records {
        let (partition, id) = decode_record_key(key)?;
        let leaf = leaves.remove(&leaf_key(partition, slot(position(&id)), &id)[..]);
        wrong += usize::from(leaf.as_deref() != Some(&digest(record).0.to_be_bytes()[..]));
    }
    Ok((records.len(), wrong + leaves.len()))
}

/// Riak's `aae_partition_loss` and `total_partition_loss`: the trees are gone, and with them some of the records, or all. The trees come
/// back, the records too, and then it is quiet: no key that is healthy is repaired for ever.
#[tokio::test]
async fn entry_31_trees_that_are_gone_are_made_again_and_repairs_die_down() -> Result<()> {
    let mut c = Cluster::start(3).await?;
    fill(&c, BUCKET).await?;
    let dir = c.data_dir(2).to_owned();
    let mut checks = Checks::new();
    for lost in [10, KEYS] {
        c.stop(2).await?;
        ensure!(leaves(&dir)? == (KEYS, 0), "{:?} instead of {KEYS} whole records", leaves(&dir)?);
        lose(&dir, &[Family::Leaves])?;
        {
            let (store, mut batch) = (RocksStore::open(&dir)?, Batch::default());
            for (key, _) in store.scan(Family::Records, &[], None, lost, usize::MAX)? {
                batch.delete(Family::Records, key);
            }
            ensure!(batch.changes.len() == lost);
            store.write(batch, true)?;
        }
        c.restart(2).await?;
        let found = eventually(HEAL_TIME_MAX, || all_converged(&c, BUCKET, KEYS));
        checks.run(&format!("{lost} that are missing are found without a tree"), found).await;
        checks
            .run("repairs die down", eventually(HEAL_TIME_MAX, || repairs_nothing(&c, rounds(&c, 2))))
            .await;
        checks.run("and do not begin again", repairs_nothing(&c, rounds(&c, IDLE_ROUNDS))).await;
    }
    c.stop(2).await?;
    checks
        .run("every leaf is that of its record", async {
            let (records, wrong) = leaves(&dir)?;
            ensure!((records, wrong) == (KEYS, 0), "{wrong} of {records} are not");
            Ok(())
        })
        .await;
    checks.finish(&[&c])
}

/// What an acknowledgement stands on may be in a copy that the disk has spoiled and in one other. While that one is away, whatever
/// takes the spoiled copy's place is less than what was acknowledged, and must not be shown as what a majority holds.
#[tokio::test]
async fn entry_20_what_takes_a_spoiled_copys_place_counts_when_all_others_have_answered() -> Result<()> {
    let mut c = Cluster::prepare(3)?;
    c.set("CARTWHEEL_LIMITS_HINT_BYTES", "0");
    (0..3).try_for_each(|node| c.spawn(node))?;
    c.await_ready().await?;
    c.kill(0).await?;
    let (spoiled, other) = (1, 2);
    let url = |c: &Cluster, node: usize| key_url(&c.url(node), BUCKET, "gap");
    put_blind(&format!("{}?pw=2", url(&c, other)), "one").await?.expect(204)?;
    c.kill(spoiled).await?;
    c.kill(other).await?;
    {
        let (store, mut batch) = (RocksStore::open(c.data_dir(spoiled))?, Batch::default());
        for (key, record) in store.scan(Family::Records, &[], None, usize::MAX, usize::MAX)? {
            let mut record = record.to_vec();
            *record.last_mut().context("a record has bytes")? ^= 1;
            batch.put(Family::Records, key, record);
        }
        ensure!(batch.changes.len() == 1, "{} records instead of one", batch.changes.len());
        store.write(batch, true)?;
    }
    c.spawn(0)?;
    c.spawn(spoiled)?;
    let majority = format!("{}?r=2&pr=2&timeout_ms=2000", url(&c, 0));
    // Through the one that knows nothing of the key: the write arrives at the spoiled copy.
    eventually(HEAL_TIME_MAX, || async {
        put_blind(&format!("{}?pw=2", url(&c, 0)), "two").await?.expect(204)?;
        Ok(())
    })
    .await?;
    let read = http::get(&majority).send().await?;
    ensure!(
        read.status == 503,
        "{} although one of the two versions is not there: {}",
        read.status,
        read.text()
    );
    ensure!(metric(&c, spoiled, "cartwheel_gaps").await? == 1.0, "nobody counts that something is missing");
    c.kill(spoiled).await?;
    c.spawn(spoiled)?;
    let url_of_spoiled = c.url(spoiled);
    let alive =
        || async { http::get(format!("{url_of_spoiled}/health/ready")).send().await?.expect(200).map(drop) };
    eventually(HEAL_TIME_MAX, alive).await?;
    let read = http::get(&majority).send().await?;
    ensure!(read.status == 503, "after a start it is {}: {}", read.status, read.text());
    c.spawn(other)?;
    eventually(HEAL_TIME_MAX, || async {
        ensure!(metric(&c, spoiled, "cartwheel_gaps").await? == 0.0, "the gap stays");
        Ok(())
    })
    .await?;
    for node in [0, spoiled] {
        let reply = versions(&format!("{}?r=2&pr=2", url(&c, node))).await?;
        let values: BTreeSet<String> = reply.values()?.into_iter().collect();
        ensure!(values == BTreeSet::from(["one".to_owned(), "two".to_owned()]), "{values:?}");
    }
    ensure!(c.panics().is_empty(), "{:?}", c.panics());
    Ok(())
}
