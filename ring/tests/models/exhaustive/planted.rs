//! The rules of `ring/src/planted.rs`, switched off in the very code: the searches that find nothing must find each.
//!
//! The switch is the whole process's, so these are for a runner that gives each test its own (`make model`).

use super::reaping::Reaping;
use super::{BACKWARDS, FORGETFUL, TALKATIVE, assert_broken, clocks};
use crate::key::Scheme;
use crate::reap::Lie;
use ring::planted::{Bug, choose};

const TWICE: &str = "a dot is issued twice";
const LOST: &str = "a value is lost";
const BACK: &str = "a value is back";

#[test]
fn each_planted_bug_that_one_key_can_show_is_found() {
    let forgetful = || clocks(Scheme::Built, FORGETFUL);
    for (bug, model, what, events) in [
        (Bug::OneEpoch, forgetful(), TWICE, 4),
        (Bug::NoMark, forgetful(), TWICE, 7),
        (Bug::NoBootRule, clocks(Scheme::Built, BACKWARDS), TWICE, 6),
        (Bug::MergeEqualCounts, forgetful(), LOST, 2),
        (Bug::LastWriteWins, forgetful(), "a write does not add to its copy what it says", 2),
        (Bug::WholeClock, clocks(Scheme::Built, TALKATIVE), LOST, 3),
    ] {
        choose(Some(bug));
        assert_broken(&model, what, events);
    }
    for (bug, events) in [(Bug::ReapAtOnce, 2), (Bug::ReapOwnersOnly, 6)] {
        choose(Some(bug));
        assert_broken(&Reaping::new(Lie::Nothing, true), BACK, events);
    }
}
