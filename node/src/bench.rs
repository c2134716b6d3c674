//! One node under test on a paused clock, and peers that answer as they are told: for what a node does when others don't answer.
//!
//! The node is put together by the very code of production, with the in-memory store, and without its duties: a test calls those
//! that it is about. A peer is real from its port on; behind that stands a list of what it holds and a link that is as narrow as
//! the test wants it. Nothing sleeps for real, so ten seconds without an answer cost nothing.

pub(crate) use self::peer::Peer;
pub(crate) use self::pipes::Pipes;
use crate::boot;
use crate::config::{Config, NodeArgs};
use crate::duty::gossip;
use crate::lane::{Job, derive};
use crate::node::Node;
use crate::node::lives::Lives;
use crate::peer::{Handler, Local, Pool, Secret, serve};
use crate::serve::Peers;
use crate::store::mem::MemDisk;
use crate::store::{Batch, Family, Store, keys};
use crate::world::World;
use bytes::Bytes;
use ring::bucket::{BlindWrites, BucketSettings, Level};
use ring::ids::{ClusterId, NodeId, ObjectId, Zone};
use ring::members::{Description, Status, View, ViewError};
use ring::place::{partition, position};
use ring::record::write::{CONTEXT_RUNS_MAX, Write};
use ring::wire::peer::{Action, QuorumAsk, WriteAsk};
use ring::wire::record::decode;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

mod links;
mod peer;
mod pipes;

/// The node under test.
pub(crate) const ME: NodeId = NodeId(1);
const CLUSTER: ClusterId = ClusterId(9);

/// A node under test, and those it speaks to.
pub(crate) struct Bench {
    pub(crate) node: Node<Pipes>,
    stop: watch::Sender<bool>,
}

pub(crate) fn said(id: NodeId) -> Description {
    let peer = SocketAddr::from(([10, 0, 0, id.0 as u8], 1)).to_string();
    Description { http: peer.clone(), peer, zone: Zone::default(), weight: 1, starts: 1, boot_id: 1 }
}

fn local(id: NodeId) -> Arc<Local> {
    Local::new(id, 1, said(id).peer, Secret::new("s"), Some(CLUSTER))
}

impl Bench {
    /// The peers and the node are members. The first layout has those who are named as its owners.
    pub(crate) async fn start(partitions: u16, owners: &[NodeId], peers: &[&Peer]) -> Bench {
        let world = Pipes::new();
        let (stop, stopping) = watch::channel(false);
        let mut view = View::new(CLUSTER, partitions);
        for id in owners {
            view.admit(*id, said(*id)).unwrap();
            view.set_status(*id, Status::Up).unwrap();
        }
        view.found();
        for id in peers.iter().map(|peer| peer.id).chain([ME]) {
            view.admit(id, said(id)).unwrap();
        }
        let bench = Bench::of(world.clone(), ME, 1, view, stop);
        bench.node.past.asked(true);
        for peer in peers {
            let address = said(peer.id).peer;
            let port = world.bind(address.parse().unwrap()).await.unwrap();
            let handler = (*peer).clone();
            tokio::spawn(serve(world.clone(), port, local(peer.id), handler, stopping.clone()));
            bench.node.pool.set_peer(peer.id, address);
        }
        bench
    }

    /// Another node of production's code, with a disk of its own and the same view, which answers this one.
    pub(crate) async fn beside(&self, id: NodeId) -> Bench {
        let world = self.node.world.another();
        let view = self.node.cluster.snapshot().view.clone();
        let bench = Bench::of(world.clone(), id, 1, view, self.stop.clone());
        bench.node.past.asked(true);
        let peers = Peers::new(mpsc::channel(1).0);
        peers.serve(bench.node.clone());
        self.answers_by(id, peers).await;
        let (peers, address) = (Peers::new(mpsc::channel(1).0), said(self.node.id()).peer);
        peers.serve(self.node.clone());
        let port = world.bind(address.parse().unwrap()).await.unwrap();
        tokio::spawn(serve(world, port, local(self.node.id()), peers, self.stop.subscribe()));
        bench.node.pool.set_peer(self.node.id(), address);
        bench
    }

    /// Whoever calls this peer from now on is answered by this handler.
    pub(crate) async fn answers_by(&self, id: NodeId, handler: impl Handler) {
        let (world, address) = (self.node.world.another(), said(id).peer);
        let port = world.bind(address.parse().unwrap()).await.unwrap();
        tokio::spawn(serve(world, port, local(id), handler, self.stop.subscribe()));
        self.node.pool.set_peer(id, address);
    }

    /// The process dies, and another one starts on its disk, as it is left to it. Nobody was asked yet what he remembers.
    pub(crate) fn again(self, leave: impl FnOnce(&MemDisk)) -> Bench {
        let Bench { node, stop } = self;
        let (world, view) = (node.world.clone(), node.cluster.snapshot().view.clone());
        let (id, starts) = (node.id(), node.past.said().starts + 1);
        drop(node);
        world.disk.crash_keeping(usize::MAX);
        leave(&world.disk);
        let bench = Bench::of(world, id, starts, view, stop);
        gossip::introduce(&bench.node);
        bench
    }

    fn of(world: Pipes, node: NodeId, starts: u64, view: View, stop: watch::Sender<bool>) -> Bench {
        let config = Config::load(&NodeArgs::default(), &|_| None, &|_| Ok(())).unwrap();
        let description = Description { starts, boot_id: starts, ..said(node) };
        let entered = boot::Entered { node, description, cluster: CLUSTER, cluster_key: [7; 32], view };
        let pool = Pool::new(world.clone(), local(node));
        let (store, failed) = (world.disk.open().unwrap(), watch::channel(None).0);
        let mut begins = Batch::default();
        let mut lives = Lives::load(&store).unwrap().unwrap();
        lives.begin(starts, starts, lives.last(), true, &mut begins);
        store.write(begins, true).unwrap();
        derive(&store).unwrap();
        let defaults = BucketSettings::default();
        let (node, _) = boot::start(&world, &store, entered, &config, defaults, &pool, failed).unwrap();
        Bench { node, stop }
    }

    pub(crate) fn disk(&self) -> &MemDisk {
        &self.node.world.disk
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut View)) {
        let change = |view: &mut View| {
            change(view);
            Ok::<(), ViewError>(())
        };
        self.node.cluster.update(change).unwrap();
    }

    /// The node writes a value of so many bytes.
    pub(crate) async fn put(&self, id: &ObjectId, bytes: usize, hint_for: Option<NodeId>) -> Bytes {
        let action = Action::Put { content_type: "text/plain".into(), meta: vec![], ttl_ms: None };
        self.write(id, action, bytes, hint_for).await
    }

    /// The node deletes a value.
    pub(crate) async fn delete(&self, id: &ObjectId) -> Bytes {
        self.write(id, Action::Delete, 0, None).await
    }

    async fn write(&self, id: &ObjectId, action: Action, bytes: usize, hint_for: Option<NodeId>) -> Bytes {
        let held = self.node.local(id).unwrap().map(|held| decode(&held).unwrap().clock);
        let write = Write {
            action,
            body: Bytes::from(vec![b'x'; bytes]),
            seen: held,
            ttl_default: None,
            blind: BlindWrites::Siblings,
            siblings_max: 100,
            context_runs_max: CONTEXT_RUNS_MAX,
        };
        let (write, now) = (Box::new(write), self.node.wall());
        let job = |reply| Job::Coordinate { id: id.clone(), write, now, hint_for, sync: true, reply };
        self.node.lane.run(job).await.unwrap();
        self.node.local(id).unwrap().unwrap()
    }

    /// The keys that the node holds.
    pub(crate) fn kept(&self) -> Vec<ObjectId> {
        let rows = self.node.world.disk.rows(Family::Records);
        rows.iter().map(|(key, _)| keys::decode_record_key(key).unwrap().1).collect()
    }

    /// For how many keys it holds a hint for this one.
    pub(crate) fn hints_for(&self, target: NodeId) -> usize {
        let rows = self.node.world.disk.rows(Family::Hints);
        rows.iter().filter(|(key, _)| keys::decode_hint_key(key).unwrap().0 == target).count()
    }

    pub(crate) fn owners(&self, id: &ObjectId) -> Vec<NodeId> {
        let snapshot = self.node.cluster.snapshot();
        let partition = partition(position(id), snapshot.view.partitions);
        snapshot.table.owners(partition, 3).to_vec()
    }
}

/// A client's write that `w` disks must have.
pub(crate) fn write_of(id: &ObjectId, w: u8) -> WriteAsk {
    WriteAsk {
        id: id.clone(),
        action: Action::Put { content_type: "text/plain".into(), meta: vec![], ttl_ms: None },
        seen: None,
        quorum: QuorumAsk { w: Some(Level::Count(w)), ..QuorumAsk::default() },
        timeout_ms: 5_000,
        return_record: false,
    }
}

/// So many keys, in the order in which the disk has them if there is one partition.
pub(crate) fn ids(count: usize) -> Vec<ObjectId> {
    (0..count).map(|at| ObjectId::new("b", format!("k{at:05}")).unwrap()).collect()
}
