//! Who a data directory is, and which cluster it belongs to.
//!
//! All of it is one row, so that it can't be half there. The cluster's key stands in it: contexts that it signed must open
//! after a restart.

use super::BootError;
use crate::config::Config;
use crate::duty::join;
use crate::limits::JOIN_TIMEOUT;
use crate::node::lives::Lives;
use crate::node::serve::Newcomer;
use crate::peer::{CallError, Local, Pool, Refusal, Secret};
use crate::store::{Batch, Family, Store, StoreError, keys};
use crate::world::World;
use bytes::Bytes;
use rand::RngExt;
use ring::causal::epochs::LEASE_MAX;
use ring::ids::{ClusterId, NodeId};
use ring::members::{Description, Status, View};
use ring::place::PARTITIONS_DEFAULT;
use ring::wire::peer::{Ask, Message};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::watch;

/// By what a cluster is found.
pub(super) struct Door<'a, W: World> {
    /// The way to peers.
    pub(super) pool: &'a Pool<W>,
    /// How this node is introduced to them.
    pub(super) local: &'a Local,
    /// Told what is waited for.
    pub(super) waits: &'a watch::Sender<String>,
}

/// What a data directory knows of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) node: NodeId,
    /// The cluster and its key, once it has one.
    cluster: Option<(ClusterId, [u8; 32])>,
    pub(super) starts: u64,
}

impl Identity {
    /// Reads or makes the identity, and counts this start durably, with the boot id by which others come to know it. Its number
    /// is also the lease of its epochs: above every lease that was ever taken here.
    pub(super) fn load<W: World>(
        world: &W,
        store: &W::Store,
        config: &Config,
        boot_id: u64,
    ) -> Result<Identity, BootError> {
        let found = store.get(Family::Meta, keys::IDENTITY)?;
        let mut identity = match found {
            Some(bytes) => {
                postcard::from_bytes(&bytes).map_err(|_| error(config, "its identity can't be read"))?
            }
            None => {
                let node = config.node_id.unwrap_or_else(|| NodeId(world.rng("identity").random()));
                Identity { node, cluster: None, starts: 0 }
            }
        };
        if let Some(wanted) = config.node_id.filter(|id| *id != identity.node) {
            return Err(error(config, format!("it belongs to node {}, not to {wanted}", identity.node)));
        }
        let leased = number(store, config, keys::EPOCH_LEASE)?;
        let (before, asked) = (identity.starts, number(store, config, keys::ASKED)?);
        identity.starts = identity.starts.max(leased) + 1;
        if identity.starts > LEASE_MAX {
            return Err(error(config, "it was started more often than there are leases of epochs"));
        }
        // In the first write that this start syncs: after it, nobody could tell any more that the log was cut.
        let behind = store.has_lost_writes().then_some(identity.starts);
        let lives = Lives::load(store)?.ok_or_else(|| error(config, "its starts can't be read"))?;
        // A newcomer may have been let in, and have been ended before it could keep that.
        let told = asked >= before || identity.cluster.is_none();
        let begins = Some(Begins { lives, boot_id, before, told });
        save(store, &identity, Known { begins, behind, ..Known::default() })?;
        Ok(identity)
    }

    /// What this node says of itself to peers.
    pub(super) fn introduce(&self, config: &Config, description: &Description) -> Arc<Local> {
        let secret = config.cluster_secret.as_ref().map(|s| s.expose().as_bytes()).unwrap_or_default();
        let cluster = self.cluster.map(|(id, _)| id);
        Local::new(self.node, description.boot_id, description.peer.clone(), Secret::new(secret), cluster)
    }

    /// A directory of one cluster and the seeds of another are a mistake that somebody should hear of.
    async fn check_seeds<W: World>(&self, config: &Config, pool: &Pool<W>) -> Result<(), BootError> {
        let ask = Message::of(Ask::Gossip { digest: 0 }).encode();
        for seed in &config.seeds {
            let answer = pool.call_address(seed, ask.clone(), JOIN_TIMEOUT).await;
            if let Err(CallError::Refused(Refusal::WrongCluster { .. })) = answer {
                return Err(error(config, format!("it belongs to another cluster than the seed {seed}")));
            }
        }
        Ok(())
    }

    /// Finds the cluster: the one on the disk, the one of the seeds, or a new one.
    pub(super) async fn enter<W: World>(
        mut self,
        world: &W,
        store: &W::Store,
        config: &Config,
        description: &Description,
        door: &Door<'_, W>,
    ) -> Result<Entered, BootError> {
        let Door { pool, local, waits } = door;
        // Whoever lets it in remembers this start from then on, and no start of this directory had anything before.
        let first = self.cluster.is_none();
        let stored = store.get(Family::Meta, keys::VIEW)?;
        let view = match (self.cluster, stored) {
            (Some(_), Some(bytes)) => {
                self.check_seeds(config, pool).await?;
                View::decode(&bytes).map_err(|e| error(config, e.to_string()))?
            }
            (Some(_), None) => return Err(error(config, "its view of the cluster is missing")),
            (None, _) if config.seeds.is_empty() => {
                found(world, config, &mut self, description).map_err(|e| error(config, e.to_string()))?
            }
            (None, _) => {
                let lives = Lives::load(store)?.ok_or_else(|| error(config, "its starts can't be read"))?;
                let (description, boot_ids) = (description.clone(), Some(lives.boot_ids()));
                let me = Newcomer { description, boot_ids };
                let welcome = join::enter(pool, &config.seeds, &me, waits).await;
                self.cluster = Some((welcome.view.cluster, welcome.cluster_key));
                welcome.view
            }
        };
        save(store, &self, Known { view: Some(&view), asked: first, ..Known::default() })?;
        let (cluster, cluster_key) = self.cluster.expect("every branch has set it");
        local.set_cluster(cluster);
        let description = description.clone();
        Ok(Entered { node: self.node, description, cluster, cluster_key, view })
    }
}

/// A start that is counted.
struct Begins {
    lives: Lives,
    boot_id: u64,
    /// The number of the one before.
    before: u64,
    /// Whether the others may have been told of that one.
    told: bool,
}

/// What is kept beside the identity.
#[derive(Default)]
struct Known<'a> {
    begins: Option<Begins>,
    view: Option<&'a View>,
    /// Whether this start has asked others what they remember of the directory.
    asked: bool,
    /// Since which start the copies may be old.
    behind: Option<u64>,
}

fn save<S: Store>(store: &S, identity: &Identity, known: Known<'_>) -> Result<(), StoreError> {
    let mut batch = Batch::default();
    batch.put(
        Family::Meta,
        keys::IDENTITY,
        postcard::to_stdvec(identity).expect("an identity is plain data"),
    );
    if let Some(Begins { mut lives, boot_id, before, told }) = known.begins {
        lives.begin(boot_id, identity.starts, before, told, &mut batch);
    }
    if let Some(view) = known.view {
        batch.put(Family::Meta, keys::VIEW, view.encode());
    }
    if known.asked {
        batch.put(Family::Meta, keys::ASKED, Bytes::copy_from_slice(&identity.starts.to_be_bytes()));
    }
    if let Some(start) = known.behind {
        batch.put(Family::Meta, keys::BEHIND, Bytes::copy_from_slice(&start.to_be_bytes()));
    }
    store.write(batch, true)
}

/// A number of the meta family; 0 if it was never written.
pub(super) fn number<S: Store>(store: &S, config: &Config, key: &[u8]) -> Result<u64, BootError> {
    let Some(bytes) = store.get(Family::Meta, key)? else { return Ok(0) };
    let bytes = bytes.as_ref().try_into();
    bytes.map(u64::from_be_bytes).map_err(|_| error(config, "its epochs can't be read"))
}

pub(super) fn error(config: &Config, why: impl Into<String>) -> BootError {
    BootError::Identity { dir: config.data_dir.display().to_string(), why: why.into() }
}

/// A node that knows its cluster.
pub(crate) struct Entered {
    pub(crate) node: NodeId,
    pub(crate) description: Description,
    pub(crate) cluster: ClusterId,
    pub(crate) cluster_key: [u8; 32],
    pub(crate) view: View,
}

/// Makes a cluster of one.
fn found<W: World>(
    world: &W,
    config: &Config,
    identity: &mut Identity,
    description: &Description,
) -> Result<View, ring::members::ViewError> {
    let mut rng = world.rng("cluster");
    let cluster = ClusterId(rng.random());
    identity.cluster = Some((cluster, rng.random()));
    let mut view = View::new(cluster, config.partitions.unwrap_or(PARTITIONS_DEFAULT));
    view.admit(identity.node, description.clone())?;
    view.set_status(identity.node, Status::Up)?;
    view.found();
    Ok(view)
}
