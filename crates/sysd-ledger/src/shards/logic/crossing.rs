//! One caller's attempt at a transaction across shards, as a machine: it says what to ask, and is told what came of it.
//!
//! Events: [`Crossing::told`], [`Crossing::looked`], [`Crossing::recalled`]. What to do: [`Crossing::todo`]. In order: the coordinator's part
//! is held until a deadline; the others are held without one; the coordinator's is posted under the transaction's own id, which is the
//! decision; the others are posted under it. Whoever gives up before the decision voids the coordinator's part first. Who finds the id
//! taken reads what is recorded under it, compares that with its own, posts what is left, and answers all of that.
//!
//! Why it is atomic:
//! - The coordinator is the id's home, whatever is asked: its log orders all that is asked under the id. A decision, a claim for a shard
//!   alone, and what lies in the home alone are recorded under the id itself, so there is only ever one of them.
//! - Only who was answered that the coordinator's hold of an attempt is new may post it, and does so once it was told of all others.
//! - Other parts are voided only once the coordinator's hold of that attempt has ended without a post: nobody can post it then.
//! - The coordinator's log orders its post, its void and the end of its deadline: one of them is first, and that one counts.
//! - The other parts have no deadline, so they are there until they are posted or voided.

use sysd_core::{Effect, Error, ErrorKind, Result, Timestamp};

use super::lookup::{Crossed, Found, Lookup, Recorded, attempt_of, not_shown, whole};
use super::recovery::Standing;
use super::split::Part;
use super::{Bug, Todo};
use crate::logic::Command;
use crate::model::{Action, Date, Details, Posting, Rejection, Reply, Transaction, TransactionId};
use crate::shards::schema::{Derivation, Purpose, is_reserved, own};
use crate::shards::{Refusal, ShardId, ShardReceipt, ShardsConflict, ShardsReply};

/// The most attempts under one id.
pub(crate) const ATTEMPTS_MAX: u8 = 64;
/// How often a caller looks who was before it.
const LOOKS_MAX: u8 = 4;
/// How often a part is asked for again that was rejected for a reason that passes.
const TRIES_MAX: u8 = 3;

/// Each is asked for until no part has anything left to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Hold the coordinator's part.
    HoldFirst,
    /// See who was before.
    Look,
    /// Read what is recorded under the id.
    Find,
    /// Let the coordinator's time pass.
    Tick,
    /// Void what the attempt before left of the others.
    Leftovers,
    /// Hold the others.
    HoldRest,
    /// Post the coordinator's part.
    Decide,
    /// Post the others.
    Finish,
    /// Read what was posted before.
    Receipts,
    /// Void the coordinator's part.
    UndoFirst,
    /// Void the others.
    UndoRest,
}

#[derive(Debug)]
enum State {
    /// Nothing was asked.
    New,
    /// Its shard has not opened the accounts in transit yet.
    Unopened,
    Held,
    /// The id was there already.
    Known,
    Rejected(Box<Rejection>),
    Failed(Error),
    /// It is posted, or ended, or left to recovery.
    Settled,
}

#[derive(Debug)]
struct Working {
    part: Part,
    state: State,
    /// For which day it is settled, if not for the one that was asked for.
    day: Option<Date>,
    tries: u8,
}

/// What a question of a round is about: which part, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Open(usize),
    Hold(usize),
    Post(usize),
    Void(usize),
    Tick,
}

/// Why it was given up.
#[derive(Debug)]
enum Why {
    Rejected(Box<Rejection>),
    Error(Error),
    /// The id was taken meanwhile.
    Taken,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Crossing {
    id: TransactionId,
    effective: Option<Date>,
    details: Option<Box<Details>>,
    parts: Vec<Working>,
    hold_us: u64,
    attempt: u8,
    expires_at: Timestamp,
    phase: Phase,
    asked: Vec<Asked>,
    looks: u8,
    /// Whether this attempt's holds are this caller's.
    is_holding: bool,
    lookup: Option<Lookup>,
    receipts: Vec<ShardReceipt>,
    why: Option<Why>,
    done: Option<Result<ShardsReply>>,
    bug: Option<Bug>,
}

/// An error of a call that no decision can follow.
fn without_effect(kind: ErrorKind, message: &'static str) -> Error {
    Error::new(kind, Effect::None, message)
}

/// Whether the shards' own accounts are to be opened before it is asked again.
pub(crate) fn lacks_own_account(why: &Rejection, tries: &mut u8) -> bool {
    let is_lacking =
        matches!(why, Rejection::UnknownAccount { account } if is_reserved(*account)) && *tries < TRIES_MAX;
    *tries += u8::from(is_lacking);
    is_lacking
}

/// Opens the shards' own accounts that these need.
pub(crate) fn open_own(postings: &[Posting]) -> impl Iterator<Item = Command> {
    own(postings).map(|own| Command::Open(Box::new(own.account())))
}

impl Crossing {
    /// Of a transaction that was split into `parts`, the coordinator's first. `is_known`: the coordinator has recorded something under its
    /// id.
    pub(crate) fn new(
        transaction: &Transaction,
        parts: Vec<Part>,
        is_known: bool,
        now: Timestamp,
        hold_us: u64,
        bug: Option<Bug>,
    ) -> Self {
        let fresh = if bug == Some(Bug::FreshIds) { u128::from(now.as_micros()) << 64 } else { 0 };
        let working = |part| Working { part, state: State::New, day: None, tries: 0 };
        let mut this = Self {
            id: TransactionId(transaction.id.0 ^ fresh),
            effective: transaction.effective,
            details: transaction.details.clone(),
            parts: parts.into_iter().map(working).collect(),
            hold_us,
            attempt: 0,
            expires_at: now,
            phase: Phase::HoldFirst,
            asked: Vec::new(),
            looks: 0,
            is_holding: false,
            lookup: None,
            receipts: Vec::new(),
            why: None,
            done: None,
            bug,
        };
        this.start(0, now);
        if is_known {
            this.find();
        }
        this
    }

    /// Of what ids are derived.
    #[cfg(test)]
    pub(crate) fn id(&self) -> TransactionId {
        self.id
    }

    fn start(&mut self, attempt: u8, now: Timestamp) {
        self.attempt = attempt;
        self.is_holding = false;
        self.expires_at = Timestamp::from_micros_saturating(now.as_micros().saturating_add(self.hold_us));
        self.renew();
    }

    fn renew(&mut self) {
        for working in &mut self.parts {
            (working.state, working.day, working.tries) = (State::New, None, 0);
        }
    }

    fn find(&mut self) {
        self.lookup = Some(Lookup::new(self.id, self.coordinator(), None));
        self.phase = Phase::Find;
    }

    fn coordinator(&self) -> ShardId {
        self.parts.first().map_or(ShardId(0), |working| working.part.shard)
    }

    /// What is to be done.
    pub(crate) fn todo(&mut self) -> Todo {
        loop {
            if let Some(done) = self.done.take() {
                return Todo::Done(done);
            }
            match self.phase {
                Phase::Look => return Todo::Look(self.coordinator(), self.id),
                Phase::Find => return Todo::Recall(self.lookup.as_ref().map(Lookup::recalls).unwrap_or_default()),
                Phase::Receipts => return Todo::Recall(self.unread().map(|shard| (shard, self.id)).collect()),
                _ => {}
            }
            let asks = self.asks();
            if !asks.is_empty() {
                self.asked = asks.iter().map(|(asked, _, _)| *asked).collect();
                return Todo::Ask(asks.into_iter().map(|(_, shard, command)| (shard, command)).collect());
            }
            self.done = self.next();
        }
    }

    fn asks(&self) -> Vec<(Asked, ShardId, Command)> {
        let first = matches!(self.phase, Phase::HoldFirst | Phase::Tick | Phase::Decide | Phase::UndoFirst);
        let mut asks = Vec::new();
        for (at, working) in self.parts.iter().enumerate().filter(|(at, _)| (*at == 0) == first) {
            let shard = working.part.shard;
            match (self.phase, &working.state) {
                // One that can't is enough.
                (Phase::HoldRest, _) if self.is_lost() => {}
                (Phase::HoldFirst | Phase::HoldRest, State::New) => {
                    asks.push((Asked::Hold(at), shard, self.hold(working, first)));
                }
                (Phase::HoldFirst | Phase::HoldRest, State::Unopened) => {
                    asks.extend(open_own(&working.part.postings).map(|open| (Asked::Open(at), shard, open)));
                }
                // New is what somebody else had held: it was decided before.
                (Phase::Decide | Phase::Finish, State::Held) | (Phase::Finish, State::New) => {
                    asks.push((Asked::Post(at), shard, self.post(working)));
                }
                (Phase::UndoFirst | Phase::UndoRest, State::Held) => {
                    asks.push((Asked::Void(at), shard, self.void(working, self.attempt)));
                }
                (Phase::Leftovers, State::New) => {
                    asks.push((Asked::Void(at), shard, self.void(working, self.attempt.saturating_sub(1))));
                }
                (Phase::Tick, _) => asks.push((Asked::Tick, shard, Command::Tick)),
                _ => {}
            }
        }
        asks
    }

    fn is_lost(&self) -> bool {
        self.parts.iter().any(|working| matches!(working.state, State::Known | State::Rejected(_) | State::Failed(_)))
    }

    fn derive(&self, purpose: Purpose, attempt: u8, shard: ShardId) -> TransactionId {
        Derivation { purpose, attempt, shard }.derive(self.id)
    }

    fn hold(&self, working: &Working, is_first: bool) -> Command {
        let has_deadline = is_first || self.bug == Some(Bug::PartsExpire);
        let id = self.derive(Purpose::Hold, self.attempt, working.part.shard);
        Command::Transact(Transaction {
            action: Action::Hold { expires_at: has_deadline.then_some(self.expires_at) },
            effective: self.effective,
            details: self.details.clone(),
            ..Transaction::new(id, working.part.postings.iter().copied())
        })
    }

    fn post(&self, working: &Working) -> Command {
        let hold = self.derive(Purpose::Hold, self.attempt, working.part.shard);
        Command::Transact(Transaction {
            effective: working.day.or(self.effective),
            details: self.details.clone(),
            ..Transaction::post_held(self.id, hold)
        })
    }

    fn void(&self, working: &Working, attempt: u8) -> Command {
        let derive = |purpose| self.derive(purpose, attempt, working.part.shard);
        Command::Transact(Transaction {
            effective: working.day,
            ..Transaction::void(derive(Purpose::Void), derive(Purpose::Hold))
        })
    }

    /// What the last [`Todo::Ask`] was answered, one for one.
    pub(crate) fn told(&mut self, answers: Vec<Result<Reply>>) {
        for (asked, answer) in std::mem::take(&mut self.asked).into_iter().zip(answers) {
            self.hear(asked, answer);
        }
    }

    fn hear(&mut self, asked: Asked, answer: Result<Reply>) {
        let (Asked::Open(at) | Asked::Hold(at) | Asked::Post(at) | Asked::Void(at)) = asked else {
            // It did pass, or the look will say that it did not.
            self.phase = Phase::Look;
            return;
        };
        let Some(working) = self.parts.get_mut(at) else { return };
        working.state = match (asked, answer, std::mem::replace(&mut working.state, State::New)) {
            // Of several accounts one that could not be opened counts.
            (Asked::Open(_), _, state @ (State::Failed(_) | State::Rejected(_))) => state,
            (Asked::Open(_), Ok(Reply::Done), _) => State::New,
            (Asked::Hold(_), Ok(Reply::Recorded(_)), _) => State::Held,
            (Asked::Hold(_), Ok(Reply::Exists { .. }), _) => State::Known,
            // By whom, if not by this caller?
            (Asked::Post(0), Ok(Reply::Exists { .. }), _) if self.bug != Some(Bug::TakenIsDecided) => State::Known,
            (Asked::Post(_), Ok(Reply::Recorded(receipt)), _) => {
                self.receipts.push(ShardReceipt { shard: working.part.shard, receipt });
                State::Settled
            }
            (Asked::Post(_) | Asked::Void(_), Ok(Reply::Recorded(_) | Reply::Exists { .. }), _) => State::Settled,
            (Asked::Hold(_), Ok(Reply::Rejected(rejection)), _) => match *rejection {
                ref why if lacks_own_account(why, &mut working.tries) => State::Unopened,
                _ => State::Rejected(rejection),
            },
            (_, Ok(Reply::Rejected(rejection)), state) => match *rejection {
                Rejection::NoHold { .. } if matches!(asked, Asked::Void(_)) => State::Settled,
                // It must be settled: on the first day that is open. The decision is not made yet and may be rejected.
                Rejection::PeriodClosed { through }
                    if self.phase != Phase::Decide && working.tries < TRIES_MAX && through.0 < i32::MAX =>
                {
                    (working.day, working.tries) = (Some(Date(through.0 + 1)), working.tries + 1);
                    state
                }
                _ => State::Rejected(rejection),
            },
            (_, Err(error), _) => State::Failed(error),
            (_, Ok(_), _) => State::Failed(without_effect(ErrorKind::Internal, "the books answered something else")),
        };
    }

    /// What the look was answered.
    pub(crate) fn looked(&mut self, now: Timestamp, standing: Result<Standing>) {
        self.looks = self.looks.saturating_add(1);
        let is_taken = matches!(standing, Ok(Standing::Taken));
        if let Some(Why::Rejected(rejection)) = self.why.take()
            && !is_taken
        {
            // It was looked whether the id is taken, for then it is a conflict.
            let rejected = |_| ShardsReply::Rejected(rejection);
            return self.done = Some(standing.map(rejected).map_err(|error| error.with_effect(Effect::None)));
        }
        match standing {
            Ok(Standing::Taken) => self.find(),
            Err(error) => self.done = Some(Err(error.with_effect(Effect::Unknown))),
            Ok(Standing::Spent) => {
                self.done = Some(Ok(Refusal::Spent { id: self.id, attempts: ATTEMPTS_MAX.into() }.into()));
            }
            Ok(Standing::Free { attempt }) if self.looks <= LOOKS_MAX => {
                self.start(attempt, now);
                self.phase = if attempt == 0 { Phase::HoldFirst } else { Phase::Leftovers };
            }
            Ok(Standing::Held { expires_at: Some(at) }) if at <= now && self.looks <= LOOKS_MAX => {
                self.phase = Phase::Tick;
            }
            Ok(Standing::Held { .. } | Standing::Free { .. }) => {
                let message = "the id is under way already, or its caller is gone; ask again after the deadline";
                self.done = Some(Err(Error::new(ErrorKind::Contention, Effect::Unknown, message)));
            }
        }
    }

    /// What the last [`Todo::Recall`] was answered, one for one.
    pub(crate) fn recalled(&mut self, answers: Vec<Result<Option<Recorded>>>) {
        let Some(lookup) = &mut self.lookup else { return self.hear_receipts(answers) };
        match lookup.recalled(answers) {
            Ok(None) => {}
            Ok(Some(found)) => {
                self.lookup = None;
                self.found(found);
            }
            Err(error) => self.done = Some(Err(error.with_effect(Effect::Unknown))),
        }
    }

    fn found(&mut self, found: Found) {
        let recorded = match found {
            // It is what this attempt held: its decision was recorded, and answered as if it were another's.
            Found::Across(crossed) if self.is_holding && crossed.attempt == self.attempt => return self.go_on(crossed),
            _ if self.is_holding => return self.give_up(Why::Taken),
            Found::Across(crossed) if self.is_same(&crossed) => {
                self.attempt = crossed.attempt;
                self.renew();
                return self.go_on(crossed);
            }
            Found::Across(crossed) => crossed.transaction(self.id),
            Found::Within(_, recorded) => recorded.transaction,
            Found::Claimed(shard) => return self.done = Some(Ok(Refusal::Claimed { id: self.id, shard }.into())),
            Found::Nothing => return self.done = Some(Err(not_shown().with_effect(Effect::Unknown))),
        };
        let conflict = ShardsConflict { recorded, asked: self.whole() };
        self.done = Some(Ok(ShardsReply::Conflict(Box::new(conflict))));
    }

    /// It was decided. What is left of it is posted.
    fn go_on(&mut self, crossed: Crossed) {
        self.receipts = crossed.receipts;
        for working in &mut self.parts {
            if self.receipts.iter().any(|told| told.shard == working.part.shard) {
                working.state = State::Settled;
            }
        }
        self.phase = Phase::Finish;
    }

    /// Whether what was held is what would be held now.
    fn is_same(&self, crossed: &Crossed) -> bool {
        let held = &crossed.held;
        let is_same = held.len() == self.parts.len()
            && held.iter().zip(&self.parts).all(|((shard, held), working)| {
                *shard == working.part.shard
                    && held.postings == working.part.postings
                    && held.effective == self.effective
                    && held.details == self.details
            });
        is_same || self.bug == Some(Bug::AnyContent)
    }

    fn whole(&self) -> Transaction {
        let like =
            Transaction { effective: self.effective, details: self.details.clone(), ..Transaction::new(self.id, []) };
        whole(self.id, &like, self.parts.iter().map(|working| (working.part.shard, &working.part.postings[..])))
    }

    fn hear_receipts(&mut self, answers: Vec<Result<Option<Recorded>>>) {
        let asked: Vec<_> = self.unread().collect();
        for (shard, answer) in asked.into_iter().zip(answers) {
            // It is decided all the same.
            if let Ok(Some(Recorded { transaction, receipt })) = answer
                && attempt_of(&transaction, shard) == Some(self.attempt)
            {
                self.receipts.push(ShardReceipt { shard, receipt });
            }
        }
        self.done = Some(Ok(self.finished()));
    }

    /// Ends the coordinator's hold, and then the others.
    fn give_up(&mut self, why: Why) {
        self.why = Some(why);
        self.phase = Phase::UndoFirst;
        self.is_holding = false;
        for (at, working) in self.parts.iter_mut().enumerate() {
            // One whose answer was lost may be held.
            let may_be_held = at == 0 || matches!(working.state, State::Held | State::Failed(_));
            working.state = if may_be_held { State::Held } else { State::Settled };
            working.tries = 0;
        }
    }

    fn ended(&mut self) -> Option<Result<ShardsReply>> {
        match self.why.take() {
            Some(Why::Error(error)) => Some(Err(error)),
            why => {
                (self.why, self.phase) = (why, Phase::Look);
                None
            }
        }
    }

    fn take_first(&mut self) -> State {
        self.parts.first_mut().map_or(State::Settled, |working| std::mem::replace(&mut working.state, State::Held))
    }

    /// Goes on to the next phase: nothing is left to ask in this one. Answers how it ended, if it did.
    fn next(&mut self) -> Option<Result<ShardsReply>> {
        match self.phase {
            Phase::HoldFirst => match self.take_first() {
                State::Held | State::New | State::Unopened | State::Settled => {
                    self.is_holding = true;
                    let is_early = self.bug == Some(Bug::PostBeforeHolds);
                    self.phase = if is_early { Phase::Decide } else { Phase::HoldRest };
                }
                State::Known => self.phase = Phase::Look,
                State::Rejected(rejection) if *rejection == Rejection::ExpiresInPast => {
                    let message =
                        "the log's time is past the deadline: is this process's clock right, hold_for long enough?";
                    return Some(Err(without_effect(ErrorKind::Unavailable, message)));
                }
                State::Rejected(rejection) => (self.why, self.phase) = (Some(Why::Rejected(rejection)), Phase::Look),
                // It may be held; nobody will ever post it.
                State::Failed(error) => return Some(Err(error.with_effect(Effect::None))),
            },
            Phase::HoldRest => self.after_holds(),
            Phase::Decide => match self.take_first() {
                State::Rejected(rejection) if matches!(*rejection, Rejection::NoHold { .. }) => {
                    let message = "the deadline passed before all of it was held; ask again";
                    self.give_up(Why::Error(without_effect(ErrorKind::Timeout, message)));
                }
                State::Rejected(rejection) => self.give_up(Why::Rejected(rejection)),
                State::Failed(error) if error.effect() == Effect::None => self.give_up(Why::Error(error)),
                State::Failed(error) => return Some(Err(error)),
                State::Known => self.find(),
                _ if self.bug == Some(Bug::PostBeforeHolds) => self.phase = Phase::HoldRest,
                _ => self.phase = Phase::Finish,
            },
            // Of what others posted.
            Phase::Finish if self.without_receipt().any(|working| matches!(working.state, State::Settled)) => {
                self.phase = Phase::Receipts;
            }
            Phase::Finish => return Some(Ok(self.finished())),
            Phase::UndoFirst => match self.take_first() {
                State::Settled => self.phase = Phase::UndoRest,
                // The others are recovery's, once the deadline is past.
                _ => return self.ended(),
            },
            Phase::UndoRest => return self.ended(),
            Phase::Leftovers => {
                self.renew();
                self.phase = Phase::HoldFirst;
            }
            Phase::Look | Phase::Tick => self.phase = Phase::Look,
            Phase::Find | Phase::Receipts => {}
        }
        None
    }

    fn after_holds(&mut self) {
        let lost = self.parts.iter_mut().skip(1).find_map(|working| match &mut working.state {
            State::Rejected(rejection) => Some(Why::Rejected(rejection.clone())),
            State::Failed(error) => Some(Why::Error(error.share().with_effect(Effect::None))),
            State::Known => {
                let message =
                    "a shard knows a hold that its coordinator does not; did a store forget what it acknowledged?";
                Some(Why::Error(without_effect(ErrorKind::Internal, message)))
            }
            _ => None,
        });
        match lost {
            Some(why) => self.give_up(why),
            None if self.bug == Some(Bug::PostBeforeHolds) => self.phase = Phase::Finish,
            None => self.phase = Phase::Decide,
        }
    }

    fn without_receipt(&self) -> impl Iterator<Item = &Working> {
        self.parts.iter().filter(|working| self.receipts.iter().all(|told| told.shard != working.part.shard))
    }

    /// The shards of those.
    fn unread(&self) -> impl Iterator<Item = ShardId> {
        self.without_receipt().map(|working| working.part.shard)
    }

    fn finished(&mut self) -> ShardsReply {
        let in_transit = self.unread().collect();
        let mut receipts = std::mem::take(&mut self.receipts);
        receipts.sort_unstable_by_key(|told| told.shard);
        ShardsReply::Recorded { receipts, in_transit }
    }
}
