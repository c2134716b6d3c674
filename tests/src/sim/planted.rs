//! Switches off one safety rule after the other, and runs seeds until somebody notices.
//!
//! Only in a build with the feature `planted`, and there only where it is asked for: without `--bug` or `--bugs` a seed runs in such a
//! build as in any other. A rule that matters at one moment only, which random troubles do not come to, is tried in a scene of its own.

#![allow(clippy::print_stdout, reason = "a table that grows as its rows are known")]

use super::seeds::{Outcome, Seeds, Total};
use ring::planted::{self, Bug};

/// Rules with a scene of their own.
const SCENES: [(Bug, &str); 6] = [
    (Bug::ReadsTarget, "fill"),
    (Bug::RecordUnsynced, "cuts"),
    (Bug::SendBeforeSync, "cuts"),
    (Bug::ReapIgnoresHints, "hints"),
    (Bug::ReapAtOnce, "late"),
    (Bug::OldTables, "tables"),
];

/// Which rules are to be switched off.
#[derive(clap::Args, Debug)]
pub struct BugArgs {
    /// Switch off this rule, and see after how many seeds that is noticed. May be said of several, one after the other.
    #[arg(long, value_parser = bug)]
    bug: Vec<Bug>,
    /// Switch off each rule, one after the other.
    #[arg(long, conflicts_with = "bug")]
    bugs: bool,
}

fn bug(name: &str) -> Result<Bug, String> {
    let names: Vec<&str> = Bug::ALL.iter().map(|bug| bug.name()).collect();
    let named = Bug::ALL.iter().copied().find(|bug| bug.name() == name);
    named.ok_or_else(|| format!("one of {}", names.join(", ")))
}

impl BugArgs {
    /// The rules, if there are any. The first of them is switched off from now on, as the process of a single seed wants it.
    pub fn chosen(&self) -> &[Bug] {
        let bugs = if self.bugs { Bug::ALL } else { &self.bug };
        planted::choose(bugs.first().copied());
        bugs
    }
}

/// Runs seeds under each of them in turn until one of those is noticed, prints how many it took, and says whether all were noticed that
/// the simulation is known to notice. What is noticed must be the rule: the same seed breaks nothing with it in place. A process that
/// came to no end has noticed nothing.
pub fn all_noticed(bugs: &[Bug], seeds: Seeds, mut hear: impl FnMut(&Outcome)) -> bool {
    let seeds = if bugs.len() > 1 { seeds.apart_each() } else { seeds };
    println!("| switched off | seeds until it was noticed | seconds | as |\n| --- | --- | --- | --- |");
    let mut missed = 0;
    for bug in bugs {
        planted::choose(Some(*bug));
        let own = SCENES.iter().find(|(of, _)| of == bug).map(|(_, scene)| *scene);
        let mut seeds = seeds;
        (seeds.scene, seeds.fail_fast) = (seeds.scene.or(own), true);
        let total = seeds.run(&["--bug", bug.name()], &mut hear);
        let (after, noticed) = noticed(&total, seeds);
        missed += u32::from(!noticed && !Bug::MISSED.contains(bug));
        println!(
            "| `{}`{} | {after} | {} | {} |",
            bug.name(),
            own.map(|scene| format!(" in the scene `{scene}`")).unwrap_or_default(),
            total.took.as_secs(),
            total.first.as_deref().unwrap_or("nothing")
        );
    }
    println!("sim: {} rules switched off, {missed} not noticed that should have been", bugs.len());
    missed == 0
}

/// After how many seeds the rule was noticed, in words, and whether it was.
fn noticed(total: &Total, seeds: Seeds) -> (String, bool) {
    let Some(bad) = total.bad.difference(&total.lost).next() else {
        let lost = total.lost.first().map(|seed| format!("{seed} came to no end"));
        return (lost.unwrap_or_else(|| format!("not in {}", seeds.count)), false);
    };
    let after = bad + 1 - seeds.first;
    let mut with = seeds.apart_each();
    (with.first, with.count) = (*bad, 1);
    match with.run(&[], |_| {}).bad.is_empty() {
        true => (after.to_string(), true),
        false => (format!("{after}, which is bad with the rule in place as well"), false),
    }
}
