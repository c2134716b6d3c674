//! Taking over from real owners: one whose disk is full, and after a start that has lost what was fetched.

use super::*;
use crate::bench::{Bench, ME, ids};
use crate::duty::{exchange, shape};
use ring::members::Status;
use std::sync::atomic::Ordering;

const OWNER: NodeId = NodeId(11);
const KEYS: usize = 20;

/// A node that takes over what another one owns, both of them acting by the same tables; and that other one, which holds all keys.
async fn taking_over(partitions: u16) -> (Bench, Bench) {
    let bench = Bench::start(partitions, &[OWNER], &[]).await;
    let owner = bench.beside(OWNER).await;
    for id in ids(KEYS) {
        owner.put(&id, 10, None).await;
    }
    for one in [&bench, &owner] {
        one.update(|view| {
            view.set_status(ME, Status::Up).unwrap();
        });
        let regime = one.node.cluster.snapshot().regime.name().digest;
        for id in [ME, OWNER] {
            one.update(|view| assert!(view.act(id, regime, false)));
        }
        exchange::build(&one.node).await;
    }
    assert_eq!(bench.node.table_tag(), owner.node.table_tag());
    (bench, owner)
}

#[tokio::test(start_paused = true)]
async fn an_owner_whose_disk_is_full_stands_in_no_change_s_way() {
    let (bench, owner) = taking_over(1).await;
    let newer = &ids(KEYS + 1)[KEYS];
    bench.put(newer, 10, None).await;
    owner.node.crowded.store(true, Ordering::Relaxed);
    assert!(fetch_all(&bench.node).await, "{:?}", bench.node.lock_gain().reason);
    assert_eq!(bench.kept().len(), KEYS + 1);
    assert_eq!(owner.kept().len(), KEYS, "the owner is given nothing");
}

/// The view says that it is done, and that came from the others: what this disk had when it said so is gone.
#[tokio::test(start_paused = true)]
async fn what_an_earlier_start_has_said_is_looked_at_again() {
    let (bench, _owner) = taking_over(1).await;
    let regime = bench.node.cluster.snapshot().regime.name().digest;
    bench.update(|view| assert!(view.act(ME, regime, true)));
    let is_done = || bench.node.cluster.snapshot().view.members[&ME].acting.done;
    shape::take_part(&bench.node).await;
    assert!(!is_done() && bench.kept().is_empty(), "it takes its word back");
    shape::take_part(&bench.node).await;
    assert!(is_done());
    assert_eq!(bench.kept().len(), KEYS);
    shape::take_part(&bench.node).await;
    assert!(is_done(), "and keeps the new one");
}

/// A disk that may be behind what the others know has the node take part in nothing, and is the one whose word of before holds least.
#[tokio::test(start_paused = true)]
async fn a_node_that_may_be_behind_takes_its_word_back_first() {
    let (bench, _owner) = taking_over(1).await;
    let regime = bench.node.cluster.snapshot().regime.name().digest;
    bench.update(|view| assert!(view.act(ME, regime, true)));
    bench.node.past.hear_of(u64::from(u32::MAX));
    assert!(bench.node.past.silence().is_some());
    shape::take_part(&bench.node).await;
    assert!(!bench.node.cluster.snapshot().view.members[&ME].acting.done);
}

/// It may have all of it by now; but until everybody acts by the new table, nobody's answer may hang on that.
#[tokio::test(start_paused = true)]
async fn who_takes_over_is_asked_for_no_copy_before_the_change_is_over() {
    let (bench, _owner) = taking_over(1).await;
    let snapshot = bench.node.cluster.snapshot();
    let plan = bench.node.cluster.plan(&snapshot, &ids(1)[0]);
    assert_eq!((plan.owners, plan.pending), (vec![OWNER], vec![ME]));
    let read = bench.node.held(&ids(1)[0], true);
    assert!(matches!(read, Err(Refusal::Unavailable(_))), "it does not say that there is nothing: {read:?}");
}

/// The change was called off, or is another one now, while this node fetches: it does not fetch on for hours by tables of before.
#[tokio::test(start_paused = true)]
async fn a_fetch_ends_when_its_tables_do() {
    let (bench, _owner) = taking_over(64).await;
    let snapshot = bench.node.cluster.snapshot();
    let groups = (0..64).map(|number| Group { partition: Partition(number), n: 3 });
    let mut wanted = Wanted {
        sources: groups.map(|group| (group, vec![OWNER])).collect(),
        heard: BTreeMap::new(),
        by: (0, snapshot.ns.tag()),
        failed: BTreeMap::new(),
        full: false,
    };
    fetch_from(&bench.node, OWNER, &mut wanted).await;
    assert!(bench.kept().len() < KEYS && !wanted.is_wanted_still(&bench.node), "{}", bench.kept().len());
    wanted.by = (snapshot.regime.name().digest, 0);
    fetch_from(&bench.node, OWNER, &mut wanted).await;
    assert!(!wanted.is_wanted_still(&bench.node), "a bucket got another n");
    wanted.by.1 = snapshot.ns.tag();
    fetch_from(&bench.node, OWNER, &mut wanted).await;
    assert_eq!(bench.kept().len(), KEYS);
}
