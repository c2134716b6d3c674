//! The person who changes the cluster, by the client library and over the same network as everybody.

use super::transport::SimTransport;
use client::{Change, Client};
use ring::ids::NodeId;
use std::time::Duration;
use tokio::sync::mpsc;

/// What the operator is told to do.
#[derive(Clone, Debug)]
pub(super) enum Order {
    /// Let a node go.
    Leave(NodeId),
    /// Put one in the place of another.
    Replace {
        /// Who gives up his place.
        old: NodeId,
        /// Who takes the place.
        new: NodeId,
        /// Whether the old one's disk is gone. Somebody who can't be reached now may come back, and is never let go by force.
        is_gone: bool,
    },
}

/// How long the operator waits before trying again: networks and disks are failing around the cluster.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// Carries out orders, all at once, each until it is done: one may be what another waits for. `done` counts them.
pub(super) async fn work(
    client: Client<SimTransport>,
    mut orders: mpsc::UnboundedReceiver<Order>,
    done: tokio::sync::watch::Sender<usize>,
) {
    while let Some(order) = orders.recv().await {
        let (client, done) = (client.clone(), done.clone());
        tokio::task::spawn_local(async move {
            let mut tries = 0;
            while !carry_out(&client, &order, tries).await {
                tokio::time::sleep(AGAIN_AFTER).await;
                tries += 1;
            }
            done.send_modify(|count| *count += 1);
        });
    }
}

/// As docs/membership.md has it: a node whose disk is gone leaves by force if a change waits for it for long, and once more
/// without when that is done. In each round of so many tries the second but one is by force, and the rest wait for what it does.
const ROUND: u32 = 8;

async fn carry_out(client: &Client<SimTransport>, order: &Order, tries: u32) -> bool {
    let Ok(cluster) = client.cluster().await else { return false };
    let status = |id: &NodeId| {
        let id = id.to_string();
        let member = cluster.members.iter().find(|member| member.id == id);
        member.map(|member| (member.status.as_str(), member.reachable))
    };
    let has_left = |id: &NodeId| matches!(status(id), Some(("removed" | "leaving", _)));
    let (Order::Leave(goes) | Order::Replace { old: goes, .. }) = order;
    let change = match (status(goes), order) {
        // Somebody else had let the old one go: the new one just comes in.
        (Some(("removed", _)), Order::Replace { new, .. }) => match status(new) {
            Some(("joining", _)) => Change::Join(new.to_string()),
            Some(_) => return true,
            None => return false,
        },
        (Some(("removed", _)), Order::Leave(_)) => return true,
        // Who was to take the place has left meanwhile, by another order: then the old one just goes.
        (Some((_, true)), Order::Replace { new, .. }) if has_left(new) => return true,
        (Some(_), Order::Replace { old, new, .. })
            if has_left(new) && status(old) != Some(("leaving", false)) =>
        {
            Change::Leave(old.to_string())
        }
        (Some(("leaving", false)), Order::Replace { old, is_gone: true, .. }) if tries % ROUND == 2 => {
            Change::LeaveByForce { leave: old.to_string(), force: true }
        }
        (Some(("leaving", false)), Order::Replace { is_gone: true, .. }) if tries % ROUND > 2 => {
            return false;
        }
        // It died while it left; whoever knows that says it once more, and then it is not waited for.
        (Some(("leaving", false)), _) => Change::Leave(goes.to_string()),
        (Some(("leaving", true)), _) => return false,
        (_, Order::Leave(_)) => Change::Leave(goes.to_string()),
        (_, Order::Replace { new, .. }) if status(new).is_none() => return false,
        (_, Order::Replace { old, new, .. }) => {
            Change::Replace { old: old.to_string(), new: new.to_string() }
        }
    };
    match client.stage(&[change]).await {
        Ok(plan) => {
            let _ = client.commit(&plan.hash).await;
        }
        Err(_) => {
            // A half-done plan, perhaps our own of the last attempt: it is begun anew.
            let _ = client.clear_plan().await;
        }
    }
    false
}
