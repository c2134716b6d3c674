//! The nodes' own log lines, in the trace of the run that they belong to.
//!
//! One subscriber serves the whole process; a run is a thread's, so the thread knows which trace is meant, and the
//! runtime knows which host. A line of the level ERROR is a violation, as it is for an operator, unless one of the troubles that
//! explain it has come upon this very run; and so is a panic, also one that the node has survived: a handler's becomes an answer.

use super::plagues::Plague;
use super::trace::Trace;
use super::wires::Host;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use tokio::runtime::{Handle, Id};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

thread_local! {
    static RUN: RefCell<Option<Run>> = const { RefCell::new(None) };
}

struct Run {
    trace: Trace,
    hosts: BTreeMap<String, Host>,
    /// Errors that no trouble explains.
    unexpected: Vec<String>,
    /// The first line of each of [`EXPECTED`].
    excused: BTreeMap<usize, String>,
}

/// Errors that troubles bring about, and the troubles of which one must have come: an old disk, a removed member that is started
/// again, a directory that was emptied under its name, a record that nobody has any more, a full disk.
const EXPECTED: [(&str, &[Plague]); 7] = [
    ("the data directory has gone back in time", &[Plague::Restore]),
    ("this disk may be behind what the others know", &[Plague::Restore]),
    ("this node was removed from the cluster", &[Plague::Members, Plague::Wipe]),
    ("somebody asks to be let in under the identity of a member", &[Plague::Members, Plague::Wipe]),
    ("a record on this disk was damaged, no other owner has it", &[Plague::Rot]),
    ("a new lease could not be taken", &[Plague::Wear]),
    ("the disk is nearly full: writes are refused", &[Plague::Wear]),
];
/// Unexpected lines of one run that are kept.
const UNEXPECTED_MAX: usize = 5;

/// Whatever is logged on this thread belongs to that trace.
pub fn belongs_to(trace: &Trace) {
    RUN.set(Some(Run {
        trace: trace.clone(),
        hosts: BTreeMap::new(),
        unexpected: Vec::new(),
        excused: BTreeMap::new(),
    }));
    PANIC.take();
}

/// Errors of this run that none of these troubles explains.
pub fn unexpected(came: &BTreeSet<Plague>) -> Vec<String> {
    RUN.with_borrow_mut(|run| {
        let Some(run) = run else { return Vec::new() };
        let excused = std::mem::take(&mut run.excused).into_iter();
        let alone = excused.filter(|(at, _)| !EXPECTED[*at].1.iter().any(|plague| came.contains(plague)));
        std::mem::take(&mut run.unexpected).into_iter().chain(alone.map(|(_, line)| line)).collect()
    })
}

/// Whatever is logged in this runtime was said by that host.
pub fn here(host: Host) {
    let runtime = name(Handle::current().id());
    RUN.with_borrow_mut(|run| run.as_mut().map(|run| run.hosts.insert(runtime, host)));
}

fn name(id: Id) -> String {
    id.to_string()
}

/// Places in our own code that are told of a panic.
const PLACES_MAX: usize = 6;

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What the first panic of this thread said since the last question.
pub fn last_panic() -> String {
    PANIC.take()
}

/// Installs the subscriber, and keeps what panics say for the report, once in a process.
pub fn install() {
    std::panic::set_hook(Box::new(|info| {
        PANIC.with_borrow_mut(|kept| {
            if kept.is_empty() {
                // Of the way there only our own places: the runtime's are the same for all.
                let way = std::backtrace::Backtrace::force_capture().to_string();
                let ours = way.lines().map(str::trim).filter(|line| line.starts_with("at ./"));
                let ours: Vec<&str> = ours.take(PLACES_MAX).collect();
                *kept = format!("{info} {}", ours.join(" "));
            }
        });
    }));
    let subscriber = tracing_subscriber::registry().with(IntoTrace);
    let _ = tracing::subscriber::set_global_default(subscriber);
}

struct IntoTrace;

impl<S: Subscriber> Layer<S> for IntoTrace {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() <= Level::INFO && !metadata.target().starts_with("turmoil")
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        RUN.with_borrow_mut(|run| {
            let Some(run) = run else { return };
            let runtime = Handle::try_current().map(|handle| name(handle.id())).unwrap_or_default();
            let mut line = match run.hosts.get(&runtime) {
                Some(host) => format!("{host}  {}", event.metadata().level()),
                None => event.metadata().level().to_string(),
            };
            event.record(&mut Words(&mut line));
            run.trace.event(&line);
            if *event.metadata().level() != Level::ERROR {
                return;
            }
            match EXPECTED.iter().position(|(expected, _)| line.contains(expected)) {
                Some(at) => drop(run.excused.entry(at).or_insert(line)),
                None if run.unexpected.len() < UNEXPECTED_MAX => run.unexpected.push(line),
                None => {}
            }
        });
    }
}

struct Words<'a>(&'a mut String);

impl Visit for Words<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = if field.name() == "message" {
            write!(self.0, " {value:?}")
        } else {
            write!(self.0, " {}={value:?}", field.name())
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a run says that goes through an error, in words, after such troubles.
    fn after(came: &[Plague], said: &str) -> Vec<String> {
        belongs_to(&Trace::new(false));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(IntoTrace), || {
            tracing::error!("{said}");
        });
        unexpected(&came.iter().copied().collect())
    }

    #[test]
    fn a_trouble_excuses_its_own_errors_and_no_others() {
        for (line, plagues) in EXPECTED {
            for plague in super::super::plagues::ALL {
                let is_excused = after(&[plague], line).is_empty();
                assert_eq!(is_excused, plagues.contains(&plague), "{line} after {plague:?}");
            }
            assert_eq!(after(&[], line).len(), 1, "{line} without any trouble");
        }
        assert_eq!(after(&super::super::plagues::ALL, "anything else").len(), 1);
    }
}
