//! For each checker: histories that must pass, and the same with one thing wrong. What each shows stands in its name.

use super::super::*;
use super::script::play;

#[track_caller]
fn passes(script: &str) {
    let found = by(script);
    assert!(
        found.is_empty(),
        "{script}\n{}",
        found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    );
}

#[track_caller]
fn finds(breach: Breach, script: &str) {
    let found = by(script);
    let list: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(!found.is_empty(), "nothing was found in {script}");
    assert!(found.iter().all(|found| found.breach == breach), "{script}\n{}", list.join("\n"));
}

fn by(script: &str) -> Vec<Violation> {
    all_by(&play(script), &Measure { cuts: Some(0), ..Measure::default() })
}

/// When a crash comes that is later than everything, in milliseconds.
const LATER: u64 = 60_000;

/// The breaches of a history in which a crash has taken writes of the key from a disk, at that time.
fn after_a_crash(script: &str, at_ms: u64) -> Vec<Breach> {
    after_a_crash_of(script, 0, at_ms)
}

/// The same, of those that had been written there since.
fn after_a_crash_of(script: &str, since_ms: u64, at_ms: u64) -> Vec<Breach> {
    let taken = (Duration::from_millis(since_ms), Duration::from_millis(at_ms));
    let undone = [(("b".to_owned(), "k".to_owned()), vec![taken])].into();
    let found = all_by(&play(script), &Measure { cuts: Some(0), undone, ..Measure::default() });
    found.into_iter().map(|found| found.breach).collect()
}

#[test]
fn a_crash_excuses_what_it_took_where_nothing_was_synced_and_there_only() {
    let lost = "0 put a receipt 2 2 1\n 9 final =";
    let revived = "0 put a receipt 2 2 2\n 0 delete having 0 receipt 2 2 1\n 9 final = a";
    let back = "strict\n 0 put a receipt 2 2 1\n 1 get =\n 9 final = a";
    for (script, breach) in [(lost, Breach::Lost), (revived, Breach::Revived), (back, Breach::Stale)] {
        let unsynced = format!("unsynced\n {script}");
        assert_eq!(after_a_crash(&unsynced, LATER), [], "{unsynced}");
        finds(breach, &unsynced);
        assert!(after_a_crash(script, LATER).contains(&breach), "a bucket that is synced first: {script}");
        let anew = format!("unsynced\n wait 1000\n {script}");
        assert!(after_a_crash(&anew, 500).contains(&breach), "what was written after the crash: {anew}");
        let before = after_a_crash_of(&unsynced, LATER - 500, LATER);
        assert!(before.contains(&breach), "what had been synced before the crash: {unsynced}");
    }
}

#[test]
fn a_crash_excuses_nothing_that_the_receipt_calls_durable() {
    let lost = "unsynced\n 0 put a receipt 2 2 2\n 9 final =";
    assert_eq!(after_a_crash(lost, LATER), [Breach::Lost]);
    let revived = "unsynced\n 0 put a receipt 2 2 1\n 0 delete having 0 receipt 2 2 2\n 9 final = a";
    assert_eq!(after_a_crash(revived, LATER), [Breach::Revived]);
}

#[test]
fn a_crash_excuses_nobody_who_goes_back_behind_a_token() {
    let behind = "unsynced\n 0 put a receipt 2 2 0\n 0 get 0 =\n 9 final =";
    assert_eq!(after_a_crash(behind, LATER), [Breach::Stale]);
}

#[test]
fn a_receipt_claims_no_more_than_its_bucket_asks_for() {
    passes("unsynced\n 0 put a receipt 2 2 0\n 9 final = a");
    finds(Breach::Dishonest, "unsynced\n 0 put a receipt 2 1 1\n 9 final = a");
}

#[test]
fn an_acknowledged_value_must_be_there() {
    passes("0 put a\n 9 final = a");
    finds(Breach::Lost, "0 put a\n 9 final =");
    finds(Breach::Lost, "0 put a\n 9 final = a\n 9 final =");
}

#[test]
fn in_the_end_every_node_answers() {
    passes("0 put a\n 8 settled !\n 8 settled = a\n 9 settled = a");
    finds(Breach::Unjudged, "0 put a\n 8 settled !\n 8 settled !\n 9 settled = a");
    // Where nobody says that all is well, a node may be away.
    passes("0 put a\n 8 final !\n 9 final = a");
}

#[test]
fn a_value_of_unknown_outcome_may_be_there_or_not() {
    passes("0 put a ?\n 9 final = a");
    passes("0 put a ?\n 9 final =");
    passes("begin 0 put a\n 9 final = a");
}

#[test]
fn a_write_without_a_context_takes_nothing_away() {
    passes("0 put a\n 1 put b\n 9 final = a b");
    finds(Breach::Lost, "0 put a\n 1 put b\n 9 final = b");
}

#[test]
fn only_a_write_that_had_seen_it_excuses_its_absence() {
    passes("0 put a\n 1 get = a\n 1 put b having 1\n 9 final = b");
    // It had read, but something else.
    finds(Breach::Lost, "1 get =\n 0 put a\n 1 put b having 0\n 9 final = b");
    // Its own last value is seen by a write that goes on from it.
    passes("0 put a\n 0 put b having 0\n 0 put c having 1\n 9 final = c");
    // Of an acknowledged chain the last must be there.
    finds(Breach::Lost, "0 put a\n 0 put b having 0\n 9 final =");
}

#[test]
fn an_overwriter_of_unknown_outcome_excuses_and_a_refused_one_does_not() {
    passes("0 put a\n 1 get = a\n 1 put b having 1 ?\n 9 final = a");
    passes("0 put a\n 1 get = a\n 1 put b having 1 ?\n 9 final = b");
    // Who took it is there in its place, or who took him.
    finds(Breach::Lost, "0 put a\n 1 get = a\n 1 put b having 1 ?\n 9 final =");
    passes("0 put a\n 1 get = a\n 1 put b having 1 ?\n 1 put c having 2 ?\n 9 final = c");
    finds(Breach::Lost, "0 put a\n 1 get = a\n 1 put b having 1 ?\n 1 put c having 2 ?\n 9 final =");
    passes("0 put a\n 1 get = a\n 1 put b having 1 ?\n 1 delete having 2 ?\n 9 final =");
    passes("0 put a\n 1 get = a\n 1 put b having 1 ?\n 2 delete\n 9 final =");
    passes("0 put a\n 1 get = a\n 1 put b for 50 having 1 ?\n 9 final =");
    finds(Breach::Lost, "0 put a\n 1 get = a\n 1 put b having 1 !\n 9 final =");
}

#[test]
fn a_delete_without_a_context_may_have_seen_what_was_written_before_its_end() {
    passes("0 put a\n 1 delete\n 9 final =");
    passes("0 put a\n 1 delete\n 9 final = a");
    passes("begin 1 delete\n 0 put a\n end\n 9 final =");
    finds(Breach::Lost, "1 delete\n 0 put a\n 9 final =");
    finds(Breach::Lost, "0 put a\n 1 delete !\n 9 final =");
}

#[test]
fn an_element_must_come_through_all_unions() {
    let adds = "0 put a:+c0:1|c0:1\n 1 get = a:+c0:1|c0:1\n 1 put b:+c1:1|c0:1;c1:1 having 1\n";
    passes(&format!("{adds} 9 final = b:+c1:1|c0:1;c1:1"));
    // The writer's union lost it: its value covers the other, so only the elements tell.
    finds(
        Breach::Lost,
        "0 put a:+c0:1|c0:1\n 1 get = a:+c0:1|c0:1\n 1 put b:+c1:1|c1:1 having 1\n 9 final = b:+c1:1|c1:1",
    );
}

#[test]
fn a_key_that_could_not_be_read_in_the_end_is_not_called_fine() {
    finds(Breach::Unjudged, "0 put a\n 0 get = a");
    finds(Breach::Unjudged, "0 put a\n 9 final !");
    passes("0 put a\n 9 final !\n 9 final = a");
}

#[test]
fn what_was_superseded_does_not_come_back() {
    let deleted = "0 put a\n 1 get = a\n 1 delete having 1\n";
    passes(&format!("{deleted} 9 final ="));
    finds(Breach::Revived, &format!("{deleted} 9 final = a"));
    finds(Breach::Revived, &format!("{deleted} 9 final =\n 9 final = a"));
    // By way of a value in between whose own outcome was unknown, but that somebody saw.
    let chain = "0 put a\n 1 get = a\n 1 put b having 1 ?\n 2 get = b\n 2 put c having 3\n";
    passes(&format!("{chain} 9 final = c"));
    finds(Breach::Siblings, &format!("{chain} 1 get = a c\n 9 final = c"));
}

#[test]
fn what_was_not_seen_survives_the_delete() {
    passes("0 put a\n 1 get = a\n 2 put b\n 1 delete having 1\n 9 final = b");
    finds(Breach::Lost, "0 put a\n 1 get = a\n 2 put b\n 1 delete having 1\n 9 final =");
}

#[test]
fn a_deletion_of_unknown_outcome_or_that_was_refused_revives_nothing() {
    passes("0 put a\n 1 get = a\n 1 delete having 1 ?\n 9 final = a");
    passes("0 put a\n 1 get = a\n 1 delete having 1 ?\n 9 final =");
    passes("0 put a\n 1 get = a\n 1 delete having 1 !\n 9 final = a");
}

#[test]
fn where_both_insist_on_a_majority_reads_show_what_was_acknowledged() {
    passes("strict\n 0 put a\n 1 get = a\n 9 final = a");
    finds(Breach::Stale, "strict\n 0 put a\n 1 get =\n 9 final = a");
    passes("0 put a\n 1 get =\n 9 final = a");
    // Not before it is acknowledged, nor after somebody who had seen it may have written.
    passes("strict\n begin 0 put a\n 1 get =\n end\n 9 final = a");
    passes("strict\n 0 put a ?\n 1 get =\n 9 final = a");
    passes("strict\n 0 put a\n 0 put b having 0 ?\n 1 get = b\n 9 final = b");
    passes("strict\n 0 put a\n 0 put b having 0 ?\n 0 delete having 1 ?\n 1 get =\n 9 final = b");
    finds(Breach::Stale, "strict\n 0 put a\n 0 put b having 0 ?\n 1 get =\n 9 final = b");
    finds(Breach::Stale, "strict\n 0 put a\n 0 put b having 0\n 1 get = a\n 9 final = b");
    passes("strict\n 0 put a\n begin 0 put b having 0\n 1 get = a\n end\n 9 final = b");
    finds(Breach::Stale, "strict\n 0 put a\n 0 delete having 0\n 1 get = a\n 9 final =");
}

/// One that was put back and is not found out has forgotten what it had acknowledged with one that is away.
#[test]
fn an_old_disk_excuses_reads_of_its_time_and_no_others() {
    let missed = "strict\n wait 10\n 0 put a\n wait 10\n 1 get =\n wait 10\n 9 final = a";
    let from_to = |from, to| {
        let forgetful = vec![(Duration::from_millis(from), Duration::from_millis(to))];
        all_by(&play(missed), &Measure { cuts: Some(0), forgetful, ..Measure::default() })
    };
    assert_eq!(from_to(15, 1_000).len(), 0);
    assert_eq!(from_to(0, 5).len(), 1, "it was over before the read began");
    assert_eq!(from_to(900, 1_000).len(), 1, "it had not begun");
    assert_eq!(from_to(0, 1_000_000).len(), 0);
}

#[test]
fn the_same_holds_for_carts() {
    passes("strict\n 0 add mug 2\n 1 cart = mug*2 total*2\n 9 cart final = mug*2 total*2");
    finds(Breach::Stale, "strict\n 0 add mug 2\n 1 cart = total*0\n 9 cart final = mug*2 total*2");
    let removed = "strict\n 0 add mug 2\n 1 cart = mug*2 total*2\n 1 remove mug having 1\n";
    passes(&format!("{removed} 2 cart = total*0\n 9 cart final = total*0"));
    finds(Breach::Stale, &format!("{removed} 2 cart = mug*2 total*2\n 9 cart final = total*0"));
}

#[test]
fn a_read_that_asks_for_nothing_may_be_out_of_date_while_the_load_runs() {
    passes("0 put a\n 0 put b having 0\n 1 get = a\n 1 get =\n 9 final = b");
}

#[test]
fn only_what_was_written_is_read() {
    finds(Breach::Wrong, "0 put a\n 1 get = z\n 9 final = a");
    finds(Breach::Wrong, "0 put a:words\n 1 get = a:other\n 9 final = a:words");
    finds(Breach::Wrong, "0 put a\n 1 get = a a\n 9 final = a");
    finds(Breach::Wrong, "1 get = a\n 0 put a\n 9 final = a");
    passes("begin 0 put a\n 1 get = a\n end\n 9 final = a");
}

#[test]
fn what_was_refused_is_never_seen() {
    passes("0 put a !\n 1 get =\n 9 final =");
    finds(Breach::Dishonest, "0 put a !\n 1 get = a\n 9 final =");
}

#[test]
fn a_receipt_adds_up() {
    passes("0 put a receipt 2 2 2\n 9 final = a");
    passes("0 put a receipt 2 3 3\n 9 final = a");
    finds(Breach::Dishonest, "0 put a receipt 2 1 2\n 9 final = a");
    finds(Breach::Dishonest, "0 put a receipt 2 2 1\n 9 final = a");
    // It names the quorum of its bucket, and not one of its own.
    passes("quorum 2\n 0 put a receipt 2 2 2\n 9 final = a");
    passes("quorum 2\n 0 put a receipt 3 3 3\n 9 final = a");
    finds(Breach::Dishonest, "quorum 2\n 0 put a receipt 1 1 1\n 9 final = a");
    finds(Breach::Dishonest, "quorum 2\n 0 put a receipt none\n 9 final = a");
    passes("0 put a receipt none\n 9 final = a");
    // Who stands in for an owner is none.
    passes("majority 2\n 0 put a receipt 2 3 3 1\n 9 final = a");
    finds(Breach::Dishonest, "majority 2\n 0 put a receipt 2 3 3 2\n 9 final = a");
}

#[test]
fn a_read_with_a_context_shows_no_less() {
    let chain = "0 put a\n 0 put b having 0\n";
    passes(&format!("{chain} 0 get 1 = b\n 9 final = b"));
    finds(Breach::Stale, &format!("{chain} 0 get 1 =\n 9 final = b"));
    // The older value instead of the newer: both are wrong about it.
    finds(Breach::Stale, &format!("{chain} 0 get 1 = a\n 9 final = b"));
    finds(Breach::Siblings, &format!("{chain} 1 get = a b\n 9 final = b"));
}

#[test]
fn a_read_with_a_context_may_show_what_came_later() {
    // Somebody who had seen it overwrites while the read is under way, or has an unknown outcome.
    passes("0 put a\n begin 0 get 0 = b\n 1 get = a\n 1 put b having 2\n end\n 9 final = b");
    passes("0 put a\n 1 get = a\n 1 put b having 1 ?\n 0 get 0 = b\n 9 final = b");
    finds(Breach::Stale, "0 put a\n 1 get = a\n 1 put b having 1 ?\n 0 get 0 =\n 9 final = b");
    // But not after the answer.
    finds(Breach::Stale, "0 put a\n 0 get 0 =\n 1 get = a\n 1 put b having 2\n 9 final = b");
}

#[test]
fn reads_that_build_on_each_other_never_go_back() {
    let seen_gone = "0 put a\n 1 get = a\n 2 get = a\n 2 delete having 2\n 1 get 1 =\n";
    passes(&format!("{seen_gone} 1 get 4 =\n 9 final ="));
    finds(Breach::Stale, &format!("{seen_gone} 1 get 4 = a\n 9 final ="));
    // One that builds on an older state may.
    passes(&format!("{seen_gone} 3 get = a\n 1 get 1 = a\n 9 final ="));
}

#[test]
fn siblings_have_not_seen_each_other() {
    passes("0 get =\n 1 get =\n 0 put a having 0\n 1 put b having 1\n 2 get = a b\n 9 final = a b");
    let chain = "0 put a\n 1 get = a\n 1 put b having 1\n 1 put c having 2\n";
    finds(Breach::Siblings, &format!("{chain} 2 get = a c\n 9 final = c"));
}

#[test]
fn siblings_stay_below_the_limit() {
    passes("setting blind 2\n 0 put a\n 0 put b\n 0 put c !\n 9 final = a b");
    finds(Breach::Siblings, "setting blind 2\n 0 put a\n 0 put b\n 0 put c\n 9 final = a b c");
    // A node takes none that makes them more, but with a context: it had more before, from others.
    finds(Breach::Siblings, "setting blind 2\n 0 put a beside 3\n 9 final = a");
    passes("setting blind 2\n 0 put a beside 2\n 0 get = a\n 0 put b having 1 beside 3\n 9 final = b");
    // Who does not know how often nodes were cut off can't judge it.
    let script = play("setting blind 2\n 0 put a\n 0 put b\n 0 put c\n 9 final = a b c");
    assert_eq!(all(&script), []);
}

#[test]
fn settled_reads_agree() {
    passes("0 put a ?\n 9 settled = a\n 9 settled = a");
    finds(Breach::Diverged, "0 put a ?\n 9 settled = a\n 9 settled =");
    passes("0 put a ?\n 9 final = a\n 9 final =");
}

#[test]
fn a_value_is_there_until_its_time_and_not_after() {
    let put = "0 put a for 3000\n";
    passes(&format!("{put} wait 1000\n 0 get 0 = a\n wait 4000\n 0 get 0 =\n 9 final ="));
    finds(Breach::Expiry, &format!("{put} wait 1000\n 0 get 0 =\n wait 4000\n 9 final ="));
    finds(Breach::Expiry, &format!("{put} wait 4000\n 1 get = a\n 9 final ="));
    finds(Breach::Lost, &format!("{put} 9 final ="));
    // Around its time either is right, and a reader who asks for nothing may miss it earlier.
    passes(&format!("{put} wait 2800\n 0 get 0 =\n 0 get 0 = a\n wait 2000\n 9 final ="));
    passes(&format!("{put} 1 get =\n wait 5000\n 9 final ="));
    // It may be overwritten before.
    passes(&format!("{put} 1 get = a\n 1 put b having 1\n 0 get 0 = b\n 9 final = b"));
}

#[test]
fn a_lifetime_of_unknown_begin_runs_from_when_it_was_first_seen() {
    let put = "0 put a for 3000 ?\n";
    passes(&format!("{put} wait 60000\n 1 get = a\n wait 2000\n 1 get = a\n wait 5000\n 9 final ="));
    finds(Breach::Expiry, &format!("{put} 1 get = a\n wait 60000\n 1 get = a\n 9 final ="));
}

#[test]
fn a_cart_keeps_every_add() {
    let adds = "0 add mug 1\n 1 add mug 2\n";
    passes(&format!("{adds} 9 cart final = mug*3 total*3"));
    finds(Breach::Lost, &format!("{adds} 9 cart final = mug*1 total*1"));
    finds(Breach::Lost, &format!("{adds} 9 cart final = total*0"));
    // What is no sum of adds is wrong, and shows none of them.
    let breaches: Vec<Breach> =
        by("0 add mug 1\n 9 cart final = mug*3 total*3").iter().map(|v| v.breach).collect();
    assert_eq!(breaches, [Breach::Lost, Breach::Wrong]);
    passes("0 add mug 1 ?\n 9 cart final = mug*1 total*1");
    passes("0 add mug 1 ?\n 9 cart final = total*0");
    finds(Breach::Dishonest, "0 add mug 1 !\n 9 cart final = mug*1 total*1");
    finds(Breach::Wrong, "0 add mug 1\n 9 cart final = mug*1 tea*1 total*2");
}

#[test]
fn a_cart_loses_what_was_seen_when_it_was_removed_and_nothing_else() {
    let removed =
        "0 add mug 1\n 1 cart = mug*1 total*1\n 0 add mug 2\n 0 add tea 1\n 1 remove mug having 1\n";
    passes(&format!("{removed} 9 cart final = mug*2 tea*1 total*3"));
    finds(Breach::Revived, &format!("{removed} 9 cart final = mug*3 tea*1 total*4"));
    finds(Breach::Lost, &format!("{removed} 9 cart final = tea*1 total*1"));
    finds(Breach::Lost, &format!("{removed} 9 cart final = mug*2 total*2"));
    let set = "0 add mug 1\n 1 cart = mug*1 total*1\n 0 add mug 2\n 1 set mug 4 having 1\n";
    passes(&format!("{set} 9 cart final = mug*6 total*6"));
    finds(Breach::Revived, &format!("{set} 9 cart final = mug*7 total*7"));
    let emptied =
        "0 add mug 1\n 0 add tea 1\n 1 cart = mug*1 tea*1 total*2\n 0 add tea 2\n 1 empty having 2\n";
    passes(&format!("{emptied} 9 cart final = tea*2 total*2"));
    finds(Breach::Revived, &format!("{emptied} 9 cart final = mug*1 tea*2 total*3"));
}

#[test]
fn a_cart_shows_what_its_reader_knows() {
    passes("0 add mug 1\n 0 cart 0 = mug*1 total*1\n 9 cart final = mug*1 total*1");
    finds(Breach::Stale, "0 add mug 1\n 0 cart 0 = total*0\n 9 cart final = mug*1 total*1");
    let removed = "0 add mug 1\n 0 cart = mug*1 total*1\n 0 remove mug having 1\n";
    finds(Breach::Stale, &format!("{removed} 0 cart 2 = mug*1 total*1\n 9 cart final = total*0"));
}

#[test]
fn a_sum_is_never_below_nothing_and_counts_what_was_taken_away() {
    let takes = "0 add mug 1\n 1 add mug -4\n 0 add mug 8\n";
    passes(&format!("{takes} 9 cart final = mug*5 total*5"));
    finds(Breach::Cart, &format!("{takes} 9 cart final = mug*9 total*9"));
    finds(Breach::Cart, &format!("{takes} 9 cart final = mug*4 total*4"));
    finds(Breach::Cart, &format!("{takes} 9 cart final = total*0"));
    finds(Breach::Cart, &format!("{takes} 0 cart = mug*6 total*6\n 9 cart final = mug*5 total*5"));
    finds(Breach::Cart, "0 add mug 1\n 1 add mug -4\n 9 cart final = mug*-3 total*-3");
    passes("0 add mug 1\n 1 add mug -4\n 9 cart final = total*0");
    passes("0 add mug 1\n 1 add mug -4 ?\n 9 cart final = total*0");
    passes("0 add mug 1\n 1 add mug -4 ?\n 9 cart final = mug*1 total*1");
    finds(Breach::Cart, "0 add mug 1\n 1 add mug -4 !\n 9 cart final = total*0");
    // Whoever empties the cart may have seen any of it.
    passes(
        "0 add mug 1\n 1 add mug -4\n 0 add mug 8\n 1 cart = mug*5 total*5\n 1 empty having 3\n 9 cart final = total*0",
    );
}

#[test]
fn a_cart_adds_up() {
    finds(Breach::Cart, "0 add mug 1\n 9 cart final = mug*1 total*2");
    finds(Breach::Cart, "0 add mug 1\n 0 cart = mug*1 mug*1 total*2\n 9 cart final = mug*1 total*1");
}

#[test]
fn a_counter_counts_each_increment_once() {
    let twice = "setting slots -\n 0 put a:1\n 0 put b:2 having 0\n";
    passes(&format!("{twice} 9 final = b:2"));
    passes(&format!("{twice} 0 put c:3 having 1 ?\n 9 final = b:2"));
    passes(&format!("{twice} 0 put c:3 having 1 ?\n 9 final = c:3"));
    // The client itself built on a state that had lost one.
    finds(Breach::Counter, "setting slots -\n 0 put a:1\n 0 put b:1 having 0\n 9 final = b:1");
    finds(Breach::Counter, "setting slots -\n 0 put a:2\n 9 final = a:2");
}

#[test]
fn what_is_no_history_is_not_called_fine() {
    let mut entries = play("0 put a\n 9 final = a");
    entries.remove(0);
    assert_eq!(all(&entries)[0].breach, Breach::Unjudged);
}

#[test]
fn counts_say_what_became_of_everything() {
    let entries = play("0 put a\n 0 put b !\n 0 put c ?\n 1 get = a c\n begin 1 get\n 9 final = a");
    let counts = count(&entries, None);
    assert_eq!((counts.tried, counts.acknowledged, counts.failed, counts.unknown), (6, 3, 1, 2));
    assert_eq!((counts.writes, counts.reads, counts.siblings_max), (1, 2, 2));
    assert_eq!(count(&entries, Some("other")), Counts::default());
}

/// One writer who goes on from what he wrote before, thirty thousand times. Each value is followed through all that came after it, and
/// that must not take longer than the run did.
#[test]
fn a_long_history_is_judged_as_fast_as_a_short_one() {
    let writes = 30_000;
    let next = |at| format!("1 put v{at} having {}\n", at - 1);
    let script: String = std::iter::once("1 put v0\n".to_owned()).chain((1..writes).map(next)).collect();
    passes(&format!("{script}{}", format!("9 final = v{}\n", writes - 1).repeat(5)));
    let found = by(&format!("{script}9 final = v{}\n", writes - 2));
    assert_eq!(found.first().map(|found| found.breach), Some(Breach::Lost));
}

/// The same where each read must show what was acknowledged before it.
#[test]
fn a_long_history_of_majorities_is_judged_as_fast() {
    let writes = 2_000_usize;
    let next = |at: usize| format!("1 put v{at} having {}\n2 get = v{at}\n", (2 * at).saturating_sub(3));
    let script: String =
        std::iter::once("strict\n1 put v0\n".to_owned()).chain((1..writes).map(next)).collect();
    let last = format!("9 final = v{}\n", writes - 1);
    passes(&format!("{script}{last}"));
    let found = by(&format!("{script}2 get = v{}\n{last}", writes - 2));
    assert!(!found.is_empty() && found.iter().all(|found| found.breach == Breach::Stale));
}
