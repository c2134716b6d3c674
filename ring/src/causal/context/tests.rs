//! A context against the plain set of dots that it stands for.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

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
    assert!(context.vector().windows(2).all(|p| p[0].0 < p[1].0), "{context:?}");
    assert!(context.cloud().windows(2).all(|p| p[0] < p[1]), "{context:?}");
    assert!(context.vector().iter().all(|(_, n)| *n > 0), "{context:?}");
    for dot in context.cloud() {
        assert!(
            dot.count > context.vector_count(dot.actor) + 1,
            "{dot:?} belongs into the vector of {context:?}"
        );
    }
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
    fn dots_may_come_one_by_one_or_in_parts(a in any_dots(), n in 0..4_u64) {
        let mut one_by_one = Context::new();
        a.iter().for_each(|dot| one_by_one.insert(*dot));
        prop_assert_eq!(&one_by_one, &Context::of_dots(a.clone()));
        let mut raised = one_by_one.clone();
        (1..=n).for_each(|count| raised.insert(dot(0, count)));
        prop_assert_eq!(Context::from_parts(vec![(dot(0, 1).actor, n)], a), raised);
    }
}

#[test]
fn the_cloud_folds_as_soon_as_the_gap_is_closed() {
    let mut context = Context::of_dots([dot(0, 1), dot(0, 3), dot(0, 4)]);
    assert_eq!(context.vector(), [(dot(0, 1).actor, 1)]);
    assert_eq!(context.cloud(), [dot(0, 3), dot(0, 4)]);
    context.insert(dot(0, 2));
    assert_eq!(context.vector(), [(dot(0, 1).actor, 4)]);
    assert!(context.cloud().is_empty());
}
