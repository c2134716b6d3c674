//! The handshake: who is there, before a single byte more is read.
//!
//! ```text
//!   dialer                                         acceptor
//!     │ Hello { versions, cluster?, node, boot, address, nonce } │
//!     ├───────────────────────────────────────────────►│
//!     │◄───────────────────────────── Challenge { nonce }
//!     │ Proof = HMAC(secret, "dialer"   ‖ nonces ‖ hello)        │
//!     ├───────────────────────────────────────────────►│ only now: identity, cluster, removal
//!     │◄── Welcome { hello, HMAC(secret, "acceptor" ‖ nonces ‖ both hellos) }  or  Refused(why)
//! ```
//!
//! The dialer proves itself first and the acceptor shows nothing but a nonce before that: a stranger learns neither
//! the cluster's id nor a proof that it could guess secrets against. The role in each proof keeps one side's proof
//! from being played back as the other's. Without a configured secret both prove the empty one, so a node that has a
//! secret and one that has none refuse each other.
//!
//! A message is `"CTWL"`, a length of two bytes (at most [`HELLO_BYTES_MAX`]) and a postcard `Step`. These steps
//! must stay readable by every future version: it is here that versions are agreed on.

use super::frame::PROTOCOL;
use crate::limits::{ADDRESS_BYTES_MAX, HELLO_BYTES_MAX};
use hmac::{Hmac, KeyInit, Mac};
use ring::ids::{ClusterId, NodeId};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use subtle::ConstantTimeEq;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;

const MAGIC: [u8; 4] = *b"CTWL";

/// A random number, used once.
pub type Nonce = [u8; 32];

/// The shared secret of a cluster. Never printed.
#[derive(Clone, Default)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// An empty secret means that none is configured.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Secret(bytes.into())
    }

    fn sign(&self, role: &str, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac =
            <Hmac<Sha256> as KeyInit>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        for part in [role.as_bytes()].iter().chain(parts) {
            // Each part with its length, so that no two lists of parts run together into the same bytes.
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "Secret(none)" } else { "Secret(…)" })
    }
}

/// What this node says of itself.
#[derive(Debug)]
pub struct Local {
    node: NodeId,
    boot_id: u64,
    advertise: String,
    secret: Secret,
    cluster: watch::Sender<Option<ClusterId>>,
    /// How often each peer that is called from here has called.
    called: Mutex<BTreeMap<NodeId, u64>>,
}

impl Local {
    /// A node that may not have a cluster yet. `advertise` is the `host:port` under which peers find it.
    pub fn new(
        node: NodeId,
        boot_id: u64,
        advertise: impl Into<String>,
        secret: Secret,
        cluster: Option<ClusterId>,
    ) -> Arc<Local> {
        let advertise = advertise.into();
        assert!(
            advertise.len() <= ADDRESS_BYTES_MAX,
            "an address of {} bytes was let through",
            advertise.len()
        );
        let (cluster, called) = (watch::Sender::new(cluster), Mutex::default());
        Arc::new(Local { node, boot_id, advertise, secret, cluster, called })
    }

    /// This node's id.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The `host:port` under which peers find this node.
    pub fn advertise(&self) -> &str {
        &self.advertise
    }

    /// The cluster, once it is known.
    pub fn cluster(&self) -> Option<ClusterId> {
        *self.cluster.borrow()
    }

    /// Joins a cluster. Connections that were made without one are made anew.
    pub fn set_cluster(&self, cluster: ClusterId) {
        self.cluster.send_if_modified(|known| known.replace(cluster) != Some(cluster));
    }

    /// A peer has called and proved who it is: it can be called again.
    pub(super) fn has_called(&self, peer: NodeId) {
        if let Some(calls) = self.called().get_mut(&peer) {
            *calls += 1;
        }
    }

    /// How often a peer has called so far; it is counted from the first question on.
    pub(super) fn calls_of(&self, peer: NodeId) -> u64 {
        *self.called().entry(peer).or_default()
    }

    /// A peer is not called from here any more.
    pub(super) fn forget_calls_of(&self, peer: NodeId) {
        self.called().remove(&peer);
    }

    fn called(&self) -> MutexGuard<'_, BTreeMap<NodeId, u64>> {
        self.called.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn watch_cluster(&self) -> watch::Receiver<Option<ClusterId>> {
        self.cluster.subscribe()
    }

    fn hello(&self, nonce: Nonce) -> Hello {
        Hello {
            protocol_min: PROTOCOL,
            protocol_max: PROTOCOL,
            node: self.node,
            cluster: self.cluster(),
            boot_id: self.boot_id,
            address: self.advertise.clone(),
            nonce,
        }
    }

    /// What stands against talking to this peer, now that it proved the secret.
    fn objection(&self, peer: &Hello) -> Option<Refusal> {
        if peer.node == self.node {
            return Some(if peer.boot_id == self.boot_id { Refusal::Itself } else { Refusal::SameIdentity });
        }
        match (self.cluster(), peer.cluster) {
            (Some(ours), Some(theirs)) if ours != theirs => Some(Refusal::WrongCluster { theirs: ours }),
            _ => None,
        }
    }
}

/// Who is at the other end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerIdentity {
    /// Its id.
    pub node: NodeId,
    /// Its cluster; none while it is still looking for one, and then only messages of joining are for it.
    pub cluster: Option<ClusterId>,
    /// Drawn at each start of its process.
    pub boot_id: u64,
    /// Where it says that it can be dialed.
    pub address: String,
}

/// Why one side does not talk to the other. Said from the point of view of the one that is refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The peer belongs to another cluster.
    #[error("the peer belongs to another cluster, {theirs}")]
    WrongCluster {
        /// The peer's cluster.
        theirs: ClusterId,
    },
    /// The secrets differ, or only one side has one.
    #[error("the peer has another cluster_secret, or only one of the two has one")]
    WrongSecret,
    /// Another process uses the same node id: a copied data directory.
    #[error("the peer has this node's own id: a data directory was copied")]
    SameIdentity,
    /// The peer is this very process.
    #[error("the address leads back to this node")]
    Itself,
    /// No protocol version in common.
    #[error("the peer speaks protocol versions {min} to {max}")]
    Version {
        /// The oldest that the peer speaks.
        min: u8,
        /// The newest that the peer speaks.
        max: u8,
    },
    /// At this address lives another node than the one that was expected.
    #[error("another node, {found}, answers at this address")]
    WrongNode {
        /// Who is there.
        found: NodeId,
    },
}

/// How a handshake fails.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// The other side said no.
    #[error("refused by the peer: {0}")]
    Refused(Refusal),
    /// We said no.
    #[error("refused the peer, which was told: {0}")]
    Rejected(Refusal),
    /// Bytes that no peer of ours would send.
    #[error("not a peer of ours")]
    Stranger,
    /// The connection broke.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

/// What one side says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Hello {
    protocol_min: u8,
    protocol_max: u8,
    node: NodeId,
    cluster: Option<ClusterId>,
    boot_id: u64,
    address: String,
    nonce: Nonce,
}

impl Hello {
    fn speaks_ours(&self) -> bool {
        (self.protocol_min..=self.protocol_max).contains(&PROTOCOL)
    }

    fn into_identity(self) -> PeerIdentity {
        PeerIdentity { node: self.node, cluster: self.cluster, boot_id: self.boot_id, address: self.address }
    }
}

/// One message of the handshake.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Step {
    Hello(Hello),
    Challenge(Nonce),
    Proof([u8; 32]),
    Welcome(Hello, [u8; 32]),
    Refused(Refusal),
}

/// The dialer's side. `nonce` is fresh; `expected`, if known, is who should be there.
pub async fn dial<S>(
    stream: &mut S,
    local: &Local,
    nonce: Nonce,
    expected: Option<NodeId>,
) -> Result<PeerIdentity, HelloError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let ours = local.hello(nonce);
    let ours_bytes = encode_part(&ours);
    send(stream, &Step::Hello(ours)).await?;
    let challenge = match receive(stream).await? {
        Step::Challenge(challenge) => challenge,
        Step::Refused(why) => return Err(HelloError::Refused(why)),
        _ => return Err(HelloError::Stranger),
    };
    let proof = local.secret.sign("dialer", &[&challenge, &ours_bytes]);
    send(stream, &Step::Proof(proof)).await?;
    let (theirs, their_proof) = match receive(stream).await? {
        Step::Welcome(hello, proof) => (hello, proof),
        Step::Refused(why) => return Err(HelloError::Refused(why)),
        _ => return Err(HelloError::Stranger),
    };
    let right = local.secret.sign("acceptor", &[&challenge, &ours_bytes, &encode_part(&theirs)]);
    if theirs.nonce != challenge || !bool::from(right.ct_eq(&their_proof)) {
        return Err(HelloError::Refused(Refusal::WrongSecret));
    }
    match expected {
        Some(node) if node != theirs.node => {
            Err(HelloError::Refused(Refusal::WrongNode { found: theirs.node }))
        }
        _ => match local.objection(&theirs) {
            Some(Refusal::WrongCluster { .. }) => {
                let theirs = theirs.cluster.expect("clusters differ only if both are known");
                Err(HelloError::Refused(Refusal::WrongCluster { theirs }))
            }
            Some(why) => Err(HelloError::Refused(why)),
            None => Ok(theirs.into_identity()),
        },
    }
}

/// The acceptor's side.
pub async fn accept<S>(stream: &mut S, local: &Local, nonce: Nonce) -> Result<PeerIdentity, HelloError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Step::Hello(theirs) = receive(stream).await? else { return Err(HelloError::Stranger) };
    if !theirs.speaks_ours() {
        return reject(stream, Refusal::Version { min: PROTOCOL, max: PROTOCOL }).await;
    }
    if theirs.address.len() > ADDRESS_BYTES_MAX {
        return Err(HelloError::Stranger);
    }
    send(stream, &Step::Challenge(nonce)).await?;
    let Step::Proof(proof) = receive(stream).await? else { return Err(HelloError::Stranger) };
    let theirs_bytes = encode_part(&theirs);
    if !bool::from(local.secret.sign("dialer", &[&nonce, &theirs_bytes]).ct_eq(&proof)) {
        return reject(stream, Refusal::WrongSecret).await;
    }
    if let Some(why) = local.objection(&theirs) {
        return reject(stream, why).await;
    }
    let ours = local.hello(nonce);
    let proof = local.secret.sign("acceptor", &[&nonce, &theirs_bytes, &encode_part(&ours)]);
    send(stream, &Step::Welcome(ours, proof)).await?;
    Ok(theirs.into_identity())
}

async fn reject<S: AsyncWrite + Unpin>(stream: &mut S, why: Refusal) -> Result<PeerIdentity, HelloError> {
    send(stream, &Step::Refused(why.clone())).await?;
    Err(HelloError::Rejected(why))
}

/// What is signed of a hello: all of it, its nonce included.
fn encode_part(hello: &Hello) -> Vec<u8> {
    postcard::to_stdvec(hello).expect("a hello is plain data")
}

fn encode(step: &Step) -> Vec<u8> {
    let body = postcard::to_stdvec(step).expect("a step is plain data");
    assert!(body.len() <= HELLO_BYTES_MAX, "our own step has {} bytes", body.len());
    let len = u16::try_from(body.len()).expect("4 KiB fit into 16 bits");
    [&MAGIC[..], &len.to_le_bytes(), &body].concat()
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, step: &Step) -> Result<(), HelloError> {
    stream.write_all(&encode(step)).await?;
    Ok(stream.flush().await?)
}

/// Reads not a byte beyond the step: what follows belongs to the frames.
async fn receive<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Step, HelloError> {
    let mut head = [0; 6];
    stream.read_exact(&mut head).await?;
    let [m0, m1, m2, m3, len @ ..] = head;
    let len = usize::from(u16::from_le_bytes(len));
    if [m0, m1, m2, m3] != MAGIC || len > HELLO_BYTES_MAX {
        return Err(HelloError::Stranger);
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await?;
    postcard::from_bytes(&body).map_err(|_| HelloError::Stranger)
}

#[cfg(test)]
mod tests;
