//! A machine of a test's own: its power can fail, and its disk can hang.
//!
//! A process is followed from system call to system call (ptrace). What it syncs is copied as it is at that moment, so that the
//! copy is what a disk without power would hold: of each file the bytes of its last sync, of each directory the names of its
//! last sync, of what was never synced nothing. A kernel may have written more by itself; a store must not count on it.
#![allow(dead_code, reason = "each test uses its part")]

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::libc::{self, c_long};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::fs::SeekFrom;

/// Of a step of the process, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const VARIABLE: &str = "SYSD_MACHINE_CHILD";

/// Names a file or a directory; names of files that are gone are used again, so with its birth.
type Id = (u64, u64, Option<SystemTime>);

fn id(metadata: &fs::Metadata) -> Id {
    (metadata.dev(), metadata.ino(), metadata.created().ok())
}

/// A file's or a directory's bytes as of its last sync.
enum Node {
    /// Its length, and its bytes but for holes.
    File(u64, Vec<(u64, Vec<u8>)>),
    Directory(BTreeMap<OsString, (Id, bool)>),
}

impl Node {
    fn read(path: &Path) -> (Id, Self) {
        let file = File::open(path).unwrap();
        let metadata = file.metadata().unwrap();
        if metadata.is_dir() {
            let entry = |entry: fs::DirEntry| {
                let metadata = entry.metadata().ok()?;
                Some((entry.file_name(), (id(&metadata), metadata.is_dir())))
            };
            // What goes meanwhile is not there.
            let entries = fs::read_dir(path).unwrap().flatten().filter_map(entry).collect();
            return (id(&metadata), Self::Directory(entries));
        }
        let (mut extents, mut at) = (Vec::new(), 0);
        while let Ok(start) = rustix::fs::seek(&file, SeekFrom::Data(at)) {
            at = rustix::fs::seek(&file, SeekFrom::Hole(start)).unwrap();
            let mut bytes = vec![0; usize::try_from(at - start).unwrap()];
            file.read_exact_at(&mut bytes, start).unwrap();
            extents.push((start, bytes));
        }
        (id(&metadata), Self::File(metadata.len(), extents))
    }
}

/// What a disk holds when its power fails.
struct Disk {
    root: Id,
    nodes: HashMap<Id, Node>,
}

impl Disk {
    /// After a start: all that is there is there.
    fn of(root: &Path) -> Self {
        let (root_id, node) = Node::read(root);
        let mut disk = Self { root: root_id, nodes: HashMap::new() };
        disk.hold(root, root_id, node);
        disk
    }

    fn hold(&mut self, path: &Path, id: Id, node: Node) {
        if let Node::Directory(entries) = &node {
            for name in entries.keys() {
                let path = path.join(name);
                let (id, node) = Node::read(&path);
                self.hold(&path, id, node);
            }
        }
        self.nodes.insert(id, node);
    }

    fn write(&self, id: Id, is_directory: bool, to: &Path) {
        match self.nodes.get(&id) {
            None if is_directory => fs::create_dir(to).unwrap(),
            None => drop(File::create(to).unwrap()),
            Some(Node::Directory(entries)) => {
                fs::create_dir(to).unwrap();
                for (name, (id, is_directory)) in entries {
                    self.write(*id, *is_directory, &to.join(name));
                }
            }
            Some(Node::File(bytes, extents)) => {
                let file = File::create(to).unwrap();
                file.set_len(*bytes).unwrap();
                for (at, bytes) in extents {
                    file.write_all_at(bytes, *at).unwrap();
                }
            }
        }
    }
}

/// Under way in a thread of the process.
struct Call {
    number: c_long,
    descriptor: u64,
    /// What it syncs, as it was when it began.
    synced: Option<(Id, Node)>,
}

/// A process on its machine.
pub(crate) struct Machine {
    child: Child,
    out: ChildStdout,
    heard: Vec<u8>,
    disk: Disk,
    directory: PathBuf,
    calls: HashMap<Pid, Call>,
    /// Stopped until [`Machine::run_until`] goes on.
    waiting: Vec<Pid>,
    /// Which calls on the directory's files hang, and the threads that are in one.
    hanging: &'static [c_long],
    held: Vec<Pid>,
    /// How often something was synced.
    pub(crate) syncs: usize,
}

/// Reads of files.
pub(crate) const READS: &[c_long] = &[libc::SYS_pread64, libc::SYS_read];
/// Syncs of files.
pub(crate) const SYNCS: &[c_long] = &[libc::SYS_fdatasync, libc::SYS_fsync];

/// In the process: the words that it was started with, once it may begin; nothing in the tests' own process.
pub(crate) fn task() -> Option<Vec<String>> {
    let task = std::env::var(VARIABLE).ok()?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    Some(task.split(' ').map(str::to_owned).collect())
}

/// In the process: says a line, with one call.
pub(crate) fn say(line: &str) {
    std::io::stdout().lock().write_all(format!("@ {line}\n").as_bytes()).unwrap();
}

impl Machine {
    /// Starts this program again, to run one of its tests on files in `directory`, which `task` tells of.
    pub(crate) fn start(test: &str, directory: &Path, task: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads", "1"])
            .env(VARIABLE, format!("{task} {}", directory.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = child.stdout.take().unwrap();
        let mut machine = Self {
            disk: Disk::of(directory),
            directory: directory.canonicalize().unwrap(),
            out,
            heard: Vec::new(),
            calls: HashMap::new(),
            waiting: Vec::new(),
            hanging: &[],
            held: Vec::new(),
            syncs: 0,
            child,
        };
        machine.seize();
        machine.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        machine
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Follows all threads. Those that it starts meanwhile are followed from their start.
    fn seize(&self) {
        let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
        let mut seized = Vec::new();
        loop {
            let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap().flatten();
            let threads = tasks.map(|task| Pid::from_raw(task.file_name().to_str().unwrap().parse().unwrap()));
            let new: Vec<_> = threads.filter(|thread| !seized.contains(thread)).collect();
            if new.is_empty() {
                return;
            }
            for thread in new {
                // One that a thread before this one started is followed already.
                match ptrace::seize(thread, options) {
                    Ok(()) => ptrace::interrupt(thread).unwrap(),
                    Err(error) => assert_eq!(error, Errno::EPERM, "this test needs ptrace"),
                }
                seized.push(thread);
            }
        }
    }

    /// Lets these calls hang from now on; with none, those that hang go on.
    pub(crate) fn hang(&mut self, calls: &'static [c_long]) {
        self.hanging = calls;
        if calls.is_empty() {
            self.waiting.append(&mut self.held);
        }
    }

    /// Lets the process run until it has said a line that is wanted, which is answered. It stands still then, all but those of its
    /// threads that are between two calls.
    pub(crate) fn run_until(&mut self, mut is_wanted: impl FnMut(&str) -> bool) -> String {
        let start = Instant::now();
        loop {
            while let Some(line) = self.next_line() {
                if is_wanted(&line) {
                    return line;
                }
            }
            for thread in std::mem::take(&mut self.waiting) {
                go_on(thread, None);
            }
            self.step(start);
        }
    }

    fn next_line(&mut self) -> Option<String> {
        loop {
            let end = self.heard.iter().position(|&byte| byte == b'\n')?;
            let line: Vec<u8> = self.heard.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line[..end]).into_owned();
            // The test harness says things too, the first without an end of line.
            if let Some((_, line)) = line.split_once("@ ") {
                return Some(line.to_owned());
            }
        }
    }

    /// Until something of the process is to be looked at, and looks.
    fn step(&mut self, start: Instant) {
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD | WaitPidFlag::WNOHANG;
        match waitpid(None, Some(flags)).unwrap() {
            WaitStatus::StillAlive => {
                assert!(start.elapsed() < PATIENCE, "the process said nothing that was waited for");
                // real-time: another process is waited for.
                std::thread::sleep(Duration::from_micros(20));
            }
            WaitStatus::PtraceSyscall(thread) => self.look(thread),
            WaitStatus::Stopped(thread, signal) => go_on(thread, Some(signal)),
            WaitStatus::PtraceEvent(thread, ..) => go_on(thread, None),
            WaitStatus::Exited(thread, code) => assert_ne!(thread, self.pid(), "the process ended with {code}"),
            WaitStatus::Signaled(thread, signal, _) => {
                assert_ne!(thread, self.pid(), "the process was ended by {signal}");
            }
            WaitStatus::Continued(_) => {}
        }
    }

    /// A thread begins a call, or has ended it.
    fn look(&mut self, thread: Pid) {
        if let Some(call) = self.calls.remove(&thread) {
            // One that failed stops the store, so nothing is acknowledged after it.
            if let Some((id, node)) = call.synced {
                self.disk.nodes.insert(id, node);
                self.syncs += 1;
            }
            if call.number == libc::SYS_write && call.descriptor == 1 {
                let mut bytes = vec![0; 1 << 16];
                let count = self.out.read(&mut bytes).unwrap();
                self.heard.extend(&bytes[..count]);
            }
            self.waiting.push(thread);
            return;
        }
        // Of a thread that was within a call when it was seized, the end is seen first.
        let Some((number, descriptor)) = call_of(self.pid(), thread) else {
            go_on(thread, None);
            return;
        };
        let mut call = Call { number, descriptor, synced: None };
        let (is_sync, may_hang) = (SYNCS.contains(&number), self.hanging.contains(&number));
        let mut is_held = false;
        if is_sync || may_hang {
            let file = PathBuf::from(format!("/proc/{}/fd/{descriptor}", self.pid()));
            let is_ours = fs::read_link(&file).is_ok_and(|path| path.starts_with(&self.directory));
            call.synced = (is_sync && is_ours).then(|| Node::read(&file));
            is_held = may_hang && is_ours;
        }
        self.calls.insert(thread, call);
        if is_held { self.held.push(thread) } else { go_on(thread, None) }
    }

    /// How many threads of the process hang.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// The power fails: what is left is put into a new directory.
    pub(crate) fn fail_power(mut self, to: &Path) {
        self.end();
        self.disk.write(self.disk.root, true, to);
    }

    fn end(&mut self) {
        let _ = kill(self.pid(), Signal::SIGKILL);
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        loop {
            match waitpid(None, Some(flags)) {
                Ok(WaitStatus::Exited(thread, _) | WaitStatus::Signaled(thread, ..)) if thread == self.pid() => return,
                Ok(WaitStatus::PtraceSyscall(thread) | WaitStatus::PtraceEvent(thread, ..)) => go_on(thread, None),
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
    }
}

/// To its next call, or to the end of the one that it is in. A thread that was killed is gone.
fn go_on(thread: Pid, signal: Option<Signal>) {
    match ptrace::syscall(thread, signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => panic!("ptrace: {error}"),
    }
}

/// The number and the first argument of the call that a thread begins; nothing if it ends one.
fn call_of(process: Pid, thread: Pid) -> Option<(c_long, u64)> {
    const ENTRY: u8 = 1;
    if ptrace::syscall_info(thread).ok()?.op != ENTRY {
        return None;
    }
    let text = fs::read_to_string(format!("/proc/{process}/task/{thread}/syscall")).ok()?;
    let mut words = text.split_whitespace();
    let number = words.next()?.parse().ok()?;
    let descriptor = u64::from_str_radix(words.next()?.trim_start_matches("0x"), 16).ok()?;
    Some((number, descriptor))
}
