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
            let mut epochs = Epochs::at_start(leased, boot, lost);
            (leased, boot) = (epochs.lease_end(), epochs.boot());
            for _ in 0..renewals {
                leased = epochs.lease_end() + LEASE_COUNT;
                epochs.renewed(leased);
            }
            for _ in 0..draws {
                let epoch = epochs.fresh();
                prop_assert!(epoch > 0 && epoch < leased && epoch >= epochs.boot());
                prop_assert!(issued.insert(epoch), "{} twice", epoch);
            }
            if lost {
                prop_assert!(epochs.boot() > before, "what was issued before the loss is barred");
            }
        }
    }
}

#[test]
fn what_a_loss_has_barred_stays_barred_after_a_clean_start() {
    let first = Epochs::at_start(0, 0, false);
    let second = Epochs::at_start(first.lease_end(), first.boot(), true);
    let third = Epochs::at_start(second.lease_end(), second.boot(), false);
    assert_eq!(first.boot(), 0);
    assert_eq!(second.boot(), first.lease_end());
    assert_eq!(third.boot(), second.boot());
}

#[test]
#[should_panic(expected = "renews the lease")]
fn an_exhausted_lease_issues_nothing() {
    let mut epochs = Epochs::at_start(0, 0, false);
    (0..=LEASE_COUNT).for_each(|_| {
        epochs.fresh();
    });
}
