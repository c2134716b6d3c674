//! Asking a node to compare replicas now, and how far it is.

use crate::call::{Call, Client};
use crate::error::{Error, Result};
use crate::path::Target;
use crate::retry::Repeat;
use crate::transport::{HttpTransport, Method};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// What to repair; by default everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepairScope {
    /// Only this bucket.
    pub bucket: Option<String>,
    /// Only this key of it.
    pub key: Option<String>,
    /// Only this partition.
    pub partition: Option<u16>,
}

/// How far a repair is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Repair {
    /// Its name, at the node that runs it.
    pub id: String,
    /// `running`, `done`, or `incomplete`: it has ended, and some partitions were not compared by all owners.
    pub state: String,
    /// Partitions that it concerns.
    pub partitions: u64,
    /// Of them looked at.
    pub partitions_done: u64,
    /// Keys that differed, counted for each pair of owners.
    pub differences: u64,
    /// Keys that were brought together.
    pub repairs: u64,
    /// Everything else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl<T: HttpTransport> Client<T> {
    /// Begins a repair and answers its name. The node that answered runs it, and it alone knows how far it is.
    pub async fn begin_repair(&self, scope: &RepairScope) -> Result<String> {
        let mut body = Map::new();
        let RepairScope { bucket, key, partition } = scope;
        body.extend(bucket.as_ref().map(|bucket| ("bucket".to_owned(), json!(bucket))));
        body.extend(key.as_ref().map(|key| ("key".to_owned(), json!(key))));
        body.extend(partition.map(|partition| ("partition".to_owned(), json!(partition))));
        let call = Call::new(Method::Post, Target::at("/v1/repair"), Repeat::Harmless);
        let answer = self.send(call.json(&Value::Object(body))).await?;
        let told: Repair = answer.json()?;
        if told.id.is_empty() { Err(answer.unreadable("the repair has no id")) } else { Ok(told.id) }
    }

    /// How far a repair is, from the node that answered last.
    pub async fn repair(&self, id: &str) -> Result<Repair> {
        if id.is_empty() {
            return Err(Error::Invalid("a repair has an id".into()));
        }
        self.send(Call::get(Target::at("/v1/repair").segment(id.as_bytes()))).await?.json()
    }
}
