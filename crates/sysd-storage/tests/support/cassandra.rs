//! Cassandra of a test's own, one node or three, to be killed.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sysd_core::{Durability, ErrorKind, Result, SystemClock};
use sysd_storage::{ScyllaConfig, ScyllaSchema, ScyllaStore};

use super::server::wait_until;
use super::variable;

const START_MAX: Duration = Duration::from_secs(300);
/// Evenly over the ring, so that nothing is moved while they start.
const TOKENS: [i64; 3] = [i64::MIN, -3_074_457_345_618_258_603, 3_074_457_345_618_258_602];

const EXPORTS: [&str; 9] = [
    "java.base/jdk.internal.misc",
    "java.base/jdk.internal.ref",
    "java.base/sun.nio.ch",
    "java.management.rmi/com.sun.jmx.remote.internal.rmi",
    "java.rmi/sun.rmi.registry",
    "java.rmi/sun.rmi.server",
    "java.sql/java.sql",
    "java.base/java.lang.ref",
    "jdk.unsupported/sun.misc",
];
const OPENS: [&str; 17] = [
    "java.base/java.lang.module",
    "java.base/jdk.internal.loader",
    "java.base/jdk.internal.ref",
    "java.base/jdk.internal.reflect",
    "java.base/jdk.internal.math",
    "java.base/jdk.internal.module",
    "java.base/jdk.internal.util.jar",
    "java.base/sun.nio.ch",
    "java.base/java.io",
    "java.base/java.nio",
    "java.base/java.lang",
    "java.base/java.util",
    "java.base/java.util.concurrent",
    "java.base/java.util.concurrent.atomic",
    "java.base/java.net",
    "java.base/java.lang.reflect",
    "jdk.management/com.sun.management.internal",
];

const LOGBACK: &str = r#"<configuration>
<appender name="OUT" class="ch.qos.logback.core.ConsoleAppender"><encoder><pattern>%-5level %date %msg%n</pattern></encoder></appender>
<root level="INFO"><appender-ref ref="OUT"/></root>
</configuration>
"#;

/// A node: all of a cluster have the same ports, each an address of its own.
pub(crate) struct Node {
    child: Option<Child>,
    address: String,
    port: u16,
    directory: PathBuf,
}

impl Node {
    fn spawn(&mut self) {
        let library = variable("SYSD_TEST_CASSANDRA_LIB");
        let directory = self.directory.display();
        let log = std::fs::File::create(self.directory.join("log")).unwrap();
        let mut command = Command::new("java");
        command.args(["-Xms512m", "-Xmx512m", "-Xss512k", "-XX:+UseSerialGC"]);
        for module in EXPORTS {
            command.args(["--add-exports".to_owned(), format!("{module}=ALL-UNNAMED")]);
        }
        for module in OPENS {
            command.args(["--add-opens".to_owned(), format!("{module}=ALL-UNNAMED")]);
        }
        command
            .arg(format!("-Dcassandra.config=file://{directory}/cassandra.yaml"))
            .arg(format!("-Dcassandra.storagedir={directory}"))
            .arg(format!("-Dlogback.configurationFile={directory}/logback.xml"))
            .args(["-Dcassandra-foreground=yes", "-Djdk.attach.allowAttachSelf=true"])
            .args(["-Dcassandra.skip_wait_for_gossip_to_settle=0", "-Dcassandra.ring_delay_ms=2000"])
            .args(["-cp", &format!("{directory}:{library}/*"), "org.apache.cassandra.service.CassandraDaemon"])
            .stdout(log)
            .stderr(Stdio::null());
        self.child = Some(command.spawn().expect("java is missing: install a JDK 17"));
        wait_until("Cassandra listens", START_MAX, || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
            assert!(ended.is_none(), "Cassandra ended: {}", &log[log.len().saturating_sub(4_000)..]);
            // It says so a little before it does.
            log.contains("Starting listening for CQL clients")
                && TcpStream::connect((self.address.as_str(), self.port)).is_ok()
        });
    }

    /// By SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(crate) fn restart(&mut self) {
        self.spawn();
    }

    pub(crate) fn signal(&self, name: &str) {
        super::signal(self.child.as_ref().unwrap().id(), name);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Nodes that know each other; each syncs its commit log before it answers.
pub(crate) struct Cassandra {
    pub(crate) nodes: Vec<Node>,
}

impl Cassandra {
    /// One node, or three.
    pub(crate) fn start(count: usize) -> Self {
        let addresses: Vec<_> = (1..=count).map(|node| format!("127.0.0.{node}")).collect();
        let (port, storage_port) = (free_port(&addresses), free_port(&addresses));
        let mut cluster = Self { nodes: Vec::new() };
        for (address, token) in addresses.iter().zip(TOKENS) {
            let directory =
                std::env::temp_dir().join(format!("sysd-cassandra-{}-{address}-{port}", std::process::id()));
            std::fs::create_dir(&directory).unwrap();
            configure(&directory, address, port, storage_port, token);
            let mut node = Node { child: None, address: address.clone(), port, directory };
            node.spawn();
            cluster.nodes.push(node);
        }
        cluster
    }

    pub(crate) fn config(&self) -> ScyllaConfig {
        let nodes = self.nodes.iter().map(|node| format!("{}:{}", node.address, node.port));
        let config = ScyllaConfig { durability: Durability::Durable, ..ScyllaConfig::new(nodes, "faults") };
        // Three that have just started on a busy machine take their time.
        ScyllaConfig { connect_timeout: START_MAX, ..config }
    }

    /// Makes the schema, each record on every node, and connects.
    pub(crate) async fn connect(&self, config: ScyllaConfig) -> ScyllaStore {
        let replicas = u16::try_from(self.nodes.len()).unwrap();
        let patient = ScyllaConfig { request_timeout: Duration::from_secs(30), ..config.clone() };
        // Nodes that have just started may not know of each other, or of each other's keyspaces, yet: what is there stays.
        let start = std::time::Instant::now();
        while let Err(error) = ScyllaStore::create_schema(&patient, &ScyllaSchema::replicated(replicas)).await {
            assert!(start.elapsed() < START_MAX, "{error}");
            // real-time: the nodes gossip.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let store = ScyllaStore::connect_with(config, SystemClock).await.unwrap();
        ready(&store).await;
        store
    }
}

/// Waits until conditional writes succeed.
pub(crate) async fn ready(store: &ScyllaStore) {
    use sysd_core::{Key, Space, Store as _};
    const SPACE: Space = Space::conditional("ready");
    let start = std::time::Instant::now();
    loop {
        let found: Result<_> = store.get(Key::lone(SPACE, b"k")).await;
        match found {
            Ok(_) => return,
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{error}");
                assert!(start.elapsed() < START_MAX, "not ready: {error}");
            }
        }
        // real-time: another process is waited for.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn configure(directory: &Path, address: &str, port: u16, storage_port: u16, token: i64) {
    let at = directory.display();
    let yaml = format!(
        "cluster_name: sysd-test
num_tokens: 1
initial_token: {token}
auto_bootstrap: false
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters:
      - seeds: \"127.0.0.1:{storage_port}\"
listen_address: {address}
rpc_address: {address}
native_transport_port: {port}
storage_port: {storage_port}
start_native_transport: true
endpoint_snitch: SimpleSnitch
commitlog_sync: batch
data_file_directories: [{at}/data]
commitlog_directory: {at}/commitlog
saved_caches_directory: {at}/saved_caches
hints_directory: {at}/hints
cdc_raw_directory: {at}/cdc
memtable_heap_space: 64MiB
memtable_offheap_space: 64MiB
"
    );
    std::fs::write(directory.join("cassandra.yaml"), yaml).unwrap();
    std::fs::write(directory.join("logback.xml"), LOGBACK).unwrap();
}

/// A port that nobody listens on at any of the addresses.
fn free_port(addresses: &[String]) -> u16 {
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if addresses.iter().all(|address| TcpListener::bind((address.as_str(), port)).is_ok()) {
            return port;
        }
    }
}
