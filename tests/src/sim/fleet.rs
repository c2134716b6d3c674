//! The machines of a run: what is on each, how it starts, and what is done to it.

use super::disk::{Disk, Undone, Wear};
use super::trace::Trace;
use super::watch::Watch;
use super::wires::{HTTP_PORT, Host, PEER_PORT, Wires};
use super::world::{Machine, SimWorld};
use chaos::history::Entry;
use node::boot;
use node::config::{Config, NodeArgs};
use node::store::{Family, StoreError};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ring::bucket::BucketSettings;
use ring::ids::ObjectId;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use turmoil::Sim;
use xxhash_rust::xxh3::Xxh3;

/// How the nodes of a run are configured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Nodes at the beginning.
    pub nodes: u8,
    /// Partitions of the cluster.
    pub partitions: u16,
    /// How long everybody must have agreed before a deletion is forgotten.
    pub reap_grace_ms: u64,
}

/// Seeds of the cluster: the first machines.
const SEEDS: u8 = 3;

/// How long after the last failure of its disk a node may end for it: it hears of it with its next write.
const WORN_MAX: Duration = Duration::from_secs(25);

/// How soon a supervisor starts a node again that has left.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// How a machine went down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Down {
    /// The process was killed: its peers hear so, and what it wrote is in the system's hands.
    Killed,
    /// The power failed: its peers hear nothing, and what was not synced may be gone.
    PowerCut,
}

/// All machines.
pub struct Fleet {
    shape: Shape,
    seed: u64,
    trace: Trace,
    /// The eye on all disks.
    pub watch: Watch,
    /// The links.
    pub wires: Wires,
    machines: BTreeMap<Host, Arc<Machine>>,
    /// Those that are down on purpose.
    down: BTreeMap<Host, Down>,
    /// Images of disks, each as it was at some time.
    images: BTreeMap<Host, Disk>,
    /// Until when a node may end for what its disk does.
    worn: BTreeMap<Host, Duration>,
    /// Until when it may refuse to start for want of room.
    filled: BTreeMap<Host, Duration>,
    /// Whose node has said that it does not start, and is not noticed yet.
    refuses: Arc<Mutex<BTreeSet<Host>>>,
    /// The links that a power cut has cut.
    dark: BTreeMap<Host, Vec<Host>>,
    /// Since when somebody has left by itself.
    gone: BTreeMap<Host, Duration>,
    /// Records that were spoiled, on all disks.
    pub rotted: usize,
    /// Families that were spoiled, on all disks.
    pub spoilt: usize,
    /// How many batches went with some power, for they were not synced.
    pub undone_batches: usize,
    /// Whose records were in them: since when the disk had not been synced, and when it lost them.
    pub undone: BTreeMap<ObjectId, Vec<(Duration, Duration)>>,
    /// How often a node that had left by itself was started again.
    pub restarts: u32,
    /// When machines were started.
    pub started: Vec<(Host, Duration)>,
}

impl Fleet {
    /// Machines without any node yet.
    pub fn new(seed: u64, shape: Shape, trace: Trace) -> Fleet {
        let (watch, wires) = (Watch::default(), Wires::new(seed ^ 1, trace.clone()));
        Fleet {
            shape,
            seed,
            trace,
            watch,
            wires,
            machines: BTreeMap::new(),
            down: BTreeMap::new(),
            images: BTreeMap::new(),
            worn: BTreeMap::new(),
            filled: BTreeMap::new(),
            refuses: Arc::default(),
            dark: BTreeMap::new(),
            gone: BTreeMap::new(),
            rotted: 0,
            spoilt: 0,
            undone_batches: 0,
            undone: BTreeMap::new(),
            restarts: 0,
            started: Vec::new(),
        }
    }

    /// Puts a machine up and starts a node on it. `waits` if an operator is to take it in.
    pub fn add(&mut self, sim: &mut Sim<'_>, host: Host, waits: bool) {
        let seed = StdRng::seed_from_u64(self.seed ^ (u64::from(host.0) << 32)).random();
        let machine = Arc::new(Machine {
            host,
            disk: Mutex::new(Disk::new(host, seed, self.watch.clone())),
            calendar_off_ms: 0.into(),
            slept: Mutex::default(),
            boots: 0.into(),
            waits: waits.into(),
            seed,
            wires: self.wires.clone(),
        });
        self.machines.insert(host, Arc::clone(&machine));
        let (shape, trace, watch) = (self.shape, self.trace.clone(), self.watch.clone());
        let (machine, refuses) = (Rc::new(machine), Arc::clone(&self.refuses));
        let start = move || start(Arc::clone(&machine), shape, trace.clone(), watch.clone(), refuses.clone());
        sim.host(host.ip(), start);
        self.started.push((host, sim.elapsed()));
        self.trace.event(&format!("{host}  begins"));
    }

    /// Machines, those that are down included.
    pub fn hosts(&self) -> Vec<Host> {
        self.machines.keys().copied().collect()
    }

    /// Machines that are not down on purpose.
    pub fn up(&self) -> Vec<Host> {
        self.hosts().into_iter().filter(|host| !self.down.contains_key(host)).collect()
    }

    /// How many there were at first.
    pub fn hosts_at_first(&self) -> usize {
        usize::from(self.shape.nodes)
    }

    /// Into how many partitions keys are divided.
    pub fn partitions(&self) -> u16 {
        self.shape.partitions
    }

    /// How many are down, on purpose or by themselves.
    pub fn not_running(&self) -> usize {
        self.down.len() + self.gone.len()
    }

    /// A machine.
    pub fn machine(&self, host: Host) -> &Arc<Machine> {
        self.machines.get(&host).expect("the run names only machines that it has put up")
    }

    /// Ends the node on a machine as rudely as can be.
    pub fn take_down(&mut self, sim: &mut Sim<'_>, host: Host, how: Down) {
        self.notice_the_gone(sim);
        self.gone.remove(&host);
        if how == Down::PowerCut {
            // Nobody hears a word of it: what the runtime says as it ends stays behind the cut.
            let others: Vec<Host> =
                self.hosts().into_iter().chain([super::CLIENT]).filter(|other| *other != host).collect();
            others.iter().for_each(|other| self.wires.cut(host, *other));
            self.dark.insert(host, others);
        }
        sim.crash(host.ip());
        self.down.insert(host, how);
        self.trace.event(&format!("{host}  {how:?}"));
        match how {
            Down::Killed => self.machine(host).disk().kill(),
            Down::PowerCut => self.lose_unsynced(host, sim.elapsed()),
        }
    }

    fn lose_unsynced(&mut self, host: Host, now: Duration) {
        let Undone { batches, records, since } = self.machine(host).disk().crash();
        if batches > 0 {
            self.trace.event(&format!("{host}  {batches} batches were not synced and are gone"));
        }
        self.undone_batches += batches;
        for id in records {
            self.undone.entry(id).or_default().push((since, now));
        }
    }

    /// Starts a node again on a machine.
    pub fn bring_up(&mut self, sim: &mut Sim<'_>, host: Host) {
        if self.down.remove(&host) == Some(Down::PowerCut) {
            for other in self.dark.remove(&host).unwrap_or_default() {
                self.wires.reset(host, other);
                self.wires.mend(host, other);
            }
        }
        self.gone.remove(&host);
        sim.bounce(host.ip());
        self.started.push((host, sim.elapsed()));
        self.trace.event(&format!("{host}  starts"));
    }

    /// Puts an empty disk in a machine that is down. What starts on it is another node.
    pub fn wipe(&mut self, host: Host) {
        let machine = self.machine(host);
        let seed = machine.seed.wrapping_add(machine.boots.load(Ordering::Relaxed));
        *machine.disk.lock().unwrap_or_else(PoisonError::into_inner) =
            Disk::new(host, seed, self.watch.clone());
        machine.waits.store(true, Ordering::Relaxed);
        self.watch.harmed();
        self.trace.event(&format!("{host}  gets an empty disk"));
    }

    /// Takes an image of the disk of a machine, for later.
    pub fn take_image(&mut self, host: Host) {
        let machine = self.machine(host);
        let image = machine.disk().image(machine.seed.wrapping_add(1));
        self.images.insert(host, image);
        self.trace.event(&format!("{host}  an image of its disk is taken"));
    }

    /// Puts the image in a machine that is down: what starts on it has forgotten everything since. Nothing if there is none.
    pub fn put_back(&mut self, host: Host) {
        if let Some(image) = self.images.remove(&host) {
            *self.machine(host).disk.lock().unwrap_or_else(PoisonError::into_inner) = image;
            self.watch.harmed();
            self.trace.event(&format!("{host}  has its disk of before again"));
        }
    }

    /// Sets a machine's calendar.
    pub fn set_calendar(&self, host: Host, off_ms: i64) {
        self.machine(host).calendar_off_ms.store(off_ms, Ordering::Relaxed);
        self.trace.event(&format!("{host}  calendar off by {off_ms} ms"));
    }

    /// The machine is suspended, or goes on: its clock knows nothing of the time between.
    pub fn set_asleep(&self, host: Host, asleep: bool, now: Duration) {
        self.machine(host).set_asleep(asleep, now);
        self.trace.event(&format!("{host}  {}", if asleep { "falls asleep" } else { "wakes up" }));
    }

    /// Spoils records on a machine's disk, if it lacks no family: see [`Fleet::spoil`].
    pub fn rot(&mut self, host: Host, hinted: bool) {
        if self.machine(host).disk().rows.lacks_any() {
            return;
        }
        let records = self.machine(host).disk().rot(hinted);
        self.rotted += records;
        self.watch.harmed();
        self.trace.event(&format!("{host}  {records} records can't be read any more"));
    }

    /// Spoils a family of the disk of a machine that is down, if all its records can be read: RocksDB's twin does without the one only
    /// if the other can be made from these. A disk of which both are bad is one to be replaced.
    pub fn spoil(&mut self, host: Host, family: Family) {
        let rows = &self.machine(host).disk().rows;
        if rows.corrupted() > 0 {
            return;
        }
        rows.spoil(family);
        self.spoilt += 1;
        self.watch.harmed();
        self.trace.event(&format!("{host}  {family:?} can't be read any more"));
    }

    /// Makes a machine's disk as bad as that.
    pub fn set_wear(&mut self, host: Host, wear: Wear, now: Duration) {
        let (worn, filled) = (&mut self.worn, &mut self.filled);
        for (is_so, times, at_most) in [(wear.fails(), worn, WORN_MAX), (wear.full, filled, RESTART_AFTER)] {
            match (is_so, times.get_mut(&host)) {
                (true, _) => drop(times.insert(host, Duration::MAX)),
                (false, Some(until)) => *until = (*until).min(now + at_most),
                (false, None) => {}
            }
        }
        self.machine(host).disk().set_wear(wear, now);
        self.trace.event(&format!("{host}  {wear:?}"));
    }

    /// A digest of what clients were told and of what is on all disks.
    pub fn outcome(&self, entries: &[Entry]) -> u64 {
        let mut hash = Xxh3::new();
        for entry in entries {
            hash.update(format!("{entry:?}").as_bytes());
        }
        for machine in self.machines.values() {
            for family in [Family::Records, Family::Hints, Family::Meta] {
                for (key, value) in machine.disk().rows.rows(family) {
                    hash.update(&key);
                    hash.update(&value);
                }
            }
        }
        hash.digest()
    }

    /// Starts again what has left by itself: a node leaves when its disk fails, and somebody restarts it. Nothing else is a reason to
    /// leave.
    pub fn restart_the_gone(&mut self, sim: &mut Sim<'_>) {
        self.notice_the_gone(sim);
        let is_due = |since: &Duration| *since + RESTART_AFTER <= sim.elapsed();
        let due: Vec<Host> =
            self.gone.iter().filter(|(_, since)| is_due(since)).map(|(host, _)| *host).collect();
        for host in due {
            self.restarts += 1;
            // A sync that failed may have left what was not synced nowhere but in memory, and the system forgets that.
            match self.machine(host).disk().tosses() {
                true => self.lose_unsynced(host, sim.elapsed()),
                false => self.machine(host).disk().kill(),
            }
            self.bring_up(sim, host);
        }
    }

    /// Who has left by itself, and whether there was a reason: without room a node may refuse to start, and who runs goes on.
    fn notice_the_gone(&mut self, sim: &mut Sim<'_>) {
        for host in self.up() {
            if sim.is_host_running(host.ip()) || self.gone.contains_key(&host) {
                continue;
            }
            self.gone.insert(host, sim.elapsed());
            let refuses = self.refuses.lock().unwrap_or_else(PoisonError::into_inner).remove(&host);
            let may = |times: &BTreeMap<Host, Duration>| {
                times.get(&host).is_some_and(|until| sim.elapsed() <= *until)
            };
            if !(may(&self.worn) || refuses && may(&self.filled)) {
                self.watch.broken(format!("{host} has left by itself, and its disk was no reason to"));
            }
        }
    }
}

async fn start(
    machine: Arc<Machine>,
    shape: Shape,
    trace: Trace,
    watch: Watch,
    refuses: Arc<Mutex<BTreeSet<Host>>>,
) -> turmoil::Result {
    let host = machine.host;
    super::log::here(host);
    let config = config(&machine, shape);
    let world = SimWorld::start(machine);
    let (_stop, stopping) = watch_shutdown();
    match boot::run(world, config, BucketSettings::default(), stopping, None).await {
        Err(boot::BootError::Failed(why)) => trace.event(&format!("{host}  leaves: {why}")),
        Err(boot::BootError::Store(why @ StoreError::Full(_))) => {
            refuses.lock().unwrap_or_else(PoisonError::into_inner).insert(host);
            trace.event(&format!("{host}  does not start: {why}"));
        }
        Err(boot::BootError::Store(why)) => trace.event(&format!("{host}  does not start: {why}")),
        other => watch.broken(format!("{host} ended by itself: {other:?}")),
    }
    Ok(())
}

fn watch_shutdown() -> (watch::Sender<bool>, watch::Receiver<bool>) {
    watch::channel(false)
}

/// The configuration by its own front door, so that it is one that a user could have.
fn config(machine: &Machine, shape: Shape) -> Config {
    let first = machine.host == Host(1) && machine.boots.load(Ordering::Relaxed) == 0;
    let seeds = (1..=SEEDS).map(Host).filter(|seed| *seed != machine.host);
    let args = NodeArgs {
        http: Some(format!("0.0.0.0:{HTTP_PORT}")),
        peer: Some(format!("0.0.0.0:{PEER_PORT}")),
        seeds: if first {
            Vec::new()
        } else {
            seeds.map(|seed| format!("{}:{PEER_PORT}", seed.ip())).collect()
        },
        partitions: Some(shape.partitions.to_string()),
        join: Some(if machine.waits.load(Ordering::Relaxed) { "manual" } else { "auto" }.into()),
        insecure: true,
        ..NodeArgs::default()
    };
    let env = |name: &str| (name == "CARTWHEEL_REAP_GRACE_MS").then(|| shape.reap_grace_ms.to_string());
    Config::load(&args, &env, &|_| Ok(())).expect("the simulation's configuration is a valid one")
}
