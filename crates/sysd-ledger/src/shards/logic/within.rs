//! What lies in one shard alone, as a machine. An id whose home is another shard is claimed there first, for ever; then the shard is asked.
//!
//! So whatever is asked under an id meets at its home. Cut off after a claim, nothing is recorded, and the same shard may be asked again by
//! anybody. A claim says nothing of the content: that is compared where it is recorded.
//!
//! Before, what it reverses is looked for: only the shard in which it lies notes that, and none does of what lies across several.

use sysd_core::{Effect, Error, ErrorKind, Result};

use super::crossing::{lacks_own_account, open_own};
use super::lookup::{Found, Lookup, Recorded, attempt_of, not_shown};
use super::split::{Layout, differences, home};
use super::{Bug, Todo};
use crate::logic::{Command, GROUP_MAX};
use crate::model::{Action, Conflict, Date, Rejection, Reply, Transaction, TransactionId};
use crate::shards::schema::{claim, claimed_for};
use crate::shards::{Refusal, ShardId, ShardsConflict, ShardsReply};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    /// The home has not opened the accounts of notes yet.
    Unopened,
    /// The id was there already.
    Known,
    Claimed,
}

#[derive(Debug)]
struct Claim {
    id: TransactionId,
    home: ShardId,
    /// So that it is rejected for a closed day only if the transaction is.
    effective: Option<Date>,
    state: State,
    tries: u8,
}

#[derive(Debug)]
enum Phase {
    /// What those are that are reversed.
    Reversed(Vec<(Lookup, TransactionId)>),
    Claim,
    /// What is recorded under the ids of claims.
    Find(Vec<(Lookup, usize)>),
    Tell,
    /// The shard has something else under the id, which is no transaction of its own.
    Differ(Box<Lookup>, Box<Transaction>),
    Done,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Within {
    shard: ShardId,
    layout: Layout,
    command: Option<Command>,
    claims: Vec<Claim>,
    phase: Phase,
    /// Of a question: the claim, or one of its two accounts.
    asked: Vec<usize>,
    done: Option<Result<ShardsReply>>,
}

/// Those that a command records.
pub(crate) fn transactions(command: &Command) -> &[Transaction] {
    match command {
        Command::Transact(transaction) => std::slice::from_ref(transaction),
        Command::Group(transactions) => transactions,
        _ => &[],
    }
}

fn recalls<T>(lookups: &[(Lookup, T)]) -> Vec<(ShardId, TransactionId)> {
    lookups.iter().flat_map(|(lookup, _)| lookup.recalls()).collect()
}

/// Whether books may record it: the rules that need no books.
fn may_be_recorded(command: &Command) -> bool {
    let is_whole = |transaction: &Transaction| match transaction.action {
        Action::Post | Action::PostUpTo | Action::Hold { .. } => {
            (2..=Transaction::POSTINGS_MAX).contains(&transaction.postings.len())
                && transaction.postings.iter().all(|posting| posting.amount > 0)
                && differences(&transaction.postings).is_ok_and(|differences| differences.is_empty())
        }
        Action::PostHeld { .. } | Action::Void { .. } => transaction.postings.len() <= Transaction::POSTINGS_MAX,
    };
    let all = transactions(command);
    all.len() <= GROUP_MAX && all.iter().all(is_whole)
}

/// Of what was recorded in a shard. The same may be asked of another, if it has no postings.
fn conflict_of(recorded: Transaction, asked: Transaction, shard: ShardId) -> ShardsReply {
    if recorded == asked {
        return Refusal::Elsewhere { id: asked.id, shard }.into();
    }
    ShardsReply::Conflict(Box::new(ShardsConflict { recorded, asked }))
}

impl Within {
    /// Of a command for a shard. `is_known`: whether an id is known in a shard's books, as far as can be told at once.
    ///
    /// # Errors
    /// [`Refusal::NoHome`].
    pub(crate) fn new(
        layout: Layout,
        shard: ShardId,
        command: Command,
        is_known: impl Fn(ShardId, TransactionId) -> bool,
        bug: Option<Bug>,
    ) -> Result<Self, Refusal> {
        let (mut claims, mut reverses) = (Vec::new(), Vec::new());
        // What is rejected whatever the books say claims nothing.
        let all = if may_be_recorded(&command) { transactions(&command) } else { &[] };
        for transaction in all {
            reverses.extend(transaction.reverses);
            let (id, effective) = (transaction.id, transaction.effective);
            let home = home(layout, id)?;
            if home != shard && bug != Some(Bug::Unclaimed) {
                let state = if is_known(home, id) { State::Known } else { State::New };
                claims.push(Claim { id, home, effective, state, tries: 0 });
            }
        }
        // What is at home nowhere is not there, as the books will say.
        let look = |id| home(layout, id).ok().map(|home| (Lookup::new(id, home, Some(shard)), id));
        let lookups: Vec<_> = reverses.into_iter().filter_map(look).collect();
        let phase = if lookups.is_empty() { Phase::Claim } else { Phase::Reversed(lookups) };
        Ok(Self { shard, layout, command: Some(command), claims, phase, asked: Vec::new(), done: None })
    }

    fn found_reversed(&mut self, reverses: TransactionId, found: &Found) {
        let all = self.command.as_ref().map_or(&[][..], transactions);
        let is_here = |shard: ShardId| shard == self.shard;
        match *found {
            // The home of one in another shard knows its id, too.
            Found::Across(_) => self.done = Some(Ok(Refusal::Reversal.into())),
            Found::Within(shard, _) if !is_here(shard) => self.done = Some(Ok(Refusal::Reversal.into())),
            Found::Within(..) => {}
            Found::Claimed(shard) if is_here(shard) => {}
            // One of the same group comes with it.
            Found::Nothing if all.iter().any(|transaction| transaction.id == reverses) => {}
            // It may come, somewhere, before this does.
            Found::Claimed(_) | Found::Nothing => {
                let by = all.iter().find(|transaction| transaction.reverses == Some(reverses));
                let rejection = Rejection::UnknownTransaction { reverses };
                let rejection = self.of_group(by.map(|transaction| transaction.id), rejection);
                self.done = Some(Ok(ShardsReply::Rejected(Box::new(rejection))));
            }
        }
    }

    /// What is to be done.
    pub(crate) fn todo(&mut self) -> Todo {
        loop {
            if let Some(done) = self.done.take() {
                self.phase = Phase::Done;
                return Todo::Done(done);
            }
            match &mut self.phase {
                Phase::Claim => {
                    let asks = self.asks();
                    if !asks.is_empty() {
                        return Todo::Ask(asks);
                    }
                    let known = (0..).zip(&self.claims).filter(|(_, claim)| claim.state == State::Known);
                    let look = |claim: &Claim| Lookup::new(claim.id, claim.home, Some(self.shard));
                    let lookups: Vec<_> = known.map(|(at, claim)| (look(claim), at)).collect();
                    self.phase = if lookups.is_empty() { Phase::Tell } else { Phase::Find(lookups) };
                }
                Phase::Reversed(lookups) => return Todo::Recall(recalls(lookups)),
                Phase::Find(lookups) => return Todo::Recall(recalls(lookups)),
                Phase::Differ(lookup, _) => return Todo::Recall(lookup.recalls()),
                Phase::Tell => {
                    if let Some(command) = self.command.take() {
                        return Todo::Tell(self.shard, command);
                    }
                    self.phase = Phase::Done;
                }
                Phase::Done => {
                    let message = "a transaction within a shard was asked for what to do after its end";
                    return Todo::Done(Err(Error::new(ErrorKind::Internal, Effect::Unknown, message)));
                }
            }
        }
    }

    /// Where ids are to be claimed.
    pub(crate) fn homes(&self) -> impl Iterator<Item = ShardId> {
        self.claims.iter().map(|claim| claim.home)
    }

    fn asks(&mut self) -> Vec<(ShardId, Command)> {
        let (shard, currency) = (self.shard, self.layout.notes);
        let mut asks = Vec::new();
        self.asked.clear();
        for (at, claiming) in self.claims.iter().enumerate() {
            let Claim { id, home, effective, .. } = *claiming;
            match claiming.state {
                State::New => {
                    let claim = Transaction { effective, ..claim(id, home, shard, currency) };
                    asks.push((home, Command::Transact(claim)));
                    self.asked.push(at);
                }
                State::Unopened => {
                    for open in open_own(&claim(id, home, shard, currency).postings) {
                        asks.push((home, open));
                        self.asked.push(at);
                    }
                }
                State::Known | State::Claimed => {}
            }
        }
        asks
    }

    /// What the claims were answered, or the shard.
    pub(crate) fn told(&mut self, answers: Vec<Result<Reply>>) {
        if !matches!(self.phase, Phase::Claim) {
            self.done = answers.into_iter().next().and_then(|answer| self.answered(answer));
            return;
        }
        for (at, answer) in std::mem::take(&mut self.asked).into_iter().zip(answers) {
            self.hear(at, answer);
        }
    }

    fn hear(&mut self, at: usize, answer: Result<Reply>) {
        let Some(claiming) = self.claims.get_mut(at) else { return };
        match answer {
            Ok(Reply::Done) => claiming.state = State::New,
            Ok(Reply::Recorded(_)) => claiming.state = State::Claimed,
            Ok(Reply::Exists { .. }) => claiming.state = State::Known,
            Ok(Reply::Rejected(rejection)) => match *rejection {
                ref why if lacks_own_account(why, &mut claiming.tries) => claiming.state = State::Unopened,
                rejection => {
                    let id = Some(claiming.id);
                    self.done = Some(Ok(ShardsReply::Rejected(Box::new(self.of_group(id, rejection)))));
                }
            },
            Ok(_) => {
                let message = "the books answered something else";
                self.done = Some(Err(Error::new(ErrorKind::Internal, Effect::None, message)));
            }
            // Nothing is recorded by a claim.
            Err(error) => self.done = Some(Err(error.with_effect(Effect::None))),
        }
    }

    /// As a group's shard would say it.
    fn of_group(&self, id: Option<TransactionId>, rejection: Rejection) -> Rejection {
        let Some(Command::Group(transactions)) = &self.command else { return rejection };
        match transactions.iter().position(|transaction| Some(transaction.id) == id) {
            Some(index) => Rejection::InGroup { index, cause: Box::new(rejection) },
            None => rejection,
        }
    }

    fn answered(&mut self, answer: Result<Reply>) -> Option<Result<ShardsReply>> {
        let shard = self.shard;
        let reply = match answer {
            Ok(reply) => reply,
            Err(error) => return Some(Err(error)),
        };
        let conflict = match reply {
            Reply::Conflict(conflict) => *conflict,
            reply => return Some(Ok(ShardsReply::Within { shard, reply })),
        };
        let Conflict { recorded, asked } = conflict;
        let Some(recorded) = recorded.transaction() else { return Some(Err(not_shown())) };
        if (claimed_for(recorded).is_some() || attempt_of(recorded, shard).is_some())
            && let Ok(home) = home(self.layout, recorded.id)
        {
            self.phase = Phase::Differ(Box::new(Lookup::new(recorded.id, home, None)), Box::new(asked));
            return None;
        }
        Some(Ok(conflict_of(recorded.clone(), asked, shard)))
    }

    /// What was read of ids.
    pub(crate) fn recalled(&mut self, answers: Vec<Result<Option<Recorded>>>) {
        match std::mem::replace(&mut self.phase, Phase::Claim) {
            Phase::Reversed(lookups) => {
                let rest = self.recalled_each(lookups, answers, |this, id, found| this.found_reversed(id, &found));
                self.phase = if rest.is_empty() { Phase::Claim } else { Phase::Reversed(rest) };
            }
            Phase::Find(lookups) => {
                let rest = self.recalled_each(lookups, answers, Self::found_claim);
                self.phase = if rest.is_empty() { Phase::Claim } else { Phase::Find(rest) };
            }
            Phase::Differ(mut lookup, asked) => match lookup.recalled(answers) {
                Ok(None) => self.phase = Phase::Differ(lookup, asked),
                Ok(Some(found)) => self.done = Some(self.taken(found, *asked)),
                Err(error) => self.done = Some(Err(error)),
            },
            phase @ (Phase::Claim | Phase::Tell | Phase::Done) => self.phase = phase,
        }
    }

    /// Each lookup takes as many answers as it has asked for. Answers those that are not at their end.
    fn recalled_each<T: Copy>(
        &mut self,
        lookups: Vec<(Lookup, T)>,
        answers: Vec<Result<Option<Recorded>>>,
        mut take: impl FnMut(&mut Self, T, Found),
    ) -> Vec<(Lookup, T)> {
        let (mut answers, mut rest) = (answers.into_iter(), Vec::new());
        for (mut lookup, of) in lookups {
            let count = lookup.recalls().len();
            match lookup.recalled(answers.by_ref().take(count).collect()) {
                Ok(None) => rest.push((lookup, of)),
                Ok(Some(found)) => take(self, of, found),
                Err(error) => self.done = Some(Err(error)),
            }
        }
        rest
    }

    fn found_claim(&mut self, at: usize, found: Found) {
        let Some(claiming) = self.claims.get_mut(at) else { return };
        if matches!(found, Found::Claimed(shard) if shard == self.shard) {
            claiming.state = State::Claimed;
            return;
        }
        let id = claiming.id;
        let mut all = self.command.iter().flat_map(transactions);
        if let Some(asked) = all.find(|transaction| transaction.id == id).cloned() {
            self.done = Some(self.taken(found, asked));
        }
    }

    /// What is said of an id under which something else is recorded, or which is another shard's.
    fn taken(&self, found: Found, asked: Transaction) -> Result<ShardsReply> {
        let id = asked.id;
        match found {
            Found::Nothing => Err(not_shown()),
            Found::Claimed(shard) => Ok(Refusal::Claimed { id, shard }.into()),
            Found::Within(shard, recorded) => Ok(conflict_of(recorded.transaction, asked, shard)),
            Found::Across(crossed) => Ok(conflict_of(crossed.transaction(id), asked, self.shard)),
        }
    }
}
