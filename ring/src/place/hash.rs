//! From a name to a point on the ring, and from a point to a slice of it.
//!
//! Both functions are promises to the disk: a cluster that hashed differently after an upgrade would look for every
//! object in the wrong place. So the seeds and the layout of the hashed bytes are fixed for ever, and a test pins them.
//!
//! The bucket's length goes in front of the bucket, or `("ab", "c")` and `("a", "bc")` would be one point. The bytes
//! are gathered on the stack and hashed at once, because the streaming hasher carries a state of half a kilobyte that
//! costs more to set up than a typical key costs to hash.

use crate::ids::{BUCKET_BYTES_MAX, KEY_BYTES_MAX, NodeId, ObjectId, Partition, Position};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// How many slices a cluster's ring has unless it is told otherwise at birth.
pub const PARTITIONS_DEFAULT: u16 = 256;
/// The most slices a ring can have. 4,096 × 32 nodes in a walk × 16 bytes = 2 MiB for a table at worst.
pub const PARTITIONS_MAX: u16 = 4096;

/// "cartwhee" in ASCII. Fixed for ever.
const POSITION_SEED: u64 = 0x6361_7274_7768_6565;
/// "token" in ASCII. Fixed for ever.
const TOKEN_SEED: u64 = 0x0074_6f6b_656e;

/// Where an object stands on the ring.
pub fn position(id: &ObjectId) -> Position {
    let (bucket, key) = (id.bucket(), id.key());
    let length = u16::try_from(bucket.len()).expect("an ObjectId's bucket has at most 255 bytes");
    let key_at = 2 + bucket.len();
    let end = key_at + key.len();
    let mut bytes = [0; 2 + BUCKET_BYTES_MAX + KEY_BYTES_MAX];
    bytes[..2].copy_from_slice(&length.to_be_bytes());
    bytes[2..key_at].copy_from_slice(bucket);
    bytes[key_at..end].copy_from_slice(key);
    Position(xxh3_64_with_seed(&bytes[..end], POSITION_SEED))
}

/// The slice that a position falls into: its top bits.
pub fn partition(position: Position, partitions: u16) -> Partition {
    assert!(
        partitions_valid(partitions),
        "a ring has a power of two of slices up to 4,096, not {partitions}"
    );
    // A product instead of a shift, because a ring of one slice would shift by all 64 bits.
    let slice = (u128::from(position.0) * u128::from(partitions)) >> 64;
    Partition(u16::try_from(slice).expect("the high half of a product is below its factor"))
}

/// Whether a ring may have this many slices: a power of two, 1 to [`PARTITIONS_MAX`].
pub fn partitions_valid(partitions: u16) -> bool {
    partitions.is_power_of_two() && partitions <= PARTITIONS_MAX
}

/// Where a slice begins.
pub(crate) fn start(partition: Partition, partitions: u16) -> Position {
    let start = (u128::from(partition.0) << 64) / u128::from(partitions);
    Position(u64::try_from(start).expect("a slice's number is below the count of slices"))
}

/// Where the `index`th virtual node of `node` stands.
pub(crate) fn token(node: NodeId, index: u32) -> Position {
    let mut bytes = [0; 20];
    bytes[..16].copy_from_slice(&node.0.to_be_bytes());
    bytes[16..].copy_from_slice(&index.to_be_bytes());
    Position(xxh3_64_with_seed(&bytes, TOKEN_SEED))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(bucket: &str, key: &str) -> u64 {
        position(&ObjectId::new(bucket.to_owned(), key.to_owned()).unwrap()).0
    }

    #[test]
    fn positions_stay_where_they_are_for_ever() {
        // Computed by another implementation: python-xxhash, xxh3_64_intdigest(bytes, seed).
        assert_eq!(at("carts", "17850"), 0x76ba_55bd_95d1_6753);
        assert_eq!(at("b", "k"), 0x62a8_362a_a4d2_70f8);
        let longest = ObjectId::new(vec![0xff; 255], vec![0; 1024]).unwrap();
        assert_eq!(position(&longest).0, 0x83e9_e57d_3516_1c2f);
        assert_eq!(token(NodeId(1), 0).0, 0x785b_52de_c10e_5209);
    }

    #[test]
    fn the_border_between_bucket_and_key_counts() {
        assert_ne!(at("ab", "c"), at("a", "bc"));
    }

    #[test]
    fn a_slice_is_named_by_the_top_bits() {
        assert_eq!(partition(Position(0xabcd_0000_0000_0000), 256), Partition(0xab));
        assert_eq!(partition(Position(u64::MAX), 4096), Partition(0xfff));
        assert_eq!(partition(Position(u64::MAX), 1), Partition(0));
        assert_eq!(partition(Position(0), 2), Partition(0));
    }

    #[test]
    fn a_slice_begins_where_the_one_before_ends() {
        for partitions in [1, 2, 256, 4096] {
            for number in 0..partitions {
                let start = start(Partition(number), partitions);
                assert_eq!(partition(start, partitions), Partition(number));
                if number > 0 {
                    assert_eq!(partition(Position(start.0 - 1), partitions), Partition(number - 1));
                }
            }
        }
    }

    #[test]
    fn only_powers_of_two_make_a_ring() {
        assert!([1, 2, 256, 4096].into_iter().all(partitions_valid));
        assert!(![0, 3, 255, 8192].into_iter().any(partitions_valid));
    }

    #[test]
    fn keys_spread_over_all_slices() {
        let mut keys = [0u32; 256];
        for n in 0..100_000 {
            let id = ObjectId::new("carts", n.to_string()).unwrap();
            keys[usize::from(partition(position(&id), 256).0)] += 1;
        }
        // 390 on average, 20 the standard deviation: five of them either way.
        assert!(keys.iter().all(|&count| (290..=490).contains(&count)), "{keys:?}");
    }
}
