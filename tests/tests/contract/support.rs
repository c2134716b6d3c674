//! Steps that many checks share. They take addresses, never a `Cluster`, so that a check says which node it means.

use anyhow::{Context, Result, bail, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::future::Future;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};
use tests::cluster::Cluster;
use tests::http::{self, Reply, VERSIONS, bucket_url};

/// Gossip goes round twice a second; the rest is for a machine that does something else meanwhile.
const SETTINGS_SPREAD_TIME_MAX: Duration = Duration::from_secs(10);
const SKEW_TIME_MAX: Duration = Duration::from_secs(60);

/// Puts a text without a context.
pub(crate) async fn put_blind(url: &str, value: &str) -> Result<Reply> {
    http::put(url).text(value).send().await?.expect(204)
}

/// Puts a text with a context.
pub(crate) async fn put_with(url: &str, value: &str, context: &str) -> Result<Reply> {
    http::put(url).context(context).text(value).send().await?.expect(204)
}

/// Reads whatever there is, as an envelope; `404` is an answer too.
pub(crate) async fn versions(url: &str) -> Result<Reply> {
    http::get(url).header("accept", VERSIONS).send().await?.expect_one_of(&[200, 404])
}

/// The values at a key are exactly these, as one plain `GET` shows them.
pub(crate) async fn expect_values(url: &str, expected: &[&str]) -> Result<Reply> {
    let reply = http::get(url).send().await?.expect_one_of(&[200, 300, 404])?;
    let expected: BTreeSet<String> = expected.iter().map(|&value| value.to_owned()).collect();
    let found = reply.values()?;
    ensure!(found == expected, "expected the values {expected:?}, found {found:?} in {reply}");
    Ok(reply)
}

/// Tries again until it succeeds; after `time` the last error is the answer.
pub(crate) async fn eventually<T, F>(time: Duration, mut attempt: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let started = Instant::now();
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if started.elapsed() > time => bail!("still wrong after {time:?}: {error:#}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Does something for each number, some of them at once, and ends with the first failure.
pub(crate) async fn each<F>(numbers: Range<usize>, act: impl Fn(usize) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    const AT_ONCE: usize = 16;
    stream::iter(numbers.map(act)).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await.map(drop)
}

/// Configures a bucket through one node and waits until each that runs says the same.
pub(crate) async fn configure(c: &Cluster, bucket: &str, settings: &Value) -> Result<()> {
    let through = c.running().next().context("no node runs")?;
    http::put(bucket_url(&c.url(through), bucket)).json(settings).send().await?.expect_success()?;
    for index in c.running() {
        eventually(SETTINGS_SPREAD_TIME_MAX, || async {
            let found = http::get(bucket_url(&c.url(index), bucket)).send().await?.expect(200)?.json()?;
            let same = settings.as_object().into_iter().flatten().all(|(name, value)| &found[name] == value);
            ensure!(same, "node {index} says {found}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// One copy of each key, and that is enough: what another node takes for a dead owner is then on nobody else's disk, and nothing
/// but its hint brings it home.
pub(crate) async fn keep_one_copy(c: &Cluster, bucket: &str) -> Result<()> {
    configure(c, bucket, &json!({ "n": 1, "w": 1, "r": 1 })).await
}

/// The URLs of one key through each of the nodes.
pub(crate) fn key_urls(cluster: &Cluster, bucket: &str, key: &str) -> Vec<String> {
    (0..cluster.count()).map(|index| http::key_url(&cluster.url(index), bucket, key)).collect()
}

/// Copies a directory with everything in it.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// A directory is again what it was when it was copied.
pub(crate) fn put_back(saved: &Path, dir: &Path) -> Result<()> {
    std::fs::remove_dir_all(dir)?;
    copy(saved, dir)
}

/// A number from a node's metrics.
pub(crate) async fn metric(c: &Cluster, node: usize, name: &str) -> Result<f64> {
    let text = http::get(format!("{}/metrics", c.url(node))).send().await?.expect(200)?.text();
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(name));
    let value = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(value.with_context(|| format!("node {node} has no metric {name}"))?.parse()?)
}

/// The node's calendar is as wrong as the test wants it to be.
pub(crate) async fn is_skewed(c: &Cluster, node: usize, ms: i64) -> Result<()> {
    eventually(SKEW_TIME_MAX, || async {
        let ahead = metric(c, node, "cartwheel_clock_ahead_seconds").await?;
        ensure!(
            (ahead * 1000.0 + ms as f64).abs() < 5000.0,
            "node {node} takes itself to be {ahead} s behind"
        );
        Ok(())
    })
    .await
}
