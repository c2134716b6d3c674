//! What becomes of an old copy, for every kind of word that the others give.

use super::*;
use crate::causal::{Context, Epochs};
use crate::record::{Content, Me, Object, coordinate};
use crate::time::Wall;

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);
const D: NodeId = NodeId(4);

fn written(by: NodeId, lease: u64, local: Option<&Record>, seen: &Context) -> Record {
    let mut epochs = Epochs::at_start(lease, 0, false);
    let mut me = Me { node: by, epochs: &mut epochs };
    coordinate(local, seen, vec![Content::Object(Object::default())], &mut me).record
}

fn deleted(by: NodeId, lease: u64, local: &Record) -> Record {
    let mut epochs = Epochs::at_start(lease, 0, false);
    let mut me = Me { node: by, epochs: &mut epochs };
    let gone = vec![Content::Tombstone { deleted: Wall(1) }];
    coordinate(Some(local), &local.clock, gone, &mut me).record
}

fn value(by: NodeId) -> Record {
    written(by, 1, None, &Context::new())
}

fn said(answers: &[(NodeId, Option<&Record>)]) -> Said {
    answers.iter().map(|(node, record)| (*node, record.cloned())).collect()
}

#[test]
fn what_no_other_owner_knows_is_set_aside() {
    let old = value(A);
    let verdict = sift(Some(&old), &[B, C], &said(&[(B, None), (C, None)]));
    assert_eq!(verdict, Verdict::Take { record: None, aside: true });
    let verdict = sift(Some(&deleted(B, 1, &old)), &[B, C], &said(&[(B, None), (C, None)]));
    assert_eq!(verdict, Verdict::Take { record: None, aside: false }, "a tombstone is nothing to keep");
}

/// Deleted, forgotten, and written anew: the others have the key, and do not know the old version of it.
#[test]
fn an_old_version_beside_a_new_key_is_set_aside_as_well() {
    let (old, new) = (value(A), written(B, 7, None, &Context::new()));
    let verdict = sift(Some(&merge(&old, &new)), &[B, C], &said(&[(B, Some(&new)), (C, Some(&new))]));
    assert_eq!(verdict, Verdict::Take { record: Some(new), aside: true });
}

#[test]
fn what_the_others_have_takes_its_place_without_a_trace_of_the_old_clock() {
    let old = value(A);
    let newer = written(B, 1, Some(&old), &old.clock);
    let verdict = sift(Some(&old), &[B, C], &said(&[(B, Some(&newer)), (C, Some(&old))]));
    assert_eq!(verdict, Verdict::Take { record: Some(newer.clone()), aside: false });
    assert_eq!(sift(None, &[B], &said(&[(B, Some(&newer))])), {
        Verdict::Take { record: Some(newer.clone()), aside: false }
    });
    assert_eq!(sift(Some(&newer), &[B, C], &said(&[(B, Some(&newer)), (C, None)])), Verdict::Keep);
    // One that was down has a version that this disk had seen replaced: the old clock would delete it there.
    let (lonely, other) = (value(A), value(C));
    let replaced = written(A, 1, Some(&merge(&lonely, &other)), &other.clock);
    let Verdict::Take { record, .. } = sift(Some(&replaced), &[B, D], &said(&[(B, None), (D, None)])) else {
        panic!("both lack it")
    };
    assert_eq!(merge(&record.unwrap_or_default(), &other), other);
}

#[test]
fn one_other_that_knows_a_version_is_enough_to_keep_it() {
    let old = value(A);
    assert_eq!(sift(Some(&old), &[B, C], &said(&[(B, None), (C, Some(&old))])), Verdict::Keep);
}

#[test]
fn most_of_the_others_must_answer() {
    let old = value(A);
    assert_eq!(sift(Some(&old), &[B, C], &said(&[(B, None)])), Verdict::Wait);
    assert_eq!(sift(Some(&old), &[B, C, D], &said(&[(B, None)])), Verdict::Wait);
    assert_ne!(sift(Some(&old), &[B, C, D], &said(&[(B, None), (D, None)])), Verdict::Wait);
    assert_eq!(sift(Some(&old), &[B], &said(&[(C, None), (D, None)])), Verdict::Wait, "others have no say");
    assert_eq!(sift(Some(&old), &[], &said(&[])), Verdict::Keep, "nobody else can have it");
    assert_eq!(sift(None, &[B, C], &said(&[])), Verdict::Wait);
}

#[test]
fn a_removed_member_spreads_nothing_of_what_several_own() {
    let old = value(A);
    let none = said(&[(B, None), (C, None), (D, None)]);
    assert_eq!(part(&old, &[B, C, D], &none), Parting::SetAside);
    assert_eq!(part(&old, &[B, C, D], &said(&[(B, None), (C, None)])), Parting::SetAside);
    assert_eq!(part(&old, &[B, C, D], &said(&[(B, None)])), Parting::Wait);
    let some = said(&[(B, Some(&old)), (C, None), (D, None)]);
    assert_eq!(part(&old, &[B, C, D], &some), Parting::Wait, "they have it among themselves");
    let newer = deleted(C, 1, &old);
    let all = said(&[(B, Some(&old)), (C, Some(&newer)), (D, Some(&newer))]);
    assert_eq!(part(&old, &[B, C, D], &all), Parting::Drop);
    assert_eq!(part(&old, &[B, C, D], &said(&[(B, Some(&old)), (C, Some(&old))])), Parting::Wait);
    assert_eq!(part(&old, &[B], &said(&[])), Parting::HandOn, "nobody but this disk can have had it");
    assert_eq!(part(&deleted(A, 1, &old), &[B, C], &said(&[(B, None), (C, None)])), Parting::Drop);
}
