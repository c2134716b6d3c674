//! P6 and P1: an error that says "nothing changed" is true, and an acknowledgement had the replicas that it claims.
//!
//! A value whose write was refused must never be shown, by any read, at any time. Of an acknowledgement only its receipt
//! can be judged: as many replicas as were required had answered, and had the write on their disks, where the bucket is one that
//! is synced first.

use super::{Breach, Story, Violation};
use crate::history::Fate;

pub(super) fn check(story: &Story, found: &mut Vec<Violation>) {
    for (read, sight) in story.reads() {
        for value in &sight.values {
            let write = &story.ops[value];
            if let Fate::Failed(why) = &write.fate {
                let text =
                    format!("{read} showed what {write} had written, although that answered: {}", why.detail);
                found.push(story.breach(Breach::Dishonest, vec![*value, read.invoke.op], text));
            }
        }
    }
    for op in story.ops.values() {
        let Some(receipt) = op.answer().and_then(|answer| answer.receipt) else { continue };
        let held = if story.unsynced { receipt.acked } else { receipt.acked.min(receipt.durable) };
        if held < receipt.w {
            let text = format!("{op}, with a receipt that says {receipt}: fewer replicas than it required");
            found.push(story.breach(Breach::Dishonest, vec![op.invoke.op], text));
        }
    }
}
