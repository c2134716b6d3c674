//! Every problem says what the contract asks of it.

use super::*;
use http_body_util::BodyExt;

async fn json(response: Response<ReplyBody>) -> serde_json::Value {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&bytes).unwrap()
}

fn ctx(headers: &[(&'static str, &'static str)]) -> Ctx {
    let map =
        headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    Scope::new("n1", 0xabc).ctx(&map.collect())
}

#[tokio::test]
async fn what_does_not_apply_is_left_out() {
    let response = Problem::new(Code::NotFound, "no such key").respond(&ctx(&[("x-request-id", "mine-7")]));
    assert_eq!(response.status(), 404);
    assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
    assert_eq!(response.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff");
    assert_eq!(response.headers()[X_REQUEST_ID], "mine-7");
    assert_eq!(
        json(response).await,
        serde_json::json!({
            "type": "/problems/not_found", "title": "Not found", "status": 404, "code": "not_found",
            "detail": "no such key", "message": "no such key", "request_id": "mine-7", "node": "n1",
        })
    );
}

#[tokio::test]
async fn a_failed_write_says_what_it_left_and_when_to_come_back() {
    let problem = Problem::new(Code::WriteQuorumNotMet, "1 of 2")
        .counts(2, 1)
        .outcome(Outcome::Indeterminate)
        .retry(Retry::AfterRead)
        .retry_after_ms(1200)
        .field("versions", serde_json::json!([]));
    let response = problem.respond(&ctx(&[]));
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()[RETRY_AFTER], "2");
    let body = json(response).await;
    for (field, value) in [
        ("required", serde_json::json!(2)),
        ("acked", 1.into()),
        ("outcome", "indeterminate".into()),
        ("retry", "after_read".into()),
        ("retry_after_ms", 1200.into()),
        ("versions", serde_json::json!([])),
    ] {
        assert_eq!(body[field], value, "{field}");
    }
}

#[test]
fn retry_after_goes_only_with_429_and_503() {
    for code in Code::ALL {
        let response = Problem::new(*code, "x").retry_after_ms(1).respond(&ctx(&[]));
        assert_eq!(response.status(), code.status());
        let allowed = matches!(code.status().as_u16(), 429 | 503);
        assert_eq!(response.headers().contains_key(RETRY_AFTER), allowed, "{code:?}");
    }
}

#[test]
fn the_codes_of_the_contract_have_their_statuses() {
    for (status, names) in [
        (400, "invalid_parameter invalid_context invalid_body"),
        (401, "unauthenticated"),
        (403, "forbidden"),
        (404, "not_found"),
        (409, "wrong_type plan_changed conflict"),
        (412, "precondition_failed"),
        (413, "value_too_large key_too_large"),
        (422, "invalid_config sibling_limit"),
        (428, "context_required"),
        (429, "overloaded"),
        (503, "read_quorum_not_met write_quorum_not_met coverage_incomplete draining"),
        (504, "timeout context_not_reached"),
        (507, "disk_full"),
    ] {
        for name in names.split(' ') {
            let code = Code::ALL.iter().find(|code| code.name() == name).expect(name);
            assert_eq!(code.status().as_u16(), status, "{name}");
            assert_eq!(code.type_uri(), format!("/problems/{name}"));
        }
    }
    for status in [405, 406, 415, 431] {
        assert_eq!(Code::ALL.iter().filter(|code| code.status().as_u16() == status).count(), 1, "{status}");
    }
}

#[test]
fn a_request_id_is_taken_when_it_is_harmless_and_made_up_otherwise() {
    let scope = Scope::new("n1", 7);
    let made = [scope.ctx(&HeaderMap::new()).request_id(), scope.ctx(&HeaderMap::new()).request_id()];
    assert_ne!(made[0], made[1]);
    assert_ne!(made[0], Scope::new("n1", 8).ctx(&HeaderMap::new()).request_id());
    for (id, taken) in [("a-1", true), ("", false), ("a b", false), ("é", false), (&"x".repeat(65), false)] {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, HeaderValue::from_bytes(id.as_bytes()).unwrap());
        let ctx = scope.ctx(&headers);
        assert_eq!(ctx.given_id().is_some(), taken, "{id}");
        assert_eq!(ctx.request_id().as_bytes() == id.as_bytes(), taken, "{id}");
    }
}

#[test]
fn a_wrong_method_carries_allow() {
    let response = Problem::method_not_allowed("GET, HEAD").respond(&ctx(&[]));
    assert_eq!(response.status(), 405);
    assert_eq!(response.headers()[ALLOW], "GET, HEAD");
}

#[tokio::test]
async fn a_panic_is_a_500_for_that_request_alone() {
    let ctx = ctx(&[]);
    let response = catch_panic(&ctx, async { panic!("a secret of the inside") }).await;
    assert_eq!(response.status(), 500);
    let body = json(response).await;
    assert_eq!(body["code"], "internal");
    assert!(!body.to_string().contains("secret"), "{body}");
}
