//! Carts: sets of items with quantities, merged by the server.
//!
//! A change by a quantity would count twice if it were sent twice. With an `op_id` the server counts it once, so only
//! then does the client repeat it after a silence. [`fresh_op_id`] makes one up; a caller who wants to go on after a
//! crash of its own keeps it beside the order it belongs to.

use crate::call::{Call, Client};
use crate::error::Result;
use crate::object::{Context, ReadOptions, Written, read_call, written};
use crate::path::Target;
use crate::retry::Repeat;
use crate::transport::{HttpTransport, Method};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::hash::{BuildHasher, RandomState};

/// A cart as read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cart {
    /// Its name; empty where it is not UTF-8.
    #[serde(default)]
    pub id: String,
    /// What is in it.
    pub items: Vec<CartItem>,
    /// The sum of the quantities.
    pub total_quantity: i64,
    /// What was seen. A removal removes no more than this.
    pub context: Option<Context>,
}

/// One item of a cart.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CartItem {
    /// What it is.
    pub sku: String,
    /// How many.
    pub quantity: i64,
    /// Whatever the shop keeps with it.
    #[serde(default)]
    pub attributes: Map<String, Value>,
}

/// A change of the quantity of one item.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ItemChange {
    /// What it is.
    pub sku: String,
    /// How many more, or, below 0, fewer.
    pub quantity: i64,
    /// Attributes to set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Map<String, Value>>,
    /// Makes a repetition count once; 64 bytes at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub op_id: Option<String>,
}

impl<T: HttpTransport> Client<T> {
    /// Reads a cart.
    pub async fn cart(&self, bucket: impl AsRef<[u8]>, id: impl AsRef<[u8]>) -> Result<Cart> {
        self.cart_read(bucket, id, &ReadOptions::default()).await
    }

    /// Reads a cart in some other way than the usual.
    pub async fn cart_read(
        &self,
        bucket: impl AsRef<[u8]>,
        id: impl AsRef<[u8]>,
        options: &ReadOptions,
    ) -> Result<Cart> {
        let target = cart_target(bucket.as_ref(), id.as_ref());
        self.send(read_call(target, options)).await?.json()
    }

    /// Changes the quantity of an item.
    pub async fn cart_add(
        &self,
        bucket: impl AsRef<[u8]>,
        id: impl AsRef<[u8]>,
        change: &ItemChange,
    ) -> Result<Written> {
        let target = cart_target(bucket.as_ref(), id.as_ref()).then("items");
        let body = serde_json::to_value(change).expect("a change is text and numbers");
        self.change_cart(Call::new(Method::Post, target, once(change.op_id.as_deref())).json(&body)).await
    }

    /// Sets the quantity of an item.
    pub async fn cart_set(
        &self,
        bucket: impl AsRef<[u8]>,
        id: impl AsRef<[u8]>,
        sku: &str,
        quantity: u64,
        op_id: Option<&str>,
    ) -> Result<Written> {
        let target = item_target(bucket.as_ref(), id.as_ref(), sku);
        let mut body = json!({ "quantity": quantity });
        if let Some(op_id) = op_id {
            body["op_id"] = op_id.into();
        }
        self.change_cart(Call::new(Method::Put, target, once(op_id)).json(&body)).await
    }

    /// Replaces what the context has seen of an item by this quantity. Not repeated after a silence: the second try would
    /// not have seen what the first one set.
    pub async fn cart_replace(
        &self,
        bucket: impl AsRef<[u8]>,
        id: impl AsRef<[u8]>,
        sku: &str,
        quantity: u64,
        context: &Context,
    ) -> Result<Written> {
        let target = item_target(bucket.as_ref(), id.as_ref(), sku);
        let call = Call::new(Method::Put, target, Repeat::Counts).json(&json!({ "quantity": quantity }));
        self.change_cart(call.header("cartwheel-context", context.0.clone())).await
    }

    /// Removes what the context has seen of an item.
    pub async fn cart_remove(
        &self,
        bucket: impl AsRef<[u8]>,
        id: impl AsRef<[u8]>,
        sku: &str,
        context: &Context,
    ) -> Result<Written> {
        let target = item_target(bucket.as_ref(), id.as_ref(), sku);
        let call = Call::new(Method::Delete, target, Repeat::Harmless);
        self.change_cart(call.header("cartwheel-context", context.0.clone())).await
    }

    /// Moves another cart of the bucket into this one, once however often it is repeated.
    pub async fn cart_merge(
        &self,
        bucket: impl AsRef<[u8]>,
        id: impl AsRef<[u8]>,
        from: &str,
    ) -> Result<Written> {
        let target = cart_target(bucket.as_ref(), id.as_ref()).then("merge");
        self.change_cart(Call::new(Method::Post, target, Repeat::Harmless).json(&json!({ "from": from })))
            .await
    }

    /// Removes everything that the context has seen, or, without one, what the node sees at that moment.
    pub async fn cart_empty(
        &self,
        bucket: impl AsRef<[u8]>,
        id: impl AsRef<[u8]>,
        context: Option<&Context>,
    ) -> Result<Written> {
        let target = cart_target(bucket.as_ref(), id.as_ref());
        let call = match context {
            Some(context) => Call::new(Method::Delete, target, Repeat::Harmless)
                .header("cartwheel-context", context.0.clone()),
            None => Call::new(Method::Delete, target, Repeat::Counts),
        };
        self.change_cart(call).await
    }

    async fn change_cart(&self, call: Call) -> Result<Written> {
        #[derive(Deserialize)]
        struct Body {
            context: Option<Context>,
        }
        let answer = self.send(call).await?;
        let mut done = written(&answer)?;
        if done.context.is_none() {
            // The change is done whatever its body says, so a body without a context is no error.
            done.context = answer.json::<Body>().ok().and_then(|body| body.context);
        }
        Ok(done)
    }
}

/// An `op_id` that no other will equal: 128 bits from the keys that std draws for its hash maps.
pub fn fresh_op_id() -> String {
    let bits = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", bits(), bits())
}

fn cart_target(bucket: &[u8], id: &[u8]) -> Target {
    Target::at("/v1/carts").segment(bucket).segment(id)
}

fn item_target(bucket: &[u8], id: &[u8], sku: &str) -> Target {
    cart_target(bucket, id).then("items").segment(sku.as_bytes())
}

fn once(op_id: Option<&str>) -> Repeat {
    if op_id.is_some() { Repeat::Harmless } else { Repeat::Counts }
}
