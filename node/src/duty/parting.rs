//! How a removed node parts with copies of keys that several own.
//!
//! Nobody asks it any more before a deletion is forgotten, so any copy of its may be one of a value that is gone. It sends none
//! of them: what one owner knows the owners have among themselves, and what none of them knows is set aside. That they hold
//! just the same is asked for a page at a time; only what differs is looked at one by one, by `ring::sift::part`.

use super::sift::{ask, tell_aside};
use crate::lane::{Job, Sift};
use crate::limits::{LACKS_TIMEOUT, SIFT_AT_ONCE};
use crate::node::Node;
use crate::world::World;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use ring::ids::{NodeId, ObjectId};
use ring::sift::{Parting, part};
use ring::tree::Leaf;
use ring::wire::peer::{Answer, Ask, Message, Refusal};
use ring::wire::record::{decode, digest};
use std::collections::BTreeSet;

/// What a removed node does with copies of keys that several own: those that every owner holds just so go at once, the others
/// are compared one by one. How many stay, since not every owner has all of them yet.
pub(super) async fn part_with<W: World>(
    node: &Node<W>,
    owners: &[NodeId],
    records: Vec<(ObjectId, Bytes)>,
) -> Result<usize, Refusal> {
    let leaves: Vec<Leaf> = records.iter().map(|(id, record)| (id.clone(), digest(record))).collect();
    let body = Bytes::from(postcard::to_stdvec(&leaves).expect("names and numbers are plain data"));
    let mut lacking: BTreeSet<u16> = BTreeSet::new();
    for owner in owners {
        let ask = Message { head: Ask::Lacks, body: body.clone() };
        match node.ask(*owner, ask, LACKS_TIMEOUT).await {
            Ok(Message { head: Answer::Lacking(some), .. }) => lacking.extend(some),
            _ => lacking.extend(0..leaves.len() as u16),
        }
    }
    let each: Vec<_> = (0..)
        .zip(records)
        .map(|(at, (id, record))| part_with_one(node, owners, id, record, lacking.contains(&at)).boxed())
        .collect();
    let mut parted = stream::iter(each).buffer_unordered(SIFT_AT_ONCE);
    let mut kept = 0;
    while let Some(gone) = parted.next().await {
        kept += usize::from(!gone?);
    }
    Ok(kept)
}

async fn part_with_one<W: World>(
    node: &Node<W>,
    owners: &[NodeId],
    id: ObjectId,
    record: Bytes,
    unlike: bool,
) -> Result<bool, Refusal> {
    let parting = if unlike {
        let mine = decode(&record).map_err(|error| Refusal::Unavailable(error.to_string()))?;
        // All of them: the failure detectors of the others talk to a removed node no more, so it doubts everybody.
        part(&mine, owners, &ask(node, &id, owners).await)
    } else {
        Parting::Drop
    };
    if matches!(parting, Parting::Wait | Parting::HandOn) {
        return Ok(false);
    }
    let (held, aside) = (Some(digest(&record)), parting == Parting::SetAside);
    let work = Sift { id: id.clone(), held, record: None, aside, hints: node.hints_of(&id)? };
    let gone = node.lane.run(|reply| Job::Sift(work, reply)).await?;
    if gone && aside {
        tell_aside(node, &id);
    }
    Ok(gone)
}
