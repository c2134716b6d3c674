//! A write, as the replica that takes it sees it: which dot it gets, what it supersedes, what its writer knows then.
//!
//! The dot's actor is this replica. It goes on counting under its last epoch only while its own copy proves that it has
//! forgotten nothing; in every doubt it draws a fresh one. The four doubts:
//!
//! | doubt | why |
//! | --- | --- |
//! | no copy here | it may have been lost, dropped after a handoff, or reaped |
//! | a copy without an entry of mine | the same: it came from others |
//! | the writer's context knows more of me than I do | my copy is older than what I said |
//! | my entry is older than this start's `boot` epoch | the disk may have gone back in time |
//!
//! Taking the old actor in any of them re-issues a dot that others have already seen superseded, and the new write would
//! vanish at the first merge (riak_kv issue 679 and its relatives).

use super::{Content, Record, Sibling};
use crate::causal::{Actor, Context, Dot, Epochs};
use crate::ids::NodeId;
use crate::planted::{self, Bug};

/// This replica, with its source of epochs.
#[derive(Debug)]
pub struct Me<'a> {
    /// The data directory's identity.
    pub node: NodeId,
    /// The leased epochs.
    pub epochs: &'a mut Epochs,
}

/// What came of a write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Coordinated {
    /// The copy to store here.
    pub record: Record,
    /// What the other replicas need: the new siblings, under a clock of just the new and the removed dots (and the mark
    /// of a fresh epoch, which has no value).
    pub delta: Record,
    /// What the writer knows now: what it had seen, and its own writes. Nothing else.
    pub context: Context,
    /// The dots of the new siblings, in their order; of a write that leaves none, the one that it has all the same.
    pub dots: Vec<Dot>,
}

/// Writes `contents` as new siblings that supersede everything in `seen`.
///
/// Without any contents it draws a dot of its own too, as a removal from a cart does: the copies that know of the removal
/// would otherwise look just like those that have missed it to whoever asks for what is at least as new.
pub fn coordinate(
    local: Option<&Record>,
    seen: &Context,
    contents: Vec<Content>,
    me: &mut Me<'_>,
) -> Coordinated {
    let empty = Record::default();
    let held = local.unwrap_or(&empty);
    let mut siblings: Vec<Sibling> = held.siblings.iter().filter(|s| !seen.has(&s.dot)).cloned().collect();
    let mut clock = held.clock.clone();
    clock.join(seen);
    let mut delta = Record { clock: seen.clone(), siblings: Vec::with_capacity(contents.len()) };
    let mut context = seen.clone();
    let mut dots = Vec::with_capacity(contents.len());
    let actor = actor_for(held, seen, me);
    let top = clock.top(actor);
    let first = Dot { actor, count: 1 };
    if top == 1 && !siblings.iter().any(|s| s.dot == first) {
        // A fresh epoch's mark carries no value, so no other delta brings it: without it here, the dots of this actor
        // would stay above a gap in the other replicas until they see the whole record.
        delta.clock.insert(first);
    }
    let bare = (contents.is_empty() && !planted::is(Bug::RemovalUnnamed)).then_some(None);
    for (count, content) in (top + 1..).zip(contents.into_iter().map(Some).chain(bare)) {
        let dot = Dot { actor, count };
        assert!(!clock.has(&dot), "a dot is issued once: {dot:?}");
        clock.insert(dot);
        context.insert(dot);
        delta.clock.insert(dot);
        dots.push(dot);
        if let Some(content) = content {
            delta.siblings.push(Sibling { dot, content: content.clone() });
            siblings.push(Sibling { dot, content });
        }
    }
    if planted::is(Bug::WholeClock) {
        context.join(&clock);
    }
    siblings.sort_by_key(|s| s.dot);
    let record = Record { clock, siblings };
    record.assert_whole();
    delta.assert_whole();
    Coordinated { record, delta, context, dots }
}

fn actor_for(held: &Record, seen: &Context, me: &mut Me<'_>) -> Actor {
    if planted::is(Bug::OneEpoch) {
        return Actor { node: me.node, epoch: 1 };
    }
    let mine = held.clock.newest_of(me.node);
    let theirs = seen.newest_of(me.node);
    match mine {
        Some((epoch, _)) if theirs <= mine && me.epochs.may_continue(epoch) => Actor { node: me.node, epoch },
        _ => Actor { node: me.node, epoch: me.epochs.fresh() },
    }
}
