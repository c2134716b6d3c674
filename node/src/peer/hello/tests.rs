//! The handshake byte by byte, and against strangers, replays and impostors.

use super::*;
use proptest::prelude::*;
use tokio::io::duplex;

fn local(node: u128, secret: &str, cluster: Option<u128>) -> Arc<Local> {
    Local::new(NodeId(node), 7, "host:8099", Secret::new(secret), cluster.map(ClusterId))
}

/// Both sides' view of one handshake.
async fn shake(dialer: &Local, acceptor: &Local) -> [Result<PeerIdentity, HelloError>; 2] {
    let (mut near, mut far) = duplex(64);
    let (dialed, accepted) =
        tokio::join!(dial(&mut near, dialer, [1; 32], None), accept(&mut far, acceptor, [2; 32]));
    [dialed, accepted]
}

async fn refusal(dialer: &Local, acceptor: &Local) -> Refusal {
    match shake(dialer, acceptor).await {
        [Err(HelloError::Refused(why)), Err(HelloError::Rejected(told))] if why == told => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_step_has_exactly_these_bytes() {
    let hello = local(0x0102, "", Some(3)).hello([9; 32]);
    let expected = [&b"CTWL\x32\x00"[..], &[0, 3, 3, 0x82, 2, 1, 3, 7, 9], b"host:8099", &[9; 32]].concat();
    assert_eq!(encode(&Step::Hello(hello)), expected);
    assert_eq!(encode(&Step::Refused(Refusal::SameIdentity)), b"CTWL\x02\x00\x04\x02");
}

#[tokio::test]
async fn two_members_learn_who_the_other_is() {
    let [dialed, accepted] = shake(&local(1, "s", Some(5)), &local(2, "s", Some(5))).await;
    assert_eq!((dialed.unwrap().node, accepted.unwrap().node), (NodeId(2), NodeId(1)));
}

#[tokio::test]
async fn a_joiner_is_told_the_cluster() {
    let [dialed, accepted] = shake(&local(1, "", None), &local(2, "", Some(5))).await;
    assert_eq!((dialed.unwrap().cluster, accepted.unwrap().cluster), (Some(ClusterId(5)), None));
}

#[tokio::test]
async fn every_refusal_says_why() {
    let member = local(2, "s", Some(5));
    assert_eq!(refusal(&local(1, "wrong", Some(5)), &member).await, Refusal::WrongSecret);
    assert_eq!(refusal(&local(1, "", Some(5)), &member).await, Refusal::WrongSecret);
    assert_eq!(refusal(&local(1, "s", Some(5)), &local(2, "", Some(5))).await, Refusal::WrongSecret);
    let theirs = ClusterId(5);
    assert_eq!(refusal(&local(1, "s", Some(6)), &member).await, Refusal::WrongCluster { theirs });
    assert_eq!(refusal(&member, &member).await, Refusal::Itself);
    let copy = Local::new(NodeId(2), 8, "h:1", Secret::new("s"), Some(theirs));
    assert_eq!(refusal(&copy, &member).await, Refusal::SameIdentity);
}

#[tokio::test]
async fn an_unproven_dialer_sees_nothing_but_a_nonce() {
    let (mut near, mut far) = duplex(4096);
    let member = local(2, "s", Some(5));
    let stranger = async move {
        send(&mut near, &Step::Hello(local(1, "", Some(6)).hello([1; 32]))).await.unwrap();
        send(&mut near, &Step::Proof([0; 32])).await.unwrap();
        let seen = [receive(&mut near).await.unwrap(), receive(&mut near).await.unwrap()];
        assert_eq!(seen, [Step::Challenge([2; 32]), Step::Refused(Refusal::WrongSecret)]);
    };
    let (accepted, ()) = tokio::join!(accept(&mut far, &member, [2; 32]), stranger);
    assert!(matches!(accepted, Err(HelloError::Rejected(Refusal::WrongSecret))));
}

#[tokio::test]
async fn a_recorded_handshake_does_not_open_the_door_again() {
    let (dialer, member) = (local(1, "s", Some(5)), local(2, "s", Some(5)));
    let hello = dialer.hello([1; 32]);
    let proof = dialer.secret.sign("dialer", &[&[2; 32], &encode_part(&hello)]);
    let recording = [encode(&Step::Hello(hello)), encode(&Step::Proof(proof))].concat();
    for (nonce, opens) in [([2; 32], true), ([3; 32], false)] {
        let (mut near, mut far) = duplex(4096);
        near.write_all(&recording).await.unwrap();
        assert_eq!(accept(&mut far, &member, nonce).await.is_ok(), opens);
    }
}

#[tokio::test]
async fn an_impostor_without_the_secret_is_found_out_by_the_dialer() {
    let (mut near, mut far) = duplex(4096);
    let impostor = async move {
        let Step::Hello(_) = receive(&mut far).await.unwrap() else { panic!("no hello") };
        send(&mut far, &Step::Challenge([2; 32])).await.unwrap();
        let Step::Proof(proof) = receive(&mut far).await.unwrap() else { panic!("no proof") };
        // The best it has is the dialer's own proof.
        send(&mut far, &Step::Welcome(local(2, "", Some(5)).hello([2; 32]), proof)).await.unwrap();
    };
    let dialer = local(1, "s", Some(5));
    let (dialed, ()) = tokio::join!(dial(&mut near, &dialer, [1; 32], None), impostor);
    assert!(matches!(dialed, Err(HelloError::Refused(Refusal::WrongSecret))));
}

proptest! {
    #[test]
    fn random_bytes_open_nothing(bytes in prop::collection::vec(any::<u8>(), 0..200), plausible: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut near, mut far) = duplex(4096);
            if plausible {
                near.write_all(&[&b"CTWL"[..], &[bytes.len() as u8, 0]].concat()).await.unwrap();
            }
            near.write_all(&bytes).await.unwrap();
            near.shutdown().await.unwrap();
            assert!(accept(&mut far, &local(2, "", None), [2; 32]).await.is_err());
        });
    }
}
