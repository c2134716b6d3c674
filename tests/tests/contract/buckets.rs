//! Settings of a bucket, and what is in it: both the same through every node.

use crate::support::{eventually, put_blind};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::time::Duration;
use tests::checks::Checks;
use tests::cluster::Cluster;
use tests::http::{self, bucket_url, encode, key_url};

const SPREAD_TIME_MAX: Duration = Duration::from_secs(5);

#[tokio::test]
async fn buckets_keep_the_contract() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let c = &cluster;
    let mut checks = Checks::new();
    checks.run("a bucket that nobody configured has the defaults", defaults(c)).await;
    checks.run("settings are the same on every node soon", settings_spread(c)).await;
    checks.run("a patch changes only what it names, a put all", patch_and_put(c)).await;
    checks.run("deleted settings are the defaults again", deleted_settings(c)).await;
    checks.run("a wrong setting is refused with its pointer", wrong_settings(c)).await;
    checks.run("the quorum of a bucket is what a write requires", quorums_count(c)).await;
    checks.run("keys are listed in order through every node", keys_in_order(c)).await;
    checks.run("a listing continues where its cursor points", cursors_continue(c)).await;
    checks.run("a listing can be cut by prefix and range, and reversed", cut_listings(c)).await;
    checks.run("a deleted key is not listed", deleted_keys_are_not_listed(c)).await;
    checks.run("a key that is not UTF-8 is listed as base64", strange_keys_are_listed(c)).await;
    checks.run("buckets are listed", buckets_are_listed(c)).await;
    checks.finish(&[&cluster])
}

async fn settings(c: &Cluster, index: usize, bucket: &str) -> Result<Value> {
    http::get(bucket_url(&c.url(index), bucket)).send().await?.expect(200)?.json()
}

async fn await_settings(c: &Cluster, bucket: &str, expected: &Value) -> Result<()> {
    for index in 0..c.count() {
        eventually(SPREAD_TIME_MAX, || async {
            let found = settings(c, index, bucket).await?;
            for (name, value) in expected.as_object().context("the test names an object")? {
                ensure!(
                    &found[name] == value,
                    "node {index} says {name} = {}, not {value}: {found}",
                    found[name]
                );
            }
            Ok(())
        })
        .await?;
    }
    Ok(())
}

fn default_settings() -> Value {
    json!({
        "n": 3, "r": "quorum", "w": "quorum", "pr": 0, "pw": 0, "dw": 0, "sloppy": true,
        "max_siblings": 100, "blind_writes": "siblings", "durability": "fsync",
    })
}

async fn defaults(c: &Cluster) -> Result<()> {
    await_settings(c, "unheard of", &default_settings()).await?;
    let found = settings(c, 0, "unheard of").await?;
    ensure!(found.get("ttl_seconds").is_none_or(Value::is_null), "no TTL by default: {found}");
    Ok(())
}

async fn settings_spread(c: &Cluster) -> Result<()> {
    for (index, w) in [1, 3, 2].into_iter().enumerate() {
        let wanted = json!({"w": w, "sloppy": false, "max_siblings": 7, "durability": "os"});
        http::put(bucket_url(&c.url(index), "spread")).json(&wanted).send().await?.expect_success()?;
        await_settings(c, "spread", &wanted).await?;
    }
    Ok(())
}

async fn patch_and_put(c: &Cluster) -> Result<()> {
    let url = bucket_url(&c.url(0), "patched");
    http::put(&url).json(&json!({"w": 3, "max_siblings": 9})).send().await?.expect_success()?;
    http::call("PATCH", &url).json(&json!({"r": 1})).send().await?.expect_success()?;
    await_settings(c, "patched", &json!({"w": 3, "max_siblings": 9, "r": 1})).await?;
    http::put(&url).json(&json!({"r": 2})).send().await?.expect_success()?;
    await_settings(c, "patched", &json!({"w": "quorum", "max_siblings": 100, "r": 2})).await
}

async fn deleted_settings(c: &Cluster) -> Result<()> {
    let url = bucket_url(&c.url(1), "forgotten");
    http::put(&url).json(&json!({"w": 1, "blind_writes": "supersede"})).send().await?.expect_success()?;
    await_settings(c, "forgotten", &json!({"w": 1})).await?;
    http::delete(&url).send().await?.expect_success()?;
    await_settings(c, "forgotten", &default_settings()).await
}

async fn wrong_settings(c: &Cluster) -> Result<()> {
    for (wrong, pointer) in [
        (json!({"n": 0}), "/n"),
        (json!({"n": "three"}), "/n"),
        (json!({"n": -1}), "/n"),
        (json!({"w": 9}), "/w"),
        (json!({"w": 0}), "/w"),
        (json!({"w": "many"}), "/w"),
        (json!({"r": 4}), "/r"),
        (json!({"pr": 4}), "/pr"),
        (json!({"pw": -1}), "/pw"),
        (json!({"dw": "some"}), "/dw"),
        (json!({"sloppy": "yes"}), "/sloppy"),
        (json!({"max_siblings": -1}), "/max_siblings"),
        (json!({"blind_writes": "last_write_wins"}), "/blind_writes"),
        (json!({"durability": "maybe"}), "/durability"),
        (json!({"w": 2, "frobnicate": 1}), "/frobnicate"),
    ] {
        for method in ["PUT", "PATCH"] {
            let reply = http::call(method, bucket_url(&c.url(0), "refused")).json(&wrong).send().await?;
            let problem =
                reply.problem_code(422, "invalid_config").with_context(|| format!("{method} {wrong}"))?;
            ensure!(
                names_pointer(&problem.to_string(), pointer),
                "{wrong}: no pointer {pointer} in {problem}"
            );
        }
    }
    await_settings(c, "refused", &default_settings()).await
}

/// The pointer stands in the text as a whole, not as the beginning of another path.
fn names_pointer(text: &str, pointer: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '/';
    text.match_indices(pointer).any(|(place, _)| {
        let (before, after) = (&text[..place], &text[place + pointer.len()..]);
        !before.ends_with(is_word) && !after.starts_with(is_word)
    })
}

async fn quorums_count(c: &Cluster) -> Result<()> {
    for (w, count) in [(json!(1), 1), (json!("all"), 3), (json!("quorum"), 2)] {
        http::put(bucket_url(&c.url(0), "quorums")).json(&json!({"w": w})).send().await?.expect_success()?;
        await_settings(c, "quorums", &json!({"w": w})).await?;
        for index in 0..3 {
            let receipt =
                put_blind(&key_url(&c.url(index), "quorums", format!("{w}{index}")), "v").await?.receipt()?;
            ensure!(receipt["w"] == count && receipt["acked"] >= count, "w={w}: {receipt:?}");
        }
    }
    Ok(())
}

/// One page of keys, and where the next begins.
async fn page(c: &Cluster, index: usize, bucket: &str, query: &str) -> Result<(Vec<String>, Option<String>)> {
    let url = format!("{}/keys?{query}", bucket_url(&c.url(index), bucket));
    let page = http::get(url).send().await?.expect(200)?.json()?;
    let items = page["items"].as_array().with_context(|| format!("`items` is no array in {page}"))?;
    let key =
        |item: &Value| item["key"].as_str().map(str::to_owned).with_context(|| format!("no key in {item}"));
    let keys = items.iter().map(key).collect::<Result<_>>()?;
    Ok((keys, page["cursor"].as_str().filter(|cursor| !cursor.is_empty()).map(str::to_owned)))
}

/// Writes `count` keys through all nodes; the bytes of the names sort otherwise than their order of writing.
async fn fill(c: &Cluster, bucket: &str, count: usize) -> Result<Vec<String>> {
    let mut keys: Vec<String> =
        (0..count).map(|index| format!("{}/{index:03}", ["b", "a", "B", "ä"][index % 4])).collect();
    for (index, key) in keys.iter().enumerate() {
        put_blind(&key_url(&c.url(index), bucket, key), "v").await?;
    }
    keys.sort();
    await_listed(c, bucket, &keys).await?;
    Ok(keys)
}

/// A listing reads one replica of each partition, which may have a write a moment after its quorum.
async fn await_listed(c: &Cluster, bucket: &str, keys: &[String]) -> Result<()> {
    eventually(SPREAD_TIME_MAX, || async move {
        for index in 0..3 {
            let (found, _) = page(c, index, bucket, "limit=1000").await?;
            ensure!(found == keys, "node {index} lists {found:?}, not {keys:?}");
        }
        Ok(())
    })
    .await
}

async fn keys_in_order(c: &Cluster) -> Result<()> {
    let keys = fill(c, "ordered", 60).await?;
    for index in 0..3 {
        let (found, cursor) = page(c, index, "ordered", "limit=1000").await?;
        ensure!(found == keys, "node {index} lists {found:?}, not {keys:?}");
        ensure!(cursor.is_none(), "nothing is left, but there is a cursor {cursor:?}");
    }
    let (found, _) = page(c, 0, "nothing in it", "").await?;
    ensure!(found.is_empty(), "{found:?}");
    Ok(())
}

async fn cursors_continue(c: &Cluster) -> Result<()> {
    let keys = fill(c, "paged", 40).await?;
    let (mut found, mut query) = (Vec::new(), "limit=7".to_owned());
    for round in 0.. {
        // Each page through another node: a cursor belongs to the cluster.
        let (part, cursor) = page(c, round, "paged", &query).await?;
        ensure!(part.len() <= 7, "a limit of 7, {} keys", part.len());
        found.extend(part);
        let Some(cursor) = cursor else { break };
        ensure!(round < 40, "still a cursor after {round} pages");
        query = format!("limit=7&cursor={}", encode(cursor));
    }
    ensure!(found == keys, "pages gave {found:?}, not {keys:?}");
    let base = format!("{}/keys", bucket_url(&c.url(0), "paged"));
    for wrong in ["limit=abc", "limit=-1", "cursor=nonsense", "frobnicate=1", "reverse=perhaps"] {
        http::get(format!("{base}?{wrong}")).send().await?.problem(400).with_context(|| wrong.to_owned())?;
    }
    Ok(())
}

async fn cut_listings(c: &Cluster) -> Result<()> {
    let keys = fill(c, "cut", 40).await?;
    let only = |keep: &dyn Fn(&str) -> bool| keys.iter().filter(|key| keep(key)).cloned().collect::<Vec<_>>();
    for (query, expected) in [
        ("prefix=a%2F", only(&|key| key.starts_with("a/"))),
        ("prefix=%C3%A4", only(&|key| key.starts_with('ä'))),
        ("prefix=nobody", Vec::new()),
        // Bounds that are no keys themselves.
        ("start=a%2F010x&end=b%2F020x", only(&|key| ("a/010x".."b/020x").contains(&key))),
        ("start=b%2F", only(&|key| key >= "b/")),
        ("end=b%2F", only(&|key| key < "b/")),
        ("prefix=b&start=b%2F020x", only(&|key| key.starts_with('b') && key >= "b/020x")),
        ("reverse=true", keys.iter().rev().cloned().collect()),
        (
            "prefix=a&reverse=true&limit=3",
            only(&|key| key.starts_with('a')).into_iter().rev().take(3).collect(),
        ),
    ] {
        let (found, _) = page(c, 1, "cut", query).await?;
        ensure!(found == expected, "{query} lists {found:?}, not {expected:?}");
    }
    Ok(())
}

async fn deleted_keys_are_not_listed(c: &Cluster) -> Result<()> {
    let keys = fill(c, "thinned", 9).await?;
    for key in keys.iter().step_by(2) {
        http::delete(key_url(&c.url(0), "thinned", key)).send().await?.expect(204)?;
    }
    let left: Vec<String> = keys.into_iter().skip(1).step_by(2).collect();
    await_listed(c, "thinned", &left).await
}

async fn strange_keys_are_listed(c: &Cluster) -> Result<()> {
    put_blind(&key_url(&c.url(0), "strange", b"\xff\xfe"), "v").await?;
    eventually(SPREAD_TIME_MAX, || async move {
        let url = format!("{}/keys", bucket_url(&c.url(1), "strange"));
        let page = http::get(url).send().await?.expect(200)?.json()?;
        let encoded =
            page["items"][0]["key_base64"].as_str().with_context(|| format!("no key_base64 in {page}"))?;
        ensure!(http::from_base64(encoded)? == b"\xff\xfe", "{page}");
        Ok(())
    })
    .await
}

async fn buckets_are_listed(c: &Cluster) -> Result<()> {
    for bucket in ["listed one", "listed two"] {
        put_blind(&key_url(&c.url(0), bucket, "k"), "v").await?;
    }
    eventually(SPREAD_TIME_MAX, || async move {
        for index in 0..3 {
            let url = format!("{}/v1/buckets", c.url(index));
            let list = http::get(url).send().await?.expect(200)?.json()?.to_string();
            for bucket in ["\"listed one\"", "\"listed two\""] {
                ensure!(list.contains(bucket), "node {index} does not list {bucket}: {list}");
            }
        }
        Ok(())
    })
    .await
}
