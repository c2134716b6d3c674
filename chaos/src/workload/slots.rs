//! Counters as a slot for each client (W5): an increment reads its own slot and writes one more. A counter is the sum of
//! its slots.
//!
//! A slot that goes back loses increments for good, because the next one builds on what was read. An increment of unknown
//! outcome makes the sum uncertain by one. Siblings of a slot, which only unknown outcomes bring, count as their largest.

use super::Plan;
use super::desk::{Desk, Done, Token};
use crate::history::Value;
use client::HttpTransport;
use rand::RngExt;
use std::collections::BTreeMap;

pub(super) struct Slots {
    counters: u32,
    own: BTreeMap<u32, Token>,
}

impl Slots {
    pub(super) fn new(plan: &Plan) -> Self {
        Self { counters: plan.keys.max(1), own: BTreeMap::new() }
    }

    pub(super) async fn step<T: HttpTransport + Clone>(&mut self, desk: &mut Desk<T>) {
        let counter = desk.rng.random_range(0..self.counters);
        let key = format!("n{counter}.c{}", desk.client);
        let Ok(seen) = desk.get(&key, self.own.get(&counter)).await else { return };
        let next = count(&seen.values) + 1;
        if let Done::Ok(Some(token)) = desk.put(&key, next.to_string(), seen.token.as_ref(), None).await {
            self.own.insert(counter, token);
        }
    }
}

/// What a slot counts.
pub(crate) fn count<'a>(values: impl IntoIterator<Item = &'a Value>) -> u64 {
    values.into_iter().filter_map(|value| value.text.parse().ok()).max().unwrap_or(0)
}
