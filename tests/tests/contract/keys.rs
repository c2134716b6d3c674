//! A key is any 1 to 1,024 octets, a value any octets up to a limit, and both come back as they went in.

use crate::support::{expect_values, key_urls, put_blind, versions};
use anyhow::{Result, ensure};
use tests::checks::Checks;
use tests::cluster::Cluster;
use tests::http::{self, key_url};
use tests::raw;

const BUCKET: &str = "keys";
const VALUE_BYTES_MAX: usize = 4 << 20;

#[tokio::test]
async fn keys_and_values_keep_the_contract() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let c = &cluster;
    let mut checks = Checks::new();
    checks.run("strange keys are keys of their own", strange_keys_are_distinct(c)).await;
    checks.run("strange buckets are buckets of their own", strange_buckets_are_distinct(c)).await;
    checks.run("a plus in a path is a plus", a_plus_is_a_plus(c)).await;
    checks.run("a key that is not UTF-8 comes as base64 in the envelope", a_key_as_base64(c)).await;
    checks.run("a key of 1,024 bytes is taken and one of 1,025 refused", the_key_limit(c)).await;
    checks.run("an empty key is refused", an_empty_key_is_refused(c)).await;
    checks.run("all 256 octets come back", all_octets_come_back(c)).await;
    checks.run("a value at the limit comes back from every node", a_value_at_the_limit(c)).await;
    checks.run("a value over the limit is refused by its length", too_large_by_length(c)).await;
    checks.run("a value over the limit is refused in chunks", too_large_in_chunks(c)).await;
    checks.run("a value in chunks below the limit is taken", chunks_are_taken(c)).await;
    checks.finish(&[&cluster])
}

/// Pairs that a server which decodes twice, not at all, or into text would confuse.
fn strange_names() -> Vec<&'static [u8]> {
    vec![
        b"a/b",
        b"a%2Fb",
        b"a%252Fb",
        b"a",
        b"a/",
        b"/a",
        b"/",
        b"//",
        b"a b",
        b"a+b",
        b"a%20b",
        b"\0",
        b"\0\0",
        b"a\0b",
        b"\xff\xfe",
        b"\xff",
        b"\xc3\xbc",
        b"\xfc",
        b"u\xcc\x88",
        b"?",
        b"#",
        b"a?w=9",
        b"keys",
        b"..a",
        b"\r\n",
        b"\"",
        b"\xf0\x9f\x9b\x92",
        b"%",
        b"%zz",
        b"A",
        b" ",
    ]
}

async fn strange_keys_are_distinct(c: &Cluster) -> Result<()> {
    let value = |index: usize| format!("value {index}");
    for (index, key) in strange_names().into_iter().enumerate() {
        put_blind(&key_url(&c.url(index), BUCKET, key), &value(index)).await?;
    }
    for (index, key) in strange_names().into_iter().enumerate() {
        expect_values(&key_url(&c.url(index + 1), BUCKET, key), &[&value(index)]).await?.expect(200)?;
    }
    Ok(())
}

async fn strange_buckets_are_distinct(c: &Cluster) -> Result<()> {
    let value = |index: usize| format!("value {index}");
    let longest = [0xff; 255];
    let names: Vec<&[u8]> = strange_names().into_iter().chain([&longest[..]]).collect();
    for (index, bucket) in names.iter().enumerate() {
        put_blind(&key_url(&c.url(index), bucket, "k"), &value(index)).await?;
    }
    for (index, bucket) in names.iter().enumerate() {
        expect_values(&key_url(&c.url(index + 1), bucket, "k"), &[&value(index)]).await?.expect(200)?;
    }
    let reply = http::put(key_url(&c.url(0), [b'b'; 256], "k")).text("x").send().await?;
    reply.expect_one_of(&[400, 413])?.any_problem().map(drop)
}

async fn a_plus_is_a_plus(c: &Cluster) -> Result<()> {
    let base = format!("{}/v1/buckets/plus/keys", c.url(0));
    put_blind(&format!("{base}/1+1"), "plus").await?;
    expect_values(&format!("{base}/1%2B1"), &["plus"]).await?.expect(200)?;
    expect_values(&format!("{base}/1%201"), &[]).await?.expect(404)?;
    Ok(())
}

async fn a_key_as_base64(c: &Cluster) -> Result<()> {
    let url = key_url(&c.url(0), b"\xffbucket", b"\xfe\xffkey");
    put_blind(&url, "v").await?;
    let envelope = versions(&url).await?.expect(200)?.json()?;
    let field = |name: &str| http::from_base64(envelope[name].as_str().unwrap_or("missing"));
    ensure!(field("key_base64")? == b"\xfe\xffkey", "{envelope}");
    ensure!(field("bucket_base64")? == b"\xffbucket", "{envelope}");
    ensure!(envelope.get("key").is_none() && envelope.get("bucket").is_none(), "one of the two: {envelope}");
    Ok(())
}

async fn the_key_limit(c: &Cluster) -> Result<()> {
    for octet in [b'k', 0xff, 0] {
        let url = key_url(&c.url(0), BUCKET, [octet; 1024]);
        put_blind(&url, "long").await?;
        expect_values(&key_url(&c.url(1), BUCKET, [octet; 1024]), &["long"]).await?.expect(200)?;
        for method in ["PUT", "GET", "DELETE"] {
            let reply = http::call(method, key_url(&c.url(2), BUCKET, [octet; 1025])).send().await?;
            reply.problem_code(413, "key_too_large")?;
        }
    }
    Ok(())
}

async fn an_empty_key_is_refused(c: &Cluster) -> Result<()> {
    for path in ["/v1/buckets/keys/keys/", "/v1/buckets//keys/k"] {
        for method in ["PUT", "GET", "DELETE"] {
            let reply = http::call(method, format!("{}{path}", c.url(0))).send().await?;
            reply.expect_one_of(&[400, 404, 405])?.any_problem()?;
        }
    }
    Ok(())
}

async fn all_octets_come_back(c: &Cluster) -> Result<()> {
    let value: Vec<u8> = (0..=255).cycle().take(3 * 256).collect();
    let urls = key_urls(c, BUCKET, "octets");
    http::put(&urls[0]).body(value.clone()).send().await?.expect(204)?;
    for url in &urls {
        let reply = http::get(url).send().await?.expect(200)?;
        ensure!(reply.body == value, "{reply}");
    }
    Ok(())
}

async fn a_value_at_the_limit(c: &Cluster) -> Result<()> {
    let value: Vec<u8> = (0..VALUE_BYTES_MAX).map(|index| (index % 251) as u8).collect();
    let urls = key_urls(c, BUCKET, "large");
    http::put(&urls[0]).body(value.clone()).send().await?.expect(204)?;
    for url in &urls {
        let reply = http::get(url).send().await?.expect(200)?;
        ensure!(reply.body == value, "{} bytes came back, or others", reply.body.len());
    }
    Ok(())
}

async fn too_large_by_length(c: &Cluster) -> Result<()> {
    let head = format!("PUT /v1/buckets/keys/keys/over HTTP/1.1\r\ncontent-length: {}", VALUE_BYTES_MAX + 1);
    // The length alone is enough: nobody has to send the bytes to hear of it.
    raw::request(&c.http(0), &head, b"").await?.expect_error(&[413])?;
    raw::request(&c.http(0), &head, &vec![b'x'; VALUE_BYTES_MAX + 1]).await?.expect_error(&[413])?;
    let huge = "PUT /v1/buckets/keys/keys/over HTTP/1.1\r\ncontent-length: 18446744073709551615";
    // A length that no request can have is refused while its head is read.
    raw::request(&c.http(0), huge, b"").await?.expect_error(&[400, 413, 431])?;
    expect_values(&key_url(&c.url(1), BUCKET, "over"), &[]).await?.expect(404)?;
    Ok(())
}

async fn too_large_in_chunks(c: &Cluster) -> Result<()> {
    let head = "PUT /v1/buckets/keys/keys/over-chunked HTTP/1.1\r\ntransfer-encoding: chunked";
    let body = chunked(&vec![b'x'; VALUE_BYTES_MAX + 1]);
    let end = raw::request(&c.http(0), head, &body).await?;
    end.expect_error(&[413])?;
    ensure!(end.text().contains("value_too_large"), "{}", end.text());
    expect_values(&key_url(&c.url(1), BUCKET, "over-chunked"), &[]).await?.expect(404)?;
    Ok(())
}

async fn chunks_are_taken(c: &Cluster) -> Result<()> {
    let head = "PUT /v1/buckets/keys/keys/chunked HTTP/1.1\r\ntransfer-encoding: chunked";
    let end = raw::request(&c.http(0), head, &chunked(&[b'x'; 100_000])).await?;
    ensure!(end.status() == Some(204), "{}", end.text());
    expect_values(&key_url(&c.url(1), BUCKET, "chunked"), &["x".repeat(100_000).as_str()]).await?;
    Ok(())
}

fn chunked(value: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(value.len() + 4096);
    for chunk in value.chunks(64 << 10) {
        body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        body.extend_from_slice(chunk);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"0\r\n\r\n");
    body
}
