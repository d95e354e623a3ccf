//! The example `rate_limited_api` as its users run it: on a free port, asked over the network.
#![cfg(all(feature = "memory", feature = "tower"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "support/example.rs"]
mod example;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use example::example;

/// A server that ends with the test.
struct Server {
    child: Child,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let mut child = example("rate_limited_api")
            .args(["--listen", "127.0.0.1:0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").unwrap_or_else(|| panic!("{line:?}")).to_owned();
        Self { child, address }
    }

    /// The answer's head, in lower case, and its body.
    fn ask(&self, method: &str, path: &str, headers: &str) -> (String, String) {
        let mut connection = TcpStream::connect(&self.address).unwrap();
        connection.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        write!(connection, "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n")
            .unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_ascii_lowercase(), body.to_owned())
    }
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[test]
fn it_answers_until_the_limit_is_reached_and_says_when_to_come_back() {
    let server = Server::start(&[]);
    let (head, body) = server.ask("GET", "/", "");
    assert_eq!((head.lines().next(), body.as_str()), (Some("http/1.1 200 ok"), "hello\n"));
    assert_eq!(field(&head, "x-ratelimit-limit"), Some("5"));
    // Two a second come back meanwhile, so this ends.
    let (head, body) = (0..1_000)
        .map(|_| server.ask("GET", "/", ""))
        .find(|(head, _)| !head.starts_with("http/1.1 200"))
        .unwrap_or_else(|| panic!("never limited"));
    assert!(head.starts_with("http/1.1 429 "), "{head}");
    assert_eq!((field(&head, "x-ratelimit-remaining"), field(&head, "retry-after")), (Some("0"), Some("1")));
    assert_eq!(field(&head, "content-type"), Some("application/problem+json"));
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&body["status"], &body["violated-policies"]), (&json!(429), &json!(["each address"])));
    assert_eq!(body["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
    // Who is on the list is not asked.
    let (head, _) = server.ask("GET", "/", "x-api-key: let-me-in\r\n");
    assert_eq!((head.lines().next(), field(&head, "x-ratelimit-limit")), (Some("http/1.1 200 ok"), None));
}

#[test]
fn it_speaks_the_fields_of_the_draft() {
    let server = Server::start(&["--fields", "ietf"]);
    let (head, _) = server.ask("POST", "/login", "content-length: 0\r\n");
    let policy = field(&head, "ratelimit-policy").unwrap();
    assert!(policy.contains(r#""each address";q=5;w=3"#) && policy.contains(r#""sign in";q=3;w=60"#), "{policy}");
    assert!(field(&head, "ratelimit").unwrap().contains(r#""sign in";r=2;t=60"#), "{head}");
}

#[test]
fn what_is_wrong_with_a_policy_is_said() {
    let directory = std::env::temp_dir().join(format!("sysd-rate-limited-api-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("limits.toml");
    std::fs::write(&path, "name = \"api\"\n[[rules]]\nname = \"a\"\nkey = \"ip\"\nrate = \"0/s\"\n").unwrap();
    for (arguments, said) in [
        (["--policy", path.to_str().unwrap()], "limits.toml:5:"),
        (["--policy", "nowhere.toml"], "nowhere.toml: can't be read"),
        (["--store", "papyrus:"], "--store: "),
        (["--listen", "192.0.2.1:1"], "--listen 192.0.2.1:1: "),
    ] {
        let output = example("rate_limited_api").args(arguments).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.starts_with("rate_limited_api: ") && errors.contains(said), "{errors}");
    }
    std::fs::remove_dir_all(&directory).unwrap();
}
