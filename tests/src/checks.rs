//! A list of named checks that share one cluster.
//!
//! Starting three processes costs more than most checks do, and nextest gives every test function a
//! process of its own. So a test function stands for a topic, and its checks are named here instead:
//!
//! ```text
//! let mut checks = Checks::new();
//! checks.run("a put answers with a receipt", put_answers(&cluster)).await;
//! checks.finish(&[&cluster])
//! ```
//!
//! A failed check does not end the run. `finish` lists all that failed, with the end of each node's log,
//! and fails as well when any node panicked on the way, whatever the checks said.

use crate::cluster::Cluster;
use anyhow::{Result, anyhow};
use std::future::Future;
use std::time::Duration;

/// No check takes longer; one that does hangs, and the rest should still be heard.
const CHECK_TIME_MAX: Duration = Duration::from_secs(120);

/// The checks of one topic, and what became of them.
#[derive(Default)]
pub struct Checks {
    passed_count: usize,
    failures: Vec<String>,
}

impl Checks {
    /// An empty list.
    pub fn new() -> Checks {
        Checks::default()
    }

    /// Runs one check to its end and remembers how it went.
    pub async fn run(&mut self, sentence: &str, check: impl Future<Output = Result<()>>) {
        let outcome = match tokio::time::timeout(CHECK_TIME_MAX, check).await {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow!("still not done after {CHECK_TIME_MAX:?}")),
        };
        match outcome {
            Ok(()) => self.passed_count += 1,
            Err(error) => self.failures.push(format!("{sentence}\n      {error:#}")),
        }
    }

    /// Fails with the whole list if any check failed or any node panicked.
    pub fn finish(mut self, clusters: &[&Cluster]) -> Result<()> {
        for cluster in clusters {
            self.failures
                .extend(cluster.panics().into_iter().map(|line| format!("a node panicked\n      {line}")));
        }
        if self.failures.is_empty() {
            assert!(self.passed_count > 0, "a topic without a check proves nothing");
            return Ok(());
        }
        let mut report = format!("{} of ", self.failures.len());
        report += &format!("{} checks failed:\n", self.failures.len() + self.passed_count);
        for (number, failure) in self.failures.iter().enumerate() {
            report += &format!("  {}. {failure}\n", number + 1);
        }
        for cluster in clusters {
            report += &cluster.log_tails();
        }
        Err(anyhow!(report))
    }
}
