//! Who is in the cluster, who owns what, and where one key stands on every replica.
//!
//! These answers are for looking at and grow with every version, so each keeps what it does not know in `rest` and
//! asks for little.

use crate::call::{Call, Client};
use crate::error::Result;
use crate::path::Target;
use crate::transport::HttpTransport;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

/// The cluster as one node sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// The identity of the cluster.
    #[serde(default)]
    pub cluster: String,
    /// The node that answered.
    #[serde(default)]
    pub node: String,
    /// Everybody it knows.
    pub members: Vec<Member>,
    /// The ring, transfers and more.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// One node of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Member {
    /// Its identity.
    pub id: String,
    /// Where its clients go.
    pub http: Option<String>,
    /// Where its peers go.
    pub peer: Option<String>,
    /// Its failure domain.
    pub zone: Option<String>,
    /// Its share.
    pub weight: Option<Number>,
    /// `joining`, `up`, `leaving`, `down` or `removed`.
    pub status: String,
    /// Whether the node that answered can reach it.
    pub reachable: bool,
    /// Everything else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// One key on every replica.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Its position on the ring.
    #[serde(default)]
    pub hash: Value,
    /// Its partition.
    #[serde(default)]
    pub partition: Option<u32>,
    /// The nodes that keep it, first owner first.
    #[serde(default)]
    pub preference_list: Vec<Value>,
    /// What each of them has.
    pub replicas: Vec<Replica>,
    /// `converged`, `stale`, `diverged` or `unreachable`.
    pub verdict: String,
    /// Everything else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// One replica of a key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Replica {
    /// The node.
    pub node: String,
    /// Its failure domain.
    pub zone: Option<String>,
    /// Whether it answered.
    pub reachable: bool,
    /// Whether it has a record of the key.
    pub present: bool,
    /// The versions it has.
    pub versions: Vec<ReplicaVersion>,
    /// What it has seen.
    pub context: Option<Value>,
    /// What waits for it elsewhere: a number, or a list.
    pub hints: Value,
    /// Everything else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// One version on one replica.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplicaVersion {
    /// Who issued it, and as which.
    pub dot: Value,
    /// Its name.
    pub etag: Option<String>,
    /// Whether it is a removal.
    pub deleted: bool,
    /// Its bytes.
    pub size: u64,
    /// Everything else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl<T: HttpTransport> Client<T> {
    /// The members and the state of the ring, as one node sees them.
    pub async fn cluster(&self) -> Result<Cluster> {
        self.send(Call::get(Target::at("/v1/cluster"))).await?.json()
    }

    /// Which nodes own which partition, as the node says it.
    pub async fn ring(&self) -> Result<Value> {
        self.send(Call::get(Target::at("/v1/ring"))).await?.json()
    }

    /// One key on every replica.
    pub async fn explain(&self, bucket: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Result<Explanation> {
        let target = Target::at("/v1/explain").query("bucket", bucket).query("key", key);
        self.send(Call::get(target)).await?.json()
    }
}
