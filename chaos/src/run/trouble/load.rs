//! More than the usual load: everybody at one key, large values, many more clients than can be served, and clients that keep a
//! connection and say next to nothing.

use super::Stage;
use super::effects::{CROWD, HUNG_UP, TURNED_AWAY};
use crate::history::{Entry, What};
use crate::http::{Http, Reply};
use crate::run::live::Live;
use crate::workload::{self, Ground, Kind, Plan};
use anyhow::Result;
use client::Settings;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// As many at one key.
const AT_ONE_KEY: u32 = 40;
const LARGE: usize = 1 << 20;
const WRITERS_OF_LARGE: u32 = 6;
/// Five nodes take 24 requests at once each (`site/`), 120 in all, and these are five times as many. They don't rest.
const FLOOD: usize = 600;
/// And so many are half of what they take at once, beside the usual clients: nobody is turned away.
const FEW: usize = 60;
const FEW_FOR: Duration = Duration::from_secs(2);
/// A shorter one says nothing of who is turned away, and of how many are served.
const FLOOD_MIN: Duration = Duration::from_secs(5);
/// Their bucket. Nobody reads before he writes, so what is there is replaced.
const FLOODED: &str = "overload";
/// Longer than a node takes to give up.
const FLOOD_DEADLINE: Duration = Duration::from_secs(10);
/// How soon afterwards what they were told is written must be found.
const FOUND_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// One of so many of their requests writes.
const WRITE_OF: usize = 3;
const FLOOD_VALUE: &str = "some bytes that somebody wants to keep for a while, or not";
/// Of what they carry when nobody is turned away, at least one in so many is done under overload: who turns most of them away must still
/// serve the others.
const GOODPUT_OF: u32 = 2;
const SLOW_CLIENTS: usize = 400;
/// After so long no connection may be left that dribbles.
const HUNG_UP_AFTER_MS: u64 = 13_000;
/// A byte each so often.
const DRIBBLE_EVERY: Duration = Duration::from_millis(500);

/// Everybody reads, writes and deletes one key.
pub(super) async fn hot_key(stage: &mut Stage<'_>) -> Result<()> {
    let think = Duration::from_millis(1)..Duration::from_millis(10);
    let plan = Plan { clients: AT_ONE_KEY, keys: 1, think, ..Plan::new(Kind::Recreate) };
    burst(stage, format!("{AT_ONE_KEY} clients at one key"), plan, 3_000..8_000, &[]).await
}

pub(super) async fn large_values(stage: &mut Stage<'_>) -> Result<()> {
    let think = Duration::from_millis(50)..Duration::from_millis(150);
    let plan =
        Plan { clients: WRITERS_OF_LARGE, value_bytes: LARGE, keys: 2, think, ..Plan::new(Kind::Register) };
    burst(stage, "values of 1 MiB".to_owned(), plan, 3_000..8_000, &[]).await
}

/// Five times what all nodes take at once. Who is turned away is told so at once, nobody's memory grows without end, and afterwards all is as
/// before.
pub(super) async fn overload(stage: &mut Stage<'_>) -> Result<()> {
    if stage.left() < FLOOD_MIN {
        stage.hold(stage.left()).await;
        return Ok(());
    }
    // Nobody has to be served as usual meanwhile.
    let all = stage.nodes();
    let comes = |node: &&usize| stage.change.as_ref().is_some_and(|change| change.new.contains(node));
    let urls: Vec<String> = all.iter().filter(|node| !comes(node)).map(|i| stage.site.url(*i)).collect();
    let asks = Http::new(FLOOD)?;
    let ground = Ground { urls: urls.clone(), ..stage.ground.clone() };
    let supersede = Settings { blind_writes: Some("supersede".to_owned()), ..Settings::default() };
    workload::establish(FLOODED, &supersede, &ground).await?;
    let open = stage.begin(format!("{FLOOD} clients without rest"), &all);
    // What they carry when they have as much to do as they take at once, with the usual clients.
    let (few, began) = (Answers::of(stage), stage.timeline.now());
    tokio::select! {
        biased;
        () = stage.hold(FEW_FOR) => {}
        () = ask_without_rest(FEW, &asks, &urls, &few) => unreachable!("it asks until it is no longer polled"),
    }
    let carried = stage.rate_with(began, few.served.into_inner());
    let (few_refused, few_others, few_written) = (few.refused.into_inner(), few.others, few.written);
    let (answers, began) = (Answers::of(stage), stage.timeline.now());
    tokio::select! {
        biased;
        done = stage.last(4_000..8_000) => done?,
        () = ask_without_rest(FLOOD, &asks, &urls, &answers) => unreachable!("it asks until it is no longer polled"),
    }
    let seconds = stage.timeline.now().saturating_sub(began).as_secs_f64().max(0.001);
    let Answers { served, refused, unable, others, written, .. } = answers;
    let others = [few_others, others]
        .into_iter()
        .filter_map(|others| others.into_inner().unwrap_or_else(PoisonError::into_inner));
    let (served, refused, unable) = (served.into_inner(), refused.into_inner(), unable.into_inner());
    stage.owes("overload", carried, began, served, GOODPUT_OF);
    stage.end(open);
    let each = |count: u64| count as f64 / seconds;
    Live::say(&format!(
        "of {FEW} who asked without rest {few_refused} requests were turned away, and {carried:.0} operations a second were done; of {FLOOD} {:.0} a second were served, {:.0} turned away by 429, {:.0} told 503 or 504",
        each(served),
        each(refused),
        each(unable)
    ));
    stage.did(CROWD, served);
    stage.did(TURNED_AWAY, refused);
    for written in [few_written, written] {
        let written = written.into_inner().unwrap_or_else(PoisonError::into_inner);
        stage.accidents.extend(missing(written, &asks, &urls).await);
    }
    stage.accidents.extend(others.map(|what| format!("under overload somebody was told {what}")));
    Ok(())
}

/// What they were told who asked while there was too much to do.
#[derive(Default)]
struct Answers {
    served: AtomicU64,
    refused: AtomicU64,
    /// Those that were told 503 or 504.
    unable: AtomicU64,
    /// The first answer that is neither, nor honest about what could not be done.
    others: Mutex<Option<String>>,
    /// What each of them was last told is written.
    written: Mutex<BTreeMap<usize, Vec<u8>>>,
    /// Of several times one after the other, this one: values grow with it, and within it with each turn.
    time: u32,
}

impl Answers {
    fn of(stage: &mut Stage<'_>) -> Self {
        stage.bursts += 1;
        Self { time: stage.bursts, ..Self::default() }
    }
}

/// What was acknowledged in all that turmoil is there after it, or what its client wrote later, as soon as stand-ins have handed it on. It is
/// in no history that anybody judges. (Several values side by side come in an envelope, and are only there.)
async fn missing(written: BTreeMap<usize, Vec<u8>>, http: &Http, urls: &[String]) -> Option<String> {
    for (number, value) in written {
        let deadline = Instant::now() + FOUND_WITHIN;
        loop {
            let told = match http.get(&flooded(urls, number), FLOOD_DEADLINE).await {
                Ok(reply) if shows(&reply, &value) => break,
                Ok(reply) => reply.problem(),
                Err(no_answer) => no_answer.to_string(),
            };
            if Instant::now() > deadline {
                let value = String::from_utf8_lossy(&value);
                return Some(format!(
                    "{value:?}, acknowledged to client {number} under overload, is read as {told}"
                ));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    None
}

/// Whether that value is there, or a later one of the same client.
fn shows(reply: &Reply, value: &[u8]) -> bool {
    reply.status == 300 || reply.status == 200 && *reply.body >= *value
}

fn flooded(urls: &[String], number: usize) -> String {
    format!("{}/v1/buckets/{FLOODED}/keys/{number}", urls[number % urls.len()])
}

/// Writes and reads, with no library that waits and tries again: what is refused, and how, is to be seen as it is. Each client has a key
/// of its own, which it replaces.
async fn ask_without_rest(clients: usize, http: &Http, urls: &[String], answers: &Answers) {
    let ask = async |number: usize| {
        let url = flooded(urls, number);
        for turn in 0_usize.. {
            let value = (number + turn)
                .is_multiple_of(WRITE_OF)
                .then(|| format!("{:06}-{turn:010} {FLOOD_VALUE}", answers.time).into_bytes());
            let reply = match &value {
                Some(value) => http.put(&url, value.clone(), FLOOD_DEADLINE).await,
                None => http.get(&url, FLOOD_DEADLINE).await,
            };
            let told = match reply {
                Ok(reply) if matches!(reply.status, 200 | 204 | 300 | 404) => {
                    let mut written = answers.written.lock().unwrap_or_else(PoisonError::into_inner);
                    written.extend(value.map(|value| (number, value)));
                    answers.served.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                Ok(reply) if reply.status == 429 && reply.problem().contains("overloaded") => {
                    answers.refused.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                Ok(reply) if matches!(reply.status, 503 | 504) => {
                    answers.unable.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                Ok(reply) => reply.problem(),
                Err(no_answer) => no_answer.to_string(),
            };
            answers.others.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(told);
        }
    };
    futures_util::future::join_all((0..clients).map(ask)).await;
}

/// Further clients for a while, in a bucket of their own.
async fn burst(
    stage: &mut Stage<'_>,
    what: String,
    plan: Plan,
    range: std::ops::Range<u64>,
    unable: &[usize],
) -> Result<()> {
    stage.bursts += 1;
    let plan = Plan { bucket: format!("{}-{}", plan.bucket, stage.bursts), ..plan };
    workload::prepare(&plan, &stage.ground).await?;
    let until = (stage.timeline.now() + stage.draw(range)).min(stage.until);
    let open = stage.begin(what, unable);
    let place = stage.ground.history.len();
    let mut chance = StdRng::seed_from_u64(stage.chance.random());
    let ran = workload::run(&plan, &stage.ground, &mut chance, until).await;
    stage.end(open);
    stage.did(CROWD, acknowledged(&stage.ground.history.since(place), &plan.bucket));
    Ok(ran?)
}

/// How many operations of that bucket these entries acknowledge.
fn acknowledged(entries: &[Entry], bucket: &str) -> u64 {
    let mut asked = BTreeSet::new();
    let mut done = 0;
    for entry in entries {
        match &entry.what {
            What::Invoke(invoke) if invoke.bucket == bucket => drop(asked.insert(invoke.op)),
            What::Ok { op, .. } if asked.contains(op) => done += 1,
            _ => {}
        }
    }
    done
}

/// Connections that begin a request and never end it, a byte at a time; at one node.
pub(super) async fn slow_clients(stage: &mut Stage<'_>) -> Result<()> {
    let node = stage.nodes()[0];
    let url = stage.site.url(node);
    let address = url.trim_start_matches("http://").to_owned();
    // It serves everybody else.
    let open = stage.begin(format!("{SLOW_CLIENTS} connections that dribble at {}", super::name(node)), &[]);
    let began = tokio::time::Instant::now();
    let until = began + stage.draw(HUNG_UP_AFTER_MS..HUNG_UP_AFTER_MS + 3_000).min(stage.left());
    let mut clients = Vec::new();
    for number in 0..SLOW_CLIENTS {
        let begin: &[u8] = match number % 3 {
            0 => b"GET /v1/buckets/slow/keys/k HTTP/1.1\r\nhost: ",
            1 => b"PUT /v1/buckets/slow/keys/k HTTP/1.1\r\nhost: slow\r\ncontent-length: 100000\r\n\r\n",
            _ => b"\x16\x03\x01",
        };
        // Who is not let in has lost nothing.
        let Ok(Ok(mut stream)) = tokio::time::timeout(DRIBBLE_EVERY, TcpStream::connect(&address)).await
        else {
            continue;
        };
        if stream.write_all(begin).await.is_ok() {
            clients.push(stream);
        }
    }
    super::members::begin(stage).await?;
    while tokio::time::Instant::now() < until {
        tokio::time::sleep(DRIBBLE_EVERY).await;
        for stream in &mut clients {
            // Those that the node has hung up on stay closed.
            let _ = stream.write_all(b"x").await;
        }
    }
    // A head has 10 s and a body 5 s for its first KiB: whoever still dribbles by then has been hung up on.
    if began.elapsed() >= Duration::from_millis(HUNG_UP_AFTER_MS) {
        let (count, open_still) = (clients.len(), clients.iter_mut().filter_map(is_open).count());
        stage.did(HUNG_UP, (count - open_still) as u64);
        if open_still > 0 {
            stage.accidents.push(format!("{open_still} of {count} slow connections were never hung up on"));
        }
    }
    drop(clients);
    stage.end(open);
    Ok(())
}

/// Whether the other side has not closed it, whatever it has said before.
fn is_open(stream: &mut TcpStream) -> Option<()> {
    let mut some = [0; 4096];
    loop {
        match stream.try_read(&mut some) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Some(()),
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_value_is_not_what_was_acknowledged() {
        let value = |time: u32, turn: u32| format!("{time:06}-{turn:010} {FLOOD_VALUE}").into_bytes();
        let shown = |status, body| shows(&Reply { status, body }, &value(2, 9));
        assert!(shown(200, value(2, 9)) && shown(200, value(2, 10)) && shown(200, value(3, 0)));
        assert!(!shown(200, value(2, 8)) && !shown(200, value(1, 90)), "what came before it");
        assert!(!shown(404, Vec::new()) && !shown(503, value(2, 9)), "no answer is no value");
        assert!(shown(300, Vec::new()), "several side by side");
    }
}
