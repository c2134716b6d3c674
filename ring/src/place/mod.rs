//! Placement: from a key to the nodes that keep it.
//!
//! ```text
//!   bucket, key ──position──▶ 0 ········ 2^64 ──top bits──▶ partition ──table──▶ owner owner owner │ fallback …
//!                 (hash.rs)                     (hash.rs)              (table.rs)      (claim.rs)
//! ```
//!
//! The slices of the ring are fixed when the cluster is born, so trees, hints and transfers hang on a [`Partition`]
//! and survive every change of members. What changes is only who owns a slice, and that is a pure function of the
//! members and of who owned it before: each node computes the same [`Layout`] alone, and nobody has to be asked or obeyed.
//!
//! Owners are not simply "the next nodes clockwise", as in the textbook: with 256 slices and a handful of nodes that
//! leaves some with twice the load of others. The walk clockwise proposes, a quota for each node disposes.
//!
//! [`Partition`]: crate::ids::Partition

mod claim;
mod evolve;
mod hash;
mod layout;
mod movement;
mod preflist;
mod sets;
mod share;
mod table;

pub use claim::{Claimant, N_FALLBACKS_MAX, WEIGHT_MAX};
pub use hash::{PARTITIONS_DEFAULT, PARTITIONS_MAX, partition, partitions_valid, position};
pub use layout::{Layout, LayoutError, SHARE_UNIT};
pub use movement::movement;
pub use table::{N_MAX, Table, TableName};
