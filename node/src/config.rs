//! The configuration: flag, then environment, then file, then default, validated whole before anything is opened.
//!
//! ```text
//!   --http A      CARTWHEEL_HTTP=A      http = "A"      127.0.0.1:8098
//!   ───────── wins over ──────── wins over ──── wins over ────────────
//! ```
//!
//! [`keys::KEYS`] is the one list: it gives every key its environment variable, its default and its line in
//! `docs/configuration.md` (a test compares them). All three sources become one map from key to value, and one
//! function reads each key out of it, so that a bad value is refused with the same words wherever it stood. What is
//! left over in the map is an unknown key. Neither clap's `env` nor serde's derive is used for this: both would
//! report in their own words, and neither says what is allowed.

mod defaults;
pub mod keys;
mod read;

pub use defaults::bucket_defaults;
use read::Reader;
use ring::ids::{NodeId, Zone};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The longest `limits.hint_age_ms`: a year.
const HINT_AGE_MAX_MS: u64 = 365 * 86_400_000;

/// The hard ceiling of `limits.value_bytes`.
pub const VALUE_BYTES_CEILING: u64 = 64 << 20;
/// The exit code of a start that ends here.
pub const EXIT_CODE: u8 = 2;

/// The flags of `cartwheel node`. Each value is checked by [`Config::load`], with the other sources' values.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct NodeArgs {
    /// Client HTTP address [env: CARTWHEEL_HTTP] [default: 127.0.0.1:8098]
    #[arg(long, value_name = "ADDR")]
    pub http: Option<String>,
    /// Peer address [env: CARTWHEEL_PEER] [default: 127.0.0.1:8099]
    #[arg(long, value_name = "ADDR")]
    pub peer: Option<String>,
    /// The HTTP address that peers and clients are told [default: what was bound]
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise_http: Option<String>,
    /// The peer address that peers are told [default: what was bound]
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise_peer: Option<String>,
    /// Data directory [env: CARTWHEEL_DATA_DIR] [default: ./data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Configuration file in TOML [env: CARTWHEEL_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A node to join by its peer address; may be repeated [default: start a new cluster]
    #[arg(long = "seed", value_name = "HOST:PEERPORT")]
    pub seeds: Vec<String>,
    /// Identity of a new data directory; that of an existing one must be equal [default: random]
    #[arg(long, value_name = "ID")]
    pub node_id: Option<String>,
    /// Partitions of a new cluster, a power of two up to 4096 [default: 256]
    #[arg(long, value_name = "COUNT")]
    pub partitions: Option<String>,
    /// Failure domain of this node
    #[arg(long, value_name = "NAME")]
    pub zone: Option<String>,
    /// Share of the data relative to other nodes [default: 1]
    #[arg(long, value_name = "COUNT")]
    pub weight: Option<String>,
    /// Whether a node with seeds commits its own join [default: auto]
    #[arg(long, value_name = "auto|manual")]
    pub join: Option<String>,
    /// Listen beyond loopback without tokens
    #[arg(long)]
    pub insecure: bool,
    /// How log lines are written [default: text]
    #[arg(long, value_name = "text|json")]
    pub log_format: Option<String>,
}

/// Everything that a node is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients are served.
    pub http: SocketAddr,
    /// Where peers are served.
    pub peer: SocketAddr,
    /// The HTTP address that others are told, if not what was bound.
    pub advertise_http: Option<String>,
    /// The peer address that others are told, if not what was bound.
    pub advertise_peer: Option<String>,
    /// The data directory.
    pub data_dir: PathBuf,
    /// Peer addresses of nodes to join; none starts a new cluster.
    pub seeds: Vec<String>,
    /// The identity of a new data directory, which an existing one must have.
    pub node_id: Option<NodeId>,
    /// The partitions of a new cluster, if given.
    pub partitions: Option<u16>,
    /// The failure domain.
    pub zone: Zone,
    /// The share of the data.
    pub weight: u32,
    /// What peers must prove to know, if anything.
    pub cluster_secret: Option<Secret>,
    /// Who commits the join.
    pub join: Join,
    /// Whether listening beyond loopback without tokens is meant.
    pub insecure: bool,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// Bounds that an operator may move.
    pub limits: Limits,
    /// The cluster-wide bucket defaults as given, without those that are not.
    pub defaults: BTreeMap<String, toml::Value>,
    /// Time-outs.
    pub timeouts: Timeouts,
    /// How long everybody must have agreed on a deletion before it is forgotten.
    pub reap_grace: Duration,
}

/// `[limits]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest value.
    pub value_bytes: u64,
    /// The largest head of a request.
    pub header_bytes: usize,
    /// The most client connections.
    pub connections: usize,
    /// The most client requests in flight.
    pub in_flight: usize,
    /// The most bytes that are kept for others that are away.
    pub hint_bytes: u64,
    /// How old a hint may grow that no acknowledgement relies on.
    pub hint_age: Duration,
}

/// `[timeouts]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A request without a `timeout_ms` of its own.
    pub request: Duration,
    /// The head of a request.
    pub header: Duration,
    /// The body of a request.
    pub body: Duration,
    /// A silent connection.
    pub idle: Duration,
}

/// Who commits the join of a node with seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// The node itself.
    Auto,
    /// An operator.
    Manual,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// Something that must not appear in a log, an error or an answer.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself, for those who prove or check it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// Why the node does not start: one message with the key, what was found and what is allowed. Nothing was opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value can't be used.
    #[error("{key}: found {found}, allowed: {allowed}")]
    Value {
        /// The key.
        key: String,
        /// What was found, and where; never a secret.
        found: String,
        /// What is allowed.
        allowed: String,
    },
    /// There is no such key.
    #[error("{key}: found an unknown key ({origin}), allowed: {allowed}")]
    Unknown {
        /// The key.
        key: String,
        /// Where it stood.
        origin: String,
        /// The keys there are at that place.
        allowed: String,
    },
    /// A file can't be used at all.
    #[error("{key}: found {path} unusable ({reason}), allowed: {allowed}")]
    File {
        /// The key that names the file.
        key: &'static str,
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
        /// What is allowed.
        allowed: &'static str,
    },
}

/// Checks the whole of `[defaults]`; the message names the key within it.
pub type CheckDefaults<'a> = &'a dyn Fn(&BTreeMap<String, toml::Value>) -> Result<(), ConfigError>;

impl Config {
    /// Reads and checks everything. `env` looks an environment variable up.
    pub fn load(
        args: &NodeArgs,
        env: &dyn Fn(&str) -> Option<String>,
        check_defaults: CheckDefaults<'_>,
    ) -> Result<Config, ConfigError> {
        let mut from = Reader::gather(args, env)?;
        let config = Config {
            http: from.addr("http")?,
            peer: from.addr("peer")?,
            advertise_http: from.host_port("advertise_http")?,
            advertise_peer: from.host_port("advertise_peer")?,
            data_dir: from.text("data_dir")?.map_or_else(|| PathBuf::from("./data"), PathBuf::from),
            seeds: from.host_ports("seeds")?,
            node_id: from.parsed("node_id", "32 hexadecimal digits", |text| text.parse().ok())?,
            partitions: from.partitions("partitions")?,
            zone: from.zone()?,
            weight: u32::try_from(from.number("weight", 1, 64)?).expect("at most 64"),
            cluster_secret: from.secret("cluster_secret", "cluster_secret_file")?,
            join: from.word("join", &[("auto", Join::Auto), ("manual", Join::Manual)])?,
            insecure: from.flag("insecure")?,
            log_format: from.word("log_format", &[("text", LogFormat::Text), ("json", LogFormat::Json)])?,
            limits: Limits {
                value_bytes: from.number("limits.value_bytes", 1, VALUE_BYTES_CEILING)?,
                header_bytes: from.size("limits.header_bytes", 1024, 48 << 10)?,
                connections: from.size("limits.connections", 1, 65_536)?,
                in_flight: from.size("limits.in_flight", 1, 65_536)?,
                hint_bytes: from.number("limits.hint_bytes", 0, 1 << 50)?,
                hint_age: Duration::from_millis(from.number("limits.hint_age_ms", 1, HINT_AGE_MAX_MS)?),
            },
            timeouts: Timeouts {
                request: from.millis("timeouts.request_ms")?,
                header: from.millis("timeouts.header_ms")?,
                body: from.millis("timeouts.body_ms")?,
                idle: from.millis("timeouts.idle_ms")?,
            },
            reap_grace: from.millis("reap.grace_ms")?,
            defaults: from.defaults()?,
        };
        from.finish()?;
        config.check_loopback()?;
        check_defaults(&config.defaults)?;
        Ok(config)
    }

    /// Tokens don't exist yet, so nobody may reach the node from outside by oversight. A peer port that asks for the
    /// cluster secret may be reached.
    fn check_loopback(&self) -> Result<(), ConfigError> {
        let peer_open = !self.peer.ip().is_loopback() && self.cluster_secret.is_none();
        for (key, addr, open, or) in [
            ("http", self.http, !self.http.ip().is_loopback(), ""),
            ("peer", self.peer, peer_open, ", or a cluster_secret"),
        ] {
            if open && !self.insecure {
                return Err(ConfigError::Value {
                    key: key.to_owned(),
                    found: format!("{addr}, which is not loopback"),
                    allowed: format!("a loopback address, or --insecure to be reached by anybody{or}"),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
