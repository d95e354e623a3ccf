//! The temporary directory of servers: it is also the record of what runs.
//!
//! It is there before the first server is, and every server is started inside it, so the servers of a directory are
//! found however the process that started them ended. That process holds a lock on the file `owner` for as long as it
//! lives.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, geteuid, kill_process};

const PREFIX: &str = "sysd-servers-";
/// The first line of `owner`.
const MARK: &str = "sysd xtask servers, format 1";
const STOP_MAX: Duration = Duration::from_secs(20);
/// What may run in a directory: a server, and what it is started through.
const PROGRAMS: [&str; 4] = ["redis-server", "java", "nats-server", "setpriv"];

/// Who a directory is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The tests of one run: the servers end with it.
    Tests,
    /// Work by hand in this checkout: the servers stay until they are stopped.
    Hand(PathBuf),
}

impl Purpose {
    fn to_text(&self) -> String {
        match self {
            Self::Tests => format!("{MARK}\ntests\n"),
            Self::Hand(root) => format!("{MARK}\nhand {}\n", root.display()),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let purpose = text.strip_prefix(MARK)?.strip_prefix('\n')?.strip_suffix('\n')?;
        if purpose == "tests" {
            Some(Self::Tests)
        } else {
            purpose.strip_prefix("hand ").map(|root| Self::Hand(root.into()))
        }
    }
}

/// A directory that nobody else owns: we made it, or its maker is dead.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) path: PathBuf,
    pub(super) purpose: Purpose,
    /// The lock goes with it.
    _owner: fs::File,
}

/// A directory that is there already.
#[derive(Debug)]
pub(super) enum Found {
    /// Its maker lives.
    InUse,
    /// Its maker is dead, and it is ours now.
    Ours(Directory),
}

impl Directory {
    pub(super) fn create(parent: &Path, purpose: Purpose) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("a directory in {}: {error}", parent.display());
        // A process finds its servers by their working directory, which is never a link.
        let parent = parent.canonicalize().map_err(failed)?;
        let unique = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        let path = parent.join(format!("{PREFIX}{}-{unique:x}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(failed)?;
        // It gets its name when it is locked already: what is named `owner` and not locked has lost its maker.
        let unnamed = path.join("owner.new");
        let mut owner = fs::File::create_new(&unnamed).map_err(failed)?;
        flock(&owner, FlockOperation::NonBlockingLockExclusive).map_err(|error| failed(error.into()))?;
        owner.write_all(purpose.to_text().as_bytes()).map_err(failed)?;
        fs::rename(unnamed, path.join("owner")).map_err(failed)?;
        Ok(Self { path, purpose, _owner: owner })
    }

    /// The directories for this purpose in `parent` that are provably ours: of our user, named and marked so.
    ///
    /// Those for other purposes are not even locked: their own people would take them for in use.
    pub(super) fn find(parent: &Path, purpose: &Purpose) -> Vec<Found> {
        let Ok(parent) = parent.canonicalize() else { return Vec::new() };
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        entries.filter_map(|entry| Self::look(&entry.path(), purpose)).collect()
    }

    fn look(path: &Path, wanted: &Purpose) -> Option<Found> {
        let named = path.file_name()?.to_str()?.starts_with(PREFIX);
        let metadata = fs::symlink_metadata(path).ok()?;
        if !named || !metadata.is_dir() || metadata.uid() != geteuid().as_raw() {
            return None;
        }
        let file = path.join("owner");
        let owner = fs::File::open(&file).ok()?;
        let purpose = Purpose::parse(&fs::read_to_string(&file).ok()?).filter(|purpose| purpose == wanted)?;
        if flock(&owner, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Some(Found::InUse);
        }
        Some(Found::Ours(Self { path: path.to_owned(), purpose, _owner: owner }))
    }

    /// The servers that run in it.
    pub(super) fn processes(&self) -> Vec<Pid> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|&pid| self.is_ours(pid)).filter_map(Pid::from_raw).collect()
    }

    fn is_ours(&self, pid: i32) -> bool {
        let inside = fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&self.path));
        let program = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        inside && PROGRAMS.contains(&program.trim())
    }

    /// Ends the servers in it and removes it.
    pub(super) fn remove(&self) -> Result<(), String> {
        let start = std::time::Instant::now();
        // Not `wait_until`: an interrupted run must still clean up.
        loop {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            if start.elapsed() > STOP_MAX {
                return Err(format!("{} servers in {} do not end", left.len(), self.path.display()));
            }
            for pid in left {
                let _ = kill_process(pid, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(format!("{}: {error}", self.path.display()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::process::{Child, Command, Stdio};

    use super::*;

    /// An empty directory for the directories of one test.
    struct Parent(PathBuf);

    impl Parent {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("sysd-directory-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path.canonicalize().unwrap())
        }
    }

    impl Drop for Parent {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// A process that looks like a server: `sleep` under a server's name.
    fn false_server(bin: &Path, name: &str, cwd: &Path) -> Child {
        let program = bin.join(name);
        if !program.exists() {
            fs::copy("/bin/sleep", &program).unwrap();
        }
        Command::new(program).arg("60").current_dir(cwd).stdin(Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn the_mark_says_who_it_is_for_and_nothing_else_is_read() {
        for purpose in [Purpose::Tests, Purpose::Hand("/a b/c".into())] {
            assert_eq!(Purpose::parse(&purpose.to_text()), Some(purpose));
        }
        for text in ["", MARK, "sysd xtask servers, format 2\ntests\n", &format!("{MARK}\ntest\n")] {
            assert_eq!(Purpose::parse(text), None, "{text}");
        }
    }

    #[test]
    fn it_is_in_use_until_its_maker_is_gone() {
        let parent = Parent::new("lock");
        let directory = Directory::create(&parent.0, Purpose::Tests).unwrap();
        assert!(matches!(Directory::find(&parent.0, &Purpose::Tests).as_slice(), [Found::InUse]));
        drop(directory);
        assert!(matches!(Directory::find(&parent.0, &Purpose::Tests).as_slice(), [Found::Ours(_)]));
        assert!(Directory::find(&parent.0, &Purpose::Hand("/a".into())).is_empty());
    }

    #[test]
    fn what_is_not_marked_named_or_a_directory_is_not_ours() {
        let parent = Parent::new("foreign");
        let ours = Directory::create(&parent.0, Purpose::Tests).unwrap();
        let unmarked = parent.0.join(format!("{PREFIX}1"));
        fs::create_dir(&unmarked).unwrap();
        let marked_badly = parent.0.join(format!("{PREFIX}2"));
        fs::create_dir(&marked_badly).unwrap();
        fs::write(marked_badly.join("owner"), "me").unwrap();
        let misnamed = parent.0.join("servers");
        fs::create_dir(&misnamed).unwrap();
        fs::copy(ours.path.join("owner"), misnamed.join("owner")).unwrap();
        std::os::unix::fs::symlink(&ours.path, parent.0.join(format!("{PREFIX}3"))).unwrap();
        assert_eq!(Directory::find(&parent.0, &Purpose::Tests).len(), 1);
    }

    #[test]
    fn removing_it_ends_its_servers_and_nobody_else() {
        let parent = Parent::new("stop");
        let directory = Directory::create(&parent.0, Purpose::Tests).unwrap();
        let mut server = false_server(&parent.0, "redis-server", &directory.path);
        let mut elsewhere = false_server(&parent.0, "redis-server", &parent.0);
        let mut visitor = false_server(&parent.0, "bash", &directory.path);
        // A program bears its name only once it runs.
        let named = || Ok(directory.processes().len() == 1);
        crate::process::wait_until("the server runs", STOP_MAX, named).unwrap();
        directory.remove().unwrap();
        assert!(!directory.path.exists());
        assert!(!server.wait().unwrap().success());
        for other in [&mut elsewhere, &mut visitor] {
            assert_eq!(other.try_wait().unwrap(), None);
            other.kill().unwrap();
            other.wait().unwrap();
        }
    }
}
