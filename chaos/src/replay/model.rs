//! What the carts must hold: plain addition of the acknowledged events, and the comparison with what was read.
//!
//! The model knows nothing of clocks, replicas or merging. Quantities add up in any order, so whatever the cluster went
//! through, one number per cart and item is the truth: `max(0, sum)`, because a quantity never shows below 0. An item
//! whose sum is 0 or less may be absent or shown as 0.
//!
//! An event that was never acknowledged may have been applied or not. Its item is in doubt and is not compared; the run
//! has failed by then anyway, and what it lists should be findings, not guesses.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::events::Event;

/// All carts, by their ids.
#[derive(Debug, Default)]
pub(super) struct Model {
    carts: BTreeMap<String, Cart>,
}

/// One cart as it must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cart {
    /// The sum of what was acknowledged, by item.
    items: BTreeMap<String, i64>,
    /// Items that an unacknowledged event may have changed.
    doubtful: BTreeSet<String>,
    /// The node that acknowledged the last event.
    pub(super) last_writer: usize,
}

impl Model {
    /// Takes an acknowledged event in. Returns how many items the cart has had so far.
    pub(super) fn acknowledged(&mut self, event: &Event, node: usize) -> usize {
        let cart = self.carts.entry(event.cart.clone()).or_default();
        let sum = cart.items.entry(event.sku.clone()).or_default();
        *sum = sum.saturating_add(event.quantity);
        cart.last_writer = node;
        cart.items.len()
    }

    /// Notes an event of which nobody knows whether it took place.
    pub(super) fn unacknowledged(&mut self, event: &Event) {
        self.carts.entry(event.cart.clone()).or_default().doubtful.insert(event.sku.clone());
    }

    /// The carts, in order.
    pub(super) fn into_carts(self) -> BTreeMap<String, Cart> {
        self.carts
    }

    /// How many carts there are.
    pub(super) fn len(&self) -> usize {
        self.carts.len()
    }

    /// The cart with the most items, and how many it has.
    pub(super) fn largest(&self) -> Option<(&str, usize)> {
        let by_items = self.carts.iter().map(|(id, cart)| (id.as_str(), cart.items.len()));
        by_items.max_by_key(|(_, items)| *items)
    }
}

/// A cart as the API shows it; fields that are not compared are left out.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Shown {
    items: Vec<ShownItem>,
    total_quantity: i64,
}

#[derive(Debug, Deserialize)]
struct ShownItem {
    sku: String,
    quantity: i64,
}

/// One way in which a cart is not what it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Difference {
    /// A quantity is not the sum of its events.
    #[error("item {sku}: expected {expected}, found {found}")]
    Quantity {
        /// The item.
        sku: String,
        /// What the events add up to, 0 if that is negative.
        expected: i64,
        /// What is shown, 0 if the item is not there.
        found: i64,
    },
    /// An item is shown more than once.
    #[error("item {sku} is shown twice")]
    Twice {
        /// The item.
        sku: String,
    },
    /// The total is not the sum of the quantities.
    #[error("total_quantity: expected {expected}, found {found}")]
    Total {
        /// The sum of all quantities that must be shown.
        expected: i64,
        /// What is shown.
        found: i64,
    },
    /// The cart could not be read, or what came is not a cart.
    #[error("cannot be read: {why}")]
    Unreadable {
        /// What happened instead.
        why: String,
    },
}

impl Cart {
    /// Everything in which `shown` is not this cart.
    pub(super) fn differences(&self, shown: &Shown) -> Vec<Difference> {
        let mut differences = Vec::new();
        let mut found: BTreeMap<&str, i64> = BTreeMap::new();
        for item in &shown.items {
            if found.insert(&item.sku, item.quantity).is_some() {
                differences.push(Difference::Twice { sku: item.sku.clone() });
            }
        }
        let all: BTreeSet<&str> =
            self.items.keys().map(String::as_str).chain(found.keys().copied()).collect();
        for sku in all.into_iter().filter(|sku| !self.doubtful.contains(*sku)) {
            let expected = self.quantity(sku);
            let found = found.get(sku).copied().unwrap_or(0);
            if found != expected {
                differences.push(Difference::Quantity { sku: sku.to_owned(), expected, found });
            }
        }
        let expected = self.total();
        if self.doubtful.is_empty() && shown.total_quantity != expected {
            differences.push(Difference::Total { expected, found: shown.total_quantity });
        }
        differences
    }

    fn quantity(&self, sku: &str) -> i64 {
        self.items.get(sku).copied().unwrap_or(0).max(0)
    }

    fn total(&self) -> i64 {
        self.items.values().map(|sum| (*sum).max(0)).fold(0, i64::saturating_add)
    }
}

#[cfg(test)]
mod tests;
