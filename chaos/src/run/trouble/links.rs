//! Links that are cut, one-sided, slow or bad.
//!
//! Between processes the proxy does it, direction by direction. Of containers the network itself takes some away, and then their
//! clients don't reach them either.

use super::{Stage, names};
use crate::proxy::{Conduct, Delay, Party, Proxy};
use anyhow::{Context, Result};
use rand::RngExt;
use rand::seq::IndexedRandom;
use std::time::Duration;

/// A megabit per second.
const NARROW: u32 = 125_000;
/// How often connections are reset, at least and at most in milliseconds.
const RESETS_EVERY: std::ops::Range<u64> = 50..400;

fn proxy<'a>(stage: &'a mut Stage<'_>) -> Result<&'a Proxy> {
    stage.site.local()?.proxy().context("no proxy stands between the nodes")
}

fn silent() -> Conduct {
    Conduct { stalled: true, ..Conduct::default() }
}

/// Sets what everything that passes this test does.
fn set(proxy: &Proxy, nodes: &[usize], conduct: &Conduct, concerns: impl Fn(usize, usize) -> bool) {
    for &from in nodes {
        for &to in nodes {
            if from != to && concerns(from, to) {
                proxy.set(Party::Node(from), Party::Node(to), conduct.clone());
            }
        }
    }
}

/// The trouble lasts, and all links are whole again.
async fn until_healed(stage: &mut Stage<'_>, what: String, unable: &[usize]) -> Result<()> {
    let open = stage.timeline.part(what, unable.iter().copied());
    stage.last(2_000..stage.most(10_000, 60_000)).await?;
    proxy(stage)?.heal();
    stage.end(open);
    Ok(())
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
        return Ok(());
    }
    set(proxy(stage)?, &nodes, &silent(), |from, to| few.contains(&from) != few.contains(&to));
    // One alone finds nobody for a second copy; of two each finds the other.
    let unable: &[usize] = if few.len() == 1 { &few } else { &[] };
    until_healed(stage, format!("{} cut off from the others", names(&few)), unable).await
}

pub(super) async fn one_way(stage: &mut Stage<'_>) -> Result<()> {
    let nodes = stage.nodes();
    let victim = nodes[0];
    let is_mute = stage.chance.random();
    set(proxy(stage)?, &nodes, &silent(), |from, to| if is_mute { from == victim } else { to == victim });
    let what = if is_mute { "is not heard" } else { "hears nobody" };
    until_healed(stage, format!("{} {what}", names(&[victim])), &[victim]).await
}

pub(super) async fn ring(stage: &mut Stage<'_>) -> Result<()> {
    let nodes = stage.nodes();
    let place = |node: usize| nodes.iter().position(|other| *other == node).unwrap_or(0);
    let apart = |from: usize, to: usize| {
        let distance = place(from).abs_diff(place(to));
        distance.min(nodes.len() - distance) > 1
    };
    set(proxy(stage)?, &nodes, &silent(), apart);
    until_healed(stage, "each hears two others".to_owned(), &[]).await
}

pub(super) async fn bridge(stage: &mut Stage<'_>) -> Result<()> {
    let nodes = stage.nodes();
    let half = nodes.len() / 2;
    let (one, other) = (nodes[..half].to_vec(), nodes[half + 1..].to_vec());
    set(proxy(stage)?, &nodes, &silent(), |from, to| {
        (one.contains(&from) && other.contains(&to)) || (other.contains(&from) && one.contains(&to))
    });
    let what =
        format!("only {} hears both {} and {}", names(&nodes[half..=half]), names(&one), names(&other));
    until_healed(stage, what, &[]).await
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
        set(proxy(stage)?, &nodes, &Conduct { delay, ..Conduct::default() }, |_, _| true);
        let open = stage.begin(what, &[]);
        stage.last(2_000..stage.most(10_000, 60_000)).await?;
        proxy(stage)?.heal();
        stage.end(open);
        return Ok(());
    }
    let victim = nodes[0];
    let conduct = Conduct { bytes_per_second: Some(NARROW), ..Conduct::default() };
    set(proxy(stage)?, &nodes, &conduct, |from, to| from == victim || to == victim);
    // What it coordinates may not get through in time.
    until_healed(stage, format!("1 Mbit/s for {}", names(&[victim])), &[victim]).await
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
    let before = proxy(stage)?.passed();
    set(proxy(stage)?, &nodes, &conduct, |_, _| true);
    let all = nodes.clone();
    until_healed(stage, "10 % of frames lost, 10 % twice, 0 to 20 ms, overtaking".to_owned(), &all).await?;
    let after = proxy(stage)?.passed();
    stage.did(super::FRAMES_LOST, after.lost - before.lost);
    stage.did(super::FRAMES_TWICE, after.repeated - before.repeated);
    Ok(())
}

pub(super) async fn resets(stage: &mut Stage<'_>) -> Result<()> {
    let open = stage.timeline.part("connections reset", []);
    let end = stage.timeline.now() + stage.draw(2_000..8_000);
    while stage.timeline.now() < end && !stage.left().is_zero() {
        let nodes = stage.nodes();
        let pair: Vec<usize> = nodes.sample(&mut stage.chance, 2).copied().collect();
        proxy(stage)?.reset(Party::Node(pair[0]), Party::Node(pair[1]));
        stage.last(RESETS_EVERY).await?;
    }
    stage.end(open);
    Ok(())
}
