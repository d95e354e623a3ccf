//! Installs the servers where that is possible.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::VARIABLES;

const INSTALL_MAX: Duration = Duration::from_secs(600);

fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

pub(super) fn redis() -> Result<(), String> {
    if is_installed("redis-server") && is_installed("redis-cli") {
        return Ok(());
    }
    eprintln!("redis-server is missing: installing it with apt-get");
    let install = ["install", "-y", "--no-install-recommends", "redis-server"];
    let done = apt_get(&install) || (apt_get(&["update"]) && apt_get(&install));
    if done && is_installed("redis-server") && is_installed("redis-cli") {
        // systemd starts what is installed whatever the run level; where there is no systemd this does nothing.
        let service = ["disable", "--now", "redis-server.service"];
        finish(Command::new("systemctl").args(service).stderr(Stdio::null()));
        return Ok(());
    }
    Err(format!(
        "redis-server is missing and apt-get could not install it: install it (Debian: `apt-get install redis-server`), \
         or point the variables at servers that run: {}",
        VARIABLES.join(", ")
    ))
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
