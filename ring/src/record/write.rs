//! What a client's write does to the coordinator's copy: the one place where actions, contexts and limits meet.
//!
//! Limits hold here and nowhere else: a merge that refused would leave replicas apart for ever.

use super::{Content, Coordinated, Me, Object, Op, Record, coordinate};
use crate::bucket::BlindWrites;
use crate::cart::{self, CartChange};
use crate::causal::Context;
use crate::planted::{self, Bug};
use crate::time::Wall;
use crate::wire::peer::{Action, Refusal};
use bytes::Bytes;
use std::time::Duration;

/// A write with everything that decides it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// What to write.
    pub action: Action,
    /// An object's value.
    pub body: Bytes,
    /// What the writer had seen; `None` if it said nothing.
    pub seen: Option<Context>,
    /// How long a value lives that does not say so itself.
    pub ttl_default: Option<Duration>,
    /// What a write without a context means.
    pub blind: BlindWrites,
    /// How many versions may stand side by side.
    pub siblings_max: usize,
    /// How long a writer's context may grow: [`CONTEXT_RUNS_MAX`], or less in a test.
    pub context_runs_max: usize,
}

/// A writer's context with more runs than this is of somebody who has gone on for long without a read.
pub const CONTEXT_RUNS_MAX: usize = 32;

/// What several siblings may weigh together, in bytes; a single one may have any size that is let in. Three sides of a
/// partition may each fill a key up to here, and all of it must still go to a peer in one frame.
pub const SIBLINGS_BYTES_MAX: usize = 16 << 20;

/// Applies a write to the local copy. A refusal changes nothing.
pub fn take(
    local: Option<&Record>,
    write: Write,
    now: Wall,
    me: &mut Me<'_>,
) -> Result<Coordinated, Refusal> {
    let adds = !matches!(write.action, Action::Delete | Action::CartRemove(_));
    let done = match write.action {
        Action::Put { .. } | Action::Delete => take_object(local, write, now, me),
        _ => take_cart(local, write, now, me),
    }?;
    let (had, have) = (local.map_or(0, Record::bytes), done.record.bytes());
    if adds && done.record.siblings.len() > 1 && have > SIBLINGS_BYTES_MAX && have > had {
        return Err(Refusal::TooHeavy { have: had, max: SIBLINGS_BYTES_MAX });
    }
    Ok(done)
}

/// Adds to the writer's context what is superseded here. Somebody who never reads, and whose every write stands between
/// two of another's, would otherwise name each of them alone for ever. What superseded them is in this record, and the
/// record goes to the others whole: wherever the context makes something disappear later, as many copies as
/// acknowledged this write hold what had made it disappear here.
fn close_gaps(done: &mut Coordinated) {
    let unseen = done.record.siblings.iter().map(|s| s.dot).filter(|dot| !done.context.has(dot));
    let superseded = done.record.clock.without(unseen);
    done.context.join(&superseded);
    done.delta = done.record.clone();
}

fn take_object(
    local: Option<&Record>,
    write: Write,
    now: Wall,
    me: &mut Me<'_>,
) -> Result<Coordinated, Refusal> {
    if local.is_some_and(|r| r.is_only_cart(now)) {
        return Err(Refusal::WrongType { holds: "cart".into() });
    }
    let mut seen = match (write.seen, write.blind) {
        (Some(seen), _) => seen,
        (None, BlindWrites::Siblings) => Context::new(),
        (None, BlindWrites::Supersede) => local.map(|r| r.seen_as_object().into_owned()).unwrap_or_default(),
        (None, BlindWrites::Reject) => return Err(Refusal::ContextRequired),
    };
    // A value makes the memory of a deletion or an expiry beside it pointless: the clock alone keeps what is gone from coming
    // back. A value that has expired and is still held is left to its own marker: this node's clock may not be sure yet.
    seen.join(&Context::of_dots(local.iter().flat_map(|r| r.markers())));
    let content = match write.action {
        Action::Put { content_type, meta, ttl_ms } => {
            let ttl = ttl_ms.map(Duration::from_millis).or(write.ttl_default);
            let expires_at = ttl.map(|ttl| now.plus(ttl));
            Content::Object(Object { body: write.body, content_type, meta, modified: now, expires_at })
        }
        _ => Content::Tombstone { deleted: now },
    };
    let mut done = coordinate(local, &seen, vec![content], me);
    let values = |r: &Record| r.versions(now).count();
    let have = values(&done.record);
    if have > write.siblings_max && have > local.map_or(0, values) && !planted::is(Bug::NoSiblingLimit) {
        return Err(Refusal::SiblingLimit { have: have - 1, max: write.siblings_max });
    }
    if done.context.runs().len() > write.context_runs_max {
        close_gaps(&mut done);
    }
    Ok(done)
}

fn take_cart(
    local: Option<&Record>,
    write: Write,
    now: Wall,
    me: &mut Me<'_>,
) -> Result<Coordinated, Refusal> {
    if local.is_some_and(|r| r.is_only_object(now)) {
        return Err(Refusal::WrongType { holds: "object".into() });
    }
    let told = write.seen.clone();
    // What a caller that names no context has seen is what this copy holds.
    let here = || local.map(|r| r.seen_as_cart().into_owned()).unwrap_or_default();
    let seen = write.seen.unwrap_or_else(here);
    let change = match write.action {
        Action::CartAdd { sku, quantity, op, attributes } => {
            CartChange::Add { sku, quantity, op: op.map(Op), attributes }
        }
        Action::CartAddMany(adds) => {
            CartChange::AddMany(adds.into_iter().map(|(sku, quantity, op)| (sku, quantity, Op(op))).collect())
        }
        Action::CartSet { sku, quantity, attributes } => CartChange::Set { sku, quantity, seen, attributes },
        Action::CartRemove(target) => CartChange::Remove { target, seen },
        Action::Put { .. } | Action::Delete => unreachable!("take() sends objects elsewhere"),
    };
    let mut done = cart::change(local, change, now, me).map_err(|_| Refusal::CartFull)?;
    if let Some(told) = told {
        done.context.join(&told);
    }
    Ok(done)
}
