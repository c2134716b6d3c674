//! P6 and P1: an error that says "nothing changed" is true, and an acknowledgement had the replicas that it claims.
//!
//! A value whose write was refused must never be shown, by any read, at any time. Of an acknowledgement only its receipt
//! can be judged: it names as many replicas as the bucket requires or more, and so many had answered, of the owners a majority where the
//! bucket insists on one, and had the write on their disks, where the
//! bucket is one that is synced first.

use super::{Breach, Story, Violation};
use crate::history::{Fate, Setting};

pub(super) fn check(story: &Story, settings: &[Setting], found: &mut Vec<Violation>) {
    let setting = settings.iter().find(|setting| setting.bucket == story.bucket);
    let w = setting.map_or(0, |setting| setting.w);
    let majority = setting.map_or(0, |setting| setting.majority);
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
        let Some(answer) = op.answer().filter(|_| !op.reads()) else { continue };
        let Some(receipt) = answer.receipt else {
            // An acknowledgement that broke off has none, and no name either.
            if w > 0 && answer.request_id.is_some() {
                let text = format!("{op}, without a receipt");
                found.push(story.breach(Breach::Dishonest, vec![op.invoke.op], text));
            }
            continue;
        };
        if receipt.w < w {
            let text = format!("{op}, with a receipt that says {receipt}, and the bucket requires {w}");
            found.push(story.breach(Breach::Dishonest, vec![op.invoke.op], text));
        }
        if receipt.acked.saturating_sub(receipt.fallbacks) < majority {
            let text = format!(
                "{op}, with a receipt that says {receipt}, and the bucket insists on {majority} owners"
            );
            found.push(story.breach(Breach::Dishonest, vec![op.invoke.op], text));
        }
        let held = if story.unsynced { receipt.acked } else { receipt.acked.min(receipt.durable) };
        if held < receipt.w {
            let text = format!("{op}, with a receipt that says {receipt}: fewer replicas than it required");
            found.push(story.breach(Breach::Dishonest, vec![op.invoke.op], text));
        }
    }
}
