//! Real processes over bad links: the proxy of `chaos` stands between every two of them, and they know each other by its doors.

use crate::hints::{hints, hints_of};
use crate::steps::{HEAL_TIME_MAX, converge, is_down, url};
use crate::support::{each, eventually, put_blind};
use anyhow::{Context, Result, ensure};
use chaos::check::{self, Measure};
use chaos::history::History;
use chaos::proxy::{Conduct, Delay, Party, Proxy, is_nameless_write};
use chaos::workload::{self, Ground, Kind, Plan, ReadBack};
use client::ReqwestTransport;
use futures_util::future::try_join_all;
use node::peer::frame::{Header, Kind as FrameKind, encode_head};
use rand::SeedableRng;
use rand::rngs::StdRng;
use ring::ids::ObjectId;
use ring::wire::peer::{Action, Ask, Forward, Message, QuorumAsk, WriteAsk};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tests::cluster::Cluster;

const NODES: usize = 3;
/// Enough that one of them owns a part only, and passes the rest on.
const MORE_NODES: usize = 5;
const KEYS: usize = 200;
/// Load over bad links.
const RUN: Duration = Duration::from_secs(8);
/// Five workloads of five clients get some hundred answers in that time, each waiting for two frames of which one in ten is lost.
const ACKNOWLEDGED_MIN: u64 = 50;

/// Below what a client waits for a node that does not answer, and above what five processes on a busy machine take.
const WRITE_TIME_MAX: Duration = Duration::from_secs(3);

async fn behind_doors(seed: u64) -> Result<(Cluster, Proxy)> {
    so_many_behind_doors(NODES, seed).await
}

async fn so_many_behind_doors(nodes: usize, seed: u64) -> Result<(Cluster, Proxy)> {
    let mut cluster = Cluster::prepare(nodes)?;
    let peers: Vec<SocketAddr> =
        (0..nodes).map(|index| SocketAddr::from(([127, 0, 0, 1], cluster.peer_port(index)))).collect();
    let proxy = Proxy::of_peers(seed, &peers).await?;
    for index in 0..nodes {
        cluster.advertise(index, &proxy.door(index).to_string());
        if index > 0 {
            cluster.seed_with(index, &[proxy.door(0).port()]);
        }
        cluster.spawn(index)?;
    }
    cluster.await_ready().await?;
    Ok((cluster, proxy))
}

fn links() -> impl Iterator<Item = (Party, Party)> {
    let pairs = (0..NODES).flat_map(|from| (0..NODES).map(move |to| (from, to)));
    pairs.filter(|(from, to)| from != to).map(|(from, to)| (Party::Node(from), Party::Node(to)))
}

#[tokio::test]
async fn who_is_heard_by_nobody_is_missed_until_it_is_heard_again_and_has_everything() -> Result<()> {
    let (cluster, proxy) = behind_doors(1).await?;
    let c = &cluster;
    let silent = c.member(0, 2).await?["id"].as_str().context("no id")?.to_owned();
    // It hears the others: what they send arrives, and its answers do not.
    for other in [0, 1] {
        proxy.set(Party::Node(2), Party::Node(other), Conduct { stalled: true, ..Conduct::default() });
    }
    is_down(c, &[0, 1], &silent).await?;
    each(0..KEYS, |number| async move {
        put_blind(&url(c, number % 2, number), "v").await?.expect(204).map(drop)
    })
    .await?;
    proxy.heal();
    converge(c, 2, KEYS).await?;
    // Its hints may come from the other one, and be there before this one has heard of it.
    eventually(HEAL_TIME_MAX, || async {
        let member = c.member(0, 2).await?;
        ensure!(member["reachable"] == true, "{member}");
        Ok(())
    })
    .await?;
    ensure!(c.panics().is_empty(), "{:?}", c.panics());
    Ok(())
}

/// Everybody else hears both of two nodes that do not hear each other, so the failure detector doubts neither. What one of them passes
/// on must not wait for the other all the same.
#[tokio::test]
async fn nobody_waits_for_a_node_that_only_others_hear() -> Result<()> {
    let (cluster, proxy) = so_many_behind_doors(MORE_NODES, 5).await?;
    let c = &cluster;
    let id = async |index: usize| {
        let member = c.member(index, index).await?;
        anyhow::Ok(member["id"].as_str().context("no id")?.to_owned())
    };
    let (first, last) = (id(0).await?, id(MORE_NODES - 1).await?);
    let ends = [(0, MORE_NODES - 1), (MORE_NODES - 1, 0)];
    for (from, to) in ends {
        proxy.set(Party::Node(from), Party::Node(to), Conduct { stalled: true, ..Conduct::default() });
    }
    is_down(c, &[0], &last).await?;
    is_down(c, &[MORE_NODES - 1], &first).await?;
    each(0..KEYS, |number| async move {
        let begun = Instant::now();
        put_blind(&url(c, ends[number % 2].0, number), "v").await?.expect(204)?;
        let took = begun.elapsed();
        ensure!(took < WRITE_TIME_MAX, "key {number} took {took:?}");
        Ok(())
    })
    .await?;
    for between in 1..MORE_NODES - 1 {
        for end in [&first, &last] {
            eventually(HEAL_TIME_MAX, || async {
                let member = c.member_of(between, end).await?;
                ensure!(member["status"] == "up", "node {between} hears both, and says {member}");
                Ok(())
            })
            .await?;
        }
    }
    proxy.heal();
    converge(c, 0, KEYS).await?;
    eventually(HEAL_TIME_MAX, || c.is_ready()).await?;
    ensure!(c.panics().is_empty(), "{:?}", c.panics());
    Ok(())
}

#[tokio::test]
async fn connections_that_are_reset_again_and_again_cost_nobody_a_write_for_good() -> Result<()> {
    let (cluster, proxy) = behind_doors(2).await?;
    let c = &cluster;
    let proxy = &proxy;
    each(0..KEYS, |number| async move {
        if number % 10 == 0 {
            links().for_each(|(one, other)| proxy.reset(one, other));
        }
        // A write whose node could not ask the others is refused, and is tried again as its client would.
        eventually(HEAL_TIME_MAX, || async {
            put_blind(&url(c, number % NODES, number), "v").await?.expect(204).map(drop)
        })
        .await
    })
    .await?;
    converge(c, 0, KEYS).await?;
    ensure!(c.panics().is_empty(), "{:?}", c.panics());
    Ok(())
}

/// The proxy knows of the protocol only where a frame says so, and that is pinned here.
#[test]
fn the_proxy_tells_a_nameless_write_from_all_that_may_be_repeated() -> Result<()> {
    let id = ObjectId::new("b", "k")?;
    let write = WriteAsk {
        id: id.clone(),
        action: Action::Delete,
        seen: None,
        quorum: QuorumAsk::default(),
        timeout_ms: 5_000,
        return_record: false,
    };
    let frame = |kind, ask| {
        let body = Message::of(ask).encode();
        [&encode_head(&Header::bare(kind, 7), &body)[..], &body].concat()
    };
    ensure!(is_nameless_write(&frame(FrameKind::Request, Ask::Write(write.clone()))));
    ensure!(!is_nameless_write(&frame(FrameKind::Response, Ask::Write(write.clone()))), "an answer");
    for ask in [
        Ask::Forward(Forward { life: 1, number: 2, boot: 3, again: false, write }),
        Ask::Store { id: id.clone(), hint_for: None, sync: true },
        Ask::Read { id: id.clone(), record: true },
        Ask::Explain { id },
        Ask::Gossip { digest: 2 },
        Ask::Swim,
    ] {
        ensure!(!is_nameless_write(&frame(FrameKind::Request, ask.clone())), "{ask:?}");
    }
    ensure!(!is_nameless_write(&[2; 58]), "it ends before it says");
    Ok(())
}

/// Lost, repeated and overtaken frames are worse than anything TCP does, and no promise hangs on them.
#[tokio::test]
async fn late_lost_repeated_and_overtaken_frames_break_no_promise() -> Result<()> {
    let (cluster, proxy) = behind_doors(3).await?;
    let started = Instant::now();
    let history = History::new(Arc::new(move || started.elapsed()));
    let urls = (0..NODES).map(|index| cluster.url(index)).collect();
    let ground = Ground::new(urls, ReqwestTransport::new()?, history.clone());
    let kinds = [Kind::SetAdd, Kind::Carts, Kind::Keys, Kind::Register, Kind::Recreate];
    for kind in kinds {
        workload::prepare(&Plan::new(kind), &ground).await?;
    }
    let bad = Conduct {
        delay: Delay::Between(Duration::ZERO, Duration::from_millis(30)),
        overtaking: true,
        lost_percent: 10,
        repeated_percent: 20,
        ..Conduct::default()
    };
    links().for_each(|(from, to)| proxy.set(from, to, bad.clone()));
    let until = history.now() + RUN;
    let runs = kinds.iter().zip(0..).map(|(kind, seed)| {
        let ground = &ground;
        async move {
            workload::run(&Plan::new(*kind), ground, &mut StdRng::seed_from_u64(seed), until).await?;
            anyhow::Ok(())
        }
    });
    try_join_all(runs).await?;
    let passed = proxy.passed();
    ensure!(passed.lost > 0 && passed.repeated > 0, "{passed:?}");
    proxy.heal();
    workload::read_back(&ReadBack::default(), &ground, &mut StdRng::seed_from_u64(99)).await?;
    let entries = history.entries();
    let counts = check::count(&entries, None);
    ensure!(counts.acknowledged >= ACKNOWLEDGED_MIN, "{counts}");
    let found = check::all_by(&entries, &Measure::default());
    let list: Vec<String> = found.iter().take(10).map(ToString::to_string).collect();
    ensure!(found.is_empty(), "{} violations:\n{}", found.len(), list.join("\n"));
    ensure!(cluster.panics().is_empty(), "{:?}", cluster.panics());
    Ok(())
}

/// 2 MiB at 1 Mbit/s take longer than any message may be under way. What is kept behind such a record goes all the same.
#[tokio::test]
async fn a_hint_too_large_for_its_link_stands_in_no_other_ones_way() -> Result<()> {
    let (mut c, proxy) = behind_doors(4).await?;
    c.kill(2).await?;
    is_down(&c, &[0, 1], c.member(0, 2).await?["id"].as_str().context("no id")?).await?;
    let large = "x".repeat(2 << 20);
    let c = &mut c;
    for number in 0..KEYS {
        let value = if number == KEYS / 2 { large.as_str() } else { "v" };
        // One node keeps them all, so that all go one way.
        put_blind(&url(c, 0, number), value).await?.expect(204)?;
    }
    let narrow = Conduct { bytes_per_second: Some(125_000), ..Conduct::default() };
    for other in [0, 1] {
        proxy.set(Party::Node(other), Party::Node(2), narrow.clone());
    }
    c.spawn(2)?;
    let c = &*c;
    eventually(HEAL_TIME_MAX, || async {
        let kept = hints_of(c, 0, "waiting").await?;
        ensure!(kept == 1, "{kept} hints are kept");
        Ok(())
    })
    .await?;
    ensure!(hints_of(c, 0, "delivered").await? >= KEYS as u64 - 1, "{}", hints(c, 0).await?);
    proxy.heal();
    eventually(HEAL_TIME_MAX, || async {
        ensure!(hints_of(c, 0, "waiting").await? == 0, "the large one is still kept");
        Ok(())
    })
    .await?;
    converge(c, 2, KEYS).await?;
    ensure!(c.panics().is_empty(), "{:?}", c.panics());
    Ok(())
}
