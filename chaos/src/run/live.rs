//! What a person sees while it runs: each trouble as it begins and ends, and below, on a terminal, how the cluster does.

use super::timeline::{Span, Timeline};
use crate::history::{History, What};
use crate::limits::PROGRESS_TICK;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::time::Duration;

/// The figures are those of so many ticks: of two seconds.
const WINDOW: usize = 8;

pub(super) struct Live {
    bar: ProgressBar,
    history: History,
    timeline: Timeline,
    place: usize,
    told: usize,
    open: BTreeMap<usize, String>,
    begun: BTreeMap<u64, u64>,
    ticks: VecDeque<Tick>,
    came: Duration,
}

#[derive(Clone, Default)]
struct Tick {
    took: Duration,
    answered: u64,
    not: u64,
    us: Vec<u64>,
}

impl Live {
    pub(super) fn new(name: &str, seed: u64, load: Duration, history: History, timeline: Timeline) -> Self {
        // Indicatif hides it where stderr is no terminal.
        let bar = ProgressBar::with_draw_target(Some(load.as_secs()), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{prefix} [{bar:20}] {pos}/{len} s  {msg}");
        bar.set_style(style.expect("the template is well formed"));
        bar.set_prefix(format!("{name}, seed {seed}"));
        let came = history.now();
        let (place, told) = (history.len(), 0);
        let (open, begun, ticks) = (BTreeMap::new(), BTreeMap::new(), VecDeque::new());
        Self { bar, history, timeline, place, told, open, begun, ticks, came }
    }

    /// Shows what goes on, until the caller has no more of it.
    pub(super) async fn show(mut self) {
        let mut tick = tokio::time::interval(PROGRESS_TICK);
        loop {
            tick.tick().await;
            self.look();
        }
    }

    /// What comes after the load.
    pub(super) fn say(what: &str) {
        let _ = writeln!(std::io::stderr(), "           {what}");
    }

    fn look(&mut self) {
        let now = self.history.now();
        self.tell_of(&self.timeline.list());
        if self.bar.is_hidden() {
            return;
        }
        let new = self.history.since(self.place);
        self.place += new.len();
        let before: Duration = self.ticks.iter().map(|tick| tick.took).sum();
        let mut tick = Tick { took: now.saturating_sub(self.came + before), ..Tick::default() };
        for entry in new {
            match entry.what {
                What::Invoke(invoke) => drop(self.begun.insert(invoke.op, entry.at_us)),
                What::Ok { op, .. } | What::Fail { op, .. } => {
                    tick.answered += 1;
                    tick.us.extend(self.begun.remove(&op).map(|begun| entry.at_us - begun));
                }
                What::Info { op, .. } => {
                    tick.not += 1;
                    self.begun.remove(&op);
                }
                What::Setting(_) => {}
            }
        }
        self.ticks.push_back(tick);
        while self.ticks.len() > WINDOW {
            self.came += self.ticks.pop_front().map_or(Duration::ZERO, |tick| tick.took);
        }
        self.bar.set_position(now.as_secs());
        self.bar.set_message(self.message());
    }

    fn message(&self) -> String {
        let took: Duration = self.ticks.iter().map(|tick| tick.took).sum();
        let answered: u64 = self.ticks.iter().map(|tick| tick.answered).sum();
        let not: u64 = self.ticks.iter().map(|tick| tick.not).sum();
        let mut us: Vec<u64> = self.ticks.iter().flat_map(|tick| tick.us.iter().copied()).collect();
        us.sort_unstable();
        let p99 = us.get(us.len().saturating_sub(1) * 99 / 100).copied().unwrap_or(0) as f64 / 1e3;
        let rate = answered as f64 / took.as_secs_f64().max(0.001);
        let broken: Vec<&str> = self.open.values().map(String::as_str).collect();
        let broken = if broken.is_empty() { "all is well".to_owned() } else { broken.join("; ") };
        format!("{rate:.0} answers/s, {not} without, p99 {p99:.1} ms  {broken}")
    }

    fn tell_of(&mut self, spans: &[Span]) {
        let line = |at: Duration, what: &str| format!("  {:6.1} s  {what}", at.as_secs_f64());
        for (number, span) in spans.iter().enumerate().skip(self.told).filter(|(_, span)| span.shown) {
            self.print(&line(span.from, &span.what));
            self.open.insert(number, span.what.clone());
        }
        self.told = spans.len();
        let over: Vec<usize> =
            self.open.keys().copied().filter(|number| spans[*number].until.is_some()).collect();
        for number in over {
            let (span, _) = (&spans[number], self.open.remove(&number));
            let lasted = span.until.unwrap_or(span.from).saturating_sub(span.from);
            let end = span.until.unwrap_or(span.from);
            self.print(&line(end, &format!("over after {:.1} s: {}", lasted.as_secs_f64(), span.what)));
        }
    }

    fn print(&self, text: &str) {
        match self.bar.is_hidden() {
            true => drop(writeln!(std::io::stderr(), "{text}")),
            false => self.bar.println(text),
        }
    }
}

impl Drop for Live {
    /// Tells of what ended last, and takes the bar away.
    fn drop(&mut self) {
        self.tell_of(&self.timeline.list());
        self.bar.finish_and_clear();
    }
}
