//! A key for each element (W3): the plainest test that what was acknowledged is there afterwards.
//!
//! Every write goes to a fresh key, so nothing ever covers it. Now and then a client looks whether it can read what it
//! wrote, with the context of the write, so that an old answer is no excuse.

use super::desk::{Desk, Done, Token};
use client::HttpTransport;
use rand::RngExt;

/// How many of its writes a client remembers to read again.
const REMEMBERED_MAX: usize = 100;
/// One operation of so many is a read.
const READ_OF: u32 = 4;

pub(super) struct Keys {
    written: u32,
    own: Vec<(String, Token)>,
}

impl Keys {
    pub(super) fn new() -> Self {
        Self { written: 0, own: Vec::new() }
    }

    pub(super) async fn step<T: HttpTransport + Clone>(&mut self, desk: &mut Desk<T>) {
        if !self.own.is_empty() && desk.once_in(READ_OF) {
            let at = desk.rng.random_range(0..self.own.len());
            let (key, token) = &self.own[at];
            // Whatever it shows, or that it fails, is in the history.
            let _ = desk.get(key, Some(token)).await;
            return;
        }
        self.written += 1;
        let key = format!("c{}-{}", desk.client, self.written);
        if let Done::Ok(Some(token)) = desk.put(&key, String::new(), None, None).await {
            self.own.push((key, token));
            if self.own.len() > REMEMBERED_MAX {
                self.own.remove(0);
            }
        }
    }
}
