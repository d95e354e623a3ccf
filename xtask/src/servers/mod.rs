//! Real servers for the tests: on free ports of 127.0.0.1, data in a temporary directory.

mod certificate;
mod directory;
mod install;
mod redis;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use self::directory::{Directory, Found, Purpose};
use crate::interrupt;

const REDIS_URL: &str = "SYSD_TEST_REDIS_URL";
const CLUSTER_URL: &str = "SYSD_TEST_REDIS_CLUSTER_URL";
const TLS_URL: &str = "SYSD_TEST_REDIS_TLS_URL";
const TLS_CA: &str = "SYSD_TEST_REDIS_TLS_CA";

/// What tests find the servers by; the authority of the TLS server goes with its URL.
const VARIABLES: [&str; 3] = [REDIS_URL, CLUSTER_URL, TLS_URL];

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
    start(Purpose::Tests).map(Running)
}

/// `cargo xtask servers up|down|status`.
pub(crate) fn by_hand(root: &Path, command: &str) -> Result<(), String> {
    match command {
        "up" => up(root),
        "down" => down(root),
        "status" => {
            status(root);
            Ok(())
        }
        other => Err(format!("servers takes up, down or status, not {other}")),
    }
}

/// What was started by hand in this checkout.
fn of_checkout(root: &Path) -> Vec<Found> {
    Directory::find(&std::env::temp_dir(), &Purpose::Hand(root.to_owned()))
}

fn up(root: &Path) -> Result<(), String> {
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
    let servers = start(Purpose::Hand(root.to_owned()))?;
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
        let _ = writeln!(text, "export {name}={value}");
    }
    text
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

fn start(purpose: Purpose) -> Result<Servers, String> {
    clean_left_behind()?;
    let missing: Vec<&str> = VARIABLES.into_iter().filter(|name| !is_set(name)).collect();
    if !missing.is_empty() {
        install::redis()?;
    }
    let directory = Directory::create(&std::env::temp_dir(), purpose)?;
    match start_missing(&directory, &missing) {
        Ok(environment) => Ok(Servers { directory, environment }),
        Err(message) => match directory.remove() {
            Ok(()) => Err(message),
            Err(second) => Err(format!("{message}; and {second}")),
        },
    }
}

fn start_missing(directory: &Directory, missing: &[&str]) -> Result<Vec<(String, String)>, String> {
    let place = redis::Place { directory: &directory.path, bound_to_us: directory.purpose == Purpose::Tests };
    let mut environment = Vec::new();
    for &name in missing {
        let value = match name {
            CLUSTER_URL => redis::start_cluster(place)?,
            TLS_URL => {
                let (url, authority) = redis::start_tls(place)?;
                environment.push((TLS_CA.to_owned(), authority));
                url
            }
            _ => redis::start_single(place)?,
        };
        environment.push((name.to_owned(), value));
    }
    interrupt::check()?;
    Ok(environment)
}
