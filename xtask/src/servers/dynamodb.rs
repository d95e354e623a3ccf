//! DynamoDB Local, in memory.

use std::path::Path;
use std::process::Command;

use super::java::Java;
use super::launch::{Place, Server, answer};

const MAIN: &str = "com.amazonaws.services.dynamodbv2.local.main.ServerRunner";

pub(super) struct DynamoDb(pub(super) Java);

impl Server for DynamoDb {
    fn name(&self) -> &'static str {
        "dynamodb"
    }

    /// It listens on every address, which it knows no option against; it holds nothing but what tests make up.
    fn command(&self, place: Place<'_>, directory: &Path, ports: &[u16]) -> Result<Command, String> {
        let mut command = self.0.command(place, directory, "512m", "")?;
        command.arg(format!("-Djava.library.path={}", self.0.jars()?));
        command.args([MAIN, "-inMemory", "-disableTelemetry", "-port", &ports[0].to_string()]);
        Ok(command)
    }

    fn answers(&self, port: u16) -> bool {
        let nothing = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        answer(port, nothing).starts_with(b"HTTP/1.1 400 ")
    }

    fn url(&self, port: u16) -> String {
        format!("dynamodb://sysd-test?region=us-east-1&endpoint=http%3A%2F%2F127.0.0.1%3A{port}")
    }
}
