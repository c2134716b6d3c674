//! Who has seen what: dots, causal contexts, and the signed tokens that carry contexts through a client.

pub mod context;
pub mod dot;
pub mod epochs;
pub mod token;

pub use context::{COUNT_MAX, Context, Run};
pub use dot::{Actor, Dot};
pub use epochs::Epochs;
