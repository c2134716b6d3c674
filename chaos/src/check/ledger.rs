//! A history sorted by key: who wrote what, who had seen it, and what each read showed.
//!
//! ```text
//!   #5 get  shows #1            sight   {1}
//!   #7 put  having seen #5      kills   {1}     its token then stands for   {7}
//!   #9 get  at least as of #7   shows {}        so 7 is dead, for nobody reads less than it asked for
//! ```
//!
//! A value is known by the operation that wrote it. What an operation's token covers is known from what that operation was
//! shown, so two questions can be answered without reading tokens:
//! - *may a read not show it?* Some write that was not refused had seen it, and is shown itself, or has left nothing to show, or may be
//!   gone in the same way ([`Story::may_be_gone`]). What first covers a value is always such a write, because a record's clock covers
//!   only what the record holds or what was superseded before; and with what it takes away a copy gets what took it.
//! - *must it be gone?* A write that is known to count had seen it, or had seen what had superseded it
//!   ([`Story::is_dead`]). A record holds no value that one of its other values, or its clock, supersedes.
//!
//! A cart shows sums, not adds. Where every add to an item is another power of two, the sum says which adds were seen, and
//! each add is then a value like any other. Items with other quantities are left to the checker of carts.

use super::Measure;
use crate::history::{Answer, Call, Entry, Fate, Op, OpId, Reading, Setting, What};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Values, by the operations that wrote them.
pub(super) type Values = BTreeSet<OpId>;

pub(super) struct Ledger {
    pub(super) settings: Vec<Setting>,
    pub(super) stories: Vec<Story>,
}

/// Everything about one key.
pub(super) struct Story {
    pub(super) bucket: String,
    pub(super) key: String,
    pub(super) ops: BTreeMap<OpId, Op>,
    /// What each acknowledged read showed.
    pub(super) sights: BTreeMap<OpId, Sight>,
    /// What the token of an operation stands for, apart from what is dead.
    alive: BTreeMap<OpId, Values>,
    /// What each write takes away, as far as its token says.
    kills: BTreeMap<OpId, Values>,
    /// The writes that take a value away.
    killers: BTreeMap<OpId, Vec<OpId>>,
    /// Whether writes are acknowledged before they are synced.
    pub(super) unsynced: bool,
    /// When, besides, a crash has taken some of them from a disk: what had been written there since the first moment, at the second,
    /// in microseconds.
    undone_us: Vec<(u64, u64)>,
    /// Removals without a token: they take what a quorum showed then, which nobody knows.
    blind: Vec<OpId>,
    /// The items of a cart whose sums say which adds they are of.
    clear: BTreeMap<String, Weights>,
}

/// What a read showed.
#[derive(Debug, Default)]
pub(super) struct Sight {
    pub(super) values: Values,
    /// What was shown and is no value of this key, in words.
    pub(super) strangers: Vec<String>,
}

impl Ledger {
    pub(super) fn new(entries: &[Entry], measure: &Measure) -> Result<Self, String> {
        let settings = entries.iter().filter_map(|entry| match &entry.what {
            What::Setting(setting) => Some(setting.clone()),
            _ => None,
        });
        let mut keys: BTreeMap<(String, String), BTreeMap<OpId, Op>> = BTreeMap::new();
        for (id, op) in crate::history::ops(entries)? {
            let key = (op.invoke.bucket.clone(), op.invoke.key.clone());
            keys.entry(key).or_default().insert(id, op);
        }
        let settings: Vec<Setting> = settings.collect();
        let stories = keys.into_iter().map(|(name, ops)| {
            let unsynced = settings.iter().any(|setting| setting.unsynced && setting.bucket == name.0);
            let taken = measure.undone.get(&name).filter(|_| unsynced).into_iter().flatten();
            let us = |at: Duration| u64::try_from(at.as_micros()).unwrap_or(u64::MAX);
            let undone_us = taken.map(|(since, at)| (us(*since), us(*at))).collect();
            Story { unsynced, undone_us, ..Story::new(name.0, name.1, ops) }
        });
        Ok(Self { stories: stories.collect(), settings })
    }
}

impl Story {
    fn new(bucket: String, key: String, ops: BTreeMap<OpId, Op>) -> Self {
        let clear = clear(&ops);
        let mut story = Story {
            sights: sights(&ops, &clear),
            clear,
            bucket,
            key,
            alive: BTreeMap::new(),
            kills: BTreeMap::new(),
            killers: BTreeMap::new(),
            unsynced: false,
            undone_us: Vec::new(),
            blind: Vec::new(),
            ops,
        };
        let ids: Vec<OpId> = story.ops.keys().copied().collect();
        for id in ids {
            story.follow(id);
        }
        story
    }

    /// Works out what a write takes away and what its token stands for. Whatever it had seen comes before it.
    fn follow(&mut self, id: OpId) {
        let op = &self.ops[&id];
        if op.reads() {
            let shown = self.sights.get(&id).map(|sight| sight.values.clone());
            self.alive.insert(id, shown.unwrap_or_default());
            return;
        }
        let seen = seen(&op.invoke.call);
        let known = seen.and_then(|from| self.alive.get(&from)).cloned().unwrap_or_default();
        let kills: Values = known.iter().copied().filter(|of| self.hits(id, *of)).collect();
        if seen.is_none() && removes(&op.invoke.call) {
            self.blind.push(id);
        }
        let mut alive: Values = known.difference(&kills).copied().collect();
        if adds(&op.invoke.call) && self.is_clear(id) {
            alive.insert(id);
        }
        for of in &kills {
            self.killers.entry(*of).or_default().push(id);
        }
        self.alive.insert(id, alive);
        self.kills.insert(id, kills);
    }

    /// Whether a write supersedes this value if it has seen it.
    fn hits(&self, write: OpId, value: OpId) -> bool {
        let sku_of = |id: &OpId| match &self.ops[id].invoke.call {
            Call::CartAdd { sku, .. } | Call::CartSet { sku, .. } | Call::CartRemove { sku, .. } => Some(sku),
            _ => None,
        };
        match &self.ops[&write].invoke.call {
            Call::Put { .. } | Call::Delete { .. } | Call::CartEmpty { .. } => write != value,
            Call::CartSet { .. } | Call::CartRemove { .. } => {
                write != value && sku_of(&write) == sku_of(&value)
            }
            Call::CartAdd { .. } | Call::Get { .. } | Call::CartGet { .. } => false,
        }
    }

    /// The writes of values, in the order of their begins.
    pub(super) fn values(&self) -> impl DoubleEndedIterator<Item = (OpId, &Op)> {
        self.ops
            .iter()
            .filter(|(id, op)| adds(&op.invoke.call) && self.is_clear(**id))
            .map(|(id, op)| (*id, op))
    }

    /// Whether reads tell this value apart from others.
    fn is_clear(&self, value: OpId) -> bool {
        sku(&self.ops[&value].invoke.call).is_none_or(|sku| self.clear.contains_key(sku))
    }

    /// The acknowledged reads and what they showed, in the order of their begins.
    pub(super) fn reads(&self) -> impl Iterator<Item = (&Op, &Sight)> {
        self.sights.iter().map(|(id, sight)| (&self.ops[id], sight))
    }

    /// Whether no crash can have taken anything of it from any disk: it began after the last that took something of the key, or what it
    /// had written by its end was synced before that was written which a crash took.
    pub(super) fn is_whole_since(&self, op: &Op) -> bool {
        let may_have = |(since, at): &(u64, u64)| {
            op.begun.at_us <= *at && op.ended.is_none_or(|ended| ended.at_us >= *since)
        };
        !self.undone_us.iter().any(may_have)
    }

    /// Whether a write was acknowledged, and no crash may have taken it back.
    pub(super) fn is_kept(&self, write: &Op) -> bool {
        let durable = |answer: &Answer| answer.receipt.is_some_and(|receipt| receipt.durable >= receipt.w);
        write.answer().is_some_and(|answer| self.is_whole_since(write) || durable(answer))
    }

    /// The acknowledged reads of the end: begun when everything but such reads was over or given up.
    pub(super) fn last_looks(&self) -> impl Iterator<Item = (&Op, &Sight)> {
        self.reads().filter(|(read, _)| reading(read) != Some(Reading::Load))
    }

    /// Whether who shows these values may not show that one: writes, not refused and begun before that place, had seen it or may have,
    /// and whoever took the last of them with what it took away shows it, unless nothing of it is left to be shown.
    pub(super) fn may_be_gone(&self, value: OpId, before: usize, shown: &Values) -> bool {
        let (mut followed, mut todo) = (Values::from([value]), vec![value]);
        while let Some(of) = todo.pop() {
            let begun = self.ops[&of].begun.place;
            let counts = |id: &&OpId| {
                let op = &self.ops[*id];
                **id != of && !matches!(op.fate, Fate::Failed(_)) && op.begun.place < before
            };
            let may_have = |id: &&OpId| self.hits(**id, of) && !self.ops[*id].over_before(begun);
            if self.blind.iter().filter(counts).any(|id| may_have(&id)) {
                return true;
            }
            for killer in self.killers.get(&of).into_iter().flatten().filter(counts) {
                if shown.contains(killer) || !self.stays(*killer) {
                    return true;
                }
                if followed.insert(*killer) {
                    todo.push(*killer);
                }
            }
        }
        false
    }

    /// All values that may be gone where these are shown, whatever was written until the end: the same as [`Story::may_be_gone`] of each, at
    /// once. One by one each value of a key is followed through all that came after it, which takes minutes for some ten thousand writes.
    pub(super) fn gone(&self, shown: &Values) -> Values {
        let mut gone = Values::new();
        // Whoever takes a value away has seen it, so he comes after it, and what became of his is known before.
        for (of, op) in self.values().rev() {
            let counts = |id: &&OpId| **id != of && !matches!(self.ops[*id].fate, Fate::Failed(_));
            let may_have = |id: &&OpId| self.hits(**id, of) && !self.ops[*id].over_before(op.begun.place);
            let leaves_none = |id: &OpId| shown.contains(id) || !self.stays(*id) || gone.contains(id);
            let mut killers = self.killers.get(&of).into_iter().flatten().filter(counts);
            if killers.any(leaves_none) || self.blind.iter().filter(counts).any(|id| may_have(&id)) {
                gone.insert(of);
            }
        }
        gone
    }

    /// Whether such a write has taken this value away and left another one.
    pub(super) fn is_taken_by(&self, value: OpId, such: impl Fn(&Op) -> bool) -> bool {
        let mut killers = self.killers.get(&value).into_iter().flatten();
        killers.any(|id| *id != value && self.stays(*id) && such(&self.ops[id]))
    }

    /// Whether a write leaves a value that is there, and told apart from others, until somebody takes it away.
    fn stays(&self, write: OpId) -> bool {
        let op = &self.ops[&write];
        adds(&op.invoke.call) && self.is_clear(write) && ttl_us(op).is_none()
    }

    /// Whether whoever holds the token of this operation, or the value that it wrote, can't hold that value any more.
    pub(super) fn is_dead(&self, value: OpId, by: OpId) -> bool {
        let begun = self.ops[&value].begun.place;
        let mut visited: Values = [by].into();
        let mut todo = vec![by];
        while let Some(id) = todo.pop() {
            let op = &self.ops[&id];
            let next: Vec<OpId> = if op.reads() {
                // What was not shown although it was asked for: unless its time may have been up, it was superseded.
                let asked = seen(&op.invoke.call);
                let hidden =
                    |from: &OpId| self.alive[from].contains(&value) && !self.alive[&id].contains(&value);
                if asked.is_some_and(|from| op.answer().is_some() && hidden(&from))
                    && ttl_us(&self.ops[&value]).is_none()
                {
                    return true;
                }
                // An add of a cart travels without what its sender had seen.
                let shown = if is_cart(op) { None } else { self.alive.get(&id) };
                asked.into_iter().chain(shown.into_iter().flatten().copied()).collect()
            } else {
                if self.kills[&id].contains(&value) {
                    return true;
                }
                seen(&op.invoke.call).into_iter().collect()
            };
            // Who began before the value was written has not seen it.
            let later = |id: &OpId| self.ops.get(id).is_some_and(|op| !op.over_before(begun)) && *id != value;
            todo.extend(next.into_iter().filter(later).filter(|id| visited.insert(*id)));
        }
        false
    }

    /// What the token of an operation stands for.
    pub(super) fn alive(&self, id: OpId) -> &Values {
        &self.alive[&id]
    }

    /// An acknowledged write that is kept, over before that place, whose token names this value.
    pub(super) fn is_superseded(&self, value: OpId, before: usize) -> Option<&Op> {
        let counts = |op: &&Op| self.is_kept(op) && op.over_before(before);
        self.killers.get(&value).into_iter().flatten().map(|id| &self.ops[id]).find(counts)
    }

    /// An acknowledged write that is kept, over before that place, after which this value can't be there any more.
    pub(super) fn must_be_gone(&self, value: OpId, before: usize) -> Option<&Op> {
        let counts = |op: &&Op| !op.reads() && self.is_kept(op) && op.over_before(before);
        let told = self.killers.get(&value).into_iter().flatten().map(|id| &self.ops[id]).find(counts);
        // A removal from a cart says nothing about other items, whatever its sender knew of them.
        let range = if is_cart(&self.ops[&value]) { value..value } else { value + 1..OpId::MAX };
        let later = || self.ops.range(range).map(|(_, op)| op).filter(counts);
        told.or_else(|| later().find(|op| self.is_dead(value, op.invoke.op)))
    }
}

fn clear(ops: &BTreeMap<OpId, Op>) -> BTreeMap<String, Weights> {
    let skus: BTreeSet<&str> = ops.values().filter_map(|op| sku(&op.invoke.call)).collect();
    skus.into_iter().filter_map(|sku| Some((sku.to_owned(), Weights::of(ops, sku)?))).collect()
}

fn sights(ops: &BTreeMap<OpId, Op>, clear: &BTreeMap<String, Weights>) -> BTreeMap<OpId, Sight> {
    let puts = ops.iter().filter_map(|(id, op)| match &op.invoke.call {
        Call::Put { value, .. } => Some((value, *id)),
        _ => None,
    });
    let puts: BTreeMap<_, OpId> = puts.collect();
    let changed: BTreeSet<&str> = ops.values().filter_map(|op| sku(&op.invoke.call)).collect();
    let mut sights = BTreeMap::new();
    for (id, op) in ops.iter().filter(|(_, op)| op.reads()) {
        let Some(answer) = op.answer() else { continue };
        let mut sight = Sight::default();
        for shown in &answer.versions {
            match puts.get(&shown.value) {
                Some(write) if !sight.values.insert(*write) => {
                    sight.strangers.push(format!("{:?} twice", shown.value.id));
                }
                Some(_) => {}
                None => sight.strangers.push(format!("{:?} {:?}", shown.value.id, shown.value.text)),
            }
        }
        for item in &answer.items {
            let Some(weights) = clear.get(&item.sku) else {
                if !changed.contains(item.sku.as_str()) {
                    sight.strangers.push(format!("{} × {}, which nobody added", item.quantity, item.sku));
                }
                continue;
            };
            match weights.adds_up_to(item.quantity) {
                Some(values) => sight.values.extend(values),
                None => {
                    sight
                        .strangers
                        .push(format!("{} × {}, which no adds sum up to", item.quantity, item.sku));
                }
            }
        }
        sights.insert(*id, sight);
    }
    sights
}

/// The changes of an item's quantity, each another power of two.
pub(super) struct Weights(BTreeMap<u64, (OpId, i64)>);

impl Weights {
    /// The adds of an item. `None` where a sum does not say which adds it is of.
    fn of(ops: &BTreeMap<OpId, Op>, of: &str) -> Option<Self> {
        Self::signed(ops, of).filter(|weights| !weights.takes())
    }

    /// The same, and some may take away. `None` where a sum above 0 does not say which changes it is of.
    pub(super) fn signed(ops: &BTreeMap<OpId, Op>, of: &str) -> Option<Self> {
        let mut weights = BTreeMap::new();
        for (id, op) in ops {
            let quantity = match &op.invoke.call {
                Call::CartAdd { sku, quantity, .. } | Call::CartSet { sku, quantity, .. } if sku == of => {
                    *quantity
                }
                _ => continue,
            };
            let size = quantity.unsigned_abs();
            if !size.is_power_of_two() || weights.insert(size, (*id, quantity)).is_some() {
                return None;
            }
        }
        Some(Self(weights))
    }

    /// Whether something was taken away.
    pub(super) fn takes(&self) -> bool {
        self.0.values().any(|(_, quantity)| *quantity < 0)
    }

    /// All changes with their quantities.
    pub(super) fn all(&self) -> Vec<(OpId, i64)> {
        self.0.values().copied().collect()
    }

    /// The only changes that sum up to this: whether the smallest is among them decides whether its bit is left, and so on.
    pub(super) fn adds_up_to(&self, sum: i64) -> Option<Values> {
        let mut left = sum;
        let mut values = Values::new();
        for (size, (id, quantity)) in &self.0 {
            if left.unsigned_abs() & size != 0 {
                left -= quantity;
                values.insert(*id);
            }
        }
        (left == 0 && !values.is_empty()).then_some(values)
    }
}

fn is_cart(op: &Op) -> bool {
    !matches!(op.invoke.call, Call::Get { .. } | Call::Put { .. } | Call::Delete { .. })
}

/// The operation whose token was sent along.
pub(super) fn seen(call: &Call) -> Option<OpId> {
    match call {
        Call::Get { min, .. } | Call::CartGet { min, .. } => *min,
        Call::Put { seen, .. } | Call::Delete { seen } => *seen,
        Call::CartSet { seen, .. } | Call::CartRemove { seen, .. } | Call::CartEmpty { seen } => *seen,
        Call::CartAdd { .. } => None,
    }
}

/// Why an operation reads, if it does.
pub(super) fn reading(op: &Op) -> Option<Reading> {
    match op.invoke.call {
        Call::Get { reading, .. } | Call::CartGet { reading, .. } => Some(reading),
        _ => None,
    }
}

/// How long the value of a write lives, in microseconds.
pub(super) fn ttl_us(op: &Op) -> Option<u64> {
    match op.invoke.call {
        Call::Put { ttl_ms, .. } => ttl_ms.map(|ms| ms.saturating_mul(1000)),
        _ => None,
    }
}

fn adds(call: &Call) -> bool {
    matches!(call, Call::Put { .. } | Call::CartAdd { .. } | Call::CartSet { .. })
}

/// Whether it takes something away even if it says nothing about what it had seen.
fn removes(call: &Call) -> bool {
    !adds(call) || matches!(call, Call::CartSet { .. })
}

pub(super) fn sku(call: &Call) -> Option<&str> {
    match call {
        Call::CartAdd { sku, .. } | Call::CartSet { sku, .. } => Some(sku),
        _ => None,
    }
}
