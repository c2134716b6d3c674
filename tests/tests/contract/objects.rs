//! One value at a key: what each method answers, and that every node answers alike.
//!
//! With the default quorums (2 of 3 for reads and for writes) a read that starts after a write was
//! acknowledged sees it through any node, so nothing here waits for anything to spread.

use crate::support::{eventually, expect_values, key_urls, put_blind, put_with, versions};
use anyhow::{Result, ensure};
use serde_json::json;
use std::time::{Duration, Instant};
use tests::checks::Checks;
use tests::cluster::Cluster;
use tests::http::{self, VERSIONS, bucket_url, envelope_versions, key_url};

const BUCKET: &str = "objects";

#[tokio::test]
async fn objects_keep_the_contract() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let c = &cluster;
    let mut checks = Checks::new();
    checks.run("a put is answered with a context, an etag and a receipt", a_put_has_a_receipt(c)).await;
    checks.run("every node returns the stored value with its headers", every_node_returns_it(c)).await;
    checks.run("a head is a get without the body", a_head_is_a_get_without_body(c)).await;
    checks.run("a value without a type is an octet stream, also an empty one", an_untyped_value(c)).await;
    checks.run("an etag changes with the version and makes a 304", an_etag_changes(c)).await;
    checks.run("If-None-Match: * creates only", if_none_match_creates_only(c)).await;
    checks.run("If-Match changes only what the writer saw", if_match_changes_only_the_seen(c)).await;
    checks.run("the versions type returns an envelope for one value", the_envelope_of_one_value(c)).await;
    checks.run("JSON that does not parse comes as base64", broken_json_comes_as_base64(c)).await;
    checks.run("a key that never was is not found", a_key_that_never_was(c)).await;
    checks.run("a deleted key is not found and says so", a_deleted_key_says_so(c)).await;
    checks.run("a key can be written again after a delete", a_key_lives_again(c)).await;
    checks.run("a post makes the key up", a_post_makes_the_key_up(c)).await;
    checks.run("return=versions returns what was written", return_versions(c)).await;
    checks.run("quorums are taken as numbers and as names", quorums_are_taken(c)).await;
    checks.run("a read with a minimal context has seen the write", a_minimal_context_is_reached(c)).await;
    checks.run("a value with a TTL says when it goes, and goes", a_ttl_ends(c)).await;
    checks.run("a long poll ends with news or with 304", a_long_poll_ends(c)).await;
    checks.finish(&[&cluster])
}

async fn a_put_has_a_receipt(c: &Cluster) -> Result<()> {
    for (index, url) in key_urls(c, BUCKET, "receipt").iter().enumerate() {
        let reply = http::put(format!("{url}{index}")).text("v").send().await?.expect(204)?;
        reply.context()?;
        reply.etag()?;
        ensure!(reply.siblings()? == 1, "one write to a new key makes one version: {reply}");
        let receipt = reply.receipt()?;
        ensure!(receipt["w"] == 2, "the default quorum of three is two: {receipt:?}");
        ensure!((2..=3).contains(&receipt["acked"]), "two or three of three: {receipt:?}");
        ensure!((2..=3).contains(&receipt["durable"]), "the default is fsync on a quorum: {receipt:?}");
        ensure!(receipt["durable"] <= receipt["acked"], "what is durable has answered: {receipt:?}");
        ensure!(receipt["fallbacks"] == 0, "three owners, three nodes: {receipt:?}");
    }
    Ok(())
}

async fn every_node_returns_it(c: &Cluster) -> Result<()> {
    let urls = key_urls(c, BUCKET, "plain");
    let call = http::put(&urls[0]).header("content-type", "text/x-cart; charset=utf-8");
    let call = call.header("cartwheel-meta-color", "red").header("cartwheel-meta-size", "XL");
    let written = call.body("two apples").send().await?.expect(204)?;
    for url in &urls {
        let reply = http::get(url).send().await?.expect(200)?;
        ensure!(reply.text() == "two apples", "the bytes as they were: {reply}");
        ensure!(reply.need("content-type")? == "text/x-cart; charset=utf-8", "the type as it was: {reply}");
        ensure!(reply.need("cartwheel-meta-color")? == "red", "{reply}");
        ensure!(reply.need("cartwheel-meta-size")? == "XL", "{reply}");
        ensure!(reply.etag()? == written.etag()?, "put said {}, get says {reply}", written.etag()?);
        ensure!(reply.siblings()? == 1, "{reply}");
        ensure!(reply.need("last-modified")?.ends_with(" GMT"), "an HTTP date: {reply}");
        ensure!(reply.header("cartwheel-expires-at").is_none(), "it has no TTL: {reply}");
        reply.context()?;
    }
    Ok(())
}

async fn a_head_is_a_get_without_body(c: &Cluster) -> Result<()> {
    let urls = key_urls(c, BUCKET, "head");
    put_blind(&urls[0], "some text").await?;
    let (head, get) = (http::call("HEAD", &urls[1]).send().await?, http::get(&urls[1]).send().await?);
    ensure!(head.status == 200 && head.body.is_empty(), "{head}");
    for name in ["content-type", "etag", "last-modified", "cartwheel-siblings"] {
        ensure!(head.need(name)? == get.need(name)?, "{name} differs between {head} and {get}");
    }
    head.context()?;
    let missing = http::call("HEAD", key_url(&c.url(0), BUCKET, "head of nothing")).send().await?;
    ensure!(missing.status == 404 && missing.body.is_empty(), "{missing}");
    Ok(())
}

async fn an_untyped_value(c: &Cluster) -> Result<()> {
    for body in ["", "something"] {
        let urls = key_urls(c, BUCKET, &format!("untyped {body}"));
        http::put(&urls[0]).body(body).send().await?.expect(204)?;
        let reply = http::get(&urls[1]).send().await?.expect(200)?;
        ensure!(reply.text() == body, "{reply}");
        ensure!(reply.media_type() == "application/octet-stream", "{reply}");
    }
    Ok(())
}

async fn an_etag_changes(c: &Cluster) -> Result<()> {
    let urls = key_urls(c, BUCKET, "etag");
    let first = put_blind(&urls[0], "same").await?;
    let second = put_with(&urls[1], "same", &first.context()?).await?;
    ensure!(first.etag()? != second.etag()?, "two versions, also of the same bytes, have two etags");
    for url in &urls {
        let same = http::get(url).header("if-none-match", second.etag()?).send().await?.expect(304)?;
        ensure!(same.body.is_empty(), "{same}");
        http::get(url).header("if-none-match", first.etag()?).send().await?.expect(200)?;
    }
    Ok(())
}

async fn if_none_match_creates_only(c: &Cluster) -> Result<()> {
    let urls = key_urls(c, BUCKET, "create");
    http::put(&urls[0]).header("if-none-match", "*").text("first").send().await?.expect(204)?;
    for url in &urls {
        let refused = http::put(url).header("if-none-match", "*").text("second").send().await?;
        let problem = refused.problem_code(412, "precondition_failed")?;
        ensure!(problem.get("versions").is_some(), "412 shows what is there: {problem}");
        expect_values(url, &["first"]).await?;
    }
    Ok(())
}

async fn if_match_changes_only_the_seen(c: &Cluster) -> Result<()> {
    let urls = key_urls(c, BUCKET, "match");
    let first = put_blind(&urls[0], "first").await?;
    let call = http::put(&urls[1]).header("if-match", first.etag()?).context(&first.context()?);
    let second = call.text("second").send().await?.expect(204)?;
    let call = http::put(&urls[2]).header("if-match", first.etag()?).context(&second.context()?);
    let refused = call.text("third").send().await?.problem_code(412, "precondition_failed")?;
    ensure!(refused.get("versions").is_some(), "412 shows what is there: {refused}");
    let refused = http::delete(&urls[0]).header("if-match", first.etag()?).send().await?;
    refused.problem_code(412, "precondition_failed")?;
    let nothing = key_url(&c.url(0), BUCKET, "match nothing");
    let refused = http::put(nothing).header("if-match", first.etag()?).text("x").send().await?;
    refused.problem_code(412, "precondition_failed")?;
    expect_values(&urls[0], &["second"]).await.map(drop)
}

async fn the_envelope_of_one_value(c: &Cluster) -> Result<()> {
    let urls = key_urls(c, BUCKET, "envelope");
    let value = json!({"items": [1, 2.5, "drei"], "nested": {"null": null}});
    let call = http::put(&urls[0]).header("cartwheel-meta-color", "red");
    let written = call.json(&value).send().await?.expect(204)?;
    for url in &urls {
        let reply = versions(url).await?.expect(200)?;
        ensure!(reply.media_type() == VERSIONS, "the type that was asked for: {reply}");
        let envelope = reply.json()?;
        ensure!(envelope["bucket"] == BUCKET && envelope["key"] == "envelope", "{envelope}");
        ensure!(envelope["context"].as_str().is_some_and(|text| !text.is_empty()), "{envelope}");
        let [version] = envelope_versions(&envelope)?.as_slice() else {
            anyhow::bail!("expected one version in {envelope}")
        };
        ensure!(version["value"] == value, "{envelope}");
        ensure!(version["deleted"] == false, "{envelope}");
        ensure!(version["content_type"] == "application/json", "{envelope}");
        ensure!(version["meta"]["color"] == "red" || version["meta"]["Color"] == "red", "{envelope}");
        let etag = version["etag"].as_str().unwrap_or_default().trim_matches('"');
        ensure!(etag == written.etag()?.trim_matches('"'), "put said {}: {envelope}", written.etag()?);
        ensure!(is_rfc3339_ms(version["modified"].as_str().unwrap_or_default()), "{envelope}");
        // The context of the envelope is as good as that of the header.
        let context = envelope["context"].as_str().unwrap_or_default();
        http::get(url).header("cartwheel-min-context", context).send().await?.expect(200)?;
    }
    Ok(())
}

/// `2026-01-02T03:04:05.678Z`
fn is_rfc3339_ms(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    shape == "0000-00-00T00:00:00.000Z"
}

async fn broken_json_comes_as_base64(c: &Cluster) -> Result<()> {
    for (key, content_type, body) in [
        ("broken json", "application/json", &b"{\"a\":"[..]),
        ("text", "text/plain", b"hello"),
        ("no utf-8", "application/octet-stream", b"\xff\x00\xfe"),
    ] {
        let url = key_url(&c.url(0), BUCKET, key);
        http::put(&url).header("content-type", content_type).body(body).send().await?.expect(204)?;
        let envelope = versions(&url).await?.expect(200)?.json()?;
        let version = &envelope_versions(&envelope)?[0];
        let encoded = version["value_base64"].as_str().unwrap_or("missing");
        ensure!(http::from_base64(encoded)? == body, "{envelope}");
        ensure!(version.get("value").is_none_or(serde_json::Value::is_null), "one of the two: {envelope}");
    }
    Ok(())
}

async fn a_key_that_never_was(c: &Cluster) -> Result<()> {
    for url in key_urls(c, BUCKET, "never was") {
        let reply = http::get(&url).send().await?;
        reply.problem_code(404, "not_found")?;
        ensure!(reply.header("cartwheel-deleted").is_none(), "nobody deleted it: {reply}");
        let envelope = versions(&url).await?;
        ensure!(envelope.values()?.is_empty(), "{envelope}");
    }
    Ok(())
}

async fn a_deleted_key_says_so(c: &Cluster) -> Result<()> {
    let urls = key_urls(c, BUCKET, "deleted");
    let written = put_blind(&urls[0], "short life").await?;
    http::delete(&urls[1]).context(&written.context()?).send().await?.expect(204)?.context()?;
    for url in &urls {
        let reply = http::get(url).send().await?;
        reply.problem_code(404, "not_found")?;
        reply.context()?;
        ensure!(reply.need("cartwheel-deleted")? == "true", "{reply}");
        let envelope = versions(url).await?.expect(200)?.json()?;
        let versions = envelope_versions(&envelope)?;
        ensure!(versions.iter().all(|version| version["deleted"] == true), "only tombstones: {envelope}");
    }
    // Deleting what is gone is no mistake of the caller's.
    http::delete(&urls[2]).send().await?.expect_one_of(&[204, 404])?;
    Ok(())
}

async fn a_key_lives_again(c: &Cluster) -> Result<()> {
    let urls = key_urls(c, BUCKET, "lives again");
    put_blind(&urls[0], "one").await?;
    for round in 0..3 {
        http::delete(&urls[round]).send().await?.expect(204)?;
        let gone = http::get(&urls[(round + 1) % 3]).send().await?.expect(404)?;
        let value = format!("life {round}");
        put_with(&urls[(round + 2) % 3], &value, &gone.context()?).await?;
        for url in &urls {
            let reply = expect_values(url, &[&value]).await?.expect(200)?;
            ensure!(reply.siblings()? == 1, "{reply}");
        }
    }
    Ok(())
}

async fn a_post_makes_the_key_up(c: &Cluster) -> Result<()> {
    let mut locations = std::collections::BTreeSet::new();
    for index in 0..3 {
        let url = format!("{}/keys", bucket_url(&c.url(index), BUCKET));
        let reply = http::post(url).text("made up").send().await?.expect(201)?;
        reply.context()?;
        let location = reply.need("location")?.to_owned();
        let path =
            location.find("/v1/buckets/").map(|start| location[start..].to_owned()).unwrap_or_default();
        ensure!(path.starts_with("/v1/buckets/objects/keys/"), "Location is {location:?}");
        let found = http::get(format!("{}{path}", c.url(index + 1))).send().await?.expect(200)?;
        ensure!(found.text() == "made up", "{found}");
        ensure!(locations.insert(path), "the key {location} was made up twice");
    }
    Ok(())
}

async fn return_versions(c: &Cluster) -> Result<()> {
    let url = key_url(&c.url(0), BUCKET, "return");
    let reply = http::put(format!("{url}?return=versions")).text("v").send().await?.expect(200)?;
    ensure!(reply.media_type() == VERSIONS || reply.media_type() == "application/json", "{reply}");
    ensure!(http::envelope_values(&reply.json()?)?.contains("v"), "{reply}");
    let context = reply.context()?;
    reply.receipt()?;
    let reply =
        http::put(format!("{url}?return=none")).context(&context).text("w").send().await?.expect(204)?;
    ensure!(reply.body.is_empty(), "{reply}");
    Ok(())
}

async fn quorums_are_taken(c: &Cluster) -> Result<()> {
    let url = key_url(&c.url(0), BUCKET, "quorums");
    let mut context = put_blind(&url, "start").await?.context()?;
    for (query, w) in [("w=1", 1), ("w=2", 2), ("w=3", 3), ("w=one", 1), ("w=quorum", 2), ("w=all", 3)]
        .into_iter()
        .chain([("pw=0", 2), ("pw=3&w=3", 3), ("dw=0&w=1", 1), ("dw=3&w=3", 3), ("dw=all&pw=all&w=all", 3)])
        .chain([("sloppy=false&timeout_ms=5000", 2), ("sloppy=true", 2)])
    {
        let reply =
            http::put(format!("{url}?{query}")).context(&context).text(query).send().await?.expect(204)?;
        let receipt = reply.receipt()?;
        ensure!(receipt["w"] == w, "{query} asked for w={w}: {receipt:?}");
        ensure!(receipt["acked"] >= w, "{query}: {receipt:?}");
        ensure!(!query.contains("dw=3") || receipt["durable"] == 3, "{query}: {receipt:?}");
        context = reply.context()?;
    }
    let reads =
        ["r=1", "r=2", "r=3", "r=one", "r=quorum", "r=all", "pr=0", "pr=3&r=3", "pr=all", "sloppy=false"];
    for query in reads.into_iter().chain(["timeout_ms=5000"]) {
        let reply = http::get(format!("{url}?{query}")).send().await?.expect(200)?;
        // The last write was acknowledged by two replicas: a read of one may miss it, but never splits it.
        ensure!(reply.siblings()? == 1, "{query}: {reply}");
    }
    Ok(())
}

async fn a_minimal_context_is_reached(c: &Cluster) -> Result<()> {
    let urls = key_urls(c, BUCKET, "minimal");
    let mut context = put_blind(&urls[0], "0").await?.context()?;
    for round in 1..30 {
        let value = round.to_string();
        let url = &urls[round % 3];
        context = http::put(format!("{url}?w=1"))
            .context(&context)
            .text(&value)
            .send()
            .await?
            .expect(204)?
            .context()?;
        for url in &urls {
            let call = http::get(format!("{url}?r=1")).header("cartwheel-min-context", &context);
            let reply = call.send().await?.expect(200)?;
            ensure!(reply.text() == value, "round {round} read an older value: {reply}");
        }
    }
    Ok(())
}

async fn a_ttl_ends(c: &Cluster) -> Result<()> {
    let urls = key_urls(c, BUCKET, "ttl");
    http::put(&urls[0]).header("cartwheel-ttl", "3").text("milk").send().await?.expect(204)?;
    let reply = http::get(&urls[1]).send().await?.expect(200)?;
    ensure!(is_rfc3339_ms(reply.need("cartwheel-expires-at")?), "{reply}");
    for url in &urls {
        eventually(Duration::from_secs(10), || async { http::get(url).send().await?.expect(404) }).await?;
    }
    Ok(())
}

async fn a_long_poll_ends(c: &Cluster) -> Result<()> {
    let urls = key_urls(c, BUCKET, "poll");
    let context = put_blind(&urls[0], "old").await?.context()?;
    let since = http::encode(&context);
    let started = Instant::now();
    http::get(format!("{}?since={since}&wait_ms=400", urls[1])).send().await?.expect(304)?;
    let waited = started.elapsed();
    ensure!(waited >= Duration::from_millis(300), "a poll without news came back after {waited:?}");
    let poll = http::get(format!("{}?since={since}&wait_ms=20000", urls[2])).send();
    let write = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        put_with(&urls[0], "new", &context).await
    };
    let started = Instant::now();
    let (news, written) = tokio::join!(poll, write);
    written?;
    ensure!(news?.expect(200)?.text() == "new", "the poll returns what is newer");
    let waited = started.elapsed();
    ensure!(waited < Duration::from_secs(10), "the poll heard of the write only after {waited:?}");
    Ok(())
}
