//! What a cart promises beyond what values do: its sums are right, and none of them is below 0.
//!
//! Items whose adds are all different powers of two are judged add by add, by the checkers of values. Here are the others,
//! from which something was taken away as well: if the sum is above 0 it still says which changes were counted, because
//! each of them is another power of two with one sign; if nothing is shown, the sum must be able to be 0 or less.

use super::ledger::Weights;
use super::{Breach, Story, Violation};
use crate::history::{Answer, Call, Fate, Op, OpId};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn check(story: &Story, found: &mut Vec<Violation>) {
    let is_last: BTreeSet<OpId> = story.last_looks().map(|(read, _)| read.invoke.op).collect();
    let balances = balances(story);
    for (read, _) in story.reads() {
        let Some(answer) = read.answer().filter(|answer| answer.total.is_some()) else { continue };
        let mut wrong = Vec::new();
        sums(answer, &mut wrong);
        for (sku, weights) in &balances {
            let quantity = answer.items.iter().find(|item| item.sku == *sku).map_or(0, |item| item.quantity);
            let last = is_last.contains(&read.invoke.op);
            balance(story, read, last, sku, quantity, weights, &mut wrong);
        }
        let breach = |text| story.breach(Breach::Cart, vec![read.invoke.op], format!("{read} showed {text}"));
        found.extend(wrong.into_iter().map(breach));
    }
}

fn sums(answer: &Answer, wrong: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for item in &answer.items {
        if item.quantity <= 0 {
            wrong.push(format!("{} × {}", item.quantity, item.sku));
        }
        if !seen.insert(&item.sku) {
            wrong.push(format!("{} twice", item.sku));
        }
    }
    let sum: i64 = answer.items.iter().map(|item| item.quantity).sum();
    if answer.total != Some(sum) {
        wrong.push(format!("a total of {:?}, but its items sum up to {sum}", answer.total));
    }
}

/// The items from which something was taken away.
fn balances(story: &Story) -> BTreeMap<&str, Weights> {
    let skus: BTreeSet<&str> =
        story.ops.values().filter_map(|op| super::ledger::sku(&op.invoke.call)).collect();
    let weights = skus.into_iter().filter_map(|sku| Some((sku, Weights::signed(&story.ops, sku)?)));
    weights.filter(|(_, weights)| weights.takes()).collect()
}

fn balance(
    story: &Story,
    read: &Op,
    last: bool,
    sku: &str,
    quantity: i64,
    weights: &Weights,
    wrong: &mut Vec<String>,
) {
    // In the end a change counts surely if it was acknowledged before and nobody can have removed it.
    let surely = |id: &OpId| {
        let op = &story.ops[id];
        last && story.is_kept(op) && op.over_before(read.begun.place) && !removable(story, op, sku)
    };
    let all = weights.all();
    let certain: BTreeSet<OpId> = all.iter().map(|(id, _)| *id).filter(surely).collect();
    if quantity <= 0 {
        let counts = |(id, quantity): &&(OpId, i64)| {
            let possible = !matches!(story.ops[id].fate, Fate::Failed(_))
                && !read.over_before(story.ops[id].begun.place);
            certain.contains(id) || (possible && *quantity < 0)
        };
        let least: i64 = all.iter().filter(counts).map(|(_, quantity)| quantity).sum();
        if last && least > 0 {
            wrong.push(format!("no {sku}, of which there must be {least} at least"));
        }
        return;
    }
    let Some(shown) = weights.adds_up_to(quantity) else {
        return wrong.push(format!("{quantity} × {sku}, which no changes sum up to"));
    };
    for id in &shown {
        let op = &story.ops[id];
        if matches!(op.fate, Fate::Failed(_)) || read.over_before(op.begun.place) {
            wrong.push(format!("{quantity} × {sku}, in which it counted {op}"));
        }
    }
    for id in certain.difference(&shown) {
        wrong.push(format!("{quantity} × {sku}, in which it did not count {}", story.ops[id]));
    }
}

/// Whether anybody may have removed this change.
fn removable(story: &Story, change: &Op, of: &str) -> bool {
    story.ops.values().any(|op| {
        let hits = match &op.invoke.call {
            Call::CartEmpty { .. } => true,
            Call::CartRemove { sku, .. } | Call::CartSet { sku, .. } => sku == of,
            _ => false,
        };
        hits && !matches!(op.fate, Fate::Failed(_)) && !op.over_before(change.begun.place)
    })
}
