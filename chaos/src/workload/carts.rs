//! Carts (W2): items added, set and removed by several shoppers at once, with what they saw a moment or a while ago.
//!
//! ```text
//!   item g0.2   c0 adds 1, 2, 4, 8, 16   c1 adds 32, 64, …   shown as 37 = 1 + 4 + 32
//!   item b0.2   the same, but some take away: never removed, judged by its sum
//! ```
//!
//! A cart shows the sum of its adds. Each add to an item is another power of two, so the sum says which adds were seen, and a
//! lost, a doubled and a revived add are told apart. Five shoppers share an item, with five powers each; then they go on to
//! the next item.

use super::Plan;
use super::desk::{Desk, Done, Token};
use crate::history::Item;
use client::HttpTransport;
use rand::RngExt;
use std::collections::BTreeMap;

/// Shoppers that share an item, and powers that each of them has: 25 bits, well below the largest quantity of 10⁹.
const SHOPPERS: u32 = 5;
/// See [`SHOPPERS`].
const POWERS: u32 = 5;
/// One change of so many is looked at right away.
const LOOK_OF: u32 = 4;

pub(super) struct Carts {
    carts: u32,
    /// How often this client has used an item of a cart, removable or not.
    used: BTreeMap<(u32, bool), u32>,
    own: BTreeMap<u32, Token>,
    looks: BTreeMap<u32, (Token, Vec<Item>)>,
}

impl Carts {
    pub(super) fn new(plan: &Plan) -> Self {
        let (used, own, looks) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { carts: plan.keys.max(1), used, own, looks }
    }

    pub(super) async fn step<T: HttpTransport + Clone>(&mut self, desk: &mut Desk<T>) {
        let cart = desk.rng.random_range(0..self.carts);
        let key = format!("cart{cart}");
        let done = match desk.rng.random_range(0..20) {
            0..8 => {
                let (sku, quantity) = self.next(cart, desk.client, true);
                desk.add(&key, &sku, quantity).await
            }
            8..11 => {
                let (sku, quantity) = self.next(cart, desk.client, false);
                let takes = desk.once_in(2);
                desk.add(&key, &sku, if takes { -quantity } else { quantity }).await
            }
            11..14 => {
                self.look(desk, cart).await;
                return;
            }
            change => {
                let Some((token, items)) = self.a_look(desk, cart).await else { return };
                let removable: Vec<Item> =
                    items.into_iter().filter(|item| item.sku.starts_with('g')).collect();
                if change == 19 && cart == 0 {
                    desk.empty(&key, &token).await
                } else if removable.is_empty() {
                    return;
                } else if change < 17 {
                    let sku = &removable[desk.rng.random_range(0..removable.len())].sku;
                    desk.remove(&key, sku, &token).await
                } else {
                    let (sku, quantity) = self.next(cart, desk.client, true);
                    desk.set(&key, &sku, quantity, &token).await
                }
            }
        };
        let Done::Ok(Some(token)) = done else { return };
        if desk.once_in(LOOK_OF) {
            // Who has just changed a cart must see it changed; whether he does is in the history.
            let _ = desk.cart(&key, Some(&token)).await;
        }
        self.own.insert(cart, token);
    }

    /// The item and the quantity of this client's next add.
    fn next(&mut self, cart: u32, client: u32, removable: bool) -> (String, i64) {
        let used = self.used.entry((cart, removable)).or_default();
        let (line, power) = (*used / POWERS, client % SHOPPERS * POWERS + *used % POWERS);
        *used += 1;
        let letter = if removable { 'g' } else { 'b' };
        (format!("{letter}{}.{line}", client / SHOPPERS), 1 << power)
    }

    /// What the cart looks like, or looked like when it was read last.
    async fn a_look<T: HttpTransport + Clone>(
        &mut self,
        desk: &mut Desk<T>,
        cart: u32,
    ) -> Option<(Token, Vec<Item>)> {
        if desk.once_in(2) {
            self.look(desk, cart).await;
        }
        self.looks.get(&cart).cloned()
    }

    async fn look<T: HttpTransport + Clone>(&mut self, desk: &mut Desk<T>, cart: u32) {
        let min = if desk.once_in(2) { self.own.get(&cart).cloned() } else { None };
        let Ok(seen) = desk.cart(&format!("cart{cart}"), min.as_ref()).await else { return };
        if let Some(token) = seen.token {
            self.looks.insert(cart, (token, seen.items));
        }
    }
}
