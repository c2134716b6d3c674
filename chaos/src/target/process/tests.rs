//! The part of a local cluster that needs no node: a shell script stands in for the binary, because what is tried here
//! is the handling of processes. That real nodes come up is tried in the `tests` crate.

use std::os::unix::fs::PermissionsExt;

use std::fs;

use super::*;

/// A "binary" that is a shell script, and a directory to keep both in.
fn script(dir: &Path, body: &str) -> Options {
    let binary = dir.join("node.sh");
    fs::write(&binary, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    Options {
        binary,
        nodes: 3,
        dir: Some(dir.join("cluster")),
        base_port: None,
        extra_args: vec!["--x".to_owned()],
        proxy: None,
        shim: false,
        config: String::new(),
        small_disk: None,
    }
}

fn is_alive(pid: u32) -> bool {
    nix::sys::signal::kill(Pid::from_raw(pid.try_into().unwrap()), None).is_ok()
}

/// Waits until the script of node `i` has set its trap for the `n`th time.
async fn until_it_said_up(cluster: &LocalCluster, i: usize, n: usize) {
    while fs::read_to_string(cluster.log(i)).unwrap().matches("up").count() < n {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_node_that_ends_early_is_an_error_with_the_end_of_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let options = script(dir.path(), "echo 'peer: address in use'; exit 2");
    let error = LocalCluster::start(options).await.unwrap_err().to_string();
    assert!(error.contains("ended while it was starting (exit status: 2)"), "{error}");
    assert!(error.contains("peer: address in use"), "{error}");
}

#[tokio::test]
async fn a_missing_binary_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { binary: "/nowhere/cartwheel".into(), ..script(dir.path(), "") };
    let error = LocalCluster::start(options).await.unwrap_err().to_string();
    assert!(error.contains("/nowhere/cartwheel"), "{error}");
}

#[tokio::test]
async fn every_node_but_the_first_has_the_first_as_its_seed() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::spawn(script(dir.path(), "exec sleep 60")).await.unwrap();
    let first = fs::read_to_string(cluster.config(0)).unwrap();
    let third = fs::read_to_string(cluster.config(2)).unwrap();
    assert!(!first.contains("seeds"), "{first}");
    assert!(third.contains(&format!("seeds = [\"{}\"]", cluster.peer(0))), "{third}");
    assert!(
        third.contains(&format!("http = \"{}\"", cluster.url(2).trim_start_matches("http://"))),
        "{third}"
    );
    assert!(third.contains(&format!("peer = \"{}\"", cluster.peer(2))), "{third}");
    assert!(third.contains("/cluster/n3/data\""), "{third}");
    assert!(cluster.command_line(1).ends_with("/cluster/n2/node.toml --x"), "{}", cluster.command_line(1));
}

#[tokio::test]
async fn dropping_a_cluster_ends_its_processes_and_removes_a_temporary_directory() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { dir: None, ..script(dir.path(), "exec sleep 60") };
    let cluster = LocalCluster::spawn(options).await.unwrap();
    let pids: Vec<u32> = (0..3).map(|i| cluster.pid(i).unwrap()).collect();
    let home = cluster.dir().to_owned();
    assert!(home.join("n3/node.toml").exists());
    drop(cluster);
    assert!(pids.iter().all(|pid| !is_alive(*pid)));
    assert!(!home.exists());
}

#[tokio::test]
async fn a_killed_node_can_be_started_again_and_a_stopped_one_gives_its_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let body = "trap 'exit 7' TERM; echo up; while :; do sleep 0.01; done";
    let mut cluster = LocalCluster::spawn(script(dir.path(), body)).await.unwrap();
    until_it_said_up(&cluster, 1, 1).await;
    let before = cluster.pid(1).unwrap();
    assert!(cluster.start_again(1).is_err(), "two processes must never share a data directory");
    cluster.kill(1).await.unwrap();
    assert!(!is_alive(before));
    assert_eq!(cluster.pid(1), None);
    cluster.start_again(1).unwrap();
    until_it_said_up(&cluster, 1, 2).await;
    cluster.pause(1).unwrap();
    cluster.resume(1).unwrap();
    assert_eq!(cluster.stop(1).await.unwrap(), Some(7));
    cluster.kill_all().await.unwrap();
    assert!((0..3).all(|i| cluster.pid(i).is_none()));
}

#[tokio::test]
async fn a_paused_node_has_stopped_when_the_pause_returns() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::spawn(script(dir.path(), "echo up; while :; do :; done")).await.unwrap();
    until_it_said_up(&cluster, 1, 1).await;
    let stat = format!("/proc/{}/stat", cluster.pid(1).unwrap());
    for round in 0..50 {
        cluster.pause(1).unwrap();
        let stat = fs::read_to_string(&stat).unwrap();
        let (_name, state) = stat.rsplit_once(") ").unwrap();
        assert!(state.starts_with('T') && cluster.stands_still(1), "round {round}: {stat}");
        assert!(!cluster.stands_still(0), "nobody has stopped it");
        cluster.resume(1).unwrap();
    }
}

/// Nothing is mounted there, so whoever unmounts it fails: root and others alike.
#[tokio::test]
async fn what_can_not_be_taken_away_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = LocalCluster::spawn(script(dir.path(), "exec sleep 60")).await.unwrap();
    let pids: Vec<u32> = (0..cluster.len()).filter_map(|i| cluster.pid(i)).collect();
    cluster.mounted = Some(dir.path().to_owned());
    let told = cluster.take_down().unwrap_err().to_string();
    assert!(told.contains("can't be unmounted") && told.contains(dir.path().to_str().unwrap()), "{told}");
    assert!(pids.len() == 3 && !pids.into_iter().any(is_alive), "what could be ended was");
}

#[tokio::test]
async fn what_is_taken_down_leaves_no_directory() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { dir: None, ..script(dir.path(), "exec sleep 60") };
    let cluster = LocalCluster::spawn(options).await.unwrap();
    let (home, pid) = (cluster.dir().to_owned(), cluster.pid(0).unwrap());
    assert!(home.exists() && is_alive(pid));
    cluster.take_down().unwrap();
    assert!(!home.exists() && !is_alive(pid));
}
