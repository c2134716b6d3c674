//! A causal context: a version vector plus a small cloud of single dots.
//!
//! ```text
//!   vector  a:3 b:1        events a1 a2 a3 b1
//!   cloud   b:4            and b4, but neither b2 nor b3
//! ```
//!
//! A vector alone can't say "b4 without b2": the context returned to a writer that had not seen a sibling would then cover
//! the sibling, and its next put would silently overwrite an acknowledged write (Almeida, Shoker, Baquero: *Delta state
//! replicated data types*, 2018). The cloud folds into the vector as soon as it is contiguous, so it is empty on
//! nearly every record. Both parts are sorted vectors: they hold one to five entries, and order is visible in encodings.

use super::dot::{Actor, Dot};
use crate::ids::NodeId;

/// A set of dots, closed under "everything before" only where the vector says so.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Context {
    vector: Vec<(Actor, u64)>,
    cloud: Vec<Dot>,
}

impl Context {
    /// Nothing seen.
    pub fn new() -> Self {
        Self::default()
    }

    /// Builds a context from parts in any order, as they come from a decoder.
    pub fn from_parts(vector: Vec<(Actor, u64)>, cloud: Vec<Dot>) -> Self {
        let mut context = Context::new();
        for (actor, count) in vector {
            context.raise(actor, count);
        }
        context.cloud = cloud;
        context.cloud.sort_unstable();
        context.cloud.dedup();
        context.fold();
        context
    }

    /// Exactly these dots.
    pub fn of_dots(dots: impl IntoIterator<Item = Dot>) -> Self {
        let mut context = Context { vector: Vec::new(), cloud: dots.into_iter().collect() };
        context.cloud.sort_unstable();
        context.cloud.dedup();
        context.fold();
        context
    }

    /// Whether the dot was seen.
    pub fn has(&self, dot: &Dot) -> bool {
        self.vector_count(dot.actor) >= dot.count || self.cloud.binary_search(dot).is_ok()
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.vector.is_empty() && self.cloud.is_empty()
    }

    /// The vector's entries, by actor.
    pub fn vector(&self) -> &[(Actor, u64)] {
        &self.vector
    }

    /// The single dots, in order.
    pub fn cloud(&self) -> &[Dot] {
        &self.cloud
    }

    /// The highest count seen of an actor.
    pub fn top(&self, actor: Actor) -> u64 {
        let single = self.cloud.iter().filter(|d| d.actor == actor).map(|d| d.count).max().unwrap_or(0);
        single.max(self.vector_count(actor))
    }

    /// The highest epoch seen of a node, and the highest count in it.
    pub fn newest_of(&self, node: NodeId) -> Option<(u64, u64)> {
        let in_vector = self.vector.iter().filter(|(a, _)| a.node == node).map(|(a, n)| (a.epoch, *n));
        let single = self.cloud.iter().filter(|d| d.actor.node == node).map(|d| (d.actor.epoch, d.count));
        in_vector.chain(single).max()
    }

    /// Adds one dot.
    pub fn insert(&mut self, dot: Dot) {
        assert!(dot.count > 0, "dots count from 1");
        if self.has(&dot) {
            return;
        }
        if let Err(at) = self.cloud.binary_search(&dot) {
            self.cloud.insert(at, dot);
        }
        self.fold();
    }

    /// Adds everything that the other has seen.
    pub fn join(&mut self, other: &Context) {
        for (actor, count) in &other.vector {
            self.raise(*actor, *count);
        }
        for dot in &other.cloud {
            if let Err(at) = self.cloud.binary_search(dot) {
                self.cloud.insert(at, *dot);
            }
        }
        self.fold();
    }

    /// Whether everything that the other has seen was seen here too.
    pub fn covers(&self, other: &Context) -> bool {
        other.cloud.iter().all(|d| self.has(d)) && other.vector.iter().all(|(a, n)| self.covers_up_to(*a, *n))
    }

    fn covers_up_to(&self, actor: Actor, count: u64) -> bool {
        // After folding, the dot after the vector's count is never in the cloud.
        self.vector_count(actor) >= count
    }

    fn vector_count(&self, actor: Actor) -> u64 {
        self.vector.binary_search_by_key(&actor, |(a, _)| *a).map_or(0, |at| self.vector[at].1)
    }

    fn raise(&mut self, actor: Actor, count: u64) {
        match self.vector.binary_search_by_key(&actor, |(a, _)| *a) {
            Ok(at) => self.vector[at].1 = self.vector[at].1.max(count),
            Err(at) if count > 0 => self.vector.insert(at, (actor, count)),
            Err(_) => {}
        }
    }

    /// Moves every dot that continues its actor's vector entry into the vector.
    fn fold(&mut self) {
        if self.cloud.is_empty() {
            return;
        }
        for dot in std::mem::take(&mut self.cloud) {
            let seen = self.vector_count(dot.actor);
            if dot.count == seen + 1 {
                self.raise(dot.actor, dot.count);
            } else if dot.count > seen {
                self.cloud.push(dot);
            }
        }
    }
}

#[cfg(test)]
mod tests;
