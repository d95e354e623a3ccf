//! Chores of the sysd workspace: `cargo xtask test` runs what continuous integration runs.

mod servers;
mod steps;
mod tidy;

use std::process::ExitCode;

const HELP: &str = "\
Usage: cargo xtask COMMAND

Commands:
  test [STEP...]   run all steps that continuous integration runs, or only those named
  servers up       start a Redis and a Redis Cluster, and print the variables that tests find them by
  servers status   say whether they run
  servers down     stop them
  tidy             only check the house rules that need no compiler
  help             print this

Tests find servers by SYSD_TEST_REDIS_URL (redis://HOST:PORT/) and SYSD_TEST_REDIS_CLUSTER_URL
(redis-cluster://HOST:PORT,HOST:PORT/). `test` starts what they don't name, on free ports, and stops it again.

Steps: ";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["test", names @ ..] => steps::run(names),
        ["servers", command] => steps::root().and_then(|root| servers::by_hand(&root, command)),
        ["tidy"] => steps::run(&["tidy"]),
        ["help" | "--help" | "-h"] => {
            println!("{HELP}{}", steps::names().join(", "));
            Ok(())
        }
        [] => Err(format!("say what to do\n\n{HELP}{}", steps::names().join(", "))),
        [other, ..] => Err(format!("there is no command {other}\n\n{HELP}{}", steps::names().join(", "))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}
