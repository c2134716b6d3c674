//! The commands as a user meets them: a command line in; stdout, stderr and an exit code out.

mod cluster;

use super::{Command, Terminal, run_on};
use crate::stage::{Answer, Stage, answer, dead_url, json, problem};
use clap::Parser;
use serde_json::{Value, json as body};

#[derive(Debug, Parser)]
#[command(name = "cartwheel")]
struct Binary {
    #[command(subcommand)]
    command: Command,
}

struct Ran {
    code: i32,
    out: String,
    messages: String,
}

async fn run(url: &str, line: &[&str], input: &str) -> Ran {
    let arguments = [&["cartwheel"], line, &["--url", url]].concat();
    let command = Binary::try_parse_from(arguments).unwrap().command;
    let (mut out, mut messages) = (Vec::new(), Vec::new());
    let mut terminal = Terminal::new(input.as_bytes(), &mut out, &mut messages);
    let code = run_on(command, &mut terminal).await;
    drop(terminal);
    Ran { code, out: String::from_utf8(out).unwrap(), messages: String::from_utf8(messages).unwrap() }
}

async fn ran(script: Vec<Answer>, line: &[&str]) -> (Ran, Stage) {
    let stage = Stage::with(script).await;
    (run(&stage.url, line, "").await, stage)
}

fn siblings() -> Answer {
    let envelope = body!({ "bucket": "b", "key": "k", "context": "ctx", "versions": [
        { "value_base64": "b25l", "content_type": "text/plain", "deleted": false, "modified": "then", "meta": {} },
        { "value": [2], "content_type": "application/json", "deleted": false, "modified": "now", "meta": {} }]});
    json(300, envelope)
}

fn explanation() -> Answer {
    let replica = body!({ "node": "n1", "zone": "a", "reachable": true, "present": true, "context": "c", "hints": 0,
        "role": "gaining", "transfer": "moving", "tree": "differs", "versions": [{ "dot": "n1:1", "etag": "e", "deleted": false, "size": 5 }] });
    let absent = body!({ "node": "n2", "zone": "b", "reachable": false, "present": false, "versions": [],
        "context": null, "hints": 1 });
    let whole = body!({ "hash": "00ff", "partition": 7, "preference_list": ["n1", "n2"],
        "replicas": [replica, absent], "verdict": "stale" });
    json(200, whole)
}

#[tokio::test]
async fn ping_asks_whether_anybody_answers() {
    let (said, stage) = ran(vec![answer(200, &[], "OK")], &["ping"]).await;
    assert_eq!((said.code, said.out.as_str(), said.messages.as_str()), (0, "OK\n", ""));
    assert_eq!(stage.lines(), ["GET /ping"]);
    let (said, _stage) = ran(vec![answer(200, &[], "OK")], &["ping", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&said.out).unwrap(), body!({ "answers": true }));
    let said = run(&dead_url().await, &["ping"], "").await;
    assert_eq!((said.code, said.out.as_str()), (1, ""), "{}", said.messages);
}

#[tokio::test]
async fn get_writes_the_value_and_nothing_else_to_stdout() {
    let (ran, _stage) =
        ran(vec![answer(200, &[("cartwheel-context", "ctx")], "hello")], &["get", "b", "k"]).await;
    assert_eq!((ran.code, ran.out.as_str(), ran.messages.as_str()), (0, "hello", "context: ctx\n"));
}

#[tokio::test]
async fn get_of_nothing_exits_3() {
    let (ran, _stage) = ran(vec![problem(404, "not_found", body!({}))], &["get", "b", "k"]).await;
    assert_eq!((ran.code, ran.out.as_str(), ran.messages.as_str()), (3, "", "not found: b/k\n"));
}

#[tokio::test]
async fn get_of_siblings_prints_each_and_exits_4() {
    let (ran, _stage) = ran(vec![siblings()], &["get", "b", "k"]).await;
    let expected = "--- 1 of 2: text/plain, then\none\n--- 2 of 2: application/json, now\n[2]\n";
    assert_eq!((ran.code, ran.out.as_str()), (4, expected));
    assert!(ran.messages.contains("context: ctx") && ran.messages.contains("--context"), "{}", ran.messages);
}

#[tokio::test]
async fn get_prints_an_envelope_with_json_and_a_token_with_context_only() {
    let (ran_json, _stage) = ran(vec![siblings()], &["get", "b", "k", "--json"]).await;
    let document: Value = serde_json::from_str(&ran_json.out).unwrap();
    assert_eq!((ran_json.code, &document["versions"][1]["value"]), (4, &body!([2])));
    assert_eq!(document["versions"][0]["value_base64"], "b25l");
    assert_eq!(document["context"], "ctx");
    let (ran, _stage) = ran(vec![siblings()], &["get", "b", "k", "--context-only"]).await;
    assert_eq!(ran.out, "ctx\n");
}

#[tokio::test]
async fn put_takes_its_value_from_the_line_or_from_stdin() {
    let done = || answer(204, &[("cartwheel-context", "new"), ("cartwheel-siblings", "2")], "");
    let stage = Stage::with(vec![done(), done()]).await;
    let line = ["put", "b", "k", "hello", "-w", "2", "--context", "old", "--meta", "Owner=alice"];
    let first = run(&stage.url, &line, "ignored").await;
    assert_eq!((first.code, first.out.as_str()), (0, ""));
    assert!(first.messages.contains("context: new"), "{}", first.messages);
    assert!(first.messages.contains("2 concurrent values"), "{}", first.messages);
    assert_eq!(run(&stage.url, &["put", "b", "k"], "from stdin\n").await.code, 0);
    let seen = stage.seen();
    assert_eq!(
        (seen[0].line.as_str(), seen[0].body.as_slice()),
        ("PUT /v1/buckets/b/keys/k?w=2", &b"hello"[..])
    );
    assert_eq!(seen[0].header("cartwheel-context"), Some("old"));
    assert_eq!(seen[0].header("cartwheel-meta-owner"), Some("alice"));
    assert_eq!(seen[1].body, b"from stdin\n");
}

#[tokio::test]
async fn a_failed_precondition_exits_4_and_a_refusal_1() {
    let line = ["put", "b", "k", "v", "--if-none-match"];
    let (ran_412, stage) = ran(vec![problem(412, "precondition_failed", body!({}))], &line).await;
    assert_eq!(ran_412.code, 4);
    assert_eq!(stage.seen()[0].header("if-none-match"), Some("*"));
    let more = body!({ "required": 2, "acked": 1, "outcome": "indeterminate", "retry": "after_read", "request_id": "q" });
    let (ran, _stage) = ran(vec![problem(503, "write_quorum_not_met", more)], &line).await;
    assert_eq!(ran.code, 1);
    for words in
        ["error: write_quorum_not_met", "may still appear", "1 of 2", "request id: q", "cluster status"]
    {
        assert!(ran.messages.contains(words), "{words} is missing: {}", ran.messages);
    }
}

#[tokio::test]
async fn a_dead_node_exits_1_with_a_way_out() {
    let ran = run(&dead_url().await, &["get", "b", "k"], "").await;
    assert_eq!(ran.code, 1);
    assert!(ran.messages.contains("cartwheel dev"), "{}", ran.messages);
    let ran = run(&dead_url().await, &["get", "b", "k", "--json"], "").await;
    let complaint: Value = serde_json::from_str(&ran.messages).unwrap();
    assert_eq!(complaint["error"]["code"], "unreachable");
}

#[tokio::test]
async fn wrong_urls_and_wrong_lines_are_usage() {
    assert_eq!(run("https://x", &["get", "b", "k"], "").await.code, 2);
    for line in
        [&["put", "b"][..], &["get", "b", "k", "-r", "most"], &["ls", "--limit", "0"], &["cart", "buy"]]
    {
        let error = Binary::try_parse_from(["cartwheel"].iter().chain(line)).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
    }
}

#[tokio::test]
async fn ls_follows_the_pages_up_to_its_limit() {
    let page = |first: &str, second: &str, cursor: Option<&str>| {
        json(200, body!({ "items": [{ "key": first }, { "key": second }], "cursor": cursor }))
    };
    let script = || vec![page("a", "b", Some("c1")), page("c", "d", None)];
    let (all, stage) = ran(script(), &["ls", "b"]).await;
    assert_eq!((all.code, all.out.as_str()), (0, "a\nb\nc\nd\n"));
    assert_eq!(stage.lines()[1], "GET /v1/buckets/b/keys?cursor=c1");
    let (some, stage) = ran(script(), &["ls", "b", "--limit", "3", "--prefix", "x y"]).await;
    assert_eq!(some.out, "a\nb\nc\n");
    assert_eq!(stage.lines()[1], "GET /v1/buckets/b/keys?prefix=x%20y&limit=1&cursor=c1");
    let buckets = json(200, body!({ "items": [{ "bucket": "shop" }, "carts"] }));
    let (buckets, _stage) = ran(vec![buckets], &["ls", "--json"]).await;
    let document: Value = serde_json::from_str(&buckets.out).unwrap();
    assert_eq!(document, body!({ "items": [{ "bucket": "shop" }, { "bucket": "carts" }] }));
}

#[tokio::test]
async fn cart_add_makes_up_an_op_id_and_keeps_it_when_it_tries_again() {
    let done = answer(200, &[("cartwheel-context", "new")], "");
    let (ran, stage) = ran(vec![Answer::HangUp, done], &["cart", "add", "b", "c", "cup", "-2"]).await;
    assert_eq!(ran.code, 0, "{}", ran.messages);
    let sent: Vec<Value> =
        stage.seen().iter().map(|seen| serde_json::from_slice(&seen.body).unwrap()).collect();
    assert_eq!((sent.len(), &sent[0]), (2, &sent[1]));
    assert_eq!(sent[0]["quantity"], -2);
    assert_eq!(sent[0]["op_id"].as_str().unwrap().len(), 32);
}

#[tokio::test]
async fn cart_remove_takes_away_what_was_just_read() {
    let cart = || {
        let item = body!({ "sku": "cup", "quantity": 1, "attributes": {} });
        json(200, body!({ "id": "c", "items": [item], "total_quantity": 1, "context": "seen" }))
    };
    let (done, stage) = ran(vec![cart(), answer(200, &[], "{}")], &["cart", "remove", "b", "c", "cup"]).await;
    assert_eq!(done.code, 0);
    assert_eq!(stage.lines()[1], "DELETE /v1/carts/b/c/items/cup");
    assert_eq!(stage.seen()[1].header("cartwheel-context"), Some("seen"));
    let (absent, stage) = ran(vec![cart()], &["cart", "remove", "b", "c", "saucer"]).await;
    assert_eq!((absent.code, stage.seen().len()), (3, 1));
}

#[tokio::test]
async fn cart_show_is_a_table_or_json() {
    let cart = body!({ "id": "c", "total_quantity": 6, "context": "seen",
        "items": [{ "sku": "cup", "quantity": 6, "attributes": { "colour": "red" } }] });
    let (shown, _stage) = ran(vec![json(200, cart.clone())], &["cart", "show", "b", "c"]).await;
    let words: Vec<&str> = shown.out.split_whitespace().collect();
    assert_eq!(words, ["SKU", "QUANTITY", "ATTRIBUTES", "cup", "6", "colour=\"red\"", "total", "6"]);
    let (shown, _stage) = ran(vec![json(200, cart.clone())], &["cart", "show", "b", "c", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&shown.out).unwrap(), cart);
}

#[tokio::test]
async fn explain_shows_every_replica_and_the_verdict() {
    let (shown, stage) = ran(vec![explanation()], &["explain", "b", "a/k"]).await;
    assert_eq!(shown.code, 0, "{}", shown.messages);
    for words in
        ["partition:  7", "preference: n1, n2", "n1:1 (5 B)", "gaining (moving)", "differs", "verdict: stale"]
    {
        assert!(shown.out.contains(words), "{words} is missing: {}", shown.out);
    }
    assert_eq!(stage.lines(), ["GET /v1/explain?bucket=b&key=a%2Fk"]);
}

#[tokio::test]
async fn ring_shows_all_partitions_or_the_owners_of_one_key() {
    let partitions = body!({ "version": 4, "partitions": [{ "partition": 0, "owners": ["n1", "n2"] }] });
    let (all, _stage) = ran(vec![json(200, partitions)], &["ring"]).await;
    assert!(all.out.contains("n1, n2"), "{}", all.out);
    let (one, stage) = ran(vec![explanation()], &["ring", "b/a/k"]).await;
    assert!(one.out.contains("preference: n1, n2") && !one.out.contains("verdict"), "{}", one.out);
    assert_eq!(stage.lines(), ["GET /v1/explain?bucket=b&key=a%2Fk"]);
    let (bare, _stage) = ran(vec![], &["ring", "k"]).await;
    assert_eq!(bare.code, 2);
}

#[test]
fn the_command_line_is_sound() {
    <Binary as clap::CommandFactory>::command().debug_assert();
}

#[tokio::test]
async fn a_repair_is_followed_to_its_end() {
    let at = |state: &str, done: u64| {
        json(
            200,
            body!({ "id": "0a", "state": state, "partitions": 4, "partitions_done": done,
            "differences": 3, "repairs": 2 }),
        )
    };
    let begun = || json(202, body!({ "id": "0a", "node": "n1" }));
    let (ran, stage) = ran(vec![begun(), at("running", 1), at("done", 4)], &["repair", "b", "k"]).await;
    assert_eq!(ran.code, 0, "{}", ran.messages);
    assert_eq!(ran.out, "4 of 4 partitions compared, 3 differences found, 2 repaired\n");
    drop(stage);
    let stage = Stage::with(vec![begun(), at("incomplete", 4)]).await;
    let ran = run(&stage.url, &["repair", "--partition", "3", "--json"], "").await;
    assert_eq!(
        (ran.code, serde_json::from_str::<Value>(&ran.out).unwrap()["state"].clone()),
        (1, body!("incomplete"))
    );
    let stage = Stage::with(vec![begun()]).await;
    let ran = run(&stage.url, &["repair", "--no-wait"], "").await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "0a\n"));
}
