//! A cluster whose sides change all the time while operators on each of them let nodes join, leave and take places, and give
//! up whom they can't reach: at no moment two layouts of one stamp, an owner that was removed, or fewer owners than there
//! were and a bucket wants; and once all meet again, one regime.
//!
//! A node is its view, and whom it believes to be down is whom it can't reach. Everything it may do at a moment (hear another,
//! say by which tables it acts, say that it is done, take a step) is one event, and chance orders them. Fetching always
//! succeeds: what a newcomer has is not what this is about.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use ring::ids::{ClusterId, NodeId, Zone};
use ring::members::{Change, Description, Regime, Settled, Status, Step, View, Why, next};
use std::collections::{BTreeMap, BTreeSet};

/// The greatest n of a bucket.
const N: usize = 3;
/// Members at the start, and nodes that wait.
const NEWCOMERS: usize = 3;
/// A few do: what is tried here is who owns, and not what.
const PARTITIONS: u16 = 2;
const PHASES: usize = 6;
/// The most that happens between two changes.
const EVENTS: usize = 200;

/// Whether operators say by force what is not so: that those on the other side will never come back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Force {
    Never,
    AtTimes,
}

struct Sides {
    rng: StdRng,
    force: Force,
    views: Vec<View>,
    regimes: Vec<Regime>,
    /// On which side each node is.
    side: Vec<usize>,
    /// Who does something by itself. The others hear, and are slow.
    awake: Vec<bool>,
    /// What was settled, by its stamp.
    settled: BTreeMap<u64, Settled>,
    commits: usize,
}

fn node(at: usize) -> NodeId {
    NodeId(at as u128)
}

impl Sides {
    fn new(seed: u64, force: Force) -> Sides {
        let mut rng = StdRng::seed_from_u64(seed);
        let members = rng.random_range(3..=7);
        let mut view = View::new(ClusterId(1), PARTITIONS);
        for at in 0..members + NEWCOMERS {
            let (http, peer) = (format!("h{at}"), format!("p{at}"));
            let described =
                Description { http, peer, zone: Zone::default(), weight: 1, starts: 1, boot_id: 1 };
            view.admit(node(at), described).expect("there is room");
            if at < members {
                view.set_status(node(at), Status::Up).expect("a newcomer comes up");
            }
        }
        view.found();
        let (views, side) = (vec![view; members + NEWCOMERS], vec![0; members + NEWCOMERS]);
        let awake = vec![true; views.len()];
        let regimes = views.iter().map(Regime::of).collect();
        let mut sides =
            Sides { rng, force, views, regimes, side, awake, settled: BTreeMap::new(), commits: 0 };
        (0..sides.views.len()).for_each(|at| sides.look(at));
        sides
    }

    fn doubted(&self, at: usize) -> BTreeSet<NodeId> {
        (0..self.side.len()).filter(|other| self.side[*other] != self.side[at]).map(node).collect()
    }

    fn change(&mut self, at: usize, change: impl FnOnce(&mut View)) {
        let before = self.views[at].clone();
        change(&mut self.views[at]);
        if !Regime::same(&before, &self.views[at]) {
            self.regimes[at] = Regime::of(&self.views[at]);
        }
        self.look(at);
    }

    /// What must hold at every moment of every view.
    fn look(&mut self, at: usize) {
        let (view, settled) = (&self.views[at], &self.views[at].settled);
        let owners = settled.layout.members();
        assert!(!owners.is_empty(), "somebody owns the ring");
        let before = settled.previous.as_ref().map_or(0, |previous| previous.members().len());
        assert!(owners.len() >= N.min(before), "{} owners after {before}", owners.len());
        if self.force == Force::AtTimes {
            return;
        }
        let first = self.settled.entry(settled.stamp).or_insert_with(|| settled.clone());
        assert_eq!(first, settled, "two layouts of one stamp");
        for owner in owners {
            assert_ne!(view.members[&owner.id].status, Status::Removed, "an owner was removed");
        }
    }

    fn hear(&mut self, at: usize, from: usize) {
        let theirs = self.views[from].clone();
        if self.views[at] != theirs {
            self.change(at, |view| assert!(view.merge(&theirs).is_ok()));
        }
    }

    fn step(&self, at: usize) -> Step {
        next(&self.views[at], &self.regimes[at], &BTreeSet::from([N as u8]), &self.doubted(at))
    }

    /// What a node does by itself. Whether there was anything.
    fn act(&mut self, at: usize) -> bool {
        let (me, regime) = (node(at), self.regimes[at].clone());
        let (before, name) = (self.views[at].clone(), regime.name().digest);
        let acting = before.members[&me].acting;
        if regime.nodes().contains(&me) && acting.regime != name {
            self.change(at, |view| assert!(view.act(me, name, false)));
            return true;
        }
        match self.step(at) {
            Step::Fill(_) if !acting.done && regime.nodes().contains(&me) => {
                self.change(at, |view| assert!(view.act(me, name, true)));
            }
            step => self.change(at, |view| assert!(view.advance(me, &regime, &step).is_ok())),
        }
        self.views[at] != before
    }

    fn operate(&mut self, at: usize) {
        self.commit(at, |sides| {
            let count = sides.views.len();
            let (id, new) = (sides.rng.random_range(0..count), sides.rng.random_range(0..count));
            let (id, new, force) = (node(id), node(new), sides.by_force());
            match sides.rng.random_range(0..6) {
                0 => vec![Change::Join(id)],
                1 => vec![Change::Replace { old: id, new, force }],
                2 | 3 => vec![Change::Leave { id, force }],
                _ => sides.give_up_all(at),
            }
        });
    }

    fn by_force(&mut self) -> bool {
        self.force == Force::AtTimes && self.rng.random_bool(0.5)
    }

    /// All at once whom a node takes for lost.
    fn give_up_all(&mut self, at: usize) -> Vec<Change> {
        let force = self.by_force();
        let may_go = |id: &NodeId| self.views[at].members[id].status == Status::Up;
        let lost = self.doubted(at).into_iter().filter(may_go);
        lost.map(|id| Change::Leave { id, force }).collect()
    }

    fn commit(&mut self, at: usize, changes: impl FnOnce(&mut Sides) -> Vec<Change>) {
        let (changes, lost) = (changes(self), self.doubted(at));
        let mut committed = false;
        self.change(at, |view| {
            view.clear_staged(node(at));
            if view.stage(node(at), changes, N, &lost).is_ok() {
                let hash = view.plan_hash(&lost);
                committed = view.commit(node(at), hash, N, &lost).is_ok();
            }
        });
        self.commits += usize::from(committed);
    }

    /// Sides form, somebody on each of them changes something, and then one may go over to the other side, as a bridge that
    /// carries what it knows, while something is changed there. Some of the time some nodes only hear, and are slow.
    fn run(&mut self) {
        match self.rng.random_range(0..3) {
            0 => self.halves(),
            1 => self.bridge(),
            _ => {}
        }
        for _ in 0..PHASES {
            let (sides, slow) = (self.rng.random_range(1..=3), self.rng.random_bool(0.4));
            for at in 0..self.views.len() {
                self.side[at] = self.rng.random_range(0..sides);
                self.awake[at] = !slow || self.rng.random_bool(0.5);
            }
            for side in 0..sides {
                self.operate_on(side);
            }
            self.go_on();
            if self.rng.random_bool(0.5) {
                let (bridge, to) =
                    (self.rng.random_range(0..self.views.len()), self.rng.random_range(0..sides));
                self.side[bridge] = to;
                self.operate_on(to);
                self.go_on();
            }
        }
    }

    /// Two sides, on each of which somebody gives up all others at once.
    fn halves(&mut self) {
        let members = self.views.len() - NEWCOMERS;
        (0..self.views.len()).for_each(|at| self.side[at] = usize::from(at < members / 2));
        for at in [0, members - 1] {
            self.commit(at, |sides| sides.give_up_all(at));
        }
        for _ in 0..4 {
            self.go_on();
        }
    }

    /// Most let a newcomer in; one of them, having agreed or not, goes over to the rest, who are most then, and gives up those
    /// that it comes from.
    fn bridge(&mut self) {
        let members = self.views.len() - NEWCOMERS;
        let bridge = members / 2;
        for at in 0..self.views.len() {
            self.side[at] = usize::from(at > bridge && at != members);
        }
        self.commit(0, |_| vec![Change::Join(node(members))]);
        self.go_on();
        self.side[bridge] = 1;
        self.commit(bridge, |sides| sides.give_up_all(bridge));
        for _ in 0..4 {
            self.go_on();
        }
    }

    fn operate_on(&mut self, side: usize) {
        let there: Vec<usize> = (0..self.side.len()).filter(|at| self.side[*at] == side).collect();
        if let Some(at) = there.choose(&mut self.rng) {
            self.operate(*at);
        }
    }

    fn go_on(&mut self) {
        for _ in 0..self.rng.random_range(10..EVENTS) {
            let at = self.rng.random_range(0..self.views.len());
            if self.rng.random_bool(0.5) {
                let near = (0..self.side.len()).filter(|other| self.side[*other] == self.side[at]);
                let near: Vec<usize> = near.collect();
                let from = *near.choose(&mut self.rng).expect("it is near itself");
                self.hear(at, from);
            } else if self.awake[at] {
                self.act(at);
            }
        }
    }

    /// All meet again. Where too few would be left, an operator calls back those who have not gone, one after the other.
    fn heal(&mut self) {
        self.side.iter_mut().for_each(|side| *side = 0);
        for _ in 0..100 {
            self.come_to_rest();
            let Step::Wait(waits) = self.step(0) else { break };
            assert!(waits.iter().all(|wait| wait.why == Why::TooFew), "stuck: {waits:?}");
            let could = self.views[0]
                .members
                .iter()
                .filter(|(_, member)| member.status == Status::Joining || member.status.leaves());
            let id = *could.map(|(id, _)| id).next().expect("somebody could be called back");
            self.change(0, |view| {
                view.clear_staged(node(0));
                view.stage(node(0), vec![Change::Join(id)], N, &BTreeSet::new()).expect("he may join");
                let hash = view.plan_hash(&BTreeSet::new());
                view.commit(node(0), hash, N, &BTreeSet::new()).expect("it is what was staged");
            });
        }
    }

    fn come_to_rest(&mut self) {
        for _ in 0..1_000 {
            let mut moved = false;
            for at in 0..self.views.len() {
                for from in 0..self.views.len() {
                    moved |= self.views[at] != self.views[from];
                    self.hear(at, from);
                }
                moved |= self.act(at);
            }
            if !moved {
                return;
            }
        }
        panic!("it never comes to rest: {:?}", self.step(0));
    }

    fn is_one(&self) {
        let view = &self.views[0];
        assert!(self.views.iter().all(|other| other == view), "all know the same");
        assert_eq!(self.step(0), Step::Rest);
        let owners: Vec<NodeId> = view.settled.layout.members().iter().map(|member| member.id).collect();
        let claimants: Vec<NodeId> = view.claimants().iter().map(|claimant| claimant.id).collect();
        assert_eq!(owners, claimants, "whoever should own the ring does");
        assert!(owners.len() >= N, "{owners:?}");
    }
}

#[test]
fn however_the_sides_change_there_is_one_history_and_in_the_end_one_regime() {
    let (mut commits, mut steps) = (0, 0);
    for seed in 0..600 {
        let mut sides = Sides::new(seed, Force::Never);
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            sides.run();
            sides.heal();
            sides.is_one();
        }));
        assert!(ran.is_ok(), "seed {seed}");
        commits += sides.commits;
        steps += sides.settled.len() - 1;
    }
    assert!(commits > 1_000 && steps > 1_000, "{commits} commits and {steps} steps mean nothing");
}

/// By force both sides can go their own way: then one of the layouts of one stamp wins, and still nobody is left without one.
#[test]
fn also_after_both_sides_have_written_off_each_other_there_is_one_regime_with_owners() {
    for seed in 0..200 {
        let mut sides = Sides::new(seed, Force::AtTimes);
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            sides.run();
            sides.heal();
            sides.is_one();
        }));
        assert!(ran.is_ok(), "seed {seed}");
    }
}
