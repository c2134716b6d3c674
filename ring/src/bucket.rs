//! What a bucket promises: how many copies, how many answers, and what a write without a context means.
//!
//! The settings travel between nodes in the membership view (as postcard) and to people as JSON. The names, order and
//! spelling of the JSON are the contract's and have nothing to do with the fields here, so that side is written out
//! as [`BucketSettings::set`] and [`BucketSettings::get_all`] over [`Setting`], a JSON scalar without a JSON library.
//!
//! ```text
//!   {"w": 4}  ──set("w", Number(4))──▶  BucketSettings  ──validate()──▶  Err(/w: 4 answers of 3 replicas …)
//! ```
//!
//! `set` looks at one value, `validate` at all of them together: `{"w": 4, "n": 5}` is fine in either order.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The greatest n of a bucket.
pub const N_MAX: u8 = 16;
/// The most siblings that a bucket can be told to bear: enough for a test of patience, not for a full disk.
pub const SIBLINGS_MAX: u32 = 10_000;
/// The longest time to live: a hundred years.
pub const TTL_SECONDS_MAX: u64 = 100 * 366 * 24 * 3600;

/// How many answers an operation waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Level {
    /// So many, whatever n is.
    Count(u8),
    /// One.
    One,
    /// More than half of n.
    Quorum,
    /// All n.
    All,
}

impl Level {
    /// The number of answers, for a bucket of `n`. It may exceed `n`; [`BucketSettings::validate`] says so.
    pub fn resolve(self, n: usize) -> usize {
        match self {
            Level::Count(count) => usize::from(count),
            Level::One => 1,
            Level::Quorum => n / 2 + 1,
            Level::All => n,
        }
    }

    fn name(self) -> Option<&'static str> {
        match self {
            Level::Count(_) => None,
            Level::One => Some("one"),
            Level::Quorum => Some("quorum"),
            Level::All => Some("all"),
        }
    }

    fn named(name: &str) -> Option<Level> {
        [Level::One, Level::Quorum, Level::All].into_iter().find(|level| level.name() == Some(name))
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Level::Count(count) => write!(f, "{count}"),
            named => f.write_str(named.name().unwrap_or_default()),
        }
    }
}

/// The text was neither a number of replicas nor a level's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a level is an integer from 0 to 16, or one, quorum or all")]
pub struct ParseLevelError;

impl FromStr for Level {
    type Err = ParseLevelError;

    /// As it stands in a query string: digits or a name.
    fn from_str(text: &str) -> Result<Level, ParseLevelError> {
        if let Some(level) = Level::named(text) {
            return Ok(level);
        }
        // `parse` alone would also take "+2".
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let count = text.parse().ok().filter(|&count| digits && count <= N_MAX);
        count.map(Level::Count).ok_or(ParseLevelError)
    }
}

/// What a write without a context means.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub enum BlindWrites {
    /// It is concurrent with whatever it did not see.
    #[default]
    Siblings,
    /// The coordinator takes what it holds as seen.
    Supersede,
    /// It is refused.
    Reject,
}

/// When a replica may say that it has a write.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub enum Durability {
    /// After it is synced to the disk.
    #[default]
    Fsync,
    /// As soon as the operating system has it.
    Os,
}

/// What kind of values a bucket holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum DataType {
    /// Opaque bytes.
    Object,
    /// A number that many may change at once.
    Counter,
    /// A set of strings in which an add wins.
    Set,
    /// Registers, counters, sets and flags by name.
    Map,
    /// A shopping cart.
    Cart,
}

const BLIND_WRITES: [(BlindWrites, &str); 3] = [
    (BlindWrites::Siblings, "siblings"),
    (BlindWrites::Supersede, "supersede"),
    (BlindWrites::Reject, "reject"),
];
const DURABILITIES: [(Durability, &str); 2] = [(Durability::Fsync, "fsync"), (Durability::Os, "os")];
const DATA_TYPES: [(DataType, &str); 5] = [
    (DataType::Object, "object"),
    (DataType::Counter, "counter"),
    (DataType::Set, "set"),
    (DataType::Map, "map"),
    (DataType::Cart, "cart"),
];

/// A bucket's settings. Whoever has changed one calls [`BucketSettings::validate`] before using it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct BucketSettings {
    /// How many replicas hold each object.
    pub n: u8,
    /// How many must answer a read.
    pub r: Level,
    /// How many must take a write.
    pub w: Level,
    /// How many owners must be among those who answer a read.
    pub pr: Level,
    /// How many owners must be among those who take a write.
    pub pw: Level,
    /// How many must have a write on disk.
    pub dw: Level,
    /// Whether a fallback's answer counts where an owner can't be reached.
    pub sloppy: bool,
    /// How long a value lives unless its writer says otherwise; for ever without it.
    pub ttl_seconds: Option<u64>,
    /// How many concurrent values a key may have before writes are refused.
    pub max_siblings: u32,
    /// What a write without a context means.
    pub blind_writes: BlindWrites,
    /// When a replica may say that it has a write.
    pub durability: Durability,
    /// What kind of values it holds; nobody has said yet without it.
    pub kind: Option<DataType>,
}

impl Default for BucketSettings {
    fn default() -> Self {
        BucketSettings {
            n: 3,
            r: Level::Quorum,
            w: Level::Quorum,
            pr: Level::Count(0),
            pw: Level::Count(0),
            dw: Level::Count(0),
            sloppy: true,
            ttl_seconds: None,
            max_siblings: 100,
            blind_writes: BlindWrites::default(),
            durability: Durability::default(),
            kind: None,
        }
    }
}

/// A JSON scalar: what a setting looks like from outside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Setting {
    /// A non-negative integer.
    Number(u64),
    /// A string.
    Text(String),
    /// True or false.
    Bool(bool),
    /// Nothing: the default.
    Null,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Setting::Number(number) => write!(f, "{number}"),
            Setting::Text(text) => write!(f, "{text:?}"),
            Setting::Bool(value) => write!(f, "{value}"),
            Setting::Null => f.write_str("null"),
        }
    }
}

/// A setting that can't be: where it stands in the body, what was found and what is allowed. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pointer}: {detail}")]
pub struct Invalid {
    /// The JSON pointer of the setting.
    pub pointer: String,
    /// What was found and what is allowed.
    pub detail: String,
}

impl Invalid {
    /// The setting called `name` can't be as it was asked for.
    pub fn new(name: &str, detail: impl Into<String>) -> Invalid {
        // Names come from outside, and a pointer has an escape of its own for the two signs that it uses.
        let pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
        Invalid { pointer, detail: detail.into() }
    }
}

impl BucketSettings {
    /// Every setting with its name, in the contract's order.
    pub fn get_all(&self) -> Vec<(&'static str, Setting)> {
        let level = |level: Level| match level {
            Level::Count(count) => Setting::Number(count.into()),
            named => Setting::Text(named.to_string()),
        };
        vec![
            ("n", Setting::Number(self.n.into())),
            ("r", level(self.r)),
            ("w", level(self.w)),
            ("pr", level(self.pr)),
            ("pw", level(self.pw)),
            ("dw", level(self.dw)),
            ("sloppy", Setting::Bool(self.sloppy)),
            ("ttl_seconds", self.ttl_seconds.map_or(Setting::Null, Setting::Number)),
            ("max_siblings", Setting::Number(self.max_siblings.into())),
            ("blind_writes", word(self.blind_writes, &BLIND_WRITES)),
            ("durability", word(self.durability, &DURABILITIES)),
            ("type", self.kind.map_or(Setting::Null, |kind| word(kind, &DATA_TYPES))),
        ]
    }

    /// Changes one setting by its name; `Null` stands for the default.
    pub fn set(&mut self, name: &str, value: Setting) -> Result<(), Invalid> {
        let default = BucketSettings::default();
        match name {
            "n" => self.n = or(value, default.n, |v| number(name, v, 1, N_MAX.into()))?,
            "r" => self.r = or(value, default.r, |v| level(name, v, 1))?,
            "w" => self.w = or(value, default.w, |v| level(name, v, 1))?,
            "pr" => self.pr = or(value, default.pr, |v| level(name, v, 0))?,
            "pw" => self.pw = or(value, default.pw, |v| level(name, v, 0))?,
            "dw" => self.dw = or(value, default.dw, |v| level(name, v, 0))?,
            "sloppy" => self.sloppy = or(value, default.sloppy, |v| truth(name, v))?,
            "ttl_seconds" => {
                self.ttl_seconds = or(value, None, |v| number(name, v, 1, TTL_SECONDS_MAX).map(Some))?;
            }
            "max_siblings" => {
                self.max_siblings =
                    or(value, default.max_siblings, |v| number(name, v, 1, SIBLINGS_MAX.into()))?;
            }
            "blind_writes" => {
                self.blind_writes = or(value, default.blind_writes, |v| one_of(name, v, &BLIND_WRITES))?;
            }
            "durability" => {
                self.durability = or(value, default.durability, |v| one_of(name, v, &DURABILITIES))?;
            }
            "type" => {
                let kind = or(value, None, |v| one_of(name, v, &DATA_TYPES).map(Some))?;
                check_kind(self.kind, kind)?;
                self.kind = kind;
            }
            _ => return Err(Invalid::new(name, unknown(self))),
        }
        Ok(())
    }

    /// Whether the settings can be kept, each for itself and all together.
    ///
    /// Settings also arrive from other nodes, so this checks what [`BucketSettings::set`] has checked once more.
    pub fn validate(&self) -> Result<(), Invalid> {
        let out_of = |name, value: u64, low: u64, high: u64| match (low..=high).contains(&value) {
            true => Ok(()),
            false => Err(Invalid::new(name, format!("{value} was found, {low} to {high} is allowed"))),
        };
        out_of("n", self.n.into(), 1, N_MAX.into())?;
        let levels =
            [("r", self.r, 1), ("w", self.w, 1), ("pr", self.pr, 0), ("pw", self.pw, 0), ("dw", self.dw, 0)];
        for (name, level, least) in levels {
            self.check_level(name, level, least)?;
        }
        out_of("ttl_seconds", self.ttl_seconds.unwrap_or(1), 1, TTL_SECONDS_MAX)?;
        out_of("max_siblings", self.max_siblings.into(), 1, SIBLINGS_MAX.into())
    }

    /// Whether a level is possible with this bucket's n; for the levels of single requests too.
    pub fn check_level(&self, name: &str, level: Level, least: usize) -> Result<(), Invalid> {
        let n = usize::from(self.n);
        if (least..=n).contains(&level.resolve(n)) {
            return Ok(());
        }
        Err(Invalid::new(
            name,
            format!("{level} was found, {least} to {n} (the bucket's n), one, quorum or all is allowed"),
        ))
    }

    /// Whether `next` may follow these settings: once a bucket has a type, it keeps it.
    pub fn check_successor(&self, next: &BucketSettings) -> Result<(), Invalid> {
        check_kind(self.kind, next.kind)
    }
}

fn check_kind(from: Option<DataType>, to: Option<DataType>) -> Result<(), Invalid> {
    match from {
        Some(kind) if from != to => {
            let kind = word(kind, &DATA_TYPES);
            Err(Invalid::new("type", format!("the bucket's type is {kind} and can't be changed")))
        }
        _ => Ok(()),
    }
}

fn unknown(settings: &BucketSettings) -> String {
    let names: Vec<&str> = settings.get_all().into_iter().map(|(name, _)| name).collect();
    format!("there is no such setting, there are {}", names.join(", "))
}

fn or<T>(
    value: Setting,
    default: T,
    parse: impl FnOnce(Setting) -> Result<T, Invalid>,
) -> Result<T, Invalid> {
    match value {
        Setting::Null => Ok(default),
        value => parse(value),
    }
}

fn number<T: TryFrom<u64>>(name: &str, value: Setting, low: u64, high: u64) -> Result<T, Invalid> {
    let parsed = match value {
        Setting::Number(number) if (low..=high).contains(&number) => T::try_from(number).ok(),
        _ => None,
    };
    let detail = || format!("{value} was found, an integer from {low} to {high} is allowed");
    parsed.ok_or_else(|| Invalid::new(name, detail()))
}

fn level(name: &str, value: Setting, least: u8) -> Result<Level, Invalid> {
    let parsed = match &value {
        Setting::Number(count) => u8::try_from(*count).ok().map(Level::Count),
        Setting::Text(text) => Level::named(text),
        Setting::Bool(_) | Setting::Null => None,
    };
    let detail = || {
        format!(
            "{value} was found, an integer from {least} to n (at most {N_MAX}), one, quorum or all is allowed"
        )
    };
    let possible = |level: &Level| !matches!(level, Level::Count(count) if !(least..=N_MAX).contains(count));
    parsed.filter(possible).ok_or_else(|| Invalid::new(name, detail()))
}

fn truth(name: &str, value: Setting) -> Result<bool, Invalid> {
    match value {
        Setting::Bool(value) => Ok(value),
        other => Err(Invalid::new(name, format!("{other} was found, true or false is allowed"))),
    }
}

fn word<T: PartialEq>(value: T, words: &[(T, &str)]) -> Setting {
    let (_, word) = words.iter().find(|(one, _)| *one == value).expect("the list has a word for every value");
    Setting::Text((*word).to_owned())
}

fn one_of<T: Copy>(name: &str, value: Setting, words: &[(T, &str)]) -> Result<T, Invalid> {
    let found = words.iter().find(|(_, word)| matches!(&value, Setting::Text(text) if text == word));
    let allowed: Vec<&str> = words.iter().map(|(_, word)| *word).collect();
    let detail = || format!("{value} was found, {} is allowed", allowed.join(", "));
    found.map(|(one, _)| *one).ok_or_else(|| Invalid::new(name, detail()))
}

#[cfg(test)]
#[path = "bucket_tests.rs"]
mod tests;
