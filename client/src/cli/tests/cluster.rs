//! `cartwheel cluster …` as a user meets it: tables, staged plans, and servers that say less or more than is known here.

use super::{Ran, ran, run};
use crate::stage::{Answer, Stage, answer, json, problem};
use serde_json::{Value, json as body};

const N1: &str = "11111111111111111111111111111111";
const N2: &str = "2222aaaa222222222222222222222222";
const N3: &str = "2222bbbb222222222222222222222222";

fn member(id: &str, port: u16, status: &str) -> Value {
    body!({ "id": id, "http": format!("127.0.0.1:{port}"), "peer": format!("127.0.0.1:{}", port + 1), "zone": "a",
        "weight": 1, "status": status, "reachable": status == "up", "incarnation": 7, "starts": 1, "partitions": 85 })
}

fn cluster(settled: bool, done: u64) -> Value {
    let waiting = if settled { body!([]) } else { body!([{ "node": N2, "reason": "does not answer" }]) };
    body!({ "cluster": "c1", "node": N1,
        "members": [member(N1, 8098, "up"), member(N2, 8108, "leaving"), member(N3, 8108, "removed")],
        "ring": { "version": 4, "digest": "00ff", "partitions": 256, "settled": settled },
        "transfers": { "partitions": 40 - done, "done": done, "of": 40, "waiting_for": waiting } })
}

fn nothing_staged() -> Answer {
    let zeros = body!({ "changes": [], "hash": "", "unreachable": [], "partitions_without_most_owners": 0,
        "partitions_to_move": 0, "bytes_to_move": 0, "nodes": [],
        "balance": { "before": 1.0, "after": 1.0 } });
    json(200, zeros)
}

fn plan(change: &Value) -> Value {
    let node = |id: &str, gains: u64, losses: u64| {
        body!({ "id": id, "zone": "", "weight": 1, "before": 85, "after": 85 + gains - losses, "gains": gains,
            "losses": losses, "bytes_in": gains * 1024, "bytes_out": losses * 1024 })
    };
    body!({ "changes": [change], "hash": "abcd", "unreachable": [], "partitions_without_most_owners": 0,
        "partitions_to_move": 85, "bytes_to_move": 87040,
        "nodes": [node(N1, 85, 0), node(N2, 0, 85)], "balance": { "before": 1.0, "after": 1.125 } })
}

fn expect_words(ran: &Ran, words: &[&str]) {
    for word in words {
        assert!(ran.out.contains(word), "{word} is missing: {} {}", ran.out, ran.messages);
    }
}

#[tokio::test]
async fn status_is_a_table_with_a_star_and_what_is_staged() {
    let staged = json(200, plan(&body!({ "leave": N2 })));
    let (shown, stage) = ran(vec![json(200, cluster(false, 12)), staged], &["cluster", "status"]).await;
    assert_eq!(shown.code, 0, "{}", shown.messages);
    assert!(
        shown.out.contains(&format!("{N1} *")) && !shown.out.contains(&format!("{N2} *")),
        "{}",
        shown.out
    );
    let words = ["leaving", "127.0.0.1:8108", "ring version 4, 256 partitions, 12 of 40 have moved"];
    expect_words(&shown, &words);
    expect_words(&shown, &[&format!("waits for {N2}: does not answer"), &format!("staged: {N2} leaves")]);
    assert!(!shown.out.contains(N3), "who was removed is not shown to people: {}", shown.out);
    assert_eq!(stage.lines(), ["GET /v1/cluster", "GET /v1/cluster/plan"]);
}

#[tokio::test]
async fn a_plan_says_what_it_may_cost_to_let_two_go_who_can_t_be_reached() {
    let cost = "bring one of them back first";
    for (unreachable, costs) in [(body!([N2]), false), (body!([N2, N3]), true)] {
        let mut staged = plan(&body!({ "leave": N2 }));
        staged["unreachable"] = unreachable;
        let (shown, _stage) = ran(vec![json(200, staged)], &["cluster", "plan"]).await;
        assert_eq!(shown.code, 0, "{}", shown.messages);
        expect_words(&shown, &[&format!("{N2} can't be reached")]);
        assert_eq!(shown.out.contains(cost), costs, "{}", shown.out);
    }
}

#[tokio::test]
async fn status_of_a_server_that_says_less_or_more_is_shown_all_the_same() {
    let old = body!({ "cluster": "c1", "node": N1, "members": [{ "id": N1, "status": "up", "reachable": true }],
        "ring": { "version": 4, "partitions": 256 }, "transfers": {} });
    let no_plans = problem(404, "not_found", body!({}));
    let (shown, _stage) = ran(vec![json(200, old), no_plans], &["cluster", "status", "--wait"]).await;
    assert_eq!(shown.code, 0, "{}", shown.messages);
    expect_words(&shown, &["ring version 4, 256 partitions\n"]);

    let bare = body!({ "members": [{}] });
    let (shown, _stage) = ran(vec![json(200, bare), nothing_staged()], &["cluster", "status"]).await;
    assert_eq!(shown.code, 0, "{}", shown.messages);

    let mut new = cluster(true, 40);
    new["colour"] = body!("red");
    new["members"][0]["status"] = body!("resting");
    new["transfers"]["lanes"] = body!([1, 2]);
    let unknown = json(200, plan(&body!({ "promote": N1 })));
    let (shown, _stage) = ran(vec![json(200, new.clone()), unknown], &["cluster", "status"]).await;
    expect_words(&shown, &["resting", "settled", &format!("staged: {{\"promote\":\"{N1}\"}}")]);
    let (printed, _stage) = ran(vec![json(200, new.clone())], &["cluster", "status", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&printed.out).unwrap(), new, "the server's body, all of it");
}

#[tokio::test]
async fn wait_asks_until_it_is_settled_and_says_once_what_holds_it_up() {
    let script = [cluster(false, 1), cluster(false, 2), cluster(true, 40)].map(|view| json(200, view));
    let (shown, stage) = ran(script.to_vec(), &["cluster", "status", "--wait", "--json"]).await;
    assert_eq!((shown.code, stage.seen().len()), (0, 3), "{}", shown.messages);
    assert_eq!(shown.messages, format!("waits for {N2}: does not answer\n"), "no bar in a pipe");
    assert_eq!(serde_json::from_str::<Value>(&shown.out).unwrap()["ring"]["settled"], true);
}

#[tokio::test]
async fn each_change_is_staged_and_shown_with_its_hash() {
    for (line, change, words) in [
        (vec!["join", N1], body!({ "join": N1 }), format!("{N1} joins")),
        (vec!["leave", N1], body!({ "leave": N1 }), format!("{N1} leaves")),
        (
            vec!["leave", N1, "--force"],
            body!({ "leave": N1, "force": true }),
            format!("{N1} leaves by force"),
        ),
        (
            vec!["replace", N1, N2, "--force"],
            body!({ "replace": { "old": N1, "new": N2 }, "force": true }),
            format!("{N2} takes the place of {N1} by force"),
        ),
        (
            vec!["replace", N1, N2],
            body!({ "replace": { "old": N1, "new": N2 } }),
            format!("{N2} takes the place of {N1}"),
        ),
        (
            vec!["set", N1, "--weight", "2"],
            body!({ "set": { "id": N1, "weight": 2 } }),
            format!("{N1} gets weight 2"),
        ),
        (
            vec!["set", N1, "--weight", "3", "--zone", "b"],
            body!({ "set": { "id": N1, "weight": 3, "zone": "b" } }),
            format!("{N1} gets weight 3 zone \"b\""),
        ),
    ] {
        let line = [vec!["cluster"], line].concat();
        let (done, stage) = ran(vec![json(200, plan(&change))], &line).await;
        assert_eq!(done.code, 0, "{}", done.messages);
        expect_words(&done, &[&format!("staged: {words}"), "85 partitions to move, 85.00 KiB", "hash abcd"]);
        expect_words(&done, &["1.00 before, 1.12 after", "170"]);
        assert!(done.messages.contains("cartwheel cluster commit abcd"), "{}", done.messages);
        assert_eq!(stage.lines(), ["POST /v1/cluster/plan"]);
        let sent: Value = serde_json::from_slice(&stage.seen()[0].body).unwrap();
        assert_eq!(sent, body!({ "changes": [change] }));
        let (printed, _stage) = ran(vec![json(200, plan(&change))], &[&line[..], &["--json"]].concat()).await;
        assert_eq!(serde_json::from_str::<Value>(&printed.out).unwrap(), plan(&change));
    }
}

#[tokio::test]
async fn a_change_that_somebody_elses_has_displaced_is_a_conflict() {
    let theirs = json(200, plan(&body!({ "leave": N2 })));
    let (displaced, _stage) = ran(vec![theirs], &["cluster", "join", N1]).await;
    assert_eq!((displaced.code, displaced.out.as_str()), (4, ""), "{}", displaced.messages);
    assert!(displaced.messages.contains("stage this again"), "{}", displaced.messages);
}

#[tokio::test]
async fn a_node_may_be_named_by_address_or_by_the_beginning_of_its_id() {
    for name in ["127.0.0.1:8108", "127.0.0.1:8109", "2222A", "2222aaaa"] {
        let script = vec![json(200, cluster(true, 0)), json(200, plan(&body!({ "leave": N2 })))];
        let (done, stage) = ran(script, &["cluster", "leave", name]).await;
        assert_eq!(done.code, 0, "{}", done.messages);
        let sent: Value = serde_json::from_slice(&stage.seen()[1].body).unwrap();
        assert_eq!(sent, body!({ "changes": [{ "leave": N2 }] }), "{name}");
    }
    for nobody in ["127.0.0.1:1", "3", "2222bbbb", ""] {
        let (none, stage) = ran(vec![json(200, cluster(true, 0))], &["cluster", "leave", nobody]).await;
        assert_eq!((none.code, stage.seen().len()), (3, 1), "{nobody}: {}", none.messages);
    }
    let mut two = cluster(true, 0);
    two["members"][2]["status"] = body!("down");
    for either in ["2222", "127.0.0.1:8108"] {
        let (none, stage) = ran(vec![json(200, two.clone())], &["cluster", "replace", either, N1]).await;
        assert_eq!((none.code, stage.seen().len()), (2, 1), "{}", none.messages);
        assert!(none.messages.contains(N2) && none.messages.contains(N3), "{}", none.messages);
    }
}

#[tokio::test]
async fn commit_takes_the_hash_that_was_looked_at_or_shows_what_it_takes() {
    let done = body!({ "committed": true, "hash": "abcd", "ring": { "version": 5, "settled": false } });
    let (given, stage) = ran(vec![json(200, done.clone())], &["cluster", "commit", "abcd"]).await;
    assert_eq!((given.code, given.out.as_str()), (0, "committed abcd\n"), "{}", given.messages);
    assert_eq!(stage.lines(), ["POST /v1/cluster/commit"]);
    assert_eq!(stage.seen()[0].body, br#"{"hash":"abcd"}"#);

    let script = || vec![json(200, plan(&body!({ "join": N1 }))), json(200, done.clone())];
    let (shown, stage) = ran(script(), &["cluster", "commit"]).await;
    expect_words(&shown, &["joins", "hash abcd", "committed abcd"]);
    assert_eq!(stage.seen()[1].body, br#"{"hash":"abcd"}"#);
    let (printed, _stage) = ran(script(), &["cluster", "commit", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&printed.out).unwrap()["committed"], true);

    let (empty, stage) = ran(vec![nothing_staged()], &["cluster", "commit"]).await;
    assert_eq!((empty.code, stage.seen().len()), (4, 1), "{}", empty.messages);
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_not_sent_twice() {
    let (lost, stage) = ran(vec![Answer::HangUp, json(200, body!({}))], &["cluster", "commit", "abcd"]).await;
    assert_eq!((lost.code, stage.seen().len()), (1, 1), "{}", lost.messages);
}

#[tokio::test]
async fn what_the_server_refuses_has_an_exit_code_of_its_own() {
    for (status, code, exit) in [
        (409, "plan_changed", 4),
        (409, "conflict", 4),
        (404, "not_found", 3),
        (422, "invalid_config", 1),
        (400, "invalid_body", 1),
        (503, "draining", 1),
    ] {
        let refusal = problem(status, code, body!({ "retry": "no" }));
        let (refused, _stage) = ran(vec![refusal], &["cluster", "commit", "abcd"]).await;
        assert_eq!(refused.code, exit, "{code}");
        assert!(refused.messages.contains(code), "{}", refused.messages);
    }
    let (changed, _stage) =
        ran(vec![problem(409, "plan_changed", body!({}))], &["cluster", "commit", "abcd"]).await;
    assert!(changed.messages.contains("cartwheel cluster plan"), "{}", changed.messages);
}

#[tokio::test]
async fn plan_and_clear_say_when_there_is_nothing() {
    let (shown, _stage) = ran(vec![nothing_staged()], &["cluster", "plan"]).await;
    assert_eq!((shown.code, shown.out.as_str()), (0, "nothing is staged\n"));
    let (cleared, stage) = ran(vec![answer(204, &[], "")], &["cluster", "clear"]).await;
    assert_eq!((cleared.code, cleared.out.as_str()), (0, ""));
    assert_eq!(stage.lines(), ["DELETE /v1/cluster/plan"]);
}

#[tokio::test]
async fn transfers_are_a_table_with_what_holds_them_up() {
    let moving = body!({ "node": N2, "state": "moving", "partitions": 40, "done": 12, "bytes_moved": 2048,
        "bytes_to_move": 3 << 20, "bytes_per_second": 1 << 20, "estimate_ms": 3000, "reason": null });
    let stuck = body!({ "node": N3, "state": "waiting", "partitions": 1, "done": 0, "bytes_moved": 0,
        "bytes_to_move": 0, "bytes_per_second": 0, "estimate_ms": null, "reason": "does not answer" });
    let all = body!({ "node": N1, "settled": false, "items": [moving, stuck],
        "surplus": [{ "node": N1, "partitions": 7 }, { "node": N2, "partitions": 0 }],
        "waiting_for": [{ "node": N3, "reason": "does not answer" }] });
    let (shown, stage) = ran(vec![json(200, all.clone())], &["cluster", "transfers"]).await;
    assert_eq!(shown.code, 0, "{}", shown.messages);
    expect_words(&shown, &["12/40", "2.00 KiB", "3.00 MiB", "1.00 MiB/s", "3 seconds", "does not answer"]);
    expect_words(&shown, &[&format!("{N1} still keeps 7 partitions"), &format!("waits for {N3}")]);
    assert!(!shown.out.contains("keeps 0"), "{}", shown.out);
    assert_eq!(stage.lines(), ["GET /v1/transfers"]);
    let (printed, _stage) = ran(vec![json(200, all.clone())], &["cluster", "transfers", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&printed.out).unwrap(), all);
    let (old, _stage) = ran(vec![json(200, body!({}))], &["cluster", "transfers"]).await;
    assert_eq!(old.out, "nothing moves\n");
}

#[tokio::test]
async fn wrong_lines_are_usage() {
    let stage = Stage::with(vec![]).await;
    for line in [&["set", N1][..], &["set", N1, "--weight", "0"], &["set", N1, "--weight", "65"], &["join"]] {
        let line = [&["cartwheel", "cluster"], line].concat();
        let error = <super::Binary as clap::Parser>::try_parse_from(line).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
    }
    assert_eq!(run(&stage.url, &["cluster", "leave", N1], "").await.code, 1, "a server that says no");
    assert_eq!(stage.seen().len(), 1);
}
