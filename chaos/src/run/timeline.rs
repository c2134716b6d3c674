//! What was broken when, and which nodes nobody can expect to answer meanwhile.

use crate::history::Now;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Something that is wrong for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// What, in a few words.
    pub(super) what: String,
    /// Nodes that can't serve, counted from 0.
    pub(super) unable: BTreeSet<usize>,
    pub(super) from: Duration,
    /// `None` while it lasts.
    pub(super) until: Option<Duration>,
    /// Whether owners may be out of reach meanwhile: what insists on them need not be answered.
    pub(super) parts: bool,
    /// Whether it was announced, as an operator's restart is: then nobody has to notice first.
    pub(super) announced: bool,
    /// Whether it is told of.
    pub(super) shown: bool,
}

impl Span {
    pub(super) fn new(what: String, unable: BTreeSet<usize>, from: Duration) -> Self {
        Span { what, unable, from, until: None, parts: false, announced: false, shown: true }
    }
}

/// All of them, in the order of their begins. A clone is the same list.
#[derive(Clone)]
pub(super) struct Timeline {
    now: Now,
    spans: Arc<Mutex<Vec<Span>>>,
}

/// One that has not ended.
#[derive(Debug)]
#[must_use = "what has begun has to end"]
pub(super) struct Open(usize);

impl Timeline {
    pub(super) fn new(now: Now) -> Self {
        Self { now, spans: Arc::default() }
    }

    pub(super) fn now(&self) -> Duration {
        (self.now)()
    }

    /// Something is about to be broken.
    pub(super) fn begin(&self, what: impl Into<String>, unable: impl IntoIterator<Item = usize>) -> Open {
        self.push(Span::new(what.into(), unable.into_iter().collect(), self.now()))
    }

    /// The same, and nodes that can serve may not hear one another.
    pub(super) fn part(&self, what: impl Into<String>, unable: impl IntoIterator<Item = usize>) -> Open {
        let span = Span::new(what.into(), unable.into_iter().collect(), self.now());
        self.push(Span { parts: true, ..span })
    }

    /// The same, and whoever it concerns has been told.
    pub(super) fn announce(&self, what: impl Into<String>, unable: impl IntoIterator<Item = usize>) -> Open {
        let span = Span::new(what.into(), unable.into_iter().collect(), self.now());
        self.push(Span { announced: true, ..span })
    }

    /// A node has gone for good, or until another one takes its place; that is no trouble any more.
    pub(super) fn gone(&self, node: usize) -> Open {
        let span = Span::new(String::new(), [node].into(), self.now());
        self.push(Span { shown: false, ..span })
    }

    fn push(&self, span: Span) -> Open {
        let mut spans = self.spans();
        spans.push(span);
        Open(spans.len() - 1)
    }

    /// It is whole again.
    pub(super) fn end(&self, open: Open) {
        let now = self.now();
        self.spans()[open.0].until = Some(now);
    }

    /// All so far.
    pub(super) fn list(&self) -> Vec<Span> {
        self.spans().clone()
    }

    fn spans(&self) -> MutexGuard<'_, Vec<Span>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Span {
    /// Whether it lasted at some moment between these two.
    pub(super) fn meets(&self, from: Duration, until: Option<Duration>) -> bool {
        self.until.is_none_or(|end| end >= from) && until.is_none_or(|until| self.from <= until)
    }
}

/// Whether a node was able to serve from then until then; without a node, whether all were.
pub(super) fn able(spans: &[Span], node: Option<usize>, from: Duration, until: Option<Duration>) -> bool {
    let concerned = |span: &Span| match node {
        Some(node) => span.unable.contains(&node),
        None => !span.unable.is_empty(),
    };
    !spans.iter().any(|span| concerned(span) && span.meets(from, until))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_able_but_while_something_keeps_it_from_serving() {
        let s = Duration::from_secs;
        let span = |unable: &[usize], from, until| Span {
            until,
            ..Span::new(String::new(), unable.iter().copied().collect(), s(from))
        };
        let spans = [span(&[1], 2, Some(s(4))), span(&[], 0, None), span(&[2], 9, None)];
        assert!(able(&spans, Some(1), s(0), Some(s(1))));
        assert!(!able(&spans, Some(1), s(1), Some(s(3))), "it began while the answer was awaited");
        assert!(!able(&spans, Some(1), s(0), None), "an answer that never came was awaited all the time");
        assert!(able(&spans, Some(1), s(5), None));
        assert!(able(&spans, Some(0), s(0), None));
        assert!(!able(&spans, Some(2), s(20), Some(s(21))), "it has not ended");
        assert!(!able(&spans, None, s(3), Some(s(3))) && able(&spans, None, s(5), Some(s(6))));
    }
}
