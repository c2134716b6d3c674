//! Elements into sets (W1): read the set, add an element, write the union of everything that was read.
//!
//! Aphyr's test: a store that lets the last writer win loses most of the elements, and one that keeps siblings and says
//! honestly what a writer had seen loses none. Many clients on few keys are W9 as well.
//!
//! A set is written as `+c2:4|c0:1-3,7;c2:1-4`: the element that this write adds, and all elements, as runs of what each
//! client has added. Elements are numbered by their client, so a set of hundreds is a short line.

use super::Plan;
use super::desk::{Desk, Done, Token};
use client::HttpTransport;
use rand::RngExt;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// A set of this size is left alone and the next one is begun, so that a value stays small however long the run.
const ELEMENTS_MAX: usize = 300;

/// One step of so many rests between reading and writing, so that others come in between.
const PONDER_OF: u32 = 3;

/// Who added it, and as which.
pub(crate) type Element = (u32, u32);

pub(super) struct SetAdd {
    keys: u32,
    /// How often each set was left for a new one.
    generations: BTreeMap<u32, u32>,
    added: u32,
    /// What was last written to each key, to read no older.
    own: BTreeMap<String, Token>,
}

impl SetAdd {
    pub(super) fn new(plan: &Plan) -> Self {
        Self { keys: plan.keys.max(1), generations: BTreeMap::new(), added: 0, own: BTreeMap::new() }
    }

    pub(super) async fn step<T: HttpTransport + Clone>(&mut self, desk: &mut Desk<T>) {
        let number = desk.rng.random_range(0..self.keys);
        let key = format!("set{number}.{}", self.generations.entry(number).or_default());
        let min = if desk.once_in(2) { self.own.get(&key).cloned() } else { None };
        let Ok(seen) = desk.get(&key, min.as_ref()).await else { return };
        let mut all: BTreeSet<Element> =
            seen.values.iter().flat_map(|value| elements(&value.text).1).collect();
        if all.len() >= ELEMENTS_MAX {
            *self.generations.entry(number).or_default() += 1;
            return;
        }
        if desk.once_in(PONDER_OF) {
            desk.ponder().await;
        }
        self.added += 1;
        let element = (desk.client, self.added);
        all.insert(element);
        if let Done::Ok(Some(token)) = desk.put(&key, text(element, &all), seen.token.as_ref(), None).await {
            self.own.insert(key, token);
        }
    }
}

fn text((client, number): Element, all: &BTreeSet<Element>) -> String {
    let mut text = format!("+c{client}:{number}|");
    let mut run: Option<(u32, u32, u32)> = None;
    let mut last = None;
    let mut close = |text: &mut String, (of, from, to): (u32, u32, u32)| {
        match last {
            Some(before) if before == of => text.push(','),
            Some(_) => write!(text, ";c{of}:").expect("a string takes everything"),
            None => write!(text, "c{of}:").expect("a string takes everything"),
        }
        last = Some(of);
        let end = if to > from { format!("-{to}") } else { String::new() };
        write!(text, "{from}{end}").expect("a string takes everything");
    };
    for &(of, number) in all {
        run = match run {
            Some((client, from, to)) if client == of && to + 1 == number => Some((of, from, number)),
            Some(done) => {
                close(&mut text, done);
                Some((of, number, number))
            }
            None => Some((of, number, number)),
        };
    }
    if let Some(done) = run {
        close(&mut text, done);
    }
    text
}

/// The element that a write added, and all of its set. What is no set has neither.
pub(crate) fn elements(text: &str) -> (Option<Element>, BTreeSet<Element>) {
    let Some((added, runs)) = text.strip_prefix("+c").and_then(|rest| rest.split_once('|')) else {
        return (None, BTreeSet::new());
    };
    let number = |text: &str| text.parse::<u32>().ok();
    let added = added.split_once(':').and_then(|(of, at)| Some((number(of)?, number(at)?)));
    let mut all = BTreeSet::new();
    for of in runs.split(';') {
        let Some((client, runs)) = of.strip_prefix('c').and_then(|rest| rest.split_once(':')) else {
            continue;
        };
        let Some(client) = number(client) else { continue };
        for run in runs.split(',') {
            let (from, to) = run.split_once('-').unwrap_or((run, run));
            let (Some(from), Some(to)) = (number(from), number(to)) else { continue };
            all.extend((from..=to).map(|number| (client, number)));
        }
    }
    (added, all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_read_as_it_was_written() {
        let all: BTreeSet<Element> = [(0, 1), (0, 2), (0, 3), (0, 7), (2, 4), (11, 1), (11, 3)].into();
        let line = text((2, 4), &all);
        assert_eq!(line, "+c2:4|c0:1-3,7;c2:4;c11:1,3");
        assert_eq!(elements(&line), (Some((2, 4)), all));
        assert_eq!(elements("17"), (None, BTreeSet::new()));
    }
}
