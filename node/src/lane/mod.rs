//! The storage lane: the only writer, and the reason why no key needs a lock.
//!
//! ```text
//!   job ─┐
//!   job ─┼─► everything that waits ─► read, decide (ring), one batch ─► one fsync ─► all answers
//!   job ─┘
//! ```
//!
//! Durability costs one sync for as many writes as came in while the last one ran. A key that is written ten times in a
//! batch is encoded once. In production the lane has a thread of its own; in a simulation it runs as a task, because a
//! foreign thread would let the paused clock run away.

mod core;
mod damage;
mod derive;
mod draft;
mod earliest;
mod expiry;
mod hints;
mod job;
mod leaves;
mod ledger;
mod room;
mod sift;

pub use core::{Core, LetGo, Shared, Trees};
pub use damage::Gaps;
pub use derive::{derive, owe_anew};
pub use earliest::{Due, Earliest};
pub use job::{Job, Sift, Still, Taken};
pub use leaves::leaf_row;
pub use ledger::{HintRow, Hints, Kept, Ledger};
pub use room::Crowded;

use crate::limits::{LANE_BATCH_JOBS_MAX, LANE_QUEUE_JOBS_MAX};
use crate::store::Store;
use ring::wire::peer::Refusal;
use tokio::sync::{mpsc, oneshot};

/// Where jobs are handed in. Cheap to clone; when the last one goes, the lane finishes what waits and ends.
#[derive(Clone, Debug)]
pub struct Lane {
    queue: mpsc::Sender<Job>,
}

impl Lane {
    /// Starts the lane. `done` fires after the last job, when the store is closed.
    pub fn start<S: Store>(core: Core<S>, threads: bool) -> (Lane, oneshot::Receiver<()>) {
        let (queue, jobs) = mpsc::channel(LANE_QUEUE_JOBS_MAX);
        let (finished, done) = oneshot::channel();
        if threads {
            #[expect(clippy::disallowed_methods, reason = "the lane is the one blocking loop of the node")]
            std::thread::Builder::new()
                .name("lane".into())
                .spawn(move || run_thread(core, jobs, finished))
                .expect("the system has a thread for us at the start");
        } else {
            tokio::spawn(run_task(core, jobs, finished));
        }
        (Lane { queue }, done)
    }

    /// Hands a job in. A full queue is an answer.
    pub fn submit(&self, job: Job) -> Result<(), Refusal> {
        self.queue.try_send(job).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => Refusal::Overloaded,
            mpsc::error::TrySendError::Closed(_) => Refusal::Draining,
        })
    }

    /// Hands a job in and waits for its answer.
    pub async fn run<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> Job,
    ) -> Result<T, Refusal> {
        let (answer, wait) = oneshot::channel();
        self.submit(job(answer))?;
        wait.await.unwrap_or(Err(Refusal::Draining))
    }

    /// As [`Lane::run`], but waits for room in the queue: for what must not be left undone because others are busy.
    pub async fn run_in_turn<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> Job,
    ) -> Result<T, Refusal> {
        let (answer, wait) = oneshot::channel();
        self.queue.send(job(answer)).await.map_err(|_| Refusal::Draining)?;
        wait.await.unwrap_or(Err(Refusal::Draining))
    }
}

fn run_thread<S: Store>(mut core: Core<S>, mut jobs: mpsc::Receiver<Job>, finished: oneshot::Sender<()>) {
    let mut waiting = Vec::with_capacity(LANE_BATCH_JOBS_MAX);
    while let Some(first) = jobs.blocking_recv() {
        waiting.push(first);
        while waiting.len() < LANE_BATCH_JOBS_MAX
            && let Ok(job) = jobs.try_recv()
        {
            waiting.push(job);
        }
        core.step(waiting.drain(..));
        if core.has_failed() {
            // What is still in the queue was not done, and its askers are told so by its end.
            break;
        }
    }
    drop((core, jobs));
    let _ = finished.send(());
}

async fn run_task<S: Store>(mut core: Core<S>, mut jobs: mpsc::Receiver<Job>, finished: oneshot::Sender<()>) {
    let mut waiting = Vec::with_capacity(LANE_BATCH_JOBS_MAX);
    while jobs.recv_many(&mut waiting, LANE_BATCH_JOBS_MAX).await > 0 {
        // Before the batch, because its answers go out within: whoever waits has to wait for the disk.
        let lag = core.store.lag();
        if !lag.is_zero() {
            tokio::time::sleep(lag).await;
        }
        core.step(waiting.drain(..));
        if core.has_failed() {
            break;
        }
    }
    drop((core, jobs));
    let _ = finished.send(());
}

#[cfg(test)]
mod tests;
