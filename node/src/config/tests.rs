//! The configuration from all of its sources, and the words in which a bad one is refused.

use super::keys::{KEYS, docs_table};
use super::*;
use std::io::Write;
use tempfile::NamedTempFile;

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn load(args: NodeArgs, env: &[(&str, &str)], text: &str) -> Result<Config, ConfigError> {
    let file = file(text);
    let args = NodeArgs { config: Some(file.path().to_owned()), ..args };
    let env = |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    Config::load(&args, &env, &|_| Ok(()))
}

fn from_file(text: &str) -> Result<Config, ConfigError> {
    load(NodeArgs::default(), &[], text)
}

#[test]
fn nothing_given_means_the_defaults_of_the_list() {
    let config = Config::load(&NodeArgs::default(), &|_| None, &|_| Ok(())).unwrap();
    assert_eq!(config.http, "127.0.0.1:8098".parse().unwrap());
    assert_eq!(config.peer, "127.0.0.1:8099".parse().unwrap());
    assert_eq!(config.data_dir, PathBuf::from("./data"));
    assert_eq!(config.limits.value_bytes, 4 << 20);
    assert_eq!(config.timeouts.header, Duration::from_secs(10));
    assert_eq!((config.weight, config.join, config.partitions), (1, Join::Auto, None));
    assert!(config.defaults.is_empty() && config.seeds.is_empty() && !config.insecure);
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let text = "http = '127.0.0.1:1'\npeer = '127.0.0.1:1'\nzone = 'file'\n";
    let env = [("CARTWHEEL_HTTP", "127.0.0.1:2"), ("CARTWHEEL_PEER", "localhost:2")];
    let args = NodeArgs { http: Some("127.0.0.1:3".to_owned()), ..NodeArgs::default() };
    let config = load(args, &env, text).unwrap();
    assert_eq!((config.http.port(), config.peer.port(), config.zone.0.as_str()), (3, 2, "file"));
}

#[test]
fn every_key_can_stand_in_the_file_and_in_the_environment() {
    let text = "
        seeds = ['a:1', '[::1]:2']\nweight = 2\npartitions = 512\njoin = 'manual'\nlog_format = 'json'
        node_id = '000102030405060708090a0b0c0d0e0f'\nadvertise_http = 'a.b:80'\n
        [limits]\nvalue_bytes = 1000\nin_flight = 5\n[defaults]\nn = 5\nw = 4\nsloppy = false\n
        [timeouts]\nrequest_ms = 100\n";
    let config = from_file(text).unwrap();
    assert_eq!(config.seeds, ["a:1", "[::1]:2"]);
    assert_eq!((config.weight, config.partitions, config.join), (2, Some(512), Join::Manual));
    assert_eq!((config.limits.value_bytes, config.limits.in_flight), (1000, 5));
    assert_eq!(config.timeouts.request, Duration::from_millis(100));
    assert_eq!(config.defaults["sloppy"], toml::Value::Boolean(false));
    assert_eq!(config.node_id.unwrap().to_string(), "000102030405060708090a0b0c0d0e0f");

    let env = [
        ("CARTWHEEL_SEEDS", "a:1, b:2,"),
        ("CARTWHEEL_LIMITS_VALUE_BYTES", "2000"),
        ("CARTWHEEL_DEFAULTS_W", "1"),
        ("CARTWHEEL_DEFAULTS_SLOPPY", "true"),
        ("CARTWHEEL_DEFAULTS_R", "all"),
        ("CARTWHEEL_INSECURE", "true"),
    ];
    let config = load(NodeArgs::default(), &env, text).unwrap();
    assert_eq!(config.seeds, ["a:1", "b:2"]);
    assert_eq!((config.limits.value_bytes, config.insecure), (2000, true));
    assert_eq!(config.defaults["w"], toml::Value::Integer(1));
    assert_eq!(config.defaults["sloppy"], toml::Value::Boolean(true));
    assert_eq!(config.defaults["r"], toml::Value::String("all".to_owned()));
}

/// A file with one key in it, under its section if it has one.
fn one_key(name: &str, value: &str) -> String {
    match name.split_once('.') {
        Some((section, key)) => format!("[{section}]\n{key} = {value}\n"),
        None => format!("{name} = {value}\n"),
    }
}

#[test]
fn every_key_of_the_list_is_read_from_the_file() {
    let secret = file("s3");
    let without_default = |name: &str| match name {
        "advertise_http" | "advertise_peer" => "'a.b:80'".to_owned(),
        "seeds" => "['a:1']".to_owned(),
        "node_id" => "'000102030405060708090a0b0c0d0e0f'".to_owned(),
        "zone" | "cluster_secret" => "'text'".to_owned(),
        "cluster_secret_file" => format!("{:?}", secret.path().to_str().unwrap()),
        other => panic!("a key without a default needs a value here: {other}"),
    };
    let written = |default: &str| match default.parse::<toml::Value>() {
        Ok(value) => value.to_string(),
        Err(_) => format!("{default:?}"),
    };
    let read = |text: &str| {
        let file = file(text);
        let args = NodeArgs { config: Some(file.path().to_owned()), ..NodeArgs::default() };
        let check = |given: &_| super::defaults::bucket_defaults(given).map(drop);
        Config::load(&args, &|_| None, &check).map_err(|error| error.to_string())
    };
    for key in KEYS {
        let good = match key.default {
            "" => without_default(key.name),
            default => written(default),
        };
        let text = one_key(key.name, &good);
        assert!(read(&text).is_ok(), "{text}: {:?}", read(&text));
        // And whoever reads it looks at just this value.
        let wrong = read(&one_key(key.name, "{ nonsense = [1] }")).expect_err(key.name);
        assert!(wrong.starts_with(&format!("{}: found ", key.name)), "{wrong}");
        assert!(!wrong.contains("unknown key"), "{wrong}");
    }
    assert_eq!(read("[reap]\ngrace_ms = 20001").unwrap().reap_grace, Duration::from_millis(20_001));
}

#[test]
fn a_bad_value_is_named_with_what_was_found_and_what_is_allowed() {
    for (text, key, found, allowed) in [
        ("htpp = 'x'", "htpp", "unknown key", "http"),
        ("[limits]\nvalues = 1", "limits.values", "unknown key", "limits.value_bytes"),
        ("[defaults]\nttl = 1", "defaults.ttl", "unknown key", "defaults.n"),
        ("[limit]\nvalue_bytes = 1", "limit", "unknown key", "limits.value_bytes"),
        ("limits = 3", "limits", "unknown key", "limits.value_bytes"),
        ("http = 'nowhere'", "http", "nowhere", "127.0.0.1:8098"),
        ("http = 8098", "http", "8098", "127.0.0.1:8098"),
        ("seeds = ['a']", "seeds", "a", "node1:8099"),
        ("seeds = [1]", "seeds", "1", "node1:8099"),
        ("partitions = 100", "partitions", "100", "power of two"),
        ("partitions = 8192", "partitions", "8192", "4096"),
        ("weight = 0", "weight", "0", "1 to 64"),
        ("weight = -1", "weight", "-1", "1 to 64"),
        ("join = 'maybe'", "join", "maybe", "auto or manual"),
        ("insecure = 'yes'", "insecure", "yes", "true or false"),
        ("zone = ''", "zone", "\"\"", "1 to"),
        ("zone = \"a\\tb\"", "zone", "a\\tb", "control characters"),
        ("node_id = '12'", "node_id", "12", "32 hexadecimal"),
        ("[limits]\nvalue_bytes = 67108865", "limits.value_bytes", "67108865", "67108864"),
        ("[timeouts]\nrequest_ms = 0", "timeouts.request_ms", "0", "1 to"),
        ("[defaults]\nn = 2\nw = 3", "defaults.w", "3", "at most n, which is 2"),
        ("[defaults]\npr = 4", "defaults.pr", "4", "at most n, which is 3"),
        ("http = ", "config", "line 1", "TOML"),
    ] {
        let message = from_file(text).expect_err(text).to_string();
        assert!(message.starts_with(&format!("{key}: found ")), "{text}: {message}");
        let (before, after) = message.split_once(", allowed: ").expect("the message says what is allowed");
        assert!(before.contains(found) && after.contains(allowed), "{text}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn a_bad_value_says_where_it_stood() {
    let env = load(NodeArgs::default(), &[("CARTWHEEL_WEIGHT", "x")], "").unwrap_err().to_string();
    assert!(env.contains("CARTWHEEL_WEIGHT"), "{env}");
    let args = NodeArgs { data_dir: Some(String::new()), ..NodeArgs::default() };
    assert!(load(args, &[], "").unwrap_err().to_string().contains("--data-dir"));
    let args = NodeArgs { config: Some("/nonexistent/file".into()), ..NodeArgs::default() };
    let missing = Config::load(&args, &|_| None, &|_| Ok(())).unwrap_err().to_string();
    assert!(missing.starts_with("config: found /nonexistent/file unusable"), "{missing}");
}

#[test]
fn a_bad_value_is_found_under_a_good_one() {
    let args = NodeArgs { weight: Some("2".into()), ..NodeArgs::default() };
    let message = load(args, &[("CARTWHEEL_WEIGHT", "3")], "weight = 0").unwrap_err().to_string();
    assert!(message.starts_with("weight: found 0 (in the file"), "{message}");
    let env = load(NodeArgs::default(), &[("CARTWHEEL_HTTP", "127.0.0.1:1")], "http = 'here'").unwrap_err();
    assert!(env.to_string().starts_with("http: found \"here\" (in the file"), "{env}");
}

#[test]
fn beyond_loopback_somebody_must_say_so() {
    let message = from_file("http = '0.0.0.0:8098'").unwrap_err().to_string();
    assert!(message.starts_with("http: found 0.0.0.0:8098") && message.contains("--insecure"), "{message}");
    assert!(from_file("peer = '192.0.2.1:8099'").unwrap_err().to_string().starts_with("peer: "));
    assert!(from_file("peer = '192.0.2.1:8099'\ncluster_secret = 's3'").is_ok());
    assert!(from_file("http = '0.0.0.0:8098'\ncluster_secret = 's3'").is_err());
    assert!(from_file("http = '0.0.0.0:1'\npeer = '[::]:2'\ninsecure = true").is_ok());
    assert!(from_file("http = '[::1]:1'").is_ok());
}

#[test]
fn a_secret_is_read_and_never_shown() {
    let config = from_file("cluster_secret = 'hush-hush'").unwrap();
    assert_eq!(config.cluster_secret.as_ref().unwrap().expose(), "hush-hush");
    assert!(!format!("{config:?}").contains("hush"));
    let secret = file("from-a-file\n");
    let named = format!("cluster_secret_file = {:?}\n", secret.path().to_str().unwrap());
    assert_eq!(from_file(&named).unwrap().cluster_secret.unwrap().expose(), "from-a-file");
    let env = [("CARTWHEEL_CLUSTER_SECRET", "from-env")];
    let config = load(NodeArgs::default(), &env, &named).unwrap();
    assert_eq!(config.cluster_secret.unwrap().expose(), "from-env", "the stronger source wins");
    for bad in [
        format!("{named}cluster_secret = 'hush'"),
        "cluster_secret = ['hush']".to_owned(),
        "cluster_secret = 'hush".to_owned(),
        "cluster_secret = ''".to_owned(),
    ] {
        let message = from_file(&bad).expect_err(&bad).to_string();
        assert!(!message.contains("hush"), "{message}");
    }
}

#[test]
fn the_caller_checks_what_the_defaults_mean() {
    let file = file("[defaults]\nn = 'many'");
    let args = NodeArgs { config: Some(file.path().to_owned()), ..NodeArgs::default() };
    let refused = Config::load(&args, &|_| None, &|defaults| {
        assert_eq!(defaults["n"], toml::Value::String("many".to_owned()));
        Err(ConfigError::Value { key: "defaults.n".into(), found: "many".into(), allowed: "1 to 16".into() })
    });
    assert_eq!(refused.unwrap_err().to_string(), "defaults.n: found many, allowed: 1 to 16");
}

#[test]
fn the_flags_are_those_of_the_list() {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        node: NodeArgs,
    }
    let command = <Cli as clap::CommandFactory>::command();
    let mut flags: Vec<String> =
        command.get_arguments().filter_map(|arg| arg.get_long()).map(|l| format!("--{l}")).collect();
    flags.retain(|flag| !matches!(flag.as_str(), "--config" | "--help"));
    let listed: Vec<&str> = KEYS.iter().map(|key| key.flag).filter(|flag| !flag.is_empty()).collect();
    flags.sort();
    let mut sorted = listed.clone();
    sorted.sort_unstable();
    assert_eq!(flags, sorted);
    let cli = <Cli as clap::Parser>::parse_from(["x", "--seed", "a:1", "--seed", "b:2", "--insecure"]);
    assert_eq!(cli.node.seeds, ["a:1", "b:2"]);
    assert!(cli.node.insecure);
}

#[test]
fn the_documentation_has_the_table_of_the_list() {
    let docs = include_str!("../../../docs/configuration.md");
    let table: String =
        docs.lines().filter(|line| line.starts_with('|')).map(|line| format!("{line}\n")).collect();
    assert_eq!(table, docs_table(), "copy the right side into docs/configuration.md:\n{}", docs_table());
}
