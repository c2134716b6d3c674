//! P5: reads that ask for at least what their session has seen, and whether they were answered at all. A session whose reads are all
//! refused has seen nothing stale, and nothing else.

use super::pulse::{Expected, times};
use crate::history::{Call, Fate, Op, OpId};
use std::collections::BTreeMap;
use std::fmt;

/// One of so many reads that ask for a context must be answered, whatever is broken: of all, and of each bucket by nodes that could.
const SEEN_OF: usize = 2;
/// Fewer than these say nothing of their bucket.
const READS_MIN: usize = 20;

/// How many asked for a context, and how many of them were answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sessions {
    pub(super) asked: usize,
    pub(super) seen: usize,
    /// Buckets of which too few were, with the figures.
    pub(super) unseen: Vec<(String, usize, usize)>,
}

impl Sessions {
    pub(super) fn of(ops: &BTreeMap<OpId, Op>, expected: &Expected<'_>) -> Self {
        let has_min = |op: &&Op| {
            matches!(op.invoke.call, Call::Get { min: Some(_), .. } | Call::CartGet { min: Some(_), .. })
        };
        let (mut sessions, mut buckets) = (Self::default(), BTreeMap::<&str, (usize, usize)>::new());
        for op in ops.values().filter(has_min).filter(|op| !expected.forgotten.has(op)) {
            let is_seen = matches!(op.fate, Fate::Ok(_));
            sessions.asked += 1;
            sessions.seen += usize::from(is_seen);
            if expected.has_to_answer(op, times(op)) {
                let (asked, seen) = buckets.entry(&op.invoke.bucket).or_default();
                *asked += 1;
                *seen += usize::from(is_seen);
            }
        }
        let too_few =
            |(_, (asked, seen)): &(&str, (usize, usize))| *asked >= READS_MIN && *seen < *asked / SEEN_OF;
        let unseen = buckets.into_iter().filter(too_few);
        sessions.unseen = unseen.map(|(bucket, (asked, seen))| (bucket.to_owned(), asked, seen)).collect();
        sessions
    }

    /// How often the promise was broken by answering nobody.
    pub(super) fn broken(&self) -> u64 {
        u64::from(self.seen < self.asked / SEEN_OF) + self.unseen.len() as u64
    }
}

impl fmt::Display for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} reads with a context answered", self.seen, self.asked)?;
        self.unseen.iter().try_for_each(|(bucket, asked, seen)| {
            write!(f, "; {seen} of {asked} of {bucket} by nodes that could")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Answer, Invoke, Moment, Reading, Why};
    use crate::run::forgotten::Forgotten;
    use std::collections::BTreeSet;

    #[test]
    fn each_bucket_answers_its_sessions_and_not_only_all_together() {
        let op = |bucket: &str, key: &str, fate: Fate| {
            let call = Call::Get { min: Some(0), reading: Reading::Load };
            let (node, bucket, key) = ("n".to_owned(), bucket.to_owned(), key.to_owned());
            let (begun, ended) = (Moment { place: 0, at_us: 0 }, Some(Moment { place: 1, at_us: 1 }));
            Op { invoke: Invoke { op: 0, client: 0, node, bucket, key, call }, begun, ended, fate }
        };
        let refused = || Fate::Failed(Why { code: "context_not_reached".into(), ..Why::default() });
        let mut list: Vec<Op> = (0..100).map(|_| op("busy", "k", Fate::Ok(Answer::default()))).collect();
        list.extend((0..READS_MIN).map(|_| op("carts", "gone", refused())));
        let judged = |list: &[Op]| {
            let ops = (0..).zip(list.to_vec()).collect();
            let (strict, forgotten) = (BTreeSet::new(), &Forgotten::default());
            let urls = ["n".to_owned()];
            Sessions::of(&ops, &Expected { urls: &urls, strict: &strict, forgotten, spans: &[] })
        };
        let told = judged(&list);
        assert_eq!((told.asked, told.seen), (100 + READS_MIN, 100));
        assert_eq!((&told.unseen, told.broken()), (&vec![("carts".to_owned(), READS_MIN, 0)], 1));
        list.pop();
        assert_eq!(judged(&list).broken(), 0, "too few say nothing");
        assert_eq!(judged(&list[99..]).broken(), 1, "of all more than half are refused");
    }
}
