//! Every request that clients send for data, and how it was answered: the client library sends one again where it can't count twice, and
//! what came of the operation in the end does not show that somebody was told to come again.

use super::pulse::{Expected, is_early};
use client::{HttpTransport, Request, ReqwestTransport, Response, TransportError};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::history::Now;

/// What stands before the name of a bucket in a request for data.
const DATA: [&str; 2] = ["/v1/buckets/", "/v1/carts/"];
const NOT_REACHED: &[u8] = b"context_not_reached";

/// The real network, and a note of what went over it. Clones write to one list.
#[derive(Clone)]
pub(super) struct Noted {
    network: ReqwestTransport,
    tries: Arc<Mutex<Tries>>,
    now: Now,
}

/// All requests for data so far.
#[derive(Default)]
pub(super) struct Tries {
    /// Nodes, buckets and keys, each with its number: there are a few, and requests by the hundred thousand.
    names: BTreeMap<String, u32>,
    all: Vec<Try>,
}

struct Try {
    node: u32,
    bucket: u32,
    key: u32,
    begun: Duration,
    /// When it was answered, or nobody waited for an answer any more.
    ended: Duration,
    /// The status of the answer; 0 where there was none.
    status: u16,
    /// Whether it says that the context that was asked for is not reached.
    not_reached: bool,
}

/// How requests were answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Tally {
    /// Of those that asked a node that could serve, within 3 s of a change: how many, and how many of them were served.
    pub(super) early: (u64, u64),
    /// The same of all others.
    pub(super) later: (u64, u64),
    /// How those of both were answered that were not served.
    pub(super) not: BTreeMap<String, u64>,
    /// Those that were told that the context they asked for is not reached, and in none of the above: it lies where nobody gets to, or has
    /// been forgotten.
    pub(super) out_of_reach: u64,
    /// Of all, whomever they asked, those that were answered by a status of 500 or more, by that.
    pub(super) errors: BTreeMap<u16, u64>,
}

/// What a node says that can't do it now, and what it says when the time that it was given is up. Where nothing but announced restarts
/// happens it says nothing else, and how often it may say the second is for P4.
const EXPECTED: [u16; 2] = [503, 504];

impl Noted {
    pub(super) fn new(network: ReqwestTransport, now: Now) -> Self {
        Self { network, tries: Arc::default(), now }
    }

    /// The network alone, for what is no client's request.
    pub(super) fn network(&self) -> &ReqwestTransport {
        &self.network
    }

    /// What has become of all requests so far.
    pub(super) fn take(&self) -> Tries {
        std::mem::take(&mut *self.tries())
    }

    fn tries(&self) -> MutexGuard<'_, Tries> {
        self.tries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a request begins. What asks for no data is none of these.
    fn begin(&self, base: &str, target: &str) -> Option<Asked<'_>> {
        let of_bucket = DATA.into_iter().find_map(|prefix| target.strip_prefix(prefix))?;
        let mut words = of_bucket.split(['/', '?']);
        let bucket = words.next()?;
        // Keys are plain words here, so they stand in the request as they are.
        let key = words.find(|word| *word != "keys").unwrap_or_default();
        let begun = (self.now)();
        let mut tries = self.tries();
        let (node, bucket, key) = (tries.number(base), tries.number(bucket), tries.number(key));
        tries.all.push(Try { node, bucket, key, begun, ended: begun, status: 0, not_reached: false });
        Some(Asked { noted: self, at: tries.all.len() - 1, status: 0, not_reached: false })
    }
}

/// A request that is under way. It ends when nobody waits for it any more: the client gives up by dropping what it waits for.
struct Asked<'a> {
    noted: &'a Noted,
    at: usize,
    status: u16,
    not_reached: bool,
}

impl Asked<'_> {
    fn hears(&mut self, response: &Response) {
        let says = |body: &[u8]| body.windows(NOT_REACHED.len()).any(|part| part == NOT_REACHED);
        self.status = response.status;
        self.not_reached = response.status >= 500 && says(&response.body);
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let ended = (self.noted.now)();
        let mut tries = self.noted.tries();
        // The list may have been taken away meanwhile.
        if let Some(one) = tries.all.get_mut(self.at) {
            (one.ended, one.status, one.not_reached) = (ended, self.status, self.not_reached);
        }
    }
}

impl HttpTransport for Noted {
    async fn send(&self, request: Request) -> Result<Response, TransportError> {
        let asked = self.begin(&request.base, &request.target);
        let answer = self.network.send(request).await;
        if let (Some(mut asked), Ok(response)) = (asked, &answer) {
            asked.hears(response);
        }
        answer
    }
}

impl Tries {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.names.get(name) {
            return *number;
        }
        let number = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.names.insert(name.to_owned(), number);
        number
    }

    /// Those that began between these two, held against what was broken.
    pub(super) fn tally(&self, expected: &Expected<'_>, (from, until): (Duration, Duration)) -> Tally {
        let named: BTreeMap<u32, &str> =
            self.names.iter().map(|(name, number)| (*number, name.as_str())).collect();
        let mut tally = Tally::default();
        for one in self.all.iter().filter(|one| (from..until).contains(&one.begun)) {
            let (node, bucket) = (named[&one.node], named[&one.bucket]);
            let ended = Some(one.ended);
            let is_out_of_reach = || {
                expected.may_lack_owners(one.begun, ended)
                    || expected.forgotten.has_request(bucket, named[&one.key], one.begun)
            };
            if one.not_reached && is_out_of_reach() {
                tally.out_of_reach += 1;
                continue;
            }
            if one.status >= 500 {
                *tally.errors.entry(one.status).or_default() += 1;
            }
            if !expected.can_serve(node, bucket, one.begun, ended) {
                continue;
            }
            let served = (200..500).contains(&one.status) && one.status != 429;
            let is_early = is_early(expected.spans, one.begun, ended);
            let of = if is_early { &mut tally.early } else { &mut tally.later };
            *of = (of.0 + 1, of.1 + u64::from(served));
            if !served {
                *tally.not.entry(one.how()).or_default() += 1;
            }
        }
        tally
    }
}

impl Tally {
    /// Answers by any other status of 500 or more, at whatever try: clients that don't ask again meet them.
    pub(super) fn mistakes(&self) -> Option<String> {
        let others = self.errors.iter().filter(|(status, _)| !EXPECTED.contains(status));
        let told: Vec<String> = others.map(|(status, count)| format!("{count} by {status}")).collect();
        (!told.is_empty())
            .then(|| format!("requests were answered by errors that nobody is to meet: {}", told.join(", ")))
    }
}

impl Try {
    /// What it was told, in a word or two.
    fn how(&self) -> String {
        match self.status {
            0 => "no answer".to_owned(),
            status if self.not_reached => format!("{status} context_not_reached"),
            status => status.to_string(),
        }
    }
}

impl fmt::Display for Tally {
    /// How they were served, and what the others were told.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((later, served), (early, early_served)) = (self.later, self.early);
        let part = |of: u64, served: u64| match of {
            0 => "-".to_owned(),
            _ => format!("{:.2} %", 100.0 * served as f64 / of as f64),
        };
        write!(
            f,
            "of {later} requests, each of which may be one of several for the same, {} were served, of {early} within 3 s of a change {}",
            part(later, served),
            part(early, early_served)
        )?;
        self.not.iter().try_for_each(|(how, count)| write!(f, ", {count} by {how}"))?;
        match self.out_of_reach {
            0 => Ok(()),
            count => write!(f, "; {count} asked for a context that was out of reach, or forgotten"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::forgotten::Forgotten;
    use crate::run::timeline::Span;
    use bytes::Bytes;
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicU64, Ordering};

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn answer(status: u16, body: &'static str) -> Option<Response> {
        Some(Response { status, headers: Vec::new(), body: Bytes::from_static(body.as_bytes()) })
    }

    #[test]
    fn each_request_for_data_counts_by_how_it_was_answered() {
        let clock = Arc::new(AtomicU64::new(0));
        let shows = Arc::clone(&clock);
        let now = Arc::new(move || S(shows.load(Ordering::Relaxed)));
        let noted = Noted::new(ReqwestTransport::new().unwrap(), now);
        let ask = |at: u64, node: &str, target: &str, response: Option<Response>| {
            clock.store(at, Ordering::Relaxed);
            if let (Some(mut asked), Some(response)) = (noted.begin(node, target), response) {
                asked.hears(&response);
            }
        };
        for (at, node, bucket, how) in [
            (1, "n1", "a/keys/k?r=1", answer(200, "")),
            (1, "n1", "a/keys/k", answer(404, "")),
            (1, "n1", "a/keys/k", answer(429, "")),
            (1, "n1", "a/keys/k", answer(503, "")),
            (1, "n1", "a/keys/k", None),
            (1, "n1", "a/keys/k", answer(504, r#"{"code":"context_not_reached"}"#)),
            (6, "n1", "a/keys/k", answer(504, r#"{"code":"context_not_reached"}"#)),
            (20, "n1", "a/keys/k", answer(500, "")),
            (20, "n2", "cart-7/items", answer(204, "")),
            (20, "n1", "a/keys/k", answer(503, "")),
            (22, "n1", "a/keys/k", answer(200, "")),
            (40, "n1", "a/keys/k", answer(200, "")),
        ] {
            let data = DATA[usize::from(bucket.starts_with("cart"))];
            ask(at, node, &format!("{data}{bucket}"), how);
        }
        ask(1, "n1", "/v1/cluster", answer(500, ""));
        let (urls, strict) = (["n1".to_owned(), "n2".to_owned()], BTreeSet::new());
        let crash = Span { until: Some(S(21)), ..Span::new("n1 killed".to_owned(), [0].into(), S(19)) };
        let parted = Span { parts: true, until: Some(S(7)), ..Span::new("cut".to_owned(), [].into(), S(5)) };
        let (spans, forgotten) = ([parted, crash], &Forgotten::default());
        let expected = Expected { urls: &urls, strict: &strict, forgotten, spans: &spans };
        let tally = noted.take().tally(&expected, (S(0), S(30)));
        let not = [("429", 1), ("503", 1), ("504 context_not_reached", 1), ("no answer", 1)];
        let not = not.map(|(how, count)| (how.to_owned(), count)).into();
        let errors = [(500, 1), (503, 2), (504, 1)].into();
        assert_eq!(tally, Tally { early: (2, 2), later: (6, 2), not, out_of_reach: 1, errors });
        assert_eq!(tally.mistakes().unwrap().split(": ").last(), Some("1 by 500"));
        let fine = Tally { errors: [(503, 2), (504, 1)].into(), ..Tally::default() };
        assert_eq!(fine.mistakes(), None);
        assert_eq!(noted.take().tally(&expected, (S(0), S(30))), Tally::default());
    }

    /// A node that swallows requests is none that is excused by what happens to it later.
    #[tokio::test]
    async fn who_gives_up_was_not_served() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", silent.local_addr().unwrap());
        let began = std::time::Instant::now();
        let noted = Noted::new(ReqwestTransport::new().unwrap(), Arc::new(move || began.elapsed()));
        let client = client::Client::with_transport(vec![base.clone()], noted.clone()).unwrap();
        let soon = Duration::from_millis(50);
        let options = client::ReadOptions::default();
        assert!(tokio::time::timeout(soon, client.get("b", "k", &options)).await.is_err());
        let (urls, strict) = ([base], BTreeSet::new());
        let later = Span::new("n1 killed".to_owned(), [0].into(), began.elapsed() + S(10));
        let expected =
            Expected { urls: &urls, strict: &strict, forgotten: &Forgotten::default(), spans: &[later] };
        let tally = noted.take().tally(&expected, (S(0), S(5)));
        let not = [("no answer".to_owned(), 1)].into();
        assert_eq!(tally, Tally { later: (1, 0), not, ..Tally::default() });
    }
}
