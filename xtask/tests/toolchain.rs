//! Compilers and their companions, on a `rustup` of the test's own.
#![allow(clippy::unwrap_used, reason = "tests")]

mod harness;

use std::fs;

use harness::Scratch;

/// Knows only what it has installed, and writes down what it is asked.
const RUSTUP: &str = r#"
echo "$*" >> "$SCRATCH/asked"
case "$1" in
    run) test -e "$SCRATCH/installed";;
    toolchain) : > "$SCRATCH/installed";;
esac"#;

fn declared() -> &'static str {
    env!("CARGO_PKG_RUST_VERSION")
}

#[test]
fn a_missing_compiler_is_installed_and_the_declared_one_is_used() {
    let scratch = Scratch::new("msrv");
    scratch.fake("rustup", RUSTUP);
    let path = format!("{}:{}", scratch.path.display(), std::env::var("PATH").unwrap());
    let output = scratch.xtask(&["test", "msrv"]).env("PATH", path).env("CARGO_TARGET_DIR", "/t").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let asked = fs::read_to_string(scratch.path.join("asked")).unwrap();
    let lines: Vec<_> = asked.lines().skip(1).collect();
    let version = declared();
    let [missing, install, check] = lines.as_slice() else { panic!("{asked}") };
    assert_eq!(*missing, format!("run {version} cargo --version"));
    assert!(install.starts_with(&format!("toolchain install {version} --profile minimal")), "{install}");
    assert!(check.starts_with(&format!("run {version} cargo check --workspace --all-features")), "{check}");
    assert!(check.contains("--target-dir /t/msrv"), "{check}");
}

#[test]
fn code_that_the_declared_compiler_refuses_fails_the_step() {
    let scratch = Scratch::new("msrv-fails");
    scratch.fake("rustup", "test \"$4\" != check");
    let path = format!("{}:{}", scratch.path.display(), std::env::var("PATH").unwrap());
    let output = scratch.xtask(&["test", "msrv"]).env("PATH", path).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("step msrv failed: rustup run"));
}

#[test]
fn without_rustup_it_says_what_to_do() {
    let scratch = Scratch::new("msrv-missing");
    let output = scratch.xtask(&["test", "msrv"]).env("PATH", &scratch.path).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("rustup is missing") && said.contains(declared()), "{said}");
}

#[test]
fn a_missing_companion_of_cargo_is_installed_first() {
    let scratch = Scratch::new("component");
    scratch.fake("rustup", RUSTUP);
    scratch.fake("cargo-clippy", "exit 1");
    scratch.fake_cargo("echo \"cargo $1\" >> \"$SCRATCH/asked\"");
    let path = format!("{}:{}", scratch.path.display(), std::env::var("PATH").unwrap());
    let output = scratch.xtask(&["test", "clippy"]).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_to_string(scratch.path.join("asked")).unwrap(), "component add clippy\ncargo clippy\n");
}
