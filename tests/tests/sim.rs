//! The simulation repeats itself, and what it once found stays found.
//!
//! Each run is a process of its own: what differs from process to process (addresses, hash seeds, the time of day) must not
//! reach the simulated world, and within one process it could not differ.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use tests::sim::plagues::{ALL, Plague};

/// Simulated seconds of each run here: enough for several troubles.
const SECONDS: &str = "20";

fn sim(args: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(args)
        .output()
        .expect("the binary was built with this test");
    let text = String::from_utf8(output.stdout).expect("the simulation prints text");
    (output.status.success(), text)
}

/// And where every trouble is to come: old disks are put back, and wiped ones replaced, well after the first of them.
const LONG: &str = "60";

/// Two processes of one seed must say the same, which their digests tell; if they don't, the first difference is shown with what led
/// to it.
fn assert_repeats(seed: &str) {
    let run = |more: &[&str]| sim(&[&["--seed", seed, "--seconds", LONG], more].concat()).1;
    let report = |said: &str| said.lines().find(|line| line.starts_with("seed ")).map(str::to_owned);
    let first = run(&["--trace"]);
    assert!(first.lines().count() > 1000, "a trace of seed {seed} has lines");
    assert_clients_speak(seed, &first);
    let ended = report(&first).unwrap_or_else(|| panic!("seed {seed} has no report: {first}"));
    if report(&run(&[])) == Some(ended) {
        return;
    }
    let second = run(&["--trace"]);
    let (first, second): (Vec<&str>, Vec<&str>) = (first.lines().collect(), second.lines().collect());
    let at = first.iter().zip(&second).position(|(a, b)| a != b).unwrap_or(first.len().min(second.len()));
    let before = first[at.saturating_sub(5)..at].join("\n");
    panic!("seed {seed} differs at line {at}:\n{before}\n- {:?}\n+ {:?}", first.get(at), second.get(at));
}

/// Each operation is in the trace from its begin to its end, by the number that violations call it.
fn assert_clients_speak(seed: &str, trace: &str) {
    let said = |words: &str| {
        let lines = trace.lines().filter_map(|line| line.split_once("  client  #")).map(|(_, said)| said);
        let with = lines.filter(|said| said.contains(words));
        with.filter_map(|said| said.split(' ').next()).collect::<BTreeSet<&str>>()
    };
    let (begun, answered) = (said(" through "), said(" acknowledged"));
    assert!(answered.len() > 50, "clients of seed {seed} are answered {} times", answered.len());
    assert!(answered.is_subset(&begun), "what is answered in seed {seed} was asked");
}

/// Seeds that have every trouble among them.
const REPEATED: [&str; 10] = ["2", "3", "4", "7", "19", "61", "76", "89", "111", "260"];

#[test]
fn a_seed_repeats_itself_in_another_process() {
    REPEATED.iter().for_each(|seed| assert_repeats(seed));
}

/// What the trace says when a trouble of this kind has come. Those that cut links say the same, and are told apart by their names.
fn deed_of(plague: Plague) -> &'static str {
    match plague {
        Plague::Weather => "  Weather { lost_percent: ",
        Plague::Cut | Plague::Clog | Plague::Stall => "  cut n",
        Plague::Reset => "  reset n",
        Plague::Kill => "  Killed",
        Plague::Power => "  PowerCut",
        Plague::Sleep => "  falls asleep",
        Plague::Calendar => "  calendar off by ",
        Plague::Wear => "  Wear { failing: ",
        Plague::Rot => " records can't be read any more",
        Plague::Wipe => "  gets an empty disk",
        Plague::Restore => "  has its disk of before again",
        Plague::Members => "  the operator is told: Leave",
    }
}

/// Forms of troubles that come more seldom than their kind.
const RARER: [&str; 4] = [
    "   0.000  n1  calendar off by ",
    " hands its place to n",
    "the disk is nearly full: writes are refused",
    "  Leaves can't be read any more",
];

#[test]
fn every_trouble_comes_in_those_that_repeat() {
    let traces: Vec<String> =
        REPEATED.iter().map(|seed| sim(&["--seed", seed, "--seconds", LONG, "--trace"]).1).collect();
    for plague in ALL {
        let (named, deed) = (format!("{plague:?}"), deed_of(plague));
        let comes = |trace: &String| {
            let report = trace.lines().find(|line| line.starts_with("seed ")).unwrap_or_default();
            report.split(['[', ']', ',', ' ']).any(|word| word == named) && trace.contains(deed)
        };
        assert!(traces.iter().any(comes), "{named} has come in none of {REPEATED:?}");
    }
    for deed in RARER {
        assert!(traces.iter().any(|trace| trace.contains(deed)), "{deed} has come in none of {REPEATED:?}");
    }
}

/// Alone and among others, in another order: nothing is handed from one run to the next.
#[test]
fn a_seed_of_many_is_the_seed_alone() {
    let digest = |text: &str, seed: u32| {
        let line = text.lines().find(|line| line.starts_with(&format!("seed {seed}: "))).map(str::to_owned);
        line.unwrap_or_else(|| panic!("nothing of seed {seed} in {text}"))
    };
    let (_, many) =
        sim(&["--seeds", "6", "--seed-start", "50", "--seconds", SECONDS, "--jobs", "1", "--each"]);
    for seed in (50..56).rev() {
        let (_, alone) = sim(&["--seed", &seed.to_string(), "--seconds", SECONDS]);
        assert_eq!(digest(&many, seed), digest(&alone, seed));
    }
}

#[test]
fn another_seed_is_another_run() {
    let digest = |seed| {
        let (_, text) = sim(&["--seed", seed, "--seconds", SECONDS]);
        let (_, rest) = text.split_once("; trace ").expect("the report names the trace");
        rest.split(' ').next().map(str::to_owned)
    };
    assert_ne!(digest("1"), digest("2"));
}

/// Each line of `seeds.txt`: the seed, the seconds of its run or the name of its scene, and what it taught.
#[test]
fn what_was_found_once_stays_found() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds.txt");
    let kept = std::fs::read_to_string(kept).expect("the seeds are kept beside the manifest");
    let mut broken = Vec::new();
    let lines = kept.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    for line in lines {
        let mut words = line.splitn(3, ' ');
        let (seed, seconds) =
            (words.next().expect("a line has words"), words.next().expect("a seed and its seconds"));
        let how = if seconds.parse::<u64>().is_ok() { ["--seconds", seconds] } else { ["--scene", seconds] };
        let (passed, text) = sim(&[&["--seed", seed], &how[..]].concat());
        if !passed {
            broken.push(format!("{line}\n{text}"));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
