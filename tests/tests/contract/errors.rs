//! Requests that are well-formed HTTP and wrong: each is answered with a problem document that names its code,
//! and none of them changes anything.
//!
//! All of them aim at one key that holds a value and at one that holds nothing; both are looked at afterwards
//! through every node.

use crate::support::{expect_values, key_urls, put_blind};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::checks::Checks;
use tests::cluster::Cluster;
use tests::http::{self, Call, Reply, bucket_url};

const BUCKET: &str = "errors";

#[tokio::test]
async fn errors_keep_the_contract() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let c = &cluster;
    let before = put_blind(&key_urls(c, BUCKET, "held")[0], "untouched").await?;
    let mut checks = Checks::new();
    checks.run("wrong parameters are named and refused", wrong_parameters(c)).await;
    checks.run("a wrong header value is refused", wrong_headers(c)).await;
    checks.run("a context that is damaged is refused", damaged_contexts(c, &before)).await;
    checks.run("a method that a path does not know is 405", wrong_methods(c)).await;
    checks.run("a path that nobody serves is 404", wrong_paths(c)).await;
    checks.run("siblings in no acceptable type are 406", nothing_acceptable(c)).await;
    checks.run("an encoded body is 415", encoded_bodies(c)).await;
    checks.run("a body that does not parse is 400", broken_bodies(c)).await;
    checks.run("two errors have two request ids", request_ids_differ(c)).await;
    checks.run("nothing of all that changed the store", nothing_changed(c, &before)).await;
    checks.finish(&[&cluster])
}

async fn wrong_parameters(c: &Cluster) -> Result<()> {
    let anywhere = ["frobnicate=1", "timeout_ms=x", "timeout_ms=-1", "sloppy=maybe", "sloppy=2"];
    let reads =
        ["r=0", "r=4", "r=9", "r=-1", "r=abc", "r=", "r=1.5", "r=99999999999999999999", "pr=4", "pr=x"];
    let writes = ["w=0", "w=4", "w=9", "w=-1", "w=abc", "w=", "pw=4", "pw=9", "pw=x", "dw=4", "dw=x", "W=2"];
    for key in ["held", "absent"] {
        let url = &key_urls(c, BUCKET, key)[1];
        for query in anywhere.iter().chain(&reads) {
            for method in ["GET", "HEAD"] {
                let reply = http::call(method, format!("{url}?{query}")).send().await?;
                ensure!(reply.status == 400, "?{query}: {reply}");
                if method == "GET" {
                    reply.problem_code(400, "invalid_parameter")?;
                }
            }
        }
        for query in anywhere.iter().chain(&writes).chain(&["return=everything"]) {
            for call in
                [http::put(format!("{url}?{query}")).text("wrong"), http::delete(format!("{url}?{query}"))]
            {
                let problem = call.send().await?.problem_code(400, "invalid_parameter")?;
                let name = query.split('=').next().unwrap_or_default();
                let detail = problem["detail"].as_str().unwrap_or_default();
                ensure!(detail.contains(name), "the detail does not name {name:?}: {problem}");
                // A refusal before anything was written says so, if it says anything.
                let outcome = problem.get("outcome");
                ensure!(outcome.is_none_or(|outcome| outcome == "not_applied"), "{problem}");
            }
        }
    }
    Ok(())
}

async fn wrong_headers(c: &Cluster) -> Result<()> {
    let url = &key_urls(c, BUCKET, "absent")[0];
    for ttl in ["abc", "-5", "1.5e", "99999999999999999999999"] {
        http::put(url).header("cartwheel-ttl", ttl).text("wrong").send().await?.problem(400)?;
    }
    Ok(())
}

/// Every request that carries a context, with this one.
fn with_context(url: &str, context: &[u8]) -> [Call; 3] {
    [
        http::put(url).header("cartwheel-context", context).text("forged"),
        http::delete(url).header("cartwheel-context", context),
        http::get(url).header("cartwheel-min-context", context),
    ]
}

async fn expect_invalid_context(url: &str, context: &[u8]) -> Result<()> {
    for call in with_context(url, context) {
        let reply = call.send().await?;
        reply
            .problem_code(400, "invalid_context")
            .with_context(|| String::from_utf8_lossy(context).into_owned())?;
    }
    Ok(())
}

async fn damaged_contexts(c: &Cluster, before: &Reply) -> Result<()> {
    let url = &key_urls(c, BUCKET, "held")[2];
    let context = before.context()?;
    let length = context.len();
    for cut in [1, 4, length / 2, length - 4, length - 1] {
        expect_invalid_context(url, &context.as_bytes()[..cut]).await?;
    }
    // The last character of unpadded base64 may carry bits that mean nothing; all others count.
    for place in (0..length - 1).step_by(3) {
        let mut flipped = context.clone().into_bytes();
        flipped[place] = if flipped[place] == b'A' { b'B' } else { b'A' };
        expect_invalid_context(url, &flipped).await?;
    }
    let twice = format!("{context}{context}");
    for forged in ["x", "AAAA", "null", "{}", &"A".repeat(4000), &twice, "%00", "=", "..", "é"] {
        expect_invalid_context(url, forged.as_bytes()).await?;
    }
    expect_invalid_context(url, b"\xff\xfe\xfd").await?;
    let reply = http::get(format!("{url}?since=AAAA&wait_ms=100")).send().await?;
    reply.problem_code(400, "invalid_context").map(drop)
}

#[tokio::test]
async fn entry_14_a_context_of_another_key_bucket_or_cluster_is_refused() -> Result<()> {
    let (c, stranger) = (&Cluster::start(3).await?, &Cluster::start(1).await?);
    let url = &key_urls(c, BUCKET, "held")[0];
    put_blind(url, "untouched").await?;
    let other_key = put_blind(&key_urls(c, BUCKET, "other")[0], "x").await?.context()?;
    let other_bucket = put_blind(&key_urls(c, "elsewhere", "held")[0], "x").await?.context()?;
    let same_key = &key_urls(stranger, BUCKET, "held")[0];
    let other_cluster =
        http::put(format!("{same_key}?w=1")).text("x").send().await?.expect(204)?.context()?;
    for (whose, context) in [("key", other_key), ("bucket", other_bucket), ("cluster", other_cluster)] {
        let refused = expect_invalid_context(url, context.as_bytes()).await;
        refused.with_context(|| format!("the context of another {whose}"))?;
    }
    expect_values(url, &["untouched"]).await.map(drop)
}

async fn wrong_methods(c: &Cluster) -> Result<()> {
    let base = c.url(0);
    for (method, path) in [
        ("PATCH", "/v1/buckets/errors/keys/held"),
        ("DELETE", "/v1/cluster"),
        ("POST", "/health/live"),
        ("PUT", "/v1/ring"),
        ("DELETE", "/ping"),
        ("PATCH", "/v1/carts/errors/c"),
    ] {
        http::call(method, format!("{base}{path}")).send().await?.problem(405)?;
    }
    let reply = http::call("BREW", format!("{base}/v1/buckets/errors/keys/held")).send().await?;
    reply.expect_one_of(&[400, 405, 501])?.any_problem().map(drop)
}

async fn wrong_paths(c: &Cluster) -> Result<()> {
    for path in [
        "/v1/nonsense",
        "/v2/buckets",
        "/nonsense",
        "/v1/buckets/errors/keys/held/more",
        "/v1/buckets/errors/k",
    ] {
        for method in ["GET", "POST"] {
            http::call(method, format!("{}{path}", c.url(1))).send().await?.problem(404)?;
        }
    }
    Ok(())
}

async fn nothing_acceptable(c: &Cluster) -> Result<()> {
    let urls = key_urls(c, BUCKET, "two values");
    put_blind(&urls[0], "one").await?;
    put_blind(&urls[1], "two").await?;
    http::get(&urls[2]).header("accept", "image/png").send().await?.problem(406)?;
    for accept in ["*/*", "application/*", "application/json", "image/png, */*;q=0.1"] {
        http::get(&urls[2]).header("accept", accept).send().await?.expect(300)?;
    }
    Ok(())
}

async fn encoded_bodies(c: &Cluster) -> Result<()> {
    let url = &key_urls(c, BUCKET, "absent")[0];
    http::put(url).header("content-encoding", "gzip").text("not gzip").send().await?.problem(415).map(drop)
}

async fn broken_bodies(c: &Cluster) -> Result<()> {
    let bucket = bucket_url(&c.url(0), "unconfigured");
    let items = format!("{}/v1/carts/errors/cart/items", c.url(0));
    for body in ["", "{", "nonsense", "\u{0}", "{\"sku\":\"a\",\"quantity\":1"] {
        for call in [http::put(&bucket), http::post(&items)] {
            let reply = call.header("content-type", "application/json").body(body).send().await?;
            reply.problem_code(400, "invalid_body").with_context(|| format!("the body {body:?}"))?;
        }
    }
    let deep = "[".repeat(100_000);
    let reply = http::post(&items).header("content-type", "application/json").body(deep).send().await?;
    reply.expect_one_of(&[400, 413])?.any_problem()?;
    for item in [
        json!({"quantity": 1}),
        json!({"sku": "a"}),
        json!({"sku": 7, "quantity": 1}),
        json!({"sku": "a", "quantity": "many"}),
        json!({"sku": "a", "quantity": 1.5}),
        json!({"sku": "a", "quantity": 1e300}),
        json!({"sku": "a", "quantity": 1, "op_id": "x".repeat(65)}),
        json!({"sku": "a", "quantity": 1, "op_id": 5}),
        json!({"sku": "a", "quantity": 1, "attributes": "red"}),
        json!([]),
    ] {
        let reply = http::post(&items).json(&item).send().await?;
        reply.expect_one_of(&[400, 422])?.any_problem().with_context(|| format!("the item {item}"))?;
    }
    let cart =
        http::get(format!("{}/v1/carts/errors/cart", c.url(1))).send().await?.expect_one_of(&[200, 404])?;
    ensure!(
        cart.status == 404 || cart.json()?["total_quantity"] == 0,
        "a wrong item got into the cart: {cart}"
    );
    Ok(())
}

async fn request_ids_differ(c: &Cluster) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for index in 0..3 {
        let problem = http::get(format!("{}/nonsense", c.url(index))).send().await?.problem(404)?;
        ensure!(seen.insert(problem["request_id"].to_string()), "the id came twice: {problem}");
    }
    Ok(())
}

async fn nothing_changed(c: &Cluster, before: &Reply) -> Result<()> {
    for url in key_urls(c, BUCKET, "held") {
        let reply = expect_values(&url, &["untouched"]).await?.expect(200)?;
        ensure!(reply.etag()? == before.etag()?, "another version: {reply}");
    }
    for url in key_urls(c, BUCKET, "absent") {
        let reply = expect_values(&url, &[]).await?.expect(404)?;
        ensure!(reply.header("cartwheel-deleted").is_none(), "a refused delete left a tombstone: {reply}");
    }
    let settings = http::get(bucket_url(&c.url(0), "unconfigured")).send().await?.expect(200)?.json()?;
    ensure!(settings["n"] == 3, "{settings}");
    Ok(())
}
