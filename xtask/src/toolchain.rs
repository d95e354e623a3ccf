//! Compilers and their companions, installed where rustup can; the step that holds `rust-version` to its word.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::process::{bound, run};

const INSTALL_MAX: Duration = Duration::from_secs(600);

/// Makes sure that the companion of cargo for this subcommand is there.
pub(crate) fn ensure_component(root: &Path, subcommand: &str) -> Result<(), String> {
    let (program, component) = match subcommand {
        "clippy" => ("cargo-clippy", "clippy"),
        "fmt" => ("cargo-fmt", "rustfmt"),
        _ => return Ok(()),
    };
    if succeeds(program, &["--version"]) {
        return Ok(());
    }
    println!("{component} is missing: installing it with rustup");
    let missing = |error| format!("{component} is missing, and rustup could not install it: {error}");
    rustup(root, &["component", "add", component], INSTALL_MAX).map_err(missing)
}

/// Checks the libraries and programs with the oldest compiler that is promised; installs that if rustup can.
pub(crate) fn check_oldest(root: &Path, limit: Duration) -> Result<(), String> {
    let path = root.join("Cargo.toml");
    let manifest = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let version = rust_version(&manifest).ok_or("Cargo.toml declares no rust-version")?;
    if !succeeds("rustup", &["--version"]) {
        return Err(format!(
            "rustup is missing, and without it no second compiler: install it (https://rustup.rs), or check with \
             Rust {version} by other means and name the other steps: `cargo xtask test STEP...`"
        ));
    }
    // Not from rustup's list: that has what an interrupted installation left, too.
    if !succeeds("rustup", &["run", version, "cargo", "--version"]) {
        println!("Rust {version} is missing: installing it with rustup");
        rustup(root, &["toolchain", "install", version, "--profile", "minimal", "--no-self-update"], INSTALL_MAX)?;
    }
    let target = target_directory(root);
    let target = target.to_str().ok_or("the path of the target directory is not UTF-8")?;
    let check = ["run", version, "cargo", "check", "--workspace", "--all-features", "--target-dir", target];
    // Macros and build scripts run once here: optimising them costs more than it gives.
    let quick = ["--config", "profile.dev.package.\"*\".opt-level=0"];
    rustup(root, &[check.as_slice(), &quick].concat(), limit)
}

/// One of its own: the other steps' must not be built anew by every change of compiler.
fn target_directory(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |path| root.join(path)).join("msrv")
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn rustup(root: &Path, arguments: &[&str], limit: Duration) -> Result<(), String> {
    let status = run(bound("rustup", "TERM").args(arguments).current_dir(root), limit)?;
    if status.success() { Ok(()) } else { Err(format!("rustup {} ended with {status}", arguments.join(" "))) }
}

fn rust_version(manifest: &str) -> Option<&str> {
    let value = manifest.lines().find_map(|line| line.strip_prefix("rust-version = \"")?.strip_suffix('"'))?;
    value.chars().all(|char| char.is_ascii_digit() || char == '.').then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_declared_one() {
        assert_eq!(rust_version("[workspace.package]\nedition = \"2024\"\nrust-version = \"1.88\"\n"), Some("1.88"));
        assert_eq!(rust_version("# rust-version = \"1.2\"\nrust-version = \"stable\""), None);
    }
}
