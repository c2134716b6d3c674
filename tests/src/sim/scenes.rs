//! Troubles at chosen times, where chance would bring them together too seldom. The seed still draws all the rest.

use super::disk::Wear;
use super::fleet::{Down, Shape};
use super::plagues::Deed;
use super::wires::Host;
use chaos::workload::Kind;
use std::time::Duration;

const THREE: Shape = Shape { nodes: 3, partitions: 8, reap_grace_ms: 11_000 };

/// The scenes, by their names on a command line.
pub const ALL: [&str; 3] = ["fill", "cuts", "hints"];

/// A scene of that name.
pub fn of(name: &str) -> Option<(Shape, Vec<(Duration, Deed)>)> {
    match name {
        "fill" => Some(fill()),
        "cuts" => Some(cuts()),
        "hints" => Some(hints()),
        _ => None,
    }
}

/// What all clients do there, if that matters.
pub fn only(name: &str) -> Option<Kind> {
    (name == "hints").then_some(Kind::Recreate)
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
