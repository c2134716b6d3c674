//! What the failure detector passes on of what links know.

use super::*;
use crate::bench::{Bench, ME, Peer};
use crate::limits::{LATE_AFTER, LOOK_EVERY};

/// Whoever plans a request knows who is late: also of somebody who was so before the detector began.
#[tokio::test(start_paused = true)]
async fn who_is_late_is_known_where_requests_are_planned() {
    let other = Peer::new(11);
    let bench = Bench::start(1, &[ME, other.id], &[&other]).await;
    let node = &bench.node;
    let ask = async || node.ask(other.id, Message::of(Ask::Gossip { digest: 0 }), 3 * LATE_AFTER).await;
    let known = async |is_late: bool| {
        let holds = async {
            while node.cluster.late().contains(&other.id) != is_late {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(LOOK_EVERY, holds).await.unwrap_or_else(|_| panic!("not {is_late}"));
    };
    let mend = bench.cut(&other);
    while !node.pool.late().borrow().contains(&other.id) {
        assert!(ask().await.is_err());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    known(false).await;
    let (_stop, stopping) = watch::channel(false);
    let (_inbox, messages) = mpsc::channel(1);
    let detector = tokio::spawn(run(node.clone(), 1, messages, stopping));
    known(true).await;
    mend();
    while ask().await.is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    known(false).await;
    detector.abort();
}
