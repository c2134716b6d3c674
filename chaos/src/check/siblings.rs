//! Values stand side by side only if none of their writers had seen the other, and not more of them than the bucket allows.
//!
//! The first holds for every read under any faults: a record that holds a value knows what its writer had seen. It bounds
//! siblings by the number of writers, for each writer with a context supersedes its own last value.
//!
//! The second is the limit of the nodes, which each of them enforces for itself. It takes no write without a context that makes more of
//! them than that, and says with each how many there are. What comes from other nodes it takes: while they can't see each other, each
//! may take so many, and one that stood in and has handed on what it had may begin anew. So of what a read shows that is checked only where
//! the caller says how often nodes were cut off from each other, and after many cuts it bounds little.

use super::{Breach, Measure, Story, Violation};
use crate::history::{Call, Setting};

pub(super) fn check(story: &Story, settings: &[Setting], measure: &Measure, found: &mut Vec<Violation>) {
    let setting = settings.iter().find(|setting| setting.bucket == story.bucket);
    let bound = setting.and_then(|setting| {
        let limit = setting.siblings_max?.saturating_mul(setting.nodes);
        Some(limit.saturating_mul(measure.cuts?.saturating_add(1)) as usize)
    });
    if let Some(limit) = setting.and_then(|setting| setting.siblings_max) {
        for write in story.ops.values().filter(|op| matches!(op.invoke.call, Call::Put { seen: None, .. })) {
            if let Some(many) = write.answer().and_then(|answer| answer.siblings).filter(|many| *many > limit)
            {
                let text = format!("{write}, as one of {many} values of a bucket that takes {limit}");
                found.push(story.breach(Breach::Siblings, vec![write.invoke.op], text));
            }
        }
    }
    for (read, sight) in story.reads() {
        let id = read.invoke.op;
        if let Some(bound) = bound.filter(|bound| sight.values.len() > *bound) {
            let text = format!(
                "{read} showed {} values; at most {bound} may stand side by side",
                sight.values.len()
            );
            found.push(story.breach(Breach::Siblings, vec![id], text));
        }
        // An add to a cart travels without what its shopper had seen.
        if read.answer().is_some_and(|answer| answer.total.is_some()) {
            continue;
        }
        for value in &sight.values {
            let newer = sight.values.iter().find(|newer| *newer != value && story.is_dead(*value, **newer));
            let Some(newer) = newer else { continue };
            let (old, new) = (&story.ops[value], &story.ops[newer]);
            let text = format!(
                "{read} showed what {old} had written beside what {new} had, whose writer had seen it"
            );
            found.push(story.breach(Breach::Siblings, vec![*value, *newer, id], text));
        }
    }
}
