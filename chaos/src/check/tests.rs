//! Histories written by hand: those that must pass, and the same with one thing wrong.

use super::*;
use crate::history::*;
use std::sync::Arc;

fn shown(id: &str) -> Shown {
    Shown { value: Value { id: id.into(), text: String::new() }, etag: None, expires_at: None }
}

#[test]
fn what_nobody_overwrote_must_be_there() {
    for (there, breaches) in [(true, vec![]), (false, vec![Breach::Lost])] {
        let history = History::new(Arc::new(|| Duration::ZERO));
        let put = |_| Call::Put { value: shown("a").value, seen: None, ttl_ms: None };
        let (op, _) = history.invoke(0, "n", "b", "k", put);
        history.ok(op, Answer::default());
        let get = |_| Call::Get { min: None, reading: Reading::Final };
        let (op, _) = history.invoke(0, "n", "b", "k", get);
        let versions = if there { vec![shown("a")] } else { vec![] };
        history.ok(op, Answer { versions, ..Answer::default() });
        let found: Vec<Breach> = all(&history.entries()).iter().map(|found| found.breach).collect();
        assert_eq!(found, breaches);
    }
}
