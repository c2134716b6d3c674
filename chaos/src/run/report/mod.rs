//! The report: one page for all runs, with plots, that needs no network; and the history of each run that broke a promise or had no end.

mod page;
mod plots;

use super::judge::Outcome;
use crate::history::History;
use anyhow::Context;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

/// Where reports go.
pub(super) struct Folder {
    dir: PathBuf,
    page: PathBuf,
    is_new: bool,
    outcomes: Vec<String>,
    rows: Vec<page::Summary>,
    /// Runs without an end, each with why.
    endless: Vec<(String, String)>,
    left_out: Vec<String>,
}

impl Folder {
    /// Makes the folder if it is missing. What stands in it from an earlier time stays until something came of a run: the page is that of the
    /// last call of which there is something to say. `left_out` are scenarios that are not run, each with why.
    pub(super) fn open(dir: &Path, left_out: &[String]) -> anyhow::Result<Self> {
        let is_new = !dir.exists();
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let page = dir.join("report.html");
        let (outcomes, rows, endless) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { dir: dir.to_owned(), page, is_new, outcomes, rows, endless, left_out: left_out.to_owned() })
    }

    /// Nothing came of it: a folder that was made for it goes again.
    pub(super) fn give_up(self) {
        if self.is_new {
            // One in which something stands is not ours to remove.
            let _not_empty = fs::remove_dir(&self.dir);
        }
    }

    /// Adds a run. The page is whole after each, so one that is interrupted has those that came to their end.
    pub(super) fn add(&mut self, outcome: &Outcome) -> anyhow::Result<()> {
        let kept =
            if outcome.verdict.holds() { None } else { Some(self.keep(&outcome.name(), &outcome.history)?) };
        self.rows.push(page::Summary::of(outcome));
        self.outcomes.push(page::run(outcome, kept.as_deref())?);
        self.write()
    }

    fn write(&self) -> anyhow::Result<()> {
        let text = page::whole(&self.rows, &self.outcomes, &self.endless, &self.left_out);
        let draft = self.dir.join("report.html.new");
        fs::write(&draft, text).with_context(|| format!("cannot write {}", draft.display()))?;
        fs::rename(&draft, &self.page).with_context(|| format!("cannot write {}", self.page.display()))
    }

    fn keep(&self, name: &str, history: &History) -> anyhow::Result<String> {
        let name = format!("{name}.jsonl");
        let path = self.dir.join(&name);
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        history.write_to(&mut BufWriter::new(file))?;
        Ok(name)
    }

    /// Keeps what is known of a run that had no end: its history, as far as it came, and why it ended. On the page it is only named, for
    /// there is nothing to judge.
    pub(super) fn keep_endless(
        &mut self,
        name: &str,
        history: Option<&History>,
        why: &anyhow::Error,
    ) -> anyhow::Result<String> {
        let path = self.dir.join(format!("{name}.error.txt"));
        fs::write(&path, format!("{why:?}\n")).with_context(|| format!("cannot write {}", path.display()))?;
        self.endless.push((name.to_owned(), format!("{why:#}")));
        self.write()?;
        match history {
            Some(history) => self.keep(name, history),
            None => Ok("none, it had not begun".to_owned()),
        }
    }

    /// How many runs it has.
    pub(super) fn runs(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn page(&self) -> &Path {
        &self.page
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Call;
    use std::sync::Arc;
    use std::time::Duration;

    /// Why it ended, and what had been asked by then; a run that did not even begin leaves the reason.
    #[test]
    fn what_is_known_of_a_run_without_an_end_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("report.html"), "of yesterday").unwrap();
        let mut folder = Folder::open(dir.path(), &["upgrade needs another binary".to_owned()]).unwrap();
        assert_eq!(
            fs::read_to_string(folder.page()).unwrap(),
            "of yesterday",
            "nothing came of this one so far"
        );
        let history = History::new(Arc::new(|| Duration::ZERO));
        history.invoke(1, "n1", "b", "k", |_| Call::Delete { seen: None });
        let why = anyhow::anyhow!("no such wire").context("n3 is not ready");
        let kept = folder.keep_endless("crash-7", Some(&history), &why).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join(kept)).unwrap().lines().count(), 1);
        let told = fs::read_to_string(dir.path().join("crash-7.error.txt")).unwrap();
        assert!(told.contains("n3 is not ready") && told.contains("no such wire"), "{told}");
        folder.keep_endless("crash-8", None, &why).unwrap();
        let page = fs::read_to_string(folder.page()).unwrap();
        assert!(
            page.contains("crash-7") && page.contains("crash-8") && page.contains("n3 is not ready"),
            "{page}"
        );
        assert!(page.contains("upgrade needs another binary") && !page.contains("of yesterday"), "{page}");
        assert!(dir.path().join("crash-8.error.txt").exists() && !dir.path().join("crash-8.jsonl").exists());
        folder.give_up();
        assert!(dir.path().join("crash-8.error.txt").exists());
    }

    #[test]
    fn what_nothing_came_of_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for (name, is_there, stays) in [("new", false, false), ("old", true, true)] {
            let out = dir.path().join(name);
            if is_there {
                fs::create_dir(&out).unwrap();
            }
            Folder::open(&out, &[]).unwrap().give_up();
            assert_eq!(out.exists(), stays, "{name}");
        }
    }
}
