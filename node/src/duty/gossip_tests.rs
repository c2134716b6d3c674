//! Whom a node asks that it does not hear itself.

use super::*;
use crate::bench::{Bench, Peer};
use std::time::Duration;

/// One of many. By chance alone it would be asked every quarter of a minute.
const PEERS: u128 = 30;
/// A question, a dial that was put off, and a round of gossip.
const NOTICED: Duration = Duration::from_secs(3);

/// Nobody asks whom he doubts, so nobody would learn that the link is back.
#[tokio::test(start_paused = true)]
async fn who_is_mute_is_asked_again_and_again() {
    let peers: Vec<Peer> = (11..11 + PEERS).map(Peer::new).collect();
    let bench = Bench::start(1, &[peers[0].id], &peers.iter().collect::<Vec<_>>()).await;
    let (_stop, stopping) = watch::channel(false);
    let mute = &peers[7];
    for _ in 0..5 {
        let mend = bench.cut(mute);
        while !bench.node.pool.mute().borrow().contains(&mute.id) {
            assert_eq!(exchange(&bench.node, mute.id).await, None);
            tokio::time::sleep(GOSSIP_EVERY).await;
        }
        let duty = tokio::spawn(run(bench.node.clone(), vec![], stopping.clone()));
        tokio::time::sleep(10 * GOSSIP_EVERY).await;
        let asked_before = mute.gossip();
        mend();
        let (begun, mut heard) = (bench.node.now(), bench.node.pool.mute());
        heard.wait_for(|set| set.is_empty()).await.unwrap();
        assert!(bench.node.now() - begun < NOTICED, "it took {:?}", bench.node.now() - begun);
        assert!(mute.gossip() > asked_before);
        duty.abort();
        bench.node.pool.remove_peer(mute.id);
        introduce(&bench.node);
    }
}
