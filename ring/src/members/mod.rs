//! Who is in the cluster, as data that merges: no leader, no log, no vote.
//!
//! ```text
//!   node A   View ──gossip──▶ merge ──▶ View   node B        the same rows, whatever came first or twice
//!             │                          │
//!             ▼                          ▼                    the same rows, the same tables
//!          Regime  ════════ digest ═══ Regime
//! ```
//!
//! Who should own the ring (the members) and who has what is needed for it (the settled layout) are two things: a change of
//! the members makes a target, and the target is settled once its owners are filled. `change` is what an operator asks for,
//! `regime` by which tables the cluster acts meanwhile, `settle` when it may go on.
//!
//! The [`View`] says who belongs to the cluster, not who can be reached at the moment: reachability is each node's own
//! impression and belongs to the failure detector. A node that is down for a week still owns its partitions; only an
//! operator takes them away.

mod change;
pub mod fill;
mod member;
mod regime;
mod settle;
mod status;
mod view;

pub use change::{Change, ChangeError, STAGED_MAX, Staged};
pub use member::{Acting, Agreed, Description, Member, Seat};
pub use regime::Regime;
pub use settle::{Step, Wait, Why, next};
pub use status::Status;
pub use view::{
    BUCKET_ROWS_MAX, BUCKETS_MAX, BucketEntry, MEMBER_ROWS_MAX, MEMBERS_MAX, Settled, TEXT_BYTES_MAX,
    VERSION_MAX, View, ViewError,
};
