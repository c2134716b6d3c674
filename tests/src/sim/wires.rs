//! The links between the simulated hosts, and what the weather does to them.
//!
//! ```text
//!   writer ── turmoil (latency, order, FIN and RST) ──► SimStream::poll_read
//!                                                         │ is the link cut?      nothing is read until it is whole
//!                                                         │ whole frames only     lost · repeated · late, each by itself
//!                                                         ▼
//!                                                       reader
//! ```
//!
//! Everything happens on the reader's side: there the bytes lie in order, so frames can be told apart, and what the
//! network does to one direction needs no word from the other. turmoil's own partitions are not used: a segment that it
//! drops is never sent again, so that a connection hangs for ever behind the gap; TCP would have sent it once more
//! after the network has healed. A cut link here is what TCP makes of it: silence, and all of it arrives afterwards.
//! What TCP never does, losing or repeating or overtaking a frame *within* a connection, is done on top of that, because
//! no promise may hang on it.

use super::trace::{Said, Trace};
use bytes::{Buf, Bytes, BytesMut};
use node::peer::frame;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use turmoil::net::TcpStream;

/// A machine of the simulation, by its number; its address ends with it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Host(pub u8);

/// The port on which peers meet.
pub const PEER_PORT: u16 = 8099;
/// The port on which clients are served.
pub const HTTP_PORT: u16 = 8098;
/// Bytes that a stream reads at once.
const READ_BYTES: usize = 16 << 10;

impl Host {
    /// Where it lives.
    pub fn ip(self) -> std::net::IpAddr {
        std::net::Ipv4Addr::new(192, 168, 0, self.0).into()
    }

    /// Who lives there.
    pub fn of(ip: std::net::IpAddr) -> Host {
        match ip {
            std::net::IpAddr::V4(ip) => Host(ip.octets()[3]),
            std::net::IpAddr::V6(_) => unreachable!("the simulated network has addresses of version 4"),
        }
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 == super::CLIENT.0 { f.write_str("client") } else { write!(f, "n{}", self.0) }
    }
}

/// What happens to each frame between two peers, by chance.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weather {
    /// How many of a hundred never arrive.
    pub lost_percent: u8,
    /// How many of a hundred arrive twice.
    pub repeated_percent: u8,
    /// How late a frame may be, beyond the network's latency. Each is late by itself, so they overtake each other.
    pub late_max: Duration,
}

/// All links. Clones are the same.
#[derive(Clone)]
pub struct Wires {
    state: Arc<Mutex<State>>,
    trace: Trace,
}

struct State {
    /// By how many hands each link is cut.
    cut: BTreeMap<(Host, Host), u32>,
    /// Whoever is to hear of a change, each with its latest waker.
    waiting: BTreeMap<u64, Waker>,
    numbered: u64,
    /// How often the connections between two hosts were reset.
    resets: BTreeMap<(Host, Host), u64>,
    weather: Weather,
    chance: StdRng,
}

impl Wires {
    /// Links that work, in fair weather.
    pub fn new(seed: u64, trace: Trace) -> Wires {
        let state = State {
            cut: BTreeMap::new(),
            waiting: BTreeMap::new(),
            numbered: 0,
            resets: BTreeMap::new(),
            weather: Weather::default(),
            chance: StdRng::seed_from_u64(seed),
        };
        Wires { state: Arc::new(Mutex::new(state)), trace }
    }

    /// Nothing goes from here to there any more, until [`Wires::mend`].
    pub fn cut(&self, from: Host, to: Host) {
        *self.lock().cut.entry((from, to)).or_default() += 1;
    }

    /// One hand lets go; with the last one, what has waited goes on.
    pub fn mend(&self, from: Host, to: Host) {
        self.change(|state| {
            let Some(hands) = state.cut.get_mut(&(from, to)) else { return };
            *hands -= 1;
            if *hands == 0 {
                state.cut.remove(&(from, to));
            }
        });
    }

    /// Every link is whole, and the weather fair.
    pub fn mend_all(&self) {
        self.change(|state| {
            state.cut.clear();
            state.weather = Weather::default();
        });
    }

    /// Breaks every connection that there is between the two.
    pub fn reset(&self, a: Host, b: Host) {
        self.change(|state| {
            *state.resets.entry((a, b)).or_default() += 1;
            *state.resets.entry((b, a)).or_default() += 1;
        });
    }

    /// Another weather for all links between peers.
    pub fn set_weather(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let waiting = {
            let mut state = self.lock();
            change(&mut state);
            std::mem::take(&mut state.waiting)
        };
        waiting.into_values().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a connection can be made: both directions of the link are whole.
    pub async fn passable(&self, a: Host, b: Host) {
        let place = self.place();
        std::future::poll_fn(|context| {
            let mut state = self.lock();
            if state.is_cut(a, b) || state.is_cut(b, a) {
                state.waiting.insert(place.number, context.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }

    /// A place among those who wait, given up with it.
    fn place(&self) -> Place {
        let mut state = self.lock();
        state.numbered += 1;
        Place { number: state.numbered, wires: self.clone() }
    }

    /// Puts a connection of turmoil's on these wires. Frames are told apart where peers meet.
    pub fn attach(&self, inner: TcpStream, local: Host) -> io::Result<SimStream> {
        let (here, there) = (inner.local_addr()?, inner.peer_addr()?);
        let remote = Host::of(there.ip());
        let is_peer = here.port() == PEER_PORT || there.port() == PEER_PORT;
        let mut state = self.lock();
        let resets = state.resets.get(&(remote, local)).copied().unwrap_or_default();
        let chance = StdRng::seed_from_u64(state.chance.random());
        drop(state);
        Ok(SimStream {
            inner,
            place: self.place(),
            remote,
            local,
            resets,
            frames: is_peer.then(|| Frames::new(chance)),
            ready: BytesMut::new(),
        })
    }
}

impl State {
    fn is_cut(&self, from: Host, to: Host) -> bool {
        self.cut.contains_key(&(from, to))
    }
}

/// Somebody who may wait for a change.
struct Place {
    number: u64,
    wires: Wires,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.wires.lock().waiting.remove(&self.number);
    }
}

/// One end of a connection.
pub struct SimStream {
    inner: TcpStream,
    place: Place,
    remote: Host,
    local: Host,
    resets: u64,
    frames: Option<Frames>,
    /// What may be read now.
    ready: BytesMut,
}

/// Frames on their way into this end.
struct Frames {
    chance: StdRng,
    /// The beginning of a frame of which the rest is not there yet.
    part: BytesMut,
    /// What arrives when; the number keeps those of one instant in order.
    on_the_way: BTreeMap<(Instant, u64), Bytes>,
    numbered: u64,
    alarm: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

impl Frames {
    fn new(chance: StdRng) -> Frames {
        Frames {
            chance,
            part: BytesMut::new(),
            on_the_way: BTreeMap::new(),
            numbered: 0,
            alarm: None,
            ended: false,
        }
    }

    fn send_on(&mut self, bytes: Bytes, at: Instant) {
        self.numbered += 1;
        self.on_the_way.insert((at, self.numbered), bytes);
    }

    /// The next whole message of what has arrived: a step of the handshake or a frame.
    fn next(&mut self) -> Option<(Bytes, bool)> {
        let head = self.part.get(..6)?;
        let is_hello = head.starts_with(b"CTWL");
        let bytes = if is_hello {
            6 + usize::from(u16::from_le_bytes([head[4], head[5]]))
        } else {
            4 + u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize
        };
        (self.part.len() >= bytes).then(|| (self.part.split_to(bytes).freeze(), is_hello))
    }

    /// What the weather makes of everything that has arrived whole.
    fn sort(&mut self, weather: Weather, said: &mut dyn FnMut(&Bytes, &'static str)) {
        let now = Instant::now();
        while let Some((bytes, is_hello)) = self.next() {
            if is_hello {
                // Lost or torn, a handshake is a connection that fails, and there are resets for that.
                self.send_on(bytes, now);
                continue;
            }
            if self.chance.random_range(0..100) < weather.lost_percent {
                said(&bytes, "lost");
                continue;
            }
            let at = self.late(now, weather);
            said(&bytes, "");
            if may_repeat(&bytes) && self.chance.random_range(0..100) < weather.repeated_percent {
                let again = self.late(now, weather);
                self.send_on(bytes.clone(), again);
            }
            self.send_on(bytes, at);
        }
    }

    fn late(&mut self, now: Instant, weather: Weather) -> Instant {
        let late_max = weather.late_max.as_millis() as u64;
        // Most are a little late and few are very late, as in a queue.
        let share = self.chance.random_range(0.0..1.0f64).powi(3);
        now + Duration::from_millis((late_max as f64 * share) as u64)
    }
}

/// A write that is handed over without a name and carried out twice is two writes: TCP delivers it once or not at all, and a client who
/// sends it twice means it. Nearly all have one. Everything else that peers say is idempotent, and must be.
fn may_repeat(bytes: &Bytes) -> bool {
    use ring::wire::peer::{Ask, Message};
    let mut buffer = BytesMut::from(&bytes[..]);
    let Ok(Some(frame)) = frame::decode(&mut buffer) else { return true };
    let is_write = Message::<Ask>::decode(&frame.body).is_ok_and(|ask| matches!(ask.head, Ask::Write(_)));
    frame.header.kind != frame::Kind::Request || !is_write
}

impl SimStream {
    /// Whether this end may be read now.
    fn poll_open(&self, context: &Context<'_>) -> Poll<io::Result<Weather>> {
        let mut state = self.place.wires.lock();
        if state.resets.get(&(self.remote, self.local)).copied().unwrap_or_default() != self.resets {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        // Whoever reads wants to hear of a reset or of a cut that is mended, whatever it waits for now.
        state.waiting.insert(self.place.number, context.waker().clone());
        if state.is_cut(self.remote, self.local) {
            return Poll::Pending;
        }
        Poll::Ready(Ok(state.weather))
    }

    /// Reads what has arrived into `ready`. Ready with `false` at the end.
    fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut space = [MaybeUninit::uninit(); READ_BYTES];
        let mut buffer = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.inner).poll_read(context, &mut buffer))?;
        let bytes = buffer.filled();
        match &mut self.frames {
            Some(frames) => frames.part.extend_from_slice(bytes),
            None => self.ready.extend_from_slice(bytes),
        }
        Poll::Ready(Ok(!bytes.is_empty()))
    }

    /// Lets frames arrive until one may be read.
    fn poll_frames(&mut self, context: &mut Context<'_>, weather: Weather) -> Poll<io::Result<()>> {
        loop {
            let ended = self.frames.as_ref().is_none_or(|frames| frames.ended);
            let more = if ended { Poll::Ready(false) } else { self.poll_bytes(context)? };
            let (from, to, trace) = (self.remote, self.local, &self.place.wires.trace);
            let frames = self.frames.as_mut().expect("only peers' streams come here");
            frames.ended |= more == Poll::Ready(false);
            frames.sort(weather, &mut |bytes, fate| trace.said(Said { from, to, bytes, fate }));
            let now = Instant::now();
            while let Some(first) = frames.on_the_way.first_entry() {
                if first.key().0 > now {
                    break;
                }
                self.ready.extend_from_slice(&first.remove());
            }
            if !self.ready.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let Some(((at, _), _)) = frames.on_the_way.first_key_value() else {
                match more {
                    Poll::Ready(true) => continue,
                    Poll::Ready(false) => return Poll::Ready(Ok(())),
                    Poll::Pending => return Poll::Pending,
                }
            };
            let alarm = frames.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(*at)));
            if alarm.deadline() != *at {
                alarm.as_mut().reset(*at);
            }
            ready!(alarm.as_mut().poll(context));
        }
    }
}

impl AsyncRead for SimStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let weather = ready!(this.poll_open(context))?;
        if this.ready.is_empty() {
            if this.frames.is_some() {
                ready!(this.poll_frames(context, weather))?;
            } else {
                ready!(this.poll_bytes(context))?;
            }
        }
        let bytes = this.ready.len().min(buffer.remaining());
        buffer.put_slice(&this.ready[..bytes]);
        this.ready.advance(bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
