//! Keys that are deleted and made again, over and over (W6), by several clients at once.
//!
//! Short lives are where a store that forgets deletions too early brings the dead back, and where one that remembers them
//! too well swallows the new. With a short grace in the cluster's settings, a key is forgotten and made again many times in
//! one run.

use super::Plan;
use super::desk::{Desk, Done, Token, Unread};
use client::HttpTransport;
use rand::RngExt;
use std::collections::BTreeMap;

/// A token that was refused so often in a row is of a key that has been forgotten altogether.
const NOT_REACHED_MAX: u32 = 3;

pub(super) struct Recreate {
    keys: u32,
    own: BTreeMap<u32, (Token, u32)>,
}

impl Recreate {
    pub(super) fn new(plan: &Plan) -> Self {
        Self { keys: plan.keys.max(1), own: BTreeMap::new() }
    }

    pub(super) async fn step<T: HttpTransport + Clone>(&mut self, desk: &mut Desk<T>) {
        let number = desk.rng.random_range(0..self.keys);
        let key = format!("life{number}");
        let min = if desk.once_in(4) { None } else { self.own.get(&number).map(|(token, _)| token.clone()) };
        let seen = match desk.get(&key, min.as_ref()).await {
            Ok(seen) => seen,
            Err(unread) => return self.unread(number, &unread),
        };
        if seen.values.is_empty() {
            let done = desk.put(&key, String::new(), seen.token.as_ref(), None).await;
            return self.done(number, done);
        }
        let Some(token) = seen.token else { return };
        match desk.rng.random_range(0..5) {
            0 => {
                let done = desk.put(&key, String::new(), Some(&token), None).await;
                self.done(number, done);
            }
            1 => {
                let Done::Ok(Some(token)) = desk.delete(&key, Some(&token)).await else { return };
                let done = desk.put(&key, String::new(), Some(&token), None).await;
                self.done(number, done);
            }
            _ => {
                desk.ponder().await;
                let Done::Ok(Some(token)) = desk.delete(&key, Some(&token)).await else { return };
                if desk.once_in(2) {
                    // Who has just deleted must not see it again; whether he does is in the history.
                    let _ = desk.get(&key, Some(&token)).await;
                }
                self.own.insert(number, (token, 0));
            }
        }
    }

    fn done(&mut self, number: u32, done: Done) {
        if let Done::Ok(Some(token)) = done {
            self.own.insert(number, (token, 0));
        }
    }

    fn unread(&mut self, number: u32, unread: &Unread) {
        let Unread::NotReached = unread else { return };
        let Some((_, times)) = self.own.get_mut(&number) else { return };
        *times += 1;
        if *times >= NOT_REACHED_MAX {
            self.own.remove(&number);
        }
    }
}
