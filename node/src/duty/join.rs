//! Coming in: a node with seeds asks them for the cluster's key and view, then fills itself, then takes its share.
//!
//! ```text
//!   no cluster ── Welcome ──► joining ── every member knows ──► pull all partitions ──► up
//! ```
//!
//! Asking never ends: seeds may start later than the node. While it is being filled it is sent every write and answers no
//! read; it pulls only after every member that can be reached knows of it, so a write is either in what it pulls or sent to
//! it. Rows end in the same merge as everything else, so pulling twice, or after a crash in the middle, does no harm.

use crate::limits::{JOIN_AGAIN, JOIN_TIMEOUT, JOIN_UNREACHABLE_MAX, PULL_TIMEOUT, PULLS_IN_FLIGHT};
use crate::node::Node;
use crate::node::serve::{Rows, Welcome};
use crate::peer::Pool;
use crate::world::World;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use ring::ids::{NodeId, Partition};
use ring::members::{Description, Status};
use ring::wire::peer::{Answer, Ask, Message};
use tokio::sync::watch;

/// Asks the seeds in turn until one lets us in.
pub async fn enter<W: World>(pool: &Pool<W>, seeds: &[String], me: &Description) -> Welcome {
    let body = Bytes::from(postcard::to_stdvec(me).expect("a description is plain data"));
    let mut said = None;
    loop {
        for seed in seeds {
            match ask_seed(pool, seed, body.clone()).await {
                Ok(welcome) => return welcome,
                // The same word again and again is said once.
                Err(why) if said.as_ref() != Some(&why) => {
                    tracing::info!(seed, why, "not let in yet");
                    said = Some(why);
                }
                Err(_) => {}
            }
        }
        tokio::time::sleep(JOIN_AGAIN).await;
    }
}

async fn ask_seed<W: World>(pool: &Pool<W>, seed: &str, body: Bytes) -> Result<Welcome, String> {
    let ask = Message { head: Ask::Join, body }.encode();
    let (_, answer) = pool.call_address(seed, ask, JOIN_TIMEOUT).await.map_err(|e| e.to_string())?;
    let answer: Message<Answer> = Message::decode(&answer).map_err(|e| e.to_string())?;
    match answer.head {
        Answer::Welcome => postcard::from_bytes(&answer.body).map_err(|e| e.to_string()),
        Answer::Refused(refusal) => Err(refusal.to_string()),
        _ => Err("an answer that does not fit".into()),
    }
}

/// Fills a joining node and declares it up. Does nothing for one that is up already.
pub async fn fill<W: World>(node: Node<W>, mut shutdown: watch::Receiver<bool>) {
    tokio::select! {
        biased;
        _ = shutdown.changed() => {}
        () = fill_all(&node) => {}
    }
}

async fn fill_all<W: World>(node: &Node<W>) {
    if !node.is_joining() {
        return;
    }
    let snapshot = node.cluster.snapshot();
    let owners: Vec<NodeId> = snapshot.table.nodes().iter().copied().filter(|n| *n != node.id()).collect();
    make_known(node, &owners).await;
    let pulls = (0..snapshot.view.partitions).map(Partition);
    let mut filled =
        stream::iter(pulls).map(|p| fill_partition(node, p, &owners)).buffer_unordered(PULLS_IN_FLIGHT);
    let mut rows = 0;
    while let Some(count) = filled.next().await {
        rows += count;
    }
    let up = node.cluster.update(|view| view.set_status(node.id(), Status::Up).map(drop));
    match up {
        Ok(_) => tracing::info!(rows, "this node is filled and takes its share"),
        Err(error) => tracing::error!(%error, "this node can't become a full member"),
    }
}

/// Waits until every member has our view, which names us; one that can't be reached is not waited for for ever.
async fn make_known<W: World>(node: &Node<W>, owners: &[NodeId]) {
    let until = node.now() + JOIN_UNREACHABLE_MAX;
    for owner in owners {
        while !super::gossip::exchange(node, *owner).await && node.now() < until {
            tokio::time::sleep(JOIN_AGAIN).await;
        }
    }
}

/// Pulls a partition from everybody who may hold some of it: one owner alone may have missed a write.
async fn fill_partition<W: World>(node: &Node<W>, partition: Partition, owners: &[NodeId]) -> usize {
    let mut rows = 0;
    for owner in owners {
        let mut after = None;
        loop {
            let ask = Ask::Pull { partition, after: after.clone() };
            let Ok(Message { head: Answer::Rows { more }, body }) =
                node.ask(*owner, Message::of(ask), PULL_TIMEOUT).await
            else {
                tracing::warn!(%owner, partition = partition.0, "a partition could not be pulled from a member");
                break;
            };
            let Ok(page) = postcard::from_bytes::<Rows>(&body) else { break };
            for (id, record) in page {
                if let Err(refusal) = node.merge_here(id.clone(), Bytes::from(record), None, true).await {
                    tracing::warn!(%refusal, "a row could not be merged");
                }
                after = Some(id);
                rows += 1;
            }
            if !more {
                break;
            }
        }
    }
    rows
}
