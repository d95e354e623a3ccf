//! The DynamoDB that is shared, and one of a test's own, to be killed.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sysd_core::{Clock, random_base62};
use sysd_storage::{DynamoConfig, DynamoCredentials, DynamoStore};

use super::server::wait_until;
use super::variable;

/// Java and its database start at leisure, on a busy machine more so.
const START_MAX: Duration = Duration::from_secs(60);
const MAIN: &str = "com.amazonaws.services.dynamodbv2.local.main.ServerRunner";

/// DynamoDB Local takes any, of letters and digits.
pub(crate) const KEY: &str = "sysd";

/// Keys of the test's own in the shared table, patient.
pub(crate) fn config() -> DynamoConfig {
    let mut config = DynamoConfig::from_url(&variable("SYSD_TEST_DYNAMODB_URL")).unwrap();
    config.credentials = DynamoCredentials::from_keys(KEY, KEY);
    config.prefix = random_base62(12, &sysd_core::SystemEntropy);
    config.response_timeout = Duration::from_secs(20);
    config.connection_timeout = Duration::from_secs(10);
    config
}

/// A store of the test's own keys.
pub(crate) async fn connect<C: Clock>(clock: C) -> DynamoStore<C> {
    let store = DynamoStore::connect_with(config(), clock).await.unwrap();
    store.create_table().await.unwrap();
    store
}

/// A DynamoDB Local that keeps its data on disk.
pub(crate) struct Private {
    child: Child,
    pub(crate) port: u16,
    directory: PathBuf,
}

impl Private {
    pub(crate) fn start() -> Self {
        // Another process may take a port between our finding it free and the server's listening on it.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let directory = std::env::temp_dir().join(format!("sysd-dynamodb-{}-{port}", std::process::id()));
            std::fs::create_dir(&directory).unwrap();
            if let Some(child) = Self::spawn(port, &directory) {
                return Self { child, port, directory };
            }
            let _ = std::fs::remove_dir_all(&directory);
        }
        panic!("DynamoDB Local ended at once, five times")
    }

    fn spawn(port: u16, directory: &Path) -> Option<Child> {
        let jars = variable("SYSD_TEST_DYNAMODB_LIB");
        let mut child = Command::new("java")
            .args(["-Xmx384m", &format!("-Djava.library.path={jars}"), "-cp", &format!("{jars}/*"), MAIN])
            .args(["-sharedDb", "-disableTelemetry", "-port", &port.to_string(), "-dbPath"])
            .arg(directory)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("java is missing: `cargo xtask test` installs it");
        let mut ended = false;
        wait_until("DynamoDB Local answers", START_MAX, || {
            ended = child.try_wait().unwrap().is_some();
            ended || answers(port)
        });
        (!ended).then_some(child)
    }

    pub(crate) fn restart(&mut self) {
        self.child = Self::spawn(self.port, &self.directory).expect("its port is taken");
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn signal(&self, name: &str) {
        super::signal(self.child.id(), name);
    }

    pub(crate) fn config(&self) -> DynamoConfig {
        config_at(self.port)
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A table of a server on this machine.
pub(crate) fn config_at(port: u16) -> DynamoConfig {
    DynamoConfig {
        region: Some("us-east-1".to_owned()),
        endpoint: Some(format!("http://127.0.0.1:{port}")),
        credentials: DynamoCredentials::from_keys(KEY, KEY),
        ..DynamoConfig::new("records")
    }
}

fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let request = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let mut answer = Vec::new();
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    stream.write_all(request).is_ok() && stream.read_to_end(&mut answer).is_ok() && answer.starts_with(b"HTTP/1.1 400")
}
