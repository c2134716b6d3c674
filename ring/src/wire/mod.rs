//! Bytes: the codec of records and contexts, and the messages of peers.

pub mod bytes;
pub mod peer;

pub mod record;
