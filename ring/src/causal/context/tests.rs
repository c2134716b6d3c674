//! A context against the plain set of dots that it stands for.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn dot(actor: u8, count: u64) -> Dot {
    Dot { actor: Actor { node: NodeId(u128::from(actor / 2)), epoch: u64::from(actor % 2) + 1 }, count }
}

fn any_dots() -> impl Strategy<Value = Vec<Dot>> {
    proptest::collection::vec((0..4_u8, 1..6_u64).prop_map(|(actor, count)| dot(actor, count)), 0..14)
}

fn set(dots: &[Dot]) -> BTreeSet<Dot> {
    dots.iter().copied().collect()
}

fn universe() -> impl Iterator<Item = Dot> {
    (0..4).flat_map(|actor| (1..8).map(move |count| dot(actor, count)))
}

/// The form that two equal sets share: no gap that could be closed, everything sorted, nothing twice.
fn assert_folded(context: &Context) {
    let apart = |p: &[Run]| (p[0].actor, p[0].last + 1) < (p[1].actor, p[1].first);
    assert!(context.runs().windows(2).all(apart), "{context:?}");
    assert!(context.runs().iter().all(|r| 0 < r.first && r.first <= r.last), "{context:?}");
}

proptest! {
    #[test]
    fn it_is_the_set_of_its_dots(a in any_dots(), b in any_dots()) {
        let (x, y) = (Context::of_dots(a.clone()), Context::of_dots(b.clone()));
        let (a, b) = (set(&a), set(&b));
        assert_folded(&x);
        for dot in universe() {
            prop_assert_eq!(x.has(&dot), a.contains(&dot), "{:?} {:?}", dot, x);
        }
        prop_assert_eq!(x.covers(&y), a.is_superset(&b));
        prop_assert_eq!(x == y, a == b);
        prop_assert_eq!(x.is_empty(), a.is_empty());
        for of in universe() {
            let top = a.iter().filter(|d| d.actor == of.actor).map(|d| d.count).max();
            prop_assert_eq!(x.top(of.actor), top.unwrap_or(0));
            let newest = a.iter().filter(|d| d.actor.node == of.actor.node).map(|d| (d.actor.epoch, d.count)).max();
            prop_assert_eq!(x.newest_of(of.actor.node), newest);
        }
    }

    #[test]
    fn joining_is_the_union(a in any_dots(), b in any_dots(), c in any_dots()) {
        let [x, y, z] = [&a, &b, &c].map(|dots| Context::of_dots(dots.iter().copied()));
        let join = |x: &Context, y: &Context| { let mut both = x.clone(); both.join(y); both };
        let xy = join(&x, &y);
        assert_folded(&xy);
        prop_assert_eq!(&xy, &Context::of_dots(set(&a).union(&set(&b)).copied()));
        prop_assert_eq!(&xy, &join(&y, &x));
        prop_assert_eq!(join(&xy, &z), join(&x, &join(&y, &z)));
        prop_assert_eq!(join(&x, &x), x.clone());
        prop_assert!(xy.covers(&x) && xy.covers(&y));
    }

    #[test]
    fn dots_may_come_one_by_one_or_in_runs(a in any_dots(), first in 1..5_u64, more in 0..4_u64) {
        let mut one_by_one = Context::new();
        a.iter().for_each(|dot| one_by_one.insert(*dot));
        prop_assert_eq!(&one_by_one, &Context::of_dots(a.clone()));
        (first..=first + more).for_each(|count| one_by_one.insert(dot(0, count)));
        let run = Run { actor: dot(0, 1).actor, first, last: first + more };
        let runs = a.iter().map(|d| Run { actor: d.actor, first: d.count, last: d.count }).chain([run]);
        prop_assert_eq!(Context::of_runs(runs), one_by_one);
    }

    #[test]
    fn without_takes_away_just_these(a in any_dots(), b in any_dots()) {
        let (a, b) = (set(&a), set(&b));
        let rest = Context::of_dots(a.iter().copied()).without(b.iter().copied());
        assert_folded(&rest);
        prop_assert_eq!(rest, Context::of_dots(a.difference(&b).copied()));
    }

    #[test]
    fn a_shortened_one_says_less_and_keeps_the_newest(a in any_dots(), runs_max in 1..6_usize) {
        let whole = Context::of_dots(a.clone());
        let short = whole.shortened(runs_max);
        assert_folded(&short);
        prop_assert!(whole.covers(&short));
        let latest: BTreeMap<_, _> = a.iter().map(|d| (d.actor.node, d.actor)).collect::<BTreeSet<_>>().into_iter().collect();
        prop_assert!(short.runs().len() <= runs_max, "{:?}", short);
        prop_assert!(whole.runs().len() > runs_max || short == whole);
        for actor in latest.values().filter(|_| latest.len() <= runs_max) {
            prop_assert_eq!(short.top(*actor), whole.top(*actor));
        }
    }
}

#[test]
fn runs_join_as_soon_as_the_gap_is_closed() {
    let run = |first, last| Run { actor: dot(0, 1).actor, first, last };
    let mut context = Context::of_dots([dot(0, 1), dot(0, 3), dot(0, 4)]);
    assert_eq!(context.runs(), [run(1, 1), run(3, 4)]);
    context.insert(dot(0, 2));
    assert_eq!(context.runs(), [run(1, 4)]);
}

#[test]
fn the_longest_runs_are_kept() {
    let single = |count: u64| dot(0, 2 * count);
    let mut whole = Context::of_dots((50..1_000).map(single));
    whole.join(&Context::of_dots((1..80).map(|count| dot(0, count))));
    let short = whole.shortened(10);
    assert_eq!(short.runs().len(), 10);
    assert!(short.has(&dot(0, 1)) && short.has(&single(999)) && !short.has(&single(500)));
}
