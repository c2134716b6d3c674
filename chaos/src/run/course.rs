//! One run, from the first process to the verdict.

use super::after::{self, After};
use super::counters::{self, Counters};
use super::goodput::Goodput;
use super::live::Live;
use super::memory::{self, Memory};
use super::pulse::{Expected, Pulse};
use super::scenarios::Scenario;
use super::site::{GRACE, Site};
use super::timeline::{Span, Timeline};
use super::trouble::{Stage, Trouble, effects, rage};
use super::verdict::{Evidence, Verdict};
use super::{Failure, RunArgs, answers, retail};
use crate::check::{self, Counts, Measure};
use crate::history::{self, Entry, History, Setting, What};
use crate::http::Http;
use crate::workload::{self, Ground, Kind, Plan};
use anyhow::Context;
use client::ReqwestTransport;
use futures_util::future::try_join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a client waits for an answer. A node's own deadline is 5 s, and who waited for that would ask for nothing more while one
/// of five nodes is gone.
const PATIENCE: Duration = Duration::from_secs(2);
/// Less than that: a node says what is missing before its client gives up.
const READ_PATIENCE: Duration = Duration::from_millis(1500);
/// Of so many operations one goes to another node than the client's own: each that meets one which is gone costs [`PATIENCE`].
const STRAY_OF: u32 = 40;
/// How long a client rests between two steps.
const THINK: std::ops::Range<Duration> = Duration::from_millis(2)..Duration::from_millis(20);
/// How long lifetimes may be off after a calendar has jumped back.
const CALENDAR_SETTLES: Duration = Duration::from_secs(5);
/// For so long keys are left alone by turns: longer than a deletion is remembered at least (`site/`), and what agreeing on it takes.
const RESTS: Duration = Duration::from_secs(30);
/// In so long, what was to happen to nodes has happened to some, and every promise has been put to the test.
const EFFECTS_WITHIN: Duration = Duration::from_secs(20);
/// After so long in calm some deletion must have been forgotten.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(60);

/// A run, and all that has to be taken down after it.
pub(super) struct Course<'a> {
    scenario: &'static Scenario,
    seed: u64,
    load: Duration,
    options: &'a RunArgs,
    site: Option<Site>,
    history: Option<History>,
}

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
    /// Operations that were refused, or of which nobody knows, by the code of why.
    pub(super) refusals: BTreeMap<String, u64>,
    /// Who took most memory, and how much.
    pub(super) most: Option<(String, u64)>,
    pub(super) verdict: Verdict,
    pub(super) history: History,
}

/// What is judged.
struct Seen {
    history: History,
    spans: Vec<Span>,
    loaded: (Duration, Duration),
    equal: Result<Duration, String>,
    read: Result<Duration, String>,
    accidents: Vec<String>,
    effects: BTreeMap<&'static str, u64>,
    goodput: Vec<Goodput>,
    forgotten: u64,
    most: Option<(String, u64)>,
}

/// Seeds of the parts, each from the seed of the whole.
struct Chances {
    clients: u64,
    troubles: u64,
    links: u64,
    reading: u64,
}

impl<'a> Course<'a> {
    pub(super) fn new(scenario: &'static Scenario, seed: u64, load: Duration, options: &'a RunArgs) -> Self {
        Self { scenario, seed, load, options, site: None, history: None }
    }

    pub(super) async fn run(&mut self) -> Result<Outcome, Failure> {
        let mut chance = StdRng::seed_from_u64(self.seed);
        let [clients, troubles, links, reading] = std::array::from_fn(|_| chance.random());
        let chances = Chances { clients, troubles, links, reading };
        let site = self
            .site
            .insert(Site::start(self.options, self.scenario.trouble, self.load, chances.links).await?);
        site.come_up().await?;
        let started = Instant::now();
        let history = History::new(Arc::new(move || started.elapsed()));
        self.history = Some(history.clone());
        let timeline = Timeline::new(Arc::new(move || started.elapsed()));
        let transport = ReqwestTransport::new()?;
        let mut ground = Ground::new(site.urls(), transport.clone(), history.clone());
        ground.attempt_timeout = PATIENCE;
        ground.read_timeout = Some(READ_PATIENCE);
        let plans = plans();
        for plan in &plans {
            workload::prepare(plan, &ground).await?;
        }

        let from = history.now();
        let until = from + self.load;
        let mut stage = Stage {
            site,
            chance: StdRng::seed_from_u64(chances.troubles),
            timeline: timeline.clone(),
            until,
            ground: ground.clone(),
            bursts: 0,
            usual: None,
            goodput: Vec::new(),
            spoiled: false,
            removed: BTreeMap::new(),
            change: None,
            effects: BTreeMap::new(),
            accidents: Vec::new(),
        };
        let live = Live::new(self.scenario.name, self.seed, self.load, history.clone(), timeline.clone());
        let all = load(&plans, &ground, chances.clients, until);
        let replay = async {
            match self.scenario.trouble {
                Trouble::Retail => {
                    let events = self.options.events.as_deref();
                    retail::replay(events, &ground.urls, self.seed, started + until).await
                }
                _ => Ok(None),
            }
        };
        let (memory, whose) = (Memory::default(), stage.site.whose());
        let (counters, http) = (Counters::default(), Http::new(1)?);
        let everywhere = ground.clone();
        let mut accidents = Vec::new();
        tokio::select! {
            biased;
            ends = async { tokio::try_join!(rage(self.scenario.trouble, &mut stage), all, replay) } => accidents.extend(ends?.2),
            () = live.show() => {}
            () = memory.watch(whose) => {}
            () = counters.watch(|| everywhere.all_urls(), &http) => {}
        }
        let removed: BTreeSet<usize> = stage.removed.keys().copied().collect();
        accidents.append(&mut stage.accidents);
        let mut effects = std::mem::take(&mut stage.effects);
        let goodput = std::mem::take(&mut stage.goodput);
        let healed = history.now();

        let mut chance = StdRng::seed_from_u64(chances.reading);
        let After { equal, read, urls, accidents: seen } =
            after::look(site, &removed, &ground, &mut chance).await?;
        accidents.extend(seen);
        counters.look(&urls, &http).await;
        if let Some(healed) = effects.get_mut(effects::HEALED) {
            *healed = counters.sum(counters::HEALED);
        }
        if self.load >= EFFECTS_WITHIN {
            let without = effects.iter().filter(|(_, how_much)| **how_much == 0);
            accidents.extend(without.map(|(what, _)| format!("{what}: none, so this run proves nothing")));
        }
        let most = memory.most();
        accidents.extend(memory::complaint(most.as_ref()));
        let urls = site.urls();
        let spans = timeline.list();
        if self.scenario.trouble != Trouble::None && spans.is_empty() {
            accidents.push("nothing was broken, so this run proves nothing".to_owned());
        }
        let loaded = (from, healed.max(until));
        let forgotten = counters.sum(counters::FORGOTTEN);
        Ok(self.judge(
            Seen { history, spans, loaded, equal, read, accidents, effects, goodput, forgotten, most },
            &urls,
        ))
    }

    fn judge(&self, seen: Seen, urls: &[String]) -> Outcome {
        let Seen { history, spans, loaded, equal, read, mut accidents, effects, goodput, forgotten, most } =
            seen;
        Live::say("checking");
        let entries = history.entries();
        let cuts = (!self.scenario.trouble.cuts()).then_some(0);
        let measure = Measure { cuts, blurred: self.blurred(&spans), ..Measure::default() };
        let found = check::all_by(&entries, &measure);
        let counts = check::count(&entries, None);
        // What can't be joined is a violation already.
        let ops = history::ops(&entries).unwrap_or_default();
        let strict = buckets(&entries, |setting| setting.strict);
        // What was deleted, has expired or was taken out of a cart is forgotten in the end.
        let dies = [Kind::Recreate, Kind::Ttl, Kind::Carts].map(Kind::name);
        let forgets = buckets(&entries, |setting| dies.contains(&setting.workload.as_str()));
        let forgets = (forgotten > 0).then_some((loaded.0 + GRACE, &forgets));
        let expected = Expected { urls, strict: &strict, forgets, spans: &spans };
        let pulse = Pulse::new(&ops, &expected, loaded);
        accidents.extend(answers::mistakes(&ops));
        if self.scenario.trouble == Trouble::Restart {
            accidents.extend(answers::other_than_503(&ops, &expected));
        }
        if self.scenario.trouble == Trouble::None && self.load >= FORGOTTEN_WITHIN && forgotten == 0 {
            accidents.push(format!("no deletion was forgotten in {} s of calm", self.load.as_secs()));
        }
        let verdict = Verdict::new(&Evidence {
            ops: &ops,
            counts: &counts,
            found: &found,
            pulse: &pulse,
            equal: &equal,
            read: &read,
            goodput: &goodput,
            is_long: self.load >= EFFECTS_WITHIN,
            forgotten,
            accidents: &accidents,
        });
        let Scenario { name: scenario, about, .. } = self.scenario;
        Outcome {
            scenario,
            about,
            seed: self.seed,
            counts,
            pulse,
            loaded,
            spans,
            effects,
            refusals: answers::refusals(&ops),
            most,
            verdict,
            history,
        }
    }

    /// When some calendar was not to be relied on. Who has jumped back goes by the time of before until it hears the others.
    fn blurred(&self, spans: &[Span]) -> Vec<(Duration, Duration)> {
        let off = spans.iter().filter(|span| span.what.contains("calendar"));
        off.map(|span| (span.from, span.until.unwrap_or(Duration::MAX).saturating_add(CALENDAR_SETTLES)))
            .collect()
    }

    /// What has been asked and answered so far, if it came to that.
    pub(super) fn history(&self) -> Option<&History> {
        self.history.as_ref()
    }

    /// Takes everything down that the run has put up, however far it came.
    pub(super) async fn clean_up(&mut self) -> anyhow::Result<()> {
        match self.site.take() {
            Some(site) => site.take_down().await,
            None => Ok(()),
        }
    }
}

/// What clients do: all workloads at once, and as quickly as two cores bear that also carry the nodes.
fn plans() -> Vec<Plan> {
    let plan = |kind| {
        let keys = match kind {
            Kind::SetAdd => 20,
            Kind::Carts => 100,
            _ => 10,
        };
        Plan { think: THINK, keys, stray_of: STRAY_OF, rests: Some(RESTS), ..Plan::new(kind) }
    };
    let mut plans: Vec<Plan> = Kind::ALL.into_iter().map(plan).collect();
    // Some insist on majorities of the owners, and must then never read what is out of date.
    let strict = Plan { bucket: "w-strict".to_owned(), strict: true, ..plan(Kind::Register) };
    plans.extend([strict, Plan::many_clients()]);
    plans
}

async fn load(
    plans: &[Plan],
    ground: &Ground<ReqwestTransport>,
    seed: u64,
    until: Duration,
) -> anyhow::Result<()> {
    let mut chance = StdRng::seed_from_u64(seed);
    let runs = plans.iter().map(|plan| {
        let mut chance = StdRng::seed_from_u64(chance.random());
        async move {
            let ran = workload::run(plan, ground, &mut chance, until).await;
            ran.with_context(|| format!("the clients of {}", plan.bucket))
        }
    });
    try_join_all(runs).await.map(drop)
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
        if let Some((name, bytes)) = &self.most {
            writeln!(f, "memory of a node: {} MiB at most ({name})", bytes >> 20)?;
        }
        write!(f, "{}", self.verdict)
    }
}
