//! A slot counts every acknowledged increment once, and no more than were tried.
//!
//! Only its owner writes it, and builds each increment on a read that had seen the last. So if a value was lost on the way,
//! the slot stays behind by one for ever, however well it looks; and each increment of unknown outcome may have counted.

use super::{Breach, Story, Violation};
use crate::history::{Call, Fate, Op, Setting};
use crate::workload::{self, Kind};

pub(super) fn check(story: &Story, settings: &[Setting], found: &mut Vec<Violation>) {
    let is_slots =
        |setting: &Setting| setting.bucket == story.bucket && setting.workload == Kind::Slots.name();
    if !settings.iter().any(is_slots) {
        return;
    }
    let puts: Vec<&Op> = story.ops.values().filter(|op| matches!(op.invoke.call, Call::Put { .. })).collect();
    for (read, _) in story.reads() {
        let versions = &read.answer().expect("reads() are answered").versions;
        let shown = workload::count(versions.iter().map(|shown| &shown.value));
        let tried = |op: &&&Op| !matches!(op.fate, Fate::Failed(_)) && !read.over_before(op.begun.place);
        let at_most = puts.iter().filter(tried).count() as u64;
        if shown > at_most {
            let text = format!("{read} showed {shown}, but only {at_most} increments had been tried");
            found.push(story.breach(Breach::Counter, vec![read.invoke.op], text));
        }
    }
    for (read, _) in story.last_looks() {
        let versions = &read.answer().expect("looks are answered").versions;
        let shown = workload::count(versions.iter().map(|shown| &shown.value));
        let done = |op: &&&Op| story.is_kept(op) && op.over_before(read.begun.place);
        let at_least = puts.iter().filter(done).count() as u64;
        if shown < at_least {
            let text = format!("{read} showed {shown}, but {at_least} increments had been acknowledged");
            found.push(story.breach(Breach::Counter, vec![read.invoke.op], text));
        }
    }
}
