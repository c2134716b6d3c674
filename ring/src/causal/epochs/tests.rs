//! An epoch is issued once, whatever a process loses when it dies.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

proptest! {
    #[test]
    fn no_epoch_is_issued_twice(lives in proptest::collection::vec((0..30_u64, 0..3_u64, any::<bool>()), 1..12)) {
        let (mut leased, mut boot) = (0, 0);
        let mut issued = BTreeSet::new();
        for (draws, renewals, lost) in lives {
            let before = issued.last().copied().unwrap_or(0);
            let mut epochs = Epochs::at_start(leased + 1, boot, lost);
            for _ in 0..=renewals {
                for _ in 0..draws {
                    let epoch = epochs.fresh();
                    prop_assert!(epoch > 0 && epoch >= epochs.boot());
                    prop_assert!(issued.insert(epoch), "{} twice", epoch);
                }
                epochs.renewed(epochs.taken() + 1);
            }
            (leased, boot) = (epochs.lease(), epochs.boot());
            if lost {
                prop_assert!(epochs.boot() > before, "what was issued before the loss is barred");
            }
        }
    }

    /// A directory goes back to any earlier state of itself, and somebody remembers the last start before that.
    #[test]
    fn a_jump_leads_past_everything_that_was_ever_issued(starts in 1..40_u64, back in 1..40_u64, draws in 1..50_u64) {
        let mut issued = BTreeSet::new();
        for lease in 1..=starts {
            let mut epochs = Epochs::at_start(lease, 0, false);
            (0..draws).for_each(|_| { issued.insert(epochs.fresh()); });
        }
        let mut restored = Epochs::at_start(back.min(starts), 0, false);
        restored.jump(starts + JUMP);
        prop_assert!(issued.last().is_some_and(|last| *last < restored.boot()));
        prop_assert!(!issued.contains(&restored.fresh()));
    }
}

#[test]
fn what_a_loss_has_barred_stays_barred_after_a_clean_start() {
    let first = Epochs::at_start(1, 0, false);
    let second = Epochs::at_start(2, first.boot(), true);
    let third = Epochs::at_start(3, second.boot(), false);
    assert_eq!(first.boot(), 0);
    assert_eq!(second.boot(), first_of(2));
    assert_eq!(third.boot(), second.boot());
}

#[test]
fn an_exhausted_lease_issues_nothing() {
    let mut epochs = Epochs::at_start(1, 0, false);
    epochs.next = first_of(2) - 1;
    assert_eq!(epochs.left(), 1);
    epochs.fresh();
    assert_eq!(epochs.left(), 0);
    let exhausted = epochs.clone();
    assert!(std::panic::catch_unwind(move || exhausted.clone().fresh()).is_err());
    epochs.renewed(2);
    assert_eq!(epochs.fresh(), first_of(2));
}

/// A directory is put back and starts under the lease of a start that it has forgotten.
#[test]
fn two_lives_of_one_lease_issue_different_epochs_and_know_each_others() {
    let mut forgotten = Epochs::at_start(7, 0, false).scattered(1000);
    let mut put_back = Epochs::at_start(7, 0, false).scattered(9000);
    let (before, now) = (forgotten.fresh(), put_back.fresh());
    assert_ne!(before, now);
    assert!(put_back.is_foreign(before) && forgotten.is_foreign(now));
    assert!(
        !put_back.is_foreign(now) && !put_back.is_foreign(first_of(7) - 1),
        "its own, and an earlier start's"
    );
    put_back.forsake();
    assert!(put_back.boot() <= now && put_back.boot() > before);
    put_back.jump(7 + JUMP);
    assert!(!put_back.is_foreign(before) && before < put_back.boot());
    let again = put_back.fresh();
    assert!(again >= put_back.boot() && !put_back.is_foreign(again));
}

#[test]
fn a_raised_lease_is_not_used_and_the_next_one_lies_beyond_it() {
    let mut epochs = Epochs::at_start(3, 0, false).scattered(u32::MAX);
    epochs.raised(4);
    assert!(epochs.fresh() < first_of(4) && epochs.taken() == 4 && epochs.lease() == 3);
    assert!(epochs.left() > 1 << 30, "half of the lease is left at worst");
    assert!(std::panic::catch_unwind(move || epochs.renewed(4)).is_err());
}
