//! NATS servers of a test's own, to be killed.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::server::wait_until;

const START_MAX: Duration = Duration::from_secs(20);

/// A NATS of the test's own.
pub(crate) struct PrivateNats {
    child: Child,
    pub(crate) port: u16,
    arguments: Vec<String>,
}

impl PrivateNats {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        // Another process may take a port between our finding it free and the server's listening on it.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if let Some(child) = Self::spawn(port, &arguments) {
                return Self { child, port, arguments };
            }
        }
        panic!("nats-server ended at once, five times")
    }

    fn spawn(port: u16, arguments: &[String]) -> Option<Child> {
        let mut child = Command::new("nats-server")
            .args(["-a", "127.0.0.1", "-p", &port.to_string()])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server is missing: `cargo xtask test` installs it");
        let mut ended = false;
        wait_until("nats-server answers", START_MAX, || {
            ended = child.try_wait().unwrap().is_some();
            ended || TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        (!ended).then_some(child)
    }

    pub(crate) fn restart(&mut self) {
        self.child = Self::spawn(self.port, &self.arguments).expect("its port is taken");
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn signal(&self, name: &str) {
        super::signal(self.child.id(), name);
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

impl Drop for PrivateNats {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
