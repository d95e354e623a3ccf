//! clippy.toml's half of the wall, on a library that breaks it.
#![allow(clippy::unwrap_used, reason = "tests")]

mod harness;

use std::fs;
use std::process::{Command, Output, Stdio};

use harness::Scratch;

const GUARD: &str = "#![cfg_attr(not(test), warn(clippy::disallowed_methods))]\n";

/// Runs clippy, with the project's clippy.toml, on a library of this text.
fn clippy(scratch: &Scratch, library: &str) -> Output {
    let manifest = "[package]\nname = \"a\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n\
                    [lints.clippy]\ndisallowed_methods = \"allow\"\n";
    fs::create_dir_all(scratch.path.join("src")).unwrap();
    fs::write(scratch.path.join("Cargo.toml"), manifest).unwrap();
    fs::write(scratch.path.join("src/lib.rs"), library).unwrap();
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/../clippy.toml");
    fs::copy(rules, scratch.path.join("clippy.toml")).unwrap();
    Command::new(env!("CARGO"))
        .args(["clippy", "--offline", "--quiet", "--all-targets", "--", "-D", "warnings"])
        .current_dir(&scratch.path)
        .env("CARGO_TARGET_DIR", scratch.path.join("target"))
        .env_remove("CLIPPY_ARGS")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn a_library_that_takes_time_or_tasks_by_itself_is_refused() {
    let scratch = Scratch::new("wall");
    let broken = "
        pub fn clock() -> std::time::SystemTime { std::time::SystemTime::now() }
        pub fn timer() -> std::time::Instant { std::time::Instant::now() }
        pub fn nap() { use std::thread::sleep; sleep(std::time::Duration::ZERO) }
        pub fn task() { std::thread::spawn(|| ()); }";
    let output = clippy(&scratch, &format!("{GUARD}{broken}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    for name in ["time::SystemTime::now", "time::Instant::now", "thread::sleep", "thread::spawn"] {
        assert!(said.contains(&format!("disallowed method `std::{name}`")), "{name}: {said}");
    }
}

#[test]
fn its_tests_and_the_one_place_that_says_why_may() {
    let scratch = Scratch::new("wall-may");
    let fine = "
        #[expect(clippy::disallowed_methods, reason = \"the one place\")]
        pub fn clock() -> std::time::SystemTime { std::time::SystemTime::now() }
        #[cfg(test)]
        mod tests { #[test] fn nap() { use std::thread::sleep; sleep(std::time::Duration::ZERO) } }";
    let output = clippy(&scratch, &format!("{GUARD}{fine}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
