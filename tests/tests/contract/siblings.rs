//! Several values at a key: who makes siblings, who ends them, and that nobody loses one unseen.
//!
//! A context names exactly what its holder saw. Most checks here are the same little play in other places:
//! somebody writes what another has not seen, and both must find their own again.

use crate::support::{configure, expect_values, key_urls, put_blind, put_with, versions};
use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tests::checks::Checks;
use tests::cluster::Cluster;
use tests::http::{self, VERSIONS, envelope_values, key_url};

const BUCKET: &str = "siblings";

#[tokio::test]
async fn siblings_keep_the_contract() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let c = &cluster;
    let mut checks = Checks::new();
    checks.run("two blind writes are two siblings in an envelope", blind_writes_are_siblings(c)).await;
    checks.run("siblings come as multipart when asked for", siblings_as_multipart(c)).await;
    checks.run("a write with the context it read ends the siblings", a_context_ends_siblings(c)).await;
    checks.run("one writer through all nodes never makes a sibling", one_writer_makes_none(c)).await;
    checks
        .run("a returned context does not cover what the writer did not see", an_unseen_sibling_stays(c))
        .await;
    checks.run("two blind writers with their own contexts keep two values", two_lines_stay_two(c)).await;
    checks.run("a context does not grow with its holder's writes", two_lines_stay_short(c)).await;
    checks.run("two racing read-modify-writers lose no increment unseen", racing_makes_two(c)).await;
    checks.run("a delete keeps a value that its context did not cover", a_delete_keeps_the_unseen(c)).await;
    checks.run("a delete without a context removes what is shown", a_blind_delete_removes_the_shown(c)).await;
    checks.run("a late delete does not remove the newer value", a_late_delete_changes_nothing(c)).await;
    checks.run("blind_writes=supersede replaces what the coordinator holds", supersede_replaces(c)).await;
    checks.run("blind_writes=reject asks for a context", reject_asks_for_a_context(c)).await;
    checks.finish(&[&cluster])
}

async fn blind_writes_are_siblings(c: &Cluster) -> Result<()> {
    // Through one node and through two: where the requests arrive makes no difference.
    for (key, second) in [("same node", 0), ("other node", 1)] {
        let urls = key_urls(c, BUCKET, key);
        put_blind(&urls[0], "one").await?;
        let reply = put_blind(&urls[second], "two").await?;
        ensure!(reply.siblings()? == 2, "the writer is told of the sibling: {reply}");
        for url in &urls {
            let reply = expect_values(url, &["one", "two"]).await?.expect(300)?;
            ensure!(reply.siblings()? == 2, "{reply}");
            ensure!([VERSIONS, "application/json"].contains(&reply.media_type()), "{reply}");
            let envelope = reply.json()?;
            ensure!(envelope["bucket"] == BUCKET && envelope["key"] == key, "{envelope}");
            let in_body = envelope["context"].as_str().context("no context in the envelope")?;
            ensure!(!in_body.is_empty() && !reply.context()?.is_empty(), "{reply}");
            let asked = versions(url).await?.expect(200)?;
            ensure!(asked.values()?.len() == 2, "{asked}");
            let head = http::call("HEAD", url).send().await?.expect(300)?;
            ensure!(head.siblings()? == 2 && head.body.is_empty(), "{head}");
        }
    }
    Ok(())
}

async fn siblings_as_multipart(c: &Cluster) -> Result<()> {
    let urls = key_urls(c, BUCKET, "multipart");
    put_blind(&urls[0], "first part").await?;
    put_blind(&urls[1], "second part").await?;
    let reply = http::get(&urls[2]).header("accept", "multipart/mixed").send().await?.expect(300)?;
    ensure!(reply.media_type() == "multipart/mixed", "{reply}");
    let boundary =
        reply.need("content-type")?.split_once("boundary=").context("no boundary")?.1.trim_matches('"');
    let text = reply.text();
    let parts: Vec<&str> = text.split(&format!("--{boundary}")).collect();
    ensure!(parts.len() == 4, "a preamble, two parts and the end: {reply}");
    ensure!(parts[3].starts_with("--"), "the last boundary ends it: {reply}");
    for value in ["first part", "second part"] {
        let has_value =
            |part: &&&str| part.split_once("\r\n\r\n").is_some_and(|(_, body)| body.trim_end() == value);
        ensure!(parts.iter().filter(has_value).count() == 1, "one part is {value:?}: {reply}");
    }
    Ok(())
}

async fn a_context_ends_siblings(c: &Cluster) -> Result<()> {
    let urls = key_urls(c, BUCKET, "ends");
    for (index, url) in urls.iter().enumerate() {
        put_blind(url, &format!("blind {index}")).await?;
    }
    let read = expect_values(&urls[0], &["blind 0", "blind 1", "blind 2"]).await?;
    let reply = put_with(&urls[1], "merged", &read.context()?).await?;
    ensure!(reply.siblings()? == 1, "{reply}");
    for url in &urls {
        expect_values(url, &["merged"]).await?.expect(200)?;
    }
    Ok(())
}

async fn one_writer_makes_none(c: &Cluster) -> Result<()> {
    for (key, reads) in [("with returned contexts", false), ("with read contexts", true)] {
        let urls = key_urls(c, BUCKET, key);
        let mut context = put_blind(&urls[0], "0").await?.context()?;
        for round in 1..60 {
            let reply = put_with(&urls[round % 3], &round.to_string(), &context).await?;
            ensure!(reply.siblings()? == 1, "round {round} {key}: {reply}");
            context = reply.context()?;
            if reads {
                let read = http::get(&urls[(round + 1) % 3]).send().await?.expect(200)?;
                ensure!(read.text() == round.to_string(), "round {round}: {read}");
                context = read.context()?;
            }
        }
    }
    Ok(())
}

async fn an_unseen_sibling_stays(c: &Cluster) -> Result<()> {
    // (node of Ann, node of Bob, node of Bob's second write)
    for (round, nodes) in [[0, 0, 0], [0, 1, 2], [0, 1, 0], [1, 0, 1], [2, 2, 0]].into_iter().enumerate() {
        let urls = key_urls(c, BUCKET, &format!("unseen {round}"));
        put_blind(&urls[nodes[0]], "ann").await?;
        let bob = put_blind(&urls[nodes[1]], "bob").await?;
        let bob = put_with(&urls[nodes[2]], "bob again", &bob.context()?).await?;
        for url in &urls {
            expect_values(url, &["ann", "bob again"]).await.with_context(|| format!("nodes {nodes:?}"))?;
        }
        put_with(&urls[nodes[0]], "bob at last", &bob.context()?).await?;
        for url in &urls {
            expect_values(url, &["ann", "bob at last"]).await.with_context(|| format!("nodes {nodes:?}"))?;
        }
    }
    Ok(())
}

async fn two_lines_stay_two(c: &Cluster) -> Result<()> {
    let urls = key_urls(c, BUCKET, "two lines");
    let mut contexts =
        [put_blind(&urls[0], "a0").await?.context()?, put_blind(&urls[0], "b0").await?.context()?];
    for round in 1..40 {
        for (writer, name) in ["a", "b"].into_iter().enumerate() {
            let url = &urls[(round * (writer + 1)) % 3];
            let reply = put_with(url, &format!("{name}{round}"), &contexts[writer]).await?;
            ensure!(reply.siblings()? == 2, "round {round}, writer {name}: {reply}");
            contexts[writer] = reply.context()?;
        }
    }
    for url in &urls {
        expect_values(url, &["a39", "b39"]).await?;
    }
    Ok(())
}

/// Each write stands between two of the other line, so neither line's own dots are ever next to each other.
async fn two_lines_stay_short(c: &Cluster) -> Result<()> {
    let urls = key_urls(c, BUCKET, "short lines");
    let mut contexts =
        [put_blind(&urls[0], "0").await?.context()?, put_blind(&urls[0], "1").await?.context()?];
    for n in 2..400 {
        let token = &mut contexts[n % 2];
        *token = put_with(&urls[0], &n.to_string(), token).await?.context()?;
        ensure!(token.len() <= 400, "after {n} writes the token has {} bytes", token.len());
    }
    expect_values(&urls[1], &["398", "399"]).await?;
    Ok(())
}

#[tokio::test]
async fn entry_07_two_writers_that_interleave_make_at_most_two_siblings() -> Result<()> {
    let c = &Cluster::start(3).await?;
    // The sibling explosion of plain version vectors: each writer knows only the answer to its own last write.
    let urls = key_urls(c, BUCKET, "explosion");
    let mut contexts: [Option<String>; 2] = [None, None];
    for round in 0..100 {
        let writer = round % 2;
        let mut call = http::put(format!("{}?return=versions", urls[round % 3])).text(&round.to_string());
        if let Some(context) = &contexts[writer] {
            call = call.context(context);
        }
        let reply = call.send().await?.expect(200)?;
        let values = envelope_values(&reply.json()?)?;
        ensure!(values.len() <= 2, "two writers, {} siblings after {round} writes: {values:?}", values.len());
        ensure!(values.contains(&round.to_string()), "a write shows itself: {values:?}");
        contexts[writer] = Some(reply.context()?);
    }
    Ok(())
}

async fn racing_makes_two(c: &Cluster) -> Result<()> {
    // Values are sets of the writes they contain; merging siblings is their union, so every acknowledged write
    // must be in the union of what is left at the end.
    let urls = key_urls(c, BUCKET, "race");
    let writer = |name: &'static str, shift: usize| {
        let urls = &urls;
        async move {
            for round in 0..50 {
                let read =
                    http::get(&urls[(round + shift) % 3]).send().await?.expect_one_of(&[200, 300, 404])?;
                ensure!(read.status == 404 || read.siblings()? <= 2, "two writers, more siblings: {read}");
                let value = union(&read.values()?) + &format!("{name}{round},");
                let mut call = http::put(&urls[(round + 2 * shift) % 3]).text(&value);
                if let Some(context) = read.header("cartwheel-context") {
                    call = call.context(context);
                }
                call.send().await?.expect(204)?;
            }
            Ok(())
        }
    };
    let (ann, bob) = tokio::join!(writer("a", 1), writer("b", 2));
    ann.and(bob)?;
    let left = http::get(&urls[0]).send().await?;
    let found = union(&left.values()?);
    for name in ["a", "b"] {
        for round in 0..50 {
            ensure!(found.contains(&format!("{name}{round},")), "{name}{round} was lost; left: {found}");
        }
    }
    Ok(())
}

fn union(values: &BTreeSet<String>) -> String {
    let entries: BTreeSet<&str> = values.iter().flat_map(|value| value.split_terminator(',')).collect();
    entries.into_iter().map(|entry| format!("{entry},")).collect()
}

async fn a_delete_keeps_the_unseen(c: &Cluster) -> Result<()> {
    for (round, nodes) in [[0, 0, 0], [0, 1, 2], [2, 1, 2]].into_iter().enumerate() {
        let urls = key_urls(c, BUCKET, &format!("delete {round}"));
        let seen = put_blind(&urls[nodes[0]], "seen").await?;
        put_blind(&urls[nodes[1]], "unseen").await?;
        http::delete(&urls[nodes[2]]).context(&seen.context()?).send().await?.expect(204)?;
        for url in &urls {
            expect_values(url, &["unseen"]).await?.expect(200)?;
        }
    }
    Ok(())
}

async fn a_blind_delete_removes_the_shown(c: &Cluster) -> Result<()> {
    let urls = key_urls(c, BUCKET, "blind delete");
    put_blind(&urls[0], "one").await?;
    put_blind(&urls[1], "two").await?;
    http::delete(&urls[2]).send().await?.expect(204)?.context()?;
    for url in &urls {
        expect_values(url, &[]).await?.expect(404)?;
    }
    Ok(())
}

async fn a_late_delete_changes_nothing(c: &Cluster) -> Result<()> {
    let urls = key_urls(c, BUCKET, "late delete");
    let first = put_blind(&urls[0], "first").await?.context()?;
    put_with(&urls[1], "second", &first).await?;
    http::delete(&urls[2]).context(&first).send().await?.expect(204)?;
    for url in &urls {
        expect_values(url, &["second"]).await?.expect(200)?;
    }
    Ok(())
}

#[tokio::test]
async fn entry_08_at_the_limit_a_blind_write_is_refused_and_a_whole_context_collapses() -> Result<()> {
    let c = &Cluster::start(3).await?;
    configure(c, "few siblings", &json!({"max_siblings": 5})).await?;
    let url = key_url(&c.url(0), "few siblings", "k");
    for round in 0..5 {
        let reply = http::put(format!("{url}?w=all")).text(&round.to_string()).send().await?.expect(204)?;
        ensure!(reply.siblings()? == round + 1, "{reply}");
    }
    for index in 0..3 {
        let url = key_url(&c.url(index), "few siblings", "k");
        http::put(&url).text("one too many").send().await?.problem_code(422, "sibling_limit")?;
    }
    let read = expect_values(&url, &["0", "1", "2", "3", "4"]).await?;
    let reply = put_with(&url, "merged", &read.context()?).await?;
    ensure!(reply.siblings()? == 1, "{reply}");
    expect_values(&url, &["merged"]).await?.expect(200)?;
    Ok(())
}

/// Nothing is configured here: this is what somebody meets who has never heard of contexts.
#[tokio::test]
async fn entry_08_a_thousand_blind_writes_to_one_key_meet_a_clear_end_and_stop_nobody_else() -> Result<()> {
    const WRITES: usize = 1000;
    const AT_ONCE: usize = 8;
    /// The default.
    const SIBLINGS_MAX: usize = 100;
    /// Others don't feel it: far below any time-out, and enough for a machine that builds something else meanwhile.
    const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);
    let cluster = Cluster::start(3).await?;
    let (c, urls) = (&cluster, key_urls(&cluster, BUCKET, "hot"));
    let blind =
        stream::iter(0..WRITES).map(|number| http::put(&urls[number % 3]).text(&number.to_string()).send());
    let blind = async {
        let (mut taken, mut refused, mut blind) = (0, 0, blind.buffered(AT_ONCE));
        while let Some(reply) = blind.try_next().await? {
            if reply.status == 204 {
                taken += 1;
                // A write that began before the last one was taken may have been counted by nobody yet.
                ensure!(refused <= AT_ONCE, "{taken} were taken after {refused} had been refused");
                continue;
            }
            ensure!(reply.problem_code(422, "sibling_limit")?["outcome"] == "not_applied", "{reply}");
            refused += 1;
        }
        Ok((taken, refused))
    };
    let others = async {
        let (began, mut slowest) = (Instant::now(), Duration::ZERO);
        for number in 0..100 {
            let (url, began) = (key_url(&c.url(number), BUCKET, format!("other {number}")), Instant::now());
            put_blind(&url, "v").await?;
            expect_values(&url, &["v"]).await?.expect(200)?;
            slowest = slowest.max(began.elapsed());
        }
        ensure!(slowest < ANSWER_TIME_MAX, "other keys took {slowest:?}, of {:?}", began.elapsed());
        Ok(())
    };
    let ((taken, refused), ()) = futures_util::future::try_join(blind, others).await?;
    ensure!((SIBLINGS_MAX..SIBLINGS_MAX + 3 * AT_ONCE).contains(&taken), "{taken} were taken");
    ensure!(taken + refused == WRITES);
    let read = versions(&format!("{}?r=all", urls[1])).await?.expect(200)?;
    ensure!(read.values()?.len() == taken, "{} of {taken} are there", read.values()?.len());
    let reply = put_with(&urls[2], "one", &read.context()?).await?;
    ensure!(reply.siblings()? == 1, "{reply}");
    for url in &urls {
        expect_values(url, &["one"]).await?.expect(200)?;
    }
    put_blind(&urls[0], "two").await?;
    ensure!(cluster.panics().is_empty(), "{:?}", cluster.panics());
    Ok(())
}

async fn supersede_replaces(c: &Cluster) -> Result<()> {
    configure(c, "sessions", &json!({"blind_writes": "supersede"})).await?;
    for round in 0..9 {
        let url = key_url(&c.url(round), "sessions", "k");
        let value = format!("session {round}");
        // All replicas take it, so that whichever coordinates the next write holds it.
        let reply = http::put(format!("{url}?w=all")).text(&value).send().await?.expect(204)?;
        ensure!(reply.siblings()? == 1, "round {round}: {reply}");
        expect_values(&key_url(&c.url(round + 1), "sessions", "k"), &[&value]).await?.expect(200)?;
    }
    Ok(())
}

async fn reject_asks_for_a_context(c: &Cluster) -> Result<()> {
    let urls = key_urls(c, "strict", "k");
    let mut context = put_blind(&urls[0], "before").await?.context()?;
    configure(c, "strict", &json!({"blind_writes": "reject"})).await?;
    for (round, url) in urls.iter().enumerate() {
        http::put(url).text("blind").send().await?.problem_code(428, "context_required")?;
        context = put_with(url, &format!("seen {round}"), &context).await?.context()?;
    }
    expect_values(&urls[0], &["seen 2"]).await?.expect(200)?;
    Ok(())
}
