//! What a change to a cart writes: which dots it removes, which siblings it adds.
//!
//! An add travels to the other replicas as a delta: its dot and nothing else, however long the cart is. A removal travels as
//! the whole record. Much of what its caller had seen may be gone here already, by a removal that the other replicas have
//! missed; a delta of what is removed *now* would leave it standing there, and the removal would be acknowledged by
//! replicas that still show the item.

use super::value::{adds, removals, spent};
use super::{OP_MEMORY, OP_MEMORY_COUNT, OPERATIONS_MAX};
use crate::causal::{Context, Dot};
use crate::planted::{self, Bug};
use crate::record::{Content, Coordinated, Me, Op, Record, Sibling, coordinate, merge};
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
            let known = evidence(held, &op.into_iter().collect());
            if !known.siblings.is_empty() {
                return Ok(repeated(held, known));
            }
            draft.attributes(held, &sku, attributes);
            draft.add.push(Content::CartAdd { sku, quantity, op });
        }
        CartChange::AddMany(adds) => {
            let mut known = known_ops(held);
            draft.known = evidence(held, &adds.iter().map(|(_, _, op)| *op).collect());
            let fresh = adds.into_iter().filter(|(_, _, op)| known.insert(*op));
            draft.add.extend(fresh.map(|(sku, quantity, op)| Content::CartAdd {
                sku,
                quantity,
                op: Some(op),
            }));
            if draft.add.is_empty() {
                return Ok(repeated(held, draft.known));
            }
        }
        CartChange::Set { sku, quantity, seen, attributes } => {
            draft.set(held, sku, quantity, &seen, attributes);
        }
        CartChange::Remove { target, seen } => draft.remove(held, &target, &seen),
    }
    draft.settle_markers(held);
    draft.remember_spent(held, now);
    let grows = draft.add.iter().any(|c| matches!(c, Content::CartAdd { .. }));
    if grows && held.siblings.len() + draft.add.len() > OPERATIONS_MAX + draft.gone.len() {
        return Err(CartError::Full);
    }
    if draft.add.is_empty() && held.clock.is_empty() {
        // Nothing is here, and nothing was seen of what there may be: a cart that never was does not begin by being emptied.
        return Ok(repeated(held, Record::default()));
    }
    let mut done = coordinate(local, &Context::of_dots(draft.gone), draft.add, me);
    done.delta = if draft.whole { done.record.clone() } else { merge(&done.delta, &draft.known) };
    Ok(done)
}

fn known_ops(held: &Record) -> BTreeSet<Op> {
    adds(held).filter_map(|(.., op)| op).chain(spent(held).map(|(op, _)| op)).collect()
}

/// The siblings that show that some of these operations were taken, under a clock of just them.
fn evidence(held: &Record, ops: &BTreeSet<Op>) -> Record {
    let shows = |content: &Content| match content {
        Content::CartAdd { op: Some(op), .. } => ops.contains(op),
        Content::CartSpent { ops: spent } => spent.iter().any(|(op, _)| ops.contains(op)),
        _ => false,
    };
    let siblings: Vec<Sibling> = held.siblings.iter().filter(|s| shows(&s.content)).cloned().collect();
    Record { clock: Context::of_dots(siblings.iter().map(|s| s.dot)), siblings }
}

fn repeated(held: &Record, known: Record) -> Coordinated {
    let dots: Vec<Dot> = known.siblings.iter().map(|s| s.dot).collect();
    Coordinated { record: held.clone(), context: known.clock.clone(), delta: known, dots }
}

/// What a change will remove and add.
#[derive(Default)]
struct Draft {
    gone: BTreeSet<Dot>,
    add: Vec<Content>,
    spent: BTreeSet<Op>,
    /// What is here already of what was asked for: it travels with the rest.
    known: Record,
    /// Whether the others need the whole record.
    whole: bool,
}

impl Draft {
    /// New attributes replace those that this copy has; concurrent ones elsewhere stay beside them.
    fn attributes(&mut self, held: &Record, of: &Bytes, json: Option<Bytes>) {
        let Some(json) = json else { return };
        let old = |s: &&Sibling| matches!(&s.content, Content::CartAttributes { sku, .. } if sku == of);
        self.gone.extend(held.siblings.iter().filter(old).map(|s| s.dot));
        self.add.push(Content::CartAttributes { sku: of.clone(), json });
    }

    /// A quantity replaces what was seen of it. What the shop says about the item stays unless it says something new.
    fn set(&mut self, held: &Record, sku: Bytes, quantity: i64, seen: &Context, json: Option<Bytes>) {
        self.remove(held, &Target::Sku(sku.clone()), seen);
        if quantity == 0 {
            return;
        }
        if json.is_none() {
            let old = held.siblings.iter().filter(|s| self.gone.contains(&s.dot)).map(|s| &s.content);
            self.add.extend(old.filter(|c| matches!(c, Content::CartAttributes { .. })).cloned());
        }
        self.attributes(held, &sku, json);
        self.add.push(Content::CartAdd { sku, quantity, op: None });
    }

    /// Removes what of the target was seen and is here. What was seen and is not here yet is named by a marker.
    fn remove(&mut self, held: &Record, target: &Target, seen: &Context) {
        self.whole = true;
        let sku = match target {
            Target::Sku(sku) => Some(sku.clone()),
            Target::Everything => None,
        };
        self.remove_here(held, sku.as_ref(), seen);
        // A repeated removal needs no marker of its own.
        let marked = removals(held).any(|(of, marked)| *of == sku && marked.covers(seen));
        if !marked && !held.clock.covers(seen) {
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
                self.whole = true;
            }
        }
    }

    /// One sibling holds all spent operations that are young enough to be retried still.
    fn remember_spent(&mut self, held: &Record, now: Wall) {
        if self.spent.is_empty() || planted::is(Bug::SpentForgotten) {
            return;
        }
        // Other replicas' adds of a spent operation go now: nothing would hide them once it is forgotten.
        let over: BTreeSet<Op> = spent(held).map(|(op, _)| op).chain(self.spent.iter().copied()).collect();
        let twins = adds(held).filter(|(.., op)| op.is_some_and(|op| over.contains(&op)));
        self.gone.extend(twins.map(|(dot, ..)| dot));
        let mut young: Vec<(Op, Wall)> = spent(held).filter(|(_, at)| at.plus(OP_MEMORY) > now).collect();
        young.sort_by_key(|(op, at)| (std::cmp::Reverse(*at), *op));
        young.truncate(OP_MEMORY_COUNT.saturating_sub(self.spent.len()));
        let mut ops: BTreeMap<Op, Wall> = young.into_iter().rev().collect();
        ops.extend(std::mem::take(&mut self.spent).into_iter().map(|op| (op, now)));
        let old = held.siblings.iter().filter(|s| matches!(s.content, Content::CartSpent { .. }));
        self.gone.extend(old.map(|s| s.dot));
        self.add.push(Content::CartSpent { ops: ops.into_iter().collect() });
    }
}
