//! Installs the servers where that is possible.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::variables;

const INSTALL_MAX: Duration = Duration::from_secs(600);
/// What all three servers of the Java machine run on: Cassandra 5.0 takes 11 or 17, the others 17 or later.
const JAVA: &str = "17";
/// Where Debian keeps its Javas, the one on the `PATH` and others.
const JAVAS: &str = "/usr/lib/jvm";

pub(super) fn redis() -> Result<(), String> {
    let is_there = || is_installed("redis-server") && is_installed("redis-cli");
    ensure("redis-server", "redis-server", Some("redis-server.service"), is_there)
}

/// The program of NATS, which Debian keeps where only root's `PATH` leads.
pub(super) fn nats() -> Result<&'static str, String> {
    let find = || ["nats-server", "/usr/sbin/nats-server"].into_iter().find(|program| is_installed(program));
    ensure("nats-server", "nats-server", Some("nats-server.service"), || find().is_some())?;
    find().ok_or_else(|| "nats-server was installed and is not found".to_owned())
}

pub(super) fn maven() -> Result<(), String> {
    ensure("Maven (`mvn`), which fetches the servers' jars,", "maven", None, || is_installed("mvn"))
}

/// The program of a Java that all servers run on.
pub(super) fn java() -> Result<PathBuf, String> {
    let name = format!("Java {JAVA} (in `JAVA_HOME`, on the `PATH` or in {JAVAS})");
    ensure(&name, &format!("openjdk-{JAVA}-jre-headless"), None, || find_java().is_some())?;
    find_java().ok_or_else(|| format!("{name} was installed and is not found"))
}

/// What librdkafka is built with.
pub(super) fn build_tools() -> Result<(), String> {
    tools("make and a C++ compiler, which librdkafka is built with", &["g++", "make"], &["g++", "make"])
}

/// What the tests of the ledger's journals ask what they read.
pub(super) fn journal_programs() -> Result<(), String> {
    let programs = ["hledger", "ledger", "bean-check", "bean-query"];
    tools(
        "hledger, ledger and beancount, which read the ledger's journals,",
        &programs,
        &["hledger", "ledger", "beancount"],
    )
}

fn tools(name: &str, programs: &[&str], packages: &[&str]) -> Result<(), String> {
    let is_there = || programs.iter().all(|program| is_installed(program));
    if is_there() {
        return Ok(());
    }
    let list = packages.join(" ");
    eprintln!("of {name} something is missing: installing {list} with apt-get");
    let install: Vec<_> = ["install", "-y", "--no-install-recommends"].iter().chain(packages).copied().collect();
    if (apt_get(&install) || (apt_get(&["update"]) && apt_get(&install))) && is_there() {
        return Ok(());
    }
    Err(format!("of {name} something is missing, and apt-get could not install it: install {list}"))
}

fn is_installed(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

fn ensure(name: &str, package: &str, service: Option<&str>, is_there: impl Fn() -> bool) -> Result<(), String> {
    if is_there() {
        return Ok(());
    }
    eprintln!("{name} is missing: installing {package} with apt-get");
    let install = ["install", "-y", "--no-install-recommends", package];
    let done = apt_get(&install) || (apt_get(&["update"]) && apt_get(&install));
    if done && is_there() {
        if let Some(service) = service {
            // systemd starts what is installed whatever the run level; where there is no systemd this does nothing.
            finish(Command::new("systemctl").args(["disable", "--now", service]).stderr(Stdio::null()));
        }
        return Ok(());
    }
    Err(format!(
        "{name} is missing and apt-get could not install it: install it (Debian: `apt-get install {package}`), \
         or point the variables at servers that run: {}",
        variables().join(", ")
    ))
}

fn find_java() -> Option<PathBuf> {
    let home = std::env::var_os("JAVA_HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let others = std::fs::read_dir(JAVAS).into_iter().flatten().flatten().map(|entry| entry.path());
    let inside = |home: PathBuf| home.join("bin/java");
    let mut candidates = home.map(inside).into_iter().chain(["java".into()]).chain(others.map(inside));
    candidates.find(|java| is_java(java))
}

fn is_java(program: &Path) -> bool {
    let output = Command::new(program).arg("-version").stdin(Stdio::null()).output();
    output.is_ok_and(|output| java_version(&String::from_utf8_lossy(&output.stderr)) == Some(JAVA))
}

/// The first number of the version that `java -version` says.
fn java_version(said: &str) -> Option<&str> {
    said.split_once("version \"")?.1.split(['.', '"', '-', '+']).next()
}

fn apt_get(arguments: &[&str]) -> bool {
    let mut command = Command::new("apt-get");
    command.args(["-o", "DPkg::Lock::Timeout=120"]).args(arguments);
    // Package scripts must not start a server of their own.
    finish(command.envs([("DEBIAN_FRONTEND", "noninteractive"), ("RUNLEVEL", "1")]))
}

/// Goes to its end even when we are interrupted: half an installed package is worse than the wait.
fn finish(command: &mut Command) -> bool {
    let Ok(mut child) = command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).spawn() else {
        return false;
    };
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if start.elapsed() < INSTALL_MAX => std::thread::sleep(Duration::from_millis(100)),
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_java_is_its_first_number() {
        let said = "openjdk version \"17.0.15\" 2025-04-15\nOpenJDK Runtime Environment (build 17.0.15+6)";
        assert_eq!(java_version(said), Some("17"));
        assert_eq!(java_version("openjdk version \"21-ea\" 2023-09-19"), Some("21"));
        assert_eq!(java_version("java version \"1.8.0_292\""), Some("1"));
        assert_eq!(java_version("java: not found"), None);
    }
}
