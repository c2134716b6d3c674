//! The page as HTML. Everything that stands in it comes from the run, so everything is escaped.

use super::plots;
use crate::run::judge::Outcome;
use anyhow::Result;
use std::fmt::Write;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:960px;margin:2em auto;padding:0 1em;color:#222}\
table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:.25em .6em;text-align:left;vertical-align:top}\
td.n{text-align:right}.broken{background:#fbe3e2}.held{color:#2a7a2a}.failed{color:#b3261e;font-weight:600}\
svg{display:block;max-width:100%;height:auto}details{margin:.5em 0}h2{margin-top:2.5em;border-top:1px solid #ccc;padding-top:1em}\
@media(prefers-color-scheme:dark){body{background:#fff}}";

/// What the first table says of a run.
pub(super) struct Summary {
    name: String,
    scenario: &'static str,
    seed: u64,
    acknowledged: u64,
    /// As below the verdict.
    figures: Vec<(&'static str, String)>,
    served: f64,
    /// How often promises were broken, and rows that had nothing to judge by.
    broken: u64,
    untested: usize,
    holds: bool,
}

impl Summary {
    pub(super) fn of(outcome: &Outcome) -> Self {
        let (fair, answered) = outcome.pulse.fair();
        Self {
            name: outcome.name(),
            scenario: outcome.scenario,
            seed: outcome.seed,
            acknowledged: outcome.counts.acknowledged,
            figures: outcome.verdict.figures(),
            served: 100.0 * answered as f64 / fair.max(1) as f64,
            broken: outcome.verdict.rows.iter().map(|row| row.broken).sum(),
            untested: outcome.verdict.rows.iter().filter(|row| row.untested).count(),
            holds: outcome.verdict.holds(),
        }
    }
}

/// The whole page.
pub(super) fn whole(
    rows: &[Summary],
    runs: &[String],
    endless: &[(String, String)],
    left_out: &[String],
) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Cartwheel under faults</title><style>{STYLE}</style>\
         <h1>Cartwheel under faults</h1>"
    );
    let acknowledged: u64 = rows.iter().map(|row| row.acknowledged).sum();
    let failed = rows.iter().filter(|row| !row.holds).count();
    let verdict = match failed {
        0 => "<span class=\"held\">no promise broken</span>".to_owned(),
        some => format!("<span class=\"failed\">{some} of them broke a promise or proved nothing</span>"),
    };
    let _ = write!(page, "<p>{} runs, {acknowledged} operations acknowledged: {verdict}.</p>", rows.len());
    page.push_str("<table><tr><th>scenario<th>seed");
    for (name, _) in rows.first().map_or(&[][..], |row| &row.figures) {
        let _ = write!(page, "<th>{name}");
    }
    page.push_str("<th>answered by nodes that could<th>broken<th>not put to the test");
    for row in rows {
        let class = if row.holds { "" } else { " class=\"broken\"" };
        let Summary { name, scenario, seed, figures, served, broken, untested, .. } = row;
        let _ = write!(page, "<tr{class}><td><a href=\"#{name}\">{scenario}</a><td class=\"n\">{seed}");
        for (_, figure) in figures {
            let _ = write!(page, "<td class=\"n\">{}", escape(figure));
        }
        let _ =
            write!(page, "<td class=\"n\">{served:.2} %<td class=\"n\">{broken}<td class=\"n\">{untested}");
    }
    page.push_str("</table>");
    for (name, why) in endless {
        let _ = write!(page, "<p class=\"failed\">{} had no end: {}</p>", escape(name), escape(why));
    }
    for one in left_out {
        let _ = write!(page, "<p>Left out: {}.</p>", escape(one));
    }
    runs.iter().for_each(|run| page.push_str(run));
    page.push_str("</html>\n");
    page
}

/// One run: its verdict, its plots, what was broken when.
pub(super) fn run(outcome: &Outcome, history: Option<&str>) -> Result<String> {
    let mut text = format!(
        "<h2 id=\"{}\">{}, seed {}</h2><p>{}. {}.</p>",
        escape(&outcome.name()),
        outcome.scenario,
        outcome.seed,
        escape(&capital(outcome.about)),
        escape(&outcome.counts.to_string())
    );
    let effects = outcome.effects.iter().map(|(what, count)| format!("{what}: {count}"));
    let effects = effects.collect::<Vec<_>>().join(", ");
    let _ = write!(text, "<p>{}</p>", escape(&effects));
    text.push_str("<table><tr><th>promise<th><th>put to the test<th>broken");
    for row in &outcome.verdict.rows {
        let class = if row.broken == 0 && !row.untested { "" } else { " class=\"broken\"" };
        let (tested, broken) = (escape(&row.tested), row.found());
        let _ = write!(
            text,
            "<tr{class}><td>{}<td>{}<td>{tested}<td class=\"n\">{broken}",
            row.promise, row.about
        );
    }
    text.push_str("</table>");
    for line in outcome.verdict.named.iter().chain(&outcome.verdict.told) {
        let _ = write!(text, "<p class=\"failed\">{}</p>", escape(line));
    }
    if let Some(history) = history {
        let _ = write!(text, "<p>The history: <a href=\"{0}\">{0}</a></p>", escape(history));
    }
    plots::of(outcome)?.iter().for_each(|plot| text.push_str(plot));
    text.push_str("<details open><summary>What was broken when</summary><table><tr><th>from<th>for<th>what");
    let began = outcome.loaded.0;
    for span in outcome.spans.iter().filter(|span| span.shown) {
        let from = span.from.saturating_sub(began).as_secs_f64();
        let lasted = span.until.map_or("ever".to_owned(), |until| {
            format!("{:.1} s", until.saturating_sub(span.from).as_secs_f64())
        });
        let _ =
            write!(text, "<tr><td class=\"n\">{from:.1} s<td class=\"n\">{lasted}<td>{}", escape(&span.what));
    }
    text.push_str("</table></details>");
    if !outcome.counts.reasons.is_empty() {
        text.push_str("<details><summary>Why operations were not acknowledged</summary><table>");
        for (reason, count) in &outcome.counts.reasons {
            let _ = write!(text, "<tr><td>{}<td class=\"n\">{count}", escape(reason));
        }
        text.push_str("</table></details>");
    }
    Ok(text)
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_a_run_is_text_and_no_markup() {
        assert_eq!(escape("<b a=\"x\">&"), "&lt;b a=&quot;x&quot;&gt;&amp;");
    }
}
