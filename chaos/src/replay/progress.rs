//! The progress line: on a terminal a bar with the rate and the latency of the last moment, in a pipe nothing.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::report::{Latency, millis};
use crate::limits;

/// A bar over a known number of steps.
pub(super) struct Progress {
    bar: ProgressBar,
    window: Mutex<(Instant, Latency)>,
}

impl Progress {
    /// A bar on stderr; stdout is for the report. Indicatif hides it where stderr is no terminal.
    pub(super) fn new(what: &'static str, steps: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
        let style =
            ProgressStyle::with_template("{prefix} [{wide_bar}] {human_pos}/{human_len}  {msg}  {eta}");
        bar.set_style(style.expect("the template is well formed"));
        bar.set_prefix(what);
        Self { bar, window: Mutex::new((Instant::now(), Latency::new())) }
    }

    /// One more step is done.
    pub(super) fn record(&self, took: Duration) {
        self.bar.inc(1);
        if self.bar.is_hidden() {
            return;
        }
        let mut window = self.window.lock().expect("nothing in here panics");
        let (since, latency) = &mut *window;
        latency.record(took);
        let elapsed = since.elapsed();
        if elapsed >= limits::PROGRESS_TICK {
            let figures = latency.figures();
            let rate = figures.count as f64 / elapsed.as_secs_f64();
            let (p50, p99) = (millis(figures.p50_us), millis(figures.p99_us));
            self.bar.set_message(format!("{rate:.0} ops/s  p50 {p50}  p99 {p99}"));
            *window = (Instant::now(), Latency::new());
        }
    }

    /// Takes the bar away; the report says it all.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
