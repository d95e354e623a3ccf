//! Cassandra, one node.

use std::path::Path;
use std::process::Command;

use super::java::Java;
use super::launch::{Place, Server, answer, free_ports, write};
use super::path_text;

const MAIN: &str = "org.apache.cassandra.service.CassandraDaemon";

/// What Java 17 must let it see of its own modules.
const EXPORTS: [&str; 9] = [
    "java.base/jdk.internal.misc",
    "java.base/jdk.internal.ref",
    "java.base/sun.nio.ch",
    "java.base/java.lang.ref",
    "java.management.rmi/com.sun.jmx.remote.internal.rmi",
    "java.rmi/sun.rmi.registry",
    "java.rmi/sun.rmi.server",
    "java.sql/java.sql",
    "jdk.unsupported/sun.misc",
];
const OPENS: [&str; 17] = [
    "java.base/java.io",
    "java.base/java.lang",
    "java.base/java.lang.module",
    "java.base/java.lang.reflect",
    "java.base/java.net",
    "java.base/java.nio",
    "java.base/java.util",
    "java.base/java.util.concurrent",
    "java.base/java.util.concurrent.atomic",
    "java.base/jdk.internal.loader",
    "java.base/jdk.internal.math",
    "java.base/jdk.internal.module",
    "java.base/jdk.internal.ref",
    "java.base/jdk.internal.reflect",
    "java.base/jdk.internal.util.jar",
    "java.base/sun.nio.ch",
    "jdk.management/com.sun.management.internal",
];

/// One node waits for nobody; its system tables need not outlive it.
const PROPERTIES: [&str; 6] = [
    "cassandra-foreground=yes",
    "cassandra.skip_wait_for_gossip_to_settle=0",
    "cassandra.ring_delay_ms=0",
    "cassandra.superuser_setup_delay_ms=0",
    "cassandra.unsafesystem=true",
    "jdk.attach.allowAttachSelf=true",
];

const LOGBACK: &str = "\
<configuration>
  <appender name=\"STDOUT\" class=\"ch.qos.logback.core.ConsoleAppender\">
    <encoder><pattern>%-5level %date{HH:mm:ss.SSS} %msg%n</pattern></encoder>
  </appender>
  <root level=\"INFO\"><appender-ref ref=\"STDOUT\"/></root>
</configuration>
";

pub(super) struct Cassandra(pub(super) Java);

impl Server for Cassandra {
    fn name(&self) -> &'static str {
        "cassandra"
    }

    fn find_ports(&self) -> Result<Vec<u16>, String> {
        free_ports(2)
    }

    fn command(&self, place: Place<'_>, directory: &Path, ports: &[u16]) -> Result<Command, String> {
        let at = path_text(directory)?;
        write(&directory.join("cassandra.yaml"), &yaml(at, ports[0], ports[1]))?;
        write(&directory.join("logback.xml"), LOGBACK)?;
        let mut command = self.0.command(place, directory, "768m", &format!("{at}:"))?;
        command.arg("-Xss512k");
        for (option, packages) in [("--add-exports", EXPORTS.as_slice()), ("--add-opens", OPENS.as_slice())] {
            command.args(packages.iter().flat_map(|package| [option.to_owned(), format!("{package}=ALL-UNNAMED")]));
        }
        // Without a port of its own for JMX there is no JMX.
        command.args(PROPERTIES.map(|property| format!("-D{property}")));
        command.arg(format!("-Dcassandra.config=file://{at}/cassandra.yaml"));
        command.arg(format!("-Dcassandra.storagedir={at}"));
        command.arg(format!("-Dlogback.configurationFile={at}/logback.xml"));
        command.arg(MAIN);
        Ok(command)
    }

    /// Asks for the options of the protocol, which it says once it serves clients.
    fn answers(&self, port: u16) -> bool {
        const SUPPORTED: u8 = 6;
        // Version 4, no flags, stream 0, OPTIONS, no body.
        answer(port, &[4, 0, 0, 0, 5, 0, 0, 0, 0]).get(4) == Some(&SUPPORTED)
    }

    fn url(&self, port: u16) -> String {
        format!("scylla://127.0.0.1:{port}/sysd_test")
    }
}

/// Little memory, no snapshot of a dropped table, and limits that busy cores don't reach.
fn yaml(at: &str, port: u16, storage_port: u16) -> String {
    format!(
        "cluster_name: sysd-test
num_tokens: 1
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
endpoint_snitch: SimpleSnitch
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters:
      - seeds: \"127.0.0.1:{storage_port}\"
listen_address: 127.0.0.1
rpc_address: 127.0.0.1
native_transport_port: {port}
storage_port: {storage_port}
start_native_transport: true
commitlog_sync: periodic
commitlog_sync_period: 10000ms
data_file_directories: [\"{at}/data\"]
commitlog_directory: \"{at}/commitlog\"
saved_caches_directory: \"{at}/saved_caches\"
hints_directory: \"{at}/hints\"
cdc_raw_directory: \"{at}/cdc\"
memtable_heap_space: 128MiB
memtable_offheap_space: 64MiB
auto_snapshot: false
hinted_handoff_enabled: false
read_request_timeout: 10s
range_request_timeout: 10s
write_request_timeout: 10s
cas_contention_timeout: 10s
request_timeout: 10s
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_is_its_own_seed_and_keeps_to_its_directory() {
        let text = yaml("/a b", 1_234, 5_678);
        for line in ["native_transport_port: 1234", "storage_port: 5678", "      - seeds: \"127.0.0.1:5678\""] {
            assert!(text.lines().any(|other| other == line), "{line}");
        }
        let places = text.lines().filter(|line| line.contains("_director"));
        assert_eq!(places.filter(|line| line.contains("\"/a b/")).count(), 5);
    }
}
