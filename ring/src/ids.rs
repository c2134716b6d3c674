//! The names of things: newtypes, so that a partition can't be taken for a position by accident.
//!
//! A [`NodeId`] is drawn at random when a data directory is made and never configured by hand: a wiped disk is a
//! new node, and no address, host name or file copy can make two machines claim the same history.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The identity of a data directory: 128 random bits, written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u128);

/// The identity of a cluster, drawn by its first node and handed to everybody who joins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub u128);

/// One of the fixed slices of the ring. Its number never changes while the cluster lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Partition(pub u16);

/// A point on the ring: the 64-bit hash of a bucket and key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Position(pub u64);

/// Which failure domain a node stands in. Replicas prefer distinct zones.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Zone(pub String);

/// The longest bucket name, in bytes.
pub const BUCKET_BYTES_MAX: usize = 255;
/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;

/// A bucket and a key: any octets, within the limits of [`ObjectId::new`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct ObjectId {
    bucket: Bytes,
    key: Bytes,
}

/// What a peer says is an [`ObjectId`]: its lengths are looked at before anybody relies on them.
#[derive(Deserialize)]
struct Unchecked {
    bucket: Bytes,
    key: Bytes,
}

impl TryFrom<Unchecked> for ObjectId {
    type Error = NameError;
    fn try_from(id: Unchecked) -> Result<Self, NameError> {
        ObjectId::new(id.bucket, id.key)
    }
}

/// Why a bucket or a key can't be used. Nothing was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The bucket is empty or longer than [`BUCKET_BYTES_MAX`].
    #[error("a bucket has 1 to 255 bytes, this one has {0}")]
    Bucket(usize),
    /// The key is empty.
    #[error("a key has 1 to 1024 bytes, this one has 0")]
    KeyEmpty,
    /// The key is longer than [`KEY_BYTES_MAX`].
    #[error("a key has 1 to 1024 bytes, this one has {0}")]
    KeyTooLarge(usize),
}

impl ObjectId {
    /// Checks both lengths once; afterwards nobody checks again.
    pub fn new(bucket: impl Into<Bytes>, key: impl Into<Bytes>) -> Result<Self, NameError> {
        let (bucket, key) = (bucket.into(), key.into());
        check_bucket(&bucket)?;
        match key.len() {
            0 => Err(NameError::KeyEmpty),
            n if n > KEY_BYTES_MAX => Err(NameError::KeyTooLarge(n)),
            _ => Ok(ObjectId { bucket, key }),
        }
    }

    /// The bucket's name.
    pub fn bucket(&self) -> &Bytes {
        &self.bucket
    }

    /// The key within the bucket.
    pub fn key(&self) -> &Bytes {
        &self.key
    }
}

/// Whether these bytes may name a bucket.
pub fn check_bucket(bucket: &[u8]) -> Result<(), NameError> {
    if bucket.is_empty() || bucket.len() > BUCKET_BYTES_MAX {
        Err(NameError::Bucket(bucket.len()))
    } else {
        Ok(())
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.bucket.escape_ascii(), self.key.escape_ascii())
    }
}

/// The text was not 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id is 32 hexadecimal digits")]
pub struct ParseIdError;

fn parse_hex(text: &str) -> Result<u128, ParseIdError> {
    if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(ParseIdError);
    }
    u128::from_str_radix(text, 16).map_err(|_| ParseIdError)
}

macro_rules! hex_id {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:08x}", self.0 >> 96)
            }
        }
        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_hex(text).map($name)
            }
        }
    };
}
hex_id!(NodeId);
hex_id!(ClusterId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_what_it_prints() {
        let id = NodeId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("+123456789abcdef0123456789abcdef0".parse::<NodeId>(), Err(ParseIdError));
        assert_eq!("12".parse::<NodeId>(), Err(ParseIdError));
    }

    #[test]
    fn names_have_limits() {
        assert_eq!(ObjectId::new("", "k"), Err(NameError::Bucket(0)));
        assert_eq!(ObjectId::new(vec![b'b'; 256], "k"), Err(NameError::Bucket(256)));
        assert_eq!(ObjectId::new("b", ""), Err(NameError::KeyEmpty));
        assert_eq!(ObjectId::new("b", vec![b'k'; 1025]), Err(NameError::KeyTooLarge(1025)));
        assert!(ObjectId::new(vec![0xff; 255], vec![0; 1024]).is_ok());
    }

    #[test]
    fn a_peer_can_not_say_a_name_beyond_the_limits() {
        let said = |bucket: usize, key: usize| {
            let parts = (Bytes::from(vec![b'b'; bucket]), Bytes::from(vec![b'k'; key]));
            postcard::from_bytes::<ObjectId>(&postcard::to_stdvec(&parts).unwrap())
        };
        assert_eq!(said(1, 1), Ok(ObjectId::new("b", "k").unwrap()));
        for (bucket, key) in [(0, 1), (256, 1), (1, 0), (1, 1025)] {
            assert!(said(bucket, key).is_err(), "{bucket} {key}");
        }
    }
}
