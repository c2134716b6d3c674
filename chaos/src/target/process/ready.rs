//! When a local cluster counts as up: by what its nodes say of themselves over HTTP, asked again and again until a
//! deadline. A log line or an open port would be quicker to look for, and promise nothing to a client.

use std::time::Instant;

use anyhow::bail;
use serde_json::Value;

use super::{LocalCluster, name};
use crate::limits;

/// How much of a node has to be there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// It says that it is ready.
    Ready,
    /// It also lists all nodes as up and reachable.
    AllSeen,
}

impl LocalCluster {
    /// Waits until every node is ready and lists every node as up and reachable.
    pub async fn wait_all_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + limits::CLUSTER_READY_MAX;
        for i in 0..self.len() {
            self.wait_until(i, deadline, Wanted::AllSeen).await?;
        }
        Ok(())
    }

    /// Waits until node `i` says that it is ready.
    pub async fn wait_ready(&mut self, i: usize) -> anyhow::Result<()> {
        self.wait_until(i, Instant::now() + limits::CLUSTER_READY_MAX, Wanted::Ready).await
    }

    async fn wait_until(&mut self, i: usize, deadline: Instant, wanted: Wanted) -> anyhow::Result<()> {
        loop {
            // An exit is looked for in all nodes: the one that never came up is why this one can't be ready.
            if let Some((ended, how)) = self.ended_now() {
                bail!("{} ended while it was starting ({how})\n{}", name(ended), self.log_tail(ended));
            }
            let missing = match self.missing(i, wanted).await {
                None => return Ok(()),
                Some(missing) => missing,
            };
            if Instant::now() >= deadline {
                let waited = limits::CLUSTER_READY_MAX.as_secs();
                bail!("{} was not ready after {waited} s: {missing}\n{}", name(i), self.log_tail(i));
            }
            tokio::time::sleep(limits::READY_POLL).await;
        }
    }

    /// What node `i` still lacks; `None` when it has what is wanted.
    async fn missing(&self, i: usize, wanted: Wanted) -> Option<String> {
        let url = self.url(i);
        match self.http.get(&format!("{url}/health/ready"), limits::CONNECT_MAX).await {
            Ok(reply) if reply.is_done() => {}
            Ok(reply) => return Some(format!("/health/ready says {}", reply.problem())),
            Err(error) => return Some(error.to_string()),
        }
        if wanted == Wanted::Ready {
            return None;
        }
        match self.http.get(&format!("{url}/v1/cluster"), limits::CONNECT_MAX).await {
            Ok(reply) if reply.is_done() => unseen(&reply.body, self.len()),
            Ok(reply) => Some(format!("/v1/cluster says {}", reply.problem())),
            Err(error) => Some(error.to_string()),
        }
    }
}

/// Whom a node's `/v1/cluster` does not show as up and reachable; `None` when all are there.
fn unseen(body: &[u8], nodes: usize) -> Option<String> {
    let Ok(cluster) = serde_json::from_slice::<Value>(body) else {
        return Some("/v1/cluster is not JSON".to_owned());
    };
    let no_members = Vec::new();
    let members = cluster["members"].as_array().unwrap_or(&no_members);
    let up = members.iter().filter(|member| member["status"] == "up" && member["reachable"] == true).count();
    (up != nodes).then(|| format!("it sees {up} of {nodes} nodes up and reachable: {}", cluster["members"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_complete_when_all_are_up_and_reachable() {
        let members = |reachable: bool| {
            let up = serde_json::json!({"status": "up", "reachable": true});
            let other = serde_json::json!({"status": "up", "reachable": reachable});
            serde_json::json!({"members": [up, other]}).to_string()
        };
        assert_eq!(unseen(members(true).as_bytes(), 2), None);
        assert!(unseen(members(false).as_bytes(), 2).unwrap().contains("1 of 2"));
        assert!(unseen(members(true).as_bytes(), 3).unwrap().contains("2 of 3"));
        assert!(unseen(b"<html>", 2).unwrap().contains("not JSON"));
    }
}
