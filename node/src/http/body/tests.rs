//! Bodies that are too large, too slow, or cut short.

use super::*;
use crate::http::problem::Problem;
use futures_util::stream;
use http_body_util::{Full, StreamBody};
use std::io;
use tokio::time::sleep;

const LONG: Duration = Duration::from_secs(3600);

/// A body of unknown length, each piece after a pause.
fn pieces(list: &'static [(u64, &'static [u8])]) -> impl Body<Data = Bytes> + Unpin {
    let frames = stream::unfold(list.iter(), |mut rest| async {
        let (pause_ms, data) = rest.next()?;
        sleep(Duration::from_millis(*pause_ms)).await;
        Some((Ok::<_, io::Error>(Frame::data(Bytes::from_static(data))), rest))
    });
    StreamBody::new(Box::pin(frames))
}

fn code(result: Result<Bytes, Problem>) -> Code {
    result.expect_err("it must be refused").code()
}

#[tokio::test]
async fn a_body_in_one_piece_is_not_copied() {
    let bytes = Bytes::from(vec![7; 1000]);
    let read = read_body(Full::new(bytes.clone()), 1000, LONG).await.unwrap();
    assert_eq!(read.as_ptr(), bytes.as_ptr());
    assert!(read_body(Full::new(Bytes::new()), 0, LONG).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_body_in_pieces_is_put_together() {
    let read = read_body(pieces(&[(0, b"ab"), (0, b"c"), (0, b""), (0, b"def")]), 6, LONG).await.unwrap();
    assert_eq!(read, "abcdef");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_with_and_without_a_length() {
    let known = Full::new(Bytes::from_static(b"abcdefg"));
    assert_eq!(code(read_body(known, 6, LONG).await), Code::ValueTooLarge);
    assert_eq!(code(read_body(pieces(&[(0, b"abc"), (0, b"defg")]), 6, LONG).await), Code::ValueTooLarge);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_or_trickles_is_given_up() {
    assert_eq!(code(read_body(pieces(&[(0, b"abc"), (5001, b"d")]), 9, LONG).await), Code::Timeout);
    assert!(read_body(pieces(&[(0, b"abc"), (4999, b"d")]), 9, LONG).await.is_ok());
    let trickle: &[(u64, &[u8])] = &[(2000, b"a"), (2000, b"b"), (2000, b"c")];
    let trickle: &'static [(u64, &'static [u8])] = Box::leak(trickle.to_vec().into_boxed_slice());
    assert_eq!(code(read_body(pieces(trickle), 9, LONG).await), Code::Timeout);
}

#[tokio::test(start_paused = true)]
async fn a_slow_but_steady_body_is_taken_until_its_deadline() {
    static STEADY: [(u64, &[u8]); 10] = [(1000, &[7; 2048]); 10];
    assert_eq!(read_body(pieces(&STEADY), 1 << 20, LONG).await.unwrap().len(), 20_480);
    let short = Duration::from_secs(9);
    assert_eq!(code(read_body(pieces(&STEADY), 1 << 20, short).await), Code::Timeout);
}

#[tokio::test]
async fn a_broken_body_is_invalid() {
    let frames = stream::iter([Ok(Frame::data(Bytes::from_static(b"a"))), Err(io::Error::other("gone"))]);
    assert_eq!(code(read_body(StreamBody::new(frames), 9, LONG).await), Code::InvalidBody);
}
