//! The bytes written out, and the laws that every scan relies on.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

fn id(bucket: &[u8], key: &[u8]) -> ObjectId {
    ObjectId::new(bucket.to_vec(), key.to_vec()).expect("the test names it within the limits")
}

fn within(range: &Range, key: &[u8]) -> bool {
    range.0.as_slice() <= key && range.1.as_deref().is_none_or(|end| key < end)
}

#[test]
fn the_bytes_of_every_key_are_what_the_table_says() {
    let object = id(b"carts", b"a\x00\xff");
    let target = NodeId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);
    assert_eq!(record_key(Partition(258), &object), b"\x01\x02\x05cartsa\x00\xff");
    assert_eq!(leaf_key(Partition(258), Slot(772), &object), b"\x01\x02\x03\x04\x05cartsa\x00\xff");
    assert_eq!(
        hint_key(target, Partition(258), &object),
        b"\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\x01\x02\x05cartsa\x00\xff"
    );
    assert_eq!(
        due_key(Wall(0x0102_0304_0506_0708), Partition(258), &object),
        b"\x01\x02\x03\x04\x05\x06\x07\x08\x01\x02\x05cartsa\x00\xff"
    );
    let aside = Bytes::from(aside_key(Partition(258), &object));
    assert_eq!(aside, &b"aside/\x01\x02\x05cartsa\x00\xff"[..]);
    assert_eq!(decode_aside_key(&aside), Ok((Partition(258), object.clone())));
    assert!(within(&asides(), &aside) && !within(&asides(), b"behind"));
    assert_eq!(
        [IDENTITY, VIEW, EPOCH_LEASE, EPOCH_BOOT, ASKED, UNSYNCED, CLOCK, BEHIND].join(&b" "[..]),
        b"identity view epoch_lease epoch_boot asked unsynced clock behind"
    );
}

#[test]
fn the_bytes_of_every_range_are_what_the_table_says() {
    let range = |start: &[u8], end: Option<&[u8]>| (start.to_vec(), end.map(<[u8]>::to_vec));
    assert_eq!(records_of_partition(Partition(0)), range(b"\x00\x00", Some(b"\x00\x01")));
    assert_eq!(records_of_partition(Partition(255)), range(b"\x00\xff", Some(b"\x01")));
    assert_eq!(records_of_partition(Partition(0xffff)), range(b"\xff\xff", None));
    assert_eq!(records_of_bucket(Partition(7), b"b", b""), range(b"\x00\x07\x01b", Some(b"\x00\x07\x01c")));
    assert_eq!(
        records_of_bucket(Partition(7), b"b", b"k\xff"),
        range(b"\x00\x07\x01bk\xff", Some(b"\x00\x07\x01bl"))
    );
    assert_eq!(hints_for(NodeId(0)), range(&[0; 16], Some(b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01")));
    assert_eq!(hints_for(NodeId(u128::MAX)), range(&[0xff; 16], None));
    assert_eq!(due_between(Wall(2), Wall(0xff)), range(b"\0\0\0\0\0\0\0\x02", Some(b"\0\0\0\0\0\0\x01\0")));
    assert_eq!(due_between(Wall(0), Wall(u64::MAX)), range(b"\0\0\0\0\0\0\0\0", None));
}

#[test]
fn a_key_that_was_cut_short_is_refused() {
    let record = Bytes::from(record_key(Partition(1), &id(b"bucket", b"k")));
    for len in 0..record.len() {
        let error = decode_record_key(&record.slice(..len)).expect_err("something is missing");
        let expected =
            if len == record.len() - 1 { KeyError::Name(NameError::KeyEmpty) } else { KeyError::Short(len) };
        assert_eq!(error, expected);
    }
    let hint = Bytes::from(hint_key(NodeId(1), Partition(1), &id(b"bucket", b"k")));
    for len in 0..hint.len() {
        assert!(decode_hint_key(&hint.slice(..len)).is_err(), "{len} bytes of a hint key are not one");
    }
}

#[test]
fn an_impossible_name_is_refused() {
    let decode = |bytes: &'static [u8]| decode_record_key(&Bytes::from_static(bytes));
    assert_eq!(decode(b"\x00\x01\x00k"), Err(KeyError::Name(NameError::Bucket(0))));
    let long = Bytes::from([&b"\x00\x01\x01b"[..], &[b'k'; 1025]].concat());
    assert_eq!(decode_record_key(&long), Err(KeyError::Name(NameError::KeyTooLarge(1025))));
    let aside = |bytes: &'static [u8]| decode_aside_key(&Bytes::from_static(bytes));
    assert_eq!(aside(b"identity"), Err(KeyError::Prefix));
    assert_eq!(aside(b"aside/\x00\x01\x00k"), Err(KeyError::Name(NameError::Bucket(0))));
}

/// Bytes from the corners of their range, so that neighbours and overflows are met often.
fn name(len_max: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![Just(0), Just(1), Just(b'a'), Just(0xfe), Just(0xff)], 1..=len_max)
}

fn partition() -> impl Strategy<Value = Partition> {
    prop_oneof![Just(0), Just(1), Just(255), Just(256), Just(4095), Just(0xffff)].prop_map(Partition)
}

fn target() -> impl Strategy<Value = NodeId> {
    prop_oneof![Just(0), Just(255), Just(256), Just(u128::MAX - 1), Just(u128::MAX), any::<u128>()]
        .prop_map(NodeId)
}

proptest! {
    #[test]
    fn what_was_encoded_reads_back(node in target(), p in partition(), slot in 0..SLOTS, b in vec(any::<u8>(), 1..=255), k in vec(any::<u8>(), 1..=1024)) {
        let object = id(&b, &k);
        prop_assert_eq!(decode_record_key(&record_key(p, &object).into()), Ok((p, object.clone())));
        prop_assert_eq!(decode_leaf_key(&leaf_key(p, Slot(slot), &object).into()), Ok((p, Slot(slot), object.clone())));
        prop_assert_eq!(decode_hint_key(&hint_key(node, p, &object).into()), Ok((node, p, object)));
    }

    #[test]
    fn any_bytes_decode_into_a_result_that_encodes_back(bytes in vec(any::<u8>(), 0..64)) {
        let bytes = Bytes::from(bytes);
        if let Ok((p, object)) = decode_record_key(&bytes) {
            prop_assert_eq!(record_key(p, &object), &bytes[..]);
        }
        if let Ok((p, slot, object)) = decode_leaf_key(&bytes) {
            prop_assert_eq!(leaf_key(p, slot, &object), &bytes[..]);
        }
        if let Ok((node, p, object)) = decode_hint_key(&bytes) {
            prop_assert_eq!(hint_key(node, p, &object), &bytes[..]);
        }
    }

    #[test]
    fn keys_of_a_bucket_are_in_key_order(p in partition(), b in name(3), k in name(4), l in name(4)) {
        prop_assert_eq!(record_key(p, &id(&b, &k)).cmp(&record_key(p, &id(&b, &l))), k.cmp(&l));
    }

    #[test]
    fn partitions_and_targets_are_in_order_of_their_numbers(
        m in target(), n in target(), p in partition(), q in partition(), b in name(2), c in name(2), k in name(2),
    ) {
        if p != q {
            prop_assert_eq!(record_key(p, &id(&b, &k)).cmp(&record_key(q, &id(&c, &k))), p.cmp(&q));
        }
        if m != n {
            prop_assert_eq!(hint_key(m, p, &id(&b, &k)).cmp(&hint_key(n, q, &id(&c, &k))), m.cmp(&n));
        }
    }

    #[test]
    fn a_range_holds_its_own_and_nothing_else(
        m in target(), n in target(), p in partition(), q in partition(), b in name(2), c in name(2), k in name(3), prefix in name(2), s in 254..258_u16, t in 254..258_u16,
    ) {
        let record = record_key(q, &id(&c, &k));
        prop_assert_eq!(within(&records_of_partition(p), &record), p == q);
        prop_assert_eq!(within(&records_of_bucket(p, &b, b""), &record), p == q && b == c);
        prop_assert_eq!(within(&records_of_bucket(p, &b, &prefix), &record), p == q && b == c && k.starts_with(&prefix));
        let leaf = leaf_key(q, Slot(t), &id(&c, &k));
        prop_assert_eq!(within(&leaves_of_partition(p), &leaf), p == q);
        prop_assert_eq!(within(&leaves_of_slot(p, Slot(s)), &leaf), p == q && s == t);
        prop_assert_eq!(within(&hints_for(m), &hint_key(n, q, &id(&c, &k))), m == n);
    }

    #[test]
    fn nothing_fits_between_a_key_and_what_is_after_it(k in name(3), l in name(4)) {
        prop_assert_eq!(k < l, after(&k) <= l);
    }
}
