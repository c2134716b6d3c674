//! One direction of one connection: what comes in goes out again as the link allows.
//!
//! ```text
//!   sender ──► buffer ──► pieces ──► due: each at its time ──► receiver
//!                 │                    lost: never; repeated: twice; overtaken: by those that are less late
//!                 └ nothing is read while the link is stalled, or while enough is under way: the sender feels it
//! ```
//!
//! A stalled link is what a network without packets makes of TCP: silence, and all of it arrives afterwards.

use super::pieces::Piece;
use super::{Conduct, Door, Passed, is_nameless_write, lock};
use crate::limits::{PROXY_BYTES_MAX, PROXY_PIECES_MAX};
use bytes::{Bytes, BytesMut};
use rand::RngExt;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::Instant;

/// What is on its way, by when it is due.
struct UnderWay {
    due: BTreeMap<(Instant, u64), Bytes>,
    bytes: usize,
    numbered: u64,
    /// When the last piece is due that nothing may overtake.
    last: Instant,
    /// When a link of limited width has sent what it was given.
    free: Instant,
    chance: StdRng,
}

impl UnderWay {
    fn new(chance: StdRng) -> UnderWay {
        let now = Instant::now();
        UnderWay { due: BTreeMap::new(), bytes: 0, numbered: 0, last: now, free: now, chance }
    }

    fn has_room(&self) -> bool {
        self.due.len() < PROXY_PIECES_MAX && self.bytes < PROXY_BYTES_MAX
    }

    /// Says when a piece arrives, and how often.
    fn send(&mut self, piece: Piece, conduct: &Conduct, passed: &mut Passed) {
        let chance = |percent: u8, rng: &mut StdRng| percent > 0 && rng.random_range(0..100) < percent;
        passed.pieces += 1;
        if piece.loose && chance(conduct.lost_percent, &mut self.chance) {
            passed.lost += 1;
            return;
        }
        let may_repeat = piece.loose && !is_nameless_write(&piece.bytes);
        let copies = 1 + u8::from(may_repeat && chance(conduct.repeated_percent, &mut self.chance));
        passed.repeated += u64::from(copies - 1);
        for _ in 0..copies {
            let now = Instant::now();
            self.free = self.free.max(now);
            if let Some(width) = conduct.bytes_per_second {
                self.free += Duration::from_secs_f64(piece.bytes.len() as f64 / f64::from(width.max(1)));
            }
            let mut due = self.free + conduct.delay.draw(&mut self.chance);
            if !(piece.loose && conduct.overtaking) {
                due = due.max(self.last);
            }
            self.last = self.last.max(due);
            passed.delayed += u64::from(due > now);
            self.numbered += 1;
            self.bytes += piece.bytes.len();
            self.due.insert((due, self.numbered), piece.bytes.clone());
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((due, _), _)| *due)
    }

    fn take(&mut self) -> Option<Bytes> {
        let (_, bytes) = self.due.pop_first()?;
        self.bytes -= bytes.len();
        Some(bytes)
    }
}

/// Goes on until both ends are done with this direction, or one of them is gone.
pub(super) async fn pump(
    door: &Door,
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut buffer: BytesMut,
    (mut link, chance): (watch::Receiver<Conduct>, StdRng),
) -> io::Result<()> {
    let (mut under_way, mut open, mut stalled) = (UnderWay::new(chance), true, false);
    loop {
        let conduct = link.borrow_and_update().clone();
        if conduct.stalled {
            lock(&door.links.passed).stalled += u64::from(!std::mem::replace(&mut stalled, true));
            if link.changed().await.is_err() {
                return Ok(());
            }
            continue;
        }
        stalled = false;
        while under_way.has_room()
            && let Some(piece) = door.pieces.next(&mut buffer).map_err(io::Error::other)?
        {
            under_way.send(piece, &conduct, &mut lock(&door.links.passed));
        }
        let due = under_way.next_due();
        if !open && due.is_none() {
            return to.shutdown().await;
        }
        tokio::select! {
            biased;
            changed = link.changed() => if changed.is_err() {
                return Ok(());
            },
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                if let Some(bytes) = under_way.take() {
                    to.write_all(&bytes).await?;
                }
            }
            read = from.read_buf(&mut buffer), if open && under_way.has_room() => open = read? > 0,
        }
    }
}
