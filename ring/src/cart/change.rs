//! What a change to a cart writes: which dots it removes, which siblings it adds.

use super::value::spent;
use super::{OP_MEMORY, OPERATIONS_MAX};
use crate::causal::{Context, Dot};
use crate::record::{Content, Coordinated, Me, Op, Record, Sibling, coordinate};
use crate::time::Wall;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// One item or all of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Target {
    /// This item.
    Sku(Bytes),
    /// The whole cart.
    Everything,
}

/// What a caller wants of a cart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CartChange {
    /// So many more of an item, or fewer.
    Add {
        /// The item.
        sku: Bytes,
        /// How many.
        quantity: i64,
        /// The operation's name.
        op: Option<Op>,
        /// A JSON object about the item.
        attributes: Option<Bytes>,
    },
    /// Several adds at once: a guest's cart that moves in.
    AddMany(Vec<(Bytes, i64, Op)>),
    /// Just this many of an item, instead of what was seen of it.
    Set {
        /// The item.
        sku: Bytes,
        /// How many.
        quantity: i64,
        /// What the caller had seen.
        seen: Context,
        /// A JSON object about the item.
        attributes: Option<Bytes>,
    },
    /// What was seen goes away.
    Remove {
        /// Which items.
        target: Target,
        /// What the caller had seen.
        seen: Context,
    },
}

/// The change was refused; the cart is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CartError {
    /// The cart holds [`OPERATIONS_MAX`] operations.
    #[error("the cart holds {OPERATIONS_MAX} operations, the most that one may have")]
    Full,
}

/// Applies a change. A repeated operation changes nothing and is answered like the first: its delta carries what is here
/// of the operation, so that an acknowledgement of the retry means as much as one of the first try.
pub fn change(
    local: Option<&Record>,
    change: CartChange,
    now: Wall,
    me: &mut Me<'_>,
) -> Result<Coordinated, CartError> {
    let empty = Record::default();
    let held = local.unwrap_or(&empty);
    let mut draft = Draft::default();
    match change {
        CartChange::Add { sku, quantity, op, attributes } => {
            let known = op.map(|op| evidence(held, op)).unwrap_or_default();
            if !known.is_empty() {
                return Ok(repeated(held, known));
            }
            draft.attributes(held, &sku, attributes);
            draft.add.push(Content::CartAdd { sku, quantity, op });
        }
        CartChange::AddMany(adds) => {
            let known = known_ops(held);
            if adds.iter().all(|(_, _, op)| known.contains(op)) {
                return Ok(repeated(held, adds.iter().flat_map(|(_, _, op)| evidence(held, *op)).collect()));
            }
            let fresh = adds.into_iter().filter(|(_, _, op)| !known.contains(op));
            draft.add.extend(fresh.map(|(sku, quantity, op)| Content::CartAdd {
                sku,
                quantity,
                op: Some(op),
            }));
        }
        CartChange::Set { sku, quantity, seen, attributes } => {
            draft.remove(held, &Target::Sku(sku.clone()), &seen);
            draft.attributes(held, &sku, attributes);
            if quantity != 0 {
                draft.add.push(Content::CartAdd { sku, quantity, op: None });
            }
        }
        CartChange::Remove { target, seen } => draft.remove(held, &target, &seen),
    }
    draft.settle_markers(held);
    draft.remember_spent(held, now);
    let grows = draft.add.iter().any(|c| matches!(c, Content::CartAdd { .. }));
    if grows && held.siblings.len() + draft.add.len() > OPERATIONS_MAX {
        return Err(CartError::Full);
    }
    Ok(coordinate(local, &Context::of_dots(draft.gone), draft.add, me))
}

fn known_ops(held: &Record) -> BTreeSet<Op> {
    let adds = held.siblings.iter().filter_map(|s| match s.content {
        Content::CartAdd { op, .. } => op,
        _ => None,
    });
    adds.chain(spent(held).map(|(op, _)| op)).collect()
}

/// The siblings that show that an operation was taken.
fn evidence(held: &Record, op: Op) -> Vec<Sibling> {
    let shows = |content: &Content| match content {
        Content::CartAdd { op: of, .. } => *of == Some(op),
        Content::CartSpent { ops } => ops.iter().any(|(of, _)| *of == op),
        _ => false,
    };
    held.siblings.iter().filter(|s| shows(&s.content)).cloned().collect()
}

fn repeated(held: &Record, mut known: Vec<Sibling>) -> Coordinated {
    known.sort_by_key(|s| s.dot);
    known.dedup_by_key(|s| s.dot);
    let dots: Vec<Dot> = known.iter().map(|s| s.dot).collect();
    let context = Context::of_dots(dots.iter().copied());
    Coordinated {
        record: held.clone(),
        delta: Record { clock: context.clone(), siblings: known },
        context,
        dots,
    }
}

/// What a change will remove and add.
#[derive(Default)]
struct Draft {
    gone: BTreeSet<Dot>,
    add: Vec<Content>,
    spent: BTreeSet<Op>,
}

impl Draft {
    /// New attributes replace those that this copy has; concurrent ones elsewhere stay beside them.
    fn attributes(&mut self, held: &Record, of: &Bytes, json: Option<Bytes>) {
        let Some(json) = json else { return };
        let old = |s: &&Sibling| matches!(&s.content, Content::CartAttributes { sku, .. } if sku == of);
        self.gone.extend(held.siblings.iter().filter(old).map(|s| s.dot));
        self.add.push(Content::CartAttributes { sku: of.clone(), json });
    }

    /// Removes what of the target was seen and is here. What was seen and is not here yet is named by a marker.
    fn remove(&mut self, held: &Record, target: &Target, seen: &Context) {
        let sku = match target {
            Target::Sku(sku) => Some(sku.clone()),
            Target::Everything => None,
        };
        self.remove_here(held, sku.as_ref(), seen);
        if !held.clock.covers(seen) {
            self.add.push(Content::CartRemoved { sku, seen: seen.clone() });
        }
    }

    fn remove_here(&mut self, held: &Record, target: Option<&Bytes>, seen: &Context) {
        for sibling in &held.siblings {
            let (of, op) = match &sibling.content {
                Content::CartAdd { sku, op, .. } => (sku, *op),
                Content::CartAttributes { sku, .. } => (sku, None),
                _ => continue,
            };
            if seen.has(&sibling.dot) && target.is_none_or(|sku| sku == of) {
                self.gone.insert(sibling.dot);
                self.spent.extend(op);
            }
        }
    }

    /// A marker whose whole context has arrived here is carried out and goes.
    fn settle_markers(&mut self, held: &Record) {
        for sibling in &held.siblings {
            let Content::CartRemoved { sku, seen } = &sibling.content else { continue };
            if held.clock.covers(seen) {
                self.remove_here(held, sku.as_ref(), seen);
                self.gone.insert(sibling.dot);
            }
        }
    }

    /// One sibling holds all spent operations that are young enough to be retried still.
    fn remember_spent(&mut self, held: &Record, now: Wall) {
        if self.spent.is_empty() {
            return;
        }
        let young = spent(held).filter(|(_, at)| at.plus(OP_MEMORY) > now);
        let mut ops: BTreeMap<Op, Wall> = young.collect();
        ops.extend(std::mem::take(&mut self.spent).into_iter().map(|op| (op, now)));
        let old = held.siblings.iter().filter(|s| matches!(s.content, Content::CartSpent { .. }));
        self.gone.extend(old.map(|s| s.dot));
        self.add.push(Content::CartSpent { ops: ops.into_iter().collect() });
    }
}
