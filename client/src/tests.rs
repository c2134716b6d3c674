//! The library over a real socket: what it sends, what it understands, and when it tries again.

use super::*;
use crate::stage::{Answer, Stage, answer, dead_url, json, problem};
use serde_json::json as body;
use std::time::Duration;

async fn client_of(script: Vec<Answer>) -> (Client, Stage) {
    let stage = Stage::with(script).await;
    (Client::new(vec![stage.url.clone()]).unwrap(), stage)
}

fn written_204() -> Answer {
    let receipt = "w=2;acked=3;durable=2;fallbacks=1;hints=1";
    let headers = [
        ("cartwheel-context", "ctx1"),
        ("etag", "\"e1\""),
        ("cartwheel-siblings", "1"),
        ("cartwheel-write", receipt),
        ("x-request-id", "q7"),
    ];
    answer(204, &headers, "")
}

fn teapots(op_id: Option<&str>) -> ItemChange {
    let op_id = op_id.map(str::to_owned);
    ItemChange { sku: "teapot".into(), quantity: 2, attributes: None, op_id }
}

#[tokio::test]
async fn one_value_comes_as_its_raw_bytes() {
    let headers = [
        ("content-type", "image/png"),
        ("cartwheel-context", "ctx"),
        ("etag", "\"e\""),
        ("cartwheel-expires-at", "2030-01-01T00:00:00.000Z"),
        ("cartwheel-meta-owner", "alice"),
    ];
    let (client, stage) = client_of(vec![answer(200, &headers, b"\x89PNG\0")]).await;
    let options = ReadOptions {
        r: Some(Quorum::All),
        sloppy: Some(false),
        min_context: Some(Context("seen".into())),
        ..Default::default()
    };
    let object = client.get("b", "k", &options).await.unwrap();
    assert_eq!(object.context, Some(Context("ctx".into())));
    let [version] = object.versions.as_slice() else { panic!("one version: {object:?}") };
    assert_eq!(&version.value[..], b"\x89PNG\0");
    assert_eq!(version.content_type, "image/png");
    assert_eq!(version.etag.as_deref(), Some("\"e\""));
    assert_eq!(version.expires_at.as_deref(), Some("2030-01-01T00:00:00.000Z"));
    assert_eq!(version.meta["owner"], "alice");
    assert_eq!(stage.lines(), ["GET /v1/buckets/b/keys/k?r=all&sloppy=false"]);
    assert_eq!(stage.seen()[0].header("cartwheel-min-context"), Some("seen"));
}

#[tokio::test]
async fn several_values_come_as_siblings() {
    let envelope = body!({ "bucket": "b", "key": "k", "context": "ctx", "versions": [
        { "value_base64": "aGk=", "content_type": "text/plain", "deleted": false, "etag": "\"1\"", "meta": {} },
        { "value_base64": "aGk", "content_type": "text/plain", "deleted": false },
        { "value": null, "content_type": "application/json", "deleted": false },
        { "content_type": null, "deleted": true, "expires_at": null, "meta": null },
    ]});
    let (client, _stage) = client_of(vec![json(300, envelope)]).await;
    let object = client.get("b", "k", &Default::default()).await.unwrap();
    let values: Vec<&[u8]> = object.versions.iter().map(|version| &version.value[..]).collect();
    assert_eq!(values, [&b"hi"[..], b"hi", b"null", b""]);
    assert_eq!(object.versions.iter().filter(|version| version.deleted).count(), 1);
    assert_eq!(object.context, Some(Context("ctx".into())));
}

#[tokio::test]
async fn an_absent_object_keeps_the_context_of_its_removal() {
    let mut gone = problem(404, "not_found", body!({}));
    if let Answer::Http { headers, .. } = &mut gone {
        headers.push(("cartwheel-context", "after".into()));
    }
    let (client, _stage) = client_of(vec![gone]).await;
    let object = client.get("b", "k", &Default::default()).await.unwrap();
    assert_eq!(object, Object { context: Some(Context("after".into())), ..Default::default() });
}

#[tokio::test]
async fn a_404_of_something_else_is_not_an_absent_object() {
    let (client, _stage) = client_of(vec![answer(404, &[], "<html>nginx</html>")]).await;
    let error = client.get("b", "k", &Default::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "status 404: <html>nginx</html>");
    assert!(!error.is_not_found());
}

#[tokio::test]
async fn a_put_sends_its_conditions_and_reads_its_receipt() {
    let (client, stage) = client_of(vec![written_204()]).await;
    let options = WriteOptions {
        context: Some(Context("seen".into())),
        content_type: Some("text/plain".into()),
        ttl_seconds: Some(60),
        meta: [("Owner".to_owned(), "alice".to_owned())].into(),
        if_match: Some("\"e0\"".into()),
        w: Some(Quorum::Count(2)),
        dw: Some(Quorum::One),
        timeout_ms: Some(500),
        ..Default::default()
    };
    let written = client.put("b", "k", "hello", &options).await.unwrap();
    assert_eq!(written.context, Some(Context("ctx1".into())));
    assert_eq!(written.siblings, Some(1));
    assert_eq!(written.request_id.as_deref(), Some("q7"));
    assert_eq!(written.receipt, Some(Receipt { w: 2, acked: 3, durable: 2, fallbacks: 1, hints: 1 }));
    let seen = &stage.seen()[0];
    assert_eq!(seen.line, "PUT /v1/buckets/b/keys/k?w=2&dw=one&timeout_ms=500");
    assert_eq!(seen.body, b"hello");
    let sent = [
        ("content-type", "text/plain"),
        ("cartwheel-context", "seen"),
        ("cartwheel-ttl", "60"),
        ("cartwheel-meta-owner", "alice"),
        ("if-match", "\"e0\""),
    ];
    for (name, value) in sent {
        assert_eq!(seen.header(name), Some(value), "{name}");
    }
}

#[tokio::test]
async fn names_go_over_the_wire_byte_by_byte() {
    let (client, stage) = client_of(vec![written_204()]).await;
    client.put(b"a/b+", b"\x00\xff ?#%", "", &Default::default()).await.unwrap();
    assert_eq!(stage.lines(), ["PUT /v1/buckets/a%2Fb%2B/keys/%00%FF%20%3F%23%25"]);
}

#[tokio::test]
async fn a_key_that_a_url_would_resolve_is_refused_before_it_is_sent() {
    let (client, stage) = client_of(vec![]).await;
    for (bucket, key) in [("b", ".."), ("b", "."), ("..", "k")] {
        let error = client.delete(bucket, key, &Default::default()).await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
    }
    assert!(stage.seen().is_empty(), "nothing was sent");
}

#[tokio::test]
async fn a_problem_is_read_with_all_its_fields() {
    let more = body!({ "required": 2, "acked": 1, "outcome": "indeterminate", "retry": "after_read",
        "retry_after_ms": 100, "request_id": "q1", "node": "n1", "versions": [1] });
    let (client, stage) = client_of(vec![problem(503, "write_quorum_not_met", more)]).await;
    let error = client.put("b", "k", "v", &Default::default()).await.unwrap_err();
    let problem = error.problem().unwrap();
    assert_eq!((problem.status, problem.code.as_str()), (503, "write_quorum_not_met"));
    assert_eq!((problem.required, problem.acked), (Some(2), Some(1)));
    assert_eq!((problem.retry, problem.retry_after_ms), (Some(Retry::AfterRead), Some(100)));
    assert_eq!((problem.request_id.as_deref(), problem.node.as_deref()), (Some("q1"), Some("n1")));
    assert_eq!(problem.rest["versions"], body!([1]));
    assert_eq!(error.outcome(), Outcome::Indeterminate);
    assert_eq!(stage.seen().len(), 1, "after_read is not a leave to repeat");
}

#[tokio::test]
async fn the_second_node_is_asked_when_the_first_is_dead() {
    let stage = Stage::with(vec![written_204(), written_204()]).await;
    let client = Client::new(vec![dead_url().await, stage.url.clone()]).unwrap();
    client.put("b", "k", "v", &Default::default()).await.unwrap();
    client.clone().put("b", "k", "v", &Default::default()).await.unwrap();
    assert_eq!(stage.seen().len(), 2);
}

#[tokio::test]
async fn a_dead_cluster_has_changed_nothing() {
    let client = Client::new(vec![dead_url().await]).unwrap();
    let error = client.put("b", "k", "v", &Default::default()).await.unwrap_err();
    let Error::Transport { source, .. } = &error else { panic!("{error}") };
    assert_eq!(source.kind, FailureKind::Connect);
    assert_eq!(error.outcome(), Outcome::NotApplied);
}

#[tokio::test]
async fn a_no_is_not_asked_again() {
    let no = problem(503, "write_quorum_not_met", body!({ "outcome": "not_applied", "retry": "no" }));
    let (client, stage) = client_of(vec![no, written_204()]).await;
    let error = client.cart_add("b", "c", &teapots(Some("op"))).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::NotApplied);
    assert_eq!(stage.seen().len(), 1);
}

#[tokio::test]
async fn what_the_node_calls_safe_is_sent_again_after_its_pause() {
    let busy = body!({ "outcome": "not_applied", "retry": "safe", "retry_after_ms": 1 });
    let (client, stage) = client_of(vec![problem(429, "overloaded", busy), written_204()]).await;
    client.put("b", "k", "v", &Default::default()).await.unwrap();
    assert_eq!(stage.seen().len(), 2);
}

#[tokio::test]
async fn after_a_broken_connection_only_what_counts_once_is_sent_again() {
    let (client, stage) = client_of(vec![Answer::HangUp, written_204()]).await;
    client.cart_add("b", "c", &teapots(Some("op"))).await.unwrap();
    let seen = stage.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].body, seen[1].body, "the same op_id is sent again");

    let (client, stage) = client_of(vec![Answer::HangUp, written_204()]).await;
    let error = client.cart_add("b", "c", &teapots(None)).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Indeterminate);
    assert_eq!(stage.seen().len(), 1);

    let (client, stage) = client_of(vec![Answer::HangUp, written_204()]).await;
    let error = client.put("b", "k", "v", &Default::default()).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Indeterminate);
    assert_eq!(stage.seen().len(), 1);
}

#[tokio::test]
async fn a_refusal_after_a_silence_leaves_the_write_in_doubt() {
    let no = problem(503, "draining", body!({ "outcome": "not_applied", "retry": "no" }));
    let (client, stage) = client_of(vec![Answer::HangUp, no]).await;
    let error = client.cart_add("b", "c", &teapots(Some("op"))).await.unwrap_err();
    assert_eq!(stage.seen().len(), 2);
    assert_eq!(error.problem().unwrap().code, "draining");
    assert_eq!(error.outcome(), Outcome::Indeterminate);
}

#[tokio::test]
async fn a_silent_node_costs_one_time_out_and_the_next_is_asked() {
    let silent = Stage::with(vec![Answer::Silence]).await;
    let stage = Stage::with(vec![answer(200, &[], "v")]).await;
    let client = Client::new(vec![silent.url.clone(), stage.url.clone()]).unwrap();
    let client = client.with_attempt_timeout(Duration::from_millis(200));
    let object = client.get("b", "k", &Default::default()).await.unwrap();
    assert_eq!(object.versions.len(), 1);
    assert_eq!((silent.seen().len(), stage.seen().len()), (1, 1));
}

#[tokio::test]
async fn an_acknowledged_write_with_unreadable_words_is_applied() {
    let (client, _stage) = client_of(vec![answer(204, &[("cartwheel-write", "w=two")], "")]).await;
    let error = client.put("b", "k", "v", &Default::default()).await.unwrap_err();
    assert!(matches!(error, Error::Decode { .. }), "{error}");
    assert_eq!(error.outcome(), Outcome::Applied);
}

#[tokio::test]
async fn a_cart_is_read_no_older_than_asked_and_an_item_replaced_as_it_was_seen() {
    let cart = body!({ "id": "c", "total_quantity": 0, "context": "seen", "items": [] });
    let (client, stage) = client_of(vec![json(200, cart), answer(204, &[], ""), Answer::HangUp]).await;
    let known = Context("known".into());
    let options =
        ReadOptions { min_context: Some(known.clone()), r: Some(Quorum::All), ..Default::default() };
    client.cart_read("b", "c", &options).await.unwrap();
    client.cart_replace("b", "c", "mug", 3, &known).await.unwrap();
    let error = client.cart_replace("b", "c", "mug", 3, &known).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Indeterminate);
    let put = "PUT /v1/carts/b/c/items/mug";
    assert_eq!(stage.lines(), ["GET /v1/carts/b/c?r=all", put, put], "after a silence it is not sent again");
    let sent = stage.seen();
    assert_eq!(sent[0].header("cartwheel-min-context"), Some("known"));
    assert_eq!(
        (sent[1].header("cartwheel-context"), &sent[1].body[..]),
        (Some("known"), &b"{\"quantity\":3}"[..])
    );
}

#[tokio::test]
async fn carts_speak_the_words_of_the_contract() {
    let cart = body!({ "id": "c/1", "total_quantity": 2, "context": "seen",
        "items": [{ "sku": "teapot", "quantity": 2, "attributes": { "colour": "red" } }] });
    let done = || json(200, body!({ "context": "new" }));
    let script = vec![json(200, cart), done(), done(), done(), done(), done()];
    let (client, stage) = client_of(script).await;
    let cart = client.cart("b", "c/1").await.unwrap();
    assert_eq!((cart.total_quantity, cart.items[0].quantity), (2, 2));
    assert_eq!(cart.items[0].attributes["colour"], "red");
    let seen = cart.context.unwrap();
    let added = client.cart_add("b", "c/1", &teapots(Some("op"))).await.unwrap();
    assert_eq!(added.context, Some(Context("new".into())), "taken from the body where no header has it");
    client.cart_set("b", "c/1", "tea pot", 3, None).await.unwrap();
    client.cart_remove("b", "c/1", "teapot", &seen).await.unwrap();
    client.cart_merge("b", "c/1", "guest").await.unwrap();
    client.cart_empty("b", "c/1", Some(&seen)).await.unwrap();
    let expected = [
        "GET /v1/carts/b/c%2F1",
        "POST /v1/carts/b/c%2F1/items",
        "PUT /v1/carts/b/c%2F1/items/tea%20pot",
        "DELETE /v1/carts/b/c%2F1/items/teapot",
        "POST /v1/carts/b/c%2F1/merge",
        "DELETE /v1/carts/b/c%2F1",
    ];
    assert_eq!(stage.lines(), expected);
    let sent = stage.seen();
    let sent_json = |index: usize| serde_json::from_slice::<serde_json::Value>(&sent[index].body).unwrap();
    assert_eq!(sent_json(1), body!({ "sku": "teapot", "quantity": 2, "op_id": "op" }));
    assert_eq!(sent_json(2), body!({ "quantity": 3 }));
    assert_eq!(sent[3].header("cartwheel-context"), Some("seen"));
    assert_eq!(sent_json(4), body!({ "from": "guest" }));
    assert_eq!(sent[5].header("cartwheel-context"), Some("seen"));
}

#[tokio::test]
async fn keys_come_in_pages_and_as_bytes() {
    let first = json(200, body!({ "items": [{ "key": "a" }, { "key_base64": "/w==" }], "cursor": "c1" }));
    let same = json(200, body!({ "items": [], "cursor": "c1" }));
    let (client, stage) = client_of(vec![first, same]).await;
    let mut options = ListOptions { prefix: Some(b"\xff".to_vec()), limit: Some(2), ..Default::default() };
    let page = client.keys("b", &options).await.unwrap();
    assert_eq!(page.keys, [b"a".to_vec(), b"\xff".to_vec()]);
    options.cursor = page.cursor;
    let error = client.keys("b", &options).await.unwrap_err();
    assert!(error.to_string().contains("cursor"), "a cursor that stands still is refused: {error}");
    assert_eq!(stage.lines()[1], "GET /v1/buckets/b/keys?prefix=%FF&limit=2&cursor=c1");
}

#[tokio::test]
async fn settings_come_and_go_and_keep_what_is_not_known() {
    let settings = body!({ "n": 3, "r": "quorum", "pr": 0, "sloppy": true, "type": "cart", "colour": "red" });
    let (client, stage) = client_of(vec![json(200, settings), answer(204, &[], "")]).await;
    let settings = client.settings("b").await.unwrap();
    assert_eq!(
        (settings.n, settings.r, settings.pr),
        (Some(3), Some(Quorum::Quorum), Some(Quorum::Count(0)))
    );
    assert_eq!((settings.kind.as_deref(), &settings.rest["colour"]), (Some("cart"), &body!("red")));
    let change = Settings { w: Some(Quorum::Count(1)), kind: Some("cart".into()), ..Default::default() };
    client.patch_settings("b", &change).await.unwrap();
    assert_eq!(stage.lines()[1], "PATCH /v1/buckets/b");
    let sent: serde_json::Value = serde_json::from_slice(&stage.seen()[1].body).unwrap();
    assert_eq!(sent, body!({ "w": 1, "type": "cart" }), "what is not named is not sent");
}

#[tokio::test]
async fn a_token_is_sent_and_never_in_an_error() {
    let (client, stage) = client_of(vec![problem(401, "unauthenticated", body!({}))]).await;
    let client = client.with_token(Some("s3cret".into()));
    let error = client.cluster().await.unwrap_err();
    assert_eq!(stage.seen()[0].header("authorization"), Some("Bearer s3cret"));
    assert!(!format!("{error:?}").contains("s3cret"));
    let (client, stage) = client_of(vec![]).await;
    let error = client.with_token(Some("s3\ncret".into())).cluster().await.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)) && !format!("{error:?}").contains("cret"), "{error}");
    assert!(stage.seen().is_empty());
}

#[test]
fn op_ids_differ_and_fit() {
    let ids: std::collections::BTreeSet<String> = (0..1000).map(|_| fresh_op_id()).collect();
    assert_eq!(ids.len(), 1000);
    assert!(ids.iter().all(|id| id.len() <= 64));
}

#[test]
fn quorums_are_numbers_or_words() {
    assert_eq!("2".parse::<Quorum>(), Ok(Quorum::Count(2)));
    assert_eq!("all".parse::<Quorum>(), Ok(Quorum::All));
    assert!("most".parse::<Quorum>().is_err());
    assert!("-1".parse::<Quorum>().is_err());
}
