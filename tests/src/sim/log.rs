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
    /// The first line of each of [`EXPECTED`] by each host.
    excused: BTreeMap<(usize, Option<Host>), String>,
}

/// An error that troubles bring about.
struct Expected {
    says: &'static str,
    /// One of these must have come.
    after: &'static [Plague],
    /// Upon the very host that says it, or upon any.
    at: At,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Itself,
    Any,
}

/// An old disk, a removed member that is started again, a directory that was emptied under its name, a record that nobody has any
/// more, a full disk.
const EXPECTED: [Expected; 7] = [
    expected("the data directory has gone back in time", &[Plague::Restore], At::Itself),
    expected("this disk may be behind what the others know", &[Plague::Restore], At::Itself),
    expected("this node was removed from the cluster", &[Plague::Members, Plague::Wipe], At::Any),
    expected(
        "somebody asks to be let in under the identity of a member",
        &[Plague::Members, Plague::Wipe],
        At::Any,
    ),
    expected("a record on this disk was damaged, no other owner has it", &[Plague::Rot], At::Itself),
    expected("a new lease could not be taken", &[Plague::Wear], At::Itself),
    expected("the disk is nearly full: writes are refused", &[Plague::Wear], At::Itself),
];

const fn expected(says: &'static str, after: &'static [Plague], at: At) -> Expected {
    Expected { says, after, at }
}

impl Expected {
    fn is_excused(&self, by: Option<Host>, came: &BTreeSet<(Plague, Host)>) -> bool {
        let hit = |upon: &Host| self.at == At::Any || by == Some(*upon);
        came.iter().any(|(plague, upon)| self.after.contains(plague) && hit(upon))
    }
}

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
pub fn unexpected(came: &BTreeSet<(Plague, Host)>) -> Vec<String> {
    RUN.with_borrow_mut(|run| {
        let Some(run) = run else { return Vec::new() };
        let excused = std::mem::take(&mut run.excused).into_iter();
        let alone = excused.filter(|((at, by), _)| !EXPECTED[*at].is_excused(*by, came));
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
            let by = run.hosts.get(&runtime).copied();
            let mut line = match by {
                Some(host) => format!("{host}  {}", event.metadata().level()),
                None => event.metadata().level().to_string(),
            };
            event.record(&mut Words(&mut line));
            run.trace.event(&line);
            if *event.metadata().level() != Level::ERROR {
                return;
            }
            match EXPECTED.iter().position(|expected| line.contains(expected.says)) {
                Some(at) => drop(run.excused.entry((at, by)).or_insert(line)),
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

    const HIT: Host = Host(1);

    /// What is told of a run in which a host has said so in an error, after such troubles had come upon the first one.
    fn after(came: &[Plague], by: Host, said: &str) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("there is room for one");
        belongs_to(&Trace::new(false));
        runtime.block_on(async {
            here(by);
            tracing::subscriber::with_default(tracing_subscriber::registry().with(IntoTrace), || {
                tracing::error!("{said}");
            });
        });
        unexpected(&came.iter().map(|plague| (*plague, HIT)).collect())
    }

    #[test]
    fn a_trouble_excuses_its_own_errors_and_no_others() {
        for Expected { says, after: plagues, at } in EXPECTED {
            for plague in super::super::plagues::ALL {
                let explains = plagues.contains(&plague);
                assert_eq!(after(&[plague], HIT, says).is_empty(), explains, "{says} after {plague:?}");
                let elsewhere = after(&[plague], Host(2), says).is_empty();
                assert_eq!(elsewhere, explains && at == At::Any, "{says} by another host after {plague:?}");
            }
            assert_eq!(after(&[], HIT, says).len(), 1, "{says} without any trouble");
        }
        assert_eq!(after(&super::super::plagues::ALL, HIT, "anything else").len(), 1);
    }
}
