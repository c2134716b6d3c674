//! P8: what is read was written, to this key, and before it was read.
//!
//! Every value has a name that no other has, and bytes that follow from it, so one flipped bit, a value of another key and
//! a value that is shown twice are all found. It holds for every read, whatever faults there are.

use super::{Breach, Story, Violation};

pub(super) fn check(story: &Story, found: &mut Vec<Violation>) {
    for (read, sight) in story.reads() {
        let id = read.invoke.op;
        for stranger in &sight.strangers {
            let text = format!("{read} showed {stranger}; nobody wrote that to this key");
            found.push(story.breach(Breach::Wrong, vec![id], text));
        }
        for value in &sight.values {
            let write = &story.ops[value];
            if read.over_before(write.begun.place) {
                let text = format!("{read} showed what was only written later by {write}");
                found.push(story.breach(Breach::Wrong, vec![id, *value], text));
            }
        }
    }
}
