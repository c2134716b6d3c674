//! How the real client library speaks over the simulated network: HTTP/1.1 by hyper, its connections kept.

use super::wires::{Host, Wires};
use super::world::dial;
use bytes::Bytes;
use client::{FailureKind, HttpTransport, Request, Response, TransportError};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Idle connections kept to one node.
const IDLE_MAX: usize = 16;

type Connection = SendRequest<Full<Bytes>>;

/// The network as a client has it. Clones share their connections.
#[derive(Clone)]
pub struct SimTransport {
    wires: Wires,
    from: Host,
    idle: Arc<Mutex<BTreeMap<String, Vec<Connection>>>>,
}

impl SimTransport {
    /// Without any connection yet.
    pub fn new(wires: Wires, from: Host) -> SimTransport {
        SimTransport { wires, from, idle: Arc::default() }
    }

    fn kept(&self, node: &str) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = idle.get_mut(node)?;
        connections.retain(|connection| !connection.is_closed());
        connections.pop()
    }

    fn keep(&self, node: &str, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = idle.entry(node.to_owned()).or_default();
        if connections.len() < IDLE_MAX && !connection.is_closed() {
            connections.push(connection);
        }
    }

    async fn connect(&self, node: &str) -> Result<Connection, TransportError> {
        let failed = |why: String| TransportError::new(FailureKind::Connect, why);
        let stream = dial(&self.wires, self.from, node).await.map_err(|e| failed(e.to_string()))?;
        let (connection, driver) =
            handshake(TokioIo::new(stream)).await.map_err(|e| failed(e.to_string()))?;
        tokio::spawn(driver);
        Ok(connection)
    }

    async fn exchange(&self, request: Request, seen: &mut bool) -> Result<Response, TransportError> {
        let node = request.base.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let mut connection = match self.kept(&node) {
            Some(connection) => connection,
            None => self.connect(&node).await?,
        };
        let broken = |e: hyper::Error| TransportError::new(FailureKind::Broken, e.to_string());
        connection.ready().await.map_err(broken)?;
        *seen = true;
        let answer = connection.send_request(self.build(&node, request)?).await.map_err(broken)?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map_err(broken)?.to_bytes();
        self.keep(&node, connection);
        let headers = head.headers.iter();
        let headers =
            headers.map(|(name, value)| (name.to_string(), Bytes::copy_from_slice(value.as_bytes())));
        Ok(Response { status: head.status.as_u16(), headers: headers.collect(), body })
    }

    fn build(&self, node: &str, request: Request) -> Result<http::Request<Full<Bytes>>, TransportError> {
        let mut built = http::Request::builder()
            .method(request.method.as_str())
            .uri(&request.target)
            .header(http::header::HOST, node);
        for (name, value) in &request.headers {
            built = built.header(name.as_str(), &value[..]);
        }
        built
            .body(Full::new(request.body))
            .map_err(|e| TransportError::new(FailureKind::Invalid, e.to_string()))
    }
}

impl HttpTransport for SimTransport {
    async fn send(&self, request: Request) -> Result<Response, TransportError> {
        let (timeout, mut seen) = (request.timeout, false);
        match tokio::time::timeout(timeout, self.exchange(request, &mut seen)).await {
            Ok(done) => done,
            Err(_) if seen => Err(TransportError::new(FailureKind::Timeout, "no answer in time")),
            Err(_) => Err(TransportError::new(FailureKind::Connect, "no connection in time")),
        }
    }
}
