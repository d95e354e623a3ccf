//! Clauses as tests that cargo runs, filters and lists.

use std::fmt;
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};

use super::events::{LogHarness, log_clauses};
use super::{Harness, bus, clauses};

/// The clauses for some backends, as the tests of a binary without libtest's harness.
#[must_use = "nothing is tested until it is run"]
pub struct Suite {
    arguments: Arguments,
    trials: Vec<Trial>,
}

impl fmt::Debug for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Suite").field("tests", &self.trials.len()).finish_non_exhaustive()
    }
}

impl Suite {
    /// Of no tests yet, to be run as the command line says; it takes what libtest takes (`--list`, `--skip`, a filter, …).
    pub fn from_args() -> Self {
        Self { arguments: Arguments::from_args(), trials: Vec::new() }
    }

    /// Adds every clause as a test of its own, named `NAME::CLAUSE_…`.
    pub fn certify(mut self, name: &str, harness: impl Harness) -> Self {
        let harness = Arc::new(harness);
        for clause in clauses() {
            let applies = clause.applies(&*harness);
            let harness = Arc::clone(&harness);
            let test = move || clause.check(&*harness).map_err(|failure| Failed::from(failure.to_string()));
            let mut trial = Trial::test(format!("{name}::{clause:?}"), test);
            if !applies {
                trial = trial.with_kind("does not apply").with_ignored_flag(true);
            }
            self.trials.push(trial);
        }
        self
    }

    /// Adds every clause of a [bus](super::bus), named `NAME::CLAUSE_…`.
    pub fn certify_bus(mut self, name: &str, harness: impl bus::Harness) -> Self {
        let harness = Arc::new(harness);
        for clause in bus::clauses() {
            let harness = Arc::clone(&harness);
            let test = move || clause.check(&*harness).map_err(|failure| Failed::from(failure.to_string()));
            self.trials.push(Trial::test(format!("{name}::{clause:?}"), test));
        }
        self
    }

    /// Adds every clause of event logs as a test of its own, named `NAME::CLAUSE_…`.
    pub fn certify_log(mut self, name: &str, harness: impl LogHarness) -> Self {
        let harness = Arc::new(harness);
        for clause in log_clauses() {
            let harness = Arc::clone(&harness);
            let test = move || clause.check(&*harness).map_err(|failure| Failed::from(failure.to_string()));
            self.trials.push(Trial::test(format!("{name}::{clause:?}"), test));
        }
        self
    }

    /// Runs them; answers what `main` should end with.
    pub fn run(self) -> ExitCode {
        libtest_mimic::run(&self.arguments, self.trials).exit_code()
    }
}
