//! Shop events into carts beside everything else: again and again into other carts, until the trouble is over.
//!
//! Without a file they are those of the extract that this binary carries (`chaos/data/`), and what that leaves out is said.

use super::live::Live;
use crate::replay;
use anyhow::Result;
use std::io::Write;
use std::path::Path;
use std::time::Instant;
use tempfile::NamedTempFile;

const EXTRACT: &str = include_str!("../../data/online-retail-extract.csv");
/// Events of the data that it is an extract of.
const WHOLE: usize = 370_931;

/// What a run over the extract leaves out, for the last line.
pub(super) fn left_out() -> String {
    // The first line names the columns.
    let events = EXTRACT.lines().count().saturating_sub(1);
    let left = WHOLE.saturating_sub(events);
    format!("retail replayed the extract, and {left} of {WHOLE} shop events were left out (--events FILE)")
}

/// Replays them against nodes that somebody breaks meanwhile, and says what was wrong with the carts.
pub(super) async fn replay(
    events: Option<&Path>,
    urls: &[String],
    seed: u64,
    until: Instant,
) -> Result<Option<String>> {
    let extract = extract()?;
    let file = events.unwrap_or(extract.path());
    let (mut acknowledged, mut compared) = (0, 0);
    for round in 0_u64.. {
        let bucket = format!("retail-{round}");
        let ran = replay::against(file.to_owned(), urls.to_vec(), bucket, seed.wrapping_add(round)).await;
        let report = ran.map_err(anyhow::Error::msg)?;
        (acknowledged, compared) = (acknowledged + report.acknowledged, compared + report.carts_compared);
        if !report.is_right() {
            return Ok(Some(report.to_string()));
        }
        if Instant::now() >= until {
            break;
        }
    }
    Live::say(&format!("{acknowledged} shop events acknowledged, {compared} carts compared"));
    Ok(None)
}

fn extract() -> Result<NamedTempFile> {
    let mut file = tempfile::Builder::new().suffix(".csv").tempfile()?;
    file.write_all(EXTRACT.as_bytes())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_extract_leaves_out_is_counted() {
        assert!(left_out().contains("370607 of 370931"), "{}", left_out());
    }
}
