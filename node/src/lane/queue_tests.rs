//! What happens to a job that finds the queue full.

use super::Bench;
use crate::lane::Job;
use crate::limits::LANE_QUEUE_JOBS_MAX;
use crate::store::mem::MemDisk;
use ring::wire::peer::Refusal;
use tokio::sync::oneshot;

/// Nothing takes jobs out while the test does not wait, so the queue fills up.
#[tokio::test]
async fn a_full_queue_is_an_answer_or_is_waited_for() {
    let bench = Bench::on(MemDisk::new());
    let mut answers = Vec::new();
    for _ in 0..LANE_QUEUE_JOBS_MAX {
        let (reply, answer) = oneshot::channel();
        bench.lane.submit(Job::Forsake { reply }).unwrap();
        answers.push(answer);
    }
    assert_eq!(bench.lane.run(|reply| Job::Forsake { reply }).await, Err(Refusal::Overloaded));
    assert_eq!(bench.lane.run_in_turn(|reply| Job::Forsake { reply }).await, Ok(true));
    for answer in answers {
        assert_eq!(answer.await, Ok(Ok(true)));
    }
}
