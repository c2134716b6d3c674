//! The context as a client carries it: opaque, signed, and bound to one bucket and key.
//!
//! ```text
//!   base64url(  version 2 | context | HMAC-SHA256(cluster key, "ctx1" ‖ bucket ‖ key ‖ version ‖ context)[..16]  )
//! ```
//!
//! A context is a claim to have seen writes, and a write with it makes them disappear: a forged or transplanted one would
//! delete what its bearer never saw. So it is refused, and neither taken as empty (which would turn an update into a
//! sibling) nor trusted.

use super::Context;
use crate::ids::ObjectId;
use crate::wire::bytes::{Reader, put_context, read_context};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;
use subtle::ConstantTimeEq;

const VERSION: u8 = 2;
const MAC_BYTES: usize = 16;
/// The most runs in a token: of at most 16 bytes each, and 27 for each actor. With few actors they take half of its room.
const RUNS_MAX: usize = 256;
/// The longest token that is looked at: request headers may have 16 KiB together.
pub const TOKEN_BYTES_MAX: usize = 12 << 10;

/// The key under which one cluster signs its tokens. Its first node makes it; joiners are handed it.
#[derive(Clone)]
pub struct TokenKey(Hmac<Sha256>);

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(..)")
    }
}

/// The token is damaged, forged, of another key or of another cluster; which of these is not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the context is damaged, or belongs to another key or cluster")]
pub struct TokenError;

impl TokenKey {
    /// Derives the signing key from the cluster's key.
    pub fn new(cluster_key: &[u8; 32]) -> Self {
        TokenKey(Hmac::new_from_slice(cluster_key).expect("HMAC takes keys of any length"))
    }

    fn mac(&self, id: &ObjectId, payload: &[u8]) -> [u8; MAC_BYTES] {
        let mut mac = self.0.clone();
        mac.update(b"ctx1");
        mac.update(&[id.bucket().len() as u8]);
        mac.update(id.bucket());
        mac.update(&(id.key().len() as u16).to_be_bytes());
        mac.update(id.key());
        mac.update(payload);
        let full = mac.finalize().into_bytes();
        let mut short = [0; MAC_BYTES];
        short.copy_from_slice(&full[..MAC_BYTES]);
        short
    }

    /// Seals a context of this key. One that is longer than a client could send back is shortened: then its bearer claims
    /// less than it has seen, so a later write of its own leaves more standing, and never less.
    pub fn seal(&self, id: &ObjectId, context: &Context) -> String {
        let mut runs_max = RUNS_MAX;
        loop {
            let mut bytes = vec![VERSION];
            put_context(&mut bytes, &context.shortened(runs_max));
            let mac = self.mac(id, &bytes);
            bytes.extend_from_slice(&mac);
            let token = URL_SAFE_NO_PAD.encode(bytes);
            if token.len() <= TOKEN_BYTES_MAX {
                return token;
            }
            // Many actors with great numbers. One run is far shorter than a token may be.
            runs_max /= 2;
        }
    }

    /// Opens a token that was sealed for this key of this cluster.
    pub fn open(&self, id: &ObjectId, token: &str) -> Result<Context, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError);
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| TokenError)?;
        let at = bytes.len().checked_sub(MAC_BYTES).ok_or(TokenError)?;
        let (payload, mac) = bytes.split_at(at);
        if !bool::from(self.mac(id, payload).ct_eq(mac)) {
            return Err(TokenError);
        }
        let mut input = Reader::new(Bytes::copy_from_slice(payload));
        match input.u8() {
            Ok(VERSION) => {}
            _ => return Err(TokenError),
        }
        let context = read_context(&mut input).map_err(|_| TokenError)?;
        input.end().map_err(|_| TokenError)?;
        Ok(context)
    }
}

#[cfg(test)]
mod tests;
