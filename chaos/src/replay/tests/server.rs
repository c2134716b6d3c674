//! Carts in memory behind real sockets. HTTP is spoken by hand here, one request per read loop, because the faults are
//! those of connections: a server library would not let go of one after it has applied a change.

use std::sync::Arc;

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::*;

/// What the server does to one change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// 503, not applied.
    Busy,
    /// Applied, and the connection closed instead of an answer.
    CutAfterApplying,
    /// Acknowledged and not applied.
    Forget,
    /// Applied twice.
    Twice,
    /// 422, not applied.
    Refuse,
}

#[derive(Default)]
struct Memory {
    /// Quantities by cart and item.
    carts: BTreeMap<(String, String), BTreeMap<String, i64>>,
    op_ids: BTreeSet<String>,
    asked: usize,
    repeated: usize,
}

/// Some nodes with one memory.
pub(super) struct Server {
    urls: Vec<String>,
    memory: Arc<Mutex<Memory>>,
}

impl Server {
    /// Starts `nodes` listeners; `fault` chooses by the number of the change, from 1.
    pub(super) async fn start(nodes: usize, fault: fn(usize) -> Fault) -> Self {
        let memory = Arc::new(Mutex::new(Memory::default()));
        let mut urls = Vec::new();
        for _ in 0..nodes {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            urls.push(format!("http://{}", listener.local_addr().unwrap()));
            let memory = Arc::clone(&memory);
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, Arc::clone(&memory), fault));
                }
            });
        }
        Self { urls, memory }
    }

    pub(super) fn urls(&self) -> Vec<String> {
        self.urls.clone()
    }

    pub(super) fn carts(&self) -> usize {
        self.memory.lock().unwrap().carts.len()
    }

    pub(super) fn buckets(&self) -> BTreeSet<String> {
        self.memory.lock().unwrap().carts.keys().map(|(bucket, _)| bucket.clone()).collect()
    }

    /// Changes that arrived, again or not.
    pub(super) fn asked(&self) -> usize {
        self.memory.lock().unwrap().asked
    }

    /// Changes that had been applied before.
    pub(super) fn repeated(&self) -> usize {
        self.memory.lock().unwrap().repeated
    }
}

/// One connection, request after request. `None` ends it.
async fn serve(mut stream: TcpStream, memory: Arc<Mutex<Memory>>, fault: fn(usize) -> Fault) -> Option<()> {
    let mut bytes = Vec::new();
    loop {
        let (path, body) = request(&mut stream, &mut bytes).await?;
        let answer = answer(&memory, fault, &path, &body);
        let (status, body) = answer?;
        let body = body.to_string();
        let head = format!("HTTP/1.1 {status} -\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).await.ok()?;
    }
}

/// The path and the body of the next request.
async fn request(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |length| length.parse().unwrap());
            if bytes.len() >= end + 4 + length {
                let body = bytes[end + 4..end + 4 + length].to_vec();
                bytes.drain(..end + 4 + length);
                return Some((head.split(' ').nth(1).unwrap().to_owned(), body));
            }
        }
        if stream.read_buf(bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// The answer, or `None` where the connection is to be cut.
fn answer(
    memory: &Mutex<Memory>,
    fault: fn(usize) -> Fault,
    path: &str,
    body: &[u8],
) -> Option<(u16, Value)> {
    let mut memory = memory.lock().unwrap();
    let segments: Vec<String> = path
        .split('/')
        .skip(1)
        .map(|raw| percent_decode_str(raw).decode_utf8().unwrap().into_owned())
        .collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match segments[..] {
        ["v1", "carts", bucket, cart] => Some(memory.show(bucket, cart)),
        ["v1", "carts", bucket, cart, "items"] => {
            memory.asked += 1;
            let fault = fault(memory.asked);
            let change: Value = serde_json::from_slice(body).unwrap();
            memory.change(fault, bucket, cart, &change)
        }
        _ => Some((404, json!({ "code": "not_found", "detail": path }))),
    }
}

impl Memory {
    fn show(&self, bucket: &str, cart: &str) -> (u16, Value) {
        let Some(items) = self.carts.get(&(bucket.to_owned(), cart.to_owned())) else {
            return (404, json!({ "code": "not_found" }));
        };
        let shown = items.iter().filter(|(_, quantity)| **quantity > 0);
        let total: i64 = shown.clone().map(|(_, quantity)| *quantity).sum();
        let items: Vec<Value> = shown
            .map(|(sku, quantity)| json!({ "sku": sku, "quantity": quantity, "attributes": {} }))
            .collect();
        (200, json!({ "id": cart, "items": items, "total_quantity": total, "context": "c" }))
    }

    fn change(&mut self, fault: Fault, bucket: &str, cart: &str, change: &Value) -> Option<(u16, Value)> {
        match fault {
            Fault::Busy => return Some((503, json!({ "code": "write_quorum_not_met", "retry": "safe" }))),
            Fault::Refuse => {
                return Some((422, json!({ "code": "invalid_config", "detail": "no carts here" })));
            }
            _ => {}
        }
        let items = self.carts.entry((bucket.to_owned(), cart.to_owned())).or_default();
        let sum = items.entry(change["sku"].as_str().unwrap().to_owned()).or_default();
        if !self.op_ids.insert(change["op_id"].as_str().unwrap().to_owned()) {
            self.repeated += 1;
        } else {
            let times = match fault {
                Fault::Forget => 0,
                Fault::Twice => 2,
                _ => 1,
            };
            *sum += change["quantity"].as_i64().unwrap() * times;
        }
        (fault != Fault::CutAfterApplying).then(|| (200, json!({})))
    }
}
