//! Histories that lost acknowledged writes in other stores, or in a model of this one, over the crate's own dots and merge.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `key` | one key on several nodes: steps, faults, and a ledger that knows nothing of dots |
//! | `random` | seeded histories: copies lost, dropped, wiped and taken back in time; contexts with gaps |
//! | `schedules` | counterexamples step by step, as they were found |
//! | `reap` | deletions that are forgotten, with one proof after the other left out |
//! | `sides` | members that change while the cluster falls into sides and comes together again |
//! | `exhaustive` | every history of three nodes, to the sixth and eighth event |
//! | `growth` | siblings and clocks that must not grow, and merges that must not write |
//!
//! A check that can't fail is none, so the histories also run under schemes with one rule taken away ([`key::Scheme`]), and
//! must lose something there. A scheme only changes what the crate is told; the code that runs is the code that ships.

mod exhaustive;
mod growth;
mod key;
mod random;
mod reap;
mod schedules;
mod sides;
