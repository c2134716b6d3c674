//! Bytes on a socket, for requests that no client library would send.
//!
//! ```text
//! let end = raw::exchange(&cluster.http(0), b"GET / HT", Duration::from_secs(15)).await?;
//! end.closed && end.text().is_empty()
//! ```
//!
//! Sending and receiving go on at once: a server may answer and close before it has read everything, and the
//! answer counts then, not the failed write.

use crate::http;
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// More than any answer to a malformed request; a server that sends more than that has gone wrong.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// What came back, and how it ended.
#[derive(Debug)]
pub struct End {
    /// All bytes that the server sent.
    pub bytes: Vec<u8>,
    /// Whether the server closed the connection (or reset it) before the deadline.
    pub closed: bool,
    /// How long that took.
    pub elapsed: Duration,
}

impl End {
    /// What came back, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The status code, if this is the beginning of an HTTP/1 answer.
    pub fn status(&self) -> Option<u16> {
        let text = self.text();
        let line = text.strip_prefix("HTTP/1.1 ").or(text.strip_prefix("HTTP/1.0 "))?;
        line.get(..3)?.parse().ok()
    }

    /// The answer has this status; a body that it brings is a problem document.
    pub fn expect_error(&self, statuses: &[u16]) -> Result<()> {
        let status = self.status().with_context(|| format!("no HTTP answer in {self:?}"))?;
        let text = self.text();
        ensure!(statuses.contains(&status), "expected {statuses:?}, got {text:?}");
        let (head, body) =
            text.split_once("\r\n\r\n").with_context(|| format!("no end of the head in {text:?}"))?;
        if body.is_empty() {
            // What is not even HTTP is answered by the HTTP library, which knows no problem documents.
            return Ok(());
        }
        ensure!(head.to_ascii_lowercase().contains("application/problem+json"), "no problem+json: {text:?}");
        http::check_problem(&serde_json::from_str(body)?, status)?;
        Ok(())
    }

    /// The server closed the connection, and what it said before, if anything, was an error in HTTP.
    pub fn expect_refused(&self) -> Result<()> {
        ensure!(
            self.closed,
            "the connection was still open after {:?}; so far: {:?}",
            self.elapsed,
            self.text()
        );
        match self.status() {
            Some(status) => ensure!((400..600).contains(&status), "this was answered with {:?}", self.text()),
            None => ensure!(self.bytes.is_empty(), "neither silence nor HTTP: {:?}", self.text()),
        }
        Ok(())
    }
}

/// Sends bytes, keeps the connection open, and reads until the server closes it or the time is over.
pub async fn exchange(address: &str, bytes: &[u8], time: Duration) -> Result<End> {
    exchange_slowly(address, &[bytes], Duration::ZERO, time).await
}

/// The same, in pieces with a pause after each.
pub async fn exchange_slowly(
    address: &str,
    pieces: &[&[u8]],
    pause: Duration,
    time: Duration,
) -> Result<End> {
    let started = Instant::now();
    let stream = tokio::time::timeout(time, TcpStream::connect(address)).await??;
    let (mut reader, mut writer) = stream.into_split();
    let send = async {
        for piece in pieces {
            // A refused write is no failure: what counts is what the server answered.
            if writer.write_all(piece).await.is_err() {
                break;
            }
            tokio::time::sleep(pause).await;
        }
        std::future::pending::<()>().await;
    };
    let mut received = Vec::new();
    let receive = async {
        let mut buffer = vec![0; 16 << 10];
        while received.len() < ANSWER_BYTES_MAX {
            match reader.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(count) => received.extend_from_slice(&buffer[..count]),
            }
        }
    };
    let closed = tokio::select! {
        biased;
        () = receive => true,
        () = send => unreachable!("sending never ends by itself"),
        () = tokio::time::sleep(time) => false,
    };
    ensure!(received.len() < ANSWER_BYTES_MAX, "the server sent more than {ANSWER_BYTES_MAX} bytes");
    Ok(End { bytes: received, closed, elapsed: started.elapsed() })
}

/// A whole request whose answer is followed by the end of the connection.
pub async fn request(address: &str, head: &str, body: &[u8]) -> Result<End> {
    let mut bytes = format!("{head}\r\nhost: {address}\r\nconnection: close\r\n\r\n").into_bytes();
    bytes.extend_from_slice(body);
    exchange(address, &bytes, Duration::from_secs(20)).await
}
