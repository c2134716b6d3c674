//! The person who changes the cluster, by the client library and over the same network as everybody.

use super::transport::SimTransport;
use client::{Change, Client, Cluster, Member};
use ring::ids::NodeId;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};

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
    },
}

/// How long the operator waits before trying again: networks and disks are failing around the cluster.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// Nodes whose disk is gone, which nobody will ever see again. Clones are the same list.
#[derive(Clone, Default)]
pub(super) struct Gone(Rc<RefCell<BTreeSet<NodeId>>>);

impl Gone {
    /// This one's is.
    pub(super) fn note(&self, id: NodeId) {
        self.0.borrow_mut().insert(id);
    }

    fn has(&self, id: &NodeId) -> bool {
        self.0.borrow().contains(id)
    }
}

/// What the operator goes by.
#[derive(Clone)]
pub(super) struct Operator {
    /// Who will not come back. Somebody who just can't be reached may, and is never let go by force.
    pub(super) gone: Gone,
    /// Whether a disk may be lost in this run. Then nobody else is given up: what is promised bears one loss.
    pub(super) may_lose: bool,
}

/// As docs/membership.md has it: a node whose disk is gone leaves by force if a change waits for it for long, and once more
/// without when that is done. In each round of so many tries the second but one is by force, and the rest wait for what it does.
const ROUND: u32 = 8;

impl Operator {
    /// Carries out orders by way of these nodes, each until it is done: all at once, for one may be what another waits for; but those
    /// about one node in their turn. `done` counts them.
    pub(super) async fn work(
        self,
        nodes: Vec<Client<SimTransport>>,
        mut orders: mpsc::UnboundedReceiver<Order>,
        done: tokio::sync::watch::Sender<usize>,
    ) {
        let mut turns: BTreeMap<NodeId, Rc<Mutex<()>>> = BTreeMap::new();
        while let Some(order) = orders.recv().await {
            let turn = Rc::clone(turns.entry(order.goes()).or_default());
            let (by, nodes, done) = (self.clone(), nodes.clone(), done.clone());
            tokio::task::spawn_local(async move {
                let _turn = turn.lock().await;
                let mut tries = 0;
                while !by.carry_out(&nodes, &order, tries).await {
                    tokio::time::sleep(AGAIN_AFTER).await;
                    tries += 1;
                }
                done.send_modify(|count| *count += 1);
            });
        }
    }

    /// Takes the next step towards it. Whether it is done.
    async fn carry_out(&self, nodes: &[Client<SimTransport>], order: &Order, tries: u32) -> bool {
        let at = tries as usize % nodes.len();
        let Some((client, cluster)) = ask(nodes[at..].iter().chain(&nodes[..at])).await else { return false };
        let Some(change) = self.step(&Seen(&cluster.members), order, tries) else { return false };
        let Step::Change(change) = change else { return true };
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

    /// What to do, going by what the cluster says of its members; nothing for now, if there is to be waited.
    fn step(&self, seen: &Seen<'_>, order: &Order, tries: u32) -> Option<Step> {
        let goes = order.goes();
        let (gone, status) = (self.gone.has(&goes), seen.status(&goes));
        // Beyond the one disk that is lost nobody is given up, and of those who are cut off no two.
        let is_spared = !gone && (self.may_lose || seen.other_leaves_unreached(&goes));
        match (status, order) {
            // Somebody else had let the old one go: the new one just comes in.
            (Some(("removed", _)), Order::Replace { new, .. }) => match seen.status(new)?.0 {
                "joining" => Some(Step::Change(Change::Join(new.to_string()))),
                _ => Some(Step::Done),
            },
            (Some(("removed", _)), Order::Leave(_)) => Some(Step::Done),
            (Some((_, false)), _) if is_spared => None,
            // Who was to take the place has left meanwhile, by another order: then the old one just goes.
            (Some((_, true)), Order::Replace { new, .. }) if seen.has_left(new) => Some(Step::Done),
            (Some(status), Order::Replace { new, .. })
                if seen.has_left(new) && status != ("leaving", false) =>
            {
                leave(&goes)
            }
            (Some(("leaving", false)), _) if gone && tries % ROUND == 2 => {
                Some(Step::Change(Change::LeaveByForce { leave: goes.to_string(), force: true }))
            }
            (Some(("leaving", false)), _) if gone && tries % ROUND > 2 => None,
            // It died while it left; whoever knows that says it once more, and then it is not waited for.
            (Some(("leaving", false)), _) => leave(&goes),
            (Some(("leaving", true)), _) => None,
            (_, Order::Leave(_)) => leave(&goes),
            (_, Order::Replace { new, .. }) => {
                seen.status(new)?;
                Some(Step::Change(Change::Replace { old: goes.to_string(), new: new.to_string() }))
            }
        }
    }
}

/// Asks one after the other until a member answers. Who was removed hears nobody, and would call all the others unreachable.
async fn ask<'a>(
    nodes: impl Iterator<Item = &'a Client<SimTransport>>,
) -> Option<(&'a Client<SimTransport>, Cluster)> {
    for node in nodes {
        let Ok(cluster) = node.cluster().await else { continue };
        let is_itself = |member: &&Member| member.id == cluster.node;
        if cluster.members.iter().find(is_itself).is_some_and(|member| member.status != "removed") {
            return Some((node, cluster));
        }
    }
    None
}

fn leave(id: &NodeId) -> Option<Step> {
    Some(Step::Change(Change::Leave(id.to_string())))
}

#[derive(Debug, PartialEq)]
enum Step {
    Done,
    Change(Change),
}

impl Order {
    /// Whom it lets go.
    fn goes(&self) -> NodeId {
        let (Order::Leave(goes) | Order::Replace { old: goes, .. }) = self;
        *goes
    }
}

/// What the node that was asked says of the members.
struct Seen<'a>(&'a [Member]);

impl Seen<'_> {
    fn status(&self, id: &NodeId) -> Option<(&str, bool)> {
        let id = id.to_string();
        let member = self.0.iter().find(|member| member.id == id);
        member.map(|member| (member.status.as_str(), member.reachable))
    }

    fn has_left(&self, id: &NodeId) -> bool {
        matches!(self.status(id), Some(("removed" | "leaving", _)))
    }

    fn other_leaves_unreached(&self, id: &NodeId) -> bool {
        let id = id.to_string();
        self.0.iter().any(|member| member.id != id && member.status == "leaving" && !member.reachable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: NodeId = NodeId(1);
    const NEW: NodeId = NodeId(2);
    const REPLACE: Order = Order::Replace { old: OLD, new: NEW };

    /// What is done about members that are said to be such, each with whether it is reached.
    fn told(by: &Operator, order: &Order, tries: u32, said: &[(NodeId, &str, bool)]) -> Option<Step> {
        let member = |(id, status, reachable): &(NodeId, &str, bool)| Member {
            id: id.to_string(),
            status: (*status).to_owned(),
            reachable: *reachable,
            ..Member::default()
        };
        by.step(&Seen(&said.iter().map(member).collect::<Vec<_>>()), order, tries)
    }

    fn operator(may_lose: bool, gone: &[NodeId]) -> Operator {
        let list = Gone::default();
        gone.iter().for_each(|id| list.note(*id));
        Operator { gone: list, may_lose }
    }

    fn changes(change: Change) -> Option<Step> {
        Some(Step::Change(change))
    }

    #[test]
    fn a_place_is_taken_and_a_leave_is_waited_for() {
        let by = operator(true, &[]);
        let replaced = Change::Replace { old: OLD.to_string(), new: NEW.to_string() };
        assert_eq!(told(&by, &REPLACE, 0, &[(OLD, "up", true), (NEW, "joining", true)]), changes(replaced));
        assert_eq!(told(&by, &REPLACE, 0, &[(OLD, "up", true)]), None, "nobody has heard of the new one");
        assert_eq!(told(&by, &REPLACE, 1, &[(OLD, "leaving", true), (NEW, "up", true)]), None);
        assert_eq!(told(&by, &REPLACE, 1, &[(OLD, "removed", false), (NEW, "up", true)]), Some(Step::Done));
        let joined = Change::Join(NEW.to_string());
        let by_somebody_else = [(OLD, "removed", false), (NEW, "joining", true)];
        assert_eq!(told(&by, &REPLACE, 1, &by_somebody_else), changes(joined), "else it waits for ever");
        let left = Change::Leave(OLD.to_string());
        assert_eq!(
            told(&by, &REPLACE, 0, &[(OLD, "down", false), (NEW, "removed", true)]),
            None,
            "it is spared"
        );
        assert_eq!(told(&by, &REPLACE, 0, &[(OLD, "up", true), (NEW, "removed", true)]), Some(Step::Done));
        assert_eq!(told(&by, &Order::Leave(OLD), 0, &[(OLD, "up", true)]), changes(left));
    }

    #[test]
    fn force_is_for_those_whose_disk_is_gone_and_once_in_a_round() {
        let forced = Change::LeaveByForce { leave: OLD.to_string(), force: true };
        let left = Change::Leave(OLD.to_string());
        let away = [(OLD, "leaving", false), (NEW, "joining", true)];
        for order in [REPLACE, Order::Leave(OLD)] {
            let by_tries =
                |by: &Operator| (0..ROUND).map(|tries| told(by, &order, tries, &away)).collect::<Vec<_>>();
            let gone = by_tries(&operator(true, &[OLD]));
            assert_eq!(gone[..3], [changes(left.clone()), changes(left.clone()), changes(forced.clone())]);
            assert!(gone[3..].iter().all(Option::is_none), "what the force does is waited for");
            assert!(by_tries(&operator(true, &[])).iter().all(Option::is_none), "it may come back");
            assert!(by_tries(&operator(false, &[])).iter().all(|step| *step == changes(left.clone())));
        }
    }

    #[test]
    fn of_those_who_are_cut_off_no_two_are_given_up() {
        let (by, order) = (operator(false, &[]), Order::Leave(OLD));
        let one = [(OLD, "down", false), (NEW, "leaving", true)];
        assert_eq!(told(&by, &order, 0, &one), changes(Change::Leave(OLD.to_string())));
        assert_eq!(told(&by, &order, 0, &[(OLD, "down", false), (NEW, "leaving", false)]), None);
    }
}
