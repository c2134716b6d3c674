//! Carts on three replicas that lose, repeat and reorder what they are sent, against what a shopper was promised.
//!
//! The model knows, of each add, who took it and which removal had seen it; it knows nothing of dots, markers or deltas.

use super::*;
use crate::causal::{Context, Epochs};
use crate::ids::NodeId;
use crate::record::write::{CONTEXT_RUNS_MAX, Write, take};
use crate::record::{Content, Coordinated, Me, Op, Record, merge, receive};
use crate::time::Wall;
use crate::wire::peer::Action;
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const NOW: Wall = Wall(1_000_000);

/// One replica.
struct Copy {
    node: NodeId,
    epochs: Epochs,
    record: Option<Record>,
}

impl Copy {
    fn new(node: u128) -> Self {
        Copy { node: NodeId(node), epochs: Epochs::at_start(1, 0, false), record: None }
    }

    fn run_at(&mut self, now: Wall, wanted: CartChange) -> Coordinated {
        let mut me = Me { node: self.node, epochs: &mut self.epochs };
        let done = change(self.record.as_ref(), wanted, now, &mut me).unwrap();
        if done.record != Record::default() {
            self.record = Some(done.record.clone());
        }
        done
    }

    fn run(&mut self, wanted: CartChange) -> Coordinated {
        self.run_at(NOW, wanted)
    }

    fn hear(&mut self, incoming: &Record) {
        let mut me = Me { node: self.node, epochs: &mut self.epochs };
        if let Some(merged) = receive(self.record.as_ref(), incoming, &mut me) {
            self.record = Some(merged);
        }
    }

    fn forget(&mut self) {
        self.record = None;
    }

    fn clock(&self) -> Context {
        self.record.as_ref().map(|r| r.clock.clone()).unwrap_or_default()
    }

    fn shows(&self, sku: &str) -> u64 {
        let cart = self.record.as_ref().map(Cart::of).unwrap_or_default();
        cart.items.get(sku.as_bytes()).map_or(0, |item| item.quantity)
    }
}

fn sku(name: &str) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

fn add(name: &str, quantity: i64, op: Option<u128>) -> CartChange {
    CartChange::Add { sku: sku(name), quantity, op: op.map(Op), attributes: None }
}

fn remove(name: &str, seen: Context) -> CartChange {
    CartChange::Remove { target: Target::Sku(sku(name)), seen }
}

fn set(name: &str, quantity: i64, seen: Context) -> CartChange {
    CartChange::Set { sku: sku(name), quantity, seen, attributes: None }
}

fn two() -> (Copy, Copy) {
    (Copy::new(1), Copy::new(2))
}

#[test]
fn adds_sum_up_and_removals_take_what_was_seen() {
    let (mut a, mut b) = two();
    let first = a.run(add("mug", 2, None));
    b.run(add("mug", 3, None));
    b.hear(&first.delta);
    assert_eq!(b.shows("mug"), 5);
    b.run(remove("mug", first.context));
    assert_eq!(b.shows("mug"), 3);
}

#[test]
fn an_operation_counts_once_however_many_replicas_took_it() {
    let (mut a, mut b) = two();
    let first = a.run(add("mug", 2, Some(1)));
    let retry = b.run(add("mug", 2, Some(1)));
    a.hear(&retry.delta);
    b.hear(&first.delta);
    assert_eq!((a.shows("mug"), b.shows("mug")), (2, 2));
    let again = a.run(add("mug", 2, Some(1)));
    assert_eq!(Some(&again.record), a.record.as_ref());
    assert_eq!(a.shows("mug"), 2);
}

#[test]
fn the_answer_to_a_retry_carries_what_the_first_try_wrote() {
    let (mut a, mut b) = two();
    a.run(add("mug", 2, Some(1)));
    b.hear(&a.run(add("mug", 2, Some(1))).delta);
    assert_eq!(b.shows("mug"), 2);
}

#[test]
fn a_merge_that_is_repeated_with_one_add_more_carries_the_older_ones_too() {
    let (mut a, mut b) = two();
    let (x, y) = ((sku("mug"), 2, Op(1)), (sku("cup"), 3, Op(2)));
    a.run(CartChange::AddMany(vec![x.clone()]));
    b.hear(&a.run(CartChange::AddMany(vec![x.clone(), y.clone(), y.clone()])).delta);
    assert_eq!((b.shows("mug"), b.shows("cup")), (2, 3));
    let before = b.record.clone();
    b.run(CartChange::AddMany(vec![x, y]));
    assert_eq!(b.record, before, "a merge counts once");
}

#[test]
fn a_removed_operation_stays_away_where_another_replica_took_it_too() {
    // Either replica may have the smaller dot.
    for (first, second) in [(1, 2), (2, 1)] {
        let (mut a, mut b) = (Copy::new(first), Copy::new(second));
        let taken = a.run(add("mug", 2, Some(1)));
        a.run(remove("mug", taken.context));
        b.run(add("mug", 2, Some(1)));
        a.hear(b.record.as_ref().unwrap());
        assert_eq!(a.shows("mug"), 0);
        a.run(add("mug", 2, Some(1)));
        assert_eq!(a.shows("mug"), 0, "a late retry does not bring it back");
    }
}

#[test]
fn a_removal_ahead_of_its_add_holds_when_the_add_arrives() {
    for (first, second) in [(1, 2), (2, 1)] {
        let (mut a, mut b) = (Copy::new(first), Copy::new(second));
        let taken = a.run(add("mug", 2, Some(1)));
        b.run(add("mug", 5, None));
        b.run(add("mug", 2, Some(1)));
        b.run(remove("mug", taken.context.clone()));
        b.hear(&taken.delta);
        assert_eq!(b.shows("mug"), 5, "neither the add nor its twin count");
        b.run(add("cup", 1, None));
        assert!(removals_of(&b).is_empty(), "the marker is carried out and gone");
        assert_eq!(b.shows("mug"), 5);
    }
}

fn removals_of(copy: &Copy) -> Vec<Content> {
    let siblings = copy.record.iter().flat_map(|r| &r.siblings);
    siblings.map(|s| s.content.clone()).filter(|c| matches!(c, Content::CartRemoved { .. })).collect()
}

#[test]
fn a_repeated_removal_leaves_one_marker() {
    let (mut a, mut b) = two();
    let seen = a.run(add("mug", 2, None)).context;
    b.run(remove("mug", seen.clone()));
    b.run(remove("mug", seen.clone()));
    assert_eq!(removals_of(&b).len(), 1);
    b.run(remove("cup", seen));
    assert_eq!(removals_of(&b).len(), 2);
}

#[test]
fn an_acknowledged_removal_holds_on_every_replica_that_acknowledged_it() {
    let (mut a, mut b) = two();
    let taken = a.run(add("mug", 2, None));
    b.hear(&taken.delta);
    a.run(remove("mug", taken.context));
    // The first removal never reached b; its caller tries again with what b shows.
    let again = a.run(remove("mug", b.clock()));
    b.hear(&again.delta);
    assert_eq!(b.shows("mug"), 0);
}

#[test]
fn a_removal_can_be_told_from_a_copy_that_has_missed_it() {
    let (mut a, mut b) = two();
    let taken = a.run(add("mug", 2, None));
    b.hear(&taken.delta);
    let removed = a.run(remove("mug", taken.context));
    let again = a.run(remove("mug", a.clock()));
    for answer in [removed.context, again.context] {
        assert!(!b.clock().covers(&answer), "b shows what was removed, and must not pass for as new");
        assert!(a.clock().covers(&answer));
    }
    b.hear(&again.delta);
    assert!(b.clock().covers(&a.clock()) && b.shows("mug") == 0);
}

#[test]
fn a_cart_that_never_was_does_not_begin_by_being_emptied() {
    let mut a = Copy::new(1);
    let done = a.run(CartChange::Remove { target: Target::Everything, seen: Context::new() });
    assert_eq!((done.record, done.context.is_empty()), (Record::default(), true));
}

#[test]
fn a_marker_that_is_carried_out_elsewhere_does_not_uncover_what_it_hid() {
    let (mut a, mut b) = two();
    let mut c = Copy::new(3);
    let taken = a.run(add("mug", 2, None));
    c.hear(&taken.delta);
    let marked = b.run(remove("mug", taken.context.clone()));
    c.hear(&marked.delta);
    a.run(remove("mug", taken.context));
    a.hear(&marked.delta);
    let settled = a.run(add("cup", 1, None));
    c.hear(&settled.delta);
    assert_eq!((c.shows("mug"), c.shows("cup")), (0, 1));
}

#[test]
fn a_removed_operation_stays_away_after_its_name_is_forgotten() {
    let (mut a, mut b) = two();
    let taken = a.run(add("mug", 2, Some(1)));
    b.run(add("mug", 2, Some(1)));
    a.run(remove("mug", taken.context));
    a.hear(b.record.as_ref().unwrap());
    let later = NOW.plus(OP_MEMORY * 2);
    let other = a.run_at(later, add("cup", 1, Some(2)));
    a.run_at(later, remove("cup", other.context));
    let names: Vec<Op> = value::spent(a.record.as_ref().unwrap()).map(|(op, _)| op).collect();
    assert_eq!(names, [Op(2)]);
    assert_eq!(a.shows("mug"), 0);
}

#[test]
fn the_memory_of_names_has_a_bound() {
    let mut a = Copy::new(1);
    let ops = |from: u128| {
        (from..).take(OP_MEMORY_COUNT / 2 + 1).map(|n| (sku("mug"), 1, Op(n))).collect::<Vec<_>>()
    };
    for round in 0..3_u64 {
        let done = a.run(CartChange::AddMany(ops(u128::from(round) * 100_000)));
        a.run_at(NOW.plus(std::time::Duration::from_millis(round)), remove("mug", done.context));
    }
    let names: BTreeSet<Op> = value::spent(a.record.as_ref().unwrap()).map(|(op, _)| op).collect();
    assert_eq!(names.len(), OP_MEMORY_COUNT);
    assert!(names.contains(&Op(200_000)) && !names.contains(&Op(1)), "the oldest go first");
}

#[test]
fn a_full_cart_takes_no_more_and_may_be_changed_and_emptied() {
    let mut a = Copy::new(1);
    a.run(CartChange::AddMany((0..OPERATIONS_MAX as u128).map(|n| (sku("mug"), 1, Op(n))).collect()));
    let held = a.record.clone();
    let mut me = Me { node: a.node, epochs: &mut a.epochs };
    assert_eq!(change(held.as_ref(), add("cup", 1, None), NOW, &mut me), Err(CartError::Full));
    a.run(set("mug", 3, a.clock()));
    assert_eq!(a.shows("mug"), 3);
    a.run(CartChange::Remove { target: Target::Everything, seen: a.clock() });
    assert_eq!(a.shows("mug"), 0);
}

#[test]
fn a_quantity_is_never_below_nothing() {
    let mut a = Copy::new(1);
    a.run(add("mug", -5, None));
    assert_eq!(a.shows("mug"), 0);
    for _ in 0..3 {
        a.run(add("cup", i64::MAX, None));
    }
    assert_eq!(a.shows("cup"), i64::MAX as u64);
}

#[test]
fn a_set_quantity_keeps_what_the_shop_says_of_the_item() {
    let mut a = Copy::new(1);
    let json = |text: &str| Some(Bytes::copy_from_slice(text.as_bytes()));
    a.run(CartChange::Add { sku: sku("mug"), quantity: 1, op: None, attributes: json("1") });
    a.run(set("mug", 7, a.clock()));
    let item = |a: &Copy| Cart::of(a.record.as_ref().unwrap()).items[&sku("mug")].clone();
    assert_eq!(item(&a), Item { quantity: 7, attributes: vec![Bytes::from_static(b"1")] });
    a.run(CartChange::Set { sku: sku("mug"), quantity: 8, seen: a.clock(), attributes: json("2") });
    assert_eq!(item(&a), Item { quantity: 8, attributes: vec![Bytes::from_static(b"2")] });
    a.run(set("mug", 0, a.clock()));
    a.run(add("mug", 1, None));
    assert_eq!(
        item(&a),
        Item { quantity: 1, attributes: vec![] },
        "a removed item is forgotten with what was said of it"
    );
}

#[test]
fn the_writers_context_keeps_what_it_brought() {
    let (mut a, b) = (Copy::new(1), Copy::new(2));
    let brought = a.run(add("mug", 1, None)).context;
    let write = Write {
        action: Action::CartAdd { sku: sku("cup"), quantity: 1, op: None, attributes: None },
        body: Bytes::new(),
        seen: Some(brought.clone()),
        ttl_default: None,
        blind: crate::bucket::BlindWrites::Siblings,
        siblings_max: 100,
        context_runs_max: CONTEXT_RUNS_MAX,
    };
    let mut epochs = b.epochs;
    let done = take(None, write, NOW, &mut Me { node: b.node, epochs: &mut epochs }).unwrap();
    assert!(done.context.covers(&brought) && done.context.has(&done.dots[0]));
}

// ---- any interleaving ----

#[derive(Clone, Debug)]
enum Step {
    Add {
        at: usize,
        sku: usize,
        quantity: i64,
        op: Option<u128>,
        and_at: Option<usize>,
    },
    Guest {
        at: usize,
        ops: Vec<u128>,
    },
    /// With what replica `shown` shows.
    Remove {
        at: usize,
        shown: usize,
        sku: Option<usize>,
        set: Option<i64>,
    },
    Deliver {
        message: prop::sample::Index,
        to: usize,
        keep: bool,
    },
    Exchange {
        from: usize,
        to: usize,
    },
    Forget {
        at: usize,
    },
}

const SKUS: [&str; 2] = ["mug", "cup"];

/// An operation's name decides what it does, as with every honest client.
fn named(op: u128) -> (usize, i64) {
    (op as usize % 2, op as i64 % 3 + 1)
}

fn any_step() -> impl Strategy<Value = Step> {
    let at = || 0..3_usize;
    prop_oneof![
        4 => (at(), 0..2_usize, 1..4_i64).prop_map(|(at, sku, quantity)| Step::Add { at, sku, quantity, op: None, and_at: None }),
        4 => (at(), 0..5_u128, proptest::option::of(at())).prop_map(|(at, op, and_at)| {
            let (sku, quantity) = named(op);
            Step::Add { at, sku, quantity, op: Some(op), and_at }
        }),
        1 => (at(), proptest::collection::vec(5..9_u128, 1..4)).prop_map(|(at, ops)| Step::Guest { at, ops }),
        4 => (at(), at(), proptest::option::of(0..2_usize), proptest::option::of(0..4_i64))
            .prop_map(|(at, shown, sku, set)| Step::Remove { at, shown, sku, set: set.filter(|_| sku.is_some()) }),
        8 => (any::<prop::sample::Index>(), at(), any::<bool>()).prop_map(|(message, to, keep)| Step::Deliver { message, to, keep }),
        2 => (at(), at()).prop_map(|(from, to)| Step::Exchange { from, to }),
        1 => at().prop_map(|at| Step::Forget { at }),
    ]
}

/// One add as a shopper knows it.
#[derive(Clone, Debug)]
struct Taken {
    sku: usize,
    quantity: i64,
    op: Option<u128>,
    dots: Vec<crate::causal::Dot>,
}

/// The dots of a change that are adds; others mark what is spent.
fn adds_among(done: &Coordinated) -> Vec<crate::causal::Dot> {
    value::adds(&done.record).map(|(dot, ..)| dot).filter(|dot| done.dots.contains(dot)).collect()
}

fn run_history(steps: Vec<Step>) {
    let mut copies: Vec<Copy> = (1..=3).map(Copy::new).collect();
    let mut wire: Vec<Record> = Vec::new();
    let mut taken: Vec<Taken> = Vec::new();
    let mut removed: Vec<bool> = Vec::new();
    let mut removed_ops: BTreeSet<u128> = BTreeSet::new();
    let note =
        |taken: &mut Vec<Taken>, removed: &mut Vec<bool>, sku, quantity, op, dots: &[crate::causal::Dot]| {
            taken.push(Taken { sku, quantity, op, dots: dots.to_vec() });
            removed.push(false);
        };
    for step in steps {
        match step {
            Step::Add { at, sku, quantity, op, and_at } => {
                for at in [Some(at), and_at].into_iter().flatten() {
                    let done = copies[at].run(add(SKUS[sku], quantity, op));
                    note(&mut taken, &mut removed, sku, quantity, op, &adds_among(&done));
                    wire.push(done.delta);
                }
            }
            Step::Guest { at, ops } => {
                let adds =
                    ops.iter().map(|op| (crate::cart::tests::sku(SKUS[named(*op).0]), named(*op).1, Op(*op)));
                let done = copies[at].run(CartChange::AddMany(adds.collect()));
                for op in ops {
                    let known = |s: &&crate::record::Sibling| matches!(&s.content, Content::CartAdd { op: Some(o), .. } if *o == Op(op));
                    let dots: Vec<_> = done.record.siblings.iter().filter(known).map(|s| s.dot).collect();
                    note(&mut taken, &mut removed, named(op).0, named(op).1, Some(op), &dots);
                }
                wire.push(done.delta);
            }
            Step::Remove { at, shown, sku, set: quantity } => {
                let seen = copies[shown].clock();
                for (add, gone) in taken.iter().zip(&mut removed) {
                    if sku.is_none_or(|sku| sku == add.sku) && add.dots.iter().any(|d| seen.has(d)) {
                        *gone = true;
                        removed_ops.extend(add.op);
                    }
                }
                let done = match (sku, quantity) {
                    (None, _) => copies[at].run(CartChange::Remove { target: Target::Everything, seen }),
                    (Some(sku), None) => copies[at].run(remove(SKUS[sku], seen)),
                    (Some(sku), Some(quantity)) => copies[at].run(set(SKUS[sku], quantity, seen)),
                };
                if let Some(quantity) = quantity.filter(|n| *n > 0) {
                    note(&mut taken, &mut removed, sku.unwrap(), quantity, None, &adds_among(&done));
                }
                wire.push(done.delta);
            }
            Step::Deliver { message, to, keep } if !wire.is_empty() => {
                let at = message.index(wire.len());
                let delta = if keep { wire[at].clone() } else { wire.swap_remove(at) };
                copies[to].hear(&delta);
            }
            Step::Deliver { .. } => {}
            Step::Exchange { from, to } => {
                if let Some(record) = copies[from].record.clone() {
                    copies[to].hear(&record);
                }
            }
            Step::Forget { at } => {
                // A lost copy is no lost data: its neighbour has it all.
                if let Some(record) = copies[at].record.clone() {
                    copies[(at + 1) % 3].hear(&record);
                    copies[at].forget();
                }
            }
        }
        for copy in &copies {
            let Some(record) = &copy.record else { continue };
            assert_eq!(crate::wire::record::decode(&crate::wire::record::encode(record)), Ok(record.clone()));
        }
    }
    for _ in 0..2 {
        for (from, to) in [(0, 1), (1, 2), (2, 0), (2, 1), (1, 0), (0, 2)] {
            if let Some(record) = copies[from].record.clone() {
                copies[to].hear(&record);
            }
        }
    }
    // What is spread too late changes nothing any more.
    for delta in &wire {
        copies.iter_mut().for_each(|c| c.hear(delta));
    }
    assert_eq!(copies[0].record, copies[1].record, "the replicas agree");
    assert_eq!(copies[1].record, copies[2].record, "the replicas agree");
    let mut expected: BTreeMap<usize, i64> = BTreeMap::new();
    let mut counted = BTreeSet::new();
    for (add, gone) in taken.iter().zip(&removed) {
        let once = add.op.is_none_or(|op| !removed_ops.contains(&op) && counted.insert(op));
        if !gone && once {
            *expected.entry(add.sku).or_default() += add.quantity;
        }
    }
    for (at, name) in SKUS.iter().enumerate() {
        let expected = expected.get(&at).copied().unwrap_or(0);
        assert_eq!(copies[0].shows(name), u64::try_from(expected).unwrap(), "{name}: {taken:?} {removed:?}");
    }
    // Whatever is done next carries out the markers, and shows the same.
    let shown = SKUS.map(|name| copies[0].shows(name));
    copies[0].run(add("spoon", 1, None));
    assert!(removals_of(&copies[0]).is_empty());
    assert_eq!(SKUS.map(|name| copies[0].shows(name)), shown);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]
    #[test]
    fn no_add_is_lost_and_nothing_removed_comes_back(steps in proptest::collection::vec(any_step(), 1..30)) {
        run_history(steps);
    }
}

#[test]
fn the_laws_of_merge_hold_for_carts() {
    let (mut a, mut b) = two();
    a.run(add("mug", 1, Some(1)));
    b.run(add("mug", 1, Some(1)));
    b.run(remove("mug", a.clock()));
    let (x, y) = (a.record.unwrap(), b.record.unwrap());
    assert_eq!(merge(&x, &y), merge(&y, &x));
    assert_eq!(Cart::of(&merge(&x, &y)).total_quantity(), 0);
}
