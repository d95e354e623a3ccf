//! Kafka, one node that is broker and controller (KRaft).

use std::fs;
use std::path::Path;
use std::process::Command;

use super::java::Java;
use super::launch::{Place, Server, answer, free_ports, write};
use super::path_text;

const MAIN: &str = "kafka.Kafka";
/// Sixteen bytes in URL-safe base64. Nodes of one cluster find each other by address; this one meets nobody.
const CLUSTER: &str = "c3lzZC10ZXN0LWthZmthMA";
/// A request's correlation, which its answer repeats.
const TAG: [u8; 4] = *b"sysd";

pub(super) struct Kafka(pub(super) Java);

impl Server for Kafka {
    fn name(&self) -> &'static str {
        "kafka"
    }

    fn find_ports(&self) -> Result<Vec<u16>, String> {
        free_ports(2)
    }

    fn command(&self, place: Place<'_>, directory: &Path, ports: &[u16]) -> Result<Command, String> {
        let data = directory.join("data");
        fs::create_dir(&data).map_err(|error| format!("{}: {error}", data.display()))?;
        write(&directory.join("server.properties"), &properties(path_text(&data)?, ports[0], ports[1]))?;
        // All that formatting writes for one node of the newest version; the tool for it takes as long as the server.
        write(&data.join("meta.properties"), &format!("version=1\ncluster.id={CLUSTER}\nnode.id=1\n"))?;
        let mut command = self.0.command(place, directory, "512m", "")?;
        command.args([MAIN, "server.properties"]);
        Ok(command)
    }

    /// Asks for the versions of its API, which it says once it serves clients.
    fn answers(&self, port: u16) -> bool {
        // Length, key 18, version 0, correlation, no client id.
        let request = [&[0, 0, 0, 10, 0, 18, 0, 0][..], &TAG, &[0xff, 0xff]].concat();
        // Length, correlation, no error.
        answer(port, &request).get(4..10).is_some_and(|said| said[..4] == TAG && said[4..] == [0, 0])
    }

    fn url(&self, port: u16) -> String {
        format!("kafka://127.0.0.1:{port}")
    }
}

/// One node needs no second copy, and few threads and partitions of its own topics: each costs a start. On a machine that is busy its broker
/// may not be heard for a while; a controller that gave it up would take its topics from it.
fn properties(data: &str, port: u16, controller: u16) -> String {
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={data}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=60000
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=16777216
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_and_the_controller_have_a_port_each_and_nothing_is_copied() {
        let text = properties("/a/data", 1_234, 5_678);
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or("");
        assert_eq!(value("listeners"), "PLAINTEXT://127.0.0.1:1234,CONTROLLER://127.0.0.1:5678");
        assert_eq!(value("advertised.listeners"), "PLAINTEXT://127.0.0.1:1234");
        assert_eq!(value("controller.quorum.voters"), "1@127.0.0.1:5678");
        assert_eq!(value("log.dirs"), "/a/data");
        assert!(text.lines().filter(|line| line.contains("replication.factor")).all(|line| line.ends_with("=1")));
    }
}
