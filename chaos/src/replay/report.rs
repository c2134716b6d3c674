//! What a replay came to: the figures, the table for people, JSON for programs, and the verdict as an exit code.

use std::fmt;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use hdrhistogram::Histogram;
use serde::Serialize;

use super::model::Difference;
use crate::limits;

/// Latencies, to three digits, up to [`limits::LATENCY_MAX_US`].
#[derive(Clone, Debug)]
pub(super) struct Latency(Histogram<u64>);

/// The figures of a distribution, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// How many were measured.
    pub count: u64,
    /// Half took at most this.
    pub p50_us: u64,
    /// 95 of 100 took at most this.
    pub p95_us: u64,
    /// 99 of 100 took at most this.
    pub p99_us: u64,
    /// 999 of 1,000 took at most this.
    pub p999_us: u64,
    /// The longest.
    pub max_us: u64,
}

/// A cart that is not what it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mismatch {
    /// The cart's id.
    pub cart: String,
    /// The node that showed it, if any did.
    pub read_from: Option<String>,
    /// What is wrong.
    pub difference: Difference,
}

/// The cart with the most items.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Largest {
    /// The cart's id.
    pub cart: String,
    /// How many items it has had.
    pub items: usize,
}

/// All that a replay found out.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The file.
    pub file: String,
    /// The bucket of the carts.
    pub bucket: String,
    /// The nodes that were written through.
    pub nodes: Vec<String>,
    /// The node that was killed and started again.
    pub killed: Option<String>,
    /// Carts that were written.
    pub carts: usize,
    /// Carts that were read back and compared.
    pub carts_compared: usize,
    /// Events of the file (or of the part asked for).
    pub events: u64,
    /// Events that the cluster acknowledged.
    pub acknowledged: u64,
    /// Attempts after a first one, of writes and reads.
    pub retries: u64,
    /// Differences between carts and model.
    pub mismatches: usize,
    /// The first of them.
    pub first_mismatches: Vec<Mismatch>,
    /// Everything else that went wrong: events that were not acknowledged, nodes that ended.
    pub failures: Vec<String>,
    /// How long the writing took.
    pub write_ms: u64,
    /// Acknowledged events per second.
    pub ops_per_second: u64,
    /// From the first attempt to the acknowledgement.
    pub writes: Figures,
    /// Reading back, from the first attempt to the cart.
    pub reads: Figures,
    /// The largest cart.
    pub largest_cart: Option<Largest>,
    /// Writes to carts that had more than 1,000 items by then.
    pub writes_to_large_carts: Figures,
}

impl Latency {
    pub(super) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, limits::LATENCY_MAX_US, 3);
        Self(histogram.expect("the bounds are in order and the digits are few"))
    }

    pub(super) fn record(&mut self, took: Duration) {
        self.0.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    pub(super) fn figures(&self) -> Figures {
        let at = |quantile| self.0.value_at_quantile(quantile);
        Figures {
            count: self.0.len(),
            p50_us: at(0.5),
            p95_us: at(0.95),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: self.0.max(),
        }
    }
}

/// Microseconds as a person reads them.
pub(super) fn millis(us: u64) -> String {
    let digits = if us < 10_000 { 2 } else { 0 };
    format!("{:.digits$} ms", us as f64 / 1_000.0)
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50_us, p95_us, p99_us, p999_us, max_us, .. } = *self;
        let [p50, p95, p99, p999, max] = [p50_us, p95_us, p99_us, p999_us, max_us].map(millis);
        write!(f, "p50 {p50}  p95 {p95}  p99 {p99}  p99.9 {p999}  max {max}")
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cart {}: {}", self.cart, self.difference)?;
        self.read_from.as_ref().map_or(Ok(()), |node| write!(f, "  (read from {node})"))
    }
}

impl Report {
    /// Whether every event was acknowledged, every cart was read, and every cart is what it must be.
    pub fn is_right(&self) -> bool {
        self.mismatches == 0
            && self.failures.is_empty()
            && self.acknowledged == self.events
            && self.carts_compared == self.carts
    }

    /// The verdict for the shell: 0 if all is right, 1 otherwise.
    pub fn exit_code(&self) -> i32 {
        if self.is_right() { 0 } else { 1 }
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![
            ("carts", format!("{}, {} read back", self.carts, self.carts_compared)),
            ("events", self.events.to_string()),
            ("acknowledged", self.acknowledged.to_string()),
            ("retries", self.retries.to_string()),
            ("mismatches", self.mismatches.to_string()),
            ("ops/s", format!("{}  ({:.1} s)", self.ops_per_second, self.write_ms as f64 / 1_000.0)),
            ("writes", self.writes.to_string()),
            ("reads", self.reads.to_string()),
        ];
        if let Some(Largest { cart, items }) = &self.largest_cart {
            rows.push(("largest cart", format!("{items} items  ({cart})")));
        }
        if self.writes_to_large_carts.count > 0 {
            let Figures { count, p99_us, .. } = self.writes_to_large_carts;
            let large = format!("p99 {}  ({count} writes)", millis(p99_us));
            rows.push(("writes over 1,000 items", large));
        }
        if let Some(killed) = &self.killed {
            rows.push(("killed and back", killed.clone()));
        }
        rows
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        for (what, figure) in self.rows() {
            table.add_row([what.to_owned(), figure]);
        }
        if let Some(column) = table.column_mut(0) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        writeln!(f, "{table}")?;
        for mismatch in &self.first_mismatches {
            writeln!(f, "mismatch: {mismatch}")?;
        }
        if self.mismatches > self.first_mismatches.len() {
            writeln!(f, "… and {} more mismatches", self.mismatches - self.first_mismatches.len())?;
        }
        for failure in &self.failures {
            writeln!(f, "failure: {failure}")?;
        }
        match self.is_right() {
            true => write!(f, "Right: every acknowledged event is in its cart, once."),
            false => {
                write!(f, "Wrong: {} mismatches, {} events not acknowledged.", self.mismatches, self.lost())
            }
        }
    }
}

impl Report {
    /// Events without an acknowledgement.
    fn lost(&self) -> u64 {
        self.events.saturating_sub(self.acknowledged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right() -> Report {
        Report { carts: 2, carts_compared: 2, events: 5, acknowledged: 5, ..Report::default() }
    }

    fn mismatch() -> Mismatch {
        let difference = Difference::Quantity { sku: "85123A".to_owned(), expected: 6, found: 5 };
        Mismatch { cart: "17850".to_owned(), read_from: Some("http://127.0.0.1:8108".to_owned()), difference }
    }

    #[test]
    fn a_run_is_right_only_if_nothing_at_all_is_missing() {
        assert_eq!(right().exit_code(), 0);
        assert_eq!(Report { mismatches: 1, ..right() }.exit_code(), 1);
        assert_eq!(Report { acknowledged: 4, ..right() }.exit_code(), 1);
        assert_eq!(Report { carts_compared: 1, ..right() }.exit_code(), 1);
        assert_eq!(Report { failures: vec!["n2 ended".to_owned()], ..right() }.exit_code(), 1);
    }

    #[test]
    fn a_mismatch_is_listed_with_its_cart_item_and_node_and_the_rest_are_counted() {
        let text = Report { mismatches: 12, first_mismatches: vec![mismatch()], ..right() }.to_string();
        let line =
            "mismatch: cart 17850: item 85123A: expected 6, found 5  (read from http://127.0.0.1:8108)";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("… and 11 more mismatches"), "{text}");
        assert!(text.ends_with("Wrong: 12 mismatches, 0 events not acknowledged."), "{text}");
    }

    #[test]
    fn the_json_names_what_is_wrong() {
        let report = Report { mismatches: 1, first_mismatches: vec![mismatch()], ..right() };
        let json = serde_json::to_value(report).unwrap();
        assert_eq!(json["mismatches"], 1);
        assert_eq!(json["first_mismatches"][0]["difference"]["kind"], "quantity");
        assert_eq!(json["first_mismatches"][0]["difference"]["expected"], 6);
    }

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let mut latency = Latency::new();
        (1..=1_000).for_each(|ms| latency.record(Duration::from_millis(ms)));
        let figures = latency.figures();
        assert_eq!(figures.count, 1_000);
        let near = |us: u64, ms: u64| us.abs_diff(ms * 1_000) <= ms;
        assert!(
            near(figures.p50_us, 500) && near(figures.p99_us, 990) && near(figures.max_us, 1_000),
            "{figures}"
        );
        latency.record(Duration::from_secs(100_000));
        let longest = latency.figures().max_us;
        assert!(longest >= limits::LATENCY_MAX_US, "one too long for the histogram counts as its longest");
    }
}
