//! Examples as their users run them.

use std::path::PathBuf;
use std::process::Command;

/// Cargo builds the examples beside the tests.
pub(crate) fn example(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let path: PathBuf = test.parent().and_then(|deps| deps.parent()).unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --example {name}` first", path.display());
    Command::new(path)
}
