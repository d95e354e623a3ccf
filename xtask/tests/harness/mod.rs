//! Runs the program with a temporary directory, a `cargo` and servers of the test's own.
#![allow(dead_code, reason = "no test file uses all of it")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const WAIT_MAX: Duration = Duration::from_secs(60);

pub(crate) struct Scratch {
    pub(crate) path: PathBuf,
}

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sysd-xtask-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self { path: path.canonicalize().unwrap() }
    }

    /// What the steps run instead of cargo.
    pub(crate) fn fake_cargo(&self, script: &str) {
        self.fake("cargo", script);
    }

    /// A `cargo` whose one test program is this script, and that knows no doc tests.
    pub(crate) fn fake_tests(&self, script: &str) {
        self.fake("program", script);
        let artifact = format!(
            r#"{{"reason":"compiler-artifact","package_id":"path+file:///w#a@0.1.0","manifest_path":"/Cargo.toml","target":{{"kind":["test"],"name":"b"}},"profile":{{"test":true}},"executable":"{}"}}"#,
            self.path.join("program").display(),
        );
        self.fake_cargo(&format!("case \"$*\" in *--no-run*) echo '{artifact}';; esac"));
    }

    pub(crate) fn fake(&self, program: &str, script: &str) {
        // Renamed into place: a file that is still open for writing cannot be run.
        let new = self.path.join(format!("{program}.new"));
        fs::write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, self.path.join(program)).unwrap();
    }

    /// The programs that are no servers and that the tests need.
    pub(crate) fn fake_programs(&self) {
        for program in ["g++", "make", "hledger", "ledger", "bean-check", "bean-query"] {
            self.fake(program, "exit 0");
        }
    }

    /// A Java that runs whatever it is asked for without end, and a Maven that brings what it is asked for.
    pub(crate) fn fake_java(&self) {
        fs::create_dir(self.path.join("endless")).unwrap();
        fs::copy("/bin/sleep", self.path.join("endless/java")).unwrap();
        let version = "echo 'openjdk version \"17.0.1\"' >&2";
        self.fake(
            "java",
            &format!("case \"$*\" in -version) {version};; *) exec \"$SCRATCH/endless/java\" 300;; esac"),
        );
        self.fake_maven("name=${PWD##*/}; IFS=+; for jar in ${name%.*.new}; do echo x > \"lib/$jar.jar\"; done");
    }

    /// It is started in a new directory that has a `lib`.
    pub(crate) fn fake_maven(&self, script: &str) {
        self.fake("mvn", &format!("test \"$1\" = --version && exit\n{script}"));
    }

    /// The program with the fakes before the real ones, to start nothing but what needs Java.
    pub(crate) fn xtask_with_java(&self, arguments: &[&str]) -> Command {
        let mut command = self.xtask(arguments);
        let path = format!("{}:{}", self.path.display(), std::env::var("PATH").unwrap());
        command.env("PATH", path).env("SYSD_CACHE_DIR", self.path.join("cache")).env_remove("JAVA_HOME");
        command.env("SYSD_TEST_REDIS_URL", "redis://127.0.0.1:1/");
        for name in ["DYNAMODB", "CASSANDRA", "KAFKA"] {
            command.env_remove(format!("SYSD_TEST_{name}_URL"));
        }
        command
    }

    /// The program; the only server it has to start is one Redis.
    pub(crate) fn xtask(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command
            .args(arguments)
            .env("TMPDIR", &self.path)
            .env("SCRATCH", &self.path)
            .env("CARGO", self.path.join("cargo"))
            .env_remove("SYSD_TEST_REDIS_URL")
            .env("SYSD_TEST_REDIS_CLUSTER_URL", "redis-cluster://127.0.0.1:1/")
            .env("SYSD_TEST_REDIS_TLS_URL", "rediss://127.0.0.1:1/")
            .env_remove("SYSD_TEST_REDIS_TLS_CA")
            .env("SYSD_TEST_DYNAMODB_URL", "dynamodb://a")
            .env("SYSD_TEST_CASSANDRA_URL", "scylla://127.0.0.1:1/a")
            .env("SYSD_TEST_KAFKA_URL", "kafka://127.0.0.1:1")
            .env("SYSD_TEST_NATS_URL", "nats://127.0.0.1:1")
            .stdin(Stdio::null());
        command
    }

    /// What it prints when it succeeds.
    pub(crate) fn says(&self, arguments: &[&str]) -> String {
        let output = self.xtask(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The pid that a fake cargo wrote.
    pub(crate) fn pid(&self, file: &str) -> i32 {
        let path = self.path.join(file);
        let read = || fs::read_to_string(&path).ok()?.strip_suffix('\n')?.parse().ok();
        wait_until(&format!("{} is written", path.display()), || read().is_some());
        read().unwrap()
    }

    /// All processes whose working directory is here.
    pub(crate) fn servers(&self) -> Vec<i32> {
        let pids =
            fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let here = |pid: &i32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&self.path));
        pids.filter(here).collect()
    }

    /// Those that have become what they were started as: a copy of xtask that is about to, is here already.
    pub(crate) fn started(&self) -> usize {
        let name = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        self.servers().into_iter().filter(|&pid| name(pid).trim() != "xtask").count()
    }

    /// The directories of servers.
    pub(crate) fn directories(&self) -> Vec<String> {
        let names = fs::read_dir(&self.path).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("sysd-servers-")).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // After a failure.
        for pid in self.servers().into_iter().filter_map(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A zombie has no working directory.
pub(crate) fn is_alive(pid: i32) -> bool {
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok()
}

pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < WAIT_MAX, "waited in vain until {what}");
        // real-time: other processes have no clock that could be driven.
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn ended(child: &mut Child) -> ExitStatus {
    wait_until("xtask ends", || child.try_wait().unwrap().is_some());
    child.wait().unwrap()
}
