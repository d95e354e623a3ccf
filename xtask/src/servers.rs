//! Real servers for the tests: on free ports of 127.0.0.1, data in a temporary directory, stopped by pid.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const START_MAX: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);
const CLUSTER_NODES: usize = 3;

/// What tests find the servers by.
const REDIS_URL: &str = "SYSD_TEST_REDIS_URL";
const CLUSTER_URL: &str = "SYSD_TEST_REDIS_CLUSTER_URL";

/// Servers that this process or an earlier one started.
#[derive(Debug, Default)]
pub(crate) struct Servers {
    directory: PathBuf,
    pids: Vec<u32>,
    environment: Vec<(String, String)>,
}

/// Stops what it started when it goes out of scope, also while a panic unwinds.
#[derive(Debug)]
pub(crate) struct Running(Servers);

impl Running {
    /// The variables that the tests are given.
    pub(crate) fn environment(&self) -> &[(String, String)] {
        &self.0.environment
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(message) = self.0.stop() {
            eprintln!("xtask: {message}");
        }
    }
}

/// Starts what the environment does not point at already; the servers end with this process, however it ends.
pub(crate) fn start_for_tests() -> Result<Running, String> {
    Servers::start(true).map(Running)
}

/// `cargo xtask servers up|down|status`.
pub(crate) fn by_hand(root: &Path, command: &str) -> Result<(), String> {
    let state = root.join("target/xtask-servers");
    let known = fs::read_to_string(&state).ok().map(|text| Servers::parse(&text));
    match (command, known) {
        ("up", Some(servers)) if servers.alive() > 0 => {
            Err(format!("{} servers run already; `cargo xtask servers down` stops them", servers.alive()))
        }
        ("up", _) => {
            let servers = Servers::start(false)?;
            fs::create_dir_all(root.join("target")).map_err(|error| format!("target: {error}"))?;
            if let Err(error) = fs::write(&state, servers.to_text()) {
                servers.stop()?;
                return Err(format!("{}: {error}", state.display()));
            }
            for (name, value) in &servers.environment {
                println!("export {name}={value}");
            }
            Ok(())
        }
        ("down", Some(servers)) => {
            servers.stop()?;
            fs::remove_file(&state).map_err(|error| format!("{}: {error}", state.display()))
        }
        ("down", None) => Err("no servers were started from here".to_owned()),
        ("status", Some(servers)) => {
            println!("{} of {} servers run", servers.alive(), servers.pids.len());
            for (name, value) in &servers.environment {
                println!("export {name}={value}");
            }
            Ok(())
        }
        ("status", None) => {
            println!("no servers were started from here");
            Ok(())
        }
        (other, _) => Err(format!("servers takes up, down or status, not {other}")),
    }
}

impl Servers {
    fn start(bound_to_us: bool) -> Result<Self, String> {
        let mut servers = Self::default();
        if std::env::var_os(REDIS_URL).is_some() && std::env::var_os(CLUSTER_URL).is_some() {
            return Ok(servers);
        }
        install_redis()?;
        servers.directory = std::env::temp_dir().join(format!("sysd-servers-{}", std::process::id()));
        fs::create_dir(&servers.directory).map_err(|error| format!("{}: {error}", servers.directory.display()))?;
        if let Err(message) = servers.start_redis(bound_to_us) {
            servers.stop()?;
            return Err(message);
        }
        Ok(servers)
    }

    fn start_redis(&mut self, bound_to_us: bool) -> Result<(), String> {
        if std::env::var_os(REDIS_URL).is_none() {
            let port = self.start_node("redis", &["--save", ""], bound_to_us)?;
            self.environment.push((REDIS_URL.to_owned(), format!("redis://127.0.0.1:{port}/")));
        }
        if std::env::var_os(CLUSTER_URL).is_none() {
            let arguments = ["--save", "", "--cluster-enabled", "yes", "--cluster-node-timeout", "1000"];
            let mut nodes = Vec::new();
            for at in 0..CLUSTER_NODES {
                let port = self.start_node(&format!("cluster-{at}"), &arguments, bound_to_us)?;
                nodes.push(format!("127.0.0.1:{port}"));
            }
            create_cluster(&nodes)?;
            self.environment.push((CLUSTER_URL.to_owned(), format!("redis-cluster://{}/", nodes.join(","))));
        }
        Ok(())
    }

    fn start_node(&mut self, name: &str, arguments: &[&str], bound_to_us: bool) -> Result<u16, String> {
        let directory = self.directory.join(name);
        fs::create_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        let log = fs::File::create(directory.join("log")).map_err(|error| format!("the log of {name}: {error}"))?;
        let port = free_port()?;
        // `setpriv` lets the kernel end the server with us, whatever ends us.
        let mut command = if bound_to_us { Command::new("setpriv") } else { Command::new("redis-server") };
        if bound_to_us {
            command.args(["--pdeathsig", "KILL", "redis-server"]);
        }
        let child = command
            .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--dir"])
            .arg(&directory)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("redis-server did not start: {error}"))?;
        self.pids.push(child.id());
        wait_until(&format!("{name} on port {port} answers"), || answer(port, "PING").starts_with("+PONG"))?;
        Ok(port)
    }

    fn alive(&self) -> usize {
        self.pids.iter().filter(|&&pid| self.is_ours(pid)).count()
    }

    /// Whether the pid is still a server of this directory: pids are used again.
    fn is_ours(&self, pid: u32) -> bool {
        let ours = fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&self.directory));
        let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let zombie = fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "));
        ours && command.trim() == "redis-server" && !zombie
    }

    fn stop(&self) -> Result<(), String> {
        for &pid in self.pids.iter().filter(|&&pid| self.is_ours(pid)) {
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        }
        wait_until("the servers end", || self.alive() == 0)?;
        if self.directory.as_os_str().is_empty() || !self.directory.exists() {
            return Ok(());
        }
        fs::remove_dir_all(&self.directory).map_err(|error| format!("{}: {error}", self.directory.display()))
    }

    fn to_text(&self) -> String {
        let mut text = format!("directory {}\n", self.directory.display());
        for pid in &self.pids {
            let _ = writeln!(text, "pid {pid}");
        }
        for (name, value) in &self.environment {
            let _ = writeln!(text, "environment {name} {value}");
        }
        text
    }

    fn parse(text: &str) -> Self {
        let mut servers = Self::default();
        for line in text.lines() {
            match line.splitn(3, ' ').collect::<Vec<_>>().as_slice() {
                ["directory", ..] => servers.directory = line["directory ".len()..].into(),
                ["pid", pid] => servers.pids.extend(pid.parse::<u32>()),
                ["environment", name, value] => {
                    servers.environment.push(((*name).to_owned(), (*value).to_owned()));
                }
                _ => {}
            }
        }
        servers
    }
}

fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

fn install_redis() -> Result<(), String> {
    if is_installed("redis-server") && is_installed("redis-cli") {
        return Ok(());
    }
    println!("redis-server is missing: installing it with apt-get");
    let apt = |arguments: &[&str]| {
        Command::new("apt-get")
            .args(arguments)
            // Package scripts must not start a server of their own.
            .envs([("DEBIAN_FRONTEND", "noninteractive"), ("RUNLEVEL", "1")])
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    let install = ["install", "-y", "--no-install-recommends", "redis-server"];
    let done = apt(&install) || (apt(&["update"]) && apt(&install));
    if done && is_installed("redis-server") {
        return Ok(());
    }
    Err(format!(
        "redis-server is missing and apt-get could not install it: install it (Debian: `apt-get install redis-server`), \
         or point {REDIS_URL} and {CLUSTER_URL} at servers that run"
    ))
}

/// A port that nobody listens on, whose cluster bus port (10,000 higher) is free too.
fn free_port() -> Result<u16, String> {
    for _ in 0..100 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(|error| format!("no free port: {error}"))?;
        let port = listener.local_addr().map_err(|error| format!("no free port: {error}"))?.port();
        let bus = port.checked_add(10_000);
        if bus.is_some_and(|bus| TcpListener::bind(("127.0.0.1", bus)).is_ok()) {
            return Ok(port);
        }
    }
    Err("found no free port below 55536 whose cluster bus port is free too".to_owned())
}

fn create_cluster(nodes: &[String]) -> Result<(), String> {
    let output = Command::new("redis-cli")
        .args(["--cluster", "create"])
        .args(nodes)
        .arg("--cluster-yes")
        .output()
        .map_err(|error| format!("redis-cli did not start: {error}"))?;
    if !output.status.success() {
        return Err(format!("redis-cli --cluster create failed: {}", String::from_utf8_lossy(&output.stdout)));
    }
    let ready = |node: &String| {
        let port = node.rsplit(':').next().and_then(|port| port.parse().ok());
        port.is_some_and(|port| {
            let info = answer(port, "CLUSTER INFO");
            info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
        })
    };
    wait_until("every node of the cluster is ready", || nodes.iter().all(ready))
}

/// The first bytes of a server's answer, empty if there is none.
fn answer(port: u16, command: &str) -> String {
    let ask = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(format!("{command}\r\n").as_bytes())?;
        let mut buffer = [0; 4_096];
        let length = stream.read(&mut buffer)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    ask().unwrap_or_default()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) -> Result<(), String> {
    let start = Instant::now();
    while !holds() {
        if start.elapsed() > START_MAX {
            return Err(format!("waited {} s in vain until {what}", START_MAX.as_secs()));
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_file_says_all_that_is_needed_to_stop() {
        let environment = vec![(REDIS_URL.to_owned(), "redis://127.0.0.1:1/".to_owned())];
        let servers = Servers { directory: "/a b/c".into(), pids: vec![1, 2], environment };
        let read = Servers::parse(&servers.to_text());
        assert_eq!(format!("{read:?}"), format!("{servers:?}"));
    }

    #[test]
    fn never_stops_a_process_of_somebody_else() {
        let us = std::process::id();
        let servers = Servers { directory: "/nowhere".into(), pids: vec![us, u32::MAX], ..Servers::default() };
        assert_eq!(servers.alive(), 0);
        assert_eq!(servers.stop(), Ok(()));
    }

    #[test]
    fn a_wait_ends_and_a_silent_port_is_no_answer() {
        assert_eq!(wait_until("now", || true), Ok(()));
        assert_eq!(free_port().map(|port| answer(port, "PING")), Ok(String::new()));
    }
}
