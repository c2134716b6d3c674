//! Troubles at chosen times, where chance would bring them together too seldom. The seed still draws all the rest.

use super::disk::Wear;
use super::fleet::{Down, Shape};
use super::plagues::Deed;
use super::wires::Host;
use super::{CLIENT, Only};
use chaos::workload::Kind;
use std::time::Duration;

const THREE: Shape = Shape { nodes: 3, partitions: 8, reap_grace_ms: 11_000 };

/// The scenes, by their names on a command line.
pub const ALL: [&str; 5] = ["fill", "cuts", "hints", "late", "tables"];

/// A scene of that name.
pub fn of(name: &str) -> Option<(Shape, Vec<(Duration, Deed)>)> {
    match name {
        "fill" => Some(fill()),
        "cuts" => Some(cuts()),
        "hints" => Some(hints()),
        "late" => Some(late()),
        "tables" => Some(tables()),
        _ => None,
    }
}

/// What all clients do there, if that matters.
pub fn only(name: &str) -> Option<Only> {
    let drawn = |kind| Only { kind, strict: None, patience: None };
    match name {
        "hints" | "late" => Some(drawn(Kind::Recreate)),
        "tables" => {
            Some(Only { strict: Some(true), patience: Some(Duration::from_secs(20)), ..drawn(Kind::SetAdd) })
        }
        _ => None,
    }
}

/// The power fails everywhere at once, and one disk is lost with it: what that one had acknowledged with another is on the other, for
/// the third could not be reached in the second before.
fn cuts() -> (Shape, Vec<(Duration, Deed)>) {
    let (alone, cut, again) = (Duration::from_secs(39), Duration::from_secs(40), Duration::from_secs(42));
    let mut deeds = Vec::new();
    for other in [Host(1), Host(2)] {
        for (a, b) in [(Host(3), other), (other, Host(3))] {
            deeds.push((alone, Deed::Cut(a, b)));
            deeds.push((again, Deed::Mend(a, b)));
        }
    }
    deeds.extend((1..=3).map(|host| (cut, Deed::Down(Host(host), Down::PowerCut))));
    deeds.push((cut, Deed::Wipe(Host(1))));
    deeds.extend((1..=3).map(|host| (again, Deed::Up(Host(host)))));
    deeds.push((again, Deed::ReplaceWiped(Host(1))));
    (THREE, deeds)
}

/// A node is down while others keep hints for it, and back before one of those can reach it again. What is deleted meanwhile, and left alone
/// for longer than the grace, is still in that hint.
fn hints() -> (Shape, Vec<(Duration, Deed)>) {
    let (away, keeper) = (Host(4), Host(1));
    // Every other key is let die between 23 and 25 s of the run, and left alone until 50 s of it; the load begins 5 s after the run.
    let (down, up, mend) = (Duration::from_secs(4), Duration::from_secs(14), Duration::from_secs(43));
    let mut deeds = vec![(down, Deed::Down(away, Down::Killed)), (up, Deed::Up(away))];
    for (a, b) in [(keeper, away), (away, keeper)] {
        deeds.push((down, Deed::Cut(a, b)));
        deeds.push((mend, Deed::Mend(a, b)));
    }
    (Shape { nodes: 4, ..THREE }, deeds)
}

/// What one node says to another comes seconds late, time and again, and just when keys are deleted for good: a value is still under way
/// when all owners agree that it is dead.
fn late() -> (Shape, Vec<(Duration, Deed)>) {
    let (from, to) = (Host(1), Host(3));
    // Every other key is let die in the last two of each 25 seconds of the run, and the load begins 5.5 s after that.
    let begins = [17_000, 42_000].map(Duration::from_millis);
    let deeds = begins.into_iter().flat_map(|cut| {
        [(cut, Deed::Cut(from, to)), (cut + Duration::from_millis(4_500), Deed::Mend(from, to))]
    });
    (THREE, deeds.collect())
}

/// A node sleeps through a change after which most keys have other owners, and clients wait for it. It hears them a moment before
/// it hears the others: whatever they have asked for it does by tables that are none any more.
fn tables() -> (Shape, Vec<(Duration, Deed)>) {
    let (sleeper, newcomers) = (Host(5), [Host(6), Host(7), Host(8)]);
    let (asleep, wakes) = (Duration::from_secs(20), Duration::from_secs(32));
    let hears = wakes + Duration::from_millis(100);
    let others = (1..=4).map(Host).chain(newcomers);
    let mut deeds = vec![(asleep, Deed::Asleep(sleeper, true)), (wakes, Deed::Asleep(sleeper, false))];
    for (other, again) in others.map(|other| (other, hears)).chain([(CLIENT, wakes)]) {
        for (a, b) in [(sleeper, other), (other, sleeper)] {
            deeds.push((asleep, Deed::Cut(a, b)));
            deeds.push((again, Deed::Mend(a, b)));
        }
    }
    deeds.extend(newcomers.map(|host| (asleep, Deed::Add { host, waits: false })));
    (Shape { nodes: 5, partitions: 64, ..THREE }, deeds)
}

/// One owner misses for ten seconds what the two others acknowledge. Then a node comes in on a slow disk, which all three can see: until
/// it is filled, it and the one that has missed so much are a majority of the owners to come, and know nothing.
fn fill() -> (Shape, Vec<(Duration, Deed)>) {
    let (alone, others, newcomer) = (Host(1), [Host(2), Host(3)], Host(4));
    let (cut, comes, mend) = (Duration::from_secs(10), Duration::from_secs(20), Duration::from_secs(40));
    let mut deeds = Vec::new();
    for other in others {
        for (a, b) in [(alone, other), (other, alone)] {
            deeds.push((cut, Deed::Cut(a, b)));
            deeds.push((mend, Deed::Mend(a, b)));
        }
    }
    deeds.push((comes, Deed::Add { host: newcomer, waits: false }));
    deeds.push((
        comes,
        Deed::Wear(newcomer, Wear { slow_max: Duration::from_millis(200), ..Wear::default() }),
    ));
    deeds.push((mend, Deed::Wear(newcomer, Wear::default())));
    (THREE, deeds)
}
