//! Operations, joined from their begins and ends, and told in words.

use super::{Answer, Call, Entry, Invoke, OpId, What, Why};
use std::collections::BTreeMap;
use std::fmt;

/// An operation from its begin to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct Op {
    /// What was asked.
    pub invoke: Invoke,
    /// Where in the list, and when.
    pub begun: Moment,
    /// Where and when it ended. `None` is later than everything.
    pub ended: Option<Moment>,
    /// How.
    pub fate: Fate,
}

/// A place in the list, and its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// The index of the entry.
    pub place: usize,
    /// Its time in microseconds.
    pub at_us: u64,
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// Acknowledged.
    Ok(Answer),
    /// Refused; nothing changed.
    Failed(Why),
    /// It may have been carried out, or be so later.
    Unknown(Option<Why>),
}

/// Joins begins and ends, in the order of the begins. What can't be joined is no history.
pub fn ops(entries: &[Entry]) -> Result<BTreeMap<OpId, Op>, String> {
    let mut ops: BTreeMap<OpId, Op> = BTreeMap::new();
    for (place, entry) in entries.iter().enumerate() {
        let moment = Moment { place, at_us: entry.at_us };
        let (op, fate) = match &entry.what {
            What::Setting(_) => continue,
            What::Invoke(invoke) => {
                let begun =
                    Op { invoke: invoke.clone(), begun: moment, ended: None, fate: Fate::Unknown(None) };
                if ops.insert(invoke.op, begun).is_some() {
                    return Err(format!("operation {} begins twice", invoke.op));
                }
                continue;
            }
            What::Ok { op, answer } => (op, Fate::Ok(answer.clone())),
            What::Fail { op, why } => (op, Fate::Failed(why.clone())),
            What::Info { op, why } => (op, Fate::Unknown(Some(why.clone()))),
        };
        let begun = ops.get_mut(op).ok_or_else(|| format!("operation {op} ends and never began"))?;
        if begun.ended.replace(moment).is_some() {
            return Err(format!("operation {op} ends twice"));
        }
        begun.fate = fate;
    }
    Ok(ops)
}

impl Op {
    /// What came back, if it was acknowledged.
    pub fn answer(&self) -> Option<&Answer> {
        match &self.fate {
            Fate::Ok(answer) => Some(answer),
            Fate::Failed(_) | Fate::Unknown(_) => None,
        }
    }

    /// Whether it was surely over before that place in the list.
    pub fn over_before(&self, place: usize) -> bool {
        self.ended.is_some_and(|ended| ended.place < place)
    }

    /// Whether it reads.
    pub fn reads(&self) -> bool {
        matches!(self.invoke.call, Call::Get { .. } | Call::CartGet { .. })
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |moment: Moment| moment.at_us as f64 / 1e6;
        write!(f, "{}, {:.3} s", self.invoke, seconds(self.begun))?;
        if let Some(ended) = self.ended {
            write!(f, " to {:.3} s", seconds(ended))?;
        }
        match &self.fate {
            Fate::Ok(_) => f.write_str(", acknowledged"),
            Fate::Failed(why) => write!(f, ", refused ({})", why.code),
            Fate::Unknown(Some(why)) => write!(f, ", outcome unknown ({})", why.code),
            Fate::Unknown(None) => f.write_str(", never answered"),
        }
    }
}

impl fmt::Display for Invoke {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Invoke { op, client, node, bucket, key, call } = self;
        write!(f, "#{op} {call} on {bucket}/{key} by c{client} through {node}")
    }
}

impl fmt::Display for What {
    /// An operation has the same words as in a violation.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Setting(setting) => {
                write!(f, "{} clients begin {} on {}", setting.clients, setting.workload, setting.bucket)
            }
            What::Invoke(invoke) => invoke.fmt(f),
            What::Ok { op, answer } => write!(f, "#{op} acknowledged{answer}"),
            What::Fail { op, why } => write!(f, "#{op} refused ({})", why.code),
            What::Info { op, why } => write!(f, "#{op} outcome unknown ({})", why.code),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(receipt) = &self.receipt {
            write!(f, ", {receipt}")?;
        }
        for shown in &self.versions {
            write!(f, ", shows {:?}", shown.value.id)?;
        }
        self.items.iter().try_for_each(|item| write!(f, ", shows {} × {}", item.quantity, item.sku))
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with = |from: &Option<OpId>, word: &str| match from {
            Some(op) => format!(" {word} #{op}"),
            None => String::new(),
        };
        match self {
            Call::Get { min, reading } => write!(f, "{reading:?} get{}", with(min, "at least as of")),
            Call::CartGet { min, reading } => write!(f, "{reading:?} cart{}", with(min, "at least as of")),
            Call::Put { value, seen, ttl_ms } => {
                let ttl = ttl_ms.map_or(String::new(), |ms| format!(" for {ms} ms"));
                write!(f, "put {:?}{ttl}{}", value.id, with(seen, "having seen"))
            }
            Call::Delete { seen } => write!(f, "delete{}", with(seen, "having seen")),
            Call::CartAdd { sku, quantity, op_id } => write!(f, "add {quantity:+} {sku} ({op_id})"),
            Call::CartSet { sku, quantity, seen } => {
                write!(f, "set {sku} to {quantity}{}", with(seen, "having seen"))
            }
            Call::CartRemove { sku, seen } => write!(f, "remove {sku}{}", with(seen, "having seen")),
            Call::CartEmpty { seen } => write!(f, "empty{}", with(seen, "having seen")),
        }
    }
}
