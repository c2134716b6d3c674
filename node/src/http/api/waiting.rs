//! What a process answers that is no node yet, because it has just started or nobody has let it into a cluster.
//!
//! It is alive and not ready, and says what it waits for; everything else may be asked of another node.

use super::{draining, health, reply};
use crate::http::body::ReplyBody;
use crate::http::path::{Route, route};
use crate::http::problem::{Scope, X_REQUEST_ID};
use http::{Request, Response};
use serde_json::json;
use std::sync::Arc;

/// Answers a request; `why` is what is waited for.
pub fn answer<B>(scope: &Arc<Scope>, req: &Request<B>, why: &str) -> Response<ReplyBody> {
    let ctx = scope.ctx(req.headers());
    let answer = route(req.uri().path()).and_then(|route| {
        route.check_method(req.method())?;
        match route {
            Route::Live => Ok(reply::value(&json!({ "live": true }))),
            Route::Ping => Ok(reply::typed("OK", "text/plain")),
            Route::Ready => Ok(health::not_ready(why)),
            _ => Err(draining(why)),
        }
    });
    let mut response = answer.unwrap_or_else(|problem| problem.respond(&ctx));
    if let Some(id) = ctx.given_id() {
        response.headers_mut().insert(X_REQUEST_ID, id.clone());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    fn ask(method: Method, path: &str) -> Response<ReplyBody> {
        let request = Request::builder().method(method).uri(path).body(()).unwrap();
        answer(&Scope::new("n1", 1), &request, "its seed is not there")
    }

    fn text(response: Response<ReplyBody>) -> String {
        let ReplyBody::Full(bytes) = response.into_body() else { panic!("it is not whole") };
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn it_is_alive_and_not_ready_and_says_why() {
        assert_eq!(ask(Method::GET, "/health/live").status(), 200);
        assert_eq!(ask(Method::GET, "/ping").status(), 200);
        let ready = ask(Method::GET, "/health/ready");
        assert_eq!(ready.status(), 503);
        assert!(text(ready).contains("its seed is not there"));
    }

    #[test]
    fn what_it_can_not_do_may_be_asked_of_another() {
        let refused = ask(Method::PUT, "/v1/buckets/b/keys/k");
        assert_eq!(refused.status(), 503);
        let text = text(refused);
        assert!(text.contains("not_applied") && text.contains("its seed is not there"), "{text}");
        assert_eq!(ask(Method::GET, "/nowhere").status(), 404);
        assert_eq!(ask(Method::DELETE, "/health/live").status(), 405);
    }
}
