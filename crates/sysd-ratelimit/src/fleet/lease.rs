//! What a process holds of one key, pure: it is told what happened and when, and says what to do.
//!
//! | state | a request of `cost` |
//! |---|---|
//! | in hand: `tokens`, until a time | enough: is allowed. Else the store is asked, by this request for the next batch |
//! | denied, or a bucket that was emptied, for at most as long as a batch is held | of the cost that is known not to be there, or a greater one: is denied. A smaller cost asks the store |
//! | asking: a batch is under way | enough in hand: is allowed. Of a bucket that can't have more than the one who asks wants: is denied. Else it waits for the batch, if that may have enough for all who wait or last told a denial; else it asks the store for its own cost alone |
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

/// The least cost that is known not to be there.
#[derive(Debug, Default, Clone, Copy)]
struct Denied {
    /// Zero: none is.
    cost: u32,
    /// From then on there is enough, if nobody else takes any: so long it waited if the store decided right before its answer came.
    enough_at_us: u64,
    /// From then on there may be enough, and the store is asked: it may have decided right after it was asked, and the next call takes as long.
    maybe_at_us: u64,
    /// Until then it is remembered: others may give back before there is enough by itself.
    until_us: u64,
    /// Until then what the store said counts.
    known_until_us: u64,
}

impl Denied {
    /// By what the store said.
    fn new(said: Said, cost: u32, wait_us: u64) -> Self {
        let known_until_us = said.at_us.saturating_add(said.hold_us);
        let maybe_at_us = said.asked_at_us.saturating_add(wait_us);
        let enough_at_us = said.at_us.saturating_add(wait_us);
        Self { cost, enough_at_us, maybe_at_us, until_us: maybe_at_us.min(known_until_us), known_until_us }
    }
}

/// When the store was asked and had answered, and for how long that counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said {
    /// The call was sent then.
    pub(super) asked_at_us: u64,
    pub(super) at_us: u64,
    pub(super) hold_us: u64,
}

// In this order: what most requests look at lies together, behind the key.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Lease {
    /// In hand, of `batch`.
    tokens: u32,
    /// The tokens of `batch`.
    size: u32,
    /// From then on nothing is in hand.
    until_us: u64,
    seen: Seen,
    /// Requests of this cost and of greater ones are denied.
    denied: Denied,
    /// What the one that asks wants comes before all others: so much longer they wait for enough. Zero while nobody asks, or where it is not known.
    spoken_us: u64,
    batch: Option<Box<Batch>>,
    /// Whether the last answer was that there was not even one request's own cost, or is none any more.
    pub(super) was_denied: bool,
    /// Somebody asks for the next batch.
    is_asking: bool,
    /// So many wait for it, and ask for so much together.
    waiters: u32,
    waiting: u32,
    /// What those who waited did not find in the last one.
    unmet: u32,
    /// To be given back, the oldest first.
    rests: Vec<Rest>,
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
    /// What becomes of a request; the cost is no more than the limit. `price_us` says of a bucket in what time so many tokens come back; of
    /// another limit it is not known.
    pub(super) fn take(
        &mut self,
        now_us: u64,
        cost: u32,
        batch_max: u32,
        may_wait: bool,
        price_us: impl Fn(u32) -> Option<u64>,
    ) -> Step {
        if let Some(decision) = self.decide(now_us, cost, &price_us) {
            return Step::Decided(decision);
        }
        if cost == 0 { Step::Alone } else { self.ask(now_us, cost, batch_max, may_wait, price_us) }
    }

    /// Decides by what is known, if that is enough; the cost is no more than the limit.
    #[inline]
    pub(super) fn decide(&mut self, now_us: u64, cost: u32, price_us: impl Fn(u32) -> Option<u64>) -> Option<Decision> {
        if cost == 0 {
            return None;
        }
        if self.tokens >= cost && now_us < self.until_us {
            self.tokens -= cost;
            return Some(self.decision(Outcome::Allowed, now_us));
        }
        let denied = &self.denied;
        if denied.cost == 0 || cost < denied.cost {
            return None;
        }
        let until_us = if self.spoken_us == 0 {
            denied.until_us
        } else {
            denied.maybe_at_us.saturating_add(self.spoken_us).min(denied.known_until_us)
        };
        if now_us >= until_us {
            return None;
        }
        let longer_us = if cost == denied.cost { None } else { price_us(cost - denied.cost) };
        let enough_at_us = denied.enough_at_us.saturating_add(self.spoken_us);
        let wait_us = (enough_at_us - now_us).saturating_add(longer_us.unwrap_or(0));
        let retry_after = std::time::Duration::from_micros(wait_us);
        Some(self.decision(Outcome::Denied { retry_after }, now_us))
    }

    /// The store is to be asked, if nobody does.
    fn ask(
        &mut self,
        now_us: u64,
        cost: u32,
        batch_max: u32,
        may_wait: bool,
        price_us: impl Fn(u32) -> Option<u64>,
    ) -> Step {
        if self.is_asking {
            return if may_wait && self.waits(cost, batch_max) { Step::Wait } else { Step::Alone };
        }
        self.is_asking = true;
        let is_known = self.denied.cost > 0 && now_us < self.denied.known_until_us;
        self.spoken_us = if is_known { price_us(cost).unwrap_or(0) } else { 0 };
        let is_held = now_us < self.until_us;
        let wanted = if is_held { self.size.saturating_mul(2) } else { self.size - self.tokens };
        let mut wanted = wanted.max(std::mem::take(&mut self.unmet)).min(batch_max);
        if !is_held {
            self.put_away();
        }
        // A batch that can't be there would be asked for in vain.
        let is_there = |tokens: u32| {
            let longer_us = tokens.checked_sub(self.denied.cost).and_then(&price_us);
            longer_us.is_none_or(|longer_us| now_us >= self.denied.maybe_at_us.saturating_add(longer_us))
        };
        if is_known && wanted > cost && !is_there(wanted) {
            wanted = most(cost, wanted, is_there);
        }
        Step::Lead { tokens: wanted.max(cost) }
    }

    /// What is in hand is the keeper's.
    fn put_away(&mut self) {
        if let Some(rest) = self.rest() {
            self.keep(rest);
        }
    }

    /// A batch came when others did not wait for it any longer: so many tokens of it are the keeper's.
    pub(super) fn keep_late(&mut self, batch: Box<Batch>, tokens: u32) {
        if tokens > 0 {
            self.keep(Rest { batch, tokens });
        }
    }

    fn keep(&mut self, rest: Rest) {
        if self.rests.len() == RESTS_MAX {
            self.rests.remove(0);
        }
        self.rests.push(rest);
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
        (self.is_asking, self.waiters, self.spoken_us) = (false, 0, 0);
        std::mem::take(&mut self.waiting)
    }

    /// So many were asked for, and a batch of so many was taken, `cost` of them for the request that asked. `wait_us` says of a bucket in what time so much more is there;
    /// of another limit it is not known.
    pub(super) fn granted(
        &mut self,
        said: Said,
        (asked, tokens, cost): (u32, u32, u32),
        batch: Box<Batch>,
        decision: &Decision,
        wait_us: impl Fn(&JointVerdict, u32) -> Option<u64>,
    ) {
        let (waiting, now_us) = (self.end_asking(), said.at_us);
        // Of a bucket it is known what it lacks, and for how long. What a window had before says nothing now.
        let lacking = decision.remaining().saturating_add(1);
        let lacks_us = wait_us(&batch.verdict, lacking);
        // Less than was asked for, or all: a crowd that finds nothing waits, instead of asking each for itself.
        self.was_denied = tokens < asked || (lacks_us.is_some() && lacking == 1);
        self.see(now_us, decision);
        // What was in hand goes first: it was less than the cost. If its time has run out meanwhile, it is given back.
        let before = if now_us < self.until_us {
            self.tokens.min(cost)
        } else {
            self.put_away();
            0
        };
        self.tokens = (tokens - cost) + before;
        self.unmet = waiting.saturating_sub(self.tokens);
        self.size = tokens;
        self.until_us = now_us.saturating_add(said.hold_us);
        self.denied = lacks_us.map_or_else(Denied::default, |us| Denied::new(said, lacking, us));
        self.batch = Some(batch);
    }

    /// Not even the request's own cost was there.
    pub(super) fn refused(&mut self, said: Said, cost: u32, decision: &Decision) {
        let now_us = said.at_us;
        self.end_asking();
        self.was_denied = true;
        self.see(now_us, decision);
        // What is in hand counts as all there is: a batch was too much.
        self.size = self.tokens;
        self.until_us = self.until_us.max(now_us);
        // A smaller cost that is denied says more.
        let is_news = cost <= self.denied.cost || self.denied.until_us <= now_us;
        if let Some(retry_after) = decision.retry_after().filter(|_| is_news) {
            self.denied = Denied::new(said, cost, super::micros(retry_after));
        }
    }

    /// Nothing is known: the call failed, of which those who wait are told.
    pub(super) fn gave_up(&mut self) {
        self.end_asking();
        // A batch of that size may have taken too long, for it may take more calls than one.
        self.size = self.tokens;
    }

    /// One who waited for `cost` does no longer.
    pub(super) fn left(&mut self, cost: u32) {
        (self.waiters, self.waiting) = (self.waiters.saturating_sub(1), self.waiting.saturating_sub(cost));
    }

    /// So many tokens were given back: what was denied may be there.
    pub(super) fn given_back(&mut self, tokens: u32) {
        if tokens >= self.denied.cost {
            self.denied = Denied::default();
        }
    }

    /// Nobody asks any more, for the future was dropped, or nobody waits for it any longer: the next of those who wait asks for all of them.
    pub(super) fn abandoned(&mut self) {
        self.unmet = self.end_asking();
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
    fn decision(&self, outcome: Outcome, now_us: u64) -> Decision {
        let Seen { limit, remaining, reset_at_us } = self.seen;
        let remaining = remaining.saturating_add(self.in_hand(now_us)).min(limit);
        Decision::new(outcome, limit, remaining, reset_at_us.saturating_sub(now_us))
    }
}

/// The most tokens, from `least` on and below `too_many`, that are there; `least` if none are. Where some are, fewer are too.
fn most(mut least: u32, mut too_many: u32, is_there: impl Fn(u32) -> bool) -> u32 {
    while too_many - least > 1 {
        let middle = least + (too_many - least) / 2;
        *(if is_there(middle) { &mut least } else { &mut too_many }) = middle;
    }
    least
}

const _: () = assert!(size_of::<Batch>() + size_of::<Lease>() < 900, "the docs say a kilobyte a key");

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
