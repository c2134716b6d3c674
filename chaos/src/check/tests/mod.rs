//! The judges judged: what must pass must pass, and every planted fault must be found.
//!
//! | file | what it is |
//! | --- | --- |
//! | `script.rs` | histories in a few words a line |
//! | `by_hand.rs` | for each checker: one that must pass, and the same with one thing wrong |
//! | `model.rs` | a cluster of three replicas in memory, correct, or with one fault planted |
//! | `planted.rs` | the real workloads against it: never a violation, and each fault found |

mod by_hand;
mod model;
mod planted;
mod script;
