//! Chores of the sysd workspace: `cargo xtask test` runs what continuous integration runs.

mod interrupt;
mod process;
mod programs;
mod servers;
mod steps;
mod tidy;
mod toolchain;

use std::process::ExitCode;

const HELP: &str = "\
Usage: cargo xtask COMMAND

Commands:
  test [STEP...]   run all steps that continuous integration runs, or only those named
  servers up       start a Redis, a Redis Cluster and a Redis that speaks TLS, and print the variables that
                   tests find them by: `eval \"$(cargo xtask servers up)\"`
  servers status   say whether they run
  servers down     stop them
  tidy             only check the house rules that need no compiler
  help             print this

Tests find servers by
  SYSD_TEST_REDIS_URL          redis://HOST:PORT/
  SYSD_TEST_REDIS_CLUSTER_URL  redis-cluster://HOST:PORT,HOST:PORT,.../
  SYSD_TEST_REDIS_TLS_URL      rediss://HOST:PORT/
  SYSD_TEST_REDIS_TLS_CA       the file, in PEM, of the authority that the TLS server's certificate is from
  SYSD_TEST_DYNAMODB_URL       dynamodb://TABLE?region=REGION&endpoint=URL, percent-encoded
  SYSD_TEST_DYNAMODB_LIB       the directory of its jars
  SYSD_TEST_CASSANDRA_URL      scylla://HOST:PORT/KEYSPACE
  SYSD_TEST_CASSANDRA_LIB      the directory of its jars
  SYSD_TEST_KAFKA_URL          kafka://HOST:PORT
  SYSD_TEST_NATS_URL           nats://HOST:PORT
`test` and `servers up` start what they don't name, on free ports.

";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = interrupt::listen().and_then(|()| run(&arguments));
    match (result, interrupt::signal()) {
        (Ok(()), _) => ExitCode::SUCCESS,
        (Err(message), signal) => {
            eprintln!("xtask: {message}");
            // What a shell says of a program that a signal ended.
            signal.map_or(ExitCode::FAILURE, |number| ExitCode::from(128 + number))
        }
    }
}

fn run(arguments: &[String]) -> Result<(), String> {
    let help = || format!("{HELP}Steps: {}\nServers: {}", steps::names().join(", "), servers::names().join(", "));
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["test", names @ ..] => steps::run(names),
        ["servers", command @ ..] => steps::root().and_then(|root| servers::by_hand(&root, command)),
        ["tidy"] => steps::run(&["tidy"]),
        ["help" | "--help" | "-h"] => {
            println!("{}", help());
            Ok(())
        }
        [] => Err(format!("say what to do\n\n{}", help())),
        [other, ..] => Err(format!("there is no command {other}\n\n{}", help())),
    }
}
