//! One caller's attempt at a transaction across shards, as a machine: it says what to ask, and is told what came of it.
//!
//! Events: [`Crossing::told`], [`Crossing::looked`], [`Crossing::recalled`]. What to do: [`Crossing::todo`]. In order: the coordinator's part is held until a
//! deadline; the others are held without one; the coordinator's is posted, which is the decision; the others are posted. Whoever
//! gives up before the decision voids the coordinator's part first. Who finds it decided compares what was held with its own, reads what was
//! posted, posts what is left, and answers all of that.
//!
//! Why it is atomic:
//! - Only who was answered that the coordinator's hold of an attempt is new may post it, and does so once it was told of all others.
//! - Other parts are voided only once the coordinator's hold of that attempt has ended without a post: nobody can post it then.
//! - The coordinator's log orders its post, its void and the end of its deadline: one of them is first, and that one counts.
//! - The other parts have no deadline, so they are there until they are posted or voided.

use sysd_core::{Effect, Error, ErrorKind, Result, Timestamp};

use super::recovery::Standing;
use super::split::Part;
use crate::logic::Command;
use crate::model::{Action, Date, Details, Posting, Receipt, Rejection, Reply, Transaction, TransactionId};
use crate::shards::schema::{Derivation, Purpose, is_reserved};
use crate::shards::{Refusal, ShardId, ShardReceipt, ShardsConflict, ShardsReply};

/// The most attempts under one id.
pub(crate) const ATTEMPTS_MAX: u8 = 64;
/// How often a caller looks who was before it.
const LOOKS_MAX: u8 = 4;
/// How often a part is asked for again that was rejected for a reason that passes.
const TRIES_MAX: u8 = 3;

/// Mistakes that shards could make, made on request, so that tests can show that they would be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub enum Bug {
    /// Posts the coordinator's part before the others are held.
    PostBeforeHolds,
    /// Gives the other parts the coordinator's deadline.
    PartsExpire,
    /// Voids what it finds without asking the coordinator.
    VoidUnasked,
    /// Makes new ids each time.
    FreshIds,
    /// Takes what was recorded under the id for its own.
    AnyContent,
}

/// What is to be done next.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one at a time, and the large one is the answer that goes to the caller"
)]
pub(crate) enum Todo {
    /// Ask all of these, at the same time, and tell what they answered, one for one.
    Ask(Vec<(ShardId, Command)>),
    /// Look at the coordinator's books, with all in them that was answered anywhere.
    Look(ShardId),
    /// Read what these shards' journals have under these ids, with all in them that was answered anywhere, and say it one for one.
    Recall(Vec<(ShardId, TransactionId)>),
    /// Nothing any more.
    Done(Result<ShardsReply>),
}

/// What a shard has recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) transaction: Transaction,
    pub(crate) receipt: Receipt,
}

/// Each is asked for until no part has anything left to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Hold the coordinator's part.
    HoldFirst,
    /// See who was before.
    Look,
    /// Read what was held at the coordinator of the attempt that was posted.
    RecallFirst,
    /// Read what was held of it elsewhere.
    RecallRest,
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
    /// What was held, if it was decided before.
    held: Vec<(ShardId, Transaction)>,
    recalled: Vec<ShardId>,
    receipts: Vec<ShardReceipt>,
    why: Option<Why>,
    bug: Option<Bug>,
}

/// An error of a call that no decision can follow.
fn without_effect(kind: ErrorKind, message: &'static str) -> Error {
    Error::new(kind, Effect::None, message)
}

/// The books know it, and the journal does not.
fn not_shown() -> Error {
    let message = "a shard's journal does not show what its books know; did a store forget what it acknowledged?";
    Error::new(ErrorKind::Unavailable, Effect::Unknown, message)
}

impl Crossing {
    /// Of a transaction that was split into `parts`, the coordinator's first.
    pub(crate) fn new(
        transaction: &Transaction,
        parts: Vec<Part>,
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
            held: Vec::new(),
            recalled: Vec::new(),
            receipts: Vec::new(),
            why: None,
            bug,
        };
        this.start(0, now);
        this
    }

    /// Of what ids are derived.
    #[cfg(test)]
    pub(crate) fn id(&self) -> TransactionId {
        self.id
    }

    fn start(&mut self, attempt: u8, now: Timestamp) {
        self.attempt = attempt;
        self.expires_at = Timestamp::from_micros_saturating(now.as_micros().saturating_add(self.hold_us));
        self.renew();
    }

    fn renew(&mut self) {
        for working in &mut self.parts {
            (working.state, working.day, working.tries) = (State::New, None, 0);
        }
    }

    fn coordinator(&self) -> ShardId {
        self.parts.first().map_or(ShardId(0), |working| working.part.shard)
    }

    /// What is to be done.
    pub(crate) fn todo(&mut self) -> Todo {
        loop {
            match self.phase {
                Phase::Look => return Todo::Look(self.coordinator()),
                Phase::RecallFirst | Phase::RecallRest | Phase::Receipts => return Todo::Recall(self.recalls()),
                _ => {}
            }
            let asks = self.asks();
            if !asks.is_empty() {
                self.asked = asks.iter().map(|(asked, _, _)| *asked).collect();
                return Todo::Ask(asks.into_iter().map(|(_, shard, command)| (shard, command)).collect());
            }
            if let Some(done) = self.next() {
                return Todo::Done(done);
            }
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
                    let open = |account| (Asked::Open(at), shard, Command::Open(Box::new(account)));
                    asks.extend(working.part.own().map(|own| open(own.account())));
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
        Derivation { purpose, attempt, coordinator: self.coordinator(), shard }.derive(self.id)
    }

    fn recalls(&mut self) -> Vec<(ShardId, TransactionId)> {
        let coordinator = self.coordinator();
        let (purpose, shards) = match self.phase {
            Phase::RecallFirst => (Purpose::Hold, vec![coordinator]),
            Phase::RecallRest => {
                let first = self.held.first().map_or(&[][..], |(_, held)| &held.postings);
                (Purpose::Hold, Part::others(first, coordinator).into_iter().collect())
            }
            _ => (Purpose::Post, self.without_receipt().map(|working| working.part.shard).collect()),
        };
        let recalls = shards.iter().map(|shard| (*shard, self.derive(purpose, self.attempt, *shard))).collect();
        self.recalled = shards;
        recalls
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
        let derive = |purpose| self.derive(purpose, self.attempt, working.part.shard);
        Command::Transact(Transaction {
            effective: working.day.or(self.effective),
            details: self.details.clone(),
            ..Transaction::post_held(derive(Purpose::Post), derive(Purpose::Hold))
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
            (Asked::Post(_), Ok(Reply::Recorded(receipt)), _) => {
                self.receipts.push(ShardReceipt { shard: working.part.shard, receipt });
                State::Settled
            }
            (Asked::Post(_) | Asked::Void(_), Ok(Reply::Recorded(_) | Reply::Exists { .. }), _) => State::Settled,
            (Asked::Hold(_), Ok(Reply::Rejected(rejection)), _) => match *rejection {
                Rejection::UnknownAccount { account } if is_reserved(account) && working.tries < TRIES_MAX => {
                    working.tries += 1;
                    State::Unopened
                }
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
    pub(crate) fn looked(&mut self, now: Timestamp, standing: Result<Standing>) -> Option<Result<ShardsReply>> {
        let standing = match standing {
            Ok(standing) => standing,
            // The same id was asked for before: nobody knows how that ended.
            Err(error) => return Some(Err(error.with_effect(Effect::Unknown))),
        };
        self.looks += 1;
        match standing {
            Standing::Posted { attempt } => {
                self.start(attempt, now);
                self.phase = if self.bug == Some(Bug::AnyContent) { Phase::Receipts } else { Phase::RecallFirst };
            }
            Standing::Spent => {
                return Some(Ok(Refusal::Spent { id: self.id, attempts: ATTEMPTS_MAX.into() }.into()));
            }
            Standing::Free { attempt } if self.looks <= LOOKS_MAX => {
                self.start(attempt, now);
                self.phase = if attempt == 0 { Phase::HoldFirst } else { Phase::Leftovers };
            }
            Standing::Held { expires_at: Some(at) } if at <= now && self.looks <= LOOKS_MAX => self.phase = Phase::Tick,
            Standing::Held { .. } | Standing::Free { .. } => {
                let message = "the id is under way already, or its caller is gone; ask again after the deadline";
                return Some(Err(Error::new(ErrorKind::Contention, Effect::Unknown, message)));
            }
        }
        None
    }

    /// What the last [`Todo::Recall`] was answered, one for one.
    pub(crate) fn recalled(&mut self, answers: Vec<Result<Option<Recorded>>>) -> Option<Result<ShardsReply>> {
        for (shard, answer) in std::mem::take(&mut self.recalled).into_iter().zip(answers) {
            let Recorded { transaction, receipt } = match answer {
                Ok(Some(recorded)) => recorded,
                // It is decided all the same.
                Ok(None) | Err(_) if self.phase == Phase::Receipts && shard != self.coordinator() => continue,
                Ok(None) => return Some(Err(not_shown())),
                Err(error) => return Some(Err(error.with_effect(Effect::Unknown))),
            };
            if self.phase != Phase::Receipts {
                self.held.push((shard, transaction));
                continue;
            }
            self.receipts.push(ShardReceipt { shard, receipt });
            for working in self.parts.iter_mut().filter(|working| working.part.shard == shard) {
                working.state = State::Settled;
            }
        }
        match self.phase {
            Phase::RecallFirst => self.phase = Phase::RecallRest,
            Phase::RecallRest if self.is_same() => self.phase = Phase::Receipts,
            Phase::RecallRest => return Some(Ok(ShardsReply::Conflict(Box::new(self.conflict())))),
            // What others left of it is posted.
            _ if self.parts.iter().any(|working| matches!(working.state, State::New)) => self.phase = Phase::Finish,
            _ => return Some(Ok(self.finished())),
        }
        None
    }

    /// Whether what was held is what would be held now.
    fn is_same(&self) -> bool {
        self.held.len() == self.parts.len()
            && self.held.iter().zip(&self.parts).all(|((shard, held), working)| {
                *shard == working.part.shard
                    && held.postings == working.part.postings
                    && held.effective == self.effective
                    && held.details == self.details
            })
    }

    fn conflict(&self) -> ShardsConflict {
        let theirs = |posting: &&Posting| !is_reserved(posting.account);
        let whole = |postings: Vec<Posting>, effective, details| Transaction {
            effective,
            details,
            ..Transaction::new(self.id, postings)
        };
        let held = self.held.iter().flat_map(|(_, held)| held.postings.iter());
        let first = self.held.first().map(|(_, held)| held);
        let asked = self.parts.iter().flat_map(|working| working.part.postings.iter());
        ShardsConflict {
            recorded: whole(
                held.filter(theirs).copied().collect(),
                first.and_then(|held| held.effective),
                first.and_then(|held| held.details.clone()),
            ),
            asked: whole(asked.filter(theirs).copied().collect(), self.effective, self.details.clone()),
        }
    }

    /// Ends the coordinator's hold, and then the others.
    fn give_up(&mut self, why: Why) {
        self.why = Some(why);
        self.phase = Phase::UndoFirst;
        for (at, working) in self.parts.iter_mut().enumerate() {
            // One whose answer was lost may be held.
            let may_be_held = at == 0 || matches!(working.state, State::Held | State::Failed(_));
            working.state = if may_be_held { State::Held } else { State::Settled };
            working.tries = 0;
        }
    }

    fn ended(&mut self) -> Result<ShardsReply> {
        match self.why.take() {
            Some(Why::Rejected(rejection)) => Ok(ShardsReply::Rejected(rejection)),
            Some(Why::Error(error)) => Err(error),
            None => Err(without_effect(ErrorKind::Internal, "it was given up for no reason")),
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
                    let is_early = self.bug == Some(Bug::PostBeforeHolds);
                    self.phase = if is_early { Phase::Decide } else { Phase::HoldRest };
                }
                State::Known => self.phase = Phase::Look,
                State::Rejected(rejection) if *rejection == Rejection::ExpiresInPast => {
                    let message =
                        "the log's time is past the deadline: is this process's clock right, hold_for long enough?";
                    return Some(Err(without_effect(ErrorKind::Unavailable, message)));
                }
                State::Rejected(rejection) => return Some(Ok(ShardsReply::Rejected(rejection))),
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
                _ if self.bug == Some(Bug::PostBeforeHolds) => self.phase = Phase::HoldRest,
                _ => self.phase = Phase::Finish,
            },
            // Of what others posted.
            Phase::Finish if self.without_receipt().any(|working| self.is_posted(working)) => {
                self.phase = Phase::Receipts;
            }
            Phase::Finish => return Some(Ok(self.finished())),
            Phase::UndoFirst => match self.take_first() {
                State::Settled => self.phase = Phase::UndoRest,
                // The others are recovery's, once the deadline is past.
                _ => return Some(self.ended()),
            },
            Phase::UndoRest => return Some(self.ended()),
            Phase::Leftovers => {
                self.renew();
                self.phase = Phase::HoldFirst;
            }
            Phase::Look | Phase::Tick => self.phase = Phase::Look,
            Phase::RecallFirst | Phase::RecallRest | Phase::Receipts => {}
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

    fn is_posted(&self, working: &Working) -> bool {
        matches!(working.state, State::Settled) || working.part.shard == self.coordinator()
    }

    fn without_receipt(&self) -> impl Iterator<Item = &Working> {
        self.parts.iter().filter(|working| self.receipts.iter().all(|told| told.shard != working.part.shard))
    }

    fn finished(&mut self) -> ShardsReply {
        let in_transit = self.without_receipt().map(|working| working.part.shard).collect();
        let mut receipts = std::mem::take(&mut self.receipts);
        receipts.sort_unstable_by_key(|told| told.shard);
        ShardsReply::Recorded { receipts, in_transit }
    }
}
