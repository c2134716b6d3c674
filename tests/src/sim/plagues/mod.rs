//! What goes wrong in a run: a random few of all plagues, each at its own pace, all from the seed.
//!
//! | plague | what it does | how hard |
//! | --- | --- | --- |
//! | weather | frames lost, repeated, late | 0–30 %, 0–50 %, 1–400 ms; changes every 2–10 s |
//! | cut | two groups, one way or both ways | 0.5–20 s |
//! | clog | a few links go one by one, and come back one by one in another order | 2–15 s |
//! | reset | the connections of a pair break | every 1–5 s |
//! | kill | a process, a few, or all of them | down 0.2–15 s |
//! | power | the same by the plug: peers hear nothing, what was not synced may be gone | down 0.2–15 s |
//! | stall | a host hears and says nothing, and then all of it at once | 1–40 s |
//! | sleep | the same, and its clock stands still meanwhile, as that of a machine that is suspended | 1–40 s |
//! | calendar | one is set by up to ten minutes, or an hour; always the same minority, wrong from the start on, or newcomers | every 5–20 s |
//! | wear | a disk fails one write or one read in 100 to 10,000, is full or nearly, or slow by up to 200 ms | 1–20 s |
//! | rot | a few records of a disk can't be read any more, or all that follows from them, or its hints; always the same disk, and none is wiped then | 1–8 records |
//! | wipe | a machine comes back with an empty disk, and an operator puts the new node in the old one's place | once |
//! | restore | a machine starts again with an image of its disk that was taken before a start that others remember | once |
//! | members | a node joins, and one leaves or hands its place to it, the newcomers of before among them | up to four times, every 8–25 s |
//!
//! Cuts, clogs, resets, ends, stalls and wear come upon newcomers as upon anybody, so that taking over takes its time and is broken
//! off. Disks are lost only at those that were there at first.
//!
//! The budget is that of the promises (docs/simulation.md): any number of processes and plugs at once, for what is
//! acknowledged is synced on W disks, or in a bucket of which nothing else is promised; but one disk lost in a run, because with
//! W = 2 the loss of a second one before everything was repaired may take the last copy.

mod draws;

use super::disk::Wear;
use super::fleet::{Down, Shape};
use super::wires::{Host, Weather};
use node::store::Family;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use std::collections::BTreeMap;
use std::time::Duration;

/// A kind of trouble.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[allow(missing_docs, reason = "the table above says what they are")]
pub enum Plague {
    Weather,
    Cut,
    Clog,
    Reset,
    Kill,
    Power,
    Stall,
    Sleep,
    Calendar,
    Wear,
    Rot,
    Wipe,
    Restore,
    Members,
}

impl Plague {
    /// Whether it takes a disk, or a part of one.
    pub fn takes_a_disk(self) -> bool {
        matches!(self, Plague::Wipe | Plague::Restore | Plague::Rot)
    }

    /// Whether somebody may be away for what it does.
    pub fn separates(self) -> bool {
        !matches!(self, Plague::Calendar | Plague::Rot | Plague::Restore | Plague::Members)
    }

    /// How often one trouble of this kind keeps nodes from seeing each other: a message that is lost or comes late does as a cut. An
    /// old disk is put back behind a second end; who comes in takes over from everybody, and who leaves in the same trouble hands on
    /// once more.
    fn separations(self) -> u32 {
        match self {
            Plague::Calendar => 0,
            Plague::Restore | Plague::Members => 2,
            _ => 1,
        }
    }
}

/// All of them.
pub const ALL: [Plague; 14] = [
    Plague::Weather,
    Plague::Cut,
    Plague::Clog,
    Plague::Reset,
    Plague::Kill,
    Plague::Power,
    Plague::Stall,
    Plague::Sleep,
    Plague::Calendar,
    Plague::Wear,
    Plague::Rot,
    Plague::Wipe,
    Plague::Restore,
    Plague::Members,
];

/// One thing to do to the fleet.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each does what its name says")]
pub enum Deed {
    Weather(Weather),
    Cut(Host, Host),
    Mend(Host, Host),
    Reset(Host, Host),
    Down(Host, Down),
    Up(Host),
    Calendar(Host, i64),
    Wear(Host, Wear),
    Rot(Host),
    /// Of the records of which hints are kept there; nobody else may ever meet the others before the scrub does.
    RotHinted(Host),
    /// What a machine that is down finds of this family when it starts: nothing.
    Spoil(Host, Family),
    Asleep(Host, bool),
    /// Of a machine that is down; what starts there next is another node.
    Wipe(Host),
    /// Keeps what is on its disk now.
    Image(Host),
    /// Of a machine that is down, if an image was taken: what starts there next has forgotten everything since.
    PutBack(Host),
    /// An operator puts the node that is on this machine now in the place of the one that was there before it.
    ReplaceWiped(Host),
    /// A machine more, whose node comes in by itself or waits until an operator takes it in.
    Add {
        host: Host,
        waits: bool,
    },
    /// An operator lets this machine's node go.
    Leave(Host),
    /// An operator puts a new machine's node in the place of another's, which still runs.
    Replace {
        old: Host,
        new: Host,
    },
    /// Draws the next trouble of this kind.
    Again(Plague),
}

impl Deed {
    /// Upon whom it comes, where it is one.
    pub fn host(&self) -> Option<Host> {
        Some(match self {
            Deed::Down(host, _)
            | Deed::Up(host)
            | Deed::Calendar(host, _)
            | Deed::Wear(host, _)
            | Deed::Rot(host)
            | Deed::RotHinted(host)
            | Deed::Spoil(host, _)
            | Deed::Asleep(host, _)
            | Deed::Wipe(host)
            | Deed::Image(host)
            | Deed::PutBack(host)
            | Deed::ReplaceWiped(host)
            | Deed::Add { host, .. }
            | Deed::Leave(host)
            | Deed::Replace { old: host, .. } => *host,
            Deed::Weather(_) | Deed::Cut(..) | Deed::Mend(..) | Deed::Reset(..) | Deed::Again(_) => {
                return None;
            }
        })
    }

    /// The plague whose trace it may leave in what nodes say and do, where it leaves one.
    pub fn plague(&self) -> Option<Plague> {
        Some(match self {
            Deed::Calendar(..) => Plague::Calendar,
            Deed::Wear(_, wear) if wear.fails() || wear.full || wear.taken_percent > 0 => Plague::Wear,
            Deed::Rot(_) | Deed::RotHinted(_) | Deed::Spoil(..) => Plague::Rot,
            Deed::Wipe(_) => Plague::Wipe,
            Deed::PutBack(_) => Plague::Restore,
            Deed::Add { .. } | Deed::Leave(_) | Deed::Replace { .. } => Plague::Members,
            _ => return None,
        })
    }
}

/// The troubles of a run, in their order.
pub struct Schedule {
    /// What may happen in this run.
    pub plagues: Vec<Plague>,
    due: BTreeMap<(Duration, u64), Deed>,
    numbered: u64,
    chance: StdRng,
    until: Duration,
    nodes: u8,
    /// How often nodes may have been kept from seeing each other: once for each trouble, however many links it takes.
    pub separations: u32,
    /// Calendars that are wrong before their nodes have ever begun.
    pub wrong_from_the_start: Vec<(Host, i64)>,
    /// The one machine whose disk may rot.
    rotten: Option<Host>,
    /// Whether the calendars that go wrong are those of newcomers.
    newcomers_are_wrong: bool,
    /// Machines that were added or are about to be, and those of them that are there.
    newcomers: u8,
    added: u8,
}

/// Machines that are added in one run: each change takes a few seconds, and the load lasts a minute.
const NEWCOMERS_MAX: u8 = 4;

/// The nodes of a run, from its chance.
pub fn shape(chance: &mut StdRng) -> Shape {
    Shape {
        nodes: *[3, 4, 5, 5, 5].choose(chance).expect("the list is not empty"),
        partitions: *[8, 16, 32, 64].choose(chance).expect("the list is not empty"),
        reap_grace_ms: *[11_000, 20_000].choose(chance).expect("the list is not empty"),
    }
}

impl Schedule {
    /// Troubles from `from` to `until`, for a fleet of that shape.
    pub fn draw(mut chance: StdRng, shape: Shape, from: Duration, until: Duration) -> Schedule {
        let mut plagues = ALL.to_vec();
        plagues.shuffle(&mut chance);
        plagues.truncate(chance.random_range(1..=5));
        // One disk may be lost; rot and an image of before lose a part of one.
        let first = plagues.iter().copied().find(|plague| plague.takes_a_disk());
        plagues.retain(|plague| !plague.takes_a_disk() || Some(*plague) == first);
        plagues.sort_unstable();
        let newcomers_are_wrong = plagues.contains(&Plague::Members) && chance.random::<bool>();
        let mut schedule =
            Schedule { plagues: plagues.clone(), newcomers_are_wrong, ..Schedule::of(chance, shape, until) };
        if plagues.contains(&Plague::Calendar) && !newcomers_are_wrong {
            for host in schedule.wrong_ones() {
                let off_ms = schedule.offset_ms();
                schedule.wrong_from_the_start.push((host, off_ms));
            }
        }
        for plague in plagues {
            let at = from + schedule.millis(0, 5_000);
            schedule.at(at, Deed::Again(plague));
        }
        schedule
    }

    /// Just these deeds at their times.
    pub fn script(
        chance: StdRng,
        shape: Shape,
        deeds: impl IntoIterator<Item = (Duration, Deed)>,
    ) -> Schedule {
        let mut schedule = Schedule::of(chance, shape, Duration::ZERO);
        for (at, deed) in deeds {
            // Whoever writes a script means each of its deeds as a trouble.
            schedule.separations += 1;
            schedule.at(at, deed);
        }
        schedule
    }

    /// One without any deeds yet.
    fn of(chance: StdRng, shape: Shape, until: Duration) -> Schedule {
        Schedule {
            plagues: Vec::new(),
            due: BTreeMap::new(),
            numbered: 0,
            chance,
            until,
            nodes: shape.nodes,
            separations: 0,
            wrong_from_the_start: Vec::new(),
            rotten: None,
            newcomers_are_wrong: false,
            newcomers: 0,
            added: 0,
        }
    }

    /// What is to be done by now.
    pub fn next(&mut self, now: Duration) -> Option<Deed> {
        loop {
            let first = self.due.first_entry().filter(|entry| entry.key().0 <= now)?;
            match first.remove() {
                Deed::Again(plague) => {
                    self.separations += plague.separations();
                    self.trouble(plague, now);
                }
                deed => {
                    self.added += u8::from(matches!(deed, Deed::Add { .. }));
                    return Some(deed);
                }
            }
        }
    }

    /// What was begun and is not yet ended, in its order; nothing new begins.
    pub fn finish(&mut self) -> Vec<Deed> {
        let left = std::mem::take(&mut self.due).into_values();
        left.filter(|deed| !matches!(deed, Deed::Again(_))).collect()
    }

    fn at(&mut self, at: Duration, deed: Deed) {
        self.numbered += 1;
        self.due.insert((at, self.numbered), deed);
    }

    fn again(&mut self, plague: Plague, at: Duration) {
        if at < self.until {
            self.at(at, Deed::Again(plague));
        }
    }

    fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.chance.random_range(least..=most))
    }

    /// When something ends that begins now: within the time of troubles.
    fn end_of(&mut self, now: Duration, least: u64, most: u64) -> Duration {
        (now + self.millis(least, most)).min(self.until)
    }

    /// One of those that were there at first: of their disks one may be lost.
    fn host(&mut self) -> Host {
        Host(self.chance.random_range(1..=self.nodes))
    }

    /// One of all that are there now.
    fn anyone(&mut self) -> Host {
        Host(self.chance.random_range(1..=self.nodes + self.added))
    }

    fn some(&mut self, least: u8) -> Vec<Host> {
        let all = self.nodes + self.added;
        let mut hosts: Vec<Host> = (1..=all).map(Host).collect();
        hosts.shuffle(&mut self.chance);
        hosts.truncate(usize::from(self.chance.random_range(least..=all)));
        hosts
    }

    /// All that are there or may come, in their order: who is cut off is so for newcomers too.
    fn everyone(&self) -> impl Iterator<Item = Host> + use<> {
        (1..=self.nodes + NEWCOMERS_MAX).map(Host)
    }
}
