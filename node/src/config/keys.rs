//! The one list of configuration keys: names, defaults and a sentence each. The documentation's table is made of it.

/// A key.
#[derive(Debug)]
pub struct Key {
    /// Its name in the file, with its section.
    pub name: &'static str,
    /// Its flag, or an empty text.
    pub flag: &'static str,
    /// Its default, as a person writes it; empty for none.
    pub default: &'static str,
    /// What it is for.
    pub doc: &'static str,
}

impl Key {
    /// The environment variable: `limits.value_bytes` is `CARTWHEEL_LIMITS_VALUE_BYTES`.
    pub fn env(&self) -> String {
        format!("CARTWHEEL_{}", self.name.to_ascii_uppercase().replace('.', "_"))
    }
}

const fn key(name: &'static str, flag: &'static str, default: &'static str, doc: &'static str) -> Key {
    Key { name, flag, default, doc }
}

/// All keys. `config` itself has no place in a file and is not among them.
pub const KEYS: &[Key] = &[
    key("http", "--http", "127.0.0.1:8098", "address of the client HTTP API"),
    key("peer", "--peer", "127.0.0.1:8099", "address of the peer protocol"),
    key(
        "advertise_http",
        "--advertise-http",
        "",
        "`host:port` of the HTTP API that peers and clients are told; what was bound if not given",
    ),
    key(
        "advertise_peer",
        "--advertise-peer",
        "",
        "`host:port` that peers are told; what was bound if not given",
    ),
    key("data_dir", "--data-dir", "./data", "data directory"),
    key(
        "seeds",
        "--seed",
        "",
        "peer addresses of nodes to join (a list; in the environment, separated by commas); none starts a new cluster",
    ),
    key(
        "node_id",
        "--node-id",
        "",
        "identity of a new data directory, 32 hexadecimal digits; an existing one must have it; random if not given",
    ),
    key("partitions", "--partitions", "256", "partitions of a new cluster: a power of two up to 4096"),
    key("zone", "--zone", "", "failure domain; replicas prefer distinct zones"),
    key("weight", "--weight", "1", "share of the data relative to other nodes, 1 to 64"),
    key("cluster_secret", "", "", "what peers must know to take part; never logged"),
    key("cluster_secret_file", "", "", "file that holds the cluster secret, instead of `cluster_secret`"),
    key(
        "join",
        "--join",
        "auto",
        "`auto`: a node with seeds commits its own join; `manual`: an operator does",
    ),
    key("insecure", "--insecure", "false", "listen beyond loopback although there are no tokens"),
    key("log_format", "--log-format", "text", "`text` or `json`"),
    key("limits.value_bytes", "", "4194304", "largest value in bytes, at most 67108864 (64 MiB)"),
    key("limits.header_bytes", "", "16384", "largest head of a request in bytes, 1024 to 49152"),
    key(
        "limits.connections",
        "",
        "1024",
        "most client connections at once; more wait in the system's backlog",
    ),
    key(
        "limits.hint_bytes",
        "",
        "4294967296",
        "most bytes of records that this node keeps for others that are away; writes that need more go elsewhere",
    ),
    key(
        "limits.hint_age_ms",
        "",
        "86400000",
        "milliseconds after which a hint is given up that no acknowledgement relies on; its partition is compared instead",
    ),
    key("limits.in_flight", "", "1024", "most client requests in flight; more are answered `429 overloaded`"),
    key("defaults.n", "", "3", "replicas of a bucket that nobody configured"),
    key("defaults.r", "", "quorum", "replicas that must answer a read"),
    key("defaults.w", "", "quorum", "replicas that must take a write"),
    key("defaults.pr", "", "0", "primary owners that must answer a read"),
    key("defaults.pw", "", "0", "primary owners that must take a write"),
    key("defaults.dw", "", "0", "replicas that must have a write durable"),
    key("defaults.sloppy", "", "true", "whether fallbacks stand in for owners that are out of reach"),
    key("defaults.durability", "", "fsync", "`fsync` or `os`"),
    key("defaults.max_siblings", "", "100", "most siblings of a key"),
    key(
        "defaults.blind_writes",
        "",
        "siblings",
        "what a write without a context means: `siblings`, `supersede` or `reject`",
    ),
    key("timeouts.request_ms", "", "5000", "time for a request that does not say `timeout_ms`"),
    key("timeouts.header_ms", "", "10000", "time for the head of a request"),
    key("timeouts.body_ms", "", "60000", "time for the body of a request"),
    key("timeouts.idle_ms", "", "60000", "after this a silent connection is closed"),
    key(
        "reap.grace_ms",
        "",
        "60000",
        "how long all nodes must have agreed on a deletion before it is forgotten; less than 20000 is for tests: a message may be under way for 16000",
    ),
];

/// The table of `docs/configuration.md`.
pub fn docs_table() -> String {
    let mut table =
        "| key | flag | environment | default | meaning |\n| --- | --- | --- | --- | --- |\n".to_owned();
    let code = |text: &str| if text.is_empty() { String::new() } else { format!("`{text}`") };
    for key in KEYS {
        let cells = [code(key.name), code(key.flag), code(&key.env()), code(key.default), key.doc.to_owned()];
        table.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    table
}
