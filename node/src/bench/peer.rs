//! A peer that answers as it is told: real from its port on, and behind that a list of what it holds.

use crate::limits::MUTE_AFTER;
use crate::peer::frame::{Header, Kind};
use crate::peer::{Handler, PeerIdentity};
use bytes::Bytes;
use ring::ids::{NodeId, ObjectId};
use ring::tree::Leaf;
use ring::wire::peer::{Answer, Ask, Message};
use ring::wire::record::{Digest, digest};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// What a peer holds, and how it is to be reached.
#[derive(Default)]
struct Held {
    records: BTreeMap<ObjectId, Digest>,
    /// Hints that it was asked to keep.
    hints: Vec<(ObjectId, NodeId)>,
    /// Bytes that its link carries in a second; 0: any number.
    bytes_per_second: u64,
    /// Since when the link has been full, and when it will have carried everything that was sent so far.
    full_since: Option<Instant>,
    free_at: Option<Instant>,
    refuses: bool,
    /// How often somebody began to gossip with it.
    gossip: usize,
}

/// A peer that answers as it is told. Clones are the same.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    held: Arc<Mutex<Held>>,
}

impl Peer {
    pub(crate) fn new(id: u128) -> Peer {
        Peer { id: NodeId(id), held: Arc::default() }
    }

    /// From now on its link carries so many bytes in a second, one message after the other, and what is sent meanwhile waits.
    pub(crate) fn narrow(&self, bytes_per_second: u64) {
        let mut held = self.held.lock().unwrap();
        (held.bytes_per_second, held.free_at) = (bytes_per_second, None);
    }

    /// Whether nothing could be heard of it for too long, since its link is full.
    pub(super) fn is_mute(&self) -> bool {
        let (held, now) = (self.held.lock().unwrap(), Instant::now());
        let full = held.free_at.is_some_and(|at| at > now);
        full && held.full_since.is_some_and(|since| now - since >= MUTE_AFTER)
    }

    /// Whether it refuses what it is asked to keep.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.held.lock().unwrap().refuses = refuses;
    }

    pub(crate) fn hold(&self, id: &ObjectId, record: &[u8]) {
        self.held.lock().unwrap().records.insert(id.clone(), digest(record));
    }

    pub(crate) fn holds(&self, id: &ObjectId) -> bool {
        self.held.lock().unwrap().records.contains_key(id)
    }

    pub(crate) fn hints(&self) -> usize {
        self.held.lock().unwrap().hints.len()
    }

    pub(crate) fn gossip(&self) -> usize {
        self.held.lock().unwrap().gossip
    }

    fn answer(&self, ask: Message<Ask>) -> Option<Answer> {
        let mut held = self.held.lock().unwrap();
        let refused = || Some(Answer::Refused(ring::wire::peer::Refusal::Overloaded));
        match ask.head {
            Ask::Lacks => {
                let leaves: Vec<Leaf> = postcard::from_bytes(&ask.body).unwrap();
                let lacks = |(id, theirs): &Leaf| held.records.get(id) != Some(theirs);
                let lacking = (0..).zip(&leaves).filter(|(_, leaf)| lacks(leaf)).map(|(at, _)| at);
                Some(Answer::Lacking(lacking.collect()))
            }
            Ask::StoreMany | Ask::Store { .. } if held.refuses => refused(),
            Ask::StoreMany => {
                let rows: Vec<(ObjectId, Vec<u8>)> = postcard::from_bytes(&ask.body).unwrap();
                held.records.extend(rows.into_iter().map(|(id, record)| (id, digest(&record))));
                Some(Answer::StoredMany { failed: Vec::new(), credit: 1 << 20, pause_ms: 0 })
            }
            Ask::Store { id, hint_for: Some(target), .. } => {
                held.hints.push((id, target));
                Some(Answer::Stored { durable: true })
            }
            Ask::Store { id, hint_for: None, .. } => {
                held.records.insert(id, digest(&ask.body));
                Some(Answer::Stored { durable: true })
            }
            Ask::Mend { id } if !held.records.contains_key(&id) => Some(Answer::Absent),
            // It knows what everybody knows.
            Ask::Gossip { .. } => Some(Answer::Same),
            _ => None,
        }
    }
}

impl Handler for Peer {
    async fn handle(&self, _: &PeerIdentity, header: Header, body: Bytes) -> Option<Bytes> {
        let ask = Message::<Ask>::decode(&body).unwrap();
        let arrives = {
            let mut held = self.held.lock().unwrap();
            held.gossip += usize::from(matches!(ask.head, Ask::Gossip { .. }));
            let takes = match held.bytes_per_second {
                0 => Duration::ZERO,
                rate => Duration::from_secs_f64(body.len() as f64 / rate as f64),
            };
            let now = Instant::now();
            let begins = held.free_at.unwrap_or(now).max(now);
            if begins == now {
                held.full_since = Some(now);
            }
            let arrives = begins + takes;
            held.free_at = Some(arrives);
            arrives
        };
        // What comes too late is dropped by whoever it comes to.
        if arrives > Instant::now() + Duration::from_millis(u64::from(header.deadline_ms)) {
            return std::future::pending().await;
        }
        tokio::time::sleep_until(arrives).await;
        let answer = (header.kind == Kind::Request).then(|| self.answer(ask)).flatten()?;
        Some(Message::of(answer).encode())
    }
}
