//! What goes wrong between the node under test and its peers: links that are cut, that hang up, or that lose what comes back.

use super::pipes::{PIPE_BYTES, Port};
use super::{Bench, Peer, local, said};
use crate::limits::LOOK_EVERY;
use crate::peer::hello;
use crate::world::{Listener, World};
use ring::ids::NodeId;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

impl Bench {
    /// From now on the node doubts whoever of these is mute, until the task ends.
    pub(crate) fn doubts_who_is_mute(&self, peers: &[&Peer]) -> JoinHandle<()> {
        let cluster = Arc::clone(&self.node.cluster);
        let peers: Vec<Peer> = peers.iter().map(|peer| (*peer).clone()).collect();
        tokio::spawn(async move {
            loop {
                cluster.set_doubted(peers.iter().filter(|peer| peer.is_mute()).map(|peer| peer.id).collect());
                tokio::time::sleep(LOOK_EVERY).await;
            }
        })
    }

    /// Nobody who calls a peer gets through any more, until what this gives back is called.
    pub(crate) fn cut(&self, peer: &Peer) -> impl FnOnce() + use<> {
        let (ports, address) = (Arc::clone(&self.node.world.ports), said(peer.id).peer);
        let door = ports.lock().unwrap().remove(&address).unwrap();
        move || drop(ports.lock().unwrap().insert(address, door))
    }

    /// Somebody with this name shakes hands with whoever calls, reads nothing that comes after that, and says nothing.
    pub(crate) async fn stands_still(&self, id: NodeId) {
        let address = said(id).peer;
        let mut port = self.node.world.bind(address.parse().unwrap()).await.unwrap();
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((mut stream, _)) = port.accept().await {
                hello::accept(&mut stream, &local(id), hello::Nonce::default()).await.unwrap();
                kept.push(stream);
            }
        });
        self.node.pool.set_peer(id, address);
    }

    /// Whoever calls this peer is hung up on in the midst of what comes after the handshake, for so many connections to come.
    pub(crate) async fn hangs_up(&self, id: NodeId, connections: usize) {
        let (door, mut port) = self.takes_port(id).await;
        tokio::spawn(async move {
            for _ in 0..connections {
                let (mut stream, _) = port.accept().await.unwrap();
                hello::accept(&mut stream, &local(id), hello::Nonce::default()).await.unwrap();
                stream.read_u8().await.unwrap();
            }
            while let Ok((stream, _)) = port.accept().await {
                door.send(stream).await.unwrap();
            }
        });
    }

    /// Stands before this peer: the way to it, and what comes for it.
    async fn takes_port(&self, id: NodeId) -> (mpsc::Sender<DuplexStream>, Port) {
        let address = said(id).peer;
        let door = self.node.world.ports.lock().unwrap().remove(&address).unwrap();
        (door, self.node.world.bind(address.parse().unwrap()).await.unwrap())
    }

    /// What this peer is asked, it hears, and then its connection breaks before the first answer, for so many connections to come.
    pub(crate) async fn loses_answers(&self, id: NodeId, connections: usize) {
        let (door, mut port) = self.takes_port(id).await;
        tokio::spawn(async move {
            for _ in 0..connections {
                let (stream, _) = port.accept().await.unwrap();
                let (here, there) = tokio::io::duplex(PIPE_BYTES);
                door.send(there).await.unwrap();
                let (mut asks, mut asked) = tokio::io::split(stream);
                let (mut answers, mut answered) = tokio::io::split(here);
                tokio::select! {
                    biased;
                    _ = tokio::io::copy(&mut asks, &mut answered) => {}
                    () = pass_hello(&mut answers, &mut asked) => {}
                }
            }
            while let Ok((stream, _)) = port.accept().await {
                door.send(stream).await.unwrap();
            }
        });
    }
}

/// Passes on the two steps of a handshake that come from who is called, and waits for what comes after them.
async fn pass_hello(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) {
    for _ in 0..2 {
        let mut head = [0; 6];
        from.read_exact(&mut head).await.unwrap();
        let mut step = vec![0; usize::from(u16::from_le_bytes([head[4], head[5]]))];
        from.read_exact(&mut step).await.unwrap();
        to.write_all(&head).await.unwrap();
        to.write_all(&step).await.unwrap();
    }
    from.read_u8().await.unwrap();
}
