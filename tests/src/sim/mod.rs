//! The whole cluster in one thread, under bad luck that a seed chooses and repeats.
//!
//! ```text
//!   seed ─► Shape, Schedule of troubles ─┐
//!                                        ▼
//!   turmoil::Sim ── hosts n1…n5: boot::run(SimWorld, config) ── frames through Wires ── rows on Disks
//!        │                                                        │                       │
//!        └─ client: the real client library, workloads            └── Trace               └── Watch
//!
//!   come up ─► load under troubles ─► heal ─► all replicas identical, nobody reads ─► read back ─► checkers
//! ```
//!
//! The node's code is production's, from [`node::boot::run`] on: the world is a type parameter and this is another one.
//! Nothing here may know of real time or chance: the same seed gives the same bytes on the same wires, and a test holds
//! two runs of each seed against each other.

pub mod converged;
mod deeds;
pub mod disk;
mod excuses;
pub mod fleet;
pub mod log;
mod operator;
mod people;
pub mod plagues;
#[cfg(feature = "planted")]
pub mod planted;
mod receipts;
mod report;
mod rest;
pub mod scenes;
pub mod seeds;
pub mod trace;
pub mod transport;
pub mod watch;
pub mod wires;
pub mod world;

pub use report::Report;

use chaos::check;
use chaos::history::History;
use chaos::workload::{Joined, Kind};
use excuses::Excuses;
use fleet::{Fleet, Shape};
use operator::{Gone, Operator, Order};
use people::{People, Told};
use plagues::{Deed, Plague, Schedule};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use receipts::Receipts;
use ring::ids::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch as channel};
use trace::Trace;
use transport::SimTransport;
use turmoil::Sim;
use wires::Host;

/// Where clients and the operator are.
pub const CLIENT: Host = Host(100);
/// The grain of simulated time. A tenth of the shortest time-out of the node (50 ms), and less than any latency of interest.
const TICK: Duration = Duration::from_millis(5);
/// How long a cluster may take to come up where nothing is wrong.
const COME_UP_MAX: Duration = Duration::from_secs(30);
/// How long it may take until all replicas are identical after the last trouble.
const HEAL_MAX: Duration = Duration::from_secs(60);
/// How long a rest and reading back may take.
const READ_BACK_MAX: Duration = Duration::from_secs(120 + rest::REST.as_secs());
/// How long identical replicas are watched for repairs. Trees are compared twice, two seconds apart.
const REST: Duration = Duration::from_secs(5);
/// How long clients wait for an answer. Those who give up late are stuck at a node that does not answer, and are few.
const PATIENCE: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(10)];
/// How often the disks are compared while the cluster heals.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What is to be run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// Simulated time of load and troubles.
    pub load: Duration,
    /// Whether to keep the lines of the trace.
    pub keep_lines: bool,
    /// What all clients do and how, if the seed is not to draw that.
    pub only: Option<Only>,
}

/// What all clients do, and how they are where the seed is not to draw that.
#[derive(Clone, Copy, Debug)]
pub struct Only {
    /// What they do.
    pub kind: Kind,
    /// Whether they insist on a majority of the owners.
    pub strict: Option<bool>,
    /// How long they wait for an answer.
    pub patience: Option<Duration>,
}

/// Where a run is; the clients go by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Nodes come up.
    ComeUp,
    /// Buckets are set up, and every node hears of it.
    Prepare,
    /// Clients write and read, troubles happen.
    Load,
    /// Nobody asks for anything.
    Quiet,
    /// What was written is read again.
    ReadBack,
    /// It is over.
    Done,
}

/// Runs one seed from beginning to end.
pub fn run(options: Options) -> Report {
    let mut chance = StdRng::seed_from_u64(options.seed);
    let shape = plagues::shape(&mut chance);
    run_by(options, shape, chance, |chance| Schedule::draw(chance, shape, Duration::ZERO, options.load))
}

/// Runs a script instead of troubles that the seed draws; the rest is the seed's.
pub fn run_script(options: Options, shape: Shape, deeds: Vec<(Duration, Deed)>) -> Report {
    let chance = StdRng::seed_from_u64(options.seed);
    run_by(options, shape, chance, |chance| Schedule::script(chance, shape, deeds))
}

fn run_by(
    options: Options,
    shape: Shape,
    chance: StdRng,
    schedule: impl FnOnce(StdRng) -> Schedule,
) -> Report {
    let trace = Trace::new(options.keep_lines);
    log::belongs_to(&trace);
    let mut run = Run::new(options, shape, chance, trace, schedule);
    // An assertion that does not hold is a finding like any other, and the seed repeats it.
    let result = catch_unwind(AssertUnwindSafe(|| run.go()));
    match result {
        Ok(Ok(())) => {}
        Ok(Err(why)) => run.fleet.watch.broken(why),
        Err(_) => run.fleet.watch.broken(format!("a panic: {}", log::last_panic())),
    }
    run.report()
}

struct Run<'a> {
    options: Options,
    shape: Shape,
    sim: Sim<'a>,
    fleet: Fleet,
    trace: Trace,
    schedule: Schedule,
    plagues: Vec<Plague>,
    stage: channel::Sender<Stage>,
    orders: mpsc::UnboundedSender<Order>,
    ordered: usize,
    carried_out: channel::Receiver<usize>,
    /// Whether the clients are done with what they do at this stage.
    idle: channel::Receiver<bool>,
    /// Machines with a new node that is to take the old one's place, as soon as it has a name.
    to_replace: Vec<(Host, NodeId)>,
    /// What a wiped machine's node was called.
    wiped: BTreeMap<Host, NodeId>,
    /// Those of them whose disk is gone, for the operator.
    gone: Gone,
    history: History,
    /// What the last look at all disks has found, and how much had been written by then.
    looked: Option<((u64, usize), Option<String>)>,
    healed_after: Option<Duration>,
    joined: Joined,
    /// How long the history was when the load was over.
    loaded: usize,
    /// Troubles that have come upon whom, of those that leave traces in what nodes say.
    came: BTreeSet<(Plague, Host)>,
    excuses: Excuses,
    /// What clients have seen in the end.
    told: Rc<Told>,
    receipts: Receipts,
}

impl<'a> Run<'a> {
    fn new(
        options: Options,
        shape: Shape,
        mut chance: StdRng,
        trace: Trace,
        schedule: impl FnOnce(StdRng) -> Schedule,
    ) -> Run<'a> {
        let mut sim = turmoil::Builder::new()
            .rng_seed(chance.random())
            .tick_duration(TICK)
            .min_message_latency(Duration::from_millis(chance.random_range(0..5)))
            .max_message_latency(Duration::from_millis(
                *[5u64, 20, 60].choose(&mut chance).expect("not empty"),
            ))
            .simulation_duration(Duration::from_secs(24 * 3600))
            .tcp_capacity(4096)
            .udp_capacity(64)
            .ephemeral_ports(1024..=8000)
            .epoch(std::time::UNIX_EPOCH)
            .enable_random_order()
            .build();
        let mut fleet = Fleet::new(chance.random(), shape, trace.clone());
        (1..=shape.nodes).for_each(|n| fleet.add(&mut sim, Host(n), false));
        let schedule = schedule(StdRng::seed_from_u64(chance.random()));
        schedule.wrong_from_the_start.iter().for_each(|(host, off_ms)| fleet.set_calendar(*host, *off_ms));
        let (stage, stages) = channel::channel(Stage::ComeUp);
        let (orders, inbox) = mpsc::unbounded_channel();
        let (done, carried_out) = channel::channel(0);
        let (idle, is_idle) = channel::channel(false);
        let (hears, receipts, watch) = (trace.clone(), Receipts::default(), fleet.watch.clone());
        let notes = receipts.clone();
        let history = History::new(Arc::new(|| turmoil::sim_elapsed().unwrap_or_default())).told_to(
            Arc::new(move |what| {
                hears.event(&format!("client  {what}"));
                notes.hear(what, &watch);
            }),
        );
        let wrong = schedule.wrong_from_the_start.iter().map(|(host, _)| *host);
        let came = wrong.clone().map(|host| (Plague::Calendar, host)).collect();
        let mut excuses = Excuses::default();
        wrong.for_each(|host| excuses.is_wrong(host));
        let gone = Gone::default();
        let joined: Joined = Arc::default();
        let told: Rc<Told> = Rc::default();
        let drawn = *PATIENCE.choose(&mut chance).expect("the list is not empty");
        let patience = options.only.and_then(|only| only.patience).unwrap_or(drawn);
        let people = People {
            load: options.load,
            only: options.only,
            transport: SimTransport::new(fleet.wires.clone(), CLIENT),
            nodes: (1..=shape.nodes).map(Host).collect(),
            joined: Arc::clone(&joined),
            told: Rc::clone(&told),
            patience,
            chance,
            aside: StdRng::seed_from_u64(!options.seed),
            stages,
            idle,
            history: history.clone(),
            watch: fleet.watch.clone(),
        };
        let may_lose = schedule.plagues.iter().any(|plague| plague.takes_a_disk());
        let operator = Operator { gone: gone.clone(), may_lose };
        sim.client(CLIENT.ip(), people.live(inbox, done, operator));
        Run {
            options,
            shape,
            sim,
            fleet,
            trace,
            plagues: schedule.plagues.clone(),
            schedule,
            stage,
            orders,
            ordered: 0,
            carried_out,
            idle: is_idle,
            to_replace: Vec::new(),
            wiped: BTreeMap::new(),
            history,
            looked: None,
            healed_after: None,
            joined,
            loaded: usize::MAX,
            came,
            told,
            receipts,
            excuses,
            gone,
        }
    }

    fn go(&mut self) -> Result<(), String> {
        self.until_identical(COME_UP_MAX)?;
        self.stage.send_replace(Stage::Prepare);
        self.until("buckets are set up", COME_UP_MAX, |run| Ok(*run.idle.borrow()))?;
        self.stage.send_replace(Stage::Load);
        let began = self.sim.elapsed();
        while self.sim.elapsed() - began < self.options.load {
            while let Some(deed) = self.schedule.next(self.sim.elapsed() - began) {
                self.carry_out(deed);
            }
            self.step()?;
        }
        self.heal()?;
        self.loaded = self.history.entries().len();
        self.stage.send_replace(Stage::ReadBack);
        self.until("everything is read back", READ_BACK_MAX, |run| Ok(*run.stage.borrow() == Stage::Done))
    }

    /// The last trouble is over and nobody asks for anything: all replicas become identical by themselves.
    fn heal(&mut self) -> Result<(), String> {
        self.trace.event("everything heals");
        for deed in self.schedule.finish() {
            // What was begun is ended: wiped machines come back and are replaced, leavers leave.
            if matches!(
                deed,
                Deed::Up(_)
                    | Deed::Asleep(_, false)
                    | Deed::ReplaceWiped(_)
                    | Deed::Leave(_)
                    | Deed::Add { .. }
                    | Deed::Replace { .. }
            ) {
                self.carry_out(deed);
            }
        }
        self.fleet.wires.mend_all();
        for host in self.fleet.hosts() {
            if !self.fleet.up().contains(&host) {
                self.fleet.bring_up(&mut self.sim, host);
            }
            self.fleet.set_wear(host, disk::Wear::default(), self.sim.elapsed());
        }
        self.stage.send_replace(Stage::Quiet);
        self.healed_after = Some(self.until_identical(HEAL_MAX)?);
        self.excuses.healed(self.sim.elapsed());
        self.trace.event("all replicas are identical");
        Ok(())
    }

    /// Goes on until every replica has what it must have and nobody anything else, and until for a while nobody has repaired
    /// anything. Says how long the first took.
    fn until_identical(&mut self, at_most: Duration) -> Result<Duration, String> {
        let began = self.sim.elapsed();
        let (mut since, mut changes) = (None, 0);
        // What was done to disks while their nodes were down was no batch.
        self.looked = None;
        loop {
            let look = self.sim.elapsed() + LOOK_EVERY;
            while self.sim.elapsed() < look {
                self.step()?;
            }
            let now = self.sim.elapsed();
            let mut objection = self.objection();
            if objection.is_some() || self.fleet.watch.changes() != changes {
                (since, changes) = (None, self.fleet.watch.changes());
                objection.get_or_insert_with(|| "records are still being repaired".into());
            }
            match objection {
                None if now - *since.get_or_insert(now) >= REST => return Ok(since.unwrap_or(now) - began),
                Some(objection) if now - began > at_most => {
                    return Err(format!("after {} s without any trouble {objection}", at_most.as_secs()));
                }
                _ => {}
            }
        }
    }

    fn objection(&mut self) -> Option<String> {
        if *self.carried_out.borrow() < self.ordered || !self.to_replace.is_empty() {
            return Some(format!(
                "an order of the operator's is not carried out: {}",
                converged::waits(&self.fleet)
            ));
        }
        if *self.stage.borrow() >= Stage::Load && !*self.idle.borrow() {
            return Some("clients wait for answers".into());
        }
        // Disks on which nothing was written since are as they were, and to read them all takes long.
        let written = (self.fleet.watch.batches(), self.fleet.started.len());
        if self.looked.as_ref().is_none_or(|(then, _)| *then != written) {
            self.looked = Some((written, converged::objection(&self.fleet)));
        }
        self.looked.as_ref().and_then(|(_, objection)| objection.clone())
    }

    fn until(
        &mut self,
        what: &str,
        at_most: Duration,
        done: impl Fn(&Self) -> Result<bool, String>,
    ) -> Result<(), String> {
        let began = self.sim.elapsed();
        while !done(self)? {
            if self.sim.elapsed() - began > at_most {
                return Err(format!("within {} s it is not so that {what}", at_most.as_secs()));
            }
            self.step()?;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), String> {
        self.fleet.restart_the_gone(&mut self.sim);
        for (host, old) in std::mem::take(&mut self.to_replace) {
            match self.id_on(host) {
                Some(new) => self.order(Order::Replace { old, new }),
                None => self.to_replace.push((host, old)),
            }
        }
        self.excuses.look(&self.fleet, self.sim.elapsed());
        let done = self.sim.step();
        self.trace.set_now(self.sim.elapsed());
        self.receipts.look(&self.fleet);
        // Of what is noticed at once the moment is worth most.
        for broken in self.fleet.watch.noticed() {
            self.trace.event(&format!("broken  {broken}"));
        }
        match done {
            Ok(over) => {
                if over {
                    self.stage.send_replace(Stage::Done);
                }
                Ok(())
            }
            Err(error) => Err(format!("a host ended: {error}")),
        }
    }

    fn report(self) -> Report {
        let entries = self.history.entries();
        let read_back = *self.stage.borrow() == Stage::Done;
        // Nobody can judge what nobody has read, and why it was not read is a violation already.
        let cuts = Some(self.schedule.separations + self.fleet.restarts);
        let (blurred, forgetful) = (self.excuses.blurred(&self.fleet), self.excuses.forgetful());
        let name = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let undone = self
            .fleet
            .undone
            .iter()
            .map(|(id, when)| ((name(id.bucket()), name(id.key())), when.clone()))
            .collect();
        let measure = check::Measure { cuts, blurred, undone, forgetful, ..check::Measure::default() };
        let judged = if read_back { check::all_by(&entries, &measure) } else { Vec::new() };
        let judged = judged.into_iter().map(|violation| violation.to_string());
        let simulated = self.sim.elapsed();
        let counts = check::count(&entries, None);
        // What is read back in the end is no load.
        let load = &entries[..self.loaded.min(entries.len())];
        let (fewest, idle) = report::fewest(load, self.options.load);
        let refused = report::refused_at_rest(&entries);
        let unexpected = log::unexpected(&self.came).into_iter().map(|line| format!("an error: {line}"));
        let rings = converged::other_tables(&self.fleet, &self.told.rings.borrow());
        let panic = Some(log::last_panic()).filter(|said| !said.is_empty());
        let panic = panic.map(|said| format!("a panic that was survived: {said}"));
        // Not only what was said on the wires: what clients were told and what is on the disks must repeat as well.
        let outcome = self.fleet.outcome(&entries);
        self.trace.event(&format!("what came of it: {outcome:016x}"));
        // A runtime that has panicked may panic once more as it goes.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(self.sim)));
        Report {
            seed: self.options.seed,
            shape: self.shape,
            plagues: self.plagues,
            violations: self
                .fleet
                .watch
                .violations()
                .into_iter()
                .chain(judged)
                .chain(unexpected)
                .chain(idle)
                .chain(refused)
                .chain(rings)
                .chain(panic)
                .collect(),
            simulated,
            healed_after: self.healed_after,
            rotted: self.fleet.rotted,
            spoilt: self.fleet.spoilt,
            forgotten: self.told.forgotten.get(),
            reads_unjudged: self.told.reads_unjudged.get(),
            receipts: self.receipts.held(),
            undone: self.fleet.undone_batches,
            counts,
            fewest,
            digest: self.trace.digest(),
            lines: self.trace.lines(),
            trace: self.trace.take(),
        }
    }
}
