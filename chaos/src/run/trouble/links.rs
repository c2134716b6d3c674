//! Links that are cut, one-sided, slow or bad.
//!
//! Between processes the proxy does it, direction by direction. Of containers the network itself takes some away, and then their
//! clients don't reach them either.

use super::effects::{CUT, FRAMES_LATE, FRAMES_LOST, FRAMES_TWICE, RESET};
use super::{Stage, names};
use crate::proxy::{Conduct, Delay, Party, Passed, Proxy};
use anyhow::{Context, Result};
use rand::RngExt;
use rand::seq::IndexedRandom;
use std::time::Duration;

/// A megabit per second.
const NARROW: u32 = 125_000;
/// Of what was done before, at least one in so many is done over bad links: a request is lost in one of a few cases, and then waits for two
/// seconds. One of 7.3 was the least of three times on a busy machine.
const GOODPUT_OF: u32 = 25;
/// How often connections are reset, at least and at most in milliseconds.
const RESETS_EVERY: std::ops::Range<u64> = 50..400;

fn proxy<'a>(stage: &'a mut Stage<'_>) -> Result<&'a Proxy> {
    stage.site.local()?.proxy().context("no proxy stands between the nodes")
}

fn silent() -> Conduct {
    Conduct { stalled: true, ..Conduct::default() }
}

/// Sets what everything that passes this test does, and gives what had gone through by then.
fn set(proxy: &Proxy, nodes: &[usize], conduct: &Conduct, concerns: impl Fn(usize, usize) -> bool) -> Passed {
    let before = proxy.passed();
    for &from in nodes {
        for &to in nodes {
            if from != to && concerns(from, to) {
                proxy.set(Party::Node(from), Party::Node(to), conduct.clone());
            }
        }
    }
    before
}

/// Counts what became of all that went through since then.
fn count(stage: &mut Stage<'_>, before: Passed) -> Result<()> {
    let now = proxy(stage)?.passed();
    let counts = [
        (CUT, now.stalled - before.stalled),
        (FRAMES_LATE, now.delayed - before.delayed),
        (FRAMES_LOST, now.lost - before.lost),
        (FRAMES_TWICE, now.repeated - before.repeated),
        (RESET, now.reset - before.reset),
    ];
    counts.into_iter().for_each(|(what, how_much)| stage.did(what, how_much));
    Ok(())
}

/// The trouble lasts, and all links are whole again.
async fn until_healed(stage: &mut Stage<'_>, before: Passed, what: String, unable: &[usize]) -> Result<()> {
    let open = stage.timeline.part(what, unable.iter().copied());
    stage.last(2_000..stage.most(10_000, 60_000)).await?;
    proxy(stage)?.heal();
    stage.end(open);
    count(stage, before)
}

pub(super) async fn partition(stage: &mut Stage<'_>) -> Result<()> {
    let (nodes, few) = (stage.nodes(), stage.minority());
    if let super::Site::Compose(compose) = &mut *stage.site {
        let open = stage.timeline.begin(format!("{} cut off", names(&few)), few.iter().copied());
        compose.cut_off(&few).await?;
        stage.last(2_000..stage.most(10_000, 60_000)).await?;
        if let super::Site::Compose(compose) = &mut *stage.site {
            compose.rejoin(&few).await?;
        }
        stage.end(open);
        stage.did(CUT, few.len() as u64);
        return Ok(());
    }
    let before = set(proxy(stage)?, &nodes, &silent(), |from, to| few.contains(&from) != few.contains(&to));
    // One alone finds nobody for a second copy; of two each finds the other.
    let unable: &[usize] = if few.len() == 1 { &few } else { &[] };
    until_healed(stage, before, format!("{} cut off from the others", names(&few)), unable).await
}

pub(super) async fn one_way(stage: &mut Stage<'_>) -> Result<()> {
    let nodes = stage.nodes();
    let victim = nodes[0];
    let is_mute = stage.chance.random();
    let before =
        set(proxy(stage)?, &nodes, &silent(), |from, to| if is_mute { from == victim } else { to == victim });
    let what = if is_mute { "is not heard" } else { "hears nobody" };
    until_healed(stage, before, format!("{} {what}", names(&[victim])), &[victim]).await
}

pub(super) async fn ring(stage: &mut Stage<'_>) -> Result<()> {
    let nodes = stage.nodes();
    let place = |node: usize| nodes.iter().position(|other| *other == node).unwrap_or(0);
    let apart = |from: usize, to: usize| {
        let distance = place(from).abs_diff(place(to));
        distance.min(nodes.len() - distance) > 1
    };
    let before = set(proxy(stage)?, &nodes, &silent(), apart);
    until_healed(stage, before, "each hears two others".to_owned(), &[]).await
}

pub(super) async fn bridge(stage: &mut Stage<'_>) -> Result<()> {
    let nodes = stage.nodes();
    let half = nodes.len() / 2;
    let (one, other) = (nodes[..half].to_vec(), nodes[half + 1..].to_vec());
    let before = set(proxy(stage)?, &nodes, &silent(), |from, to| {
        (one.contains(&from) && other.contains(&to)) || (other.contains(&from) && one.contains(&to))
    });
    let what =
        format!("only {} hears both {} and {}", names(&nodes[half..=half]), names(&one), names(&other));
    until_healed(stage, before, what, &[]).await
}

pub(super) async fn slow(stage: &mut Stage<'_>) -> Result<()> {
    let nodes = stage.nodes();
    let ms = Duration::from_millis;
    let late = match stage.chance.random_range(0..3) {
        0 => Some((Delay::Between(ms(40), ms(60)), "40 to 60 ms on all links")),
        1 => Some((Delay::Tail(ms(5), ms(25)), "30 ms on all links on average, and up to 255")),
        _ => None,
    };
    if let Some((delay, what)) = late {
        let late = Conduct { delay, ..Conduct::default() };
        let before = set(proxy(stage)?, &nodes, &late, |_, _| true);
        let open = stage.begin(what, &[]);
        stage.last(2_000..stage.most(10_000, 60_000)).await?;
        proxy(stage)?.heal();
        stage.end(open);
        return count(stage, before);
    }
    let victim = nodes[0];
    let conduct = Conduct { bytes_per_second: Some(NARROW), ..Conduct::default() };
    let before = set(proxy(stage)?, &nodes, &conduct, |from, to| from == victim || to == victim);
    // What it coordinates may not get through in time.
    until_healed(stage, before, format!("1 Mbit/s for {}", names(&[victim])), &[victim]).await
}

pub(super) async fn bad(stage: &mut Stage<'_>) -> Result<()> {
    let nodes = stage.nodes();
    let conduct = Conduct {
        delay: Delay::Between(Duration::ZERO, Duration::from_millis(20)),
        overtaking: true,
        lost_percent: 10,
        repeated_percent: 10,
        ..Conduct::default()
    };
    // No node is owed an answer of meanwhile: who waits for a frame that never comes waits in vain. But much is to be done still.
    let (usual, began) = (stage.usual(), stage.timeline.now());
    let before = set(proxy(stage)?, &nodes, &conduct, |_, _| true);
    until_healed(stage, before, "10 % of frames lost, 10 % twice, 0 to 20 ms, overtaking".to_owned(), &nodes)
        .await?;
    stage.owes("bad-links", usual, began, 0, GOODPUT_OF);
    Ok(())
}

pub(super) async fn resets(stage: &mut Stage<'_>) -> Result<()> {
    let before = proxy(stage)?.passed();
    let open = stage.timeline.part("connections reset", []);
    let end = stage.timeline.now() + stage.draw(2_000..8_000);
    while stage.timeline.now() < end && !stage.left().is_zero() {
        let nodes = stage.nodes();
        let pair: Vec<usize> = nodes.sample(&mut stage.chance, 2).copied().collect();
        proxy(stage)?.reset(Party::Node(pair[0]), Party::Node(pair[1]));
        stage.last(RESETS_EVERY).await?;
    }
    stage.end(open);
    count(stage, before)
}
