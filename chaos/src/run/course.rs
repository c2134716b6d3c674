//! One run, from the first process to the verdict.

use super::after::{self, After};
use super::counters::{self, Counters};
use super::judge::{EFFECTS_WITHIN, Outcome, Seen};
use super::live::Live;
use super::memory::{self, Memory};
use super::scenarios::Scenario;
use super::site::Site;
use super::timeline::Timeline;
use super::tries::Noted;
use super::trouble::{Stage, Trouble, effects, rage};
use super::{Failure, RunArgs, retail};
use crate::history::History;
use crate::http::Http;
use crate::workload::{self, Ground, Kind, Plan};
use anyhow::Context;
use client::ReqwestTransport;
use futures_util::future::try_join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
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
/// For so long keys are left alone by turns: longer than a deletion is remembered at least (`site/`), and what agreeing on it takes.
const RESTS: Duration = Duration::from_secs(30);

/// A run, and all that has to be taken down after it.
pub(super) struct Course<'a> {
    scenario: &'static Scenario,
    seed: u64,
    load: Duration,
    options: &'a RunArgs,
    site: Option<Site>,
    history: Option<History>,
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
        let noted = Noted::new(ReqwestTransport::new()?, Arc::new(move || started.elapsed()));
        let mut ground = Ground::new(site.urls(), noted.clone(), history.clone());
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
            to_come: Vec::new(),
            came: BTreeSet::new(),
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
        let beside = std::mem::take(&mut stage.came);
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
        let tries = noted.take();
        let (scenario, seed, load) = (self.scenario, self.seed, self.load);
        let whole = Seen {
            scenario,
            seed,
            load,
            urls,
            history,
            tries,
            spans,
            loaded,
            equal,
            read,
            accidents,
            effects,
            beside,
            goodput,
            forgotten,
            most,
        };
        Ok(whole.judged().await)
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

async fn load(plans: &[Plan], ground: &Ground<Noted>, seed: u64, until: Duration) -> anyhow::Result<()> {
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
