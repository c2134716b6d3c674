//! Writers that never read (W8): every value is a sibling of all others, until the node says that it is enough.
//!
//! Then somebody reads, and writes with what it saw: the key must still answer, and come down to one value.

use super::Plan;
use super::desk::{Desk, Done};
use client::HttpTransport;
use rand::RngExt;

/// How many siblings the bucket allows: few, so that a short run gets there often.
pub(super) const SIBLINGS_MAX: u32 = 10;

pub(super) struct Blind {
    keys: u32,
}

impl Blind {
    pub(super) fn new(plan: &Plan) -> Self {
        Self { keys: plan.keys.max(1) }
    }

    pub(super) async fn step<T: HttpTransport + Clone>(&mut self, desk: &mut Desk<T>) {
        let key = format!("blind{}", desk.rng.random_range(0..self.keys));
        let done = desk.put(&key, String::new(), None, None).await;
        let enough = matches!(&done, Done::Failed(code) if code == "sibling_limit");
        if !enough || !desk.once_in(3) {
            return;
        }
        let Ok(seen) = desk.get(&key, None).await else { return };
        // Whatever becomes of it is in the history.
        let _ = desk.put(&key, String::new(), seen.token.as_ref(), None).await;
    }
}
