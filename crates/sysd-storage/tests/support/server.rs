//! Redis servers of a test's own, to be killed.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START_MAX: Duration = Duration::from_secs(20);
const CLUSTER_MAX: Duration = Duration::from_secs(60);

/// Waits, but not for ever.
pub(crate) fn wait_until(what: &str, within: Duration, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < within, "waited {within:?} in vain until {what}");
        // real-time: other processes are waited for.
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A Redis of the test's own.
pub(crate) struct Private {
    child: Child,
    pub(crate) port: u16,
    directory: PathBuf,
    arguments: Vec<String>,
}

impl Private {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        // Another process may take a port between our finding it free and the server's listening on it.
        for _ in 0..5 {
            let port = free_port();
            let directory = std::env::temp_dir().join(format!("sysd-redis-{}-{port}", std::process::id()));
            std::fs::create_dir(&directory).unwrap();
            if let Some(child) = Self::spawn(port, &directory, &arguments) {
                return Self { child, port, directory, arguments };
            }
            let _ = std::fs::remove_dir_all(&directory);
        }
        panic!("redis-server ended at once, five times")
    }

    fn spawn(port: u16, directory: &Path, arguments: &[String]) -> Option<Child> {
        let mut child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--dir"])
            .arg(directory)
            .args(arguments)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is missing: `cargo xtask test` installs it");
        let mut ended = false;
        wait_until("redis-server answers", START_MAX, || {
            ended = child.try_wait().unwrap().is_some();
            ended || TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        (!ended).then_some(child)
    }

    pub(crate) fn restart(&mut self) {
        self.child = Self::spawn(self.port, &self.directory, &self.arguments).expect("its port is taken");
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn signal(&self, name: &str) {
        super::signal(self.child.id(), name);
    }

    /// From now on it can't save.
    pub(crate) fn lose_directory(&self) {
        std::fs::remove_dir_all(&self.directory).unwrap();
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// What the server answers to a command, as text.
    pub(crate) fn tell(&self, command: &[&str]) -> String {
        let output = Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(command).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A port that nobody listens on, whose Cluster bus port (10,000 higher) is free too.
fn free_port() -> u16 {
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if port.checked_add(10_000).is_some_and(|bus| TcpListener::bind(("127.0.0.1", bus)).is_ok()) {
            return port;
        }
    }
}

/// A Cluster of the test's own: three masters, and a replica each if wanted.
pub(crate) struct PrivateCluster {
    pub(crate) nodes: Vec<Private>,
}

impl PrivateCluster {
    pub(crate) fn start(replicas: usize) -> Self {
        let arguments =
            ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--repl-diskless-sync-delay", "0"];
        let nodes: Vec<_> = (0..3 * (1 + replicas)).map(|_| Private::start(&arguments)).collect();
        let output = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)))
            .args(["--cluster-replicas", &replicas.to_string(), "--cluster-yes"])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let cluster = Self { nodes };
        wait_until("the Cluster is ready", CLUSTER_MAX, || cluster.is_ready(replicas));
        cluster
    }

    fn is_ready(&self, replicas: usize) -> bool {
        self.nodes.iter().all(|node| {
            let info = node.tell(&["CLUSTER", "INFO"]);
            let known = format!("cluster_known_nodes:{}", self.nodes.len());
            let replication = node.tell(&["INFO", "replication"]);
            let served = replicas == 0
                || replication.contains("master_link_status:up")
                || replication.contains(&format!("connected_slaves:{replicas}"));
            info.contains("cluster_state:ok") && info.contains(&known) && served
        })
    }

    pub(crate) fn url(&self) -> String {
        let nodes: Vec<_> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis-cluster://{}/", nodes.join(","))
    }

    /// The index of the master that holds a key's slot.
    pub(crate) fn holder(&self, key: &str) -> usize {
        let moved = |node: &Private| node.tell(&["EXISTS", key]).contains("MOVED");
        self.nodes.iter().position(|node| !moved(node)).expect("nobody holds the slot")
    }
}
