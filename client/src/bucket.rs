//! Buckets: their names, their settings, and the keys in them.
//!
//! Settings are sent as a change: a field that is `None` is left as it is (`PATCH`), or goes back to the cluster's
//! default (`PUT`). What this client does not know yet is kept in `rest`, so that an older client shows it all.

use crate::call::{Call, Client};
use crate::error::Result;
use crate::object::{BASE64, Quorum};
use crate::path::Target;
use crate::retry::Repeat;
use crate::transport::{HttpTransport, Method};
use base64::Engine as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The settings of a bucket, contract section 5.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Settings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r: Option<Quorum>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub w: Option<Quorum>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pr: Option<Quorum>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pw: Option<Quorum>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dw: Option<Quorum>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sloppy: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_siblings: Option<u32>,
    /// `siblings`, `supersede` or `reject`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blind_writes: Option<String>,
    /// `fsync` or `os`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub durability: Option<String>,
    /// `object`, `counter`, `set`, `map` or `cart`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Everything else that a node says about the bucket.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// Which keys to list.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Keys that start with these bytes.
    pub prefix: Option<Vec<u8>>,
    /// From this key on.
    pub start: Option<Vec<u8>>,
    /// Up to this key.
    pub end: Option<Vec<u8>>,
    /// At most that many in a page.
    pub limit: Option<u32>,
    /// Where the page before ended.
    pub cursor: Option<String>,
    /// From the last to the first.
    pub reverse: bool,
    /// Go on without the parts of the ring that can't be read.
    pub partial: bool,
}

/// A page of names, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyPage {
    /// The names, as bytes.
    pub keys: Vec<Vec<u8>>,
    /// Where the next page starts, if there is one.
    pub cursor: Option<String>,
}

impl<T: HttpTransport> Client<T> {
    /// Lists one page of the keys of a bucket.
    pub async fn keys(&self, bucket: impl AsRef<[u8]>, options: &ListOptions) -> Result<KeyPage> {
        let target = Target::at("/v1/buckets").segment(bucket.as_ref()).then("keys");
        self.page(target, options, "key").await
    }

    /// Lists one page of the buckets.
    pub async fn buckets(&self, options: &ListOptions) -> Result<KeyPage> {
        self.page(Target::at("/v1/buckets"), options, "bucket").await
    }

    /// The settings of a bucket. One that nobody configured has the cluster's defaults.
    pub async fn settings(&self, bucket: impl AsRef<[u8]>) -> Result<Settings> {
        self.send(Call::get(bucket_target(bucket.as_ref()))).await?.json()
    }

    /// Replaces the settings of a bucket; what is not given goes back to the default.
    pub async fn put_settings(&self, bucket: impl AsRef<[u8]>, settings: &Settings) -> Result<()> {
        self.change_settings(Method::Put, bucket.as_ref(), settings).await
    }

    /// Changes some settings of a bucket; what is not given stays.
    pub async fn patch_settings(&self, bucket: impl AsRef<[u8]>, settings: &Settings) -> Result<()> {
        self.change_settings(Method::Patch, bucket.as_ref(), settings).await
    }

    async fn change_settings(&self, method: Method, bucket: &[u8], settings: &Settings) -> Result<()> {
        let body = serde_json::to_value(settings).expect("settings are names, numbers and text");
        // Repeating it could undo what somebody else has set in between.
        self.send(Call::new(method, bucket_target(bucket), Repeat::Counts).json(&body)).await?;
        Ok(())
    }

    async fn page(&self, target: Target, options: &ListOptions, name: &str) -> Result<KeyPage> {
        #[derive(Deserialize)]
        struct Page {
            items: Vec<Value>,
            cursor: Option<String>,
        }
        let answer = self.send(Call::get(listing(target, options))).await?;
        let page: Page = answer.json()?;
        // A page that leads to itself would be listed for ever.
        if page.cursor.is_some() && page.cursor == options.cursor {
            return Err(answer.unreadable("the cursor does not move on"));
        }
        let keys: Option<Vec<Vec<u8>>> = page.items.iter().map(|item| name_of(item, name)).collect();
        let keys = keys.ok_or_else(|| answer.unreadable(format!("an item without `{name}`")))?;
        Ok(KeyPage { keys, cursor: page.cursor })
    }
}

fn bucket_target(bucket: &[u8]) -> Target {
    Target::at("/v1/buckets").segment(bucket)
}

fn listing(mut target: Target, options: &ListOptions) -> Target {
    let bounds = [("prefix", &options.prefix), ("start", &options.start), ("end", &options.end)];
    for (name, bound) in bounds {
        if let Some(bytes) = bound {
            target = target.query(name, bytes);
        }
    }
    target
        .query_if("limit", options.limit)
        .query_if("cursor", options.cursor.as_ref())
        .query_if("reverse", options.reverse.then_some(true))
        .query_if("partial", options.partial.then_some(true))
}

/// A name is text, or base64 under a name of its own where it is not UTF-8.
fn name_of(item: &Value, name: &str) -> Option<Vec<u8>> {
    if let Some(text) = item.as_str() {
        return Some(text.as_bytes().to_vec());
    }
    if let Some(text) = item.get(name).and_then(Value::as_str) {
        return Some(text.as_bytes().to_vec());
    }
    BASE64.decode(item.get(format!("{name}_base64"))?.as_str()?).ok()
}
