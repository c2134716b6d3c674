//! The laws of the merge over every record of a tiny universe: two actors that count to two, with every gap a clock can have,
//! and every content that a merge looks at.
//!
//! One dot has one content, so a universe says of each dot whether it was a value that expires or a deletion; there are
//! sixteen. In each of them a dot is unseen, superseded, there, or there as what is left of an expired value. All pairs are
//! merged, what comes of it is again of the universe, and so all triples can be looked up. A merge decides about each dot by what
//! the two copies know of it, so that more dots could show nothing more.

use super::{merge, receive};
use crate::causal::epochs::first_of;
use crate::causal::{Actor, Context, Dot, Epochs};
use crate::ids::NodeId;
use crate::record::{Content, Coordinated, Me, Object, Record, Sibling, coordinate};
use crate::time::Wall;
use crate::wire::record::{decode, digest, encode, expired};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

const DOTS: usize = 4;

/// Two counts of each of two actors: of two nodes, or of one in two epochs.
fn dot(at: usize, nodes: u128) -> Dot {
    let actor = at / 2;
    let node = NodeId(1 + actor as u128 % nodes);
    Dot {
        actor: Actor { node, epoch: if nodes == 1 { 1 + actor as u64 } else { 1 } },
        count: 1 + at as u64 % 2,
    }
}

fn dots(nodes: u128) -> [Dot; DOTS] {
    std::array::from_fn(|at| dot(at, nodes))
}

/// All sets of these dots.
fn contexts(dots: &[Dot]) -> Vec<(BTreeSet<Dot>, Context)> {
    let of = |bits: usize| -> BTreeSet<Dot> {
        (0..dots.len()).filter(|at| bits & 1 << at != 0).map(|at| dots[at]).collect()
    };
    (0..1 << dots.len()).map(of).map(|set| (set.clone(), Context::of_dots(set))).collect()
}

fn value(at: usize) -> Content {
    let body = Bytes::copy_from_slice(&[at as u8]);
    Content::Object(Object { body, expires_at: Some(Wall(5)), ..Object::default() })
}

/// What may be at a dot that was seen.
fn contents(at: usize, deletion: bool) -> Vec<Option<Content>> {
    match deletion {
        true => vec![None, Some(Content::Tombstone { deleted: Wall(1) })],
        false => vec![None, Some(value(at)), expired(&value(at))],
    }
}

/// All records of which the dots in `deletions` are deletions.
fn universe(deletions: usize, nodes: u128) -> Vec<Record> {
    let mut all = vec![Record::default()];
    for at in 0..DOTS {
        let dot = dot(at, nodes);
        let with = |record: &Record, content: &Option<Content>| {
            let mut record = record.clone();
            record.clock.insert(dot);
            record.siblings.extend(content.iter().map(|content| Sibling { dot, content: content.clone() }));
            record
        };
        let contents = contents(at, deletions & 1 << at != 0);
        let more: Vec<Record> =
            all.iter().flat_map(|record| contents.iter().map(move |content| with(record, content))).collect();
        all.extend(more);
    }
    all
}

/// What must become of one dot, said without a merge.
fn expected(a: &Record, b: &Record, dot: &Dot) -> (bool, Option<Content>) {
    let (has_a, has_b) = (a.clock.has(dot), b.clock.has(dot));
    let left = match (a.sibling(dot), b.sibling(dot)) {
        (Some(one), Some(other)) => {
            Some(if matches!(other.content, Content::Expired { .. }) { other } else { one })
        }
        (Some(one), None) if !has_b => Some(one),
        (None, Some(other)) if !has_a => Some(other),
        _ => None,
    };
    (has_a || has_b, left.map(|s| s.content.clone()))
}

fn check_pair(a: &Record, b: &Record, ab: &Record, nodes: u128) {
    assert_eq!(ab, &merge(b, a), "commutative");
    assert!(ab.clock.covers(&a.clock) && ab.clock.covers(&b.clock), "it has seen what both have");
    for dot in dots(nodes) {
        let is = (ab.clock.has(&dot), ab.sibling(&dot).map(|s| s.content.clone()));
        assert_eq!(is, expected(a, b, &dot), "{dot:?} of {a:?} and {b:?}");
    }
    assert!(ab.siblings.len() <= DOTS, "nothing is made up");
}

/// The dropping of what has expired changes no digest, in no order with any merge.
fn check_dropping(a: &Record, b: &Record, ab: &Record) {
    let late = |record: &Record| record.without_expired(Wall(5)).unwrap_or_else(|| record.clone());
    let same = |one: &Record, other: &Record| digest(&encode(one)) == digest(&encode(other));
    assert_eq!(merge(&late(a), &late(b)), late(ab), "dropped before or after");
    assert!(same(&merge(&late(a), b), ab) && same(&late(ab), ab), "{a:?} and {b:?}");
}

fn check_receiving(a: &Record, b: &Record, ab: &Record) {
    let mut epochs = Epochs::at_start(9, 0, false);
    let mut me = Me { node: NodeId(1), epochs: &mut epochs };
    let forgot = b.clock.newest_of(NodeId(1)) > a.clock.newest_of(NodeId(1));
    let mut expected = ab.clone();
    if forgot {
        let actor = Actor { node: NodeId(1), epoch: first_of(9) };
        expected.clock.join(&Context::of_dots([Dot { actor, count: 1 }]));
    }
    let received = receive(Some(a), b, &mut me);
    assert_eq!(
        received,
        Some(expected).filter(|expected| expected != a),
        "a merge, marked if it shows a gap"
    );
    let after = received.unwrap_or_else(|| a.clone());
    assert_eq!(receive(Some(&after), b, &mut me), None, "and once is enough");
}

/// What a writer who has seen this much makes of a copy, and what it knows then.
fn check_writing(held: &Record, seen: &Context, boot: u64) {
    let mut epochs = Epochs::at_start(9, boot, false);
    let fresh = Actor { node: NodeId(1), epoch: first_of(9) };
    let mut me = Me { node: NodeId(1), epochs: &mut epochs };
    let done = coordinate(Some(held), seen, vec![value(9)], &mut me);
    let Coordinated { record, delta, context, dots } = &done;
    let [dot] = dots[..] else { panic!("one value has one dot: {dots:?}") };
    assert!(!held.clock.has(&dot) && !seen.has(&dot), "a new one: {done:?}");
    let mine = held.clock.newest_of(NodeId(1)).filter(|mine| seen.newest_of(NodeId(1)) <= Some(*mine));
    let goes_on = mine.filter(|(epoch, _)| *epoch >= boot).map(|(epoch, _)| epoch);
    assert_eq!(dot.actor.epoch, goes_on.unwrap_or(fresh.epoch), "of an epoch that is in no doubt");
    let mut knows = seen.clone();
    knows.insert(dot);
    assert_eq!(*context, knows, "what it had seen, and its own");
    let mut expected = held.clone();
    expected.siblings.retain(|s| !seen.has(&s.dot));
    expected.siblings.push(Sibling { dot, content: value(9) });
    expected.siblings.sort_by_key(|s| s.dot);
    expected.clock.join(&knows);
    assert_eq!(*record, expected, "what it had seen is gone, the rest stays");
    assert_eq!(merge(held, record), *record, "a write adds to its copy");
    assert_eq!(merge(held, delta), *record, "and its delta says as much");
}

/// All records, and of each pair which one the merge is.
fn table(deletions: usize, nodes: u128) -> (Vec<Record>, Vec<Vec<u16>>) {
    let all = universe(deletions, nodes);
    let bytes = |record: &Record| encode(record);
    let places: BTreeMap<Bytes, u16> = (0..).zip(&all).map(|(at, record)| (bytes(record), at)).collect();
    assert_eq!(places.len(), all.len(), "each record once");
    let row = |a: &Record| all.iter().map(|b| places[&bytes(&merge(a, b))]).collect();
    let table = all.iter().map(row).collect();
    (all, table)
}

#[test]
fn every_two_records_merge_as_each_of_their_dots_says() {
    let mut pairs = 0;
    // Whether the two actors are of one node matters to who receives, and not to what is received.
    for (deletions, nodes) in (0..1 << DOTS).map(|deletions| (deletions, 2)).chain([(0, 1)]) {
        let all = universe(deletions, nodes);
        for a in &all {
            assert_eq!(&merge(a, a), a, "idempotent");
            assert_eq!(decode(&encode(a)).as_ref(), Ok(a), "it reads back");
            for b in &all {
                let ab = merge(a, b);
                check_pair(a, b, &ab, nodes);
                check_receiving(a, b, &ab);
                if deletions == 0 {
                    check_dropping(a, b, &ab);
                }
                pairs += 1;
            }
        }
    }
    // Of a value there are four states, of a deletion three; squared, and summed over all universes.
    assert_eq!(pairs, (4_u32.pow(2) + 3_u32.pow(2)).pow(DOTS as u32) + 4_u32.pow(2 * DOTS as u32));
}

#[test]
fn every_three_records_merge_in_any_order() {
    let mut triples = 0;
    for deletions in 0..1 << DOTS {
        let (all, table) = table(deletions, 2);
        for a in 0..all.len() {
            for b in 0..all.len() {
                let ab = usize::from(table[a][b]);
                assert_eq!(usize::from(table[ab][b]), ab, "idempotent: {:?} {:?}", all[a], all[b]);
                for c in 0..all.len() {
                    let bc = usize::from(table[b][c]);
                    assert_eq!(table[ab][c], table[a][bc], "{:?} {:?} {:?}", all[a], all[b], all[c]);
                }
                triples += all.len() as u64;
            }
        }
    }
    assert_eq!(triples, (4_u64.pow(3) + 3_u64.pow(3)).pow(DOTS as u32));
}

#[test]
fn every_write_supersedes_what_was_seen_and_nothing_else() {
    for nodes in [1, 2] {
        let contexts = contexts(&dots(nodes));
        for held in &universe(0, nodes) {
            // Nothing is in doubt since a start; or the first of two epochs is.
            for boot in [0, 2] {
                contexts.iter().for_each(|(_, seen)| check_writing(held, seen, boot));
            }
        }
    }
}

#[test]
fn every_context_is_the_set_of_its_dots() {
    let dots: Vec<Dot> = (1..=2)
        .flat_map(|node| {
            (1..=3).map(move |count| Dot { actor: Actor { node: NodeId(node), epoch: 1 }, count })
        })
        .collect();
    let all = contexts(&dots);
    for (a, in_a) in &all {
        assert!(dots.iter().all(|dot| in_a.has(dot) == a.contains(dot)), "{in_a:?}");
        for runs_max in 1..4 {
            let short = in_a.shortened(runs_max);
            assert!(in_a.covers(&short) && short.runs().len() <= runs_max, "{short:?}");
            // There is room for what each of the two nodes wrote last.
            let keeps = |node| runs_max < 2 || short.newest_of(NodeId(node)) == in_a.newest_of(NodeId(node));
            assert!(keeps(1) && keeps(2), "{short:?} of {in_a:?}");
        }
        for (b, in_b) in &all {
            let mut joined = in_a.clone();
            joined.join(in_b);
            assert_eq!(joined, Context::of_dots(a | b), "the union of {in_a:?} and {in_b:?}");
            assert_eq!(in_a.covers(in_b), a.is_superset(b), "{in_a:?} and {in_b:?}");
            assert_eq!(in_a.without(b.iter().copied()), Context::of_dots(a - b), "{in_a:?} without {in_b:?}");
        }
    }
}

/// It takes a dot that was issued twice: nothing saves both, but all replicas keep the same.
#[test]
fn of_two_contents_of_one_dot_all_keep_the_same() {
    let dot = dot(0, 1);
    let of = |content: &Content| Record {
        clock: Context::of_dots([dot]),
        siblings: vec![Sibling { dot, content: content.clone() }],
    };
    // Two nodes' names that look alike where they are written short.
    let seen = |node| Content::CartRemoved {
        sku: None,
        seen: Context::of_dots([Dot { actor: Actor { node: NodeId(node), epoch: 1 }, count: 1 }]),
    };
    let (one, other) = (expired(&value(0)).unwrap(), expired(&value(1)).unwrap());
    let contents = [value(0), value(1), one, other, seen(1), seen(2)];
    for (one, other) in contents.iter().flat_map(|one| contents.iter().map(move |other| (one, other))) {
        let merged = merge(&of(one), &of(other));
        assert_eq!(merged, merge(&of(other), &of(one)), "{one:?} and {other:?}");
        assert_eq!(merge(&merged, &of(other)), merged);
    }
}
