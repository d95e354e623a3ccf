//! How much is asked for in one call.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, ErrorKind};

/// How much is asked for in one call: a part of it after one that had no answer in time, one more after an answer. So a store that
/// answers each in time is never asked for more than it answers in time.
#[derive(Debug)]
pub struct Pace {
    now: AtomicUsize,
    max: usize,
    part: usize,
}

impl Pace {
    /// Begins with `max`; a `part`-th is asked for next after a call that was too slow, and at least one.
    pub const fn new(max: usize, part: usize) -> Self {
        Self { now: AtomicUsize::new(max), max, part: if part == 0 { 1 } else { part } }
    }

    /// How much to ask for now.
    pub fn now(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }

    /// The first of these, as many as to ask for now.
    pub fn of<'a, T>(&self, rest: &'a [T]) -> &'a [T] {
        rest.get(..self.now()).unwrap_or(rest)
    }

    /// There was an answer.
    pub fn answered(&self) {
        let now = self.now();
        if now < self.max {
            self.now.store(now + 1, Ordering::Relaxed);
        }
    }

    /// Whether less can be asked for than `asked`, for which there was this error; then it is, at once, and that counts as no attempt.
    pub fn slow_down(&self, asked: usize, error: &Error) -> bool {
        let is_slow = error.kind() == ErrorKind::Timeout && asked > 1;
        if is_slow {
            self.now.store((asked / self.part).max(1), Ordering::Relaxed);
        }
        is_slow
    }
}
