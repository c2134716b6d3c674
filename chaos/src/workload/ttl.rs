//! Values that live for a time (W7): written with a lifetime, read before and after its end, now and then written again.

use super::Plan;
use super::desk::{Desk, Done, Token};
use client::HttpTransport;
use rand::RngExt;
use std::time::Duration;

/// How long after its end a value is still asked for.
const AFTERWARDS: Duration = Duration::from_secs(5);
/// How many values a client looks after.
const OWN_MAX: usize = 50;

pub(super) struct Ttl {
    longest: Duration,
    written: u32,
    own: Vec<Life>,
}

struct Life {
    key: String,
    token: Token,
    until: Duration,
}

impl Ttl {
    pub(super) fn new(plan: &Plan) -> Self {
        Self { longest: plan.ttl_max, written: 0, own: Vec::new() }
    }

    pub(super) async fn step<T: HttpTransport + Clone>(&mut self, desk: &mut Desk<T>) {
        let now = desk.now();
        self.own.retain(|life| life.until + AFTERWARDS > now);
        if self.own.is_empty() || (self.own.len() < OWN_MAX && desk.once_in(3)) {
            self.written += 1;
            let key = format!("t{}-{}", desk.client, self.written);
            return self.write(desk, key, None).await;
        }
        let at = desk.rng.random_range(0..self.own.len());
        if desk.once_in(6) {
            let Life { key, token, .. } = self.own.remove(at);
            return self.write(desk, key, Some(token)).await;
        }
        let min = if desk.once_in(2) { Some(&self.own[at].token) } else { None };
        // Whatever it shows is in the history.
        let _ = desk.get(&self.own[at].key, min).await;
    }

    async fn write<T: HttpTransport + Clone>(
        &mut self,
        desk: &mut Desk<T>,
        key: String,
        seen: Option<Token>,
    ) {
        let ttl = Duration::from_secs(desk.rng.random_range(1..=self.longest.as_secs().max(1)));
        if let Done::Ok(Some(token)) = desk.put(&key, String::new(), seen.as_ref(), Some(ttl)).await {
            self.own.push(Life { key, token, until: desk.now() + ttl });
        }
    }
}
