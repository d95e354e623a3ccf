//! Servers by hand, and what is said where there are none.
#![allow(clippy::unwrap_used, reason = "tests")]

mod harness;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::time::Duration;

use harness::Scratch;

#[test]
fn servers_by_hand_stay_until_they_are_stopped() {
    let scratch = Scratch::new("by-hand");
    let printed = scratch.says(&["servers", "up"]);
    assert!(printed.starts_with("export SYSD_TEST_REDIS_URL=redis://127.0.0.1:"), "{printed}");
    assert_eq!(scratch.servers().len(), 1);

    let again = scratch.xtask(&["servers", "up"]).output().unwrap();
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("run already"));

    // A run of the tests cleans up after killed runs; these are not left behind.
    scratch.fake_tests("exit 0");
    scratch.says(&["test", "tests"]);
    assert_eq!(scratch.servers().len(), 1);

    let status = scratch.says(&["servers", "status"]);
    assert!(status.starts_with("# 1 servers run") && status.ends_with(&printed), "{status}");
    scratch.says(&["servers", "down"]);
    assert_eq!((scratch.servers(), scratch.directories()), (vec![], vec![]));
    let nothing = scratch.xtask(&["servers", "down"]).output().unwrap();
    assert!(!nothing.status.success() && String::from_utf8_lossy(&nothing.stderr).contains("no servers were started"));
}

#[test]
fn only_the_named_servers_start() {
    let scratch = Scratch::new("named");
    let output = scratch.xtask(&["servers", "up", "nats"]).env_remove("SYSD_TEST_NATS_URL").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let port = printed.strip_prefix("export SYSD_TEST_NATS_URL=nats://127.0.0.1:").unwrap().trim_end().parse().unwrap();
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"CONNECT {}\r\nPING\r\n").unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert!(BufReader::new(&stream).lines().any(|line| line.unwrap() == "PONG"));
    let status = scratch.says(&["servers", "status"]);
    assert!(status.starts_with("# 1 servers run") && status.ends_with(&printed), "{status}");
    scratch.says(&["servers", "down"]);
    assert_eq!((scratch.servers(), scratch.directories()), (vec![], vec![]));

    let unknown = scratch.xtask(&["servers", "up", "scylla"]).output().unwrap();
    let said = String::from_utf8_lossy(&unknown.stderr);
    assert!(!unknown.status.success() && said.contains("no server scylla") && said.contains("cassandra"), "{said}");
}

#[test]
fn what_a_java_server_says_when_it_ends_at_once_is_shown() {
    let scratch = Scratch::new("java-ends");
    scratch.fake_java();
    let version = "echo 'openjdk version \"17.0.1\"' >&2";
    scratch.fake("java", &format!("case \"$*\" in -version) {version};; *) echo no memory; exit 1;; esac"));
    let output = scratch.xtask_with_java(&["servers", "up", "dynamodb"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("dynamodb ended at once") && said.contains("no memory"), "{said}");
    assert_eq!((scratch.servers(), scratch.directories()), (vec![], vec![]));
}

#[test]
fn a_missing_maven_is_named() {
    let scratch = Scratch::new("missing-maven");
    scratch.fake_java();
    fs::remove_file(scratch.path.join("mvn")).unwrap();
    let mut xtask = scratch.xtask_with_java(&["servers", "up", "dynamodb"]);
    let output = xtask.env("PATH", &scratch.path).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("apt-get install maven") && said.contains("SYSD_TEST_DYNAMODB_URL"), "{said}");
}

#[test]
fn tests_get_what_the_environment_does_not_name() {
    let scratch = Scratch::new("variables");
    scratch.fake_tests("env | grep ^SYSD_TEST_ | sort; cat \"$SYSD_TEST_REDIS_TLS_CA\"; echo $TMPDIR");
    let mut xtask = scratch.xtask(&["test", "tests"]);
    let output =
        xtask.env_remove("SYSD_TEST_REDIS_CLUSTER_URL").env_remove("SYSD_TEST_REDIS_TLS_URL").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let value = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap();
    assert!(value("SYSD_TEST_REDIS_URL").starts_with("redis://127.0.0.1:"));
    assert!(value("SYSD_TEST_REDIS_TLS_URL").starts_with("rediss://127.0.0.1:"));
    assert!(said.contains("-----BEGIN CERTIFICATE-----"));
    // Its masters, not their replicas.
    let nodes = value("SYSD_TEST_REDIS_CLUSTER_URL").strip_prefix("redis-cluster://").unwrap();
    assert_eq!(nodes.trim_end_matches('/').split(',').count(), 3);
    let left = said.lines().rfind(|line| line.contains("sysd-servers-")).unwrap();
    assert!(!std::path::Path::new(left).exists(), "what tests leave in TMPDIR goes with the servers");
}

#[test]
fn a_step_hears_nothing_of_the_package_that_we_are() {
    let scratch = Scratch::new("package");
    scratch.fake_cargo("env");
    let said = |name: &str| {
        let mut xtask = scratch.xtask(&["test", "format"]);
        let output = xtask.env("CARGO_MANIFEST_DIR", "/a").env(name, "xtask").output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let own = |said: &str| said.contains("CARGO_PKG_NAME=") || said.contains("CARGO_MANIFEST_DIR=");
    assert!(!own(&said("CARGO_PKG_NAME")));
    assert!(said("CARGO_TERM_COLOR").contains("CARGO_TERM_COLOR=xtask"));
}

#[test]
fn a_missing_server_is_a_failure_that_says_what_to_do() {
    let scratch = Scratch::new("missing");
    scratch.fake_programs();
    // A machine with neither Redis nor a package manager.
    let output = scratch.xtask(&["test", "tests"]).env("PATH", &scratch.path).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("apt-get install redis-server") && said.contains("SYSD_TEST_REDIS_URL"), "{said}");
}

/// Installs once it knows what there is, and writes down what it is asked.
const APT_GET: &str = r#"
echo "apt-get $* RUNLEVEL=$RUNLEVEL" >> "$SCRATCH/asked"
case "$*" in
    *update) : > "$SCRATCH/updated";;
    *redis-server) test -e "$SCRATCH/updated" && mv "$SCRATCH/package/"* "$SCRATCH";;
esac"#;

#[test]
fn a_missing_server_is_installed_and_no_service_of_the_package_goes_on() {
    let scratch = Scratch::new("install");
    let path = std::env::var("PATH").unwrap();
    let program = |name: &str| path.split(':').map(|at| Path::new(at).join(name)).find(|path| path.exists()).unwrap();
    fs::create_dir(scratch.path.join("package")).unwrap();
    for name in ["package/redis-server", "package/redis-cli", "setpriv", "nice", "mv"] {
        let installed = program(name.trim_start_matches("package/"));
        std::os::unix::fs::symlink(installed, scratch.path.join(name)).unwrap();
    }
    scratch.fake_programs();
    scratch.fake("apt-get", APT_GET);
    scratch.fake("systemctl", "echo \"systemctl $*\" >> \"$SCRATCH/asked\"");
    scratch.fake_tests("exit 0");
    let output = scratch.xtask(&["test", "tests"]).env("PATH", &scratch.path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let asked = fs::read_to_string(scratch.path.join("asked")).unwrap();
    let [first, update, second, service] = asked.lines().collect::<Vec<_>>()[..] else { panic!("{asked}") };
    assert!(first.contains(" install ") && first == second && first.ends_with("redis-server RUNLEVEL=1"), "{asked}");
    assert!(update.contains(" update "), "{asked}");
    assert_eq!(service, "systemctl disable --now redis-server.service");
}
