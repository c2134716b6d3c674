//! Bytes from anywhere, without end: what is read of them is whole or refused, and whatever is read can be merged.
//!
//! CI tries twenty-five thousand of each kind. As many as one has patience for, of all kinds or of one:
//!
//! ```text
//! FUZZ_CASES=100000000 FUZZ_OF=views cargo test --release -p cartwheel-ring --test fuzz -- --nocapture
//! ```
//!
//! A case is something that we wrote ourselves with a few edits, its checksum put right: bytes that are only random do not get past the
//! first check. No coverage guides it (that would take another compiler than the one that builds the rest); the formats are small
//! enough for chance. A failure names its seed and its number in it.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "it stands outside the protocol: it is told how long to go on, and says what it did"
)]

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use ring::bucket::BucketSettings;
use ring::causal::{Actor, Context, Dot};
use ring::ids::{ClusterId, NodeId, ObjectId, Zone};
use ring::members::{Change, Description, Regime, Status, View, next};
use ring::record::{Content, Object, Op, Record, Sibling, merge};
use ring::time::Wall;
use ring::wire::bytes::{Reader, put_context, read_context};
use ring::wire::peer::{Answer, Ask, Message, TreeAsk};
use ring::wire::record::{decode, encode};
use std::collections::BTreeSet;
use std::ops::AddAssign;
use std::panic::{AssertUnwindSafe, catch_unwind};
use xxhash_rust::xxh3::xxh3_64;

/// Where a record's checksum stands, and what it is of.
const SUM: std::ops::Range<usize> = 2..10;
const CORPUS: usize = 400;
/// Few, for each has a layout, and that is most of what is read.
const PARTITIONS: u16 = 4;
const CLUSTER: ClusterId = ClusterId(7);
const STATUSES: [Status; 6] =
    [Status::Joining, Status::Up, Status::Leaving, Status::Lost, Status::WrittenOff, Status::Removed];
const EDITS_MAX: usize = 2;

/// How many cases there were, how many of them could be read, and how many of those were merged with another one.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    cases: u64,
    read: u64,
    merged: u64,
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Count) {
        self.cases += other.cases;
        self.read += other.read;
        self.merged += other.merged;
    }
}

fn dot(rng: &mut StdRng) -> Dot {
    let actor = Actor { node: NodeId(rng.random_range(1..4)), epoch: rng.random_range(1..4) };
    Dot { actor, count: rng.random_range(1..6) }
}

fn context(rng: &mut StdRng) -> Context {
    let count = rng.random_range(0..8);
    Context::of_dots((0..count).map(|_| dot(rng)))
}

fn text(rng: &mut StdRng) -> Bytes {
    let mut bytes = vec![0; rng.random_range(0..40)];
    rng.fill_bytes(&mut bytes);
    bytes.into()
}

fn op(rng: &mut StdRng) -> Option<Op> {
    rng.random_bool(0.5).then(|| Op(rng.random()))
}

fn wall(rng: &mut StdRng) -> Wall {
    Wall(rng.random_range(0..1 << 42))
}

fn content(rng: &mut StdRng) -> Content {
    match rng.random_range(0..7) {
        0 => Content::Tombstone { deleted: wall(rng) },
        1 => Content::Expired { at: wall(rng), was: rng.random() },
        2 => Content::CartAdd { sku: text(rng), quantity: rng.random_range(-9..9), op: op(rng) },
        3 => Content::CartAttributes { sku: text(rng), json: text(rng) },
        4 => {
            let sku = rng.random_bool(0.5).then(|| text(rng));
            Content::CartRemoved { sku, seen: context(rng) }
        }
        5 => {
            let count = rng.random_range(0..4);
            Content::CartSpent { ops: (0..count).map(|_| (Op(rng.random()), wall(rng))).collect() }
        }
        _ => Content::Object(Object {
            body: text(rng),
            content_type: "text/plain".into(),
            meta: vec![("m".into(), text(rng))],
            modified: wall(rng),
            expires_at: rng.random_bool(0.5).then(|| wall(rng)),
        }),
    }
}

fn record(rng: &mut StdRng) -> Record {
    let count = rng.random_range(0..5);
    let mut dots: Vec<Dot> = (0..count).map(|_| dot(rng)).collect();
    dots.sort_unstable();
    dots.dedup();
    let mut clock = context(rng);
    dots.iter().for_each(|dot| clock.insert(*dot));
    let siblings = dots.into_iter().map(|dot| Sibling { dot, content: content(rng) }).collect();
    Record { clock, siblings }
}

fn ask(rng: &mut StdRng) -> Ask {
    let id = ObjectId::new(&b"bucket"[..], &b"key"[..]).expect("a short name");
    match rng.random_range(0..5) {
        0 => Ask::Store { id, hint_for: Some(NodeId(rng.random())), sync: true },
        1 => Ask::Read { id, record: false },
        2 => Ask::Gossip { digest: rng.random() },
        3 => Ask::Repair { partition: ring::ids::Partition(3), bucket: Some(text(rng)), key: None },
        _ => Ask::Tree { table: rng.random(), ns: 3, what: TreeAsk::Roots(vec![]) },
    }
}

fn description(rng: &mut StdRng) -> Description {
    Description {
        http: "h:1".into(),
        peer: format!("p:{}", rng.random_range(1..5)),
        zone: Zone((*["", "a", "b"].choose(rng).expect("three")).to_owned()),
        weight: rng.random_range(1..4),
        starts: rng.random_range(0..4),
        boot_id: rng.random_range(0..4),
    }
}

/// What a few nodes and operators have made of a cluster.
fn view(rng: &mut StdRng) -> View {
    let mut view = View::new(CLUSTER, PARTITIONS);
    view.defaults = rng.random_bool(0.5).then(BucketSettings::default);
    for _ in 0..rng.random_range(0..24) {
        let id = NodeId(rng.random_range(1..6));
        // What can't be done is refused, and leaves the view as it was.
        match rng.random_range(0..10) {
            0..3 => drop(view.admit(id, description(rng))),
            3 => drop(view.set_status(id, *STATUSES.choose(rng).expect("six"))),
            4 => drop(view.set_seat(id, rng.random_range(1..9), description(rng).zone)),
            5 => drop(view.act(id, rng.random_range(0..4), rng.random())),
            6 => {
                let settings = BucketSettings { n: rng.random_range(1..5), ..BucketSettings::default() };
                let name = *[&b"a"[..], b"b"].choose(rng).expect("two");
                drop(view.set_bucket(name.into(), id, rng.random_bool(0.7).then_some(settings)));
            }
            7 => drop(view.stage(id, vec![Change::leave(id)], 1, &BTreeSet::new())),
            8 if !view.claimants().is_empty() && view.settled.stamp == 0 => view.found(),
            _ => {
                let regime = Regime::of(&view);
                let step = next(&view, &regime, &[3].into(), &BTreeSet::new());
                drop(view.advance(id, &regime, &step));
            }
        }
    }
    view
}

/// What we write ourselves, of each kind.
struct Corpus {
    records: Vec<Bytes>,
    contexts: Vec<Bytes>,
    messages: Vec<Bytes>,
    views: Vec<Bytes>,
}

impl Corpus {
    fn new() -> Corpus {
        let rng = &mut StdRng::seed_from_u64(1);
        let mut many = |make: &mut dyn FnMut(&mut StdRng) -> Bytes| (0..CORPUS).map(|_| make(rng)).collect();
        Corpus {
            records: many(&mut |rng| encode(&record(rng))),
            contexts: many(&mut |rng| {
                let mut out = Vec::new();
                put_context(&mut out, &context(rng));
                out.into()
            }),
            messages: many(&mut |rng| match rng.random_bool(0.5) {
                true => Message { head: ask(rng), body: text(rng) }.encode(),
                false => Message { head: Answer::Stored { durable: true }, body: text(rng) }.encode(),
            }),
            views: many(&mut |rng| view(rng).encode()),
        }
    }
}

fn edit(rng: &mut StdRng, bytes: &mut Vec<u8>, all: &[Bytes]) {
    let at = if bytes.is_empty() { 0 } else { rng.random_range(0..bytes.len()) };
    match rng.random_range(0..6) {
        0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
        1 if at < bytes.len() => bytes[at] = *[0, 1, 0x7f, 0x80, 0xfe, 0xff].choose(rng).expect("six"),
        2 => bytes.truncate(at),
        3 => bytes.insert(at, rng.random()),
        4 if at < bytes.len() => drop(bytes.remove(at)),
        _ => {
            let other = all.choose(rng).expect("there are some");
            let from = rng.random_range(0..=other.len());
            let until = (from + rng.random_range(0..16)).min(other.len());
            let room = bytes.len().saturating_sub(at).min(until - from);
            bytes[at..at + room].copy_from_slice(&other[from..from + room]);
        }
    }
}

fn edited(rng: &mut StdRng, all: &[Bytes]) -> Vec<u8> {
    let mut bytes = all.choose(rng).expect("there are some").to_vec();
    for _ in 0..rng.random_range(1..=EDITS_MAX) {
        edit(rng, &mut bytes, all);
    }
    bytes
}

fn try_record(rng: &mut StdRng, corpus: &Corpus, count: &mut Count) {
    let mut bytes = edited(rng, &corpus.records);
    if bytes.len() > SUM.end && rng.random_bool(0.9) {
        let sum = xxh3_64(&bytes[SUM.end..]);
        bytes[SUM].copy_from_slice(&sum.to_le_bytes());
    }
    let Ok(read) = decode(&Bytes::from(bytes)) else { return };
    count.read += 1;
    assert_eq!(decode(&encode(&read)).as_ref(), Ok(&read), "what is read is written and read again");
    let other = decode(corpus.records.choose(rng).expect("there are some")).expect("our own");
    let both = merge(&read, &other);
    assert_eq!(both, merge(&other, &read), "in any order");
    assert_eq!(merge(&both, &read), both, "once is enough");
    assert!(both.clock.covers(&read.clock) && both.clock.covers(&other.clock), "all is known that was");
    count.merged += 1;
}

fn try_view(rng: &mut StdRng, corpus: &Corpus, count: &mut Count) {
    let Ok(read) = View::decode(&edited(rng, &corpus.views)) else { return };
    count.read += 1;
    assert_eq!(View::decode(&read.encode()).as_ref(), Ok(&read), "what is read is written and read again");
    let other = View::decode(corpus.views.choose(rng).expect("there are some")).expect("our own");
    let (mut one, mut two) = (read.clone(), other.clone());
    if one.merge(&other).is_err() || two.merge(&read).is_err() {
        return;
    }
    count.merged += 1;
    assert_eq!(one, two, "in any order");
    assert_eq!(one.merge(&read), Ok(false), "once is enough");
    // Whoever has taken it in goes by it.
    let regime = Regime::of(&one);
    let step = next(&one, &regime, &[1, 3].into(), &BTreeSet::new());
    let id = NodeId(rng.random_range(1..6));
    drop(one.advance(id, &regime, &step));
    drop(one.admit(id, description(rng)));
    drop(one.set_status(id, Status::Leaving));
    assert_eq!(View::decode(&one.encode()), Ok(one), "what came of it is a view too");
}

fn try_context(rng: &mut StdRng, corpus: &Corpus, count: &mut Count) {
    let bytes = Bytes::from(edited(rng, &corpus.contexts));
    let Ok(read) = read_context(&mut Reader::new(bytes)) else { return };
    count.read += 1;
    let mut out = Vec::new();
    put_context(&mut out, &read);
    assert_eq!(read_context(&mut Reader::new(out.into())), Ok(read));
}

fn try_message(rng: &mut StdRng, corpus: &Corpus, count: &mut Count) {
    let bytes = Bytes::from(edited(rng, &corpus.messages));
    if let Ok(read) = Message::<Ask>::decode(&bytes) {
        assert_eq!(Message::decode(&read.encode()).as_ref(), Ok(&read));
        count.read += 1;
    }
    count.read += u64::from(Message::<Answer>::decode(&bytes).is_ok());
}

type Try = fn(&mut StdRng, &Corpus, &mut Count);

const KINDS: [(&str, Try); 4] =
    [("records", try_record), ("contexts", try_context), ("messages", try_message), ("views", try_view)];

fn run(seed: u64, cases: u64, attempt: Try, corpus: &Corpus) -> Count {
    let (mut rng, mut count) = (StdRng::seed_from_u64(seed), Count::default());
    for number in 0..cases {
        let tried = catch_unwind(AssertUnwindSafe(|| attempt(&mut rng, corpus, &mut count)));
        if let Err(panic) = tried {
            eprintln!("seed {seed}, case {number}");
            std::panic::resume_unwind(panic);
        }
        count.cases += 1;
    }
    count
}

#[test]
fn bytes_from_anywhere_are_read_whole_or_refused() {
    let cases: u64 =
        std::env::var("FUZZ_CASES").map_or(25_000, |text| text.parse().expect("a number of cases"));
    let seed: u64 = std::env::var("FUZZ_SEED").map_or(1, |text| text.parse().expect("a seed"));
    let of = std::env::var("FUZZ_OF").ok();
    let corpus = &Corpus::new();
    for (name, attempt) in KINDS.into_iter().filter(|(name, _)| of.as_ref().is_none_or(|of| of == name)) {
        let mut count = Count::default();
        std::thread::scope(|scope| {
            let half = |half| scope.spawn(move || run(2 * seed + half, cases.div_ceil(2), attempt, corpus));
            for half in [0, 1].map(half) {
                count += half.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
        });
        println!("{name}: {count:?}");
        assert!(
            count.cases >= cases && 20 * count.read > cases,
            "most is refused at the first look: {count:?}"
        );
        let is_merged = matches!(name, "records" | "views");
        assert!(!is_merged || 50 * count.merged > cases, "hardly any is merged: {count:?}");
    }
}
