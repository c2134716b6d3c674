//! What a cart shows: a function of the record alone, so that equal records show equal carts everywhere.

use crate::causal::{Context, Dot};
use crate::record::{Content, Op, Record};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// An item as it is shown.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Item {
    /// How many; above 0.
    pub quantity: u64,
    /// What the shop says about it: JSON objects, the latest last. Later names win over earlier ones.
    pub attributes: Vec<Bytes>,
}

/// A cart as it is shown.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cart {
    /// By item, in order.
    pub items: BTreeMap<Bytes, Item>,
}

/// The adds that count: not removed, not spent, each named operation once.
pub(crate) fn live_adds(record: &Record) -> impl Iterator<Item = (Dot, &Bytes, i64, Option<Op>)> {
    let removed: Vec<(&Option<Bytes>, &Context)> = removals(record).collect();
    let is_removed = move |dot: Dot, sku: &Bytes| {
        removed.iter().any(|(of, seen)| of.as_ref().is_none_or(|of| of == sku) && seen.has(&dot))
    };
    // An operation that was removed once is over, also where another replica has taken it too.
    let mut over: BTreeSet<Op> = spent(record).map(|(op, _)| op).collect();
    over.extend(adds(record).filter(|(dot, sku, ..)| is_removed(*dot, sku)).filter_map(|(.., op)| op));
    // The smallest dot of an operation counts; siblings come in the order of their dots.
    adds(record)
        .filter(move |(dot, sku, _, op)| !is_removed(*dot, sku) && op.is_none_or(|op| over.insert(op)))
}

/// Every add that is there, counted or not.
pub(crate) fn adds(record: &Record) -> impl Iterator<Item = (Dot, &Bytes, i64, Option<Op>)> {
    record.siblings.iter().filter_map(|s| match &s.content {
        Content::CartAdd { sku, quantity, op } => Some((s.dot, sku, *quantity, *op)),
        _ => None,
    })
}

pub(crate) fn removals(record: &Record) -> impl Iterator<Item = (&Option<Bytes>, &Context)> {
    record.siblings.iter().filter_map(|s| match &s.content {
        Content::CartRemoved { sku, seen } => Some((sku, seen)),
        _ => None,
    })
}

pub(crate) fn spent(record: &Record) -> impl Iterator<Item = (Op, crate::time::Wall)> {
    record.siblings.iter().flat_map(|s| {
        match &s.content {
            Content::CartSpent { ops } => ops.as_slice(),
            _ => &[],
        }
        .iter()
        .copied()
    })
}

impl Cart {
    /// Reads a cart out of a record.
    pub fn of(record: &Record) -> Cart {
        let mut sums: BTreeMap<&Bytes, i64> = BTreeMap::new();
        for (_, sku, quantity, _) in live_adds(record) {
            let sum = sums.entry(sku).or_default();
            *sum = sum.saturating_add(quantity);
        }
        let mut cart = Cart::default();
        for (sku, sum) in sums {
            if let Some(quantity) = u64::try_from(sum).ok().filter(|n| *n > 0) {
                cart.items.insert(sku.clone(), Item { quantity, attributes: Vec::new() });
            }
        }
        cart.add_attributes(record);
        cart
    }

    fn add_attributes(&mut self, record: &Record) {
        for sibling in &record.siblings {
            if let Content::CartAttributes { sku, json } = &sibling.content
                && let Some(item) = self.items.get_mut(sku)
            {
                item.attributes.push(json.clone());
            }
        }
    }

    /// The sum of all quantities.
    pub fn total_quantity(&self) -> u64 {
        self.items.values().fold(0, |sum, item| sum.saturating_add(item.quantity))
    }
}
