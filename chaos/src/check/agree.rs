//! P3, as far as clients can see it: when all replicas are said to be equal, all nodes show the same.
//!
//! It catches what the other checkers must let pass: a value of unknown outcome that is there through one node and not
//! through another. Keys whose values expire are left out, since they change by themselves.

use super::ledger::{reading, ttl_us};
use super::{Breach, Story, Violation};
use crate::history::{Op, Reading};
use std::collections::BTreeSet;

pub(super) fn check(story: &Story, found: &mut Vec<Violation>) {
    if story.ops.values().any(|op| ttl_us(op).is_some()) {
        return;
    }
    let mut settled =
        story.reads().map(|(read, _)| read).filter(|read| reading(read) == Some(Reading::Settled));
    let Some(first) = settled.next() else { return };
    let expected = contents(first);
    for read in settled {
        let other = contents(read);
        if other != expected {
            let text = format!("{first} showed {expected:?}, and {read} showed {other:?}");
            found.push(story.breach(Breach::Diverged, vec![first.invoke.op, read.invoke.op], text));
        }
    }
}

fn contents(read: &Op) -> BTreeSet<String> {
    let answer = read.answer().expect("reads() are answered");
    let versions = answer.versions.iter().map(|shown| shown.value.id.clone());
    versions.chain(answer.items.iter().map(|item| format!("{} × {}", item.quantity, item.sku))).collect()
}
