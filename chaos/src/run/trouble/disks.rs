//! Disks that lose what was not synced, that take long, and that fail. And calendars that are wrong, by the same shim.

use super::{Stage, effects, members, names};
use crate::run::tries::Noted;
use crate::target::Shim;
use crate::target::process::name;
use anyhow::{Context, Result, bail, ensure};
use client::{Client, Quorum, ReadOptions, WriteOptions};
use rand::RngExt;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// A node whose disk has failed ends: this is how long that may take. Its next write finds out, or the one that looks each second.
const FENCED_MAX: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What a sync of a disk in trouble takes.
const SLOW: Duration = Duration::from_millis(200);
/// The smallest and the largest jump of a calendar, in milliseconds; drawn so that each order of magnitude is as likely.
const JUMP_MS: (f64, f64) = (11.0, 600_000.0);

/// Flipped bits in one table, at most.
const FLIPS_MAX: u32 = 4;
/// What a log loses at most.
const TORN_BYTES_MAX: usize = 4096;
/// So far from the end of a log a bit flips.
const FLIPPED_OF_LOG: usize = 256 << 10;
/// A full disk is looked for twice a second, and a quarter of the keys asked about are not the victim's.
const NOTICED_MAX: Duration = Duration::from_secs(15);
/// A disk of which so much is left is full for its node, which keeps more for itself.
const LEFT_PERCENT: u64 = 2;
const FULL: &str = "full";
const FULL_KEYS: u32 = 20;
/// As many are deleted while there is not a byte left.
const DELETED_KEYS: u32 = 150;

/// The power goes: everything at once, or a minority. What no sync has made safe is gone from the disks.
pub(super) async fn power_cut(stage: &mut Stage<'_>) -> Result<()> {
    // With nobody left nothing else can begin meanwhile.
    let awaits = stage.change.as_ref().is_some_and(members::Change::is_to_begin);
    let all = stage.chance.random::<bool>() && !awaits;
    let victims = if all { stage.nodes() } else { stage.minority() };
    let whose = if all { "all".to_owned() } else { names(&victims) };
    let open = stage.begin(format!("power cut for {whose}"), &victims);
    stage.kill(&victims).await?;
    for victim in &victims {
        // A newcomer that was killed as soon as it had been started has written nothing.
        if !stage.site.local()?.data_dir(*victim).exists() {
            continue;
        }
        let gone = stage.site.local()?.cut_power(*victim)?;
        stage.did(effects::UNSYNCED, gone);
    }
    if !all {
        stage.last(500..5_000).await?;
    }
    stage.start_again(&victims).await?;
    stage.end(open);
    Ok(())
}

pub(super) async fn slow_disk(stage: &mut Stage<'_>) -> Result<()> {
    let victims = stage.minority();
    let what = format!("each sync of {} takes {} ms more", names(&victims), SLOW.as_millis());
    // They serve, though late: nobody is excused.
    let open = stage.begin(what, &[]);
    let before = counted(stage, &victims, Shim::syncs_late)?;
    for victim in &victims {
        shim(stage, *victim)?.delay_syncs(SLOW)?;
    }
    stage.last(3_000..10_000).await?;
    for victim in &victims {
        shim(stage, *victim)?.delay_syncs(Duration::ZERO)?;
    }
    let after = counted(stage, &victims, Shim::syncs_late)?;
    stage.did(effects::SYNCS_LATE, after - before);
    stage.end(open);
    Ok(())
}

/// Syncs of one node fail, once or from now on. It must end by itself rather than go on by what it believes to have written, and
/// comes back on a disk that is well.
pub(super) async fn sync_fails(stage: &mut Stage<'_>) -> Result<()> {
    let victim = stage.nodes()[0];
    let once = stage.chance.random();
    let what = if once { "a sync fails" } else { "all syncs fail" };
    let open = stage.begin(format!("{what} on {}", name(victim)), &[victim]);
    let (_, before) = shim(stage, victim)?.syncs()?;
    shim(stage, victim)?.fail_syncs(if once { 1 } else { u64::MAX })?;
    let deadline = Instant::now() + FENCED_MAX;
    loop {
        match stage.site.local()?.ended_now() {
            // A node that fences itself exits; one that a signal took has not noticed anything.
            Some((node, how)) if node == victim => {
                let fenced = how == "exit status: 1";
                let otherwise = || format!("{} ended by {how} when a sync had failed", name(node));
                stage.accidents.extend((!fenced).then(otherwise));
                break;
            }
            Some((node, how)) => bail!("{} ended ({how}), and its disk was well", name(node)),
            None => {}
        }
        let after = FENCED_MAX.as_secs();
        ensure!(Instant::now() < deadline, "{} still runs {after} s after a sync had failed", name(victim));
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let (_, failed) = shim(stage, victim)?.syncs()?;
    ensure!(failed > before, "{} ended, and no sync had failed", name(victim));
    stage.did(effects::SYNCS_FAILED, failed - before);
    shim(stage, victim)?.heal()?;
    stage.last(500..3_000).await?;
    stage.start_again(&[victim]).await?;
    stage.end(open);
    Ok(())
}

/// The calendars of one node or two jump ahead or back, once or again and again.
pub(super) async fn clocks(stage: &mut Stage<'_>) -> Result<()> {
    let victims = stage.minority();
    let (from, to) = (JUMP_MS.0.ln(), JUMP_MS.1.ln());
    let mut jump = || {
        let size = stage.chance.random_range(from..to).exp();
        let sign = if stage.chance.random() { 1.0 } else { -1.0 };
        (size * sign) as i64
    };
    let jumps: Vec<i64> = (0..if victims.len() == 1 { 1 } else { 8 }).map(|_| jump()).collect();
    let told: Vec<String> = jumps.iter().map(|ms| format!("{:+.1} s", *ms as f64 / 1e3)).collect();
    let what = format!("the calendar of {} is off by {}", names(&victims), told.join(", then "));
    let open = stage.begin(what, &[]);
    let before = counted(stage, &victims, Shim::wrong_times)?;
    for ms in &jumps {
        for victim in &victims {
            shim(stage, *victim)?.set_clock_ahead(*ms)?;
        }
        stage.last(500..4_000).await?;
    }
    for victim in &victims {
        shim(stage, *victim)?.heal()?;
    }
    let after = counted(stage, &victims, Shim::wrong_times)?;
    stage.did(effects::WRONG_TIMES, after - before);
    stage.end(open);
    Ok(())
}

/// What the shims of these nodes have counted so far, in all.
fn counted(stage: &mut Stage<'_>, nodes: &[usize], what: impl Fn(&Shim) -> Result<u64>) -> Result<u64> {
    nodes.iter().map(|node| what(shim(stage, *node)?)).sum()
}

/// The shim of a node, which must be in front of it: a fault that reaches nobody would prove nothing.
fn shim<'a>(stage: &'a mut Stage<'_>, node: usize) -> Result<&'a Shim> {
    let local = stage.site.local()?;
    let shim = local.shim(node).context("no shim stands in front of the node")?;
    ensure!(shim.loaded_by()? > 0, "{} runs without the shim", name(node));
    Ok(shim)
}

/// Bits of tables flip while their nodes are down, one or two: of three copies that were equal before, one is whole. Nobody may ever be
/// told what they became, and other copies take their place.
pub(super) async fn bit_flips(stage: &mut Stage<'_>) -> Result<()> {
    if stage.spoiled {
        // Once in a run: what is spoiled stays in its tables until they are merged, and on another disk may then be the last good copy.
        stage.hold(stage.left()).await;
        return Ok(());
    }
    stage.spoiled = true;
    let victims = stage.minority();
    let open = stage.begin(format!("bits flip on the disks of {}", names(&victims)), &victims);
    let mut tables = Vec::new();
    for victim in &victims {
        // A start makes tables of the log.
        for _ in 0..2 {
            stage.site.stop(*victim).await?;
            if !stage.site.local()?.tables_of_records(*victim)?.is_empty() {
                break;
            }
            stage.site.start_again(&[*victim]).await?;
        }
        tables.extend(stage.site.local()?.tables_of_records(*victim)?);
    }
    for path in tables {
        let mut bytes = std::fs::read(&path)?;
        // The first half is data: what stands behind it are indexes and properties, without which there is no table.
        let flips = stage.chance.random_range(1..=FLIPS_MAX);
        stage.did(effects::FLIPPED, u64::from(flips));
        for _ in 0..flips {
            let at = stage.chance.random_range(0..bytes.len() / 2);
            bytes[at] ^= 1 << stage.chance.random_range(0..8);
        }
        std::fs::write(&path, bytes)?;
    }
    stage.site.start_again(&victims).await?;
    stage.end(open);
    stage.last(3_000..8_000).await?;
    Ok(())
}

/// A node loses the end of its log, and with it what it had acknowledged; others have that too. Or a bit of it flips, and all that stands
/// behind it is lost.
pub(super) async fn torn_log(stage: &mut Stage<'_>) -> Result<()> {
    let victim = stage.nodes()[0];
    let (flips, torn) = (stage.chance.random(), stage.chance.random_range(1..=TORN_BYTES_MAX));
    let what = if flips { "a bit of its log flipped" } else { "the end of its log lost" };
    let open = stage.begin(format!("{} killed, {what}", name(victim)), &[victim]);
    stage.kill(&[victim]).await?;
    if let Some(log) = stage.site.local()?.newest_log(victim)? {
        let mut bytes = std::fs::read(&log)?;
        let end = bytes.len();
        // In a young log the beginning is what a node knows of itself, without which it is another one.
        if flips && end > FLIPPED_OF_LOG {
            let at = stage.chance.random_range(end - FLIPPED_OF_LOG..end);
            bytes[at] ^= 1 << stage.chance.random_range(0..8);
            stage.did(effects::TORN, (end - at) as u64);
        } else {
            bytes.truncate(end.saturating_sub(torn));
            stage.did(effects::TORN, (end - bytes.len()) as u64);
        }
        std::fs::write(&log, bytes)?;
    }
    stage.last(500..3_000).await?;
    stage.site.start_again(&[victim]).await?;
    stage.end(open);
    Ok(())
}

/// The disk of the last node is small, and somebody fills it up. It refuses what takes room, goes on to read, and takes everything
/// again as soon as there is room, without a restart: by the same process.
pub(super) async fn disk_full(stage: &mut Stage<'_>) -> Result<()> {
    let victim = stage.site.len() - 1;
    let process = stage.site.local()?.pid(victim);
    let client = Client::with_transport(vec![stage.site.url(victim)], stage.ground.transport.clone())?;
    let ballast = stage.site.local()?.data_dir(victim).join("ballast");
    let open = stage.begin(format!("the disk of {} is full", name(victim)), &[victim]);
    asked_until(&client, "writes are taken", all_taken).await?;
    let seen = to_be_deleted(&client).await?;
    fill(&ballast, LEFT_PERCENT)?;
    let refused = asked_until(&client, "writes are refused", |answers| answers.contains(&507)).await?;
    stage.did(effects::REFUSED, refused.iter().filter(|status| **status == 507).count() as u64);
    reads_all(&client).await?;
    stage.last(2_000..5_000).await?;
    // What the node had kept for itself goes as well: not a byte is left.
    let until = stage.timeline.now() + stage.draw(1_000..3_000).min(stage.left());
    let (mut turns, mut deleted) = (0, Vec::new());
    for (number, context) in seen {
        fill(&ballast, 0)?;
        turns += 1;
        // Deletions it still takes: RocksDB has set room aside for its log. Where that is full another owner takes them.
        let options = WriteOptions { context: Some(context), ..WriteOptions::default() };
        deleted.extend(client.delete(FULL, format!("d{number}"), &options).await.is_ok().then_some(number));
        if stage.timeline.now() >= until {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    stage.did(effects::FILLED_UP, turns);
    stage.did(effects::DELETED, deleted.len() as u64);
    reads_all(&client).await?;
    std::fs::remove_file(&ballast)?;
    asked_until(&client, "writes are taken again", all_taken).await?;
    stage.accidents.extend(there_again(&client, &deleted).await);
    let local = stage.site.local()?;
    if let Some((node, how)) = local.ended_now() {
        bail!("{} ended ({how}) when a disk was full", name(node));
    }
    ensure!(local.pid(victim) == process, "{} recovered by another process only", name(victim));
    stage.did(effects::RECOVERED, 1);
    stage.end(open);
    Ok(())
}

/// Writes values that are to be deleted, through a node, and gives their numbers and what whoever deletes them has seen. A few that were
/// not taken are let be.
async fn to_be_deleted(client: &Client<Noted>) -> Result<Vec<(u32, client::Context)>> {
    let mut seen = Vec::new();
    for number in 0..DELETED_KEYS {
        let Ok(read) = client.get(FULL, format!("d{number}"), &ReadOptions::default()).await else {
            continue;
        };
        let options = WriteOptions { context: read.context, ..WriteOptions::default() };
        let written = client.put(FULL, format!("d{number}"), "v", &options).await;
        seen.extend(written.ok().and_then(|written| written.context).map(|context| (number, context)));
    }
    ensure!(seen.len() > DELETED_KEYS as usize / 2, "of {DELETED_KEYS} values {} were taken", seen.len());
    Ok(seen)
}

/// What was deleted while there was no room is gone, as soon as a node can say so: they are in no history that anybody judges.
async fn there_again(client: &Client<Noted>, deleted: &[u32]) -> Option<String> {
    for number in deleted {
        let (key, deadline) = (format!("d{number}"), Instant::now() + NOTICED_MAX);
        loop {
            let shown = client.get(FULL, &key, &ReadOptions::default()).await;
            if shown.as_ref().is_ok_and(|read| read.versions.iter().all(|version| version.deleted)) {
                break;
            }
            if Instant::now() > deadline {
                return Some(format!("{key} was deleted while a disk was full, and is read as {shown:?}"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    None
}

fn all_taken(answers: &[u16]) -> bool {
    answers.iter().all(|status| *status == 204)
}

/// Writes some keys through a node, of which it owns most, until their statuses are as they should be, and gives them.
async fn asked_until(client: &Client<Noted>, what: &str, holds: impl Fn(&[u16]) -> bool) -> Result<Vec<u16>> {
    let deadline = Instant::now() + NOTICED_MAX;
    loop {
        let mut answers = Vec::new();
        for key in 0..FULL_KEYS {
            let written = client.put(FULL, format!("k{key}"), "v", &WriteOptions::default()).await;
            answers.push(
                written.map_or_else(|error| error.problem().map_or(0, |problem| problem.status), |_| 204),
            );
        }
        if holds(&answers) {
            return Ok(answers);
        }
        ensure!(Instant::now() < deadline, "{what}: not after {} s: {answers:?}", NOTICED_MAX.as_secs());
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What it has it still gives: one replica is asked, itself where it is one.
async fn reads_all(client: &Client<Noted>) -> Result<()> {
    for key in 0..FULL_KEYS {
        let one = ReadOptions { r: Some(Quorum::Count(1)), ..ReadOptions::default() };
        let read = client.get(FULL, format!("k{key}"), &one).await;
        ensure!(
            read.as_ref().is_ok_and(|read| !read.versions.is_empty()),
            "a full disk does not read: {read:?}"
        );
    }
    Ok(())
}

/// Takes what is left on the disk of that path, but so many percent of all of it. The node writes too, and frees what it no longer needs: if the
/// system itself says that there is no more, it is as full as can be.
fn fill(ballast: &Path, left_percent: u64) -> Result<()> {
    let told = nix::sys::statvfs::statvfs(ballast.parent().context("a file stands in a directory")?)?;
    let leave = told.blocks() * left_percent / 100;
    let mut bytes = told.blocks_available().saturating_sub(leave) * told.fragment_size();
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(ballast)?;
    let block = vec![0xa5; 1 << 16];
    while bytes > 0 || left_percent == 0 {
        match file.write_all(&block) {
            Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
            written => written?,
        }
        bytes = bytes.saturating_sub(block.len() as u64);
    }
    Ok(())
}
