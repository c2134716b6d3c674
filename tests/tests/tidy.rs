//! The house's rules that no compiler checks, as tests.
//!
//! ```text
//!              tests          uses all
//!            /   |   \
//!         chaos  |    node    chaos meets nodes over HTTP and signals only
//!            \   |   / |
//!             client   |
//!                  \   |
//!                   ring      knows no runtime, no chance, no network
//! ```
//!
//! They read the checkout as text: manifests with a TOML parser, sources line by line. A rule that needs more than a line
//! of source to decide belongs to clippy (`clippy.toml`), not here. What a rule finds is collected and shown whole, so
//! that one run names everything that is to be mended.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const LINES_MAX: usize = 600;
const CRATES: [&str; 5] = ["ring", "node", "client", "chaos", "tests"];

/// Everything that may lie at the top. A new entry is a decision, and this list is where it is made.
const TOP: &[&str] = &[
    ".cargo",
    ".ci",
    ".config",
    ".dockerignore",
    ".editorconfig",
    ".gitattributes",
    ".github",
    ".gitignore",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "Dockerfile",
    "LICENSE",
    "Makefile",
    "README.md",
    "chaos",
    "client",
    "clippy.toml",
    "deny.toml",
    "docker-compose.yml",
    "docs",
    "node",
    "ring",
    "rustfmt.toml",
    "scripts",
    "tests",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies in the workspace").to_path_buf()
}

/// The files of the checkout as git sees them: what is committed or about to be, and nothing that is ignored.
fn files() -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git runs");
    assert!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).expect("file names are UTF-8");
    let files: BTreeSet<&str> = names.split('\0').filter(|name| !name.is_empty()).collect();
    let files: Vec<String> =
        files.into_iter().filter(|f| root().join(f).is_file()).map(str::to_owned).collect();
    assert!(files.iter().any(|f| f == "Cargo.toml"), "the list of files is not that of the workspace");
    files
}

fn sources() -> Vec<(String, String)> {
    let rust = files().into_iter().filter(|f| f.ends_with(".rs"));
    rust.map(|f| {
        let text = fs::read_to_string(root().join(&f)).expect("git lists a file that can be read");
        (f, text)
    })
    .collect()
}

fn manifest(krate: &str) -> toml::Table {
    let text = fs::read_to_string(root().join(krate).join("Cargo.toml")).expect("every crate has a manifest");
    text.parse().expect("cargo has read it before us")
}

/// Dependencies of one of our crates in all tables of the given names, target-specific ones included.
fn dependencies(krate: &str, tables: &[&str]) -> BTreeSet<String> {
    let manifest = manifest(krate);
    let targets = manifest.get("target").and_then(toml::Value::as_table).into_iter().flat_map(|t| t.values());
    let places = std::iter::once(&manifest).chain(targets.filter_map(toml::Value::as_table));
    let mut found = BTreeSet::new();
    for place in places {
        for name in tables {
            let table = place.get(*name).and_then(toml::Value::as_table);
            found.extend(table.into_iter().flat_map(|t| t.keys().cloned()));
        }
    }
    found
}

const SHIPPED: &[&str] = &["dependencies", "build-dependencies"];
const ALL: &[&str] = &["dependencies", "build-dependencies", "dev-dependencies"];

#[track_caller]
fn none(rule: &str, found: &[String]) {
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}

#[test]
fn a_floor_uses_only_what_lies_below_it() {
    let below: [(&str, &[&str]); 5] = [
        ("ring", &[]),
        ("client", &["ring"]),
        ("chaos", &["client", "ring"]),
        ("node", &["ring", "client", "chaos"]),
        ("tests", &["ring", "client", "chaos", "node"]),
    ];
    let mut found = Vec::new();
    for (krate, allowed) in below {
        let used = dependencies(krate, ALL);
        let ours = CRATES.iter().filter(|c| used.contains(**c) || used.contains(&format!("cartwheel-{c}")));
        found.extend(ours.filter(|c| !allowed.contains(c)).map(|c| format!("{krate} uses {c}")));
    }
    none("a crate uses what does not lie below it", &found);
}

#[test]
fn the_ring_knows_no_runtime_no_chance_and_no_network() {
    let outside =
        ["tokio", "rand", "getrandom", "axum", "hyper", "reqwest", "rocksdb", "tracing", "futures-util"];
    let used = dependencies("ring", SHIPPED);
    assert!(used.contains("xxhash-rust"), "the manifest of ring was not read: {used:?}");
    let found: Vec<String> = outside.iter().filter(|d| used.contains(**d)).map(|d| (*d).to_owned()).collect();
    none("ring depends on something that waits, draws or speaks", &found);
}

#[test]
fn the_storage_engine_is_known_to_the_node_alone_and_the_simulator_to_the_tests() {
    let mut found = Vec::new();
    for krate in CRATES {
        let used = dependencies(krate, ALL);
        if krate != "node" && used.contains("rocksdb") {
            found.push(format!("{krate} depends on rocksdb"));
        }
        if krate != "tests" && used.contains("turmoil") {
            found.push(format!("{krate} depends on turmoil"));
        }
    }
    none("a dependency is used where it is not at home", &found);
}

#[test]
fn the_node_builds_without_the_storage_engine() {
    let manifest = manifest("node");
    assert_eq!(manifest["dependencies"]["rocksdb"]["optional"].as_bool(), Some(true));
    assert!(manifest["features"]["default"].as_array().unwrap().iter().any(|f| f.as_str() == Some("rocks")));
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    let mut found = Vec::new();
    for krate in CRATES {
        let manifest = manifest(krate);
        let inherits = manifest.get("lints").and_then(|l| l.get("workspace")).and_then(toml::Value::as_bool);
        if inherits != Some(true) {
            found.push(krate.to_owned());
        }
    }
    none("a crate without [lints] workspace = true", &found);
}

#[test]
fn every_file_opens_with_what_it_is() {
    let silent = sources().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(f, _)| f);
    none("a file that does not start with //!", &silent.collect::<Vec<_>>());
}

#[test]
fn no_file_holds_more_than_two_ideas() {
    let long = sources().into_iter().map(|(f, text)| (f, text.lines().count()));
    let found: Vec<String> =
        long.filter(|(_, lines)| *lines > LINES_MAX).map(|(f, n)| format!("{f}: {n} lines")).collect();
    none(&format!("a file of more than {LINES_MAX} lines"), &found);
}

#[test]
fn nothing_says_of_itself_that_it_is_unfinished() {
    // Spelt in halves, because this file is read as well.
    let words = [
        concat!("dbg", "!("),
        concat!("FIX", "ME"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("#[ign", "ore"),
    ];
    let mut found = Vec::new();
    for (file, text) in sources() {
        for (at, line) in text.lines().enumerate() {
            let word = words.iter().find(|word| line.contains(**word));
            found.extend(word.map(|word| format!("{file}:{}: {word}", at + 1)));
        }
    }
    none("something was left unfinished", &found);
}

#[test]
fn every_select_says_in_which_order_it_looks() {
    let mut found = Vec::new();
    for (file, text) in sources().into_iter().filter(|(f, _)| f.starts_with("node/")) {
        let code: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.starts_with("//")).collect();
        for (at, line) in code.iter().enumerate() {
            let Some((_, rest)) = line.split_once("select!") else { continue };
            let rest = rest.trim_start_matches([' ', '{', '(']);
            let first = if rest.is_empty() { code.get(at + 1).copied().unwrap_or_default() } else { rest };
            if !first.starts_with("biased;") {
                found.push(format!("{file}: {line}"));
            }
        }
    }
    none("select! without `biased;` looks in random order, and no seed repeats it", &found);
}

/// What would make two runs of a seed differ: real time, chance of no seed, and maps without an order. One file runs seeds, and looks at
/// the real clock to say how long that took.
#[test]
fn the_simulated_world_knows_no_real_time_and_no_chance_of_its_own() {
    const UNFIT: [&str; 7] = [
        "std::time::Instant",
        "time::{Duration, Instant}",
        "SystemTime",
        "HashMap",
        "HashSet",
        "rand::rng()",
        "make_rng",
    ];
    let inside = |path: &str| path.starts_with("tests/src/sim/") && !path.ends_with("/seeds.rs");
    let simulated: Vec<(String, String)> = sources().into_iter().filter(|(path, _)| inside(path)).collect();
    assert!(simulated.len() > 10, "the simulation is elsewhere");
    let names = |text: &str, unfit: &str| text.contains(unfit) && !text.contains(&format!("tokio::{unfit}"));
    let found: Vec<String> = simulated
        .iter()
        .flat_map(|(path, text)| {
            let unfit = UNFIT.iter().filter(|unfit| names(text, unfit));
            unfit.map(move |unfit| format!("{path} names {unfit}"))
        })
        .collect();
    none("the simulated world takes time and chance from its seed", &found);
}

#[test]
fn the_top_holds_nothing_unexpected() {
    let top: BTreeSet<String> =
        files().iter().map(|f| f.split('/').next().expect("a split has a first part").to_owned()).collect();
    let found: Vec<String> = top.into_iter().filter(|name| !TOP.contains(&name.as_str())).collect();
    none("something new at the top (if it belongs there, name it in TOP)", &found);
}

#[test]
fn no_file_names_a_place_of_the_machine_it_was_written_on() {
    let places =
        [concat!("/wo", "rk/"), concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/Us", "ers/")];
    let mut found = Vec::new();
    for file in files() {
        // What is no text names no place that anybody reads.
        let Ok(text) = fs::read_to_string(root().join(&file)) else { continue };
        for (at, line) in text.lines().enumerate() {
            let names = |place: &&&str| {
                line.match_indices(**place).any(|(i, _)| !line[..i].ends_with(|c: char| c.is_alphanumeric()))
            };
            found.extend(places.iter().find(names).map(|place| format!("{file}:{}: {place}", at + 1)));
        }
    }
    none("an absolute path of somebody's machine", &found);
}
