//! What peers ask of this node: one match arm per question.

use super::Node;
use crate::cluster::Snapshot;
use crate::lane::Job;
use crate::limits::{CATCH_UP_MAX, PULL_BYTES_MAX, PULL_ROWS_MAX};
use crate::peer::frame::TableTag;
use crate::store::{Family, Store, keys};
use crate::world::World;
use bytes::Bytes;
use ring::coord::get::Held;
use ring::ids::{NodeId, ObjectId, Partition};
use ring::members::{Description, Member, Status, View, ViewError};
use ring::planted::{self, Bug};
use ring::time::Time;
use ring::wire::peer::{Answer, Ask, Message, Refusal};
use ring::wire::record::{digest, verify};
use std::sync::atomic::Ordering;

/// What a joiner is handed.
#[derive(Debug, Clone)]
pub struct Welcome {
    /// The key under which the cluster signs contexts.
    pub cluster_key: [u8; 32],
    /// Everything the cluster knows of itself.
    pub view: View,
}

impl Welcome {
    /// The bytes.
    pub fn bytes(&self) -> Bytes {
        [&self.cluster_key[..], &self.view.encode()].concat().into()
    }

    /// Reads them, and checks the view.
    pub fn read(bytes: &[u8]) -> Result<Welcome, ViewError> {
        let (cluster_key, view) = bytes.split_first_chunk().ok_or(ViewError::Bytes)?;
        Ok(Welcome { cluster_key: *cluster_key, view: View::decode(view)? })
    }
}

/// What somebody says who asks to be let in.
#[derive(Debug, Clone)]
pub struct Newcomer {
    /// What it is.
    pub description: Description,
    /// The boot ids of its directory's starts so far. An earlier version does not say them.
    pub boot_ids: Option<Vec<u64>>,
}

impl Newcomer {
    /// The bytes. An earlier version reads the description and no further.
    pub fn bytes(&self) -> Bytes {
        postcard::to_stdvec(&(&self.description, self.boot_ids.as_deref().unwrap_or_default()))
            .expect("numbers and text are plain data")
            .into()
    }

    fn read(bytes: &[u8]) -> Result<Newcomer, postcard::Error> {
        let (description, rest) = postcard::take_from_bytes(bytes)?;
        let boot_ids = if rest.is_empty() { None } else { Some(postcard::from_bytes(rest)?) };
        Ok(Newcomer { description, boot_ids })
    }

    /// Whether a name belongs to another directory than this one, which asks to be let in under it. Who has ever acted by the
    /// cluster's tables has its view on its disk and does not ask. One that was ended between being let in and keeping the view
    /// does, even if an operator has given it partitions meanwhile; it knows the start that is known here as its own.
    fn takes(&self, known: &Member) -> bool {
        let is_own = match &self.boot_ids {
            Some(boot_ids) => boot_ids.contains(&known.description.boot_id),
            None => known.description.starts < self.description.starts,
        };
        match known.status {
            // The view refuses it, and says why.
            Status::Removed => false,
            _ if known.description.boot_id == self.description.boot_id => false,
            _ => known.acting.version > 0 || !is_own,
        }
    }
}

/// Whether a question is about the records here, or would change them. A node whose disk may be behind refuses those.
pub(super) fn touches_copies(ask: &Ask) -> bool {
    match ask {
        Ask::Store { .. }
        | Ask::Read { .. }
        | Ask::Write(_)
        | Ask::Forward(_)
        | Ask::Pull { .. }
        | Ask::Keys { .. }
        | Ask::Tree { .. }
        | Ask::StoreMany
        | Ask::Lacks
        | Ask::Repair { .. }
        | Ask::Mend { .. }
        | Ask::Reapable
        | Ask::Reap => true,
        Ask::Explain { .. }
        | Ask::Gossip { .. }
        | Ask::Swim
        | Ask::Join
        | Ask::Sizes
        | Ask::Transfers
        | Ask::Clock
        | Ask::SiftTree { .. }
        | Ask::SiftRead { .. } => false,
    }
}

/// The answer with a copy.
fn copy(held: Result<Option<Bytes>, Refusal>) -> Message<Answer> {
    match held {
        Ok(Some(body)) => Message { head: Answer::Held(digest(&body)), body },
        Ok(None) => Message::of(Answer::Absent),
        Err(refusal) => Message::of(Answer::Refused(refusal)),
    }
}

/// Rows of a transfer: key and encoded record.
pub type Rows = Vec<(ObjectId, Vec<u8>)>;

impl<W: World> Node<W> {
    /// Answers a peer, who waits no longer than that: what is too late before it is begun is not begun.
    pub(crate) async fn answer(
        &self,
        from: NodeId,
        table: TableTag,
        until: Time,
        message: Message<Ask>,
    ) -> Message<Answer> {
        let refuses = self.refuses(from, table, until, touches_copies(&message.head));
        if let Ask::Forward(forward) = message.head {
            return self.answer_forward(from, forward, message.body, refuses).await;
        }
        let refused = |refusal| Message::of(Answer::Refused(refusal));
        if let Some(refusal) = refuses.await.or_else(|| self.refuses_removed(from, table, &message.head)) {
            return refused(refusal);
        }
        match message.head {
            Ask::Store { id, hint_for, sync } => {
                match self.store_for(table, id, message.body, hint_for, sync).await {
                    Ok(durable) => Message::of(Answer::Stored { durable }),
                    Err(refusal) => refused(refusal),
                }
            }
            Ask::Read { id, .. } if self.is_behind(table) && !self.owns(&id) => refused(Refusal::StaleTables),
            Ask::Read { id, record } => match self.held(&id, record) {
                Ok((Held::Absent, _)) => Message::of(Answer::Absent),
                Ok((Held::Digest(hash), _)) => Message::of(Answer::Held(hash)),
                Ok((Held::Record(hash, _), body)) => Message { head: Answer::Held(hash), body },
                Err(refusal) => refused(refusal),
            },
            Ask::Write(ask) => self.answer_write(ask, message.body).await,
            Ask::Forward(_) => unreachable!("it was answered before"),
            Ask::Explain { id } => match self.explain_here(&id) {
                Ok(explanation) => Message::of(Answer::Explained(explanation)),
                Err(refusal) => refused(refusal),
            },
            Ask::Gossip { digest } => self.answer_gossip(from, digest, &message.body),
            Ask::Join => self.answer_join(from, &message.body).unwrap_or_else(refused),
            Ask::Pull { partition, after } => self.answer_pull(partition, after).unwrap_or_else(refused),
            Ask::Keys { bucket, start, end, partitions, limit } => self
                .keys_here(&bucket, &start, &end, &partitions, limit as usize)
                .map_or_else(refused, |keys| Message::of(Answer::Keys(keys))),
            Ask::Sizes => self.sizes().map_or_else(refused, |sizes| Message::of(Answer::Sizes(sizes))),
            Ask::Transfers => Message::of(Answer::Transfers(self.transfers_here())),
            Ask::StoreMany if self.is_behind(table) => refused(Refusal::StaleTables),
            Ask::StoreMany => match self.answer_store_many(from, &message.body).await {
                // Whoever takes over may have fetched meanwhile, and the sender drops nothing that is refused.
                Ok(_) if self.is_behind(table) => refused(Refusal::StaleTables),
                answer => answer.unwrap_or_else(refused),
            },
            Ask::Lacks if self.is_behind(table) => refused(Refusal::StaleTables),
            Ask::Lacks => match self.answer_lacks(&message.body).await {
                Ok(_) if self.is_behind(table) => refused(Refusal::StaleTables),
                answer => answer.unwrap_or_else(refused),
            },
            Ask::Tree { table, ns, what } => self.answer_tree(table, ns, what).unwrap_or_else(refused),
            Ask::Repair { partition, bucket, key } => {
                self.answer_repair(partition, bucket, key).await.unwrap_or_else(refused)
            }
            Ask::Reapable => self.answer_reapable(table, &message.body).await.unwrap_or_else(refused),
            Ask::Reap => self.answer_reap(table, &message.body).await.unwrap_or_else(refused),
            Ask::SiftTree { table, ns, what } => self
                .may_be_sifted_with()
                .and_then(|()| self.answer_tree(table, ns, what))
                .unwrap_or_else(refused),
            Ask::SiftRead { id } => copy(self.may_be_sifted_with().and_then(|()| self.whole(&id))),
            Ask::Mend { id } if self.lacks(&id) => {
                refused(Refusal::Unavailable("this node is being filled".into()))
            }
            // With a gap of its own it answers all the same: two that were spoiled would wait for each other.
            // And it names it to nobody: two that can't help each other would name each other for ever.
            Ask::Mend { id } => copy(self.look_at(&id)),
            Ask::Clock => {
                let said = self.lock_clock().say(self.world.wall(), self.now());
                Message::of(Answer::Clock(said))
            }
            // The failure detector takes its messages before they come here.
            Ask::Swim => refused(Refusal::Malformed("a one-way message".into())),
        }
    }

    /// Why nothing is to be done about a question, if so: this node's disk may be behind, or it is too late.
    async fn refuses(&self, from: NodeId, table: TableTag, until: Time, touches: bool) -> Option<Refusal> {
        if touches && let Some(why) = crate::duty::past::silence(self, from).await {
            return Some(Refusal::Unavailable(why.into()));
        }
        if touches {
            self.catch_up(from, table).await;
        }
        (self.now() >= until).then(|| Refusal::Unavailable("nobody waits for this any more".into()))
    }

    fn may_be_sifted_with(&self) -> Result<(), Refusal> {
        let undecided = || Refusal::Unavailable("this node has just started".into());
        self.past.may_be_sifted_with().then_some(()).ok_or_else(undecided)
    }

    /// Merges a record into the own copy; answers whether it is durable.
    pub(crate) async fn merge_here(
        &self,
        id: ObjectId,
        record: Bytes,
        hint_for: Option<NodeId>,
        sync: bool,
    ) -> Result<bool, Refusal> {
        let now = self.wall();
        let merged = self.lane.run(|reply| Job::Merge { id, record, hint_for, sync, now, reply }).await;
        if hint_for.is_some() && merged.is_ok() {
            self.hints_written.fetch_add(1, Ordering::Relaxed);
        }
        merged
    }

    /// Copies go neither to a removed node nor from one, whatever either of them knows of it. What such a node holds is nobody's copy, so
    /// nobody may rely on its having something; and what it sends may have been deleted and forgotten meanwhile, so it sends nothing
    /// but what it alone owned, many at a time (`duty/surplus.rs`).
    fn refuses_removed(&self, from: NodeId, table: TableTag, ask: &Ask) -> Option<Refusal> {
        let (snapshot, stores) = (self.cluster.snapshot(), matches!(ask, Ask::Store { .. }));
        let relied_on = stores || matches!(ask, Ask::StoreMany | Ask::Lacks);
        let (is_here, is_there) = (snapshot.is_removed(self.id()), snapshot.is_removed(from));
        if !(relied_on && is_here || stores && is_there) {
            return None;
        }
        // Who acts by other tables may not have heard of it: he hears of it now.
        Some(match table == self.table_tag() {
            false => Refusal::StaleTables,
            true => Refusal::Unavailable(super::REMOVED.into()),
        })
    }

    /// Hears of tables that count more than this node's and that it does not know. Two sides of a partition each count their own
    /// changes, so who counts more may still know nothing of what has happened here.
    async fn catch_up(&self, from: NodeId, theirs: TableTag) {
        let is_unknown = || {
            let ours = self.table_tag();
            theirs.digest != ours.digest && theirs.counter > ours.counter
        };
        if !is_unknown() {
            return;
        }
        // One asks for all; and where he is not heard, only now and then. The wait for the others has the same end.
        let until = self.now() + CATCH_UP_MAX;
        let Ok(mut asked) = tokio::time::timeout(CATCH_UP_MAX, self.catching_up.lock()).await else { return };
        let lately =
            asked.is_some_and(|(digest, at)| digest == theirs.digest && self.now() - at < CATCH_UP_MAX);
        if is_unknown() && !lately {
            let _ = tokio::time::timeout(until - self.now(), crate::duty::gossip::exchange(self, from)).await;
            *asked = Some((theirs.digest, self.now()));
        }
    }

    /// Whether somebody acts by older tables than this node. Who acts by newer ones knows what he does.
    fn is_behind(&self, theirs: TableTag) -> bool {
        let ours = self.cluster.snapshot().regime.name();
        theirs.digest != ours.digest && theirs.counter <= ours.counter && !planted::is(Bug::OldTables)
    }

    /// Whether this node is a settled owner of a key: it has everything that was acknowledged.
    fn owns(&self, id: &ObjectId) -> bool {
        let snapshot = self.cluster.snapshot();
        let n = usize::from(snapshot.settings(id.bucket()).n);
        snapshot.table.owners(snapshot.table.partition_of(id), n).contains(&self.id())
    }

    /// Stores a record for a coordinator that acts by the same tables before and after: whoever takes over the partition
    /// fetches it only after this node has said that it acts by newer ones, and so finds whatever was said to be stored.
    async fn store_for(
        &self,
        table: TableTag,
        id: ObjectId,
        record: Bytes,
        hint_for: Option<NodeId>,
        sync: bool,
    ) -> Result<bool, Refusal> {
        if self.is_behind(table) {
            return Err(Refusal::StaleTables);
        }
        let since = self.is_waited_for();
        let durable = self.merge_here(id, record, hint_for, sync).await?;
        self.pace.wrote(self.now() - since);
        if self.is_behind(table) { Err(Refusal::StaleTables) } else { Ok(durable) }
    }

    fn answer_gossip(&self, from: NodeId, digest: u64, body: &Bytes) -> Message<Answer> {
        // Who was removed is told what is so, and has no say in it.
        if !body.is_empty() && !self.cluster.snapshot().is_removed(from) {
            match View::decode(body) {
                Ok(theirs) => self.take_view(&theirs),
                Err(e) => return Message::of(Answer::Refused(Refusal::Malformed(e.to_string()))),
            }
        }
        let mine = self.cluster.snapshot();
        if mine.view.digest() == digest {
            return Message::of(Answer::Same);
        }
        Message { head: Answer::View, body: mine.view.encode() }
    }

    /// Merges what another knows. A view of another cluster is ignored, loudly.
    pub(crate) fn take_view(&self, theirs: &View) {
        // Their word, and not what the merge makes of it: of two descriptions with one incarnation that keeps only one.
        if let Some(me) = theirs.members.get(&self.id()).filter(|_| theirs.cluster == self.cluster_id) {
            let here = self.cluster.snapshot();
            let acted_here = here.view.members.get(&self.id()).is_some_and(|me| me.acting.version > 0);
            self.past.hear(&me.description, me.acting.version > 0, acted_here);
        }
        if theirs.cluster == self.cluster_id {
            self.past.meet();
        }
        let changed = self.cluster.update(|view| view.merge(theirs).map(drop));
        if let Err(error) = changed {
            tracing::error!(%error, "a view was refused");
        }
    }

    fn answer_join(&self, from: NodeId, body: &Bytes) -> Result<Message<Answer>, Refusal> {
        let newcomer = Newcomer::read(body).map_err(|e| Refusal::Malformed(e.to_string()))?;
        let (asks, mut taken) = (newcomer.description.peer.clone(), None);
        // Looked at where nothing comes between: a view that is merged at this moment may tell of it.
        let admit = |view: &mut View| match view.members.get(&from) {
            Some(known) if newcomer.takes(known) => {
                taken = Some(known.description.peer.clone());
                Ok(())
            }
            _ => view.admit(from, newcomer.description).map(drop),
        };
        self.cluster.update(admit).map_err(|e| Refusal::NotAdmitted(e.to_string()))?;
        if let Some(at) = taken {
            self.past.refused_namesake();
            tracing::error!(node = %from, address = asks, "somebody asks to be let in under the identity of a member, and is refused");
            let why = format!(
                "{from} is a member already, at {at}, and its own directory would know that: an empty one starts as a new node, \
                 without --node-id"
            );
            return Err(Refusal::NotAdmitted(why));
        }
        let snapshot: std::sync::Arc<Snapshot> = self.cluster.snapshot();
        let welcome = Welcome { cluster_key: self.cluster_key, view: snapshot.view.clone() };
        Ok(Message { head: Answer::Welcome, body: welcome.bytes() })
    }

    fn answer_pull(&self, partition: Partition, after: Option<ObjectId>) -> Result<Message<Answer>, Refusal> {
        let (first, end) = keys::records_of_partition(partition);
        let start = after.map_or(first, |id| keys::after(&keys::record_key(partition, &id)));
        let rows = self
            .store
            .scan(Family::Records, &start, end.as_deref(), PULL_ROWS_MAX, PULL_BYTES_MAX)
            .map_err(|e| Refusal::Unavailable(e.to_string()))?;
        let mut out: Rows = Vec::with_capacity(rows.len());
        for (key, value) in &rows {
            let (_, id) = keys::decode_record_key(key).map_err(|e| Refusal::Unavailable(e.to_string()))?;
            if verify(value).is_err() {
                // Whoever fetches goes on key by key, and gets the others.
                self.suspects.add(&id);
                return Err(Refusal::Unavailable(format!("its record of {id:?} is damaged")));
            }
            out.push((id, value.to_vec()));
        }
        let body = postcard::to_stdvec(&out).expect("rows are bytes");
        Ok(Message { head: Answer::Rows { more: !rows.is_empty() }, body: Bytes::from(body) })
    }
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
