//! The shopping cart: an observed-remove map from item to quantity, as operations that stand side by side.
//!
//! ```text
//!   a:1  +2 mug   (op x)      two customers' tabs and a retry:
//!   b:1  +1 mug   (op y)      mug = 2 + 1, for b:2 repeats op x
//!   b:2  +2 mug   (op x)
//! ```
//!
//! Each add is a sibling with a dot of its own and is never folded into another: a removal names the dots that its
//! caller had seen, so an add that it had not seen survives with exactly its quantity, and nothing that was removed
//! comes back with it. (A counter per item and replica, the obvious way, brings the removed quantity back when an
//! increment is concurrent with the removal.) An operation with a name counts once however many replicas took it; the
//! names of removed adds are remembered as spent for [`OP_MEMORY`].
//!
//! A quantity is the sum of its adds, shown as 0 at least; items that sum to nothing are not shown.

mod change;
mod moving;
mod value;

pub use change::{CartChange, CartError, Target, change};
pub use moving::moved;
pub use value::{Cart, Item};

use std::time::Duration;

/// How long the names of removed operations are remembered: longer than any client retries.
pub const OP_MEMORY: Duration = Duration::from_secs(3600);
/// How many of them at most; the oldest go first. At 24 bytes each that is 240 KiB.
pub const OP_MEMORY_COUNT: usize = 10_000;
/// The most of one item that one operation may add or take away.
pub const QUANTITY_MAX: i64 = 1_000_000_000;
/// The longest item name, in bytes.
pub const SKU_BYTES_MAX: usize = 255;
/// The most operations that one cart holds. At 30 bytes each its record stays below 2 MiB.
pub const OPERATIONS_MAX: usize = 50_000;

#[cfg(test)]
mod tests;
