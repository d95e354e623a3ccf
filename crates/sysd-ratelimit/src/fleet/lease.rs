//! What a process holds of one key, pure: it is told what happened and when, and says what to do.
//!
//! | state | a request of `cost` |
//! |---|---|
//! | in hand: `tokens`, until a time | enough: is allowed. Else the store is asked, by this request for the next batch |
//! | denied, for at most as long as a batch is held | of that cost or a greater one: is denied. A smaller cost asks the store |
//! | asking: a batch is under way | enough in hand: is allowed. Else it waits for the batch, if that may have enough for all who wait or last told a denial; else it asks the store for its own cost alone |
//! | fresh, or the time is over | asks for a batch; what is left of the one before the keeper gives back |
//!
//! A batch that was used up before its time is followed by one of twice the size, one that was not by one of what was used
//! of it: so a key that is seldom asked for is decided by the store, exactly, and a busy one asks it about once in the time
//! for which a batch is held. Those who wait for a batch that is too small for them are told to the next one.

use crate::model::{Decision, Outcome};
use crate::procedure::{JointVerdict, TakeAll};

/// So many requests wait for one answer at most; more ask the store themselves.
const WAITERS_MAX: u32 = 4_096;

/// So many rests of a key wait for the keeper; should it be that late, the oldest is lost.
const RESTS_MAX: usize = 4;

/// A batch that was taken, by which what is left of it is given back.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) take: TakeAll,
    pub(super) verdict: JointVerdict,
}

/// What of a batch is left, to be given back.
#[derive(Debug)]
pub(super) struct Rest {
    pub(super) batch: Box<Batch>,
    pub(super) tokens: u32,
}

/// What the store said last.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    limit: u32,
    remaining: u32,
    /// When all of the limit is there again.
    reset_at_us: u64,
}

/// The least cost that the store denied.
#[derive(Debug, Default, Clone, Copy)]
struct Denied {
    /// Zero: none is.
    cost: u32,
    /// From then on there is enough, if nobody else takes any.
    enough_at_us: u64,
    /// Until then it is remembered: others may give back before there is enough by itself.
    until_us: u64,
}

#[derive(Debug, Default)]
pub(super) struct Lease {
    /// In hand, of `batch`.
    tokens: u32,
    /// The tokens of `batch`.
    size: u32,
    /// From then on nothing is in hand.
    until_us: u64,
    batch: Option<Box<Batch>>,
    /// Somebody asks for the next batch.
    /// Whether the last answer was that there was not even one request's own cost.
    pub(super) was_denied: bool,
    is_asking: bool,
    /// So many wait for it, and ask for so much together.
    waiters: u32,
    waiting: u32,
    /// What those who waited did not find in the last one.
    unmet: u32,
    /// To be given back, the oldest first.
    rests: Vec<Rest>,
    /// Requests of this cost and of greater ones are denied.
    denied: Denied,
    seen: Seen,
}

/// What becomes of a request.
#[derive(Debug)]
pub(super) enum Step {
    Decided(Decision),
    /// The store is asked for the request's own cost, and nothing is told to the lease.
    Alone,
    /// It steps again once the batch that is under way was answered.
    Wait,
    /// The store is asked for so many, and for less where it has less; the lease is told what came of it.
    Lead {
        tokens: u32,
    },
}

impl Lease {
    /// The cost is no more than the limit. `longer_us` says by how much longer than a request of the first cost, which is denied, one of
    /// the second has to wait.
    #[inline]
    pub(super) fn take(
        &mut self,
        now_us: u64,
        cost: u32,
        batch_max: u32,
        may_wait: bool,
        longer_us: impl FnOnce(u32, u32) -> u64,
    ) -> Step {
        if cost == 0 {
            return Step::Alone;
        }
        let is_held = now_us < self.until_us;
        if is_held && self.tokens >= cost {
            self.tokens -= cost;
            return Step::Decided(self.allowed(now_us));
        }
        let denied = self.denied;
        if denied.cost > 0 && cost >= denied.cost && now_us < denied.until_us {
            let wait_us = (denied.enough_at_us - now_us).saturating_add(longer_us(denied.cost, cost));
            let retry_after = std::time::Duration::from_micros(wait_us);
            return Step::Decided(self.decision(Outcome::Denied { retry_after }, now_us));
        }
        if self.is_asking {
            return if may_wait && self.waits(cost, batch_max) { Step::Wait } else { Step::Alone };
        }
        self.is_asking = true;
        let wanted = if is_held { self.size.saturating_mul(2) } else { self.size - self.tokens };
        let wanted = wanted.max(std::mem::take(&mut self.unmet));
        if !is_held && let Some(rest) = self.rest() {
            if self.rests.len() == RESTS_MAX {
                self.rests.remove(0);
            }
            self.rests.push(rest);
        }
        Step::Lead { tokens: wanted.min(batch_max).max(cost) }
    }

    /// Whether one more waits, which is then counted. A denial answers all; a batch no more than it may have tokens for.
    fn waits(&mut self, cost: u32, batch_max: u32) -> bool {
        let waiting = self.waiting.saturating_add(cost);
        let waits = self.waiters < WAITERS_MAX && (waiting <= batch_max || self.was_denied);
        if waits {
            (self.waiters, self.waiting) = (self.waiters + 1, waiting);
        }
        waits
    }

    /// Nobody asks any more, and nobody waits: for how much was waited.
    fn end_asking(&mut self) -> u32 {
        (self.is_asking, self.waiters) = (false, 0);
        std::mem::take(&mut self.waiting)
    }

    /// A batch of so many was taken, `cost` of them for the request that asked.
    pub(super) fn granted(
        &mut self,
        now_us: u64,
        hold_us: u64,
        (tokens, cost): (u32, u32),
        batch: Box<Batch>,
        decision: &Decision,
    ) {
        let waiting = self.end_asking();
        self.was_denied = false;
        self.see(now_us, decision);
        // What was in hand goes first: it was less than the cost.
        let before = if now_us < self.until_us { self.tokens.min(cost) } else { 0 };
        self.tokens = (tokens - cost) + before;
        self.unmet = waiting.saturating_sub(self.tokens);
        self.size = tokens;
        self.until_us = now_us.saturating_add(hold_us);
        self.batch = Some(batch);
        // There was as much, so others have given back.
        if tokens >= self.denied.cost {
            self.denied = Denied::default();
        }
    }

    /// Not even the request's own cost was there.
    pub(super) fn refused(&mut self, now_us: u64, hold_us: u64, cost: u32, decision: &Decision) {
        self.end_asking();
        self.was_denied = true;
        self.see(now_us, decision);
        // What is in hand counts as all there is: a batch was too much.
        self.size = self.tokens;
        self.until_us = self.until_us.max(now_us);
        // A smaller cost that is denied says more.
        let is_news = cost <= self.denied.cost || self.denied.until_us <= now_us;
        if let Some(retry_after) = decision.retry_after().filter(|_| is_news) {
            let enough_at_us = now_us.saturating_add(super::micros(retry_after));
            self.denied = Denied { cost, enough_at_us, until_us: enough_at_us.min(now_us.saturating_add(hold_us)) };
        }
    }

    /// Nothing is known: the call failed, or its future was dropped.
    pub(super) fn gave_up(&mut self) {
        self.end_asking();
    }

    /// What is to be given back: what is in hand though its time is over, or though it `ends`, and what was left before.
    pub(super) fn expire(&mut self, now_us: u64, ends: bool) -> Vec<Rest> {
        let mut rests = std::mem::take(&mut self.rests);
        if !self.is_asking && (now_us >= self.until_us || ends) {
            // The next batch is of what was used of this one.
            let used = self.size - self.tokens;
            rests.extend(self.rest());
            (self.size, self.until_us, self.unmet) = (used, self.until_us.min(now_us), 0);
        }
        rests
    }

    /// It could not be given back yet: a later round does.
    pub(super) fn put_back(&mut self, rest: Rest) {
        if self.rests.len() < RESTS_MAX {
            self.rests.insert(0, rest);
        }
    }

    /// Whether it says nothing any more.
    pub(super) fn is_idle(&self, now_us: u64, hold_us: u64) -> bool {
        let is_used_up = self.tokens == 0 && self.rests.is_empty();
        !self.is_asking
            && is_used_up
            && self.denied.until_us <= now_us
            && self.until_us.saturating_add(hold_us) <= now_us
    }

    /// How many tokens are in hand.
    pub(super) fn in_hand(&self, now_us: u64) -> u32 {
        if now_us < self.until_us { self.tokens } else { 0 }
    }

    fn rest(&mut self) -> Option<Rest> {
        let tokens = std::mem::take(&mut self.tokens);
        let batch = self.batch.take()?;
        (tokens > 0).then_some(Rest { batch, tokens })
    }

    fn see(&mut self, now_us: u64, decision: &Decision) {
        let reset_at_us = now_us.saturating_add(super::micros(decision.reset_after()));
        self.seen = Seen { limit: decision.limit(), remaining: decision.remaining(), reset_at_us };
    }

    #[inline]
    fn allowed(&self, now_us: u64) -> Decision {
        self.decision(Outcome::Allowed, now_us)
    }

    #[inline]
    fn decision(&self, outcome: Outcome, now_us: u64) -> Decision {
        let Seen { limit, remaining, reset_at_us } = self.seen;
        let remaining = remaining.saturating_add(self.in_hand(now_us)).min(limit);
        Decision::new(outcome, limit, remaining, reset_at_us.saturating_sub(now_us))
    }
}

const _: () = assert!(size_of::<Batch>() + size_of::<Lease>() < 900, "the docs say a kilobyte a key");

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
