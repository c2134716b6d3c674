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
use std::time::Duration;

/// A token that was refused so often in a row is of a key that has been forgotten altogether.
const NOT_REACHED_MAX: u32 = 3;

/// Before a key is left alone it is deleted, by whoever still finds something.
const LAST_RITES: Duration = Duration::from_secs(2);

pub(super) struct Recreate {
    keys: u32,
    own: BTreeMap<u32, (Token, u32)>,
    rests: Option<Duration>,
}

/// Where a key is between two rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Awake,
    /// It is deleted now and not made again.
    Dies,
    Rests,
}

/// Every other key is awake while the others rest. All clients go by one clock, so nobody disturbs it.
fn turn(number: u32, now: Duration, rests: Option<Duration>) -> Turn {
    let Some(rests) = rests.filter(|rests| !rests.is_zero()) else { return Turn::Awake };
    let (turns, within) = (now.as_nanos() / rests.as_nanos(), now.as_nanos() % rests.as_nanos());
    match (turns + u128::from(number)) % 2 {
        1 => Turn::Rests,
        _ if within + LAST_RITES.as_nanos() >= rests.as_nanos() => Turn::Dies,
        _ => Turn::Awake,
    }
}

impl Recreate {
    pub(super) fn new(plan: &Plan) -> Self {
        Self { keys: plan.keys.max(1), own: BTreeMap::new(), rests: plan.rests }
    }

    pub(super) async fn step<T: HttpTransport + Clone>(&mut self, desk: &mut Desk<T>) {
        let number = desk.rng.random_range(0..self.keys);
        let key = format!("life{number}");
        match turn(number, desk.now(), self.rests) {
            Turn::Awake => {}
            Turn::Dies => return self.delete(desk, number, &key).await,
            Turn::Rests => return,
        }
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

    /// Whoever comes back to it later may bring what he knew of this deletion, forgotten or not.
    async fn delete<T: HttpTransport + Clone>(&mut self, desk: &mut Desk<T>, number: u32, key: &str) {
        let Ok(seen) = desk.get(key, None).await else { return };
        let Some(token) = seen.token.filter(|_| !seen.values.is_empty()) else { return };
        let done = desk.delete(key, Some(&token)).await;
        self.done(number, done);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_deleted_and_left_alone_by_turns() {
        let s = Duration::from_secs;
        let at = |number, now| turn(number, s(now), Some(s(30)));
        assert_eq!(
            [at(0, 0), at(0, 27), at(0, 28), at(0, 30), at(0, 59)],
            [Turn::Awake, Turn::Awake, Turn::Dies, Turn::Rests, Turn::Rests]
        );
        assert_eq!(
            [at(1, 0), at(1, 29), at(1, 30), at(1, 59), at(0, 60)],
            [Turn::Rests, Turn::Rests, Turn::Awake, Turn::Dies, Turn::Awake]
        );
        assert_eq!(turn(1, s(0), None), Turn::Awake);
    }
}
