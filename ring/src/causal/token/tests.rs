//! A token opens for the key that it was sealed for, and whatever was done to it is refused.

use super::*;
use crate::causal::{Actor, COUNT_MAX, Dot};
use crate::ids::NodeId;
use proptest::prelude::*;

fn key() -> TokenKey {
    TokenKey::new(&[7; 32])
}

fn id() -> ObjectId {
    ObjectId::new("carts", "anna").unwrap()
}

fn context() -> Context {
    let dot = |node, count| Dot { actor: Actor { node: NodeId(node), epoch: 3 }, count };
    Context::of_dots([dot(1, 1), dot(1, 2), dot(2, 1), dot(2, 9)])
}

#[test]
fn it_opens_what_it_sealed() {
    let token = key().seal(&id(), &context());
    assert_eq!(key().open(&id(), &token), Ok(context()));
    assert_eq!(key().open(&id(), &key().seal(&id(), &Context::new())), Ok(Context::new()));
}

#[test]
fn its_bytes_are_pinned() {
    assert_eq!(
        key().seal(&id(), &context()),
        "AgIAAAAAAAAAAAAAAAAAAAABAwAAAAAAAAAAAAAAAAAAAAIDAwAAAQEAAAEIAK1Y_DVOYrXf4wH_ftlKhhw"
    );
}

#[test]
fn another_key_bucket_or_cluster_does_not_open_it() {
    let token = key().seal(&id(), &context());
    for (bucket, name) in [("carts", "ann"), ("cart", "sanna"), ("cart", "anna"), ("cartsa", "nna")] {
        let other = ObjectId::new(bucket, name).unwrap();
        assert_eq!(key().open(&other, &token), Err(TokenError), "{other:?}");
    }
    assert_eq!(TokenKey::new(&[8; 32]).open(&id(), &token), Err(TokenError));
}

#[test]
fn one_that_is_too_long_to_carry_says_less_and_still_opens() {
    let actor = |n: u64| Actor { node: NodeId(u128::from(n)), epoch: u64::MAX };
    let gaps = Context::of_dots((1..100_000).map(|n| Dot { actor: actor(n % 3), count: COUNT_MAX - 2 * n }));
    let token = key().seal(&id(), &gaps);
    assert!(token.len() < TOKEN_BYTES_MAX / 2, "{} bytes", token.len());
    let opened = key().open(&id(), &token).unwrap();
    assert_eq!(opened.runs().len(), RUNS_MAX);
    assert!(gaps.covers(&opened));
}

/// Of a key that is changed after each of a thousand starts at which nobody could say whether the disk has forgotten anything.
#[test]
fn one_of_a_node_that_often_began_anew_still_opens_and_knows_its_latest_writes() {
    let dot = |epoch: u64| Dot {
        actor: Actor { node: NodeId(u128::MAX), epoch: u64::MAX - 1_000 + epoch },
        count: 2,
    };
    let all = Context::of_dots((0..1_000).map(dot));
    let token = key().seal(&id(), &all);
    let opened = key().open(&id(), &token).unwrap();
    assert!(all.covers(&opened) && opened.runs().len() == RUNS_MAX);
    assert!(opened.has(&dot(999)) && opened.has(&dot(800)) && !opened.has(&dot(0)));
}

#[test]
fn every_flipped_bit_and_every_cut_is_refused() {
    let token = key().seal(&id(), &context());
    let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut forged = bytes.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(key().open(&id(), &URL_SAFE_NO_PAD.encode(forged)), Err(TokenError), "bit {bit}");
    }
    for length in 0..token.len() {
        assert_eq!(key().open(&id(), &token[..length]), Err(TokenError), "{length} characters");
    }
    for (at, _) in token.char_indices() {
        for other in ["A", "_", "=", " ", "+", "ä"] {
            let forged = format!("{}{other}{}", &token[..at], &token[at + 1..]);
            assert!(forged == token || key().open(&id(), &forged) == Err(TokenError), "{forged}");
        }
    }
    assert_eq!(key().open(&id(), &format!("{token}A")), Err(TokenError));
    assert_eq!(key().open(&id(), &"A".repeat(TOKEN_BYTES_MAX + 1)), Err(TokenError));
}

#[test]
fn a_true_seal_on_nonsense_is_refused_too() {
    let sealed = |payload: &[u8]| {
        let mac = key().mac(&id(), payload);
        URL_SAFE_NO_PAD.encode([payload, &mac[..]].concat())
    };
    let mut good = vec![VERSION];
    put_context(&mut good, &context());
    assert_eq!(key().open(&id(), &sealed(&good)), Ok(context()));
    assert_eq!(key().open(&id(), &sealed(&[])), Err(TokenError));
    assert_eq!(key().open(&id(), &sealed(&[&good[..], &[0]].concat())), Err(TokenError), "something follows");
    good[0] = VERSION + 1;
    assert_eq!(key().open(&id(), &sealed(&good)), Err(TokenError), "another version");
}

proptest! {
    #[test]
    fn random_text_is_refused(text in "[A-Za-z0-9_-]{0,120}") {
        prop_assert_eq!(key().open(&id(), &text), Err(TokenError));
    }

    #[test]
    fn random_payloads_never_panic(payload in proptest::collection::vec(any::<u8>(), 0..80)) {
        let mac = key().mac(&id(), &payload);
        let _ = key().open(&id(), &URL_SAFE_NO_PAD.encode([&payload[..], &mac[..]].concat()));
    }
}
