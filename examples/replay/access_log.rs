//! What a line of a log says.
//!
//! Lines are bytes: requests carry anything, and servers log it. Nothing here panics, whatever the line.

use std::net::IpAddr;

use jiff::fmt::strtime::BrokenDownTime;
use jiff::tz::TimeZone;
use sysd::core::Timestamp;

/// Which shape lines have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Each line by its own looks.
    Auto,
    /// Common or Combined Log Format: `host ident user [time] "request" status bytes ["referer" "agent"]`.
    Combined,
    /// Comma-separated: `vhost,port,client,ident,user,[time]`, seven counts, status, then in quotes protocol, method,
    /// path, query, referer, agent.
    Csv,
    /// sshd in a syslog: each log-in attempt is a request of the address it came from.
    Sshd,
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) at: Timestamp,
    pub(crate) client: &'a [u8],
    /// `-` for what is no request of HTTP.
    pub(crate) method: &'a [u8],
    /// Without its query; for a request line that is none, all of it; for sshd, the user.
    pub(crate) path: &'a [u8],
    /// Who was signed in, `-` for nobody. For sshd too: there nobody is, yet.
    pub(crate) user: &'a [u8],
    pub(crate) agent: &'a [u8],
    pub(crate) referer: &'a [u8],
    /// The virtual host, where the log names it, or `-`.
    pub(crate) host: &'a [u8],
    /// How many such requests the line stands for.
    pub(crate) repeats: u32,
}

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    Request(Entry<'a>),
    /// A line as it should be that is about no request.
    Other,
}

/// Why a line could not be read.
pub(crate) type Malformed = &'static str;

const REPEATS_MAX: u32 = 10_000;
/// For logs that name no year: one with a 29 February.
const FIRST_YEAR: i16 = 2000;

/// Reads lines, one after another.
#[derive(Debug)]
pub(crate) struct Parser {
    format: Format,
    /// The last time that was read, and its text: neighbouring lines mostly share it.
    last_stamp: Vec<u8>,
    last_at: Timestamp,
    /// The year of a log that names none.
    year: i16,
    month: i8,
}

impl Parser {
    pub(crate) fn new(format: Format) -> Self {
        Self { format, last_stamp: Vec::new(), last_at: Timestamp::UNIX_EPOCH, year: FIRST_YEAR, month: 1 }
    }

    /// Reads a line without its end.
    pub(crate) fn parse<'a>(&mut self, line: &'a [u8]) -> Result<Line<'a>, Malformed> {
        match self.format {
            Format::Combined => self.combined(line),
            Format::Csv => self.csv(line),
            Format::Sshd => self.sshd(line),
            Format::Auto => match line.iter().position(|&byte| byte == b'[') {
                Some(at) if line[..at].ends_with(b",") => self.csv(line),
                Some(at) if line[..at].ends_with(b" sshd") => self.sshd(line),
                Some(_) => self.combined(line),
                None => Err("no [time]: neither an access log's line nor sshd's"),
            },
        }
    }

    fn combined<'a>(&mut self, line: &'a [u8]) -> Result<Line<'a>, Malformed> {
        let (client, rest) = line.split_at(find(line, b" ").ok_or("no client")?);
        // A user may hold spaces and brackets, so the time is the first bracket that reads as one.
        let mut from = 0;
        let (at, user, rest) = loop {
            let open = find(&rest[from..], b" [").ok_or("no [time]")? + from;
            from = open + 2;
            let Some((stamp, after)) = cut(&rest[from..], b"]") else { return Err("no [time]") };
            if let Some(at) = self.stamp(stamp) {
                let who = rest[..open].trim_ascii();
                let Some((_identity, user)) = cut(who, b" ") else {
                    return Err("no identity or no user before the time");
                };
                break (at, user.trim_ascii(), after);
            }
        };
        let (request, rest) = rest.strip_prefix(b" ").and_then(|rest| quoted(rest, b' ')).ok_or("no \"request\"")?;
        let mut words = rest.split(|&byte| byte == b' ');
        if !words.next().is_some_and(is_number) || !words.next().is_some_and(is_number) {
            return Err("no status and bytes behind the request");
        }
        let rest = nth_space(rest, 2);
        let (referer, agent): (&[u8], &[u8]) = match quoted(rest, b' ') {
            Some((referer, rest)) => (referer, quoted(rest, b' ').ok_or("a referer but no \"agent\"")?.0),
            None if rest.is_empty() => (b"-", b"-"),
            None => return Err("no \"referer\" behind the bytes"),
        };
        let (method, path) = method_and_path(request);
        entry_of(Entry { at, client, method, path, user, agent, referer, host: b"-", repeats: 1 })
    }

    fn csv<'a>(&mut self, line: &'a [u8]) -> Result<Line<'a>, Malformed> {
        let (head, rest) = cut(line, b",[").ok_or("no ,[time]")?;
        let mut fields = head.split(|&byte| byte == b',');
        let host = fields.next().unwrap_or_default();
        let client = fields.nth(1).ok_or("no client")?;
        let user = fields.nth(1).ok_or("no identity or no user before the time")?;
        let (stamp, rest) = cut(rest, b"]").ok_or("no end of the time")?;
        let at = self.stamp(stamp).ok_or("not a time")?;
        let mut rest = rest.strip_prefix(b",").ok_or("nothing behind the time")?;
        for _ in 0..7 {
            rest = cut(rest, b",").ok_or("not seven counts behind the time")?.1;
        }
        let (status, mut rest) = cut(rest, b",").ok_or("no status")?;
        if !is_number(status) {
            return Err("the status is no number");
        }
        let mut texts: [&[u8]; 6] = [b"-"; 6];
        for text in &mut texts {
            (*text, rest) = quoted(rest, b',').ok_or("not six texts behind the status")?;
        }
        let [_protocol, method, path, _query, referer, agent] = texts;
        entry_of(Entry { at, client, method, path, user, agent, referer, host, repeats: 1 })
    }

    fn sshd<'a>(&mut self, line: &'a [u8]) -> Result<Line<'a>, Malformed> {
        let (stamp, rest) = line.split_at_checked(15).ok_or("too short")?;
        let (_host, rest) = cut(rest, b" sshd[").ok_or("not sshd's")?;
        let (_pid, mut message) = cut(rest, b"]: ").ok_or("no process")?;
        let at = self.stamp_without_year(stamp).ok_or("not a time")?;
        let mut repeats = 1;
        if let Some(repeated) = message.strip_prefix(b"message repeated ") {
            let (times, inner) = cut(repeated, b" times: [ ").ok_or("not a repeated message")?;
            repeats = number(times).filter(|times| (1..=REPEATS_MAX).contains(times)).ok_or("repeated how often?")?;
            message = inner;
        }
        if !message.starts_with(b"Failed ") && !message.starts_with(b"Accepted ") {
            return Ok(Line::Other);
        }
        let (_how, rest) = cut(message, b" for ").ok_or("no user")?;
        // The user is the attacker's to choose; the address is behind the last ` from `.
        let from = rfind(rest, b" from ").ok_or("no address")?;
        let (path, rest) = (&rest[..from], &rest[from + 6..]);
        let client = rest.split(|&byte| byte == b' ').next().unwrap_or_default();
        let is_address = std::str::from_utf8(client).is_ok_and(|text| text.parse::<IpAddr>().is_ok());
        if !is_address {
            return Err("the address is none");
        }
        let (method, user, agent, referer, host) = (b"-", b"-", b"-", b"-", b"-");
        Ok(Line::Request(Entry { at, client, method, path, user, agent, referer, host, repeats }))
    }

    /// Reads `10/Oct/2000:13:55:36 -0700`.
    fn stamp(&mut self, text: &[u8]) -> Option<Timestamp> {
        if text == self.last_stamp && !text.is_empty() {
            return Some(self.last_at);
        }
        // Longer ones are none, and are not worth remembering.
        if text.len() > 40 {
            return None;
        }
        let broken_down = BrokenDownTime::parse("%d/%b/%Y:%H:%M:%S %z", text).ok()?;
        let at = timestamp(broken_down.to_timestamp().ok()?)?;
        self.last_stamp.clear();
        self.last_stamp.extend_from_slice(text);
        self.last_at = at;
        Some(at)
    }

    /// Reads `Dec 10 06:55:46`, in UTC. December followed by January is a new year.
    fn stamp_without_year(&mut self, text: &[u8]) -> Option<Timestamp> {
        let mut broken_down = BrokenDownTime::parse("%b %e %H:%M:%S", text).ok()?;
        let month = broken_down.month()?;
        if self.month == 12 && month == 1 && self.year < 2200 {
            self.year += 1;
        }
        self.month = month;
        broken_down.set_year(Some(self.year)).ok()?;
        timestamp(TimeZone::UTC.to_timestamp(broken_down.to_datetime().ok()?).ok()?)
    }
}

fn timestamp(at: jiff::Timestamp) -> Option<Timestamp> {
    Timestamp::from_micros(u64::try_from(at.as_microsecond()).ok()?).ok()
}

fn entry_of(entry: Entry<'_>) -> Result<Line<'_>, Malformed> {
    if entry.client.is_empty() { Err("no client") } else { Ok(Line::Request(entry)) }
}

/// `GET /path?query HTTP/1.1` has a method and a path; anything else (TLS bytes, nothing) stands for itself.
fn method_and_path(request: &[u8]) -> (&[u8], &[u8]) {
    let mut words = request.split(|&byte| byte == b' ');
    match (words.next(), words.next()) {
        (Some(method), Some(target)) if !method.is_empty() && method.iter().all(u8::is_ascii_alphabetic) => {
            (method, target.split(|&byte| byte == b'?').next().unwrap_or_default())
        }
        _ => (b"-", request),
    }
}

/// A text in quotes at the head of `input`, and what follows it and `separator`. A quote inside is escaped by a
/// backslash, or is one that neither the separator nor the end follows.
fn quoted(input: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let inner = input.strip_prefix(b"\"")?;
    let mut is_escaped = false;
    for (at, &byte) in inner.iter().enumerate() {
        if is_escaped {
            is_escaped = false;
            continue;
        }
        match byte {
            b'\\' => is_escaped = true,
            b'"' => match inner.get(at + 1) {
                None => return Some((&inner[..at], b"")),
                Some(&next) if next == separator => return Some((&inner[..at], &inner[at + 2..])),
                Some(_) => {}
            },
            _ => {}
        }
    }
    None
}

/// What is before and after the first `mark`.
fn cut<'a>(input: &'a [u8], mark: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = find(input, mark)?;
    Some((&input[..at], &input[at + mark.len()..]))
}

fn find(input: &[u8], mark: &[u8]) -> Option<usize> {
    input.windows(mark.len()).position(|window| window == mark)
}

fn rfind(input: &[u8], mark: &[u8]) -> Option<usize> {
    input.windows(mark.len()).rposition(|window| window == mark)
}

/// What is behind the `count`th space.
fn nth_space(mut input: &[u8], count: usize) -> &[u8] {
    for _ in 0..count {
        match cut(input, b" ") {
            Some((_, rest)) => input = rest,
            None => return b"",
        }
    }
    input
}

/// Digits, or the `-` that stands for none.
fn is_number(field: &[u8]) -> bool {
    field == b"-" || (!field.is_empty() && field.iter().all(u8::is_ascii_digit))
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

#[cfg(test)]
#[path = "access_log_tests.rs"]
mod tests;
