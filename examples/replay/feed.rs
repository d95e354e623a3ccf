//! Turns a log, or made-up traffic, into batches of requests, on a thread of its own.

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher as _;
use std::io::{self, Read, Write as _};
use std::ops::ControlFlow;

use sysd::core::Timestamp;
use tokio::sync::mpsc;

use super::KeyBy;
use super::access_log::{Entry, Format, Line, Parser};
use super::source::{self, Found};
use super::traffic::Traffic;

const BATCH_REQUESTS: usize = 1_024;
/// Longer parts of a request are cut as keys are.
const PART_BYTES_MAX: usize = 2_048;
/// How many batches wait at most.
pub(crate) const BATCHES_WAITING: usize = 8;
/// Longer keys are cut, and end in a hash of the whole.
const KEY_BYTES_MAX: usize = 256;
const SHOWN_MAX: usize = 5;
const SHOWN_CHARS: usize = 120;

/// What is wanted of each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// What it is limited by.
    Key(KeyBy),
    /// All that a policy looks at.
    Parts,
}

/// What a policy looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Client,
    Method,
    Path,
    User,
    Agent,
    Referer,
    Host,
}

const PARTS: [Part; 7] = [Part::Client, Part::Method, Part::Path, Part::User, Part::Agent, Part::Referer, Part::Host];

/// Requests in the order of their times.
#[derive(Debug)]
pub(crate) struct Batch {
    times: Vec<Timestamp>,
    /// Of each request's parts, where it ends in `bytes`; a key is one part.
    ends: Vec<usize>,
    parts: usize,
    bytes: Vec<u8>,
}

impl Batch {
    fn new(wanted: Wanted) -> Self {
        let parts = if wanted == Wanted::Parts { PARTS.len() } else { 1 };
        Self { times: Vec::new(), ends: Vec::new(), parts, bytes: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.times.len()
    }

    pub(crate) fn at(&self, index: usize) -> Timestamp {
        self.times[index]
    }

    /// The key; where parts are wanted, the client.
    pub(crate) fn key(&self, index: usize) -> &[u8] {
        self.at_place(index * self.parts)
    }

    /// Empty where the log has none, or where only keys were wanted.
    #[cfg(feature = "policy")]
    pub(crate) fn part(&self, index: usize, part: Part) -> &[u8] {
        let place = part as usize;
        if place < self.parts { self.at_place(index * self.parts + place) } else { b"" }
    }

    fn at_place(&self, place: usize) -> &[u8] {
        let start = if place == 0 { 0 } else { self.ends[place - 1] };
        &self.bytes[start..self.ends[place]]
    }

    fn push(&mut self, bytes_max: usize, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        write(&mut self.bytes);
        shorten(&mut self.bytes, start, bytes_max);
        self.ends.push(self.bytes.len());
    }
}

/// What was seen besides requests.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) malformed: u64,
    /// The first malformed lines, fit for a terminal.
    pub(crate) shown: Vec<String>,
    /// Lines that are as they should be and about no request.
    pub(crate) others: u64,
    pub(crate) logs: u64,
    /// Logs that begin before the one in front of them ends.
    pub(crate) logs_moved: u64,
}

/// Collects requests and sends them in batches. Its time never goes back.
#[derive(Debug)]
pub(crate) struct Feeder {
    wanted: Wanted,
    batches: mpsc::Sender<Batch>,
    batch: Batch,
    now: Timestamp,
    /// What is added to the times of this log; not known before its first request.
    shift_us: Option<u64>,
    notes: Notes,
}

impl Feeder {
    pub(crate) fn new(wanted: Wanted, batches: mpsc::Sender<Batch>) -> Self {
        let (now, notes) = (Timestamp::UNIX_EPOCH, Notes::default());
        Self { wanted, batches, batch: Batch::new(wanted), now, shift_us: None, notes }
    }

    /// Sends all requests of the logs in `input`.
    ///
    /// # Errors
    /// As [`source::read`]. That nobody takes the batches any more is none: it ends early.
    pub(crate) fn feed_log(mut self, name: &str, input: &mut dyn Read, format: Format) -> io::Result<Notes> {
        let mut parser = Parser::new(format);
        let mut log = String::new();
        let mut line_number = 0_u64;
        source::read(name, input, &mut |found| {
            let problem = match found {
                Found::Log(name) => {
                    self.begin_log();
                    parser = Parser::new(format);
                    name.clone_into(&mut log);
                    line_number = 0;
                    return ControlFlow::Continue(());
                }
                Found::TooLong(line) => Some((line, "longer than 64 KiB")),
                Found::Line(line) => match parser.parse(line) {
                    Ok(Line::Request(entry)) => {
                        line_number += 1;
                        return self.push_entry(&entry);
                    }
                    Ok(Line::Other) => {
                        self.notes.others += 1;
                        None
                    }
                    Err(why) => Some((line, why)),
                },
            };
            line_number += 1;
            if let Some((line, why)) = problem {
                self.note_malformed(&log, line_number, line, why);
            }
            ControlFlow::Continue(())
        })?;
        Ok(self.finish())
    }

    /// Sends made-up requests.
    pub(crate) fn feed_traffic(mut self, traffic: Traffic) -> Notes {
        for hit in traffic {
            let pushed = match self.wanted {
                Wanted::Key(by) => self.push(hit.at, |key| hit.write_key(by, key)),
                Wanted::Parts => self.push_parts(hit.at, |part, out| hit.write_part(part, out)),
            };
            if pushed.is_break() {
                break;
            }
        }
        self.finish()
    }

    /// The logs of an archive are replayed one after another. One that begins earlier than the time already is (the log of
    /// another server, say) is moved as a whole to begin now.
    fn begin_log(&mut self) {
        self.notes.logs += 1;
        self.shift_us = None;
    }

    fn push_entry(&mut self, entry: &Entry<'_>) -> ControlFlow<()> {
        let shift_us = *self.shift_us.get_or_insert_with(|| {
            let shift_us = self.now.as_micros().saturating_sub(entry.at.as_micros());
            self.notes.logs_moved += u64::from(shift_us > 0);
            shift_us
        });
        let at = Timestamp::from_micros_saturating(entry.at.as_micros().saturating_add(shift_us));
        let part_of = |part| match part {
            Part::Client => entry.client,
            Part::Method => entry.method,
            Part::Path => entry.path,
            Part::User => entry.user,
            Part::Agent => entry.agent,
            Part::Referer => entry.referer,
            Part::Host => entry.host,
        };
        for _ in 0..entry.repeats {
            match self.wanted {
                Wanted::Key(by) => self.push(at, |out| {
                    out.extend_from_slice(match by {
                        KeyBy::Ip => entry.client,
                        KeyBy::Path => entry.path,
                        KeyBy::Agent => entry.agent,
                    });
                })?,
                Wanted::Parts => self.push_parts(at, |part, out| {
                    // What a log has none of is a dash.
                    let bytes = part_of(part);
                    out.extend_from_slice(if bytes == b"-" { b"" } else { bytes });
                })?,
            }
        }
        ControlFlow::Continue(())
    }

    fn push(&mut self, at: Timestamp, write_key: impl FnOnce(&mut Vec<u8>)) -> ControlFlow<()> {
        self.batch.push(KEY_BYTES_MAX, write_key);
        self.pushed(at)
    }

    fn push_parts(&mut self, at: Timestamp, write_part: impl Fn(Part, &mut Vec<u8>)) -> ControlFlow<()> {
        for part in PARTS {
            self.batch.push(PART_BYTES_MAX, |out| write_part(part, out));
        }
        self.pushed(at)
    }

    fn pushed(&mut self, at: Timestamp) -> ControlFlow<()> {
        // A log is in the order in which requests ended, so its times step back now and then.
        self.now = self.now.max(at);
        self.batch.times.push(self.now);
        if self.batch.len() < BATCH_REQUESTS {
            return ControlFlow::Continue(());
        }
        self.send()
    }

    fn send(&mut self) -> ControlFlow<()> {
        let batch = std::mem::replace(&mut self.batch, Batch::new(self.wanted));
        if self.batches.blocking_send(batch).is_err() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn note_malformed(&mut self, log: &str, line_number: u64, line: &[u8], why: &str) {
        self.notes.malformed += 1;
        if self.notes.shown.len() < SHOWN_MAX {
            let text = fit_for_terminal(line, SHOWN_CHARS);
            self.notes.shown.push(format!("{}:{line_number}: {why}: {text}", log.escape_debug()));
        }
    }

    fn finish(mut self) -> Notes {
        if self.batch.len() > 0 {
            // Whoever went away does not miss it.
            let _ = self.send();
        }
        self.notes
    }
}

/// Cuts the key from `start` on if it is too long, and tells it apart by a hash.
fn shorten(keys: &mut Vec<u8>, start: usize, bytes_max: usize) {
    if keys.len() - start <= bytes_max {
        return;
    }
    let mut hasher = DefaultHasher::new();
    hasher.write(&keys[start..]);
    keys.truncate(start + bytes_max - 17);
    let written = write!(keys, "#{:016x}", hasher.finish());
    debug_assert!(written.is_ok(), "a Vec takes any write");
}

/// `bytes` without anything that a terminal would act on.
pub(crate) fn fit_for_terminal(bytes: &[u8], chars_max: usize) -> String {
    let head = &bytes[..bytes.len().min(chars_max)];
    let mut text: String = head.escape_ascii().to_string().chars().take(chars_max).collect();
    if text.len() == chars_max || head.len() < bytes.len() {
        text.push_str("...");
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn feed(log: &[u8]) -> (Vec<(u64, String)>, Notes) {
        let (sender, mut receiver) = mpsc::channel(BATCHES_WAITING);
        let notes = Feeder::new(Wanted::Key(KeyBy::Ip), sender).feed_log("log", &mut &*log, Format::Auto).unwrap();
        let mut requests = Vec::new();
        while let Ok(batch) = receiver.try_recv() {
            for index in 0..batch.len() {
                let key = String::from_utf8_lossy(batch.key(index)).into_owned();
                requests.push((batch.at(index).as_micros() / 1_000_000 % 100, key));
            }
        }
        (requests, notes)
    }

    fn line(client: &str, second: u32) -> String {
        format!("{client} - - [14/Nov/2023:22:13:{second:02} +0000] \"GET / HTTP/1.1\" 200 1\n")
    }

    #[test]
    fn time_never_goes_back() {
        let log = [line("a", 25), line("b", 23), line("c", 27)].concat();
        let (requests, _) = feed(log.as_bytes());
        assert_eq!(requests, [(5, "a".into()), (5, "b".into()), (7, "c".into())]);
    }

    #[test]
    fn an_earlier_log_is_moved_to_the_end_of_the_one_before() {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, text) in [("one", line("a", 30) + &line("b", 40)), ("two", line("c", 20) + &line("d", 21))] {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            builder.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
        let (requests, notes) = feed(&builder.into_inner().unwrap());
        assert_eq!(requests, [(10, "a".into()), (20, "b".into()), (20, "c".into()), (21, "d".into())]);
        assert_eq!((notes.logs, notes.logs_moved), (2, 1));
    }

    #[test]
    fn malformed_lines_are_counted_and_the_first_shown_harmless() {
        let mut log = b"\x1b[31mred\x07\n".repeat(9);
        log.extend_from_slice(line("a", 1).as_bytes());
        let (requests, notes) = feed(&log);
        assert_eq!((requests.len(), notes.malformed, notes.shown.len()), (1, 9, SHOWN_MAX));
        let shown = &notes.shown[1];
        assert!(shown.starts_with("log:2: ") && !shown.contains(char::is_control), "{shown:?}");
    }

    #[test]
    fn long_keys_are_cut_and_stay_apart() {
        let (first, second) = ("x".repeat(400) + "1", "x".repeat(400) + "2");
        let (requests, _) = feed([line(&first, 1), line(&second, 1)].concat().as_bytes());
        assert_eq!(requests[0].1.len(), KEY_BYTES_MAX);
        assert_ne!(requests[0].1, requests[1].1);
    }
}
