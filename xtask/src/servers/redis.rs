//! Redis: one node, a Cluster of three masters with a replica each, and one node that speaks TLS only.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::certificate::Certificate;
use super::launch::{Place, Server, Starting, answer, free_ports, wait_for};
use crate::process::wait_until;

const CLUSTER_MAX: Duration = Duration::from_secs(60);
const MASTERS: usize = 3;
const NODES: usize = 2 * MASTERS;
/// Two busy cores stall a node for a second now and then; that is no failure. Replicas copy their master at once.
const CLUSTER_NODE: &[&str] =
    &["--cluster-enabled", "yes", "--cluster-node-timeout", "5000", "--repl-diskless-sync-delay", "0"];

/// How a node is spoken to.
enum Wire {
    Plain,
    Tls(Certificate),
}

struct Node {
    name: String,
    arguments: &'static [&'static str],
    wire: Wire,
}

impl Node {
    fn new(name: impl Into<String>, arguments: &'static [&'static str], wire: Wire) -> Self {
        Self { name: name.into(), arguments, wire }
    }

    /// The URL, once it is up.
    fn start(&self, place: Place<'_>) -> Result<String, String> {
        let mut starting = [Starting::spawn(place, self)?];
        wait_for(&mut starting)?;
        Ok(starting[0].url())
    }
}

impl Server for Node {
    fn name(&self) -> &str {
        &self.name
    }

    /// A port whose Cluster bus port (10,000 higher) is free too.
    fn find_ports(&self) -> Result<Vec<u16>, String> {
        for _ in 0..100 {
            let ports = free_ports(1)?;
            let bus = ports[0].checked_add(10_000);
            if bus.is_some_and(|bus| TcpListener::bind(("127.0.0.1", bus)).is_ok()) {
                return Ok(ports);
            }
        }
        Err("found no free port below 55536 whose Cluster bus port is free too".to_owned())
    }

    fn command(&self, place: Place<'_>, directory: &Path, ports: &[u16]) -> Result<Command, String> {
        let mut command = place.program("redis-server");
        let port = ports[0].to_string();
        match &self.wire {
            Wire::Plain => {
                command.args(["--port", &port]);
            }
            Wire::Tls(files) => {
                command.args(["--port", "0", "--tls-port", &port, "--tls-auth-clients", "no"]);
                command.arg("--tls-cert-file").arg(&files.chain).arg("--tls-key-file").arg(&files.key);
                command.arg("--tls-ca-cert-file").arg(&files.authority);
            }
        }
        command.args(["--bind", "127.0.0.1", "--save", "", "--dir"]).arg(directory).args(self.arguments);
        Ok(command)
    }

    fn answers(&self, port: u16) -> bool {
        match &self.wire {
            Wire::Plain => ask(port, "PING").starts_with("+PONG"),
            Wire::Tls(files) => answers_over_tls(port, files),
        }
    }

    fn url(&self, port: u16) -> String {
        let scheme = match self.wire {
            Wire::Plain => "redis",
            Wire::Tls(_) => "rediss",
        };
        format!("{scheme}://127.0.0.1:{port}/")
    }
}

/// The URL of one node.
pub(super) fn start_single(place: Place<'_>) -> Result<String, String> {
    Node::new("redis", &[], Wire::Plain).start(place)
}

/// The URL of a node that speaks TLS, and the file of the authority that its certificate is from.
pub(super) fn start_tls(place: Place<'_>) -> Result<(String, String), String> {
    let certificate = Certificate::make(place.directory)?;
    let authority = certificate.authority.display().to_string();
    Ok((Node::new("redis-tls", &[], Wire::Tls(certificate)).start(place)?, authority))
}

/// The URL of a Cluster, which names its masters.
pub(super) fn start_cluster(place: Place<'_>) -> Result<String, String> {
    let nodes: Vec<_> = (0..NODES).map(|at| Node::new(format!("cluster-{at}"), CLUSTER_NODE, Wire::Plain)).collect();
    let mut starting = nodes.iter().map(|node| Starting::spawn(place, node)).collect::<Result<Vec<_>, _>>()?;
    wait_for(&mut starting)?;
    let ports: Vec<u16> = starting.iter().map(Starting::port).collect();
    let output = Command::new("redis-cli")
        .args(["--cluster", "create"])
        .args(ports.iter().map(|port| format!("127.0.0.1:{port}")))
        .args(["--cluster-replicas", "1", "--cluster-yes"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .stdout(fs::File::create(place.directory.join("cluster-create")).map_err(|error| error.to_string())?)
        .status();
    if !output.as_ref().is_ok_and(std::process::ExitStatus::success) {
        let said = fs::read_to_string(place.directory.join("cluster-create")).unwrap_or_default();
        return Err(format!("redis-cli --cluster create failed: {said}"));
    }
    wait_until("all nodes of the Cluster are ready", CLUSTER_MAX, || Ok(masters_if_ready(&ports).is_some()))?;
    let masters = masters_if_ready(&ports).ok_or("the Cluster was ready and is not any more")?;
    let masters: Vec<_> = masters.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    Ok(format!("redis-cluster://{}/", masters.join(",")))
}

/// The masters, once every node knows of every slot and every master has its replica connected.
fn masters_if_ready(ports: &[u16]) -> Option<Vec<u16>> {
    let mut masters = Vec::new();
    for &port in ports {
        let info = ask(port, "CLUSTER INFO");
        let complete = ["cluster_state:ok", "cluster_slots_ok:16384", "cluster_known_nodes:6", "cluster_size:3"];
        if !complete.iter().all(|word| info.contains(word)) {
            return None;
        }
        let replication = ask(port, "INFO replication");
        if replication.contains("role:master") {
            let served = replication.contains("connected_slaves:1") && replication.contains("state=online");
            served.then(|| masters.push(port))?;
        } else if !replication.contains("master_link_status:up") {
            return None;
        }
    }
    (masters.len() == MASTERS).then_some(masters)
}

fn ask(port: u16, command: &str) -> String {
    String::from_utf8_lossy(&answer(port, format!("{command}\r\n").as_bytes())).into_owned()
}

fn answers_over_tls(port: u16, files: &Certificate) -> bool {
    let output = Command::new("redis-cli")
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "--tls", "--cacert"])
        .arg(&files.authority)
        .arg("PING")
        .stdin(Stdio::null())
        .output();
    output.is_ok_and(|output| output.stdout.starts_with(b"PONG"))
}
