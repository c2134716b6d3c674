//! What arrives on the peer port, on its way to the node.
//!
//! The port is served from the first moment, before the node has found its cluster, so that its address is known and two
//! nodes that wait for each other can say so; until then every question is answered with "not yet".

use crate::node::Node;
use crate::node::forward::Forwarded;
use crate::peer::Handler;
use crate::peer::PeerIdentity;
use crate::peer::frame::{Header, Kind};
use crate::world::World;
use bytes::Bytes;
use ring::ids::NodeId;
use ring::time::Time;
use ring::wire::peer::{Answer, Ask, Message, Refusal};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// Answers peers once the node is there.
pub struct Peers<W: World> {
    node: Arc<OnceLock<Node<W>>>,
    /// What was refused before.
    early: Arc<Mutex<Forwarded>>,
    swim: mpsc::Sender<Bytes>,
}

impl<W: World> Clone for Peers<W> {
    fn clone(&self) -> Self {
        Peers { node: Arc::clone(&self.node), early: Arc::clone(&self.early), swim: self.swim.clone() }
    }
}

impl<W: World> Peers<W> {
    /// Nobody to answer yet. `swim` takes the failure detector's messages.
    pub fn new(swim: mpsc::Sender<Bytes>) -> Self {
        Peers { node: Arc::default(), early: Arc::default(), swim }
    }

    /// From now on this node answers.
    pub fn serve(&self, node: Node<W>) {
        let mut early = self.lock_early();
        *node.lock_forwarded() = std::mem::take(&mut *early);
        assert!(self.node.set(node).is_ok(), "a node is put in once");
    }

    /// Whoever hands a write over hears that nothing was done, so nothing is done about it later; unless the node is there by now.
    fn refuse_early(&self, from: NodeId, ask: &Ask) -> Option<&Node<W>> {
        let mut early = self.lock_early();
        if self.node.get().is_none()
            && let Ask::Forward(forward) = ask
        {
            // Its clock is not known here; to it the beginning is long ago.
            early.refuse(from, forward, no_cluster_yet(), Time::default());
        }
        self.node.get()
    }

    fn lock_early(&self) -> MutexGuard<'_, Forwarded> {
        self.early.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn respond(&self, from: &PeerIdentity, header: Header, message: Message<Ask>) -> Message<Answer> {
        let Some(node) = self.node.get().or_else(|| self.refuse_early(from.node, &message.head)) else {
            return Message::of(Answer::Refused(no_cluster_yet()));
        };
        if from.cluster.is_none() && message.head != Ask::Join {
            return Message::of(Answer::Refused(Refusal::Malformed("join first".into())));
        }
        let until = node.now() + Duration::from_millis(header.deadline_ms.into());
        node.answer(from.node, header.table, until, message).await
    }
}

fn no_cluster_yet() -> Refusal {
    Refusal::Unavailable("this node has no cluster yet".into())
}

impl<W: World> Handler for Peers<W> {
    async fn handle(&self, from: &PeerIdentity, header: Header, body: Bytes) -> Option<Bytes> {
        let message = match Message::<Ask>::decode(&body) {
            Ok(message) => message,
            Err(error) => {
                return Some(Message::of(Answer::Refused(Refusal::Malformed(error.to_string()))).encode());
            }
        };
        if header.kind == Kind::OneWay {
            if message.head == Ask::Swim && from.cluster.is_some() {
                // A full inbox loses a probe, as a network would.
                let _ = self.swim.try_send(message.body);
            }
            return None;
        }
        Some(self.respond(from, header, message).await.encode())
    }
}
