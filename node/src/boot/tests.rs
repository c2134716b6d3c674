//! Whole starts, on a network of pipes and a paused clock.

use super::*;
use crate::bench::{Bench, ME, Pipes};
use crate::config::NodeArgs;
use ring::ids::NodeId;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::task::JoinHandle;

fn config(number: u8, seeds: &[&str]) -> Config {
    let mut config = Config::load(&NodeArgs::default(), &|_| None, &|_| Ok(())).unwrap();
    let at = |port| SocketAddr::from(([10, 0, 0, number], port));
    (config.peer, config.http) = (at(1), at(2));
    config.node_id = Some(NodeId(u128::from(number)));
    config.seeds = seeds.iter().map(|seed| (*seed).to_owned()).collect();
    config
}

async fn starts(world: &Pipes, config: Config) -> (watch::Sender<bool>, JoinHandle<Result<(), BootError>>) {
    let (stop, stopping) = watch::channel(false);
    let (bound, is_bound) = oneshot::channel();
    let running = run(world.clone(), config, BucketSettings::default(), stopping, Some(bound));
    let running = tokio::spawn(running);
    is_bound.await.unwrap();
    (stop, running)
}

/// Looks after every step that anybody takes. Time goes by only when nobody has anything to do for a while.
async fn until_kept(world: &Pipes, key: &[u8]) {
    for look in 1..100_000 {
        if world.disk().row(Family::Meta, key).is_some() {
            return;
        }
        match look % 1000 {
            0 => tokio::time::sleep(Duration::from_millis(1)).await,
            _ => tokio::task::yield_now().await,
        }
    }
    panic!("it is not kept");
}

/// Whoever lets a node in remembers its start from then on. One that has the view and not the note would take that, if it were killed
/// then, for a start that it has forgotten, and set aside what only it has.
#[tokio::test(start_paused = true)]
async fn a_newcomer_has_asked_as_soon_as_it_knows_the_cluster() {
    let (world, number) =
        (Pipes::new(), |bytes: Bytes| u64::from_be_bytes(bytes.as_ref().try_into().unwrap()));
    let (stop, first) = starts(&world, config(1, &[])).await;
    until_kept(&world, keys::ASKED).await;
    let newcomer = world.another();
    let (_killed, second) = starts(&newcomer, config(2, &["10.0.0.1:1"])).await;
    until_kept(&newcomer, keys::VIEW).await;
    second.abort();
    for disk in [world.disk(), newcomer.disk()] {
        assert_eq!(disk.row(Family::Meta, keys::ASKED).map(number), Some(1));
    }
    stop.send_replace(true);
    first.await.unwrap().unwrap();
}

/// Only a founder is alone. Everybody else may have another file than the founder had.
#[tokio::test(start_paused = true)]
async fn nobody_but_the_founder_says_the_defaults_of_a_cluster() {
    for (owners, says) in [(&[ME][..], true), (&[ME, NodeId(11)], false)] {
        let bench = Bench::start(1, owners, &[]).await;
        let defaults = bench.node.cluster.snapshot().view.defaults.clone();
        assert_eq!(defaults, says.then(BucketSettings::default), "{} members", owners.len());
    }
}
