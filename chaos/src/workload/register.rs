//! A register for each client (W4): only its owner writes it, always with what it has just read, and reads no older than
//! its own last write.
//!
//! Whatever happens to the cluster, the owner never sees an older value of its own, and a chain without unknown outcomes
//! never has siblings. Others look on without asking for anything.

use super::desk::{Desk, Done, Token};
use client::HttpTransport;
use rand::RngExt;

/// One step of so many looks at another's register.
const ELSEWHERE_OF: u32 = 5;

pub(super) struct Register {
    clients: u32,
    own: Option<Token>,
}

impl Register {
    pub(super) fn new(clients: u32) -> Self {
        Self { clients, own: None }
    }

    pub(super) async fn step<T: HttpTransport + Clone>(&mut self, desk: &mut Desk<T>) {
        if desk.once_in(ELSEWHERE_OF) {
            let other = desk.rng.random_range(0..self.clients);
            // Whatever it shows is in the history.
            let _ = desk.get(&format!("r{other}"), None).await;
            return;
        }
        let key = format!("r{}", desk.client);
        let Ok(seen) = desk.get(&key, self.own.as_ref()).await else { return };
        if let Done::Ok(Some(token)) = desk.put(&key, String::new(), seen.token.as_ref(), None).await {
            self.own = Some(token);
        }
    }
}
