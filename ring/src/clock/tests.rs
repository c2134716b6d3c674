//! Clocks of several nodes on one true time, with calendars that are off, jump, or change with a start.

use super::*;
use proptest::prelude::*;

const HOUR: i64 = 3_600_000;
const BEGIN: u64 = 1_800_000_000_000;

/// A machine: its monotonic clock began at some moment, and its calendar is off by so many milliseconds.
struct Machine {
    id: NodeId,
    owns: bool,
    began: u64,
    off: i64,
    clock: Clock,
}

/// A cluster on one true time in milliseconds.
struct Bench {
    at: u64,
    machines: Vec<Machine>,
}

impl Machine {
    fn now(&self, at: u64) -> Time {
        Time((at - self.began) * 1000)
    }

    fn calendar(&self, at: u64) -> Wall {
        Wall((BEGIN + at).saturating_add_signed(self.off))
    }

    fn restart(&mut self, at: u64, off: i64) {
        let kept = self.clock.keep(self.calendar(at), self.now(at));
        let kept = kept.map(|kept| Kept::from_bytes(&kept.to_bytes()).unwrap());
        (self.began, self.off) = (at, off);
        self.clock = Clock::start(kept, self.calendar(at), self.now(at));
    }
}

impl Bench {
    fn of(offs: &[i64]) -> Bench {
        let mut bench = Bench { at: 1000, machines: Vec::new() };
        offs.iter().for_each(|off| bench.join(*off));
        bench
    }

    fn join(&mut self, off: i64) {
        let began = self.at - (self.machines.len() as u64 * 7) % 1000;
        let clock = Clock::start(
            None,
            Wall((BEGIN + self.at).saturating_add_signed(off)),
            Time((self.at - began) * 1000),
        );
        let id = NodeId(self.machines.len() as u128 + 1);
        self.machines.push(Machine { id, owns: true, began, off, clock });
    }

    /// Everybody asks everybody who is `up`, with trips of so many milliseconds, and turns.
    fn exchange(&mut self, up: &[usize], trip: u64) {
        for to in up {
            for from in up.iter().filter(|from| *from != to) {
                let said = {
                    let other = &self.machines[*from];
                    other.clock.say(other.calendar(self.at), other.now(self.at))
                };
                let at = self.at;
                let me = &mut self.machines[*to];
                let asked = Time(me.now(at).0.saturating_sub(trip * 500));
                let from = NodeId(*from as u128 + 1);
                me.clock.hear(from, said, asked, Time(me.now(at).0 + trip * 500));
            }
        }
        let members: BTreeSet<NodeId> = self.machines.iter().map(|m| m.id).collect();
        let owners = self.machines.iter().filter(|m| m.owns).map(|m| m.id).collect();
        for at in up {
            let (calendar, now) = (self.machines[*at].calendar(self.at), self.machines[*at].now(self.at));
            let say = Say { me: self.machines[*at].id, members: &members, owners: &owners };
            self.machines[*at].clock.turn(&say, calendar, now);
        }
    }

    fn pass(&mut self, ms: u64, up: &[usize]) {
        for _ in 0..ms / 500 {
            self.at += 500;
            self.exchange(up, 2);
        }
    }

    fn shows(&mut self, at: usize) -> i64 {
        let now = self.machines[at].now(self.at);
        self.machines[at].clock.read(now).0 as i64 - (BEGIN + self.at) as i64
    }

    fn all_within(&mut self, ms: i64) {
        let shown: Vec<i64> = (0..self.machines.len()).map(|at| self.shows(at)).collect();
        let (least, most) = (shown.iter().min().unwrap(), shown.iter().max().unwrap());
        assert!(most - least <= ms, "the clocks show {shown:?} beyond the truth");
    }
}

#[test]
fn one_that_is_an_hour_off_shows_what_the_others_show() {
    for off in [HOUR, -HOUR] {
        for bad in 0..3 {
            let mut offs = [0, 3, -3];
            offs[bad] = off;
            let mut bench = Bench::of(&offs);
            bench.pass(2000, &[0, 1, 2]);
            bench.all_within(10);
            assert!(bench.shows(bad).abs() < 50, "{}", bench.shows(bad));
            assert!(bench.machines.iter().all(|m| m.clock.is_sure()));
        }
    }
}

#[test]
fn a_calendar_that_is_set_changes_nothing_that_is_seen() {
    let mut bench = Bench::of(&[0, 0, 0]);
    bench.pass(2000, &[0, 1, 2]);
    for off in [HOUR, -HOUR, 24 * HOUR, 0] {
        bench.machines[1].off = off;
        bench.pass(20_000, &[0, 1, 2]);
        bench.all_within(10);
        assert!(bench.shows(1).abs() < 20, "{}", bench.shows(1));
    }
}

#[test]
fn whoever_starts_alone_with_a_wrong_date_is_followed_and_leans_towards_the_right_one() {
    let mut bench = Bench::of(&[HOUR]);
    bench.pass(1000, &[0]);
    assert!(bench.machines[0].clock.is_sure(), "it is all there is");
    let first = bench.shows(0);
    bench.join(0);
    bench.join(0);
    let mut before = 0;
    for _ in 0..600 {
        bench.pass(1000, &[0, 1, 2]);
        bench.all_within(15);
        let shows = bench.shows(0) + bench.at as i64;
        assert!(shows - before >= 980 || before == 0, "it never goes back and hardly slows down");
        before = shows;
    }
    let leant = first - bench.shows(0);
    assert!((5_000..6_100).contains(&leant), "1 % of ten minutes: {leant} ms");
}

#[test]
fn a_start_knows_how_wrong_its_calendar_was_and_hears_when_it_is_right_again() {
    let mut bench = Bench::of(&[0, 0, HOUR]);
    bench.pass(2000, &[0, 1, 2]);
    let at = bench.at;
    bench.machines[2].restart(at, HOUR);
    assert!(bench.shows(2).abs() < 20, "before it has heard anybody");
    assert!(!bench.machines[2].clock.is_sure());
    bench.machines[2].restart(at, 2 * HOUR);
    bench.exchange(&[0, 1, 2], 2);
    bench.all_within(10);
    assert!(bench.machines[2].clock.is_sure());
}

#[test]
fn a_minority_is_not_sure() {
    let mut bench = Bench::of(&[0, HOUR, 0, 0, 0]);
    bench.exchange(&[0, 1], 2);
    assert!(!bench.machines.iter().any(|m| m.clock.is_sure()));
    bench.exchange(&[0, 1, 2], 2);
    assert!(bench.machines[..3].iter().all(|m| m.clock.is_sure()));
    bench.all_within(i64::MAX);
    assert!(bench.shows(1).abs() < 20);
}

/// One owner of three and three newcomers are four of six, and no majority of those who may say so.
#[test]
fn newcomers_make_no_majority_with_a_minority_of_the_owners() {
    let mut bench = Bench::of(&[HOUR, 0, 0, HOUR, HOUR, HOUR]);
    bench.machines[3..].iter_mut().for_each(|newcomer| newcomer.owns = false);
    bench.exchange(&[0, 3, 4, 5], 2);
    assert!(!bench.machines.iter().any(|m| m.clock.is_sure()), "a minority has set the clock");
    bench.exchange(&[0, 1, 2, 3], 2);
    assert!([0, 1, 2, 3].iter().all(|at| bench.machines[*at].clock.is_sure()));
    for at in 0..4 {
        assert!(bench.shows(at).abs() < 20, "machine {at} shows {}", bench.shows(at));
    }
}

/// Who was let in and died before it owned anything, three of them here, is waited for by nobody.
#[test]
fn dead_newcomers_keep_nobody_from_being_sure() {
    let mut bench = Bench::of(&[0, 0, 0, 0, 0, 0]);
    bench.machines[3..].iter_mut().for_each(|newcomer| newcomer.owns = false);
    bench.exchange(&[0, 1], 2);
    assert!(bench.machines[..2].iter().all(|m| m.clock.is_sure()), "two of three owners are most of them");
}

#[test]
fn a_start_shows_no_less_than_what_was_kept() {
    let mut bench = Bench::of(&[0]);
    bench.pass(5000, &[0]);
    let (at, before) = (bench.at, bench.shows(0));
    bench.machines[0].restart(at, -HOUR);
    assert!(bench.shows(0) >= before);
}

proptest! {
    /// Restarts of a minority, calendars that are set, slow and uneven trips: whoever is sure shows what the others show, never
    /// goes back, and counts the time that passes.
    #[test]
    fn time_passes_for_all_alike(
        offs in proptest::collection::vec(-5..5_i64, 3..6),
        events in proptest::collection::vec((0..6_usize, 0..3_u8, -2..3_i64, 1..9_u64), 1..30),
    ) {
        let mut bench = Bench::of(&offs);
        let all: Vec<usize> = (0..offs.len()).collect();
        bench.pass(2000, &all);
        let (began, first) = (bench.at, bench.shows(0));
        let mut wrong = None;
        for (which, what, hours, trip) in events {
            // One member at a time has a calendar that can't be trusted.
            let which = wrong.filter(|_| what > 0).unwrap_or(which % offs.len());
            let at = bench.at;
            match what {
                1 => { wrong = Some(which); bench.machines[which].off = hours * HOUR; }
                2 => { wrong = Some(which); bench.machines[which].restart(at, hours * HOUR); }
                _ => {}
            }
            let before: Vec<i64> = all.iter().map(|n| bench.shows(*n) + at as i64).collect();
            bench.at += 500;
            bench.exchange(&all, trip);
            bench.all_within(60);
            for n in all.iter().filter(|n| Some(**n) != wrong || what != 2) {
                prop_assert!(bench.shows(*n) + bench.at as i64 >= before[*n], "it went back");
            }
        }
        let passed = (bench.at - began) as i64;
        prop_assert!((bench.shows(0) - first).abs() <= passed / 50 + 60, "time was lost or won");
    }
}

/// Everybody was down, one calendar was put right meanwhile and another wrong: what was known of the first is known no more.
#[test]
fn a_correction_that_leads_back_in_time_is_dropped() {
    let hour = 3_600_000;
    let (shown, now) = (10 * hour, Time(0));
    let truth = Wall(shown + 7000);
    let members: BTreeSet<NodeId> = (1..=3).map(NodeId).collect();
    let kept = |ahead: i64| Some(Kept { shown: Wall(shown), ahead: ahead * 1000 });
    let calendars = [truth, truth, Wall(truth.0 - hour)];
    let kepts = [kept(0), kept(-(hour as i64)), kept(0)];
    let mut clocks: Vec<Clock> =
        kepts.iter().zip(calendars).map(|(kept, calendar)| Clock::start(*kept, calendar, now)).collect();
    let said: Vec<Said> =
        clocks.iter().zip(calendars).map(|(clock, calendar)| clock.say(calendar, now)).collect();
    for (at, clock) in clocks.iter_mut().enumerate() {
        for other in (0..3).filter(|other| *other != at) {
            clock.hear(NodeId(other as u128 + 1), said[other], now, now);
        }
        let me = NodeId(at as u128 + 1);
        clock.turn(&Say { me, members: &members, owners: &members }, calendars[at], now);
        assert!(clock.is_sure());
        assert_eq!(clock.read(now), truth, "node {at}");
    }
}

/// Both it has are behind what it showed last, and so are all the others': it goes on from there and does not stand still.
#[test]
fn a_clock_goes_on_from_what_it_last_showed() {
    let members: BTreeSet<NodeId> = [NodeId(1)].into();
    let mut clock = Clock::start(Some(Kept { shown: Wall(50_000), ahead: 0 }), Wall(1000), Time(0));
    let say = Say { me: NodeId(1), members: &members, owners: &members };
    clock.turn(&say, Wall(1000), Time(0));
    assert!(clock.is_sure(), "alone it is the majority");
    let later = Time(5_000_000);
    clock.turn(&say, Wall(6000), later);
    assert!(clock.read(later) >= Wall(54_900), "{:?}", clock.read(later));
}
