//! P7: what was deleted or overwritten by somebody who had seen it does not come back.
//!
//! While the load runs, a read that asked for nothing may be out of date, and what looks revived may only be late. So this
//! judges the reads of the end, after which nobody writes any more, against writes that were acknowledged before; the
//! checker of sessions judges the reads that asked for something.

use super::{Breach, Story, Violation};

pub(super) fn check(story: &Story, found: &mut Vec<Violation>) {
    for (read, sight) in story.last_looks() {
        for value in &sight.values {
            let Some(cause) = story.must_be_gone(*value, read.begun.place) else { continue };
            let write = &story.ops[value];
            let text =
                format!("{read} showed what {write} had written, but {cause} had superseded it before");
            found.push(story.breach(Breach::Revived, vec![*value, cause.invoke.op, read.invoke.op], text));
        }
    }
}
