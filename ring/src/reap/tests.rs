//! Each proof on its own; that all of them are needed is tried in `tests/models/reap.rs`.

use super::*;
use bytes::Bytes;

const GRACE: Duration = Duration::from_secs(60);
const OWNERS: [NodeId; 2] = [NodeId(1), NodeId(2)];
const OTHER: NodeId = NodeId(3);

fn at(seconds: u64) -> Time {
    Time(seconds * 1_000_000)
}

fn dead() -> Dead {
    let id = ObjectId::new(Bytes::from_static(b"b"), Bytes::from_static(b"k")).unwrap();
    Dead { id, digest: Digest(7), owners: OWNERS.to_vec() }
}

fn clear() -> Said {
    Said { mark: 5, ..Said::default() }
}

fn all(said: Said) -> BTreeMap<NodeId, Option<Said>> {
    [(OWNERS[0], Some(clear())), (OWNERS[1], Some(clear())), (OTHER, Some(said))].into()
}

/// One round that takes a second.
fn round(reaper: &mut Reaper, said: &BTreeMap<NodeId, Option<Said>>, second: u64) -> Judged {
    reaper.begin(1);
    let judged = reaper.judge(&[dead()], said, at(second), at(second + 1));
    reaper.end();
    judged
}

/// A key that everybody has agreed on, and that is ripe from second 73 on.
fn quiet() -> Reaper {
    let mut reaper = Reaper::new(GRACE, 10);
    assert_eq!(round(&mut reaper, &all(clear()), 10).waiting.young, 1);
    assert_eq!(round(&mut reaper, &all(clear()), 12).waiting.young, 1);
    reaper
}

#[test]
fn a_key_ripens_a_grace_after_it_was_quiet() {
    let mut reaper = quiet();
    assert_eq!(round(&mut reaper, &all(clear()), 72).ripe, []);
    assert_eq!(round(&mut reaper, &all(clear()), 73).ripe, [0]);
}

#[test]
fn whatever_is_missing_in_between_begins_anew() {
    let few = |at: u16| BTreeSet::from([at]);
    let mut silent = all(clear());
    silent.insert(OTHER, None);
    let cases = [
        (silent, Waiting { silent: 1, ..Waiting::default() }),
        (all(Said { unlike: few(0), ..clear() }), Waiting { differing: 1, ..Waiting::default() }),
        (all(Said { hinted: few(0), ..clear() }), Waiting { hinted: 1, ..Waiting::default() }),
        (all(Said { mark: 6, ..clear() }), Waiting { young: 1, ..Waiting::default() }),
    ];
    for (said, waiting) in cases {
        let mut reaper = quiet();
        assert_eq!(round(&mut reaper, &said, 40).waiting, waiting, "{said:?}");
        assert_eq!(round(&mut reaper, &all(clear()), 80).ripe, [], "{said:?}");
    }
}

#[test]
fn another_version_or_another_table_begins_anew() {
    let mut reaper = quiet();
    reaper.begin(1);
    let other = Dead { digest: Digest(8), ..dead() };
    assert_eq!(reaper.judge(&[other], &all(clear()), at(80), at(81)).ripe, []);
    let mut reaper = quiet();
    reaper.begin(2);
    assert_eq!(reaper.judge(&[dead()], &all(clear()), at(80), at(81)).ripe, []);
    let mut reaper = quiet();
    reaper.begin(1);
    reaper.end();
    assert_eq!(round(&mut reaper, &all(clear()), 80).ripe, [], "a round in between did not ask about it");
}

#[test]
fn old_work_keeps_a_key_from_being_quiet() {
    let mut reaper = Reaper::new(GRACE, 10);
    let old = |second: u64| all(Said { work: Duration::from_secs(second - 5), ..clear() });
    for second in [10, 20, 100, 200] {
        assert_eq!(round(&mut reaper, &old(second), second).ripe, []);
    }
    assert_eq!(round(&mut reaper, &all(clear()), 210).ripe, [], "quiet only now");
    assert_eq!(round(&mut reaper, &all(clear()), 271).ripe, [0]);
}

#[test]
fn an_owner_that_lacks_it_is_told_and_a_stranger_is_not() {
    let mut reaper = Reaper::new(GRACE, 10);
    let lacks = Some(Said { unlike: BTreeSet::from([0]), ..clear() });
    let mut said = all(clear());
    said.insert(OTHER, lacks.clone());
    assert_eq!(round(&mut reaper, &said, 10).push, []);
    said.insert(OWNERS[1], lacks);
    assert_eq!(round(&mut reaper, &said, 12).push, [(OWNERS[1], 0)]);
}

#[test]
fn an_owner_who_was_not_asked_has_not_agreed() {
    let mut reaper = quiet();
    let mut said = all(clear());
    said.remove(&OWNERS[1]);
    assert_eq!(round(&mut reaper, &said, 80).waiting.silent, 1);
}

#[test]
fn only_so_many_keys_are_remembered() {
    let mut reaper = Reaper::new(GRACE, 0);
    for second in [10, 12, 80] {
        assert_eq!(round(&mut reaper, &all(clear()), second).waiting.young, 1);
    }
}
