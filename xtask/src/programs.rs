//! The programs of the step `tests`: several run at a time, those that wait beside those that compute.
//!
//! cargo runs them one after the other, and a good part of them wait for servers. cargo-nextest runs each single test in a
//! process of its own: tests of one file could not share a server any more, and it has to be compiled first.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::interrupt;
use crate::process::{self, Group};

/// What a program is run with, beside what we have from our own environment.
pub(crate) type Variables<'a> = [(&'a str, &'a OsStr)];

/// Those that compute take what those that wait leave them, and their servers: a server that starts late is taken for a dead one.
const NICE: u8 = 10;
const POLL: Duration = Duration::from_millis(20);

/// What takes longer hangs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) all: Duration,
    /// Of each program.
    pub(crate) program: Duration,
}

/// Those that wait most of their time: for servers that they kill, for clocks, for disks. The longest comes first.
const WAITING: &[&str] = &[
    "-p sysd-storage --test scylla_faults",
    "-p sysd-storage --test conformance",
    "-p sysd-storage --test events_faults",
    "-p sysd-storage --test kafka_member",
    "-p sysd-storage --test local_faults",
    "-p sysd-storage --test redis_cluster",
    "-p sysd-storage --test scylla",
    "-p sysd-storage --test dynamodb_faults",
    "-p sysd-storage --test bus_faults",
    "-p sysd-storage --test redis_cluster_faults",
    "-p sysd-storage --test local",
    "-p sysd-storage --test local_power",
    "-p sysd-storage --test dynamodb",
    "-p sysd-storage --test redis_refusals",
];

/// Those that compute for long, the longest first.
const COMPUTING: &[&str] = &[
    "-p sysd-ledger --test simulation",
    "-p sysd-ledger --lib",
    "-p sysd-storage --test events",
    "-p sysd-testkit --test replica",
    "-p sysd-ledger --test interchange",
    "-p sysd-ratelimit --lib",
    "-p sysd-testkit --test queue",
    "-p sysd --test replay",
    "-p sysd-ratelimit --test lua_twin_holds",
    "-p sysd-ledger --test shards_sim",
    "--doc",
    "-p sysd-ratelimit --test fleet",
    "-p sysd-ratelimit --test lua_twin_rules",
    "-p sysd-testkit --test outbox",
    "-p sysd-ratelimit --test fleet_clocks",
    "-p sysd-ratelimit --test lua_twin_windows",
    "-p sysd-testkit --test lease",
    "-p sysd-testkit --test mutants",
];

/// Something to run, known by what makes `cargo test` run it alone.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Program {
    name: String,
    path: PathBuf,
    arguments: Vec<&'static str>,
    /// Where cargo runs it: the directory of its package.
    directory: PathBuf,
    /// It is a cargo, which must hear of no package: a build script that looks at `CARGO_MANIFEST_DIR` would run anew, with all
    /// that depends on it.
    is_cargo: bool,
}

/// Runs all tests of the workspace to their end; then those that failed are an error. `out` hears at once which program starts,
/// and what it says when it ends.
///
/// A program that reaches its limit is ended with all that it started, and has failed. So are those that run at the limit of
/// all, or when we are interrupted; then no other starts.
pub(crate) fn run(
    root: &Path,
    cargo: &str,
    variables: &Variables<'_>,
    scratch: &Path,
    limits: Limits,
    out: &mut dyn io::Write,
) -> Result<(), String> {
    let start = Instant::now();
    let mut programs = list(root, cargo, scratch, limits.all)?;
    programs.push(doc_tests(root, cargo));
    run_all(programs, variables, scratch, (start, limits), out)
}

fn run_all(
    programs: Vec<Program>,
    variables: &Variables<'_>,
    scratch: &Path,
    (start, limits): (Instant, Limits),
    out: &mut dyn io::Write,
) -> Result<(), String> {
    let count = programs.len();
    let mut lanes: Vec<Option<Running>> = (0..lanes()).map(|_| None).collect();
    let mut queue = in_order(programs);
    let (mut started, mut failed) = (0, Vec::new());
    loop {
        let over = interrupt::check().and_then(|()| within(start, limits.all));
        if let Err(message) = over {
            return Err(format!("{message}; {}", stop(lanes, out)));
        }
        for (at, lane) in lanes.iter_mut().enumerate() {
            if let Some(running) = lane.take() {
                if running.is_over(limits.program)? {
                    failed.extend(running.finish(limits.program, out)?);
                } else {
                    *lane = Some(running);
                }
            }
            if lane.is_none()
                && let Some(program) = if at % 2 == 0 { queue.pop_front() } else { queue.pop_back() }
            {
                started += 1;
                let said = scratch.join(format!("said-{started}"));
                let nice = if at % 2 == 0 { 0 } else { NICE };
                let name = &program.name;
                writeln!(out, "-- {name} starts")
                    .and_then(|()| out.flush())
                    .map_err(|error| format!("{name}: {error}"))?;
                *lane = Some(Running::start(program, nice, variables, said)?);
            }
        }
        if lanes.iter().all(Option::is_none) {
            break;
        }
        std::thread::sleep(POLL);
    }
    if failed.is_empty() {
        return Ok(());
    }
    failed.sort();
    Err(format!("{} of {count} test programs failed: {}", failed.len(), failed.join(", ")))
}

/// Programs have threads of their own, and share servers: few are enough.
fn lanes() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4)
}

fn within(start: Instant, limit: Duration) -> Result<(), String> {
    let is_over = start.elapsed() > limit;
    if is_over { Err(format!("the tests did not end within {} s", limit.as_secs())) } else { Ok(()) }
}

/// Half of the lanes take from the front, where those that wait are, and half from the back, where those that compute are.
fn in_order(programs: Vec<Program>) -> VecDeque<Program> {
    let middle = WAITING.len();
    let place = |program: &Program| {
        let at = |names: &[&str]| names.iter().position(|name| *name == program.name);
        at(WAITING).or_else(|| at(COMPUTING).map(|at| middle + COMPUTING.len() - at)).unwrap_or(middle)
    };
    let mut programs = programs;
    programs.sort_by_key(place);
    programs.into()
}

/// The examples of the documentation, of all packages: they are compiled and run in one go by cargo.
fn doc_tests(root: &Path, cargo: &str) -> Program {
    Program {
        name: "--doc".to_owned(),
        path: cargo.into(),
        arguments: vec!["test", "--workspace", "--all-features", "--no-fail-fast", "--doc"],
        directory: root.to_owned(),
        is_cargo: true,
    }
}

/// Has cargo build the test programs, where the step before has not, and name them.
fn list(root: &Path, cargo: &str, scratch: &Path, limit: Duration) -> Result<Vec<Program>, String> {
    let path = scratch.join("programs");
    let mut command = process::bound(cargo, "TERM");
    command.args(["test", "--workspace", "--all-features", "--no-run", "--message-format=json-render-diagnostics"]);
    let status = process::run(command.current_dir(root).stdout(create(&path)?), limit)?;
    if !status.success() {
        return Err(format!("cargo test --no-run ended with {status}"));
    }
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let programs = named(&text)?;
    if programs.is_empty() { Err("cargo named no test program".to_owned()) } else { Ok(programs) }
}

/// The test programs in what cargo says of what it built.
fn named(messages: &str) -> Result<Vec<Program>, String> {
    let mut programs = Vec::new();
    // Cargo's own lines are objects; build scripts and tools may print others between them.
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Value = serde_json::from_str(line).map_err(|error| format!("cargo said {line:?}: {error}"))?;
        if message["reason"] == "compiler-artifact" && message["profile"]["test"] == true {
            let program = program(&message).ok_or_else(|| format!("no test program in cargo's {line}"))?;
            programs.push(program);
        }
    }
    Ok(programs)
}

fn program(message: &Value) -> Option<Program> {
    let (source, version) = message["package_id"].as_str()?.rsplit_once('#')?;
    let package = version.split_once('@').map_or_else(|| source.rsplit('/').next(), |(name, _)| Some(name))?;
    let target = &message["target"];
    let what = match target["kind"][0].as_str()? {
        kind @ ("bin" | "bench" | "example" | "test") => format!("--{kind} {}", target["name"].as_str()?),
        _ => "--lib".to_owned(),
    };
    Some(Program {
        name: format!("-p {package} {what}"),
        path: message["executable"].as_str()?.into(),
        arguments: Vec::new(),
        directory: Path::new(message["manifest_path"].as_str()?).parent()?.to_owned(),
        is_cargo: false,
    })
}

fn create(path: &Path) -> Result<File, String> {
    File::create(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// A program under way.
struct Running {
    program: Program,
    group: Group,
    since: Instant,
    said: PathBuf,
}

impl Running {
    fn start(program: Program, nice: u8, variables: &Variables<'_>, said: PathBuf) -> Result<Self, String> {
        let path = program.path.to_str().ok_or("the path of a test program is not UTF-8")?;
        let output = create(&said)?;
        let errors = output.try_clone().map_err(|error| format!("{}: {error}", said.display()))?;
        let mut command: Command = process::bound("nice", "TERM");
        command
            .args(["-n", &nice.to_string(), path])
            .args(&program.arguments)
            .envs(variables.iter().copied())
            .current_dir(&program.directory);
        if !program.is_cargo {
            command.env("CARGO_MANIFEST_DIR", &program.directory);
        }
        let group = Group::start(command.stdout(output).stderr(errors))?;
        Ok(Self { program, group, since: Instant::now(), said })
    }

    fn is_over(&self, limit: Duration) -> Result<bool, String> {
        Ok(self.group.has_ended()? || self.since.elapsed() > limit)
    }

    /// Prints what it said; gives its name and how it ended, unless it ended well.
    fn finish(mut self, limit: Duration, out: &mut dyn io::Write) -> Result<Option<String>, String> {
        let hangs = !self.group.has_ended()?;
        let status = self.group.end()?;
        self.print(if hangs { "did not end" } else { "took" }, out)?;
        let name = &self.program.name;
        Ok(match (hangs, status.success()) {
            (true, _) => Some(format!("{name} (did not end within {} s)", limit.as_secs())),
            (false, true) => None,
            (false, false) => Some(format!("{name} ({status})")),
        })
    }

    /// Prints all that it said; it is in nobody's way any more.
    fn print(&self, how: &str, out: &mut dyn io::Write) -> Result<(), String> {
        let failed = |error: io::Error| format!("{}: {error}", self.said.display());
        let mut said = File::open(&self.said).map_err(failed)?;
        writeln!(out, "\n-- {} {how} ({:.1} s)", self.program.name, self.since.elapsed().as_secs_f64())
            .map_err(failed)?;
        io::copy(&mut said, out).and_then(|_| out.flush()).map_err(failed)?;
        fs::remove_file(&self.said).map_err(failed)
    }
}

/// Ends what runs, and prints what it said so far; gives the names.
fn stop(lanes: Vec<Option<Running>>, out: &mut dyn io::Write) -> String {
    let mut running: Vec<Running> = lanes.into_iter().flatten().collect();
    for program in &running {
        program.group.ask_to_end();
    }
    for program in &mut running {
        let _ = program.group.end();
        if let Err(message) = program.print("was ended", out) {
            eprintln!("{message}");
        }
    }
    let names: Vec<&str> = running.iter().map(|program| program.program.name.as_str()).collect();
    format!("still under way: {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: &str, kind: &str, name: &str, profile: &str) -> String {
        format!(
            r#"{{"reason":"compiler-artifact","package_id":"path+file:///w/{id}","manifest_path":"/w/p/Cargo.toml",
            "target":{{"kind":["{kind}"],"name":"{name}"}},"profile":{{"test":{profile}}},"executable":"/w/t/{name}-1"}}"#
        )
        .replace('\n', "")
    }

    fn names(programs: &[Program]) -> Vec<&str> {
        programs.iter().map(|program| program.name.as_str()).collect()
    }

    #[test]
    fn what_is_built_to_be_tested_is_known_by_what_runs_it_alone() {
        let said = [
            message("crates/a#0.1.0", "lib", "a", "true"),
            message("crates/a#0.1.0", "test", "faults", "true"),
            message("crates/a#0.1.0", "example", "e", "false"),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
            "a build script's own line".to_owned(),
            message("#root@0.1.0", "bin", "tool", "true"),
        ]
        .join("\n");
        let programs = named(&said).unwrap_or_default();
        assert_eq!(names(&programs), ["-p a --lib", "-p a --test faults", "-p root --bin tool"]);
        assert_eq!(programs[1].path, Path::new("/w/t/faults-1"));
        assert_eq!(programs[1].directory, Path::new("/w/p"));
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        assert!(named("{\"reason\":").is_err_and(|message| message.contains("cargo said")));
        let nowhere =
            message("a#0.1.0", "test", "b", "true").replace("\"executable\":\"/w/t/b-1\"", "\"executable\":null");
        assert!(named(&nowhere).is_err_and(|message| message.contains("no test program in")));
    }

    #[test]
    fn those_that_wait_are_at_the_front_and_those_that_compute_at_the_back() {
        let named = |name: &str| Program {
            name: name.to_owned(),
            path: PathBuf::new(),
            arguments: Vec::new(),
            directory: PathBuf::new(),
            is_cargo: false,
        };
        let wanted = [WAITING[0], WAITING[1], "-p a --lib", "-p b --lib", COMPUTING[1], COMPUTING[0]];
        let given = [COMPUTING[0], "-p a --lib", WAITING[1], COMPUTING[1], "-p b --lib", WAITING[0]];
        let queue = in_order(given.into_iter().map(named).collect());
        assert_eq!(queue.iter().map(|program| program.name.as_str()).collect::<Vec<_>>(), wanted);
    }

    /// A directory that goes with the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn program(&self, name: &str, script: &'static str) -> Program {
            Program {
                name: name.to_owned(),
                path: "/bin/sh".into(),
                arguments: vec!["-c", script],
                directory: self.0.clone(),
                is_cargo: false,
            }
        }

        /// The processes that programs wrote down as `child-…`.
        fn children(&self) -> Vec<String> {
            let names = fs::read_dir(&self.0).into_iter().flatten().flatten();
            let children = names.filter(|name| name.file_name().to_string_lossy().starts_with("child-"));
            children.map(|name| fs::read_to_string(name.path()).unwrap_or_default()).collect()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn programs_that_hang_are_ended_with_their_children_and_named_and_the_others_run() {
        let scratch = Scratch(std::env::temp_dir().join(format!("sysd-programs-{}", std::process::id())));
        assert!(fs::create_dir(&scratch.0).is_ok());
        // One for each lane, at the ends of the queue: the others run only when these have given up their lanes.
        let first = |lane: usize| if lane.is_multiple_of(2) { WAITING[lane / 2] } else { COMPUTING[lane / 2] };
        let hanging: Vec<&str> = (0..lanes()).map(first).collect();
        let hangs = "echo it is late; sleep 300 & echo $! > child-$$; wait";
        let others = ["-p a --lib", "-p b --lib"];
        let programs = hanging.iter().map(|name| scratch.program(name, hangs));
        let programs = programs.chain(others.iter().map(|name| scratch.program(name, "echo all is well"))).collect();
        let limits = Limits { all: Duration::from_secs(120), program: Duration::from_secs(5) };
        let mut out = Vec::new();
        let message = run_all(programs, &[], &scratch.0, (Instant::now(), limits), &mut out).err().unwrap_or_default();
        let said = String::from_utf8_lossy(&out);
        assert!(message.starts_with(&format!("{} of {} test", hanging.len(), hanging.len() + 2)), "{message}");
        for name in &hanging {
            assert!(message.contains(&format!("{name} (did not end within 5 s)")), "{message}");
            let block = said.split(&format!("-- {name} did not end (")).nth(1).unwrap_or_default();
            assert!(block.lines().nth(1) == Some("it is late"), "{said}");
        }
        for name in others {
            let block = said.split(&format!("-- {name} took (")).nth(1).unwrap_or_default();
            assert!(!message.contains(name) && block.lines().nth(1) == Some("all is well"), "{message}: {said}");
        }
        // Before any of them has ended.
        let starts: Vec<String> = hanging.iter().map(|name| format!("-- {name} starts")).collect();
        assert_eq!(said.lines().take(hanging.len()).collect::<Vec<_>>(), starts);
        let children = scratch.children();
        assert!(children.len() == hanging.len() && children.iter().all(|child| child.ends_with('\n')), "{children:?}");
        // A zombie has no working directory.
        let is_gone = |child: &String| fs::read_link(format!("/proc/{}/cwd", child.trim())).is_err();
        let gone = process::wait_until("the children end", limits.all, || Ok(children.iter().all(is_gone)));
        assert_eq!(gone, Ok(()));
    }

    #[test]
    fn the_order_names_programs_that_there_are() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for name in WAITING.iter().chain(COMPUTING) {
            let is_there = match name.split(' ').collect::<Vec<_>>()[..] {
                ["-p", package, ref what @ ..] => {
                    let package = if package == "sysd" { root.clone() } else { root.join("crates").join(package) };
                    match what {
                        ["--test", test] => ["", "/main"]
                            .iter()
                            .any(|end| package.join("tests").join(format!("{test}{end}.rs")).exists()),
                        _ => package.join("src/lib.rs").exists(),
                    }
                }
                ref other => *other == ["--doc"],
            };
            assert!(is_there, "{name}");
        }
    }
}
