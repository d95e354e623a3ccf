//! NATS, one server.

use std::path::Path;
use std::process::Command;

use super::launch::{Place, Server, answer};

/// By its program.
pub(super) struct Nats(pub(super) &'static str);

impl Server for Nats {
    fn name(&self) -> &'static str {
        "nats"
    }

    fn command(&self, place: Place<'_>, _: &Path, ports: &[u16]) -> Result<Command, String> {
        let mut command = place.program(self.0);
        command.args(["--addr", "127.0.0.1", "--port", &ports[0].to_string()]);
        Ok(command)
    }

    /// It greets whoever connects.
    fn answers(&self, port: u16) -> bool {
        answer(port, b"PING\r\n").starts_with(b"INFO ")
    }

    fn url(&self, port: u16) -> String {
        format!("nats://127.0.0.1:{port}")
    }
}
