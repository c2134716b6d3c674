//! What faults and workloads are aimed at. One target so far: real processes on this machine. A target knows how to
//! bring nodes up and how to hurt them; what happens to the data meanwhile is the business of the workloads.

pub mod process;

mod home;
mod ports;
mod shim;

pub use process::{LocalCluster, Options};
pub use shim::Shim;
