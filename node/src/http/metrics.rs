//! What Prometheus reads: one recorder for the process, and the requests as histograms.
//!
//! Everybody in this crate counts with the macros of `metrics`; names begin with `cartwheel_`, carry base units and
//! have labels from fixed sets, never a key or a bucket. For requests the macros are too dear: they hash name and
//! labels each time. [`Requests`] keeps the handle of each combination after its first use.
//!
//! Histograms gather samples until somebody asks; [`upkeep`] folds them in when nobody does, else they would grow
//! for ever.

use super::path::Kind;
use http::{Method, StatusCode};
use metrics::{Histogram, Key, Label, Level, Metadata};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::sync::OnceLock;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// How long requests took, by route, method and class of status.
pub const REQUEST_SECONDS: &str = "cartwheel_http_request_seconds";
/// From an answer out of memory to the longest request time-out.
const SECONDS_BUCKETS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0,
];
/// How often samples are folded in: at 50,000 requests a second, 250,000 samples or 4 MiB wait at worst.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Installs the recorder of this process, once; later calls get the same one. No port is opened: the caller serves
/// [`PrometheusHandle::render`] where it likes. `None`: somebody installed another recorder before.
pub fn install() -> Option<&'static PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let recorder = PrometheusBuilder::new()
                .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS_BUCKETS)
                .expect("the list of buckets is not empty")
                .build_recorder();
            let handle = recorder.handle();
            metrics::set_global_recorder(recorder).ok()?;
            metrics::describe_histogram!(
                REQUEST_SECONDS,
                metrics::Unit::Seconds,
                "How long HTTP requests took, by route, method and class of status"
            );
            Some(handle)
        })
        .as_ref()
}

/// The text of `/metrics`.
pub fn render() -> String {
    install().map(PrometheusHandle::render).unwrap_or_default()
}

/// Folds samples in until the node stops.
pub async fn upkeep(mut shutdown: watch::Receiver<bool>) {
    while timeout(UPKEEP_EVERY, shutdown.wait_for(|stop| *stop)).await.is_err() {
        if let Some(handle) = install() {
            handle.run_upkeep();
        }
    }
}

const METHODS: [&str; 7] = ["GET", "PUT", "HEAD", "POST", "DELETE", "PATCH", "other"];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The histograms of the HTTP side.
pub struct Requests {
    cells: Vec<OnceLock<Histogram>>,
}

impl Default for Requests {
    fn default() -> Self {
        let count = Kind::ALL.len() * METHODS.len() * CLASSES.len();
        Requests { cells: std::iter::repeat_with(OnceLock::new).take(count).collect() }
    }
}

impl Requests {
    /// Notes a finished request.
    pub fn record(&self, kind: Kind, method: &Method, status: StatusCode, took: Duration) {
        let method = METHODS.iter().position(|name| *name == method.as_str()).unwrap_or(METHODS.len() - 1);
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        let cell = (kind as usize * METHODS.len() + method) * CLASSES.len() + class;
        let histogram = self.cells[cell].get_or_init(|| register(kind, METHODS[method], CLASSES[class]));
        histogram.record(took.as_secs_f64());
    }
}

fn register(kind: Kind, method: &'static str, class: &'static str) -> Histogram {
    let labels = vec![
        Label::from_static_parts("route", kind.name()),
        Label::from_static_parts("method", method),
        Label::from_static_parts("status", class),
    ];
    let key = Key::from_parts(REQUEST_SECONDS, labels);
    let metadata = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));
    metrics::with_recorder(|recorder| recorder.register_histogram(&key, &metadata))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_shows_in_its_own_line() {
        install().expect("no other recorder in this test");
        let requests = Requests::default();
        for _ in 0..3 {
            requests.record(Kind::Object, &Method::PUT, StatusCode::NO_CONTENT, Duration::from_micros(300));
        }
        let odd = Method::from_bytes(b"BREW").unwrap();
        requests.record(Kind::Unknown, &odd, StatusCode::GATEWAY_TIMEOUT, Duration::from_secs(5));
        let text = render();
        for line in [
            r#"cartwheel_http_request_seconds_count{route="object",method="PUT",status="2xx"} 3"#,
            r#"cartwheel_http_request_seconds_bucket{route="object",method="PUT",status="2xx",le="0.00025"} 0"#,
            r#"cartwheel_http_request_seconds_bucket{route="object",method="PUT",status="2xx",le="0.0005"} 3"#,
            r#"cartwheel_http_request_seconds_count{route="unknown",method="other",status="5xx"} 1"#,
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn every_combination_has_a_cell_of_its_own() {
        let requests = Requests::default();
        let last = *Kind::ALL.last().unwrap();
        assert_eq!(last as usize + 1, Kind::ALL.len());
        requests.record(last, &Method::TRACE, StatusCode::from_u16(599).unwrap(), Duration::ZERO);
        requests.record(last, &Method::TRACE, StatusCode::from_u16(999).unwrap(), Duration::ZERO);
        assert_eq!(requests.cells.iter().filter(|cell| cell.get().is_some()).count(), 1);
        assert!(requests.cells.last().unwrap().get().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn upkeep_ends_with_the_node() {
        let (stop, stopped) = watch::channel(false);
        let duty = tokio::spawn(upkeep(stopped));
        stop.send(true).unwrap();
        duty.await.unwrap();
    }
}
