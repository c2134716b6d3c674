//! What must not grow: siblings where nobody was concurrent, clocks without a doubt, writes where nothing is new.

use crate::key::{Key, Scheme, Seen, Step, actors, seen_in};
use crate::random::{NODES, backwards, forgetful};
use rand::SeedableRng;
use rand::rngs::StdRng;
use ring::causal::token::TokenKey;
use ring::ids::ObjectId;
use ring::record::{Record, merge};
use ring::time::Wall;

const REPLICAS: usize = 3;
const WRITES: usize = 100;

fn versions(record: &Record) -> usize {
    record.versions(Wall(1)).count()
}

/// Two clients in turn, each going on from what its own last write told it, never reading; everybody hears everything.
fn two_clients(scheme: Scheme, coordinators: [usize; 2], tells_what_it_saw: bool) -> usize {
    let mut key = Key::new(scheme, REPLICAS);
    let mut clients = [Seen::default(), Seen::default()];
    for n in 0..WRITES {
        let (at, seen) = (coordinators[n % 2], clients[n % 2].clone());
        let (done, back) = key.write(at, if tells_what_it_saw { seen } else { Seen::default() }, false);
        clients[n % 2] = back;
        for to in (0..REPLICAS).filter(|to| *to != at) {
            key.hear(to, &done.record);
        }
    }
    assert!(key.converge());
    versions(key.copy(0).expect("it was written"))
}

#[test]
fn two_clients_who_never_read_leave_two_siblings() {
    assert_eq!(two_clients(Scheme::Built, [0, 0], true), 2, "through one coordinator");
    assert_eq!(two_clients(Scheme::Built, [0, 1], true), 2, "through two");
    assert_eq!(two_clients(Scheme::Built, [0, 0], false), WRITES, "blind writers supersede nothing");
}

/// Nobody reads for a hundred thousand writes: what each of the two carries stays a line of text, and so does the clock.
#[test]
fn a_context_does_not_grow_with_the_writes_that_it_names() {
    let tokens = TokenKey::new(&[7; 32]);
    let id = ObjectId::new("sessions", "k").expect("it is short");
    let mut key = Key::new(Scheme::Built, REPLICAS);
    let mut clients = [Seen::default(), Seen::default()];
    let mut longest = 0;
    for n in 0..100_000 {
        let at = n % REPLICAS;
        // The ledger of values would grow, the context must not.
        let seen = Seen { context: clients[n % 2].context.clone(), ..Seen::default() };
        let (done, back) = key.write(at, seen, false);
        let token = tokens.seal(&id, &back.context);
        assert_eq!(tokens.open(&id, &token).as_ref(), Ok(&back.context), "nothing was cut off");
        longest = longest.max(token.len());
        clients[n % 2] = back;
        for to in (0..REPLICAS).filter(|to| *to != at) {
            key.hear(to, &done.record);
        }
    }
    assert!(longest <= 400, "a token of {longest} bytes");
    let copy = key.copy(0).expect("it was written");
    assert_eq!((versions(copy), copy.clock.runs().len()), (2, REPLICAS));
}

/// One write is one dot: what is forwarded is the object, and however often and late it arrives, it is the same sibling.
#[test]
fn an_object_that_arrives_by_every_way_is_one_sibling() {
    let mut key = Key::new(Scheme::Built, REPLICAS);
    let (first, seen) = key.write(0, Seen::default(), false);
    let (second, _) = key.write(0, seen, false);
    for record in [&second.delta, &first.record, &second.record, &first.delta, &second.record, &first.record]
    {
        (1..REPLICAS).for_each(|at| {
            key.hear(at, record);
        });
    }
    (0..REPLICAS).for_each(|at| assert_eq!(key.copy(at), Some(&second.record)));
    // A coordinator that is sent its own object back learns nothing.
    assert!(!key.hear(0, &second.record) && !key.hear(0, &first.delta));
}

/// An owner hands over while one client reads and writes in turn, now through the old owner, now through the new one.
fn one_client_during_a_move(forwards_the_object: bool) -> usize {
    let (old, new) = (0, 1);
    let mut key = Key::new(Scheme::Built, 2);
    let mut seen = Seen::default();
    for n in 0..WRITES {
        let (at, other) = if n % 2 == 0 { (old, new) } else { (new, old) };
        let before = seen.clone();
        let (done, _) = key.write(at, seen, false);
        if forwards_the_object {
            key.hear(other, &done.record);
        } else {
            key.write(other, before, false);
            key.push(at, other);
        }
        key.push(other, at);
        seen = seen_in(&key.read(&[old, new]));
    }
    versions(&key.read(&[old, new]))
}

#[test]
fn one_client_during_a_move_never_makes_a_sibling() {
    assert_eq!(one_client_during_a_move(true), 1);
    assert_eq!(one_client_during_a_move(false), 2, "a value that is coordinated at both has two dots");
}

/// Stores that compare one counter per node take a wiped node's new writes for old ones, on one side only.
#[test]
fn merging_with_a_wiped_node_is_the_same_from_both_sides() {
    let write =
        |to: &[usize]| Step::Write { at: 0, seen: 0, keep: 0, to: to.to_vec(), delta: false, delete: false };
    let faults = [
        (Step::Wipe { at: 0, held_by: 1 }, Scheme::NameOutlivesDisk),
        (Step::Forget { at: 0, held_by: 1 }, Scheme::OneEpoch),
    ];
    for (fault, without) in faults {
        let both = |scheme| {
            let key = Key::play(scheme, 2, &[write(&[1]), write(&[1]), fault.clone(), write(&[])]);
            let [wiped, replica] = [0, 1].map(|at| key.read(&[at]));
            (merge(&wiped, &replica), merge(&replica, &wiped))
        };
        let (one, other) = both(Scheme::Built);
        assert_eq!(one, other);
        assert_eq!(versions(&one), 3, "{fault:?}");
        let (one, other) = both(without);
        // It is the same from both sides even then, and one of two writes is gone.
        assert_eq!(one, other);
        assert!(versions(&one) < 3, "{without:?} breaks nothing");
    }
}

/// Reads repair by sending what was merged. Once everybody agrees, neither that nor any older state of any copy, however it
/// comes back, may cost a write or an epoch.
#[test]
fn what_is_equal_or_older_changes_nothing() {
    let mut older_ones = 0;
    for (seed, plan) in
        (0..1_000).flat_map(|seed| [(seed, forgetful as fn(&mut StdRng) -> _), (seed, backwards)])
    {
        let mut key = Key::play(Scheme::Built, NODES, &plan(&mut StdRng::seed_from_u64(seed)));
        assert!(key.converge(), "seed {seed}");
        let (agreed, epochs) = (key.copy(0).cloned(), key.epochs_left());
        let past = key.past();
        older_ones += past.len();
        for at in 0..NODES {
            for record in past.iter().chain(&agreed) {
                assert!(!key.hear(at, record), "seed {seed}: node {at} writes upon {record:?}");
            }
            assert_eq!(key.copy(at), agreed.as_ref(), "seed {seed}");
        }
        assert_eq!(key.epochs_left(), epochs, "seed {seed}: an epoch was drawn for nothing");
    }
    assert!(older_ones > 50_000, "{older_ones} is too few to mean anything");
}

#[test]
fn a_thousand_writes_without_a_doubt_add_no_actor() {
    let mut key = Key::new(Scheme::Built, REPLICAS);
    let mut seen = Seen::default();
    for n in 0..1_000 {
        let (done, _) = key.write(n % REPLICAS, seen, n % 10 == 9);
        (0..REPLICAS).filter(|at| *at != n % REPLICAS).for_each(|at| {
            key.hear(at, &done.record);
        });
        seen = seen_in(&key.read(&[0, 1, 2]));
    }
    let clock = &key.copy(0).expect("it was written").clock;
    assert_eq!((actors(clock), clock.runs().len()), (REPLICAS, REPLICAS));
}

/// A clock grows by its replicas and by what they had to doubt, and by nothing else.
#[test]
fn a_clock_names_no_more_actors_than_there_were_nodes_and_faults() {
    for (seed, plan) in
        (0..2_000).flat_map(|seed| [(seed, forgetful as fn(&mut StdRng) -> _), (seed, backwards)])
    {
        let steps: Vec<Step> = plan(&mut StdRng::seed_from_u64(seed));
        let doubtful = |step: &&Step| {
            matches!(
                step,
                Step::Forget { .. }
                    | Step::Wipe { .. }
                    | Step::RollBack { .. }
                    | Step::Push { drop: true, .. }
            )
        };
        let faults = steps.iter().filter(doubtful).count();
        let longest = Key::play(Scheme::Built, NODES, &steps).outcome().longest;
        assert!(longest <= NODES + faults, "seed {seed}: {longest} actors after {faults} faults\n{steps:#?}");
    }
}
