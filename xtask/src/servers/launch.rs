//! Starts servers, several at a time, and knows when each one answers.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::process::{bound, wait_until};

/// A server of the Java machine takes some seconds; many more beside a compiler that has the cores.
const START_MAX: Duration = Duration::from_secs(180);
/// Another process may take a port between our finding it free and the server's listening on it.
const PORT_ATTEMPTS: usize = 5;
/// How much of a log is shown.
const LOG_LINES: usize = 30;

/// Where servers are started, and whether they end with us.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) directory: &'a Path,
    pub(super) bound_to_us: bool,
}

impl Place<'_> {
    /// A program that ends with us where it must.
    pub(super) fn program(self, program: &str) -> Command {
        if self.bound_to_us { bound(program, "KILL") } else { Command::new(program) }
    }
}

/// What it takes to start a server and to see that it is up.
pub(super) trait Server {
    /// What its directory is called.
    fn name(&self) -> &str;

    /// Free ports, as many as it listens on; the first is for clients.
    fn find_ports(&self) -> Result<Vec<u16>, String> {
        free_ports(1)
    }

    /// What to run. `directory` is its own, new and empty: what it needs is written there.
    fn command(&self, place: Place<'_>, directory: &Path, ports: &[u16]) -> Result<Command, String>;

    /// Whether it answers clients.
    fn answers(&self, port: u16) -> bool;

    /// What clients find it by.
    fn url(&self, port: u16) -> String;
}

/// A server under way.
pub(super) struct Starting<'a> {
    server: &'a dyn Server,
    place: Place<'a>,
    directory: PathBuf,
    ports: Vec<u16>,
    child: Child,
    attempts: usize,
    is_up: bool,
}

impl<'a> Starting<'a> {
    /// Call it on the thread that outlives the servers: the kernel ends what is bound to us when this thread ends.
    pub(super) fn spawn(place: Place<'a>, server: &'a dyn Server) -> Result<Self, String> {
        let directory = place.directory.join(server.name());
        let (ports, child) = spawn_in(place, server, &directory)?;
        Ok(Self { server, place, directory, ports, child, attempts: 1, is_up: false })
    }

    /// The port for clients; it may still change until the server is up.
    pub(super) fn port(&self) -> u16 {
        self.ports[0]
    }

    pub(super) fn url(&self) -> String {
        self.server.url(self.port())
    }

    /// Whether it is up. One whose port was taken meanwhile is started anew.
    fn poll(&mut self) -> Result<bool, String> {
        if self.is_up {
            return Ok(true);
        }
        let name = self.server.name();
        let failed = |error: std::io::Error| format!("waiting for {name}: {error}");
        let Some(status) = self.child.try_wait().map_err(failed)? else {
            // A foreign server on this port would answer too.
            self.is_up = listens(self.child.id(), self.port()) && self.server.answers(self.port());
            return Ok(self.is_up);
        };
        let log = self.log();
        if !says_port_taken(&log) || self.attempts == PORT_ATTEMPTS {
            return Err(format!("{name} ended at once with {status}:\n{}", last_lines(&log)));
        }
        self.attempts += 1;
        fs::remove_dir_all(&self.directory).map_err(failed)?;
        (self.ports, self.child) = spawn_in(self.place, self.server, &self.directory)?;
        Ok(false)
    }

    fn log(&self) -> String {
        fs::read(self.directory.join("log")).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
    }
}

fn spawn_in(place: Place<'_>, server: &dyn Server, directory: &Path) -> Result<(Vec<u16>, Child), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", directory.display());
    fs::create_dir(directory).map_err(failed)?;
    let ports = server.find_ports()?;
    let mut command = server.command(place, directory, &ports)?;
    let log = fs::File::create(directory.join("log")).map_err(failed)?;
    let child = command
        // It is known as ours by this directory from its first moment.
        .current_dir(directory)
        .process_group(0)
        .stdin(Stdio::null())
        .stderr(log.try_clone().map_err(failed)?)
        .stdout(log)
        .spawn()
        .map_err(|error| format!("{} did not start: {error}", server.name()))?;
    Ok((ports, child))
}

/// Waits until all are up: about as long as the slowest takes.
pub(super) fn wait_for(servers: &mut [Starting<'_>]) -> Result<(), String> {
    let waited = wait_until("all servers answer", START_MAX, || {
        let mut all = true;
        for server in servers.iter_mut() {
            all &= server.poll()?;
        }
        Ok(all)
    });
    waited.map_err(|message| match servers.iter().find(|server| !server.is_up) {
        Some(late) if message.contains("in vain") => {
            let (name, port) = (late.server.name(), late.port());
            format!("{message}; {name} on port {port} says:\n{}", last_lines(&late.log()))
        }
        _ => message,
    })
}

fn says_port_taken(log: &str) -> bool {
    let log = log.to_lowercase();
    ["already in use", "in use by another process", "failed to bind", "could not create server tcp listening socket"]
        .iter()
        .any(|words| log.contains(words))
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// Ports of 127.0.0.1 that nobody listens on, all different.
pub(super) fn free_ports(count: usize) -> Result<Vec<u16>, String> {
    let failed = |error: std::io::Error| format!("no free port: {error}");
    // Each is held until all are found.
    let held: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<Result<_, _>>().map_err(failed)?;
    held.iter().map(|listener| Ok(listener.local_addr().map_err(failed)?.port())).collect()
}

/// Whether this very process listens on the port.
fn listens(pid: u32, port: u16) -> bool {
    let table = |name: &str| fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default();
    let sockets: Vec<String> =
        ["tcp", "tcp6"].into_iter().flat_map(|name| listening_sockets(&table(name), port)).collect();
    if sockets.is_empty() {
        return false;
    }
    let opened = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    opened.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|target| {
        target.to_str().is_some_and(|target| sockets.iter().any(|socket| target == format!("socket:[{socket}]")))
    })
}

/// The inodes of the sockets that listen on the port, from the kernel's table (proc(5), `/proc/net/tcp`).
fn listening_sockets(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let inode = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (_, local) = words.get(1)?.rsplit_once(':')?;
        let here = u16::from_str_radix(local, 16) == Ok(port) && *words.get(3)? == LISTEN;
        here.then(|| words.get(9).map(|&inode| inode.to_owned()))?
    };
    table.lines().skip(1).filter_map(inode).collect()
}

/// The first bytes of a server's answer, none if there is no answer.
pub(super) fn answer(port: u16, request: &[u8]) -> Vec<u8> {
    let ask = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(request)?;
        let mut buffer = vec![0; 4_096];
        let length = stream.read(&mut buffer)?;
        buffer.truncate(length);
        Ok::<_, std::io::Error>(buffer)
    };
    ask().unwrap_or_default()
}

/// Writes a file that a server is to read.
pub(super) fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_silent_port_is_no_answer() {
        assert_eq!(answer(free_ports(1).unwrap()[0], b"PING\r\n"), b"");
    }

    #[test]
    fn free_ports_differ() {
        let mut ports = free_ports(20).unwrap();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 20);
    }

    #[test]
    fn who_listens_is_known() {
        let ours = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = ours.local_addr().unwrap().port();
        assert!(listens(std::process::id(), port));
        // Our parent is another process; it neither listens there nor is it us.
        assert!(!listens(std::os::unix::process::parent_id(), port));
        drop(ours);
        assert!(!listens(std::process::id(), port));
    }

    #[test]
    fn only_sockets_that_listen_on_the_port_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
                     0: 0100007F:0019 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0\n\
                     1: 0100007F:0019 0100007F:1000 01 00000000:00000000 00:00000000 00000000     0        0 12 1 0\n\
                     2: 0100007F:1900 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 13 1 0\n\
                     3: torn";
        assert_eq!(listening_sockets(table, 25), ["11"]);
    }

    /// Listens nowhere: it ends at once and says why.
    struct Broken(&'static str);

    impl Server for Broken {
        fn name(&self) -> &'static str {
            "broken"
        }

        fn command(&self, place: Place<'_>, directory: &Path, _: &[u16]) -> Result<Command, String> {
            let mut command = place.program("sh");
            let count = directory.parent().unwrap().join("count");
            command.args(["-c", &format!("echo >> {}; echo {}; exit 3", count.display(), self.0)]);
            Ok(command)
        }

        fn answers(&self, _: u16) -> bool {
            true
        }

        fn url(&self, _: u16) -> String {
            String::new()
        }
    }

    #[test]
    fn only_a_taken_port_is_a_reason_to_start_anew() {
        for (says, attempts) in [("Address already in use", PORT_ATTEMPTS), ("no memory", 1)] {
            let path = std::env::temp_dir().join(format!("sysd-launch-{attempts}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            let place = Place { directory: &path, bound_to_us: true };
            let started = Broken(says);
            let message = wait_for(&mut [Starting::spawn(place, &started).unwrap()]).err().unwrap();
            let count = fs::read_to_string(path.join("count")).unwrap().len();
            fs::remove_dir_all(&path).unwrap();
            assert!(message.contains("broken ended at once") && message.contains(says), "{message}");
            assert_eq!(count, attempts);
        }
    }
}
