//! The real program, ended in every way there is: nothing that it started may stay.
#![allow(clippy::unwrap_used, reason = "tests")]

mod harness;

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use harness::{Scratch, ended, is_alive, wait_until};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// A program that starts a process of its own and does not end.
const ENDLESS: &str = "sleep 300 & echo $! > \"$SCRATCH/child\"; echo $$ > \"$SCRATCH/step\"; wait";

fn interrupt_a_step(name: &str, step: &str, send: impl Fn(Pid), code: Option<i32>) -> Scratch {
    let scratch = Scratch::new(name);
    if step == "tests" {
        scratch.fake_tests(ENDLESS);
    } else {
        scratch.fake_cargo(ENDLESS);
    }
    let mut xtask = scratch.xtask(&["test", step]).process_group(0).spawn().unwrap();
    let pids = [scratch.pid("step"), scratch.pid("child")];
    assert!(pids.iter().all(|&pid| is_alive(pid)));
    assert_eq!(scratch.servers().len(), usize::from(step == "tests"));
    send(Pid::from_child(&xtask));
    assert_eq!(ended(&mut xtask).code(), code);
    wait_until("the servers end", || scratch.servers().is_empty());
    wait_until("the step ends", || !is_alive(pids[0]));
    if code.is_some() {
        wait_until("what the step started ends", || !is_alive(pids[1]));
        assert_eq!(scratch.directories(), [""; 0]);
    } else {
        kill_process(Pid::from_raw(pids[1]).unwrap(), Signal::KILL).unwrap();
    }
    scratch
}

fn to_us(signal: Signal) -> impl Fn(Pid) {
    move |pid| kill_process(pid, signal).unwrap()
}

#[test]
fn sigterm_ends_a_step_with_all_its_processes() {
    interrupt_a_step("term", "format", to_us(Signal::TERM), Some(143));
}

#[test]
fn sigint_ends_a_step_with_its_servers() {
    interrupt_a_step("int", "tests", to_us(Signal::INT), Some(130));
}

#[test]
fn control_c_reaches_the_whole_group_and_ends_a_step_with_its_servers() {
    interrupt_a_step("group", "tests", |pid| kill_process_group(pid, Signal::INT).unwrap(), Some(130));
}

#[test]
fn after_sigkill_the_kernel_ends_the_servers_and_the_next_run_removes_what_is_left() {
    let scratch = interrupt_a_step("kill", "tests", to_us(Signal::KILL), None);
    assert_eq!(scratch.directories().len(), 1);
    scratch.fake_tests("exit 0");
    let output = scratch.xtask(&["test", "tests"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("cleaning up"), "{said}");
    assert_eq!(scratch.directories(), [""; 0]);
}

#[test]
fn a_failing_step_stops_its_servers() {
    let scratch = Scratch::new("fail");
    scratch.fake_tests("echo \"$SYSD_TEST_REDIS_URL\" > \"$SCRATCH/url\"; exit 101");
    let output = scratch.xtask(&["test", "tests"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("step tests failed: 1 of 2 test programs failed: -p a --test b (exit status: 101)"),
        "{said}"
    );
    let url = fs::read_to_string(scratch.path.join("url")).unwrap();
    assert!(url.starts_with("redis://127.0.0.1:"), "{url}");
    assert_eq!((scratch.servers(), scratch.directories()), (vec![], vec![]));
}

#[test]
fn an_interrupted_start_leaves_nothing() {
    let scratch = Scratch::new("up");
    // With a Cluster, which takes long enough to be met in the middle.
    let mut xtask = scratch.xtask(&["servers", "up"]).env_remove("SYSD_TEST_REDIS_CLUSTER_URL").spawn().unwrap();
    wait_until("two servers run", || scratch.started() >= 2);
    kill_process(Pid::from_child(&xtask), Signal::INT).unwrap();
    assert_eq!(ended(&mut xtask).code(), Some(130));
    assert_eq!((scratch.servers(), scratch.directories()), (vec![], vec![]));
}

#[test]
fn what_a_killed_start_leaves_is_known_and_can_be_stopped() {
    let scratch = Scratch::new("up-kill");
    let mut xtask = scratch.xtask(&["servers", "up"]).env_remove("SYSD_TEST_REDIS_CLUSTER_URL").spawn().unwrap();
    wait_until("two servers run", || scratch.started() >= 2);
    assert!(scratch.says(&["servers", "status"]).contains("under way"));
    xtask.kill().unwrap();
    assert_eq!(ended(&mut xtask).code(), None);
    assert!(scratch.servers().len() >= 2, "servers by hand don't end with their starter");
    assert!(scratch.says(&["servers", "status"]).contains("an interrupted start left"));
    scratch.says(&["servers", "down"]);
    assert_eq!((scratch.servers(), scratch.directories()), (vec![], vec![]));
}

#[test]
fn an_interrupted_start_leaves_no_java() {
    let scratch = Scratch::new("java");
    scratch.fake_java();
    let mut xtask = scratch.xtask_with_java(&["servers", "up"]).spawn().unwrap();
    wait_until("all start at the same time", || scratch.started() == 3);
    kill_process(Pid::from_child(&xtask), Signal::INT).unwrap();
    assert_eq!(ended(&mut xtask).code(), Some(130));
    assert_eq!((scratch.servers(), scratch.directories()), (vec![], vec![]));
}

#[test]
fn the_kernel_ends_the_java_of_a_killed_run_and_the_next_run_removes_what_is_left() {
    let scratch = Scratch::new("java-kill");
    scratch.fake_java();
    let mut xtask = scratch.xtask_with_java(&["test", "tests"]).spawn().unwrap();
    wait_until("the servers start", || scratch.started() == 3);
    xtask.kill().unwrap();
    assert_eq!(ended(&mut xtask).code(), None);
    wait_until("the servers end", || scratch.servers().is_empty());
    assert_eq!(scratch.directories().len(), 1);
    scratch.fake_tests("exit 0");
    scratch.says(&["test", "tests"]);
    assert_eq!(scratch.directories(), [""; 0]);
}

#[test]
fn java_that_a_killed_start_leaves_can_be_stopped() {
    let scratch = Scratch::new("java-up-kill");
    scratch.fake_java();
    let mut xtask = scratch.xtask_with_java(&["servers", "up"]).spawn().unwrap();
    wait_until("the servers start", || scratch.started() == 3);
    xtask.kill().unwrap();
    assert_eq!(ended(&mut xtask).code(), None);
    assert!(scratch.says(&["servers", "status"]).contains("an interrupted start left 3 servers"));
    scratch.says(&["servers", "down"]);
    assert_eq!((scratch.servers(), scratch.directories()), (vec![], vec![]));
}

#[test]
fn an_interrupted_download_leaves_nothing_that_looks_complete() {
    let scratch = Scratch::new("download");
    scratch.fake_java();
    scratch.fake_maven("echo x > lib/DynamoDBLocal-2.6.1.jar; sleep 300 & wait");
    for (signal, code) in [(Signal::INT, Some(130)), (Signal::KILL, None)] {
        let mut xtask = scratch.xtask_with_java(&["servers", "up", "dynamodb"]).spawn().unwrap();
        wait_until("Maven runs with its child", || scratch.started() == 2);
        kill_process(Pid::from_child(&xtask), signal).unwrap();
        assert_eq!(ended(&mut xtask).code(), code);
        if code.is_some() {
            assert_eq!(scratch.servers(), []);
        }
        let names = fs::read_dir(scratch.path.join("cache/jars")).unwrap().flatten().map(|entry| entry.path());
        let is_new = |path: &Path| path.extension().is_some_and(|extension| extension == "new");
        let left: Vec<_> = names.filter(|path| !is_new(path)).collect();
        assert_eq!((left, scratch.directories()), (vec![scratch.path.join("cache/jars/lock")], vec![]));
    }
}
