//! Kafka of a test's own, one node, to be killed.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::server::wait_until;
use super::variable;

const START_MAX: Duration = Duration::from_secs(90);
const CLUSTER: &str = "c3lzZC10ZXN0LWthZmthMA";

/// A broker that is its own controller.
pub(crate) struct Private {
    child: Option<Child>,
    port: u16,
    directory: PathBuf,
}

impl Private {
    pub(crate) fn start() -> Self {
        let (port, controller) = (free_port(), free_port());
        let directory = std::env::temp_dir().join(format!("sysd-kafka-{}-{port}", std::process::id()));
        let data = directory.join("data");
        std::fs::create_dir_all(&data).unwrap();
        let properties = format!(
            "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=16777216
",
            data.display()
        );
        std::fs::write(directory.join("server.properties"), properties).unwrap();
        let meta = format!("version=1\ncluster.id={CLUSTER}\nnode.id=1\n");
        std::fs::write(data.join("meta.properties"), meta).unwrap();
        let mut server = Self { child: None, port, directory };
        server.restart();
        server
    }

    pub(crate) fn restart(&mut self) {
        let library = variable("SYSD_TEST_KAFKA_LIB");
        let log = std::fs::File::create(self.directory.join("log")).unwrap();
        let mut command = Command::new("java");
        command.args([
            "-Xmx384m",
            "-XX:+UseSerialGC",
            "-XX:-UsePerfData",
            "-cp",
            &format!("{library}/*"),
            "kafka.Kafka",
        ]);
        command.arg(self.directory.join("server.properties"));
        let errors = log.try_clone().unwrap();
        command.current_dir(&self.directory).stdout(log).stderr(errors).stdin(Stdio::null());
        self.child = Some(command.spawn().expect("java is missing: install a JDK 17"));
        wait_until("Kafka serves clients", START_MAX, || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
            assert!(ended.is_none(), "Kafka ended: {}", &log[log.len().saturating_sub(4_000)..]);
            log.contains("Kafka Server started")
        });
    }

    /// By SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(crate) fn signal(&self, name: &str) {
        super::signal(self.child.as_ref().unwrap().id(), name);
    }

    pub(crate) fn url(&self) -> String {
        format!("kafka://127.0.0.1:{}", self.port)
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
