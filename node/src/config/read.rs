//! From three sources to one map, and from the map to typed values, each key taken out once.

use super::keys::KEYS;
use super::{ConfigError, NodeArgs, Secret};
use ring::ids::Zone;
use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use toml::Value;

/// A configuration of more than this is none.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The longest time-out: an hour.
const MILLIS_MAX: u64 = 3_600_000;
/// The most seeds; three are enough to find the rest.
const SEEDS_MAX: usize = 64;
/// The longest zone, advertised address or secret.
const TEXT_BYTES_MAX: usize = 1024;

/// A value and where it stood.
struct Found {
    value: Value,
    origin: String,
}

/// What was given and has not been read yet.
pub(super) struct Reader {
    given: BTreeMap<String, Found>,
    /// What something stronger has replaced. It must be right all the same: the day the flag goes, it counts.
    replaced: BTreeMap<String, Vec<Found>>,
}

impl Reader {
    /// Gathers all sources, the weakest first, each over the one before.
    pub(super) fn gather(
        args: &NodeArgs,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Reader, ConfigError> {
        let mut reader = Reader { given: BTreeMap::new(), replaced: BTreeMap::new() };
        let file = args.config.clone().or_else(|| env("CARTWHEEL_CONFIG").map(Into::into));
        if let Some(path) = file {
            reader.take_file(&path)?;
        }
        for key in KEYS {
            let name = key.env();
            if let Some(text) = env(&name) {
                reader.drop_other_secret(key.name);
                reader.put(key.name, Value::String(text), format!("in the environment, {name}"));
            }
        }
        reader.take_flags(args);
        Ok(reader)
    }

    /// A secret from a stronger source replaces the weaker one's file as well, and the other way round.
    fn drop_other_secret(&mut self, name: &str) {
        let other = match name {
            "cluster_secret" => "cluster_secret_file",
            "cluster_secret_file" => "cluster_secret",
            _ => return,
        };
        if self.given.get(other).is_some_and(|found| found.origin.starts_with("in the file")) {
            self.given.remove(other);
        }
    }

    fn put(&mut self, key: &str, value: Value, origin: String) {
        if let Some(weaker) = self.given.insert(key.to_owned(), Found { value, origin }) {
            self.replaced.entry(key.to_owned()).or_default().push(weaker);
        }
    }

    fn take_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        const ALLOWED: &str = "a readable TOML file of at most 1 MiB";
        let shown = path.display().to_string();
        let text = read_text("config", path, ALLOWED)?;
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| ConfigError::File {
            key: "config",
            path: shown.clone(),
            reason: place(&text, &error),
            allowed: ALLOWED,
        })?;
        let origin = format!("in the file {shown}");
        for (name, value) in table {
            match value {
                Value::Table(keys) if is_section(&name) => {
                    for (key, value) in keys {
                        self.put(&format!("{name}.{key}"), value, origin.clone());
                    }
                }
                value => self.put(&name, value, origin.clone()),
            }
        }
        Ok(())
    }

    fn take_flags(&mut self, args: &NodeArgs) {
        for (key, flag) in [
            ("http", &args.http),
            ("peer", &args.peer),
            ("advertise_http", &args.advertise_http),
            ("advertise_peer", &args.advertise_peer),
            ("data_dir", &args.data_dir),
            ("node_id", &args.node_id),
            ("partitions", &args.partitions),
            ("zone", &args.zone),
            ("weight", &args.weight),
            ("join", &args.join),
            ("log_format", &args.log_format),
        ] {
            if let Some(text) = flag {
                self.put(
                    key,
                    Value::String(text.clone()),
                    format!("as the flag --{}", key.replace('_', "-")),
                );
            }
        }
        if !args.seeds.is_empty() {
            let seeds = args.seeds.iter().cloned().map(Value::String).collect();
            self.put("seeds", Value::Array(seeds), "as the flag --seed".to_owned());
        }
        if args.insecure {
            self.put("insecure", Value::Boolean(true), "as the flag --insecure".to_owned());
        }
    }

    /// Takes a key out: what was given, parsed, or `None`.
    fn take<T>(
        &mut self,
        key: &str,
        allowed: &str,
        parse: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(found) = self.given.remove(key) else { return Ok(None) };
        let value = parse(&found.value).ok_or_else(|| bad(key, &found, allowed))?;
        let replaced = self.replaced.remove(key).unwrap_or_default();
        match replaced.iter().find(|weaker| parse(&weaker.value).is_none()) {
            Some(weaker) => Err(bad(key, weaker, allowed)),
            None => Ok(Some(value)),
        }
    }

    /// A text that is parsed.
    pub(super) fn parsed<T>(
        &mut self,
        key: &str,
        allowed: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        self.take(key, allowed, |value| value.as_str().and_then(&parse))
    }

    pub(super) fn text(&mut self, key: &str) -> Result<Option<String>, ConfigError> {
        let allowed = format!("a text of 1 to {TEXT_BYTES_MAX} bytes");
        self.parsed(key, &allowed, |text| fits(text).then(|| text.to_owned()))
    }

    /// Some zone, or the one of all that name none.
    pub(super) fn zone(&mut self) -> Result<Zone, ConfigError> {
        let allowed = format!("a text of 1 to {TEXT_BYTES_MAX} bytes without control characters");
        let plain = |text: &str| fits(text) && !text.chars().any(char::is_control);
        let given = self.parsed("zone", &allowed, |text| plain(text).then(|| Zone(text.to_owned())))?;
        Ok(given.unwrap_or_default())
    }

    pub(super) fn addr(&mut self, key: &str) -> Result<SocketAddr, ConfigError> {
        let given =
            self.parsed(key, "an IP address and a port, as 127.0.0.1:8098 or [::1]:8098", parse_addr)?;
        Ok(given.unwrap_or_else(|| parse_addr(default_of(key)).expect("the default is an address")))
    }

    pub(super) fn host_port(&mut self, key: &str) -> Result<Option<String>, ConfigError> {
        self.parsed(key, HOST_PORT, |text| is_host_port(text).then(|| text.to_owned()))
    }

    pub(super) fn host_ports(&mut self, key: &str) -> Result<Vec<String>, ConfigError> {
        let allowed = format!("at most {SEEDS_MAX} of {HOST_PORT}");
        let given = self.take(key, &allowed, |value| {
            let all: Vec<&str> = match value {
                Value::String(text) => {
                    text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect()
                }
                Value::Array(list) => list.iter().map(Value::as_str).collect::<Option<_>>()?,
                _ => return None,
            };
            let good = all.len() <= SEEDS_MAX && all.iter().all(|text| is_host_port(text));
            good.then(|| all.into_iter().map(str::to_owned).collect())
        })?;
        Ok(given.unwrap_or_default())
    }

    pub(super) fn number(&mut self, key: &str, min: u64, max: u64) -> Result<u64, ConfigError> {
        let range = min..=max;
        let given = self.take(key, &format!("an integer from {min} to {max}"), |value| {
            integer(value).filter(|number| range.contains(number))
        })?;
        Ok(given.unwrap_or_else(|| default_of(key).parse().expect("the default is a number")))
    }

    pub(super) fn size(&mut self, key: &str, min: u64, max: u64) -> Result<usize, ConfigError> {
        Ok(usize::try_from(self.number(key, min, max)?).expect("the largest size fits 32 bits"))
    }

    pub(super) fn millis(&mut self, key: &str) -> Result<Duration, ConfigError> {
        self.number(key, 1, MILLIS_MAX).map(Duration::from_millis)
    }

    pub(super) fn partitions(&mut self, key: &str) -> Result<Option<u16>, ConfigError> {
        self.take(key, "a power of two from 1 to 4096", |value| {
            let number = u16::try_from(integer(value)?).ok()?;
            (number.is_power_of_two() && number <= 4096).then_some(number)
        })
    }

    pub(super) fn flag(&mut self, key: &str) -> Result<bool, ConfigError> {
        let given = self.take(key, "true or false", |value| match value {
            Value::Boolean(flag) => Some(*flag),
            Value::String(text) => text.parse().ok(),
            _ => None,
        })?;
        Ok(given.unwrap_or(false))
    }

    /// One of some words, the first of which is the default.
    pub(super) fn word<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> Result<T, ConfigError> {
        let allowed = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(" or ");
        let find = |text: &str| words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        Ok(self.parsed(key, &allowed, find)?.unwrap_or(words[0].1))
    }

    /// A secret, as it is or in a file of its own. No message repeats it.
    pub(super) fn secret(
        &mut self,
        key: &str,
        file_key: &'static str,
    ) -> Result<Option<Secret>, ConfigError> {
        let bad = |found: &str, allowed: &str| ConfigError::Value {
            key: key.to_owned(),
            found: found.to_owned(),
            allowed: allowed.to_owned(),
        };
        let text = match (self.given.remove(key), self.text(file_key)?) {
            (Some(_), Some(_)) => return Err(bad("both it and its file", "one of the two")),
            (None, None) => return Ok(None),
            (Some(found), None) => found.value.as_str().map(str::to_owned),
            (None, Some(path)) => {
                let text = read_text(file_key, Path::new(&path), "a readable text file")?;
                Some(text.trim_end_matches(['\r', '\n']).to_owned())
            }
        };
        match text.filter(|text| fits(text)) {
            Some(text) => Ok(Some(Secret(text))),
            None => Err(bad("something else (not shown)", "a text of 1 to 1024 bytes")),
        }
    }

    /// The section `[defaults]`: known names only, and no level above `n`. What the values mean is the caller's.
    pub(super) fn defaults(&mut self) -> Result<BTreeMap<String, Value>, ConfigError> {
        let mut all = BTreeMap::new();
        for key in KEYS.iter().filter(|key| key.name.starts_with("defaults.")) {
            if let Some(found) = self.given.get(key.name) {
                let short = key.name.trim_start_matches("defaults.").to_owned();
                all.insert(short, from_text(&found.value));
            }
        }
        let n = all.get("n").and_then(integer).unwrap_or(3);
        for level in ["r", "w", "pr", "pw", "dw"] {
            let key = format!("defaults.{level}");
            if let (Some(value), Some(found)) = (all.get(level).and_then(integer), self.given.get(&key))
                && value > n
            {
                return Err(bad(&key, found, &format!("at most n, which is {n}, or one, quorum, all")));
            }
        }
        self.given
            .retain(|key, _| !KEYS.iter().any(|known| known.name == key && key.starts_with("defaults.")));
        Ok(all)
    }

    /// What nobody took is unknown.
    pub(super) fn finish(self) -> Result<(), ConfigError> {
        let Some((key, found)) = self.given.into_iter().next() else { return Ok(()) };
        let section = key.split_once('.').map_or("", |(section, _)| section);
        let near = KEYS.iter().map(|key| key.name).filter(|name| {
            section.is_empty() || name.split_once('.').is_some_and(|(other, _)| other == section)
        });
        let allowed = near.collect::<Vec<_>>().join(", ");
        Err(ConfigError::Unknown { key, origin: found.origin, allowed })
    }
}

/// Whether any key of the list has this before its dot.
fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.name.split_once('.').is_some_and(|(section, _)| section == name))
}

const HOST_PORT: &str = "a host and a port, as node1:8099";

fn default_of(key: &str) -> &'static str {
    KEYS.iter().find(|known| known.name == key).expect("only keys of the list are read").default
}

fn bad(key: &str, found: &Found, allowed: &str) -> ConfigError {
    let shown: String = found.value.to_string().chars().take(200).collect();
    ConfigError::Value {
        key: key.to_owned(),
        found: format!("{shown} ({})", found.origin),
        allowed: allowed.to_owned(),
    }
}

fn fits(text: &str) -> bool {
    (1..=TEXT_BYTES_MAX).contains(&text.len())
}

fn integer(value: &Value) -> Option<u64> {
    match value {
        Value::Integer(number) => u64::try_from(*number).ok(),
        Value::String(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    }
}

/// A value from the environment is a text; where it reads as a number or a flag, it is one.
fn from_text(value: &Value) -> Value {
    let Value::String(text) = value else { return value.clone() };
    match (text.parse::<i64>(), text.parse::<bool>()) {
        (Ok(number), _) => Value::Integer(number),
        (_, Ok(flag)) => Value::Boolean(flag),
        _ => value.clone(),
    }
}

/// `localhost` is the one name that needs nobody to resolve it.
fn parse_addr(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix("localhost:") {
        Some(port) => port.parse().ok().map(|port: u16| SocketAddr::from(([127, 0, 0, 1], port))),
        None => text.parse().ok(),
    }
}

fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let host_good = !host.is_empty() && host.len() <= 253 && host.bytes().all(name);
    (host_good || text.parse::<SocketAddr>().is_ok()) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

#[expect(clippy::disallowed_methods, reason = "the configuration is read before there is a world")]
fn read_text(key: &'static str, path: &Path, allowed: &'static str) -> Result<String, ConfigError> {
    let fail = |reason: String| ConfigError::File { key, path: path.display().to_string(), reason, allowed };
    let file = std::fs::File::open(path).map_err(|error| fail(error.to_string()))?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| fail(error.to_string()))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(fail("too large".to_owned()));
    }
    Ok(text)
}

/// toml's own report shows the line, which may hold the secret: say where, and what, but not the line.
fn place(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().replace('\n', " ");
    match error.span().and_then(|span| text.get(..span.start)) {
        Some(before) => format!("line {}: {message}", before.matches('\n').count() + 1),
        None => message,
    }
}
