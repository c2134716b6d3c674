//! The streams of a command: data, messages, and what the user types or pipes in.
//!
//! They are handed in, so that a test reads what a user would see. A closed pipe (`cartwheel ls | head -1`) is no
//! error: the first failed write is remembered and nothing more is written.

use crate::error::{Error, Outcome, Result, Retry};
use crate::transport::FailureKind;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::{Value, json};
use std::io::{self, ErrorKind, IsTerminal, Read, Write};

/// The largest value read from stdin: the hard ceiling of the server.
const STDIN_BYTES_MAX: u64 = 64 << 20;

/// Where a command reads and writes.
pub struct Terminal<'a> {
    input: Box<dyn Read + 'a>,
    out: Box<dyn Write + 'a>,
    messages: Box<dyn Write + 'a>,
    /// Why data could not be written, other than that nobody wanted it.
    broken: Option<io::Error>,
    closed: bool,
    /// Whether a person looks at stdout, so that a line end after a value helps.
    is_interactive: bool,
    pub(crate) json: bool,
}

impl Terminal<'static> {
    /// The streams of this process.
    pub fn of_process() -> Self {
        let mut terminal = Self::new(io::stdin(), io::stdout(), io::stderr());
        terminal.is_interactive = io::stdout().is_terminal();
        terminal
    }
}

impl<'a> Terminal<'a> {
    /// Streams of the caller's.
    pub fn new(input: impl Read + 'a, out: impl Write + 'a, messages: impl Write + 'a) -> Self {
        Self {
            input: Box::new(input),
            out: Box::new(out),
            messages: Box::new(messages),
            broken: None,
            closed: false,
            is_interactive: false,
            json: false,
        }
    }

    /// Whether data was lost on its way out.
    pub(crate) fn failed(&mut self) -> bool {
        self.data(b"");
        let Some(error) = self.broken.take() else { return false };
        self.say(&format!("error: can't write the output: {error}"));
        true
    }

    /// Writes data as it is.
    pub(crate) fn data(&mut self, bytes: &[u8]) {
        if self.closed {
            return;
        }
        if let Err(error) = self.out.write_all(bytes).and_then(|()| self.out.flush()) {
            self.closed = true;
            self.broken = (error.kind() != ErrorKind::BrokenPipe).then_some(error);
        }
    }

    /// Writes one line of data.
    pub(crate) fn line(&mut self, text: &str) {
        self.data(format!("{text}\n").as_bytes());
    }

    /// Writes a value: its bytes alone into a pipe, with a line end for a person.
    pub(crate) fn value(&mut self, bytes: &[u8]) {
        self.data(bytes);
        if self.is_interactive && !bytes.ends_with(b"\n") {
            self.data(b"\n");
        }
    }

    /// Writes a JSON document as data.
    pub(crate) fn document(&mut self, value: &Value) {
        self.line(&format!("{value:#}"));
    }

    /// Writes a line for people.
    pub(crate) fn say(&mut self, text: &str) {
        // There is nobody left to tell when stderr is closed.
        let _ = writeln!(self.messages, "{text}");
    }

    /// Whether nobody reads on, so that a long listing may end.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Reads all of stdin, within the bound.
    pub(crate) fn read_input(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = (&mut self.input).take(STDIN_BYTES_MAX + 1).read_to_end(&mut bytes);
        read.map_err(|error| Error::Invalid(format!("can't read stdin: {error}")))?;
        if bytes.len() as u64 > STDIN_BYTES_MAX {
            return Err(Error::Invalid(format!("stdin holds more than {STDIN_BYTES_MAX} bytes")));
        }
        Ok(bytes)
    }

    /// Says what went wrong, what it left behind, and what to do next.
    pub(crate) fn complain(&mut self, error: &Error) {
        if self.json {
            return self.say(&json!({ "error": as_json(error) }).to_string());
        }
        self.say(&format!("error: {error}"));
        if error.outcome() == Outcome::Indeterminate {
            self.say("the write may still appear: read before you write again");
        }
        if let Some(problem) = error.problem() {
            if let (Some(required), Some(acked)) = (problem.required, problem.acked) {
                self.say(&format!("replicas that answered: {acked} of {required} required"));
            }
            if let Some(request_id) = &problem.request_id {
                self.say(&format!("request id: {request_id}"));
            }
        }
        if let Some(hint) = hint(error) {
            self.say(&format!("hint: {hint}"));
        }
    }
}

/// A table without lines, for people and for `awk`.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    table
}

/// What was read as JSON, as JSON again.
pub(crate) fn document(of: &impl Serialize) -> Value {
    serde_json::to_value(of).expect("what was read as JSON can be written as JSON")
}

/// Text as it is; a thing that has a name or an id by that; anything else as JSON.
pub(crate) fn text(value: &Value) -> String {
    let named = ["id", "node"].iter().find_map(|name| value.get(name)?.as_str());
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        other => named.map_or_else(|| other.to_string(), str::to_owned),
    }
}

pub(crate) fn yes_or_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.into()
}

/// What is not there, or empty, is a dash, so that every row has as many words.
pub(crate) fn or_none(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).filter(|text| !text.is_empty()).unwrap_or("-".into())
}

/// The error for programs: the problem as the node sent it, or the same fields as far as they are known here.
fn as_json(error: &Error) -> Value {
    match error {
        Error::Problem(problem) => serde_json::to_value(problem).unwrap_or(Value::Null),
        Error::Transport { outcome, .. } => {
            json!({ "code": "unreachable", "detail": error.to_string(), "outcome": outcome })
        }
        Error::Decode { outcome, .. } => {
            json!({ "code": "unreadable_answer", "detail": error.to_string(), "outcome": outcome })
        }
        Error::Invalid(detail) => {
            json!({ "code": "usage", "detail": detail, "outcome": Outcome::NotApplied })
        }
    }
}

fn hint(error: &Error) -> Option<&'static str> {
    let problem = match error {
        Error::Transport { source, .. } if source.kind == FailureKind::Connect => {
            return Some("is a node running? try: cartwheel dev (or name another one with --url)");
        }
        Error::Transport { source, .. } if source.kind == FailureKind::Timeout => {
            return Some("the node may be overloaded or cut off; try another one with --url");
        }
        Error::Decode { .. } => return Some("is that a cartwheel node, and of this version?"),
        Error::Problem(problem) => problem,
        Error::Transport { .. } | Error::Invalid(_) => return None,
    };
    match problem.code.as_str() {
        "read_quorum_not_met" | "write_quorum_not_met" | "coverage_incomplete" => {
            Some("some owners can't be reached; see: cartwheel cluster status")
        }
        "plan_changed" => Some("look at it again, then commit: cartwheel cluster plan"),
        "precondition_failed" => Some("somebody was faster: read it again and write with the new context"),
        "invalid_context" => {
            Some("a context belongs to one key of one cluster; get a new one with: cartwheel get")
        }
        "context_required" => Some("this bucket refuses blind writes: read first, then write with --context"),
        "unauthenticated" => Some("give a token with --token or CARTWHEEL_TOKEN"),
        "overloaded" => Some("try again in a moment, or another node with --url"),
        "draining" => Some("ask another node with --url"),
        _ if problem.retry == Some(Retry::AfterRead) => Some("read it again before you try again"),
        _ => None,
    }
}
