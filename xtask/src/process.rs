//! Programs in process groups of their own: whatever ends us, they don't stay behind.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::interrupt;

const POLL: Duration = Duration::from_millis(20);
/// What a group gets to end by itself, before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// Waits until it holds; an error at the deadline, when we are interrupted, and when the question itself fails.
pub(crate) fn wait_until(
    what: &str,
    limit: Duration,
    mut holds: impl FnMut() -> Result<bool, String>,
) -> Result<(), String> {
    let start = Instant::now();
    while !holds()? {
        interrupt::check()?;
        if start.elapsed() > limit {
            return Err(format!("waited {} s in vain until {what}", limit.as_secs()));
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// A program that the kernel ends with this signal when we end, were it by SIGKILL.
pub(crate) fn bound(program: &str, signal: &str) -> Command {
    if !cfg!(target_os = "linux") {
        return Command::new(program);
    }
    // Whoever ended before the kernel was asked for this is not missed any more: then there is nothing to start.
    let unless_orphaned = r#"[ "$PPID" = "$0" ] && exec "$@"; exit 1"#;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", signal, "/bin/sh", "-c", unless_orphaned, &std::process::id().to_string(), program]);
    command
}

/// Runs a program to its end.
///
/// At the deadline, or when we are interrupted, it is asked to end and then killed, with all that it started.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Result<ExitStatus, String> {
    let mut group = Group::start(command)?;
    let ended = wait_until(&format!("{} ended", group.name), limit, || group.has_ended());
    let status = group.end();
    ended.and(status)
}

/// A program that was started, the head of a process group, so that a Ctrl-C meets us alone.
#[derive(Debug)]
pub(crate) struct Group {
    name: String,
    child: Child,
    is_reaped: bool,
}

impl Group {
    pub(crate) fn start(command: &mut Command) -> Result<Self, String> {
        let name = command.get_program().to_string_lossy().into_owned();
        forget_own_package(command);
        let start_failed = |error| format!("{name} did not start: {error}");
        let child = command.process_group(0).stdin(Stdio::null()).spawn().map_err(start_failed)?;
        Ok(Self { name, child, is_reaped: false })
    }

    pub(crate) fn has_ended(&self) -> Result<bool, String> {
        has_ended(Pid::from_child(&self.child))
    }

    /// Asks the whole group to end; does not wait.
    pub(crate) fn ask_to_end(&self) {
        self.signal(Signal::TERM);
    }

    /// What is left of the group is killed. A head that has not ended yet is asked to, and gets its time.
    pub(crate) fn end(&mut self) -> Result<ExitStatus, String> {
        if self.has_ended() != Ok(true) {
            self.ask_to_end();
            let start = Instant::now();
            while start.elapsed() < GRACE && self.has_ended() == Ok(false) {
                std::thread::sleep(POLL);
            }
        }
        self.signal(Signal::KILL);
        self.is_reaped = true;
        self.child.wait().map_err(|error| format!("waiting for {}: {error}", self.name))
    }

    fn signal(&self, signal: Signal) {
        // Once its head is reaped, another group can bear its number.
        if !self.is_reaped {
            // The only failure is that nobody is left.
            let _ = kill_process_group(Pid::from_child(&self.child), signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.is_reaped {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// `cargo run` told us about our own package. A cargo under us must not hear of it: build scripts that look at these variables
/// would run anew, with all that depends on them, at each change between `cargo xtask` and cargo by hand. What the command
/// names itself stays: a test program is told of its own package.
fn forget_own_package(command: &mut Command) {
    let ours = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let named: Vec<OsString> = command.get_envs().map(|(name, _)| name.to_owned()).collect();
    for name in ours.filter(|name| !named.iter().any(|other| other == name.as_str())) {
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
}

fn has_ended(pid: Pid) -> Result<bool, String> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match waitid(WaitId::Pid(pid), options) {
        Ok(status) => Ok(status.is_some()),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(format!("waiting for {pid:?}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn says_how_a_program_ended() {
        assert_eq!(run(&mut shell("exit 3"), LONG).map(|status| status.code()), Ok(Some(3)));
        let message = run(&mut Command::new("no-such-program"), LONG).err().unwrap_or_default();
        assert!(message.contains("no-such-program did not start"), "{message}");
    }

    #[test]
    fn a_program_that_does_not_end_is_ended_at_the_deadline() {
        let start = Instant::now();
        let message = run(&mut shell("sleep 60 & wait"), Duration::from_millis(50)).err().unwrap_or_default();
        assert!(message.contains("in vain until sh ended"), "{message}");
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn what_the_head_leaves_behind_ends_with_it() {
        let directory = std::env::temp_dir().join(format!("sysd-process-{}", std::process::id()));
        let script = format!("sleep 60 & echo $! > {}", directory.display());
        assert!(run(&mut shell(&script), LONG).is_ok_and(|status| status.success()));
        let left = std::fs::read_to_string(&directory).unwrap_or_default();
        let _ = std::fs::remove_file(&directory);
        let cwd = format!("/proc/{}/cwd", left.trim());
        // A zombie has no working directory.
        let gone = wait_until("it ends", LONG, || Ok(std::fs::read_link(&cwd).is_err()));
        assert_eq!(gone, Ok(()));
        assert!(!left.trim().is_empty());
    }
}
