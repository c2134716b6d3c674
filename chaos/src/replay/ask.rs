//! One request, asked of one node after the other until one of them answers for good.
//!
//! Every write carries an `op_id`, so asking again is always safe: an attempt that was cut off may have been applied, and
//! the next one then counts for nothing. That is the claim under test, and the reason why this does not stop to find
//! out what became of the first attempt.

use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

use crate::http::{Http, NoAnswer, Reply, segment};
use crate::limits;

/// The nodes under test and the bucket in them.
#[derive(Debug)]
pub(super) struct Nodes {
    pub(super) http: Http,
    /// Without a slash at the end.
    pub(super) urls: Vec<String>,
    pub(super) bucket: String,
}

/// What is asked.
#[derive(Debug)]
pub(super) enum Request {
    /// The cart as it is.
    Cart { cart: String },
    /// A change of one item.
    Change { cart: String, body: Vec<u8> },
}

/// Which nodes are asked, in which order: `choices` of them from `first` on, round and round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    first: usize,
    choices: usize,
}

/// An answer that another attempt would not change.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) reply: Reply,
    pub(super) node: usize,
    pub(super) retries: u64,
}

/// No such answer within the deadline.
#[derive(Debug)]
pub(super) struct GaveUp {
    pub(super) retries: u64,
    /// What the last attempt came to.
    pub(super) last: String,
}

impl Nodes {
    /// All nodes, beginning with another one for each event: a cart's events go through all of them in turn.
    pub(super) fn write_route(&self, row: u64) -> Route {
        let nodes = self.urls.len();
        let first = usize::try_from(row % nodes as u64).expect("a remainder of a usize fits into one");
        Route { first, choices: nodes }
    }

    /// All nodes but the one that wrote last; that one only where there is no other.
    pub(super) fn read_route(&self, last_writer: usize) -> Route {
        Route { first: last_writer + 1, choices: (self.urls.len() - 1).max(1) }
    }

    fn node(&self, route: Route, attempt: u64) -> usize {
        let offset =
            usize::try_from(attempt % route.choices as u64).expect("a remainder of a usize fits into one");
        (route.first + offset) % self.urls.len()
    }

    /// Asks along `route` until a node answers for good or `at_most` has passed.
    pub(super) async fn ask(
        &self,
        request: &Request,
        route: Route,
        at_most: Duration,
        rng: &mut StdRng,
    ) -> Result<Answer, GaveUp> {
        let deadline = Instant::now() + at_most;
        let mut retries = 0;
        loop {
            let node = self.node(route, retries);
            let left = deadline.saturating_duration_since(Instant::now());
            let last = match self.attempt(request, node, left.min(limits::ATTEMPT_MAX)).await {
                Ok(reply) if !reply.is_worth_a_retry() => return Ok(Answer { reply, node, retries }),
                Ok(reply) => reply.problem(),
                Err(error) => error.to_string(),
            };
            let pause = backoff(retries, rng);
            if Instant::now() + pause >= deadline {
                return Err(GaveUp { retries, last: format!("{}: {last}", self.urls[node]) });
            }
            tokio::time::sleep(pause).await;
            retries += 1;
        }
    }

    async fn attempt(&self, request: &Request, node: usize, at_most: Duration) -> Result<Reply, NoAnswer> {
        let base = format!("{}/v1/carts/{}", self.urls[node], segment(&self.bucket));
        match request {
            Request::Cart { cart } => self.http.get(&format!("{base}/{}", segment(cart)), at_most).await,
            Request::Change { cart, body } => {
                self.http.post(&format!("{base}/{}/items", segment(cart)), body, at_most).await
            }
        }
    }
}

/// The pause before the next attempt: doubled each time, and a random half to the whole of it, so that the events which
/// a dead node sent away together do not come back together.
fn backoff(retries: u64, rng: &mut StdRng) -> Duration {
    let doublings = u32::try_from(retries.min(16)).expect("16 fits");
    let whole = limits::BACKOFF_FIRST.saturating_mul(1 << doublings).min(limits::BACKOFF_MAX);
    whole.mul_f64(rng.random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn nodes(count: usize) -> Nodes {
        let urls = (0..count).map(|i| format!("http://n{i}")).collect();
        Nodes { http: Http::new(1).unwrap(), urls, bucket: "carts".to_owned() }
    }

    #[test]
    fn consecutive_events_go_to_consecutive_nodes_and_retries_to_the_next() {
        let nodes = nodes(3);
        let tried =
            |row| (0..4).map(|attempt| nodes.node(nodes.write_route(row), attempt)).collect::<Vec<_>>();
        assert_eq!(tried(3), [0, 1, 2, 0]);
        assert_eq!(tried(4), [1, 2, 0, 1]);
    }

    #[test]
    fn a_cart_is_never_read_through_its_last_writer_unless_it_is_alone() {
        let three = nodes(3);
        for writer in 0..3 {
            let tried: Vec<usize> =
                (0..4).map(|attempt| three.node(three.read_route(writer), attempt)).collect();
            assert!(!tried.contains(&writer), "{tried:?} after {writer}");
            assert_ne!(tried[0], tried[1]);
        }
        let one = nodes(1);
        assert_eq!(one.node(one.read_route(0), 5), 0);
    }

    #[test]
    fn pauses_grow_to_their_bound_and_differ() {
        let mut rng = StdRng::seed_from_u64(1);
        let first: Vec<Duration> = (0..8).map(|_| backoff(0, &mut rng)).collect();
        assert!(
            first.iter().all(|pause| (limits::BACKOFF_FIRST / 2..=limits::BACKOFF_FIRST).contains(pause))
        );
        assert!(first.windows(2).any(|pair| pair[0] != pair[1]));
        let late = backoff(1_000_000, &mut rng);
        assert!((limits::BACKOFF_MAX / 2..=limits::BACKOFF_MAX).contains(&late), "{late:?}");
    }
}
