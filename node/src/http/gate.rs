//! Whom a node has refused because it had too much to do, it reads again as it gets done with that.
//!
//! A refusal costs a quarter of what a request costs. Clients that ask again at once would have the node do nothing else, and the more of
//! them the less it can carry: 22 % of it at three times the rate that it can. So such a client's next request stays in its
//! socket until one that was admitted is done: one for one, in the order in which they were refused, and all of them when few
//! are left, for many that were refused ask for nothing more. It is a matter of milliseconds, and never longer than
//! [`REFUSED_PAUSE`]; a fixed pause instead would be too long for a fast node and too short for a slow one.

use crate::limits::REFUSED_PAUSE;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::sync::Notify;
use tokio::time::timeout;

/// Where refused clients wait. It travels to the listener with the refusal, as an extension of the response.
#[derive(Debug, Default)]
pub(super) struct Gate {
    waiting: AtomicUsize,
    turn: Notify,
}

impl Gate {
    /// A request that was admitted is done. `few`: so few are left that everybody may ask.
    pub(super) fn done(&self, few: bool) {
        // Nobody waits, as nearly always: then it costs nothing.
        if self.waiting.load(Relaxed) == 0 {
        } else if few {
            self.turn.notify_waiters();
        } else {
            self.turn.notify_one();
        }
    }

    /// Waits for this client's turn, or for as long as it may be kept waiting.
    pub(super) async fn wait(self: Arc<Self>) {
        let _counted = Counted::new(&self);
        let _later_than_that = timeout(REFUSED_PAUSE, self.turn.notified()).await;
    }
}

/// One that waits, also if its connection ends meanwhile.
struct Counted<'a>(&'a Gate);

impl<'a> Counted<'a> {
    fn new(gate: &'a Gate) -> Self {
        gate.waiting.fetch_add(1, Relaxed);
        Counted(gate)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}
