//! What can't be judged, and when: the moments at which the promises end (docs/simulation.md).

use super::fleet::Fleet;
use super::wires::Host;
use node::store::{Family, keys};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long one that has slept, or has started with a wrong calendar, may go by a wrong time: until it has heard a majority, of which
/// some may be down.
const UNSURE_MAX: Duration = Duration::from_secs(20);

/// From when to when.
pub(super) type Times = Vec<(Duration, Duration)>;

/// Notes what is to be excused, while it happens.
#[derive(Default)]
pub(super) struct Excuses {
    slept: Vec<(Host, Duration, Duration)>,
    /// Machines whose calendar has ever been wrong.
    wrong: BTreeSet<Host>,
    /// Since when so few have been up that most of them may have been wrong, and are believed.
    few_since: Option<Duration>,
    /// How many members were let go.
    left: usize,
    /// Old disks that were put back, until they are found out.
    old: BTreeMap<Host, Duration>,
    forgetful: Times,
}

impl Excuses {
    /// Who has slept goes by the time of before until it hears the others (docs/expiry.md). Nobody knows when that is.
    pub(super) fn sleeps(&mut self, host: Host, now: Duration, asleep: bool) {
        if asleep {
            return self.slept.push((host, now, Duration::MAX));
        }
        let its = self.slept.iter_mut().filter(|(sleeper, ..)| *sleeper == host);
        its.for_each(|(.., until)| *until = (*until).min(now + UNSURE_MAX));
    }

    /// A machine's calendar is wrong.
    pub(super) fn is_wrong(&mut self, host: Host) {
        self.wrong.insert(host);
    }

    /// A member is let go, or another one takes its place.
    pub(super) fn leaves(&mut self) {
        self.left += 1;
    }

    /// An old disk is put back, and who remembers what it has forgotten may be away (docs/membership.md).
    pub(super) fn is_old(&mut self, host: Host, now: Duration) {
        self.old.insert(host, now);
    }

    /// Looks around, at every step.
    pub(super) fn look(&mut self, fleet: &Fleet, now: Duration) {
        // Newcomers are members as well, though not from the first moment on.
        let members = fleet.hosts_at_first().max(fleet.hosts().len().saturating_sub(self.left));
        if self.few_since.is_none() && 2 * fleet.not_running() >= members {
            self.few_since = Some(now);
        }
        let is_found_out =
            |host: Host| fleet.machine(host).disk().rows.row(Family::Meta, keys::BEHIND).is_some();
        for (_, from) in self.old.extract_if(.., |host, _| is_found_out(*host)) {
            self.forgetful.push((from, now));
        }
    }

    /// All replicas are identical: an old disk knows all that the others know.
    pub(super) fn healed(&mut self, now: Duration) {
        self.forgetful.extend(std::mem::take(&mut self.old).into_values().map(|from| (from, now)));
    }

    /// When majorities may have shown too little.
    pub(super) fn forgetful(&self) -> Times {
        self.forgetful.clone()
    }

    /// When clocks were not to be relied on.
    pub(super) fn blurred(&self, fleet: &Fleet) -> Times {
        let slept = self.slept.iter().map(|(_, from, until)| (*from, *until));
        let started = fleet.started.iter().filter(|(host, at)| self.wrong.contains(host) && !at.is_zero());
        let started = started.map(|(_, at)| (*at, *at + UNSURE_MAX));
        let few = self.few_since.filter(|_| !self.wrong.is_empty()).map(|from| (from, Duration::MAX));
        slept.chain(started).chain(few).collect()
    }
}
