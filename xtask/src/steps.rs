//! The steps of `cargo xtask test`, in order.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::{interrupt, process, programs, servers, tidy, toolchain};

/// A step that takes longer hangs.
const STEP_MAX: Duration = Duration::from_secs(30 * 60);
/// Likewise the step of the tests, and each of its programs.
const TESTS_MAX: programs::Limits =
    programs::Limits { all: Duration::from_secs(60 * 60), program: Duration::from_secs(20 * 60) };

/// What a step does.
enum Action {
    /// Runs cargo with these arguments and environment.
    Cargo(&'static [&'static str], &'static [(&'static str, &'static str)]),
    /// Checks the tree.
    Tidy,
    /// Checks with the oldest compiler that is promised.
    Msrv,
    /// Runs the tests, with servers beside them.
    Tests,
}

/// One feature set for all, so that nothing is built twice.
const STEPS: &[(&str, Action)] = &[
    ("tidy", Action::Tidy),
    ("format", Action::Cargo(&["fmt", "--all", "--check"], &[])),
    (
        "clippy",
        Action::Cargo(&["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"], &[]),
    ),
    ("docs", Action::Cargo(&["doc", "--workspace", "--no-deps", "--all-features"], &[("RUSTDOCFLAGS", "-D warnings")])),
    ("msrv", Action::Msrv),
    // By itself, so that a clean clone's compiling does not count as a hanging test.
    ("build", Action::Cargo(&["test", "--workspace", "--all-features", "--no-run"], &[])),
    ("tests", Action::Tests),
];

/// The names of all steps.
pub(crate) fn names() -> Vec<&'static str> {
    STEPS.iter().map(|(name, _)| *name).collect()
}

/// Runs all steps, or those named; stops at the first that fails.
pub(crate) fn run(wanted: &[&str]) -> Result<(), String> {
    if let Some(unknown) = wanted.iter().find(|name| !names().contains(name)) {
        return Err(format!("there is no step {unknown}; the steps are {}", names().join(", ")));
    }
    let root = root()?;
    let mut times = Vec::new();
    let mut failure = None;
    for (name, action) in STEPS.iter().filter(|(name, _)| wanted.is_empty() || wanted.contains(name)) {
        interrupt::check()?;
        println!("\n== {name}");
        let start = Instant::now();
        let result = match action {
            Action::Cargo(arguments, environment) => cargo(&root, arguments, environment),
            Action::Msrv => toolchain::check_oldest(&root, STEP_MAX),
            Action::Tidy => tidy::check(&root),
            Action::Tests => tests(&root),
        };
        times.push((*name, start.elapsed()));
        if let Err(message) = result {
            failure = Some(format!("step {name} failed: {message}"));
            break;
        }
    }
    print_times(&times);
    failure.map_or(Ok(()), Err)
}

fn print_times(times: &[(&str, Duration)]) {
    println!();
    for (name, time) in times {
        println!("{name:>10} {:>7.1} s", time.as_secs_f64());
    }
}

/// The workspace.
pub(crate) fn root() -> Result<PathBuf, String> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map(Path::to_owned).ok_or_else(|| "xtask lies in no workspace".to_owned())
}

fn tests(root: &Path) -> Result<(), String> {
    servers::ensure_build_tools()?;
    servers::ensure_test_programs()?;
    let running = servers::start_for_tests()?;
    let environment = running.environment().iter().map(|(name, value)| (name.as_str(), OsStr::new(value)));
    // What tests leave behind goes when the servers go.
    let scratch = ("TMPDIR", running.directory().as_os_str());
    let variables: Vec<_> = environment.chain([scratch]).collect();
    programs::run(root, &cargo_program(), &variables, running.directory(), TESTS_MAX, &mut std::io::stdout())
}

fn cargo(root: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Result<(), String> {
    let subcommand = arguments.first().copied().unwrap_or_default();
    toolchain::ensure_component(root, subcommand)?;
    if subcommand != "fmt" {
        servers::ensure_build_tools()?;
    }
    let mut command = process::bound(&cargo_program(), "TERM");
    command.args(arguments).envs(environment.iter().copied()).current_dir(root);
    let status = process::run(&mut command, STEP_MAX)?;
    if status.success() { Ok(()) } else { Err(format!("cargo {} ended with {status}", arguments.join(" "))) }
}

fn cargo_program() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_step_is_refused_with_the_list() {
        let message = run(&["tidy", "tyops"]).err().unwrap_or_default();
        assert!(message.contains("tyops") && message.contains("clippy"), "{message}");
    }
}
