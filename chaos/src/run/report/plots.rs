//! Plots over time, as SVG: what was answered, how long it took, how many were served; behind them what was broken meanwhile.

use crate::run::judge::Outcome;
use crate::run::timeline::Span;
use anyhow::Result;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use std::ops::Range;
use std::time::Duration;

const SIZE: (u32, u32) = (900, 220);
const BROKEN: RGBColor = RGBColor(214, 69, 65);
const GOOD: RGBColor = RGBColor(31, 119, 180);
const LATE: RGBColor = RGBColor(255, 127, 14);
const FONT: (&str, u32) = ("sans-serif", 13);

/// One line of a plot.
struct Line {
    name: &'static str,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
}

/// The plots of a run, one below the other.
pub(super) fn of(outcome: &Outcome) -> Result<Vec<String>> {
    let seconds = &outcome.pulse.seconds;
    let line = |name, colour, value: &dyn Fn(usize) -> Option<f64>| {
        // A second's figure stands in its middle.
        let points = (0..seconds.len()).filter_map(|at| Some((at as f64 + 0.5, value(at)?)));
        Line { name, colour, points: points.collect() }
    };
    let answered = line("answered", GOOD, &|at| Some(seconds[at].answered as f64));
    let unanswered = line("not answered", BROKEN, &|at| Some(seconds[at].unanswered as f64));
    let asked = |at: usize| seconds[at].answered > 0;
    let half = line("half of them", GOOD, &|at| asked(at).then_some(seconds[at].p50_ms.max(0.1)));
    let most = line("99 of 100", LATE, &|at| asked(at).then_some(seconds[at].p99_ms.max(0.1)));
    let served = line("answered by nodes that could", GOOD, &|at| {
        (seconds[at].fair > 0).then(|| 100.0 * seconds[at].fair_answered as f64 / seconds[at].fair as f64)
    });
    let lowest = served.points.iter().map(|(_, y)| *y).fold(100.0, f64::min);
    let slowest = most.points.iter().map(|(_, y)| *y).fold(10.0, f64::max);
    let highest = answered.points.iter().map(|(_, y)| *y).fold(1.0, f64::max);
    let bands = Bands::of(outcome);
    Ok(vec![
        plot("operations a second", &bands, 0.0..highest * 1.1, &[answered, unanswered])?,
        plot_log("milliseconds", &bands, 0.1..slowest * 2.0, &[half, most])?,
        plot("percent", &bands, (lowest - 1.0).max(0.0)..100.5, &[served])?,
    ])
}

/// When something was broken, in seconds of the load.
struct Bands {
    end: f64,
    spans: Vec<(f64, f64)>,
}

impl Bands {
    fn of(outcome: &Outcome) -> Self {
        let (from, until) = outcome.loaded;
        let at = |moment: Duration| moment.saturating_sub(from).as_secs_f64();
        let end = at(until);
        let band = |span: &Span| (at(span.from).min(end), span.until.map_or(end, at).min(end));
        Self { end, spans: outcome.spans.iter().filter(|span| span.shown).map(band).collect() }
    }
}

fn plot(what: &str, bands: &Bands, range: Range<f64>, lines: &[Line]) -> Result<String> {
    draw(what, bands, range.clone(), range, lines)
}

/// The same with a logarithmic height, for what spans orders of magnitude.
fn plot_log(what: &str, bands: &Bands, range: Range<f64>, lines: &[Line]) -> Result<String> {
    draw(what, bands, range.clone(), range.log_scale(), lines)
}

fn draw<H>(what: &str, bands: &Bands, range: Range<f64>, height: H, lines: &[Line]) -> Result<String>
where
    H: AsRangedCoord<Value = f64>,
    H::CoordDescType: ValueFormatter<f64>,
{
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&area);
        chart.margin(8).x_label_area_size(28).y_label_area_size(56);
        let mut chart = chart.build_cartesian_2d(0.0..bands.end, height)?;
        let mut mesh = chart.configure_mesh();
        mesh.disable_x_mesh()
            .label_style(FONT)
            .axis_desc_style(FONT)
            .x_desc("seconds")
            .y_desc(what)
            .draw()?;
        let band = |(from, until): &(f64, f64)| {
            Rectangle::new([(*from, range.start), (*until, range.end)], BROKEN.mix(0.12).filled())
        };
        chart.draw_series(bands.spans.iter().map(band))?;
        for Line { name, colour, points } in lines {
            let colour = *colour;
            let drawn = chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
            drawn.label(*name).legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
        }
        let mut labels = chart.configure_series_labels();
        labels
            .label_font(FONT)
            .background_style(WHITE.mix(0.8))
            .position(SeriesLabelPosition::LowerRight)
            .draw()?;
        area.present()?;
    }
    Ok(svg)
}
