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
    /// The table of owners.
    #[serde(default)]
    pub ring: RingState,
    /// How far a change is.
    #[serde(default)]
    pub transfers: Progress,
    /// Everything else.
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
    /// The partitions it owns.
    pub partitions: Option<u64>,
    /// Everything else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// The table of owners, by name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RingState {
    /// How often it has changed.
    pub version: Value,
    /// The hash of its content, or of the members that make it.
    pub digest: Option<String>,
    /// How many slices it has.
    pub partitions: Option<u64>,
    /// Whether nothing moves. A node that does not say so knows of no moving.
    pub settled: Option<bool>,
    /// Everything else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// How far a change of the members is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// Partitions that are still to move.
    pub partitions: Option<u64>,
    /// Partitions that have moved.
    pub done: Option<u64>,
    /// Partitions that the change moves.
    pub of: Option<u64>,
    /// What holds it up.
    pub waiting_for: Vec<Waiting>,
    /// Everything else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// A node that others wait for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Waiting {
    /// The node.
    pub node: String,
    /// Why.
    pub reason: String,
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
    /// `owner`, `gaining`, `losing` or `fallback`.
    pub role: Option<String>,
    /// While its partition moves: `waiting`, `moving` or `done`.
    pub transfer: Option<String>,
    /// What its Merkle tree says: `agrees`, `differs` or `unknown`.
    pub tree: Option<String>,
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

impl Cluster {
    /// Whether every partition is where it belongs.
    pub fn is_settled(&self) -> bool {
        self.ring.settled.unwrap_or(true)
    }
}

impl<T: HttpTransport> Client<T> {
    /// Whether a process answers at all: one that is in no cluster yet does as well.
    pub async fn ping(&self) -> Result<()> {
        self.send(Call::get(Target::at("/ping"))).await.map(drop)
    }

    /// The members and the state of the ring, as one node sees them.
    pub async fn cluster(&self) -> Result<Cluster> {
        self.send(Call::get(Target::at("/v1/cluster"))).await?.json()
    }

    /// Which nodes own which partition, as the node says it.
    pub async fn ring(&self) -> Result<Value> {
        self.send(Call::get(Target::at("/v1/ring"))).await?.json()
    }

    /// How far the node and the others were seen to agree, and what it has repaired since its start.
    pub async fn aae(&self) -> Result<Value> {
        self.send(Call::get(Target::at("/v1/aae"))).await?.json()
    }

    /// One key on every replica.
    pub async fn explain(&self, bucket: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Result<Explanation> {
        let target = Target::at("/v1/explain").query("bucket", bucket).query("key", key);
        self.send(Call::get(target)).await?.json()
    }
}
