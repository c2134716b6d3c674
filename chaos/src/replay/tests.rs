//! Whole replays over real sockets against a small server of carts that misbehaves on demand: it answers 503, cuts
//! connections after it has applied a change, forgets an event, or refuses. It stands for nodes that share one memory, so
//! what is tried here is the replay itself; that the real cluster is right is tried with the real cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

mod server;
use server::{Fault, Server};

fn extract() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/online-retail-extract.csv")
}

fn args(urls: Vec<String>) -> ReplayArgs {
    ReplayArgs {
        file: extract(),
        urls,
        kill_one: false,
        carts: None,
        limit: None,
        concurrency: 8,
        nodes: 3,
        bucket: "my carts/1".to_owned(),
        seed: 1,
        json: false,
    }
}

async fn report(args: ReplayArgs) -> Report {
    run(&args).await.unwrap()
}

fn usage(failure: Failure) -> String {
    match failure {
        Failure::Usage(why) => why,
        Failure::Other(error) => panic!("not the user's fault: {error:#}"),
    }
}

#[tokio::test]
async fn a_server_that_keeps_everything_is_right() {
    let server = Server::start(2, |_| Fault::None).await;
    let report = report(args(server.urls())).await;
    assert!(report.is_right(), "{report}");
    assert_eq!(report.exit_code(), 0);
    assert_eq!((report.events, report.acknowledged, report.retries), (324, 324, 0));
    assert_eq!(report.carts, server.carts());
    assert_eq!(report.writes.count, 324);
    assert_eq!(report.reads.count, report.carts as u64);
    assert_eq!(
        server.buckets(),
        BTreeSet::from(["my carts/1".to_owned()]),
        "the bucket's name arrives as it is"
    );
}

#[tokio::test]
async fn busy_nodes_and_cut_connections_cost_retries_and_nothing_else() {
    let server = Server::start(3, |n| match n % 4 {
        0 => Fault::Busy,
        1 => Fault::CutAfterApplying,
        _ => Fault::None,
    })
    .await;
    let report = report(args(server.urls())).await;
    assert!(report.is_right(), "{report}");
    assert!(report.retries >= 100, "two in four attempts fail: {report}");
    assert!(
        server.repeated() > 0,
        "some event must have arrived twice, or the op_id was never put to the test"
    );
}

#[tokio::test]
async fn a_dead_node_costs_retries_and_nothing_else() {
    let server = Server::start(2, |_| Fault::None).await;
    let mut urls = server.urls();
    urls.push(dead_node().await);
    let report = report(args(urls)).await;
    assert!(report.is_right(), "{report}");
    assert!(report.retries >= 100, "every third event is sent to the dead node first: {report}");
}

#[tokio::test]
async fn an_event_that_is_acknowledged_and_lost_is_a_mismatch() {
    let server = Server::start(2, |n| if n == 100 { Fault::Forget } else { Fault::None }).await;
    let report = report(args(server.urls())).await;
    assert_eq!(report.acknowledged, report.events, "the server said yes to all of them");
    assert_eq!(report.exit_code(), 1);
    let is_quantity = |mismatch: &Mismatch| matches!(mismatch.difference, Difference::Quantity { .. });
    assert!(report.first_mismatches.iter().any(is_quantity), "{report}");
}

#[tokio::test]
async fn an_event_that_is_counted_twice_is_a_mismatch() {
    let server = Server::start(2, |n| if n == 100 { Fault::Twice } else { Fault::None }).await;
    let report = report(args(server.urls())).await;
    assert_eq!(report.exit_code(), 1);
    assert!(report.mismatches >= 1, "{report}");
}

#[tokio::test]
async fn a_refused_event_is_a_failure_that_is_named_and_not_retried() {
    let server = Server::start(2, |n| if n == 7 { Fault::Refuse } else { Fault::None }).await;
    let report = report(args(server.urls())).await;
    assert_eq!(report.exit_code(), 1);
    assert_eq!(report.acknowledged, report.events - 1);
    assert_eq!(report.retries, 0);
    assert_eq!(report.failures.len(), 1);
    assert!(report.failures[0].starts_with("row "), "{}", report.failures[0]);
    assert!(report.failures[0].contains("422 invalid_config: no carts here"), "{}", report.failures[0]);
    assert_eq!(report.mismatches, 0, "what was never acknowledged is in doubt, not wrong");
}

#[tokio::test]
async fn a_server_that_refuses_everything_ends_the_replay_early() {
    let server = Server::start(1, |_| Fault::Refuse).await;
    let report = report(args(server.urls())).await;
    assert_eq!(report.exit_code(), 1);
    assert_eq!(report.acknowledged, 0);
    assert!(
        server.asked() < limits::FAILURES_MAX + 8,
        "at most one more for each worker: {}",
        server.asked()
    );
    assert!(report.failures.last().unwrap().starts_with("stopped after 10"), "{report}");
    assert_eq!(report.failures.len(), limits::LISTED_MAX + 1);
}

#[tokio::test]
async fn the_same_file_twice_counts_once() {
    let server = Server::start(2, |_| Fault::None).await;
    assert!(report(args(server.urls())).await.is_right());
    let again = report(ReplayArgs { seed: 2, ..args(server.urls()) }).await;
    assert!(again.is_right(), "{again}");
}

#[tokio::test]
async fn a_part_of_the_file_is_a_replay_too() {
    let server = Server::start(1, |_| Fault::None).await;
    let few = report(ReplayArgs { carts: Some(3), limit: Some(40), ..args(server.urls()) }).await;
    assert!(few.is_right(), "{few}");
    assert!((1..=3).contains(&few.carts) && (1..=40).contains(&few.events), "{few}");
    assert_eq!(few.acknowledged, few.events);
}

#[tokio::test]
async fn what_can_not_be_is_wrong_usage_and_names_its_reason() {
    let url = || vec!["http://127.0.0.1:9".to_owned()];
    let cases = [
        (ReplayArgs { kill_one: true, ..args(url()) }, "--kill-one needs a cluster of its own"),
        (ReplayArgs { kill_one: true, nodes: 2, ..args(Vec::new()) }, "at least 3 nodes"),
        (ReplayArgs { file: "/nowhere.csv".into(), ..args(url()) }, "/nowhere.csv"),
        (
            ReplayArgs { file: concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml").into(), ..args(url()) },
            "header",
        ),
        (ReplayArgs { bucket: String::new(), ..args(url()) }, "--bucket"),
        (ReplayArgs { limit: Some(0), ..args(url()) }, "no events"),
        (args(vec!["127.0.0.1:8098".to_owned()]), "found \"127.0.0.1:8098\""),
        (args(vec!["https://example.org".to_owned()]), "https://example.org"),
        (args([url(), vec!["http://127.0.0.1:9/".to_owned()]].concat()), "twice"),
    ];
    for (args, why) in cases {
        let found = usage(run(&args).await.unwrap_err());
        assert!(found.contains(why), "{found:?} should contain {why:?}");
        assert_eq!(replay(args).await, 2);
    }
}

/// The address of a port where nobody listens any more.
async fn dead_node() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}
