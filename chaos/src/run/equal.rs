//! Whether all replicas of every key are equal. `explain` looks and repairs nothing, and nobody reads meanwhile: what becomes equal
//! does so by hints and exchanges alone.

use crate::history::{History, What};
use crate::http::Http;
use crate::limits::CONNECT_MAX;
use anyhow::{Result, bail};
use client::{Client, Explanation, ReqwestTransport};
use futures_util::{StreamExt, stream};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Owners that a key has: N of the buckets of all workloads.
const OWNERS: usize = 3;
/// Keys asked about at once.
const AT_ONCE: usize = 16;
const ASK_EVERY: Duration = Duration::from_millis(100);
/// What asking about one key may take beyond the time that replicas have to become equal: among the many of a long run the last are asked
/// long after the first. An answer takes a millisecond or two, and [`AT_ONCE`] are under way.
const KEY_MAX: Duration = Duration::from_millis(5);

type Key = (String, String);

/// Waits until every key of the history is the same at all its owners and nobody keeps a hint, and says how long that took; or, after
/// too long, what was missing: a few of the keys that differ, or that even asking had no end.
pub(super) async fn wait(
    history: &History,
    urls: &[String],
    transport: &ReqwestTransport,
    at_most: Duration,
) -> Result<Result<Duration, String>> {
    let began = Instant::now();
    let mut keys = touched(history);
    let (clients, http) = (clients(urls, transport)?, Http::new(1)?);
    let all = at_most + KEY_MAX.saturating_mul(u32::try_from(keys.len()).unwrap_or(u32::MAX));
    let mut why = format!("{} keys were still being asked about", keys.len());
    loop {
        // Before asking: among many keys the first are asked long before the last.
        let waited = began.elapsed();
        let asked = async {
            let differ = differing(keys, &clients).await;
            let kept = if differ.is_empty() { hints(urls, &http).await } else { None };
            (differ, kept)
        };
        let Ok((differ, kept)) = tokio::time::timeout(all.saturating_sub(waited), asked).await else {
            return Ok(Err(format!("{why} after {:.1} s", all.as_secs_f64())));
        };
        keys = differ;
        why = match (keys.iter().next(), kept) {
            (None, Some(0)) => return Ok(Ok(began.elapsed())),
            (None, Some(kept)) => format!("{kept} hints are kept"),
            (None, None) => "not every node says what hints it keeps".to_owned(),
            (Some((bucket, key)), _) => format!("{} keys differ, {bucket}/{key} for one", keys.len()),
        };
        if waited > at_most {
            return Ok(Err(why));
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Waits until nobody keeps a hint.
pub(super) async fn wait_for_hints(urls: &[String], at_most: Duration) -> Result<()> {
    let (began, http) = (Instant::now(), Http::new(1)?);
    while hints(urls, &http).await != Some(0) {
        if began.elapsed() > at_most {
            bail!("hints are still kept after {} s", at_most.as_secs());
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
    Ok(())
}

/// Waits until nobody keeps a hint and every two owners have been seen equal since it was asked, whoever writes meanwhile: then one disk
/// may lose what was on it. False if it was not so after that time.
pub(super) async fn wait_for_copies(urls: &[String], at_most: Duration) -> Result<bool> {
    let (began, http) = (Instant::now(), Http::new(1)?);
    while began.elapsed() < at_most {
        let waited = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        if hints(urls, &http).await == Some(0)
            && oldest_unverified_ms(urls, &http).await.is_some_and(|age| age < waited)
        {
            return Ok(true);
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
    Ok(false)
}

/// How long ago the two owners were seen equal whose turn has been the longest ago; `None` if somebody does not say.
async fn oldest_unverified_ms(urls: &[String], http: &Http) -> Option<u64> {
    let mut oldest = 0;
    for url in urls {
        let reply = http.get(&format!("{url}/v1/aae"), CONNECT_MAX).await.ok()?;
        let told: Value = serde_json::from_slice(&reply.body).ok()?;
        oldest = oldest.max(told["oldest_unverified_ms"].as_u64()?);
    }
    Some(oldest)
}

fn clients(urls: &[String], transport: &ReqwestTransport) -> Result<Vec<Client<ReqwestTransport>>> {
    let one = |url: &String| Ok(Client::with_transport(vec![url.clone()], transport.clone())?);
    urls.iter().map(one).collect()
}

/// The hints that all of them keep; `None` if somebody does not say.
async fn hints(urls: &[String], http: &Http) -> Option<u64> {
    let mut kept = 0;
    for url in urls {
        let reply = http.get(&format!("{url}/v1/hints"), CONNECT_MAX).await.ok()?;
        let told: Value = serde_json::from_slice(&reply.body).ok()?;
        kept += told["waiting"].as_u64()?;
    }
    Some(kept)
}

async fn differing(keys: BTreeSet<Key>, clients: &[Client<ReqwestTransport>]) -> BTreeSet<Key> {
    let asked = stream::iter(keys.into_iter().zip(clients.iter().cycle())).map(|(key, client)| async move {
        let told = client.explain(&key.0, &key.1).await;
        (!told.is_ok_and(|told| is_equal(&told, OWNERS.min(clients.len())))).then_some(key)
    });
    asked.buffer_unordered(AT_ONCE).filter_map(|key| async { key }).collect().await
}

/// A node's word is not enough: so many others must be owners, each once, or there is nothing to compare.
fn is_equal(told: &Explanation, least: usize) -> bool {
    let owners = told.replicas.iter().filter(|replica| replica.role.as_deref() == Some("owner"));
    let owners: BTreeSet<&str> = owners.map(|replica| replica.node.as_str()).collect();
    told.verdict == "converged" && owners.len() >= least
}

/// All keys that anybody asked for.
pub(super) fn touched(history: &History) -> BTreeSet<Key> {
    let key = |entry: crate::history::Entry| match entry.what {
        What::Invoke(invoke) => Some((invoke.bucket, invoke.key)),
        _ => None,
    };
    history.entries().into_iter().filter_map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::Replica;

    #[test]
    fn equality_takes_three_owners_and_not_only_a_word() {
        let told = |verdict: &str, replicas: &[(&str, &str)]| {
            let replica = |(node, role): &(&str, &str)| Replica {
                node: (*node).to_owned(),
                role: Some((*role).to_owned()),
                ..Replica::default()
            };
            let replicas = replicas.iter().map(replica).collect();
            is_equal(&Explanation { verdict: verdict.to_owned(), replicas, ..Explanation::default() }, OWNERS)
        };
        let all = [("n1", "owner"), ("n2", "owner"), ("n3", "owner")];
        assert!(told("converged", &all));
        assert!(!told("stale", &all));
        assert!(!told("converged", &all[..2]) && !told("converged", &[]), "one alone is always equal");
        assert!(!told("converged", &[all[0], all[1], all[1]]), "each counts once");
        assert!(!told("converged", &[all[0], all[1], ("n3", "fallback")]), "who stands in is no owner");
    }
}
