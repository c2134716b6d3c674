//! What a run is judged by, and what came of it.
//!
//! A long history takes seconds to judge, and nothing waits in between. So it is done on a thread of its own: whoever is told to end
//! meanwhile ends, and leaves the thread behind. (A task for blocking work would not do: the runtime waits for those when it ends.)

use super::answers;
use super::forgotten::Forgotten;
use super::goodput::Goodput;
use super::live::Live;
use super::pulse::{Expected, Pulse};
use super::scenarios::Scenario;
use super::sessions::Sessions;
use super::site::GRACE;
use super::timeline::Span;
use super::tries::Tries;
use super::trouble::{BESIDE, Trouble};
use super::verdict::{Evidence, Verdict};
use crate::check::{self, Counts, Measure};
use crate::history::{self, Entry, History, Setting, What};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long lifetimes may be off after a calendar has jumped back.
const CALENDAR_SETTLES: Duration = Duration::from_secs(5);
/// After so long in calm some deletion must have been forgotten.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(60);
/// In so long, what was to happen to nodes has happened to some, and every promise has been put to the test.
pub(super) const EFFECTS_WITHIN: Duration = Duration::from_secs(20);

/// What came of it.
pub(super) struct Outcome {
    pub(super) scenario: &'static str,
    pub(super) about: &'static str,
    pub(super) seed: u64,
    pub(super) counts: Counts,
    pub(super) pulse: Pulse,
    /// When the load began and ended, by the clock of the history.
    pub(super) loaded: (Duration, Duration),
    pub(super) spans: Vec<Span>,
    /// What was done to the nodes, counted.
    pub(super) effects: BTreeMap<&'static str, u64>,
    /// What was broken beside a change of members.
    pub(super) beside: BTreeSet<&'static str>,
    /// Operations that were refused, or of which nobody knows, by the code of why.
    pub(super) refusals: BTreeMap<String, u64>,
    /// Who took most memory, and how much.
    pub(super) most: Option<(String, u64)>,
    pub(super) verdict: Verdict,
    pub(super) history: History,
}

/// What is judged.
pub(super) struct Seen {
    pub(super) scenario: &'static Scenario,
    pub(super) seed: u64,
    pub(super) load: Duration,
    pub(super) urls: Vec<String>,
    pub(super) history: History,
    pub(super) tries: Tries,
    pub(super) spans: Vec<Span>,
    pub(super) loaded: (Duration, Duration),
    pub(super) equal: Result<Duration, String>,
    pub(super) read: Result<Duration, String>,
    pub(super) accidents: Vec<String>,
    pub(super) effects: BTreeMap<&'static str, u64>,
    pub(super) beside: BTreeSet<&'static str>,
    pub(super) goodput: Vec<Goodput>,
    pub(super) forgotten: u64,
    pub(super) most: Option<(String, u64)>,
}

impl Seen {
    /// Judges it, on a thread of its own.
    pub(super) async fn judged(self) -> Outcome {
        Live::say("checking");
        apart(move || self.judge()).await
    }

    fn judge(self) -> Outcome {
        let blurred = self.blurred();
        let Seen { scenario, seed, load, urls, history, tries, spans, loaded, equal, read, .. } = self;
        let Seen { mut accidents, effects, beside, goodput, forgotten, most, .. } = self;
        let entries = history.entries();
        let cuts = (!scenario.trouble.cuts()).then_some(0);
        let measure = Measure { cuts, blurred, ..Measure::default() };
        let found = check::all_by(&entries, &measure);
        let counts = check::count(&entries, None);
        // What can't be joined is a violation already.
        let ops = history::ops(&entries).unwrap_or_default();
        let strict = buckets(&entries, |setting| setting.strict);
        let excused = if forgotten > 0 { Forgotten::of(&ops, GRACE) } else { Forgotten::default() };
        let expected = Expected { urls: &urls, strict: &strict, forgotten: &excused, spans: &spans };
        let pulse = Pulse::new(&ops, &expected, loaded);
        let tries = tries.tally(&expected, loaded);
        accidents.extend(answers::mistakes(&ops));
        if matches!(scenario.trouble, Trouble::Restart | Trouble::Upgrade) {
            accidents.extend(answers::other_than_503(&ops, &expected));
            accidents.extend(tries.mistakes());
        }
        let sessions = Sessions::of(&ops, &expected);
        if scenario.trouble == Trouble::None && load >= FORGOTTEN_WITHIN && forgotten == 0 {
            accidents.push(format!("no deletion was forgotten in {} s of calm", load.as_secs()));
        }
        let verdict = Verdict::new(&Evidence {
            ops: &ops,
            counts: &counts,
            found: &found,
            pulse: &pulse,
            tries: &tries,
            sessions: &sessions,
            equal: &equal,
            read: &read,
            goodput: &goodput,
            is_long: load >= EFFECTS_WITHIN,
            forgotten,
            accidents: &accidents,
        });
        let Scenario { name: scenario, about, .. } = scenario;
        Outcome {
            scenario,
            about,
            seed,
            counts,
            pulse,
            loaded,
            spans,
            effects,
            beside,
            refusals: answers::refusals(&ops),
            most,
            verdict,
            history,
        }
    }

    /// When some calendar was not to be relied on. Who has jumped back goes by the time of before until it hears the others.
    fn blurred(&self) -> Vec<(Duration, Duration)> {
        let off = self.spans.iter().filter(|span| span.what.contains("calendar"));
        off.map(|span| (span.from, span.until.unwrap_or(Duration::MAX).saturating_add(CALENDAR_SETTLES)))
            .collect()
    }
}

/// Has a thread of its own do this. Who no longer waits for what comes of it does not end it.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = oneshot::channel();
    std::thread::spawn(move || {
        let _nobody_waits = done.send(catch_unwind(AssertUnwindSafe(work)));
    });
    let result = result.await.expect("the thread says what came of it, be it a panic");
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Buckets of which that holds.
fn buckets(entries: &[Entry], are: impl Fn(&Setting) -> bool) -> BTreeSet<String> {
    let settings = entries.iter().filter_map(|entry| match &entry.what {
        What::Setting(setting) if are(setting) => Some(setting.bucket.clone()),
        _ => None,
    });
    settings.collect()
}

impl Outcome {
    /// Its name among others, in files and links.
    pub(super) fn name(&self) -> String {
        format!("{}-{}", self.scenario, self.seed)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let holds = if self.verdict.holds() { "no promise broken" } else { "BROKEN" };
        let seconds = self.loaded.1.saturating_sub(self.loaded.0).as_secs_f64().max(0.001);
        writeln!(f, "{}, seed {}: {holds}", self.scenario, self.seed)?;
        writeln!(f, "{}; {:.0} answers/s", self.counts, self.counts.acknowledged as f64 / seconds)?;
        let effects = self.effects.iter().map(|(what, count)| format!("{what}: {count}"));
        let refusals = self.refusals.iter().map(|(code, count)| format!("{code}: {count}"));
        for counts in [effects.collect::<Vec<_>>(), refusals.collect()] {
            if !counts.is_empty() {
                writeln!(f, "{}", counts.join(", "))?;
            }
        }
        if !self.beside.is_empty() {
            let names: Vec<&str> = self.beside.iter().copied().collect();
            let (came, all) = (names.len(), BESIDE.len());
            writeln!(f, "beside changes of members: {} ({came} of {all})", names.join(", "))?;
        }
        if let Some((name, bytes)) = &self.most {
            writeln!(f, "memory of a node: {} MiB at most ({name})", bytes >> 20)?;
        }
        write!(f, "{}", self.verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn who_waits_for_a_long_judgement_can_be_told_to_end() {
        let (go_on, told) = mpsc::channel::<()>();
        let judged = apart(move || told.recv());
        tokio::select! {
            biased;
            _ = judged => panic!("nobody told it to go on"),
            () = tokio::task::yield_now() => {}
        }
        drop(go_on);
        assert_eq!(apart(|| 7).await, 7);
    }

    #[tokio::test]
    #[should_panic(expected = "a checker's own mistake")]
    async fn a_judgement_that_panics_is_told_of() {
        apart(|| panic!("a checker's own mistake")).await
    }
}
