//! Servers that come as jars: fetched once with Maven into a cache.
//!
//! A directory of the cache is named by all that is in it, and gets that name when it is complete: nothing that looks
//! complete is ever written to.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::install;
use crate::interrupt;
use crate::process::{bound, run, wait_until};

/// group, artifact, version.
pub(super) type Pin = (&'static str, &'static str, &'static str);

pub(super) const DYNAMODB: &[Pin] = &[("com.amazonaws", "DynamoDBLocal", "2.6.1")];
pub(super) const CASSANDRA: &[Pin] = &[("org.apache.cassandra", "cassandra-all", "5.0.5")];
pub(super) const KAFKA: &[Pin] =
    &[("org.apache.kafka", "kafka_2.13", "4.1.0"), ("org.slf4j", "slf4j-simple", "1.7.36")];

const COPY: &str = "org.apache.maven.plugins:maven-dependency-plugin:2.8:copy-dependencies";
const FETCH_MAX: Duration = Duration::from_secs(600);
/// Another run may be fetching all three.
const LOCK_MAX: Duration = Duration::from_secs(3 * 600);
/// Between attempts.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(16)];
/// Its lines are the size and the name of every other file of the directory.
const LIST: &str = "files";

/// The directory of these jars and all that they depend on; fetched if it is not there yet.
pub(super) fn jars(pins: &[Pin]) -> Result<PathBuf, String> {
    let cache = cache_directory(|name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))?;
    let cache = std::path::absolute(cache.join("jars")).map_err(|error| format!("{}: {error}", cache.display()))?;
    if !is_complete(&cache.join(directory_name(pins))) {
        install::maven()?;
    }
    Fetch { cache: &cache, program: "mvn", pauses: &PAUSES }.jars(pins)
}

fn cache_directory(variable: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf, String> {
    let ours = || variable("SYSD_CACHE_DIR");
    let users = || variable("XDG_CACHE_HOME").filter(|path| path.is_absolute()).map(|path| path.join("sysd"));
    let home = || variable("HOME").map(|path| path.join(".cache/sysd"));
    let path = ours().or_else(users).or_else(home);
    path.ok_or_else(|| "no place for the servers' jars: set SYSD_CACHE_DIR or HOME".to_owned())
}

struct Fetch<'a> {
    cache: &'a Path,
    program: &'a str,
    pauses: &'a [Duration],
}

impl Fetch<'_> {
    fn jars(&self, pins: &[Pin]) -> Result<PathBuf, String> {
        let failed = |error: std::io::Error| format!("{}: {error}", self.cache.display());
        let complete = self.cache.join(directory_name(pins));
        if is_complete(&complete) {
            return complete.canonicalize().map_err(failed);
        }
        fs::create_dir_all(self.cache).map_err(failed)?;
        let _lock = self.lock()?;
        if !is_complete(&complete) {
            self.clean(&complete)?;
            self.fetch(pins, &complete)?;
        }
        complete.canonicalize().map_err(failed)
    }

    /// One run at a time writes to the cache; the lock goes with the file.
    fn lock(&self) -> Result<fs::File, String> {
        let path = self.cache.join("lock");
        let file = fs::File::create(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut said = false;
        wait_until("another run has fetched its jars", LOCK_MAX, || {
            let free = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
            if !free && !said {
                said = true;
                eprintln!("another run is fetching jars: waiting for it");
            }
            Ok(free)
        })?;
        Ok(file)
    }

    /// Removes what interrupted runs left, and what has lost files since it was complete. We hold the lock.
    fn clean(&self, broken: &Path) -> Result<(), String> {
        let entries = fs::read_dir(self.cache).into_iter().flatten().flatten().map(|entry| entry.path());
        let left = entries.filter(|path| path.extension().is_some_and(|extension| extension == "new"));
        for path in left.chain(broken.exists().then(|| broken.to_owned())) {
            fs::remove_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(())
    }

    fn fetch(&self, pins: &[Pin], complete: &Path) -> Result<(), String> {
        let name = directory_name(pins);
        let mut pauses = self.pauses.iter();
        eprintln!("fetching {name} with Maven, once, into {}", self.cache.display());
        loop {
            // Of our own: what a killed run started may live on for a moment.
            let new = self.cache.join(format!("{name}.{}.new", std::process::id()));
            let fetched = self.attempt(pins, &new, complete);
            if let Err(message) = &fetched {
                // The next run does it otherwise.
                let _ = fs::remove_dir_all(&new);
                interrupt::check()?;
                if let Some(&pause) = pauses.next() {
                    eprintln!("{message}\nfetching {name} failed: trying again in {} s", pause.as_secs());
                    rest(pause)?;
                    continue;
                }
            }
            return fetched.map_err(|message| format!("fetching {name} failed:\n{message}"));
        }
    }

    fn attempt(&self, pins: &[Pin], new: &Path, complete: &Path) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", new.display());
        let lib = new.join("lib");
        fs::create_dir_all(&lib).map_err(failed)?;
        fs::write(new.join("pom.xml"), pom(pins)).map_err(failed)?;
        let log = new.join("log");
        let mut command = bound(self.program, "TERM");
        // Our standard output is for a shell to evaluate.
        redirect(&mut command, &log).map_err(failed)?;
        // Strict about checksums; what it once failed to find is asked for again.
        command.args(["--quiet", "--batch-mode", "--strict-checksums", "--update-snapshots", COPY]);
        command.arg("--file").arg(new.join("pom.xml"));
        command.arg(format!("-DoutputDirectory={}", lib.display())).current_dir(new);
        let status = run(&mut command, FETCH_MAX)?;
        if !status.success() {
            return Err(format!("{} ended with {status}: {}", self.program, first_errors(&log)));
        }
        let listed = list(&lib).map_err(failed)?;
        for (_, artifact, version) in pins {
            let jar = format!("{artifact}-{version}.jar");
            if !listed.lines().any(|line| line.split_once(' ').is_some_and(|(_, name)| name == jar)) {
                return Err(format!("{} brought no {jar}", self.program));
            }
        }
        fs::write(lib.join(LIST), listed).map_err(failed)?;
        // A crash of the machine must not leave the name without the bytes.
        for entry in fs::read_dir(&lib).map_err(failed)?.flatten() {
            fs::File::open(entry.path()).and_then(|file| file.sync_all()).map_err(failed)?;
        }
        fs::rename(&lib, complete).map_err(failed)?;
        fs::remove_dir_all(new).map_err(failed)
    }
}

fn redirect(command: &mut Command, log: &Path) -> std::io::Result<()> {
    let log = fs::File::create(log)?;
    command.stderr(log.try_clone()?).stdout(log);
    Ok(())
}

fn rest(pause: Duration) -> Result<(), String> {
    let start = Instant::now();
    wait_until("the pause is over", pause * 2 + Duration::from_secs(1), || Ok(start.elapsed() >= pause))
}

fn first_errors(log: &Path) -> String {
    let log = fs::read_to_string(log).unwrap_or_default();
    log.lines().filter(|line| line.contains("ERROR")).take(3).collect::<Vec<_>>().join("\n")
}

fn directory_name(pins: &[Pin]) -> String {
    pins.iter().map(|(_, artifact, version)| format!("{artifact}-{version}")).collect::<Vec<_>>().join("+")
}

fn pom(pins: &[Pin]) -> String {
    let mut dependencies = String::new();
    for (group, artifact, version) in pins {
        let _ = writeln!(
            dependencies,
            "    <dependency>\n      <groupId>{group}</groupId>\n      <artifactId>{artifact}</artifactId>\n      \
             <version>{version}</version>\n    </dependency>"
        );
    }
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\">\n  <modelVersion>4.0.0</modelVersion>\n  \
         <groupId>sysd</groupId>\n  <artifactId>servers</artifactId>\n  <version>1</version>\n  \
         <packaging>pom</packaging>\n  <dependencies>\n{dependencies}  </dependencies>\n</project>\n"
    )
}

fn list(directory: &Path) -> std::io::Result<String> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        lines.push(format!("{} {}\n", entry.metadata()?.len(), entry.file_name().to_string_lossy()));
    }
    lines.sort_unstable();
    Ok(lines.concat())
}

/// Whether every file of its list is there in its size.
fn is_complete(directory: &Path) -> bool {
    let Ok(listed) = fs::read_to_string(directory.join(LIST)) else { return false };
    let is_there = |line: &str| {
        let (size, name) = line.split_once(' ')?;
        let metadata = fs::metadata(directory.join(name)).ok()?;
        (metadata.is_file() && size.parse() == Ok(metadata.len())).then_some(())
    };
    !listed.is_empty() && listed.lines().all(|line| is_there(line).is_some())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const PINS: &[Pin] = &[("org.a", "a", "1"), ("org.b", "b", "2")];
    const NO_PAUSE: [Duration; 2] = [Duration::ZERO; 2];
    /// What Maven is asked for by its last argument.
    const ALL: &str =
        "lib=\"${last#*=}\"; echo aa > \"$lib/a-1.jar\"; echo b > \"$lib/b-2.jar\"; echo c > \"$lib/c-3.jar\"";

    /// A cache, and a program that stands in for Maven and counts its calls.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str, script: &str) -> Self {
            let path = std::env::temp_dir().join(format!("sysd-maven-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            let scratch = Self(path.canonicalize().unwrap());
            scratch.program(script);
            scratch
        }

        fn program(&self, script: &str) {
            let count = self.0.join("count");
            let text = format!("#!/bin/sh\necho >> {}\nfor last; do :; done\n{script}\n", count.display());
            // Renamed into place: a file that is still open for writing cannot be run.
            let new = self.0.join("new");
            fs::write(&new, text).unwrap();
            fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
            fs::rename(new, self.0.join("mvn")).unwrap();
        }

        fn fetch(&self) -> Result<PathBuf, String> {
            let program = self.0.join("mvn");
            let cache = self.0.join("cache");
            Fetch { cache: &cache, program: program.to_str().unwrap(), pauses: &NO_PAUSE }.jars(PINS)
        }

        fn calls(&self) -> usize {
            fs::read(self.0.join("count")).unwrap_or_default().len()
        }

        /// What the cache holds.
        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(self.0.join("cache")).unwrap().flatten();
            let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
            names.sort_unstable();
            names
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn jars_are_fetched_once() {
        let scratch = Scratch::new("once", ALL);
        let jars = scratch.fetch().unwrap();
        assert_eq!(jars, scratch.0.join("cache/a-1+b-2"));
        assert_eq!(fs::read_to_string(jars.join("a-1.jar")).unwrap(), "aa\n");
        assert_eq!(scratch.fetch(), Ok(jars));
        assert_eq!((scratch.calls(), scratch.names()), (1, vec!["a-1+b-2".to_owned(), "lock".to_owned()]));
    }

    #[test]
    fn a_failed_download_is_tried_again() {
        let scratch = Scratch::new("again", "");
        scratch.program(&format!("test $(wc -l < {}/count) -gt 2 || exit 1; {ALL}", scratch.0.display()));
        assert!(scratch.fetch().is_ok());
        assert_eq!(scratch.calls(), 3);
    }

    #[test]
    fn what_never_succeeds_leaves_nothing_and_says_why() {
        // It brings the jars and fails: what is there does not count.
        let scratch = Scratch::new("never", &format!("{ALL}; echo '[ERROR] no route to host'; exit 1"));
        let message = scratch.fetch().err().unwrap();
        assert!(message.contains("a-1+b-2 failed") && message.contains("no route to host"), "{message}");
        assert_eq!((scratch.calls(), scratch.names()), (1 + NO_PAUSE.len(), vec!["lock".to_owned()]));
    }

    #[test]
    fn a_success_without_the_jars_is_none() {
        let scratch = Scratch::new("empty", "lib=\"${last#*=}\"; echo a > \"$lib/a-1.jar\"");
        let message = scratch.fetch().err().unwrap();
        assert!(message.contains("brought no b-2.jar"), "{message}");
        assert_eq!(scratch.names(), ["lock"]);
    }

    #[test]
    fn what_an_interrupted_download_left_is_not_complete_and_goes() {
        let scratch = Scratch::new("left", ALL);
        let left = scratch.0.join("cache/z-9.new/lib");
        fs::create_dir_all(&left).unwrap();
        fs::write(left.join("z-9.jar"), "z").unwrap();
        // A directory of the right name that another hand made.
        fs::create_dir(scratch.0.join("cache/a-1+b-2")).unwrap();
        let jars = scratch.fetch().unwrap();
        assert!(jars.join("c-3.jar").exists());
        assert_eq!((scratch.calls(), scratch.names()), (1, vec!["a-1+b-2".to_owned(), "lock".to_owned()]));
    }

    #[test]
    fn what_has_lost_a_file_or_a_byte_since_is_fetched_anew() {
        let scratch = Scratch::new("lost", ALL);
        let jars = scratch.fetch().unwrap();
        fs::remove_file(jars.join("c-3.jar")).unwrap();
        assert!(!is_complete(&jars) && scratch.fetch().is_ok() && is_complete(&jars));
        fs::write(jars.join("a-1.jar"), "a").unwrap();
        assert!(!is_complete(&jars) && scratch.fetch().is_ok() && is_complete(&jars));
        assert_eq!(scratch.calls(), 3);
    }

    #[test]
    fn two_runs_at_once_fetch_once() {
        let scratch = Scratch::new("two", &format!("{ALL}; sleep 0.2"));
        let fetched: Vec<_> = std::thread::scope(|scope| {
            let runs = [(); 2].map(|()| scope.spawn(|| scratch.fetch()));
            runs.map(|run| run.join().unwrap()).into()
        });
        assert!(fetched.iter().all(Result::is_ok), "{fetched:?}");
        assert_eq!(scratch.calls(), 1);
    }

    #[test]
    fn the_cache_is_where_the_user_wants_it() {
        let find = |set: &[(&str, &str)]| {
            cache_directory(|name| set.iter().find(|(other, _)| *other == name).map(|(_, value)| value.into())).ok()
        };
        let all = [("SYSD_CACHE_DIR", "/a"), ("XDG_CACHE_HOME", "/b"), ("HOME", "/c")];
        assert_eq!(find(&all), Some("/a".into()));
        assert_eq!(find(&all[1..]), Some("/b/sysd".into()));
        assert_eq!(find(&all[2..]), Some("/c/.cache/sysd".into()));
        // The base directory specification: a relative path is to be ignored.
        assert_eq!(find(&[("XDG_CACHE_HOME", "b"), ("HOME", "/c")]), Some("/c/.cache/sysd".into()));
        assert_eq!(find(&[]), None);
    }

    #[test]
    fn maven_is_asked_for_exactly_the_pins() {
        let pom = pom(PINS);
        assert_eq!(pom.matches("<dependency>").count(), 2);
        for words in ["<groupId>org.b</groupId>", "<artifactId>b</artifactId>", "<version>2</version>"] {
            assert!(pom.contains(words), "{words}");
        }
    }
}
