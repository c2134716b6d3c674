//! Who said what, and when: hashed always, kept and printed when somebody wants to read it.
//!
//! ```text
//!   12.345  n1 → n2   Store shop/alice
//!   12.347  n2 → n1   Stored
//!   12.400  n3  PowerCut
//!   12.410  client  #5 Load get at least as of #3 on w-keys/c0-1 by c2 through http://…
//! ```
//!
//! Two runs of one seed are the same run if every line of this is the same, so the hash covers each byte that a peer
//! hears, every fault, and each question and answer of a client, at its instant. Times are those of the simulation; no other clock is known here.

use super::wires::Host;
use bytes::{Bytes, BytesMut};
use node::peer::frame::{self, Kind};
use ring::wire::peer::{Answer, Ask, Message};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use xxhash_rust::xxh3::Xxh3;

/// What one host hears from another.
pub struct Said<'a> {
    /// Who says it.
    pub from: Host,
    /// Who hears it.
    pub to: Host,
    /// The frame.
    pub bytes: &'a Bytes,
    /// What becomes of it, if not that it is heard.
    pub fate: &'static str,
}

/// The record of a run. Clones are the same.
#[derive(Clone)]
pub struct Trace {
    state: Arc<Mutex<State>>,
}

struct State {
    hash: Xxh3,
    lines: u64,
    /// When it is, for those who speak from outside of any host.
    now: u64,
    /// The lines themselves, if they are wanted.
    kept: Option<Vec<String>>,
}

impl Trace {
    /// An empty one. Lines are kept only where they are wanted: a minute of five nodes has a million.
    pub fn new(keep: bool) -> Trace {
        let state = State { hash: Xxh3::new(), lines: 0, now: 0, kept: keep.then(Vec::new) };
        Trace { state: Arc::new(Mutex::new(state)) }
    }

    /// A frame that was heard, or lost.
    pub fn said(&self, said: Said<'_>) {
        let mut state = self.lock();
        let micros = micros().unwrap_or(state.now);
        let mut head = [0; 11];
        head[..8].copy_from_slice(&micros.to_be_bytes());
        head[8..].copy_from_slice(&[said.from.0, said.to.0, u8::from(said.fate.is_empty())]);
        state.hash.update(&head);
        state.hash.update(said.bytes);
        state.lines += 1;
        if let Some(kept) = &mut state.kept {
            let (from, to, fate) = (said.from, said.to, said.fate);
            kept.push(
                format!("{}  {from} → {to}   {} {fate}", time(micros), words(said.bytes)).trim_end().into(),
            );
        }
    }

    /// It is so late now.
    pub fn set_now(&self, elapsed: Duration) {
        self.lock().now = elapsed.as_micros() as u64;
    }

    /// Anything else that happens.
    pub fn event(&self, what: &str) {
        let mut state = self.lock();
        let micros = micros().unwrap_or(state.now);
        state.hash.update(&micros.to_be_bytes());
        state.hash.update(what.as_bytes());
        state.lines += 1;
        if let Some(kept) = &mut state.kept {
            kept.push(format!("{}  {what}", time(micros)));
        }
    }

    /// What all of it amounts to.
    pub fn digest(&self) -> u64 {
        self.lock().hash.digest()
    }

    /// How much there was.
    pub fn lines(&self) -> u64 {
        self.lock().lines
    }

    /// The lines that were kept.
    pub fn take(&self) -> Vec<String> {
        self.lock().kept.take().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn micros() -> Option<u64> {
    turmoil::sim_elapsed().map(|elapsed| elapsed.as_micros() as u64)
}

fn time(micros: u64) -> String {
    format!("{:>8.3}", micros as f64 / 1e6)
}

/// A frame in a few words.
fn words(bytes: &Bytes) -> String {
    let mut buffer = BytesMut::from(&bytes[..]);
    let Ok(Some(frame)) = frame::decode(&mut buffer) else { return "what is no frame".into() };
    let id = frame.header.id;
    match frame.header.kind {
        Kind::Request | Kind::OneWay => match Message::<Ask>::decode(&frame.body) {
            Ok(ask) => format!("#{id} {}", short(&ask.head)),
            Err(_) => format!("#{id} a message of {} bytes", frame.body.len()),
        },
        Kind::Response => match Message::<Answer>::decode(&frame.body) {
            Ok(answer) => format!("#{id} = {}", short(&answer.head)),
            Err(_) => format!("#{id} = {} bytes", frame.body.len()),
        },
        other => format!("#{id} {other:?}"),
    }
}

/// As much of it as fits a line.
fn short(what: &impl Debug) -> String {
    const WIDTH: usize = 160;
    let text = format!("{what:?}");
    match text.char_indices().nth(WIDTH) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}
