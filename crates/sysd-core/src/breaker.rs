//! The decisions of a circuit breaker: pure, given the time.
//!
//! Source: M. Nygard, "Release It!", 2007.

use std::time::Duration;

use crate::{ErrorKind, Timestamp};

/// When a breaker opens, and how it closes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerConfig {
    /// Over how long failures are counted; in tenths, so up to a tenth less.
    pub window: Duration,
    /// How many calls must have ended in the window before it may open, at least 1.
    pub calls_min: u32,
    /// It opens when so many of a hundred calls in the window failed, 1 to 100.
    pub failures_percent: u32,
    /// How long it stays open.
    pub open_for: Duration,
    /// How many calls it then lets through to try; when all have succeeded it closes, when one fails it opens again. At
    /// least 1.
    pub probes: u32,
}

impl Default for BreakerConfig {
    /// Half of at least 20 calls in 10 seconds; 5 seconds; 3 probes.
    fn default() -> Self {
        Self {
            window: Duration::from_secs(10),
            calls_min: 20,
            failures_percent: 50,
            open_for: Duration::from_secs(5),
            probes: 3,
        }
    }
}

/// Whether an error of this kind says that what was called is not well: it can't be reached, is too slow, or asks for less traffic.
pub const fn is_failure(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Throttled)
}

/// What a call showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// What is called is well.
    Well,
    /// It is not.
    Failed,
    /// Nothing: the call was dropped.
    Unknown,
}

/// A call that was let through, and since which change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    epoch: u64,
}

#[derive(Debug)]
enum State {
    Closed(Window),
    Open { since: Timestamp },
    HalfOpen { under_way: u32, succeeded: u32 },
}

/// What a breaker has seen, and what it does with the next call. Every call that [`admit`](Self::admit) lets through is to be
/// [settled](Self::settle), also one that is dropped: a probe that is never settled would keep it half open.
///
/// ```
/// use sysd_core::breaker::{BreakerConfig, Circuit, Verdict};
/// use sysd_core::Timestamp;
///
/// let mut circuit = Circuit::new(BreakerConfig { calls_min: 1, ..BreakerConfig::default() });
/// let now = Timestamp::from_micros_saturating(1_000_000);
/// let ticket = circuit.admit(now).expect("it is closed");
/// circuit.settle(now, ticket, Verdict::Failed);
/// assert_eq!(circuit.admit(now), None);
/// ```
#[derive(Debug)]
pub struct Circuit {
    config: BreakerConfig,
    state: State,
    /// How often the state has changed: what was let through before shows nothing about it.
    epoch: u64,
}

impl Circuit {
    /// Closed; numbers out of their range are taken for the nearest in it.
    pub fn new(mut config: BreakerConfig) -> Self {
        config.calls_min = config.calls_min.max(1);
        config.failures_percent = config.failures_percent.clamp(1, 100);
        config.probes = config.probes.max(1);
        Self { config, state: State::Closed(Window::new(&config)), epoch: 0 }
    }

    /// Whether it lets all calls through.
    pub const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed(_))
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.epoch += 1;
    }

    /// Lets a call through, or not.
    pub fn admit(&mut self, now: Timestamp) -> Option<Ticket> {
        if let State::Open { since } = self.state {
            // A clock that was set back must not keep it open.
            let is_over = now < since || now.saturating_since(since) >= self.config.open_for;
            if !is_over {
                return None;
            }
            self.enter(State::HalfOpen { under_way: 0, succeeded: 0 });
        }
        if let State::HalfOpen { under_way, succeeded } = &mut self.state {
            if *under_way + *succeeded >= self.config.probes {
                return None;
            }
            *under_way += 1;
        }
        Some(Ticket { epoch: self.epoch })
    }

    /// Takes note of how a call ended.
    pub fn settle(&mut self, now: Timestamp, ticket: Ticket, verdict: Verdict) {
        if ticket.epoch != self.epoch {
            return;
        }
        match &mut self.state {
            State::Closed(window) => {
                if verdict != Verdict::Unknown && window.count(now, verdict == Verdict::Failed, &self.config) {
                    self.enter(State::Open { since: now });
                }
            }
            State::Open { .. } => {}
            State::HalfOpen { under_way, succeeded } => {
                *under_way = under_way.saturating_sub(1);
                match verdict {
                    Verdict::Unknown => {}
                    Verdict::Failed => self.enter(State::Open { since: now }),
                    Verdict::Well => {
                        *succeeded += 1;
                        if *succeeded >= self.config.probes {
                            self.enter(State::Closed(Window::new(&self.config)));
                        }
                    }
                }
            }
        }
    }
}

const SLOTS: usize = 10;

/// Calls and failures of the last ten tenths of the window.
#[derive(Debug)]
struct Window {
    slot_us: u64,
    /// The number of the latest tenth.
    latest: u64,
    slots: [(u32, u32); SLOTS],
}

impl Window {
    fn new(config: &BreakerConfig) -> Self {
        let window_us = u64::try_from(config.window.as_micros()).unwrap_or(u64::MAX);
        Self { slot_us: (window_us / SLOTS as u64).max(1), latest: 0, slots: [(0, 0); SLOTS] }
    }

    fn move_to(&mut self, now: Timestamp) {
        let number = now.as_micros() / self.slot_us;
        // Beyond the window in either direction nothing counts any more: a clock can be set back.
        if number.abs_diff(self.latest) >= SLOTS as u64 {
            self.slots = [(0, 0); SLOTS];
            self.latest = number;
        }
        while self.latest < number {
            self.latest += 1;
            *self.slot() = (0, 0);
        }
    }

    fn slot(&mut self) -> &mut (u32, u32) {
        #[allow(clippy::cast_possible_truncation, reason = "below ten")]
        let index = (self.latest % SLOTS as u64) as usize;
        &mut self.slots[index]
    }

    /// Counts a call; answers whether that opens the breaker.
    fn count(&mut self, now: Timestamp, failed: bool, config: &BreakerConfig) -> bool {
        self.move_to(now);
        let (calls, failures) = self.slot();
        *calls = calls.saturating_add(1);
        *failures = failures.saturating_add(u32::from(failed));
        let sum = |part: fn(&(u32, u32)) -> u32| self.slots.iter().map(|slot| u64::from(part(slot))).sum::<u64>();
        let (calls, failures) = (sum(|slot| slot.0), sum(|slot| slot.1));
        failed && calls >= u64::from(config.calls_min) && failures * 100 >= calls * u64::from(config.failures_percent)
    }
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;
