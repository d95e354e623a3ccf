//! The replay example as its users run it: on a log that the test writes, and on made-up traffic.
#![cfg(all(feature = "memory", feature = "ratelimit"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

/// Cargo builds an example to be run or to be tested, not both: its unit tests run from here.
#[allow(dead_code, reason = "main is run as the example")]
#[path = "../examples/replay/main.rs"]
mod parts;

#[path = "support/example.rs"]
mod example;

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Output, Stdio};

use serde_json::Value;

use example::example;

fn run(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = example("replay")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have ended before it read anything.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn json(arguments: &[&str], input: &[u8]) -> Value {
    let output = run(&[arguments, &["--json"]].concat(), input);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = std::str::from_utf8(&output.stdout).unwrap().lines().collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    serde_json::from_str(lines[0]).unwrap()
}

/// Two clients: one asks five times a second, the other once, for ten seconds; and two lines of rubbish.
fn log() -> Vec<u8> {
    let mut log = String::from("rubbish\n");
    for second in 10..20 {
        for request in 0..5 {
            let at = format!("[14/Nov/2023:22:13:{second} +0000]");
            writeln!(log, "10.0.0.1 - - {at} \"GET /{request} HTTP/1.1\" 200 1 \"-\" \"eager\"").unwrap();
        }
        writeln!(log, "10.0.0.2 - - [14/Nov/2023:22:13:{second} +0000] \"GET /0 HTTP/1.1\" 200 1").unwrap();
    }
    let mut log = log.into_bytes();
    log.extend_from_slice(b"\x1b[2J\xFF\xFE\n");
    log
}

const LIMIT: [&str; 6] = ["--log", "-", "--rate", "2/s", "--burst", "3"];

#[test]
fn a_log_is_replayed_in_its_own_time() {
    let summary = json(&LIMIT, &log());
    // The eager one: the burst, and two for each of the nine seconds that pass. The other is within its rate.
    let allowed = (3 + 9 * 2) + 10;
    assert_eq!(summary["requests"], 60);
    assert_eq!(summary["allowed"], allowed);
    assert_eq!(summary["denied"], 60 - allowed);
    assert_eq!(summary["malformed"], 2);
    assert_eq!(summary["store"], "memory");
    for field in ["decisions_per_second", "p50_us", "p99_us"] {
        assert!(summary[field].as_f64().unwrap() > 0.0, "{field}");
    }
}

#[test]
fn other_keys_make_other_buckets() {
    let by_path = json(&[&LIMIT[..], &["--key", "path"]].concat(), &log());
    // The path /0 is asked for twice a second, the others once.
    assert_eq!(by_path["denied"], 0);
    let by_agent = json(&[&LIMIT[..], &["--key", "agent"]].concat(), &log());
    assert_eq!(by_agent["allowed"], 3 + 9 * 2 + 10);
}

#[test]
fn people_get_a_summary_without_control_characters() {
    let output = run(&LIMIT, &log());
    let (out, errors) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(out.contains("allowed     31") && out.contains("29  10.0.0.1"), "{out}");
    assert!(errors.contains("2 malformed lines") && errors.contains("-:1: no [time]"), "{errors}");
    assert!(!errors.contains('\x1b'), "{errors:?}");
}

#[test]
fn made_up_traffic_is_the_same_for_a_seed() {
    let of_seed = |seed: &str| {
        let mut summary = json(&["--requests", "20000", "--seed", seed, "--rate", "2/s", "--burst", "5"], b"");
        let summary = summary.as_object_mut().unwrap();
        summary.retain(|field, _| ["requests", "allowed", "denied", "keys_limited"].contains(&field.as_str()));
        summary.clone()
    };
    assert_eq!(of_seed("1"), of_seed("1"));
    assert_ne!(of_seed("1"), of_seed("2"));
    assert_eq!(of_seed("3")["requests"], 20_000);
}

#[test]
fn speed_waits_for_the_time_of_the_log() {
    let start = std::time::Instant::now();
    json(&[&LIMIT[..], &["--speed", "90"]].concat(), &log());
    // Nine seconds of log at ninety times real time.
    assert!(start.elapsed().as_millis() >= 100, "{:?}", start.elapsed());
}

#[test]
fn bad_arguments_say_what_to_do() {
    for (arguments, expected) in [
        (&["--rate", "0/s"][..], "rate: 0 tokens"),
        (&["--rate", "fast"], "write a count and a period"),
        (&["--burst", "0"], "burst: a bucket of 0 tokens"),
        (&["--rate", "1/mo", "--burst", "4000000"], "burst: 4000000 tokens need more than 100 years"),
        (&["--speed", "0"], "give max, or a number above zero"),
        (&["--log", "no such log"], "no such log: "),
        (&["--store", "carrier-pigeon://u:secret@loft"], "a store's URL starts with memory:"),
        (&["--log", "-", "--seed", "1"], "cannot be used with"),
    ] {
        let output = run(arguments, b"");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && errors.contains(expected), "{arguments:?}: {errors}");
        assert!(!errors.contains("secret") && !errors.contains("panicked"), "{errors}");
    }
}
