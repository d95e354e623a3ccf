//! Real servers for the tests: on free ports of 127.0.0.1, data in a temporary directory.

mod cassandra;
mod certificate;
mod directory;
mod dynamodb;
mod install;
mod java;
mod kafka;
mod launch;
mod maven;
mod nats;
mod redis;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use self::directory::{Directory, Found, Purpose};
use self::java::Java;
use self::launch::{Place, Server, Starting};
use crate::interrupt;

/// What can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Redis,
    RedisCluster,
    RedisTls,
    DynamoDb,
    Cassandra,
    Kafka,
    Nats,
}

/// By name, with the variable that tests find it by.
const KINDS: [(Kind, &str, &str); 7] = [
    (Kind::Redis, "redis", "SYSD_TEST_REDIS_URL"),
    (Kind::RedisCluster, "redis-cluster", "SYSD_TEST_REDIS_CLUSTER_URL"),
    (Kind::RedisTls, "redis-tls", "SYSD_TEST_REDIS_TLS_URL"),
    (Kind::DynamoDb, "dynamodb", "SYSD_TEST_DYNAMODB_URL"),
    (Kind::Cassandra, "cassandra", "SYSD_TEST_CASSANDRA_URL"),
    (Kind::Kafka, "kafka", "SYSD_TEST_KAFKA_URL"),
    (Kind::Nats, "nats", "SYSD_TEST_NATS_URL"),
];

impl Kind {
    fn variable(self) -> &'static str {
        KINDS.iter().find(|(kind, ..)| *kind == self).map_or("", |(.., variable)| variable)
    }
}

// These go with the URLs of their servers.
const TLS_CA: &str = "SYSD_TEST_REDIS_TLS_CA";
const DYNAMODB_LIB: &str = "SYSD_TEST_DYNAMODB_LIB";
/// DynamoDB Local takes any, but a client that finds none goes to look for them elsewhere.
const AWS_CREDENTIALS: [&str; 2] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
const CASSANDRA_LIB: &str = "SYSD_TEST_CASSANDRA_LIB";
const KAFKA_LIB: &str = "SYSD_TEST_KAFKA_LIB";

/// What was started, and how it is found.
#[derive(Debug)]
struct Servers {
    directory: Directory,
    environment: Vec<(String, String)>,
}

/// Servers for one run of the tests; they end when this goes out of scope, also while a panic unwinds.
#[derive(Debug)]
pub(crate) struct Running(Servers);

impl Running {
    /// The variables that the tests are given.
    pub(crate) fn environment(&self) -> &[(String, String)] {
        &self.0.environment
    }

    /// A directory that goes when the servers go.
    pub(crate) fn directory(&self) -> &Path {
        &self.0.directory.path
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(message) = self.0.directory.remove() {
            eprintln!("xtask: {message}");
        }
    }
}

/// Starts what the environment does not point at already; the servers end with this process, however it ends.
pub(crate) fn start_for_tests() -> Result<Running, String> {
    start(Purpose::Tests, &KINDS.map(|(kind, ..)| kind)).map(Running)
}

/// Installs what the workspace can't be compiled without, where that is possible.
pub(crate) fn ensure_build_tools() -> Result<(), String> {
    install::build_tools()
}

/// Installs the programs that tests run and that are no servers, where that is possible.
pub(crate) fn ensure_test_programs() -> Result<(), String> {
    install::journal_programs()
}

/// `cargo xtask servers up|down|status`; `up` takes the names of servers, none for all.
pub(crate) fn by_hand(root: &Path, arguments: &[&str]) -> Result<(), String> {
    match arguments {
        ["up", names @ ..] => up(root, &kinds(names)?),
        ["down"] => down(root),
        ["status"] => {
            status(root);
            Ok(())
        }
        other => Err(format!("servers takes up [NAME...], down or status, not {:?}", other.join(" "))),
    }
}

/// The names of all servers.
pub(crate) fn names() -> [&'static str; 7] {
    KINDS.map(|(_, name, _)| name)
}

fn kinds(wanted: &[&str]) -> Result<Vec<Kind>, String> {
    if let Some(unknown) = wanted.iter().find(|name| !names().contains(name)) {
        return Err(format!("there is no server {unknown}; the servers are {}", names().join(", ")));
    }
    let named = KINDS.iter().filter(|(_, name, _)| wanted.is_empty() || wanted.contains(name));
    Ok(named.map(|(kind, ..)| *kind).collect())
}

fn variables() -> [&'static str; 7] {
    KINDS.map(|(.., variable)| variable)
}

/// What was started by hand in this checkout.
fn of_checkout(root: &Path) -> Vec<Found> {
    Directory::find(&std::env::temp_dir(), &Purpose::Hand(root.to_owned()))
}

fn up(root: &Path, wanted: &[Kind]) -> Result<(), String> {
    for found in of_checkout(root) {
        let Found::Ours(directory) = found else {
            return Err("another `cargo xtask servers up` is under way".to_owned());
        };
        let alive = directory.processes().len();
        if alive > 0 && saved_environment(&directory).is_some() {
            return Err(format!("{alive} servers run already; `cargo xtask servers down` stops them"));
        }
        directory.remove()?;
    }
    let servers = start(Purpose::Hand(root.to_owned()), wanted)?;
    let text = exports(&servers.environment);
    let path = servers.directory.path.join("environment");
    if let Err(error) = fs::write(&path, &text) {
        servers.directory.remove()?;
        return Err(format!("{}: {error}", path.display()));
    }
    print!("{text}");
    Ok(())
}

fn down(root: &Path) -> Result<(), String> {
    let found = of_checkout(root);
    if found.is_empty() {
        return Err("no servers were started from here".to_owned());
    }
    for found in found {
        match found {
            Found::InUse => return Err("a `cargo xtask servers up` is under way: interrupt that".to_owned()),
            Found::Ours(directory) => directory.remove()?,
        }
    }
    Ok(())
}

fn status(root: &Path) {
    let found = of_checkout(root);
    if found.is_empty() {
        println!("# no servers were started from here");
    }
    for found in found {
        match found {
            Found::InUse => println!("# a `cargo xtask servers up` is under way"),
            Found::Ours(directory) => {
                let alive = directory.processes().len();
                match saved_environment(&directory) {
                    Some(text) => print!("# {alive} servers run in {}\n{text}", directory.path.display()),
                    None => {
                        println!("# an interrupted start left {alive} servers; `cargo xtask servers down` stops them");
                    }
                }
            }
        }
    }
}

fn saved_environment(directory: &Directory) -> Option<String> {
    fs::read_to_string(directory.path.join("environment")).ok()
}

fn exports(environment: &[(String, String)]) -> String {
    let mut text = String::new();
    for (name, value) in environment {
        let _ = writeln!(text, "export {name}={}", quoted(value));
    }
    text
}

/// As one word of a shell.
fn quoted(value: &str) -> String {
    let plain = |char: char| char.is_ascii_alphanumeric() || "/:.,-_+%@".contains(char);
    if value.chars().all(plain) { value.to_owned() } else { format!("'{}'", value.replace('\'', "'\\''")) }
}

/// Removes what runs that were killed left behind. What was started by hand is left alone.
fn clean_left_behind() -> Result<(), String> {
    for found in Directory::find(&std::env::temp_dir(), &Purpose::Tests) {
        if let Found::Ours(directory) = found {
            eprintln!("cleaning up after a run that was killed: {}", directory.path.display());
            directory.remove()?;
        }
    }
    Ok(())
}

fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty())
}

/// A path that goes into a configuration, a class path or a variable.
fn path_text(path: &Path) -> Result<&str, String> {
    path.to_str().ok_or_else(|| format!("the path {} is not UTF-8", path.display()))
}

fn start(purpose: Purpose, wanted: &[Kind]) -> Result<Servers, String> {
    clean_left_behind()?;
    let missing: Vec<Kind> = wanted.iter().copied().filter(|kind| !is_set(kind.variable())).collect();
    let prepared = prepare(&missing)?;
    let directory = Directory::create(&std::env::temp_dir(), purpose)?;
    match start_missing(&directory, &missing, &prepared) {
        Ok(environment) => Ok(Servers { directory, environment }),
        Err(message) => match directory.remove() {
            Ok(()) => Err(message),
            Err(second) => Err(format!("{message}; and {second}")),
        },
    }
}

/// A server that has all it needs on this machine.
struct Prepared {
    kind: Kind,
    server: Box<dyn Server>,
    /// The directory of its jars, for tests that start their own.
    lib: Option<(&'static str, String)>,
}

/// Installs and fetches what is missing; gives those that start at the same time, which is all but Redis.
fn prepare(missing: &[Kind]) -> Result<Vec<Prepared>, String> {
    let mut prepared = Vec::new();
    for &kind in missing {
        let (server, lib): (Box<dyn Server>, _) = match kind {
            Kind::Redis | Kind::RedisCluster | Kind::RedisTls => {
                install::redis()?;
                continue;
            }
            Kind::DynamoDb => {
                let java = Java::with(maven::DYNAMODB)?;
                let lib = Some((DYNAMODB_LIB, java.jars()?));
                (Box::new(dynamodb::DynamoDb(java)), lib)
            }
            Kind::Cassandra => {
                let java = Java::with(maven::CASSANDRA)?;
                let lib = Some((CASSANDRA_LIB, java.jars()?));
                (Box::new(cassandra::Cassandra(java)), lib)
            }
            Kind::Kafka => {
                let java = Java::with(maven::KAFKA)?;
                let lib = Some((KAFKA_LIB, java.jars()?));
                (Box::new(kafka::Kafka(java)), lib)
            }
            Kind::Nats => (Box::new(nats::Nats(install::nats()?)), None),
        };
        prepared.push(Prepared { kind, server, lib });
    }
    Ok(prepared)
}

fn start_missing(
    directory: &Directory,
    missing: &[Kind],
    prepared: &[Prepared],
) -> Result<Vec<(String, String)>, String> {
    let place = Place { directory: &directory.path, bound_to_us: directory.purpose == Purpose::Tests };
    let spawned = prepared.iter().map(|prepared| Starting::spawn(place, &*prepared.server));
    let mut starting = spawned.collect::<Result<Vec<_>, _>>()?;
    let mut environment = Vec::new();
    // Meanwhile Redis.
    for &kind in missing {
        let url = match kind {
            Kind::Redis => redis::start_single(place)?,
            Kind::RedisCluster => redis::start_cluster(place)?,
            Kind::RedisTls => {
                let (url, authority) = redis::start_tls(place)?;
                environment.push((TLS_CA.to_owned(), authority));
                url
            }
            Kind::DynamoDb | Kind::Cassandra | Kind::Kafka | Kind::Nats => continue,
        };
        environment.push((kind.variable().to_owned(), url));
    }
    launch::wait_for(&mut starting)?;
    for (prepared, starting) in prepared.iter().zip(&starting) {
        environment.push((prepared.kind.variable().to_owned(), starting.url()));
        environment.extend(prepared.lib.iter().map(|(name, lib)| ((*name).to_owned(), lib.clone())));
        if prepared.kind == Kind::DynamoDb {
            let unset = AWS_CREDENTIALS.into_iter().filter(|name| !is_set(name));
            environment.extend(unset.map(|name| (name.to_owned(), "test".to_owned())));
        }
    }
    interrupt::check()?;
    Ok(environment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_what_was_printed() {
        let values =
            ["redis://127.0.0.1:1/", "dynamodb://a?region=b&endpoint=http%3A%2F%2Fc", "it's /a b", "$(x) `y` \"z\""];
        for value in values {
            let text = exports(&[("NAME".to_owned(), value.to_owned())]);
            let output = std::process::Command::new("sh").args(["-c", &format!("{text} printf %s \"$NAME\"")]).output();
            assert_eq!(output.ok().map(|output| output.stdout), Some(value.as_bytes().to_vec()), "{text}");
        }
    }

    #[test]
    fn servers_are_known_by_name() {
        assert_eq!(kinds(&[]).map(|kinds| kinds.len()), Ok(KINDS.len()));
        assert_eq!(kinds(&["nats", "redis"]), Ok(vec![Kind::Redis, Kind::Nats]));
        let message = kinds(&["redis", "scylla"]).err().unwrap_or_default();
        assert!(message.contains("no server scylla") && message.contains("cassandra"), "{message}");
    }
}
