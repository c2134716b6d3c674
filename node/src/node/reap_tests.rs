//! What a member says when it is asked whether a deletion may be forgotten.

use crate::bench::{Bench, ME, ids};
use crate::lane::Job;
use ring::ids::NodeId;
use ring::wire::record::digest;
use std::collections::BTreeSet;

const AWAY: NodeId = NodeId(11);

/// The deletion is just what its owner may not have heard of yet; and a copy that a hint of before would bring him is no reason to keep
/// it any longer once the hint is gone.
#[tokio::test(start_paused = true)]
async fn a_deletion_is_not_forgotten_while_a_hint_of_its_key_waits() {
    let bench = Bench::start(1, &[ME, AWAY], &[]).await;
    let id = &ids(1)[0];
    bench.put(id, 10, None).await;
    let dead = digest(&bench.delete(id).await);
    let (node, now) = (&bench.node, bench.node.wall());
    let keep = |reply| Job::KeepHint { id: id.clone(), owner: AWAY, now, reply };
    assert_eq!(node.lane.run(keep).await, Ok(true));
    let leaves = vec![(id.clone(), dead)];
    let told = node.say_reapable(&leaves).await.unwrap();
    assert_eq!((told.unlike, told.hinted), (BTreeSet::new(), BTreeSet::from([0])));
    assert_eq!(node.reap_here(leaves.clone()).await, Ok(BTreeSet::from([0])), "it stays");
    assert_eq!(bench.kept(), std::slice::from_ref(id));
    let (regime, delivered) = (node.table_tag().digest, Some(dead));
    let arrives = |reply| Job::DropHint {
        id: id.clone(),
        owner: AWAY,
        delivered,
        drop_copy_unless: None,
        regime,
        reply,
    };
    assert_eq!(node.lane.run(arrives).await, Ok(true));
    assert!(node.say_reapable(&leaves).await.unwrap().hinted.is_empty());
    assert_eq!(node.reap_here(leaves).await, Ok(BTreeSet::new()));
    assert!(bench.kept().is_empty(), "it goes");
}
