//! Who is in the cluster, as data that merges: no leader, no log, no vote.
//!
//! ```text
//!   node A   View ──gossip──▶ merge ──▶ View   node B        the same rows, whatever came first or twice
//!             │                          │
//!             ▼ claimants()              ▼                    the same rows, the same table
//!           Table  ════════ digest ═══ Table
//! ```
//!
//! The [`View`] says who belongs to the cluster, not who can be reached at the moment: reachability is each node's own
//! impression and belongs to the failure detector. A node that is down for a week still owns its partitions; only an
//! operator takes them away.

mod status;
mod view;

pub use status::Status;
pub use view::{
    BUCKET_ROWS_MAX, BUCKETS_MAX, BucketEntry, Description, MEMBER_ROWS_MAX, MEMBERS_MAX, Member,
    TEXT_BYTES_MAX, VERSION_MAX, View, ViewError,
};
