//! A causal context: the set of dots that were seen, as runs of consecutive counts.
//!
//! ```text
//!   a:1–3  b:1       events a1 a2 a3 b1: what a version vector says
//!   b:4–6            and b4 b5 b6, but neither b2 nor b3: what it can't
//! ```
//!
//! A vector alone can't say "b4 without b2": the context returned to a writer that had not seen a sibling would then cover
//! the sibling, and its next put would silently overwrite an acknowledged write (Almeida, Shoker, Baquero: *Delta state
//! replicated data types*, 2018: a vector and a cloud of single dots). Runs say both in one form, and a replica that was
//! away while a key was written a thousand times has one run above its gap and not a thousand dots. Two runs of an actor
//! never touch, so equal sets have equal runs, and nearly every record has one run for each replica.

use super::dot::{Actor, Dot};
use crate::ids::NodeId;

/// The greatest count of a dot: nobody writes one key 2^48 times, but a forger would like to.
pub const COUNT_MAX: u64 = 1 << 48;

/// Consecutive counts of one actor, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Run {
    /// Whose.
    pub actor: Actor,
    /// The lowest count, from 1.
    pub first: u64,
    /// The highest.
    pub last: u64,
}

/// A set of dots.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Context {
    runs: Vec<Run>,
}

impl Context {
    /// Nothing seen.
    pub fn new() -> Self {
        Self::default()
    }

    /// Exactly these dots.
    pub fn of_dots(dots: impl IntoIterator<Item = Dot>) -> Self {
        Self::of_runs(dots.into_iter().map(|d| Run { actor: d.actor, first: d.count, last: d.count }))
    }

    /// The union of runs in any order.
    pub fn of_runs(runs: impl IntoIterator<Item = Run>) -> Self {
        let mut runs: Vec<Run> = runs.into_iter().collect();
        assert!(
            runs.iter().all(|r| 0 < r.first && r.first <= r.last && r.last <= COUNT_MAX),
            "a run goes up, from 1 to {COUNT_MAX}: {runs:?}"
        );
        runs.sort_unstable();
        runs.dedup_by(|next, run| {
            let touches = run.actor == next.actor && next.first <= run.last + 1;
            if touches {
                run.last = run.last.max(next.last);
            }
            touches
        });
        Context { runs }
    }

    /// The runs, by actor and count. No two of them touch.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Whether the dot was seen.
    pub fn has(&self, dot: &Dot) -> bool {
        self.covers_run(&Run { actor: dot.actor, first: dot.count, last: dot.count })
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The highest count seen of an actor, or 0.
    pub fn top(&self, actor: Actor) -> u64 {
        let after = self.runs.partition_point(|r| r.actor <= actor);
        self.runs[..after].last().filter(|r| r.actor == actor).map_or(0, |r| r.last)
    }

    /// The highest epoch seen of a node, and the highest count in it.
    pub fn newest_of(&self, node: NodeId) -> Option<(u64, u64)> {
        let after = self.runs.partition_point(|r| r.actor.node <= node);
        self.runs[..after].last().filter(|r| r.actor.node == node).map(|r| (r.actor.epoch, r.last))
    }

    /// Adds one dot.
    pub fn insert(&mut self, dot: Dot) {
        assert!((1..=COUNT_MAX).contains(&dot.count), "dots count from 1 to {COUNT_MAX}: {dot:?}");
        self.add(Run { actor: dot.actor, first: dot.count, last: dot.count });
    }

    /// Adds everything that the other has seen.
    pub fn join(&mut self, other: &Context) {
        for run in &other.runs {
            self.add(*run);
        }
    }

    /// Whether everything that the other has seen was seen here too.
    pub fn covers(&self, other: &Context) -> bool {
        other.runs.iter().all(|run| self.covers_run(run))
    }

    /// What is left of it without these dots, which are in order.
    #[must_use]
    pub fn without(&self, dots: impl IntoIterator<Item = Dot>) -> Context {
        let mut dots = dots.into_iter().peekable();
        let mut runs = Vec::with_capacity(self.runs.len());
        for run in &self.runs {
            let mut rest = *run;
            while let Some(dot) = dots.next_if(|d| (d.actor, d.count) <= (run.actor, run.last)) {
                if dot.actor != run.actor || dot.count < rest.first {
                    continue;
                }
                if dot.count > rest.first {
                    runs.push(Run { last: dot.count - 1, ..rest });
                }
                rest.first = dot.count + 1;
            }
            if rest.first <= rest.last {
                runs.push(rest);
            }
        }
        Context { runs }
    }

    /// A part of it that has at most `runs_max` runs: of each actor the newest first, of a node's actors the latest first, then the
    /// longest. A node that often had to begin anew leaves many actors behind, and what they wrote is mostly superseded.
    /// A context that says less than was seen is always safe: what it does not name stays beside the next write.
    #[must_use]
    pub fn shortened(&self, runs_max: usize) -> Context {
        if self.runs.len() <= runs_max {
            return self.clone();
        }
        let newest = |at: usize| self.runs.get(at + 1).is_none_or(|next| next.actor != self.runs[at].actor);
        // How many later actors the same node has.
        let mut later = vec![0_usize; self.runs.len()];
        for at in (0..self.runs.len() - 1).rev() {
            let (this, next) = (self.runs[at].actor, self.runs[at + 1].actor);
            let step = usize::from(this != next);
            later[at] = if this.node == next.node { later[at + 1] + step } else { 0 };
        }
        let mut order: Vec<usize> = (0..self.runs.len()).collect();
        order.sort_by_key(|&at| {
            let run = &self.runs[at];
            (!newest(at), later[at], std::cmp::Reverse((run.last - run.first, run.first)))
        });
        order.truncate(runs_max);
        order.sort_unstable();
        Context { runs: order.into_iter().map(|at| self.runs[at]).collect() }
    }

    fn covers_run(&self, run: &Run) -> bool {
        let after = self.runs.partition_point(|r| (r.actor, r.first) <= (run.actor, run.first));
        self.runs[..after].last().is_some_and(|r| r.actor == run.actor && r.last >= run.last)
    }

    fn add(&mut self, run: Run) {
        let before = |r: &Run| (r.actor, r.last + 1) < (run.actor, run.first);
        let touched = |r: &Run| (r.actor, r.first) <= (run.actor, run.last + 1);
        let from = self.runs.partition_point(before);
        let to = from + self.runs[from..].partition_point(touched);
        if from == to {
            self.runs.insert(from, run);
            return;
        }
        let first = self.runs[from].first.min(run.first);
        let last = self.runs[to - 1].last.max(run.last);
        self.runs[from] = Run { actor: run.actor, first, last };
        self.runs.drain(from + 1..to);
    }
}

#[cfg(test)]
mod tests;
