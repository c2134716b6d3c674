//! Nobody repairs anything where all replicas are identical: by what each node counts, over a rest in which every pair has compared
//! its trees twice, and over the last look at every key.
//!
//! The disks say the same of themselves sooner ([`super::converged`]), but not that the nodes know it. Who takes equal copies for
//! different ones, or writes back what is there already, changes no disk and would never come to rest.
//!
//! While a deletion is forgotten, one owner after the other lets its record go. A read that comes in between finds owners that differ
//! and repairs them, as it must: so what is repaired while everything is read back is not judged if that has happened, but for what the
//! scrub counts, which no read moves.

use super::transport::SimTransport;
use client::Client;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long nobody asks for anything. A node meets one other a second, and the largest cluster of the simulation has nine.
pub(super) const REST: Duration = Duration::from_secs(20);
/// How often each pair meets at least meanwhile.
const MEETINGS: u64 = 2;
/// What a node counts and must not count any more, as paths in what it says of itself.
const AT_REST: [&str; 5] =
    ["/differences", "/repairs", "/read_repairs", "/scrub/healed", "/scrub/leaves_mended"];

/// Which of them reads count.
const READ_REPAIRS: usize = 2;
/// Those of them that a read may move which meets a deletion half forgotten: what the scrub finds is never excused.
const EXCUSED: usize = 3;

/// What a node had counted at some moment.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tally {
    node: String,
    others: u64,
    exchanges: u64,
    /// When it has met each of the others last.
    met: BTreeMap<String, String>,
    reaped: u64,
    done: Vec<u64>,
    /// What it does not say of itself.
    unsaid: Vec<String>,
}

/// What each node has counted until now.
pub(super) async fn count(urls: &[String], transport: &SimTransport) -> client::Result<Vec<Tally>> {
    let mut tallies = Vec::new();
    for url in urls {
        let node = Client::with_transport(vec![url.clone()], transport.clone())?;
        tallies.push(Tally::of(url, &node.aae().await?, urls.len() as u64 - 1));
    }
    Ok(tallies)
}

/// Whether the repairs of the last look at every key are not judged: a deletion was forgotten meanwhile, and a read has met it half gone and made it
/// whole again. What that leaves the others to compare and repair is none of their mistakes.
pub(super) fn is_excused(rested: &[Tally], read: &[Tally]) -> bool {
    let any = |differs: fn(&Tally, &Tally) -> bool| rested.iter().zip(read).any(|(a, b)| differs(a, b));
    any(|a, b| a.reaped != b.reaped) && any(|a, b| a.done.get(READ_REPAIRS) != b.done.get(READ_REPAIRS))
}

/// What must not have happened from the first moment to the second, a rest apart, and until the third, when everything was read.
pub(super) fn objections(before: &[Tally], rested: &[Tally], read: &[Tally]) -> Vec<String> {
    let over_rest = before.iter().zip(rested);
    let from = if is_excused(rested, read) { EXCUSED } else { 0 };
    let over_reads = rested.iter().zip(read);
    let unsaid = read.iter().filter_map(Tally::says_too_little);
    over_rest
        .clone()
        .filter_map(|(before, rested)| rested.met_too_few_since(before))
        .chain(over_rest.filter_map(|(before, after)| after.moved_since(before, 0)))
        .chain(over_reads.filter_map(|(before, after)| after.moved_since(before, from)))
        .chain(unsaid)
        .collect()
}

impl Tally {
    fn of(node: &str, told: &Value, others: u64) -> Tally {
        let mut unsaid = Vec::new();
        let mut number = |path: &str| {
            let number = told.pointer(path).and_then(Value::as_u64);
            unsaid.extend(number.is_none().then(|| path.to_owned()));
            number.unwrap_or_default()
        };
        let done = AT_REST.iter().map(|path| number(path)).collect();
        let (exchanges, reaped) = (number("/exchanges"), number("/reap/reaped"));
        let text = |peer: &Value, name: &str| peer.get(name).and_then(Value::as_str).map(str::to_owned);
        let peers = told.pointer("/peers").and_then(Value::as_array).into_iter().flatten();
        let met =
            peers.filter_map(|peer| Some((text(peer, "node")?, text(peer, "last_exchange")?))).collect();
        Tally { node: node.to_owned(), others, exchanges, met, reaped, done, unsaid }
    }

    /// What nobody says can't be judged.
    fn says_too_little(&self) -> Option<String> {
        let node = &self.node;
        (!self.unsaid.is_empty()).then(|| format!("{node} does not say {}", self.unsaid.join(", ")))
    }

    /// How many deletions it has forgotten.
    pub(super) fn reaped(&self) -> u64 {
        self.reaped
    }

    /// What was repaired since an earlier moment, though nothing was to repair, from one of those counters on.
    fn moved_since(&self, before: &Tally, from: usize) -> Option<String> {
        let pairs = AT_REST.iter().zip(before.done.iter().zip(&self.done)).skip(from);
        let moved: Vec<String> = pairs
            .filter(|(_, (before, now))| before != now)
            .map(|(path, (before, now))| format!("{path} from {before} to {now}"))
            .collect();
        let node = &self.node;
        (!moved.is_empty())
            .then(|| format!("all replicas are identical, and {node} counts {}", moved.join(", ")))
    }

    /// Whether it has met the others too seldom since then for its silence to mean anything.
    fn met_too_few_since(&self, before: &Tally) -> Option<String> {
        let (times, least) = (self.exchanges.saturating_sub(before.exchanges), MEETINGS * self.others);
        let whom = self.met.iter().filter(|(peer, at)| before.met.get(*peer) != Some(at)).count() as u64;
        let (node, others) = (&self.node, self.others);
        (times < least || whom < others).then(|| {
            format!(
                "all is well, and {node} has compared its trees {times} times in {} s, not {least}, and with {whom} of {others}",
                REST.as_secs()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(exchanges: u64, repairs: u64, read_repairs: u64, reaped: u64) -> Vec<Tally> {
        let (scrub, reap) = (json!({ "leaves_mended": 1, "healed": 0 }), json!({ "reaped": reaped }));
        let peers: Vec<Value> = ["n2", "n3", "n4", "n5"]
            .iter()
            .map(|peer| json!({ "node": peer, "last_exchange": format!("then + {exchanges}") }))
            .collect();
        let told = json!({
            "peers": peers, "exchanges": exchanges, "differences": 0, "repairs": repairs, "read_repairs": read_repairs, "scrub": scrub, "reap": reap
        });
        vec![Tally::of("n1", &told, 4)]
    }

    fn objects(rested: &[Tally], read: &[Tally]) -> bool {
        !objections(&told(10, 3, 1, 0), rested, read).is_empty()
    }

    #[test]
    fn whoever_repairs_or_meets_nobody_is_not_at_rest() {
        let (rested, forgot) = (told(18, 3, 1, 0), told(18, 3, 1, 7));
        assert!(!objects(&rested, &told(19, 3, 1, 0)));
        assert!(!objects(&forgot, &told(19, 3, 1, 7)), "while nobody reads, forgetting is nobody's repair");
        assert!(objects(&told(18, 4, 1, 0), &told(19, 4, 1, 0)), "a repair");
        assert!(objects(&told(18, 3, 2, 0), &told(19, 3, 2, 0)), "a read repair, and nobody has read");
        assert!(objects(&told(17, 3, 1, 0), &told(19, 3, 1, 0)), "too few meetings");
        assert!(objects(&rested, &told(19, 3, 2, 0)), "equal copies that a read has repaired");
        assert!(!objects(&rested, &told(19, 3, 2, 1)), "a read that met a deletion that is forgotten");
        assert!(!objects(&rested, &told(19, 4, 2, 1)), "and what came of it");
        assert!(objects(&rested, &told(19, 4, 1, 1)), "a repair without such a read");
        let mut scrubbed = told(19, 3, 2, 1);
        scrubbed[0].done[EXCUSED] += 1;
        assert!(objects(&rested, &scrubbed), "no read has a record healed");
        let mut alone = rested.clone();
        alone[0].met = told(10, 3, 1, 0)[0].met.clone();
        assert!(objects(&alone, &told(19, 3, 1, 0)), "the same ones again and again");
        let silent = vec![Tally::of("n1", &json!({ "exchanges": 19 }), 4)];
        assert!(objects(&rested, &silent), "who says nothing of himself");
    }
}
