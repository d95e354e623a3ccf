//! Redis: one node, a Cluster of three masters with a replica each, and one node that speaks TLS only.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::certificate::Certificate;
use crate::process::{bound, wait_until};

const START_MAX: Duration = Duration::from_secs(20);
const CLUSTER_MAX: Duration = Duration::from_secs(60);
const MASTERS: usize = 3;
const NODES: usize = 2 * MASTERS;
/// Another process may take a port between our finding it free and the server's listening on it.
const PORT_ATTEMPTS: usize = 5;

/// Where servers are started, and whether they end with us.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) directory: &'a Path,
    pub(super) bound_to_us: bool,
}

/// How a node is spoken to.
#[derive(Clone, Copy)]
enum Wire<'a> {
    Plain,
    Tls(&'a Certificate),
}

/// The URL of one node.
pub(super) fn start_single(place: Place<'_>) -> Result<String, String> {
    let port = start_node(place, "redis", &[], Wire::Plain)?;
    Ok(format!("redis://127.0.0.1:{port}/"))
}

/// The URL of a node that speaks TLS, and the file of the authority that its certificate is from.
pub(super) fn start_tls(place: Place<'_>) -> Result<(String, String), String> {
    let certificate = Certificate::make(place.directory)?;
    let port = start_node(place, "redis-tls", &[], Wire::Tls(&certificate))?;
    Ok((format!("rediss://127.0.0.1:{port}/"), certificate.authority.display().to_string()))
}

/// The URL of a Cluster, which names its masters.
pub(super) fn start_cluster(place: Place<'_>) -> Result<String, String> {
    // Two busy cores stall a node for a second now and then; that is no failure. Replicas copy their master at once.
    let arguments = ["--cluster-enabled", "yes", "--cluster-node-timeout", "5000", "--repl-diskless-sync-delay", "0"];
    let mut ports = Vec::new();
    for at in 0..NODES {
        ports.push(start_node(place, &format!("cluster-{at}"), &arguments, Wire::Plain)?);
    }
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
        let info = answer(port, "CLUSTER INFO");
        let complete = ["cluster_state:ok", "cluster_slots_ok:16384", "cluster_known_nodes:6", "cluster_size:3"];
        if !complete.iter().all(|word| info.contains(word)) {
            return None;
        }
        let replication = answer(port, "INFO replication");
        if replication.contains("role:master") {
            let served = replication.contains("connected_slaves:1") && replication.contains("state=online");
            served.then(|| masters.push(port))?;
        } else if !replication.contains("master_link_status:up") {
            return None;
        }
    }
    (masters.len() == MASTERS).then_some(masters)
}

fn start_node(place: Place<'_>, name: &str, arguments: &[&str], wire: Wire<'_>) -> Result<u16, String> {
    let directory = place.directory.join(name);
    fs::create_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let mut said = String::new();
    for _ in 0..PORT_ATTEMPTS {
        let port = free_port()?;
        if try_node(place, &directory, port, arguments, wire)? {
            return Ok(port);
        }
        said = fs::read_to_string(directory.join("log")).unwrap_or_default();
        if !said.contains("bind") && !said.contains("Address already in use") {
            break;
        }
    }
    Err(format!("redis-server ended at once ({name}):\n{said}"))
}

/// Whether the server came up on this port; if not, it has ended.
fn try_node(place: Place<'_>, directory: &Path, port: u16, arguments: &[&str], wire: Wire<'_>) -> Result<bool, String> {
    let path = directory.join("log");
    let log = fs::File::create(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut command = if place.bound_to_us { bound("redis-server", "KILL") } else { Command::new("redis-server") };
    match wire {
        Wire::Plain => {
            command.args(["--port", &port.to_string()]);
        }
        Wire::Tls(files) => {
            command.args(["--port", "0", "--tls-port", &port.to_string(), "--tls-auth-clients", "no"]);
            command.arg("--tls-cert-file").arg(&files.chain).arg("--tls-key-file").arg(&files.key);
            command.arg("--tls-ca-cert-file").arg(&files.authority);
        }
    }
    let mut child = command
        .args(["--bind", "127.0.0.1", "--save", "", "--dir"])
        .arg(directory)
        .args(arguments)
        // It is known as ours by this directory from its first moment.
        .current_dir(directory)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("redis-server did not start: {error}"))?;
    // A foreign server on this port would answer too, but not with our pid.
    let own = format!("process_id:{}\r", child.id());
    let mut up = false;
    wait_until(&format!("redis-server answers on port {port}"), START_MAX, || {
        if child.try_wait().map_err(|error| error.to_string())?.is_some() {
            return Ok(true);
        }
        up = match wire {
            Wire::Plain => answer(port, "INFO server"),
            Wire::Tls(files) => answer_over_tls(port, files),
        }
        .contains(&own);
        Ok(up)
    })?;
    Ok(up)
}

/// A port that nobody listens on, whose Cluster bus port (10,000 higher) is free too.
fn free_port() -> Result<u16, String> {
    for _ in 0..100 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(|error| format!("no free port: {error}"))?;
        let port = listener.local_addr().map_err(|error| format!("no free port: {error}"))?.port();
        let bus = port.checked_add(10_000);
        if bus.is_some_and(|bus| TcpListener::bind(("127.0.0.1", bus)).is_ok()) {
            return Ok(port);
        }
    }
    Err("found no free port below 55536 whose Cluster bus port is free too".to_owned())
}

/// The first bytes of a server's answer, empty if there is none.
pub(super) fn answer(port: u16, command: &str) -> String {
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

fn answer_over_tls(port: u16, files: &Certificate) -> String {
    let output = Command::new("redis-cli")
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "--tls", "--cacert"])
        .arg(&files.authority)
        .args(["INFO", "server"])
        .stdin(Stdio::null())
        .output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_port_is_no_answer() {
        assert_eq!(free_port().map(|port| answer(port, "PING")), Ok(String::new()));
    }
}
