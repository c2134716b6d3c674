//! A stage for the tests of this crate: a real HTTP server on loopback that answers from a script and keeps what it
//! was asked. It knows nothing of Cartwheel; the words of the contract stand in each test.

use axum::body::Body;
use axum::http::{Request, Response};
use axum::{Router, body};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// What a client has sent.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Such as `GET /v1/buckets/b/keys/k?r=1`, as it came over the wire.
    pub(crate) line: String,
    headers: axum::http::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// One answer of the script.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Http {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: Vec<u8>,
    },
    /// Takes the request and breaks the connection.
    HangUp,
    /// Takes the request and says nothing.
    Silence,
}

pub(crate) fn answer(status: u16, headers: &[(&'static str, &str)], body: impl AsRef<[u8]>) -> Answer {
    let headers = headers.iter().map(|(name, value)| (*name, value.to_string())).collect();
    Answer::Http { status, headers, body: body.as_ref().to_vec() }
}

pub(crate) fn json(status: u16, body: serde_json::Value) -> Answer {
    answer(status, &[("content-type", "application/json")], body.to_string())
}

/// A problem document as the contract has it.
pub(crate) fn problem(status: u16, code: &str, more: serde_json::Value) -> Answer {
    let mut body = serde_json::json!({ "type": "about:blank", "title": code, "status": status, "code": code,
        "detail": format!("about {code}"), "message": format!("about {code}") });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    answer(status, &[("content-type", "application/problem+json")], body.to_string())
}

pub(crate) struct Stage {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Stage {
    /// Answers in this order; a request beyond the script gets a 599.
    pub(crate) async fn with(script: Vec<Answer>) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let script = Arc::new(Mutex::new(VecDeque::from(script)));
        let kept = seen.clone();
        let router =
            Router::new().fallback(move |request: Request<Body>| play(request, script.clone(), kept.clone()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, seen }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.line).collect()
    }
}

/// A URL that nobody listens on: the port was ours a moment ago.
pub(crate) async fn dead_url() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

async fn play(
    request: Request<Body>,
    script: Arc<Mutex<VecDeque<Answer>>>,
    kept: Arc<Mutex<Vec<Seen>>>,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = body::to_bytes(body, 1 << 20).await.unwrap().to_vec();
    kept.lock().unwrap().push(Seen {
        line: format!("{} {}", head.method, head.uri),
        headers: head.headers,
        body,
    });
    let next = script.lock().unwrap().pop_front();
    let (status, headers, body) = match next {
        Some(Answer::Http { status, headers, body }) => (status, headers, body),
        Some(Answer::HangUp) => panic!("the script says to hang up"),
        Some(Answer::Silence) => std::future::pending().await,
        None => (599, Vec::new(), b"the script is at its end".to_vec()),
    };
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    response.body(body.into()).unwrap()
}
