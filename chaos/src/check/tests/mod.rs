//! The judges judged: what must pass must pass, and every planted fault must be found.
//!
//! | file | what it is |
//! | --- | --- |
//! | `script.rs` | histories in a few words a line |
//! | `by_hand.rs` | for each checker: one that must pass, and the same with one thing wrong |

mod by_hand;
mod script;
