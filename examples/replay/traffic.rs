//! A day of made-up traffic, the same for the same seed: visitors by a Zipf law, crawlers, bursts, and the ups and downs
//! of a day.
//!
//! Requests come in the order of time. Held in memory are the sessions that are open, not the requests.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::Write as _;

use rand::{RngExt as _, SeedableRng as _};
use rand_distr::{Distribution as _, Zipf};
use rand_pcg::Pcg64;
use sysd::core::Timestamp;

use super::KeyBy;
use super::feed::Part;

/// 2026-01-01T00:00:00Z.
const DAY_START_US: u64 = 1_767_225_600_000_000;
const HOUR_US: f64 = 3_600_000_000.0;
/// How busy each hour is, beside the others.
const HOURS: [f64; 24] = [
    3.0, 2.0, 1.5, 1.2, 1.0, 1.3, 2.0, 3.5, 5.5, 7.0, 7.5, 7.8, 8.0, 7.6, 7.4, 7.2, 7.0, 7.3, 8.2, 9.0, 9.4, 8.6, 6.5,
    4.5,
];
const CLIENTS: f64 = 50_000.0;
const PAGES: f64 = 5_000.0;
const CRAWLERS: u32 = 12;
/// Requests a session, over the mix of sessions that `open` makes.
const SESSION_MEAN: f64 = 6.5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// A page and what belongs to it.
    Visit,
    /// A robot, steadily.
    Crawl,
    /// A client out of control.
    Burst,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Session {
    next_us: u64,
    /// Tells apart sessions of the same moment.
    number: u64,
    kind: Kind,
    client: u32,
    left: u64,
}

/// A made-up request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    /// In whole seconds, as an access log has it.
    pub(crate) at: Timestamp,
    kind: Kind,
    client: u32,
    page: u32,
}

/// Makes the requests.
#[derive(Debug)]
pub(crate) struct Traffic {
    random: Pcg64,
    clients: Zipf<f64>,
    pages: Zipf<f64>,
    open: BinaryHeap<Reverse<Session>>,
    /// Requests that no session has been opened for.
    unplanned: u64,
    sessions: u64,
    /// How much of the day's sessions have been opened, 0 to 1.
    elapsed: f64,
    next_open_us: u64,
}

impl Traffic {
    /// `requests` requests of one day.
    pub(crate) fn new(requests: u64, seed: u64) -> Result<Self, rand_distr::ZipfError> {
        let mut traffic = Self {
            random: Pcg64::seed_from_u64(seed),
            clients: Zipf::new(CLIENTS, 1.05)?,
            pages: Zipf::new(PAGES, 0.9)?,
            open: BinaryHeap::new(),
            unplanned: requests,
            sessions: 0,
            elapsed: 0.0,
            next_open_us: 0,
        };
        traffic.plan();
        Ok(traffic)
    }

    /// When the next session opens: the next of so many moments drawn evenly, bent by the curve of the day.
    fn plan(&mut self) {
        #[allow(clippy::cast_precision_loss, reason = "a share of the day, not a count")]
        let sessions_left = (self.unplanned as f64 / SESSION_MEAN).max(1.0);
        let draw: f64 = self.random.random();
        self.elapsed = 1.0 - (1.0 - self.elapsed) * (1.0 - draw).powf(1.0 / sessions_left);
        self.next_open_us = moment_us(self.elapsed);
    }

    fn open(&mut self) {
        let draw: f64 = self.random.random();
        let (kind, size) = match draw {
            draw if draw < 0.003 => (Kind::Crawl, self.random.random_range(100..=300)),
            draw if draw < 0.007 => (Kind::Burst, self.random.random_range(20..=400)),
            _ => (Kind::Visit, self.random.random_range(1..=9)),
        };
        let client = match kind {
            Kind::Crawl => self.random.random_range(0..CRAWLERS),
            Kind::Visit | Kind::Burst => rank(self.clients.sample(&mut self.random)),
        };
        let left = size.min(self.unplanned);
        self.unplanned -= left;
        self.sessions += 1;
        let session = Session { next_us: self.next_open_us, number: self.sessions, kind, client, left };
        self.open.push(Reverse(session));
        self.plan();
    }

    fn step(&mut self, session: Session) -> Hit {
        let gap_us = match session.kind {
            Kind::Visit => self.random.random_range(0..800_000),
            Kind::Crawl => self.random.random_range(500_000..2_500_000),
            Kind::Burst => self.random.random_range(0..100_000),
        };
        let page = rank(self.pages.sample(&mut self.random));
        if session.left > 1 {
            self.open.push(Reverse(Session { next_us: session.next_us + gap_us, left: session.left - 1, ..session }));
        }
        let second_us = session.next_us - session.next_us % 1_000_000;
        let at = Timestamp::from_micros_saturating(DAY_START_US + second_us);
        Hit { at, kind: session.kind, client: session.client, page }
    }
}

impl Iterator for Traffic {
    type Item = Hit;

    fn next(&mut self) -> Option<Hit> {
        while self.unplanned > 0 && self.open.peek().is_none_or(|Reverse(first)| first.next_us > self.next_open_us) {
            self.open();
        }
        let Reverse(session) = self.open.pop()?;
        Some(self.step(session))
    }
}

impl Hit {
    /// Appends what the request is limited by.
    pub(crate) fn write_key(&self, by: KeyBy, out: &mut Vec<u8>) {
        let written = match by {
            KeyBy::Ip => self.write_client(out),
            KeyBy::Path => write!(out, "/page/{}", self.page),
            KeyBy::Agent if self.kind == Kind::Crawl => write!(out, "crawler-{}/1.0", self.client % 4),
            KeyBy::Agent => write!(out, "browser/{}.0", 90 + self.client % 30),
        };
        debug_assert!(written.is_ok(), "a Vec takes any write");
    }

    /// Appends what a policy looks at; see [`Part`](super::feed::Part).
    pub(crate) fn write_part(&self, part: Part, out: &mut Vec<u8>) {
        match part {
            Part::Client => self.write_key(KeyBy::Ip, out),
            Part::Method => out.extend_from_slice(b"GET"),
            Part::Path => self.write_key(KeyBy::Path, out),
            Part::Agent => self.write_key(KeyBy::Agent, out),
            Part::User | Part::Referer | Part::Host => {}
        }
    }

    /// Addresses that belong to nobody: private ones, and those for documentation.
    fn write_client(&self, out: &mut Vec<u8>) -> std::io::Result<()> {
        let client = self.client;
        if self.kind == Kind::Crawl {
            return write!(out, "203.0.113.{client}");
        }
        if client % 10 == 9 {
            return write!(out, "2001:db8::{client:x}");
        }
        let [_, a, b, c] = (client.wrapping_mul(0x009E_3779) & 0x00FF_FFFF).to_be_bytes();
        write!(out, "10.{a}.{b}.{c}")
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank: whole, positive and small")]
fn rank(draw: f64) -> u32 {
    draw as u32
}

/// When the day's sessions have passed the share `elapsed`, microseconds from midnight.
fn moment_us(elapsed: f64) -> u64 {
    let mut left = elapsed * HOURS.iter().sum::<f64>();
    let mut start_us = 0.0;
    for weight in HOURS {
        if left < weight {
            break;
        }
        left -= weight;
        start_us += HOUR_US;
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the day")]
    let hour = (start_us / HOUR_US) as usize;
    let weight = HOURS.get(hour).copied().unwrap_or(f64::INFINITY);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the day")]
    let moment = (start_us + HOUR_US * left / weight) as u64;
    moment.min(86_399_999_999)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn hits(requests: u64, seed: u64) -> Vec<Hit> {
        Traffic::new(requests, seed).unwrap().collect()
    }

    #[test]
    fn a_seed_is_a_day() {
        assert_eq!(hits(5_000, 7), hits(5_000, 7));
        assert_ne!(hits(5_000, 7), hits(5_000, 8));
    }

    #[test]
    fn as_many_as_asked_for_in_order_within_the_day() {
        for requests in [0, 1, 2, 17, 100_000] {
            let hits = hits(requests, 1);
            assert_eq!(hits.len() as u64, requests);
            assert!(hits.is_sorted_by_key(|hit| hit.at));
            let Some(last) = hits.last() else { continue };
            let day_us = last.at.as_micros() - DAY_START_US;
            assert!(day_us < 87_500_000_000, "{day_us}");
        }
    }

    #[test]
    fn the_day_has_its_shape() {
        let hits = hits(200_000, 1);
        let in_hour = |hour: u64| {
            let start = DAY_START_US + hour * 3_600_000_000;
            hits.iter().filter(|hit| (start..start + 3_600_000_000).contains(&hit.at.as_micros())).count()
        };
        assert!(in_hour(20) > 5 * in_hour(4), "{} in the evening, {} at night", in_hour(20), in_hour(4));
        let mut by_client = HashMap::new();
        for hit in &hits {
            let mut key = Vec::new();
            hit.write_key(KeyBy::Ip, &mut key);
            *by_client.entry(key).or_insert(0_usize) += 1;
        }
        let most = by_client.values().copied().max().unwrap();
        assert!(by_client.len() > 5_000 && most > 5_000, "{} clients, the first with {most}", by_client.len());
        for kind in [Kind::Visit, Kind::Crawl, Kind::Burst] {
            let share = hits.iter().filter(|hit| hit.kind == kind).count();
            assert!(share > 10_000, "{share} of {kind:?}");
        }
    }

    #[test]
    fn only_open_sessions_are_held() {
        let mut traffic = Traffic::new(300_000, 3).unwrap();
        let mut held = 0;
        while traffic.next().is_some() {
            held = held.max(traffic.open.len());
        }
        assert!(held < 3_000, "{held} sessions");
    }
}
