//! Changing the members: what is staged, what it would move, and how far the moving is.
//!
//! ```text
//!   stage ──▶ plan (look at it) ──▶ commit(hash) ──▶ transfers … ──▶ Cluster::is_settled
//! ```
//!
//! Staging the same change twice is one change, so it is repeated on a failure. A commit is not: after a lost answer the
//! second one would be told that nothing is staged, and the caller could not tell success from failure.

use crate::call::{Call, Client};
use crate::cluster::{RingState, Waiting};
use crate::error::Result;
use crate::path::Target;
use crate::retry::Repeat;
use crate::transport::{HttpTransport, Method};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

const PATH: &str = "/v1/cluster/plan";

/// One change of the members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A node that was admitted takes its share.
    Join(String),
    /// A node hands on what it has and goes for ever.
    Leave(String),
    /// A node takes exactly the place of another, which goes for ever.
    Replace {
        /// Who goes.
        old: String,
        /// Who takes its place.
        new: String,
    },
    /// A member gets another share, or another failure domain.
    Set {
        /// Which.
        id: String,
        /// Its share, 1 to 64.
        #[serde(skip_serializing_if = "Option::is_none")]
        weight: Option<u32>,
        /// Its failure domain.
        #[serde(skip_serializing_if = "Option::is_none")]
        zone: Option<String>,
    },
    /// A node that is gone for ever goes, and does not count among those of whom a change needs most.
    #[serde(untagged)]
    LeaveByForce {
        /// Who.
        leave: String,
        /// True.
        force: bool,
    },
    /// The same of a node whose place another takes.
    #[serde(untagged)]
    ReplaceByForce {
        /// Who goes, and who comes.
        replace: Replaced,
        /// True.
        force: bool,
    },
}

/// Who goes, and who comes in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    /// Who goes.
    pub old: String,
    /// Who takes its place.
    pub new: String,
}

/// What is staged, and what it would move.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Plan {
    /// The changes as they were posted; [`Change::in_words`] reads them.
    pub changes: Vec<Value>,
    /// The name of exactly this plan, for the commit.
    pub hash: String,
    /// Who would go and can't be reached: nobody waits for what only these have.
    pub unreachable: Vec<String>,
    /// Partitions of which most owners are among them: without force the change waits for one of these.
    pub partitions_without_most_owners: u64,
    /// Partitions that would get another owner.
    pub partitions_to_move: u64,
    /// Bytes that would be copied.
    pub bytes_to_move: u64,
    /// What it means for each node.
    pub nodes: Vec<PlannedNode>,
    /// How evenly the data lie, before and after.
    pub balance: Balance,
    /// Everything else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// What a plan means for one node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlannedNode {
    /// Its identity.
    pub id: String,
    /// Its failure domain afterwards.
    pub zone: Option<String>,
    /// Its share afterwards.
    pub weight: Option<u64>,
    /// Partitions that it owns now.
    pub before: u64,
    /// Partitions that it would own.
    pub after: u64,
    /// Partitions that come to it.
    pub gains: u64,
    /// Partitions that leave it.
    pub losses: u64,
    /// Bytes that come to it.
    pub bytes_in: u64,
    /// Bytes that leave it.
    pub bytes_out: u64,
    /// Everything else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// The most loaded node over its fair share; 1 is even.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Balance {
    /// Now.
    pub before: Option<f64>,
    /// With the plan.
    pub after: Option<f64>,
    /// Everything else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// A plan that was committed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Committed {
    /// Whether it was.
    pub committed: bool,
    /// The plan.
    pub hash: String,
    /// The ring after it.
    pub ring: RingState,
    /// Everything else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// What moves, node by node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Transfers {
    /// The node that answered.
    pub node: String,
    /// Whether nothing moves.
    pub settled: Option<bool>,
    /// One for each node that gains something.
    pub items: Vec<Transfer>,
    /// Copies that are no longer needed and not yet dropped.
    pub surplus: Vec<Surplus>,
    /// What holds the change up.
    pub waiting_for: Vec<Waiting>,
    /// Everything else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// What comes to one node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Transfer {
    /// The node.
    pub node: String,
    /// `waiting`, `moving` or `done`.
    pub state: String,
    /// Partitions that come to it.
    pub partitions: u64,
    /// Of them already there.
    pub done: u64,
    /// Bytes that have come.
    pub bytes_moved: u64,
    /// Bytes that are still to come.
    pub bytes_to_move: u64,
    /// How quickly they come.
    pub bytes_per_second: Option<u64>,
    /// How long the rest takes at that rate.
    pub estimate_ms: Option<u64>,
    /// Why nothing comes.
    pub reason: Option<String>,
    /// Everything else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// Copies that a node still keeps for others.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Surplus {
    /// The node.
    pub node: String,
    /// Partitions that it holds and does not own.
    pub partitions: u64,
    /// Everything else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl Plan {
    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

impl Change {
    /// A change as a person would say it; one of a kind that this client does not know, as it came.
    pub fn in_words(change: &Value) -> String {
        match Change::deserialize(change) {
            Ok(Change::Join(id)) => format!("{id} joins"),
            Ok(Change::Leave(id)) => format!("{id} leaves"),
            Ok(Change::Replace { old, new }) => format!("{new} takes the place of {old}"),
            Ok(Change::Set { id, weight, zone }) => {
                let weight = weight.map(|weight| format!(" weight {weight}")).unwrap_or_default();
                let zone = zone.map(|zone| format!(" zone {zone:?}")).unwrap_or_default();
                format!("{id} gets{weight}{zone}")
            }
            Ok(Change::LeaveByForce { leave, .. }) => format!("{leave} leaves by force"),
            Ok(Change::ReplaceByForce { replace: Replaced { old, new }, .. }) => {
                format!("{new} takes the place of {old} by force")
            }
            Err(_) => change.to_string(),
        }
    }
}

impl<T: HttpTransport> Client<T> {
    /// What is staged.
    pub async fn plan(&self) -> Result<Plan> {
        self.send(Call::get(Target::at(PATH))).await?.json()
    }

    /// Adds changes to what is staged, and answers all of it. Nothing moves until it is committed.
    pub async fn stage(&self, changes: &[Change]) -> Result<Plan> {
        let call = Call::new(Method::Post, Target::at(PATH), Repeat::Harmless);
        self.send(call.json(&json!({ "changes": changes }))).await?.json()
    }

    /// Carries out exactly the plan of that hash: a `409 plan_changed` says that it is no longer what is staged.
    pub async fn commit(&self, hash: &str) -> Result<Committed> {
        let call = Call::new(Method::Post, Target::at("/v1/cluster/commit"), Repeat::Counts);
        self.send(call.json(&json!({ "hash": hash }))).await?.json()
    }

    /// Forgets what is staged.
    pub async fn clear_plan(&self) -> Result<()> {
        self.send(Call::new(Method::Delete, Target::at(PATH), Repeat::Harmless)).await.map(drop)
    }

    /// What moves at this moment, and what holds it up.
    pub async fn transfers(&self) -> Result<Transfers> {
        self.send(Call::get(Target::at("/v1/transfers"))).await?.json()
    }
}
