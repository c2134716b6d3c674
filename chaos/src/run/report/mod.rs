//! The report: one page for all runs, with plots, that needs no network; and the history of each run that broke a promise.

mod page;
mod plots;

use super::course::Outcome;
use anyhow::Context;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

/// Where reports go.
pub(super) struct Folder {
    dir: PathBuf,
    page: PathBuf,
    outcomes: Vec<String>,
    rows: Vec<page::Summary>,
}

impl Folder {
    /// Makes the folder if it is missing. What stands in it from an earlier time stays, but for the page.
    pub(super) fn open(dir: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let page = dir.join("report.html");
        Ok(Self { dir: dir.to_owned(), page, outcomes: Vec::new(), rows: Vec::new() })
    }

    /// Adds a run. The page is whole after each, so one that is interrupted has those that came to their end.
    pub(super) fn add(&mut self, outcome: &Outcome) -> anyhow::Result<()> {
        let kept = if outcome.verdict.holds() { None } else { Some(self.keep(outcome)?) };
        self.rows.push(page::Summary::of(outcome));
        self.outcomes.push(page::run(outcome, kept.as_deref())?);
        let text = page::whole(&self.rows, &self.outcomes);
        let draft = self.dir.join("report.html.new");
        fs::write(&draft, text).with_context(|| format!("cannot write {}", draft.display()))?;
        fs::rename(&draft, &self.page).with_context(|| format!("cannot write {}", self.page.display()))
    }

    fn keep(&self, outcome: &Outcome) -> anyhow::Result<String> {
        let name = format!("{}.jsonl", outcome.name());
        let path = self.dir.join(&name);
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        outcome.history.write_to(&mut BufWriter::new(file))?;
        Ok(name)
    }

    /// How many runs it has.
    pub(super) fn runs(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn page(&self) -> &Path {
        &self.page
    }
}
