//! Old copies and their mark in the lane.

use super::*;
use crate::lane::{Sift, Still};
use ring::causal::epochs::LEASE_MAX;
use tokio::sync::oneshot;

/// The others have a newer version, or none: it takes the place of the old one with nothing of its clock, and only while the
/// copy is what was compared.
#[tokio::test]
async fn an_old_copy_becomes_what_the_others_have_and_is_set_aside() {
    let (bench, other) = (Bench::on(MemDisk::new()), Bench::on(MemDisk::new()));
    let id = id("old");
    bench.put(&id, "old", None, true).await.unwrap();
    other.put(&id, "newer", None, true).await.unwrap();
    bench.hint(&id).await;
    let (old, newer) = (bench.bytes(&id).unwrap(), other.bytes(&id).unwrap());
    let sift = |held: &Bytes, record: Option<Bytes>, aside| Sift {
        id: id.clone(),
        held: Some(digest(held)),
        record,
        aside,
        hints: vec![OTHER],
    };
    let run = async |sift| bench.lane.run(|reply| Job::Sift(sift, reply)).await.unwrap();
    assert!(!run(sift(&newer, None, true)).await, "that was compared with another copy");
    assert_eq!((bench.bytes(&id), bench.has_hint(&id)), (Some(old.clone()), true));
    assert!(run(sift(&old, Some(newer.clone()), true)).await);
    assert_eq!((bench.bytes(&id), bench.has_hint(&id)), (Some(newer.clone()), false));
    let aside = keys::aside_key(partition(position(&id), PARTITIONS), &id);
    assert_eq!(bench.store.get(Family::Meta, &aside).unwrap(), Some(old));
    assert!(run(sift(&newer, None, false)).await);
    assert_eq!((bench.bytes(&id), bench.store.get(Family::Leaves, &leaf_of(&id)).unwrap()), (None, None));
}

/// The others are told of a lease only once the disk knows it, and knows that they were.
#[tokio::test]
async fn a_lease_is_raised_durably() {
    let bench = Bench::on(MemDisk::new());
    let raise = async |holds| {
        let still = Still::if_so(move || holds);
        bench.lane.run(|reply| Job::Raise { still, reply }).await.unwrap()
    };
    assert_eq!(raise(false).await, None, "something was heard meanwhile that is to be answered for first");
    let number = |key: &[u8]| {
        bench.disk.row(Family::Meta, key).map(|b| u64::from_be_bytes(b.as_ref().try_into().unwrap()))
    };
    assert_eq!(number(keys::ASKED), None);
    let still = Still::if_so(|| false);
    assert_eq!(bench.lane.run(|reply| Job::Asked { still, reply }).await, Ok(false));
    assert_eq!(number(keys::ASKED), None);
    let raised = raise(true).await;
    assert!(raised.is_some());
    bench.disk.crash();
    assert_eq!((number(keys::EPOCH_LEASE), number(keys::ASKED)), (raised, raised));
}

/// Both in one batch, whichever comes first: a start on an image from before must find the lease that others were told of.
#[tokio::test]
async fn a_note_of_having_asked_lowers_no_lease_that_is_raised_beside_it() {
    for asks_first in [true, false] {
        let bench = Bench::on(MemDisk::new());
        let (asked, is_asked) = oneshot::channel();
        let (raise, is_raised) = oneshot::channel();
        let still = || Still::if_so(|| true);
        let mut jobs =
            [Job::Asked { still: still(), reply: asked }, Job::Raise { still: still(), reply: raise }];
        if !asks_first {
            jobs.reverse();
        }
        for job in jobs {
            bench.lane.submit(job).unwrap();
        }
        assert_eq!(is_asked.await.unwrap(), Ok(true));
        let raised = is_raised.await.unwrap().unwrap().unwrap();
        bench.disk.crash();
        let noted = bench.disk.row(Family::Meta, keys::ASKED).unwrap();
        assert_eq!(u64::from_be_bytes(noted.as_ref().try_into().unwrap()), raised, "{asks_first}");
    }
}

#[tokio::test]
async fn the_mark_of_an_old_disk_goes_only_as_it_was_made() {
    let mark = |bench: &Bench| {
        let mark = bench.store.get(Family::Meta, keys::BEHIND).unwrap();
        mark.map(|bytes| u64::from_be_bytes(bytes.as_ref().try_into().unwrap()))
    };
    let bench = Bench::on(MemDisk::new());
    let jump = async |remembered| bench.lane.run(|reply| Job::Jump { remembered, reply }).await;
    let boot = || bench.store.get(Family::Meta, keys::EPOCH_BOOT).unwrap();
    assert_eq!((jump(5).await, mark(&bench)), (Ok(1029), Some(1029)));
    let before = boot();
    assert_eq!((jump(7).await, mark(&bench)), (Ok(2053), Some(2053)), "beyond what was taken here too");
    assert_ne!(boot(), before, "and nothing from before is continued");
    for beyond in [LEASE_MAX / 2, u64::MAX] {
        assert!(matches!(jump(beyond).await, Err(Refusal::Unavailable(_))));
    }
    bench.disk.crash();
    let again = Bench::on(bench.disk);
    assert_eq!(mark(&again), Some(2053));
    let sifted = async |mark| again.lane.run(|reply| Job::Sifted { mark, reply }).await.unwrap();
    assert!(!sifted(1029).await, "another was made since");
    assert_eq!(mark(&again), Some(2053));
    assert!(sifted(2053).await);
    assert_eq!(mark(&again), None);
}
