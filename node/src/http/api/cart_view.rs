//! How a cart looks as JSON, written in one go: a cart may hold thousands of items, and a tree of values for each of
//! them would cost ten times what the text does.
//!
//! ```text
//!   {"id":"alice","items":[{"sku":"mug","quantity":2,"attributes":{}}],"total_quantity":2,"context":"…"}
//! ```

use super::reply::{write_name, write_text};
use bytes::Bytes;
use ring::cart::Cart;
use ring::record::Record;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

/// About what one item takes, for the first allocation.
const ITEM_BYTES: usize = 64;

/// The answer to `GET /v1/carts/{b}/{id}`.
pub(super) fn whole(id: &[u8], cart: &Cart, token: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(cart.items.len() * ITEM_BYTES + id.len() + token.len() + 128);
    out.push(b'{');
    write_name(&mut out, "id", id);
    out.push(b',');
    write_items(&mut out, cart);
    write_context(&mut out, token);
    out.push(b'}');
    out
}

/// The answer to `GET /v1/buckets/{b}/keys/{k}` where the key holds a cart.
pub(super) fn typed_value(record: &Record, token: &str) -> Vec<u8> {
    let cart = Cart::of(record);
    let mut out = Vec::with_capacity(cart.items.len() * ITEM_BYTES + token.len() + 128);
    out.extend_from_slice(br#"{"type":"cart","value":{"#);
    write_items(&mut out, &cart);
    out.push(b'}');
    write_context(&mut out, token);
    out.push(b'}');
    out
}

/// What the shop says about an item, as one object: the JSON objects in their order, a later name over an earlier one.
pub(super) fn merged_attributes(attributes: &[Bytes]) -> Bytes {
    match attributes {
        [] => Bytes::from_static(b"{}"),
        // It was checked and written by a node, but came over wires and disks: text that is none would break the rest.
        [one] if one.first() == Some(&b'{') && serde_json::from_slice::<IgnoredAny>(one).is_ok() => {
            one.clone()
        }
        many => {
            let mut all = Map::new();
            for one in many {
                all.extend(serde_json::from_slice::<Map<String, Value>>(one).unwrap_or_default());
            }
            Bytes::from(Value::Object(all).to_string())
        }
    }
}

fn write_items(out: &mut Vec<u8>, cart: &Cart) {
    out.extend_from_slice(br#""items":["#);
    for (at, (sku, item)) in cart.items.iter().enumerate() {
        out.extend_from_slice(if at == 0 { b"{" } else { b",{" });
        write_name(out, "sku", sku);
        out.extend_from_slice(br#","quantity":"#);
        out.extend_from_slice(item.quantity.to_string().as_bytes());
        out.extend_from_slice(br#","attributes":"#);
        out.extend_from_slice(&merged_attributes(&item.attributes));
        out.push(b'}');
    }
    out.extend_from_slice(br#"],"total_quantity":"#);
    out.extend_from_slice(cart.total_quantity().to_string().as_bytes());
}

fn write_context(out: &mut Vec<u8>, token: &str) {
    out.extend_from_slice(br#","context":"#);
    write_text(out, token);
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::cart::Item;

    fn item(quantity: u64, attributes: &[&'static str]) -> Item {
        Item { quantity, attributes: attributes.iter().map(|a| Bytes::from_static(a.as_bytes())).collect() }
    }

    fn shown(items: Vec<(&'static [u8], Item)>) -> String {
        let items = items.into_iter().map(|(sku, item)| (Bytes::from_static(sku), item)).collect();
        String::from_utf8(whole(b"alice", &Cart { items }, "t0k-en")).unwrap()
    }

    #[test]
    fn an_empty_cart_is_a_cart() {
        assert_eq!(shown(vec![]), r#"{"id":"alice","items":[],"total_quantity":0,"context":"t0k-en"}"#);
    }

    #[test]
    fn names_that_are_no_text_come_as_base64() {
        assert_eq!(
            shown(vec![(b"a\"b", item(2, &[])), (b"\xff", item(1, &[]))]),
            concat!(
                r#"{"id":"alice","items":[{"sku":"a\"b","quantity":2,"attributes":{}},"#,
                r#"{"sku_base64":"/w==","quantity":1,"attributes":{}}],"total_quantity":3,"context":"t0k-en"}"#
            )
        );
        assert!(whole(b"\xff", &Cart::default(), "").starts_with(br#"{"id_base64":"/w==","items":["#));
    }

    #[test]
    fn later_attributes_win_by_name() {
        let text = shown(vec![(b"a", item(1, &[r#"{"x":1,"y":1}"#, r#"{"y":2}"#]))]);
        let cart: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(cart["items"][0]["attributes"], serde_json::json!({"x": 1, "y": 2}));
    }

    #[test]
    fn broken_attributes_do_not_break_the_cart() {
        for broken in ["{", "7", "", "{}}"] {
            let text = shown(vec![(b"a", item(1, &[broken]))]);
            let cart: Value = serde_json::from_str(&text).expect(&text);
            assert_eq!(cart["items"][0]["attributes"], serde_json::json!({}), "{broken}");
        }
    }

    #[test]
    fn a_typed_value_names_its_type() {
        let value: Value = serde_json::from_slice(&typed_value(&Record::default(), "t")).unwrap();
        let empty = serde_json::json!({"items": [], "total_quantity": 0});
        assert_eq!(value, serde_json::json!({"type": "cart", "value": empty, "context": "t"}));
    }
}
