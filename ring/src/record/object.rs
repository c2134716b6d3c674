//! A record read as an object: opaque values, of which concurrent ones stand side by side.

use super::content::{Content, Object};
use super::{Record, Sibling};
use crate::causal::{Context, Dot};
use crate::time::Wall;
use std::borrow::Cow;

/// One visible version.
#[derive(Clone, Copy, Debug)]
pub struct Version<'a> {
    /// The write that made it.
    pub dot: Dot,
    /// The value.
    pub object: &'a Object,
}

impl Record {
    /// The values that are there at this instant: neither deleted nor expired.
    pub fn versions(&self, now: Wall) -> impl Iterator<Item = Version<'_>> {
        self.siblings.iter().filter_map(move |s| match &s.content {
            Content::Object(object) if object.expires_at.is_none_or(|at| now < at) => {
                Some(Version { dot: s.dot, object })
            }
            _ => None,
        })
    }

    /// The deletions that are still remembered.
    pub fn tombstones(&self) -> impl Iterator<Item = (Dot, Wall)> {
        self.siblings.iter().filter_map(|s| match s.content {
            Content::Tombstone { deleted } => Some((s.dot, deleted)),
            _ => None,
        })
    }

    /// The deletions and expiries that are still remembered and hide nothing from anybody.
    pub fn markers(&self) -> impl Iterator<Item = Dot> {
        let is_marker = |c: &Content| matches!(c, Content::Tombstone { .. } | Content::Expired { .. });
        self.siblings.iter().filter(move |s| is_marker(&s.content)).map(|s| s.dot)
    }

    /// Whether there was a value whose time is over at this instant.
    pub fn has_expired(&self, now: Wall) -> bool {
        self.siblings.iter().any(|s| match &s.content {
            Content::Expired { .. } => true,
            content => content.expires_at().is_some_and(|at| at <= now),
        })
    }

    /// What a reader of the values has seen. In a bucket without a type one client may write a value where another, at
    /// the same time and elsewhere, adds to a cart; each of them sees its own kind, and supersedes only that.
    pub fn seen_as_object(&self) -> Cow<'_, Context> {
        if self.is_cart() {
            Cow::Owned(self.seen_without(|s| s.content.is_cart()))
        } else {
            Cow::Borrowed(&self.clock)
        }
    }

    /// What a reader of the cart has seen.
    pub fn seen_as_cart(&self) -> Cow<'_, Context> {
        if self.is_object() {
            Cow::Owned(self.seen_without(|s| !s.content.is_cart()))
        } else {
            Cow::Borrowed(&self.clock)
        }
    }

    fn seen_without(&self, hidden: impl Fn(&Sibling) -> bool) -> Context {
        self.clock.without(self.siblings.iter().filter(|s| hidden(s)).map(|s| s.dot))
    }

    /// Whether it is a cart and nothing else at this instant, so that it takes no values.
    pub fn is_only_cart(&self, now: Wall) -> bool {
        self.is_cart() && self.versions(now).next().is_none()
    }

    /// Whether it shows values and nothing of a cart, so that it takes no items.
    pub fn is_only_object(&self, now: Wall) -> bool {
        !self.is_cart() && self.versions(now).next().is_some()
    }

    /// Whether anything of a cart is in it.
    pub fn is_cart(&self) -> bool {
        self.siblings.iter().any(|s| s.content.is_cart())
    }

    /// Whether any object or tombstone is in it.
    pub fn is_object(&self) -> bool {
        self.siblings.iter().any(|s| !s.content.is_cart())
    }
}

/// The tag of one version: it changes with every write and is the same on every replica.
pub fn etag(dots: impl IntoIterator<Item = Dot>) -> String {
    let mut bytes = Vec::with_capacity(64);
    for dot in dots {
        bytes.extend_from_slice(&dot.actor.node.0.to_be_bytes());
        bytes.extend_from_slice(&dot.actor.epoch.to_be_bytes());
        bytes.extend_from_slice(&dot.count.to_be_bytes());
    }
    format!("\"{:016x}\"", xxhash_rust::xxh3::xxh3_64(&bytes))
}

/// The tag of all that a reader sees: of the visible versions together.
pub fn etag_of(siblings: &[Sibling]) -> String {
    etag(siblings.iter().map(|s| s.dot))
}
