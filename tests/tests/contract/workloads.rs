//! The workloads of `chaos` against three real processes, each for a few seconds and all at once, without any faults.
//!
//! With faults they are run elsewhere. Here it is tried that they get along with a real cluster at all: that most of what
//! they ask is acknowledged, that they bring about what they are for, and that the checkers find nothing.

use anyhow::{Result, ensure};
use chaos::check::{self, Measure};
use chaos::history::History;
use chaos::workload::{self, Ground, Kind, Plan, ReadBack};
use client::ReqwestTransport;
use futures_util::future::try_join_all;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tests::checks::Checks;
use tests::cluster::Cluster;

const RUN: Duration = Duration::from_secs(6);
/// Eight workloads of five clients on a machine with two cores; alone it is ten times as much.
const ACKNOWLEDGED_MIN: u64 = 100;

#[tokio::test]
async fn every_workload_runs_and_nothing_is_wrong() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let history = run(&cluster).await?;
    if let Some(kept) = std::env::var_os("CARTWHEEL_HISTORY") {
        history.write_to(&mut std::fs::File::create(kept)?)?;
    }
    let mut checks = Checks::new();
    checks.run("no promise is broken", async { nothing_is_wrong(&history) }).await;
    for kind in Kind::ALL {
        checks.run(&format!("{kind} gets answers"), async { gets_answers(&history, kind) }).await;
    }
    checks.run("blind writers meet the limit and readers resolve it", async { is_limited(&history) }).await;
    checks.finish(&[&cluster])
}

async fn run(cluster: &Cluster) -> Result<History> {
    let started = Instant::now();
    let history = History::new(Arc::new(move || started.elapsed()));
    let urls = (0..cluster.count()).map(|index| cluster.url(index)).collect();
    let ground = Ground::new(urls, ReqwestTransport::new()?, history.clone());
    let until = history.now() + RUN;
    let runs = Kind::ALL.iter().zip(0..).map(|(kind, seed)| {
        let ground = &ground;
        async move {
            // Some insist on majorities of the owners, and must then never read what is out of date.
            let plan = Plan { strict: seed % 3 == 0, ..Plan::new(*kind) };
            workload::prepare(&plan, ground).await?;
            workload::run(&plan, ground, &mut StdRng::seed_from_u64(seed), until).await?;
            anyhow::Ok(())
        }
    });
    try_join_all(runs).await?;
    workload::read_back(&ReadBack::default(), &ground, &mut StdRng::seed_from_u64(99)).await?;
    Ok(history)
}

fn nothing_is_wrong(history: &History) -> Result<()> {
    // Nobody was cut off from anybody, so the limit of siblings can be judged as well.
    let found = check::all_by(&history.entries(), &Measure { cuts: Some(0), ..Measure::default() });
    let list: Vec<String> = found.iter().take(10).map(ToString::to_string).collect();
    ensure!(found.is_empty(), "{} violations:\n{}", found.len(), list.join("\n"));
    Ok(())
}

fn gets_answers(history: &History, kind: Kind) -> Result<()> {
    let counts = check::count(&history.entries(), Some(&Plan::new(kind).bucket));
    ensure!(counts.acknowledged >= ACKNOWLEDGED_MIN, "{kind}: {counts}");
    ensure!(counts.unknown * 100 <= counts.tried, "{kind}: {counts}");
    Ok(())
}

fn is_limited(history: &History) -> Result<()> {
    let counts = check::count(&history.entries(), Some(&Plan::new(Kind::Blind).bucket));
    let refused = counts.reasons.get("sibling_limit").copied().unwrap_or_default();
    ensure!(refused > 0, "nobody met the limit: {counts}");
    ensure!(counts.siblings_max > 1, "blind writers made no siblings");
    Ok(())
}
