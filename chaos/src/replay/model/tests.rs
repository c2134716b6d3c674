//! The comparison has to find every planted fault, and nothing in a cart that is right.

use super::*;

fn event(sku: &str, quantity: i64) -> Event {
    Event { row: 1, cart: "c".to_owned(), sku: sku.to_owned(), quantity }
}

/// A cart with a: 6 − 1 = 5, b: 2, gone: 3 − 5 = −2.
fn cart() -> Cart {
    let mut model = Model::default();
    for (sku, quantity) in [("a", 6), ("b", 2), ("gone", 3), ("a", -1), ("gone", -5)] {
        model.acknowledged(&event(sku, quantity), 0);
    }
    model.into_carts().remove("c").unwrap()
}

fn shown(items: &[(&str, i64)], total_quantity: i64) -> Shown {
    let items = items
        .iter()
        .map(|(sku, quantity)| ShownItem { sku: (*sku).to_owned(), quantity: *quantity })
        .collect();
    Shown { items, total_quantity }
}

fn quantity(sku: &str, expected: i64, found: i64) -> Difference {
    Difference::Quantity { sku: sku.to_owned(), expected, found }
}

#[test]
fn an_item_that_was_returned_may_be_absent_or_zero() {
    assert_eq!(cart().differences(&shown(&[("a", 5), ("b", 2)], 7)), []);
    assert_eq!(cart().differences(&shown(&[("gone", 0), ("b", 2), ("a", 5)], 7)), []);
}

#[test]
fn every_planted_fault_is_found() {
    let check = |items: &[(&str, i64)], total: i64, expected: &[Difference]| {
        assert_eq!(cart().differences(&shown(items, total)), expected);
    };
    check(&[("a", 4), ("b", 2)], 7, &[quantity("a", 5, 4)]);
    check(&[("a", 5)], 7, &[quantity("b", 2, 0)]);
    check(&[("a", 5), ("b", 2), ("x", 1)], 7, &[quantity("x", 0, 1)]);
    check(&[("a", 5), ("b", 2), ("gone", -2)], 7, &[quantity("gone", 0, -2)]);
    check(&[("a", 5), ("b", 2)], 5, &[Difference::Total { expected: 7, found: 5 }]);
    check(&[("a", 5), ("a", 5), ("b", 2)], 7, &[Difference::Twice { sku: "a".to_owned() }]);
    check(&[], 0, &[quantity("a", 5, 0), quantity("b", 2, 0), Difference::Total { expected: 7, found: 0 }]);
}

#[test]
fn an_item_in_doubt_is_not_compared_and_its_neighbours_are() {
    let mut model = Model::default();
    model.acknowledged(&event("a", 1), 0);
    model.acknowledged(&event("b", 1), 0);
    model.unacknowledged(&event("a", 1));
    let cart = model.into_carts().remove("c").unwrap();
    assert_eq!(cart.differences(&shown(&[("a", 2), ("b", 1)], 3)), []);
    assert_eq!(cart.differences(&shown(&[("a", 2), ("b", 9)], 11)), [quantity("b", 1, 9)]);
}

#[test]
fn the_largest_cart_and_the_last_writer_are_known() {
    let mut model = Model::default();
    assert_eq!(model.largest(), None);
    assert_eq!(model.acknowledged(&event("a", 1), 0), 1);
    assert_eq!(model.acknowledged(&event("a", 1), 1), 1);
    assert_eq!(model.acknowledged(&event("b", 1), 2), 2);
    assert_eq!(model.largest(), Some(("c", 2)));
    assert_eq!(model.into_carts()["c"].last_writer, 2);
}

#[test]
fn a_cart_is_read_as_the_contract_writes_it() {
    let body = r#"{"id":"c","items":[{"sku":"a","quantity":5,"attributes":{"k":"v"}},{"sku":"b","quantity":2}],
                   "total_quantity":7,"context":"abc"}"#;
    assert_eq!(cart().differences(&serde_json::from_str(body).unwrap()), []);
    assert!(serde_json::from_str::<Shown>("{}").is_err(), "an answer without items is not an empty cart");
}
