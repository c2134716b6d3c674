//! Coming in: a node with seeds asks them for the cluster's key and view. Asking never ends: seeds may start later than the
//! node. What it owns then is a change like any other (`shape.rs`): its own, unless it is to wait for an operator's.

use crate::limits::{JOIN_AGAIN, JOIN_TIMEOUT};
use crate::node::serve::Welcome;
use crate::peer::Pool;
use crate::world::World;
use bytes::Bytes;
use ring::members::Description;
use ring::wire::peer::{Answer, Ask, Message};

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
