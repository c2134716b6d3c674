//! Coming in: a node with seeds asks them for the cluster's key and view. Asking never ends: seeds may start later than the
//! node. What it owns then is a change like any other (`shape.rs`): its own, unless it is to wait for an operator's.

use crate::limits::{JOIN_AGAIN, JOIN_REFUSED_AGAIN, JOIN_TIMEOUT};
use crate::node::serve::{Newcomer, Welcome};
use crate::peer::Pool;
use crate::world::World;
use bytes::Bytes;
use ring::wire::peer::{Answer, Ask, Message, Refusal};
use tokio::sync::watch;

/// Asks the seeds in turn until one lets us in, who are `me`. `waits` is told what they say.
pub async fn enter<W: World>(
    pool: &Pool<W>,
    seeds: &[String],
    me: &Newcomer,
    waits: &watch::Sender<String>,
) -> Welcome {
    let body = me.bytes();
    loop {
        let mut again = JOIN_AGAIN;
        for seed in seeds {
            let why = match ask_seed(pool, seed, body.clone()).await {
                Ok(welcome) => return welcome,
                Err(why) => why,
            };
            if matches!(why, NotYet::Refused(_)) {
                again = JOIN_REFUSED_AGAIN;
            }
            let why = format!("this node waits to be let into a cluster; its seed {seed} says: {why}");
            // The same word again and again is said once.
            if *waits.borrow() != why {
                tracing::info!("{why}");
                waits.send_replace(why);
            }
        }
        tokio::time::sleep(again).await;
    }
}

/// Why a seed has not let us in.
#[derive(Debug, thiserror::Error)]
enum NotYet {
    /// It won't.
    #[error("{0}")]
    Refused(Refusal),
    /// It could not.
    #[error("{0}")]
    Failed(String),
}

async fn ask_seed<W: World>(pool: &Pool<W>, seed: &str, body: Bytes) -> Result<Welcome, NotYet> {
    let failed = |why: &dyn std::fmt::Display| NotYet::Failed(why.to_string());
    let ask = Message { head: Ask::Join, body }.encode();
    let (_, answer) = pool.call_address(seed, ask, JOIN_TIMEOUT).await.map_err(|e| failed(&e))?;
    let answer: Message<Answer> = Message::decode(&answer).map_err(|e| failed(&e))?;
    match answer.head {
        Answer::Welcome => Welcome::read(&answer.body).map_err(|e| failed(&e)),
        Answer::Refused(refusal @ Refusal::NotAdmitted(_)) => Err(NotYet::Refused(refusal)),
        Answer::Refused(refusal) => Err(failed(&refusal)),
        _ => Err(failed(&"an answer that does not fit")),
    }
}
