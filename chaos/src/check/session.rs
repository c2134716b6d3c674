//! P5: a read that asks for at least what its client knows never shows less, whatever is broken meanwhile.
//!
//! ```text
//!   put B having seen A → token t        get at least as of t:  B, or what superseded B; never A; or an honest error
//! ```
//!
//! Two things follow from a token. What it stands for must be shown, unless somebody who had seen it may have written since;
//! and what it stands over, because its writer or an earlier read had seen that superseded, must not. Values with a time to
//! live are judged by their own checker, since they also go by themselves.

use super::ledger::{seen, ttl_us};
use super::{Breach, Story, Violation};

pub(super) fn check(story: &Story, found: &mut Vec<Violation>) {
    for (read, sight) in story.reads() {
        let Some(asked) = seen(&read.invoke.call).filter(|from| story.ops.contains_key(from)) else {
            continue;
        };
        let end = read.ended.map_or(usize::MAX, |ended| ended.place);
        for value in story.alive(asked).difference(&sight.values) {
            let write = &story.ops[value];
            if ttl_us(write).is_some() || story.may_be_gone(*value, end, &sight.values) {
                continue;
            }
            let text = format!(
                "{read} did not show what {write} had written, though its token covers it and nobody who had seen it had \
                 written or deleted before the answer, or what he wrote is not shown either"
            );
            found.push(story.breach(Breach::Stale, vec![*value, asked, read.invoke.op], text));
        }
        for value in sight.values.iter().filter(|value| story.is_dead(**value, asked)) {
            let (write, asked_by) = (&story.ops[value], &story.ops[&asked]);
            let text = format!(
                "{read} showed what {write} had written, which was superseded by what {asked_by} knew"
            );
            found.push(story.breach(Breach::Stale, vec![*value, asked, read.invoke.op], text));
        }
    }
}
