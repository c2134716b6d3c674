//! Hints as others meet them: what comes in for this node, and how far the deliveries to others are.

use super::Node;
use super::serve::Rows;
use crate::lane::Ledger;
use crate::limits::{
    HINT_CREDIT_BUSY, HINT_CREDIT_IDLE, HINT_PAUSE_BUSY, HINT_PAUSE_FELT, HINT_ROWS_MAX, PULL_MERGES,
};
use crate::world::World;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use ring::ids::NodeId;
use ring::time::Time;
use ring::wire::peer::{Answer, Message, Refusal};
use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

/// What the delivery to one node is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// Nothing is under way.
    #[default]
    Idle,
    /// Records are on their way.
    Delivering,
    /// The target can't be reached.
    Waiting,
    /// The last try failed.
    BackingOff,
}

impl State {
    /// In the API's words.
    pub fn name(self) -> &'static str {
        match self {
            State::Idle => "idle",
            State::Delivering => "delivering",
            State::Waiting => "waiting",
            State::BackingOff => "backing_off",
        }
    }
}

/// The delivery to one node.
#[derive(Debug, Clone, Default)]
pub struct Delivery {
    /// What it is at.
    pub state: State,
    /// Tries that have failed since one succeeded.
    pub failures: u32,
    /// When it is tried again.
    pub not_before: Time,
    /// Why the last try failed.
    pub error: Option<String>,
}

impl<W: World> Node<W> {
    pub(crate) fn lock_hints(&self) -> MutexGuard<'_, Ledger> {
        self.hints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lock_deliveries(&self) -> MutexGuard<'_, BTreeMap<NodeId, Delivery>> {
        self.deliveries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Merges many records at once, and says how many more may come: few while clients or other nodes wait for this one.
    pub(crate) async fn answer_store_many(&self, body: &Bytes) -> Result<Message<Answer>, Refusal> {
        let rows: Rows = postcard::from_bytes(body).map_err(|error| Refusal::Malformed(error.to_string()))?;
        if rows.len() > HINT_ROWS_MAX {
            return Err(Refusal::Malformed("too many records at once".into()));
        }
        let merges = (0..).zip(rows).map(|(at, (id, record))| async move {
            (at, self.merge_here(id, Bytes::from(record), None, true).await)
        });
        let mut merged = stream::iter(merges).buffer_unordered(PULL_MERGES);
        let mut failed: Vec<u16> = Vec::new();
        while let Some((at, durable)) = merged.next().await {
            if durable != Ok(true) {
                failed.push(at);
            }
        }
        let (credit, pause) = match (self.is_busy(), self.pace.is_felt()) {
            (true, true) => (HINT_CREDIT_BUSY, HINT_PAUSE_FELT),
            (true, false) => (HINT_CREDIT_BUSY, HINT_PAUSE_BUSY),
            (false, _) => (HINT_CREDIT_IDLE, Duration::ZERO),
        };
        let pause_ms = u32::try_from(pause.as_millis()).unwrap_or(u32::MAX);
        Ok(Message::of(Answer::StoredMany { failed, credit, pause_ms }))
    }
}
