//! What a process holds of one key, pure: it is told what happened and when, and says what to do.
//!
//! | state | a request of `cost` |
//! |---|---|
//! | in hand: `tokens`, until a time | enough: is allowed. Else the store is asked, by this request for the next batch: at least for what it lacks beside what is in hand, which is put aside for it |
//! | denied, or a bucket of which it is known what it lacks, for at most as long as a batch is held | where what it lacks is known not to be there: is denied. Else it asks the store |
//! | asking: a batch is under way | enough in hand: is allowed. Of a bucket that can't have more than the one who asks wants: is denied. Else it waits in line |
//! | fresh, or the time is over | asks for a batch; what is left of the one before the keeper gives back |
//!
//! A batch that was used up before its time is followed by one of twice the size, one that was not by one of what was used
//! of it: so a key that is seldom asked for is decided by the store, exactly, and a busy one asks it about once in the time
//! for which a batch is held. Who asks asks for those in line too, as far as a batch has as much.

use crate::model::{Decision, Outcome, TokenBucket};
use crate::procedure::{JointVerdict, TakeAll};

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

impl Said {
    const fn trip_us(self) -> u64 {
        self.at_us.saturating_sub(self.asked_at_us)
    }
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

/// So much may wait in line in any case.
const LINE_MIN: u32 = 4;

/// When the store was asked and had answered, and for how long that counts.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::struct_field_names, reason = "their unit")]
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
    /// Of it too, put aside for the one that asks.
    aside: u32,
    /// The tokens of `batch`.
    size: u32,
    /// From then on nothing is in hand.
    until_us: u64,
    seen: Seen,
    /// Requests that lack so much and more are denied.
    denied: Denied,
    /// The greatest that was denied meanwhile, where it is not known how much longer a greater one waits.
    greatest: Denied,
    /// The one that asks wants so much, which comes before all others, and has asked then.
    spoken: u32,
    spoken_at_us: u64,
    /// It asks for so many.
    asked: u32,
    /// The store had less than the last batch that was asked for.
    is_tight: bool,
    /// The last call took so long.
    trip_us: u64,
    batch: Option<Box<Batch>>,
    /// The number of the request that took `batch`.
    batch_number: u64,
    /// Somebody asks for the next batch.
    is_asking: bool,
    /// Those in line want so much together.
    waiting: u64,
    /// Tokens of which there was no room to wait for the keeper.
    lost: u32,
    /// To be given back, the oldest first.
    rests: Vec<Rest>,
}

/// What becomes of a request.
#[derive(Debug)]
pub(super) enum Step {
    Decided(Decision),
    /// The store is asked for the request's own cost, and nothing is told to the lease.
    Alone,
    /// It is counted as one in line, until [`Lease::left`] says that it has its turn, or waits no longer.
    Wait,
    /// The store is asked for so many, and for less where it has less, but for no less than `least`, what the request lacks; the lease is told what came
    /// of it.
    Lead {
        tokens: u32,
        least: u32,
    },
}

/// By what a request is decided.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms<'a> {
    pub(super) now_us: u64,
    /// The most tokens of a batch.
    pub(super) batch_max: u32,
    /// So long a request waits for its batch, at most.
    pub(super) wait_max_us: u64,
    pub(super) refill: Refill<'a>,
}

/// How what was taken comes back.
#[derive(Debug, Clone, Copy)]
pub(super) enum Refill<'a> {
    Evenly(&'a TokenBucket),
    /// All of it, at the end of a window of the clock.
    AtOnce,
    /// Bit by bit, as only the store knows.
    Unknown,
}

impl Terms<'_> {
    /// In what time so many tokens come back.
    fn price_us(&self, tokens: u32) -> Option<u64> {
        match self.refill {
            // Those in line may want more than it ever holds.
            Refill::Evenly(bucket) => {
                Some(bucket.price(tokens).unwrap_or_else(|| bucket.price_beyond(tokens)).ceil_us())
            }
            Refill::AtOnce => Some(0),
            Refill::Unknown => None,
        }
    }
}

/// A batch that was taken.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) tokens: u32,
    /// That of the request that asked, which is of them.
    pub(super) cost: u32,
    pub(super) batch: Box<Batch>,
    /// Of the request that asked.
    pub(super) number: u64,
}

impl Lease {
    /// What becomes of a request; the cost is no more than the limit.
    pub(super) fn take(&mut self, terms: &Terms<'_>, cost: u32) -> Step {
        if let Some(decision) = self.decide(terms, cost) {
            return Step::Decided(decision);
        }
        if cost == 0 { Step::Alone } else { self.ask(terms, cost) }
    }

    /// Decides by what is known, if that is enough; the cost is no more than the limit.
    #[inline]
    pub(super) fn decide(&mut self, terms: &Terms<'_>, cost: u32) -> Option<Decision> {
        let now_us = terms.now_us;
        if cost == 0 {
            return None;
        }
        if self.tokens >= cost && now_us < self.until_us {
            self.tokens -= cost;
            return Some(self.decision(Outcome::Allowed, now_us));
        }
        let (denied, lacks) = (&self.denied, cost - self.in_hand(now_us));
        let needs = lacks.saturating_add(self.ahead());
        if denied.cost == 0 || needs < denied.cost {
            return None;
        }
        let is_denied = if self.is_asking
            && let Some(longer_us) = terms.price_us(needs - denied.cost)
        {
            // Not even the next call finds as much as those in front want, and this one; or it is more than two batches.
            let there_at_us = denied.maybe_at_us.saturating_add(longer_us);
            let is_beyond = there_at_us > self.next_us(now_us) || needs > self.asked.saturating_add(terms.batch_max);
            now_us < denied.known_until_us && is_beyond
        } else {
            lacks >= denied.cost && now_us < denied.until_us
        };
        if !is_denied {
            return None;
        }
        let wait_us = self.wait_us(terms, lacks)?;
        Some(self.denial(terms, cost, wait_us))
    }

    /// So many tokens are wanted by the one that asks and by those in line.
    fn ahead(&self) -> u32 {
        if !self.is_asking {
            return 0;
        }
        u32::try_from(self.waiting).unwrap_or(u32::MAX).saturating_add(self.spoken)
    }

    /// When the call behind the one under way is decided, if both take as long as the last one; at the earliest.
    fn next_us(&self, now_us: u64) -> u64 {
        let trip_us = self.trip_us;
        self.spoken_at_us.saturating_add(trip_us.saturating_mul(2)).max(now_us.saturating_add(trip_us))
    }

    /// How long until the store has so many, as far as is known: no less than are denied.
    fn wait_us(&self, terms: &Terms<'_>, tokens: u32) -> Option<u64> {
        if let Refill::Unknown = terms.refill {
            let wait_us = self.denied.enough_at_us.saturating_sub(terms.now_us);
            if tokens == self.denied.cost {
                return Some(wait_us);
            }
            // As long as a greater one, if that was asked for.
            let is_known = self.greatest.cost >= tokens && terms.now_us < self.greatest.until_us;
            return is_known.then(|| wait_us.max(self.greatest.enough_at_us.saturating_sub(terms.now_us)));
        }
        let needs = tokens.saturating_add(self.ahead());
        let longer_us = terms.price_us(needs.saturating_sub(self.denied.cost))?;
        let wait_us = self.denied.enough_at_us.saturating_add(longer_us).saturating_sub(terms.now_us);
        Some(wait_us.max(self.beyond_us(terms, tokens)))
    }

    /// A bucket that never holds both, what the one that asks wants and so many more, may be full before that one has taken. Then the others wait at least so
    /// long: until it has, if its call takes as long as the last one, and for what is missing then.
    fn beyond_us(&self, terms: &Terms<'_>, tokens: u32) -> u64 {
        if let Refill::Evenly(bucket) = terms.refill
            && self.is_asking
            && let Some(missing) = self.ahead().saturating_add(tokens).checked_sub(bucket.burst())
            && let Some(price_us) = terms.price_us(missing)
        {
            return self
                .spoken_at_us
                .saturating_add(self.trip_us)
                .saturating_add(price_us)
                .saturating_sub(terms.now_us);
        }
        0
    }

    /// Denies a request that has to wait so long for what it lacks; longer if what is in hand is gone by then.
    fn denial(&self, terms: &Terms<'_>, cost: u32, wait_us: u64) -> Decision {
        let now_us = terms.now_us;
        let is_kept = self.in_hand(now_us) == 0 || now_us.saturating_add(wait_us) < self.until_us;
        // At the latest when all of the limit is there again.
        let without_us = || self.wait_us(terms, cost).unwrap_or_else(|| self.seen.reset_at_us.saturating_sub(now_us));
        let wait_us = if is_kept { wait_us } else { wait_us.max(without_us()) };
        self.decision(Outcome::Denied { retry_after: std::time::Duration::from_micros(wait_us) }, now_us)
    }

    /// The store is to be asked, if nobody does.
    fn ask(&mut self, terms: &Terms<'_>, cost: u32) -> Step {
        if self.is_asking {
            if self.is_line_full(terms, cost) {
                return Step::Alone;
            }
            self.waiting += u64::from(cost);
            return Step::Wait;
        }
        let now_us = terms.now_us;
        self.is_asking = true;
        let is_known = self.denied.cost > 0 && now_us < self.denied.known_until_us;
        let is_held = now_us < self.until_us;
        let wanted = if is_held { self.size.saturating_mul(2) } else { self.size.saturating_sub(self.tokens) };
        if !is_held {
            self.put_away();
        }
        self.aside = std::mem::take(&mut self.tokens);
        let least = cost.saturating_sub(self.aside).max(1);
        (self.spoken, self.spoken_at_us) = (least, now_us);
        // For all in line; what is in hand then is no more than a batch.
        let wanted = wanted.max(self.ahead()).min(terms.batch_max.saturating_sub(self.aside)).max(least);
        // A batch that can't be there would be asked for in vain.
        let is_there = |tokens: u32| {
            let longer_us = tokens.checked_sub(self.denied.cost).and_then(|tokens| terms.price_us(tokens));
            longer_us.is_none_or(|longer_us| now_us >= self.denied.maybe_at_us.saturating_add(longer_us))
        };
        let is_in_vain = is_known && wanted > least && !is_there(wanted);
        self.asked = if is_in_vain { most(least, wanted, is_there) } else { wanted };
        Step::Lead { tokens: self.asked, least }
    }

    /// A line is no longer than batches can serve in half of the time that one waits. Of a limit of which it is not known when how much comes
    /// back, it is no longer than what the store had left, or brings in two batches; and short, once the store had less than a batch. Who is
    /// too many asks alone, and has the store's own answer, while the store answers as fast as it did.
    fn is_line_full(&self, terms: &Terms<'_>, cost: u32) -> bool {
        let calls = (terms.wait_max_us / self.trip_us.max(1) / 2).max(1);
        let in_time = u32::try_from(calls).unwrap_or(u32::MAX).saturating_mul(terms.batch_max);
        let most = match terms.refill {
            Refill::Evenly(_) => in_time,
            _ if self.is_tight => 0,
            _ => self.seen.remaining.max(self.size.saturating_mul(2)).min(in_time),
        };
        let is_known = self.seen.limit > 0 && terms.now_us <= self.next_us(0);
        is_known && self.ahead().saturating_add(cost) > most.max(LINE_MIN)
    }

    /// The last one in line has its turn: it is denied by what is known, or is one too many. `None`: it stays.
    pub(super) fn shorten(&mut self, terms: &Terms<'_>, cost: u32) -> Option<Step> {
        self.left(cost);
        if let Some(decision) = self.decide(terms, cost) {
            return Some(Step::Decided(decision));
        }
        if self.is_asking && self.is_line_full(terms, cost) {
            return Some(Step::Alone);
        }
        self.waiting += u64::from(cost);
        None
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
            self.lost = self.lost.saturating_add(self.rests.remove(0).tokens);
        }
        self.rests.push(rest);
    }

    /// Nobody asks any more. What was put aside is in hand again.
    fn end_asking(&mut self) {
        self.is_asking = false;
        self.tokens += std::mem::take(&mut self.aside);
    }

    /// A batch was taken. `wait_us` says of a bucket in what time so much more is there; of another limit it is not known.
    pub(super) fn granted(
        &mut self,
        said: Said,
        Grant { tokens, cost, batch, number }: Grant,
        decision: &Decision,
        wait_us: impl Fn(&JointVerdict, u32) -> Option<u64>,
    ) {
        let now_us = said.at_us;
        self.trip_us = said.trip_us();
        // What was put aside goes first: it was less than the cost.
        let aside = std::mem::take(&mut self.aside);
        self.end_asking();
        // Of a bucket it is known what it lacks, and for how long. What a window had before says nothing now.
        let lacking = decision.remaining().saturating_add(1);
        let lacks_us = wait_us(&batch.verdict, lacking);
        self.see(now_us, decision);
        // What came into hand again meanwhile is of the batch before.
        self.put_away();
        self.tokens = tokens.saturating_add(aside).saturating_sub(cost);
        (self.size, self.batch_number, self.is_tight) = (tokens, number, tokens < self.asked);
        self.until_us = now_us.saturating_add(said.hold_us);
        self.denied = lacks_us.map_or_else(Denied::default, |us| Denied::new(said, lacking, us));
        self.greatest = Denied::default();
        self.batch = Some(batch);
    }

    /// Not even what the request lacked was there, `least`. What it is told, if that is another wait than the store's.
    pub(super) fn refused(
        &mut self,
        said: Said,
        terms: &Terms<'_>,
        (cost, least): (u32, u32),
        decision: &Decision,
    ) -> Option<Decision> {
        let now_us = said.at_us;
        self.trip_us = said.trip_us();
        self.end_asking();
        self.see(now_us, decision);
        // What is in hand counts as all there is: a batch was too much.
        (self.size, self.is_tight) = (self.tokens, true);
        self.until_us = self.until_us.max(now_us);
        let wait_us = super::micros(decision.retry_after()?);
        let mut new = Denied::new(said, least, wait_us);
        if let Refill::Unknown = terms.refill {
            // Were all in line to ask whether a little has come back meanwhile, each would wait for all in front of it.
            new.until_us = new.until_us.max(now_us.saturating_add(self.trip_us)).min(new.known_until_us);
            new.enough_at_us = new.enough_at_us.max(new.until_us);
        }
        let lasts = |denied: &Denied| now_us < denied.until_us;
        let is_greatest = |new: &Denied, greatest: &Denied| new.cost > greatest.cost || !lasts(greatest);
        // A smaller cost that is denied says more.
        let greater = if least <= self.denied.cost || !lasts(&self.denied) {
            std::mem::replace(&mut self.denied, new)
        } else {
            new
        };
        if lasts(&greater) && is_greatest(&greater, &self.greatest) {
            self.greatest = greater;
        }
        if least == cost { None } else { Some(self.denial(terms, cost, wait_us)) }
    }

    /// Nothing is known: the call failed, of which those who wait are told.
    pub(super) fn gave_up(&mut self) {
        self.end_asking();
        // A batch of that size may have taken too long, for it may take more calls than one.
        self.size = self.tokens;
    }

    /// One in line has its turn, or does not wait any longer.
    pub(super) fn left(&mut self, cost: u32) {
        self.waiting = self.waiting.saturating_sub(u64::from(cost));
    }

    /// The number of the request that took what is in hand.
    pub(super) fn batch_number(&self) -> u64 {
        self.batch_number
    }

    /// So much was taken from a batch for one that was gone: it is in hand again, if the batch is.
    pub(super) fn untaken(&mut self, batch_number: u64, cost: u32) {
        if self.batch_number == batch_number && self.batch.is_some() {
            self.tokens += cost;
        }
    }

    /// So many tokens were given back: what was denied may be there.
    pub(super) fn given_back(&mut self, tokens: u32) {
        if tokens >= self.denied.cost {
            (self.denied, self.greatest) = (Denied::default(), Denied::default());
        }
    }

    /// Nobody asks any more, for the future was dropped, or is late: one of those in line asks.
    pub(super) fn abandoned(&mut self) {
        self.end_asking();
    }

    /// What is to be given back: what is in hand though its time is over, or though it `ends`, and what was left before.
    pub(super) fn expire(&mut self, now_us: u64, ends: bool) -> Vec<Rest> {
        let mut rests = std::mem::take(&mut self.rests);
        if !self.is_asking && (now_us >= self.until_us || ends) {
            // The next batch is of what was used of this one.
            let used = self.size.saturating_sub(self.tokens);
            rests.extend(self.rest());
            (self.size, self.until_us) = (used, self.until_us.min(now_us));
        }
        rests
    }

    /// It could not be given back yet: a later round does.
    pub(super) fn put_back(&mut self, rest: Rest) {
        if self.rests.len() < RESTS_MAX {
            self.rests.insert(0, rest);
        } else {
            self.lost = self.lost.saturating_add(rest.tokens);
        }
    }

    /// How many tokens were lost since this was asked last, because too many rests waited for the keeper.
    pub(super) fn lost(&mut self) -> u32 {
        std::mem::take(&mut self.lost)
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
